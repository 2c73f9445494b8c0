"""What the tests of the AI layer share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from server import KEY, MessagesServer, Reply, Script  # a script too, so not in a package

Serve = Callable[[Script | Sequence[Reply]], MessagesServer]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts a scripted server, and points the client at it with a key of its own."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ExitStack() as stack:

        def start(script: Script | Sequence[Reply]) -> MessagesServer:
            server = stack.enter_context(MessagesServer(script))
            monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
            return server

        yield start
