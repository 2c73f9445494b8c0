"""autopilot.git.repository."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from checkouts import make_checkout

from autopilot.errors import RepositoryError, UnsupportedRepositoryError
from autopilot.git.commands import looking, run_git
from autopilot.git.repository import DEFAULT_IDENTITY, Identity, Repository, probe
from autopilot.git.worktrees import changed_files


def test_places_in_main_and_linked_worktrees(repository: Repository, tmp_path: Path) -> None:
    top = repository.workdir
    assert (repository.git_dir, repository.common_dir) == (top / ".git", top / ".git")
    run_git(["worktree", "add", "--quiet", "--detach", str(tmp_path / "linked")], cwd=top)
    linked = Repository.discover(tmp_path / "linked" / "rules")
    assert linked.workdir == tmp_path / "linked"
    assert linked.git_dir == top / ".git" / "worktrees" / "linked"
    assert linked.common_dir == top / ".git"
    assert linked.main_workdir == repository.main_workdir == top
    assert linked.head_name() == "HEAD detached"


def test_a_repository_that_was_found_is_found_without_git_until_it_changes(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, linked = repository.workdir, tmp_path / "linked"
    add = ["worktree", "add", "--quiet", "--detach", str(linked)]
    run_git(add, cwd=top)
    with looking():
        Repository.discover(top)
        Repository.discover(linked)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")  # no git is started
        assert Repository.discover(top).identity().name == "Ada Byron"
        assert Repository.discover(linked).git_dir == top / ".git" / "worktrees" / "linked"
    run_git(["config", "user.name", "Grace"], cwd=top)
    assert Repository.discover(linked).identity().name == "Grace"
    # At the same place, one of another repository.
    run_git(["worktree", "remove", str(linked)], cwd=top)
    run_git(["clone", "--quiet", str(top), str(tmp_path / "other")], cwd=tmp_path)
    run_git(add, cwd=tmp_path / "other")
    assert Repository.discover(linked).common_dir == tmp_path / "other" / ".git"
    run_git(["config", "extensions.partialClone", "origin"], cwd=top)
    with pytest.raises(UnsupportedRepositoryError):
        Repository.discover(top)


def test_a_worktree_that_was_just_linked_is_known_unless_its_configuration_may_differ(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, place, path = repository.workdir, tmp_path / "linked", os.environ["PATH"]
    run_git(["worktree", "add", "--quiet", "--detach", str(place)], cwd=top)
    asked = Repository.discover(place)
    monkeypatch.setenv("PATH", "")  # no git is started
    known = repository.linked(place)
    assert Repository.discover(place).git_dir == known.git_dir == asked.git_dir
    assert (known.workdir, known.common_dir) == (asked.workdir, asked.common_dir)
    assert known.identity() == asked.identity()
    monkeypatch.setenv("PATH", path)
    (tmp_path / "more").write_text("[user]\n\tname = Grace\n")
    key = f"includeIf.gitdir:{asked.git_dir}.path"
    run_git(["config", key, str(tmp_path / "more")], cwd=top)
    assert repository.linked(place).identity().name == "Grace"
    assert repository.identity().name == "Ada Byron"
    other = make_checkout(tmp_path / "other", {"a": "a"})
    run_git(["worktree", "add", "--quiet", "--detach", str(tmp_path / "theirs")], cwd=other)
    assert repository.linked(tmp_path / "theirs").common_dir == other / ".git"


def test_a_submodule_has_its_own_places(repository: Repository, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    run_git(["init", "--quiet", str(outer)], cwd=tmp_path)
    allow = ["-c", "protocol.file.allow=always"]
    run_git([*allow, "submodule", "--quiet", "add", str(repository.workdir), "sub"], cwd=outer)
    sub = Repository.discover(outer / "sub" / "rules")
    assert sub.workdir == outer / "sub"
    assert sub.main_workdir == outer / "sub"
    assert sub.common_dir == outer / ".git" / "modules" / "sub"
    run_git(["worktree", "add", "--quiet", "--detach", str(tmp_path / "linked")], cwd=outer / "sub")
    assert Repository.discover(tmp_path / "linked").main_workdir == outer / "sub"


def test_head_and_revisions(repository: Repository) -> None:
    top = repository.workdir
    head = run_git(["rev-parse", "HEAD"], cwd=top).stdout.decode().strip()
    run_git(["tag", "-a", "-m", "x", "v1"], cwd=top)
    assert repository.head_commit() == head
    assert repository.head_name() == "main"
    for revision in ("HEAD", "main", "v1", head[:8], "refs/heads/main"):
        assert repository.resolve(revision) == head
    for revision in ("nothing", "HEAD~5", "HEAD:README.md", "", "--all"):
        with pytest.raises(RepositoryError, match="is not a commit"):
            repository.resolve(revision)


def test_an_unborn_head_asks_for_a_first_commit(tmp_path: Path, git_environment: Path) -> None:
    run_git(["init", "--quiet", "--initial-branch=trunk", "r"], cwd=tmp_path)
    repo = Repository.discover(tmp_path / "r")
    with pytest.raises(RepositoryError, match="has no commit yet") as caught:
        repo.head_commit()
    assert "first commit" in caught.value.hint
    assert repo.head_name() == "trunk"


def test_mid_merge_and_mid_rebase_open(repository: Repository) -> None:
    top = repository.workdir
    run_git(["checkout", "--quiet", "-b", "side"], cwd=top)
    (top / "README.md").write_text("side\n")
    run_git(["commit", "--quiet", "-am", "side"], cwd=top)
    run_git(["checkout", "--quiet", "main"], cwd=top)
    (top / "README.md").write_text("main\n")
    run_git(["commit", "--quiet", "-am", "main"], cwd=top)
    run_git(["merge", "side"], cwd=top, check=False)
    assert changed_files(Repository.discover(top), ["README.md"]) == {"README.md": "conflicted"}
    run_git(["merge", "--abort"], cwd=top)
    run_git(["rebase", "side"], cwd=top, check=False)
    assert Repository.discover(top).head_name() == "HEAD detached"


def test_identity_follows_git(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    top = repository.workdir
    assert repository.identity() == Identity("Ada Byron", "ada@example.com")
    run_git(["config", "author.name", "Grace"], cwd=top)
    assert repository.identity().name == "Grace"
    assert repository.people()[1].name == "Ada Byron"
    monkeypatch.setenv("GIT_AUTHOR_NAME", " <Joan>\n")
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "joan@example.com")
    assert repository.identity().name == "Joan"
    assert repository.people()[1].email == "joan@example.com"


def test_the_default_identity(repository: Repository) -> None:
    run_git(["config", "--unset", "user.name"], cwd=repository.workdir)
    run_git(["config", "user.email", "<>"], cwd=repository.workdir)
    assert repository.identity() == repository.people()[1] == DEFAULT_IDENTITY


def test_a_change_of_the_configuration_is_seen(repository: Repository) -> None:
    assert repository.config("alias.x") is None
    run_git(["config", "alias.x", "status"], cwd=repository.workdir)
    assert repository.config("alias.x") == "status"
    run_git(["config", "--global", "commit.gpgsign", "yes"], cwd=repository.workdir)
    assert repository.config_bool("commit.gpgsign")
    assert not repository.config_bool("tag.gpgsign")


def test_status_of_some_paths(repository: Repository) -> None:
    top = repository.workdir
    (top / ".gitignore").write_text("*.log\n")
    (top / "rules" / "a.txt").write_text("changed\n")
    (top / "rules" / "new.txt").write_text("new\n")
    (top / "rules" / "x.log").write_text("log\n")
    (top / "README.md").unlink()
    (top / "[a].txt").write_text("glob\n")
    (top / "a.txt").write_text("other\n")
    assert changed_files(repository, ["rules", "README.md", "[a].txt"]) == {
        "README.md": "deleted",
        "[a].txt": "untracked",
        "rules/a.txt": "modified",
        "rules/new.txt": "untracked",
        "rules/x.log": "ignored",
    }
    assert changed_files(repository, []) == {}
    run_git(["add", "rules/new.txt"], cwd=top)
    assert changed_files(repository, ["rules/new.txt"]) == {"rules/new.txt": "modified"}


def test_status_of_a_changed_submodule(repository: Repository, tmp_path: Path) -> None:
    top = repository.workdir
    shutil.copytree(top, tmp_path / "copy")
    allow = ["-c", "protocol.file.allow=always"]
    run_git([*allow, "submodule", "--quiet", "add", str(tmp_path / "copy"), "sub"], cwd=top)
    run_git(["commit", "--quiet", "-m", "sub"], cwd=top)
    assert changed_files(repository, ["sub"]) == {}
    (top / "sub" / "README.md").write_text("changed\n")
    assert changed_files(repository, ["sub"]) == {"sub": "modified"}


def test_what_the_ignore_rules_name(repository: Repository) -> None:
    (repository.workdir / ".gitignore").write_text("*.log\nbuild/\n!keep.log\n")
    odd = os.fsdecode(b"\xff")
    names = ["a.log", "build/x", "deep/ü\n.log", f"{odd}.log", "keep.log", "rules/a.txt", odd]
    assert [repository.is_ignored(name) for name in names] == [True] * 4 + [False] * 3


def refused(path: Path, hint: str, message: str) -> None:
    with pytest.raises(UnsupportedRepositoryError, match=message) as caught:
        probe(path)
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint


def test_it_is_found_from_a_subfolder_a_file_and_what_does_not_exist(
    repository: Repository,
) -> None:
    top = repository.workdir
    for place in (top, top / "rules", top / "rules" / "a.txt", top / "rules" / "no" / "such"):
        assert probe(place)[0] == top


def test_no_repository(tmp_path: Path, git_environment: Path) -> None:
    with pytest.raises(RepositoryError, match="is not in a git repository") as caught:
        probe(tmp_path)
    assert "git init" in caught.value.hint


def test_bare_and_git_folder(repository: Repository, tmp_path: Path) -> None:
    run_git(["clone", "--quiet", "--bare", str(repository.workdir), "b.git"], cwd=tmp_path)
    refused(tmp_path / "b.git", "clone", "bare")
    with pytest.raises(RepositoryError, match="inside a git folder"):
        probe(repository.git_dir)


def test_a_linked_worktree_of_a_bare_repository_is_fine(
    repository: Repository, tmp_path: Path
) -> None:
    run_git(["clone", "--quiet", "--bare", str(repository.workdir), "b.git"], cwd=tmp_path)
    run_git(["worktree", "add", "--quiet", "../linked", "main"], cwd=tmp_path / "b.git")
    repo = Repository.discover(tmp_path / "linked")
    assert repo.main_workdir is None
    assert repo.head_commit() == repository.head_commit()


def test_sha256(tmp_path: Path, git_environment: Path) -> None:
    run_git(["init", "--quiet", "--object-format=sha256", "r"], cwd=tmp_path)
    refused(tmp_path / "r", "SHA-1", "SHA-256")


def test_reftable(repository: Repository) -> None:
    # A git that does not know reftable refuses the format itself, with the same meaning.
    run_git(["config", "extensions.refstorage", "reftable"], cwd=repository.workdir)
    with pytest.raises(UnsupportedRepositoryError, match="reftable"):
        probe(repository.workdir)


def test_partial_clone(repository: Repository) -> None:
    run_git(["config", "remote.origin.promisor", "true"], cwd=repository.workdir)
    refused(repository.workdir, "full clone", "partial clone")


def test_split_index(repository: Repository) -> None:
    top = repository.workdir
    run_git(["update-index", "--split-index"], cwd=top)
    refused(top, "--no-split-index", "split index")
    run_git(["update-index", "--no-split-index"], cwd=top)
    assert probe(top)
    run_git(["config", "core.splitIndex", "true"], cwd=top)
    refused(top, "--no-split-index", "split index")


def test_sparse_index(repository: Repository) -> None:
    top = repository.workdir
    run_git(["sparse-checkout", "init", "--cone"], cwd=top)
    assert probe(top), "a sparse checkout with a full index is fine"
    run_git(["sparse-checkout", "reapply", "--sparse-index"], cwd=top)
    refused(top, "--no-sparse-index", "sparse index")
    run_git(["config", "--worktree", "index.sparse", "false"], cwd=top)
    refused(top, "--no-sparse-index", "sparse index")


def test_dubious_ownership(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(RepositoryError, match="dubious ownership") as caught:
        probe(repository.workdir)
    assert caught.value.hint == (f"git config --global --add safe.directory {repository.workdir}")
    run_git(["config", "--global", "--add", "safe.directory", "*"], cwd=Path("/"))
    assert Repository.discover(repository.workdir).head_name() == "main"
