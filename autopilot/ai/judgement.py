"""What a judge says of an item, read strictly: nothing is guessed from what it might have meant."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError

from autopilot.core.numbers import number, truth
from autopilot.core.types import Datum
from autopilot.errors import AgentReplyError

# What a verdict may be in words, beside what pydantic takes for a bool.
WORDS: Mapping[str, bool] = {"pass": True, "passed": True, "fail": False, "failed": False}
UNIT = (0.0, 1.0)


def _word(value: object) -> object:
    if isinstance(value, str):
        word = value.strip().casefold()
        return WORDS.get(word, word)
    # Of numbers, pydantic takes 0 and 1 only.
    return value if isinstance(value, int | float) else truth(value)


_PASSED: TypeAdapter[bool] = TypeAdapter(Annotated[bool, BeforeValidator(_word)])


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
    score_range: tuple[float, float] = field(default=UNIT, repr=False)


def own_judgement(item: Datum) -> Judgement:
    """What an item says of itself: success and score are None where it says nothing."""
    success = {"passed": True, "failed": False, "error": False}.get(item.outcome)
    score = None if success is None else item.metrics.get("score", float(success))
    low, high = UNIT if score is None else (min(0.0, score), max(1.0, score))
    feedback = item.feedback or item.error_message or ""
    return Judgement(success, score, feedback, score_range=(low, high))


def read_judgement(value: object, score_range: tuple[float, float]) -> Judgement | None:
    """The judgement that a value stands for; None where it is none.

    Args:
        value: A bool or a word, a score, or a mapping or pydantic model with fields of a Judgement.
        score_range: The lowest and the highest score.

    Raises:
        AgentReplyError: the verdict is neither true nor false, or the score out of its range.
    """
    fields = _fields_of(value)
    if fields is None:
        return None
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
    return checked(found, score_range)


def checked(found: Judgement, score_range: tuple[float, float]) -> Judgement:
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
                hint="let the judge say true or false, yes or no, passed or failed, 1 or 0",
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


def declared_range(reply: type[BaseModel]) -> tuple[float, float] | None:
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
