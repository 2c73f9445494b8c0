"""A repository of the agent's own, in the place of the user's, for as long as a step takes.

Git's commands work in it as ever: history, diff, status, even commits, branches and configuration.
What they write is thrown away after the step. Only objects are shared, and only read.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from autopilot.errors import RepositoryError
from autopilot.files import REGULAR, FileState, replace_file
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository
from autopilot.sandbox.changes import printable

_COPIED = ("packed-refs", "shallow", "info/exclude", "info/attributes", "info/sparse-checkout")


class PrivateGit:
    """Takes the place of a linked worktree's git folder, and gives it back.

    Args:
        repo: The worktree.
        folder: Where the private one is; it exists only during steps, so that one that is there
            when a run begins tells that a step was killed.
    """

    def __init__(self, repo: Repository, folder: Path) -> None:
        self.repo, self.folder = repo, folder
        self._pointer = repo.workdir / ".git"
        self._begun: dict[str, bytes] = {}
        self._index = b""

    def enter(self) -> None:
        """From here on, git's commands in the worktree use the private one.

        Raises:
            RepositoryError: it cannot be made.
        """
        try:
            self._make()
        except OSError as error:
            raise RepositoryError(
                f"cannot make {self.folder}: {error.strerror}",
                hint="make room and give write permission there, then resume",
            ) from error
        self._point_to(self.folder)

    def leave(self) -> list[str]:
        """From here on, they use the user's again.

        Returns:
            What was written to the private one, a sentence each.
        """
        with contextlib.suppress(FileNotFoundError):
            os.chmod(self.repo.workdir, 0o700 | self.repo.workdir.stat().st_mode & 0o777)
        if self._pointer.is_dir() and not self._pointer.is_symlink():
            shutil.rmtree(self._pointer, ignore_errors=True)
            told = ["replaced .git by a folder: put back"]
        else:
            told = [] if self._points_to(self.folder) else ["changed .git: put back"]
        self._point_to(self.repo.git_dir)
        return told + [f"{what}: only in a copy, which is gone" for what in self._written()]

    def remove(self) -> None:
        """Removes the private one."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make(self) -> None:
        self.remove()
        common, here = self.repo.common_dir, self.folder
        for name in ("objects/info", "refs/heads", "refs/tags", "info", "hooks"):
            (here / name).mkdir(parents=True)
        config = (common / "config").read_bytes() + b"\n[core]\n\tbare = false\n"
        if self.repo.config("core.worktree") is not None:
            config += b"\tworktree = " + os.fsencode(self.repo.workdir) + b"\n"
        # Links of alternates are not followed: the user's own are named, too.
        alternates = [common / "objects", *self._alternates(common / "objects")]
        begun = {
            "HEAD": self.repo.head_commit().encode() + b"\n",
            "config": config,
            "objects/info/alternates": b"".join(os.fsencode(p) + b"\n" for p in alternates),
        }
        for name in (*_COPIED, *self._branches()):
            with contextlib.suppress(OSError):
                begun[name] = (common / name).read_bytes()
        for name in ("config.worktree", "info/sparse-checkout"):
            with contextlib.suppress(OSError):
                begun[name] = (self.repo.git_dir / name).read_bytes()
        for name, content in begun.items():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_bytes(content)
        self._begun = begun
        with contextlib.suppress(FileNotFoundError):
            self._index = (self.repo.git_dir / "index").read_bytes()
            (here / "index").write_bytes(self._index)

    def _branches(self) -> list[str]:
        """The user's own branches that are files; those of experiments can be many."""
        common = self.repo.common_dir
        found = []
        for folder, folders, names in os.walk(common / "refs" / "heads"):
            if "autopilot" in folders and Path(folder) == common / "refs" / "heads":
                folders.remove("autopilot")
            found += [Path(folder, name).relative_to(common).as_posix() for name in names]
        return found

    def _alternates(self, objects: Path) -> list[Path]:
        with contextlib.suppress(OSError):
            lines = (objects / "info" / "alternates").read_bytes().splitlines()
            return [objects / os.fsdecode(line) for line in lines if not line.startswith(b"#")]
        return []

    def _written(self) -> list[str]:
        present = {}
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder, name)
                below = path.relative_to(self.folder).as_posix()
                if below.startswith(("refs/", "hooks/", "info/")) or below in self._begun:
                    with contextlib.suppress(OSError):
                        present[below] = path.read_bytes()
        names_ = sorted(n for n in {*present, *self._begun} if present.get(n) != self._begun.get(n))
        told = [f"wrote {printable(name)} of the git folder" for name in names_]
        return [*told, *(["wrote the index of the git folder"] if self._staged() else [])]

    def _staged(self) -> bool:
        """Whether the index says something else; git also writes it to remember times."""
        index = self.folder / "index"
        with contextlib.suppress(OSError):
            if index.read_bytes() == self._index:
                return False
        listed = [
            run_git(
                ["ls-files", "--stage", "-v", "-z"],
                cwd=self.repo.workdir,
                environment={"GIT_INDEX_FILE": str(path)},
                check=False,
            ).stdout
            for path in (index, self.repo.git_dir / "index")
        ]
        return listed[0] != listed[1]

    def _points_to(self, folder: Path) -> bool:
        with contextlib.suppress(OSError):
            return self._pointer.read_bytes() == _pointer(folder)
        return False

    def _point_to(self, folder: Path) -> None:
        # ".git" is no name that replace_file takes; one of its own, moved into place, is.
        made = ".autopilot-git"
        self.repo.workdir.mkdir(parents=True, exist_ok=True)
        replace_file(self.repo.workdir, made, FileState(REGULAR, _pointer(folder)))
        os.replace(self.repo.workdir / made, self._pointer)


def _pointer(folder: Path) -> bytes:
    return b"gitdir: " + os.fsencode(folder) + b"\n"
