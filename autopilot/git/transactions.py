"""Many refs at once: git changes all of them or none."""

from __future__ import annotations

import os
from collections.abc import Mapping

from autopilot.errors import GitCommandError
from autopilot.git.commands import run_git
from autopilot.git.refs import check_free, log_line, moved, read_ref
from autopilot.git.repository import Repository


def delete_refs(repo: Repository, expected: Mapping[str, str]) -> None:
    """Deletes all of some refs, or none if one of them is not where it is expected.

    Starts git.

    Args:
        repo: The repository.
        expected: Full name to what it points at.

    Raises:
        GitCommandError: one was moved meanwhile, or is locked.
    """
    lines = "".join(f"delete {name}\0{oid}\0" for name, oid in expected.items())
    run_git(["update-ref", "--stdin", "-z"], cwd=repo.workdir, stdin=os.fsencode(lines))


def move_refs(repo: Repository, moves: Mapping[str, tuple[str, str | None]], log: str) -> None:
    """Creates and moves all of some refs, or none if one is not where it is expected.

    Starts git.

    Args:
        repo: The repository.
        moves: Full name to what it shall point at, and where it is; None: it does not exist.
        log: What the reflogs say.

    Raises:
        RefMovedError: one was moved meanwhile.
        SlugError: another ref's name is in the way.
        GitCommandError: one is locked, or cannot be written.
    """
    if not moves:
        return
    lines = "".join(
        f"update {name}\0{new}\0{old or '0' * len(new)}\0" for name, (new, old) in moves.items()
    )
    command = ["update-ref", "-m", log_line(log), "--stdin", "-z"]
    try:
        run_git(command, cwd=repo.workdir, stdin=os.fsencode(lines))
    except GitCommandError as error:
        for name, (_, old) in moves.items():
            current = read_ref(repo, name)
            if current != old:
                raise moved(name, old or "0000000", current) from error
            if old is None:
                check_free(repo, name)
        raise
