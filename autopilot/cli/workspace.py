"""Commands on the workspace as a whole: init, doctor, tree."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopilot.cli.context import Context
from autopilot.core.figures import progressed
from autopilot.errors import UsageError
from autopilot.text import counted

if TYPE_CHECKING:
    from autopilot.projects.project import Project

_TIMEOUT_S = 600.0


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
    from autopilot.errors import RepositoryError
    from autopilot.git.commands import run_git
    from autopilot.git.repository import Repository
    from autopilot.projects.project import make_workspace

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
    for name in written:
        output.line(f"  {name}")
    output.line("a project in it: autopilot project init NAME")
    output.document({"workspace": place, "files": written})


def doctor(context: Context) -> int:
    """Look whether all projects of the workspace are sound.

    Each is looked at in a process of its own, as `project doctor` does. Experiments whose project
    is gone are named. Exit code 1 if a run of a project would not start.

    \b
    autopilot workspace doctor
    """
    from autopilot.projects.project import projects_of
    from autopilot.sandbox.processes import run_process
    from autopilot.tracking.layout import experiments

    workspace, output = _workspace(context), context.output
    found: dict[str, Any] = {}
    for project in projects_of(workspace):
        command = [sys.executable, "-P", "-m", "autopilot", "-C", str(workspace), "--json"]
        done = run_process(
            [*command, "project", "doctor", project.name],
            stdin="",
            folder=workspace,
            timeout_s=_TIMEOUT_S,
            hint="see that Python runs",
        )
        found[project.name] = told = _document(done.stdout, done.tail())
        failed = [check for check in told["checks"] if check["state"] == "failed"]
        output.line(f"{project.name}: {'ready' if told['ok'] else counted(len(failed), 'problem')}")
        for check in told["checks"]:
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
        output.line("no projects yet")
        output.line("make one: autopilot project init NAME")
    ok = all(told["ok"] for told in found.values())
    output.document({"workspace": workspace, "ok": ok, "projects": found, "stray": stray})
    return 0 if ok else 1


def _document(text: str, otherwise: str) -> dict[str, Any]:
    """What a project's own doctor printed; an error, or none, is a failed check."""
    try:
        told = json.loads(text)
    except ValueError:
        told = {"error": f"project doctor came to no end: {otherwise}", "hint": ""}
    if "checks" in told:
        return dict(told)
    check = {"name": "doctor", "state": "failed", "detail": told["error"], "mend": told["hint"]}
    return {"ok": False, "checks": [check]}


def tree(context: Context) -> None:
    """Draw the workspace: projects, experiments, datasets.

    \b
    autopilot workspace tree
    autopilot workspace tree --json
    """
    from autopilot.cli.pages import listing as pages
    from autopilot.projects.project import projects_of

    workspace, output = _workspace(context), context.output
    rows = pages.rows(context.repository(), None, pages.overview)
    branches: list[tuple[str, list[str]]] = []
    told: list[dict[str, Any]] = []
    for project in projects_of(workspace):
        own = [row for row in rows if row["experiment"].startswith(f"{project.name}/")]
        datasets = _datasets(project)
        told.append({"project": project.name, "experiments": own, "datasets": datasets})
        data = ", ".join(f"{name} {count}" for name, count in datasets.items())
        leaves = [*map(_experiment, own), *([f"datasets: {data}"] if data else [])]
        branches.append((project.name, leaves))
    names = {row["project"] for row in told}
    others = [row for row in rows if row["experiment"].split("/")[0] not in names]
    if others:
        branches.append(("experiments of no project", [_experiment(row) for row in others]))
    output.line(str(workspace), "bold")
    for line in _drawn(branches):
        output.line(line)
    if not branches:
        output.line("nothing yet: autopilot project init NAME")
    output.document({"workspace": workspace, "projects": told, "others": others})


def _experiment(row: dict[str, Any]) -> str:
    text = f"{row['experiment']}  {row['state']}"
    if row.get("monitor"):
        text += f", {counted(row['epochs'], 'epoch')}, {row['kept']} kept, "
        text += progressed(row["monitor"], row["baseline"], row["best"], row["mode"])
    return text


def _datasets(project: Project) -> dict[str, int]:
    from autopilot.projects.datasets import of_files, size

    files = sorted(project.datasets.glob("*.jsonl"))
    return {Path(name).stem: size(items) for name, items in of_files(files).items()}


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
    from autopilot.projects.project import find_workspace

    folder = context.working_folder()
    workspace = find_workspace(folder)
    if workspace is None:
        raise UsageError(f"there is no workspace around {folder}", hint="autopilot workspace init")
    return workspace


COMMANDS = {"init": init, "doctor": doctor, "tree": tree}
