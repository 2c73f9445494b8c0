"""Processes of the command line that need not import everything anew.

The imports take half a second of a processor, with the model's client two: more than most commands.
So a process that has done them waits, and forks one for each command: a process of its own, with
its own folder and environment, that can be killed. A command forks the processes that measure for
it, which begin as they do when they are started: without anything that the command has done.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import pkgutil
import random
import select
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
_LOOK_S = 0.003


class Process:
    """A command that is running, to be used as a subprocess.Popen.

    Args:
        parent: Who forked it.
        pid: Its process.
        folder: Where its output goes.
    """

    def __init__(self, parent: _Parent, pid: int, folder: Path) -> None:
        self.pid, self.returncode = pid, 0
        self._parent, self._folder, self._ended = parent, folder, False

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if not self._ended:
            code = self._parent.ask({"wait": self.pid})
            if code is None:
                return None
            self._ended, self.returncode = True, code
        return self.returncode

    def printed(self) -> str:
        """Everything that it has written to stdout."""
        return (self._folder / "out").read_text("utf-8")

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Waits for its end; what it wrote to stdout and stderr."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("autopilot", timeout)
            self._wait(timeout)
        out, err = ((self._folder / name).read_text("utf-8") for name in ("out", "err"))
        shutil.rmtree(self._folder)
        return out, err

    def _wait(self, timeout: float) -> None:
        """Waits for its end, without looking again and again where that can be done."""
        if not hasattr(os, "pidfd_open"):
            time.sleep(_LOOK_S)
            return
        # Nobody else waits for it, so its number is still its own.
        with os.fdopen(os.pidfd_open(self.pid), "rb", buffering=0) as end:
            select.select([end], [], [], timeout)

    def send_signal(self, number: int) -> None:
        """Sends a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it."""
        self.send_signal(signal.SIGKILL)


def fork(
    arguments: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    terminal: str = "",
    client: bool = False,
) -> Process:
    """Starts a command.

    Args:
        arguments: The command line, without the program.
        cwd: Its working directory.
        env: Its environment.
        terminal: A terminal that it writes to.
        client: Whether it calls a model.
    """
    folder = Path(tempfile.mkdtemp(prefix="autopilot-fork-"))
    paths = [terminal, terminal] if terminal else [str(folder / "out"), str(folder / "err")]
    for name in ("out", "err"):
        (folder / name).touch()
    asked = {"argv": list(arguments), "cwd": str(cwd), "env": dict(env), "paths": paths}
    parent = _parents.get(client) or _parents.setdefault(client, _Parent(client=client))
    pid = parent.ask(asked)
    assert pid is not None
    return Process(parent, pid, folder)


# Asks for a command, and prints what it printed; its start takes 20 ms of a processor.
_PROGRAM = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as asking:
    asking.connect({address!r})
    with asking.makefile("rw") as file:
        print(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]), file=file, flush=True)
        code, *printed = json.loads(file.readline())
for stream, text in zip((sys.stdout, sys.stderr), printed):
    stream.buffer.write(text.encode())
    stream.flush()
sys.exit(code if code >= 0 else 128 - code)
"""


class _Answers(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        argv, cwd, env = json.loads(self.rfile.readline())
        process = fork(argv, cwd=Path(cwd), env=env)
        out, err = process.communicate()
        self.wfile.write(json.dumps([process.returncode, out, err]).encode() + b"\n")


@contextlib.contextmanager
def program(path: Path) -> Iterator[None]:
    """While the body runs, a program is the command line, for scripts that call it.

    Args:
        path: Where it is written.
    """
    address = tempfile.mktemp(prefix="autopilot-fork-")  # a path of a socket is a short one
    with socketserver.ThreadingUnixStreamServer(address, _Answers) as server:
        path.write_text(_PROGRAM.format(python=sys.executable, address=address), "utf-8")
        path.chmod(0o755)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            Path(address).unlink()


class _Parent:
    def __init__(self, *, client: bool) -> None:
        self._lock = threading.Lock()
        command = [sys.executable, "-P", __file__, *(["client"] if client else [])]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )

    def ask(self, what: object) -> int | None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with self._lock:
            stdin.write(json.dumps(what) + "\n")
            stdin.flush()
            answer: int | None = json.loads(stdout.readline())
        return answer


_parents: dict[bool, _Parent] = {}


