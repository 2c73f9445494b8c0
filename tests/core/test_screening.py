"""Candidates that are rejected before all of val is measured: which, on what, and how often."""

import random
from collections import Counter

import pytest

from autopilot import (
    AutoPilotModule,
    DataLoader,
    Datum,
    Experiment,
    MinGate,
    Optimizer,
    Parameter,
    Policy,
    Recall,
    SignificantImprovement,
    Step,
    Trainer,
)
from autopilot.command.module import Whole as Split
from autopilot.core.comparison import EpochView
from autopilot.core.loop import EpochLoop
from autopilot.core.records.record import MetricsRecord, TraceRecord
from autopilot.core.screening import CheapGates
from autopilot.core.search import SearchLoop
from autopilot.core.store import InMemoryStore
from autopilot.errors import UsageError


class Walk(Optimizer):
    """Sets the parameter to the next of some states, or to a new one where they are used up."""

    def __init__(self, parameters, states=()):
        super().__init__(parameters)
        self.states, self.count = list(states), 0

    def step(self):
        number = self.count + self.proposal[0] - 1
        known = number < len(self.states)
        self.parameters[0].data = self.states[number] if known else f"new {number}"
        if self.proposal[0] == self.proposal[1]:
            self.count = number + 1
        return Step(f"try {self.parameters[0].data}")

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Coin(AutoPilotModule):
    """Each item passes every other time, whatever the parameter is."""

    states = ()

    def __init__(self):
        super().__init__()
        self.word, self.seen = Parameter("start"), list[tuple[str, str]]()

    def forward(self, batch):
        self.seen += [(self.word.data, item.id) for item in batch.items]
        passed = [self.passes(self.word.data, item.id) for item in batch.items]
        return Datum(items=[Datum(success=each, feedback="more") for each in passed])

    def passes(self, word, name):
        return random.random() < 0.5

    def configure_optimizers(self):
        return Walk(self.parameters(), self.states)

    def train_dataloader(self):
        return DataLoader([{"id": f"t{at}"} for at in range(12)], 4)

    def val_dataloader(self):
        return DataLoader([{"id": f"v{at}"} for at in range(30)], 3)


class Dice(Coin):
    """Each item has a score by chance, whatever the parameter is."""

    monitor, mode = "score", "max"

    def forward(self, batch):
        return Datum(items=[Datum(metrics={"score": random.random()}) for _ in batch.items])


class Known(Coin):
    """The first items pass, as many as the state's word says: of train, and of val."""

    def passes(self, word, name):
        if word == "start":
            word = "6 15"
        train, val = map(int, word.split())
        return int(name[1:]) < (train if name[0] == "t" else val)


def fitted(epochs, gates, kind=Known, states=(), loop=None, seed=3, **more):
    module, experiment, loop = kind(), Experiment(InMemoryStore()), loop or EpochLoop()
    module.states, loop.gates = states, gates
    trainer = Trainer(experiment=experiment, loop=loop, seed=seed, **more)
    trainer.fit(module, max_epochs=epochs)
    return module, experiment


def test_of_changes_that_change_nothing_no_more_are_kept_than_without():
    kept, runs = dict[str, set[int]](), 40
    for name, proposals, gates in (
        ("none", 1, CheapGates()),
        ("screen", 1, CheapGates(8)),
        ("race", 1, CheapGates(race=True)),
        ("both", 2, CheapGates(8, race=True)),
    ):
        outcomes, kept[name] = Counter[str](), set()
        for seed in range(runs):
            _, experiment = fitted(1, gates, Dice, loop=SearchLoop(proposals), seed=seed)
            outcomes[experiment.record_of(1).outcome] += 1
            kept[name] |= {seed} if experiment.best_epoch else set()
        assert ("screened" in outcomes, "raced" in outcomes) == (gates.screen > 0, gates.race)
    assert 0 < len(kept["none"]) <= 0.05 * runs
    assert all(seeds <= kept["none"] for seeds in kept.values()), kept


def evaluated(module, word, split):
    return [name for seen, name in module.seen if (seen, name[0]) == (word, split)]


def test_a_state_that_is_no_better_on_train_items_is_rejected_without_val():
    states = ["6 20", "6 20", "8 20", "6 20", "6 20", "8 25", "9 21"]
    module, experiment = fitted(7, CheapGates(screen=8), states=states)
    records = list(experiment.history)
    assert [(r.verdict, r.outcome) for r in records[1:]] == [
        ("rejected", "screened"),
        ("rejected", "repeated"),
        ("kept", "kept"),
        ("rejected", "screened"),
        ("rejected", "repeated"),
        ("rejected", "screened"),
        ("kept", "kept"),
    ]
    assert records[1].reasons == (
        "screened on 8 train items (6 that failed): accuracy 0.250 -> 0.250 is no better; "
        "val was not measured",
    )
    # Once in each of two epochs: beside another best state, it is looked at again.
    assert len(evaluated(module, "6 20", "t")) == 16 and not evaluated(module, "6 20", "v")
    assert [dict(r.metrics) for r in (records[1], records[2])] == [{}, {}]
    assert [r.cost.saved for r in records[1:4]] == [30, 0, 0] and records[-1].spent.saved == 90
    assert [r.cost.evaluations for r in records[1:4]] == [12 + 8, 12, 12 + 8 + 30]
    # A budget is for epochs that are measured as a whole, which each may be.
    assert {epoch.counted for epoch in experiment.epochs[1:]} == {12 + 8 + 30, 12}
    assert records[2].reasons == ("the same state as epoch 1 (rejected), not evaluated again",)
    # Of those that failed, all are among the eight: the state was made for them.
    assert {f"t{at}" for at in range(6, 12)} < set(evaluated(module, "6 20", "t")[:8])
    # A screen is no measurement of val: nothing of it is in the traces.
    traces = [t for _, t in experiment.store.records(TraceRecord)]
    assert {t.epoch for t in traces} == {0, 3, 7} and all(len(t.items) == 30 for t in traces)


