"""The memory's contract in this process, alone and with a store."""

import random
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopilot.core.experiment import Experiment
from autopilot.core.gradient import Gradient, TextGradient
from autopilot.core.memory import Memory, Trend
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.core.policy import Decision
from autopilot.core.records.learnt import FailureCount
from autopilot.core.records.record import Lesson, Manifest
from autopilot.core.rules import ChainOptimizer, Rule, RuleOptimizer
from autopilot.core.store import InMemoryStore
from autopilot.errors import UsageError
from autopilot.testing import MemoryContract


class TestMemory(MemoryContract):
    @pytest.fixture(autouse=True)
    def stores(self):
        self.made: dict[Path, InMemoryStore] = {}

    def make_memory(self, folder, block_after=3):
        store = self.made.get(folder)
        if store is None:
            store = self.made[folder] = InMemoryStore()
            store.bind([])
            store.begin(Manifest(slug="in-memory"))
        return Memory(block_after, store=store)

    def test_doing_nothing_in_a_row_blocks(self, tmp_path):
        memory = self.make_memory(tmp_path)
        outcomes = ["unchanged", "failed", "kept", "unchanged", "failed"]
        for epoch, outcome in enumerate(outcomes, 1):
            memory.learn(lesson(epoch, "guess", outcome))
            assert memory.blocked() == {}
        memory.learn(lesson(6, "other", "unchanged"))
        memory.learn(lesson(7, "guess", "repeated"))
        assert memory.blocked() == {}
        memory.learn(lesson(8, "guess", "unchanged"))
        assert memory.blocked() == {"guess": "did nothing 3 times in a row"}

    def test_new_states_block_by_their_rate_of_failure(self, tmp_path):
        memory = self.make_memory(tmp_path)
        for epoch in range(1, 60):
            memory.learn(lesson(epoch, "guess", "rejected" if epoch % 30 else "kept"))
            assert memory.blocked() == {}
        memory.learn(lesson(60, "guess", "rejected"))
        assert memory.blocked() == {"guess": "none of its last 30 tries was kept"}
        memory.learn(lesson(61, "guess", "kept"))
        assert memory.blocked() == {}

    def test_repeating_a_state_never_blocks(self, tmp_path):
        memory = self.make_memory(tmp_path, block_after=1)
        for epoch in range(1, 50):
            memory.learn(lesson(epoch, "guess", "repeated"))
        assert memory.blocked() == {}

    def test_how_many_failures_block_is_a_choice(self, tmp_path):
        memory = self.make_memory(tmp_path, block_after=1)
        memory.learn(lesson(1, "idle", "unchanged"))
        assert memory.blocked() == {"idle": "did nothing"}
        memory = self.make_memory(tmp_path, block_after=0)
        for epoch in range(2, 100):
            memory.learn(lesson(epoch, "idle", "unchanged"))
            memory.learn(lesson(epoch, "guess", "rejected"))
        assert memory.blocked() == {}
        memory.block_strategy("guess", "too risky")
        assert memory.blocked() == {"guess": "too risky"}
        memory.reconsider(2)
        assert list(memory.blocked()) == ["idle", "guess"]

    def test_a_step_without_a_strategy_blocks_nothing(self, tmp_path):
        memory = self.make_memory(tmp_path)
        for epoch in range(1, 6):
            memory.learn(lesson(epoch, "", "unchanged"))
        assert memory.blocked() == {}

    def test_each_strategy_of_a_combined_one_counts(self, tmp_path):
        memory = self.make_memory(tmp_path, block_after=2)
        memory.learn(lesson(1, "prune + guess", "unchanged"))
        memory.learn(lesson(2, "guess", "unchanged"))
        assert list(memory.blocked()) == ["guess"]
        assert memory.context().tried == {"prune": 1, "guess": 2}
        assert [lesson.epoch for lesson in memory.recall(strategy="prune")] == [1]
        assert [lesson.epoch for lesson in memory.recall(strategy="guess")] == [2, 1]

    def test_blocking_by_hand(self, tmp_path):
        memory = self.make_memory(tmp_path)
        memory.learn(lesson(1, "guess", "rejected"))
        memory.block_strategy("delete everything", "too risky")
        memory.block_strategy("guess")
        assert memory.blocked() == {"delete everything": "too risky", "guess": "blocked by hand"}
        memory.unblock("guess")
        assert list(memory.blocked()) == ["delete everything"]

    def test_unblocking_forgets_the_failures(self, tmp_path):
        memory = self.make_memory(tmp_path)
        for epoch in (1, 2, 3):
            memory.learn(lesson(epoch, "guess", "unchanged"))
        assert list(memory.blocked()) == ["guess"]
        memory.unblock("guess")
        memory.learn(lesson(4, "guess", "unchanged"))
        assert memory.blocked() == {}

    def test_recall_filters_newest_first(self, tmp_path):
        memory = self.make_memory(tmp_path)
        for epoch in range(1, 7):
            memory.learn(
                Lesson(
                    epoch=epoch,
                    id=str(epoch),
                    strategy="even" if epoch % 2 == 0 else "odd",
                    outcome="kept" if epoch == 4 else "rejected",
                    category="billing" if epoch < 4 else "login",
                    node="retriever" if epoch == 5 else "",
                    experiment="e1" if epoch < 6 else "e2",
                )
            )

        def epochs(**filters):
            return [found.epoch for found in memory.recall(**filters)]

        assert epochs() == [6, 5, 4, 3, 2, 1]
        assert epochs(strategy="even") == [6, 4, 2]
        assert epochs(outcome="kept") == [4]
        assert epochs(category="billing") == [3, 2, 1]
        assert epochs(node="retriever") == [5]
        assert epochs(epochs=range(2, 4)) == [3, 2]
        assert epochs(experiment="e2") == [6]
        assert epochs(strategy="odd", outcome="rejected", limit=2) == [5, 3]
        assert epochs(strategy="odd", category="nothing") == []

    def test_trends_are_of_the_latest_epochs(self, tmp_path):
        memory = self.make_memory(tmp_path)
        assert memory.trends().direction == "unknown"
        memory.learn(lesson(1, "a", "kept", delta=0.5))
        memory.learn(lesson(2, "a", "rejected", delta=-0.25))
        memory.block_strategy("b")
        trend = memory.trends()
        assert (trend.direction, trend.rate, trend.kept) == ("improving", 0.25, 0.5)
        assert memory.trends(window=1).direction == "flat"

    def test_the_context_is_what_an_optimizer_should_know(self, tmp_path):
        memory = self.make_memory(tmp_path)
        for epoch in range(1, 9):
            memory.learn(lesson(epoch, "guess", "failed", summary=f"guess {epoch}"))
        memory.learn(lesson(9, "prune", "kept", delta=0.125))
        context = memory.context(limit=2)
        assert context.tried == {"guess": 8, "prune": 1}
        assert [lesson.epoch for lesson in context.failures] == [8, 7]
        assert context.blocked == {"guess": "did nothing 8 times in a row"}
        assert context.trend.direction == "improving"
        said = context.render().splitlines()
        assert said[0] == "tried: guess (8x), prune (1x)"
        assert said[1].startswith("failed: guess: guess 8")
        assert said[-1] == "blocked: guess: did nothing 8 times in a row"


