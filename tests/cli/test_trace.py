"""diagnose, trace inspect, policy, dataset: on recorded runs, in this process where it will do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from autopilot.cli.main import AutoPilotCLI

if TYPE_CHECKING:
    from tests.cli.conftest import Place

# Epoch 1 kept (two items pass), 2 breaks one, 3 is epoch 1 again: not evaluated; 4 kept.
PLAN = """
        x = self.parameters[0]
        self.n = getattr(self, 'n', 0) + 1
        x.write_text(f"{[3, 2, 3, 5][self.n - 1]}\\n")
"""
POLICY = """
    def configure_policy(self):
        from autopilot.policy import MinGate, Policy
        return Policy([MinGate("accuracy", {least})])
"""


@pytest.fixture
def walked(place: Place) -> Place:
    """A run with the verdicts baseline, kept, rejected, rejected (nothing new), kept."""
    text = place.read("counter.py")
    step = text[text.index("        x = self") : text.index("        return Step")]
    place.change("counter.py", (step, PLAN.lstrip("\n")))
    place.run("run", "counter.py", "-e", "demo", "--max-epochs", "4")
    return place


def ask(place: Place, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """A command in this process; those that load the user's code have one of their own."""
    code = AutoPilotCLI().run(["-C", str(place.top), *arguments])
    return code, capfd.readouterr().out


def test_diagnose_and_inspect(walked: Place, capfd: pytest.CaptureFixture[str]) -> None:
    _, out = ask(walked, capfd, "diagnose", "run", "--json")
    found = json.loads(out)["diagnosis"]
    assert found["always_failing"] == ["i5"]
    assert (found["fixed"], found["regressed"]) == (["i1", "i2", "i3", "i4"], [])
    assert found["flaky"] == ["i2"]
    changes = [(c["epoch"], c["fixed"], c["broken"]) for c in found["changes"]]
    assert changes == [(1, ["i1", "i2"], []), (2, [], ["i2"]), (4, ["i3", "i4"], [])]
    assert list(found["nodes"]) == ["(whole system)"]

    _, out = ask(walked, capfd, "diagnose", "heatmap")
    rows = {line.split()[0]: line.split()[-1] for line in out.splitlines() if line[:1] == "i"}
    # Epoch 3 was not evaluated; that is not a failure.
    assert rows["i2"] == "x+x.+"
    assert rows["i5"] == "xxx.x"
    _, out = ask(walked, capfd, "diagnose", "heatmap", "--nodes")
    assert "(whole system)" in out

    _, out = ask(walked, capfd, "trace", "inspect", "i2")
    assert "i2: passed in 2 of 4 epochs" in out
    _, out = ask(walked, capfd, "trace", "inspect", "i5", "--json")
    epochs = json.loads(out)["epochs"]
    assert [(e["epoch"], e["outcome"]) for e in epochs] == [(n, "failed") for n in (0, 1, 2, 4)]
    code, _ = ask(walked, capfd, "trace", "inspect", "i")
    assert code == 2
    code = AutoPilotCLI().run(["-C", str(walked.top), "trace", "collect", "--epoch", "3"])
    assert (code, "measured in epoch 1: --epoch 1" in capfd.readouterr().err) == (1, True)


def test_policy_of_now_on_records(walked: Place) -> None:
    assert walked.run("policy", "check").out.startswith("epoch 4 passes DefaultPolicy")
    assert walked.autopilot("policy", "check", "2").code == 1
    walked.write("counter.py", walked.read("counter.py") + POLICY.format(least=0.6))
    told = walked.run("policy", "explain", "1", "--json").document
    assert (told["against"], told["passes"], told["differs"]) == (0, False, True)
    gates = {gate["gate"]: gate for gate in told["gates"]}
    assert gates["improvement"]["passed"]
    (failed,) = [gate for gate in told["gates"] if not gate["passed"]]
    assert "0.4" in failed["reason"]
    assert told["recorded"]["verdict"] == "kept"
    assert "policy or gates were changed since" in walked.run("policy", "explain", "1").out


# --- datasets ------------------------------------------------------------------------------------


def write_items(place: Place, name: str, items: list[dict[str, Any]]) -> None:
    place.write(name, "".join(json.dumps(item) + "\n" for item in items))


def test_dataset_split_and_check(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    items = [{"id": f"t{n}", "text": f"text {n}", "spam": n % 4 == 0} for n in range(40)]
    write_items(place, "data/all.jsonl", items)
    split = ("dataset", "split", str(place.top / "data/all.jsonl"), "--by", "spam")
    assert ask(place, capfd, *split, "--out", "data/parts")[0] == 0
    code, out = ask(place, capfd, "dataset", "list", "data/parts", "--json")
    found = {row["name"].rpartition("/")[2]: row for row in json.loads(out)["datasets"]}
    sizes = {name: (row["items"], row["columns"]["spam"]["classes"]) for name, row in found.items()}
    assert sizes == {
        "train.jsonl": (24, {"False": 18, "True": 6}),
        "val.jsonl": (8, {"False": 6, "True": 2}),
        "test.jsonl": (8, {"False": 6, "True": 2}),
    }
    assert ask(place, capfd, "dataset", "check", "data/parts") == (
        0,
        "items: data/parts/test.jsonl 8, data/parts/train.jsonl 24, data/parts/val.jsonl 8\n"
        "no item stands twice\n",
    )
    assert ask(place, capfd, *split, "--out", "data/parts")[0] == 2
    write_items(place, "a.jsonl", [{"id": "a", "text": "x"}, {"id": "b", "text": "x"}])
    write_items(place, "b.jsonl", [{"id": "c", "text": "x"}])
    code, out = ask(place, capfd, "dataset", "check", "a.jsonl", "b.jsonl")
    assert code == 1
    assert "the same content in a.jsonl and b.jsonl: a.jsonl[0] (id a), a.jsonl[1] (id b)" in out
    assert "1 item several times in one:" in out
    code, out = ask(place, capfd, "dataset", "show", "data/all.jsonl", "-n", "1")
    assert out == "data/all.jsonl\n  t0\n    text: text 0\n    spam: True\n"


def test_the_datasets_of_a_target(place: Place) -> None:
    listed = place.run("dataset", "list", "counter.py", "--json").document["datasets"]
    assert [(row["name"], row["items"]) for row in listed] == [
        ("train", 5),
        ("val", 5),
        ("test", 5),
    ]
    checked = place.autopilot("dataset", "check", "counter.py", "--json")
    assert checked.code == 1
    assert len(checked.document["leaks"]) == 5
