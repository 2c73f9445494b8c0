"""Epochs as the loop makes them, without a system to evaluate: what is left is bookkeeping."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autopilot.core.experiment import Experiment
from autopilot.core.gradient import TextGradient
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import PathParameter
from autopilot.core.policy import Decision
from autopilot.core.run import Run, running
from autopilot.core.types import Cost, Datum, Verdict
from autopilot.git.packing import start_packing
from autopilot.tracking.git_store import GitStore
from tests.benchmarks.repos import RULES, rule_name, rule_text

SLUG = "bench"
ITEMS = 20
_SCHEDULED = Path("/proc/thread-self/schedstat")
_STRATEGIES = ("add missing words", "split broad rules", "reorder", "shorten", "add examples")


class Drill:
    """An experiment on `rules/` of a repository, driven epoch by epoch; odd epochs are kept.

    An epoch: what memory says to the optimizer; one step that changes one file, a commit with a
    note of its gradients; notes of traces (20 items), memory and metrics (train and val); then a
    tag if it is kept, else a rollback commit and the file put back. What is timed is what the
    experiment does, and not the edit or the making of results.

    Attributes:
        costs_ms: Of each epoch, the search for edits by hand before the step left out.
        processor_ms: The same in the processor's time: other work on the machine counts less.
        looks_ms: That search; a worktree of its own needs none.
        beside_ms: The costs of the epochs beside which objects were packed, without the time in
            which other work on the machine had the processor.

    Args:
        top: The repository's top folder.
        rules: How many files the parameter has.
        in_place: As of GitStore.
    """

    def __init__(self, top: Path, rules: int, *, in_place: bool = True) -> None:
        self.top, self.rules = top, rules
        self.store = GitStore(SLUG, top, in_place=in_place)
        self.experiment = Experiment(self.store)
        self.optimizer = Optimizer([PathParameter(top / RULES)])
        self.costs_ms = array("d")
        self.processor_ms = array("d")
        self.looks_ms = array("d")
        self.beside_ms = array("d")
        self._packing = 0
        self._spent_ms = self._processor_ms = self._waited_ms = 0.0
        self.experiment.open(self.optimizer.parameters)
        self._judge(0)
        self._taken()

    def run(self, epochs: int) -> None:
        """Runs some more epochs; Python looks for cycles as in a run."""
        with running(Run(self.experiment)):
            for epoch in range(len(self.costs_ms) + 1, len(self.costs_ms) + 1 + epochs):
                self._epoch(epoch)

    def _epoch(self, epoch: int) -> None:
        with self._timed():
            self.experiment.begin_step(epoch, 1)
        self.looks_ms.append(self._taken()[0])
        self._step(epoch)
        self._judge(epoch)
        cost_ms, processor_ms, waited_ms = self._taken()
        self.costs_ms.append(cost_ms)
        self.processor_ms.append(processor_ms)
        if self._packing:
            self.beside_ms.append(cost_ms - waited_ms)
        # As the parent of a run does, which the loop does not wait for.
        self._packing = start_packing(self.store.repo, self._packing)

    def close(self) -> None:
        """Ends the experiment as a run does."""
        self.experiment.on_loop_complete("stopped", f"reached {len(self.costs_ms)} epochs")
        self.experiment.close()

    def _step(self, epoch: int) -> None:
        optimizer, experiment = self.optimizer, self.experiment
        evidence = [f"ticket-{number:03d}" for number in range(3)]
        optimizer.parameters[0].grad = TextGradient(
            "tell invoices from orders", "rules", 1, evidence
        )
        number = epoch % self.rules
        # Written in place, at the same length: only its times tell that it changed.
        (self.top / RULES / rule_name(number)).write_text(rule_text(number, epoch))
        strategy = _STRATEGIES[epoch % len(_STRATEGIES)]
        step = Step(f"{strategy} for billing", strategy, "three items were misrouted")
        with self._timed():
            optimizer.blocked = set(experiment.memory.blocked())
            optimizer.context = experiment.memory.context()
            record = experiment.commit_step(optimizer, epoch, 1, step)
        if not record.changed:
            raise AssertionError(f"the edit of epoch {epoch} was not noticed")
        optimizer.zero_grad()

    def _judge(self, epoch: int) -> None:
        verdict: Verdict = "baseline" if epoch == 0 else "kept" if epoch % 2 else "rejected"
        value = 0.4 if verdict == "rejected" else 0.5 + epoch * 1e-5
        metrics = {"val": {"accuracy": value, "f1": value / 2}, "train": {"accuracy": value}}
        items = [_result(number, epoch) for number in range(ITEMS)]
        with self._timed():
            self.experiment.on_validation_complete({"val": items})
            self.experiment.on_epoch_complete(
                epoch,
                metrics if epoch else {"val": metrics["val"]},
                Decision(verdict, (f"val accuracy {value:.5f}",)),
                cost=Cost(evaluations=2 * ITEMS, seconds=1.5),
                state={"optimizer": {"position": epoch}, "callbacks": {"stopping": {"wait": 1}}},
            )

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started, processor, waited_ms = time.perf_counter(), time.thread_time(), _waited_ms()
        yield
        self._waited_ms += _waited_ms() - waited_ms
        self._spent_ms += (time.perf_counter() - started) * 1000
        self._processor_ms += (time.thread_time() - processor) * 1000

    def _taken(self) -> tuple[float, float, float]:
        """What was timed since the last call, in ms; the processor's; the wait for a processor."""
        taken = self._spent_ms, self._processor_ms, self._waited_ms
        self._spent_ms = self._processor_ms = self._waited_ms = 0.0
        return taken


def _waited_ms() -> float:
    """How long this thread was ready, and had no processor; 0 where the system does not say."""
    try:
        return int(_SCHEDULED.read_text().split()[1]) / 1e6
    except (OSError, IndexError):
        return 0.0


def _result(number: int, epoch: int) -> Datum:
    passed = (number + epoch) % 3 > 0
    return Datum(
        id=f"ticket-{number:03d}",
        success=passed,
        metrics={"latency_s": 0.25},
        metadata={"text": "my invoice is wrong", "expected": "billing", "output": "sales"},
        feedback=None if passed else "the invoice was taken for an order",
    )
