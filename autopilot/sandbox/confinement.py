"""Confinement: what an agent changes beside the parameters is put back, or it is named.

In a worktree of the run's own everything is put back. In the user's own checkout nothing is, since
the user's edits look like the agent's: changes are recorded, and the ids of the evaluator's and
data files make sure that scores are not compared with those of other files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from autopilot.core.stepping import Guard
from autopilot.errors import ConfinementError
from autopilot.files import TEMPORARY
from autopilot.git.workfiles import Stamp, everything_below, stamps_of
from autopilot.git.worktrees import changed_files
from autopilot.sandbox.audit_hooks import Inputs
from autopilot.sandbox.git_folders import AGENT, GitFolder, PrivateGit
from autopilot.sandbox.processes import adopt, end_adopted, end_marked, mark
from autopilot.sandbox.surroundings import Surroundings, Violation, sentences, stays_inside
from autopilot.sandbox.workspace import AGENTS_GIT, Link, Workspace
from autopilot.text import printable
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.parameters import Scope

COPIED_BYTES = 32 * 2**20
COPIED_FILES = 2000
_HASHED = 2**20
_LEFT = "left, since it may be yours"


class InputsGuard(Guard):
    """Knows what evaluations read."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs, self._is_confined = inputs, False

    @property
    def listens(self) -> bool:
        """Whether what is read now belongs to an evaluation."""
        return self._inputs.listens

    @listens.setter
    def listens(self, listens: bool) -> None:
        self._inputs.listens = listens

    def inputs(self, known: Iterable[str] = ()) -> Mapping[str, str]:
        return self._inputs.blobs(known)

    def use(self, word: str) -> None:
        self._inputs.uses.add(word)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        before = set(self._inputs.uses)
        try:
            yield
        finally:
            self._inputs.uses &= before


class AgentGuard(InputsGuard):
    """Common to both kinds: the inputs, and what an agent's processes inherit.

    Args:
        inputs: What evaluations read.
        store: Whose notes of the epoch that is going on an agent must leave alone.
    """

    def __init__(
        self,
        workspace: Workspace,
        slug: str,
        scopes: Sequence[Scope],
        inputs: Inputs,
        store: GitStore,
    ) -> None:
        super().__init__(inputs)
        self.repo, self.scopes, self._store = workspace.repo, scopes, store
        self._git = GitFolder(workspace.user, workspace.repo, slug)
        self._environment: dict[str, str | None] = {}
        self._since = 0.0
        self._prepare(workspace, slug)

    def _prepare(self, workspace: Workspace, slug: str) -> None:
        """Makes the parts that one kind has and the other has not, when the run begins."""

    def environment(self) -> Mapping[str, str]:
        return self._inputs.environment.now()

    def confine(self) -> None:
        if self._is_confined:
            return
        self._look()
        self._is_confined = True
        # The agent's processes, and its lines in reflogs, are known by what they inherit.
        marks = mark(self.repo.workdir) | {
            "GIT_COMMITTER_NAME": AGENT,
            "GIT_COMMITTER_EMAIL": "agent@autopilot.invalid",
        }
        self._environment = {name: os.environ.get(name) for name in marks}
        os.environ.update(marks)
        self._store.progress_file.hold()
        self._since = adopt(is_on=True)

    def put_back(self) -> list[str]:
        if not self._is_confined:
            return []
        self._is_confined = False
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        # Before anything is compared: a process of the agent's would write on meanwhile.
        end_marked(self.repo.workdir)
        end_adopted(self._since)
        adopt(is_on=False)
        changed = self._store.progress_file.release()
        notes = ["changed the run's own notes of this epoch: put back"] if changed else []
        return self._undo(notes)

    def _look(self) -> None:
        """Remembers how everything is before the step."""
        raise NotImplementedError

    def _undo(self, notes: list[str]) -> list[str]:
        """Puts back what belongs to the run; returns all violations, those of its notes too."""
        raise NotImplementedError


class WorktreeGuard(AgentGuard):
    """For a worktree of the run's own: everything is put back."""

    def _prepare(self, workspace: Workspace, slug: str) -> None:
        head, copies = workspace.repo.head_commit(), workspace.private / "copies"
        self._private, self._folder = workspace.private, workspace.folder
        self._private_git = PrivateGit(workspace.repo, workspace.private / AGENTS_GIT)
        self._surroundings = Surroundings(workspace.repo, self.scopes, head, copies)
        self._links = LinkedFiles(workspace.links, slug)
        self._read: set[str] = set()

    def _look(self) -> None:
        # The copy of git's configuration may hold passwords.
        self._private.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._read = self._inputs.names()
        # Links become copies here, and the copies are part of the surroundings.
        self._links.look()
        self._surroundings.look()
        self._git.look(self._store.layout.branch if self._store.is_guest else "")
        self._private_git.enter()

    def _undo(self, notes: list[str]) -> list[str]:
        # The worktree's own git folder is needed to put its files back.
        of_git = notes + self._private_git.leave() + self._git.put_back()
        of_files = self._surroundings.put_back(lambda n: n in self._read or self._links.covers(n))
        try:
            Path.cwd()
        except FileNotFoundError:
            # The folder was removed; the one that was put back is another.
            os.chdir(self._folder)
        # Only now may a resumed run trust the worktree again.
        self._private_git.remove()
        self._links.check()
        return of_files + of_git


