"""Set-ups that cannot work: run, preflight and a dry run say the same, and nothing is left."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

import pytest

from autopilot.engine.preflight import preflight
from autopilot.engine.request import Request

if TYPE_CHECKING:
    from tests.cli.conftest import Place

OPTIMIZER = "        return Raise(self.parameters())\n"
DATA = "    val_dataloader = test_dataloader = train_dataloader\n"
IMPORTS = "from autopilot import AutoPilotModule,"
POLICY = f"{IMPORTS} CustomGate, MinGate, Policy, Loss,"


def adding(text: str) -> list[tuple[str, str]]:
    return [(IMPORTS, POLICY), (DATA, DATA + text)]


def policy(text: str) -> list[tuple[str, str]]:
    return adding(f"\n    def configure_policy(self):\n        return {text}\n")


def splits(**loaders: str) -> list[tuple[str, str]]:
    return adding(
        "".join(
            f"\n    def {s}_dataloader(self):\n        return {x}\n" for s, x in loaders.items()
        )
    )


TWICE = '[{"id": "same", "at": 1}, {"id": "b", "at": 2}, {"id": "same", "at": 3}]'
SETUPS = {
    "gate without val": (
        [*splits(val="None"), *policy('MinGate("accuracy", 0.5)')[1:]],
        "MinGate(val accuracy >= 0.5) reads val metrics, and there is no val split",
    ),
    "gate on test": (policy('[MinGate("accuracy", 0.5, "test")]'), "reads test metrics"),
    "policy with forward": (
        [
            *policy("Mine()"),
            ("class Counter(", "class Mine(Policy):\n    forward = print\n\n\nclass Counter("),
        ],
        "Mine.forward would never be called",
    ),
    "lightning optimizer": (
        [(OPTIMIZER, '        return {"optimizer": Raise(self.parameters())}\n')],
        "Counter.configure_optimizers() returned a dict of optimizer, as in Lightning",
    ),
    "no optimizer": (
        [("    def configure_optimizers", "    def optimizers")],
        "Counter defines no configure_optimizers()",
    ),
    "two losses": (
        adding("    loss, other = Loss(), Loss()\n"),
        "Counter has several losses: self.loss (Loss) and self.other (Loss)",
    ),
    "batch_idx": (
        adding(
            "\n    def training_step(self, batch, batch_idx):\n        return self.forward(batch)\n"
        ),
        "Counter.training_step(batch, batch_idx) gets one argument: batch",
    ),
    "async forward": (
        [("    def forward", "    async def forward")],
        "Counter.forward is async, and the loop does not await it",
    ),
    "async data": (
        [("    def train_dataloader", "    async def train_dataloader")],
        "_dataloader is async",
    ),
    "hook": (
        adding("\n    def on_train_epoch_end(self, trainer):\n        pass\n"),
        "Counter.on_train_epoch_end(trainer) gets no arguments",
    ),
    "empty train": (splits(train="[]"), "the train split is empty"),
    "empty val": (splits(val="DataLoader([], 2)"), "the val split is empty"),
    "empty test": (splits(test="DataLoader([], 2)"), "the test split is empty"),
    "shared ids": (
        splits(val=f"DataLoader({TWICE}, 2)"),
        "items 0 and 2 of the val split share the id 'same'",
    ),
    "shared ids in test": (
        splits(test=f"DataLoader({TWICE}, 2)"),
        "items 0 and 2 of the test split share the id 'same'",
    ),
    "no train": (
        [("def train_dataloader", "def test_dataloader"), (DATA, "")],
        "there is no train",
    ),
    "plain module": (
        [
            (IMPORTS, "from autopilot import Module, AutoPilotModule,"),
            ("Counter(AutoPilotModule)", "Counter(Module)"),
        ],
        "counter.py:Counter gives Counter, not an AutoPilotModule",
    ),
}
OF_EACH_KIND = ("gate without val", "no optimizer", "empty val", "plain module")


def test_the_same_is_said_before_anything_is_paid(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By preflight of each, and by all three commands of one for each kind of error."""
    program = place.read("counter.py")
    for name, (changes, _) in SETUPS.items():
        changed = program
        for old, new in (
            *changes,
            ("        passed = ", '        print("paid")\n        passed = '),
        ):
            assert old in changed, old
            changed = changed.replace(old, new)
        place.write(f"{name}/counter.py", changed)
    place.commit()
    before = place.snapshot()
    for name in OF_EACH_KIND:
        for command in (["run"], ["run", "--dry-run"], ["optimize", "preflight"]):
            done = place.autopilot(*command, f"{name}/counter.py:Counter")
            assert done.code in (1, 2), done
            assert SETUPS[name][1] in done.out + done.error, done
            assert done.hint or "optimize" in command, done
            assert "paid" not in done.out, done
            assert "never awaited" not in done.err, done
            assert "Traceback" not in done.err, done
    for name, (_, says) in SETUPS.items():
        with monkeypatch.context() as patch, redirect_stdout(StringIO()) as printed:
            patch.chdir(place.top)
            patch.setattr(sys, "path", [*sys.path])
            patch.setattr(sys, "meta_path", [*sys.meta_path])
            patch.setattr(sys, "dont_write_bytecode", True)
            patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
            last = preflight(Request(place.top, f"{name}/counter.py:Counter"))[-1]
            sys.modules.pop("counter", None)
        assert last.state == "failed" and says in last.detail and last.mend, (name, last)
        assert "paid" not in printed.getvalue(), name
    assert place.snapshot() == before
    assert place.git("for-each-ref", "refs/*/autopilot", "refs/heads/autopilot") == ""


