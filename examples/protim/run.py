"""The loop by hand: module, loss, optimizer and memory as plain objects, no Trainer and no git.

`python run.py` works on a copy of prompt.md; `python run.py --keep` writes the best prompt back.
Every model call is kept in calls.jsonl: a run that was stopped goes on there, and a run that is
repeated costs nothing. Delete the file to ask anew.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from protim import HERE, Protim

from autopilot.ai import recording_beside
from autopilot.core.graph import no_grad
from autopilot.core.memory import Memory
from autopilot.core.records.ledger import Limits
from autopilot.core.records.record import EpochOutcome, Lesson
from autopilot.core.types import Datum
from autopilot.errors import AutopilotError


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to.

    Args:
        baseline: Val accuracy before anything changed.
        best: Val accuracy of the best prompt.
        test: Its test accuracy.
    """

    baseline: float
    best: float
    test: float


def optimize(module: Protim, max_epochs: int) -> RunResult:
    """Improves the module's prompt in place, printing a line an epoch."""
    loss, optimizer = module.configure_loss(), module.configure_optimizers()
    train, val = module.train_dataloader(), module.val_dataloader()
    memory = Memory()
    baseline = best = accuracy(module, val)
    best_state = module.state_dict()
    report(0, baseline, best, "baseline", "")

    for epoch in range(1, max_epochs + 1):
        module.train()
        for batch in train:
            data = module(batch)
            loss(data, batch)
        loss.backward()  # feedback fills param.grad
        optimizer.blocked, optimizer.context = set(memory.blocked()), memory.context()
        step = optimizer.step()  # the agent edits the prompt
        optimizer.zero_grad()
        if step is None:
            break  # nothing was wrong

        value = accuracy(module, val)
        kept = value > best
        if kept:
            best, best_state = value, module.state_dict()
        else:
            module.load_state_dict(best_state)
        outcome: EpochOutcome = "kept" if kept else "rejected"
        memory.learn(
            Lesson(epoch=epoch, strategy=step.strategy, summary=step.summary, outcome=outcome)
        )
        report(epoch, value, best, outcome, step.summary)

    return RunResult(baseline, best, accuracy(module, module.test_dataloader()))


def accuracy(module: Protim, batches: Iterable[Datum]) -> float:
    """The share of questions that are answered as expected."""
    module.eval()
    with no_grad():
        answers: list[Datum] = [item for batch in batches for item in module(batch).items]
    return sum(item.success for item in answers) / len(answers)


def report(epoch: int, value: float, best: float, outcome: str, summary: str) -> None:
    """Prints an epoch's line."""
    print(f"{epoch:>5}  {value:.3f}  best {best:.3f}  {outcome:<8}  {summary}", flush=True)


def main() -> int:
    """Runs the example from the command line; 0: done, 1: it could not."""
    parser = argparse.ArgumentParser(description="Improve the prompt, by hand-made loop.")
    parser.add_argument("--agent", choices=["anthropic", "claude-code"], default="anthropic")
    parser.add_argument("--judge", action="store_true", help="a model explains wrong answers")
    parser.add_argument("--max-epochs", type=int, default=5)
    parser.add_argument("--budget-usd", type=float, default=math.inf, help="over all runs")
    parser.add_argument("--calls", type=Path, default=HERE / "calls.jsonl", help="paid calls")
    parser.add_argument("--keep", action="store_true", help="write the best prompt to prompt.md")
    given = parser.parse_args()
    try:
        calls, limits = given.calls.absolute(), Limits(cost_usd=given.budget_usd)
        with tempfile.TemporaryDirectory() as folder:
            prompt = Path(shutil.copy(HERE / "prompt.md", folder))
            # The agent works there too, where it finds nothing but the prompt.
            with contextlib.chdir(folder), recording_beside(calls, limits) as ledger:
                result = optimize(Protim(given.agent, given.judge, prompt=prompt), given.max_epochs)
            if given.keep:
                shutil.copy(prompt, HERE / "prompt.md")
    except AutopilotError as error:
        print(f"error: {error.message}\n  hint: {error.hint}", file=sys.stderr)
        return 1
    print(f"val {result.baseline:.3f} -> {result.best:.3f}, test {result.test:.3f}")
    print(f"spent: {ledger.render()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
