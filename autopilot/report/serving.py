"""A report that is kept up to date in the browser: a server on 127.0.0.1, for one experiment.

The page asks for server-sent events, each the run as `report.live` reduces it, and for the report's
data once epochs are new. Another user of the machine does not know the secret in its address.
"""

from __future__ import annotations

import secrets
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from autopilot.errors import AutopilotError, UsageError
from autopilot.git.commands import looking
from autopilot.git.repository import Repository
from autopilot.report.collection import collect
from autopilot.report.contents import dumped
from autopilot.report.live import RunReader
from autopilot.report.rendering import page_data, rendered
from autopilot.text import whole
from autopilot.tracking.notebook import Notebook

HOST = "127.0.0.1"
_LOOK_S, _BEAT_S = 0.5, 15.0
_TYPES = {"": "text/html", "report.json": "application/json", "events": "text/event-stream"}


class ReportServer(ThreadingHTTPServer):
    """Serves the report of an experiment.

    Args:
        folder: A folder of the repository.
        port: 0: a free one.

    Attributes:
        url: The page's address.

    Raises:
        UsageError: the port is taken, or none.
    """

    def __init__(self, folder: Path, slug: str, port: int = 0) -> None:
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else "there is no such port"
            raise UsageError(
                f"port {port}: {why}", hint="name another one, or leave --port out"
            ) from error
        self.folder, self.slug = folder, slug
        self.place = f"/{secrets.token_urlsafe(16)}/"
        self.hosts = [f"{name}:{self.server_port}" for name in (HOST, "localhost")]
        self.url = f"http://{self.hosts[0]}{self.place}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a browser that has gone."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def source(self) -> RunReader:
        """The run, for one reader."""
        return RunReader(Repository.discover(self.folder), self.slug)

    def data(self) -> dict[str, object]:
        """The report's data as of now."""
        with looking():  # pages are asked for again and again
            notebook = Notebook(Repository.discover(self.folder), self.slug)
            return page_data([collect(notebook)], live=True)


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    _begun = False

    def do_GET(self) -> None:
        """Answers a browser; one that was led here by another page's address gets nothing."""
        place, _, name = self.path.partition(self.server.place)
        is_ours = not place and name in _TYPES and self.headers.get("Host") in self.server.hosts
        if not is_ours:
            self.send_error(404)
            return
        try:
            if name == "events":
                self._events()
            else:
                data = self.server.data()
                text = dumped(data) if name else rendered(data)
                self._head(name)
                self.wfile.write(whole(text).encode())
        except AutopilotError as error:
            if not self._begun:  # else the page keeps what it has, and shows that no more comes
                self.send_error(410, explain=whole(f"{error.message} ({error.hint})"))

    def _head(self, name: str) -> None:
        self._begun = True
        self.send_response(200)
        self.send_header("Content-Type", f"{_TYPES[name]}; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def _events(self) -> None:
        source, sent_s = self.server.source(), 0.0
        for run in source.looks(_LOOK_S):
            if not self._begun:
                self._head("events")
            if run is not None:
                # The curve is in the report's data.
                document = run.document() | {"points": len(run.points)}
                message = f"data: {dumped(document)}\n\n".encode()
            elif time.monotonic() - sent_s > _BEAT_S:
                message = b": \n\n"  # fails once the browser has gone
            else:
                continue
            self.wfile.write(message)
            sent_s = time.monotonic()

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing."""
