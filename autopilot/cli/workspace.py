"""Commands on projects, on the workspace that they are in, and on the repository around it."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from autopilot.cli.arguments import option
from autopilot.cli.context import Context
from autopilot.cli.output import Output, own_stdout
from autopilot.cli.pages import listing as pages
from autopilot.core.figures import progressed
from autopilot.engine.preflight import Check
from autopilot.errors import AutopilotError, RepositoryError, UsageError
from autopilot.git.commands import run_git
from autopilot.git.packing import count_loose, maintain
from autopilot.git.repository import Repository
from autopilot.projects.datasets import of_files, size
from autopilot.projects.health import examine, examine_project, versions
from autopilot.projects.project import (
    find_workspace,
    make_project,
    make_workspace,
    project_at,
    projects_of,
)
from autopilot.sandbox.programs import run_process
from autopilot.text import counted, printable
from autopilot.tracking.holding import make_tags, missing_tags
from autopilot.tracking.layout import experiments, is_in_use
from autopilot.tracking.outputs import output_lines
from autopilot.tracking.upkeep import Litter, clear, find_litter, states_of

_TIMEOUT_S = 600.0
_NO_PROJECTS = ("no projects yet", "make one: autopilot project init NAME")
_STYLES = {"ok": "", "warning": "yellow", "failed": "bold red"}


def init_project(
    context: Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The project's name.")],
) -> None:
    """Write a new project that can be run at once.

    A spam filter made of a list of words, with data, judge, generator and optimizer; it needs no
    model. Put your own system in its place, file by file.

    \b
    autopilot project init my-project
    autopilot -p my-project run        after git add and git commit
    """
    folder = context.working_folder()
    top = context.repository().workdir
    workspace = find_workspace(folder) or top
    project = project_at(workspace, name)
    written = [*make_project(project), *make_workspace(workspace)]
    output, here = context.output, os.path.relpath(workspace, folder)
    shown = [os.path.relpath(path, workspace) for path in written]
    output.line(f"{name}: {counted(len(shown), 'new file')} in {workspace}")
    output.lines(f"  {path}" for path in shown)
    output.line("run it:")
    output.line(f"  git add {shlex.quote(os.path.join('' if here == '.' else here, 'autopilot'))}")
    output.line(f'  git commit -m "project {name}"')
    output.line(f"  autopilot -p {name} run")
    output.document(project=name, folder=project.folder, files=shown)


def list_projects(context: Context) -> None:
    """List the projects of the workspace with their experiments.

    \b
    autopilot project list
    """
    output = context.output
    everything = pages.rows(context.repository(), None, pages.overview)
    rows: list[dict[str, Any]] = []
    workspace = find_workspace(context.working_folder())
    for project in projects_of(workspace) if workspace else ():
        own = [row for row in everything if row["experiment"].startswith(f"{project.name}/")]
        unfinished = [
            row["experiment"]
            for row in own
            if row["state"] in ("created", "interrupted", "crashed", "killed")
        ]
        rows.append(
            {
                "project": project.name,
                "folder": str(project.folder),
                "has_cli": project.file.is_file(),
                "experiments": len(own),
                "unfinished": unfinished,
                "newest": own[0] if own else None,
            }
        )
    output.document(projects=rows)
    if not rows:
        output.lines(_NO_PROJECTS)
        return
    cells = [
        [
            str(row["project"]),
            str(row["experiments"]),
            _experiment(row["newest"]) if row["newest"] else "-",
            "" if row["has_cli"] else f"no cli.py: autopilot project doctor {row['project']}",
        ]
        for row in rows
    ]
    output.table(["project", "experiments", "newest", ""], cells, ["experiments"])
    for row in rows:
        output.lines(f"go on: autopilot resume {slug}" for slug in row["unfinished"])


def doctor_project(
    context: Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The project; that of -p if not given.")
    ] = None,
) -> int:
    """Look whether a project is sound, and say what mends it.

    Its cli.py is loaded, its data is read, and one item is evaluated, in a worktree that is gone
    afterwards. Exit code 1 if a run would not start.

    \b
    autopilot project doctor my-project
    autopilot -p my-project project doctor
    """
    context.project = name or context.project
    project = context.own_project()
    with own_stdout(context.output) as output:
        return report(output, list(examine_project(project)), project=project.name)


def report(output: Output, checks: Sequence[Check], **also: object) -> int:
    """Prints what was looked at, and the document; 1 if something failed."""
    failed = sum(check.state == "failed" for check in checks)
    for check in checks:
        output.line(check.line(), _STYLES[check.state])
        if check.mend and check.state != "ok":
            output.line(f"         mend: {check.mend}")
    warned = sum(check.state == "warning" for check in checks)
    verdict = counted(failed, "problem") if failed else "ready"
    output.line(verdict + (f", {counted(warned, 'warning')}" if warned else ""), "bold")
    output.document(**also, ok=not failed, checks=list(checks))
    return 1 if failed else 0


def init(
    context: Context,
    at: Annotated[Path, typer.Argument(metavar="FOLDER", help="Made if it is missing.")] = Path(),
) -> None:
    """Make a folder a workspace for several projects.

    Where there is no git repository around it, it becomes one. Files that are there stay.

    \b
    autopilot workspace init
    autopilot workspace init ~/experiments
    """
    output = context.output
    place = Path(os.path.abspath(context.working_folder() / at.expanduser()))
    place.mkdir(parents=True, exist_ok=True)
    try:
        Repository.discover(place)
    except RepositoryError:
        if (place / ".git").exists():
            raise
        run_git(["init", "--quiet"], cwd=place)
        output.line(f"{place} is a git repository now")
    written = [path.relative_to(place).as_posix() for path in make_workspace(place)]
    output.line(f"{place} is a workspace" + (" already" if not written else ""))
    output.lines(f"  {name}" for name in written)
    output.line("a project in it: autopilot project init NAME")
    output.document(workspace=place, files=written)


def doctor_workspace(context: Context) -> int:
    """Look whether all projects of the workspace are sound.

    Each is looked at in a process of its own, as `project doctor` does. Experiments whose project
    is gone are named. Exit code 1 if a run of a project would not start.

    \b
    autopilot workspace doctor
    """
    workspace, output = _workspace(context), context.output
    found: dict[str, Any] = {}
    for project in projects_of(workspace):
        command = [sys.executable, "-P", "-m", "autopilot", "-C", str(workspace), "--json"]
        done = run_process(
            [*command, "project", "doctor", project.name],
            folder=workspace,
            timeout_s=_TIMEOUT_S,
            hint="see that Python runs",
        )
        found[project.name] = answer = _document(done.stdout, done.tail())
        failed = sum(check["state"] == "failed" for check in answer["checks"])
        output.line(f"{project.name}: {'ready' if answer['ok'] else counted(failed, 'problem')}")
        for check in answer["checks"]:
            if check["state"] != "ok":
                output.line(f"  {check['state']:<8} {check['name']}: {check['detail']}")
                output.line(f"           mend: {check['mend']}" if check["mend"] else "")
    slugs = experiments(context.repository())
    stray = sorted({slug.split("/")[0] for slug in slugs if "/" in slug} - found.keys())
    for name in stray:
        count = sum(slug.startswith(f"{name}/") for slug in slugs)
        output.line(f"{name}: {counted(count, 'experiment')}, and no project of that name")
        output.line(f"  look: autopilot -p {name} status")
    if not found:
        output.lines(_NO_PROJECTS)
    ok = all(answer["ok"] for answer in found.values())
    output.document(workspace=workspace, ok=ok, projects=found, stray=stray)
    return 0 if ok else 1


def _document(text: str, otherwise: str) -> dict[str, Any]:
    """The document of a project's own doctor; an error, or no document, is a failed check."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {"error": f"project doctor did not finish: {otherwise}", "hint": ""}
    if "checks" in answer:
        return dict(answer)
    check = {"name": "doctor", "state": "failed", "detail": answer["error"], "mend": answer["hint"]}
    return {"ok": False, "checks": [check]}


