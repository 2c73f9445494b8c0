"""Git folders during an agent's step: a private one in the worktree, and the user's, put back.

Git's commands in the worktree work on the private folder: history, diff, status, even commits,
branches and configuration. What they write is thrown away after the step. The user's folder can be
reached by its full path; what an agent writes there is put back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from autopilot.errors import ParameterError, RepositoryError, translated_as
from autopilot.files import REGULAR, FileState, read_file, remove_file, replace_file
from autopilot.git.commands import run_git
from autopilot.git.commits import is_ancestor
from autopilot.git.refs import list_refs
from autopilot.git.repository import Repository
from autopilot.git.worktrees import lend_objects
from autopilot.text import printable
from autopilot.tracking.layout import Layout

AGENT = "autopilot agent"
"""The committer's name for what an agent's git commands write: reflogs tell it from the user's."""

_FILES = ("HEAD", "config", "config.worktree", "objects/info/alternates")
_FOLDERS = ("hooks", "info")
_OTHER_RUNS = ("refs/heads/autopilot/", "refs/heads/autopilot-review/")
_ZERO = "0" * 40


class PrivateGit:
    """Takes the place of a linked worktree's git folder, and gives it back.

    Args:
        folder: Where the private one is; it exists only during steps, so that one that is there
            when a run begins tells that a step was killed.
    """

    def __init__(self, repo: Repository, folder: Path) -> None:
        self.repo, self.folder = repo, folder
        self._pointer = repo.workdir / ".git"
        self._begun: dict[str, bytes] = {}
        self._index = b""

    def enter(self) -> None:
        """Makes git's commands in the worktree use the private folder."""
        self.remove()
        own, hint = self.repo.git_dir, "{remedy}, then resume"
        with translated_as(RepositoryError, f"cannot make {self.folder}", hint):
            self._begun = lend_objects(
                self.repo,
                self.folder,
                self.repo.workdir,
                head=self.repo.head_commit(),
                settings="",
                copied=("packed-refs", "info/sparse-checkout", *self._branches()),
            )
            for name in ("config.worktree", "info/sparse-checkout"):
                with contextlib.suppress(FileNotFoundError):
                    self._begun[name] = (own / name).read_bytes()
                    (self.folder / name).write_bytes(self._begun[name])
            with contextlib.suppress(FileNotFoundError):
                self._index = (own / "index").read_bytes()
                (self.folder / "index").write_bytes(self._index)
        self._point_to(self.folder)

    def leave(self) -> list[str]:
        """Makes git use the user's folder; returns what was written to the private one."""
        with contextlib.suppress(FileNotFoundError):
            os.chmod(self.repo.workdir, 0o700 | self.repo.workdir.stat().st_mode & 0o777)
        violations = []
        if self._pointer.is_dir() and not self._pointer.is_symlink():
            shutil.rmtree(self._pointer, ignore_errors=True)
            violations = ["replaced .git by a folder: put back"]
        elif _content(self._pointer) != _pointing(self.folder):
            violations = ["changed .git: put back"]
        self._point_to(self.repo.git_dir)
        return violations + [
            f"wrote {what}: only in a copy, which is gone" for what in self._written()
        ]

    def remove(self) -> None:
        """Removes the private one."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _branches(self) -> list[str]:
        """The user's own branches that are files; those of experiments can be many."""
        common = self.repo.common_dir
        heads, found = common / "refs" / "heads", []
        for folder, folders, names in os.walk(heads):
            if Path(folder) == heads and "autopilot" in folders:
                folders.remove("autopilot")
            found += [Path(folder, name).relative_to(common).as_posix() for name in names]
        return found

    def _written(self) -> list[str]:
        now = {}
        for folder, _, names in os.walk(self.folder):
            for path in (Path(folder, name) for name in names):
                name = path.relative_to(self.folder).as_posix()
                if name.startswith(("refs/", "hooks/", "info/")) or name in self._begun:
                    now[name] = _content(path)
        changed = [n for n in sorted({*now, *self._begun}) if now.get(n) != self._begun.get(n)]
        written = [f"{printable(name)} of the git folder" for name in changed]
        return [*written, *["the index of the git folder"] * self._is_staged()]

    def _is_staged(self) -> bool:
        """Whether the index says something else; git also writes it to remember times."""
        index = self.folder / "index"
        if _content(index) == self._index:
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

    def _point_to(self, folder: Path) -> None:
        # ".git" is no name that replace_file takes; one of its own, moved into place, is.
        made = ".autopilot-git"
        self.repo.workdir.mkdir(parents=True, exist_ok=True)
        replace_file(self.repo.workdir, made, FileState(REGULAR, _pointing(folder)))
        os.replace(self.repo.workdir / made, self._pointer)