class Graded(Known):
    """An item's score: the word says whether it is worse, and by how much."""

    monitor, mode = "score", "max"

    def forward(self, batch):
        self.seen += [(self.word.data, item.id) for item in batch.items]
        change = 0.0 if self.word.data == "start" else float(self.word.data)
        at = [int(item.id[1:]) for item in batch.items]
        return Datum(items=[Datum(metrics={"score": 5 + n / 100 + change}) for n in at])

    def val_dataloader(self):
        return DataLoader([{"id": f"v{at}"} for at in range(100)], 5)


def test_a_race_is_stopped_where_the_best_is_out_of_reach():
    module, experiment = fitted(2, CheapGates(race=True), states=["9 0", "9 16"])
    lost, kept = experiment.history[1:]
    assert (lost.verdict, lost.outcome, dict(lost.metrics), lost.gain) == (
        *("rejected", "raced"),
        {},
        None,
    )
    seen = evaluated(module, "9 0", "v")
    (trace,) = [t for _, t in experiment.store.records(TraceRecord) if t.epoch == 1]
    assert 3 <= len(seen) < 30 and {item.id for item in trace.data()} == set(seen)
    assert (lost.cost.saved, lost.cost.evaluations) == (30 - len(seen), 12 + len(seen))
    assert lost.reasons[0].startswith(f"stopped at {len(seen)} of 30 val items: accuracy ")
    assert lost.reasons[0].endswith("; if all others passed, it would be no better than the best")
    # One that is kept has all items, in the order of the split.
    assert (kept.outcome, kept.metrics["accuracy"], kept.cost.saved) == ("kept", 16 / 30, 0)
    (trace,) = [t for _, t in experiment.store.records(TraceRecord) if t.epoch == 2]
    assert [item.id for item in trace.data()] == [f"v{at}" for at in range(30)]
    # Of graded items nobody knows how good the others may be: chance decides.
    module, experiment = fitted(3, CheapGates(race=True), Graded, states=["-1", "0.1", "-1"])
    first, second, third = experiment.history[1:]
    assert (first.outcome, second.outcome, third.outcome) == ("raced", "kept", "raced")
    assert first.reasons[0].startswith("stopped at 10 of 100 val items: score 5.")
    assert first.reasons[0].endswith("that it reaches the best has p 0.00098, within 0.0056")
    # The blocks are drawn anew in each epoch.
    seen = evaluated(module, "-1", "v")
    assert len(seen) == 20 and seen[:10] != seen[10:]


def test_a_race_changes_nothing_of_what_is_kept():
    class Chance(Known):
        def passes(self, word, name):
            return random.random() < {"start": 0.2, "good": 0.8, "bad": 0.1}[word]

    states = ["bad", "good", "bad"]
    found = []
    for gates in (CheapGates(), CheapGates(8, race=True)):
        _, experiment = fitted(3, gates, Chance, states=states)
        traces = {t.epoch: t.items for _, t in experiment.store.records(TraceRecord)}
        kept = experiment.history[2]
        found.append((traces[2], kept.metrics, kept.reasons, experiment.history[3].verdict))
        assert kept.verdict == "kept"
    assert found[0] == found[1]


def test_each_candidate_is_screened_and_raced_for_itself():
    loop = SearchLoop(4, keep=None)
    states = ["6 20", "9 0", "9 0", "9 18"]
    module, experiment = fitted(1, CheapGates(8, race=True), states=states, loop=loop)
    records = [r for _, r in experiment.store.records(MetricsRecord) if r.is_candidate]
    own = {r.candidate: r for r in records}
    assert [(r.verdict, r.outcome) for _, r in sorted(own.items())] == [
        ("rejected", "screened"),
        ("rejected", "raced"),
        ("rejected", "rejected"),
        ("kept", "kept"),
    ]
    assert own[3].reasons == ("the same state as candidate 2",)
    epoch = experiment.record_of(1)
    assert (epoch.candidate, epoch.stay) == (4, ())
    left = 30 - len(evaluated(module, "9 0", "v"))
    assert epoch.cost.saved == 30 + left and left > 0
    assert [r.cost.saved for _, r in sorted(own.items())] == [30, left, 0, 0]


