"""autopilot.git.remotes, with real repositories on the other side."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopilot.errors import RemoteError
from autopilot.git.commands import run_git
from autopilot.git.remotes import default_remote, fetch_refs, is_address, push_refs, remote_refs
from autopilot.git.repository import Repository


def git(repo: Repository, *arguments: str) -> str:
    return run_git(arguments, cwd=repo.workdir).stdout.decode().strip()


@pytest.fixture
def bare(repository: Repository, tmp_path: Path) -> Path:
    path = tmp_path / "remöte repo.git"
    run_git(["init", "--quiet", "--bare", str(path)], cwd=tmp_path)
    git(repository, "remote", "add", "origin", str(path))
    return path


def test_which_remote_is_meant(repository):
    with pytest.raises(RemoteError, match="has no remote repository"):
        default_remote(repository)
    git(repository, "remote", "add", "far", "/nowhere")
    assert default_remote(repository) == "far"
    git(repository, "remote", "add", "near", "/nowhere")
    with pytest.raises(RemoteError, match="several remotes") as raised:
        default_remote(repository)
    assert raised.value.hint == "name one of far, near"
    git(repository, "remote", "add", "origin", "/nowhere")
    assert default_remote(repository) == "origin"
    git(repository, "config", "branch.main.remote", "near")
    assert default_remote(repository) == "near"
    git(repository, "config", "remote.pushDefault", "far")
    assert (default_remote(repository, pushing=True), default_remote(repository)) == (
        "far",
        "near",
    )


def test_addresses_and_names():
    assert all(map(is_address, ["/srv/x.git", "../x", "git@host:x.git", "https://h/x"]))
    assert not any(map(is_address, ["origin", "classifier-1", "project/slug"]))


def test_pushed_refs_are_there_and_come_back(repository, bare):
    head = repository.head_commit()
    pushed = push_refs(repository, "origin", {"refs/heads/a": head, "refs/notes/lab": head})
    assert (pushed.rejected, pushed.atomic) == ({}, True)
    assert remote_refs(repository, "origin", ["refs/notes/*"]) == {"refs/notes/lab": head}
    fetch_refs(repository, "origin", ["refs/notes/lab"], "refs/autopilot/_x/")
    assert git(repository, "rev-parse", "refs/autopilot/_x/refs/notes/lab") == head


def test_a_fetch_moves_nothing_but_what_it_is_asked_to(repository, bare):
    head = repository.head_commit()
    git(repository, "commit", "--quiet", "--allow-empty", "--message=next")
    following = repository.head_commit()
    push_refs(repository, "origin", {"refs/heads/other": following, "refs/tags/t": following})
    git(repository, "branch", "other", head)
    git(repository, "branch", "old", head)
    # As in a mirror: plain `git fetch` would overwrite the user's branches, and prune others.
    git(repository, "config", "remote.origin.fetch", "+refs/*:refs/*")
    git(repository, "config", "fetch.prune", "true")
    before = git(repository, "for-each-ref")
    fetch_refs(repository, "origin", ["refs/heads/other"], "refs/autopilot/_x/")
    assert git(repository, "rev-parse", "refs/autopilot/_x/refs/heads/other") == following
    git(repository, "update-ref", "-d", "refs/autopilot/_x/refs/heads/other")
    assert git(repository, "for-each-ref") == before
    assert not (repository.git_dir / "FETCH_HEAD").exists()


def test_nothing_is_forced(repository, bare):
    first = repository.head_commit()
    git(repository, "commit", "--quiet", "--allow-empty", "--message=next")
    second = repository.head_commit()
    push_refs(repository, "origin", {"refs/heads/a": second, "refs/tags/t": second})
    wanted = {"refs/heads/a": first, "refs/heads/b": first}
    pushed = push_refs(repository, "origin", wanted)
    assert pushed.rejected["refs/heads/a"] == "non-fast-forward"
    assert pushed.moved
    pushed = push_refs(repository, "origin", {"refs/tags/t": first}, atomic=False)
    assert pushed.rejected == {"refs/tags/t": "already exists"}
    assert not pushed.moved
    assert remote_refs(repository, "origin", ["refs/*"]) == {
        "refs/heads/a": second,
        "refs/tags/t": second,
    }


def test_a_remote_without_atomic_pushes_gets_nothing_of_one(repository, bare):
    run_git(["config", "receive.advertiseAtomic", "false"], cwd=bare)
    head = repository.head_commit()
    assert not push_refs(repository, "origin", {"refs/heads/a": head}).atomic
    assert remote_refs(repository, "origin", ["refs/*"]) == {}
    assert push_refs(repository, "origin", {"refs/heads/a": head}, atomic=False).atomic
    assert remote_refs(repository, "origin", ["refs/*"]) == {"refs/heads/a": head}


@pytest.mark.parametrize(
    ("address", "says", "hints"),
    [
        ("nowhere", "there is no remote nowhere", "remotes: none yet"),
        ("/no/such/folder", "there is no repository", "git ls-remote /no/such/folder"),
        ("https://me:secret@127.0.0.1:9/x", "it cannot be reached", "git ls-remote https://127"),
        ("ssh://127.0.0.1:9/x", "it cannot be reached", "the address is right"),
    ],
)
def test_errors_say_what_is_wrong_and_tell_no_secret(repository, address, says, hints):
    with pytest.raises(RemoteError) as raised:
        remote_refs(repository, address, ["refs/*"])
    assert says in raised.value.message
    assert hints in raised.value.hint
    assert "secret" not in f"{raised.value.message}{raised.value.hint}"


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("git@host: Permission denied (publickey).", "ssh was not let in"),
        (
            "fatal: could not read Username for 'https://h': terminal prompts disabled",
            "wants other",
        ),
        ("fatal: Authentication failed for 'https://h/'", "it wants other credentials"),
    ],
)
def test_a_refused_key_or_password_is_told_from_the_rest(repository, tmp_path, said, meaning):
    program = tmp_path / "ssh"
    program.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 128\n')
    program.chmod(0o755)
    git(repository, "config", "core.sshCommand", str(program))
    git(repository, "remote", "add", "origin", "git@host:x.git")
    with pytest.raises(RemoteError) as raised:
        remote_refs(repository, "origin", ["refs/*"])
    assert meaning in raised.value.message
    assert "git ls-remote origin" in raised.value.hint


@pytest.mark.parametrize(("may_ask", "told"), [(False, "asks=0"), (True, "asks=1")])
def test_git_asks_for_a_password_only_where_somebody_can_answer(
    repository, tmp_path, may_ask, told
):
    program = tmp_path / "ssh"
    program.write_text('#!/bin/sh\necho "fatal: asks=$GIT_TERMINAL_PROMPT" >&2\nexit 128\n')
    program.chmod(0o755)
    git(repository, "config", "core.sshCommand", str(program))
    git(repository, "remote", "add", "origin", "git@host:x.git")
    repository.may_ask = may_ask
    with pytest.raises(RemoteError, match=told):
        remote_refs(repository, "origin", ["refs/*"])
