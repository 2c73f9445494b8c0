"""Where a run works: a linked worktree of its own, so that the user's checkout stays as it is."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from autopilot.errors import AutopilotError, RepositoryError, TargetError, UsageError
from autopilot.git import objects
from autopilot.git.commands import run_git
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import Repository
from autopilot.git.worktrees import (
    NO_HOOKS,
    add_worktree,
    private_path,
    remove_worktree,
    worktree_path,
)
from autopilot.sandbox.processes import end_marked

AGENTS_GIT = "git"
_MISSING = re.compile(
    r"No such file or directory: '([^']+)'|cannot read (.+): No such file|^(.+) does not exist$"
)
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")


@dataclass(frozen=True, slots=True)
class Link:
    """A path of the user's checkout that the worktree has, too.

    Args:
        name: The path from the top, in both.
        source: The user's own.
        place: In the worktree: a symbolic link to it, or a copy.
    """

    name: str
    source: Path
    place: Path


@dataclass(frozen=True, slots=True)
class Workspace:
    """A checkout that a run works in.

    Args:
        user: The user's own checkout.
        repo: The checkout of the run; the same one for an in-place run.
        directory: The working directory below the top, "" for the top itself.
        is_new: Whether it was made just now; not what a kill left behind.
        links: What `--link` brought in.
    """

    user: Repository
    repo: Repository
    directory: str
    is_new: bool = False
    links: tuple[Link, ...] = ()

    @property
    def in_place(self) -> bool:
        """Whether it is the user's own checkout."""
        return self.repo.workdir == self.user.workdir

    @property
    def folder(self) -> Path:
        """The working directory."""
        return self.repo.workdir / self.directory

    @property
    def lock(self) -> ExclusiveLock:
        """Held by the only run that works in this checkout; no slug begins with a dot."""
        return ExclusiveLock(self.repo.git_dir / "autopilot" / ".place.lock")

    @property
    def private(self) -> Path:
        """The folder for confinement: copies of files, and a git folder of the agent's own."""
        return private_path(self.repo.workdir)

    def enter(self) -> None:
        """Makes its folder the working directory, and its files the first to be imported."""
        # An import would write into the folders of parameters, and what it wrote can be out of
        # date: a source that is changed twice in a second keeps the times that are compared.
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        self.folder.mkdir(parents=True, exist_ok=True)
        os.chdir(self.folder)
        # In place too: what another process imported before this one was forked may be out of date.
        _forget(self.user.workdir, self.repo.workdir)
        if not self.in_place:
            _redirect(self.user.workdir, self.repo.workdir)
        for path in (str(self.repo.workdir), str(self.folder)):
            if path in sys.path:
                sys.path.remove(path)
            sys.path.insert(0, path)

    def check_imports(self) -> None:
        """Stops a run that would not see its own edits.

        Raises:
            TargetError: a module that the repository has was imported from elsewhere; it names it.
        """
        if self.in_place:
            return
        user, here = os.path.realpath(self.user.workdir), os.path.realpath(self.repo.workdir)
        folders = (here, str(self.folder))
        # A client of a service brings thousands of modules: of most, the package is not ours.
        ours = cache(lambda top: any(_may_be_in(folder, top) for folder in folders))
        for name, file in _imported():
            if file.startswith(here + os.sep):
                continue
            if file.startswith(user + os.sep):
                below = os.path.relpath(file, user)
                elsewhere = os.path.exists(os.path.join(here, below))
            else:
                top = name.partition(".")[0]
                elsewhere = ours(top) and any(_is_in(folder, name) for folder in folders)
            if elsewhere:
                raise TargetError(
                    f"{name} is imported from {file}, not from the run's worktree",
                    hint="install the package in editable mode (pip install -e .), or uninstall "
                    "the copy, or run with --in-place",
                )

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Rewrites errors of the body so that they name the user's files, not the worktree's."""
        try:
            yield
        except AutopilotError as error:
            if not self.in_place:
                path, module = _MISSING.search(error.message), _NO_MODULE.search(error.message)
                if path and (link := self._not_linked(path[path.lastindex or 1])):
                    error.hint = f"git does not have {link}; bring it along: --link {link}"
                if module and (file := self._not_tracked(module[1].replace(".", "/"))):
                    error.hint = f"git does not have {file}: git add and commit it, then run again"
                error.hint = self.as_users(error.hint)
                error.message = self.as_users(error.message)
                error.user_traceback = self.as_users(error.user_traceback)
            raise

    def as_users(self, text: str) -> str:
        """A text whose paths in the worktree are those in the user's checkout."""
        return text.replace(str(self.repo.workdir), str(self.user.workdir))

    def _not_linked(self, name: str) -> str:
        """The part of a missing path that only the user's checkout has; "" if none.

        Of a path in a folder that is missing as a whole, it is the folder.
        """
        path = Path(os.path.abspath(self.folder / name))
        if not path.is_relative_to(self.repo.workdir):
            return ""
        below = path.relative_to(self.repo.workdir)
        for part in (*reversed(list(below.parents)[:-1]), below):
            theirs = self.user.workdir / part
            if theirs.exists() and not (self.repo.workdir / part).exists():
                return os.path.relpath(theirs, self.user.workdir / self.directory)
        return ""

    def _not_tracked(self, module: str) -> str:
        """The file or folder of a module that only the user's checkout has; "" if there is none."""
        # The target's own folder is the first of sys.path.
        for folder in dict.fromkeys((*map(Path, sys.path), self.folder)):
            for name in (f"{module}.py", module):
                if file := self._not_linked(str(folder / name)):
                    return file
        return ""

    def undo(self) -> None:
        """Removes a worktree that was made for nothing."""
        if self.is_new:
            self.remove()

    def remove(self) -> None:
        """Removes the worktree; the user's own checkout is left alone."""
        if not self.in_place:
            os.chdir(self.user.workdir)
            remove_worktree(self.user, self.repo.workdir)


