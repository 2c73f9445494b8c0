"""Judges: a verdict, a score and feedback for each item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel

from autopilot.ai.agent import Agent
from autopilot.ai.judgement import (
    UNIT,
    Judgement,
    checked,
    declared_range,
    own_judgement,
    read_judgement,
)
from autopilot.ai.model.model import Model
from autopilot.ai.parallel import each
from autopilot.ai.steps import LLMStep, State, WorkflowStep, run_steps
from autopilot.core.failures import Raised
from autopilot.core.loss import Loss
from autopilot.core.run import is_infrastructure, say
from autopilot.core.types import Datum
from autopilot.errors import (
    AgentError,
    AgentRefusedError,
    AgentReplyError,
    AutopilotError,
    NoMoreCallsError,
    UsageError,
)


class Judge:
    """A workflow of steps that ends in a judgement. Without steps, the item's own verdict counts.

    The steps find in their state what the item holds: its metadata by name, beside "output" and
    "target" (the metadata of both as a whole). The last result is the judgement: a bool, a score,
    or a mapping or pydantic model with some of success, score, feedback and attribution. Override
    `conclude` to read it otherwise, or `judge` for everything.

    A success in words is what pydantic takes for a bool (true, yes, 1; false, no, 0; ...), or pass,
    passed, fail or failed; what is neither true nor false is no verdict. Where only a score is
    given, the upper half of its range passes.

    Args:
        steps: The workflow.
        model: Who answers steps that have no model of their own.
        num_workers: Items that are judged side by side.
        score_range: The lowest and the highest score. Else what the pydantic model of the last
            result says by `Field(ge=..., le=...)`; else 0 to 1.

    >>> Judge().judge(Datum(success=False, feedback="too long"))
    Judgement(success=False, score=0.0, feedback='too long', attribution='', error='')
    """

    steps: Sequence[WorkflowStep] = ()
    model: Model | Agent | None = None
    num_workers: int = 8
    score_range: tuple[float, float] | None = None
    role: ClassVar[str] = "judge"

    def __init__(
        self,
        steps: Sequence[WorkflowStep] = (),
        *,
        model: Model | Agent | None = None,
        num_workers: int | None = None,
        score_range: tuple[float, float] | None = None,
    ) -> None:
        # What a subclass has set on the class stays.
        self.steps = list(steps) or self.steps
        self.model = model or self.model
        self.num_workers = num_workers or self.num_workers
        self.score_range = score_range or self.score_range
        if self.score_range is not None and not self.score_range[0] < self.score_range[1]:
            raise ValueError(f"score_range must be (lowest, highest), not {self.score_range}")

    def judge(self, item: Datum, target: Datum | None = None) -> Judgement:
        """Judges one item.

        Args:
            item: What the module returned for it.
            target: What the module got for it, ground truth included.

        Raises:
            AgentReplyError: the verdict is neither true nor false, or the score out of its range.
            AgentError: a model call failed.
            UsageError: the last step came to something that is no judgement.
        """
        if not self.steps:
            return own_judgement(item)
        asked = target.metadata if target is not None else {}
        inputs = {**asked, **item.metadata, "output": item.metadata, "target": asked}
        state = State(inputs, role=self.role, model=self.model)
        return self.conclude(run_steps(self.steps, state), item)

    def conclude(self, state: State, item: Datum) -> Judgement:
        """The judgement that the steps came to."""
        return self._read(state.last)

    def attempt(self, item: Datum, target: Datum | None = None) -> Judgement:
        """Judges one item as `judge` does; its failure is the judgement's `error`.

        Raises:
            NoMoreCallsError: no call can be made now.
            AgentError: a service did not answer: an experiment's run waits for it.
            UsageError: what the last step came to is no judgement.
        """
        try:
            # A subclass may have put it together by itself.
            return self._read(self.judge(item, target))
        except NoMoreCallsError:
            raise
        except AgentError as error:
            if is_infrastructure(error):
                raise
            unusable = isinstance(error, AgentReplyError | AgentRefusedError)
            return Judgement(None, None, error=error.message, again=unusable)
        except (AutopilotError, KeyboardInterrupt):
            raise
        except BaseException as error:
            # The user's step: its item is not judged.
            if is_infrastructure(error):
                raise
            raised = Raised.of(error)
            place = f" ({raised.place})" if raised.place else ""
            return Judgement(None, None, error=f"{raised.message}{place}")

    def judge_all(self, pairs: Sequence[tuple[Datum, Datum | None]]) -> list[Judgement]:
        """Judges items side by side, in order; a failure is that of its item.

        Raises:
            NoMoreCallsError: no call can be made now.
            AgentError: no item could be judged.
        """
        found = self.attempt_all(pairs)
        if found and all(judgement.error for judgement in found):
            raise no_judgement(len(found), found[0].error)
        return found

    def attempt_all(self, pairs: Sequence[tuple[Datum, Datum | None]]) -> list[Judgement]:
        """The same, where it is no error that no item could be judged."""
        found = each(lambda pair: self.attempt(*pair), pairs, self.num_workers)
        failed = [judgement.error for judgement in found if judgement.error]
        if failed:
            say(f"{len(failed)} of {len(found)} items could not be judged: {failed[0]}")
        return found

    def as_loss(self) -> Loss:
        """The loss that `AutoPilotModule.configure_judge` stands for."""
        from autopilot.ai.loss import JudgeLoss

        return JudgeLoss(self, every_item=True)

    def range_of(self, value: object = None) -> tuple[float, float]:
        """The lowest and the highest score of what a last step came to; by default, as expected."""
        if self.score_range is not None:
            return self.score_range
        steps = reversed(self.steps) if value is None else ()
        models = [step.reply for step in steps if isinstance(step, LLMStep)]
        models += [type(value)] if isinstance(value, BaseModel) else []
        return next(filter(None, map(declared_range, models)), UNIT)

    def _read(self, value: object) -> Judgement:
        if isinstance(value, Judgement):
            return checked(value, self.score_range or value.score_range)
        found = read_judgement(value, self.range_of(value))
        if found is None:
            raise UsageError(
                f"the last step of {type(self).__name__} came to {type(value).__name__}, "
                "no judgement",
                hint="let it come to a bool, a score, or success, score and feedback",
            )
        return found


def no_judgement(count: int, reason: str) -> AgentError:
    """The error for items of which none could be judged."""
    return AgentError(
        f"none of {count} items could be judged: {reason}",
        hint="try the judge on one item by hand",
    )
