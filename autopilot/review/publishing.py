"""Review branches on a remote: pushed with the experiment, set anew, deleted."""

from __future__ import annotations

from autopilot.core.records.message import REVERTS, trailer
from autopilot.errors import ExperimentError, RemoteError
from autopilot.git import commits, refs
from autopilot.git.addresses import shown
from autopilot.git.branches import BRANCHES, Branch
from autopilot.git.merging import is_ancestor
from autopilot.git.objects import has_object
from autopilot.git.remotes import fetch_refs, push_refs, remote_refs, replace_ref
from autopilot.git.repository import Repository
from autopilot.review.proposals import built_commits
from autopilot.sharing.pushing import push
from autopilot.tracking.changes import Changes
from autopilot.tracking.notebook import Notebook


def publish(notebook: Notebook, review: Branch, remote: str, *, may_ask: bool = False) -> None:
    """Pushes a review branch with its experiment: branch, tags and notes.

    A review branch there that autopilot built from an earlier state is replaced.

    Args:
        notebook: The experiment.
        review: Its review branch.
        remote: A remote's name, a URL or a path.
        may_ask: Whether git may ask for a password at the terminal.

    Raises:
        RemoteError: the remote cannot be reached, or does not take it.
        ExperimentError: somebody committed on the review branch there.
    """
    _send(notebook, review, remote, may_ask=may_ask)
    for outcome in push(notebook.repo, remote, [notebook.slug], may_ask=may_ask).outcomes:
        if outcome.error:
            raise ExperimentError(outcome.error, hint=outcome.hint)


def publish_alone(
    notebook: Notebook, branch: Branch, remote: str, *, may_ask: bool = False
) -> None:
    """Pushes a branch that takes something back; as `publish`, without the experiment."""
    _send(notebook, branch, remote, may_ask=may_ask)


def unpublish(notebook: Notebook, remote: str, *, may_ask: bool = False) -> bool:
    """Deletes the review branch on a remote; returns whether there was one.

    Raises:
        RemoteError: the remote cannot be reached, or does not take it.
        ExperimentError: somebody committed on it.
    """
    repo, ref = notebook.repo, notebook.layout.review
    there = remote_refs(repo, remote, [ref], may_ask=may_ask).get(ref)
    if there is None:
        return False
    _check_built(notebook, ref, there, remote, may_ask=may_ask)
    replace_ref(repo, remote, ref, None, there, may_ask=may_ask)
    return True


def _send(notebook: Notebook, branch: Branch, remote: str, *, may_ask: bool) -> None:
    repo, ref = notebook.repo, branch.ref
    there = remote_refs(repo, remote, [ref], may_ask=may_ask).get(ref)
    if there == branch.tip:
        return
    grows = there is None or (has_object(repo, there) and is_ancestor(repo, there, branch.tip))
    if there is None or grows:
        for reason in push_refs(repo, remote, {ref: branch.tip}, may_ask=may_ask).rejected.values():
            raise RemoteError(
                f"{shown(remote)} did not take {branch.name} ({reason})",
                hint="somebody pushed to it meanwhile, or its branch rules forbid it",
            )
        return
    _check_built(notebook, ref, there, remote, may_ask=may_ask)
    replace_ref(repo, remote, ref, branch.tip, there, may_ask=may_ask)


def _check_built(notebook: Notebook, ref: str, tip: str, remote: str, *, may_ask: bool) -> None:
    """Refuses to replace what a person committed on the remote's branch."""
    repo = notebook.repo
    under = f"refs/autopilot/{notebook.slug}/theirs/"
    if not has_object(repo, tip):
        fetch_refs(repo, remote, [ref], under, may_ask=may_ask)
    try:
        if trailer(commits.read_commit(repo, tip).message, REVERTS):
            return
        built_commits(Changes(notebook), tip)
    except ExperimentError as error:
        name = ref.removeprefix(BRANCHES)
        raise ExperimentError(
            f"on {shown(remote)}, {error.message}",
            hint=f"look at it: git fetch {shown(remote)} {name} && git log -p FETCH_HEAD",
        ) from error
    finally:
        _forget(repo, f"{under}{ref}")


def _forget(repo: Repository, ref: str) -> None:
    oid = refs.read_ref(repo, ref)
    if oid is not None:
        refs.delete_ref(repo, ref, oid)