def test_without_a_store_lessons_last_as_long_as_the_memory():
    memory = Memory()
    memory.learn(Lesson(epoch=1, strategy="guess", outcome="kept"))
    memory.load(memory.kept())
    assert [lesson.strategy for lesson in memory.lessons] == ["guess"]


def test_a_lesson_that_was_learnt_takes_as_little_memory_as_its_line():
    memory, many = Memory(), 2000
    tracemalloc.start()
    try:
        for n in range(many):
            lesson = Lesson(epoch=n, strategy="guess", outcome="kept", summary=f"guess {n}")
            memory.learn(lesson)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert [lesson.summary for lesson in memory.lessons] == [f"guess {n}" for n in range(many)]
    assert size < 160 * many  # an object of each would take 230


def test_block_after_is_no_negative_number():
    with pytest.raises(ValueError, match="block_after must be 0 or more, not -1"):
        Memory(block_after=-1)


OUTCOMES = st.sampled_from(["kept", "rejected", "unchanged", "repeated", "failed"])


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "a + b", ""]), OUTCOMES)), st.integers(1, 4))
def test_blocked_is_exactly_what_did_nothing_last_often_enough(told, block_after):
    memory = Memory(block_after)
    for epoch, (strategy, outcome) in enumerate(told, 1):
        memory.learn(Lesson(epoch=epoch, strategy=strategy, outcome=outcome))
    for name in ("a", "b"):
        used = [outcome for strategy, outcome in told if name in strategy and outcome != "repeated"]
        since = used[len(used) - used[::-1].index("kept") :] if "kept" in used else used
        idle = max(len(row) for row in "".join(o[0] for o in since).replace("u", "f").split("r"))
        assert (name in memory.blocked()) == (idle >= block_after or len(since) >= 10 * block_after)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_a_strategy_that_succeeds_now_and_then_is_hardly_ever_blocked(rate):
    chance, blocked = random.Random(0), 0
    for _ in range(400):
        memory = Memory()
        for epoch in range(1, 41):
            kept = chance.random() < rate
            memory.learn(Lesson(epoch=epoch, strategy="s", outcome="kept" if kept else "rejected"))
            if memory.blocked():
                blocked += 1
                break
    assert blocked <= 400 * 0.02


