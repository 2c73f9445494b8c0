"""A repository with a target, and a process that is put back after a session ran in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from levels import commit_levels

from autopilot.git.repository import Repository


@pytest.fixture
def target(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """The repository with `levels.py` and `level.txt`; the process's own state comes back."""
    target = commit_levels(repository, 2)
    monkeypatch.chdir(target.workdir)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delitem(sys.modules, "levels", raising=False)
    return target
