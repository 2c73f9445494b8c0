import math
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from autopilot import (
    AutoPilotModule,
    ChainOptimizer,
    Choice,
    ConfigParameter,
    DataLoader,
    Datum,
    Experiment,
    PathParameter,
    Range,
    SearchOptimizer,
    Trainer,
)
from autopilot.core.records.record import MetricsRecord
from autopilot.core.search import SearchLoop
from autopilot.core.selection import selection
from autopilot.core.store import InMemoryStore
from autopilot.errors import AgentError, AutopilotError, OutageError
from autopilot.testing import ScriptedOptimizer
from autopilot.tuning import samplers

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
    # A higher value is better here, and each direction is told to the study.
    spaces = {"x": Range(-5.0, 5.0), "y": Range(1, 100)}
    module = Tuned(sampler, spaces, lambda v: -((v["x"] - 1) ** 2) - v["y"] / 10)
    module.mode = "max"
    raised = fitted(module, 20)
    study = optuna.create_study(direction="maximize", sampler=SAMPLERS[sampler](seed=3))
    study.enqueue_trial({"x": 0.5, "y": 3})
    study.optimize(
        lambda t: -((t.suggest_float("x", -5, 5) - 1) ** 2) - t.suggest_int("y", 1, 100) / 10,
        n_trials=21,
    )
    assert values_of(raised) == [trial.value for trial in study.trials]
    assert raised.best_value == study.best_value
    Path("config.toml").write_text(CONFIG)
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
    optimizer.load_state_dict(experiment.history[-1].state["optimizer"])
    states = [trial.state.name for trial in optimizer._up_to_date().trials]
    assert states == ["FAIL" if r.values["x"] > 0.6 else "COMPLETE" for r in experiment.history]
    assert states.count("FAIL") > 2


def test_an_epoch_that_was_stopped_is_told_as_a_trial_that_was_hopeless():
    module = Tuned("random")
    experiment = fitted(module, 6)
    optimizer = module.configure_optimizers()
    for record in experiment.history:
        is_stopped = record.epoch in (2, 5)
        optimizer.tell(replace(record, outcome="raced", metrics={}) if is_stopped else record)
    optimizer.load_state_dict(experiment.history[-1].state["optimizer"])
    states = [trial.state.name for trial in optimizer._up_to_date().trials]
    assert [n for n, state in enumerate(states) if state == "PRUNED"] == [2, 5]
    assert states.count("COMPLETE") == 5


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


class Together(Tuned):
    """A prompt that an agent edits beside numbers that are searched, in one experiment."""

    def __init__(self, *, first):
        super().__init__()
        self.prompt, self.first = PathParameter("prompt.txt"), first
        self.service_is_down = False

    def forward(self, batch):
        length = len(self.prompt.read_text())
        return Datum(
            items=[Datum(metrics={"loss": loss_of(self.config.values()) + abs(8 - length)})],
            feedback="say more",
        )

    def configure_optimizers(self):
        def write(parameters):
            parameters[0].write_text(parameters[0].read_text() + "!")

        def ask(parameters):
            if self.service_is_down:
                self.service_is_down = False
                raise OutageError("no answer")
            write(parameters)

        script = [("more", write), ("more", AgentError("no idea")), ("more", ask)]
        agent = ScriptedOptimizer([self.prompt], script * 3)
        search = SearchOptimizer([self.config], seed=3)
        return ChainOptimizer([search, agent] if self.first == "search" else [agent, search])


@pytest.mark.parametrize("first", ["search", "agent"])
def test_an_agent_and_a_search_are_one_experiment(first):
    Path("prompt.txt").write_text("be")

    def run(epochs, store, *, is_down=False):
        module = Together(first=first)
        module.service_is_down = is_down
        experiment = Experiment(store)
        trainer = Trainer(experiment=experiment, measure_noise=False)
        if is_down:
            trainer.max_wait_s = 0
            with pytest.raises(OutageError):
                trainer.fit(module, max_epochs=epochs)
            return experiment
        trainer.fit(module, max_epochs=epochs)
        return experiment

    whole = run(9, InMemoryStore())
    for name, text in (("config.toml", CONFIG), ("prompt.txt", "be")):
        Path(name).write_text(text)
    store = InMemoryStore()
    run(2, store)
    run(3, store, is_down=True)  # an outage in the step of epoch 3: the same is proposed again
    run(4, store)
    resumed = run(9, store)
    assert [r.summary for r in resumed.history] == [r.summary for r in whole.history]
    assert values_of(resumed) == values_of(whole)
    assert [r.outcome for r in whole.history][2::3] == ["failed", "failed", "failed"]
    both = whole.history[1]
    assert both.summary.split("; ")[first == "agent"].startswith("x 0.500 -> ")
    assert "more at 1" in both.summary and both.strategy == "more"
    # Memory counts the agent's strategies; a search has none that it could block.
    optimizer = SearchOptimizer([ConfigParameter("config.toml", SPACES)])
    assert list(optimizer.strategies()) == []


