"""Loading what the user's checkout has, without a run: a target's module, a project's cli.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autopilot.core.module import AutoPilotModule
from autopilot.engine.target import (
    build_module,
    import_file,
    load_factory,
    parse_target,
    users_code,
)
from autopilot.errors import TargetError
from autopilot.projects.projects import loading, only_command_line


def load_command_line(path: Path) -> Any:
    """The AutoPilotCLI of a project's `cli.py`, made and not run.

    Raises:
        TargetError: the file is missing or fails, or defines none.
    """
    sys.dont_write_bytecode = True
    if not path.is_file():
        raise TargetError(f"{path}: no such file", hint="autopilot project init NAME makes one")
    with loading() as command_lines:
        loaded = import_file(path, str(path))
    with users_code(str(path)):
        return only_command_line(loaded, command_lines, str(path))


def load_here(folder: Path, text: str, hparams: Mapping[str, str]) -> AutoPilotModule:
    """The module of a target as the user's checkout has it now; the folder stays the working one.

    Raises:
        AutopilotError: it cannot be loaded.
    """
    sys.dont_write_bytecode = True
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    return build_module(load_factory(parse_target(text), folder), hparams, text)
