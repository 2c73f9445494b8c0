"""The loop step by step: preflight, train, validate, test, loop; and results, item by item."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Place


def test_preflight_changes_nothing_and_tells_the_cost(place: Place) -> None:
    before = place.snapshot()
    done = place.run("optimize", "preflight", "counter.py")
    assert before == place.snapshot()
    assert done.out.splitlines()[-1] == "ready, 1 warning"
    assert "tracked and clean: x.txt (1)" in done.out
    assert "val item i1 did not pass" in done.out
    assert "an epoch: about 10 evaluations" in done.out


@pytest.mark.parametrize(
    ("change", "name", "detail"),
    [
        (("return Raise(self.parameters())", "return None"), "set-up", "not an Optimizer"),
        (('"x.txt")', '"y.txt")'), "parameters", "y.txt does not exist"),
        (("int(self.x.read_text()) >", "int('?') >"), "evaluation", "ValueError invalid literal"),
        (("    def score", "    monitor = 'f1'\n\n    def score"), "monitor", "'f1'"),
        (("import AutoPilotModule,", "import AutoPilotModul,"), "module", "cannot be imported"),
    ],
    ids=["optimizer", "parameters", "evaluation", "monitor", "module"],
)
def test_preflight_names_what_stops_a_run(
    place: Place, change: tuple[str, str], name: str, detail: str
) -> None:
    place.change("counter.py", change)
    before = place.snapshot()
    done = place.autopilot("optimize", "preflight", "counter.py", "--json")
    assert before == place.snapshot()
    assert done.code == 1, done
    last = done.document["checks"][-1]
    assert (last["name"], last["state"]) == (name, "failed")
    assert detail in last["detail"]
    assert last["mend"]


def test_train_goes_on_by_epochs_and_leaves_the_test_split_alone(place: Place) -> None:
    done = place.run("optimize", "train", "counter.py", "-e", "demo")
    assert "autopilot optimize train demo --epochs 1" in done.out
    assert place.verdicts("demo") == ["baseline", "kept"]
    place.run("optimize", "train", "demo", "--epochs", "2")
    assert place.verdicts("demo") == ["baseline", "kept", "kept", "kept"]
    assert {record["split"] for record in place.notes("demo", "metrics")} == {"train", "val"}
    assert place.run("status", "demo", "--json").document["state"] == "stopped"
    place.run("resume", "demo", "--max-epochs", "4")
    assert "test" in {record["split"] for record in place.notes("demo", "metrics")}
    place.refused(*("optimize", "train", "demoo"), says=("no experiment demoo",), hints=("demo",))


def test_loop_is_run(place: Place) -> None:
    done = place.run("optimize", "loop", "counter.py", "-e", "demo", "--max-epochs", "1", "--json")
    assert (done.document["experiment"], done.document["epochs"]) == ("demo", 1)


def test_validate_and_test_measure_the_checkout_or_an_epoch(place: Place) -> None:
    place.run("run", "counter.py", "-e", "demo", "--max-epochs", "2")
    place.write("x.txt", "5\n")
    place.write("new.txt", "untracked\n")
    before = place.snapshot()
    now = place.run("optimize", "validate", "counter.py", "--json").document
    assert (now["metrics"], now["passed"]) == ({"accuracy": 0.8}, 4)
    best = place.run("optimize", "test", "-e", "demo", "--json").document
    assert (best["epoch"], best["metrics"]) == (2, {"accuracy": 0.4})
    assert place.run("optimize", "test", "--json").document["experiment"] == "demo"
    first = place.run("optimize", "validate", "-e", "demo", "--epoch", "baseline").out
    assert "accuracy 0.000  (recorded: 0.000)" in first
    assert before == place.snapshot()
    place.run("trace", "collect", "-e", "demo", "--epoch", "1", "-o", "out/ü.jsonl")
    lines = place.read("out/ü.jsonl").splitlines()
    assert [json.loads(line)["success"] for line in lines] == [True, False, False, False, False]
    collected = place.run("trace", "collect", "counter.py", "--json").document["items"]
    assert [item["success"] for item in collected] == [True, True, True, True, False]
