"""The checks of `doctor`, without a command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autopilot.git.commands import run_git
from autopilot.projects.health import examine, examine_project, versions
from autopilot.projects.project import make_project, project_at


def by_name(checks) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def test_a_sound_repository_has_no_warning_but_of_keys(repository, monkeypatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    states = by_name(examine(repository.workdir))
    assert set(states.values()) == {"ok"}
    assert {"git", "keys", "repository", "identity", "hooks", "locks", "runs"} <= states.keys()


def test_what_is_wrong_with_a_repository_is_named(repository, monkeypatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (repository.git_dir / "index.lock").touch()
    run_git(["config", "gc.auto", "0"], cwd=repository.workdir)
    checks = list(examine(repository.workdir))
    assert any(c.name == "locks" and c.state == "failed" for c in checks)
    assert any(c.name == "repository" and "gc.auto" in c.detail for c in checks)


def test_without_a_repository_nothing_further_is_looked_at(tmp_path: Path, git_environment) -> None:
    assert list(examine(tmp_path))[-1].name == "repository"
    assert versions().keys() == {"git", "libgit2", "Python"}


def test_a_project_without_its_file_is_named(repository) -> None:
    project = project_at(repository.workdir, "spam")
    (check,) = examine_project(project)
    assert (check.name, check.state) == ("cli.py", "failed")


def test_a_project_under_another_name_and_uncommitted_is_named(
    repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository.workdir)
    project = project_at(repository.workdir, "spam")
    make_project(project)
    project.file.write_text(project.file.read_text().replace('project="spam"', 'project="ham"'))
    for name in ("cli", "trainer", "ai", "ai.judge", "ai.generator"):
        sys.modules.pop(name, None)
    states = by_name(examine_project(project))
    assert states["files"] == "warning"
    assert states["name"] == "failed"
    assert states["datasets"] == "ok"
    assert states["target"] == "failed"  # it is not committed