def test_recall_of_a_hundred_thousand_is_quick():
    memory = Memory()
    memory.load(
        [
            Lesson(epoch=n, strategy=f"s{n % 50}", outcome="rejected", category=f"c{n % 7}")
            for n in range(100_000)
        ]
    )
    started = time.process_time()
    found = memory.recall(strategy="s3", category="c3", epochs=range(50_000))
    assert time.process_time() - started < 0.2
    assert found[0].epoch == 49703
    assert len(found) == len([n for n in range(50_000) if n % 50 == 3 and n % 7 == 3])


def lesson(epoch, strategy="guess", outcome="rejected", **fields):
    return Lesson(epoch=epoch, id=str(epoch), strategy=strategy, outcome=outcome, **fields)


def memory_of(*lessons, block_after=100):
    memory = Memory(block_after)
    for each in lessons:
        memory.learn(each)
    return memory


# --- trends ------------------------------------------------------------------------------------


def test_the_rate_is_what_the_best_value_gained_by_epoch():
    memory = memory_of(
        lesson(1, outcome="kept", delta=0.1, value=0.6),
        lesson(2, delta=-0.05, value=0.55),
        lesson(3, outcome="kept", delta=0.2, value=0.8),
        lesson(4, outcome="unchanged"),
    )
    trend = memory.trends()
    assert trend.direction == "improving"
    assert trend.rate == pytest.approx((0.8 - 0.5) / 4)
    assert (trend.kept, trend.epochs, trend.best) == (0.5, 4, 0.8)
    assert trend.projection(4) == pytest.approx(1.1)
    assert memory.trends(window=1).direction == "flat"
    assert memory.trends(window=2).rate == pytest.approx(0.1)


def test_where_lower_is_better_a_gain_lowers_the_projection():
    memory = memory_of(lesson(1, outcome="kept", delta=2.0, value=8.0, mode="min"))
    assert memory.trends().direction == "improving"
    assert memory.trends().projection(3) == 2.0


@pytest.mark.parametrize(("mode", "best"), [("max", 0.7), ("min", 0.5)])
def test_the_best_before_a_rejected_epoch_is_told_by_its_delta(mode, best):
    memory = memory_of(lesson(1, delta=-0.1, value=0.6, mode=mode))
    assert memory.trends().best == best


