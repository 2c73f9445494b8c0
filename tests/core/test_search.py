"""Several candidates an epoch, in this process: what is tried, kept, and recorded."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopilot import (
    AutoPilotModule,
    Callback,
    DataLoader,
    Datum,
    Experiment,
    Optimizer,
    Parameter,
    PathParameter,
    Step,
    Trainer,
)
from autopilot.core.loop import EpochLoop
from autopilot.core.records.message import epoch_tag
from autopilot.core.records.record import MetricsRecord, StepRecord, TraceRecord
from autopilot.core.rules import Rule, RuleOptimizer
from autopilot.core.screening import CheapGates
from autopilot.core.search import SearchLoop
from autopilot.core.selection import FrontierSelection, Selection, selection
from autopilot.core.store import InMemoryStore
from autopilot.errors import UsageError, UserCodeError
from autopilot.tracking.git_store import GitStore


class Add(Optimizer):
    """Adds the number of the proposal."""

    def step(self):
        number, of = self.proposal
        self.parameters[0].data += number
        return Step(f"add {number} of {of}", f"add-{number}")


class Level(AutoPilotModule):
    def __init__(self, most=10):
        super().__init__()
        self.level = Parameter(0)
        self.most = most

    def forward(self, batch):
        level = self.level.data if self.level.data <= self.most else 0
        return Datum(
            items=[Datum(success=level > x.metadata["at"], feedback="more") for x in batch.items]
        )

    def configure_optimizers(self):
        return Add(self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": f"i{at}", "at": at} for at in range(10)], 5)

    val_dataloader = train_dataloader


class Trade(Level):
    """A state is a word of at most two letters; each item asks for one letter."""

    def __init__(self):
        super().__init__()
        self.level.data = ""

    def forward(self, batch):
        word = self.level.data
        passed = [x.metadata["at"] in word and len(word) <= 2 for x in batch.items]
        return Datum(items=[Datum(success=each, feedback="more") for each in passed])

    def configure_optimizers(self):
        return Letter(self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": at, "at": at} for at in "abcd"], 4)

    val_dataloader = train_dataloader


class Letter(Optimizer):
    def step(self):
        letter = "abcd"[self.proposal[0] - 1]
        self.parameters[0].data += letter
        return Step(f"add {letter}", letter)


class LetterOnce(Letter):
    told = []  # noqa: RUF012

    def step(self):
        return Step() if self.parameters[0].data else super().step()

    def tell(self, record):
        self.told.append(record)


def test_a_candidate_that_changes_nothing_is_no_new_state_and_is_not_measured():
    module, experiment = Trade(), Experiment(InMemoryStore())
    module.configure_optimizers = lambda: LetterOnce(module.parameters())
    loop = SearchLoop(4, 4, selection("frontier"), keep=None)
    Trainer(experiment=experiment, loop=loop).fit(module, max_epochs=2)
    made = experiment.record_of(2)
    assert len(set(made.origins)) == 4
    assert (made.stay, made.reasons) == ((), ("the optimizer changed nothing",))
    assert made.cost.evaluations == 4 * 4  # train
    # Each has the results of what it started from.
    records = [record for record in LetterOnce.told if record.epoch == 2]
    assert [epoch_tag(r.reused, r.reused_candidate) for r in records] == list(made.origins)
    assert {record.outcome for record in records} == {"unchanged"}


def test_candidates_that_no_other_dominates_stay_and_are_started_from():
    module, experiment = Trade(), Experiment(InMemoryStore())
    loop = SearchLoop(4, 2, selection("frontier"), keep=None)
    Trainer(experiment=experiment, loop=loop).fit(module, max_epochs=3)
    store = experiment.store
    assert experiment.record_of(1).stay == (2, 3, 4)
    kept = [r for _, r in store.records(MetricsRecord) if r.is_candidate and r.epoch == 1]
    assert [(r.candidate, r.verdict) for r in kept] == [(k, "kept") for k in (1, 2, 3, 4)]
    assert kept[1].reasons == ("no other state is as good on all items, and better on one",)
    origins = {r.origin for _, r in store.records(MetricsRecord) if r.is_candidate and r.epoch > 1}
    assert any("-c" in name for name in origins)
    # A run that goes on knows the same states.
    again = SearchLoop(4, 2, selection("frontier"), keep=None)
    Trainer(experiment=experiment, loop=again).fit(module, max_epochs=4)
    known = [*loop._states.pool.states]
    assert [*again._states.pool.states][: len(known)] == known


class Hard(Level):
    """A score for each of two items; the hard one raises in the states named."""

    monitor, mode = "score", "max"

    def __init__(self, raises):
        super().__init__()
        self.raises = raises

    def forward(self, batch):
        return Datum(items=[self.one(item.metadata["at"]) for item in batch.items])

    def one(self, at):
        level = self.level.data
        if at == "hard" and level in self.raises:
            return Datum(error_message="too hard")
        # A state in which it raises is the best one at the easy item.
        easy = 20.0 + level if level in self.raises and level else 10.0
        return Datum(metrics={"score": easy if at == "easy" else level / 10})

    def train_dataloader(self):
        return DataLoader([{"id": at, "at": at} for at in ("easy", "hard")], 2)

    val_dataloader = train_dataloader


def test_a_search_goes_on_from_the_best_state_where_another_has_more_over_fewer_items():
    module, experiment = Hard(raises={0}), Experiment(InMemoryStore())
    for epochs in (2, 3):  # the second run goes on
        trainer = Trainer(experiment=experiment, loop=SearchLoop(2))
        trainer.fit(module, max_epochs=epochs)
    baseline, *others = map(experiment.record_of, range(4))
    assert others[0].metrics["score"] < baseline.metrics["score"]
    assert [record.verdict for record in others] == ["kept"] * 3
    assert [set(record.origins) for record in others] == [{epoch_tag(at)} for at in range(3)]


@pytest.mark.parametrize("select", ["best", "beam:2", "bandit", "tournament", "frontier"])
def test_a_state_in_which_an_item_lost_its_value_does_not_stay(select):
    module, experiment = Hard(raises={2}), Experiment(InMemoryStore())
    loop = SearchLoop(2, 1, selection(select), keep=None)
    Trainer(experiment=experiment, loop=loop).fit(module, max_epochs=1)
    made = experiment.record_of(1)
    assert (made.verdict, made.candidate, made.stay) == ("kept", 1, ())


class Back(Optimizer):
    """The second candidate wins once or twice; then both come to a state that lost beside it."""

    nexts = {0: (1, 2), 2: (1, 3), 3: (1, 1)}  # noqa: RUF012

    def step(self):
        (level,) = self.parameters
        level.data = self.nexts[level.data][self.proposal[0] - 1]
        return Step(f"to {level.data}", "back")


class Seen(Level):
    """It knows what it evaluated; of level 1, no item is measured as often as is said."""

    def __init__(self, outages=0):
        super().__init__()
        self.seen, self.outages = [], outages

    def forward(self, batch):
        if self.training:
            return super().forward(batch)
        level = self.level.data
        self.seen.append(level)
        self.outages -= level == 1
        if level == 1 and self.outages >= 0:
            return Datum(items=[Datum(unmeasured="the judge is away") for _ in batch.items])
        return super().forward(batch)

    def configure_optimizers(self):
        return Back(self.parameters())


def of_search(experiment):
    """Epoch, candidate, outcome and whose results it has, of all candidates."""
    records = [r for _, r in experiment.store.records(MetricsRecord) if r.is_candidate]
    found = {(r.epoch, r.candidate): r for r in records}
    return {key: (r.outcome, r.reused, r.reused_candidate) for key, r in sorted(found.items())}


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_state_that_lost_is_known_when_it_comes_again(last):
    """In one session or two, whose second one knows the states from the records."""
    experiment, seen = Experiment(InMemoryStore()), []
    for epochs in (last, 3):
        module = Seen()
        Trainer(experiment=experiment, loop=SearchLoop(2)).fit(module, max_epochs=epochs)
        seen += module.seen
        experiment.close()
    # Batches; the baseline is measured twice.
    assert Counter(seen) == {0: 4, 1: 2, 2: 2, 3: 2}
    lost = ("repeated", 1, 1)
    assert of_search(experiment) == {
        (1, 1): ("rejected", None, 0),
        (1, 2): ("kept", None, 0),
        (2, 1): lost,
        (2, 2): ("kept", None, 0),
        (3, 1): lost,
        (3, 2): lost,
    }
    record, metrics = experiment.record_of(3), {"accuracy": 0.1}
    assert (record.outcome, record.reused, record.reused_candidate, record.metrics) == (
        *lost,
        metrics,
    )
    assert record.reasons == (
        "the same state as candidate 1 of epoch 1 (rejected), not evaluated again",
    )
    # The results of the state stand in each epoch.
    assert [bool(tree) for tree in experiment.record_of(1).trees] == [True, False]
    module.level.data = 1  # an agent that comes to it is asked once more
    assert experiment.judged_before() == "candidate 1 of epoch 1"
    found, items = experiment.val_of(3)
    assert (dict(found), [item.outcome for item in items]) == (
        metrics,
        ["passed"] + ["failed"] * 9,
    )


class SingleItems(Seen):
    def train_dataloader(self):
        return DataLoader([{"id": f"i{at}", "at": at} for at in range(10)], 1)

    val_dataloader = train_dataloader


def test_a_state_of_which_items_lack_a_result_is_measured_again(monkeypatch):
    experiment, module = Experiment(InMemoryStore()), Seen(outages=1)
    for last in (2, 3):
        trainer = Trainer(experiment=experiment, loop=SearchLoop(2), max_wait_s=0)
        trainer.fit(module, max_epochs=last)
    found = of_search(experiment)
    assert [found[epoch, 1] for epoch in (1, 2, 3)] == [
        ("rejected", None, 0),
        ("rejected", None, 0),
        ("repeated", 2, 1),
    ]
    assert module.seen.count(1) == 4
    # One that was stopped in a race was compared with another state.
    monkeypatch.setattr(Back, "nexts", {0: (7, 8), 8: (1, 9), 9: (1, 10)})
    experiment, module, loop = Experiment(InMemoryStore()), SingleItems(), SearchLoop(2)
    loop.gates = CheapGates(race=True)
    Trainer(experiment=experiment, loop=loop).fit(module, max_epochs=3)
    found = of_search(experiment)
    assert [found[epoch, 1] for epoch in (2, 3)] == [("raced", None, 0)] * 2
    assert 0 < module.seen.count(1) < 20


class Swap(Trade):
    """Its candidates are good at other items than the state that they start from, and worse."""

    def __init__(self):
        super().__init__()
        self.level.data = "ab"

    def configure_optimizers(self):
        return Put(self.parameters())


class Put(Optimizer):
    def step(self):
        self.parameters[0].data = "cd"[self.proposal[0] - 1]
        return Step("put another letter", "put")


def test_a_state_that_stays_beside_the_best_one_does_not_become_the_best():
    module, experiment = Swap(), Experiment(InMemoryStore())
    loop = SearchLoop(2, 1, selection("frontier"), keep=None)
    Trainer(experiment=experiment, loop=loop).fit(module, max_epochs=1)
    record = experiment.record_of(1)
    assert (record.verdict, record.stay, record.best_epoch) == ("rejected", (1, 2), 0)
    assert record.reasons == ("val accuracy 0.500 -> 0.250 is no improvement",)
    assert (record.best, module.level.data) == (0.5, "ab")


class Dice(AutoPilotModule):
    """Each state has scores of its own by chance, a few of which are equal; others are lacking."""

    monitor = "score"

    def __init__(self, seed, mode, path=None):
        super().__init__()
        self.seed, self.mode, self.path = seed, mode, path
        self.word = PathParameter(path) if path else Parameter("")

    def forward(self, batch):
        word = self.path.read_text() if self.path else self.word.data
        return Datum(items=[Datum(metrics=self.score(word, item.id)) for item in batch.items])

    def score(self, word, item):
        drawn = random.Random(f"{self.seed}/{word}/{item}").choice([0.0, 0.25, 0.5, 1.0])
        return {"score": drawn}

    def configure_optimizers(self):
        return Longer(self)

    def val_dataloader(self):
        return [Datum(items=[Datum(id=f"i{at}") for at in range(5)])]


class Longer(Optimizer):
    needs_gradient = False

    def __init__(self, module):
        super().__init__(module.parameters())
        self.module = module

    def step(self):
        letter = "abc"[self.proposal[0] - 1]
        if self.module.path:
            self.module.path.write_text(self.module.path.read_text() + letter)
        else:
            self.module.word.data += letter
        return Step(letter, letter)


class Looks(Callback):
    """Compares the frontier of a loop with all that was ever kept, at the start of each epoch."""

    def __init__(self, loop):
        self.loop, self.looks, self.sizes, self.before = loop, 0, set(), set()

    def on_train_epoch_start(self, trainer, module):
        experiment, sign = trainer.experiment, 1 if module.mode == "max" else -1
        vectors = {}
        for row in experiment.epochs:
            record = experiment.record_of(row.number)
            own = {0: row.revision} if row.is_kept and record.reused is None else {}
            own |= {number: record.revisions[number - 1] for number in record.stay}
            for number, revision in own.items():
                traces = experiment.store.records_on(revision, TraceRecord)
                (trace,) = [t for t in traces if (t.epoch, t.split) == (row.number, "val")]
                scores = {item.id: sign * item.metrics["score"] for item in trace.data()}
                vectors[epoch_tag(row.number, number)] = [scores[key] for key in sorted(scores)]

        def is_dominated(one):
            return any(
                other != one and all(a >= b for a, b in zip(other, one, strict=True))
                for other in vectors.values()
            )

        undominated = {name for name, vector in vectors.items() if not is_dominated(vector)}
        pool = self.loop._states.pool
        assert set(pool.states) == set(vectors)
        assert {state.name for state in pool.frontier.states} == undominated
        if self.before:  # what the epoch before was made from
            assert set(experiment.history[-1].origins) <= self.before
        self.looks, self.before = self.looks + 1, undominated
        self.sizes.add(len(undominated))


def check_frontier(seed, mode, store, path=None):
    """Two sessions, whose second one knows the states from the records."""
    experiment = Experiment(store)
    for last in (2, 4):
        loop = SearchLoop(3, 2, selection("frontier"), keep=None)
        looks = Looks(loop)
        module = Dice(seed, mode, path)
        Trainer([looks], experiment=experiment, loop=loop, seed=seed, measure_noise=False).fit(
            module, max_epochs=last
        )
        experiment.close()
        assert looks.looks == 2
    return looks.sizes


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from(["max", "min"]))
def test_no_state_of_a_runs_frontier_is_dominated(seed, mode):
    check_frontier(seed, mode, InMemoryStore())


def test_no_state_of_a_frontier_in_git_is_dominated(repository):
    path = repository.workdir / "rules" / "a.txt"
    assert max(check_frontier(2, "max", GitStore("demo", path.parent, in_place=False), path)) > 2


class Twice(Selection):
    def choose(self, pool, count, chance):
        return [*pool.states.values()][-1:] * len(pool.states)


def test_an_epoch_whose_parents_cannot_be_chosen_stays_open():
    experiment = Experiment(InMemoryStore())
    with pytest.raises(UserCodeError, match=r"Twice\.choose gave a state twice"):
        Trainer(experiment=experiment, loop=SearchLoop(3, 2, Twice())).fit(Level(), max_epochs=2)
    assert experiment.last_epoch == 1
    whole = Experiment(InMemoryStore())
    for each in (experiment, whole):
        Trainer(experiment=each, loop=SearchLoop(3, 2)).fit(Level(), max_epochs=3)
    first, second = ([r.tree for r in each.store.log()] for each in (experiment, whole))
    assert first == second and len(first) == 4
    narrow = {"proposals": 3, "parents": 3, "selection": selection("beam:2")}
    for wrong in ({"proposals": 0}, {"parents": 2}, {"keep": -1}, narrow):
        with pytest.raises(UsageError):
            SearchLoop(**wrong)


def test_the_best_of_several_candidates_is_kept():
    module, experiment = Level(), Experiment(InMemoryStore())
    trainer = Trainer(experiment=experiment, loop=SearchLoop(3))
    result = trainer.fit(module, max_epochs=3)
    assert module.level.data == 9
    assert (result.epochs, result.kept, result.best) == (3, 3, 0.9)
    store = experiment.store
    line = store.log()
    assert len(line) == 4  # the start, and one revision an epoch
    steps = sorted((r.epoch, r.candidate, r.summary) for _, r in store.records(StepRecord))
    assert steps == [(e, c, f"add {c} of 3") for e in (1, 2, 3) for c in (1, 2, 3)]
    records = [r for _, r in store.records(MetricsRecord) if r.split == "val" and r.candidate]
    own = [r for r in records if not r.candidates and r.epoch == 2]
    assert [(r.candidate, r.verdict, r.metrics["accuracy"], r.origin) for r in own] == [
        (1, "rejected", 0.4, "epoch-0001"),
        (2, "rejected", 0.5, "epoch-0001"),
        (3, "kept", 0.6, "epoch-0001"),
    ]


class Shy(Level):
    """Gets no better from 3 on."""

    def forward(self, batch):
        level = min(self.level.data, 3)
        return Datum(
            items=[Datum(success=level > x.metadata["at"], feedback="more") for x in batch.items]
        )


def trials_of(loop):
    return [(s.name, s.tries, s.gains) for s in loop._states.pool.states.values()]


def test_a_bandit_counts_what_came_of_each_state_and_goes_on_with_the_same_figures():
    experiment, loop = Experiment(InMemoryStore()), SearchLoop(2, 2, selection("bandit"), None)
    Trainer(experiment=experiment, loop=loop).fit(Shy(), max_epochs=4)
    first = experiment.record_of(1)
    assert (first.origins, first.better) == (("epoch-0000", "epoch-0000"), (1, 2))
    assert trials_of(loop) == recorded(experiment, trials_of(loop))
    assert any(tries > gains > 0 for _, tries, gains in trials_of(loop))
    again = SearchLoop(2, 2, selection("bandit"), None)
    Trainer(experiment=experiment, loop=again).fit(Shy(), max_epochs=5)
    assert trials_of(again) == recorded(experiment, trials_of(again))
    assert sum(tries for _, tries, _ in trials_of(again)) == 10


def recorded(experiment, states):
    records = [experiment.record_of(epoch) for epoch in range(1, experiment.last_epoch + 1)]
    tries = Counter(origin for record in records for origin in record.origins)
    gains = Counter(record.origins[number - 1] for record in records for number in record.better)
    return [(name, tries[name], gains[name]) for name, _, _ in states]


def test_an_epoch_with_one_candidate_from_the_best_state_counts_for_a_bandit():
    experiment, loop = Experiment(InMemoryStore()), SearchLoop(1, 1, selection("bandit"))
    Trainer(experiment=experiment, loop=loop).fit(Level(), max_epochs=2)
    assert trials_of(loop) == [("epoch-0000", 1, 1), ("epoch-0001", 1, 1), ("epoch-0002", 0, 0)]


class Turns(Rule):
    """Adds a number: the one that helps helps three times of four."""

    def __init__(self, name):
        self.name = name

    def apply(self, parameter, gradient):
        up = 1 if self.name == "good" and self.attempt % 4 else 0
        parameter.data = round(parameter.data + up + 0.001 * (self.attempt + 1 + len(self.name)), 4)
        return f"{self.name} {self.attempt}"


class Ruled(Level):
    def configure_optimizers(self):
        names = ("bad", "worse", "good", "useless")
        return RuleOptimizer(self.parameters(), [Turns(name) for name in names])


def used_of(loop):
    experiment = Experiment(InMemoryStore())
    Trainer(experiment=experiment, loop=loop).fit(Ruled(30), max_epochs=12)
    steps = [record for _, record in experiment.store.records(StepRecord)]
    return [(step.epoch, step.candidate, step.strategy) for step in steps]


def test_a_bandit_takes_the_strategies_that_gained_and_each_candidate_its_own():
    for loop, tries in ((EpochLoop(), 12), (SearchLoop(2), 24)):
        in_turn = Counter(name for *_, name in used_of(loop))
        assert set(in_turn.values()) == {tries // 4}
        loop.strategies = selection("bandit")
        used = used_of(loop)
        counts = Counter(name for *_, name in used)
        assert len(counts) == 4 and counts["good"] > tries // 4, counts
        # Every one is tried first, in the optimizer's order.
        assert [name for *_, name in used][:4] == ["bad", "worse", "good", "useless"]
        assert used == used_of(loop)
    assert all(len({name for e, _, name in used if e == epoch}) == 2 for epoch in range(1, 13))


class Words(Level):
    """Items ask for letters in a text; a letter twice is wrong."""

    def __init__(self, text="a\n\n\n\nb\n", letters="abxy"):
        super().__init__()
        self.level.data, self.letters = text, letters

    def forward(self, batch):
        count = self.level.data.count
        passed = [count(x.metadata["at"]) == 1 for x in batch.items]
        return Datum(items=[Datum(success=each, feedback="more") for each in passed])

    def configure_optimizers(self):
        return Line(self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": at, "at": at} for at in self.letters], len(self.letters))

    val_dataloader = train_dataloader


class Line(Optimizer):
    """The first proposal adds x to the first line, the second y to the last."""

    def step(self):
        number, of = self.proposal
        lines = self.parameters[0].data.splitlines()
        lines[-(number - 1)] += "xy"[number - 1]
        self.parameters[0].data = "\n".join(lines) + "\n"
        return Step(f"line {number} of {of}", f"line-{number}")


def fitted(module, max_epochs=3, proposals=2, select=None):
    experiment = Experiment(InMemoryStore())
    loop = SearchLoop(proposals, 1, select or selection("frontier"), None, merge=True)
    Trainer(experiment=experiment, loop=loop).fit(module, max_epochs=max_epochs)
    return experiment


def test_two_states_that_are_good_at_different_items_are_merged_line_by_line():
    module = Words()
    experiment = fitted(module)
    assert module.level.data == "ax\n\n\n\nby\n"
    merged = experiment.record_of(2)
    assert (merged.verdict, merged.metrics["accuracy"], merged.candidate) == ("kept", 1.0, 1)
    assert (merged.summary, merged.strategy, merged.is_merge) == (
        "merge of epoch-0001 and epoch-0001-c2",
        "merge",
        True,
    )
    assert merged.parents == ("epoch-0001", "epoch-0001-c2")
    # The optimizer was asked for the other candidate alone, and no train item was paid for.
    steps = [r for _, r in experiment.store.records(StepRecord) if r.epoch == 2]
    assert [(r.candidate, r.summary, r.merged_with) for r in steps] == [
        (1, "merge of epoch-0001 and epoch-0001-c2", "epoch-0001-c2"),
        (2, "line 1 of 1", ""),
    ]
    records = [r for _, r in experiment.store.records(MetricsRecord) if r.is_candidate]
    assert [r.cost.evaluations for r in records if r.epoch == 2] == [4, 8]
    # Neither is there a pair in epoch 3, nor is it forgotten by a run that goes on.
    assert experiment.record_of(3).merged_with == ""
    again = SearchLoop(2, 1, selection("frontier"), None, merge=True)
    Trainer(experiment=experiment, loop=again).fit(module, max_epochs=4)
    assert again._states.pool.merged == {frozenset(("epoch-0001", "epoch-0001-c2"))}
    parents = [s.parents for s in again._states.pool.states.values()]
    assert parents[:4] == [(), ("epoch-0000",), ("epoch-0000",), merged.parents]


class Unmerged(Words):
    def configure_optimizers(self):
        optimizer = Line(self.parameters())
        optimizer.block_strategy("merge")
        return optimizer


@pytest.mark.parametrize("module", [Words("ab\n", "xy"), Unmerged()], ids=["conflict", "blocked"])
def test_states_that_conflict_are_not_merged_nor_any_where_that_is_blocked(module):
    experiment = fitted(module)
    assert {r.merged_with for r in experiment.history} == {""}
    assert any(record.stay for record in experiment.history)


def test_a_merge_needs_states_beside_the_best_one():
    with pytest.raises(UsageError, match="no two to merge") as error:
        SearchLoop(2, merge=True)
    assert "--select frontier" in error.value.hint
    SearchLoop(2, keep=1, merge=True)


class InTurn(Line):
    """Adds x, y or z by turns, each in a line of its own and in place of another letter."""

    turn = 0

    def step(self):
        self.turn += 1
        lines = self.parameters[0].data.splitlines()
        place, old, new = [(0, "a", "x"), (4, "b", "y"), (-1, "c", "z")][self.turn % 3]
        lines[place] = lines[place].replace(old, "") + new
        self.parameters[0].data = "\n".join(lines) + "\n"
        return Step(f"write {new}", new)

    def state_dict(self):
        return {"turn": self.turn}

    def load_state_dict(self, state):
        self.turn = state.get("turn", 0)


class Costly(Words):
    def __init__(self):
        super().__init__("a\n\n\n\nb\n\n\n\nc\n", "abcxyz")

    def configure_optimizers(self):
        return InTurn(self.parameters())


class First(FrontierSelection):
    def choose(self, pool, count, chance):
        return [pool.states["epoch-0000"]]


def test_with_one_proposal_a_merge_follows_a_new_state_and_the_optimizer_keeps_its_turn():
    experiment = fitted(Costly(), 6, proposals=1, select=First())
    history = experiment.history[1:]
    # After the second merge there are two more pairs, which wait for the next state.
    assert [r.strategy for r in history] == ["y", "z", "merge", "x", "merge", "y"]
    assert [r.merged_with != "" for r in history] == [r.strategy == "merge" for r in history]
    assert [r.stay for r in history[:5]] == [(1,)] * 5
