"""A repository of its own that borrows another one's objects: refs and notes to try things with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from autopilot.errors import GitCommandError
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository

# How git treats content is to be the same; who signs, and whose hooks run, is not ours to repeat.
_SETTINGS = {
    "core.bare": "false",
    "commit.gpgsign": "false",
    "tag.gpgsign": "false",
    "core.hooksPath": os.devnull,
    "gc.auto": "0",
}


def borrow(repo: Repository, path: Path, commit: str) -> Repository:
    """Makes a repository beside another one, with a commit of it checked out, detached.

    What is written there stays there; of the other one, objects are read. Starts git, which
    applies the filters (LFS among them). Remove it by removing its folder.

    Args:
        repo: The repository whose objects and configuration it uses.
        path: The new one's folder; it must not exist.
        commit: What is checked out.

    Raises:
        GitCommandError: it cannot be made; what was made until then is removed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        run_git(["init", "--quiet", "--template=", str(path)], cwd=repo.common_dir)
        _share(repo.common_dir, path / ".git")
        unset = ["config", "--unset-all", "core.worktree"]
        run_git(unset, cwd=path, check=False)
        for name, value in _SETTINGS.items():
            run_git(["config", name, value], cwd=path)
        if (repo.common_dir / "lfs").is_dir():
            run_git(["config", "lfs.storage", str(repo.common_dir / "lfs")], cwd=path)
        run_git(["checkout", "--quiet", "--detach", commit], cwd=path)
        return Repository.discover(path)
    except BaseException as error:
        shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError):
            raise GitCommandError(
                f"cannot make a repository at {path}: {error.strerror}",
                hint="make room and give write permission there, or set XDG_CACHE_HOME to another"
                " folder",
            ) from error
        raise


def _share(theirs: Path, ours: Path) -> None:
    (ours / "objects" / "info").mkdir(parents=True, exist_ok=True)
    alternates = os.fsencode(theirs / "objects") + b"\n"
    (ours / "objects" / "info" / "alternates").write_bytes(alternates)
    for name in ("config", "shallow", "info/attributes", "info/exclude"):
        if (theirs / name).is_file():
            (ours / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(theirs / name, ours / name)
