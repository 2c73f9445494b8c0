"""Which steps stay where measurements differ: real steps in git, measured by a seeded chance."""

import math
import random
from contextlib import closing

import pytest

from autopilot.core.experiment import Experiment
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import PathParameter
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum
from autopilot.git import objects
from autopilot.proof import distillation
from autopilot.proof.distillation import apply, distill
from autopilot.proof.measuring import Measurement
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.notebook import Notebook
from tests.checkouts import commit_all

NAMES = ("useful-1", "useless-1", "useful-2", "useless-2")


class Files(AutoPilotModule):
    """Each step adds a file, and the run finds each useful."""

    monitor = "score"

    def __init__(self, top):
        super().__init__()
        self.files = PathParameter(top / "files")

    def forward(self, batch):
        score = 5.0 * len(self.files.render().split("use")) + random.random()
        return Datum(items=[Datum(id=i.id, metrics={"score": score}) for i in batch.items])

    def val_dataloader(self):
        return [[{"id": f"i{at}"} for at in range(12)]]

    def configure_optimizers(self):
        return Add(self.parameters())


class Add(Optimizer):
    needs_gradient = False

    def step(self):
        files = self.parameters[0].source
        name = NAMES[len(list(files.iterdir())) - 1]
        (files / name).write_text(f"{name}\n")
        return Step(f"add {name}", name)


@pytest.fixture
def added(repository):
    top = repository.workdir
    (top / "files").mkdir()
    (top / "files" / "first").write_text("first\n")
    commit_all(top)
    with closing(Experiment(GitStore("added", top))) as experiment:
        Trainer(experiment=experiment).fit(Files(top), max_epochs=4)
    return Notebook(repository, "added")


def measured_by(monkeypatch, repo, chance, items=12, size=0.0):
    """Lets every item have the number of useful files times `size`, and a normal chance."""
    asked = list[int]()

    class Seeded:
        def __init__(self, *given, **more): ...

        def __enter__(self):
            return self

        def __exit__(self, *error): ...

        def measure(self, commit, splits, *, epoch=0, repeat=0):
            asked.append(repeat)
            tree = objects.tree_of(repo, commit)
            entries = [objects.entry_at(repo, commit, f"files/{name}") for name in NAMES]
            useful = sum(bool(e) for e, name in zip(entries, NAMES, strict=True) if "ful-" in name)
            scores = [size * useful + chance.gauss(0, 1) for _ in range(items)]
            data = [Datum(id=f"i{at}", metrics={"score": x}) for at, x in enumerate(scores)]
            mean = {"val": {"score": math.fsum(scores) / items}}
            return Measurement(tree, mean, {"val": tuple(data)})

    monkeypatch.setattr(distillation, "Measurer", Seeded)
    return asked


def test_steps_that_bring_nothing_go_and_steps_that_do_stay_at_the_rates_of_the_help(
    added, repository, monkeypatch
):
    assert [epoch.verdict for epoch in added.epochs[1:]] == ["kept"] * 4 and added.noise.is_noisy
    # The interval of 12 differences of two measurements is that wide.
    width = 2 * 2.2 * math.sqrt(2 / 12)
    asked = measured_by(monkeypatch, repository, random.Random(1), size=width)
    stayed = dict.fromkeys(NAMES, 0)
    for _ in range(25):
        for step in (found := distill(added)).steps:
            stayed[step.epoch.record.strategy] += step.earns
    assert stayed["useless-1"] + stayed["useless-2"] <= 0.025 * 50 + 2
    assert stayed["useful-1"] + stayed["useful-2"] >= 0.975 * 50 - 2
    # With the run's chance, the state that it chose would be as lucky again.
    assert set(asked) == {1}
    made = apply(found, "small")
    kept = [step.epoch.record.strategy for step in found.steps if step.earns]
    assert [epoch.record.strategy for epoch in made.epochs[1:]] == kept
    assert {"useful-1", "useful-2"} <= {*kept}


def test_of_a_single_item_the_measurements_are_the_items_and_too_few_of_them_drop_nothing(
    added, repository, monkeypatch
):
    measured_by(monkeypatch, repository, random.Random(3), items=1, size=8.0)
    few = distill(added, repeats=5)
    assert all(step.earns and "too few items" in step.unknown for step in few.steps)
    enough = distill(added, repeats=6)
    earns = {step.epoch.record.strategy: step.earns for step in enough.steps}
    assert earns == {name: name.startswith("useful") for name in NAMES}
    assert not any(step.unknown for step in enough.steps)


def test_chance_that_the_baseline_had_not_is_seen_in_the_repeats(added, repository, monkeypatch):
    monkeypatch.setattr(Notebook, "noise", None)
    asked = measured_by(monkeypatch, repository, random.Random(1), size=9.0)
    found = distill(added, repeats=2)
    assert {n: asked.count(n) for n in (0, 1, 2)} == {0: 1, 1: 6, 2: 5}
    earns = {step.epoch.record.strategy: step.earns for step in found.steps}
    assert earns == {name: name.startswith("useful") for name in NAMES}
    # Of one measurement of each state, nobody knows it.
    assert not any(step.is_noisy for step in distill(added).steps)
