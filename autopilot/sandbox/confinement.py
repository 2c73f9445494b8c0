"""Confinement: what an agent changes beside the parameters is put back, or it is named.

In a worktree of the run's own everything is put back. In the user's own checkout nothing is, since
nobody can tell the user's edits from the agent's: there it is written down, and the ids of the
evaluator's and data files see to it that no score of a changed one is compared.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from autopilot.core.stepping import Guard
from autopilot.git import objects
from autopilot.git.stamps import Stamp, stamps_of
from autopilot.sandbox.changes import Change, printable, sentences
from autopilot.sandbox.git_folder import AGENT, GitFolder
from autopilot.sandbox.inputs import Inputs
from autopilot.sandbox.links import Links
from autopilot.sandbox.private_git import PrivateGit
from autopilot.sandbox.processes import adopt, end_adopted, end_marked, mark
from autopilot.sandbox.surroundings import Surroundings, stays_inside
from autopilot.sandbox.workspace import AGENTS_GIT, Workspace
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.scope import Scope


class _EngineGuard(Guard):
    """What both kinds share: the inputs, and what an agent's processes inherit.

    Args:
        workspace: Where the run works.
        slug: The experiment.
        scopes: The parameters.
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
        self.repo, self.scopes, self._inputs = workspace.repo, scopes, inputs
        self._store = store
        self._git = GitFolder(workspace.user, workspace.repo, slug)
        self._is_confined = False
        self._environment: dict[str, str | None] = {}
        self._since = 0.0
        self._prepare(workspace, slug)

    def _prepare(self, workspace: Workspace, slug: str) -> None:
        """What one kind needs and the other does not."""

    @property
    def listens(self) -> bool:
        """Whether what is read now belongs to an evaluation."""
        return self._inputs.listens

    @listens.setter
    def listens(self, listens: bool) -> None:
        self._inputs.listens = listens

    def inputs(self, known: Iterable[str] = ()) -> Mapping[str, str]:
        return self._inputs.blobs(known)

    def _mark(self) -> None:
        """What the agent starts can be told: its processes, and its lines in reflogs."""
        marks = {
            **mark(self.repo.workdir),
            "GIT_COMMITTER_NAME": AGENT,
            "GIT_COMMITTER_EMAIL": "agent@autopilot.invalid",
        }
        self._environment = {name: os.environ.get(name) for name in marks}
        os.environ.update(marks)
        self._store.hold_progress()
        self._since = adopt(is_on=True)

    def _unmark(self) -> list[str]:
        """Nobody of the agent's is there any more; returns what it did to the run's own notes."""
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        end_marked(self.repo.workdir)
        end_adopted(self._since)
        adopt(is_on=False)
        changed = self._store.release_progress()
        return ["changed the run's own notes of this epoch: put back"] if changed else []


class Confinement(_EngineGuard):
    """For a worktree of the run's own."""

    def _prepare(self, workspace: Workspace, slug: str) -> None:
        tree = objects.tree_of(workspace.repo, workspace.repo.head_commit())
        copies = workspace.private / "copies"
        self._private, self._folder = workspace.private, workspace.folder
        self._private_git = PrivateGit(workspace.repo, workspace.private / AGENTS_GIT)
        self._surroundings = Surroundings(workspace.repo, self.scopes, tree, copies)
        self._links = Links(workspace.links, slug)
        self._read: set[str] = set()

    def confine(self) -> None:
        if not self._is_confined:
            # Git's configuration may hold what is for nobody else.
            self._private.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._read = self._inputs.names()
            self._links.look()
            self._surroundings.look()
            self._git.look()
            self._private_git.enter()
            self._is_confined = True
            self._mark()

    def put_back(self) -> list[str]:
        if not self._is_confined:
            return []
        self._is_confined = False
        of_git = self._unmark() + self._private_git.leave() + self._git.put_back()
        told = self._surroundings.put_back(lambda n: n in self._read or self._links.covers(n))
        try:
            Path.cwd()
        except FileNotFoundError:
            # The folder was removed; the one that was put back is another.
            os.chdir(self._folder)
        # Only now may a resumed run trust the worktree again.
        self._private_git.remove()
        self._links.check()
        return told + of_git


class Watch(_EngineGuard):
    """For the user's own checkout: everything is left as it is."""

    def _prepare(self, workspace: Workspace, slug: str) -> None:
        self._before: dict[str, tuple[str, Stamp | None]] = {}

    def confine(self) -> None:
        if not self._is_confined:
            self._before = self._present()
            self._git.look()
            self._is_confined = True
            self._mark()

    def put_back(self) -> list[str]:
        if not self._is_confined:
            return []
        self._is_confined = False
        of_notes = self._unmark()
        left = "left, since it may be yours"
        told = of_notes + [f"{what}: {left}" for what in self._git.changed()]
        before, now = self._before, self._present()
        changes = []
        for name in sorted({*before, *now}):
            was, is_now = before.get(name), now.get(name)
            if was == is_now:
                continue
            scope = next((scope for scope in self.scopes if scope.covers(name)), None)
            if scope is not None:
                if is_now is not None and self._leads_out(scope, name, is_now[1]):
                    target = printable(os.readlink(self.repo.workdir / name))
                    changes.append(
                        Change(name, "made", detail=f", a link to {target}", undone=left)
                    )
                continue
            if is_now is None:
                gone = was is not None and was[0] == "untracked"
                changes.append(Change(name, "removed" if gone else "changed", undone=left))
            elif is_now[0] == "deleted":
                changes.append(Change(name, "removed", undone=left))
            else:
                new = was is None and is_now[0] == "untracked"
                changes.append(Change(name, "made" if new else "changed", undone=left))
        return told + list(sentences(changes, lambda _name: True))

    def _leads_out(self, scope: Scope, name: str, stamp: Stamp | None) -> bool:
        is_link = stamp is not None and stat.S_ISLNK(stamp[4])
        return is_link and not stays_inside(self.repo.workdir, scope, name)

    def _present(self) -> dict[str, tuple[str, Stamp | None]]:
        """What differs from HEAD, how, and its stamp."""
        states = {n: s for n, s in self.repo.status(["."]).items() if s != "ignored"}
        stamps = dict(stamps_of(self.repo.workdir, states))
        return {name: (state, stamps.get(name)) for name, state in states.items()}


def guard_of(
    workspace: Workspace, slug: str, scopes: Sequence[Scope], inputs: Inputs, store: GitStore
) -> Guard:
    """What keeps the agents of a run to its parameters."""
    kind = Watch if workspace.in_place else Confinement
    return kind(workspace, slug, scopes, inputs, store)
