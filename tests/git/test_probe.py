"""autopilot.git.repository: what is found, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopilot.errors import RepositoryError, UnsupportedRepositoryError
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository, probe


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
