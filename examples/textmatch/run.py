"""The loop by hand: module, loss, optimizer and memory as plain objects, no Trainer and no git.

`python run.py` works on a copy of rules.txt; `python run.py --keep` writes the best rules back.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from textmatch import HERE, TicketClassifier

from autopilot.core.graph import no_grad
from autopilot.core.memory import Memory
from autopilot.core.records.record import EpochOutcome, Lesson
from autopilot.core.types import Datum

MAX_EPOCHS = 40
PATIENCE = 10


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to.

    Args:
        baseline: Val accuracy before anything changed.
        best: Val accuracy of the best rules.
        test: Their test accuracy.
        epochs: Epochs after the baseline.
        rejected: How many of them were rolled back.
        blocked: Strategies that memory blocked, see Memory.
    """

    baseline: float
    best: float
    test: float
    epochs: int
    rejected: int
    blocked: list[str]


def optimize(rules: Path) -> RunResult:
    """Improves a rules file in place, printing a line an epoch."""
    module = TicketClassifier(rules)
    loss, optimizer, memory = module.configure_loss(), module.configure_optimizers(), Memory()
    train, val = module.train_dataloader(), module.val_dataloader()

    baseline = best = accuracy(module, val)
    best_state, best_epoch, epoch = module.state_dict(), 0, 0
    report(0, baseline, best, "baseline", "")

    while epoch < MAX_EPOCHS and epoch - best_epoch < PATIENCE:
        module.train()
        for batch in train:
            loss(module(batch), batch)
        loss.backward()
        optimizer.blocked = set(memory.blocked())
        step = optimizer.step()
        optimizer.zero_grad()
        if step is None:
            break  # every strategy is blocked or has nothing to add

        epoch += 1
        value = accuracy(module, val)
        kept = value > best
        if kept:
            best, best_state, best_epoch = value, module.state_dict(), epoch
        else:
            module.load_state_dict(best_state)
        outcome: EpochOutcome = "kept" if kept else "rejected"
        memory.learn(Lesson(epoch=epoch, strategy=step.strategy, outcome=outcome))
        report(epoch, value, best, outcome, step.summary)

    rejected = len(memory.recall(outcome="rejected"))
    test = accuracy(module, module.test_dataloader())
    return RunResult(baseline, best, test, epoch, rejected, sorted(memory.blocked()))


def accuracy(module: TicketClassifier, batches: Iterable[Datum]) -> float:
    """The share of tickets that go where they belong."""
    module.eval()
    with no_grad():
        answers: list[Datum] = [item for batch in batches for item in module(batch).items]
    return sum(item.success for item in answers) / len(answers)


def report(epoch: int, value: float, best: float, outcome: str, summary: str) -> None:
    """Prints an epoch's line."""
    print(f"{epoch:>5}  {value:.3f}  best {best:.3f}  {outcome:<8}  {summary}")


def main() -> None:
    """Runs the example from the command line."""
    parser = argparse.ArgumentParser(description="Improve the ticket rules, by hand-made loop.")
    parser.add_argument("--keep", action="store_true", help="write the best rules to rules.txt")
    keep = parser.parse_args().keep
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(shutil.copy(HERE / "rules.txt", folder))
        result = optimize(rules)
        if keep:
            shutil.copy(rules, HERE / "rules.txt")
    seconds = time.perf_counter() - started
    print(f"val {result.baseline:.3f} -> {result.best:.3f}, test {result.test:.3f}")
    print(f"{result.epochs} epochs, {result.rejected} rejected, {seconds:.1f} s")
    print(f"blocked: {', '.join(result.blocked) or 'nothing'}")


if __name__ == "__main__":
    main()
