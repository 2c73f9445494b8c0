"""Checkouts beside the user's: linked worktrees, and repositories that borrow the objects."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from autopilot.errors import GitCommandError, RepositoryError, remedy, translated_as
from autopilot.git.commands import run_git
from autopilot.git.conversion import link_keys
from autopilot.git.locks import clear_stale_locks, one_at_a_time
from autopilot.git.objects import tree_of
from autopilot.git.repository import Repository

# The user's post-checkout hook is about the user's own checkout.
NO_HOOKS = ("-c", "core.hooksPath=/dev/null")
SET_UP = "autopilot-set-up"
"""In the git folder of a worktree that is set up: the paths that its set-up made."""
# Settings by which git would take a file for unchanged that it has not looked into.
_LOOK = ("core.fsmonitor=false", "core.ignoreStat=false", "core.checkStat=default")
LOOKING = [word for setting in (*_LOOK, "core.trustctime=true") for word in ("-c", setting)]
_SPECIAL = re.compile(r"[\\\[\]*? ]")
_ELSEWHERE = "set XDG_CACHE_HOME to another folder"


def cache_folder() -> Path:
    """Where autopilot keeps what can be made again: in the user's cache folder.

    Without symbolic links on the way there: git names the worktrees in it so.
    """
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not configured.is_absolute():
        on_mac = sys.platform == "darwin"
        configured = Path.home() / ("Library/Caches" if on_mac else ".cache")
    return Path(os.path.realpath(configured / "autopilot"))


def worktree_path(repo: Repository, name: str) -> Path:
    """Where a repository's worktree of a name belongs: one place per repository and name."""
    home = repo.main_workdir or repo.common_dir
    digest = hashlib.sha1(os.fsencode(repo.common_dir), usedforsecurity=False).hexdigest()
    return cache_folder() / "worktrees" / f"{home.name}-{digest[:8]}" / name


def private_path(worktree: Path) -> Path:
    """A folder beside a worktree for what belongs to it and may not be in it; no slug has a dot."""
    return worktree.with_name(f".{worktree.name}.private")


