"""DataGenerator: datasets made by a workflow, one slot at a time, resumable."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from autopilot.ai.agent import Agent
from autopilot.ai.datasets.checkpoint import (
    Checkpoint,
    Distribution,
    Failed,
    GenerationPlan,
    Made,
    Rejected,
    Slot,
    Weights,
    check_weights,
    plan_slots,
)
from autopilot.ai.datasets.worklist import Origin, Watch
from autopilot.ai.model.base import ChatModel
from autopilot.ai.model.recording import numbered
from autopilot.ai.steps import WorkflowState, WorkflowStep, failure_of, run_steps
from autopilot.core.records.ledger import Limits
from autopilot.core.types import digest
from autopilot.errors import AgentError, DataError, UsageError

DEFAULT_SPLITS: Mapping[str, float] = {"train": 0.6, "val": 0.2, "test": 0.2}
RESERVED = ("slot", "split", "rejected")


class DataGenerator:
    """Makes items by a workflow: each slot has a value of every variable, and runs all steps.

    The steps find the slot's values in their state by the variables' names, beside "slot" (its
    number), "split" and "rejected" (why the previous attempt was rejected, or ""). The last result,
    a mapping or a pydantic model, is the item. A subclass may set the arguments on the class, and
    override `make` and `validate`.

    Args:
        steps: The workflow.
        variables: Name to values, with weights if they are not to be equally frequent.
        model: Answers steps that have no model of their own.
        validate: Returns why an item is not good enough; "" or None if it is.
        splits: Name to share; each split has every value in the same proportion.
        seed: Decides which slot has which values and split.
        max_attempts: Items made for a slot before it counts as failed.
        num_workers: Slots that are filled side by side.
        limits: Limits for the calls of all sessions together; the seconds are a session's.

    >>> from autopilot.ai.steps import PythonStep
    >>> steps = [PythonStep("item", lambda s: {"text": f"{s['tone']} {s['slot']}"})]
    >>> generator = DataGenerator(steps, {"tone": {"kind": 3, "curt": 1}})
    >>> sorted(slot.values["tone"] for slot in generator.plan(4))
    ['curt', 'kind', 'kind', 'kind']
    """

    role = "generator"
    steps: Sequence[WorkflowStep] = ()
    variables: Mapping[str, Weights] = {}
    model: ChatModel | Agent | None = None
    splits: Mapping[str, float] = DEFAULT_SPLITS
    seed: int = 0
    max_attempts: int = 3
    num_workers: int = 8
    limits: Limits = Limits()

    def __init__(
        self,
        steps: Sequence[WorkflowStep] = (),
        variables: Mapping[str, Weights] | None = None,
        *,
        model: ChatModel | Agent | None = None,
        validate: Callable[[Mapping[str, Any]], str | None] | None = None,
        splits: Mapping[str, float] | None = None,
        seed: int | None = None,
        max_attempts: int | None = None,
        num_workers: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        # Without an argument, the value that a subclass sets on the class applies.
        self.steps = list(steps) or self.steps
        self.variables = self.variables if variables is None else variables
        self.model = model or self.model
        self.splits = splits or self.splits
        self.seed = self.seed if seed is None else seed
        self.max_attempts = max_attempts or self.max_attempts
        self.num_workers = num_workers or self.num_workers
        self.limits = limits or self.limits
        self._validate = validate
        self._weights = {name: check_weights(name, v) for name, v in self.variables.items()}
        check_weights("splits", self.splits)
        for name in RESERVED:
            if name in self._weights:
                raise ValueError(f"no variable can be called {name!r}: the steps find it already")

    # --- to override ---------------------------------------------------------------------------

    def make(self, state: WorkflowState) -> Any:
        """The item for a slot, a mapping or a pydantic model: the result of the last step."""
        if not self.steps:
            raise UsageError(
                f"{type(self).__name__} has no steps", hint="give it steps, or override make"
            )
        return run_steps(self.steps, state).last

    def validate(self, item: Mapping[str, Any]) -> str | None:
        """Why an item is not good enough; "" or None if it is."""
        return self._validate(item) if self._validate is not None else None

    # --- to use --------------------------------------------------------------------------------

    def plan(self, count: int) -> list[Slot]:
        """The slots of `count` items: every value as often as its weight says, in each split."""
        return plan_slots(count, self._weights, self.splits, self.seed)

    def run(
        self,
        count: int,
        folder: str | Path,
        *,
        budget: Limits | None = None,
        origin: Origin | None = None,
        watch: Watch = lambda *_: None,
    ) -> Distribution:
        """Makes a dataset of `count` items.

        Writes `checkpoint.jsonl` and `calls.jsonl` while it runs, and one file a split when it
        ends, however it ends; after a kill, `resume` writes those.

        Args:
            count: Number of slots.
            folder: The folder for the files; it is made.
            budget: Limits beside the generator's own, kept for later sessions.
            origin: How the command line found this generator.
            watch: See `Worklist.work_off`.

        Raises:
            DataError: the folder holds another generation.
            BudgetExceededError: too little is left; `resume` goes on with a larger budget.
            AgentError: no slot could be filled.
        """
        checkpoint = Checkpoint(Path(folder))
        plan = GenerationPlan(
            count=count,
            seed=self.seed,
            variables=self._weights,
            splits=dict(self.splits),
            origin=origin or Origin(),
        )
        with checkpoint.begin(plan):
            return self._fill(checkpoint, budget, watch)

    def resume(
        self, folder: str | Path, *, budget: Limits | None = None, watch: Watch = lambda *_: None
    ) -> Distribution:
        """Fills the slots that are left, failed ones included; recorded calls are not paid again.

        Where an answer was unusable, the model is asked anew.

        Args:
            folder: See `run`.
            budget: Replaces the one of earlier sessions.
            watch: See `run`.

        Raises:
            DataError: there is nothing to resume, or it was planned otherwise.
        """
        checkpoint = Checkpoint(Path(folder))
        plan = checkpoint.first_line()
        planned = (self.seed, self._weights, dict(self.splits))
        if (plan.seed, plan.variables, plan.splits) != planned:
            raise DataError(
                f"{folder} was planned with another seed, other variables or other splits",
                hint="resume with the generator that it was started with",
            )
        with checkpoint.held():
            return self._fill(checkpoint, budget, watch)

    def _fill(self, checkpoint: Checkpoint, budget: Limits | None, watch: Watch) -> Distribution:
        slots = {slot.number: slot for slot in checkpoint.first_line().slots()}
        try:
            checkpoint.work_off(
                slots,
                _Filler(self, checkpoint).fill,
                self.num_workers,
                limits=self.limits,
                budget=budget,
                watch=watch,
            )
        finally:
            # Also after an error or Ctrl-C: the items so far can be used, and later ones move none.
            if checkpoint.done:
                checkpoint.write_splits()
        if slots and not checkpoint.done:
            reason = next(iter(checkpoint.failed.values())).reason
            raise AgentError(
                f"none of {len(slots)} slots could be filled: {reason}",
                hint="run the steps on one slot by hand, mend them, and resume it",
            )
        return checkpoint.distribution()


class _Filler:
    """Fills slots, from several threads; an item is accepted once only."""

    def __init__(self, generator: DataGenerator, checkpoint: Checkpoint) -> None:
        self._generator, self._checkpoint = generator, checkpoint
        self._accepted = {_identity(line.item) for line in checkpoint.done.values()}
        self._lock = threading.Lock()

    def fill(self, slot: Slot) -> None:
        """Makes items for a slot until one is accepted, and appends a line for each."""
        generator, checkpoint, number = self._generator, self._checkpoint, slot.number
        first, reason = checkpoint.attempts(number)
        for attempt in range(first, first + generator.max_attempts):
            try:
                with numbered("a", 1 + checkpoint.asked_anew[number]):
                    item = self._make(slot, attempt, reason)
                reason = generator.validate(item) or ""
            except BaseException as error:  # noqa: BLE001  # the user's steps: their slot fails
                reason, unusable = failure_of(error)
                checkpoint.append(Failed(slot=number, reason=reason, ask_anew=unusable))
                return
            duplicate = not reason and not self._accept(item)
            if not reason and not duplicate:
                checkpoint.append(Made(slot=number, item=item))
                return
            reason = reason or "the same item was made before"
            checkpoint.append(
                Rejected(slot=number, attempt=attempt, reason=reason, duplicate=duplicate)
            )
        checkpoint.append(Failed(slot=number, reason=reason))

    def _accept(self, item: Mapping[str, Any]) -> bool:
        """Whether the item is new; it counts as known afterwards."""
        name = _identity(item)
        with self._lock:
            is_new = name not in self._accepted
            self._accepted.add(name)
        return is_new

    def _make(self, slot: Slot, attempt: int, rejected: str) -> dict[str, Any]:
        number, generator = slot.number, self._generator
        state = WorkflowState(
            {**slot.values, "slot": number, "split": slot.split, "rejected": rejected},
            role=generator.role,
            model=generator.model,
            # Slots with the same prompt get answers of their own.
            sample=1 + number * 1000 + attempt,
        )
        value = generator.make(state)
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json")
        if not isinstance(value, Mapping):
            raise DataError(
                f"the last step returned {type(value).__name__}, not an item",
                hint="return a mapping or a pydantic model",
            )
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"the last step's item cannot be written as JSON: {error}",
                hint="keep strings, numbers, lists and dicts in it",
            ) from error
        return dict(value)


def _identity(item: Mapping[str, Any]) -> str:
    """A digest that is equal for duplicates: items alike but for id, spaces and capitals."""
    return digest(
        {
            name: " ".join(value.split()).casefold() if isinstance(value, str) else value
            for name, value in item.items()
            if name != "id"
        }
    )
