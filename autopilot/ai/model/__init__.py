"""A call of a model: recorded, paid for, and within the rate limit."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "Model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from autopilot.ai.model.model import Model

    return Model
