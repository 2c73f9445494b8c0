"""autopilot.git.notes, in both directions with `git notes`."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopilot.errors import RefMovedError, RepositoryError
from autopilot.git import notes as notes_module
from autopilot.git import objects, refs
from autopilot.git.commands import run_git
from autopilot.git.commits import commit
from autopilot.git.notes import Notes, merge_notes
from autopilot.git.repository import Repository

REF = "refs/notes/lab/x/metrics"


def git(repo: Repository, *arguments: str, stdin: bytes = b"") -> bytes:
    return run_git(arguments, cwd=repo.workdir, stdin=stdin).stdout


def fake_id(number: int) -> str:
    return hashlib.sha1(b"%d" % number, usedforsecurity=False).hexdigest()


def items(notes: Notes) -> list[tuple[str, bytes]]:
    """All notes with the ids of what they annotate; a second copy of a note is an item too."""
    found = (note for _, folder in notes.folders() for note in folder)
    return [(annotated, objects.read_blob(notes.repo, oid)) for annotated, oid in found]


def adding(line: bytes) -> Callable[[bytes | None], bytes]:
    return lambda old: (old or b"") + line


def plant(repo: Repository, places: dict[str, bytes]) -> None:
    """Makes a notes ref whose tree holds contents at places."""
    tree = objects.write_tree(
        repo,
        str(repo.pygit.TreeBuilder().write()),
        {p: objects.Entry(0o100644, objects.write_blob(repo, c)) for p, c in places.items()},
    )
    refs.create_ref(repo, REF, commit(repo, tree=tree, parents=[], message="planted"), "")


def test_git_reads_what_is_written_and_the_reverse(repository: Repository) -> None:
    head, notes = repository.head_commit(), Notes(repository, REF)
    assert notes.read(head) is None
    assert list(items(notes)) == []
    notes.write({head: lambda old: b'{"v": 1}\n' if old is None else old}, "metrics of epoch 0")
    assert git(repository, "notes", f"--ref={REF}", "show") == b'{"v": 1}\n'
    assert b'{"v": 1}' in git(repository, "log", "--notes=lab/*/metrics", "-1")
    git(repository, "notes", f"--ref={REF}", "append", "-m", '{"v": 2}')
    assert notes.read(head) == b'{"v": 1}\n\n{"v": 2}\n'
    notes.write({head: adding(b'{"v": 3}\n')}, "more")
    assert git(repository, "notes", f"--ref={REF}", "show").endswith(b'{"v": 2}\n{"v": 3}\n')
    assert git(repository, "notes", f"--ref={REF}", "list").split()[1].decode() == head
    assert git(repository, "log", "--format=%s", REF).splitlines()[::2] == [
        b"more",
        b"metrics of epoch 0",
    ]
    assert git(repository, "fsck", "--strict", "--no-dangling") == b""


@pytest.mark.parametrize("cuts", [(), (2,), (2, 4), (2, 4, 6)])
def test_a_note_is_found_at_any_fan_out(repository: Repository, cuts: tuple[int, ...]) -> None:
    annotated, other = fake_id(1), fake_id(2)

    def at(oid: str) -> str:
        edges = (0, *cuts, 40)
        return "/".join(oid[a:b] for a, b in itertools.pairwise(edges))

    plant(repository, {at(annotated): b"one\n", at(other): b"two\n", "keep/me": b"x"})
    notes = Notes(repository, REF)
    assert notes.read(annotated) == b"one\n"
    assert dict(items(notes)) == {annotated: b"one\n", other: b"two\n"}
    notes.write({annotated: adding(b"more\n")}, "m")
    tip = refs.read_ref(repository, REF)
    assert tip is not None
    tree = objects.list_tree(repository, objects.tree_of(repository, tip))
    assert set(tree) == {f"{annotated[:2]}/{annotated[2:]}", at(other), "keep/me"}
    assert notes.read(annotated) == b"one\nmore\n"


def test_two_copies_become_one(repository: Repository) -> None:
    oid = fake_id(1)
    plant(repository, {oid: b"flat", f"{oid[:2]}/{oid[2:4]}/{oid[4:]}": b"deep\n"})
    notes = Notes(repository, REF)
    assert notes.read(oid) == b"flat\ndeep\n"
    notes.write({oid: adding(b"new\n")}, "m")
    assert list(items(notes)) == [(oid, b"flat\ndeep\nnew\n")]


def test_the_notes_of_many_commits_that_git_fanned_out(repository: Repository) -> None:
    ids = [fake_id(number) for number in range(600)]
    blob = "blob\nmark :1\ndata 2\nx\n\n"
    header = f"{blob}commit {REF}\ncommitter A <a@b> 0 +0000\ndata 1\nm\n"
    files = "".join(f"M 100644 :1 {oid[:2]}/{oid[2:4]}/{oid[4:]}\n" for oid in ids)
    git(repository, "fast-import", "--quiet", "--force", stdin=(header + files).encode())
    notes = Notes(repository, REF)
    assert dict(items(notes)) == dict.fromkeys(ids, b"x\n")
    notes.write({oid: adding(b"y\n") for oid in ids[:300]}, "half")
    assert dict(items(notes)) == {
        oid: b"x\ny\n" if number < 300 else b"x\n" for number, oid in enumerate(ids)
    }
    assert len(git(repository, "notes", f"--ref={REF}", "list").splitlines()) == 600


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    writes=st.lists(
        st.dictionaries(st.integers(0, 9), st.binary(min_size=1, max_size=50), min_size=1),
        min_size=1,
        max_size=5,
    )
)
def test_payloads_match_a_dict(repository: Repository, writes: list[dict[int, bytes]]) -> None:
    ref = f"refs/notes/property-{hashlib.sha1(repr(writes).encode()).hexdigest()}"
    notes, model = Notes(repository, ref), dict[str, bytes]()
    start = dict(items(notes))
    model |= start
    for write in writes:
        notes.write({fake_id(n): adding(payload) for n, payload in write.items()}, "m")
        for number, payload in write.items():
            model[fake_id(number)] = model.get(fake_id(number), b"") + payload
    assert dict(items(notes)) == model
    assert all(notes.read(oid) == payload for oid, payload in model.items())


def test_a_lost_race_is_run_again(repository: Repository) -> None:
    head, notes = repository.head_commit(), Notes(repository, REF)
    calls = []

    def edit(old: bytes | None) -> bytes:
        calls.append(old)
        if len(calls) <= 2:  # The first call races for the creation, the second for the move.
            Notes(repository, REF).write({head: adding(b"theirs\n")}, "theirs")
        return (old or b"") + b"ours\n"

    notes.write({head: edit}, "ours")
    assert calls == [None, b"theirs\n", b"theirs\ntheirs\n"]
    assert notes.read(head) == b"theirs\ntheirs\nours\n"


def test_writers_in_turns_see_each_other(repository: Repository) -> None:
    ours, theirs = Notes(repository, REF), Notes(repository, REF)
    wanted = {}
    for number in range(60):
        writer = ours if number % 3 else theirs
        writer.write({fake_id(number): adding(b"%d\n" % number)}, "m")
        wanted[fake_id(number)] = b"%d\n" % number
    git(repository, "notes", f"--ref={REF}", "add", "-m", "by git", repository.head_commit())
    ours.write({fake_id(0): adding(b"more\n"), fake_id(99): adding(b"new\n")}, "m")
    wanted |= {fake_id(0): b"0\nmore\n", fake_id(99): b"new\n"}
    assert dict(items(ours)) == wanted | {repository.head_commit(): b"by git\n"}
    assert git(repository, "fsck", "--strict", "--no-dangling") == b""


def test_a_write_that_failed_leaves_nothing_behind(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes(repository, REF)
    notes.write({fake_id(1): adding(b"one\n")}, "m")

    def fail(*_: object) -> None:
        raise RepositoryError("cannot write", hint="make room")

    with monkeypatch.context() as patched:
        patched.setattr(notes_module, "update_ref", fail)
        with pytest.raises(RepositoryError):
            notes.write({fake_id(2): adding(b"two\n")}, "m")
    notes.write({fake_id(3): adding(b"three\n")}, "m")
    assert dict(items(notes)) == {fake_id(1): b"one\n", fake_id(3): b"three\n"}


def test_an_endless_race_ends(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes_module, "_PAUSE_S", 0.0)
    head = repository.head_commit()

    def edit(old: bytes | None) -> bytes:
        Notes(repository, REF).write({head: adding(b"x")}, "theirs")
        return b"ours"

    with pytest.raises(RefMovedError):
        Notes(repository, REF).write({head: edit}, "ours")


def _append_lines(top: str, who: int) -> None:
    repo = Repository.discover(Path(top))
    for number in range(20):
        line = json.dumps({"who": who, "n": number}).encode() + b"\n"
        Notes(repo, REF).write({repo.head_commit(): adding(line)}, f"{who} {number}")


def test_processes_that_write_at_once_lose_nothing(repository: Repository) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_append_lines, args=(str(repository.workdir), who))
        for who in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    note = Notes(repository, REF).read(repository.head_commit())
    assert note is not None
    lines = {(line["who"], line["n"]) for line in map(json.loads, note.splitlines())}
    assert lines == {(who, number) for who in range(3) for number in range(20)}


def test_notes_are_not_signed(repository: Repository) -> None:
    git(repository, "config", "commit.gpgsign", "true")
    git(repository, "config", "gpg.program", "false")
    Notes(repository, REF).write({repository.head_commit(): adding(b"x")}, "m")
    assert b"gpgsig" not in git(repository, "cat-file", "commit", REF)


OURS, THEIRS = "refs/notes/lab/ours", "refs/notes/lab/theirs"
IDS = [hashlib.sha1(b"%d" % n, usedforsecurity=False).hexdigest() for n in range(4)]


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
    found = items(Notes(repo, "refs/notes/lab/result"))
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
    git(
        repository,
        "notes",
        "--ref=lab/git",
        "merge",
        "-q",
        "-s",
        "cat_sort_uniq",
        THEIRS,
    )
    expected = {i: t.decode() for i, t in items(Notes(repository, "refs/notes/lab/git"))}
    assert content(repository, result) == expected


def test_the_merge_has_both_as_parents_and_our_fan_out(repository):
    fork(repository, {})
    setting(repository, OURS, {IDS[0]: "a\n", IDS[1]: "ours\n"})
    # git writes few notes without folders.
    git(repository, "notes", f"--ref={THEIRS}", "add", "-m", "theirs", "HEAD")
    tips = [refs.read_ref(repository, ref) for ref in (OURS, THEIRS)]
    result = merged(repository)
    assert git(repository, "log", "-1", "--format=%P", result).decode().split() == tips
    head = repository.head_commit()
    paths = set(git(repository, "ls-tree", "-r", "--name-only", result).decode().split())
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