def tree(context: Context) -> None:
    """Draw the workspace: projects, experiments, datasets.

    \b
    autopilot workspace tree
    autopilot workspace tree --json
    """
    workspace, output = _workspace(context), context.output
    rows = pages.rows(context.repository(), None, pages.overview)
    branches: list[tuple[str, list[str]]] = []
    documents: list[dict[str, Any]] = []
    for project in projects_of(workspace):
        own = [row for row in rows if row["experiment"].startswith(f"{project.name}/")]
        files = of_files(sorted(project.datasets.glob("*.jsonl")))
        datasets = {Path(name).stem: size(items) for name, items in files.items()}
        documents.append({"project": project.name, "experiments": own, "datasets": datasets})
        data = ", ".join(f"{name} {count}" for name, count in datasets.items())
        leaves = [*map(_experiment, own), *([f"datasets: {data}"] if data else [])]
        branches.append((project.name, leaves))
    names = {row["project"] for row in documents}
    others = [row for row in rows if row["experiment"].split("/")[0] not in names]
    if others:
        branches.append(("experiments of no project", [_experiment(row) for row in others]))
    output.line(str(workspace), "bold")
    output.lines(_drawn(branches))
    if not branches:
        output.line("nothing yet: autopilot project init NAME")
    output.document(workspace=workspace, projects=documents, others=others)


def _experiment(row: dict[str, Any]) -> str:
    text = f"{row['experiment']}  {row['state']}"
    if row.get("monitor"):
        text += f", {counted(row['epochs'], 'epoch')}, {row['kept']} kept, "
        text += progressed(row["monitor"], row["baseline"], row["best"], row["mode"])
    return text