def add_worktree(repo: Repository, path: Path, commit: str) -> Repository:
    """Checks a commit out, detached, in a worktree of its own.

    Starts git, which applies the filters (LFS among them). Runs no hook.

    Args:
        path: The new worktree's folder; it must not exist, or be empty.

    Raises:
        GitCommandError: the folder is in use, cannot be written, or the disk is full. What was
            written until then is removed.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise GitCommandError(
            f"cannot make a worktree at {path}: the folder is not empty",
            hint="remove it, or name another one",
        )
    # Two processes of git that add or remove at once can trip over each other's half-made files.
    with one_at_a_time(repo.common_dir):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # --force: a worktree whose folder was deleted by hand may be registered at this path.
            # Twice: git was killed while it made one here, and its lock is left.
            force = ["--force", "--force"]
            add = ["worktree", "add", "--detach", *force, "--quiet", str(path), commit]
            try:
                run_git([*NO_HOOKS, *add], cwd=repo.workdir)
            except GitCommandError as error:
                if "filter" not in error.said:
                    raise
                _remove(repo, path)
                run_git([*add, "--no-checkout"], cwd=repo.workdir)
                link_keys(repo, repo.linked(path).git_dir)
                run_git([*NO_HOOKS, "checkout", "--force", "--quiet", commit], cwd=path)
            return repo.linked(path)
        except (GitCommandError, OSError) as error:
            _remove(repo, path)
            reason = str(error.strerror) if isinstance(error, OSError) else error.message
            said = reason if isinstance(error, OSError) else error.said
            hint = remedy(said, "")
            if not hint and "filter" in said:
                hint = "make it work in a linked worktree, whose git folder is another one"
            elif not hint:
                hint = f"see all that git says: git worktree add --detach {path} {commit[:10]}"
            elif "git fsck" not in hint:
                hint += f", or {_ELSEWHERE}"
            raise GitCommandError(
                f"cannot make a worktree at {path}: {reason}",
                hint=f"{hint}, or run with --in-place",
            ) from error
        except BaseException:
            # Ctrl-C: what was checked out until then goes too.
            _remove(repo, path)
            raise


def check_out(worktree: Repository, commit: str) -> None:
    """Makes a linked worktree of our own what a new one of a commit would be.

    Everything else in it is removed, ignored files included, but for the paths in its `SET_UP`.
    Runs no hook.

    Raises:
        GitCommandError: git cannot.
        RepositoryError: it is the user's own checkout.
    """
    here = worktree.workdir
    if worktree.main_workdir is not None and here.samefile(worktree.main_workdir):
        raise RepositoryError(f"{here} is the main worktree", hint="add a worktree for it")
    show_hidden(worktree)
    run_git([*NO_HOOKS, "checkout", "--detach", "--force", "--quiet", commit], cwd=here)
    # -ff: folders with a repository of their own too.
    clean = ["clean", "-ffdxq"]
    if (set_up := worktree.git_dir / SET_UP).exists():
        made = _SPECIAL.sub(r"\\\g<0>", os.fsdecode(set_up.read_bytes())).split("\0")
        clean += [f"--exclude=/{name}" for name in made if name]
    if run_git(clean, cwd=here, check=False).returncode:
        _open(here)
        run_git(clean, cwd=here)


def leave_commits(worktree: Repository, commit: str) -> None:
    """Goes back to a commit in a worktree of our own that its caller holds; the files stay."""
    own = worktree.git_dir.relative_to(worktree.common_dir).as_posix()
    clear_stale_locks(worktree, [f"{own}/HEAD", f"{own}/index"])
    run_git([*NO_HOOKS, "checkout", "--quiet", "--detach"], cwd=worktree.workdir)
    run_git([*NO_HOOKS, "reset", "--quiet", commit], cwd=worktree.workdir)


def note_set_up(worktree: Repository) -> None:
    """Writes `SET_UP`: what git does not have in a worktree was made by its set-up."""
    listed = ["ls-files", "-z", "--others", "--directory"]
    made = run_git(listed, cwd=worktree.workdir).stdout
    (worktree.git_dir / SET_UP).write_bytes(made)


def remove_worktree(repo: Repository, path: Path) -> None:
    """Removes a worktree with all that is in it; nothing happens if it is gone.

    Only a linked worktree of this repository is removed.

    Raises:
        RepositoryError: it is the main worktree, or cannot be removed.
    """
    if path.exists() and repo.main_workdir is not None and path.samefile(repo.main_workdir):
        raise RepositoryError(
            f"{path} is the main worktree", hint="name a linked worktree: see `git worktree list`"
        )
    with one_at_a_time(repo.common_dir):
        _remove(repo, path)


def _remove(repo: Repository, path: Path) -> None:
    # Named, and run elsewhere: `safe.bareRepository` may forbid the git folder, and this checkout
    # may be gone.
    here = [f"--git-dir={repo.common_dir}", "worktree"]
    place = repo.workdir if repo.workdir.is_dir() else Path(repo.workdir.anchor)
    shutil.rmtree(private_path(path), ignore_errors=True)
    # --force twice: locked ones too.
    remove = [*here, "remove", "--force", "--force", str(path)]
    done = run_git(remove, cwd=place, check=False)
    pointer = path / ".git"
    if done.returncode != 0 and pointer.is_file():
        # git refuses a worktree that was half made, or whose .git file an agent's step has turned
        # away. It may be deleted by hand only if it is this repository's.
        target = Path(os.fsdecode(pointer.read_bytes()).removeprefix("gitdir: ").strip())
        if any(target.is_relative_to(owner) for owner in (repo.common_dir, private_path(path))):
            remove_folder(path)
    if path.is_relative_to(worktree_path(repo, "x").parent) and path.exists():
        remove_folder(path)  # what a killed removal left has no .git file any more
    if (repo.common_dir / "worktrees").exists():  # git removes it with the last one
        run_git([*here, "prune"], cwd=place, check=False)
    cache = cache_folder()
    if path.is_relative_to(cache):
        for folder in path.relative_to(cache.parent).parents[:-1]:
            with contextlib.suppress(OSError):  # others are still in it
                (cache.parent / folder).rmdir()


def remove_folder(path: Path) -> None:
    """Removes a folder with all that is in it, folders that may not be written to as well."""
    _open(path)
    with translated_as(RepositoryError, f"cannot remove {path}", "remove it by hand"):
        if path.exists():
            shutil.rmtree(path)


def _open(path: Path) -> None:
    """Gives the right to write to all folders below one, as far as they are this user's."""
    with contextlib.suppress(OSError):
        for folder, _, _ in os.walk(path):
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)


