"""A search over numbers, run by the command line: as a class, killed, resumed and replayed."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import optuna
import pytest

from autopilot.git.repository import Repository
from autopilot.tracking.upkeep import find_litter

if TYPE_CHECKING:
    from tests.cli.conftest import Place

CONFIG = """\
# The cache of the server.
[cache]
size = 16          # entries; more costs memory
kind = "lru"

[cache.lru]\t# only for kind = "lru"
share = 0.5
"""
# A module as a user writes it. It kills its own processes once, after so many evaluations.
TARGET = """\
import os
import signal
import tomllib
from pathlib import Path

from autopilot import AutoPilotModule, Choice, ConfigParameter, Datum, Range, SearchOptimizer


class Cache(AutoPilotModule):
    monitor, mode = "loss", "min"

    def __init__(self, sampler: str = "tpe"):
        super().__init__()
        self.sampler = sampler
        self.config = ConfigParameter(
            "config.toml",
            {
                "cache.size": Range(16, 4096, log=True),
                "cache.kind": Choice(["lru", "none"]),
                "cache.lru.share": Range(0.0, 1.0, when={"cache.kind": "lru"}),
            },
        )

    def forward(self, batch):
        with open(os.environ["EVALUATIONS"], "a") as log:
            log.write("x")
        if Path(os.environ["EVALUATIONS"]).stat().st_size == int(os.environ.get("KILL_AT", "0")):
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        cache = tomllib.loads(self.config.read_text())["cache"]
        share = cache["lru"]["share"] if cache["kind"] == "lru" else 2.0
        loss = abs(cache["size"] - 700) / 700 + (share - 0.3) ** 2
        return Datum(items=[Datum(metrics={"loss": loss}) for _ in batch.items])

    def train_dataloader(self):
        return [["a"]]

    def val_dataloader(self):
        return [["b", "c"]]

    def configure_optimizers(self):
        return SearchOptimizer([self.config], self.sampler)
"""


@pytest.fixture
def tuned(place: Place, tmp_path, monkeypatch):
    monkeypatch.setenv("EVALUATIONS", str(tmp_path / "evaluations"))
    place.init()
    place.write("config.toml", CONFIG)
    place.write("cache.py", TARGET)
    place.commit()
    return place


def measured(place: Place, slug: str) -> list[tuple]:
    """What the epochs came to, in order."""
    return [(r["epoch"], r["values"], r["metrics"], r["verdict"]) for r in place.judged(slug)]


def test_a_search_that_is_killed_goes_on_as_if_it_had_not_been(tuned: Place, tmp_path):
    options = ("--max-epochs", "14", "--seed", "5")
    whole = tuned.run("run", "cache.py", "-e", "whole", *options)
    # No patience by default: most epochs of a search gain nothing.
    assert "reached the maximum of 14 epochs" in whole.out
    (tmp_path / "evaluations").unlink()
    killed = tuned.autopilot("run", "cache.py", "-e", "killed", *options, KILL_AT="19")
    assert killed.code == -signal.SIGKILL
    resumed = tuned.run("resume", "killed")
    assert "asks otherwise" not in resumed.out
    assert tuned.trees("killed") == tuned.trees("whole") and len(tuned.trees("whole")) > 15
    assert measured(tuned, "killed") == measured(tuned, "whole")
    tuned.run("replay", "killed", "--level", "full")
    # The comments stay, and nothing but the values of the keys differs.
    found = tuned.git("show", "autopilot/killed:config.toml").splitlines()
    different = [b for a, b in zip(CONFIG.splitlines(), found, strict=True) if a != b]
    assert different and all(line.startswith(("size =", "share =")) for line in different)
    assert any("# entries; more costs memory" in line for line in different)
    assert not (tuned.top / ".git/autopilot/killed.derived").exists()


CONSTANTS = """\
A = 0.5  # the first
B = 3
"""
PYTHON = """\
import os

import optuna
import settings
from autopilot import AutoPilotModule, ConfigParameter, Datum, Range, SearchOptimizer


class Counted(optuna.samplers.TPESampler):
    def before_trial(self, study, trial):
        with open(os.environ["EVALUATIONS"], "a") as log:
            log.write("x")
        super().before_trial(study, trial)


class Constants(AutoPilotModule):
    monitor, mode = "loss", "min"

    def __init__(self):
        super().__init__()
        self.settings = ConfigParameter(
            "settings.py", {"A": Range(0.0, 1.0), "B": Range(1, 9)}
        )

    def forward(self, batch):
        loss = (settings.A - 0.3) ** 2 + (settings.B - 7) ** 2
        return Datum(items=[Datum(metrics={"loss": loss}) for _ in batch.items])

    def train_dataloader(self):
        return [["a"]]

    def val_dataloader(self):
        return [["b"]]

    def configure_optimizers(self):
        return SearchOptimizer([self.settings], Counted(n_startup_trials=3, seed=1))
"""


def test_a_study_goes_from_process_to_process_where_each_state_has_one(place: Place, tmp_path):
    place.init()
    place.write("settings.py", CONSTANTS)
    place.write("tune.py", PYTHON)
    place.commit()
    log = tmp_path / "trials"
    place.run("run", "tune.py", "-e", "a", "--max-epochs", "6", EVALUATIONS=str(log))
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=3, seed=1))
    study.enqueue_trial({"A": 0.5, "B": 3})
    study.optimize(loss_of, n_trials=7)
    assert [r["metrics"]["loss"] for r in place.judged("a")] == [t.value for t in study.trials]
    assert sum(r.get("restarts", 0) for r in place.judged("a")) > 6
    # The second process asks for what the first one had asked; from then on, each asks once more.
    assert log.stat().st_size <= 7 + 2
    derived = place.top / ".git/autopilot/a.derived"
    assert derived.is_file()
    litter = find_litter(Repository.discover(place.top))
    assert (derived, "a") in [(each.path, each.slug) for each in litter]
    place.run("experiment", "delete", "a", "--yes")
    assert not derived.exists()


def loss_of(trial):
    a, b = trial.suggest_float("A", 0, 1), trial.suggest_int("B", 1, 9)
    return (a - 0.3) ** 2 + (b - 7) ** 2
