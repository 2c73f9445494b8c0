"""The states of a search, from records alone: scores by item and by objective."""

import math

import pytest

from autopilot import (
    AutoPilotModule,
    DataLoader,
    Datum,
    Experiment,
    Metric,
    Optimizer,
    Parameter,
    Step,
    Trainer,
)
from autopilot.core.search import SearchLoop
from autopilot.core.selection import selection
from autopilot.core.states import RecordedStates, directed, measured_on, named_objectives
from autopilot.core.store import InMemoryStore
from autopilot.errors import UsageError


class Put(Optimizer):
    def step(self):
        self.parameters[0].data = "bcd"[self.proposal[0] - 1]
        return Step("put another letter", "put")


class Speed(AutoPilotModule):
    """Each state is a letter; the later ones are quicker and pass less."""

    passed = ("xy", "x", "", "x")  # the items that a, b, c and d pass
    seconds = (4.0, 3.0, 1.0, 5.0)

    def __init__(self, noise=()):
        super().__init__()
        self.letter = Parameter("a")
        self.noise = list(noise)

    def forward(self, batch):
        at = "abcd".index(self.letter.data)
        seconds = self.seconds[at] + (self.noise.pop(0) if self.noise else 0)
        items = [
            Datum(
                success=item.metadata["at"] in self.passed[at],
                metrics={"seconds": seconds},
                feedback="more",
            )
            for item in batch.items
        ]
        return Datum(items=items)

    def configure_optimizers(self):
        return Put(self.parameters())

    def val_dataloader(self):
        return DataLoader([{"id": at, "at": at} for at in "xy"], 2)


def fitted(objectives=(), module=None, keep=None, before=None, measure_noise=False):
    experiment = Experiment(InMemoryStore())
    experiment.measured_before = before
    loop = SearchLoop(3, 1, selection("frontier"), keep, objectives)
    trainer = Trainer(experiment=experiment, loop=loop, measure_noise=measure_noise)
    trainer.fit(module or Speed(), max_epochs=1)
    return experiment, loop, trainer


def recorded(experiment):
    return RecordedStates(experiment.epochs, experiment.store.records_on)


def test_a_state_that_is_good_at_an_objective_alone_stays_and_is_no_best_state():
    assert fitted()[0].record_of(1).stay == ()  # "a" is as good at all items
    experiment, loop, trainer = fitted(("accuracy", "seconds:min"))
    record = experiment.record_of(1)
    assert (record.verdict, record.stay, experiment.best_epoch) == ("rejected", (1, 2), 0)
    assert experiment.record_of(0).objectives == {"accuracy": "max", "seconds": "min"}
    assert record.objectives == {}
    assert "objectives: accuracy (higher is better), seconds (lower" in trainer.judges_by()
    # Whoever reads the records finds the states of the run, and how they stand.
    states = recorded(experiment)
    assert states.pool.frontier.states == loop._states.pool.frontier.states
    told = [
        (each.state.name, each.value, dict(each.objectives), each.items, each.is_undominated)
        for each in states.ranked()
    ]
    assert told == [
        ("epoch-0000", 1.0, {"accuracy": 1.0, "seconds": 4.0}, 2, True),
        ("epoch-0001-c1", 0.5, {"accuracy": 0.5, "seconds": 3.0}, 1, True),
        ("epoch-0001-c2", 0.0, {"accuracy": 0.0, "seconds": 1.0}, 0, True),
    ]


@pytest.mark.parametrize("is_noisy", [False, True])
def test_the_baseline_says_that_an_objective_is_noisy(is_noisy):
    goals = ("accuracy", "seconds:min")
    experiment, *_ = fitted(goals, Speed([0.0, 0.5 * is_noisy]), measure_noise=True)
    says = "seconds: two measurements of the baseline differ, so a state may be on the frontier"
    assert any(reason.startswith(says) for reason in experiment.record_of(0).reasons) == is_noisy


def test_of_several_that_are_undominated_the_best_by_the_monitor_stay():
    experiment, *_ = fitted(("seconds:min",), keep=1)
    assert experiment.record_of(1).stay == (1,)


