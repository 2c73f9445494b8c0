"""The checks of `autopilot doctor`, of a whole repository, and of `autopilot project doctor`."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import shutil
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from autopilot.core.items import find_duplicates, find_leakage
from autopilot.core.records.index import INDEXED
from autopilot.core.records.message import epoch_tag
from autopilot.core.records.record import Event
from autopilot.engine.loading import load_command_line
from autopilot.engine.preflight import Check, preflight
from autopilot.engine.request import Request
from autopilot.errors import AutopilotError, RefMovedError
from autopilot.git.commands import run_git
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import DEFAULT_IDENTITY, Repository, libgit2_version, read_config
from autopilot.git.worktrees import changed_files
from autopilot.projects.datasets import of_files
from autopilot.projects.project import Project, read_hparams
from autopilot.sharing.hooks import CLIENT, hook_folder, hook_texts, state_of
from autopilot.text import counted, some
from autopilot.tracking.holding import missing_tags
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.upkeep import find_litter, states_of

OLDEST_GIT = (2, 31)
_SPACE_BYTES = 500 * 2**20
_KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")


def versions() -> dict[str, str]:
    """The versions of the programs that autopilot needs; "missing" for one that is not there."""
    try:
        said = run_git(["--version"], cwd=Path.cwd()).stdout.decode("utf-8", "replace")
        git = said.strip().removeprefix("git version ")
    except AutopilotError:
        git = "missing"
    return {"git": git, "libgit2": libgit2_version(), "Python": platform.python_version()}


def examine(folder: Path) -> Iterator[Check]:
    """Checks the repository around a folder, and the machine. Changes nothing."""
    yield _git()
    yield from _keys()
    try:
        repo = Repository.discover(folder)
        repo.head_commit()
    except AutopilotError as error:
        yield Check.of("repository", error)
        return
    yield Check("repository", "ok", f"{repo.workdir}, on {repo.head_name()}")
    yield from _identity(repo)
    yield from _space(repo)
    yield from _hooks(repo)
    lock = repo.git_dir / "index.lock"
    if lock.exists():
        text = "index.lock is there: a git command is running, or was killed"
        yield Check("locks", "failed", text, f"if none is running: rm {lock}")
    yield from _litter(repo)
    yield from _runs(repo)


def agent_here() -> str:
    """The agent that can be used on this machine: "claude-code", "anthropic", or "" for none."""
    if shutil.which("claude"):
        return "claude-code"
    return "anthropic" if any(map(os.environ.get, _KEYS)) else ""


def _git() -> Check:
    said = versions()["git"]
    number = re.match(r"(\d+)\.(\d+)", said)
    if number is None:
        return Check("git", "failed", "the git command line is missing", "install git 2.31+")
    if (int(number[1]), int(number[2])) < OLDEST_GIT:
        return Check("git", "failed", f"git {said} is too old", "install git 2.31+")
    return Check("git", "ok", f"git {said}, libgit2 {libgit2_version()}")


def _keys() -> Iterator[Check]:
    held = [name for name in _KEYS if os.environ.get(name)]
    claude = shutil.which("claude")
    if held:
        yield Check("keys", "ok", f"{held[0]} is set")
    elif claude:
        yield Check("keys", "ok", "no ANTHROPIC_API_KEY, but Claude Code is installed")
    else:
        text = "no ANTHROPIC_API_KEY and no Claude Code: only optimizers without a model can run"
        yield Check("keys", "warning", text, "export ANTHROPIC_API_KEY=...")


def _identity(repo: Repository) -> Iterator[Check]:
    who = repo.identity()
    if DEFAULT_IDENTITY.name == who.name or DEFAULT_IDENTITY.email == who.email:
        mend = 'git config user.name "Your Name" && git config user.email you@example.com'
        yield Check("identity", "warning", "git does not know who commits here", mend)
    else:
        yield Check("identity", "ok", f"commits are by {who.name} <{who.email}>")


def _space(repo: Repository) -> Iterator[Check]:
    free = shutil.disk_usage(repo.common_dir).free
    if free < _SPACE_BYTES:
        text = f"only {free // 2**20} MB are free for {repo.common_dir}"
        yield Check("repository", "failed", text, "make room on the disk")
    if read_config(repo.workdir).get("gc.auto") == "0":
        text = "gc.auto is 0: long runs do not pack what they write"
        yield Check("repository", "warning", text, "git config --unset gc.auto")


def _hooks(repo: Repository) -> Iterator[Check]:
    folder = hook_folder(repo.workdir)
    states = [state_of(folder, n, text) for n, text in hook_texts(folder, CLIENT).items()]
    outdated = [state.name for state in states if state.state in ("outdated", "edited")]
    installed = [state.name for state in states if state.state == "installed"]
    if outdated:
        text = f"not as this version has them: {', '.join(outdated)}"
        yield Check("hooks", "warning", text, "autopilot hooks install")
    elif installed:
        yield Check("hooks", "ok", f"installed: {', '.join(installed)}")
    elif "remote.origin.url" in read_config(repo.workdir):
        text = "none is installed: a plain git push leaves notes and tags behind"
        yield Check("hooks", "warning", text, "autopilot hooks install")
    else:
        yield Check("hooks", "ok", "none is installed, and there is no remote to push to")


def _litter(repo: Repository) -> Iterator[Check]:
    found = find_litter(repo)
    for area, kind in (("locks", "ref lock"), ("worktrees", "worktree")):
        stale = [litter for litter in found if litter.kind == kind]
        if stale:
            text = some([f"{each.path} ({each.why})" for each in stale], 1, ", and")
            yield Check(area, "warning", f"stale {kind}: {text}", "autopilot gc")
        else:
            yield Check(area, "ok", f"no stale {kind}s")


def _runs(repo: Repository) -> Iterator[Check]:
    states = states_of(repo)
    for slug, state in states.items():
        try:
            yield from _run(repo, slug, state)
        except RefMovedError as error:
            yield Check.of("runs", error)
        except AutopilotError as error:
            text = f"{slug} cannot be read: {error.message}"
            yield Check("runs", "failed", text, error.hint)
    for left_out in repo.damaged.values():
        yield Check("runs", "warning", left_out.message, left_out.hint)
    repo.damaged.clear()
    if not any(state in ("interrupted", "crashed", "killed") for state in states.values()):
        text = f"{counted(len(states), 'experiment')}, none of them unfinished"
        yield Check("runs", "ok", text)


def _run(repo: Repository, slug: str, state: str) -> Iterator[Check]:
    notebook = Notebook(repo, slug)
    if state == "unreadable":
        notebook.need(Event)
    for kind in INDEXED:  # an index that fits would stand in for them
        deque(notebook.records(kind), maxlen=0)
    if state in ("interrupted", "crashed", "killed"):
        was = "" if state == "crashed" else "was "
        yield Check("runs", "warning", f"{slug} {was}{state}", notebook.goes_on_by)
    elif state == "running":
        holder = ExclusiveLock(notebook.layout.lock(repo)).holder()
        who = f"process {holder.pid}" if holder else "another process"
        yield Check("runs", "ok", f"{slug} is run by {who}")
    elif missing := missing_tags(repo, slug):
        text = f"{slug} has no tag {epoch_tag(*missing[0])}"
        yield Check("runs", "failed", text, "autopilot gc")


def examine_project(project: Project) -> Iterator[Check]:
    """Checks a project's files, its command line, its data, and all that a run needs.

    One item is evaluated; nothing is changed.
    """
    if not project.file.is_file():
        mend = (
            f"write {project.file} (autopilot project init OTHER shows one), or delete the folder"
        )
        yield Check("cli.py", "failed", f"{project.folder} has no cli.py", mend)
        return
    yield from _committed(project)
    try:
        with contextlib.chdir(project.workspace):
            command_line = load_command_line(project.file)
    except AutopilotError as error:
        yield Check.of("cli.py", error)
        return
    name = type(command_line).__name__
    yield Check("cli.py", "ok", f"{name} loads")
    if command_line.project != project.name:
        wanted = f'class {name}(AutoPilotCLI, project="{project.name}")'
        said = f"it says project={command_line.project!r}"
        yield Check("name", "failed", f"{said}, its folder {project.name!r}", f"write {wanted}")
    for part, method in (("generator", "run"), ("judge", "judge")):
        value = getattr(command_line, part)
        if value is not None and not callable(getattr(value, method, None)):
            kind = type(value).__name__
            mend = f"self.{part} = MyClass(), an object with {method}()"
            yield Check(part, "failed", f"{kind} is no {part}", mend)
    yield from _data(project)
    try:
        hparams = read_hparams(project.hparams)
    except AutopilotError as error:
        yield Check.of("hparams", error)
        return
    yield from preflight(
        Request(project.workspace, project.target, project=project.name, hparams=hparams)
    )


def _committed(project: Project) -> Iterator[Check]:
    try:
        repo = Repository.discover(project.folder)
        name = project.folder.resolve().relative_to(repo.workdir.resolve()).as_posix()
        changed = {n: s for n, s in changed_files(repo, [name]).items() if s != "ignored"}
    except AutopilotError as error:
        yield Check.of("repository", error)
        return
    if changed:
        listed = some([f"{name} is {state}" for name, state in changed.items()], 1)
        mend = f"git add {_typed(project.folder)} && git commit"
        yield Check("files", "warning", f"{listed}: a run lacks that", mend)


def _data(project: Project) -> Iterator[Check]:
    if not any(project.datasets.glob("*.jsonl")):
        return
    try:
        datasets = of_files([project.datasets])
        twice, leaks = find_duplicates(datasets), find_leakage(datasets)
    except AutopilotError as error:
        yield Check.of("datasets", error)
        return
    mend = f"autopilot dataset check {_typed(project.datasets)} lists them"
    if leaks or twice:
        found = f"{len(leaks)} items in several files, {len(twice)} several times in one"
        yield Check("datasets", "warning", found, mend)
    else:
        names = ", ".join(file.stem for file in sorted(project.datasets.glob("*.jsonl")))
        yield Check("datasets", "ok", f"{names}: no item stands twice")


def _typed(path: Path) -> str:
    """A path as one types it in a shell, from the present folder."""
    return shlex.quote(os.path.relpath(path))
