"""Outages: which failures they are, how they are waited for, and that they leave no trace."""

import itertools
import random
import threading
import time
from types import SimpleNamespace

import pytest

from autopilot.core import outages
from autopilot.core.callback import Callback
from autopilot.core.configuration import ChainLoss
from autopilot.core.evaluation import Evaluator
from autopilot.core.experiment import Experiment
from autopilot.core.gradient import Gradient
from autopilot.core.items import as_batch
from autopilot.core.loss import Loss
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.outages import Outages, infrastructure_in, transient_errors_of
from autopilot.core.parameter import Parameter
from autopilot.core.progress import Position
from autopilot.core.records.history import History
from autopilot.core.records.index import Index
from autopilot.core.records.ledger import Ledger, Limits
from autopilot.core.records.record import MetricsRecord
from autopilot.core.run import Run, running
from autopilot.core.stopping import Budget
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum
from autopilot.errors import (
    AgentError,
    AgentNotFoundError,
    AgentReplyError,
    AgentTimeoutError,
    BudgetExceededError,
    ConfinementError,
    ModelCallError,
    ModuleError,
    NoCreditError,
    NoKeyError,
    NoModelError,
    OutageError,
    ReplayMissError,
    UsageError,
)


class DatabaseDownError(Exception):
    """As a driver raises it."""


@pytest.fixture
def clock(monkeypatch):
    """A clock that only pauses move; `pauses` are those that were made."""
    clock = SimpleNamespace(now=0.0, pauses=[])

    def sleep(seconds):
        clock.pauses.append(seconds)
        clock.now += seconds

    fake = SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr(outages, "time", fake)
    return clock


def raised(work):
    try:
        work()
    except BaseException as error:  # noqa: BLE001  # it is what is looked at
        return error
    raise AssertionError("nothing was raised")


def wrapped(error):
    def work():
        try:
            raise error
        except Exception as caught:
            raise RuntimeError("could not classify") from caught

    return raised(work)


def replaced(error, by):
    def work():
        try:
            raise error
        except Exception:  # noqa: BLE001
            raise by  # noqa: B904  # a library that says nothing of the cause

    return raised(work)


def silenced(error):
    def work():
        try:
            raise error
        except Exception:  # noqa: BLE001
            raise ValueError("no label") from None

    return raised(work)


# --- what is one ---------------------------------------------------------------------------------

