"""Commands on the projects of a workspace: init, list, doctor."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopilot.cli.context import Context
from autopilot.cli.output import Output, own_stdout
from autopilot.core.figures import progressed
from autopilot.text import align, counted

if TYPE_CHECKING:
    from autopilot.engine.preflight import Check
    from autopilot.projects.project import Project

STYLES = {"ok": "", "warning": "yellow", "failed": "red"}


def init(
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
    from autopilot.projects.project import (
        find_workspace,
        make_project,
        make_workspace,
        project_at,
    )

    folder = context.working_folder()
    top = context.repository().workdir
    workspace = find_workspace(folder) or top
    project = project_at(workspace, name)
    written = [*make_project(project), *make_workspace(workspace)]
    output, here = context.output, os.path.relpath(workspace, folder)
    shown = [os.path.relpath(path, workspace) for path in written]
    output.line(f"{name}: {counted(len(shown), 'new file')} in {workspace}")
    for path in shown:
        output.line(f"  {path}")
    output.line("run it:")
    output.line(f"  git add {shlex.quote(os.path.join('' if here == '.' else here, 'autopilot'))}")
    output.line(f'  git commit -m "project {name}"')
    output.line(f"  autopilot -p {name} run")
    output.document({"project": name, "folder": project.folder, "files": shown})


def list_(context: Context) -> None:
    """List the projects of the workspace with their experiments.

    \b
    autopilot project list
    """
    from autopilot.cli.pages import listing as pages

    output = context.output
    repo = context.repository()
    everything = pages.rows(repo, None, pages.overview)
    rows: list[dict[str, Any]] = []
    for project in _projects(context):
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
    output.document({"projects": rows})
    if not rows:
        output.line("no projects yet")
        output.line("make one: autopilot project init NAME")
        return
    cells = [
        [
            str(row["project"]),
            str(row["experiments"]),
            _newest(row["newest"]),
            "" if row["has_cli"] else f"no cli.py: autopilot project doctor {row['project']}",
        ]
        for row in rows
    ]
    for line in align(["project", "experiments", "newest", ""], cells, ["experiments"]):
        output.line(line)
    for row in rows:
        for slug in row["unfinished"]:
            output.line(f"go on: autopilot resume {slug}")


def _newest(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    told = f"{row['experiment']}: {row['state']}"
    if row.get("monitor"):
        told += f", {progressed(row['monitor'], row['baseline'], row['best'], row['mode'])}"
    return told


def doctor(
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
    from autopilot.projects.health import examine_project

    context.project = name or context.project
    project = context.own_project()
    with own_stdout(context.output) as output:
        return report(output, list(examine_project(project)), project=project.name)


def report(output: Output, checks: Sequence[Check], **also: object) -> int:
    """Prints what was looked at, and the document; 1 if something failed."""
    failed = sum(check.state == "failed" for check in checks)
    for check in checks:
        output.line(check.line(), STYLES[check.state])
        if check.mend and check.state != "ok":
            output.line(f"         mend: {check.mend}")
    warned = sum(check.state == "warning" for check in checks)
    told = [counted(failed, "problem")] if failed else ["ready"]
    output.line(", ".join([*told, *([counted(warned, "warning")] if warned else [])]), "bold")
    output.document({**also, "ok": not failed, "checks": list(checks)})
    return 1 if failed else 0


def _projects(context: Context) -> list[Project]:
    from autopilot.projects.project import find_workspace, projects_of

    workspace = find_workspace(context.working_folder())
    return projects_of(workspace) if workspace else []


COMMANDS = {"init": init, "list": list_, "doctor": doctor}
