"""An item's process and the run's: the same bytes, between two runs in one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from runs import make_run

from autopilot.ai.model.recording import StoreRecorder, gathered, make_record
from autopilot.core.records.ledger import Spent
from autopilot.core.run import Run
from autopilot.core.types import Cost, Datum
from autopilot.engine.relay import (
    Desk,
    ask_parent,
    pack_error,
    pickled,
    unpack_error,
    unpickled,
    unsent,
)
from autopilot.errors import BudgetExceededError, RemoteError


class Named(Exception):
    def __init__(self, number: int, *, name: str) -> None:
        super().__init__(f"{name} {number}")
        self.name, self.lock = name, threading.Lock()


@pytest.fixture
def desk() -> Iterator[tuple[Run, Desk, Run]]:
    """The run, its desk, and the run of an item's process, which asks it."""
    parent, child = make_run(calls=2, tokens=100), make_run()
    desk = Desk(parent)
    ask_parent(child, desk.answer_to)
    yield parent, desk, child
    desk.close()


def test_what_both_processes_have_is_sent_as_a_reference() -> None:
    module, rules = threading.Lock(), ["a"]  # a lock cannot be copied
    value = {"by": [module, rules], "own": ["a"]}
    found = unpickled(pickled(value, [module, rules]), [module, rules])
    assert found == value
    assert found["by"][0] is module
    assert found["by"][1] is rules
    assert found["own"] is not value["own"]


def test_texts_leave_a_machine_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_TOKEN", "n0-of-the-node")
    held, item = ["n0-of-the-node"], Datum(feedback="use n0-of-the-node", metadata={"held": 1})
    content = pickled([held, {"n0-of-the-node": item}], [held], hides=True)
    errors = [RemoteError("n0-of-the-node", hint="n0-of-the-node"), Named(3, name="n0-of-the-node")]
    packed = [pack_error(each) for each in errors]
    monkeypatch.delenv("NODE_TOKEN")
    found, [(name, there)] = unpickled(content, [held])[0], unpickled(content, [held])[1].items()
    assert (found is held, name, there.feedback) == (True, "[hidden]", "use [hidden]")
    ours, named = map(unpack_error, packed)
    assert (str(ours), vars(ours)["hint"], str(named)) == ("[hidden]", "[hidden]", "[hidden] 3")
    assert not any(b"n0-of" in each for each in (content, *packed))


def test_an_error_arrives_as_what_it_was_or_as_its_nearest() -> None:
    class Local(KeyError):
        pass

    error = unpack_error(pack_error(Named(3, name="x")))
    assert (type(error), str(error), vars(error)) == (Named, "x 3", {"name": "x"})
    ours = unpack_error(pack_error(RemoteError("it is gone", hint="look")))
    assert isinstance(ours, RemoteError)
    assert (ours.message, ours.hint) == ("it is gone", "look")
    local = unpack_error(pack_error(Local("k")))
    assert (type(local), local.args) == (KeyError, ("Local: 'k'",))
    unsendable = unpack_error(pack_error(ValueError(threading.Lock())))
    assert type(unsendable) is ValueError
    assert "lock" in str(unsendable)


def test_a_result_that_cannot_be_sent_names_the_entry() -> None:
    lock = Datum(metadata={"fine": 1, "held": threading.Lock()})
    assert unsent(ValueError("first\nsecond"), Datum(metadata={"fine": 1})) == (
        "the result cannot be sent from the process that measured it: ValueError: first"
    )
    assert unsent(ValueError("x"), lock).startswith("metadata['held'] of the result cannot be sent")


def test_calls_are_recorded_by_the_run_and_answered_from_its_record(
    desk: tuple[Run, Desk, Run],
) -> None:
    parent, _, child = desk
    ours, theirs = StoreRecorder.of(parent), StoreRecorder.of(child)
    cost = Cost(tokens=30)
    kept = make_record("k1", "judge", "m", cost, {"model": "m"}, {"text": "yes"}, priced=True)
    with gathered() as inside:
        theirs.keep(kept)
        assert theirs.answer("k1", {}) == kept
        assert theirs.answer("k2", {}) is None
    assert ours.calls() == theirs.named(["k2", "k1"]) == [kept]
    assert kept in inside
    with theirs.one_at_a_time("k2"):
        assert not ours.lock_of("k2").acquire(blocking=False)
    assert ours.lock_of("k2").acquire(blocking=False)


def test_one_budget_holds_for_all_processes(desk: tuple[Run, Desk, Run]) -> None:
    parent, _, child = desk
    with child.ledger.reserve("judge", tokens=80) as call:
        assert parent.ledger.try_reserve("judge", Spent(1, 80), 0.0) is None  # it has to wait
        call.settle(Cost(tokens=30))
    assert parent.ledger.by_role() == child.ledger.by_role() == {"judge": Spent(1, 30)}
    with pytest.raises(BudgetExceededError, match="30 of 100 spent, a call may take 80") as caught:
        child.ledger.reserve("judge", tokens=80)
    assert "resume" in caught.value.hint


def test_what_a_process_held_is_given_back_when_it_has_ended(desk: tuple[Run, Desk, Run]) -> None:
    parent, close, child = desk
    child.ledger.reserve("judge", tokens=80)
    StoreRecorder.of(child).one_at_a_time("k").__enter__()
    close.close()
    assert StoreRecorder.of(parent).lock_of("k").acquire(blocking=False)
    assert parent.ledger.try_reserve("judge", Spent(2, 100), 0.0) is not None
    assert parent.ledger.by_role() == {}
