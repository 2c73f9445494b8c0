"""What a run would do: `autopilot run --dry-run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autopilot.core.direction import direction_words
from autopilot.engine.preflight import one_item
from autopilot.engine.request import Request
from autopilot.engine.session import Session
from autopilot.errors import AgentError, EvaluationError
from autopilot.sandbox.offline import Offline
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
        first_item: What the first item comes to, in words.
        monitor: The metric that would decide.
        mode: Its direction, "max" or "min".
        max_epochs: The number of the last epoch.
        worktree: Where it would work.
        repeat: How often each val item would be measured.
    """

    experiment: str
    base: str
    parameters: Mapping[str, int]
    train_items: str
    val_items: str
    first_item: str
    monitor: str
    mode: str
    max_epochs: int
    worktree: str
    repeat: int = 1

    def lines(self) -> list[str]:
        """For a person."""
        often = f", val {self.repeat} times" if self.repeat > 1 else ""
        return [
            f"dry run: nothing was changed. {self.experiment} would",
            f"  start from {self.base[:7]} and work in {self.worktree}",
            *(f"  optimize {path} (files: {n})" for path, n in self.parameters.items()),
            f"  evaluate {self.train_items} train and {self.val_items} val items an epoch{often}",
            f"  begin with an item: {self.first_item}",
            f"  keep an epoch by val {self.monitor} ({direction_words(self.mode)}), "
            f"for at most {self.max_epochs} epochs",
            f"  commit each step to autopilot/{self.experiment}",
        ]


def forecast(request: Request) -> Forecast:
    """What a run would do: its own start, in a worktree that is gone afterwards, and one item.

    The item is evaluated only as far as that costs nothing: without network and programs.

    Raises:
        AutopilotError: the run would be refused, or its baseline would stop it.
    """
    session = Session.start(request)
    try:
        scopes = [scope_of(session.workspace.repo, p) for p in session.module.parameters()]
        train, val = session.split_sizes
        return Forecast(
            experiment=session.slug,
            base=session.manifest.base,
            parameters={scope.path: len(scope.files()) for scope in scopes},
            train_items=train,
            val_items=val,
            first_item=_first_item(session),
            monitor=session.trainer.monitor,
            mode=session.trainer.mode,
            repeat=session.trainer.repeat,
            max_epochs=session.max_epochs,
            worktree=str(session.workspace.repo.workdir),
        )
    finally:
        session.discard()


def _first_item(session: Session) -> str:
    """What one item comes to, in words.

    Raises:
        EvaluationError: it fails, or nothing would score it.
    """
    offline = Offline(programs=True)
    offline.begin()
    try:
        checks = list(one_item(session, live=False))
    except AgentError:
        checks = []
    finally:
        offline.end()
    if offline.refused or not checks:
        why = f": it {offline.refused[0]}" if offline.refused else ": it asks a model"
        return f"not evaluated in a dry run{why}"
    for check in checks:
        if check.state == "failed":
            raise EvaluationError(check.detail, hint=check.mend)
    return checks[0].detail
