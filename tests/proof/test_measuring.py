"""Measuring commits in fresh processes, from this one."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from autopilot.core.records.record import Manifest
from autopilot.engine.request import Request
from autopilot.errors import EvaluationError, ExperimentError, TargetError
from autopilot.git.commands import run_git
from autopilot.proof.measuring import Measurer, Task, measure_checkout, measure_epoch, workspace_at
from autopilot.tracking.notebook import Notebook


@pytest.mark.usefixtures("forked_workers")
def test_epochs_come_out_as_they_were_recorded(finished: Notebook) -> None:
    before = run_git(["status", "--porcelain", "--ignored"], cwd=finished.repo.workdir).stdout
    with Measurer(finished.repo, finished.manifest, "levels") as measurer:
        for number, accuracy in enumerate((0.25, 0.5, 0.75)):
            found = measurer.measure(finished.after(number), ["val", "test"], epoch=number)
            assert found.metrics["val"]["accuracy"] == accuracy
            assert found.metrics["val"] == finished.epoch(number).metrics["val"]
            assert [item.outcome for item in found.items["test"]].count("passed") == number + 1
            assert "levels.py" in found.inputs and "level.txt" not in found.inputs
        again = measurer.measure(finished.after(2), epoch=2, repeat=1)
        assert again.metrics["val"].keys() == found.metrics["val"].keys()
    after = run_git(["status", "--porcelain", "--ignored"], cwd=finished.repo.workdir).stdout
    assert after == before
    assert b"measure" not in run_git(["worktree", "list"], cwd=finished.repo.workdir).stdout


def test_each_measurer_has_a_worktree_of_its_own(finished: Notebook) -> None:
    asked = finished.repo, finished.manifest, "levels"
    with Measurer(*asked) as one, Measurer(*asked) as other:
        first = one.measure(finished.after(0)), one.measure(finished.after(1), epoch=1)
        second = other.measure(finished.after(1), epoch=1)
        assert first[1].metrics == second.metrics != first[0].metrics
        listed = run_git(["worktree", "list"], cwd=finished.repo.workdir).stdout
        assert b".measure-0" in listed and b".measure-1" in listed


def test_an_error_of_the_process_is_raised_with_the_users_paths(finished: Notebook) -> None:
    manifest = dataclasses.replace(finished.manifest, target="gone.py")
    with (
        Measurer(finished.repo, manifest, "levels") as measurer,
        pytest.raises(TargetError, match=r"gone\.py: no such file") as caught,
    ):
        measurer.measure(finished.after(0))
    assert str(finished.repo.workdir) in caught.value.hint
    assert ".measure-" not in caught.value.hint


def test_a_measurer_that_was_stopped_starts_nothing(finished: Notebook) -> None:
    with Measurer(finished.repo, finished.manifest, "levels") as measurer:
        measurer.stop()
        with pytest.raises(EvaluationError, match="was ended"):
            measurer.measure(finished.after(0))


def test_an_experiment_without_a_target_cannot_be_measured(repository) -> None:
    with pytest.raises(ExperimentError, match="was not started by autopilot run"):
        Measurer(repository, Manifest(slug="own"), "own")


@pytest.mark.usefixtures("forked_workers")
def test_the_checkout_is_measured_with_its_uncommitted_changes(finished: Notebook) -> None:
    top = finished.repo.workdir
    (top / "level.txt").write_text("4\n")
    found = measure_checkout(Request(top, "levels.py"), "val")
    assert found.metrics["val"]["accuracy"] == 1.0
    assert measure_epoch(finished, 1, "test").metrics["test"]["accuracy"] == 0.5


def test_a_task_gives_another_process_the_same_checkout(repository) -> None:
    (repository.workdir / ".gitignore").write_text("data\n")
    (repository.workdir / "data").mkdir()
    user = repository
    workspace = workspace_at(user, user, "rules", user.head_commit(), [])
    task = Task(workspace, Manifest(slug="own", directory="rules"), "own")
    other = pickle.loads(pickle.dumps(task)).workspace
    assert (other.repo.workdir, other.folder) == (workspace.repo.workdir, workspace.folder)
    assert other.links == ()


_TARGET = """\
import os

import helper
from autopilot import AutoPilotModule, Datum, PathParameter


class Counting(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.level = PathParameter("level.txt")

    def forward(self, batch):
        with open(os.environ["PIDS"], "a") as file:
            print(os.getpid(), file=file)
        if (value := helper.value(self.level)) == DEADLY:
            os.abort()
        return Datum(success=True, metrics={"value": value})

    def val_dataloader(self):
        return [Datum()]
"""
_READS = {
    "each time": "def value(level):\n    return int(level.read_text())\n",
    "once": "import functools\n\n@functools.cache\ndef text():\n"
    "    return open('level.txt').read()\n\ndef value(level):\n    return int(text())\n",
    "at import": "NUMBER = int(open('level.txt').read())\n\ndef value(level):\n    return NUMBER\n",
}


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize(
    ("reads", "deadly", "options", "processes"),
    [
        ("each time", 9, {}, 1),
        ("once", 9, {}, 4),
        ("at import", 9, {}, 4),
        ("each time", 9, {"fresh": "always"}, 4),
        # The dead one, the one that notes it, and one for the rest.
        ("each time", 1, {}, 3),
    ],
)
def test_one_process_measures_states_that_differ_in_no_code(
    repository, monkeypatch, tmp_path, reads, deadly, options, processes
) -> None:
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    top, commits = repository.workdir, list[str]()
    (top / "counting.py").write_text(_TARGET.replace("DEADLY", str(deadly)))
    (top / "helper.py").write_text(_READS[reads])
    for level in range(4):
        (top / "level.txt").write_text(f"{level}\n")
        run_git(["add", "."], cwd=top)
        run_git(["commit", "-qm", "level"], cwd=top)
        commits.append(repository.head_commit())
    where = {"parameters": {"0": "level.txt"}, "directory": "", "base": commits[0]}
    manifest = Manifest(slug="own", target="counting.py", options=options, **where)
    with Measurer(repository, manifest, "own", is_lasting=True) as measurer:
        measured = [measurer.measure(commit) for commit in commits]
    found = [each.items["val"][0] for each in measured]
    values = [item.metrics.get("value") for item in found]
    assert values == [None if level == deadly else level for level in range(4)]
    assert len(set((tmp_path / "pids").read_text().split())) <= processes
    assert reads != "each time" or options or measured[0].inputs == measured[3].inputs
