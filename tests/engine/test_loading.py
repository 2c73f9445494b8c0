"""Importing the user's files: errors are the user's, and a command line is not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopilot.engine.loading import import_file, load_command_line, users_code
from autopilot.errors import TargetError, UsageError, UserCodeError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys\nsys.exit(3)\n", "ended the process while it was imported .exit code 3."),
        ("import no_such_module_at_all\n", "cannot be imported: ModuleNotFoundError"),
        ("def broken(:\n", "cannot be imported: SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(TargetError, match=f"broken.py {said}"):
        import_file(tmp_path / "broken.py", "broken.py")


def test_a_file_may_be_called_like_a_module_of_the_standard_library(tmp_path: Path) -> None:
    import json

    (tmp_path / "json.py").write_text("OWN = True\n")
    assert import_file(tmp_path / "json.py", "json.py").OWN
    import_again = __import__("json")
    assert import_again is json


def test_a_projects_command_line_is_made_and_not_run(tmp_path: Path) -> None:
    file = tmp_path / "cli.py"
    file.write_text(
        "from autopilot.cli.main import AutoPilotCLI\n\n\n"
        "class Own(AutoPilotCLI, project='own'):\n    pass\n\n\n"
        "Own()(['no-such-command'])\n"
    )
    assert load_command_line(file).project == "own"
    file.write_text("from autopilot.cli.main import AutoPilotCLI\n")
    with pytest.raises(TargetError, match="must define one AutoPilotCLI, and has none"):
        load_command_line(file)
    with pytest.raises(TargetError, match="no such file"):
        load_command_line(tmp_path / "other" / "cli.py")


def test_our_own_errors_and_interrupts_stay_as_they_are() -> None:
    with pytest.raises(UsageError), users_code("t"):
        raise UsageError("as it is")
    with pytest.raises(KeyboardInterrupt), users_code("t"):
        raise KeyboardInterrupt
    with pytest.raises(UserCodeError, match="t: ZeroDivisionError"), users_code("t"):
        print(1 / 0)
