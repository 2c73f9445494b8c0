"""What the policy, as it is now, says of an epoch's recorded measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autopilot.core.comparison import EpochView
from autopilot.core.configuration import policy_of
from autopilot.core.policy import Decision, decide
from autopilot.core.types import Metrics
from autopilot.engine.loading import users_code
from autopilot.engine.target import load_here
from autopilot.errors import ExperimentError
from autopilot.tracking.notebook import Epoch, Notebook


@dataclass(frozen=True, slots=True)
class Ruling:
    """What it says.

    Args:
        epoch: The epoch that is judged; its own verdict is what was decided in the run.
        against: The best epoch before it; None for the baseline.
        policy: The policy's class.
        decision: The verdict now, with what each gate found.
    """

    epoch: Epoch
    against: int | None
    policy: str
    decision: Decision

    @property
    def differs(self) -> bool:
        """Whether the run decided otherwise: then policy or gates were changed since."""
        baseline = self.epoch.verdict == "baseline"
        return not baseline and self.decision.kept != (self.epoch.verdict == "kept")


def rule(notebook: Notebook, number: int) -> Ruling:
    """Judges an epoch again, by the policy of the user's checkout; nothing is evaluated.

    An epoch is compared with the best one before it, as the run did. Of the baseline, only the
    gates say something.

    Raises:
        ExperimentError: it was not started by `autopilot run`, so its policy is not known.
        AutopilotError: the target cannot be loaded.
    """
    manifest = notebook.manifest
    if not manifest.target:
        raise ExperimentError(
            f"{notebook.slug} was not started by autopilot run: its policy is not known",
            hint="judge it in the program that started it: policy.judge(view)",
        )
    folder = notebook.repo.workdir / manifest.directory
    hparams = {key: str(value) for key, value in manifest.hparams.items()}
    module = load_here(folder, manifest.target, hparams)
    epoch = notebook.epoch(number)
    earlier = [each for each in notebook.epochs if each.number < number]
    against = notebook.epoch(earlier[-1].best_epoch) if earlier else None
    monitor, mode = notebook.monitor
    items = notebook.data(number)
    view = EpochView(
        epoch=number,
        metrics=_without_test(epoch.metrics),
        baseline=_without_test(notebook.epoch(0).metrics) if earlier else {},
        best=_without_test(against.metrics) if against else {},
        monitor=monitor,
        mode=mode,
        items=items,
        best_items=notebook.data(against.number) if against else (),
        cost=epoch.cost,
        noise=notebook.noise,
    )
    errors = [item.error_message or "" for item in items if item.outcome == "error"]
    with users_code(manifest.target):
        policy = policy_of(module)
        decision = decide(policy, view, errors if items and len(errors) == len(items) else ())
    return Ruling(epoch, against.number if against else None, type(policy).__name__, decision)


def _without_test(metrics: Mapping[str, Mapping[str, float]]) -> Metrics:
    """What the policy saw: the test split is scored after the last epoch."""
    return {split: dict(values) for split, values in metrics.items() if split != "test"}
