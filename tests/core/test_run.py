"""The run in progress: the epoch's account, its notes, and the reason to stop."""

import gc

import pytest

from autopilot.core.callback import Callback, Hooks
from autopilot.core.experiment import Experiment
from autopilot.core.records.ledger import Ledger, Limits
from autopilot.core.run import EpochMeter, Run, current_run, freeze, running, say
from autopilot.core.types import Cost


def test_the_meter_adds_up_steps_evaluations_and_calls_and_takes_the_time_itself(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("autopilot.core.run.time.monotonic", lambda: now[0])
    ledger = Ledger()
    meter = EpochMeter(ledger)
    assert meter.seconds() == 0
    meter.start(before_s=5.0)
    now[0] += 10
    # The time that a step took is part of the epoch's.
    meter.add(Cost(tokens=7, seconds=3.0))
    meter.add(Cost(evaluations=4))
    ledger.charge("judge", Cost(tokens=2, cost_usd=0.5), known=True, judged=False)
    assert meter.cost() == Cost(evaluations=4, tokens=9, cost_usd=0.5, seconds=15.0)
    now[0] += 1
    assert meter.cost() == Cost(evaluations=4, tokens=9, cost_usd=0.5, seconds=16.0)
    meter.start(before_s=0.0)
    assert meter.cost() == Cost()


def test_an_epoch_starts_with_nothing_and_the_reason_to_stop_stays():
    run = Run(Experiment())
    run.start_epoch(1)
    run.note("the judge gave no score")
    run.note("the judge gave no score")
    run.metrics["val"] = {"accuracy": 0.5}
    run.stop("enough")
    run.stop("the first reason counts")
    assert run.notes == ["the judge gave no score"]
    run.start_epoch(2)
    assert (run.epoch, run.notes, run.metrics, run.decision) == (2, [], {}, None)
    assert run.stop_reason == "enough"


def test_what_is_left_of_the_budget_is_said_in_shares():
    run = Run(Experiment(), Ledger(Limits(tokens=100, calls=10)))
    assert run.left() == "Left of the budget: 100% of the tokens, 100% of the model calls."
    assert Run(Experiment()).left() == ""


def test_a_run_is_found_inside_only_and_a_repeat_ends_with_its_body():
    run = Run(Experiment())
    with running(run):
        assert current_run() is run
        say("a service is slow")
        with pytest.raises(ZeroDivisionError), run.repeating(2):
            assert run.repeat == 2
            raise ZeroDivisionError
    assert (current_run(), run.repeat, run.notes) == (None, 0, ["a service is slow"])


def test_hooks_call_callbacks_in_order_and_keep_their_states_apart():
    class Counts(Callback):
        def __init__(self, name):
            self.name, self.count = name, 0

        def on_fit_start(self, trainer, module):
            self.count += 1
            seen.append((self.name, trainer, module))

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    seen, first, second = [], Counts("a"), Counts("b")
    hooks = Hooks("trainer", None, [first, Callback(), second])
    hooks.call("on_fit_start")
    assert seen == [("a", "trainer", None), ("b", "trainer", None)]
    second.count = 5
    assert hooks.states() == {"Counts": {"count": 1}, "Counts#2": {"count": 5}}
    hooks.load_states({"Counts#2": {"count": 8}})
    assert (first.count, second.count) == (1, 8)


@pytest.mark.parametrize(
    ("own", "inside"), [(700, (10_000, 10, 50)), (50_000, (50_000, 7, 7)), (0, (0, 7, 7))]
)
def test_cycles_are_looked_for_less_often_during_a_run_unless_the_user_says_so(own, inside):
    before = gc.get_threshold()
    try:
        gc.set_threshold(own, 7, 7)
        with running(Run(Experiment())):
            assert gc.get_threshold() == inside
        assert gc.get_threshold() == (own, 7, 7)
    finally:
        gc.set_threshold(*before)


def test_no_search_for_cycles_goes_through_what_was_there_before_a_run(monkeypatch):
    gc.unfreeze()
    monkeypatch.setattr("autopilot.core.run._is_frozen", False)
    try:
        with running(Run(Experiment())):
            assert gc.get_freeze_count() > 10_000
            gc.collect()
            assert len(gc.get_objects()) < 1_000
            with running(Run(Experiment())):
                pass
            assert gc.get_freeze_count() > 10_000
        assert not gc.get_freeze_count()
        freeze()
        with running(Run(Experiment())):
            pass
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.freeze()  # as it was
