"""Workspaces and projects: made, run, looked after; a project's own command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Place, prepare_commands

HOME = "autopilot/projects/spam"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the project `spam` as `project init` makes it, committed and run once."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        place = Place(folder / "wörk space", prepare_commands(patch, folder / "home"))
        place.init()
        place.run("project", "init", "spam")
        place.commit("project spam")
        place.run("-p", "spam", "run", "-e", "one", cwd=place.top / "autopilot" / "projects")
    return place.top


@pytest.fixture
def spam(
    prepared: Path, tmp_path: Path, git_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """A copy of the prepared workspace."""
    cache = prepare_commands(monkeypatch, git_environment)
    shutil.copytree(prepared, tmp_path / prepared.name, symlinks=True)
    return Place(tmp_path / prepared.name, cache)


def test_a_new_project_runs_at_once_and_improves(spam: Place) -> None:
    judged = spam.judged("spam/one")
    assert judged[0]["metrics"]["accuracy"] < 0.6
    assert max(r["metrics"]["accuracy"] for r in judged) > 0.9
    assert {"kept", "rejected"} <= set(spam.verdicts("spam/one"))
    changed = spam.git("diff", "--name-only", "main...autopilot/spam/one").splitlines()
    assert changed == [f"{HOME}/rules.txt"]
    assert spam.git("status", "--porcelain") == ""


def test_a_new_project_is_what_it_says(spam: Place) -> None:
    files = set(spam.git("ls-files").splitlines())
    for name in ("cli.py", "trainer.py", "ai/judge.py", "datasets/train.jsonl", "rules.txt"):
        assert f"{HOME}/{name}" in files
    assert "autopilot/pyproject.toml" in files
    pytest.importorskip("ruff")
    lint = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,W,I,UP,B"]
    lint += ["--line-length", "100", "."]  # what is first-party, ruff knows by where it is started
    done = subprocess.run(lint, cwd=spam.top, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_init_refuses_what_is_there_and_bad_names(spam: Place) -> None:
    spam.refused("project", "init", "spam", says=("exists already",), hints=("doctor",), code=2)
    spam.refused("project", "init", "Bad", says=("'Bad'", "project"), hints=("small",), code=2)


def test_the_run_sees_the_worktrees_code_also_from_its_own_command_line(spam: Place) -> None:
    """cli.py has imported the checkout's trainer.py before the run begins."""
    place = f"{HOME}/trainer.py"
    spam.change(place, ('"spam" if found else "fine"', '"fine" if found else "spam"'))
    spam.write(place, spam.read(place).replace('"fine" if found else "spam"', '"spam"'))
    command = [sys.executable, f"{HOME}/cli.py", "run", "-e", "direct", "--max-epochs", "1"]
    done = subprocess.run(command, cwd=spam.top, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # As committed, all answers are turned round; as in the checkout, half of them are right.
    (before, *_), (turned, *_) = spam.judged("spam/one"), spam.judged("spam/direct")
    assert turned["metrics"]["accuracy"] == 1 - before["metrics"]["accuracy"] != 0.5


def test_a_projects_own_command_line_reads_its_own_repository_from_anywhere(
    spam: Place, tmp_path: Path
) -> None:
    other = Place(tmp_path / "other", spam.cache)
    other.init()
    for folder in (tmp_path, other.top):
        command = [sys.executable, str(spam.top / HOME / "cli.py"), "status", "--json"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(done.stdout)["experiments"]
        assert row["experiment"] == "spam/one"
    elsewhere = [*command, "-C", str(tmp_path)]
    assert subprocess.run(elsewhere, cwd=spam.top, capture_output=True, check=False).returncode == 1


def test_hyperparameters_are_the_projects_then_the_commands(spam: Place) -> None:
    spam.run("-p", "spam", "optimize", "set-hparams", "batch_size=4", "shortest_word=5")
    assert '"batch_size": 4' in spam.read(f"{HOME}/experiments/hparams.json")
    spam.run("-p", "spam", "run", "-e", "h", "--max-epochs", "1", "-H", "batch_size=6")
    (manifest, *_) = spam.notes("spam/h", "experiment")
    assert manifest["hparams"] == {"batch_size": "6", "shortest_word": "5"}
    spam.run("-p", "spam", "optimize", "set-hparams", "--unset", "shortest_word")
    assert "shortest_word" not in spam.read(f"{HOME}/experiments/hparams.json")
    command = ("-p", "spam", "optimize", "set-hparams", "size=1")
    spam.refused(*command, says=("size",), hints=("batch_size",), code=2)


def test_without_target_and_project_there_is_nothing_to_run(spam: Place) -> None:
    spam.refused("run", says=("nothing to work on",), hints=("by -p: spam",), code=2)
    spam.refused("-p", "spum", "run", says=("no project spum",), hints=("mean spam",), code=2)


def test_a_projects_own_command(spam: Place) -> None:
    spam.change(
        f"{HOME}/cli.py",
        (
            "\n\nProjectCLI()()",
            "\n    def app(self):\n        app = super().app()\n\n        @app.command()\n"
            "        def motto():\n            print(self.project, self.module.__name__)\n\n"
            "        return app\n\n\nProjectCLI()()",
        ),
    )
    below = spam.top / HOME / "datasets"
    assert spam.run("-p", "spam", "motto", cwd=below).out == "spam SpamFilter\n"
    assert "No such command" in spam.autopilot("-p", "spam", "mottoo").error


def test_list_and_tree(spam: Place) -> None:
    listed = spam.run("project", "list", "--json").document["projects"]
    assert [(row["project"], row["experiments"]) for row in listed] == [("spam", 1)]
    assert listed[0]["newest"]["experiment"] == "spam/one"
    tree = spam.run("workspace", "tree").out
    assert "└─ spam\n" in tree
    assert "├─ spam/one  finished" in tree
    assert "datasets: test 24, train 72, val 24" in tree


def test_doctor_of_a_sound_project(spam: Place) -> None:
    before = spam.snapshot()
    told = spam.run("project", "doctor", "spam", "--json").document
    assert before == spam.snapshot()
    assert told["ok"]
    assert {check["state"] for check in told["checks"]} == {"ok"}
    assert {"cli.py", "module", "parameters", "evaluation", "cost"} <= {
        check["name"] for check in told["checks"]
    }


def test_doctor_names_what_is_wrong_and_what_mends_it(spam: Place) -> None:
    spam.change(f"{HOME}/cli.py", ('project="spam"', 'project="ham"'))
    spam.change(f"{HOME}/trainer.py", ('item.metadata["text"]', 'item.metadata["texxt"]'))
    first = spam.read(f"{HOME}/datasets/train.jsonl").splitlines()[0]
    spam.write(f"{HOME}/datasets/val.jsonl", spam.read(f"{HOME}/datasets/val.jsonl") + first + "\n")
    (spam.top / "autopilot/projects/empty").mkdir()
    done = spam.autopilot("workspace", "doctor", "--json")
    assert done.code == 1, done
    projects = done.document["projects"]
    assert projects["empty"]["checks"][0]["name"] == "cli.py"
    found = {check["name"]: check for check in projects["spam"]["checks"]}
    assert "'ham'" in found["name"]["detail"]
    assert 'project="spam"' in found["name"]["mend"]
    assert found["files"]["state"] == "warning"
    assert "dataset check" in found["datasets"]["mend"]
    assert "texxt" in found["evaluation"]["detail"]
    assert found["evaluation"]["state"] == "failed"


def test_workspace_init_makes_a_repository_where_there_is_none(spam: Place) -> None:
    folder = spam.top.parent / "new one"
    done = spam.run("workspace", "init", str(folder))
    assert "is a git repository now" in done.out
    assert (folder / ".git").is_dir()
    assert 'name = "new-one-autopilot"' in (folder / "autopilot/pyproject.toml").read_text()
    again = spam.run("workspace", "init", cwd=folder)
    assert "is a workspace already" in again.out


def test_the_projects_generator_and_the_part_of_a_named_command_line(spam: Place) -> None:
    spam.run("-p", "spam", "ai", "generate", "run", "-n", "10", "-o", "made")
    assert spam.read("made/train.jsonl").count("\n") == 6
    spam.run("ai", "generate", "run", f"{HOME}/cli.py", "-n", "10", "-o", "again")
    assert spam.read("again/train.jsonl") == spam.read("made/train.jsonl")
