"""Models, and the recorder of their calls and of agents'."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    # When it is first used: the contract of agents needs the recorder, and Model that contract.
    if name != "Model":
        raise AttributeError(f"module 'autopilot.ai.model' has no attribute {name!r}")
    return importlib.import_module("autopilot.ai.model.model").Model
