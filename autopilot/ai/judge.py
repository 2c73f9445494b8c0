"""Judges: a verdict, a score and feedback for each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel

from autopilot.ai.agent import Agent
from autopilot.ai.model import Model
from autopilot.ai.parallel import each
from autopilot.ai.steps import State, WorkflowStep, run_steps
from autopilot.core.run import say
from autopilot.core.types import Datum
from autopilot.errors import AgentError, AutopilotError, NoMoreCallsError, UsageError

_PASSES = 0.5


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of an item.

    Args:
        success: Whether the item passed.
        score: 0 to 1; higher is better.
        feedback: What to do better, in words.
        attribution: What it is about.
        error: Why the item could not be judged; the rest is the item's own then.
    """

    success: bool
    score: float
    feedback: str = ""
    attribution: str = ""
    error: str = ""


class Judge:
    """A workflow of steps that ends in a judgement. Without steps, the item's own verdict counts.

    The steps find in their state what the item holds: its metadata by name, beside "output" and
    "target" (the metadata of both as a whole). The last result is the judgement: a bool, a score,
    or a mapping or pydantic model with some of success, score, feedback and attribution. Override
    `conclude` to read it otherwise, or `judge` for everything.

    Args:
        steps: The workflow.
        model: Who answers steps that have no model of their own.
        num_workers: Items that are judged side by side.

    >>> Judge().judge(Datum(success=False, feedback="too long"))
    Judgement(success=False, score=0.0, feedback='too long', attribution='', error='')
    """

    steps: Sequence[WorkflowStep] = ()
    model: Model | Agent | None = None
    num_workers: int = 8
    role: ClassVar[str] = "judge"

    def __init__(
        self,
        steps: Sequence[WorkflowStep] = (),
        *,
        model: Model | Agent | None = None,
        num_workers: int | None = None,
    ) -> None:
        # What a subclass has set on the class stays.
        self.steps = list(steps) or self.steps
        self.model = model or self.model
        self.num_workers = num_workers or self.num_workers

    def judge(self, item: Datum, target: Datum | None = None) -> Judgement:
        """Judges one item.

        Args:
            item: What the module returned for it.
            target: What the module got for it, ground truth included.

        Raises:
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
        value = state.last
        if isinstance(value, Judgement):
            return value
        if isinstance(value, bool):
            return Judgement(value, float(value))
        if isinstance(value, int | float):
            return Judgement(value >= _PASSES, float(value))
        if isinstance(value, BaseModel):
            value = value.model_dump()
        if isinstance(value, Mapping) and ("success" in value or "score" in value):
            return _from_fields(value)
        raise UsageError(
            f"the last step of {type(self).__name__} came to {type(value).__name__}, no judgement",
            hint="let it come to a bool, a score, or success, score and feedback",
        )

    def judge_all(self, pairs: Sequence[tuple[Datum, Datum | None]]) -> list[Judgement]:
        """Judges items side by side, in order; one whose steps fail keeps its own verdict.

        Raises:
            BudgetExceededError: nothing is left to judge with.
            AgentError: no item could be judged.
        """
        found = each(self._isolated, pairs, self.num_workers)
        if found and all(judgement.error for judgement in found):
            raise AgentError(
                f"none of {len(found)} items could be judged: {found[0].error}",
                hint="try the judge on one item by hand",
            )
        failed = [judgement.error for judgement in found if judgement.error]
        if failed:
            say(f"{len(failed)} of {len(found)} items could not be judged: {failed[0]}")
        return found

    def _isolated(self, pair: tuple[Datum, Datum | None]) -> Judgement:
        item, target = pair
        try:
            return self.judge(item, target)
        except NoMoreCallsError:
            raise
        except AgentError as error:
            return _own_with(item, error.message)
        except (AutopilotError, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001  # the user's step: its item fails
            return _own_with(item, f"{type(error).__name__}: {error}")


def own_judgement(item: Datum) -> Judgement:
    """What an item says of itself."""
    score = item.metrics.get("score", 1.0 if item.success else 0.0)
    return Judgement(item.success, score, item.feedback or item.error_message or "")


def _own_with(item: Datum, error: str) -> Judgement:
    own = own_judgement(item)
    return Judgement(own.success, own.score, own.feedback, own.attribution, error)


def _from_fields(value: Mapping[str, Any]) -> Judgement:
    score = value.get("score")
    success = value.get("success")
    if success is None:
        success = float(score or 0) >= _PASSES
    return Judgement(
        bool(success),
        float(success) if score is None else float(score),
        str(value.get("feedback") or ""),
        str(value.get("attribution") or ""),
    )
