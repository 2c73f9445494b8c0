"""autopilot.git.commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopilot.errors import GitCommandError
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository


def test_output_input_and_exit_code(repository: Repository) -> None:
    done = run_git(["hash-object", "--stdin"], cwd=repository.workdir, stdin=b"x\n")
    assert done.stdout == b"587be6b4c3f93f93c489c0111bba5596147a26cb\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_a_hooks_environment_does_not_redirect_calls(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert run_git(["status", "--porcelain"], cwd=repository.workdir).stdout == b""


def test_a_failure_tells_gits_reason(repository: Repository) -> None:
    with pytest.raises(GitCommandError, match="git log failed: ambiguous argument 'nothing'"):
        run_git(["-c", "a.b=c", "log", "nothing"], cwd=repository.workdir)
    assert run_git(["log", "nothing"], cwd=repository.workdir, check=False).returncode == 128


def test_a_missing_git_and_a_missing_folder_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GitCommandError, match="cannot run git version in"):
        run_git(["version"], cwd=tmp_path / "missing")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitCommandError, match="not installed") as caught:
        run_git(["version"], cwd=tmp_path)
    assert "install git" in caught.value.hint
