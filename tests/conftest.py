"""What tests of all packages share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autopilot.git.commands import run_git
from autopilot.git.repository import Repository


@pytest.fixture
def git_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own: no configuration, identity or cache of the machine is seen.

    Returns:
        The home folder; git's global configuration is `.gitconfig` in it.
    """
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return home


@pytest.fixture
def repository(tmp_path: Path, git_environment: Path) -> Repository:
    """A repository with one commit on `main`, of `README.md` and `rules/a.txt`."""
    top = tmp_path / "repo"
    (top / "rules").mkdir(parents=True)
    (top / "README.md").write_text("readme\n")
    (top / "rules" / "a.txt").write_text("a\n")
    for arguments in (
        ["init", "--quiet", "--initial-branch=main"],
        ["config", "user.name", "Ada Byron"],
        ["config", "user.email", "ada@example.com"],
        ["add", "--all"],
        ["commit", "--quiet", "--message=first"],
    ):
        run_git(arguments, cwd=top)
    return Repository.discover(top)