TRANSIENT = [
    ConnectionError("gone"),
    ConnectionRefusedError(111, "refused"),
    BrokenPipeError("pipe"),
    TimeoutError("late"),
    DatabaseDownError("no route"),
    *[ModelCallError("down", status=status) for status in (0, 408, 429, 500, 502, 503, 504, 529)],
    wrapped(ConnectionError("gone")),
    wrapped(ModelCallError("down", status=529)),
    replaced(ConnectionRefusedError("refused"), OSError("urlopen error")),
    replaced(ModelCallError("down", status=503), SystemExit(1)),
    ExceptionGroup("tasks", [ConnectionError("a"), ExceptionGroup("inner", [TimeoutError("b")])]),
]
FINAL = [
    NoKeyError("no key"),
    NoCreditError("no credit"),
    NoModelError("no model"),
    AgentNotFoundError("no program"),
    ReplayMissError("not recorded"),
    wrapped(NoKeyError("no key")),
]
NEITHER = [
    ValueError("no number"),
    OSError("no such file"),
    silenced(ConnectionError("gone")),
    replaced(ConnectionError("gone"), KeyboardInterrupt()),
    replaced(ConnectionError("gone"), ConfinementError("a step changed your files")),
    AgentError("ended with code 1"),
    AgentTimeoutError("took too long"),
    AgentReplyError("no JSON"),
    *[ModelCallError("wrong", status=status) for status in (400, 413, 422)],
    ExceptionGroup("tasks", [ConnectionError("a"), ValueError("b")]),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
def test_what_does_not_answer_is_waited_for(error):
    answers = iter([error, error])

    def work():
        for each in answers:
            raise each
        return "answered"

    assert Outages(9, (DatabaseDownError,)).max_wait_s == 9
    assert infrastructure_in(error, (DatabaseDownError,)) is not None
    with pytest.raises(OutageError, match="no answer: "):
        Outages(0, (DatabaseDownError,)).wait_out(work)
    assert next(answers) is error


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_what_no_waiting_mends_ends_the_run_as_what_it_is(error, clock):
    found = infrastructure_in(error)

    def work():
        raise error

    with pytest.raises(type(found)) as caught:
        Outages(60).wait_out(work)
    assert caught.value is found and clock.pauses == []


@pytest.mark.parametrize("error", NEITHER, ids=repr)
def test_what_says_something_about_the_system_is_raised_as_it_is(error, clock):
    def work():
        raise error

    assert infrastructure_in(error) is None
    with pytest.raises(type(error)) as caught:
        Outages(60).wait_out(work)
    assert caught.value is error and clock.pauses == []


def test_an_error_that_leads_to_itself_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert infrastructure_in(first) is None


@pytest.mark.parametrize("given", [("psycopg",), (ValueError(),), "psycopg", None, (int,)])
def test_what_is_no_exception_type_is_refused_before_anything_is_run(given):
    module = Adder()
    module.transient_errors = given
    with pytest.raises(ModuleError, match=r"Adder.transient_errors has .*, which is no exception"):
        Trainer(max_wait_s=0).fit(module, max_epochs=1)
    assert module.asked == 0


def test_one_type_needs_no_tuple():
    module = Adder()
    module.transient_errors = DatabaseDownError
    assert transient_errors_of(module) == (DatabaseDownError,)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_time_to_wait_is_a_number_from_0(seconds):
    with pytest.raises(UsageError, match="max_wait_s must be 0 or more"):
        Trainer(max_wait_s=seconds)


# --- waiting -------------------------------------------------------------------------------------


def failing(times, error=None):
    """Work that answers after some failures."""
    count = itertools.count(1)

    def work():
        if next(count) <= times:
            raise error or ConnectionError("gone")
        return "answered"

    return work


def test_pauses_grow_to_a_minute(clock):
    assert Outages(1000).wait_out(failing(9)) == "answered"
    assert clock.pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_it_is_waited_for_no_longer_than_asked_for(clock):
    with pytest.raises(OutageError) as caught:
        Outages(10).wait_out(failing(99))
    assert clock.pauses == [1, 2, 4, 3]
    assert caught.value.message == "no answer: ConnectionError: gone (waited for 10 s)"
    assert caught.value.hint == "wait until it answers"


def test_after_some_progress_it_is_a_new_outage(clock):
    done = []

    def work():
        if len(clock.pauses) in (3, 5):
            done.append("a part")
        if len(clock.pauses) < 8:
            raise TimeoutError
        return "answered"

    assert Outages(10).wait_out(work, progress=lambda: len(done)) == "answered"
    assert clock.pauses == [1, 2, 4, 1, 2, 1, 2, 4]


def test_what_failed_is_undone_before_the_pause(clock):
    told = []
    call = lambda moment, value: told.append((moment, value))  # noqa: E731
    tried = failing(2)

    def work():
        told.append("try")
        return tried()

    Outages(60, call=call).wait_out(work, undo=lambda: told.append("undo"))
    reason = "ConnectionError: gone"
    assert told == [
        "try",
        "undo",
        ("on_outage", outages.Waiting(reason, 1, 0, 60)),
        "try",
        "undo",
        ("on_outage", outages.Waiting(reason, 2, 1, 60)),
        "try",
        ("on_outage_end", 3),
    ]


def test_a_budget_of_time_ends_the_waiting(clock):
    ledger = Ledger(Limits(seconds=0.2))
    with pytest.raises(BudgetExceededError, match=r"time budget: 0\.2 s spent"):
        Outages(1000).wait_out(failing(99), ledger=ledger)
    (pause,) = clock.pauses
    assert pause <= 0.2


def test_a_reason_is_one_line_without_secrets(clock, monkeypatch):
    monkeypatch.setenv("DATABASE_PASSWORD", "correct-horse-battery")
    error = ConnectionError("cannot log in\nwith correct-horse-battery")
    with pytest.raises(OutageError) as caught:
        Outages().wait_out(failing(1, error))
    assert "correct-horse" not in caught.value.message and "\n" not in caught.value.message


# --- in a run ------------------------------------------------------------------------------------


class Bump(Optimizer):
    """Adds one to the level; asks a service in the middle of its edit."""

    def __init__(self, module):
        super().__init__(module.parameters())
        self.ask, self.made = module.ask, 0

    def step(self):
        self.made += 1
        self.parameters[0].data += 1
        chance = random.random()
        self.ask("step")
        self.parameters[0].data += 1
        return Step(f"step {self.made} {chance}", "bump")

    def state_dict(self):
        return {"made": self.made}

    def load_state_dict(self, state):
        self.made = state["made"]


class Asking(Loss):
    """Asks a service in each of its parts."""

    def __init__(self, module, judges):
        super().__init__()
        self.module, self.judges = module, judges

    def forward(self, data, targets):
        if not self.judges:
            self.module.ask("forward")
        return super().forward(data, targets)

    def score(self, data, targets):
        for item in data.leaves() if self.judges else ():
            chance = random.random()
            self.module.ask("score")
            item.metrics["chance of the judge"] = chance


class Adder(AutoPilotModule):
    """Items pass below the level; each place asks a service, which may be down."""

    def __init__(self, down=(), kind=ConnectionError):
        super().__init__()
        self.level = Parameter(1)
        self.down, self.kind = dict.fromkeys(down, 1), kind
        self.asked, self.lock = 0, threading.Lock()

    def ask(self, place):
        with self.lock:
            self.asked += 1
            if self.down.get(place, 0) > 0:
                self.down[place] -= 1
                raise self.kind(f"{place} is down")

    def forward(self, batch):
        return Datum(items=[self.answer(item) for item in batch.items])

    def answer(self, item):
        number = item.metadata["number"]
        chance = random.random()
        self.ask(f"{'train' if self.training else 'val'} {number} of {self.level.data}")
        if number == 1:
            raise ValueError("always wrong")
        return Datum(success=number < self.level.data, metrics={"chance": chance}, feedback="more")

    def backward(self, gradient, inputs, output):
        passed = super().backward(gradient, inputs, output)
        self.ask("backward")
        return passed

    def configure_loss(self):
        return [Asking(self, judges=True), Loss(), Asking(self, judges=False)]

    def configure_optimizers(self):
        return Bump(self)

    def train_dataloader(self):
        return [[{"id": f"{name}{n}", "number": n} for n in range(3)] for name in "ab"]

    def val_dataloader(self):
        return [[{"id": f"i{n}", "number": n} for n in (base, base + 1)] for base in (0, 2, 4)]


def fit(module, **options):
    trainer = Trainer(seed=5, **options)
    return trainer, trainer.fit(module, max_epochs=2)


def story(trainer):
    """All that a run comes to, without times."""
    store = trainer.experiment.store
    return (
        [(r.tree, r.message) for r in store.log()],
        [(r.metrics, r.verdict, r.reasons, r.state) for r in trainer.experiment.history],
        [r.gradients for r in trainer.experiment.history if hasattr(r, "gradients")],
        [lesson.outcome for lesson in trainer.experiment.memory.kept()],
    )


@pytest.fixture(scope="module")
def whole():
    return story(fit(Adder())[0])


PLACES = ["val 0 of 1", "val 3 of 1", "train 2 of 1", "val 4 of 3", "forward", "backward"]
PLACES += ["step", "score"]


@pytest.mark.parametrize("place", PLACES)
def test_an_outage_that_ends_leaves_no_trace(place, whole, clock):
    module = Adder([place])
    trainer, result = fit(module, max_wait_s=60)
    assert module.down == {place: 0} and clock.pauses == [1]
    assert story(trainer) == whole and not result.interrupted


@pytest.mark.parametrize("place", PLACES)
def test_an_outage_that_stays_leaves_the_epoch_open_to_go_on_exactly(place, whole, clock):
    module = Adder([place])
    module.down[place] = 5
    trainer = Trainer(seed=5, max_wait_s=1)
    with pytest.raises(OutageError, match=f"{place} is down"):
        trainer.fit(module, max_epochs=2)
    noted = len(trainer.experiment.history)
    module.down[place] = 0
    again = Adder()
    experiment = trainer.experiment
    trainer = Trainer(seed=5, experiment=experiment)
    trainer.fit(again, max_epochs=2)
    assert noted <= 1 + (place == "val 4 of 3")
    assert story(trainer) == whole


def test_types_that_the_module_lists_are_waited_for(whole, clock):
    module = Adder(["val 3 of 1"], DatabaseDownError)
    module.transient_errors = (DatabaseDownError,)
    assert story(fit(module, max_wait_s=60)[0]) == whole
    unlisted = Adder(["val 3 of 1"], DatabaseDownError)
    trainer, _ = fit(unlisted, max_wait_s=60)
    assert story(trainer) != whole and clock.pauses == [1]


def test_callbacks_hear_of_it(clock):
    heard = []

    class Hears(Callback):
        def on_outage(self, trainer, module, waiting):
            heard.append(waiting.reason)

        def on_outage_end(self, trainer, module, waited_s):
            heard.append(waited_s)

    fit(Adder(["step"]), max_wait_s=60, callbacks=Hears())
    assert heard == ["ConnectionError: step is down", 1]


def test_a_budget_of_time_ends_a_run_that_waits_and_it_can_go_on(whole):
    module = Adder(["val 4 of 3"])
    module.down["val 4 of 3"] = 99
    trainer = Trainer(seed=5, callbacks=Budget(seconds=0.3))
    result = trainer.fit(module, max_epochs=2)
    assert result.interrupted and "time budget" in result.stop_reason
    trainer = Trainer(seed=5, experiment=trainer.experiment)
    trainer.fit(Adder(), max_epochs=2)
    assert story(trainer)[0] == whole[0]


def test_a_test_split_and_a_validation_wait_too(clock):
    module = Adder(["val 2 of 1"])
    module.test_dataloader = module.val_dataloader
    assert Trainer(max_wait_s=5).validate(module).metrics["val"]["accuracy"] == 1 / 6
    module.down = {"val 2 of 1": 9}
    with pytest.raises(OutageError):
        Trainer(max_wait_s=5).test(module)
    assert clock.pauses == [1, 1, 2, 2]


def test_threads_do_only_again_what_was_not_done(clock):
    module = Adder(["train 4 of 1"])
    experiment = Experiment()
    experiment.open(module.parameters())
    evaluator = Evaluator(module, experiment, 7, num_workers=2)
    batch = as_batch([{"id": f"i{n}", "number": n} for n in range(8)])
    with running(Run(experiment, outages=Outages(60))):
        data = evaluator.run(Position("train", 0, 0), batch)
    evaluator.close()
    assert [item.outcome for item in data.items] == ["passed", "error", *["failed"] * 6]
    assert module.asked == 9 and clock.pauses == [1]
    assert evaluator.failures.raised_of("train") == 1


def test_what_goes_on_in_threads_does_not_run_beside_its_repetition(clock):
    running_now, most = [], []

    class Slow(Adder):
        def answer(self, item):
            number = item.metadata["number"]
            assert number not in running_now
            running_now.append(number)
            most.append(len(running_now))
            time.sleep(0.05 * number)
            running_now.remove(number)
            self.ask(f"item {number}")
            return Datum(success=True)

    module = Slow(["item 0"])
    experiment = Experiment()
    experiment.open(module.parameters())
    evaluator = Evaluator(module, experiment, 7, num_workers=4)
    batch = as_batch([{"id": f"i{n}", "number": n} for n in range(4)])
    with running(Run(experiment, outages=Outages(60))):
        data = evaluator.run(Position("val", 0, 0), batch)
    evaluator.close()
    assert [item.outcome for item in data.items] == ["passed"] * 4
    assert max(most) > 1


def test_a_loss_goes_back_to_its_mark():
    parameter = Parameter(0)
    data = Datum(success=False, feedback="more")
    for loss in (Loss([parameter]), ChainLoss([Loss([parameter]), Loss([parameter])])):
        parameter.grad = None
        loss(data)
        back = loss.mark([parameter])
        loss(data)
        loss.backward()
        assert parameter.grad is not None
        back()
        assert parameter.grad is None
        loss.backward()
        once: Gradient = parameter.grad
        assert once.render().count("more") == 1


# --- what was measured while something was unmeasured --------------------------------------------


class Judged(Adder):
    """An item's verdict cannot be read while the judge stutters."""

    def __init__(self, stutters):
        super().__init__()
        self.stutters = stutters

    def answer(self, item):
        number = item.metadata["number"]
        if self.stutters.get((self.level.data, number, self.training), 0):
            self.stutters[self.level.data, number, self.training] -= 1
            return Datum(unmeasured="the judge stutters")
        return Datum(success=number < self.level.data, feedback="more")

    def configure_optimizers(self):
        module = self

        class BackAndForth(Optimizer):
            def step(self):
                self.parameters[0].data = 3 if module.level.data == 1 else 1
                return Step("back and forth", "other")

        return BackAndForth(self.parameters())

    def configure_loss(self):
        return Loss()


def test_a_state_with_unmeasured_items_is_measured_again():
    module = Judged({(3, 0, False): 1, (3, 3, False): 2})
    trainer = Trainer(monitor="accuracy", max_epochs=3)
    trainer.fit(module)
    history = trainer.experiment.history
    assert [record.unmeasured for record in history[:2]] == [0, 2]
    again = [r for r in history[2:] if r.tree == history[1].tree]
    assert again and again[0].reused is None and again[0].unmeasured == 1


def test_a_whole_measurement_takes_the_place_of_one_with_gaps():
    def known(*unmeasured):
        records = [
            MetricsRecord(
                epoch=n, split="val", metrics={"a": n}, verdict="rejected", tree="t", unmeasured=u
            )
            for n, u in enumerate(unmeasured)
        ]
        history = History(lambda revision: records)
        history.load_history(Index().take(("revision", record) for record in records))
        found = history.known("t", [])
        return None if found is None else found.epoch

    assert [known(0), known(2), known(2, 1), known(2, 0), known(0, 3)] == [0, None, None, 1, 0]
