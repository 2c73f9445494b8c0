"""Whether an epoch's train split gave the optimizer something to make a step by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopilot.core.direction import wish
from autopilot.core.evaluation import SplitMetrics
from autopilot.core.gradient import TextGradient
from autopilot.core.setup_checks import check_gates
from autopilot.errors import UserCodeError

if TYPE_CHECKING:
    from autopilot.core.loop import Fit


def hears(fit: Fit, train: SplitMetrics, *, last: bool) -> bool:
    """Whether there is feedback to make a step by; if not by the last one, the run stops.

    As long as every item raised, a step waits: its feedback is for the next one, unless that is the
    evaluation's own fault, which only the last step knows.

    Args:
        fit: What is worked with.
        train: The train split so far.
        last: Whether that is all of it.

    Raises:
        UserCodeError: all train items raised: that is nothing that an optimizer could repair.
        UsageError: a gate reads a train metric that does not exist.
        EvaluationError: there is no val split, and nothing scores the train items.
    """
    trainer, parameters = fit.trainer, fit.optimizer.parameters
    if _is_broken(fit, train):
        if not last:
            return False
        raise _raised(fit, train)
    if last and fit.val is None and trainer.current_epoch == 1 and not train.errors():
        # Without a val split, nothing else says whether the items are scored.
        train.check_scored("train", trainer.monitor)
    # What raised may have taken a metric along.
    if last and trainer.current_epoch == 1 and not train.means.errors:
        check_gates(fit.policy, {"train": train.compute()}, trainer.monitor)
    if last and not fit.heard and all(p.grad is None for p in parameters):
        _pass_value(fit, train)
    fit.heard = fit.heard or any(p.grad is not None for p in parameters)
    if not last or fit.heard or trainer.run.misses_feedback:
        return True
    if not fit.optimizer.needs_gradient:
        return True
    reason = train.silence()
    trainer.run.note(reason)
    trainer.stop(reason)
    return False


def _is_broken(fit: Fit, train: SplitMetrics) -> bool:
    """Whether all items raised, for a reason that no optimizer could repair."""
    failures, epoch = fit.trainer.failures, fit.trainer.current_epoch
    # Without a val split an earlier epoch may have broken it: that state is rejected.
    if fit.val is None and epoch > 1:
        return False
    return failures.raised_of("train") == train.means.items


def _raised(fit: Fit, train: SplitMetrics) -> UserCodeError:
    failures = fit.trainer.failures
    place = failures.first_place("train")
    # What was measured with a broken harness is measured again once that is mended.
    fit.trainer.experiment.void_results()
    return UserCodeError(
        f"all {train.means.items} train items raised: {train.means.errors[0]}"
        + (f" ({place})" if place else ""),
        hint="the evaluation itself fails, not what is optimized: mend it, commit, and start "
        "another experiment; one that is resumed keeps the files that it started from",
        user_traceback=failures.first_traceback("train"),
    )


def _pass_value(fit: Fit, train: SplitMetrics) -> None:
    """Where a metric of the whole split decides, and no item has feedback: its value is all."""
    trainer = fit.trainer
    value = train.compute().get(trainer.monitor)
    if trainer.monitor == "accuracy" or value is None:
        return
    asked = wish(trainer.monitor, trainer.mode)
    gradient = TextGradient(f"{asked}: it is {value:.6g} on the train split")
    for parameter in fit.optimizer.parameters:
        if parameter.requires_grad:
            parameter.accumulate_grad(gradient)
