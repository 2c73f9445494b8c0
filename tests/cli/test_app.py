"""--json is one document whatever happens: for every command, in a folder that has nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from autopilot.cli.app import OPTION_SECTIONS, SECTIONS
from autopilot.cli.context import CommandGroup, Commands
from autopilot.cli.main import AutoPilotCLI
from autopilot.command.options import TaskOptions
from autopilot.engine.options import Options


def below(path: tuple[str, ...], commands: Commands) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in commands.items():
        inner = command.commands if isinstance(command, CommandGroup) else {}
        yield from below((*path, name), inner)


def everything() -> list[tuple[str, ...]]:
    """All commands, and the groups that they are in."""
    found: list[tuple[str, ...]] = [()]
    for entry in (entry for part in SECTIONS.values() for entry in part):
        loaded = entry.load()
        found += below((entry.name,), {} if callable(loaded) else loaded)
    return found


@pytest.mark.parametrize("path", everything(), ids=" ".join)
def test_every_command_prints_one_document(
    path: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["--json", *path], [*path, "--json"], [*path, "--json", "--nosuch"]):
        code = AutoPilotCLI().run(arguments)
        document: dict[str, Any] = json.loads(capfd.readouterr().out)
        assert (code in (1, 2)) == ("error" in document or document.get("healthy") is False)
        for text in (document.get("error", ""), document.get("hint", "")):
            assert "\n" not in text


def test_a_mistyped_command_or_option_is_told_what_was_meant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert AutoPilotCLI().run(["repaly"]) == 2
    assert "No such command 'repaly'. Did you mean 'replay'?" in capsys.readouterr().err
    assert AutoPilotCLI().run(["log", "--grahp"]) == 2
    said, _, meant = capsys.readouterr().err.partition(" (")
    assert (said, meant[:24]) == ("error: No such option: --grahp", "Possible options: --grap")


def test_options_of_a_call_that_failed_do_not_reach_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert AutoPilotCLI().run(["--json", "status", "--nosuch"]) == 2
    capsys.readouterr()
    assert AutoPilotCLI().run(["-C", str(tmp_path / "nowhere"), "status"]) == 2
    assert capsys.readouterr().out == ""


def test_help_has_sections_and_plain_words_for_what_an_option_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts = Counter(name for part in OPTION_SECTIONS.values() for name in part)
    own = {field.name for table in (Options, TaskOptions) for field in fields(table)}
    assert parts == Counter(own - {"log_to"})
    for command in (["run"], ["memory", "record"], ["store", "checkout"], ["log"]):
        assert AutoPilotCLI().run([*command, "--help"]) == 0
        out = capsys.readouterr().out
        assert "\nOptions:\n" in out and not re.search(r"<\w+(\[\w+\])?( range)?>", out), out
        if command == ["run"]:
            titles = re.findall(r"^(\S.*):$", out, re.MULTILINE)
            assert titles[:4] == ["Arguments", "Options", "Without Python", "What decides"]
            assert re.search(r"^When it stops:\n  --max-epochs N  +Number", out, re.MULTILINE)
