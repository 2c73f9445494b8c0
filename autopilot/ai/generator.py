"""DataGenerator: datasets made by a workflow, one slot at a time, resumable."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from autopilot.ai.agent import Agent
from autopilot.ai.checkpoint import (
    Checkpoint,
    Distribution,
    Failed,
    Made,
    Plan,
    Rejected,
    distribution,
)
from autopilot.ai.model import Model
from autopilot.ai.recording import use_recorder
from autopilot.ai.steps import State, WorkflowStep, run_steps
from autopilot.core.experiment import Experiment
from autopilot.core.ledger import Ledger, Limits
from autopilot.core.run import Run, running
from autopilot.core.types import digest
from autopilot.data.jsonl import write_jsonl
from autopilot.data.split import stratified_split
from autopilot.errors import AgentError, BudgetExceededError, DataError, ReplayMissError

Weights = Mapping[str, float] | Sequence[str]

DEFAULT_SPLITS: Mapping[str, float] = {"train": 0.6, "val": 0.2, "test": 0.2}


class DataGenerator:
    """Makes items by a workflow: each slot has a value of every variable, and runs all steps.

    The steps find the slot's values in their state by the variables' names, beside "slot" (its
    number) and "rejected" (why the attempt before was rejected, or ""). The last result, a mapping
    or a pydantic model, is the item.

    Args:
        steps: The workflow.
        variables: Name to values, with weights if they are not to be equally frequent.
        model: Who answers steps that have no model of their own.
        validate: Says why an item is not good enough; "" or None where it is.
        splits: Name to share; each split has the variables in the same proportion.
        seed: Decides which slot has which values, and which item goes to which split.
        max_attempts: Items made for a slot before it counts as failed.
        num_workers: Slots that are filled side by side.
        limits: What all calls together may cost, over all sessions.

    >>> from autopilot.ai.steps import PythonStep
    >>> steps = [PythonStep("item", lambda s: {"text": f"{s['tone']} {s['slot']}"})]
    >>> generator = DataGenerator(steps, {"tone": {"kind": 3, "curt": 1}})
    >>> sorted(slot["tone"] for slot in generator.plan(4))
    ['curt', 'kind', 'kind', 'kind']
    """

    role = "generator"

    def __init__(
        self,
        steps: Sequence[WorkflowStep],
        variables: Mapping[str, Weights] | None = None,
        *,
        model: Model | Agent | None = None,
        validate: Callable[[Mapping[str, Any]], str | None] | None = None,
        splits: Mapping[str, float] = DEFAULT_SPLITS,
        seed: int = 0,
        max_attempts: int = 3,
        num_workers: int = 8,
        limits: Limits | None = None,
    ) -> None:
        self.steps = list(steps)
        self.variables = {name: _weights(name, v) for name, v in (variables or {}).items()}
        self.model = model
        self.validate = validate or (lambda _item: None)
        self.splits = dict(splits)
        self.seed = seed
        self.max_attempts = max_attempts
        self.num_workers = num_workers
        self.limits = limits or Limits()

    def plan(self, count: int) -> list[dict[str, str]]:
        """Variable to value, for each of `count` slots: every value as often as its weight says."""
        slots: list[dict[str, str]] = [{} for _ in range(count)]
        for name, weights in self.variables.items():
            values = _apportion(weights, count)
            draw = random.Random(f"{self.seed}/{name}").random
            order = sorted(range(count), key=[draw() for _ in range(count)].__getitem__)
            for slot, index in zip(slots, order, strict=True):
                slot[name] = values[index]
        return slots

    def run(self, count: int, folder: str | Path) -> Distribution:
        """Makes a dataset of `count` items.

        Writes `checkpoint.jsonl` and `calls.jsonl` while it runs, and one file a split at the end.

        Raises:
            DataError: the folder holds another generation.
            BudgetExceededError: too little is left; `resume` goes on with a larger budget.
            AgentError: no slot could be filled.
        """
        checkpoint = Checkpoint(Path(folder))
        if checkpoint.plan is not None:
            raise DataError(
                f"{folder} holds a generation already", hint="resume it, or use another folder"
            )
        checkpoint.append(Plan(count=count, seed=self.seed, variables=self.variables))
        return self._fill(checkpoint, self.plan(count))

    def resume(self, folder: str | Path) -> Distribution:
        """Goes on where it was left; what was paid is not paid again. Failed slots are tried again.

        Raises:
            DataError: there is nothing to resume, or it was planned otherwise.
        """
        checkpoint, slots = self._open(folder)
        return self._fill(checkpoint, slots)

    def summarize(self, folder: str | Path) -> Distribution:
        """What a folder holds, and how it compares with the plan; changes nothing.

        Raises:
            DataError: there is nothing, or it was planned otherwise.
        """
        checkpoint, slots = self._open(folder)
        return distribution(checkpoint, slots, self._split_sizes(checkpoint))

    # --- inside --------------------------------------------------------------------------------

    def _open(self, folder: str | Path) -> tuple[Checkpoint, list[dict[str, str]]]:
        checkpoint = Checkpoint(Path(folder))
        plan = checkpoint.plan
        if plan is None:
            raise DataError(f"{folder} holds no generation", hint="run it first")
        if (plan.seed, plan.variables) != (self.seed, self.variables):
            raise DataError(
                f"{folder} was planned with another seed or other variables",
                hint="resume with the generator that it was started with",
            )
        return checkpoint, self.plan(plan.count)

    def _fill(self, checkpoint: Checkpoint, slots: list[dict[str, str]]) -> Distribution:
        recorder = checkpoint.recorder()
        ledger = Ledger(self.limits)
        for call in recorder.calls():
            ledger.charge(call.role, call.cost, known=call.priced, judged=True)
        known = {digest(_content(line.item)) for line in checkpoint.made.values()}
        left = [number for number in range(len(slots)) if number not in checkpoint.made]
        with running(Run(Experiment(), ledger)), use_recorder(recorder):
            filler = _Filler(self, checkpoint, known)
            work = [(copy_context(), number) for number in left]
            with ThreadPoolExecutor(self.num_workers) as pool:
                done = [
                    pool.submit(context.run, filler.fill, number, slots[number])
                    for context, number in work
                ]
            errors = [error for future in done if (error := future.exception()) is not None]
        for error in errors:
            raise error
        if slots and not checkpoint.made:
            reason = next(iter(checkpoint.failed.values())).reason
            raise AgentError(
                f"none of {len(slots)} slots could be filled: {reason}",
                hint="run the steps on one slot by hand",
            )
        self._write_splits(checkpoint)
        return distribution(checkpoint, slots, self._split_sizes(checkpoint))

    def _split(self, checkpoint: Checkpoint) -> dict[str, list[dict[str, Any]]]:
        made = [checkpoint.made[slot] for slot in sorted(checkpoint.made)]
        if not made:
            return {name: [] for name in self.splits}
        parts = stratified_split(
            made, list(self.splits.values()), lambda line: str(line.values), self.seed
        )
        return {
            name: [line.item for line in sorted(part, key=lambda line: line.slot)]
            for name, part in zip(self.splits, parts, strict=True)
        }

    def _split_sizes(self, checkpoint: Checkpoint) -> dict[str, int]:
        return {name: len(items) for name, items in self._split(checkpoint).items()}

    def _write_splits(self, checkpoint: Checkpoint) -> None:
        for name, items in self._split(checkpoint).items():
            write_jsonl(checkpoint.folder / f"{name}.jsonl", items)


class _Filler:
    """Fills slots, from several threads: no item is taken in twice."""

    def __init__(self, generator: DataGenerator, checkpoint: Checkpoint, known: set[str]) -> None:
        self._generator, self._checkpoint, self._known = generator, checkpoint, known
        self._stopped = False
        self._lock = threading.Lock()

    def fill(self, number: int, values: dict[str, str]) -> None:
        generator, checkpoint = self._generator, self._checkpoint
        first, reason = checkpoint.attempts(number), ""
        for attempt in range(first, first + generator.max_attempts):
            if self._stopped:
                return
            try:
                item = self._make(number, attempt, values, reason)
            except (BudgetExceededError, ReplayMissError):
                self._stopped = True
                raise
            except AgentError as error:
                checkpoint.append(Failed(slot=number, values=values, reason=error.message))
                return
            reason = generator.validate(item) or ""
            duplicate = not reason and self._is_known(item)
            if not reason and not duplicate:
                whole = {"id": f"{number:05d}", **item}
                checkpoint.append(Made(slot=number, values=values, item=whole))
                return
            reason = reason or "the same item was made before"
            line = Rejected(slot=number, attempt=attempt, reason=reason, duplicate=duplicate)
            checkpoint.append(line)
        checkpoint.append(Failed(slot=number, values=values, reason=reason))

    def _is_known(self, item: Mapping[str, Any]) -> bool:
        """Whether an equal item was there before; from now on there is one."""
        name = digest(_content(item))
        with self._lock:
            if name in self._known:
                return True
            self._known.add(name)
        return False

    def _make(
        self, number: int, attempt: int, values: dict[str, str], rejected: str
    ) -> dict[str, Any]:
        inputs = {**values, "slot": number, "rejected": rejected}
        generator = self._generator
        state = State(
            inputs,
            role=generator.role,
            model=generator.model,
            # Slots that ask the same want items of their own.
            sample=1 + number * 1000 + attempt,
        )
        value = run_steps(generator.steps, state).last
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json")
        if not isinstance(value, Mapping):
            raise DataError(
                f"the last step came to {type(value).__name__}, not an item",
                hint="let it come to a mapping or a pydantic model",
            )
        return dict(value)


def _weights(name: str, given: Weights) -> dict[str, float]:
    weights = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given, 1.0)
    usable = weights and all(w >= 0 and math.isfinite(w) for w in weights.values())
    if not usable or sum(weights.values()) <= 0:
        raise ValueError(f"the variable {name!r} needs values with weights above 0, got {given!r}")
    return {str(value): float(weight) for value, weight in weights.items()}


def _apportion(weights: Mapping[str, float], count: int) -> list[str]:
    """Each value as often as its share, rounded by the largest remainders."""
    total = sum(weights.values())
    shares = {value: count * weight / total for value, weight in weights.items()}
    whole = {value: math.floor(share) for value, share in shares.items()}
    missing = count - sum(whole.values())
    order = sorted(shares, key=lambda value: whole[value] - shares[value])
    for value in order[:missing]:
        whole[value] += 1
    return [value for value, number in whole.items() for _ in range(number)]


def _content(item: Mapping[str, Any]) -> dict[str, Any]:
    """What makes an item the same as another: not its id, nor its spaces and capitals."""
    return {
        name: " ".join(value.split()).casefold() if isinstance(value, str) else value
        for name, value in item.items()
        if name != "id"
    }
