"""autopilot.git.commits, read back by git."""

from __future__ import annotations

import subprocess
import time
from itertools import count
from pathlib import Path

import pygit2
import pytest

from autopilot.errors import GitCommandError, RefMovedError, RepositoryError, SlugError
from autopilot.git import commits, objects, refs
from autopilot.git.commands import run_git
from autopilot.git.commits import count_in
from autopilot.git.repository import Repository


def git(repo: Repository, *arguments: str) -> str:
    return run_git(arguments, cwd=repo.workdir).stdout.decode()


def make(repo: Repository, message: str = "next", parent: str | None = None) -> str:
    parent = parent or repo.head_commit()
    tree = objects.tree_of(repo, parent)
    return commits.commit(repo, tree=tree, parents=[parent], message=message)


@pytest.fixture
def signing(repository: Repository, tmp_path: Path) -> Repository:
    """The repository, set to sign all with an SSH key without a passphrase."""
    key = tmp_path / "key"
    try:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=20
        )
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    public = key.with_suffix(".pub").read_text()
    (tmp_path / "allowed").write_text(f"ada@example.com {public}")
    for name, value in {
        "gpg.format": "ssh",
        "user.signingkey": str(key),
        "gpg.ssh.allowedSignersFile": str(tmp_path / "allowed"),
        "commit.gpgsign": "true",
        "tag.gpgsign": "true",
    }.items():
        git(repository, "config", name, value)
    return repository


def test_a_commit_moves_nothing(repository: Repository) -> None:
    head, before = repository.head_commit(), int(time.time())
    made = make(repository, "subject\n\nbody ü\n# kept\n\nTrailer: x")
    assert repository.head_commit() == head
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "log", "-1", "--format=%an %ae %cn %B", made) == (
        "Ada Byron ada@example.com Ada Byron subject\n\nbody ü\n# kept\n\nTrailer: x\n\n"
    )
    found = commits.read_commit(repository, made)
    assert (found.id, found.parents) == (made, (head,))
    assert found.message == "subject\n\nbody ü\n# kept\n\nTrailer: x\n"
    assert found.tree == objects.tree_of(repository, head)
    assert before <= found.time_s <= time.time()
    assert git(repository, "fsck", "--strict", "--no-dangling") == ""


def test_messages_that_git_cannot_hold_are_mended(repository: Repository) -> None:
    made = make(repository, "nul \0 and half \ud800 a pair")
    assert commits.read_commit(repository, made).message == "nul \ufffd and half \ufffd a pair\n"


def test_a_missing_tree_or_parent_is_an_error(repository: Repository) -> None:
    tree = objects.tree_of(repository, repository.head_commit())
    for bad in ({"tree": "1" * 40, "parents": []}, {"tree": tree, "parents": ["1" * 40]}):
        with pytest.raises(RepositoryError, match="cannot write a commit"):
            commits.commit(repository, message="x", **bad)  # type: ignore[arg-type]
    with pytest.raises(RepositoryError, match="cannot read commit"):
        commits.read_commit(repository, "1" * 40)


@pytest.mark.parametrize("zone", ["UTC", "EST+5", "IST-5:30"])
def test_a_fresh_commit_is_the_same_commit(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Zoë <x>")
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    time.tzset()
    head = repository.head_commit()
    given = {"tree": objects.tree_of(repository, head), "message": "ü\0\n\nbody"}
    for parents in ([], [head], [head, make(repository)]):
        fresh = commits.commit_fresh(repository, parents=parents, **given)
        assert fresh == commits.commit(repository, parents=parents, **given)
    monkeypatch.undo()
    time.tzset()


def test_a_log_follows_first_parents(repository: Repository) -> None:
    head = repository.head_commit()
    side = make(repository, "side")
    one = make(repository, "one")
    tree = objects.tree_of(repository, head)
    two = commits.commit(repository, tree=tree, parents=[one, side], message="two")
    log = [commit.message for commit in commits.first_parent_log(repository, two)]
    assert log == ["two\n", "one\n", "first\n"]
    assert [c.id for c in commits.first_parent_log(repository, two, head)] == [two, one]


def test_signed_commits_and_tags(signing: Repository) -> None:
    made = make(signing, "signed\n\n# kept")
    git(signing, "verify-commit", made)
    assert commits.read_commit(signing, made).message == "signed\n\n# kept\n"
    commits.create_tag(signing, "v1", made, "one\n\n# kept")
    git(signing, "verify-tag", "v1")
    assert commits.read_tag(signing, "v1") == commits.Tag(made, "one\n\n# kept\n")


def test_a_key_that_cannot_sign(signing: Repository, tmp_path: Path) -> None:
    git(signing, "config", "user.signingkey", str(tmp_path / "missing"))
    with pytest.raises(GitCommandError, match="cannot sign a commit") as caught:
        make(signing)
    assert "git config commit.gpgsign false" in caught.value.hint
    with pytest.raises(GitCommandError, match="cannot sign tag v1") as caught:
        commits.create_tag(signing, "v1", signing.head_commit(), "x")
    assert "git config tag.gpgsign false" in caught.value.hint
    assert commits.read_tag(signing, "v1") is None


def test_tags_are_never_moved(repository: Repository) -> None:
    head, other = repository.head_commit(), make(repository)
    commits.create_tag(repository, "a/epoch-1", head, "kept\n\naccuracy: 0.5")
    commits.create_tag(repository, "a/epoch-1", head, "another message")
    assert commits.read_tag(repository, "a/epoch-1") == commits.Tag(head, "kept\n\naccuracy: 0.5\n")
    assert git(repository, "tag", "-l", "--format=%(objecttype) %(taggername) %(subject)") == (
        "tag Ada Byron kept\n"
    )
    with pytest.raises(RefMovedError, match="is on"):
        commits.create_tag(repository, "a/epoch-1", other, "x")
    with pytest.raises(SlugError, match="'a/epoch-1' exists") as caught:
        commits.create_tag(repository, "a", head, "x")
    subprocess.run(
        caught.value.hint.partition(": ")[2], shell=True, check=True, cwd=repository.workdir
    )
    commits.create_tag(repository, "a", head, "x")
    with pytest.raises(RepositoryError, match=r"cannot (read|write)"):
        commits.create_tag(repository, "a..b", head, "x")
    assert commits.read_tag(repository, "none") is None


def test_a_lightweight_tag_has_no_message(repository: Repository) -> None:
    refs.create_ref(repository, "refs/tags/light", repository.head_commit(), "")
    assert commits.read_tag(repository, "light") == commits.Tag(repository.head_commit(), "")


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


def test_a_tag_of_any_encoding_and_of_anything_is_read(repository):
    blob = objects.write_blob(repository, b"x")
    for kind, oid in (("commit", repository.head_commit()), ("blob", blob)):
        head = f"object {oid}\ntype {kind}\ntag odd\ntagger A <a@b.c> 1700000000 +0000"
        made = run_git(
            ["hash-object", "-t", "tag", "-w", "--stdin"],
            cwd=repository.workdir,
            stdin=head.encode() + b"\n\ncaf\xe9\n",
        ).stdout
        run_git(["update-ref", "refs/tags/odd", made.decode().strip()], cwd=repository.workdir)
        tag = commits.read_tag(repository, "odd")
        assert tag is not None and tag.message == "caf\ufffd\n"
        assert (tag.commit == oid) == (kind == "commit")