# --- the difference between a checkout and HEAD -------------------------------------------------


def changed_files(repo: Repository, paths: Sequence[str]) -> dict[str, str]:
    """The files of some paths that differ from HEAD, in the index or in the worktree.

    Also those that the index says to skip. Starts git.

    Args:
        paths: Files or folders from the worktree's top; taken as they are, not as globs.

    Returns:
        "modified", "deleted", "untracked", "ignored" or "conflicted" for each file that
        differs. A submodule with changes is "modified"; a file that is staged and was then
        removed is "deleted"; an ignored folder is one item, its name ends in "/".
    """
    if not paths:
        return {}
    command = [*LOOKING, "--literal-pathspecs", "status", "--porcelain=v2", "-z", "--no-renames"]
    command += ["--untracked-files=all", "--ignored=matching", "--ignore-submodules=none"]
    with open_index(repo, paths) as own:
        done = run_git([*command, "--", *paths], cwd=repo.workdir, environment=own)
    found = {}
    for line in os.fsdecode(done.stdout).split("\0"):
        # Every line's last field is the path, which may have spaces in it.
        kind = line[:1]
        if kind == "1":
            fields = line.split(" ", 8)
            found[fields[8]] = "deleted" if "D" in fields[1] else "modified"
        elif kind == "u":
            found[line.split(" ", 10)[10]] = "conflicted"
        elif kind in ("?", "!"):
            found[line[2:]] = "untracked" if kind == "?" else "ignored"
    return found


@contextmanager
def open_index(
    repo: Repository, paths: Sequence[str] = (".",), *, copy: bool = False
) -> Iterator[dict[str, str]]:
    """The variables with which git looks at all files, also those that the index says to skip.

    Args:
        copy: Whether git may write to the index, which is a copy; otherwise it is one if needed.
    """
    hidden = _hidden(repo, paths)
    if not (hidden or copy):
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        # With its times: by them git tells which files it must look into although they seem clean.
        shutil.copy2(repo.git_dir / "index", index)
        own = {"GIT_INDEX_FILE": str(index)}
        _show(repo, hidden, own)
        yield own


def show_hidden(worktree: Repository) -> None:
    """Makes git look at all files of a worktree of our own, whatever an evaluation told it."""
    _show(worktree, _hidden(worktree, ["."]), {})


def _hidden(repo: Repository, paths: Sequence[str]) -> list[str]:
    """Files that are marked "assume unchanged" or "skip worktree"."""
    listed = ["--literal-pathspecs", "ls-files", "-v", "-z", "--", *paths]
    lines = os.fsdecode(run_git(listed, cwd=repo.workdir).stdout).split("\0")
    names = [line[2:] for line in lines if line[:1] == "S" or line[:1].islower()]
    if names and repo.config_bool("core.sparsecheckout"):
        # The files that a sparse checkout leaves out are no deletions.
        skipped = {line[2:] for line in lines if line[:1] in ("S", "s")}
        return [n for n in names if n not in skipped or os.path.lexists(repo.workdir / n)]
    return names


def _show(repo: Repository, names: Sequence[str], environment: Mapping[str, str]) -> None:
    stdin = b"".join(os.fsencode(name) + b"\0" for name in names)
    for option in ("--no-assume-unchanged", "--no-skip-worktree") if names else ():
        command = ["update-index", option, "-z", "--stdin"]
        run_git(command, cwd=repo.workdir, stdin=stdin, environment=environment)


