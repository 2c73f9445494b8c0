"""Puts back what loading a project's files changes in this process."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each project's files have the same names: none may be found in `sys.modules`."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("cli", "trainer", "ai", "ai.judge", "ai.generator"):
        # Set first, so that it is gone at the end, too.
        monkeypatch.setitem(sys.modules, name, sys)
        monkeypatch.delitem(sys.modules, name)
