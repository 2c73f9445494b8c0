"""Other repositories: what refs they have, fetching from them, pushing to them.

Through the git command line, so that credential helpers, ssh and proxies work as the user set them
up. Nothing is forced but what `replace_ref` makes anew, and no ref is touched but those named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autopilot.errors import RemoteError
from autopilot.git.addresses import remote_error, shown
from autopilot.git.commands import CommandResult, run_git
from autopilot.git.refs import list_refs
from autopilot.git.repository import Repository

# Set for what git runs on our behalf: our own pre-push hook has nothing to add then.
SYNCING = "AUTOPILOT_SYNC"
_SINGLY = 64
_NO_ATOMIC = "does not support --atomic"
_MOVED = ("fetch first", "non-fast-forward", "stale info", "failed to update ref", "cannot lock")
_REMOTE_LINE = re.compile(r"^remote: ?(.*?)\s*$", re.MULTILINE)
_FETCH = (
    # Our own names are gone in a moment; the objects are made sure of.
    *(
        "-c",
        "core.fsync=-reference",
        "fetch",
        "--quiet",
        "--stdin",
        "--no-tags",
        "--no-prune",
    ),
    *("--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance", "--refmap="),
)


@dataclass(frozen=True, slots=True)
class Pushed:
    """How a push ended.

    Args:
        rejected: Ref to the reason why the remote did not take it.
        said: What the remote said about it: its hooks.
        atomic: Whether it was all or nothing.
    """

    rejected: Mapping[str, str]
    said: tuple[str, ...] = ()
    atomic: bool = True

    @property
    def reasons(self) -> list[str]:
        """Why, without what only follows from it: in an atomic push one refusal refuses all."""
        why = [w for w in dict.fromkeys(self.rejected.values()) if not w.startswith("atomic ")]
        return why or [w for w in self.said if w.startswith("error:")] or [*self.rejected.values()]

    @property
    def moved(self) -> bool:
        """Whether it failed only because somebody else pushed meanwhile."""
        found = [any(mark in why for mark in _MOVED) for why in self.reasons]
        return bool(found) and all(found)


def remotes(repo: Repository) -> list[str]:
    """The names of the configured remotes."""
    return os.fsdecode(run_git(["remote"], cwd=repo.workdir).stdout).splitlines()


def default_remote(repo: Repository, *, pushing: bool = False) -> str:
    """The remote that is meant where none is named.

    It is the checked out branch's, else the only one, else `origin`.

    Args:
        repo: The repository.
        pushing: Settings for pushing come first: `pushRemote`, `remote.pushDefault`.

    Raises:
        RemoteError: there is none, or nothing tells which.
    """
    known, branch = remotes(repo), repo.head_name()
    keys = [f"branch.{branch}.remote"]
    if pushing:
        keys = [f"branch.{branch}.pushremote", "remote.pushdefault", *keys]
    configured = (repo.config(key) for key in keys)
    for name in configured:
        if name in known:
            return str(name)
    if len(known) == 1:
        return known[0]
    if "origin" in known:
        return "origin"
    if not known:
        raise RemoteError(
            f"{repo.workdir} has no remote repository", hint="add one: git remote add origin URL"
        )
    raise RemoteError(
        "there are several remotes, and nothing tells which is meant",
        hint=f"name one of {', '.join(known)}",
    )


def remote_refs(
    repo: Repository, remote: str, patterns: Sequence[str], *, may_ask: bool = False
) -> dict[str, str]:
    """The refs of a remote that match, with what they point at; not peeled.

    Args:
        repo: The repository.
        remote: A remote's name, a URL or a path.
        patterns: As `git ls-remote` takes them: `refs/notes/*`.
        may_ask: Whether git may ask for a password at the terminal.

    Raises:
        RemoteError: it cannot be reached.
    """
    done = _call(repo, remote, ["ls-remote", "--refs", "--quiet", "--", remote, *patterns], may_ask)
    lines = os.fsdecode(done.stdout).splitlines()
    return {name: oid for oid, _, name in (line.partition("\t") for line in lines)}


def fetch_refs(
    repo: Repository, remote: str, wanted: Iterable[str], under: str, *, may_ask: bool = False
) -> None:
    """Fetches refs under names of our own; touches no other ref, whatever is configured.

    In a shallow clone, history comes as deep as they need it.

    Args:
        repo: The repository.
        remote: A remote's name, a URL or a path.
        wanted: The remote's refs. Where there are many in a folder, the whole folder comes.
        under: What is put before their names; what is there already is overwritten.
        may_ask: Whether git may ask for a password at the terminal.

    Raises:
        RemoteError: it cannot be reached, or has no such ref any more.
    """
    folders: dict[str, list[str]] = {}
    for name in wanted:
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    # Singly, git takes seconds for thousands: it compares each with each.
    each = (names if len(names) <= _SINGLY else [f"{f}/*"] for f, names in folders.items())
    lines = "".join(f"+{name}:{under}{name}\n" for names in each for name in names)
    if lines:
        _call(repo, remote, [*_FETCH, "--", remote], may_ask, os.fsencode(lines))


def push_refs(
    repo: Repository,
    remote: str,
    wanted: Mapping[str, str],
    *,
    atomic: bool = True,
    may_ask: bool = False,
) -> Pushed:
    """Pushes objects to refs of the same names on a remote; a ref there only grows.

    Git's own pre-push hooks run, as of LFS.

    Args:
        repo: The repository.
        remote: A remote's name, a URL or a path.
        wanted: The remote's ref to the object that it shall point at, in the order in which they
            are sent.
        atomic: All or nothing, if the remote can.
        may_ask: Whether git may ask for a password at the terminal.

    Returns:
        What the remote did not take. Where it knows no atomic pushes, nothing was sent, and
        `atomic` is False.

    Raises:
        RemoteError: it cannot be reached.
    """
    options = ["--porcelain", "--no-follow-tags", "--recurse-submodules=no"]
    options += ["--atomic"] * atomic
    specs = _refspecs(repo, wanted)
    done = _run(repo, ["push", *options, "--", remote, *specs], may_ask)
    if done.returncode != 0 and _NO_ATOMIC in done.stderr:
        return Pushed({}, atomic=False)
    rejected = {}
    for line in os.fsdecode(done.stdout).splitlines():
        flag, _, rest = line.partition("\t")
        spec, _, summary = rest.partition("\t")
        if flag == "!":
            reason = summary.partition("(")[2].rpartition(")")[0] or summary
            rejected[spec.partition(":")[2]] = reason
    if done.returncode != 0 and not rejected:
        raise _translated(repo, remote, done)
    said = tuple(line for line in _REMOTE_LINE.findall(done.stderr) if line)
    return Pushed(rejected, said if rejected else ())


def replace_ref(
    repo: Repository,
    remote: str,
    name: str,
    new: str | None,
    old: str,
    *,
    may_ask: bool = False,
) -> None:
    """Sets a ref of a remote to another history, or deletes it, if it is where it is expected.

    The one place that may take commits from a remote: for refs that are made anew from others.

    Args:
        repo: The repository.
        remote: A remote's name, a URL or a path.
        name: The ref, in full.
        new: What it shall point at; None deletes it.
        old: What it points at; what somebody pushed meanwhile is not lost.
        may_ask: Whether git may ask for a password at the terminal.

    Raises:
        RemoteError: it is elsewhere, the remote does not take it, or it cannot be reached.
    """
    options = ["--porcelain", "--no-follow-tags", f"--force-with-lease={name}:{old}"]
    done = _run(repo, ["push", *options, "--", remote, f"{new or ''}:{name}"], may_ask)
    flagged = [line for line in os.fsdecode(done.stdout).splitlines() if line.startswith("!")]
    if flagged:
        reason = flagged[0].partition("(")[2].rpartition(")")[0] or flagged[0]
        raise RemoteError(
            f"{shown(remote)} did not take {name.removeprefix('refs/heads/')} ({reason})",
            hint="somebody pushed to it meanwhile, or its branch rules forbid it",
        )
    if done.returncode != 0:
        raise _translated(repo, remote, done)


def _refspecs(repo: Repository, wanted: Mapping[str, str]) -> list[str]:
    """What git is told to push; of a whole folder of many refs, the folder."""
    folders: dict[str, dict[str, str]] = {}
    for name, oid in wanted.items():
        folders.setdefault(name.rpartition("/")[0], {})[name] = oid
    specs = []
    for folder, refs in folders.items():
        if len(refs) > _SINGLY and list_refs(repo, folder) == refs:
            specs.append(f"{folder}/*:{folder}/*")
        else:
            specs += [f"{oid}:{name}" for name, oid in refs.items()]
    return specs


def _run(
    repo: Repository, arguments: Sequence[str], may_ask: bool, stdin: bytes = b""
) -> CommandResult:
    environment = {SYNCING: "1"}
    if may_ask and "GIT_TERMINAL_PROMPT" not in os.environ:
        environment["GIT_TERMINAL_PROMPT"] = "1"
    return run_git(arguments, cwd=repo.workdir, stdin=stdin, environment=environment, check=False)


def _call(
    repo: Repository, remote: str, arguments: Sequence[str], may_ask: bool, stdin: bytes = b""
) -> CommandResult:
    done = _run(repo, arguments, may_ask, stdin)
    if done.returncode != 0:
        raise _translated(repo, remote, done)
    return done


def _translated(repo: Repository, remote: str, done: CommandResult) -> RemoteError:
    return remote_error(remote, remotes(repo), done)