def commit_of_checkout(repo: Repository) -> str:
    """A commit of the checkout as it is now: HEAD, or on top of it what tracked files hold.

    No ref names it, and the index stays as it is. Untracked files are not in it.
    """
    head = repo.head_commit()
    with open_index(repo, copy=True) as own:
        add = [*LOOKING, "add", "--update", "--", ":/"]
        run_git(add, cwd=repo.workdir, environment=own)
        written = run_git(["write-tree"], cwd=repo.workdir, environment=own).stdout
    tree = written.decode().strip()
    if tree == tree_of(repo, head):
        return head
    roles = ("AUTHOR", "COMMITTER")
    identity = {f"GIT_{role}_NAME": "autopilot" for role in roles}
    identity |= {f"GIT_{role}_EMAIL": "autopilot@localhost" for role in roles}
    command = ["commit-tree", tree, "-p", head, "-m", "autopilot: the checkout as it was measured"]
    return run_git(command, cwd=repo.workdir, environment=identity).stdout.decode().strip()


# --- repositories that borrow objects -----------------------------------------------------------


def lend_objects(
    repo: Repository,
    folder: Path,
    workdir: Path,
    *,
    head: str,
    settings: str,
    copied: Iterable[str],
) -> dict[str, bytes]:
    """Makes a git folder that reads another repository's objects, and writes its own; no index.

    Starts no git: it is made for each step of an agent. Returns the files that it wrote, by path.

    Args:
        folder: The new git folder; it must not exist.
        head: The commit that HEAD is at, detached.
        settings: Lines of configuration that follow the repository's, and so come before them.
        copied: Further files of the repository's git folder that it has too, if they exist.
    """
    theirs = repo.common_dir
    for name in ("objects/info", "refs/heads", "refs/tags", "info", "hooks"):
        (folder / name).mkdir(parents=True)
    own = "\n[core]\n\tbare = false\n"
    if repo.config("core.worktree") is not None:
        own += f"\tworktree = {_quoted(workdir)}\n"
    # libgit2 does not follow the alternates of an alternate, so that all are named.
    alternates = [theirs / "objects"]
    with contextlib.suppress(OSError):
        lines = (theirs / "objects/info/alternates").read_bytes().splitlines()
        alternates += [
            alternates[0] / os.fsdecode(line) for line in lines if not line.startswith(b"#")
        ]
    files = {
        "HEAD": head.encode() + b"\n",
        "config": (theirs / "config").read_bytes() + os.fsencode(own + settings),
        "objects/info/alternates": b"".join(os.fsencode(path) + b"\n" for path in alternates),
    }
    for name in ("shallow", "info/exclude", "info/attributes", *copied):
        with contextlib.suppress(OSError):
            files[name] = (theirs / name).read_bytes()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return files


def borrow(repo: Repository, path: Path, commit: str) -> Repository:
    """Makes a repository beside another one, with a commit of it checked out, detached.

    What is written there stays there: refs and notes to try things with. Starts git, which applies
    the filters (LFS among them). Remove it by removing its folder.

    Args:
        path: The new one's folder; it must not exist.

    Raises:
        GitCommandError: it cannot be made; what was made until then is removed.
    """
    # How git treats content is to be the same; who signs, and whose hooks run, is not.
    settings = "[commit]\n\tgpgsign = false\n[tag]\n\tgpgsign = false\n[gc]\n\tauto = 0\n"
    settings += f"[core]\n\thooksPath = {os.devnull}\n"
    lfs = repo.common_dir / "lfs"
    if lfs.is_dir():
        settings += f"[lfs]\n\tstorage = {_quoted(lfs)}\n"
    what, hint = f"cannot make a repository at {path}", f"{{remedy}}, or {_ELSEWHERE}"
    with translated_as(GitCommandError, what, hint):
        try:
            lend_objects(repo, path / ".git", path, head=commit, settings=settings, copied=())
            link_keys(repo, path / ".git")
            run_git(["checkout", "--quiet", "--detach", commit], cwd=path)
            return Repository.discover(path)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise


def _quoted(path: Path) -> str:
    """A path as git's configuration takes any: in quotes."""
    escaped = str(path).replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'
