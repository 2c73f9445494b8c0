"""The audit hook around an evaluation: the files that it reads, and on what else it depends.

SQLite opens its databases in C, and the event does not say whether it writes: only those that git
has are counted. Files that C code or a child process opens are not seen, except for those that are
named on a child's command line. They are put back after each step like all others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from autopilot import audit
from autopilot.git import objects
from autopilot.git.repository import Repository
from autopilot.git.workfiles import WorkFiles, everything_below
from autopilot.git.worktrees import cache_folder
from autopilot.sandbox.children import STARTS, Program, Watcher
from autopilot.sandbox.environment import Environment
from autopilot.tracking.parameters import Scope

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CACHES = ("__pycache__", ".git", ".pytest_cache", ".mypy_cache", ".ruff_cache")
_CHUNK = 2**20
_NETWORK = ("socket.connect", "socket.sendto", "socket.getaddrinfo")
_TEMPORARY = ("tempfile.mkdtemp", "tempfile.mkstemp")
_EVENTS = (
    *("open", "import", "os.rename", "sqlite3.connect", "os.fork"),
    *(*STARTS, *_NETWORK, *_TEMPORARY),
)
# Of the machine, of Python and of what is installed: their versions are known, or they are noise.
_PREFIXES = {sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(__file__).parents[1])}
_INSTALLED = (
    *(f"{prefix}{os.sep}" for prefix in _PREFIXES),
    *("/usr/", "/lib/", "/lib64/", "/etc/", "/proc/", "/sys/"),
    *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/pts/"),
)
_PACKAGES = ("/site-packages/", "/dist-packages/")
_SPAWNED = ("multiprocessing.popen_spawn_posix", "multiprocessing.popen_forkserver")

_listening: list[Inputs] = []
_is_installed = False


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening and event in _EVENTS:
        # An error here would make the user's call fail, be it only an odd argument.
        with contextlib.suppress(Exception):
            _listening[-1].hear(event, arguments)


class Inputs(Watcher):
    """The files of a worktree that were read or imported, with git's ids of their content.

    The files of the base commit count, those that `--link` brought in, and, in the user's own
    checkout, those that are older than the run: data that git ignores. Files that the run writes
    do not count.

    Args:
        base: The commit that the run starts from.
        links: Path from the top to the user's own path, of what `--link` brought in.

    Attributes:
        scopes: The parameters, which are none of them.
        listens: Whether what is opened now counts.
        programs: Called with each program that an evaluation starts.
        environment: What else it depends on; open as long as this is.
        uses: What it depends on beside files, in a word each: "network", "outside" (files that are
            neither the repository's nor installed), "outputs" (of earlier evaluations), "programs".
        recent: What was read since it was cleared.
    """

    def __init__(
        self, repo: Repository, base: str, links: Sequence[tuple[str, Path]], *, in_place: bool
    ) -> None:
        self.repo = repo
        self.scopes: Sequence[Scope] = ()
        self.listens = True
        self.programs: Callable[[Program], None] | None = None
        self.environment = Environment(lambda: self.listens)
        self._tree = objects.tree_of(repo, base)
        self._links, self._in_place = links, in_place
        self._files = WorkFiles(repo, repo.workdir)
        self._reads: set[str] = set()
        self._written: set[str] = set()
        self._databases: set[str] = set()
        self._both, self._counts = cache(self._names_of), cache(self._is_input)
        self._modules: set[str] = set()
        self._hashed: dict[str, tuple[tuple[int, ...], str]] = {}
        self._since_ns = time.time_ns()
        self.uses, self.recent = set[str](), set[str]()
        self._judged, self._made = set[str](), set[str]()
        self._own = (f"{repo.common_dir}{os.sep}", f"{cache_folder()}{os.sep}")
        tops = {str(repo.workdir), os.path.realpath(repo.workdir)}
        own = {str(path) for _, own_path in links for path in (own_path, own_path.resolve())}
        self._tops = tuple(f"{top}{os.sep}" for top in tops)
        self._prefixes = (*self._tops, *own)

    def open(self) -> None:
        """Begins to listen; the hook stays in the process, and does nothing without a listener."""
        global _is_installed  # an audit hook cannot be removed
        if not _is_installed:
            sys.addaudithook(_hear)
            _is_installed = True
        _listening.append(self)
        self.environment.open()

    def close(self) -> None:
        """Listens no more."""
        self.environment.close()
        with contextlib.suppress(ValueError):
            _listening.remove(self)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Records an event of Python's audit hook."""
        if not self.listens:
            return
        if event == "open":
            path = _full(arguments[0])
            is_read = not arguments[2] & _WRITES
            if not path.startswith(self._prefixes):
                self._hear_outside(path, is_read=is_read)
            elif is_read:
                self._reads.add(path)
                self.recent.add(path)
            else:
                self._written.add(path)
        elif event == "import":
            self.environment.imports(arguments[0])
        elif event == "sqlite3.connect":
            given = os.fsdecode(arguments[0]).removeprefix("file:").partition("?")[0]
            self._databases.add(path := os.path.normpath(_full(given)))
            if given not in ("", ":memory:") and not path.startswith(self._prefixes):
                self._hear_outside(path, is_read=True)
        elif event == "os.rename":
            path = _full(arguments[1])
            if path.startswith(self._prefixes):
                self._written.add(path)
        elif event in _NETWORK:
            self.uses.add("network")
        elif event in _TEMPORARY:
            self._made.add(_full(arguments[0]))
        elif event == "os.fork":
            # Above this call are the hook and who forks; our own forks report what they read.
            if not str(sys._getframe(2).f_globals.get("__name__")).startswith("autopilot."):
                self.uses.add("programs")
        elif audit.own() != "git":
            self.uses.add("programs")
            program = Program.of(event, arguments)
            if self.programs is not None:
                self.programs(program)
            paths = (os.path.normpath(os.path.join(program.folder, p)) for p in program.command)
            self._reads.update(path for path in paths if path.startswith(self._prefixes))

    def _hear_outside(self, path: str, *, is_read: bool) -> None:
        path = os.path.normpath(path)
        is_ours = path.startswith((*_INSTALLED, *self._own)) or any(x in path for x in _PACKAGES)
        if not is_read:
            self._made.add(path)
        elif not is_ours and not self._made & {path, *map(str, Path(path).parents)}:
            # What it has written itself, as temporary files, follows from the rest.
            self.uses.add("outside")

    def look(self) -> set[str]:
        """All that it uses until now; new reads are looked at."""
        new = self._reads - self._judged
        self._judged |= new
        names = {self._name(path) or "" for path in new} - {""}
        names |= {self._name(path) or "" for path in self._databases} - {""}
        if any(map(self._is_output, names)) or any(map(self._is_input, self._outputs())):
            self.uses.add("outputs")
        if any(name in sys.modules for name in _SPAWNED):
            self.uses.add("programs")
        return self.uses

    def _is_output(self, name: str) -> bool:
        """Whether an earlier evaluation wrote a file, not git, a parameter or a link."""
        return (
            not self._is_input(name)
            and not any(part in _CACHES for part in name.split("/"))
            and not any(scope.covers(name) for scope in self.scopes)
            # A program's arguments may be no path at all, as the text of `python -c`.
            and os.path.isfile(self.repo.workdir / name)
        )

    def linked(self) -> dict[str, str]:
        """Path to blob id of all files that `--link` brought in."""
        found = dict[str, str]()
        for name, own in self._links:
            below = [name] if own.is_file() else [f"{name}/{n}" for n in everything_below(own)]
            found |= {n: self._hash(n) for n in below if (self.repo.workdir / n).is_file()}
        return found

    def blobs(self, known: Iterable[str] = ()) -> dict[str, str]:
        """Path to blob id as the files are now, of `known` ones too; "" for one that is gone."""
        with self.deaf():
            names = self.names() | ({*known} - self._outputs())
            linked = {name for name in names if self._is_linked(name)}
            ids = {name: self._hash(name) for name in linked}
            for name, entry in self._files.hash(sorted(names - linked), write=False).items():
                ids[name] = entry.oid if entry is not None else ""
            return dict(sorted(ids.items()))

    @contextlib.contextmanager
    def deaf(self) -> Iterator[None]:
        """Files that are opened in the body do not count."""
        listened, self.listens = self.listens, False
        try:
            yield
        finally:
            self.listens = listened

    def begin_apart(self) -> None:
        self._reads, self._written, self._databases, self.uses = set(), set(), set(), set()

    def gathered(self) -> Any:
        self._look_at_modules()
        return self._reads, self._written, self._databases, self.uses

    def take_in(self, gathered: Any) -> None:
        reads, written, databases, uses = gathered
        self._reads |= reads
        self.recent |= reads
        self.uses |= uses
        self._written |= written
        self._databases |= databases
        # They come by a pipe, which the items of a batch would fill.
        self.environment.collect()

    def names(self) -> set[str]:
        """The repository paths that this session read. No other process may write meanwhile."""
        self._look_at_modules()
        found = {name for path in self._reads for name in self._both(path) if name}
        databases = {self._name(path) or "" for path in self._databases} - {""}
        found |= {n for n in databases if objects.entry_at(self.repo, self._tree, n) is not None}
        return {*filter(self._counts, found)} - self._outputs()

    def parameter_files(self, *, recent: bool = False) -> set[str]:
        """The repository paths of parameters that were read and still exist.

        Args:
            recent: Since `recent` was cleared.
        """
        paths = self.recent if recent else self._reads
        found = {name for path in paths for name in self._both(path) if name}
        covered = (n for n in found if any(scope.covers(n) for scope in self.scopes))
        return {name for name in covered if (self.repo.workdir / name).exists()}

    def _look_at_modules(self) -> None:
        for name, module in list(sys.modules.items()):
            if name not in self._modules:
                self._modules.add(name)
                file = getattr(module, "__file__", None)
                if isinstance(file, str) and file.startswith(self._tops):
                    self._reads.add(file)

    def absent(self) -> str:
        """A line for each path that was to be read, and does not exist."""
        paths = (path for path in self._reads | self._databases if path.startswith(self._tops))
        return "\n".join(f"No such file: {path}" for path in paths if not os.path.exists(path))

    def _outputs(self) -> set[str]:
        return {self._name(path) or "" for path in self._written}

    def _names_of(self, path: str) -> tuple[str | None, str | None]:
        """The path itself, and what it leads to if it is a symbolic link."""
        name = self._name(path)
        real = os.path.realpath(path) if name else path
        return name, self._name(real) if real != path else None

    def _name(self, path: str) -> str | None:
        """The path from the top, None if it is not in the repository."""
        path = os.path.normpath(path)
        for top in self._tops:
            if path.startswith(top):
                return path.removeprefix(top).replace(os.sep, "/")
        for name, own in self._links:
            for source in (str(own), os.path.realpath(own)):
                if path == source or path.startswith(f"{source}{os.sep}"):
                    return name + path.removeprefix(source).replace(os.sep, "/")
        return None

    def _is_linked(self, name: str) -> bool:
        return any(name == link or name.startswith(f"{link}/") for link, _ in self._links)

    def _is_input(self, name: str) -> bool:
        if any(part in _CACHES for part in name.split("/")) or name.endswith(".pyc"):
            return False
        if any(scope.covers(name) for scope in self.scopes):
            return False
        entry = objects.entry_at(self.repo, self._tree, name)
        if entry is not None:
            return entry.mode not in (objects.TREE, objects.SUBMODULE)
        try:
            status = os.stat(self.repo.workdir / name)
        except OSError:
            return False
        if not os.path.isfile(self.repo.workdir / name):
            return False
        return self._is_linked(name) or (self._in_place and status.st_ctime_ns < self._since_ns)

    def _hash(self, name: str) -> str:
        """The blob id of a file that is behind a link, as it is on the disk."""
        path = self.repo.workdir / name
        try:
            status = os.stat(path)
            stamp = (status.st_mtime_ns, status.st_size, status.st_ctime_ns, status.st_ino)
            known = self._hashed.get(name)
            if known is not None and known[0] == stamp:
                return known[1]
            digest = hashlib.sha1(b"blob %d\0" % status.st_size, usedforsecurity=False)
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError:
            return ""
        self._hashed[name] = (stamp, digest.hexdigest())
        return digest.hexdigest()


def _full(path: Any) -> str:
    text = os.fsdecode(path)
    if text.startswith("/"):
        return text
    return os.path.join(os.getcwd(), text)  # noqa: PTH109  # called for every file that is opened
