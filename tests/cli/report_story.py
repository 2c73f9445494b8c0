"""An experiment with everything that a report shows, and with texts that want to be more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from checkouts import commit_all

from autopilot.core.experiment import Experiment
from autopilot.core.gradient import TextGradient
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import PathParameter
from autopilot.core.policy import Decision
from autopilot.core.records.record import LlmRecord, Manifest, StepRecord
from autopilot.core.types import Cost, Datum
from autopilot.git.repository import Repository
from autopilot.tracking import GitMemory, GitStore
from autopilot.tracking.holding import fork
from autopilot.tracking.journal import Journal
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook

SLUG = "story"
EVIL = "</script><img src=x onerror='window.broken=1'><!-- {{script}} & |`*@all*`\u202e"
SHOWN = EVIL.replace("\u202e", r"\u202e")
SPACED = "rules/größe b.txt"
# The slash is a folder: rules/<, and a file in it.
MARKUP = "rules/</script><img src=http:x onerror=window.broken=2>.txt"
ITEMS = ("v1", "v2", "v3", "v4")
# Verdict, val accuracy, and the items that passed, failed, had an error, or were not evaluated.
EPOCHS = (("baseline", 0.25, "pffe"), ("kept", 0.5, "ppfe"), ("rejected", 0.4, "fpe."))
EPOCHS += (("kept", 0.75, "pppf"), ("rejected", 0.75, "pppf"))


def tell(top: Path) -> Notebook:
    """Makes the repository and the experiment in it, with a fork of epoch 1."""
    for name, text in ((SPACED, "one\ntwo\nthree\n"), (MARKUP, "quiet\n")):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    (top / "rules" / "picture.bin").write_bytes(b"\0\1\2")
    commit_all(top, "first")
    store = GitStore(SLUG, top)
    experiment = Experiment(store, GitMemory(store), Manifest(slug=SLUG, idea=EVIL))
    optimizer = Optimizer([PathParameter(top / "rules")])
    experiment.open(optimizer.parameters)
    for number, (verdict, value, outcomes) in enumerate(EPOCHS):
        if number and number < len(EPOCHS) - 1:
            _step(experiment, optimizer, top, number)
        elif number:
            experiment.commit_step(optimizer, number, 1, Step("nothing to do", "wait"))
        if number == 1:
            store.note_call(_call("judge", number, 0.02))
            store.note_call(_call("optimizer", number, 0.05))
        experiment.on_validation_complete({"val": _items(outcomes)})
        metrics = {"val": {"accuracy": value, "f1": value / 2}}
        experiment.on_epoch_complete(
            number,
            metrics | ({"train": {"accuracy": value + 0.1}} if number else {}),
            Decision(verdict, (f"because {EVIL}",)),  # type: ignore[arg-type]  # a verdict
            cost=Cost(8, 1000, 0.1, 2.0) if number == 1 else Cost(8, seconds=1.0),
        )
    experiment.on_test_complete({"accuracy": 0.7}, [Datum(id="t1", success=False)])
    experiment.on_loop_complete("finished", "reached 4 epochs")
    experiment.close()
    repo = Repository.discover(top)
    _violate(repo)
    notebook = Notebook(repo, SLUG)
    fork(notebook, 1, "story-fork")
    return Notebook(repo, SLUG)


def _step(experiment: Experiment, optimizer: Optimizer, top: Path, number: int) -> None:
    experiment.begin_step(number, 1)
    (top / SPACED).write_text(f"one\ntwo changed in {number}\nthree\n{EVIL}\n")
    if number == 1:
        (top / MARKUP).write_text("loud\n")
        (top / "rules" / "picture.bin").write_bytes(b"\0\3")
        (top / "rules" / "new.txt").write_text("new\n")
    optimizer.parameters[0].grad = TextGradient(f"be louder {EVIL}", "rules")
    experiment.commit_step(optimizer, number, 1, Step(f"change {number}", f"shout {EVIL}", EVIL))
    optimizer.zero_grad()


def _items(outcomes: str) -> list[Datum]:
    return [
        Datum(
            id=name,
            success=outcome == "p",
            feedback=f"louder, {EVIL}" if outcome == "f" else None,
            error_message=f"no answer, {EVIL}" if outcome == "e" else None,
        )
        for name, outcome in zip(ITEMS, outcomes, strict=True)
        if outcome != "."
    ]


def _call(role: str, epoch: int, usd: float) -> LlmRecord:
    return LlmRecord(
        epoch=epoch,
        id=f"call-{role}",
        role=role,
        model="model-x",
        cost=Cost(tokens=300, cost_usd=usd),
    )


def _violate(repo: Repository) -> None:
    """Epoch 2's step did something that was undone."""
    journal = Journal(repo, Layout(SLUG))
    commit, record = next(
        (commit, r) for commit, r in journal.read(StepRecord) if r.epoch == 2 and r.changed
    )
    journal.write(commit, [replace(record, violations=(f"it wrote outside.txt {EVIL}",))])