def test_a_repeated_run_chooses_by_what_was_recorded_whatever_the_clock_says_now():
    first, *_ = fitted(("seconds:min",))
    assert first.record_of(1).stay == (1, 2)

    def before(epoch, number):
        read = first.store.records_on
        return measured_on(read, first.revision_of(epoch), epoch, number)[1]

    late = [0.0, 9.0, 9.0, 0.0]  # on a loaded machine
    assert fitted(("seconds:min",), Speed(late))[0].record_of(1).stay == ()
    assert fitted(("seconds:min",), Speed(late), before=before)[0].record_of(1).stay == (1, 2)


class Failures(Metric):
    """How many failed: a metric of the whole split, of which fewer is better."""

    higher_is_better = False

    def __init__(self):
        super().__init__()
        self.add_state("count", 0)

    def update(self, data):
        self.count += sum(item.success is False for item in data.items)

    def compute(self):
        return self.count


class Counted(Speed):
    """The first state passes one item, and one candidate both."""

    passed = ("y", "xy", "x", "y")
    monitor = "failures"

    def __init__(self):
        super().__init__()
        self.failures = Failures()


def test_under_a_metric_of_the_whole_split_an_item_counts_by_whether_it_passed():
    experiment, loop, _ = fitted(module=Counted())
    assert (experiment.record_of(1).candidate, experiment.record_of(1).best) == (1, 0.0)
    scores = {name: state.scores for name, state in recorded(experiment).pool.states.items()}
    assert scores == {"epoch-0000": (0.0, 1.0), "epoch-0001": (1.0, 1.0)}
    assert [state.name for state in loop._states.pool.frontier.states] == ["epoch-0001"]


def test_an_objective_that_no_item_has_ends_the_run_at_the_baseline():
    module = Speed()
    with pytest.raises(UsageError) as refused:
        fitted(("tokens:min",), module)
    assert refused.value.message == "no val item has the objective 'tokens'"
    assert refused.value.hint == "give --objective one of: accuracy, seconds"
    assert module.letter.data == "a"


@pytest.mark.parametrize(
    ("given", "says", "hint"),
    [
        (["f1", "val_f1:max"], "'f1' is given twice", "leave one out"),
        (["f1:up"], "'up' is no direction", "METRIC:min"),
        ([":min"], "has no name", "METRIC:min"),
    ],
)
def test_objectives_that_say_nothing_are_refused(given, says, hint):
    with pytest.raises(UsageError) as refused:
        named_objectives(given)
    assert says in refused.value.message and hint in refused.value.hint


def test_no_direction_is_guessed():
    names = named_objectives(["accuracy", "f1", "wer", "seconds:min"])
    stated = {"wer": "min"}
    assert directed(names, "accuracy", "max", stated) == {
        "accuracy": "max",
        "f1": "max",
        "wer": "min",
        "seconds": "min",
    }
    for given, says, hint in [
        ("seconds", "whether a higher or a lower 'seconds' is better", "--objective seconds:min"),
        ("accuracy:min", "--objective accuracy:min, and 'accuracy' decides", "--mode min"),
    ]:
        with pytest.raises(UsageError) as refused:
            directed(named_objectives([given]), "accuracy", "max", {})
        assert says in refused.value.message and hint in refused.value.hint


def test_objectives_that_nothing_looks_at_are_refused():
    with pytest.raises(UsageError) as refused:
        SearchLoop(objectives=["f1"])
    assert "--select frontier" in refused.value.hint
    assert SearchLoop(objectives=["f1"], keep=1).objectives == {"f1": None}


def test_a_state_without_a_value_is_the_worst_at_it():
    experiment, *_ = fitted(("seconds:min",))
    states = recorded(experiment)
    state = states.state(2, 0, ({"accuracy": 1.0, "seconds": math.nan}, []), "r")
    assert state.scores == (-math.inf, -math.inf, -math.inf)


def test_before_the_baseline_there_is_no_frontier():
    states = RecordedStates([], InMemoryStore().records_on)
    assert (states.places, states.undominated()) == (0, [])