def _drawn(branches: Sequence[tuple[str, Iterable[str]]]) -> list[str]:
    lines = []
    for at, (name, leaves) in enumerate(branches):
        last = at == len(branches) - 1
        lines.append(f"{'└─' if last else '├─'} {name}")
        below = list(leaves)
        for i, leaf in enumerate(below):
            corner = "└─" if i == len(below) - 1 else "├─"
            lines.append(f"{'  ' if last else '│ '} {corner} {leaf}")
    return lines


def _workspace(context: Context) -> Path:
    folder = context.working_folder()
    workspace = find_workspace(folder)
    if workspace is None:
        raise UsageError(f"there is no workspace around {folder}", hint="autopilot workspace init")
    return workspace


def doctor(context: Context) -> int:
    """Check git, keys, locks, worktrees and unfinished runs.

    Nothing is changed. Each finding that needs something done names the command that does it. The
    exit code is 1 if something will fail.

    \b
    autopilot doctor
    autopilot doctor --json
    """
    output, found = context.output, []
    for check in examine(context.working_folder()):
        found.append(check)
        output.line(check.line(), _STYLES[check.state])
        if check.mend:
            output.line(f"         mend it: {check.mend}")
    failed = sum(check.state == "failed" for check in found)
    warnings = sum(check.state == "warning" for check in found)
    output.document(healthy=not failed, versions=versions(), checks=found)
    output.line()
    verdict = counted(failed, "problem") if failed else "autopilot can work here"
    output.line(verdict + (f", {counted(warnings, 'warning')}" if warnings else ""))
    return 1 if failed else 0


def gc(
    context: Context,
    dry_run: Annotated[bool, option("Say what would be removed, change nothing.", "-n")] = False,
) -> int:
    """Remove what killed runs left behind, and pack the repository.

    Worktrees of runs that have ended, stale locks, half-written files and progress files go; what
    a run that can be resumed needs, or a process is using, stays. Tags of kept epochs that are gone
    are made again from the records. Packing deletes no object. Exit code 1 if something could not
    be removed.

    \b
    autopilot gc --dry-run
    autopilot gc
    """
    repo, output = context.repository(), context.output
    removed: list[Litter] = []
    kept: list[Litter] = []
    failed: list[Litter] = []
    for litter in find_litter(repo):
        try:
            gone = litter if dry_run else clear(repo, litter)
        except AutopilotError as error:  # the others go nevertheless
            for line in (f"error: {error.message}", f"  hint: {error.hint}"):
                output.write(line, output.stderr)
            failed.append(litter)
            continue
        (removed if gone else kept).append(gone or litter)
        what = "would remove" if dry_run else "removed" if gone else "in use again, kept:"
        # Programs read the kind under its first name.
        named = "progress file" if litter.kind == "journal" else litter.kind
        output.line(f"{what} {named} {litter.path}: {litter.why}")
        if gone:
            output.lines(output_lines(gone.outputs, f"{what} with it"))
            if dry_run and gone.keep:
                output.line(f"but would keep {', '.join(map(printable, gone.keep))}")
    tags: dict[str, list[int]] = {}
    for slug, state in states_of(repo).items():
        if state == "unreadable":
            output.warning(f"{slug} is left as it is: it cannot be read; autopilot doctor says why")
        try:
            missing = [] if state in ("running", "unreadable") else missing_tags(repo, slug)
            if missing and not dry_run:
                make_tags(repo, slug, missing)
        except AutopilotError as error:
            output.warning(f"{slug} is left as it is: {error.message}; {error.hint}")
            continue
        if missing:
            tags[slug] = list(dict.fromkeys(epoch for epoch, _ in missing))
            what = "would make" if dry_run else "made"
            output.line(f"{what} {counted(len(missing), 'tag')} of {slug} again")
    loose = count_loose(repo)
    packed = False if dry_run else maintain(repo, only_loose=is_in_use(repo))
    output.document(
        dry_run=dry_run,
        removed=removed,
        kept=kept,
        failed=failed,
        tags=tags,
        loose_objects={"before": loose, "after": count_loose(repo)},
        packed=packed,
    )
    if not removed and not failed and not tags:
        output.line("nothing is left over")
    if packed:
        output.line(f"packed: about {loose} loose objects before, {count_loose(repo)} now")
    elif dry_run:
        output.line(f"would pack about {loose} loose objects")
    else:
        output.line("not packed: gc.auto is 0 in git's configuration")
    return 1 if failed else 0


PROJECT = {"init": init_project, "list": list_projects, "doctor": doctor_project}
WORKSPACE = {"init": init, "doctor": doctor_workspace, "tree": tree}
