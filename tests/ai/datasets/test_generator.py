"""Data generation: planned, validated, split, resumed after a kill."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import BaseModel
from server import Received, Reply, fail, say, say_json

from autopilot.ai.datasets.checkpoint import Checkpoint, Share
from autopilot.ai.datasets.generator import DataGenerator
from autopilot.ai.model.model import Model
from autopilot.ai.model.recording import request_key
from autopilot.ai.steps import LLMStep, PythonStep
from autopilot.core.records.ledger import Limits
from autopilot.errors import (
    AgentError,
    BudgetExceededError,
    DataError,
    LockHeldError,
    NoKeyError,
)

NAME = "claude-haiku-4-5"
VARIABLES = {"topic": {"sums": 3, "names": 1}, "tone": ["kind", "curt"]}


class Question(BaseModel):
    question: str


class Answered(BaseModel):
    question: str
    answer: str


def generator(**more) -> DataGenerator:
    steps = [
        LLMStep("question", "A {tone} question on {topic}. {rejected}", Question),
        LLMStep("item", "Answer {question}", Answered),
    ]
    return DataGenerator(
        steps, VARIABLES, model=Model(NAME, max_tokens=100, max_retries=0), num_workers=4, **more
    )


def split_of(folder: Path) -> dict[str, str]:
    """Item to split, as the files have it."""
    return {
        json.loads(line)["id"]: name
        for name in ("train", "val", "test")
        for line in (folder / f"{name}.jsonl").read_text().splitlines()
    }


def script(request: Received) -> Reply:
    """A question that is its number of arrival, and its answer."""
    text = request.last_text()
    if "Answer" in text:
        found = re.search(r"q\d+", text)
        assert found is not None
        return say_json({"question": found[0], "answer": f"a {found[0]}"})
    return say_json({"question": f"q{next(numbers)}"})


@pytest.fixture(autouse=True)
def _numbers():
    global numbers
    numbers = iter(range(1000))


def test_a_plan_has_every_value_as_often_as_its_weight_says() -> None:
    slots = generator(seed=3).plan(40)
    assert Counter(slot.values["topic"] for slot in slots) == {"sums": 30, "names": 10}
    assert Counter(slot.values["tone"] for slot in slots) == {"kind": 20, "curt": 20}
    assert slots == generator(seed=3).plan(40)
    assert slots != generator(seed=4).plan(40)
    assert len(Counter(str(slot.values) for slot in slots)) == 4


def test_a_dataset_is_made_and_split(serve, tmp_path: Path) -> None:
    server = serve(script)
    report = generator().run(20, tmp_path)
    assert server.count == 40
    assert (report.planned, report.made, report.failed, report.duplicates) == (20, 20, 0, 0)
    assert report.splits == {"train": Share(12, 12), "val": Share(4, 4), "test": Share(4, 4)}
    assert report.variables["topic"] == {
        "sums": {"train": Share(9, 9), "val": Share(3, 3), "test": Share(3, 3)},
        "names": {"train": Share(3, 3), "val": Share(1, 1), "test": Share(1, 1)},
    }
    assert report.render() == "20 of 20 items made"
    items = {
        name: [json.loads(x) for x in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "val", "test")
    }
    assert {name: Share(12 if name == "train" else 4, len(x)) for name, x in items.items()} == (
        report.splits
    )
    ids = [item["id"] for found in items.values() for item in found]
    assert sorted(ids) == [f"{n:05d}" for n in range(20)]
    assert items["train"][0]["answer"].startswith("a q")
    assert {item["topic"] for item in items["val"]} == {"sums", "names"}
    assert Checkpoint(tmp_path).distribution() == report


def test_what_was_paid_is_not_paid_again(serve, tmp_path: Path) -> None:
    answered: list[str] = []

    def breaking(request: Received) -> Reply:
        if len(server.requests) > 15:
            return fail(500)
        answered.append(request_key(request.body))
        return script(request)

    server = serve(breaking)
    first = generator(limits=Limits(calls=15))
    with pytest.raises(BudgetExceededError):
        first.run(12, tmp_path)
    made = Checkpoint(tmp_path).distribution().made
    assert 0 < made < 12
    # As a kill leaves it: the last lines are cut short.
    for name in ("checkpoint.jsonl", "calls.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(b'{"kind":"ma')
    again = serve(script)
    report = generator().resume(tmp_path)
    assert report.made == 12
    # 12 slots of 2 calls each, of which 15 were made before.
    assert again.count == 24 - 15
    assert generator().resume(tmp_path).made == 12
    assert again.count == 24 - 15


def test_the_budget_counts_earlier_sessions(serve, tmp_path: Path) -> None:
    server = serve(script)
    with pytest.raises(BudgetExceededError):
        generator(limits=Limits(calls=5)).run(6, tmp_path)
    with pytest.raises(BudgetExceededError):
        generator(limits=Limits(calls=5)).resume(tmp_path)
    assert server.count == 5


def test_duplicates_and_invalid_items_are_rejected_and_made_again(serve, tmp_path: Path) -> None:
    def repeating(request: Received) -> Reply:
        if "Answer" in request.last_text():
            return script(request)
        number = next(numbers)
        return say_json({"question": "q0" if number < 3 else f"q{number}"})

    serve(repeating)
    refused: list[str] = []

    def validate(item) -> str | None:
        if item["question"] == "q3":
            refused.append("once")
            return "q3 is too easy"
        return None

    made = generator(validate=validate, splits={"all": 1.0})
    report = made.run(5, tmp_path)
    assert (report.made, report.duplicates, report.refused) == (5, 2, 1)
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    assert len(set(questions)) == 5
    assert refused == ["once"]
    reasons = (tmp_path / "checkpoint.jsonl").read_text()
    assert "the same item was made before" in reasons and "q3 is too easy" in reasons


def test_equal_items_are_those_that_differ_in_spaces_and_capitals_only(tmp_path: Path) -> None:
    texts = iter(["Hello  you", "hello YOU", "hello me"])
    step = PythonStep("item", lambda _: {"text": next(texts)})
    made = DataGenerator([step], num_workers=1, splits={"all": 1.0})
    report = made.run(2, tmp_path)
    assert (report.made, report.duplicates) == (2, 1)


def test_a_slot_that_fails_leaves_the_others_and_is_tried_again(serve, tmp_path: Path) -> None:
    serve(lambda r: fail(500) if "names" in r.last_text() else script(r))
    report = generator().run(8, tmp_path)
    assert (report.made, report.failed) == (6, 2)
    assert sum((s for s in report.variables["topic"]["names"].values()), Share(0, 0)) == Share(2, 0)
    before = split_of(tmp_path)
    serve(script)
    assert generator().resume(tmp_path).made == 8
    # What was there stays in its split: nothing that was trained on becomes a test item.
    assert before.items() < split_of(tmp_path).items()


def test_when_nothing_can_be_made_that_is_an_error(serve, tmp_path: Path) -> None:
    serve([fail(500)])
    with pytest.raises(AgentError, match="none of 4 slots could be filled"):
        generator().run(4, tmp_path)


def test_a_folder_holds_one_generation(serve, tmp_path: Path) -> None:
    serve(script)
    with pytest.raises(DataError, match="does not hold a generation"):
        generator().resume(tmp_path)
    generator().run(2, tmp_path)
    with pytest.raises(DataError, match="holds a generation already"):
        generator().run(2, tmp_path)
    with pytest.raises(DataError, match="another seed, other variables"):
        generator(seed=7).resume(tmp_path)


def test_a_subclass_sets_its_parts_on_the_class(tmp_path: Path) -> None:
    class Mine(DataGenerator):
        steps = (PythonStep("item", lambda s: {"text": f"{s['tone']} {s['slot']} {s['split']}"}),)
        variables: ClassVar = {"tone": ["kind", "curt"]}
        splits: ClassVar = {"all": 1}
        max_attempts = 1

        def validate(self, item):
            return "too curt" if "curt" in item["text"] else None

    report = Mine().run(4, tmp_path)
    assert (report.made, report.refused, report.failed) == (2, 2, 2)
    assert report.reasons == {"too curt": 4}
    texts = [json.loads(x)["text"] for x in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert all(text.startswith("kind") and text.endswith("all") for text in texts)


def test_a_slot_goes_on_with_the_reason_of_its_last_rejection(serve, tmp_path: Path) -> None:
    refused = iter([True, True, False])

    def validate(_item) -> str | None:
        return f"no {server.count}" if next(refused) else None

    def once(request: Received) -> Reply:
        return say_json({"question": f"q{next(numbers)}"})

    server = serve(once)
    steps = [LLMStep("item", "A question. {rejected}", Question)]
    made = DataGenerator(steps, model=Model(NAME), validate=validate, splits={"all": 1})
    made.run(1, tmp_path)
    asked = server.count
    # As a kill between the last reply and its line leaves it: the reply is not paid again.
    path = tmp_path / "checkpoint.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert '"made"' in lines[-1]
    path.write_text("".join(lines[:-1]))
    refused = iter([False])
    assert made.resume(tmp_path).made == 1
    assert server.count == asked == 3


def test_what_the_users_own_step_raises_fails_its_slot(tmp_path: Path) -> None:
    step = PythonStep("item", lambda s: {"half": 1 / (s["slot"] - 1)})
    report = DataGenerator([step], splits={"all": 1}).run(3, tmp_path)
    assert (report.made, report.failed) == (2, 1)
    (reason,) = report.reasons
    assert re.match(r"ZeroDivisionError: division by zero \(.*test_generator.py:\d+\)", reason)


def test_without_a_key_it_stops_at_once(serve, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(NoKeyError):
        generator().run(50, tmp_path)
    assert not Checkpoint(tmp_path).failed


def test_a_budget_is_kept_until_another_is_given(serve, tmp_path: Path) -> None:
    server = serve(script)
    with pytest.raises(BudgetExceededError):
        generator().run(6, tmp_path, budget=Limits(calls=5))
    with pytest.raises(BudgetExceededError):
        generator().resume(tmp_path)
    assert server.count == 5
    assert generator().resume(tmp_path, budget=Limits()).made == 6


def test_two_processes_do_not_fill_one_folder(serve, tmp_path: Path) -> None:
    serve(script)
    generator().run(2, tmp_path)
    with Checkpoint(tmp_path).held(), pytest.raises(LockHeldError, match="another process"):
        generator().resume(tmp_path)


@pytest.mark.parametrize("item", [{"x": {1, 2}}, {"x": float("nan")}, "text"])
def test_an_item_that_is_none_stops_it(tmp_path: Path, item) -> None:
    with pytest.raises(DataError, match="the last step"):
        DataGenerator([PythonStep("item", lambda _: item)]).run(2, tmp_path)


def test_a_variable_cannot_hide_what_the_steps_find() -> None:
    with pytest.raises(ValueError, match="'split'"):
        DataGenerator([], {"split": ["a"]})


@pytest.mark.parametrize("kind", ["refused", "cut off"])
def test_a_slot_whose_answer_could_not_be_used_is_asked_for_anew(serve, tmp_path, kind) -> None:
    bad = say("no", stop_reason="refusal" if kind == "refused" else "max_tokens")
    server = serve(lambda r: bad if "q2" in r.last_text() else script(r))
    made = generator().run(4, tmp_path / "d")
    assert (made.made, made.failed) == (3, 1)
    assert server.count == 8
    # Both steps of the slot are asked anew: its second question is another one.
    made = generator().resume(tmp_path / "d")
    assert (made.made, made.failed) == (4, 0)
    assert server.count == 10
    assert generator().resume(tmp_path / "d").made == 4
    assert server.count == 10
