"""Reading an experiment back: epochs, steps, states, status."""

from pathlib import Path

import pytest

from autopilot.core.callback import Callback
from autopilot.core.experiment import Experiment
from autopilot.core.module import AutoPilotModule
from autopilot.core.parameter import PathParameter
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum
from autopilot.errors import ExperimentError
from autopilot.git.commands import run_git
from autopilot.report.collection import collect
from autopilot.testing import ScriptedOptimizer
from autopilot.tracking import GitMemory, GitStore
from autopilot.tracking.finding import latest
from autopilot.tracking.notebook import Notebook


class Level(AutoPilotModule):
    def __init__(self, top, *levels):
        super().__init__()
        self.rules = PathParameter(top / "rules")
        self.levels = levels

    def forward(self, batch):
        level = int(self.rules.read_text("a.txt"))
        return Datum(items=[Datum(success=i.metadata["value"] < level) for i in batch.items])

    def configure_optimizers(self):
        def write(level):
            return lambda ps: ps[0].write_text(f"{level}\n", "a.txt")

        return ScriptedOptimizer(
            self.parameters(), [level and (f"to {level}", write(level)) for level in self.levels]
        )

    def train_dataloader(self):
        return [[{"id": "t", "value": 9}]]

    def val_dataloader(self):
        return [[{"id": f"v{n}", "value": n} for n in range(4)]]


@pytest.fixture
def top(repository):
    top = Path(repository.workdir)
    (top / "rules" / "a.txt").write_text("1\n")
    run_git(["commit", "--quiet", "--all", "--message=one"], cwd=top)
    return top


def run(top, *levels, slug="demo", epochs=None, callbacks=()):
    store = GitStore(slug, top)
    experiment = Experiment(store, GitMemory(store))
    trainer = Trainer(callbacks, experiment=experiment)
    trainer.fit(Level(top, *levels), max_epochs=len(levels) if epochs is None else epochs)
    trainer.test(Level(top), [[{"id": "x", "value": 0}]])
    experiment.close()
    run_git(["checkout", "--quiet", "rules"], cwd=top)
    return store


class Beside(Callback):
    """Reads a run in parts: some before an epoch's verdict is written, the others after that."""

    def __init__(self, repository, first):
        self.repository, self.first, self.seen = repository, first, []

    def on_verdict(self, trainer, module, decision):
        if trainer.current_epoch:
            self.book = Notebook(self.repository, "demo")
            self.first(self.book)

    def on_epoch_recorded(self, trainer, module, record):
        if record.epoch:
            now, book = Notebook(self.repository, "demo"), self.book
            collect(book)
            newest = [book.last.epoch, book.epochs[-1].number, book.index.epochs[-1].number]
            assert newest == [record.epoch - 1] * 3
            assert (now.last.epoch, now.best_commit) == (record.epoch, now.after(record.best_epoch))
            self.seen.append(now.index.epochs[-1].number)


@pytest.mark.parametrize(
    "first", [lambda book: book.epochs, lambda book: book.last, lambda book: book.index]
)
def test_what_is_read_beside_a_run_is_of_one_moment(repository, top, first):
    beside = Beside(repository, first)
    run(top, 2, 3, 4, callbacks=beside)
    assert beside.seen == [1, 2, 3]


def test_the_epochs_as_they_went(repository, top):
    run(top, 2, 1, None, 3)
    book = Notebook(repository, "demo")
    rows = [
        (e.number, e.verdict, e.value, e.delta, e.record.best, e.record.strategy, e.record.outcome)
        for e in book.epochs
    ]
    assert rows == [
        (0, "baseline", 0.25, None, 0.25, "", "kept"),
        (1, "kept", 0.5, 0.25, 0.5, "to 2", "kept"),
        (2, "rejected", 0.25, -0.25, 0.5, "to 1", "repeated"),
        (3, "rejected", 0.5, 0.0, 0.5, "", "unchanged"),
        (4, "kept", 0.75, 0.25, 0.75, "to 3", "kept"),
    ]
    assert [e.record.reused for e in book.epochs] == [None, None, 0, 1, None]
    assert [len(e.steps) for e in book.epochs] == [0, 1, 1, 0, 1]
    assert [e.rollback is not None for e in book.epochs] == [False, False, True, True, False]
    assert book.best.number == 4
    assert book.best.metrics["test"] == {"accuracy": 1.0}
    assert book.kept == 2
    assert book.monitor == ("accuracy", "max")
    # Val is measured twice at the baseline.
    assert (
        book.spent.evaluations == sum(e.record.cost.evaluations for e in book.epochs) == 4 * 4 + 4
    )
    assert book.going_on is None


def test_what_an_epoch_was(repository, top):
    run(top, 2, 1)
    book = Notebook(repository, "demo")
    ((commit, step),) = book.steps(1)
    assert (commit, step.summary) == (book.epoch(1).commit, "to 2 at 1")
    assert book.lessons(1)[0].outcome == "kept"
    assert [item.id for item in book.items(1)] == ["v0", "v1", "v2", "v3"]
    assert book.before(1) == book.start
    assert b"+2" in book.patch(book.before(1), book.after(1)).splitlines()
    assert book.counts(book.before(1), book.after(1))["rules/a.txt"].added == 1
    assert book.epoch_at(book.epoch(2).rollback) == 2
    assert book.epoch_at(book.start) == 0
    assert book.find("best").number == book.find("epoch-0001").number == 1
    assert book.find("autopilot/demo/epoch-0001").number == book.find(commit[:8]).number == 1
    with pytest.raises(ExperimentError, match="demo has no epoch 7") as caught:
        book.epoch(7)
    assert caught.value.hint == "choose one of 0 to 2"


def test_a_patch_applies(repository, top):
    run(top, 2)
    book = Notebook(repository, "demo")
    patch = book.patch(book.start, book.tip)
    (top / "x.patch").write_bytes(patch)
    run_git(["apply", "x.patch"], cwd=top)
    assert (top / "rules" / "a.txt").read_text() == "2\n"


def test_where_it_stands(repository, top):
    store = GitStore("demo", top)
    trainer = Trainer(experiment=Experiment(store, GitMemory(store)))
    trainer.fit(Level(top, 2), max_epochs=1)
    assert Notebook(repository, "demo").status.state == "running"
    store.close()
    status = Notebook(repository, "demo").status
    assert (status.state, status.detail) == ("stopped", "reached the maximum of 1 epoch")
    run_git(["checkout", "--quiet", "rules"], cwd=top)
    again = Experiment(GitStore("demo", top))
    again.open([PathParameter(top / "rules")])
    again.close()
    assert Notebook(repository, "demo").status.state == "killed"


def test_names_that_are_not_there(repository, top):
    with pytest.raises(ExperimentError, match="there is no experiment demo") as caught:
        Notebook(repository, "demo")
    assert "autopilot run" in caught.value.hint
    with pytest.raises(ExperimentError, match="there is no experiment in"):
        latest(repository)
    run(top, 2)
    with pytest.raises(ExperimentError) as caught:
        Notebook(repository, "dmo")
    assert caught.value.hint.startswith("did you mean demo?")
    assert latest(repository) == "demo"
    for odd in ("²", "9" * 5000):
        with pytest.raises(ExperimentError, match="is no epoch of demo"):
            Notebook(repository, "demo").find(odd)
    with pytest.raises(ExperimentError, match="of the project shop"):
        latest(repository, "shop")
