"""What an item came to, by every reader of it: one experiment with items of all five outcomes."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autopilot.core.callbacks import Diagnostics
from autopilot.core.metrics import PassRate
from autopilot.core.scoring import ItemMean
from autopilot.core.types import OUTCOMES, Datum

if TYPE_CHECKING:
    from tests.cli.conftest import Place

TARGET = """\
from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step

NAMES = ["answers", "improves", "wrong", "raises", "dies", "lost", "open"]


class Raise(Optimizer):
    def step(self):
        x = self.parameters[0]
        x.write_text(f"{int(x.read_text()) + 1}\\n")
        return Step("add one", "up")


class Mixed(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.x = PathParameter("x.txt")

    def forward(self, batch):
        return Datum(items=[self.one(item.metadata["id"]) for item in batch.items])

    def one(self, name):
        if name == "raises":
            return {}["label"]
        if name == "dies":
            return Datum(success=True, error_message="it ran out of memory")
        if name == "lost":
            return Datum(success=True, unmeasured="the service is down")
        if name == "open":
            return Datum(metadata={"said": "something"})
        right = name == "answers" or (name == "improves" and int(self.x.read_text()) > 1)
        return Datum(success=right, feedback=None if right else f"mend {name}")

    def configure_optimizers(self):
        return Raise(self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": name} for name in NAMES], 4)

    val_dataloader = test_dataloader = train_dataloader
"""
GRADED = """\
from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step


class Raise(Optimizer):
    def step(self):
        x = self.parameters[0]
        x.write_text(str(int(x.read_text()) + 1))
        return Step()


class Graded(AutoPilotModule):
    monitor = "score"
    mode = "{mode}"

    def __init__(self):
        super().__init__()
        self.x = PathParameter("x.txt")

    def forward(self, batch):
        return Datum(items=[Datum(metrics={{"score": {value}}}) for item in batch.items])

    def configure_optimizers(self):
        return Raise(self.parameters())

    def train_dataloader(self):
        items = [{{"id": name, "n": n}} for n, name in enumerate("abc")]
        return DataLoader(items, batch_size=3)

    val_dataloader = train_dataloader
"""
WENT = {
    "answers": "passed",
    "improves": "passed",
    "wrong": "failed",
    "raises": "error",
    "dies": "error",
    "lost": "unmeasured",
    "open": "unscored",
}
COUNTS = {"passed": 2, "failed": 1, "error": 2, "unmeasured": 1, "unscored": 1}
RAISED = "1 of 7 val items raised: KeyError 'label' (mixed.py:23)"
DIED = "1 of 7 val items failed with: it ran out of memory"
LOST = "1 of 7 val items could not be measured: the service is down"


@pytest.fixture(scope="module")
def items() -> list[Datum]:
    """One of each."""
    return [
        Datum(success=True, id="passed"),
        Datum(success=False, feedback="mend it", id="failed"),
        Datum(success=True, error_message="KeyError: 'label'", id="error"),
        Datum(success=True, unmeasured="429", id="unmeasured"),
        Datum(id="unscored"),
    ]


def test_the_items_are_of_all_outcomes(items: list[Datum]) -> None:
    assert [item.outcome for item in items] == [item.id for item in items] == list(OUTCOMES)


def test_accuracy_is_of_what_is_scored(items: list[Datum]) -> None:
    means, rate = ItemMean(), PassRate()
    means.update(Datum(items=items))
    rate.update(Datum(items=items))
    assert means.compute()["accuracy"] == rate.compute() == pytest.approx(1 / 3)


def test_diagnostics_count_what_failed_and_what_raised(items: list[Datum]) -> None:
    found = Diagnostics()
    trainer: Any = type("FakeTrainer", (), {"current_epoch": 3})()
    module: Any = None
    found.on_validation_batch_end(trainer, module, Datum(items=items), Datum(), 0)
    assert found.categories == {3: Counter({"failed": 1, "KeyError": 1})}


@pytest.fixture
def mixed(place: Place) -> Place:
    """A run of which epoch 1 is kept: "improves" passes then."""
    place.write("mixed.py", TARGET)
    place.commit()
    return place


def test_every_reader_of_a_run_says_the_same(mixed: Place) -> None:
    place = mixed
    ran = place.run("run", "mixed.py", "-e", "m", "--max-epochs", "1")
    check_run(ran.out)
    (gradients,) = place.notes("m", "gradients")
    (told,) = gradients["gradients"].values()
    assert [name in told for name in WENT] == [False, True, True, True, True, False, False]

    check_show(place)
    check_traces(place)
    check_diagnosis(place)
    check_reports(place)

    replayed = place.run("replay", "m", "--json").document
    assert replayed["differences"] == []
    shown = place.run("optimize", "validate", "-e", "m").out.splitlines()
    assert shown[0].endswith("7 items: 2 passed, 1 failed, 2 error, 1 unmeasured, 1 unscored")
    place.call("propose", "create", "m")
    verified = place.autopilot("propose", "verify", "m", "--json").document
    assert (verified["before"], verified["after"]) == ([0.2], [0.4])
    # What is not scored is not compared: five items are.
    assert (verified["better"], verified["worse"]) == (1, 0)


def check_run(out: str) -> None:
    lines = out.splitlines()
    # One of the five items that are scored.
    assert (
        "val: two measurements agree; the smallest gain that the val split can resolve is 0.200"
        in lines
    )
    at = next(n for n, line in enumerate(lines) if line.startswith("    0  0.200"))
    assert [line.strip() for line in lines[at + 1 : at + 4]] == [RAISED, DIED, LOST]
    after = next(n for n, line in enumerate(lines) if line.startswith("    1  0.400  +0.200"))
    below = [line.strip() for line in lines[after + 1 : after + 7]]
    assert below == [*(line.replace("val", "train") for line in (RAISED, DIED, LOST)),
                     RAISED, DIED, LOST]  # fmt: skip
    (never,) = [line for line in lines if "gave no result in" in line]
    assert never == (
        "3 of 7 val items gave no result in 2 epochs: KeyError 'label' (mixed.py:23); "
        "it ran out of memory; the service is down"
    )


def check_show(place: Place) -> None:
    found = place.call("show", "1", "-e", "m", "--json").document
    assert found["outcomes"] == COUNTS
    assert {item["id"]: item["outcome"] for item in found["items"]} == WENT
    # What failed comes before what has no score.
    order = [item["outcome"] for item in found["items"]]
    assert list(dict.fromkeys(order)) == ["error", "failed", "unmeasured", "unscored", "passed"]
    failed = [(item["id"], item["outcome"]) for item in found["failed_items"]]
    assert failed == [("raises", "error"), ("dies", "error"), ("wrong", "failed")]
    assert found["metrics"]["val"] == {"accuracy": 0.4}
    assert found["failures"] == [RAISED, DIED, LOST]

    lines = [line.strip() for line in place.call("show", "1", "-e", "m").out.splitlines()]
    at = lines.index(
        "7 val items: 2 passed, 1 failed, 2 error, 1 unmeasured, 1 unscored; "
        "against epoch 0: 1 fixed, 0 broken"
    )
    assert lines[at + 1 : at + 9] == [
        *(RAISED, DIED, LOST),
        "raises  error: KeyError: 'label'",
        "dies    error: it ran out of memory",
        "wrong   mend wrong",
        "lost    unmeasured: the service is down",
        'open    unscored: {"said": "something"}',
    ]


def check_traces(place: Place) -> None:
    collected = place.call("trace", "collect", "-e", "m", "--json").document
    assert {row["id"]: row["outcome"] for row in collected["items"]} == WENT
    assert collected["outcomes"] == COUNTS
    by_id = {row["id"]: row for row in collected["items"]}
    assert (by_id["open"]["success"], by_id["answers"]["success"]) == (None, True)
    lines = place.call("trace", "collect", "-e", "m").out.splitlines()
    assert {json.loads(line)["id"]: json.loads(line)["outcome"] for line in lines} == WENT
    for name, went in WENT.items():
        found = place.call("trace", "inspect", name, "-e", "m", "--json").document["epochs"]
        assert found[-1]["outcome"] == went, name
    head = place.call("trace", "inspect", "lost", "-e", "m").out.splitlines()[0]
    assert head == "lost: passed in 0 of 2 epochs (2 unmeasured)"
    assert place.call("trace", "inspect", "raises", "-e", "m").out.splitlines()[-2:] == [
        "error in epoch 1: KeyError: 'label'",
        "feedback in epoch 1: it raised KeyError: 'label' (mixed.py:23)",
    ]
    place.call("experiment", "export", "m", "exported")
    rows = (place.top / "exported/epoch-0001/traces.jsonl").read_text().splitlines()
    val = [row for row in map(json.loads, rows) if row["split"] == "val"]
    assert {row["id"]: row["outcome"] for row in val} == WENT


def check_diagnosis(place: Place) -> None:
    found = place.call("diagnose", "run", "m", "--json").document["diagnosis"]
    assert found["always_failing"] == ["wrong", "raises", "dies"]
    assert (found["never_measured"], found["unscored"]) == (["lost"], ["open"])
    assert (found["fixed"], found["regressed"]) == (["improves"], [])
    assert {item["id"]: item["outcomes"]["1"] for item in found["items"]} == WENT
    drawn = place.call("diagnose", "heatmap", "m").out.splitlines()
    cells = {line.split()[0]: line.split()[-1] for line in drawn if line.split()[0] in WENT}
    assert cells == {
        "answers": "++",
        "improves": "x+",
        "wrong": "xx",
        "raises": "!!",
        "dies": "!!",
        "lost": "??",
        "open": "--",
    }


def check_reports(place: Place) -> None:
    text = place.call("report", "m", "--md").out
    assert "7 val items at epoch 1: 2 passed, 1 failed, 2 error, 1 unmeasured, 1 unscored." in text
    assert "raised&#58; KeyError &#x27;label&#x27; (mixed.py&#58;23)" in text
    rows = place.call("report", "m", "--md", "--json").document["items"]
    assert {row["id"]: row["outcome"] for row in rows} == WENT
    path = place.call("report", "m", "--json").document["path"]
    html = Path(path).read_text(encoding="utf-8")
    start = html.index('{"', html.index('type="application/json"'))
    data = json.JSONDecoder().raw_decode(html[start:])[0]
    (experiment,) = data["experiments"]
    (val, _) = experiment["results"]
    (ids,), (row, last) = unpacked(val["ids"]), unpacked(val["rows"])
    assert {name: val["codes"][code] for name, code in zip(ids, last, strict=True)} == WENT
    assert row[ids.index("improves")] == "f"
    detail = unpacked(experiment["details"])[1]
    assert detail["counts"] == COUNTS
    assert [(name, how) for name, _, how in detail["failures"]] == [
        *(("raises", "error"), ("dies", "error"), ("wrong", "failed")),
        *(("lost", "unmeasured"), ("open", "unscored")),
    ]


def unpacked(packed: dict[str, Any]) -> list[Any]:
    rows: list[Any] = []
    for part in packed["parts"]:
        rows += json.loads(zlib.decompress(b64decode(part), -zlib.MAX_WBITS))
    return rows


@pytest.mark.parametrize("mode", ["max", "min"])
def test_items_that_a_metric_scores_are_graded_not_unscored(place: Place, mode: str) -> None:
    value = "(1 if mode == 'max' else -1) * int(self.x.read_text()) + item.metadata['n']"
    place.write("graded.py", GRADED.format(mode=mode, value=value.replace("mode", repr(mode))))
    place.commit()
    place.run("run", "graded.py", "-e", "g", "--max-epochs", "1")
    shown = [line.strip() for line in place.call("show", "1", "-e", "g").out.splitlines()]
    at = shown.index("3 val items: 3 graded by score; against epoch 0: 3 better, 0 worse")
    # The worst come first.
    worst = ["a", "b", "c"] if mode == "max" else ["c", "b", "a"]
    assert [line.split()[:2] for line in shown[at + 1 : at + 4]] == [[x, "score"] for x in worst]
    told = place.call("diagnose", "run", "g").out.splitlines()
    assert "graded by score, neither passed nor failed: 3" in told
    assert "  epoch 1 (kept): 3 better, 0 worse" in told
    assert not any("never scored" in line for line in told)
    assert "3 val items at epoch 1: 3 graded by score." in place.call("report", "g", "--md").out


MEMORIZING = """\
from autopilot import (
    AutoPilotModule, DataLoader, Datum, NoMemorizing, Optimizer, PathParameter, Policy, Step
)


class Copy(Optimizer):
    def step(self):
        self.parameters[0].write_text("2\\nwhere does\\n  MY parcel stay?\\n")
        return Step("copy")


class Answers(AutoPilotModule):
    def __init__(self, strict: bool = False):
        super().__init__()
        self.text, self.policy = PathParameter("x.txt"), Policy([NoMemorizing()] * strict)

    def forward(self, batch):
        good = self.text.read_text().startswith("2")
        return Datum(items=[Datum(success=good, feedback="more") for _ in batch.items])

    def configure_policy(self):
        return self.policy

    def configure_optimizers(self):
        return Copy(self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": "t1", "q": "Is it late?"}])

    def val_dataloader(self):
        return DataLoader([{"id": "v1", "q": "Where does my parcel stay?"}])
"""


def test_an_edit_that_copies_items_is_told_recorded_and_replayed(place: Place) -> None:
    place.write("memory.py", MEMORIZING)
    place.commit("target")
    said = "the edit has the input of val item v1"
    for slug, verdict, options in (("w", "kept", ()), ("g", "rejected", ("-H", "strict=true"))):
        done = place.autopilot("run", "memory.py", "-e", slug, "--max-epochs", "1", *options)
        assert done.code == 0 and f"\n       {said}\n" in done.out, done
        assert place.verdicts(slug) == ["baseline", verdict]
        reason = f"warning: {said}" if slug == "w" else said
        assert f"{verdict}: {reason}\n" in place.call("show", "1", "-e", slug).out
        again = place.autopilot("replay", slug, "--level", "full")
        assert again.code == 0, again
    # The gate's verdict on the record is that of the run.
    explained = place.run("policy", "explain", "-e", "g", "1").out
    assert re.search(rf"failed +NoMemorizing +{said}", explained), explained
