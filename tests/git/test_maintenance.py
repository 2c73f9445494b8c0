"""autopilot.git.objects."""

from __future__ import annotations

from typing import Any

import pytest

from autopilot.git import objects
from autopilot.git.commands import CommandResult, run_git
from autopilot.git.commits import commit, first_parent_log
from autopilot.git.objects import count_loose, maintain
from autopilot.git.refs import create_ref, update_ref
from autopilot.git.repository import Repository


def grow(repo: Repository, count: int) -> str:
    tip = repo.head_commit()
    for number in range(count):
        blob = objects.Entry(0o100644, objects.write_blob(repo, b"%d" % number))
        tree = objects.write_tree(repo, objects.tree_of(repo, tip), {"x": blob})
        tip = commit(repo, tree=tree, parents=[tip], message=str(number))
    create_ref(repo, "refs/heads/lab", tip, "")
    return tip


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


def test_older_versions_of_git_are_maintained_by_tasks(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = grow(repository, 300)

    def without_geometric(arguments: list[str], **options: Any) -> CommandResult:
        if "--geometric=2" in arguments:
            return CommandResult(129, b"", "error: unknown option `geometric=2'")
        return run_git(arguments, **options)

    monkeypatch.setattr(objects, "run_git", without_geometric)
    for _ in range(2):
        assert maintain(repository)
        assert loose(repository) == 0
    assert len(list(first_parent_log(repository, tip))) == 301
