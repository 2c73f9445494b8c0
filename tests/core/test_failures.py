"""Failures of items: where, of which kind, how many."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from autopilot.core.callbacks import Progress
from autopilot.core.evaluation import Evaluator
from autopilot.core.experiment import Experiment
from autopilot.core.failures import Failures, Raised, failure_lines, never_measured, reason
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.core.progress import Position
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum, datum_from_json, datum_to_json

CODE = """\
import json


def look(item):
    return item["label"]


def parse(text):
    return json.loads(text)


def chain(item):
    try:
        look(item)
    except KeyError as error:
        raise ValueError("no label\\nin it") from error
"""


@pytest.fixture
def support(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A user's package `support` with the module `score`."""
    (tmp_path / "support").mkdir()
    (tmp_path / "support" / "__init__.py").write_text("")
    (tmp_path / "support" / "score.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "support", raising=False)
    monkeypatch.delitem(sys.modules, "support.score", raising=False)
    return importlib.import_module("support.score")


def raised(call, *arguments) -> Raised:
    try:
        call(*arguments)
    except (KeyError, ValueError) as error:
        return Raised.of(error)
    raise AssertionError("it raised nothing")


def test_the_place_is_the_users_innermost_line(support: ModuleType) -> None:
    found = raised(support.look, {})
    assert (found.message, found.place) == ("KeyError: 'label'", "support/score.py:5")
    assert found.result().error_message == "KeyError: 'label'"
    assert found.result().feedback == "it raised KeyError: 'label' (support/score.py:5)"
    # json's own frames are not the user's.
    assert raised(support.parse, "{").place == "support/score.py:9"
    assert raised(support.chain, {}).place == "support/score.py:16"


def test_where_no_line_is_the_users_there_is_the_nearest_or_none() -> None:
    assert Raised.of(ValueError("never raised")).place == ""
    try:
        json.loads("{")
    except ValueError as error:
        # Without the test's own frame, what is left is the library's.
        error.__traceback__ = error.__traceback__.tb_next
        assert Raised.of(error).place.startswith("json/decoder.py:")


class Picky(AutoPilotModule):
    """Looks at each item with the user's function."""

    def __init__(self, support: ModuleType) -> None:
        super().__init__()
        self.level = Parameter(0)
        self.support = support

    def forward(self, batch: Datum) -> Datum:
        return Datum(items=[self.one(item.metadata) for item in batch.leaves()])

    def one(self, item) -> Datum:
        if "said" in item:
            return Datum(error_message=item["said"])
        if "lost" in item:
            return Datum(unmeasured=item["lost"])
        return Datum(success=bool(self.support.look(item)), feedback="do")

    def configure_optimizers(self) -> Optimizer:
        return Up(self.parameters())

    def train_dataloader(self):
        return [[{"id": "t0", "label": 0}, {"id": "t1"}]]

    def val_dataloader(self):
        return [[{"id": "a", "label": 1}, {"id": "b"}], [{"id": "c"}, {"id": "d", "label": 0}]]


class Up(Optimizer):
    """Raises the level."""

    def step(self) -> Step:
        self.parameters[0].data += 1
        return Step("up", "up")


def test_kinds_are_counted_with_their_place_and_the_users_traceback(support: ModuleType) -> None:
    module = Picky(support)
    experiment = Experiment()
    experiment.open(module.parameters())
    failures = Failures()
    evaluator = Evaluator(module, experiment, 0, failures=failures)
    given = [{"label": 1}, {}, {}, {"said": "timed out after 3 s"}, {"said": "timed out after 4 s"}]
    batch = Datum(items=[Datum(metadata=dict(m), id=str(n)) for n, m in enumerate(given)])
    evaluator.run(Position("val", 0, 0), batch)
    evaluator.run(Position("val", 0, 1), Datum(items=[Datum(metadata={"lost": "429"}, id="x")]))
    assert failures.lines("val") == [
        "2 of 6 val items raised: KeyError 'label' (support/score.py:5)",
        "2 of 6 val items failed with: timed out after 3 s",
        "1 of 6 val items could not be measured: 429",
    ]
    assert (failures.raised_of("val"), failures.raised_of("train")) == (2, 0)
    shown = failures.first_traceback("val")
    assert shown.rstrip().endswith("KeyError: 'label'")
    assert "in look" in shown
    assert "autopilot/core" not in shown
    # The batch is tried as a whole first: that is not told.
    assert "During handling" not in shown
    assert shown.splitlines()[0] in failures.lines("val", tracebacks=True)
    failures.clear()
    assert failures.lines("val") == [] and failures.first_traceback("val") == ""


def test_a_single_item_that_raises_keeps_its_id(support: ModuleType) -> None:
    module = Picky(support)
    experiment = Experiment()
    experiment.open(module.parameters())
    done = Evaluator(module, experiment, 0).run(
        Position("val", 0, 0), Datum(items=[Datum(id="only")])
    )
    assert [item.id for item in done.leaves()] == ["only"]


def test_recorded_results_say_the_same_without_a_traceback(support: ModuleType) -> None:
    item = raised(support.look, {}).result()
    back = datum_from_json(datum_to_json(item), split="val", epoch=3)
    assert failure_lines("val", [back, Datum(success=True)]) == [
        "1 of 2 val items raised: KeyError 'label' (support/score.py:5)"
    ]
    assert reason(back) == "KeyError 'label' (support/score.py:5)"
    assert reason(Datum(success=False)) == ""


def test_at_most_three_kinds_are_lines_and_all_is_said_as_all() -> None:
    failures = Failures()
    for text in ("one", "two", "three", "three", "four", "five"):
        failures.add("train", Datum(error_message=text))
    assert failures.lines("train") == [
        "2 of 6 train items failed with: three",
        "1 of 6 train items failed with: one",
        "1 of 6 train items failed with: two",
        "and 2 more kinds of failure",
    ]
    failures.clear()
    failures.add("train", Datum(items=[Datum(error_message=f"item {n}: no") for n in range(3)]))
    assert failures.lines("train") == ["all 3 train items failed with: item 0: no"]


def test_errors_that_quote_their_item_are_one_kind_where_one_line_raised_them() -> None:
    def item(word: str, line: int) -> Datum:
        text = f"KeyError: {word!r}"
        return Datum(error_message=text, feedback=f"it raised {text} (look.py:{line})")

    failures = [item("Åse", 4), item("Öl", 4), item("Öl", 9)]
    assert failure_lines("val", failures) == [
        "2 of 3 val items raised: KeyError 'Åse', for example (look.py:4)",
        "1 of 3 val items raised: KeyError 'Öl' (look.py:9)",
    ]


def test_a_message_of_many_lines_or_none_is_one_line() -> None:
    assert failure_lines("val", [Datum(error_message="\n first\nsecond")]) == ["val: first"]
    assert failure_lines("val", [Datum(error_message="")]) == ["val: no reason is given"]
    (line,) = failure_lines("val", [Datum(error_message="x" * 5000)])
    assert len(line) < 250


def test_the_loop_counts_each_epoch_and_the_librarys_progress_writes_it(
    support: ModuleType,
) -> None:
    lines: list[str] = []
    Trainer(callbacks=[Progress(lines.append)]).fit(Picky(support), max_epochs=1)
    failed = "raised: KeyError 'label' (support/score.py:5)"
    assert [line for line in lines if "items" in line] == [
        f"  2 of 4 val items {failed}",
        f"  1 of 2 train items {failed}",
        f"  2 of 4 val items {failed}",
    ]
    assert lines[1] == f"  2 of 4 val items {failed}"


def test_what_never_had_a_result_is_found_from_the_last_epoch_back() -> None:
    def epoch(**outcomes):
        made = {
            "ok": {"success": True},
            "error": {"error_message": "no"},
            "lost": {"unmeasured": "429"},
        }
        return [Datum(id=name, **made[how]) for name, how in outcomes.items()]

    epochs = [epoch(a="error", b="lost", c="ok"), epoch(a="lost", b="ok", c="error")]
    count, found = never_measured(iter(epochs))
    assert (count, [item.id for item in found]) == (2, ["a"])
    # It ends as soon as each item has a result in some epoch.
    looked = iter([epoch(a="ok"), epoch(a="error")])
    assert never_measured(looked) == (1, [])
    assert len(list(looked)) == 1
    assert never_measured(()) == (0, [])
