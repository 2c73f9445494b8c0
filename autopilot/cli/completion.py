"""What the shell completes beside commands and options: names of experiments and projects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autopilot.errors import AutopilotError


def experiment_names(ctx: Any, incomplete: str) -> list[str]:
    """The experiments here whose names begin so; with -p, without their project in front."""
    from autopilot.git.repository import Repository
    from autopilot.tracking.layout import experiments

    project = _given(ctx, "project")
    prefix = f"{project}/" if project else ""
    try:
        found = experiments(Repository.discover(_folder(ctx)))
    except AutopilotError:
        return []
    names = [slug.removeprefix(prefix) for slug in found if slug.startswith(prefix)]
    return [name for name in names if name.startswith(incomplete)]


def project_names(ctx: Any, incomplete: str) -> list[str]:
    """The projects of the workspace here whose names begin so."""
    from autopilot.projects.project import find_workspace, projects_of

    workspace = find_workspace(_folder(ctx))
    names = [project.name for project in projects_of(workspace)] if workspace else []
    return [name for name in names if name.startswith(incomplete)]


def _folder(ctx: Any) -> Path:
    return Path(_given(ctx, "folder") or Path.cwd()).absolute()


def _given(ctx: Any, name: str) -> Any:
    """A common option, before or behind the command's name."""
    while ctx is not None:
        if ctx.params.get(name):
            return ctx.params[name]
        ctx = ctx.parent
    return None
