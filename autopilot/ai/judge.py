"""Judges: a verdict, a score and feedback for each item, read strictly from the steps' result."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError

from autopilot.ai.agent import Agent
from autopilot.ai.loss import UNIT, JudgeLoss, Judgement, Pairs, no_judgement, own_judgement
from autopilot.ai.model.base import ChatModel
from autopilot.ai.model.parallel import each
from autopilot.ai.steps import LLMStep, WorkflowState, WorkflowStep, failure_of, run_steps
from autopilot.core.figures import number, truth
from autopilot.core.loss import Loss
from autopilot.core.run import is_infrastructure, say
from autopilot.core.types import Datum
from autopilot.errors import AgentError, AgentReplyError, UsageError

__all__ = ["Judge", "Judgement", "own_judgement"]

# Verdicts in words, beside those that pydantic takes for a bool.
WORDS: Mapping[str, bool] = {"pass": True, "passed": True, "fail": False, "failed": False}


class Judge:
    """A workflow of steps that ends in a judgement. Without steps, the item's own verdict counts.

    The steps find the item's metadata in their state by name, beside "output" and "target" (the
    metadata of both as a whole). The last result is the judgement: a bool, a score, or a mapping or
    pydantic model with some of success, score, feedback and attribution. Override `conclude` to
    read it otherwise, or `judge` to replace the workflow.

    A success in words is one that pydantic takes for a bool (true, yes, 1; false, no, 0; ...), or
    pass, passed, fail or failed; other words are an error. With a score only, the upper half of its
    range passes.

    Args:
        steps: The workflow.
        model: Answers steps that have no model of their own.
        num_workers: Items that are judged side by side.
        score_range: The lowest and the highest score. Defaults to the range that the pydantic model
            of the last result declares by `Field(ge=..., le=...)`, then to 0 to 1.

    >>> Judge().judge(Datum(success=False, feedback="too long"))
    Judgement(success=False, score=0.0, feedback='too long', attribution='', error='')
    """

    steps: Sequence[WorkflowStep] = ()
    model: ChatModel | Agent | None = None
    num_workers: int = 8
    score_range: tuple[float, float] | None = None
    role: ClassVar[str] = "judge"

    def __init__(
        self,
        steps: Sequence[WorkflowStep] = (),
        *,
        model: ChatModel | Agent | None = None,
        num_workers: int | None = None,
        score_range: tuple[float, float] | None = None,
    ) -> None:
        # Without an argument, the value that a subclass sets on the class applies.
        self.steps = list(steps) or self.steps
        self.model = model or self.model
        self.num_workers = num_workers or self.num_workers
        self.score_range = score_range or self.score_range
        if self.score_range is not None and not self.score_range[0] < self.score_range[1]:
            raise ValueError(f"score_range must be (lowest, highest), not {self.score_range}")

    def judge(self, item: Datum, target: Datum | None = None) -> Judgement:
        """Judges one item.

        Args:
            item: The module's output.
            target: The module's input, ground truth included.

        Raises:
            AgentReplyError: the verdict is neither true nor false, or the score out of its range.
            AgentError: a model call failed.
            UsageError: the last result is no judgement.
        """
        if not self.steps:
            return own_judgement(item)
        asked = target.metadata if target is not None else {}
        inputs = {**asked, **item.metadata, "output": item.metadata, "target": asked}
        state = WorkflowState(inputs, role=self.role, model=self.model)
        return self.conclude(run_steps(self.steps, state), item)

    def conclude(self, state: WorkflowState, item: Datum) -> Judgement:
        """The judgement in the state after the last step."""
        return self._read(state.last)

    def attempt(self, item: Datum, target: Datum | None = None) -> Judgement:
        """Judges one item as `judge` does; a failure becomes the judgement's `error`.

        Raises:
            NoMoreCallsError: no call can be made now.
            AgentError: a service did not answer: an experiment's run waits for it.
            UsageError: the last result is no judgement.
        """
        try:
            # Read here too: an overridden `judge` may return a judgement that was not checked.
            return self._read(self.judge(item, target))
        except BaseException as error:
            if is_infrastructure(error):
                raise
            reason, unusable = failure_of(error)
            hint = error.hint if isinstance(error, AgentError) else ""
            return Judgement(None, None, error=reason, again=unusable, hint=hint)

    def judge_all(self, pairs: Pairs) -> list[Judgement]:
        """Judges items side by side; the judgements are in the items' order, failures included.

        Raises:
            NoMoreCallsError: no call can be made now.
            AgentError: no item could be judged.
        """
        found = self.attempt_all(pairs)
        if found and all(judgement.error for judgement in found):
            raise no_judgement(len(found), found[0].error, found[0].hint)
        return found

    def attempt_all(self, pairs: Pairs) -> list[Judgement]:
        """As `judge_all`; it is no error if no item could be judged."""
        found = each(lambda pair: self.attempt(*pair), pairs, self.num_workers)
        failed = [judgement.error for judgement in found if judgement.error]
        if failed:
            say(f"{len(failed)} of {len(found)} items could not be judged: {failed[0]}")
        return found

    def as_loss(self) -> Loss:
        """The loss of a module whose `configure_judge` returns this judge."""
        return JudgeLoss(self, every_item=True)

    def range_of(self, value: object = None) -> tuple[float, float]:
        """The lowest and the highest score of a last result; without one, of the expected one."""
        if self.score_range is not None:
            return self.score_range
        steps = reversed(self.steps) if value is None else ()
        models = [step.reply for step in steps if isinstance(step, LLMStep)]
        models += [type(value)] if isinstance(value, BaseModel) else []
        return next(filter(None, map(_declared_range, models)), UNIT)

    def _read(self, value: object) -> Judgement:
        if isinstance(value, Judgement):
            return _checked(value, self.score_range or value.score_range)
        fields = _fields_of(value)
        if fields is None:
            raise UsageError(
                f"the last step of {type(self).__name__} returned {type(value).__name__}, "
                "which is no judgement",
                hint="return a bool, a score, or success, score and feedback",
            )
        success, score = fields.get("success"), fields.get("score")
        if success is None and score is None:
            raise AgentReplyError(
                "there is neither a success nor a score", hint="let the last step say one of both"
            )
        feedback, attribution = (str(fields.get(n) or "") for n in ("feedback", "attribution"))
        return _checked(Judgement(success, score, feedback, attribution), self.range_of(value))


def _word(value: object) -> object:
    if isinstance(value, str):
        word = value.strip().casefold()
        return WORDS.get(word, word)
    # Of numbers, pydantic takes 0 and 1 only.
    return value if isinstance(value, int | float) else truth(value)


_PASSED: TypeAdapter[bool] = TypeAdapter(Annotated[bool, BeforeValidator(_word)])


def _checked(found: Judgement, score_range: tuple[float, float]) -> Judgement:
    """A judgement with a bool and a number in its range; one is derived if only the other is given.

    Raises:
        AgentReplyError: the success is neither true nor false, or the score out of the range.
    """
    success, (low, high) = found.success, score_range
    said: object = found.score
    if success is not None:
        try:
            success = _PASSED.validate_python(success)
        except ValidationError as error:
            raise AgentReplyError(
                f"success={success!r:.60} is neither true nor false",
                hint="let the judge say true or false, yes or no, passed or failed, 1 or 0",
            ) from error
    try:
        score = None if said is None else float(said) if isinstance(said, str) else number(said)
    except ValueError as error:
        raise AgentReplyError(
            f"score={said!r:.60} is no number", hint="let the judge say a number"
        ) from error
    if score is not None and not low <= score <= high:
        raise AgentReplyError(
            f"the score {score:g} is outside of {low:g} to {high:g}",
            hint="declare its range: Judge(score_range=(0, 10))",
        )
    if success is None and score is not None:
        success = score >= (low + high) / 2
    elif score is None and success is not None:
        score = high if success else low
    return replace(found, success=success, score=score, score_range=score_range)


def _fields_of(value: object) -> Mapping[str, Any] | None:
    """A last result as the fields of a judgement; None if it is none."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return value if "success" in value or "score" in value else None
    if value is None:
        return None
    if isinstance(value, str):
        return {"success": value}
    # In this order: numpy's bools are numbers too.
    for name, read in (("success", truth), ("score", number)):
        with contextlib.suppress(ValueError):
            return {name: read(value)}
    return None


def _declared_range(reply: type[BaseModel]) -> tuple[float, float] | None:
    """The range of a reply's field "score", if it declares both ends."""
    known = reply.model_fields.get("score")
    limits = known.metadata if known is not None else []
    ends: list[float | None] = []
    for names in (("ge", "gt"), ("le", "lt")):
        given = (getattr(limit, name, None) for limit in limits for name in names)
        ends.append(next((float(end) for end in given if end is not None), None))
    low, high = ends
    return None if low is None or high is None else (low, high)
