"""Reading an experiment back: epochs, steps, states, status."""

from pathlib import Path

import pytest

from autopilot.core.experiment import Experiment
from autopilot.core.module import AutoPilotModule
from autopilot.core.parameter import PathParameter
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum
from autopilot.errors import ExperimentError, ParameterError
from autopilot.git.commands import run_git
from autopilot.testing import ScriptedOptimizer
from autopilot.tracking import GitMemory, GitStore
from autopilot.tracking.finding import latest
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.parameters import (
    check_clean,
    check_tracked,
    dirty_files,
    entries_at,
    scope_of,
)


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


def run(top, *levels, slug="demo", epochs=None):
    store = GitStore(slug, top)
    experiment = Experiment(store, GitMemory(store))
    trainer = Trainer(experiment=experiment)
    trainer.fit(Level(top, *levels), max_epochs=len(levels) if epochs is None else epochs)
    trainer.test(Level(top), [[{"id": "x", "value": 0}]])
    experiment.close()
    run_git(["checkout", "--quiet", "rules"], cwd=top)
    return store


def test_the_epochs_as_they_went(repository, top):
    run(top, 2, 1, None, 3)
    book = Notebook(repository, "demo")
    rows = [
        (e.number, e.verdict, e.value, e.delta, e.best, e.strategy, e.record.outcome)
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
    with pytest.raises(ExperimentError, match="of the project shop"):
        latest(repository, "shop")


# --- which files a parameter is -----------------------------------------------------------------


def test_the_place_of_a_parameter(repository, top):
    folder = scope_of(repository, PathParameter(top / "rules", "*.txt"))
    assert (folder.prefix, folder.path) == ("rules/", "rules")
    assert folder.covers("rules/a.txt") and not folder.covers("rules/a.md")
    assert not folder.covers("rules2/a.txt") and not folder.covers("a.txt")
    file = scope_of(repository, PathParameter(top / "rules" / "a.txt"))
    assert (file.prefix, file.path, file.files()) == ("rules/", "rules/a.txt", ["rules/a.txt"])
    whole = scope_of(repository, PathParameter(top))
    assert (whole.prefix, whole.path) == ("", ".")
    tree = repository.pygit.head.peel().tree_id
    assert sorted(entries_at(repository, str(tree), [whole])) == ["README.md", "rules/a.txt"]


def test_behind_a_link(repository, top):
    (top / "link").symlink_to("rules")
    with pytest.raises(ParameterError, match="is behind the symbolic link") as caught:
        scope_of(repository, PathParameter(top / "link"))
    assert caught.value.hint == "name the folder that it points to: rules"


def test_a_way_to_the_top_through_a_link_is_fine(repository, top, tmp_path):
    (tmp_path / "way").symlink_to(top)
    scope = scope_of(repository, PathParameter(tmp_path / "way" / "rules"))
    assert scope.path == "rules"


def test_dirty_files_are_those_of_the_parameter(repository, top):
    scopes = [scope_of(repository, PathParameter(top / "rules"))]
    (top / "README.md").write_text("changed\n")
    check_clean(repository, scopes)
    (top / "rules" / "a.txt").write_text("changed\n")
    (top / "rules" / "new.txt").write_text("new\n")
    assert list(dirty_files(repository, scopes)) == ["rules/a.txt", "rules/new.txt"]
    with pytest.raises(ParameterError, match=r"rules/a\.txt is modified") as caught:
        check_clean(repository, scopes)
    assert "--include-dirty" in caught.value.hint


def test_inside_a_submodule(repository, top, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    run_git(["init", "--quiet"], cwd=inner)
    (inner / "x.txt").write_text("x\n")
    run_git(["add", "x.txt"], cwd=inner)
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    run_git([*name, "commit", "--quiet", "-m", "x"], cwd=inner)
    allow = ["-c", "protocol.file.allow=always"]
    run_git([*allow, "submodule", "--quiet", "add", str(inner), "sub"], cwd=top)
    run_git(["commit", "--quiet", "-m", "sub"], cwd=top)
    tree = str(repository.pygit.head.peel().tree_id)
    with pytest.raises(ParameterError, match="is in the submodule sub"):
        check_tracked(repository, tree, [scope_of(repository, PathParameter(top / "sub"))])
