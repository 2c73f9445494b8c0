"""Whether a project is sound: `autopilot project doctor`."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from autopilot.core.leakage import find_duplicates, find_leakage
from autopilot.engine.checkout import load_command_line
from autopilot.engine.preflight import Check, preflight
from autopilot.engine.request import Request
from autopilot.errors import AutopilotError
from autopilot.git.repository import Repository
from autopilot.projects.datasets import of_files
from autopilot.projects.hparams import read_hparams
from autopilot.projects.projects import Project


def project_checks(project: Project) -> list[Check]:
    """Looks at a project's files, its command line, its data, and at all that a run needs.

    One item is evaluated; nothing is changed.
    """
    return list(_checks(project))


def _checks(project: Project) -> Iterator[Check]:
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
        changed = {n: s for n, s in repo.status([name]).items() if s != "ignored"}
    except AutopilotError as error:
        yield Check.of("repository", error)
        return
    if changed:
        first, state = next(iter(changed.items()))
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        mend = f"git add {_typed(project.folder)} && git commit"
        yield Check("files", "warning", f"{first} is {state}{more}: a run lacks that", mend)


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
    """A path as it is typed in a shell in the present folder."""
    return shlex.quote(os.path.relpath(path))