def test_a_gate_on_a_metric_that_does_not_exist_ends_at_the_baseline(place: Place) -> None:
    place.change("counter.py", *policy('MinGate("recall", 0.5)'))
    says = "there is no val metric 'recall', which MinGate(val recall >= 0.5) reads"
    before = place.snapshot()
    place.refused("run", "counter.py", says=(says,), hints=("accuracy",), code=2)
    done = place.autopilot("optimize", "preflight", "counter.py", "--json")
    assert done.document["checks"][-1]["name"] == "gates"
    assert says in done.document["checks"][-1]["detail"]
    assert place.snapshot() == before
    assert not any(place.cache.rglob("*.py"))


@pytest.mark.parametrize(
    "gates",
    ['MinGate("accuracy", 0.3)', '[CustomGate("accuracy", lambda a: (a > 0.3, f"is {a}"))]'],
)
def test_gates_alone_are_a_policy(place: Place, gates: str) -> None:
    place.change("counter.py", *policy(gates))
    assert "MinGate" in place.read("counter.py")
    assert "Policy" in place.run("optimize", "preflight", "counter.py").out
    place.run("run", "counter.py", "-e", "demo", "--max-epochs", "2")
    # Each step lets one more of five pass: 0.2, then 0.4 from the state of before.
    assert place.verdicts("demo") == ["baseline", "rejected", "rejected"]


def test_a_loss_that_is_an_attribute_is_used(place: Place) -> None:
    mine = """
class Mine(Loss):
    def forward(self, data, targets):
        print("mine is used")
        return super().forward(data, targets)


class Counter("""
    place.change("counter.py", *adding("    loss = Mine()\n"), ("\nclass Counter(", mine))
    assert "Raise, Mine, DefaultPolicy" in place.run("optimize", "preflight", "counter.py").out
    assert "mine is used" in place.run("run", "counter.py", "--max-epochs", "1").out


def test_a_test_split_that_shows_only_at_the_end_that_it_is_empty(place: Place) -> None:
    place.change("counter.py", *splits(test="(x for x in ())"))
    done = place.run("run", "counter.py", "-e", "demo", "--max-epochs", "2")
    assert "best: epoch 2, val accuracy 0.000 -> 0.400" in done.out
    assert "note: the test split gives no batches" in done.out
    assert place.run("status", "demo", "--json").document["state"] == "finished"


