"""autopilot.git.packing, by what git finds afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pygit2
import pytest

from autopilot.git import objects, packing
from autopilot.git.commands import CommandResult, run_git
from autopilot.git.commits import commit, first_parent_log
from autopilot.git.locks import one_at_a_time
from autopilot.git.packing import count_loose, maintain, start_packing, wait_for_prune
from autopilot.git.refs import create_ref, update_ref
from autopilot.git.repository import Repository
from tests.waiting import wait_for


def grow(repo: Repository, count: int) -> str:
    tip = repo.head_commit()
    for number in range(count):
        tip = step(repo, tip, str(number))
    create_ref(repo, "refs/heads/lab", tip, "")
    return tip


def step(repo: Repository, tip: str, text: str) -> str:
    """A commit of three new objects."""
    blob = objects.Entry(0o100644, objects.write_blob(repo, text.encode()))
    tree = objects.write_tree(repo, objects.tree_of(repo, tip), {"x": blob})
    return commit(repo, tree=tree, parents=[tip], message=text)


def loose(repo: Repository) -> int:
    out = run_git(["count-objects"], cwd=repo.workdir).stdout
    return int(out.split()[0])


def test_loose_objects_are_counted_and_packed(repository: Repository) -> None:
    tip = grow(repository, 600)
    assert 0.4 * loose(repository) < count_loose(repository) < 2.5 * loose(repository)
    assert maintain(repository)
    assert loose(repository) == 0
    assert maintain(repository)
    assert count_loose(repository) == 0
    assert len(list(first_parent_log(repository, tip))) == 601
    assert run_git(["fsck", "--strict"], cwd=repository.workdir).returncode == 0


def test_a_user_who_turned_it_off_is_obeyed(repository: Repository) -> None:
    grow(repository, 3)
    run_git(["config", "gc.auto", "0"], cwd=repository.workdir)
    before = loose(repository)
    assert not maintain(repository)
    assert loose(repository) == before


def test_nothing_is_deleted_and_packs_stay_few(repository: Repository) -> None:
    tip = grow(repository, 300)
    lost = objects.write_blob(repository, b"only in a note's text")
    for number in range(8):
        assert maintain(repository)
        tree = objects.tree_of(repository, tip)
        grown = commit(repository, tree=tree, parents=[tip], message=str(number))
        update_ref(repository, "refs/heads/lab", grown, tip, "")
        tip = grown
    assert maintain(repository)
    assert loose(repository) == 0
    assert len(list(repository.common_dir.glob("objects/pack/*.pack"))) <= 5
    assert objects.read_blob(repository, lost) == b"only in a note's text"
    assert len(list(first_parent_log(repository, tip))) == 309


def test_older_versions_of_git_pack_what_is_loose(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = grow(repository, 300)

    def without_geometric(arguments: list[str], **options: Any) -> CommandResult:
        if "--geometric=2" in arguments:
            return CommandResult(129, b"", "error: unknown option `geometric=2'")
        return run_git(arguments, **options)

    monkeypatch.setattr(packing, "run_git", without_geometric)
    for _ in range(2):
        assert maintain(repository)
        assert loose(repository) == 0
    assert len(list(first_parent_log(repository, tip))) == 301


def test_packing_beside_a_run_takes_no_pack_away_and_comes_last(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, samples = repository.common_dir / "objects", in_the_sample()
    tip = grow(repository, 5)
    assert start_packing(repository) == 0  # fewer than git's own limit
    run_git(["config", "gc.auto", "255"], cwd=repository.workdir)
    objects.write_blob(repository, next(samples))
    with one_at_a_time(folder):
        assert start_packing(repository) == 0
    found, seen = shutil.which("git"), tmp_path / "nice"
    (tmp_path / "git").write_text(f'#!/bin/sh\necho "$(nice) $*" >> {seen}\nexec {found} "$@"\n')
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for rounds in (1, 2):
        pid = start_packing(repository)
        assert pid and os.getsid(pid) == pid  # Ctrl-C at the terminal does not reach it
        assert start_packing(repository, pid) in (pid, 0)
        tip = step(repository, tip, f"meanwhile {rounds}")
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        assert start_packing(repository, pid) == 0
        packs = set(folder.glob("pack/*.pack"))
        assert len(packs) == rounds
        assert loose(repository) <= 3
        objects.write_blob(repository, next(samples))
    ours = [line for line in seen.read_text().splitlines() if "pack" in line]
    assert len(ours) == 4 and all(line.startswith("19 ") for line in ours)
    assert maintain(repository, only_loose=True)
    assert packs < set(folder.glob("pack/*.pack"))
    assert len(list(first_parent_log(repository, tip))) == 8
    assert run_git(["fsck", "--strict"], cwd=repository.workdir).returncode == 0


def in_the_sample() -> Iterator[bytes]:
    """Contents whose objects are in the folder that is counted."""
    contents = (b"%d" % number for number in itertools.count())
    return (each for each in contents if str(pygit2.hash(each)).startswith("17"))


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
def test_a_prune_of_the_users_is_waited_for(repository: Repository) -> None:
    lock, pid = (repository.common_dir / each for each in ("packed-refs.lock", "gc.pid"))

    def waits(*arguments: str) -> bool:
        """Whether something waits while git does, and both go on."""
        lock.touch()
        command = ["git", "-c", "core.packedRefsTimeout=-1", "gc", "--quiet", *arguments]
        with subprocess.Popen(command, cwd=repository.workdir) as gc:
            wait_for(pid.exists)
            waiting = threading.Thread(target=wait_for_prune, args=(repository,))
            waiting.start()
            waiting.join(0.3)
            found = waiting.is_alive()
            lock.unlink()
            waiting.join()
        assert gc.returncode == 0
        return found

    wait_for_prune(repository)
    assert waits("--prune=now")
    assert not waits()
