"""The text editor's bounds: what is asked for beyond them is refused, and a violation."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopilot.ai.anthropic_agent import TextEditor
from autopilot.core.experiment import Experiment
from autopilot.core.parameter import PathParameter
from autopilot.core.run import Run, running
from autopilot.errors import AgentError


def test_what_is_refused_is_a_violation_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "prompt.md").write_text("be brief\n")
    (tmp_path / "evaluator.py").write_text("x\n")
    (tmp_path / "link").symlink_to(tmp_path)
    editor = TextEditor([PathParameter(tmp_path / "prompt.md")], tmp_path)
    experiment = Experiment()
    outside = ["evaluator.py", "../x", "/etc/passwd", "link/prompt.md"]
    with running(Run(experiment)):
        for path in outside:
            with pytest.raises(AgentError, match="may not be read or edited"):
                editor.use({"command": "create", "path": path, "file_text": "evil"})
        editor.use({"command": "create", "path": "prompt.md", "file_text": "fine"})
    assert editor.refused == outside
    told = [f"asked for {path!r}, which is no parameter: refused" for path in outside]
    assert experiment.violations == told
    assert (tmp_path / "evaluator.py").read_text() == "x\n"
