"""Other repositories: what refs they have, fetching from them, pushing to them.

Through the git command line, so that credential helpers, ssh and proxies work as the user set them
up. Nothing is forced but what `replace_ref` makes anew, and no ref is touched but those named. A
`remote` is a name, a URL or a path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from autopilot.errors import GitCommandError, RemoteError, RepositoryError, remedy
from autopilot.git.commands import HOOK, CommandResult, last_line, run_git, variable
from autopilot.git.commits import read_commit
from autopilot.git.objects import has_object
from autopilot.git.refs import list_refs
from autopilot.git.repository import Repository

# Set for what git runs on our behalf: our own pre-push hook has nothing to add then.
SYNCING = "AUTOPILOT_SYNC"
_SINGLY = 64
_NO_ATOMIC = "does not support --atomic"
_MOVED = ("fetch first", "non-fast-forward", "stale info", "failed to update ref", "cannot lock")
# What git itself says of a push beside its result.
_OF_GIT = re.compile(r"error: (failed to push|atomic push failed)|hint: |To |Done$|Everything up")
_QUIETLY = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
# The names that are fetched to are gone in a moment, and need no fsync; the objects do.
_FETCH = ("-c", "core.fsync=-reference", "fetch", *_QUIETLY, "--stdin", "--no-prune")
_DEEPEN_FIRST = 64

# What git adds to whatever ssh has said.
_GENERAL = ("fatal: Could not read from remote", "Please make sure you have", "and the repository")
_SECRET = re.compile(r"(?<=://)[^/@\s]+@")

# What git says, what it means, and what to do; the first that fits.
_REASONS: Sequence[tuple[tuple[str, ...], str, str]] = (
    (
        ("Permission denied (publickey", "Host key verification failed"),
        "ssh was not let in",
        "see that ssh works: `git ls-remote {remote}`; `ssh-add` unlocks a key",
    ),
    (
        ("Authentication failed", "could not read Username", "could not read Password", "403"),
        "it wants other credentials",
        "sign in once with `git ls-remote {remote}`, or set up a credential helper",
    ),
    (
        ("does not appear to be a git repository", "not found", "does not exist", "No such"),
        "there is no repository, or none that you may see",
        "see `git remote -v`; `git remote set-url {remote} URL` corrects it",
    ),
    (
        ("Could not resolve", "Connection refused", "timed out", "unreachable", "unable to access"),
        "it cannot be reached",
        "see that you are online and the address is right: `git remote -v`",
    ),
    (("couldn't find remote ref",), "an experiment was deleted there meanwhile", "try again"),
    (
        ("insufficient permission", "Permission denied", "Read-only", "denied to"),
        "it does not let you write",
        "ask for write access, or name another remote",
    ),
)


_OF_HOOK_HERE = "the pre-push hook here refused it"


@dataclass(frozen=True, slots=True)
class Pushed:
    """The outcome of a push.

    Args:
        rejected: Ref to the reason why the remote did not take it.
        said: The lines of hooks and of the server, which begin with `remote: `.
        atomic: Whether it was all or nothing.
    """

    rejected: Mapping[str, str]
    said: tuple[str, ...] = ()
    atomic: bool = True

    @property
    def why(self) -> str:
        """The said lines as the end of an error's line."""
        return ": " * bool(self.said) + "; ".join(x.removeprefix("remote: ") for x in self.said)

    @property
    def reasons(self) -> list[str]:
        """The reasons, without those that follow: one refusal refuses all of an atomic push."""
        why = [w for w in dict.fromkeys(self.rejected.values()) if not w.startswith("atomic ")]
        return (
            why
            or [w[8:] for w in self.said if w.startswith("remote: error:")]
            or [*self.rejected.values()]
        )

    @property
    def moved(self) -> bool:
        """Whether it failed only because another push came first."""
        found = [any(mark in why for mark in _MOVED) for why in self.reasons]
        return bool(found) and all(found)

    @property
    def hint(self) -> str:
        """The advice after a refusal."""
        if self.moved:
            return "another push came first: try again"
        if _OF_HOOK_HERE in self.reasons:
            return "see what the hook pre-push of this repository asks for"
        return "see what its hooks and its branch rules ask for"


def remotes(repo: Repository) -> list[str]:
    """The names of the configured remotes."""
    return os.fsdecode(run_git(["remote"], cwd=repo.workdir).stdout).splitlines()


