"""A headless Chromium, driven by its DevTools protocol over two pipes: no server, no package."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-pipe", "--hide-scrollbars", "--disable-dev-shm-usage"),
)
# The browser reads commands from descriptor 3 and answers on 4.
_START = "import os,sys; r,w,*run=sys.argv[1:]; os.dup2(int(r),3); os.dup2(int(w),4); "
_START += "os.execvp(run[0],run)"
_KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    "Tab": ("Tab", 9, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "End": ("End", 35, ""),
    "Home": ("Home", 36, ""),
}


def find_chromium() -> str | None:
    """The program, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One browser with one page.

    Args:
        program: Chromium.
        profile: An empty folder.

    Attributes:
        problems: Errors of the page: exceptions, console errors, violations of its policy.
        requests: The addresses that it asked for, but for the page itself.
    """

    def __init__(self, program: str, profile: Path) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        self._number = 0
        self._buffer = b""
        there, ours = os.pipe()
        back, theirs = os.pipe()
        # Away from 3 and 4, which they become in the browser.
        far = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (there, theirs)]
        os.close(there), os.close(theirs)
        command = [sys.executable, "-c", _START, *map(str, far), program, *_FLAGS]
        self.process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=far,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in far:
            os.close(end)
        self._write, self._read = ours, back
        targets = self._call("Target.getTargets", session=None)["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self._call(
            "Target.attachToTarget", {"targetId": page, "flatten": True}, session=None
        )
        self._session: str | None = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def close(self) -> None:
        """Ends it, and what it started."""
        with contextlib.suppress(AssertionError, OSError):
            self._call("Browser.close", session=None)
        os.close(self._write), os.close(self._read)
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def open(self, address: str) -> float:
        """Loads a page afresh; returns the seconds until its load event."""
        # Its event must not be taken for that of the page.
        self._loaded = False
        self._call("Page.navigate", {"url": "about:blank"})
        self._until(lambda: self._loaded)
        self.problems.clear(), self.requests.clear()
        self._loaded = False
        started = time.perf_counter()
        self._call("Page.navigate", {"url": address})
        self._until(lambda: self._loaded)
        return time.perf_counter() - started

    def reload(self) -> None:
        """Loads the page again."""
        self._loaded = False
        self._call("Page.reload")
        self._until(lambda: self._loaded)

    def evaluate(self, expression: str) -> Any:
        """What an expression of JavaScript comes to, a promise's value included."""
        given = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        done = self._call("Runtime.evaluate", given)
        if "exceptionDetails" in done:
            raise AssertionError(done["exceptionDetails"]["exception"].get("description"))
        return done["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float = 120) -> Any:
        """Waits until an expression is true."""
        end = time.monotonic() + timeout_s
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                raise AssertionError(f"it does not come true: {expression}\n{self.problems}")
            time.sleep(0.02)
        return value

    def click(self, selector: str) -> None:
        """Clicks into the middle of an element, with the mouse."""
        self.wait_for(f"!!document.querySelector({json.dumps(selector)})")
        x, y = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'nearest'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.click_at(x, y)

    def click_at(self, x: float, y: float) -> None:
        """Clicks at a place of the window."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            given = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
            self._call("Input.dispatchMouseEvent", given)

    def move_to(self, x: float, y: float) -> None:
        """Moves the mouse."""
        self._call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def press(self, *keys: str) -> None:
        """Presses keys: one of _KEYS, or a character."""
        for key in keys:
            name, code, text = _KEYS.get(key, (key, ord(key[0].upper()), key))
            given = {"key": name, "code": name, "windowsVirtualKeyCode": code, "text": text}
            self._call("Input.dispatchKeyEvent", {"type": "keyDown", **given})
            self._call("Input.dispatchKeyEvent", {"type": "keyUp", **given})

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """The window's size, and whether the system is dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", {"features": [scheme]})

    def picture(self, path: Path) -> None:
        """What is seen, as a PNG file."""
        shot = self._call("Page.captureScreenshot", {"format": "png"})
        path.write_bytes(base64.b64decode(shot["data"]))

    # --- the protocol --------------------------------------------------------------------------

    def _call(
        self, method: str, given: dict[str, Any] | None = None, session: str | None = ""
    ) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": given or {}}
        if session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer: dict[str, Any] = {}

        def answered() -> bool:
            return bool(answer)

        self._until(answered, number, answer)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _until(self, done: Any, number: int = -1, answer: dict[str, Any] | None = None) -> None:
        while not done():
            while b"\0" not in self._buffer:
                chunk = os.read(self._read, 1 << 20)
                if not chunk:
                    raise AssertionError("the browser has gone")
                self._buffer += chunk
            text, _, self._buffer = self._buffer.partition(b"\0")
            message = json.loads(text)
            if answer is not None and message.get("id") == number:
                answer.update(message)
            elif "method" in message:
                self._happened(message["method"], message["params"])

    def _happened(self, what: str, given: dict[str, Any]) -> None:
        if what == "Page.loadEventFired":
            self._loaded = True
        elif what == "Runtime.exceptionThrown":
            details = given["exceptionDetails"]
            self.problems.append(
                details.get("exception", details).get("description", details["text"])
            )
        elif what == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.problems.append(str([arg.get("value") for arg in given["args"]]))
        elif what == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.problems.append(given["entry"]["text"])
        elif what == "Network.requestWillBeSent" and given["type"] != "Document":
            self.requests.append(given["request"]["url"])


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser that ends with the body."""
    program = find_chromium()
    assert program, "no Chromium is installed"
    browser = Browser(program, profile)
    try:
        yield browser
    finally:
        browser.close()