def test_a_policy_that_keeps_worse_epochs_is_seen_to_worsen():
    memory = memory_of(lesson(1, outcome="kept", delta=-0.25, value=0.5))
    assert memory.trends().direction == "worsening"
    assert memory.trends().projection(2) == 0.0


def test_without_epochs_nothing_is_projected():
    memory = memory_of()
    memory.block_strategy("guess")
    memory.record("guess", "kept")
    assert memory.trends() == Trend("unknown", 0.0, 0.0)
    assert memory.trends().projection(5) is None
    assert Trend("flat", 0.0, 0.0, 3).projection(5) is None


# --- context -----------------------------------------------------------------------------------


def test_failures_are_counted_by_strategy_and_category():
    memory = memory_of(
        lesson(1, "guess", category="billing"),
        lesson(2, "guess", category="billing", outcome="failed"),
        lesson(3, "guess", category="login"),
        lesson(4, "prune", outcome="kept", category="login"),
        lesson(5, "prune + guess", category="login", outcome="unchanged"),
        lesson(6, "guess", category="login", outcome="repeated"),
    )
    assert memory.context(limit=2).top_failures == (
        FailureCount("guess", "login", 2, memory.lessons[4]),
        FailureCount("guess", "billing", 2, memory.lessons[1]),
    )
    assert [f.count for f in memory.context(limit=9).top_failures] == [2, 2, 1]
    assert [x.epoch for x in memory.context(limit=2).failures] == [5, 3]


def test_untried_is_what_the_optimizer_names_and_never_did():
    memory = memory_of(lesson(1, "guess"))
    memory.block_strategy("shout")
    context = memory.context(strategies=["guess", "shout", "prune", "ask"])
    assert context.untried == ("prune", "ask")
    assert context.tried == {"guess": 1}
    assert memory.context().untried == ()


def test_the_context_reads_well():
    memory = memory_of(
        lesson(1, outcome="kept", delta=0.5, value=0.5, summary="add a word"),
        lesson(2, summary="drop a word", reason="no improvement", category="billing"),
        lesson(3, summary="drop two words", category="billing"),
    )
    memory.block_strategy("shout", "too loud")
    assert memory.context(strategies=["ask"]).render().splitlines() == [
        "tried: guess (3x)",
        "not tried yet: ask",
        "failed: guess: drop two words",
        "failed: guess: drop a word (no improvement)",
        "fails most: guess on billing (2x)",
        "trend: improving, +0.1667 an epoch over the last 3 epochs, 33% kept",
        "blocked: shout: too loud",
    ]
    assert memory_of().context().render() == "tried: nothing"


def test_what_a_person_records_counts_but_for_trends():
    memory = memory_of(lesson(7, outcome="unchanged"), block_after=2)
    made = memory.record("guess", "failed", reason="tried last year", category="billing")
    assert (made.epoch, made.by_hand) == (7, True)
    assert memory.blocked() == {"guess": "did nothing 2 times in a row"}
    assert memory.recall(category="billing") == [made]
    assert memory.trends().epochs == 1
    assert memory.record("guess", "failed").id > made.id


# --- what optimizers are told ------------------------------------------------------------------


class Shout(Rule):
    def __init__(self, name):
        self.name = name

    def apply(self, parameter, gradient):
        parameter.data += "!"
        return "shout"


def test_rule_optimizers_name_their_strategies():
    x = Parameter("hi")
    rules = RuleOptimizer([x], [Shout("a"), Shout("b")])
    assert list(rules.strategies()) == ["a", "b"]
    chain = ChainOptimizer([rules, RuleOptimizer([x], [Shout("c")]), Optimizer([x])])
    assert list(chain.strategies()) == ["a", "b", "c"]


def test_every_optimizer_of_a_chain_is_given_the_context():
    seen = []

    class Look(Optimizer):
        def step(self):
            seen.append((self.context, set(self.blocked)))

    x = Parameter(0)
    chain = ChainOptimizer([Look([x]), Look([x])])
    chain.context, chain.blocked = memory_of(lesson(1)).context(), {"guess"}
    chain.step()
    assert seen == [(chain.context, {"guess"})] * 2


