"""Judges: a verdict, a score and feedback for each item."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError

from autopilot.ai.agent import Agent
from autopilot.ai.model import Model
from autopilot.ai.parallel import each
from autopilot.ai.steps import LLMStep, State, WorkflowStep, run_steps
from autopilot.core.loss import Loss
from autopilot.core.numbers import number, truth
from autopilot.core.run import say
from autopilot.core.types import Datum
from autopilot.errors import (
    AgentError,
    AgentRefusedError,
    AgentReplyError,
    AutopilotError,
    NoMoreCallsError,
    UsageError,
)

WORDS: Mapping[str, bool] = {
    **dict.fromkeys(("true", "yes", "pass", "passed", "1"), True),
    **dict.fromkeys(("false", "no", "fail", "failed", "0"), False),
}
_UNIT = (0.0, 1.0)


def _word(value: object) -> object:
    if isinstance(value, str):
        word = value.strip().casefold()
        if word not in WORDS:
            raise ValueError(f"it is none of: {', '.join(WORDS)}")
        return WORDS[word]
    # pydantic takes of numbers 0 and 1 only.
    return value if isinstance(value, int | float) else truth(value)


# A bool that may be said in one of WORDS; also for the fields of replies.
Passed = Annotated[bool, BeforeValidator(_word)]
_PASSED: TypeAdapter[bool] = TypeAdapter(Passed)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of an item.

    Args:
        success: Whether the item passed; None where it does not say.
        score: Higher is better; None where it does not say.
        feedback: What to do better, in words.
        attribution: What it is about.
        error: Why the item could not be judged; the rest says nothing then.
        again: Whether it was an answer that could not be used: asked anew, it may be another.
        score_range: The lowest and the highest score.
    """

    success: bool | None
    score: float | None
    feedback: str = ""
    attribution: str = ""
    error: str = ""
    again: bool = field(default=False, repr=False)
    score_range: tuple[float, float] = field(default=_UNIT, repr=False)


class Judge:
    """A workflow of steps that ends in a judgement. Without steps, the item's own verdict counts.

    The steps find in their state what the item holds: its metadata by name, beside "output" and
    "target" (the metadata of both as a whole). The last result is the judgement: a bool, a score,
    or a mapping or pydantic model with some of success, score, feedback and attribution. Override
    `conclude` to read it otherwise, or `judge` for everything.

    A success in words is one of `WORDS`, in any case. Where only a score is given, the upper half
    of its range passes.

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
            UsageError: what the last step came to is no judgement.
        """
        try:
            # A subclass may have put it together by itself.
            return self._read(self.judge(item, target))
        except NoMoreCallsError:
            raise
        except AgentError as error:
            unusable = isinstance(error, AgentReplyError | AgentRefusedError)
            return Judgement(None, None, error=error.message, again=unusable)
        except AutopilotError:
            raise
        except Exception as error:  # noqa: BLE001  # the user's step: its item is not judged
            return Judgement(None, None, error=f"{type(error).__name__}: {error}")

    def judge_all(self, pairs: Sequence[tuple[Datum, Datum | None]]) -> list[Judgement]:
        """Judges items side by side, in order; a failure is that of its item.

        Raises:
            NoMoreCallsError: no call can be made now.
        """
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
        return next(filter(None, map(_declared, models)), _UNIT)

    def _read(self, value: object) -> Judgement:
        if isinstance(value, Judgement):
            return _checked(value, self.score_range or value.score_range)
        fields = _fields_of(value)
        if fields is None:
            raise UsageError(
                f"the last step of {type(self).__name__} came to {type(value).__name__}, "
                "no judgement",
                hint="let it come to a bool, a score, or success, score and feedback",
            )
        found = Judgement(
            fields.get("success"),
            fields.get("score"),
            str(fields.get("feedback") or ""),
            str(fields.get("attribution") or ""),
        )
        if found.success is None and found.score is None:
            raise AgentReplyError(
                "there is neither a success nor a score", hint="let the last step say one of both"
            )
        return _checked(found, self.range_of(value))


def own_judgement(item: Datum) -> Judgement:
    """What an item says of itself: success and score are None where it says nothing."""
    success = {"passed": True, "failed": False, "error": False}.get(item.outcome)
    score = item.metrics.get("score", None if success is None else float(success))
    low, high = _UNIT if score is None else (min(0.0, score), max(1.0, score))
    feedback = item.feedback or item.error_message or ""
    return Judgement(success, score, feedback, score_range=(low, high))


def _checked(found: Judgement, score_range: tuple[float, float]) -> Judgement:
    """A judgement whose success and score are what they should be; one gives the other.

    Raises:
        AgentReplyError: they are not.
    """
    success, said, (low, high) = found.success, found.score, score_range
    if success is not None:
        try:
            success = _PASSED.validate_python(success)
        except ValidationError as error:
            raise AgentReplyError(
                f"success={success!r:.60} is neither true nor false",
                hint=f"in words, it is one of: {', '.join(WORDS)}",
            ) from error
    score = None if said is None else _number(said)
    if score is not None and not low <= score <= high:
        raise AgentReplyError(
            f"the score {score:g} is outside of {low:g} to {high:g}",
            hint="declare what it may be: Judge(score_range=(0, 10))",
        )
    if success is None and score is not None:
        success = score >= (low + high) / 2
    elif score is None and success is not None:
        score = high if success else low
    return replace(found, success=success, score=score, score_range=score_range)


def _number(said: object) -> float:
    try:
        return float(said) if isinstance(said, str) else number(said)
    except ValueError as error:
        raise AgentReplyError(
            f"score={said!r:.60} is no number", hint="let the judge say a number"
        ) from error


def _fields_of(value: object) -> Mapping[str, Any] | None:
    """What a last step came to, as the fields of a judgement; None where it is none."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return value if "success" in value or "score" in value else None
    if value is None or isinstance(value, str):
        return None if value is None else {"success": value}
    for name, read in (("success", truth), ("score", number)):
        with contextlib.suppress(ValueError):
            return {name: read(value)}
    return None


def _declared(reply: type[BaseModel]) -> tuple[float, float] | None:
    """What a reply's field "score" may be, where it says both ends."""
    known = reply.model_fields.get("score")
    limits = known.metadata if known is not None else []
    ends = [
        next(
            (float(v) for x in limits for n in names if (v := getattr(x, n, None)) is not None),
            None,
        )
        for names in (("ge", "gt"), ("le", "lt"))
    ]
    low, high = ends
    return None if low is None or high is None else (low, high)