def default_remote(repo: Repository, *, pushing: bool = False) -> str:
    """The remote that is meant where none is named.

    It is the checked out branch's, else the only one, else `origin`.

    Args:
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


def remote_refs(repo: Repository, remote: str, patterns: Sequence[str]) -> dict[str, str]:
    """The refs of a remote that match patterns of `git ls-remote`; tags are not peeled."""
    done = _call(repo, remote, ["ls-remote", "--refs", "--quiet", "--", remote, *patterns])
    lines = os.fsdecode(done.stdout).splitlines()
    return {name: oid for oid, _, name in (line.partition("\t") for line in lines)}


def fetch_refs(repo: Repository, remote: str, wanted: Iterable[str], under: str) -> None:
    """Fetches refs under names of our own; touches no other ref, whatever is configured.

    In a shallow clone, history comes as deep as they need it.

    Args:
        wanted: The remote's refs. Where there are many in a folder, the whole folder comes.
        under: What is put before their names; what is there already is overwritten.

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
        fetch = [*_FETCH, "--no-auto-maintenance", "--refmap=", "--", remote]
        _call(repo, remote, fetch, os.fsencode(lines))


def push_refs(
    repo: Repository, remote: str, wanted: Mapping[str, str], *, atomic: bool = True
) -> Pushed:
    """Pushes objects to refs of the same names on a remote; a ref there only grows.

    Git's own pre-push hooks run, as of LFS.

    Args:
        wanted: The remote's ref to the object that it shall point at, in the order in which they
            are sent.
        atomic: All or nothing, if the remote can.

    Returns:
        What the remote did not take. Where it knows no atomic pushes, nothing was sent, and
        `atomic` is False.
    """
    return _push(repo, remote, ["--atomic"] * atomic, _refspecs(repo, wanted))


def replace_ref(
    repo: Repository, remote: str, name: str, new: str | None, old: str
) -> tuple[str, ...]:
    """Sets a ref of a remote to another history, or deletes it, if it is where it is expected.

    The one place that may take commits from a remote: for refs that are made anew from others.

    Args:
        new: What it shall point at; None deletes it.
        old: What it points at; a push that came first is not lost.

    Returns:
        What was said, as `Pushed.said`.

    Raises:
        RemoteError: it is elsewhere, the remote does not take it, or it cannot be reached.
    """
    pushed = _push(repo, remote, [f"--force-with-lease={name}:{old}"], [f"{new or ''}:{name}"])
    return check_taken(remote, name, pushed)


def check_taken(remote: str, name: str, pushed: Pushed) -> tuple[str, ...]:
    """Raises a RemoteError where a branch that was pushed was not taken; returns what was said."""
    for reason in pushed.rejected.values():
        branch = name.removeprefix("refs/heads/")
        what = f"{shown(remote)} did not take {branch} ({reason}){pushed.why}"
        raise RemoteError(what, hint=pushed.hint)
    return pushed.said


def _push(repo: Repository, remote: str, options: list[str], specs: list[str]) -> Pushed:
    quiet = ["--porcelain", "--no-follow-tags", "--recurse-submodules=no"]
    push = ["push", *quiet, *options, "--", remote, *specs]
    done = _call(repo, remote, push, check=False)
    if done.returncode != 0 and _NO_ATOMIC in done.stderr:
        return Pushed({}, atomic=False)
    rejected = {}
    # Before git says where it pushes to, our own hook may speak.
    printed = os.fsdecode(done.stdout).splitlines()
    begins = [n for n, line in enumerate(printed) if line.startswith("To ")] or [len(printed)]
    for line in printed[begins[-1] :]:
        flag, _, rest = line.partition("\t")
        spec, _, summary = rest.partition("\t")
        if flag == "!":
            reason = summary.partition("(")[2].rpartition(")")[0] or summary
            rejected[spec.partition(":")[2]] = reason
    lines = [*printed[: begins[-1]], *done.stderr.splitlines()]
    lines = [shown(line.rstrip()) for line in lines if not _OF_GIT.match(line)]
    if done.returncode != 0 and not rejected:
        if "fatal:" in done.stderr or begins[-1] < len(printed):
            raise remote_error(remote, remotes(repo), done)
        rejected = {spec.partition(":")[2]: _OF_HOOK_HERE for spec in specs}
    return Pushed(rejected, tuple(line for line in lines if line not in ("", "remote:")))


