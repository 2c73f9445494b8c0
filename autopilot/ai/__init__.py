"""Agents that edit, judges that score, generators that make data.

Each name is imported when it is first used; the model's client only when a call is made.
"""

from __future__ import annotations

import importlib
from typing import Any

from autopilot import _HOME_OF as _PUBLIC

# Beside those that `autopilot` itself has.
_HOMES = {
    "autopilot.ai.agent": "Tool",
    "autopilot.ai.anthropic_agent": "TextEditor",
    "autopilot.ai.datasets.judging": "Judging",
    "autopilot.ai.model.parallel": "each",
    "autopilot.ai.model.recording": "StoreRecorder recording_beside use_recorder",
    "autopilot.ai.prices": "Price",
    "autopilot.ai.prompt.briefing": "Brief",
    "autopilot.ai.steps": "WorkflowStep",
}
_HOME_OF = {name: home for name, home in _PUBLIC.items() if home.startswith("autopilot.ai.")}
_HOME_OF |= {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)  # all strings


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'autopilot.ai' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
