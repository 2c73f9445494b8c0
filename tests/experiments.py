"""Experiments in git without a run: a checkout with rules, and epochs of given files and values."""

from __future__ import annotations

import shutil

import pytest
from checkouts import copy_checkout, make_checkout, own_home

from autopilot.core.experiment import Experiment
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import PathParameter
from autopilot.core.policy import Decision
from autopilot.core.records.record import Manifest
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository
from autopilot.git.worktrees import add_worktree, remove_worktree
from autopilot.tracking import GitMemory, GitStore
from autopilot.tracking.notebook import Notebook

FILES = {
    "README.md": "readme\n",
    "rules/a.txt": "a\n",
    "rules/b.txt": "".join(f"{n}\n" for n in range(10)),
    "rules/notes.md": "not a parameter\n",
    ".gitignore": "*.log.txt\n",
}


@pytest.fixture
def top(tmp_path, git_environment):
    """The user's checkout: rules/a.txt, rules/b.txt of ten lines, and a file that is no rule."""
    return make_checkout(tmp_path / "repo", FILES, "rules")


def git(top, *arguments, **options):
    return run_git(list(arguments), cwd=top, **options).stdout.decode().rstrip("\n")


class Write(Optimizer):
    """Writes files; None removes one."""

    files = {}  # noqa: RUF012

    def step(self):
        (rules,) = self.parameters
        for name, text in self.files.items():
            if text is None:
                (rules.root / name).unlink()
            else:
                (rules.root / name).write_bytes(text.encode())
        return Step(f"write {', '.join(self.files)}", "write")


def make(top, slug="demo", epochs=(), baseline=0.25, target=""):
    """An experiment in a worktree of its own; an epoch is files and a value."""
    user = Repository.discover(top)
    place = top.parent / "worktrees" / slug
    repo = add_worktree(user, place, user.head_commit())
    store = GitStore(slug, repo.workdir, in_place=False)
    rules = PathParameter(repo.workdir / "rules", "*.txt")
    manifest = Manifest(slug=slug, target=target, base_branch=user.head_name())
    experiment = Experiment(store, GitMemory(store), manifest)
    experiment.open([rules])
    experiment.on_epoch_complete(0, val(baseline), Decision("baseline", ("measured",)))
    optimizer, best = Write([rules]), baseline
    for number, (files, value) in enumerate(epochs, 1):
        optimizer.files = files
        experiment.commit_step(optimizer, number, 1, optimizer.step())
        kept = value > best
        best = max(best, value)
        verdict = Decision("kept" if kept else "rejected", (f"it is {value}",))
        experiment.on_epoch_complete(number, val(value), verdict)
    experiment.on_loop_complete("stopped", "enough")
    experiment.close()
    remove_worktree(user, place)
    return Notebook(user, slug)


def val(value):
    return {"val": {"accuracy": value}}


def again(notebook):
    return Notebook(Repository.discover(notebook.repo.workdir), notebook.slug)


class Untouched:
    """HEAD, index and the user's files, before and after."""

    def __init__(self, top):
        self.top = top
        self.before = self.look()

    def look(self):
        files = {
            path.relative_to(self.top).as_posix(): (path.stat().st_mode, path.read_bytes())
            for path in self.top.rglob("*")
            if path.is_file() and ".git" not in path.relative_to(self.top).parts
        }
        head = (self.top / ".git" / "HEAD").read_text(), git(self.top, "rev-parse", "HEAD")
        return files, head, (self.top / ".git" / "index").read_bytes()

    def check(self, *, but_files=False):
        after = self.look()
        assert after[1:] == self.before[1:]
        assert but_files or after == self.before


@pytest.fixture(scope="session")
def made_demo(tmp_path_factory):
    """Of `demo`, what is copied."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        own_home(patch, folder)
        top = make_checkout(folder / "repo", FILES, "rules")
        make(
            top,
            epochs=[
                ({"a.txt": "a1\n"}, 0.5),
                ({"a.txt": "a2\n", "c.txt": "new\n"}, 0.3),
                ({"a.txt": "a3\n", "b.txt": None}, 0.75),
                ({"a.txt": "a4\n"}, 0.5),
                ({"c.txt": "c5\r\n"}, 0.875),
            ],
        )
    return top


@pytest.fixture
def demo(made_demo, top):
    """Five epochs; the second and the fourth are rejected."""
    shutil.rmtree(top)
    return Notebook(Repository.discover(copy_checkout(made_demo, top)), "demo")


def rules(top):
    return {path.name: path.read_bytes() for path in (top / "rules").iterdir()}


def lines(*, first="0", last="9"):
    return "".join(f"{n}\n" for n in [first, *range(1, 9), last])