def test_an_agent_that_edits_the_numbers_too_is_told_of():
    """Epoch 2: it changes a value; epoch 3: it breaks the file before the search."""

    class Meddling(Tuned):
        def configure_optimizers(self):
            def change(parameters):
                parameters[0].set({"y": 7})

            def breaks(parameters):
                parameters[0].write_text("y = = 7")

            first = ScriptedOptimizer([self.config], [None, None, ("break", breaks)])
            last = ScriptedOptimizer([self.config], [None, ("change", change)])
            return ChainOptimizer([first, SearchOptimizer([self.config], seed=3), last])

    whole = fitted(Meddling(), 7)
    assert [r.outcome for r in whole.history][3] == "failed" and whole.last_epoch == 7
    assert whole.history[2].values["y"] == 7
    assert "config.toml:1 is no TOML" in whole.history[3].reasons[0]
    for stop in (2, 3, 5):
        Path("config.toml").write_text(CONFIG)
        store = InMemoryStore()
        fitted(Meddling(), stop, Experiment(store))
        resumed = fitted(Meddling(), 7, Experiment(store))
        assert values_of(resumed) == values_of(whole), stop
        assert "asks otherwise" not in str([r.reasons for r in resumed.history])


class Kept(InMemoryStore):
    content = b""

    def keep_derived(self, content):
        self.content = content

    def derived(self):
        return self.content


@pytest.mark.parametrize("left", ["whole", "cut", "other", "none"])
def test_a_study_from_another_process_counts_only_where_it_fits(left, monkeypatch):
    whole = values_of(fitted(Tuned(), 9))
    Path("config.toml").write_text(CONFIG)

    def replaced(epochs, store):
        experiment = Experiment(store)
        experiment.is_replacement = True
        return fitted(Tuned(), epochs, experiment)

    store = Kept()
    replaced(6, store)
    if left == "other":
        Path("config.toml").write_text(CONFIG)
        replaced(6, other := Kept("other"))
        store.content = other.content.replace(b"tpe", b"cma")
    store.content = {"cut": store.content[:-9], "none": b""}.get(left, store.content)
    asked = []
    ask = optuna.Study.ask
    monkeypatch.setattr(optuna.Study, "ask", lambda study: asked.append(1) or ask(study))
    assert values_of(replaced(9, store)) == whole
    # Three more epochs, and with nothing to go on from, the baseline and six before.
    assert len(asked) == (3 if left == "whole" else 10)


def test_where_the_sampler_asks_otherwise_the_records_count(monkeypatch):
    store = InMemoryStore()
    first = fitted(Tuned("random"), 5, Experiment(store))
    recorded = [dict(record.values) for record in first.history]
    # As another version of Optuna might: the numbers of another seed.
    make = samplers.make_sampler
    monkeypatch.setattr(
        "autopilot.tuning.samplers.make_sampler",
        lambda sampler, seed, spaces: make(sampler, 9, spaces),
    )
    module = Tuned("random")
    optimizer = module.configure_optimizers()
    module.configure_optimizers = lambda: optimizer
    resumed = fitted(module, 8, Experiment(store))
    told = [reason for r in resumed.history for reason in r.reasons if "asks otherwise" in reason]
    assert len(told) == 1 and "in epoch 1" in told[0] and resumed.last_epoch == 8
    study = optimizer._up_to_date()
    complete = [trial.params for trial in study.trials if trial.state.name == "COMPLETE"]
    assert complete[:6] == recorded and len(complete) == 9


def test_a_sampler_of_optunas_own_is_taken_as_it_is():
    spaces = {"x": Range(-4.0, 4.0, step=2.0), "cache.kind": Choice(["lru", "none"])}
    Path("config.toml").write_text(CONFIG.replace("0.5", "0"))
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        sampler = optuna.samplers.BruteForceSampler(seed=1)
    module = Tuned(sampler, spaces, lambda v: v["x"] ** 2)
    experiment = fitted(module, 50)
    assert "every combination" in Trainer(experiment=experiment).fit(module).stop_reason
    assert len({tuple(r.values.items()) for r in experiment.history}) == 10


