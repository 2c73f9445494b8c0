"""Repositories to begin with: git makes each of them once, and every test gets a copy.

Five calls of git take ten times as long as a copy, and a thousand tests begin with them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pygit2
import pytest
from pygit2.enums import DiffOption

from autopilot.core.records.message import start_message
from autopilot.core.records.record import Manifest
from autopilot.git import commands, commits, refs
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository

ALONE = ("-c", "maintenance.auto=false")
"""A commit looks for no maintenance that is due: two more processes, almost half of its time."""
FOLDER = tempfile.gettempdir()
"""Where they are kept; a session has a folder of its own."""


def own_home(patch: pytest.MonkeyPatch, home: Path) -> None:
    """No configuration, identity or cache of the machine is seen, and no variable of a calling git.

    Args:
        patch: Puts the environment back.
        home: The home folder; git's global configuration is `.gitconfig` in it.
    """
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        patch.delenv(name)
    patch.setattr(commands, "_kept", {})
    patch.setenv("HOME", str(home))
    patch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    patch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    patch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    patch.setenv("GIT_CONFIG_NOSYSTEM", "1")


def make_checkout(top: Path, files: Mapping[str, str] | None = None, message: str = "base") -> Path:
    """A repository of Ada Byron's on `main`, with one commit of the files, or without any."""
    made = _made(tuple(sorted((files or {}).items())), message, FOLDER)
    return copy_checkout(made, top) if files else shutil.copytree(made, top, dirs_exist_ok=True)


def copy_checkout(made: Path, top: Path) -> Path:
    """Copies a checkout; its index knows the files that it has now."""
    shutil.copytree(made, top, symlinks=True, dirs_exist_ok=True)
    # As `git update-index --refresh`, without a process.
    pygit2.Repository(str(top)).index.diff_to_workdir(DiffOption.UPDATE_INDEX)
    return top


def commit_all(top: Path, message: str = "base") -> Path:
    """Commits what is in a folder, which becomes a repository where it is none."""
    if not (top / ".git").exists():
        make_checkout(top)
    run_git(["add", "--all"], cwd=top)
    run_git([*ALONE, "commit", "--quiet", "--message", message], cwd=top)
    return top


def begin_experiments(top: Path, *slugs: str) -> None:
    """Branches of experiments with the start commit that a run makes, and no notes."""
    repo = Repository.discover(top)
    head = repo.head_commit()
    tree = commits.read_commit(repo, head).tree
    for slug in slugs:
        message = start_message(Manifest(slug=slug))
        start = commits.commit(repo, tree=tree, parents=[head], message=message)
        refs.create_ref(repo, f"refs/heads/autopilot/{slug}", start, "test")


@cache
def _made(files: tuple[tuple[str, str], ...], message: str, folder: str) -> Path:
    top = Path(tempfile.mkdtemp(prefix="checkout-", dir=folder))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = kept | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    commands = [
        ["init", "--quiet", "--initial-branch=main"],
        ["config", "user.name", "Ada Byron"],
        ["config", "user.email", "ada@example.com"],
    ]
    for name, text in files:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    if files:
        commands += [["add", "--all"], ["commit", "--quiet", "--message", message]]
    for command in commands:
        subprocess.run(["git", *command], cwd=top, env=environment, check=True)
    for sample in (top / ".git" / "hooks").glob("*.sample"):
        sample.unlink()
    top.chmod(0o755)
    return top