def test_a_stream_is_not_used_up_by_a_look(place: Place) -> None:
    rows = 'ROWS = ([{"id": "a", "at": at}] for at in (1, 2))'
    start = "\nclass Counter("
    place.change("counter.py", *splits(test="ROWS"), (start, f"\n{rows}\n\n{start}"))
    done = place.autopilot("run", "counter.py", "-e", "demo", "--max-epochs", "2")
    assert "2 items of the test split share the id 'a'" in done.error, done
    place.change("counter.py", ('"id": "a", ', ""))
    done = place.run("run", "counter.py", "-e", "more", "--max-epochs", "2")
    assert "test 1.000" in done.out


def test_preflight_says_that_nothing_scores(place: Place) -> None:
    place.change("counter.py", ("Datum(success=passed, ", "Datum("))
    says = "nothing scores the"
    done = place.autopilot("optimize", "preflight", "counter.py", "--json")
    assert done.document["checks"][-1]["name"] == "evaluation"
    assert says in done.document["checks"][-1]["detail"]
    assert "Datum(success=...)" in done.document["checks"][-1]["mend"]
    place.refused("run", "counter.py", says=(says,), hints=("Datum(success=...)",))
    place.refused("run", "counter.py", "--dry-run", says=(says,), hints=("Datum(success=...)",))


def test_preflight_looks_on_where_the_first_item_has_no_score(place: Place) -> None:
    ids = "None if item.id == 'i1' else passed"
    place.change("counter.py", ("Datum(success=passed, ", f"Datum(success={ids}, "))
    done = place.run("optimize", "preflight", "counter.py")
    assert "ok       evaluation: val item i2 did not pass" in done.out
    assert "begin with an item: val item i2" in place.run("run", "counter.py", "--dry-run").out


def test_preflight_takes_a_direction(place: Place) -> None:
    place.change("counter.py", ("Datum(success=passed, ", "Datum(metrics={'seconds': 0.5}, "))
    arguments = ("optimize", "preflight", "counter.py", "--monitor", "seconds")
    assert "give --mode min" in place.autopilot(*arguments).out
    done = place.run(*arguments, "--mode", "min")
    assert "monitor: val seconds decides: lower is better" in done.out


@pytest.mark.parametrize(
    ("paid", "why"),
    [
        ("__import__('os').system('touch ' + WITNESS)", "it starts"),
        ("__import__('subprocess').run(['touch', WITNESS])", "it starts touch"),
        ("__import__('socket').create_connection(('127.0.0.1', 9))", "it connects to 127.0.0.1:9"),
    ],
)
def test_a_dry_run_pays_for_nothing(place: Place, paid: str, why: str) -> None:
    witness = place.cache / "witness"
    place.change(
        "counter.py",
        ("Datum(success=passed, ", f"Datum(success={paid} is None and passed, "),
        ("\nclass Counter(", f"\nWITNESS = {str(witness)!r}\n\n\nclass Counter("),
    )
    with place.untouched():
        done = place.run("run", "counter.py", "--dry-run")
    assert f"begin with an item: not evaluated in a dry run: {why}" in done.out
    assert not witness.exists()


def test_preflight_scores_its_item_by_the_loss(place: Place) -> None:
    mine = """
class Mine(Loss):
    def score(self, data, targets):
        for item in data.leaves():
            item.success = True


class Counter("""
    changes = [*adding("    loss = Mine()\n"), ("\nclass Counter(", mine)]
    place.change("counter.py", *changes, ("Datum(success=passed, ", "Datum("))
    assert "val item i1 passed" in place.run("optimize", "preflight", "counter.py").out
    done = place.run("run", "counter.py", "-e", "demo", "--max-epochs", "1")
    assert "val accuracy 1.000 -> 1.000" in done.out
