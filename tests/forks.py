"""Processes of the command line that need not import the model's client anew.

The import takes two seconds of a processor, more than most runs. So a process that has done it
waits, and forks one for each command: a process of its own, with its own folder and environment,
that can be killed. pygit2 is not loaded beforehand, as it looks at HOME when it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_TIMEOUT_S = 120


class Process:
    """A command that is running.

    Args:
        pid: Its process.
        folder: Where its output goes.

    Attributes:
        returncode: As of subprocess.Popen.
    """

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid, self.returncode = pid, 0
        self._folder = folder

    def communicate(self) -> tuple[str, str]:
        """Waits for its end; what it wrote to stdout and stderr."""
        self.returncode = _ask({"wait": self.pid})
        out, err = ((self._folder / name).read_text() for name in ("out", "err"))
        return out, err


def fork(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], terminal: str = ""
) -> Process:
    """Starts a command.

    Args:
        arguments: The command line, without the program.
        cwd: Its working directory.
        env: Its environment.
        terminal: A terminal that it writes to.
    """
    folder = Path(tempfile.mkdtemp(prefix="autopilot-fork-"))
    paths = [terminal, terminal] if terminal else [str(folder / "out"), str(folder / "err")]
    for name in ("out", "err"):
        (folder / name).touch()
    asked = {"argv": list(arguments), "cwd": str(cwd), "env": dict(env), "paths": paths}
    return Process(_ask(asked), folder)


_parents: list[subprocess.Popen[str]] = []


def _ask(what: object) -> int:
    if not _parents:
        command = [sys.executable, __file__]
        _parents.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    stdin, stdout = _parents[0].stdin, _parents[0].stdout
    assert stdin is not None and stdout is not None
    stdin.write(json.dumps(what) + "\n")
    stdin.flush()
    return int(stdout.readline())


def main() -> None:
    """Forks what stdin asks for, until it is closed."""
    _warm()
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _become(asked)
        print(pid, flush=True)


def _warm() -> None:
    """Loads the client, and lets it prepare what it reads replies with."""
    import anthropic
    import rich.progress
    import typer
    from server import MessagesServer, say

    del rich, typer
    os.environ["no_proxy"] = "127.0.0.1"
    message = {"role": "user", "content": "hello"}
    asked: dict[str, Any] = {"model": "m", "max_tokens": 1, "messages": [message]}
    with (
        MessagesServer([say("ok")]) as server,
        anthropic.Anthropic(base_url=server.url, api_key="any") as client,
    ):
        with client.messages.stream(**asked) as stream:
            stream.get_final_message()
        client.messages.create(**asked)
        client.beta.messages.create(**asked)


def _become(asked: Mapping[str, Any]) -> None:
    code = 1
    try:
        os.setsid()
        for number, path in enumerate(asked["paths"], start=1):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOCTTY), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(asked["env"])
        os.chdir(asked["cwd"])
        from autopilot.cli.main import AutoPilotCLI

        code = AutoPilotCLI().run(asked["argv"])
    except BaseException:  # noqa: BLE001  # shown, as the interpreter's end would
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
