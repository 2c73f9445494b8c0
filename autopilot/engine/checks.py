"""What is looked at before a run starts, so that nothing surprises afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autopilot.core.leakage import leakage_notes
from autopilot.core.module import AutoPilotModule
from autopilot.engine.workspace import Workspace
from autopilot.errors import MissingSourceError, ParameterError
from autopilot.files import read_file, remove_file, replace_file
from autopilot.git import objects
from autopilot.git.repository import Repository
from autopilot.tracking.scope import Scope, check_clean, check_tracked, dirty_files, scope_of


def check_parameters(
    workspace: Workspace, module: AutoPilotModule, base: str, *, include_dirty: bool
) -> list[str]:
    """Sees to it that what the user has in the own checkout is what the run starts from.

    Returns:
        What the user should know before it starts.

    Raises:
        ParameterError: a parameter that cannot be optimized; it says why, and what to do.
    """
    parameters = module.parameters()
    if not parameters:
        raise ParameterError(
            f"{type(module).__name__} has no parameters",
            hint="declare what may change: self.rules = PathParameter('rules.txt')",
        )
    scopes = [scope_of(workspace.repo, parameter) for parameter in parameters]
    tree = objects.tree_of(workspace.user, base)
    check_tracked(workspace.repo, tree, scopes)
    if not include_dirty:
        check_clean(workspace.user, scopes)
    elif not workspace.in_place:
        here = workspace.repo.workdir
        for name in dirty_files(workspace.user, scopes):
            source = workspace.user.workdir / name
            if source.is_symlink() or source.exists():
                replace_file(here, name, read_file(source))
            else:
                remove_file(here, name)
    changed = [] if workspace.in_place else _other_changes(workspace.user, scopes)
    return [*changed, *_leakage(module)]


def _leakage(module: AutoPilotModule) -> list[str]:
    loaders = {
        "train": module.train_dataloader(),
        "val": module.val_dataloader(),
        "test": module.test_dataloader(),
    }
    return leakage_notes(loaders)


def _other_changes(user: Repository, scopes: Sequence[Scope]) -> list[str]:
    changed = [
        name
        for name, state in user.status(["."]).items()
        if state in ("modified", "deleted", "conflicted")
        and not any(scope.covers(name) for scope in scopes)
    ]
    if not changed:
        return []
    shown = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
    files = "1 changed file" if len(changed) == 1 else f"{len(changed)} changed files"
    return [f"not part of the run, since not committed: {files} ({shown})"]


def explain_missing(workspace: Workspace, base: str, error: MissingSourceError) -> ParameterError:
    """Why the worktree lacks a parameter's source: the user's checkout may tell."""
    here = workspace.repo.workdir
    if workspace.in_place or not Path(error.path).is_relative_to(here):
        return error
    name = Path(error.path).relative_to(here).as_posix()
    if not (workspace.user.workdir / name).exists():
        return ParameterError(
            f"the parameter {name} does not exist",
            hint="create and commit it, or correct the path: it starts at the folder that you are "
            "in, or at the target's with Path(__file__).parent",
        )
    for depth in range(1, name.count("/") + 2):
        folder = "/".join(name.split("/")[:depth])
        tree = objects.tree_of(workspace.user, base)
        entry = objects.entry_at(workspace.user, tree, folder)
        if entry is not None and entry.mode == objects.SUBMODULE:
            return ParameterError(
                f"the parameter {name} is in the submodule {folder}",
                hint="run autopilot in the submodule's own repository",
            )
    if workspace.user.is_ignored(name):
        return ParameterError(
            f"the parameter {name} is ignored by git",
            hint=f"take it out of .gitignore, then: git add {name} && git commit",
        )
    return ParameterError(
        f"the parameter {name} is not tracked by git", hint=f"git add {name} && git commit"
    )
