"""A git repository: where it is, what it is configured to do, who commits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pygit2
from pygit2.enums import ObjectType

from autopilot.errors import RepositoryError, UnsupportedRepositoryError
from autopilot.git.commands import run_git
from autopilot.git.probe import Layout, is_true, probe, read_config

_CACHED_TREE_BYTES = 16_384
_CACHE_BYTES = 32 * 2**20
_CRUD = " .,:;<>\"\\'\t\r\n"


@dataclass(frozen=True, slots=True)
class Identity:
    """A name and an email address, as commits carry them."""

    name: str
    email: str


DEFAULT_IDENTITY = Identity("autopilot (user.name is not set)", "autopilot@localhost")
"""Who commits where neither the environment nor git's configuration names somebody."""


class Repository:
    """A repository of files, seen from one of its worktrees.

    Reads need no process except after the configuration was changed. Not to be shared between
    threads.

    Example:
        >>> from pathlib import Path
        >>> repo = Repository.discover(Path("src"))  # doctest: +SKIP
        >>> repo.head_name()  # doctest: +SKIP
        'main'
    """

    def __init__(self, layout: Layout, config: dict[str, str]) -> None:
        self.workdir = layout.workdir
        self.git_dir = layout.git_dir
        self.common_dir = layout.common_dir
        self._config = config
        self._config_stamp = self._stamp_of_config()
        # git, which honours every way of setting safe.directory, has just agreed to the owner.
        pygit2.settings.owner_validation = False
        # The default, 4 kB, leaves out every folder of more than a hundred files.
        pygit2.settings.cache_object_limit(ObjectType.TREE, _CACHED_TREE_BYTES)
        pygit2.settings.cache_max_size(_CACHE_BYTES)
        try:
            self.pygit = pygit2.Repository(str(layout.workdir))
        except (pygit2.GitError, KeyError, ValueError) as error:
            raise UnsupportedRepositoryError(
                f"cannot read the repository at {layout.workdir}: {error}",
                hint="its format may need a newer pygit2; `git fsck` tells whether it is sound",
            ) from error
        committer = self.committer()
        self.pygit.set_ident(committer.name, committer.email)

    @classmethod
    def discover(cls, path: Path) -> Repository:
        """The repository that contains a file or folder.

        Raises:
            RepositoryError: there is none, or git does not trust its owner.
            UnsupportedRepositoryError: it is stored in a way that cannot be worked with.
        """
        return cls(*probe(path))

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
        """The commit that is checked out here.

        Raises:
            RepositoryError: there is none yet.
        """
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
                hint="see `git log --oneline --all` and `git tag` for what there is",
            ) from error

    def identity(self) -> Identity:
        """Who the author is: GIT_AUTHOR_NAME and _EMAIL, then `author.*`, then `user.*`.

        `DEFAULT_IDENTITY` fills in what is not set anywhere.
        """
        return _person("author", self._current_config())

    def committer(self) -> Identity:
        """Who the committer is; as `identity`, from GIT_COMMITTER_* and `committer.*`."""
        return _person("committer", self._current_config())

    def people(self) -> tuple[Identity, Identity]:
        """Author and committer; the configuration is looked at once."""
        config = self._current_config()
        return _person("author", config), _person("committer", config)

    def config(self, key: str) -> str | None:
        """A value of git's configuration, None if it is not set.

        Args:
            key: Section and name in lower case, `commit.gpgsign`; a part between is as it is.
        """
        return self._current_config().get(key)

    def config_bool(self, key: str) -> bool:
        """Whether a key of the configuration is on."""
        return is_true(self.config(key))

    def status(self, paths: Sequence[str]) -> dict[str, str]:
        """What of some paths differs from HEAD, in the index or in the worktree.

        Starts git.

        Args:
            paths: Files or folders from the worktree's top; taken as they are, not as globs.

        Returns:
            "modified", "deleted", "untracked", "ignored" or "conflicted" for each file that
            differs. A submodule with changes is "modified"; a file that is staged and was then
            removed is "deleted"; an ignored folder is one item, its name ends in "/".
        """
        if not paths:
            return {}
        listed = run_git(
            [
                "--literal-pathspecs",
                "status",
                "--porcelain=v2",
                "-z",
                "--untracked-files=all",
                "--ignored=matching",
                "--no-renames",
                "--ignore-submodules=none",
                "--",
                *paths,
            ],
            cwd=self.workdir,
        ).stdout
        return dict(_parse_status(os.fsdecode(listed)))

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
            _stamp(os.environ.get("GIT_CONFIG_GLOBAL") or f"{home}/.gitconfig"),
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
        hint: What to do about it.
    """
    try:
        yield
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        reason = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        if "No space left" in reason or "Disk quota" in reason:
            hint = "make room on the disk, then resume"
        raise RepositoryError(f"{what}: {reason}", hint=hint) from error


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _person(role: str, config: Mapping[str, str]) -> Identity:
    def find(what: str, default: str) -> str:
        candidates = (
            os.environ.get(f"GIT_{role.upper()}_{what.upper()}"),
            config.get(f"{role}.{what}"),
            config.get(f"user.{what}"),
        )
        # git strips the same characters: in a commit they would end the name.
        cleaned = (_without_crud(value) for value in candidates if value)
        return next((value for value in cleaned if value), default)

    return Identity(find("name", DEFAULT_IDENTITY.name), find("email", DEFAULT_IDENTITY.email))


@lru_cache(maxsize=16)
def _without_crud(value: str) -> str:
    cleaned = "".join(character for character in value if character not in "<>\r\n\0")
    return cleaned.strip(_CRUD)


def _parse_status(listed: str) -> Iterator[tuple[str, str]]:
    """Reads `git status --porcelain=v2 -z`; every line's last field is the path."""
    for line in listed.split("\0"):
        kind = line[:1]
        if kind == "1":
            fields = line.split(" ", 8)
            yield fields[8], "deleted" if "D" in fields[1] else "modified"
        elif kind == "u":
            yield line.split(" ", 10)[10], "conflicted"
        elif kind == "?":
            yield line[2:], "untracked"
        elif kind == "!":
            yield line[2:], "ignored"