class GitFolder:
    """The parts of a repository that are in no commit: hooks, configuration, ignore rules, refs.

    The user may work in the own checkout meanwhile: commit, switch branches, fetch, push. So only
    that is put back which these commands do not write, or which tells who wrote it.

    Args:
        repo: The worktree of the run; the same for an in-place run.
    """

    def __init__(self, user: Repository, repo: Repository, slug: str) -> None:
        self.user, self.repo = user, repo
        self.top = user.common_dir
        self._layout = Layout(slug)
        self._aside = f"autopilot/undone/{slug}"
        self._files: dict[str, FileState] = {}
        self._refs: dict[str, str] = {}
        self._log: bytes | None = None
        self._line = ""

    def look(self, line: str = "") -> None:
        """Remembers how everything is now.

        Args:
            line: The ref of the candidate that is made, where others are made at the same time.
        """
        self._line = line
        self._files, self._refs = self._present(), list_refs(self.user, "refs/")
        self._log = self._reflog("HEAD")

    def changed(self) -> list[str]:
        """The differences that were not made by the user's own git commands, in words."""
        return [what for what, *_ in (*self._differences(self._present()), *self._moved_refs())]

    def put_back(self) -> list[str]:
        """Makes everything as it was that is not the user's doing; returns what was changed."""
        violations, now = [], self._present()
        for what, name, was in self._differences(now):
            kept = ""
            if name in now:
                # It could be the user's after all: nothing is lost.
                replace_file(self.top, f"{self._aside}/{name}", now[name])
                kept = f" (it is in {self.top.name}/{self._aside})"
            try:
                if was is None:
                    remove_file(self.top, name)
                else:
                    replace_file(self.top, name, was)
            except ParameterError:
                violations.append(f"{what}: it cannot be put back")
            else:
                violations.append(f"{what}: {'put back' if was else 'removed'}{kept}")
        for what, name, oid in self._moved_refs():
            undone = "put back" if oid else "removed"
            done = undone if self._set_ref(name, oid) else "it cannot be put back"
            violations.append(f"{what}: {done}")
        return violations

    # --- files ---------------------------------------------------------------------------------

    def _present(self) -> dict[str, FileState]:
        names, folders = list(_FILES), [self.top / folder for folder in _FOLDERS]
        if self.repo.git_dir != self.top:
            folders.append(self.repo.git_dir)
        for folder in folders:
            if folder.is_symlink():
                names.append(folder.relative_to(self.top).as_posix())
            for here, _, files in os.walk(folder):
                below = Path(here).relative_to(self.top).as_posix()
                names += [f"{below}/{name}" for name in files if not name.endswith(".lock")]
        found: dict[str, FileState] = {}
        for name in names:
            # git's maintenance writes info/refs by itself.
            if name != "info/refs":
                with contextlib.suppress(OSError):
                    found[name] = read_file(self.top / name)
        return found

    def _differences(self, now: Mapping[str, FileState]) -> list[tuple[str, str, FileState | None]]:
        found = []
        for name in sorted({*now, *self._files}):
            was, is_now = self._files.get(name), now.get(name)
            if was == is_now or (was and is_now and self._is_everyday(name, was, is_now)):
                continue
            what = f"{_did(was, is_now, 'changed')} {printable(name)} of the git folder"
            found.append((what, name, was))
        return found

    def _is_everyday(self, name: str, was: FileState, now: FileState) -> bool:
        """Whether the user's switching and branching writes such a difference."""
        if name == "HEAD":
            return self._log != self._reflog("HEAD")
        if name != "config" or was.mode != now.mode:
            return False
        before, after = self._settings(was.content), self._settings(now.content)
        return all(setting.startswith(b"branch.") for setting in before ^ after)

    def _settings(self, content: bytes) -> set[bytes]:
        command = ["config", "--file", "-", "--list", "-z"]
        done = run_git(command, cwd=self.user.workdir, stdin=content, check=False)
        return set(done.stdout.split(b"\0")) if done.returncode == 0 else {content}

    # --- refs ----------------------------------------------------------------------------------

    def _moved_refs(self) -> list[tuple[str, str, str | None]]:
        found, now = [], list_refs(self.user, "refs/")
        own = self._layout.namespaces()
        for name in sorted({*now, *self._refs}):
            was, is_now = self._refs.get(name), now.get(name)
            if was == is_now:
                continue
            is_own = any(name == space or name.startswith(f"{space}/") for space in own)
            if is_own:
                is_agents = not self._is_of_others(name, was, is_now)
            else:
                is_agents = self._is_agents(name, was, is_now)
            if is_agents:
                found.append((f"{_did(was, is_now, 'moved')} {printable(name)}", name, was))
        return found

    def _is_of_others(self, name: str, was: str | None, now: str | None) -> bool:
        """Whether the process of another candidate went on with its line, or with the notes."""
        if not self._line or name == self._line or now is None:
            return False
        if not name.startswith((f"{self._layout.candidates}/", self._layout.notes(""))):
            return False
        if was is not None and not is_ancestor(self.user, was, now):
            return False
        new = ["log", "--format=%cn", now, *([f"^{was}"] if was else [])]
        return AGENT not in run_git(new, cwd=self.user.workdir).stdout.decode().splitlines()

    def _is_agents(self, name: str, was: str | None, now: str | None) -> bool:
        """Whether the agent's git moved a ref, or a program that leaves no line in its log."""
        if not name.startswith("refs/heads/") or name.startswith(_OTHER_RUNS):
            return False
        line = self._last_line(name)
        if f" {AGENT} <".encode() in line:
            return True
        moved = line.split(b" ")[1:2] == [(now or _ZERO).encode()]
        return was is not None and bool(line) and not moved

    def _last_line(self, name: str) -> bytes:
        return (self._reflog(name) or b"").rstrip(b"\n").rpartition(b"\n")[2]

    def _reflog(self, name: str) -> bytes | None:
        return _content(self.top / "logs" / name)

    def _set_ref(self, name: str, oid: str | None) -> bool:
        written = _content(self.top / name)
        # What no git command wrote may be no id at all, and must not get into the log.
        if written is not None and written.strip() not in self._last_line(name).split(b" ")[:2]:
            with contextlib.suppress(OSError):
                (self.top / name).unlink()
        command = ["update-ref", name, oid] if oid else ["update-ref", "-d", name]
        return run_git(command, cwd=self.user.workdir, check=False).returncode == 0


def _did(was: object, now: object, otherwise: str) -> str:
    return "made" if was is None else "removed" if now is None else otherwise


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _pointing(folder: Path) -> bytes:
    return b"gitdir: " + os.fsencode(folder) + b"\n"