def main() -> None:
    """Forks what stdin asks for, until it is closed."""
    _warm()
    from autopilot.core.run import freeze

    if "client" in sys.argv:
        _warm_client()
    freeze()
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            pid, status = os.waitpid(asked["wait"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            # It ends as a program does, with all that is to be done then.
            _become(asked)
            return
        print(pid, flush=True)


def _warm() -> None:
    """Loads what commands load, and prepares what records are read and written with."""
    import rich.progress  # noqa: F401

    import autopilot

    for module in pkgutil.walk_packages(autopilot.__path__, "autopilot."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    from autopilot.tracking.lines import prepare

    prepare()
    _warm_commands()


def _warm_commands() -> None:
    """Makes all commands, and what typer reads their options with: a sixth of a short run."""
    import typer.main

    from autopilot.cli.main import AutoPilotCLI

    app, make = AutoPilotCLI().app(), typer.main.get_command
    made = [group := make(app)]
    for command in made:
        names = command.list_commands(None) if isinstance(command, typer.core.TyperGroup) else []
        made += [command.get_command(None, name) for name in names]
        for parameter in command.params:
            getattr(parameter, "get_runtime_param", int)()  # an older typer's has none
    own = AutoPilotCLI.app
    AutoPilotCLI.app = lambda cli: app if type(cli) is AutoPilotCLI else own(cli)
    typer.main.get_command = lambda asked: group if asked is app else make(asked)


def _warm_client() -> None:
    """Loads the client, and lets it prepare what it reads replies with."""
    import anthropic

    sys.path.append(str(ROOT / "tests"))
    from server import MessagesServer, say

    sys.path.pop()
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
    os.setsid()
    for number, path in enumerate(asked["paths"], start=1):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOCTTY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    _look_for_configuration()
    _search(os.environ)
    sys.argv = ["autopilot", *asked["argv"]]
    subprocess.Popen = ForkingPopen  # type: ignore[misc]
    from autopilot.cli.main import main as command_line

    command_line()


_PATH = [*sys.path]


def _search(env: Mapping[str, str]) -> None:
    """What can be imported, as an interpreter that begins in this folder has it."""
    given = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = dict.fromkeys([*map(os.path.abspath, given), *_PATH])


class ForkingPopen(subprocess.Popen):
    """Forks a process that measures, where a thread holds nothing that it would wait for."""

    def _execute_child(self, args: Any, *given: Any) -> None:
        _, _, _, _, cwd, env, _, _, _, stdin, _, _, stdout, *_ = given
        is_worker = [*args][1:] == ["-P", "-m", "autopilot.proof.worker"]
        # `replay` waits in its main thread; a third one may be in the middle of a call of git's.
        if not is_worker or threading.active_count() > 2:
            super()._execute_child(args, *given)  # type: ignore[misc]
            return
        sys.audit("subprocess.Popen", args[0], args, cwd, env)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _measure(cwd, env, stdin, stdout)
        self._child_created = True
        self._close_pipe_fds(*given[9:15])  # type: ignore[attr-defined]


def _measure(cwd: Path, env: Mapping[str, str], stdin: int, stdout: int) -> NoReturn:
    """Becomes a process that measures, and ends as one."""
    from autopilot import audit

    code = 1
    try:
        vars(atexit)["_clear"]()
        os.setsid()
        for number, descriptor in enumerate((stdin, stdout)):
            os.dup2(descriptor, number)
        os.closerange(3, 256)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(cwd)
        _search(env)
        random.seed()
        from autopilot.git import commands, repository
        from autopilot.proof import worker
        from autopilot.sandbox import processes

        audit.end()
        vars(audit)["_own"].kind = ""
        for kept in (commands._kept, repository._seen, processes._asked, processes._notes):
            kept.clear()
        processes._starting, processes._adopting = threading.Lock(), 0
        sys.modules["__main__"] = worker
        worker.main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  # as an interpreter prints it
        traceback.print_exc()
    audit.leave(code)


def _look_for_configuration() -> None:
    """Where libgit2 looks for it: it asked HOME when it was loaded, which was another then."""
    from pygit2 import settings
    from pygit2.enums import ConfigLevel

    home = os.environ.get("HOME", "")
    settings.search_path[ConfigLevel.GLOBAL] = home
    settings.search_path[ConfigLevel.XDG] = (
        f"{os.environ.get('XDG_CONFIG_HOME') or f'{home}/.config'}/git"
    )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()


def run_alone(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own: pytest's workers have threads, so they fork no child."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
