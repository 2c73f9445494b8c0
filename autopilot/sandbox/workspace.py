"""Where a run works: a linked worktree of its own, so that the user's checkout stays as it is."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autopilot.core.records.record import Manifest
from autopilot.errors import (
    AutopilotError,
    EvaluationError,
    LockHeldError,
    RepositoryError,
    UsageError,
)
from autopilot.git import objects, refs, worktrees
from autopilot.git.commands import run_git, withdraw
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import Repository
from autopilot.sandbox import imports
from autopilot.sandbox.imports import Missing
from autopilot.sandbox.processes import end_marked
from autopilot.tracking.layout import PLACE_LOCK, Layout, held
from autopilot.tracking.outputs import (
    WrittenPath,
    find_outputs,
    keep_outputs,
    tell,
    unknown_outputs,
)

WORKTREE = "AUTOPILOT_WORKTREE"
"""The variable that names the worktree of the run that a program works for."""
AGENTS_GIT = "git"
_HINTS_AT_MOST = 3


@dataclass(frozen=True, slots=True)
class Link:
    """A path of the user's checkout that the worktree has, too.

    Args:
        place: In the worktree: a symbolic link to it, or a copy.
    """

    name: str
    source: Path
    place: Path


@dataclass(frozen=True, slots=True)
class Workspace:
    """A checkout that a run works in.

    Args:
        repo: The checkout of the run; the same one for an in-place run.
        directory: The working directory below the top, "" for the top itself.
        is_new: Whether it was made just now; not what a kill left behind.
        outputs: What evaluations had written into a worktree that was made anew.
    """

    user: Repository
    repo: Repository
    directory: str
    is_new: bool = False
    links: tuple[Link, ...] = ()
    outputs: tuple[WrittenPath, ...] = ()

    @property
    def in_place(self) -> bool:
        """Whether it is the user's own checkout."""
        return self.repo.workdir == self.user.workdir

    @property
    def folder(self) -> Path:
        """The working directory."""
        return self.repo.workdir / self.directory

    def hold(self) -> ExclusiveLock:
        """A lock on this checkout, so that no other run works in it.

        Raises:
            LockHeldError: one does; it says which process.
        """
        lock = ExclusiveLock(self.repo.git_dir / PLACE_LOCK)
        try:
            lock.acquire()
        except LockHeldError as error:
            who = error.message.partition(" is held by ")[2]
            raise LockHeldError(
                f"another run works in {self.repo.workdir}: {who}",
                hint="wait for it, or run without --in-place: in a worktree of its own",
            ) from error
        return lock

    @property
    def private(self) -> Path:
        """The folder for confinement: copies of files, and a git folder of the agent's own."""
        return worktrees.private_path(self.repo.workdir)

    def enter(self) -> tuple[imports.Redirection, ...]:
        """Makes its folder the working directory, and its files the first to be imported.

        The processes that this one starts import them too, and have no variable of git's. Returns
        the import paths that led to the user's checkout.
        """
        # An import would write into the folders of parameters, and what it wrote can be out of
        # date: a source that is changed twice in a second keeps the times that are compared.
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        withdraw()
        self.folder.mkdir(parents=True, exist_ok=True)
        # In place too: what another process imported before this one was forked may be out of date.
        imports.forget(self.user.workdir, self.repo.workdir)
        redirected: tuple[imports.Redirection, ...] = ()
        if not self.in_place:
            redirected = imports.redirect(self.user.workdir, self.repo.workdir)
        os.chdir(self.folder)
        os.environ[WORKTREE] = "" if self.in_place else str(self.repo.workdir)
        # A shell names the user's folder by it; children of Python read it.
        os.environ["PWD"] = str(self.folder)
        os.environ.pop("OLDPWD", None)
        for path in (str(self.repo.workdir), str(self.folder)):
            if path in sys.path:
                sys.path.remove(path)
            sys.path.insert(0, path)
        return redirected

    def import_notes(self, redirected: Sequence[imports.Redirection]) -> list[str]:
        """Sentences on what is imported from the worktree, and what the worktree lacks for it."""
        lacking = Missing(self.user, self.repo, self.folder).compiled(redirected)
        return [each.note() for each in redirected if each.names] + lacking

    def check_imports(self) -> None:
        """Stops a run that would not see its own edits."""
        if not self.in_place:
            linked = [link.source for link in self.links]
            imports.check_imports(self.user.workdir, self.repo.workdir, self.folder, linked)

    @contextlib.contextmanager
    def explained(self, also: Callable[[], str] = str) -> Iterator[None]:
        """Rewrites errors of the body so that they name the user's files, not the worktree's.

        Args:
            also: Further text on what is missing, where all items failed.
        """
        try:
            yield
        except AutopilotError as error:
            if not self.repo.workdir.exists():
                error.message = f"the worktree {self.repo.workdir} was removed meanwhile"
                error.hint = "run the command again, or resume the run: the worktree is made anew"
            elif not self.in_place:
                said = f"{error.message}\n{error.user_traceback}\n"
                said += also() if isinstance(error, EvaluationError) else ""
                error.hint = self.as_users(next(iter(self.lacks(said)), error.hint))
                error.message = self.as_users(error.message)
                error.user_traceback = self.as_users(error.user_traceback)
            raise

    def as_users(self, text: str) -> str:
        """A text whose paths in the worktree are those in the user's checkout."""
        return text.replace(str(self.repo.workdir), str(self.user.workdir))

    def lacks(self, text: str) -> list[str]:
        """How to bring along what a text says is missing, and only the user's checkout has."""
        if not self.in_place and text:
            with contextlib.suppress(AutopilotError):  # a worktree that is gone lacks nothing
                hints = Missing(self.user, self.repo, self.folder).hints(text)
                return list(dict.fromkeys(hints))[:_HINTS_AT_MOST]
        return []

    def remove(self) -> None:
        """Removes the worktree; the user's own checkout is left alone."""
        if not self.in_place:
            os.chdir(self.user.workdir)
            worktrees.remove_worktree(self.user, self.repo.workdir)


