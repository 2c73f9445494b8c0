"""Refs: read, created, moved by compare-and-swap, singly or many at once; nothing is forced.

Names are in full, `refs/heads/main`.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pygit2

from autopilot.errors import GitCommandError, RefMovedError, RepositoryError, SlugError, remedy
from autopilot.git.commands import run_git
from autopilot.git.locks import one_at_a_time
from autopilot.git.objects import diff_trees, entry_at
from autopilot.git.repository import Repository, translated
from autopilot.git.worktrees import LOOKING, open_index
from autopilot.text import clean, some, visible

_LOCK_WAIT_S = 0.5


def read_ref(repo: Repository, name: str) -> str | None:
    """The id of a ref, not peeled: of an annotated tag, the tag object's. None if missing."""
    with translated(f"cannot read {name}"):
        # pygit2 never lets go of the text that it was given: one for each name, not for each call.
        found = repo.pygit.references.get(sys.intern(name))
        return str(found.resolve().target) if found is not None else None


def create_ref(repo: Repository, name: str, oid: str, log: str) -> None:
    """Creates a ref that does not exist; `log` is what the reflog says.

    Raises:
        RefMovedError: it exists.
        SlugError: another ref's name is in the way: `a` and `a/b` cannot both exist.
        RepositoryError: it cannot be written for another reason.
    """
    target, line = pygit2.Oid(hex=oid), log_line(log)
    try:
        # libgit2 looks before it takes its own lock, and from a linked worktree at the wrong place:
        # of two, the second would replace the first's.
        with one_at_a_time(repo.common_dir / "refs"):
            if read_ref(repo, name) is not None:
                raise ValueError("it exists")
            create = repo.pygit.create_reference_direct
            when_unlocked(lambda: create(name, target, False, message=line))
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        current = read_ref(repo, name)
        if current is not None:
            raise RefMovedError(
                f"{name} exists already, at {current[:7]}", hint="choose another name"
            ) from error
        check_free(repo, name)
        raise _not_written(name, error) from error


def update_ref(repo: Repository, name: str, new: str, expected: str, log: str) -> None:
    """Moves a ref if it is where it is expected: a compare-and-swap.

    Raises:
        RefMovedError: it is elsewhere, or gone.
        RepositoryError: it cannot be written.
    """
    with _swapped(repo, name, expected) as reference:
        when_unlocked(lambda: reference.set_target(pygit2.Oid(hex=new), log_line(log)))


def delete_ref(repo: Repository, name: str, expected: str) -> None:
    """Deletes a ref if it is where it is expected; raises as `update_ref`."""
    with _swapped(repo, name, expected) as reference:
        when_unlocked(reference.delete)


def list_refs(repo: Repository, *prefixes: str) -> dict[str, str]:
    """The refs whose names are a prefix or begin with one and "/", with what they point at.

    Starts git where there is one; notes the damaged ones.
    """
    places, packed = [each.rstrip("/") for each in prefixes], repo.common_dir / "packed-refs"
    if not any(os.path.lexists(repo.common_dir / place) for place in places):
        # Looked at last: git packs a ref before it removes its file.
        text = packed.read_bytes() if packed.is_file() else b""
        if not any(re.search(rb" %b[/\n]" % re.escape(os.fsencode(each)), text) for each in places):
            return {}
    command = ["for-each-ref", "--format=%(refname) %(objectname)", *places]
    listed = run_git(command, cwd=repo.workdir)
    for name in re.findall("ignoring broken ref (.+)", listed.stderr):
        repo.leave_out(name)
    return dict(line.split(" ") for line in os.fsdecode(listed.stdout).splitlines())


def names_in(repo: Repository, folder: str) -> set[str]:
    """The names in a folder of refs, whatever they hold. Does not start git."""
    place, packed, found = repo.common_dir / folder, repo.common_dir / "packed-refs", set[str]()
    if place.is_dir():
        found.update(os.listdir(place))
    if packed.is_file():
        names = rb"(?m)^\w+ %b(.+)$" % re.escape(os.fsencode(folder))
        found.update(map(os.fsdecode, re.findall(names, packed.read_bytes())))
    return found


def when_unlocked(write: Callable[[], object]) -> None:
    """Writes a ref; waits a little while another process writes it, or packs its folder."""
    deadline_s = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            write()
            return
        except (pygit2.GitError, OSError) as error:
            is_passing = _is_locked(error) or "No such file" in str(error)
            if not is_passing or time.monotonic() > deadline_s:
                raise
        time.sleep(0.002)


