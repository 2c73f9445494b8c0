"""The user's git folder during a step: what an agent writes there by its full path is put back.

The user may work in the own checkout meanwhile: commit, switch branches, fetch, push. So only that
is put back which these commands do not write, or which tells who wrote it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from autopilot.errors import ParameterError
from autopilot.files import FileState, read_file, remove_file, replace_file
from autopilot.git.commands import run_git
from autopilot.git.refs import list_refs
from autopilot.git.repository import Repository
from autopilot.sandbox.changes import printable
from autopilot.tracking.layout import Layout

AGENT = "autopilot agent"
"""The committer's name for what an agent's git commands write: reflogs tell it from the user's."""

_FILES = ("HEAD", "config", "config.worktree", "objects/info/alternates")
_FOLDERS = ("hooks", "info")
_OTHER_RUNS = ("refs/heads/autopilot/", "refs/heads/autopilot-review/")
_ZERO = "0" * 40


class GitFolder:
    """What belongs to a repository and to no commit: hooks, configuration, ignore rules, refs.

    Args:
        user: The user's repository.
        repo: The worktree of the run; the same for an in-place run.
        slug: The experiment.
    """

    def __init__(self, user: Repository, repo: Repository, slug: str) -> None:
        self.user, self.repo = user, repo
        self.top = user.common_dir
        self._layout = Layout(slug)
        self._aside = f"autopilot/undone/{slug}"
        self._files: dict[str, FileState] = {}
        self._refs: dict[str, str] = {}
        self._log = b""

    def look(self) -> None:
        """Remembers how everything is now."""
        self._files, self._refs = self._present(), list_refs(self.user, "refs/")
        self._log = self._reflog("HEAD")

    def changed(self) -> list[str]:
        """What differs now and was not written by the user's own git commands."""
        return [what for what, _, _ in self._differences(self._present())] + [
            what for what, _, _ in self._moved()
        ]

    def put_back(self) -> list[str]:
        """Makes everything as it was that is not the user's doing.

        Returns:
            What was changed, a sentence each.
        """
        told, now = [], self._present()
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
                told.append(f"{what}: it cannot be put back")
            else:
                told.append(f"{what}: {'removed' if was is None else 'put back'}{kept}")
        return told + self._put_refs_back()

    # --- files ---------------------------------------------------------------------------------

    def _present(self) -> dict[str, FileState]:
        found: dict[str, FileState] = {}
        own = self.repo.git_dir if self.repo.git_dir != self.top else None
        for name in self._names(own):
            with contextlib.suppress(OSError):
                found[name] = read_file(self.top / name)
        return found

    def _names(self, own: Path | None) -> list[str]:
        names = list(_FILES)
        folders = [self.top / folder for folder in _FOLDERS]
        for folder in [*folders, *([own] if own is not None else [])]:
            if folder.is_symlink():
                names.append(folder.relative_to(self.top).as_posix())
            for here, _, files in os.walk(folder):
                below = Path(here).relative_to(self.top).as_posix()
                names += [f"{below}/{name}" for name in files if not name.endswith(".lock")]
        # Maintenance writes this one.
        return [name for name in names if name != "info/refs"]

    def _differences(self, now: Mapping[str, FileState]) -> list[tuple[str, str, FileState | None]]:
        found = []
        for name in sorted({*now, *self._files}):
            was, is_now = self._files.get(name), now.get(name)
            if was == is_now or (was and is_now and self._is_everyday(name, was, is_now)):
                continue
            did = "made" if was is None else "removed" if is_now is None else "changed"
            found.append((f"{did} {printable(name)} of the git folder", name, was))
        return found

    def _is_everyday(self, name: str, was: FileState, now: FileState) -> bool:
        """Whether it is what the user's switching and branching writes."""
        if name == "HEAD":
            return self._log != self._reflog("HEAD")
        if name != "config" or was.mode != now.mode:
            return False
        before, after = self._settings(was.content), self._settings(now.content)
        return all(setting.startswith(b"branch.") for setting in before ^ after)

    def _settings(self, content: bytes) -> set[bytes]:
        done = run_git(
            ["config", "--file", "-", "--list", "-z"],
            cwd=self.user.workdir,
            stdin=content,
            check=False,
        )
        return set(done.stdout.split(b"\0")) if done.returncode == 0 else {content}

    # --- refs ----------------------------------------------------------------------------------

    def _put_refs_back(self) -> list[str]:
        told = []
        for what, name, was in self._moved():
            undone = "removed" if was is None else "put back"
            told.append(f"{what}: {undone if self._set(name, was) else 'it cannot be put back'}")
        return told

    def _moved(self) -> list[tuple[str, str, str | None]]:
        found, now = [], list_refs(self.user, "refs/")
        for name in sorted({*now, *self._refs}):
            was, is_now = self._refs.get(name), now.get(name)
            if was != is_now and (self._is_own(name) or self._is_agents(name, was, is_now)):
                did = "made" if was is None else "removed" if is_now is None else "moved"
                found.append((f"{did} {printable(name)}", name, was))
        return found

    def _is_own(self, name: str) -> bool:
        spaces = self._layout.namespaces()
        return any(name == space or name.startswith(f"{space}/") for space in spaces)

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
        return self._reflog(name).rstrip(b"\n").rpartition(b"\n")[2]

    def _reflog(self, name: str) -> bytes:
        try:
            return (self.top / "logs" / name).read_bytes()
        except OSError:
            return b""

    def _set(self, name: str, oid: str | None) -> bool:
        with contextlib.suppress(OSError):
            # What no git command wrote may be no id at all, and must not get into the log.
            if (self.top / name).read_bytes().strip() not in self._last_line(name).split(b" ")[:2]:
                (self.top / name).unlink()
        command = ["update-ref", name, oid] if oid else ["update-ref", "-d", name]
        return run_git(command, cwd=self.user.workdir, check=False).returncode == 0