def directory_of(user: Repository, folder: Path) -> str:
    """A folder of the checkout as a path from its top; "" for the top itself."""
    directory = folder.resolve().relative_to(user.workdir.resolve()).as_posix()
    return "" if directory == "." else directory


def open_workspace(
    user: Repository,
    folder: Path,
    manifest: Manifest,
    keep: Sequence[str] = (),
    *,
    is_replacement: bool = False,
    name: str = "",
) -> Workspace:
    """The checkout for an experiment; one that a kill left behind is used again.

    Args:
        keep: Outputs that are kept where that worktree is not whole.
        is_replacement: It goes on for a process that ended by itself, after all that it started:
            the worktree is as that process would have used it further.
        name: Names the worktree, unless it is the experiment's.

    Raises:
        GitCommandError: the worktree cannot be made.
        UsageError: a link that does not exist, or is tracked.
    """
    slug, base, in_place, links = manifest.slug, manifest.base, manifest.in_place, manifest.links
    directory = directory_of(user, folder)
    path = user.workdir if in_place else worktrees.worktree_path(user, name or slug)
    if not is_replacement:
        end_marked(path)
    if in_place:
        if links:
            raise UsageError("--link goes with a worktree", hint="leave out --link or --in-place")
        return Workspace(user, user, directory)
    left, outputs = _left_behind(user, path, manifest, keep, is_replacement=is_replacement)
    repo = left or worktrees.add_worktree(user, path, base)
    workspace = Workspace(user, repo, directory, repo is not left, outputs=tuple(outputs))
    try:
        made = tuple(link_into(workspace, folder, base, link) for link in links)
        return replace(workspace, links=made)
    except BaseException:
        if workspace.is_new:
            workspace.remove()
        raise


@contextlib.contextmanager
def undone_on_failure(user: Repository, manifest: Manifest) -> Iterator[None]:
    """Takes a worktree that was made in the body away again if the body fails or is interrupted.

    It goes by the worktree's path: an interrupt may come before anybody holds what was made. The
    error gets a note on what was written in it.
    """
    path = worktrees.worktree_path(user, manifest.slug)
    was_there = manifest.in_place or path.exists()
    try:
        yield
    except BaseException as error:
        if not was_there:
            os.chdir(user.workdir)
            if path.exists():
                with contextlib.suppress(AutopilotError):
                    tell(error, find_outputs(path, user, manifest))
            worktrees.remove_worktree(user, path)
        raise


def abandon(user: Repository, slug: str) -> list[WrittenPath]:
    """Removes the worktree of an experiment that did not begin; returns what was written in it."""
    path, written = worktrees.worktree_path(user, slug), list[WrittenPath]()
    with contextlib.suppress(AutopilotError), held(user, slug):
        if refs.read_ref(user, Layout(slug).branch) is None and path.exists():
            written = unknown_outputs(user, path)
            worktrees.remove_worktree(user, path)
    return written