class Interrupted(Known):
    """Is interrupted once, when so many items were evaluated."""

    at = 0

    def forward(self, batch):
        if self.at and len(self.seen) >= self.at:
            self.at = 0
            raise KeyboardInterrupt
        return super().forward(batch)


@pytest.mark.parametrize("at", [60, 66, 70, 76, 84, 90])
def test_what_is_interrupted_goes_on_where_it_was(at):
    states = ["6 20", "9 0", "9 18"]

    def story(experiment):
        texts = [(r.outcome, r.reasons, dict(r.metrics), r.cost.saved) for r in experiment.history]
        return texts, [t.items for _, t in experiment.store.records(TraceRecord)]

    whole, reference = fitted(3, CheapGates(8, race=True), states=states)
    module, experiment = Interrupted(), Experiment(InMemoryStore())
    module.states, module.at, loop = states, at, EpochLoop()
    loop.gates = CheapGates(8, race=True)
    trainer = Trainer(experiment=experiment, loop=loop, seed=3)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(module, max_epochs=3)
    trainer.fit(module, max_epochs=3)
    assert story(experiment) == story(reference)
    assert Counter(module.seen) == Counter(whole.seen)


class Broken(Known):
    """Gives one result for a whole batch, once it was edited."""

    def forward(self, batch):
        if self.word.data != "start" and batch.items[0].id[0] == "t":
            return Datum(success=False)
        return super().forward(batch)


def test_a_state_that_cannot_be_screened_is_measured():
    _, experiment = fitted(1, CheapGates(8), Broken, states=["9 18"])
    assert experiment.history[1].verdict == "kept"
    assert "not screened: no train item has accuracy" in experiment.history[1].reasons


class Own(Policy):
    def judge(self, view):
        return super().judge(view)


class Whole(Known):
    monitor = "recall"

    def __init__(self):
        super().__init__()
        self.recall = Recall()


@pytest.mark.parametrize(
    ("gates", "kind", "more", "why"),
    [
        (CheapGates(13), Known, {}, "--screen 13 is no number of the 12 items of the train split"),
        (CheapGates(4), Whole, {}, "--screen 4 compares items, and recall is of a whole split"),
        (CheapGates(race=True), Whole, {}, "--race compares items, and recall is of a whole split"),
        (CheapGates(race=True), Known, {"repeat": 2}, "--race does not go with --repeat 2: "),
        (CheapGates(race=True), Known, {"policy": Own()}, "--race does not go with Own, which "),
        (
            CheapGates(4),
            Known,
            {"accumulate_grad_batches": 1},
            "--screen 4 compares with the state ",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_paid(gates, kind, more, why):
    module, loop = kind(), EpochLoop()
    loop.gates = gates
    with pytest.raises(UsageError) as refused:
        Trainer(loop=loop, **more).fit(module, max_epochs=1)
    assert refused.value.message.startswith(why) and refused.value.hint
    assert not module.seen


def test_splits_that_are_needed_are_asked_for():
    class NoTrain(Known):
        def train_dataloader(self):
            return None

    class OneBatch(Known):
        def val_dataloader(self):
            return DataLoader([{"id": f"v{at}"} for at in range(30)], 30)

    class Command(Known):
        def train_dataloader(self):
            return Split("train")

        def val_dataloader(self):
            return Split("val")

    for gates, kind, why in (
        (CheapGates(4), Command, "--screen 4 measures some items, and a command measures all "),
        (CheapGates(race=True), Command, "--race ends between batches of val, which has no two"),
        (CheapGates(4), NoTrain, "--screen 4 needs a train split to screen on, and a val split "),
        (CheapGates(race=True), OneBatch, "--race ends between batches of val, which has no two"),
    ):
        loop = EpochLoop()
        loop.gates = gates
        with pytest.raises(UsageError, match=why):
            Trainer(loop=loop).fit(kind(), max_epochs=1)
    # Gates of a policy are conditions beside the improvement, which a race is about.
    policy = Policy([MinGate("accuracy", 0.1)])
    _, experiment = fitted(1, CheapGates(race=True), states=["9 0"], policy=policy)
    assert experiment.history[1].outcome == "raced"


def test_candidates_of_one_epoch_share_what_chance_may_pass():
    class Count(Policy):
        def judge(self, view):
            counts.append(view.candidates)
            return super().judge(view)

    counts, states = [], ["6 20", "8 20", "8 20", "9 21"]
    fitted(1, CheapGates(8), states=states, loop=SearchLoop(4), policy=Count())
    assert counts == [2]  # one that was screened, and a twin, have no chance of their own
    items = [[Datum(id=str(at), success=at < n) for at in range(100)] for n in (40, 46)]
    values = [{"val": {"accuracy": value}} for value in (0.40, 0.46)]
    sides = {"monitor": "accuracy", "best_items": items[0], "items": items[1]}
    for candidates, passes in ((1, True), (4, False)):
        view = EpochView(1, values[1], {}, values[0], candidates=candidates, **sides)
        found = SignificantImprovement().check(view)
        assert found.passed == passes, found.reason
    assert "p 0.016 is above 0.0088 (0.035 for 4 candidates together)" in found.reason