def test_lessons_say_what_the_feedback_was_about():
    class Add(Optimizer):
        def step(self):
            for parameter in self.parameters:
                parameter.data += 1
            return Step("add", "add")

    x, y, z = Parameter(0), Parameter(0), Parameter(0)
    x.name, y.name, z.name = "retriever.x", "answerer.y", "top"
    optimizer, experiment = Add([x, y, z]), Experiment()
    experiment.open(optimizer.parameters)
    metrics = {"val": {"accuracy": 0.5}}
    experiment.on_epoch_complete(0, metrics, Decision("baseline", ()))
    x.grad = TextGradient("find more", "billing", 0.5).accumulate(
        TextGradient("find less", "login", 0.9)
    )
    z.grad = Gradient("anything")
    experiment.commit_step(optimizer, 1, 1, optimizer.step())
    experiment.on_epoch_complete(1, {"val": {"accuracy": 0.75}}, Decision("kept", ()))
    (made,) = experiment.memory.lessons
    assert (made.category, made.node) == ("login", "retriever")
    assert (made.value, made.delta, made.mode, made.experiment) == (0.75, 0.25, "max", "in-memory")
    assert experiment.memory.recall(node="retriever") == [made]


# --- many --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many():
    memory = Memory()
    memory.load(
        Lesson(
            epoch=n,
            strategy=f"s{n % 50}",
            outcome="kept" if n % 10 == 0 else "rejected",
            category=f"c{n % 7}",
            node=f"n{n % 3}",
            experiment=f"e{n % 11}",
            delta=0.001,
        )
        for n in range(100_000)
    )
    return memory


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({"strategy": "s3"}, lambda n: n % 50 == 3),
        ({"outcome": "kept", "category": "c2"}, lambda n: n % 10 == 0 and n % 7 == 2),
        ({"node": "n1", "experiment": "e4"}, lambda n: n % 3 == 1 and n % 11 == 4),
        ({"epochs": range(70_000, 70_050)}, lambda n: 70_000 <= n < 70_050),
        (
            {"strategy": "s3", "category": "c3", "epochs": range(50_000)},
            lambda n: n % 50 == 3 and n % 7 == 3 and n < 50_000,
        ),
        ({"strategy": "never"}, lambda n: False),
        ({}, lambda n: True),
    ],
)
def test_recall_among_a_hundred_thousand_finds_exactly_what_fits_at_once(many, filters, fits):
    started = time.process_time()
    found = many.recall(**filters)
    seconds = time.process_time() - started
    assert [x.epoch for x in found] == [n for n in range(99_999, -1, -1) if fits(n)]
    assert seconds < 0.2


def test_a_context_does_not_read_a_hundred_thousand_lessons(many):
    started = time.process_time()
    for _ in range(20):
        context = many.context(strategies=["s1", "new"])
    assert time.process_time() - started < 0.2
    assert context.untried == ("new",)
    assert context.tried["s1"] == 2000
    assert [x.epoch for x in context.failures] == [99_999, 99_998, 99_997, 99_996, 99_995]


# --- decisions and summary ---------------------------------------------------------------------


class Script(Optimizer):
    def __init__(self, parameters, strategies):
        super().__init__(parameters)
        self.names = iter(strategies)

    def step(self):
        self.parameters[0].data += 1
        return Step("do it", next(self.names))


def judged(values, strategies):
    x = Parameter(0)
    optimizer, experiment = Script([x], strategies), Experiment()
    experiment.open([x])
    best = values[0]
    for epoch, value in enumerate(values):
        if epoch:
            experiment.commit_step(optimizer, epoch, 1, optimizer.step())
        better = value > best
        decision = Decision("baseline" if not epoch else "kept" if better else "rejected", ())
        best = value if better else best
        experiment.on_epoch_complete(epoch, {"val": {"f1": value}}, decision, monitor="f1")
    return experiment


