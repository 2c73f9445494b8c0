"""The environment of an evaluation: Python, platform, imported distributions, variables it read.

It is a mapping of text: "python" and "platform"; the name of a distribution to its version; "$NAME"
to a digest of a variable's value, "secret" for one whose name or value says so, "" if it is unset.

Variables count that the evaluation's own code, or a library that it uses, looks up by name in
`os.environ`, but for those of the machine, the user's session and the terminal. Threads and forked
processes are followed, programs that are executed are not.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from autopilot.errors import AutopilotError
from autopilot.text import is_secret

SECRET = "secret"
_TITLES = {"python": "Python", "platform": "platform"}
# They differ from machine to machine and say nothing about a result; or this program sets them.
# LANG, LC_ALL and TZ stay: what is sorted or formatted by them differs.
_NO_MATTER = re.compile(
    r"(PATH|HOME|USER|LOGNAME|USERNAME|SHELL|PWD|OLDPWD|SHLVL|_|HOST|HOSTNAME|TMPDIR|TE?MP"
    r"|TERM|TERM_.*|TERMINFO.*|COLORTERM|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|CLICOLOR.*|LC_(?!ALL$).*"
    r"|DISPLAY|WAYLAND_.*|SSH_.*|XDG_.*|DBUS_.*|EDITOR|VISUAL|PAGER|VIRTUAL_ENV.*|CONDA_.*|TMUX.*"
    r"|STY|WINDOWID|LS_COLORS|MAIL|VSCODE_.*|JPY_.*|PYTEST_.*|INVOCATION_ID|JOURNAL_STREAM"
    r"|(ALL|FTP|HTTPS?|NO)_PROXY|SSL_CERT_.*|PYTHON(PATH|DONTWRITEBYTECODE|PYCACHEPREFIX)"
    r"|AUTOPILOT_.*|GIT_.*)",
    re.IGNORECASE,
)
# The interpreter reads it before anything can listen.
_HASH_SEED = "PYTHONHASHSEED"
_LOOKUPS = ("os", "collections.abc", "_collections_abc")
# Their reads (HOME, PATH, LANG, COLUMNS) are about the machine and the terminal, or our own.
_OUR_OWN = ("autopilot", "rich", "typer", "click", "pydantic", "pygit2")
_NOT_USERS = frozenset({*sys.stdlib_module_names, *_OUR_OWN})
# The command line's own.
_NO_INPUT = ("annotated_doc", "click", "markdown_it", "mdurl", "rich", "shellingham", "typer")
_INSTALLED = re.compile(r".*?[\\/](site|dist)-packages(?=[\\/])")

_listening: list[Environment] = []
_copies = threading.local()


class Environment:
    """The environment of this process, as far as an evaluation uses it from `open` to `close`."""

    def __init__(self, listens: Callable[[], bool]) -> None:
        self._listens = listens
        self.names = {_HASH_SEED} & os.environ.keys()
        self._imports: set[str] = set()
        self._pid, self._reader, self._writer, self._pipe = 0, -1, -1, 0
        self._before: dict[str, str] = {}
        self._count = 0
        self._modules = {*_NO_INPUT}
        self._versions: dict[str, str] = {}

    def open(self) -> None:
        """Begins to listen: `os.environ` stays the same object, and gets a subclass of its class.

        Values that the evaluation itself sets later do not count.
        """
        self._before = dict(os.environ)
        self._pid, (self._reader, self._writer) = os.getpid(), os.pipe()
        for end in (self._reader, self._writer):
            # A full pipe must not hold up the evaluation: most names come more than once.
            os.set_blocking(end, False)
        self._pipe = os.fstat(self._writer).st_ino
        _change_class(os._Environ, _Watched)
        _listening.append(self)

    def close(self) -> None:
        """Listens no more."""
        if self in _listening:
            _listening.remove(self)
            self.collect()
            os.close(self._reader)
            os.close(self._writer)
        if not _listening:
            _change_class(_Watched, os._Environ)

    def read(self, name: object, frame: FrameType | None) -> None:
        """Takes down that a variable is read; `frame` is the call of the look-up."""
        if name in self.names or not isinstance(name, str) or not self._listens():
            return
        while frame is not None and frame.f_globals.get("__name__") in _LOOKUPS:
            frame = frame.f_back
        module = str(frame.f_globals.get("__name__", "")) if frame is not None else ""
        if module.partition(".")[0] not in _NOT_USERS and not _NO_MATTER.fullmatch(name):
            self.names.add(name)
            self._send(f"${name}")

    def imports(self, name: str) -> None:
        """Takes down an import of a forked process; those of this one are in `sys.modules`."""
        top = name.partition(".")[0]
        if top not in self._imports and os.getpid() != self._pid:
            self._imports.add(top)
            self._send(top)

    def _send(self, text: str) -> None:
        with contextlib.suppress(OSError, UnicodeEncodeError):
            # A process that closed its files may have opened another one by that number.
            if os.getpid() != self._pid and os.fstat(self._writer).st_ino == self._pipe:
                os.write(self._writer, f"{text}\n".encode())

    def collect(self) -> None:
        """Takes over what forked processes sent."""
        sent = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(self._reader, 1 << 16):
                sent += chunk
        for text in sent.decode().splitlines():
            if text.startswith("$"):
                self.names.add(text[1:])
            elif text not in self._imports | sys.stdlib_module_names:
                self._imports.add(text)
                has = (f for f in sys.path for end in ("", ".py") if Path(f, text + end).exists())
                self._versions |= _distributions(dict([(text, f) for f in has][:1]))

    def now(self) -> dict[str, str]:
        """The environment as far as the evaluation used it until now."""
        if self in _listening:
            self.collect()
        if len(sys.modules) != self._count:
            self._count = len(sys.modules)
            self._versions |= _imported_since(self._modules)
        found = {key: _present(key) for key in _TITLES} | dict(sorted(self._versions.items()))
        # A thread may read another one meanwhile.
        for name in sorted(self.names.copy()):
            found[f"${name}"] = _described(name, self._before.get(name))
        return found


def depends_on(name: str) -> None:
    """Takes down that the evaluation depends on a variable: its programs read it."""
    for environment in _listening[-1:]:
        environment.names.add(name)


class _Watched(os._Environ[str]):
    """`os.environ`, with the names taken down that are looked up one by one.

    Who copies all variables (as `subprocess` and `dict` do) reads none by its name: that asks for
    each name in the order of `__iter__`.
    """

    def __getitem__(self, key: str) -> str:
        if _listening:
            if key == getattr(_copies, "expected", None):
                _copies.expected = next(_copies.names, None)
            else:
                _copies.expected = None
                _listening[-1].read(key, sys._getframe(1))
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:
        names = list(super().__iter__())
        _copies.names = iter(names)
        _copies.expected = next(_copies.names, None)
        return iter(names)


def _change_class(old: type, new: type) -> None:
    environ: Any = os.environ
    # A class that another program gave it is left alone.
    if type(environ) is old:
        environ.__class__ = new


def differences(recorded: Mapping[str, str]) -> list[str]:
    """The differences of the present environment from a recorded one, a few words each.

    >>> differences({"python": "2.7.18", "$NO_SUCH_NAME": "9f86d081884c"})[1]
    '$NO_SUCH_NAME was set'
    """
    found = []
    for key, was in recorded.items():
        now = _present(key)
        if now == was or (key.startswith("$") and _NO_MATTER.fullmatch(key[1:])):
            continue
        if not key.startswith("$"):
            name = _TITLES.get(key, key)
            found.append(f"{name} {was} is {now} here" if now else f"{name} {was} is not here")
        elif not was:
            found.append(f"{key} is set here")
        else:
            found.append(f"{key} has another value here" if now else f"{key} was set")
    return found


def differing(*recorded: Mapping[str, str]) -> str:
    """The differences from recorded environments in a sentence; "" if there are none."""
    words = dict.fromkeys(each for one in recorded for each in differences(one))
    return f"not as it was measured: {', '.join(words)}" if words else ""


@contextlib.contextmanager
def told_apart(recorded: Mapping[str, str]) -> Iterator[None]:
    """Adds the differences from a recorded environment to the hint of an error of the body."""
    try:
        yield
    except AutopilotError as error:
        if differs := differing(recorded):
            error.hint = f"{error.hint}; {differs}" if error.hint else differs
        raise


def _present(key: str) -> str:
    """The present value of a key; "" if there is none."""
    if key == "python":
        return platform.python_version()
    if key == "platform":
        return f"{platform.system()} {platform.machine()}"
    if key.startswith("$"):
        return _described(key[1:], os.environ.get(key[1:]))
    folders = (_installed(folder) for folder in sys.path)
    return next((known[key][0] for known in folders if key in known), "")


def _described(name: str, value: str | None) -> str:
    if value is None:
        return ""
    if is_secret(name, value):
        return SECRET
    return hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()[:12]


def _imported_since(known: set[str]) -> dict[str, str]:
    """Name to version of the distributions of modules that were imported; `known` grows."""
    tops: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        file: Any = getattr(module, "__file__", None)
        if top not in known and isinstance(file, str):
            known.add(top)
            folder = _INSTALLED.match(file)
            # Private modules at the top (`_cffi_backend`) come with another one.
            if folder is not None and not top.startswith("_"):
                tops[top] = folder[0]
    return _distributions(tops)


def _distributions(tops: Mapping[str, str]) -> dict[str, str]:
    """Name to version of the distributions of modules, which are installed in the folders."""
    found: dict[str, str] = {}
    for top, place in tops.items():
        installed = _installed(place)
        name = _normal(top)
        if name not in installed:
            # A package, a module, a line of a list: to look for it takes a tenth of parsing.
            ends = [f"\n{top}{end}" for end in ("/", ".", "\n")]
            files = ((n, _files_of(metadata)) for n, (_, metadata) in installed.items())
            name = next((n for n, text in files if any(end in text for end in ends)), "")
        if name:
            found[name] = installed[name][0]
    return found


@cache
def _installed(folder: str) -> dict[str, tuple[str, Path]]:
    """Normal name to version and metadata folder of the distributions installed in a folder.

    The folders' names say both; to read and parse each one's metadata takes twenty times as long.
    """
    found: dict[str, tuple[str, Path]] = {}
    with contextlib.suppress(OSError):
        for path in Path(folder or ".").iterdir():
            name, dash, version = path.stem.partition("-")
            if dash and path.suffix in (".dist-info", ".egg-info"):
                found[_normal(name)] = re.sub(r"-py\d[\d.]*$", "", version), path
    return found


@cache
def _files_of(metadata: Path) -> str:
    """A line for each of a distribution's files, or for each name at their top."""
    for name in ("top_level.txt", "RECORD"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return f"\n{(metadata / name).read_text()}\n"
    return ""


def _normal(name: str) -> str:
    """A distribution's name as all spellings of it have it."""
    return re.sub(r"[-_.]+", "-", name).lower()
