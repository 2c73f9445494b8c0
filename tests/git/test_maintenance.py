"""autopilot.git.maintenance."""

from __future__ import annotations

from autopilot.git import objects
from autopilot.git.commands import run_git
from autopilot.git.commits import commit, first_parent_log
from autopilot.git.maintenance import count_loose, maintain
from autopilot.git.refs import create_ref
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