def test_a_summary_tells_what_it_came_to():
    experiment = judged([0.25, 0.5, 0.5, 0.75], ["add", "prune", "add + ask"])
    experiment.on_loop_complete("stopped", "enough")
    summary = experiment.summary()
    assert (summary.slug, summary.epochs, summary.kept) == ("in-memory", 3, 2)
    assert (summary.baseline, summary.best, summary.gain) == (0.25, 0.75, 0.5)
    assert (summary.best_epoch, summary.monitor) == (3, "f1")
    assert summary.metrics == {"val": {"f1": 0.75}}
    told = {name: (tally.kept, tally.used) for name, tally in summary.strategies.items()}
    assert told == {"add": (2, 2), "prune": (0, 1), "ask": (1, 1)}
    assert summary.ended == "stopped"
    assert summary.started.endswith("+00:00")
    assert summary.decision is None


def test_the_latest_decision_holds():
    experiment = judged([0.25, 0.5], ["add"])
    experiment.decide("reject", "too slow", "Ada", epoch=0)
    experiment.decide("promote", "fast now", "Charles")
    decision = experiment.summary().decision
    assert (decision.decision, decision.detail, decision.reviewer) == (
        "promote",
        "fast now",
        "Charles",
    )
    assert (decision.epoch, decision.revision) == (1, experiment.revision_of(1))


def test_a_decision_is_one_of_two_and_about_an_epoch_that_was_judged():
    experiment = judged([0.25], [])
    with pytest.raises(UsageError, match="'maybe' is no decision"):
        experiment.decide("maybe")
    with pytest.raises(UsageError, match="has no judged epoch 4"):
        experiment.decide("promote", epoch=4)
    assert experiment.summary().decision is None


def test_a_store_checks_out_kept_epochs_only():
    experiment = judged([0.25, 0.5, 0.5], ["add", "prune"])
    (x,) = experiment.store._parameters
    experiment.store.checkout(0)
    assert x.data == 0
    experiment.store.checkout(1)
    assert x.data == 1
    with pytest.raises(Exception, match="has no kept epoch 2") as caught:
        experiment.store.checkout(2)
    assert caught.value.hint == "kept epochs: 0, 1"


def test_what_is_no_lesson_is_refused() -> None:
    memory = Memory()
    with pytest.raises(UsageError, match="'great' is no outcome") as caught:
        memory.learn(Lesson(epoch=1, strategy="s", outcome="great"))  # type: ignore[arg-type]
    assert caught.value.hint.startswith("one of: kept, rejected")
    with pytest.raises(UsageError, match="a lesson's delta is nan"):
        memory.learn(Lesson(epoch=1, strategy="s", outcome="kept", delta=float("nan")))
    assert memory.lessons == []


def test_epochs_by_first_and_last() -> None:
    memory = Memory()
    for epoch in range(1, 7):
        memory.learn(Lesson(epoch=epoch, strategy="s", outcome="kept"))
    assert [x.epoch for x in memory.recall(epochs=(2, 4))] == [4, 3, 2]
    memory.block_strategy("s")
    memory.unblock_strategy("s")
    assert memory.blocked() == {}


# --- strategies to choose among -----------------------------------------------------------------


def test_strategies_are_arms_with_their_tries_and_gains():
    memory = memory_of(
        lesson(1, "add", "kept", delta=0.1, value=0.6),
        lesson(2, "add + cut"),
        lesson(3, "cut"),
        lesson(4, "odd", "kept"),
    )
    memory.block_strategy("odd")
    counts = {
        x.name: (x.tries, x.gains) for x in memory.arms(["cut", "new", "add", "odd"]).ranked()
    }
    # The share of gains counts, little where there were few tries; what is blocked is no arm.
    assert list(counts.items()) == [("new", (0, 0)), ("add", (2, 1)), ("cut", (2, 0))]
    free = memory.arms().states
    assert {name: (x.tries, x.gains) for name, x in free.items()} == {
        "add": (2, 1),
        "cut": (2, 0),
        "": (3, 2),  # a name that was new: three times, and two of these names gained
    }