def check_free(repo: Repository, name: str, listed: Iterable[str] | None = None) -> None:
    """Refuses a name that git cannot hold beside the refs that there are: `listed`, if given.

    Raises:
        SlugError: another ref's name is in the way: `a` and `a/b` cannot both exist.
    """
    parts, found = name.split("/"), list_refs(repo, name) if listed is None else listed
    above = ("/".join(parts[:count]) for count in range(3, len(parts)))
    there = [folder for folder in above if read_ref(repo, folder)]
    if not (there := there or [ref for ref in found if f"{ref}/".startswith(f"{name}/")]):
        return
    short, obstacle = _short(there[0]), there[0]
    other, kind = f"{short.replace('/', '-')}-old", obstacle.removesuffix(short)
    rename = f"git update-ref {kind}{other} {obstacle} && git update-ref -d {obstacle}"
    if kind == "refs/heads/":
        rename = f"git branch -m {short} {other}"
    raise SlugError(
        f"{_short(name)!r} cannot be created: {short!r} exists, and git"
        " cannot hold a name and names below it",
        hint=f"choose another name, or rename the other: {rename}",
    )


@contextmanager
def _swapped(repo: Repository, name: str, expected: str) -> Iterator[pygit2.Reference]:
    """The ref as it is expected, for the body to move or delete."""
    # The comparison here is only for the message: libgit2 compares once more, under the ref's lock,
    # with what a loaded reference remembers. Reading the ref again tells that failure from others.
    try:
        reference = repo.pygit.references.get(sys.intern(name))
        current = str(reference.target) if reference is not None else None
        if reference is None or current != expected:
            raise moved(name, expected, current)
        yield reference
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        current = read_ref(repo, name)
        if current != expected:
            raise moved(name, expected, current) from error
        raise _not_written(name, error) from error


def moved(name: str, expected: str, current: str | None) -> RefMovedError:
    """The error of a ref that is elsewhere than expected; None: it does not exist."""
    where = f"is at {current[:7]}" if current else "is gone"
    return RefMovedError(
        f"{name} {where}, expected at {expected[:7]}: another process moved it",
        hint=f"see `git reflog {_short(name)}` for who did; then resume",
    )


def _not_written(name: str, error: Exception) -> RepositoryError:
    if _is_locked(error):
        return RepositoryError(
            f"cannot write {name}: it is locked",
            hint=f"if no git command is running, remove {name}.lock from the git folder",
        )
    return RepositoryError(
        f"cannot write {name}: {error}",
        hint="see that the name is valid (`git check-ref-format`) and the disk is not full",
    )


def _is_locked(error: Exception) -> bool:
    locked = "failed to lock file|failed to create locked file.*File exists"
    return re.search(locked, str(error), re.DOTALL) is not None


def log_line(text: str) -> str:
    """A text as one line of a reflog."""
    return visible(" ".join(clean(text).split()))


def _short(name: str) -> str:
    return re.sub("^refs/(heads/|tags/)?", "", name)


def delete_refs(repo: Repository, expected: Mapping[str, str], *, check: bool = False) -> None:
    """Deletes all of some refs, or raises a GitCommandError if one was moved or is locked.

    Starts git.

    Args:
        check: Only makes sure that they can be deleted.
    """
    lines = "".join(f"delete {name}\0{oid}\0" for name, oid in expected.items())
    lines = f"start\0{lines}prepare\0abort\0" if check else lines
    run_git(["update-ref", "--stdin", "-z"], cwd=repo.workdir, stdin=os.fsencode(lines))


def move_refs(repo: Repository, moves: Mapping[str, tuple[str, str | None]], log: str) -> None:
    """Creates and moves all of some refs, or none if one is not where it is expected. Starts git.

    Args:
        moves: Name to what it shall point at, and where it is; None: it does not exist.

    Raises:
        RefMovedError: one was moved meanwhile.
        SlugError: another ref's name is in the way.
        GitCommandError: one is locked, or cannot be written.
    """
    if not moves:
        return
    # An old value of zeros means that the ref must not exist.
    lines = "".join(
        f"update {name}\0{new}\0{old or '0' * len(new)}\0" for name, (new, old) in moves.items()
    )
    command = ["update-ref", "-m", log_line(log), "--stdin", "-z"]
    try:
        run_git(command, cwd=repo.workdir, stdin=os.fsencode(lines))
    except GitCommandError as error:
        for name, (_, old) in moves.items():
            current = read_ref(repo, name)
            if current != old:
                raise moved(name, old or "0000000", current) from error
            if old is None:
                check_free(repo, name)
        raise


# --- branches, which may be checked out somewhere: moved with their files ------------------------

BRANCHES = "refs/heads/"
_REMOTES = "refs/remotes/"
# As paths: else pathlib interns their parts in every epoch, and Python's table of them grows.
_REBASE_HEADS = (Path("rebase-merge/head-name"), Path("rebase-apply/head-name"))


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch as it was found: its ref in full, and its commit.

    Args:
        name: As git's commands take it: `main`, or `origin/main` where it is on a remote only.
    """

    name: str
    ref: str
    tip: str

    @property
    def is_local(self) -> bool:
        """Whether it is one of this repository; the others cannot be moved."""
        return self.ref.startswith(BRANCHES)

    @property
    def short(self) -> str:
        """Its name without the remote's."""
        return self.name if self.is_local else self.name.partition("/")[2]


