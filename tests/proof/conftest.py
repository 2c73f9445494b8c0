"""A repository with a finished experiment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from levels import commit_levels

import autopilot
from autopilot.git.repository import Repository
from autopilot.tracking.notebook import Notebook


@pytest.fixture
def finished(
    repository: Repository, git_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> Notebook:
    """The experiment `levels`: the baseline passes 1 of 4 items, epochs 1 and 2 pass 2 and 3."""
    monkeypatch.setenv("PYTHONPATH", str(Path(autopilot.__file__).parents[1]))
    target = commit_levels(repository)
    command = [sys.executable, "-P", "-m", "autopilot", "run", "levels.py", "-e", "levels"]
    subprocess.run(
        [*command, "--max-epochs", "2"],
        cwd=target.workdir,
        check=True,
        capture_output=True,
    )
    return Notebook(target, "levels")