def directory_of(user: Repository, folder: Path) -> str:
    """A folder of the checkout as a path from its top; "" for the top itself."""
    directory = folder.resolve().relative_to(user.workdir.resolve()).as_posix()
    return "" if directory == "." else directory


def open_workspace(
    user: Repository, folder: Path, slug: str, base: str, *, in_place: bool, links: Sequence[str]
) -> Workspace:
    """The checkout for an experiment; one that a kill left behind is used again.

    Args:
        user: The user's repository.
        folder: The folder that the command works in.
        slug: The experiment.
        base: The commit that it starts from.
        in_place: Use the user's own checkout.
        links: Ignored paths, relative to the folder, that the evaluation needs.

    Raises:
        GitCommandError: the worktree cannot be made.
        UsageError: a link that does not exist, or is tracked.
    """
    directory = directory_of(user, folder)
    path = user.workdir if in_place else worktree_path(user, slug)
    end_marked(path)
    if in_place:
        if links:
            raise UsageError("--link goes with a worktree", hint="leave out --link or --in-place")
        return Workspace(user, user, directory)
    left = _left_behind(user, path, base)
    workspace = Workspace(user, left or add_worktree(user, path, base), directory, left is None)
    try:
        made = tuple(link_into(workspace, folder, base, link) for link in links)
        return replace(workspace, links=made)
    except BaseException:
        workspace.undo()
        raise


@contextlib.contextmanager
def undone_on_failure(user: Repository, slug: str, *, in_place: bool) -> Iterator[None]:
    """Takes a worktree that was made in the body away again if the body fails or is interrupted.

    It goes by the worktree's path: an interrupt may come before anybody holds what was made.
    """
    path = worktree_path(user, slug)
    was_there = in_place or path.exists()
    try:
        yield
    except BaseException:
        if not was_there:
            os.chdir(user.workdir)
            remove_worktree(user, path)
        raise