def find_branch(repo: Repository, name: str) -> Branch | None:
    """The branch that a name means: of this repository, or as a remote had it when last fetched.

    The name is `main`, `origin/main`, or in full. One that only remotes have is found by its short
    name too; `origin` comes first.
    """
    short = name.removeprefix(BRANCHES).removeprefix(_REMOTES)
    for ref in (BRANCHES + short, _REMOTES + short, f"{_REMOTES}origin/{short}"):
        if tip := read_ref(repo, ref):
            return Branch(ref.removeprefix(BRANCHES).removeprefix(_REMOTES), ref, tip)
    for ref, tip in list_refs(repo, _REMOTES).items():
        if ref.removeprefix(_REMOTES).partition("/")[2] == short:
            return Branch(ref.removeprefix(_REMOTES), ref, tip)
    return None


def checked_out_at(repo: Repository, branch: str) -> Path | None:
    """The worktree in which a branch, in full, is checked out or being rebased; None if in none."""
    # git writes these files; `git worktree list` would say nothing of a rebase.
    for git_dir in (repo.common_dir, *sorted(repo.common_dir.glob("worktrees/*"))):
        heads = [_text(git_dir / "HEAD").removeprefix("ref: ")]
        heads += [_text(git_dir / head) for head in _REBASE_HEADS]
        if branch not in heads:
            continue
        if git_dir == repo.common_dir:
            # A bare repository has a HEAD too, but nothing is checked out there.
            if repo.main_workdir is not None:
                return repo.main_workdir
            continue
        pointer = _text(git_dir / "gitdir")
        return (git_dir / pointer).parent.resolve() if pointer else git_dir
    return None


def refuse_checked_out(repo: Repository, branch: str, hint: str) -> None:
    """Raises a RepositoryError if a branch is checked out in some worktree."""
    if place := checked_out_at(repo, branch):
        name = branch.removeprefix(BRANCHES)
        raise RepositoryError(f"the branch {name} is checked out in {place}", hint=hint)


def obstacle(repo: Repository, branch: str, tree: str) -> tuple[str, str] | None:
    """The reason why a branch cannot be moved forward now, and what to do; None if it can.

    Where it is checked out, in this worktree or another one, its files would be changed with it.
    Starts git then.

    Args:
        tree: The tree that it would have, or its commit.
    """
    place = checked_out_at(repo, branch)
    if place is None:
        return None
    name = branch.removeprefix(BRANCHES)
    there = Repository.discover(place)
    if there.head_name() != name:
        return f"{name} is being rebased in {place}", "finish that, or `git rebase --abort`"
    status = [*LOOKING, "status", "--porcelain", "-z", "--untracked-files=no"]
    status += ["--ignore-submodules=dirty", "--no-renames"]
    with open_index(there) as own:
        changed = run_git(status, cwd=place, environment=own).stdout.split(b"\0")
    names = [os.fsdecode(line[3:]) for line in changed if line]
    if names:
        reason = f"{name} is checked out in {place} with uncommitted changes ({some(names, 1)})"
        return reason, "commit them, or `git stash` them, there"
    if lost := _in_the_way(there, tree):
        reason = f"{lost} in {place} is not tracked by git, and would be overwritten"
        return reason, "move it away, or commit it"
    return None


def advance(repo: Repository, branch: str, new: str, expected: str, log: str) -> Path | None:
    """Moves a branch forward, with its index and files where it is checked out.

    Only files that the move changes are written, and nothing that is not committed is lost. Returns
    the worktree whose files were updated; None if it is not checked out.

    Args:
        new: A commit that has `expected` in its history.

    Raises:
        RepositoryError: it cannot be moved now; nothing was changed.
        RefMovedError: it is elsewhere.
    """
    if found := obstacle(repo, branch, new):
        raise RepositoryError(found[0], hint=found[1])
    place = checked_out_at(repo, branch)
    if place is None:
        update_ref(repo, branch, new, expected, log)
        return None
    # git's own fast-forward fails where the branch or a file was changed meanwhile.
    merge = ["merge", "--ff-only", "--no-autostash", "--quiet", new]
    try:
        run_git(merge, cwd=place, environment={"GIT_REFLOG_ACTION": log})
    except GitCommandError as error:
        if read_ref(repo, branch) == expected:  # it was locked, which git sees after the files
            run_git(["read-tree", "-m", "-u", new, expected], cwd=place, check=False)
        what = f"{_short(branch)}, checked out in {place}, cannot be moved: {error.message}"
        more = f"run it by hand there to see more: git merge --ff-only {new[:10]}"
        raise RepositoryError(what, hint=remedy(error.said, more)) from error
    return place


def _in_the_way(there: Repository, tree: str) -> str | None:
    """A file of a worktree that git does not know and a checkout would replace, ignored or not."""
    old = there.head_commit()
    for name, (before, after) in diff_trees(there, old, tree).items():
        if before is not None or after is None:
            continue
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            above = "/".join(parts[:depth])
            path = there.workdir / above
            is_folder = path.is_dir() and not path.is_symlink()
            in_the_way = os.path.lexists(path) and not (is_folder and depth < len(parts))
            if in_the_way and entry_at(there, old, above) is None:
                return above
    return None


def _text(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes()).rstrip("\n")
    except OSError:
        return ""