def _left_behind(
    user: Repository, path: Path, manifest: Manifest, keep: Sequence[str], *, is_replacement: bool
) -> tuple[Repository | None, list[WrittenPath]]:
    """The worktree that a kill left; one that is not whole is removed: the outputs in it."""
    # What an agent did until a kill in its step is not known.
    is_known = not (worktrees.private_path(path) / AGENTS_GIT).exists()
    shutil.rmtree(worktrees.private_path(path), ignore_errors=True)
    if not path.exists():
        return None, []
    with contextlib.suppress(RepositoryError):
        repo = Repository.discover(path)
        # git keeps the lock until all files are checked out.
        whole = repo.workdir.samefile(path) and not (repo.git_dir / "locked").exists()
        same = repo.common_dir == user.common_dir and repo.head_commit() == manifest.base
        if is_known and whole and same:
            # Changes by an evaluation or by another program are no part of the experiment.
            if not is_replacement:
                worktrees.show_hidden(repo)
                run_git([*worktrees.NO_HOOKS, "reset", "--hard", "--quiet"], cwd=path)
            return repo, []
    return None, _take_away(user, path, manifest, keep)


def _take_away(
    user: Repository, path: Path, manifest: Manifest, keep: Sequence[str]
) -> list[WrittenPath]:
    outputs = keep_outputs(path, user, manifest, keep)
    worktrees.remove_worktree(user, path)
    shutil.rmtree(path, ignore_errors=True)
    return outputs


def remove_leftover(
    user: Repository, manifest: Manifest, keep: Sequence[str] = ()
) -> list[WrittenPath]:
    """Removes a finished run's worktree that a kill left; returns what evaluations wrote into it.

    Raises:
        LockHeldError: the experiment is running.
    """
    path = worktrees.worktree_path(user, manifest.slug)
    if manifest.in_place:
        return []
    with held(user, manifest.slug):
        written = list[WrittenPath]()
        for place in (path, *Layout(manifest.slug).worktrees_beside(user)):
            end_marked(place)
            if place.exists():
                written += _take_away(user, place, manifest, keep)
            else:
                worktrees.remove_worktree(user, place)  # git may list it nevertheless
        return written


def link_into(workspace: Workspace, folder: Path, base: str, link: str) -> Link:
    """Links an ignored path, or a submodule, of the user's checkout into a worktree.

    Args:
        folder: The folder of the user's checkout that the path is relative to.

    Raises:
        UsageError: it does not exist, is outside the repository, or tracked.
    """
    source = folder / link
    if not source.exists():
        raise UsageError(
            f"--link {link}: no such file or folder",
            hint=f"looked in {folder}; a clone lacks what git ignores: copy it there",
        )
    source = Path(os.path.abspath(source))
    if not source.is_relative_to(workspace.user.workdir):
        raise UsageError(
            f"--link {link} is outside the repository", hint="the evaluation can use its full path"
        )
    name = source.relative_to(workspace.user.workdir).as_posix()
    made = Link(name, source, workspace.repo.workdir / name)
    place = made.place
    if place.is_symlink() and Path(os.readlink(place)) == source:
        return made
    entry = objects.entry_at(workspace.user, base, name)
    # git leaves the folder of a submodule empty in a new worktree.
    if entry is not None and entry.mode != objects.SUBMODULE:
        rest = _untracked_below(workspace.user, name) if entry.mode == objects.TREE else []
        links = " ".join(f"--link {shlex.quote(os.path.relpath(n, folder))}" for n in rest)
        raise UsageError(
            f"--link {link} is tracked by git{', but for a part' if rest else ''}",
            hint=f"link what git does not have: {links}"
            if rest
            else "the worktree has it already: leave it out",
        )
    # A copy that a session left may be out of date.
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(source)
    return made


def _untracked_below(user: Repository, name: str) -> list[Path]:
    """The full paths in a folder that git does not have; whole folders, where it has none of it."""
    listed = ["ls-files", "-z", "--others", "--directory", "--", f":(literal){name}"]
    out = os.fsdecode(run_git(listed, cwd=user.workdir).stdout)
    names = (each.rstrip("/") for each in out.split("\0"))
    kept = (each for each in names if each and not each.endswith("__pycache__"))
    return [user.workdir / each for each in itertools.islice(kept, 5)]
