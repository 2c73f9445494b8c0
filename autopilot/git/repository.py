"""A git repository: where it is, whether it can be read, its configuration, who commits."""

from __future__ import annotations

import mmap
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import pygit2
from pygit2.enums import ObjectType

from autopilot.errors import AutopilotError, RepositoryError, UnsupportedRepositoryError, remedy
from autopilot.git.commands import CommandResult, Seen, last_line, run_git, variable

_CACHED_TREE_BYTES = 16_384
_CACHE_BYTES = 2 << 20
_WINDOW_BYTES, _MAPPED_BYTES = 1 << 18, 1 << 20
_CRUD = " .,:;<>\"\\'\t\r\n"
_NO_CRUD = re.compile(r"[<>\r\n\0]")
_TRUE = ("true", "yes", "on", "1")


@dataclass(frozen=True, slots=True)
class Identity:
    """A name and an email address, as commits carry them."""

    name: str
    email: str


DEFAULT_IDENTITY = Identity("autopilot (user.name is not set)", "autopilot@localhost")
"""The committer where neither the environment nor git's configuration names one."""

_VARIABLES = [f"GIT_{who}_{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]
# Of the configuration and the variables that they follow from.
_People = tuple[Mapping[str, str], tuple[str | None, ...], tuple[Identity, Identity]]
_seen = Seen["Repository"]()


class Repository:
    """A repository of files, seen from one of its worktrees.

    Reads need no process except after the configuration was changed. Not to be shared between
    threads.

    Attributes:
        may_ask: Whether git may ask for a password at the terminal where it talks to a remote.
        damaged: What was left out since it cannot be read, by its message.
    """

    may_ask = False

    def __init__(
        self, workdir: Path, git_dir: Path, common_dir: Path, config: dict[str, str]
    ) -> None:
        # The two folders of git differ in a linked worktree: one is its own, one is shared.
        self.workdir, self.git_dir, self.common_dir = workdir, git_dir, common_dir
        self.damaged: dict[str, AutopilotError] = {}
        self._config, self._config_stamp = config, self._stamp_of_config()
        self._people: _People | None = None
        # git, which honours every way of setting safe.directory, has just agreed to the owner.
        pygit2.settings.owner_validation = False
        # The default, 4 kB, leaves out every folder of more than a hundred files.
        pygit2.settings.cache_object_limit(ObjectType.TREE, _CACHED_TREE_BYTES)
        pygit2.settings.cache_max_size(_CACHE_BYTES)
        # Else all packs are mapped whole, and a long run's memory grows with them.
        pygit2.settings.mwindow_size = _WINDOW_BYTES
        pygit2.settings.mwindow_mapped_limit = _MAPPED_BYTES
        try:
            self.pygit = pygit2.Repository(str(workdir))
        except (pygit2.GitError, KeyError, ValueError) as error:
            raise UnsupportedRepositoryError(
                f"cannot read the repository at {workdir}: {error}",
                hint="its format may need a newer pygit2; `git fsck` tells whether it is sound",
            ) from error
        # To write with: looks for an object among loose ones alone, and not in every pack.
        self.loose = pygit2.Odb()
        fsync = self.config_bool("core.fsyncobjectfiles")
        self.loose.add_backend(pygit2.OdbBackendLoose(f"{common_dir}/objects", -1, fsync), 1)
        self.pygit.set_ident(*astuple(self.people()[1]))

    @classmethod
    def discover(cls, path: Path, main: Path | None = None) -> Repository:
        """The repository that contains a file or folder; of a linked one, `main` may be known.

        Raises:
            RepositoryError: there is none, or git does not trust its owner.
            UnsupportedRepositoryError: bare, SHA-256, reftable, partial clone, split or sparse
                index.
        """
        if (around := _seen.get(str(main))) is not None:
            return around.linked(path)
        known = _seen.get(place := str(path.absolute()))
        if known is not None and known._config_stamp == known._stamp_of_config():
            return cls(known.workdir, known.git_dir, known.common_dir, known._config)
        return _seen.keep(place, cls(*probe(path)))

    def linked(self, path: Path) -> Repository:
        """A worktree of it that git has linked; starts git only where its configuration differs."""
        config, place = self._current_config(), path.resolve()
        pointer = os.fsdecode((place / ".git").read_bytes()).removeprefix("gitdir: ").rstrip("\n")
        own = (place / pointer).resolve()
        differs = any(key.startswith(("includeif.", "extensions.worktreec")) for key in config)
        if differs or own.parent.parent != self.common_dir:
            return Repository.discover(path)
        _seen[str(path.absolute())] = made = Repository(place, own, self.common_dir, config)
        return made

    def __reduce__(self) -> tuple[object, tuple[Path, Path | None]]:
        main = None if self.git_dir == self.common_dir else self.main_workdir
        return Repository.discover, (self.workdir, main)

    @property
    def main_workdir(self) -> Path | None:
        """The main worktree's top folder; None if there is none, or git does not know it."""
        if self.git_dir == self.common_dir:
            return self.workdir
        if self.config_bool("core.bare"):
            return None
        configured = self.config("core.worktree")
        if configured is not None:
            return (self.common_dir / configured).resolve()
        return self.common_dir.parent if self.common_dir.name == ".git" else None

    def head_commit(self) -> str:
        """The commit that is checked out here; raises a RepositoryError if there is none yet."""
        with translated(f"cannot read HEAD of {self.workdir}"):
            if self.pygit.head_is_unborn:
                raise RepositoryError(
                    f"{self.workdir} has no commit yet",
                    hint="make a first commit: `git add` your files, then `git commit`",
                )
            return str(self.pygit.head.target)

    def head_name(self) -> str:
        """The branch that is checked out here, in short, or "HEAD detached"."""
        with translated(f"cannot read HEAD of {self.workdir}"):
            head = self.pygit.lookup_reference("HEAD").target
        return head.removeprefix("refs/heads/") if isinstance(head, str) else "HEAD detached"

    def resolve(self, revision: str) -> str:
        """The commit that a revision means: a branch, a tag, an id, `HEAD~2`.

        Raises:
            RepositoryError: it means nothing, or no commit.
        """
        try:
            return str(self.pygit.revparse_single(revision).peel(pygit2.Commit).id)
        except (KeyError, ValueError, pygit2.GitError) as error:
            raise RepositoryError(
                f"{revision!r} is not a commit of {self.workdir}",
                hint="`git log --oneline --all` lists the commits, `git tag` the tags",
            ) from error

    def leave_out(self, ref: str) -> AutopilotError:
        """Notes a ref that holds no commit; returns the error of whoever needs it."""
        what, at = f"{ref} cannot be read: it holds no commit", self.common_dir
        remove = f"rm -f {shlex.quote(f'{at}/{ref}')}"
        hint = f"{at}/logs/{ref} has where it was: {remove} && git update-ref {ref} COMMIT"
        hint = hint if (at / "logs" / ref).is_file() else f"remove it: {remove}"
        if ref.startswith("refs/tags/"):
            hint = "autopilot gc makes it again from the records"
        return self.damaged.setdefault(what, RepositoryError(what, hint=hint))

    def identity(self) -> Identity:
        """The author: GIT_AUTHOR_NAME and _EMAIL, then `author.*`, then `user.*`.

        `DEFAULT_IDENTITY` fills in what is not set anywhere.
        """
        return self.people()[0]

    def people(self) -> tuple[Identity, Identity]:
        """Author and committer, the latter from GIT_COMMITTER_* and `committer.*`."""
        config, variables = self._current_config(), tuple(map(variable, _VARIABLES))
        if self._people is None or self._people[0] is not config or self._people[1] != variables:
            people = _person("author", config), _person("committer", config)
            self._people = config, variables, people
        return self._people[2]

    def config(self, key: str) -> str | None:
        """A value of git's configuration; None if it is not set.

        Section and name are in lower case, `commit.gpgsign`; a part between is as it is.
        """
        return self._current_config().get(key)

    def config_bool(self, key: str) -> bool:
        """Whether a key of the configuration is on."""
        return is_true(self.config(key))

    def is_ignored(self, name: str) -> bool:
        """Whether git's ignore rules name a path from the worktree's top; tracked ones too."""
        try:
            name.encode()
        except UnicodeEncodeError:  # pygit2 takes no name that is not UTF-8.
            asked = ["check-ignore", "--no-index", "--quiet", "-z", "--stdin"]
            stdin = os.fsencode(name) + b"\0"
            return run_git(asked, cwd=self.workdir, stdin=stdin, check=False).returncode == 0
        with translated(f"cannot tell whether {name} is ignored"):
            return bool(self.pygit.path_is_ignored(name))

    def _current_config(self) -> dict[str, str]:
        stamp = self._stamp_of_config()
        if stamp != self._config_stamp:
            self._config = read_config(self.workdir)
            self._config_stamp = stamp
        return self._config

    def _stamp_of_config(self) -> tuple[tuple[int, int, int] | None, ...]:
        home = os.environ.get("HOME", "")
        return (
            _stamp(f"{self.common_dir}/config"),
            _stamp(f"{self.git_dir}/config.worktree"),
            _stamp(f"{self.git_dir}/commondir"),  # another one once the worktree is made anew
            _stamp(variable("GIT_CONFIG_GLOBAL") or f"{home}/.gitconfig"),
        )


def libgit2_version() -> str:
    """The version of the library that reads repositories."""
    return str(pygit2.LIBGIT2_VERSION)


@contextmanager
def translated(
    what: str, hint: str = "run `git fsck` to see whether it is sound"
) -> Iterator[None]:
    """Turns pygit2's and the system's errors into a RepositoryError.

    Args:
        what: What could not be done; the reason is added.
        hint: For reasons without a remedy.
    """
    try:
        yield
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        # The text of a KeyError is its key in quotes.
        reason = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        raise RepositoryError(f"{what}: {reason}", hint=remedy(reason, hint)) from error


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _person(role: str, config: Mapping[str, str]) -> Identity:
    def find(what: str, default: str) -> str:
        candidates = (
            variable(f"GIT_{role.upper()}_{what.upper()}"),
            config.get(f"{role}.{what}"),
            config.get(f"user.{what}"),
        )
        # git strips the same characters: in a commit they would end the name.
        cleaned = (_NO_CRUD.sub("", value).strip(_CRUD) for value in candidates if value)
        return next((value for value in cleaned if value), default)

    return Identity(find("name", DEFAULT_IDENTITY.name), find("email", DEFAULT_IDENTITY.email))


# --- before pygit2 opens it ---------------------------------------------------------------------


def probe(path: Path) -> tuple[Path, Path, Path, dict[str, str]]:
    """Finds the repository that contains a path, as `Repository.discover`. Starts git twice.

    Returns:
        Its working tree, its own git folder, the git folder that its worktrees share, and its
        configuration as `read_config` returns it.
    """
    around = (path.absolute(), *path.absolute().parents)
    folder = next((each for each in around if each.is_dir()), None) or Path.cwd()
    asked = ["--is-bare-repository", "--is-inside-work-tree"]
    asked += ["--absolute-git-dir", "--git-common-dir", "--show-toplevel"]
    found = run_git(["rev-parse", *asked], cwd=folder, check=False)
    lines = found.stdout.decode("utf-8", "surrogateescape").splitlines()
    if lines[:1] == ["true"]:
        raise UnsupportedRepositoryError(
            f"{folder} is a bare repository: there are no files to optimize",
            hint="clone it, or add a worktree with `git worktree add`, and run there",
        )
    if lines[1:2] == ["false"]:
        raise RepositoryError(
            f"{folder} is inside a git folder, not in a working tree",
            hint="run in the folder that holds your files",
        )
    if found.returncode != 0:
        raise not_usable(folder, found)
    if len(lines) != 5:
        raise UnsupportedRepositoryError(
            f"the path of the repository around {folder} has a line break in it",
            hint="rename the folder",
        )
    workdir, git_dir, common_dir = Path(lines[4]), Path(lines[2]), folder / lines[3]
    config = read_config(workdir)
    _refuse_unsupported(workdir, git_dir, config)
    return workdir, git_dir.resolve(), common_dir.resolve(), config


def read_config(workdir: Path) -> dict[str, str]:
    """All of git's configuration at a folder, as git sees it: includes and all levels.

    Returns:
        Values by key as `git config --list` prints it; of a key that is set repeatedly, the last.
        A key without a value is "true".
    """
    listed = run_git(["config", "--list", "-z"], cwd=workdir).stdout
    config: dict[str, str] = {}
    for item in listed.decode("utf-8", "surrogateescape").split("\0"):
        key, separator, value = item.partition("\n")
        config[key] = value if separator else "true"
    config.pop("", None)
    return config


def is_true(value: str | None) -> bool:
    """Whether a value means yes to git."""
    return value is not None and value.lower() in _TRUE


def not_usable(folder: Path, found: CommandResult) -> RepositoryError:
    """The error of a folder around which git finds no repository, or does not use it."""
    if "dubious ownership" in found.stderr:
        quoted = found.stderr.partition("repository at '")[2].partition("'")[0] or str(folder)
        return RepositoryError(
            f"git does not trust {quoted}: it belongs to another user (dubious ownership)",
            hint=f"git config --global --add safe.directory {shlex.quote(quoted)}",
        )
    if "not a git repository" in found.stderr:
        return RepositoryError(
            f"{folder} is not in a git repository",
            hint="run `git init`, `git add` your files and `git commit`, then try again",
        )
    return RepositoryError(
        f"git cannot read the repository at {folder}: {last_line(found)}",
        hint="run `git status` there to see more",
    )


def _refuse_unsupported(workdir: Path, git_dir: Path, config: Mapping[str, str]) -> None:
    if config.get("extensions.objectformat", "sha1").lower() != "sha1":
        what = "stores its objects by SHA-256, which is not supported"
        hint = "use a repository with the default object format, SHA-1"
    elif (refs := config.get("extensions.refstorage", "files")).lower() != "files":
        what = f"stores its refs as {refs}, which is not supported"
        hint = "run `git refs migrate --ref-format=files`, or clone with --ref-format=files"
    elif "extensions.partialclone" in config or any(
        key.startswith("remote.") and key.endswith(".promisor") and is_true(value)
        for key, value in config.items()
    ):
        what = "is a partial clone: objects that are missing cannot be read"
        hint = "make a full clone, without --filter"
    # The file of a split index stays for a while when the index is whole: look inside too.
    elif is_true(config.get("core.splitindex")) or (
        any(git_dir.glob("sharedindex.*")) and _index_has(git_dir, b"link")
    ):
        what = "has a split index, which is not supported"
        hint = "git config core.splitIndex false && git update-index --no-split-index"
    elif is_true(config.get("core.sparsecheckout")) and (
        is_true(config.get("index.sparse")) or _index_has(git_dir, b"sdir")
    ):
        what = "has a sparse index, which is not supported"
        hint = "git sparse-checkout reapply --no-sparse-index"
    else:
        return
    raise UnsupportedRepositoryError(f"{workdir} {what}", hint=hint)


def _index_has(git_dir: Path, extension: bytes) -> bool:
    """Whether the index file has an extension: a chain of (name, size) that ends at its checksum.

    The entries before the extensions are not parsed; a name that is part of a path fails the
    walk along the chain.
    """
    try:
        with (git_dir / "index").open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return False
    with data:
        end = len(data) - 20
        start = data.find(extension)
        while start >= 0:
            position = start
            while position + 8 <= end:
                position += 8 + int.from_bytes(data[position + 4 : position + 8], "big")
            if position == end:
                return True
            start = data.find(extension, start + 1)
    return False