def _left_behind(user: Repository, path: Path, base: str) -> Repository | None:
    """The worktree that a kill left; one that is not whole is removed."""
    killed_in_step = (private_path(path) / AGENTS_GIT).exists()
    shutil.rmtree(private_path(path), ignore_errors=True)
    if not path.exists():
        return None
    with contextlib.suppress(RepositoryError):
        # What an agent did until the kill is not known.
        if killed_in_step:
            raise RepositoryError("killed in an agent's step")
        repo = Repository.discover(path)
        # git keeps the lock until all files are checked out.
        whole = repo.workdir.samefile(path) and not (repo.git_dir / "locked").exists()
        if whole and repo.common_dir == user.common_dir and repo.head_commit() == base:
            # Changes by an evaluation or by another program are no part of the experiment.
            run_git([*NO_HOOKS, "reset", "--hard", "--quiet"], cwd=path)
            return repo
    remove_worktree(user, path)
    shutil.rmtree(path, ignore_errors=True)
    return None


def link_into(workspace: Workspace, folder: Path, base: str, link: str) -> Link:
    """Links an ignored path of the user's checkout into a worktree.

    Args:
        workspace: The worktree.
        folder: The folder of the user's checkout that the path is relative to.
        base: The commit that is checked out in the worktree.
        link: The path.

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
    if objects.entry_at(workspace.user, objects.tree_of(workspace.user, base), name) is not None:
        raise UsageError(
            f"--link {link} is tracked by git", hint="the worktree has it already: leave it out"
        )
    # A copy that a session left may be out of date.
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(source)
    return made


def _forget(user: Path, here: Path) -> None:
    """Lets modules be imported anew that came from the user's checkout and are here too.

    A project's `cli.py` that is run as a program has imported them before the run begins.
    """
    top, there = os.path.realpath(user), os.path.realpath(here)
    for name, file in list(_imported()):
        below = os.path.relpath(file, top)
        if file.startswith(top + os.sep) and os.path.exists(os.path.join(there, below)):
            del sys.modules[name]


def _redirect(user: Path, here: Path) -> None:
    """Makes import paths into the user's checkout, as editable installs have, lead here."""

    def moved(path: str) -> str:
        real = os.path.realpath(path)
        if real != str(user) and not real.startswith(f"{user}{os.sep}"):
            return path
        other = os.path.join(here, os.path.relpath(real, user))
        return other if os.path.exists(other) else path

    # Where autopilot itself comes from stays: a run may be on its own repository.
    own = str(Path(__file__).resolve().parents[2])
    sys.path[:] = [path if path in ("", own) else moved(path) for path in sys.path]
    for finder in sys.meta_path:
        mapping = getattr(sys.modules.get(getattr(finder, "__module__", "")), "MAPPING", None)
        if isinstance(mapping, dict) and "autopilot" not in mapping:
            mapping.update({name: moved(path) for name, path in mapping.items()})


def _imported() -> Iterator[tuple[str, str]]:
    """Name and file of what is imported, without autopilot and the standard library."""
    real = cache(os.path.realpath)
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        file = getattr(module, "__file__", None)
        if file and top not in ("autopilot", "__main__") and top not in sys.stdlib_module_names:
            folder, base = os.path.split(file)
            is_link = Path(file).is_symlink()
            yield name, os.path.realpath(file) if is_link else os.path.join(real(folder), base)


def _may_be_in(folder: str, top: str) -> bool:
    """Whether a folder has a top-level module or package, the latter with or without a file."""
    paths = [os.path.join(folder, start, top) for start in ("", "src")]
    return any(os.path.exists(path) or os.path.isfile(f"{path}.py") for path in paths)


def _is_in(folder: str, name: str) -> bool:
    """Whether a folder has a module of that name, at its top or below `src`."""
    path = name.replace(".", os.sep)
    return any(
        os.path.isfile(os.path.join(folder, start, ending))
        for start in ("", "src")
        for ending in (f"{path}.py", os.path.join(path, "__init__.py"))
    )
