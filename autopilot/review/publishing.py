"""Review branches on a remote: pushed, opened as a pull request, withdrawn, and reverted.

A pull request is opened by `gh` or `glab`, which know the user's account; nothing is sent from here
but by git and these programs.
"""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from autopilot.core.records.message import REVERTS, revert_message, trailer
from autopilot.errors import ExperimentError, RemoteError
from autopilot.git import commits, objects, refs, remotes
from autopilot.git.commands import for_git
from autopilot.git.locks import clear_stale_locks
from autopilot.git.objects import has_object
from autopilot.git.refs import BRANCHES, Branch, refuse_checked_out
from autopilot.git.repository import Repository
from autopilot.review.changes import Conflict, ParameterChange, ParameterHistory, apply_change
from autopilot.review.proposals import SWITCH, built_commits, edited, set_review
from autopilot.sandbox.programs import Finished, run_process
from autopilot.sharing.pushing import push
from autopilot.tracking.notebook import Notebook

_TIMEOUT_S = 600.0


def publish(
    notebook: Notebook, branch: Branch, remote: str, *, alone: bool = False
) -> tuple[str, ...]:
    """Pushes a review branch with its experiment: branch, tags and notes.

    A review branch there that autopilot built from an earlier state is replaced.

    Args:
        branch: Its review branch, or the one that reverts it.
        alone: Push the branch without the experiment.

    Returns:
        The lines of hooks and of the server.

    Raises:
        RemoteError: the remote cannot be reached, or does not take it.
        ExperimentError: the review branch on the remote has commits by hand.
    """
    repo, ref, said = notebook.repo, branch.ref, tuple[str, ...]()
    there = remotes.remote_refs(repo, remote, [ref]).get(ref)
    if there and not (has_object(repo, there) and commits.is_ancestor(repo, there, branch.tip)):
        _check_built(notebook, ref, there, remote)
        said = remotes.replace_ref(repo, remote, ref, branch.tip, there)
    elif there != branch.tip:
        pushed = remotes.push_refs(repo, remote, {ref: branch.tip})
        said = remotes.check_taken(remote, ref, pushed)
    if alone:
        return said
    result = push(repo, remote, [notebook.slug])
    for outcome in result.outcomes:
        if outcome.error:
            raise ExperimentError(outcome.error, hint=outcome.hint)
    return tuple(dict.fromkeys([*said, *result.said]))


def unpublish(notebook: Notebook, remote: str) -> bool:
    """Deletes the review branch on a remote; returns whether there was one. Raises as `publish`."""
    repo, ref = notebook.repo, notebook.layout.review
    there = remotes.remote_refs(repo, remote, [ref]).get(ref)
    if there is None:
        return False
    _check_built(notebook, ref, there, remote)
    remotes.replace_ref(repo, remote, ref, None, there)
    return True


def _check_built(notebook: Notebook, ref: str, tip: str, remote: str) -> None:
    """Refuses to replace what a person committed on the remote's branch."""
    repo = notebook.repo
    under = f"{notebook.layout.incoming}/"
    clear_stale_locks(repo, [notebook.layout.incoming])
    if not has_object(repo, tip):
        remotes.fetch_refs(repo, remote, [ref], under)
    try:
        if not trailer(commits.read_commit(repo, tip).message, REVERTS):
            built_commits(ParameterHistory(notebook), tip)
    except ExperimentError as error:
        name = ref.removeprefix(BRANCHES)
        raise ExperimentError(
            f"on {remotes.shown(remote)}, {error.message}",
            hint=f"look at it: git fetch {remotes.shown(remote)} {name} && git log -p FETCH_HEAD",
        ) from error
    finally:
        fetched = refs.read_ref(repo, f"{under}{ref}")
        if fetched is not None:
            refs.delete_ref(repo, f"{under}{ref}", fetched)


def withdraw(notebook: Notebook) -> str:
    """Deletes the review branch; returns the commit that it was at.

    Raises:
        ExperimentError: there is none, or it has commits by hand.
        RepositoryError: it is checked out somewhere.
    """
    layout = notebook.layout
    tip = refs.read_ref(notebook.repo, layout.review)
    if tip is None:
        raise ExperimentError(
            f"there is no proposal of {notebook.slug} here",
            hint="`autopilot propose list` shows those that there are",
        )
    built_commits(ParameterHistory(notebook), tip)
    refuse_checked_out(notebook.repo, layout.review, SWITCH)
    clear_stale_locks(notebook.repo, [layout.review])
    refs.delete_ref(notebook.repo, layout.review, tip)
    return tip


