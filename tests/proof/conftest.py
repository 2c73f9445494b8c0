"""A repository with a finished experiment."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkouts import copy_checkout, make_checkout
from levels import commit_levels

from autopilot.git.repository import Repository
from autopilot.tracking.notebook import Notebook
from tests.cli.conftest import Place, prepare_commands


@pytest.fixture(scope="session")
def finished_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its checkout, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        cache = prepare_commands(patch, folder)
        made = make_checkout(folder / "repo", {"README.md": "readme\n", "rules/a.txt": "a\n"})
        top = commit_levels(Repository.discover(made)).workdir
        Place(top, cache).run("run", "levels.py", "-e", "levels", "--max-epochs", "2")
    return top


@pytest.fixture
def finished(
    finished_template: Path,
    tmp_path: Path,
    git_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Notebook:
    """The experiment `levels`: the baseline passes 1 of 4 items, epochs 1 and 2 pass 2 and 3."""
    prepare_commands(monkeypatch, git_environment)
    top = copy_checkout(finished_template, tmp_path / "repo")
    return Notebook(Repository.discover(top), "levels")
