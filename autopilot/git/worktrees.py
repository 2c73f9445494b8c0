"""Linked worktrees: a second checkout of a repository, outside of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from autopilot.errors import GitCommandError, RepositoryError
from autopilot.git.commands import run_git
from autopilot.git.locks import one_at_a_time
from autopilot.git.objects import tree_of
from autopilot.git.repository import Repository

# The user's post-checkout hook is about the user's own checkout.
NO_HOOKS = ("-c", "core.hooksPath=/dev/null")


def cache_folder() -> Path:
    """Where autopilot keeps what can be made again: in the user's cache folder."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if configured.startswith("/"):
        return Path(configured) / "autopilot"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "autopilot"
    return Path.home() / ".cache" / "autopilot"


def worktree_path(repo: Repository, name: str) -> Path:
    """Where a repository's worktree of a name belongs: one place per repository and name."""
    home = repo.main_workdir or repo.common_dir
    digest = hashlib.sha1(os.fsencode(repo.common_dir), usedforsecurity=False).hexdigest()
    return cache_folder() / "worktrees" / f"{home.name}-{digest[:8]}" / name


def private_path(worktree: Path) -> Path:
    """A folder beside a worktree for what belongs to it and may not be in it; no slug has a dot."""
    return worktree.with_name(f".{worktree.name}.private")


def add_worktree(repo: Repository, path: Path, commit: str) -> Repository:
    """Checks a commit out, detached, in a worktree of its own.

    Starts git, which applies the filters (LFS among them). Runs no hook.

    Args:
        repo: The repository, seen from any of its worktrees.
        path: The new worktree's folder; it must not exist, or be empty.
        commit: What is checked out.

    Returns:
        The repository, seen from the new worktree.

    Raises:
        GitCommandError: the folder is in use, cannot be written, or the disk is full. What was
            written until then is removed.
    """
    taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if taken:
        raise GitCommandError(
            f"cannot make a worktree at {path}: the folder is not empty",
            hint="remove it, or name another one",
        )
    # Two processes of git that add or remove at once can trip over each other's half-made files.
    with one_at_a_time(repo.common_dir):
        return _add(repo, path, commit)


def _add(repo: Repository, path: Path, commit: str) -> Repository:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # --force: a worktree whose folder was deleted by hand may be registered at this path.
        run_git(
            [*NO_HOOKS, "worktree", "add", "--detach", "--force", "--quiet", str(path), commit],
            cwd=repo.workdir,
        )
        return Repository.discover(path)
    except (GitCommandError, OSError) as error:
        _remove(repo, path)
        reason = error.message if isinstance(error, GitCommandError) else error.strerror
        raise GitCommandError(
            f"cannot make a worktree at {path}: {reason}",
            hint="make room and give write permission there, or set XDG_CACHE_HOME to another"
            " folder, or run with --in-place",
        ) from error
    except BaseException:
        # Ctrl-C: what was checked out until then goes too.
        _remove(repo, path)
        raise


def check_out(worktree: Repository, commit: str) -> None:
    """Makes a linked worktree of our own what a new one of a commit would be.

    Everything else in it is removed, ignored files included. Runs no hook.

    Args:
        worktree: The repository, seen from that worktree.
        commit: What is checked out, detached.

    Raises:
        GitCommandError: git cannot.
        RepositoryError: it is the user's own checkout.
    """
    here = worktree.workdir
    if worktree.main_workdir is not None and here.samefile(worktree.main_workdir):
        raise RepositoryError(f"{here} is the main worktree", hint="add a worktree for it")
    run_git([*NO_HOOKS, "checkout", "--detach", "--force", "--quiet", commit], cwd=here)
    # -ff: folders with a repository of their own too.
    run_git(["clean", "-ffdxq"], cwd=here)


def remove_worktree(repo: Repository, path: Path) -> None:
    """Removes a worktree with all that is in it; nothing happens if it is gone.

    Only a linked worktree of this repository is removed.

    Raises:
        RepositoryError: it is the main worktree, or cannot be removed.
    """
    if path.exists() and repo.main_workdir is not None and path.samefile(repo.main_workdir):
        raise RepositoryError(
            f"{path} is the main worktree", hint="name a linked worktree: see `git worktree list`"
        )
    with one_at_a_time(repo.common_dir):
        _remove(repo, path)


def _remove(repo: Repository, path: Path) -> None:
    # --force twice: locked ones too.
    done = run_git(
        ["worktree", "remove", "--force", "--force", str(path)],
        cwd=repo.common_dir,
        check=False,
    )
    pointer = path / ".git"
    if done.returncode != 0 and pointer.is_file() and _belongs(pointer, repo):
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise RepositoryError(
                f"cannot remove the worktree {path}: {error.strerror}", hint="remove it by hand"
            ) from error
    run_git(["worktree", "prune"], cwd=repo.common_dir, check=False)
    if path.is_relative_to(cache_folder()):
        shutil.rmtree(private_path(path), ignore_errors=True)
        for folder in path.relative_to(cache_folder().parent).parents[:-1]:
            with contextlib.suppress(OSError):  # others are still in it
                (cache_folder().parent / folder).rmdir()


def _belongs(pointer: Path, repo: Repository) -> bool:
    target = os.fsdecode(pointer.read_bytes()).removeprefix("gitdir: ").strip()
    owners = (repo.common_dir, private_path(pointer.parent))
    return any(Path(target).is_relative_to(owner) for owner in owners)


def commit_of_checkout(repo: Repository) -> str:
    """A commit of the checkout as it is now: HEAD, or on top of it what tracked files hold.

    No ref names it, and the index stays as it is. Untracked files are not in it.

    Raises:
        GitCommandError: git cannot read the checkout.
    """
    head = repo.head_commit()
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        # With its times: by them git tells which files it must look into although they seem clean.
        shutil.copy2(repo.git_dir / "index", index)
        own = {"GIT_INDEX_FILE": str(index)}
        run_git(["add", "--update", "--", ":/"], cwd=repo.workdir, environment=own)
        written = run_git(["write-tree"], cwd=repo.workdir, environment=own).stdout
    tree = written.decode().strip()
    if tree == tree_of(repo, head):
        return head
    identity = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "autopilot"), ("EMAIL", "autopilot@localhost"))
    }
    command = ["commit-tree", tree, "-p", head, "-m", "autopilot: the checkout as it was measured"]
    made = run_git(command, cwd=repo.workdir, environment=identity)
    return made.stdout.decode().strip()
