"""Noise: two measurements of the baseline, and what a gain has to show where they differ."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from autopilot.ai.model.recording import request_key
from autopilot.core.aggregates import Latency, Quantile
from autopilot.core.comparison import EpochView, Monitored, averaged
from autopilot.core.experiment import Experiment
from autopilot.core.figures import figure
from autopilot.core.interpreter import seed_of
from autopilot.core.module import AutoPilotModule
from autopilot.core.noise import DefaultPolicy, SignificantImprovement, compare, noise_sentence
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.core.policy import Policy, decide
from autopilot.core.records.record import LlmRecord, MetricsRecord, TraceRecord
from autopilot.core.run import Run, current_run, running
from autopilot.core.search import SearchLoop
from autopilot.core.selection import FrontierSelection
from autopilot.core.statistics import sure_size
from autopilot.core.stopping import Budget
from autopilot.core.store import InMemoryStore
from autopilot.core.trainer import Trainer
from autopilot.core.types import Cost, Datum, Noise
from autopilot.policy import MaxGate
from autopilot.testing import ScriptedOptimizer

ITEMS = 100


class System(AutoPilotModule):
    """Answers `right` of 100 items, each wrongly by chance in a share of the cases.

    Args:
        noise: That share.
        gain: How many more items are right after each step.
        counted: One entry for each item that is evaluated.
    """

    def __init__(self, noise=0.0, gain=0, **more):
        super().__init__()
        self.level = Parameter(0)
        self.noise, self.gain = noise, gain
        self.policy = None
        self.calls_a_model = False
        self.seen = []
        for name, value in more.items():
            setattr(self, name, value)

    def forward(self, batch):
        if self.calls_a_model:
            note_call(f"{self.level.data}-{len(self.seen)}")
        results = []
        for item in batch.items:
            self.seen.append(item.id)
            right = item.metadata["value"] < 40 + self.gain * self.level.data
            flips = random.random() < self.noise
            results.append(Datum(success=right != flips, feedback="look again"))
        return Datum(items=results)

    def train_dataloader(self):
        return [list(range(10))]

    def val_dataloader(self):
        return [list(range(at, at + 20)) for at in range(0, ITEMS, 20)]

    def test_dataloader(self):
        return [list(range(0, ITEMS, 2))]

    def configure_optimizers(self):
        return Up(self.parameters())

    def configure_policy(self):
        return self.policy


class Up(Optimizer):
    def step(self):
        self.parameters[0].data += 1
        # A new name each time: what is tested is not the blocking of strategies.
        return Step(strategy=f"up {self.parameters[0].data} {random.random()}")


def note_call(name):
    run = current_run()
    if not any(call.id == name for call in run.experiment.store.calls()):
        run.experiment.store.note_call(LlmRecord(epoch=run.epoch, id=name, cost=Cost(tokens=5)))


def fit(module, epochs=1, **more):
    trainer = Trainer(**more)
    trainer.fit(module, max_epochs=epochs)
    return trainer


def passes(store, epoch=0, split="val"):
    return [t for _, t in store.records(TraceRecord) if (t.epoch, t.split) == (epoch, split)]


# --- the second measurement ---------------------------------------------------------------------


def test_a_system_without_chance_agrees_with_itself():
    module = System(gain=1)
    trainer = fit(module)
    noise = trainer.experiment.noise
    assert noise == Noise(items=100, smallest=0.01, evaluations=100)
    baseline = trainer.experiment.history[0]
    assert baseline.reasons[1] == (
        "two measurements agree; the smallest gain that the val split can resolve is 0.010"
    )
    # One item more is real.
    assert trainer.experiment.history[1].verdict == "kept"


def test_the_second_measurement_has_other_chance_and_the_first_stays_the_baseline():
    quiet = fit(System(0.2), measure_noise=False).experiment
    loud = fit(System(0.2)).experiment
    assert loud.metrics[0] == quiet.metrics[0]
    first, second = passes(loud.store)
    assert [first.repeat, second.repeat] == [0, 1]
    assert first.items == passes(quiet.store)[0].items
    differing = sum(a != b for a, b in zip(first.items, second.items, strict=True))
    assert 15 < differing < 55
    assert loud.noise.differing == differing
    assert (
        loud.history[0]
        .reasons[1]
        .startswith(
            f"{differing} of 100 items differ: an epoch is kept only where the difference is "
            "significant; the smallest gain that the val split can resolve is 0.1"
        )
    )


def test_where_only_failures_differ_no_gain_counts_that_a_test_could_not_find():
    """Whether an item that fails raised or not is noise, though the accuracy is the same."""

    class Raises(System):
        def forward(self, batch):
            data = super().forward(batch)
            for item in data.items:
                if not item.success and random.random() < 0.5:
                    item.error_message = "no luck"
            return data

    noise = fit(Raises()).experiment.noise
    assert noise.shift == 0 and noise.differing > 0
    assert noise.smallest == pytest.approx(0.05)  # five of a hundred items


def test_what_did_not_gain_is_not_said_to_be_better():
    gate = SignificantImprovement(method="bootstrap")
    before = [Datum(id=str(i), success=i < 4) for i in range(8)]
    for passing, said in ((3, "worse by 0.125"), (4, "the same"), (5, "better by 0.125")):
        now = [Datum(id=str(i), success=i < passing) for i in range(8)]
        view = EpochView(
            1,
            {"val": {"accuracy": passing / 8}},
            {},
            {"val": {"accuracy": 0.5}},
            monitor="accuracy",
            items=now,
            best_items=before,
        )
        reason = gate.check(view).reason
        assert f"val success {said} on average over 8 items" in reason
        assert ("may be chance" in reason) == (passing > 4)


def test_it_counts_as_evaluations_but_not_as_what_an_epoch_takes():
    trainer = fit(System(), epochs=0)
    assert trainer.experiment.history[0].cost.evaluations == 200
    assert trainer.evaluations_per_epoch() == 100


def test_where_all_items_differ():
    module = System()
    module.forward = lambda batch: Datum(
        items=[Datum(metrics={"score": random.random()}) for _ in batch.items]
    )
    module.monitor = "score"
    trainer = fit(module)
    assert trainer.experiment.history[0].reasons[1].startswith("all 100 items differ: ")


@pytest.mark.parametrize(
    ("module", "more", "why"),
    [
        (System(calls_a_model=True), {}, "the evaluation calls a model (--measure-noise)"),
        (System(), {"callbacks": [Budget(evaluations=250)]},
         "the budget is too small for a second measurement"),
    ],
)  # fmt: skip
def test_why_it_is_left_out(module, more, why):
    trainer = fit(module, epochs=0, **more)
    assert trainer.experiment.noise == Noise(smallest=0.01, skipped=why)
    assert trainer.experiment.history[0].reasons[1].startswith(f"noise not measured: {why}; ")
    assert len(module.seen) == 100


def test_it_can_be_asked_for_and_switched_off():
    asked = System(calls_a_model=True)
    assert fit(asked, epochs=0, measure_noise=True).experiment.noise.items == 100
    off = System(0.2)
    trainer = fit(off, epochs=0, measure_noise=False)
    assert trainer.experiment.noise is None
    assert trainer.experiment.history[0].reasons == ("measured before anything changed",)
    assert len(off.seen) == 100


def test_a_repeat_is_part_of_a_model_calls_name():
    with running(Run(Experiment())) as run:
        plain = request_key({"model": "m"})
        with run.repeating(1):
            again = request_key({"model": "m"})
            sampled = request_key({"model": "m"}, 2)
    assert (again, sampled) == (f"{plain}-r1", f"{plain}-2-r1")
    assert request_key({"model": "m"}) == plain


def test_callbacks_hear_of_one_pass_and_the_module_of_each():
    class Hearing(System):
        def on_validation_start(self):
            self.heard.append("start")

    class Told(Up):
        pass

    from autopilot.core.callback import Callback

    class Listener(Callback):
        def __init__(self):
            self.told = Counter()

        def on_validation_end(self, trainer, module):
            self.told[trainer.callback_metrics["val"]["accuracy"]] += 1

    module, listener = Hearing(0.2, heard=[]), Listener()
    trainer = fit(module, epochs=0, callbacks=[listener])
    assert module.heard == ["start", "start"]
    assert listener.told == {trainer.experiment.metrics[0]["val"]["accuracy"]: 1}


@pytest.mark.parametrize("dies_at", [60, 100, 120, 180, 199])
def test_a_kill_in_the_second_measurement_costs_nothing_twice(dies_at):
    whole = fit(System(0.2))

    class Dying(System):
        def forward(self, batch):
            if len(self.seen) >= dies_at:
                raise KeyboardInterrupt
            return super().forward(batch)

    store = InMemoryStore()
    first, second = Dying(0.2), System(0.2)
    with pytest.raises(KeyboardInterrupt):
        fit(first, experiment=Experiment(store))
    resumed = fit(second, experiment=Experiment(store))
    assert len(first.seen) + len(second.seen) == 200 + 10 + 100
    assert resumed.experiment.noise == whole.experiment.noise
    for kind in (MetricsRecord, TraceRecord):
        ours, theirs = (
            [getattr(r, "metrics", None) or r.items for _, r in s.records(kind)]
            for s in (store, whole.experiment.store)
        )
        assert ours == theirs


# --- what follows for the verdict ----------------------------------------------------------------


def test_the_default_policy_follows_what_was_found_also_after_a_resume():
    store = InMemoryStore()
    fit(System(0.2), epochs=0, experiment=Experiment(store))
    resumed = fit(System(0.2, gain=1), epochs=8, experiment=Experiment(store))
    history = resumed.experiment.history[1:]
    gained = [r for r in history if r.verdict == "rejected" and (r.gain or 0) > 0]
    assert gained
    for record in gained:
        assert record.reasons[0].startswith("indecisive: val accuracy ")
        assert "; this split can resolve 0.1" in record.reasons[0]


def test_a_policy_of_the_users_own_stays():
    trainer = fit(System(0.2, policy=Policy()), epochs=8)
    assert (
        trainer.experiment.history[0]
        .reasons[1]
        .startswith(
            f"{trainer.experiment.noise.differing} of 100 items differ: the experiment's own policy"
        )
    )
    assert not any(
        reason.startswith("indecisive")
        for record in trainer.experiment.history
        for reason in record.reasons
    )
    assert any((record.gain or 0) > 0 for record in trainer.experiment.history[1:])


def timings(rng, epoch, faster=0.0, items=250):
    """Items, each with a time of its own, measured with noise that has a long tail."""
    means = random.Random("items")
    return [
        Datum(
            id=str(n),
            success=True,
            epoch=epoch,
            metrics={
                "latency_s": means.uniform(0.1, 0.5) * (1 - faster) * rng.lognormvariate(0, 0.3)
            },
        )
        for n in range(items)
    ]


MEAN = Monitored("latency_s")
TAIL = Monitored("latency", (Latency(), ""))


def judged(monitored, items, best, noise, epoch):
    values = [{"val": {monitored.name: monitored.over(each)}} for each in (items, best)]
    view = EpochView(
        epoch, values[0], {}, values[1], monitored.name, "min", items=items, best_items=best,
        monitored=monitored, noise=noise,
    )  # fmt: skip
    return decide(DefaultPolicy(), view)


@pytest.mark.parametrize(
    ("monitored", "climbs"),
    [(MEAN, True), (MEAN, False), (TAIL, False)],
    ids=["mean, as a run does", "mean, against the baseline", "tail, against the baseline"],
)
def test_a_change_that_changes_nothing_is_kept_in_at_most_5_percent_of_500_epochs(
    monitored, climbs
):
    rng = random.Random(3)
    # A metric of the whole split is computed anew for each draw.
    size = 30 if monitored is MEAN else 25
    best, second = timings(rng, 0, items=size), timings(rng, 0, items=size)
    noise = compare([best, second], monitored)
    assert noise.is_noisy
    assert noise.differing == size
    kept = indecisive = 0
    for epoch in range(1, 501):
        if not climbs:
            # The baseline is drawn anew too: one that was lucky would decide all the epochs.
            best = timings(rng, 0, items=size)
        items = timings(rng, epoch, items=size)
        decision = judged(monitored, items, best, noise, epoch)
        kept += decision.kept
        indecisive += decision.reasons[0].startswith("indecisive")
        if decision.kept and climbs:
            best = items
    assert kept <= 25
    assert indecisive > (0 if climbs else 150)


@pytest.mark.parametrize("monitored", [MEAN, TAIL], ids=["mean", "tail"])
def test_a_real_improvement_is_kept(monitored):
    rng, kept = random.Random(5), 0
    # A metric of the whole split is computed anew for each draw.
    tries = 20 if monitored is MEAN else 10
    size = 250 if monitored is MEAN else 80
    for epoch in range(1, tries + 1):
        best, second = timings(rng, 0, items=size), timings(rng, 0, items=size)
        noise = compare([best, second], monitored)
        kept += judged(monitored, timings(rng, epoch, 0.25, size), best, noise, epoch).kept
    assert kept >= 0.9 * tries


def test_the_same_through_the_loop():
    """500 epochs of a system with chance, whose changes change nothing."""
    kept = 0
    for seed in range(10):
        trainer = fit(System(0.2), epochs=50, seed=seed)
        kept += sum(record.verdict == "kept" for record in trainer.experiment.history)
    assert kept <= 25
    better = fit(System(0.1, gain=25), epochs=2)
    assert [record.verdict for record in better.experiment.history[1:]] == ["kept", "kept"]


def test_plain_improvement_would_keep_far_more():
    rng = random.Random(3)
    plain = 0
    for epoch in range(1, 101):
        best, items = timings(rng, 0), timings(rng, epoch)
        plain += judged(MEAN, items, best, None, epoch).kept
    assert plain > 35


def test_a_shift_of_all_items_is_no_gain():
    """Where a whole pass is faster than another one, the items are no evidence of their own."""
    best = [Datum(id=str(n), metrics={"s": 1.0 + n / 100}) for n in range(50)]
    second = [Datum(id=str(n), metrics={"s": 0.9 + n / 100}) for n in range(50)]
    noise = Noise(50, 50, shift=0.1, smallest=0.1)
    decision = judged(Monitored("s"), second, best, noise, 1)
    assert decision.reasons == (
        "indecisive: val s 1.245 -> 1.145, two measurements of the baseline were 0.1 apart; "
        "this split can resolve 0.1",
    )
    assert compare([best, second], Monitored("s")).differing == 50


@pytest.mark.parametrize(("items", "candidates"), [(100, 1), (5, 1), (24, 4), (8, 8)])
def test_the_smallest_gain_is_found_in_80_of_100_tries(items, candidates):
    """By each of several candidates, which share what chance may pass; and by a few items."""
    rng = random.Random(11)
    size = sure_size(0.035 / candidates, items) / items**0.5
    gate, found = SignificantImprovement(method="bootstrap"), 0
    for epoch in range(150):
        best = [Datum(id=str(n), metrics={"s": 0.0}) for n in range(items)]
        now = [Datum(id=str(n), metrics={"s": rng.gauss(size, 1)}) for n in range(items)]
        values = [{"val": {"s": Monitored("s").over(side)}} for side in (now, best)]
        view = EpochView(epoch, values[0], {}, values[1], "s", items=now, best_items=best)
        found += gate.check(replace(view, candidates=candidates)).passed
    assert 0.72 < found / 150 < 0.9


def test_with_several_candidates_the_smallest_gain_is_what_each_has_to_show():
    rng = random.Random(2)
    several = [timings(rng, 0, items=40), timings(rng, 0, items=40)]
    alone, among = (compare(several, MEAN, candidates=n) for n in (1, 4))
    factors = sure_size(0.035 / 4, 40) / sure_size(0.035, 40)
    assert among.smallest == pytest.approx(alone.smallest * factors)
    said = "the smallest gain that the val split can resolve among 4 candidates is "
    assert noise_sentence(among).endswith(said + figure(among.smallest))
    few = compare([each[:6] for each in several], MEAN, candidates=4)
    assert noise_sentence(few) == (
        "all 6 items differ: none of 4 candidates can be kept, 6 val items are too few to tell any "
        "gain from chance; it takes 7 at least"
    )


def test_what_could_not_be_measured_says_nothing_about_noise():
    first = [Datum(id="a", success=True), Datum(id="b", success=True)]
    second = [Datum(id="a", unmeasured="no answer"), Datum(id="b", success=True)]
    assert compare([first, second], Monitored("accuracy")) == Noise(items=1)


@pytest.mark.parametrize("items", [4, 5])
def test_where_items_are_too_few_for_any_gain_it_is_said(items):
    """Even an epoch in which each of four items gains is one of 16 that chance gives."""
    first = [Datum(id=str(n), metrics={"s": 1.0}) for n in range(items)]
    second = [Datum(id=str(n), metrics={"s": 1.1}) for n in range(items)]
    better = [Datum(id=str(n), metrics={"s": 0.1}) for n in range(items)]
    noise = compare([first, second], Monitored("s"))
    too_few = (
        "all 4 items differ: no epoch can be kept, 4 val items are too few to tell any gain from "
        "chance; it takes 5 at least"
    )
    assert (noise_sentence(noise) == too_few) == (items == 4)
    assert judged(Monitored("s"), better, first, noise, 1).kept == (items == 5)
    assert "the experiment's own policy decides" in noise_sentence(noise, default=False)


# --- repeats -------------------------------------------------------------------------------------


def test_each_val_item_is_measured_several_times_and_the_mean_decides():
    module = System(0.2)
    trainer = fit(module, repeat=3)
    experiment = trainer.experiment
    assert Counter(Counter(module.seen).values())[3 * 2] >= 90
    for epoch in (0, 1):
        recorded = passes(experiment.store, epoch)
        assert [trace.repeat for trace in recorded] == [0, 1, 2]
        shares = [sum(item["success"] for item in trace.items) / 100 for trace in recorded]
        assert experiment.metrics[epoch]["val"]["accuracy"] == pytest.approx(sum(shares) / 3)
        spread = f"3 measurements: accuracy {min(shares):.3f} to {max(shares):.3f}"
        assert spread in experiment.history[epoch].reasons
        assert experiment.history[epoch].repeat == 3
    # What of the baseline is compared are the three.
    assert experiment.history[0].cost.evaluations == 300
    assert experiment.noise.measurements == 3
    assert experiment.noise.differing == sum(
        len({each["success"] for each in item}) > 1
        for item in zip(*(t.items for t in passes(experiment.store)), strict=True)
    )


def test_noise_that_only_a_later_repeat_shows_is_noise():
    """Where the first two agree by chance, the verdict must not take any gain for real."""

    class LateNoise(System):
        def forward(self, batch):
            data = super().forward(batch)
            if current_run().repeat == 2 and not self.training:
                data.items[-1].success = not data.items[-1].success
            return data

    experiment = fit(LateNoise(), epochs=0, repeat=3).experiment
    assert (experiment.noise.differing, experiment.noise.measurements) == (5, 3)
    assert experiment.history[0].reasons[1].startswith("5 of 100 items differ: ")
    quiet = fit(System(), epochs=0, repeat=3).experiment
    assert quiet.history[0].reasons[1].startswith("3 measurements agree; ")


def test_more_repeats_resolve_less():
    once, nine = (fit(System(0.2), epochs=0, repeat=n).experiment.noise for n in (1, 9))
    assert nine.smallest < once.smallest / 2


def test_a_resumed_run_compares_with_the_means():
    store = InMemoryStore()
    first = fit(System(0.2), epochs=0, repeat=3, experiment=Experiment(store))
    experiment = Experiment(store)
    experiment.open([Parameter(0)])
    assert experiment.best_items == first.experiment.best_items
    assert {item.metrics["accuracy"] for item in experiment.best_items} <= {0, 1 / 3, 2 / 3, 1}


def test_means_are_not_flattered_by_what_is_missing():
    good = Datum(id="a", success=True, metrics={"score": 1.0})
    bad = Datum(id="a", error_message="it raised")
    (mean,) = averaged([[good], [bad]])
    assert (mean.outcome, mean.metrics) == ("error", {})
    (half,) = averaged([[good], [Datum(id="a", success=False, metrics={"score": 0.0})]])
    assert (half.outcome, half.metrics) == ("failed", {"score": 0.5, "accuracy": 0.5})


class Clock(AutoPilotModule):
    """One val item with a number that differs from measurement to measurement."""

    monitor, mode = "seconds", "min"

    def __init__(self, script=()):
        super().__init__()
        self.level, self.script = Parameter(9.0), list(script)

    def forward(self, batch):
        (item,) = batch.items
        seconds = self.level.data + random.random() / 10
        return Datum(items=[Datum(id=item.id, metrics={"seconds": seconds}, feedback="slow")])

    def val_dataloader(self):
        return [[{"id": "bench"}]]

    def configure_optimizers(self):
        return ScriptedOptimizer(self.parameters(), self.script)


def test_the_measurements_of_a_single_item_are_the_items():
    store = InMemoryStore()
    trainer = Trainer(repeat=5, experiment=Experiment(store))
    trainer.fit(Clock([("the same", 9.0), ("faster", 8.0), ("slower", 8.5)]), max_epochs=3)
    experiment, noise = trainer.experiment, trainer.experiment.noise
    assert [record.verdict for record in experiment.history] == [
        "baseline", "rejected", "kept", "rejected",
    ]  # fmt: skip
    assert (noise.items, noise.differing, noise.repeats) == (5, 0, True)
    said = experiment.history[0].reasons[1]
    assert said.startswith("5 measurements differ by ")
    assert "an epoch is kept only where the difference is significant" in said
    assert "on average over 5 measurements" in " ".join(experiment.history[3].reasons)
    ids = ["bench", "bench-2", "bench-3", "bench-4", "bench-5"]
    assert [item.id for item in experiment.best_items] == ids
    # A resumed run, and whoever reads the notes, has the same ones; feedback is on their mean.
    again = Experiment(store)
    again.open([Parameter(0)])
    assert list(again.best_items) == list(experiment.best_items)
    metrics, (mean,) = again.val_of(again.best_epoch)
    assert mean.metrics == metrics == experiment.metrics[2]["val"]


def test_too_few_measurements_of_one_noisy_number_keep_nothing():
    trainer = Trainer(repeat=2)
    trainer.fit(Clock(), max_epochs=0)
    said = trainer.experiment.history[0].reasons[1]
    assert said.startswith("two measurements differ by ")
    assert said.endswith(
        "no epoch can be kept, two are too few to tell any gain from chance; --repeat 5"
    )


def test_one_noisy_number_is_measured_five_times_where_nothing_else_was_asked_for():
    steps = [("faster", 8.0), ("the same", 8.0001), ("slower", 8.5), ("faster again", 7.0)]
    asked = Trainer(repeat=5)
    asked.fit(Clock(steps), max_epochs=4)
    store = InMemoryStore()
    Trainer(experiment=Experiment(store)).fit(Clock(steps), max_epochs=2)
    # A resumed run measures as often.
    resumed = Trainer(experiment=Experiment(store))
    resumed.fit(Clock(steps), max_epochs=4)
    for trainer in (asked, resumed):
        history = trainer.experiment.history
        assert [record.repeat for record in history] == [5] * 5
        verdicts = ["baseline", "kept", "rejected", "rejected", "kept"]
        assert [record.verdict for record in history] == verdicts
    assert [r.metrics for r in resumed.experiment.history] == [
        r.metrics for r in asked.experiment.history
    ]
    # A policy of one's own, and a number that does not change, are measured as before.
    own = Trainer(policy=Policy([MaxGate("seconds", 20)]))
    own.fit(Clock(), max_epochs=0)
    assert own.experiment.history[0].repeat == 1
    assert len(passes(own.experiment.store)) == 2


class Chance(Clock):
    """One val item whose number is chance alone, and of every state another."""

    def __init__(self, draw, seed):
        super().__init__()
        self.draw, self.own = draw, random.Random(seed)

    def forward(self, batch):
        metrics = {"seconds": 10 + self.draw(self.own)}
        return Datum(items=[Datum(id=batch.items[0].id, metrics=metrics, feedback="slow")])

    def configure_optimizers(self):
        return Apart(self.parameters())


class Apart(Up):
    """Gives each candidate of an epoch a state of its own."""

    def step(self):
        self.parameters[0].data += self.proposal[0] / 10
        return super().step()


DRAWS = {
    "normal": lambda own: own.gauss(0, 1),
    "skewed": lambda own: own.lognormvariate(0, 1),
    "with heavy tails": lambda own: own.gauss(0, 1) / own.gauss(0, 1),
}


def test_eight_candidates_of_one_noisy_number_are_measured_so_often_that_chance_keeps_5_percent():
    """Measured five times, as one alone is, one of the eight was kept in a sixth of the epochs."""
    kept, repeats = 0, set()
    for draw in DRAWS.values():
        for seed in range(20):
            loop = SearchLoop(8) if seed % 2 else SearchLoop(8, 1, FrontierSelection(), keep=None)
            trainer = fit(Chance(draw, seed), seed=seed, loop=loop)
            kept += trainer.experiment.best_epoch
            repeats.add(trainer.experiment.history[1].repeat)
    assert kept <= 0.05 * 60
    assert repeats == {8}


def test_seeds():
    assert seed_of(7, 0) == 7
    assert len({seed_of(seed, repeat) for seed in range(5) for repeat in range(5)}) == 25


# --- the test split ------------------------------------------------------------------------------


def test_the_test_split_is_scored_on_baseline_and_best():
    module = System(gain=15)
    trainer = fit(module, epochs=3)
    module.seen.clear()
    result = trainer.test(module)
    assert len(module.seen) == 100
    assert trainer.experiment.metrics[0]["test"]["accuracy"] == 0.40
    assert result.metrics["test"]["accuracy"] == trainer.experiment.metrics[3]["test"]["accuracy"]
    assert (result.test.before, result.test.after) == (0.40, 0.86)
    assert 0.25 < result.test.low < 0.46 < result.test.high < 0.65
    assert trainer.experiment.summary().test == result.test
    assert module.level.data == 3
    assert [len(passes(trainer.experiment.store, epoch, "test")) for epoch in (0, 3)] == [1, 1]


@pytest.mark.parametrize("lower", [True, False])
def test_a_metric_of_the_whole_split_has_an_interval_too(lower):
    class Timed(System):
        def __init__(self):
            super().__init__(gain=15)
            self.worst = Quantile("s", 0.9)

        def forward(self, batch):
            data = super().forward(batch)
            for item, given in zip(data.items, batch.items, strict=True):
                place = given.metadata["value"] / 100
                item.metrics["s"] = place + (
                    1 / (1 + self.level.data) if lower else self.level.data
                )
            return data

    module = Timed()
    trainer = fit(module, epochs=1, monitor="worst", mode="min" if lower else "max")
    gain = trainer.test(module).test
    size = abs(gain.after - gain.before)
    assert size == pytest.approx(0.5 if lower else 1)
    # All items gained the same: whichever are drawn, the metric gained that.
    assert (gain.low, gain.high) == (pytest.approx(size), pytest.approx(size))


def test_where_nothing_was_better_it_is_scored_once():
    module = System()
    trainer = fit(module, epochs=1)
    module.seen.clear()
    result = trainer.test(module)
    assert len(module.seen) == 50
    assert (result.test.before, result.test.after, result.test.low) == (0.4, 0.4, None)


@pytest.mark.parametrize("dies_at", [0, 50])
def test_a_kill_while_the_test_split_is_scored_is_repaired(dies_at):
    store = InMemoryStore()
    module = System(gain=15)
    fit(module, epochs=2, experiment=Experiment(store))

    class Dying(System):
        def test_step(self, batch):
            if len(self.tested) * 50 >= dies_at:
                raise SystemError("killed") from KeyboardInterrupt()
            self.tested.append(1)
            return self(batch)

    def killed(batch):
        if len(tested) * 50 >= dies_at:
            raise KeyboardInterrupt
        tested.append(1)
        return module.forward(batch)

    tested = []
    module.test_step = killed
    trainer = Trainer(experiment=Experiment(store))
    trainer.fit(module, max_epochs=2)
    with pytest.raises(KeyboardInterrupt):
        trainer.test(module)
    assert module.level.data == 2

    again = System(gain=15)
    trainer = Trainer(experiment=Experiment(store))
    trainer.fit(again, max_epochs=2)
    again.seen.clear()
    assert trainer.test(again).test.before == 0.4
    assert len(again.seen) == 100 - dies_at
    assert trainer.result().test.after == 0.7


def test_a_new_best_is_scored_alone():
    store = InMemoryStore()
    for epochs, evaluated in ((1, 100), (2, 50)):
        module = System(gain=15)
        trainer = fit(module, epochs=epochs, experiment=Experiment(store))
        module.seen.clear()
        result = trainer.test(module)
        assert len(module.seen) == evaluated
        assert result.test.before == 0.4
