"""How remotes are named and shown, and what it means when git cannot talk to one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from autopilot.errors import RemoteError
from autopilot.git.commands import CommandResult, last_line

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
    (
        ("couldn't find remote ref",),
        "an experiment was deleted there meanwhile",
        "try again",
    ),
    (
        ("insufficient permission", "Permission denied", "Read-only", "denied to"),
        "it does not let you write",
        "ask for write access, or name another remote",
    ),
)


def is_address(text: str) -> bool:
    """Whether a text is the URL or the path of a repository rather than a name."""
    return text.startswith(("/", ".", "~")) or ":" in text


def shown(remote: str) -> str:
    """A remote's name or address without the password that it may have."""
    return _SECRET.sub("", remote)


def remote_error(remote: str, known: Sequence[str], done: CommandResult) -> RemoteError:
    """Why a call of git that talked to a remote failed.

    Args:
        remote: Its name or address.
        known: The names of the configured remotes.
        done: What git said.
    """
    name = shown(remote)
    if remote not in known and not is_address(remote):
        return RemoteError(
            f"there is no remote {name}", hint=f"remotes: {', '.join(known) or 'none yet'}"
        )
    for marks, meaning, hint in _REASONS:
        if any(mark in done.stderr for mark in marks):
            telling = [line for line in done.stderr.splitlines() if any(m in line for m in marks)]
            said = shown(telling[0].removeprefix("fatal: ").removeprefix("remote: ").strip())
            if is_address(remote):
                hint = f"see that the address is right: git ls-remote {name}"
            return RemoteError(f"{name}: {meaning} ({said})", hint=hint.format(remote=name))
    told = [x for x in done.stderr.splitlines() if x.strip() and not x.startswith(_GENERAL)]
    reason = shown(last_line(replace(done, stderr="\n".join(told)) if told else done))
    return RemoteError(
        f"cannot talk to {name}: {reason}", hint=f"see all that git says: git ls-remote {name}"
    )
