"""What of a line of commits a branch has."""

from __future__ import annotations

from itertools import count

import pygit2
import pytest

from autopilot.git.commits import count_in
from autopilot.git.repository import Repository


@pytest.mark.parametrize("clock", ["right", "late", "early"])
@pytest.mark.parametrize("merged", [0, 1, 4, 6])
def test_a_line_is_merged_as_far_as_it_is_whatever_the_clocks_say(
    repository: Repository, clock: str, merged: int
) -> None:
    late = 10**7 * {"right": 0, "late": 1, "early": -1}[clock]
    seconds = count(1_700_000_000)
    tree = repository.pygit.TreeBuilder().write()

    def commit(*parents: str, by: int = 0) -> str:
        who = pygit2.Signature("a", "a@b.c", next(seconds) + by)
        ids = [pygit2.Oid(hex=parent) for parent in parents]
        return str(repository.pygit.create_commit(None, who, who, "x", tree, ids))

    line, tip = [commit()], commit()
    for _ in range(5):
        line.append(commit(line[-1]))
    if merged:
        tip = commit(tip, line[merged - 1], by=late)
    for _ in range(20):
        tip = commit(tip, by=late)

    assert count_in(repository, line, tip) == merged
    assert count_in(repository, [], tip) == 0
