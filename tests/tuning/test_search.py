import math
from pathlib import Path

import optuna
import pytest

from autopilot import (
    AutoPilotModule,
    Choice,
    ConfigParameter,
    Datum,
    Experiment,
    Range,
    SearchOptimizer,
    Trainer,
)
from autopilot.core.store import InMemoryStore

CONFIG = """# the settings
x = 0.5
y = 3  # a count
[cache]
kind = 'lru'
size = 8
"""
SPACES = {
    "x": Range(-5.0, 5.0),
    "y": Range(1, 100, log=True),
    "cache.kind": Choice(["lru", "none"]),
    "cache.size": Range(1, 64, when={"cache.kind": "lru"}),
}


def loss_of(values):
    size = values.get("cache.size", 100)
    return (values["x"] - 1) ** 2 + abs(values["y"] - 20) / 10 + (size - 30) ** 2 / 100


def suggest(trial):
    """The same spaces in Optuna's own words."""
    values = {
        "x": trial.suggest_float("x", -5, 5),
        "y": trial.suggest_int("y", 1, 100, log=True),
        "cache.kind": trial.suggest_categorical("cache.kind", ["lru", "none"]),
    }
    if values["cache.kind"] == "lru":
        values["cache.size"] = trial.suggest_int("cache.size", 1, 64)
    return values


class Tuned(AutoPilotModule):
    monitor, mode = "loss", "min"

    def __init__(self, sampler="tpe", spaces=SPACES, function=loss_of, seed=3):
        super().__init__()
        self.config = ConfigParameter("config.toml", spaces)
        self.sampler, self.function, self.seed = sampler, function, seed
        self.calls = 0

    def forward(self, batch):
        self.calls += 1
        value = self.function(self.config.values())
        return Datum(items=[Datum(id=batch, metrics={"loss": value})])

    def configure_optimizers(self):
        return SearchOptimizer([self.config], self.sampler, seed=self.seed)

    def train_dataloader(self):
        return ["a train item"]

    def val_dataloader(self):
        return ["a val item"]


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.toml").write_text(CONFIG)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def fitted(module, epochs, experiment=None):
    experiment = experiment or Experiment(InMemoryStore())
    Trainer(experiment=experiment, measure_noise=False).fit(module, max_epochs=epochs)
    return experiment


def values_of(experiment):
    return [record.metrics["loss"] for record in experiment.history]


SAMPLERS = {
    "random": optuna.samplers.RandomSampler,
    "tpe": optuna.samplers.TPESampler,
    "cmaes": optuna.samplers.CmaEsSampler,
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_is_optunas_own(sampler):
    searched = fitted(Tuned(sampler), 20)
    study = optuna.create_study(sampler=SAMPLERS[sampler](seed=3))
    study.enqueue_trial({"x": 0.5, "y": 3, "cache.kind": "lru", "cache.size": 8})
    study.optimize(lambda trial: loss_of(suggest(trial)), n_trials=21)
    assert [dict(record.values) for record in searched.history] == [t.params for t in study.trials]
    assert values_of(searched) == [trial.value for trial in study.trials]
    assert min(values_of(searched)) < searched.baseline_value


@pytest.mark.parametrize("epochs", [0, 7])
def test_a_search_goes_on_from_the_records_as_if_it_had_not_stopped(epochs):
    whole = values_of(fitted(Tuned(), 15))
    Path("config.toml").write_text(CONFIG)
    store = InMemoryStore()
    fitted(Tuned(), epochs, Experiment(store))
    # Other objects, as in another process: they know what the records say, and no more.
    resumed = fitted(Tuned(), 15, Experiment(store))
    assert values_of(resumed) == whole
    assert [r.reasons for r in resumed.history if "asks otherwise" in str(r.reasons)] == []


def test_keys_whose_condition_does_not_hold_go_back_to_where_they_were():
    experiment = fitted(Tuned("random"), 20)
    apart = [r for r in experiment.history if "cache.size" not in r.values]
    assert apart and all(r.values["cache.kind"] == "none" for r in apart)
    assert all("cache.size" not in r.summary for r in apart)
    sizes = {r.values["cache.size"] for r in experiment.history if r not in apart}
    assert len(sizes) > 5


def test_an_epoch_that_failed_is_told_as_failed():
    def breaks(values):
        if values["x"] > 0.6:
            raise ValueError("too large")
        return loss_of(values)

    module = Tuned("random", function=breaks)
    experiment = fitted(module, 12)
    optimizer = module.configure_optimizers()
    for record in experiment.history:
        optimizer.tell(record)
    states = [trial.state.name for trial in optimizer._up_to_date().trials]
    assert states == ["FAIL" if r.values["x"] > 0.6 else "COMPLETE" for r in experiment.history]
    assert states.count("FAIL") > 2


def test_a_grid_ends_the_run_when_all_of_it_was_tried():
    spaces = {"y": Range(1, 4), "cache.kind": Choice(["lru", "none"])}
    module = Tuned("grid", spaces, lambda v: (v["y"] - 3) ** 2 + (v["cache.kind"] == "none"))
    experiment = fitted(module, 50)
    assert experiment.history[-1].epoch == 8
    tried = {(r.values["y"], r.values["cache.kind"]) for r in experiment.history}
    assert tried == {(y, kind) for y in (1, 2, 3, 4) for kind in ("lru", "none")}
    # The present values are one of the combinations: they are not measured again.
    assert [r.reused for r in experiment.history].count(None) == 8
    summary = experiment.summary()
    assert experiment.best_value == 0 and not math.isnan(summary.gain)