class InPlaceGuard(AgentGuard):
    """For the user's own checkout: everything is left as it is."""

    _before: Mapping[str, tuple[str, Stamp | None]] = {}

    def _look(self) -> None:
        self._before = self._present()
        self._git.look()

    def _undo(self, notes: list[str]) -> list[str]:
        violations = notes + [f"{what}: {_LEFT}" for what in self._git.changed()]
        before, now = self._before, self._present()
        changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        found = [self._violation(name, before.get(name), now.get(name)) for name in changed]
        return violations + sentences(filter(None, found), lambda _name: True)

    def _violation(
        self, name: str, was: tuple[str, Stamp | None] | None, now: tuple[str, Stamp | None] | None
    ) -> Violation | None:
        """The violation at a path that differs; None if the change was allowed."""
        state, stamp = now or (None, None)
        scope = next((scope for scope in self.scopes if scope.covers(name)), None)
        if scope is not None:
            is_link = stamp is not None and stat.S_ISLNK(stamp[4])
            if not is_link or stays_inside(self.repo.workdir, scope, name):
                return None
            target = printable(os.readlink(self.repo.workdir / name))
            return Violation(name, "made", detail=f", a link to {target}", undone=_LEFT)
        gone = state == "deleted" or (now is None and was is not None and was[0] == "untracked")
        is_new = was is None and state == "untracked"
        return Violation(name, "removed" if gone else "made" if is_new else "changed", undone=_LEFT)

    def _present(self) -> dict[str, tuple[str, Stamp | None]]:
        """The files that differ from HEAD: how, and their stamps."""
        states = {n: s for n, s in changed_files(self.repo, ["."]).items() if s != "ignored"}
        stamps = dict(stamps_of(self.repo.workdir, states))
        return {name: (state, stamps.get(name)) for name, state in states.items()}


def guard_of(
    workspace: Workspace, slug: str, scopes: Sequence[Scope], inputs: Inputs, store: GitStore
) -> Guard:
    """The guard that keeps the agents of a run to its parameters."""
    kind = InPlaceGuard if workspace.in_place else WorktreeGuard
    return kind(workspace, slug, scopes, inputs, store)


class LinkedFiles:
    """Paths that `--link` brought in. When an agent is let in, the small ones become copies.

    The user's own files are watched during its steps, whether there is a copy or not.
    """

    def __init__(self, links: Sequence[Link], slug: str) -> None:
        self.links = links
        self._slug = slug
        self._stamps: dict[str, Stamp] = {}
        self._digests: dict[str, tuple[Stamp, str]] = {}
        self._is_copied = False

    def covers(self, name: str) -> bool:
        """Whether a path from the top is one of them, or below one."""
        return any(name == link.name or name.startswith(f"{link.name}/") for link in self.links)

    def look(self) -> None:
        """Copies what can be copied, and remembers how the rest is now."""
        if not self._is_copied:
            for link in self.links:
                _copy(link)
            self._is_copied = True
        self._stamps = self._present()
        for name, stamp in self._stamps.items():
            known = self._digests.get(name)
            if stamp[1] <= _HASHED and (known is None or known[0] != stamp):
                self._digests[name] = (stamp, _digest(name))

    def check(self) -> None:
        """Stops a run in which a step changed the user's own files."""
        now = self._present()
        for name in sorted({*now, *self._stamps}):
            was, is_now = self._stamps.get(name), now.get(name)
            known = self._digests.get(name)
            # The same content is no change; of large files only the stamps are known.
            if was == is_now or (was and is_now and known and known[1] == _digest(name)):
                continue
            did = "made" if was is None else "removed" if is_now is None else "changed"
            raise ConfinementError(
                f"{printable(name)} was {did} during an optimizer's step; it is your own, brought "
                "in by --link, so it is left as it is",
                hint=f"put it back as it was, then: autopilot resume {self._slug}",
            )

    def _present(self) -> dict[str, Stamp]:
        """Full name to stamp."""
        found: dict[str, Stamp] = {}
        for source in (Path(os.path.realpath(link.source)) for link in self.links):
            if source.is_dir():
                found |= {f"{source}/{n}": stamp for n, stamp in everything_below(source).items()}
            else:
                found |= {str(source): s for _, s in stamps_of(source.parent, [source.name])}
        return found


def _copy(link: Link) -> None:
    """Puts a copy in the place of a link, if it is small and holds no links of its own."""
    files = [link.source]
    if link.source.is_dir():
        walked = list(os.walk(link.source))
        files = [Path(here, name) for here, _, names in walked for name in names]
        folders = [Path(here, name) for here, names, _ in walked for name in names]
        if any(path.is_symlink() for path in (*files, *folders)):
            return
    sizes = [path.stat().st_size for path in files if path.is_file()]
    if len(sizes) != len(files) or len(files) > COPIED_FILES or sum(sizes) > COPIED_BYTES:
        return
    made = link.place.with_name(f"{TEMPORARY}{link.place.name}")
    shutil.rmtree(made, ignore_errors=True)
    try:
        if link.source.is_dir():
            # A submodule's file of that name leads to its repository by a relative path.
            is_linked = (link.source / ".git").is_file()
            ignore = shutil.ignore_patterns(".git") if is_linked else None
            shutil.copytree(link.source, made, ignore=ignore)
        else:
            shutil.copy2(link.source, made)
        link.place.unlink()
        made.rename(link.place)
    except OSError:  # unreadable, or no room: it stays a link
        shutil.rmtree(made, ignore_errors=True)
        if not os.path.lexists(link.place):
            link.place.symlink_to(link.source)


def _digest(name: str) -> str:
    path = Path(name)
    try:
        if path.is_symlink():
            return os.readlink(path)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    except OSError:
        return ""
