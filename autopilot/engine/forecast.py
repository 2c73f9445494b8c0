"""What a run would do: `autopilot run --dry-run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autopilot.core.direction import direction_words
from autopilot.core.record import Manifest
from autopilot.engine.request import Request, committed_target, name_of
from autopilot.engine.session import Session
from autopilot.engine.workspace import Workspace
from autopilot.git.repository import Repository
from autopilot.git.worktrees import worktree_path
from autopilot.tracking.scope import scope_of


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would do.

    Args:
        experiment: The name that it would have.
        base: The commit that it would start from.
        parameters: Repository path to the number of its files.
        train_items: "?" where unknown.
        val_items: "?" where unknown.
        monitor: The metric that would decide.
        mode: Its direction, "max" or "min".
        max_epochs: The number of the last epoch.
        worktree: Where it would work.
    """

    experiment: str
    base: str
    parameters: Mapping[str, int]
    train_items: str
    val_items: str
    monitor: str
    mode: str
    max_epochs: int
    worktree: str

    def lines(self) -> list[str]:
        """For a person."""
        return [
            f"dry run: nothing was changed. {self.experiment} would",
            f"  start from {self.base[:7]} and work in {self.worktree}",
            *(f"  optimize {path} (files: {n})" for path, n in self.parameters.items()),
            f"  evaluate {self.train_items} train and {self.val_items} val items an epoch",
            f"  keep an epoch by val {self.monitor} ({direction_words(self.mode)}), "
            f"for at most {self.max_epochs} epochs",
            f"  commit each step to autopilot/{self.experiment}",
        ]


def forecast(request: Request) -> Forecast:
    """What a run would do; reads the user's checkout, and changes nothing.

    Raises:
        AutopilotError: the run would be refused.
    """
    user = Repository.discover(request.folder)
    base = user.head_commit()
    target = committed_target(user, base, request)
    slug = name_of(user, target, request)
    directory = request.folder.resolve().relative_to(user.workdir.resolve()).as_posix()
    workspace = Workspace(user, user, "" if directory == "." else directory)
    manifest = Manifest(slug=slug, target=target.text, hparams=request.hparams, base=base)
    session = Session(user, slug, workspace, manifest)
    session.load(request.options, (), include_dirty=request.include_dirty)
    session.inputs.close()
    scopes = [scope_of(user, parameter) for parameter in session.module.parameters()]
    train, val = session.split_sizes
    where = user.workdir if request.in_place else worktree_path(user, slug)
    return Forecast(
        experiment=slug,
        base=base,
        parameters={scope.path: len(scope.files()) for scope in scopes},
        train_items=train,
        val_items=val,
        monitor=session.trainer.monitor,
        mode=session.trainer.mode,
        max_epochs=session.max_epochs,
        worktree=str(where),
    )
