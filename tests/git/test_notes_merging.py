"""Notes that were written apart, against what `git notes merge` makes of them."""

from __future__ import annotations

import hashlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopilot.git import refs
from autopilot.git.commands import run_git
from autopilot.git.notes import Notes, merge_notes
from autopilot.git.repository import Repository

OURS, THEIRS = "refs/notes/lab/ours", "refs/notes/lab/theirs"
IDS = [hashlib.sha1(b"%d" % n, usedforsecurity=False).hexdigest() for n in range(4)]


def git(repo: Repository, *arguments: str) -> str:
    return run_git(arguments, cwd=repo.workdir).stdout.decode()


def setting(repo: Repository, ref: str, notes: dict[str, str | None]) -> None:
    """Makes notes what is given; None removes one."""
    for annotated, text in notes.items():
        if text is None:
            git(repo, "notes", f"--ref={ref}", "remove", "--ignore-missing", annotated)
        else:
            Notes(repo, ref).write({annotated: lambda _, t=text: t.encode()}, "notes")


def merged(repo: Repository) -> str:
    tips = [refs.read_ref(repo, ref) for ref in (OURS, THEIRS)]
    return merge_notes(repo, tips[0] or "", tips[1] or "", "merge")


def content(repo: Repository, commit: str) -> dict[str, str]:
    git(repo, "update-ref", "refs/notes/lab/result", commit)
    found = Notes(repo, "refs/notes/lab/result").items()
    return {annotated: text.decode() for annotated, text in found}


def fork(repo: Repository, base: dict[str, str | None]) -> None:
    for ref in (OURS, THEIRS, "refs/notes/lab/git", "refs/notes/lab/result"):
        git(repo, "update-ref", "-d", ref)
    setting(repo, OURS, {"f" * 40: "start\n"} | base)
    git(repo, "update-ref", THEIRS, OURS)


LINES = st.lists(st.sampled_from(['{"id":"a"}', '{"id":"b"}', "zeile ü", "remark"]), min_size=1)
ADDED = st.dictionaries(st.sampled_from(IDS), LINES)


@given(base=ADDED, ours=ADDED, theirs=ADDED)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_was_added_apart_is_merged_as_git_does_it(repository, base, ours, theirs):
    start = {i: "".join(f"{line}\n" for line in lines) for i, lines in base.items()}
    fork(repository, dict(start))
    for ref, side in ((OURS, ours), (THEIRS, theirs)):
        more = {i: start.get(i, "") + "".join(f"{x}\n" for x in lines) for i, lines in side.items()}
        setting(repository, ref, dict(more))
    result = merged(repository)
    git(repository, "update-ref", "refs/notes/lab/git", OURS)
    git(repository, "notes", "--ref=lab/git", "merge", "-q", "-s", "cat_sort_uniq", THEIRS)
    expected = {i: t.decode() for i, t in Notes(repository, "refs/notes/lab/git").items()}
    assert content(repository, result) == expected


def test_the_merge_has_both_as_parents_and_our_fan_out(repository):
    fork(repository, {})
    setting(repository, OURS, {IDS[0]: "a\n", IDS[1]: "ours\n"})
    # git writes few notes without folders.
    git(repository, "notes", f"--ref={THEIRS}", "add", "-m", "theirs", "HEAD")
    tips = [refs.read_ref(repository, ref) for ref in (OURS, THEIRS)]
    result = merged(repository)
    assert git(repository, "log", "-1", "--format=%P", result).split() == tips
    head = repository.head_commit()
    paths = set(git(repository, "ls-tree", "-r", "--name-only", result).split())
    wanted = {f"{i[:2]}/{i[2:]}" for i in (IDS[0], IDS[1], head, "f" * 40)}
    assert paths == wanted
    assert content(repository, result)[head] == "theirs\n"


def test_what_one_side_replaced_does_not_come_back(repository):
    fork(repository, {IDS[0]: "old\nkept\n"})
    setting(repository, OURS, {IDS[0]: "kept\nnew\n"})
    setting(repository, THEIRS, {IDS[0]: "old\nkept\nmore\n"})
    assert content(repository, merged(repository))[IDS[0]] == "kept\nmore\nnew\n"


def test_removed_notes(repository):
    fork(repository, {IDS[0]: "gone\n", IDS[1]: "was\n"})
    setting(repository, OURS, {IDS[2]: "ours\n"})
    setting(repository, OURS, {IDS[1]: None})
    setting(repository, THEIRS, {IDS[0]: None, IDS[1]: "was\nchanged\n"})
    found = content(repository, merged(repository))
    assert found == {"f" * 40: "start\n", IDS[1]: "was\nchanged\n", IDS[2]: "ours\n"}


def test_one_that_has_the_other_is_the_merge(repository):
    fork(repository, {})
    setting(repository, THEIRS, {IDS[0]: "a\n"})
    theirs = refs.read_ref(repository, THEIRS)
    assert merged(repository) == theirs
    assert merge_notes(repository, theirs, refs.read_ref(repository, OURS), "") == theirs
