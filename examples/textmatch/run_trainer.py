"""The same by a Trainer: it batches, validates, decides, rolls back and remembers.

`python run_trainer.py` works on a copy of the rules, in memory. `python run_trainer.py --git` works
on rules.txt itself and keeps the experiment in git: branch, tags and notes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from textmatch import HERE, TicketClassifier

from autopilot.core.experiment import Experiment
from autopilot.core.stopping import EarlyStopping
from autopilot.core.trainer import Trainer
from autopilot.git.repository import Repository
from autopilot.tracking import GitMemory, GitStore, free_slugs


def git_experiment() -> Experiment:
    """A new experiment in the repository around this file, on its own checkout."""
    repo = Repository.discover(HERE)
    store = GitStore(next(free_slugs(repo, "textmatch-trainer")), HERE)
    return Experiment(store, GitMemory(store))


def fit(rules: Path, experiment: Experiment) -> None:
    """Improves a rules file and prints what came of it."""
    module = TicketClassifier(rules)
    trainer = Trainer(callbacks=[EarlyStopping(patience=10)], experiment=experiment)
    result = trainer.fit(module, max_epochs=40)
    test = trainer.test(module).test
    experiment.close()
    gain = f"{test.before:.3f} -> {test.after:.3f}"
    print(f"val {result.baseline:.3f} -> {result.best:.3f}, test {gain}")
    print(f"{result.epochs} epochs, {result.kept} kept; stopped: {result.stop_reason}")


def main() -> None:
    """Runs the example from the command line."""
    parser = argparse.ArgumentParser(description="Improve the ticket rules, by a Trainer.")
    parser.add_argument("--git", action="store_true", help="keep the experiment in git")
    if parser.parse_args().git:
        experiment = git_experiment()
        fit(HERE / "rules.txt", experiment)
        print(f"read it: git log -p autopilot/{experiment.slug}")
        return
    with tempfile.TemporaryDirectory() as folder:
        fit(Path(shutil.copy(HERE / "rules.txt", folder)), Experiment())


if __name__ == "__main__":
    main()