def test_what_a_search_lacks_is_said_before_anything_runs(monkeypatch):
    config = ConfigParameter("config.toml", SPACES)
    again = ConfigParameter(Path("config.toml").resolve(), {"x": Range(-5.0, 5.0)})
    Path("x.txt").write_text("1")
    monkeypatch.setitem(sys.modules, "torch", None)
    wrong = {
        "there is no sampler 'tpa'": lambda: SearchOptimizer([config], "tpa"),
        "x: -5.0..5.0 has no step": lambda: SearchOptimizer([config], "grid"),
        "the sampler 'gp' needs torch": lambda: SearchOptimizer([config], "gp"),
        "cannot propose values for": lambda: SearchOptimizer([PathParameter("x.txt")]),
        "two parameters for one file, config.toml": lambda: SearchOptimizer([config, again]),
    }
    for message, make in wrong.items():
        with pytest.raises(AutopilotError) as error:
            make()
        assert message in error.value.message and error.value.hint, message
        assert "\n" not in error.value.message
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(AutopilotError) as error:
        SearchOptimizer([config])
    assert "optuna is not installed" in error.value.message
    assert error.value.hint == "pip install 'autopilot[optuna]'"


def test_keys_of_one_name_in_two_files_are_told_apart():
    Path("a.json").write_text('{"n": 1}')
    Path("b.json").write_text('{"n": 1}')

    class Two(Tuned):
        def __init__(self):
            super().__init__()
            self.a = ConfigParameter("a.json", {"n": Range(1, 9)})
            self.b = ConfigParameter("b.json", {"n": Range(1, 9)})

        def forward(self, batch):
            a, b = self.a.values()["n"], self.b.values()["n"]
            return Datum(items=[Datum(metrics={"loss": (a - 3) ** 2 + (b - 7) ** 2})])

        def configure_optimizers(self):
            return SearchOptimizer([self.a, self.b], "random", seed=1)

    store = InMemoryStore()
    fitted(Two(), 3, Experiment(store))
    experiment = fitted(Two(), 12, Experiment(store))
    assert set(experiment.history[0].values) > {"a.json:n", "b.json:n"}
    assert all("asks otherwise" not in str(r.reasons) for r in experiment.history)
    assert "a.json:n 1 -> " in " ".join(r.summary for r in experiment.history)


def test_no_number_of_epochs_that_change_nothing_ends_a_search():
    module = Tuned(
        "random", {"cache.kind": Choice(["lru", "none"])}, lambda v: len(v["cache.kind"])
    )
    experiment = fitted(module, 40)
    assert experiment.last_epoch == 40 and experiment.memory.blocked() == {}
    assert {r.outcome for r in experiment.history[1:]} == {"rejected", "unchanged", "repeated"}
    optimizer = module.configure_optimizers()
    for record in experiment.history:
        optimizer.tell(record)
    optimizer.load_state_dict(experiment.history[-1].state["optimizer"])
    # States that were known are told their values: each trial of a choice has that choice's.
    told = {(t.params["cache.kind"], t.value) for t in optimizer._up_to_date().trials}
    assert told == {("lru", 3.0), ("none", 4.0)}


class Switches(Tuned):
    """Eight switches; each has an item that wants it on."""

    monitor, mode = "accuracy", "max"

    def __init__(self):
        names = "abcdefgh"
        Path("config.toml").write_text("".join(f"{name} = false\n" for name in names))
        super().__init__("random", {name: Choice([False, True]) for name in names})

    def configure_optimizers(self):
        self.search = super().configure_optimizers()
        return self.search

    def forward(self, batch):
        on = self.config.values()
        return Datum(items=[Datum(success=on[item.id]) for item in batch.items])

    def train_dataloader(self):
        return DataLoader([{"id": name} for name in "abcdefgh"], 8)

    val_dataloader = train_dataloader


def switched(*epochs):
    """The experiment of runs that end after these epochs, and the study of the last one."""
    store = InMemoryStore()
    for last in epochs:
        module, experiment = Switches(), Experiment(store)
        loop = SearchLoop(3, 1, selection("frontier"), None, merge=True)
        trainer = Trainer(experiment=experiment, loop=loop, measure_noise=False)
        trainer.fit(module, max_epochs=last)
    return experiment, module.search


def test_a_merge_of_values_is_a_trial_that_was_not_asked_for():
    experiment, search = switched(5)
    records = [r for _, r in experiment.store.records(MetricsRecord) if r.is_candidate]
    merges = [record for record in records if record.is_merge]
    assert len(merges) > 1
    # The study has all candidates, each with its own value.
    trials = [(trial.params, trial.value) for trial in search._up_to_date().trials[1:]]
    assert sorted(trials, key=str) == sorted(
        ((dict(record.values), record.metrics["accuracy"]) for record in records), key=str
    )
    # A run that goes on asks the same.
    resumed, again = switched(3, 5)
    assert [r.tree for r in resumed.history] == [r.tree for r in experiment.history]
    assert [t.params for t in again._up_to_date().trials] == [
        t.params for t in search._up_to_date().trials
    ]
    assert "asks otherwise" not in str([r.reasons for r in resumed.history])