def take_back(notebook: Notebook, onto: Branch, epoch: int, reason: str = "") -> Branch:
    """Builds a branch that reverts what was merged: one commit on top of the target branch.

    Only the parameters change, to their content before the experiment; later changes to them stay.

    Args:
        epoch: The newest epoch that it has.
        reason: Why; written into the commit.

    Raises:
        ExperimentError: it cannot be taken back without conflict; it names the files.
    """
    repo, layout = notebook.repo, notebook.layout.revert
    whole = ParameterHistory(notebook).whole(onto.tip, epoch)
    back = ParameterChange(whole.epoch, whole.source, whole.after, whole.before)
    tree = apply_change(repo, onto.tip, back)
    if isinstance(tree, Conflict):
        raise ExperimentError(
            f"taking epoch {epoch} of {notebook.slug} back conflicts with {onto.name} in "
            f"{', '.join(tree.paths)}; nothing was written",
            hint=f"{onto.name} changed the same lines since: edit them by hand",
        )
    if tree == objects.tree_of(repo, onto.tip):
        raise ExperimentError(
            f"{onto.name} has nothing left of {notebook.slug}", hint="there is nothing to take back"
        )
    text = revert_message(notebook.slug, epoch, onto.short, reason)
    old = refs.read_ref(repo, layout.review)
    if old is not None:
        there = commits.read_commit(repo, old)
        if (there.parents, there.tree, there.message) == ((onto.tip,), tree, text):
            return Branch(layout.review_name, layout.review, old)
        if not trailer(there.message, REVERTS):
            raise edited(layout, there)
    made = commits.commit(repo, tree=tree, parents=[onto.tip], message=text)
    set_review(repo, layout.review, made, old, f"autopilot: take {notebook.slug} back")
    return Branch(layout.review_name, layout.review, made)


# --- pull requests -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A request as it is to be opened.

    Args:
        body: A file with its text, in Markdown.
        head: The branch with the changes, pushed.
        program: "gh" or "glab".
    """

    title: str
    body: Path
    head: str
    base: str
    program: str

    @property
    def command(self) -> str:
        """The command that opens it, as it is typed in a shell."""
        # glab takes no file.
        text = f' --description "$(cat {shlex.quote(str(self.body))})"'
        return shlex.join(self._arguments("create")) + ("" if self.program == "gh" else text)

    def open(self, folder: Path) -> str:
        """Opens it, or updates the one that is open for the branch; returns the request's address.

        Raises:
            RemoteError: the program is not installed, or refuses.
        """
        if shutil.which(self.program) is None:
            raise RemoteError(
                f"{self.program} is not installed, so the request is not opened",
                hint=f"open it in the browser, or install {self.program}: {self.command}",
            )
        done = self._run("create", folder)
        if done.code != 0 and "already exists" in done.stderr + done.stdout:
            done = self._run("edit", folder)
        if done.code != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise RemoteError(
                f"{self.program} did not open the request: {said[-1] if said else 'no reason'}",
                hint=f"run it by hand: {self.command}",
            )
        printed = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        return printed[-1] if printed else ""

    def _arguments(self, verb: str) -> list[str]:
        """The command; of glab's without the text."""
        title = ["--title", self.title]
        if self.program == "gh":
            branches = ["--base", self.base, "--head", self.head]
            place = branches if verb == "create" else [self.head]
            return ["gh", "pr", verb, *place, *title, "--body-file", str(self.body)]
        if verb == "edit":
            return ["glab", "mr", "update", self.head, *title]
        branches = ["--source-branch", self.head, "--target-branch", self.base]
        return ["glab", "mr", "create", *branches, *title, "--yes"]

    def _run(self, verb: str, folder: Path) -> Finished:
        command = self._arguments(verb)
        if self.program != "gh":
            command += ["--description", self.body.read_text(encoding="utf-8")]
        hint = f"install {self.program}"
        return run_process(command, folder=folder, timeout_s=_TIMEOUT_S, hint=hint, env=for_git())


def program_for(repo: Repository, remote: str) -> str:
    """Which program opens requests on a remote: by its address, else the one that is installed."""
    address = repo.config(f"remote.{remote}.url") or remote
    if "gitlab" in address:
        return "glab"
    if "github" in address or shutil.which("glab") is None or shutil.which("gh"):
        return "gh"
    return "glab"