def _refspecs(repo: Repository, wanted: Mapping[str, str]) -> list[str]:
    """The refspecs of a push; of a whole folder of many refs, the folder."""
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


def _call(
    repo: Repository, remote: str, arguments: list[str], stdin: bytes = b"", *, check: bool = True
) -> CommandResult:
    environment = {SYNCING: "1"}
    if repo.may_ask and variable("GIT_TERMINAL_PROMPT") is None:
        environment["GIT_TERMINAL_PROMPT"] = "1"
    done = run_git(arguments, cwd=repo.workdir, stdin=stdin, environment=environment, check=False)
    if check and done.returncode != 0:
        raise remote_error(remote, remotes(repo), done)
    return done


# --- names, and what it means when git cannot talk to one ---------------------------------------


def is_address(text: str) -> bool:
    """Whether a text is the URL or the path of a repository rather than a name."""
    return text.startswith(("/", ".", "~")) or ":" in text


def shown(remote: str) -> str:
    """A remote's name or address without the password that it may have."""
    return _SECRET.sub("", remote)


def remote_error(remote: str, known: Sequence[str], done: CommandResult) -> RemoteError:
    """The error of a call of git that talked to a remote; `known` are the configured remotes."""
    name = shown(remote)
    if remote not in known and not is_address(remote):
        hint = f"remotes: {', '.join(known) or 'none yet'}"
        return RemoteError(f"there is no remote {name}", hint=hint)
    if HOOK.search(done.stderr):
        return RemoteError(f"{name}: {last_line(done)}", hint=remedy(done.stderr))
    for marks, meaning, hint in _REASONS:
        if any(mark in done.stderr for mark in marks):
            telling = [line for line in done.stderr.splitlines() if any(m in line for m in marks)]
            said = shown(telling[0].removeprefix("fatal: ").removeprefix("remote: ").strip())
            if is_address(remote):
                hint = f"see that the address is right: git ls-remote {name}"
            return RemoteError(f"{name}: {meaning} ({said})", hint=hint.format(remote=name))
    lines = [x for x in done.stderr.splitlines() if x.strip() and not x.startswith(_GENERAL)]
    reason = shown(last_line(replace(done, stderr="\n".join(lines)) if lines else done))
    return RemoteError(
        f"cannot talk to {name}: {reason}", hint=f"see all that git says: git ls-remote {name}"
    )


# --- shallow clones -----------------------------------------------------------------------------


def is_shallow(repo: Repository) -> bool:
    """Whether history is cut off somewhere."""
    return (repo.common_dir / "shallow").is_file()


def reaches(repo: Repository, tip: str, first: str) -> bool:
    """Whether a commit and all that lead to it from a tip, along all parents, are here."""
    waiting, known = [tip], set[str]()
    try:
        while waiting:
            if (oid := waiting.pop()) not in known:
                known.add(oid)
                parents = read_commit(repo, oid).parents if oid != first else ()
                if not parents and oid != first:
                    return False  # history is cut off here
                waiting += parents
        return first in known and has_object(repo, first)
    except RepositoryError:
        return False


def deepen(repo: Repository, remote: str, ref: str, tip: str, first: str) -> Repository:
    """Fetches the history between a commit and a tip, and opens the repository again.

    Through the git command line, in steps that double; moves no branch and no tag.

    Args:
        ref: The remote's ref that leads to the tip: `refs/heads/main`.

    Raises:
        GitCommandError: the remote does not give it; the hint is the command to type.
    """
    count, before = _DEEPEN_FIRST, b""
    while not reaches(repo, tip, first):
        now = (repo.common_dir / "shallow").read_bytes() if is_shallow(repo) else b"none"
        why = "its history does not lead there" if now == before else ""
        if not why:
            fetch = ["fetch", *_QUIETLY, f"--deepen={count}", remote, ref]
            done = run_git(fetch, cwd=repo.workdir, check=False)
            why = done.stderr.strip().rpartition("\n")[2] if done.returncode else ""
        if why:
            raise GitCommandError(
                f"this clone is shallow, and the rest of {ref.removeprefix('refs/heads/')} cannot "
                f"be fetched from {remote}: {why}",
                hint=f"git fetch --unshallow {remote}, then again",
            )
        count, before = 2 * count, now
        # pygit2 reads where history is cut off only when it opens a repository.
        repo = Repository.discover(repo.workdir)
    return repo
