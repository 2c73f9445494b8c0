"""autopilot propose: an experiment's kept epochs as a branch for a pull request."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from autopilot.cli.arguments import LIMITS, Links, Live, Name, Reason, option
from autopilot.cli.context import Context
from autopilot.cli.pages import proposal as proposal_page
from autopilot.engine.options import Options
from autopilot.errors import UsageError, translated_as
from autopilot.git.commits import is_ancestor
from autopilot.git.refs import find_branch, read_ref
from autopilot.git.remotes import default_remote
from autopilot.proof.verification import verify as measure
from autopilot.report.comparison import picked
from autopilot.review import publishing
from autopilot.review.changes import ParameterHistory, target_branch
from autopilot.review.proposals import Proposal, proposal_of, propose, standings
from autopilot.text import redact
from autopilot.tracking.notebook import Notebook

Push = Annotated[
    bool, option("Push it, with the experiment's branch, tags and notes, by `git push`.")
]
Remote = Annotated[str | None, option("Where to push; the branch's remote if not.", metavar="NAME")]


def create(
    context: Context,
    name: Name = None,
    onto: Annotated[
        str | None, option("What it is for; where the experiment started if not.", metavar="BRANCH")
    ] = None,
    body: Annotated[
        Path | None, option("Write the pull request's text there.", metavar="FILE")
    ] = None,
    push: Push = False,
    remote: Remote = None,
    open_: Annotated[
        bool, option("Push, and open the request with `gh` or `glab`.", "--open")
    ] = False,
) -> None:
    """Build or update a review branch, and the request's text.

    autopilot-review/SLUG has one commit for each kept epoch on top of the target branch, by
    three-way merge; only the parameters change. If both changed the same lines, the epoch and the
    files are named and nothing is written. Your checkout stays as it is. Run it again when the
    experiment or the target branch has moved. Commits made there by hand are never
    replaced.

    \b
    autopilot propose create classifier-1
    autopilot propose create classifier-1 --onto release --body request.md
    autopilot propose create classifier-1 --open
    """
    notebook, output = context.notebook(name), context.output
    where = (remote or default_remote(notebook.repo, pushing=True)) if push or open_ else ""
    proposal = propose(notebook, onto)
    request = _request(context, notebook, proposal, body, where or remote)
    text = request.body.read_text(encoding="utf-8")
    output.lines(proposal_page.built(proposal))
    if body is None:
        output.lines(("", request.title, "", text))
    else:
        output.line(f"wrote the request's text to {body}")
    if where:
        output.lines(map(redact, publishing.publish(notebook, proposal.branch, where)))
        output.line(
            f"pushed to {where}: {proposal.branch.name}, and autopilot/{notebook.slug} with its "
            "tags and notes"
        )
        there = read_ref(notebook.repo, f"refs/remotes/{where}/{proposal.onto.short}")
        if there is not None and not is_ancestor(notebook.repo, proposal.base, there):
            output.warning(
                f"{proposal.onto.short} has commits that {where} has not; they will be part of the "
                f"request: git push {where} {proposal.onto.short}"
            )
    address = request.open(notebook.repo.workdir) if open_ else ""
    if open_:
        output.line(f"the request: {address}")
    else:
        if not where:
            output.line(f"push it: autopilot propose create {notebook.slug} --push")
        output.line(f"open it: {request.command}")
    document = proposal_page.document(notebook, proposal, text)
    document |= {"title": request.title, "pushed": where or None}
    output.document(document, command=request.command, request=address or None)


def verify(
    context: Context,
    name: Name = None,
    repeats: Annotated[int, option("Measure each so often.", min=1)] = 1,
    confidence: Annotated[float, option("Of the interval.", min=0.5, max=0.999)] = 0.95,
    tolerance: Annotated[
        float | None, option("How far from the score on record is the same.", min=0.0)
    ] = None,
    live: Live = False,
    link: Links = None,
    *,
    limits: Annotated[Options, *LIMITS],
) -> int:
    """Measure base and head again, and test the claim.

    Both are evaluated on the test split, each in a worktree and processes of its own. The claim
    holds if the confidence interval of the items' paired difference is above 0 and head scores
    what is on record. Otherwise the exit code is 1. Without a test split it is val, which the
    epochs were chosen by. Model calls are answered from the record, unless --live.

    \b
    autopilot propose verify classifier-1
    autopilot propose verify classifier-1 --repeats 5 --live
    """
    notebook, output = context.notebook(name), context.output
    proposal = proposal_of(notebook)
    output.lines(notebook.manifest.commands)  # of a note, as in a replay
    found = measure(
        notebook,
        proposal,
        repeats=repeats,
        confidence=confidence,
        tolerance=tolerance,
        live=live,
        links=tuple(link or ()),
        limits=limits,
    )
    output.lines(proposal_page.verification(found))
    facts = asdict(found)
    output.document({"experiment": facts.pop("slug"), "holds": found.holds} | facts)
    return 0 if found.holds else 1


def revert(
    context: Context,
    name: Name = None,
    reason: Reason = "",
    push: Push = False,
    remote: Remote = None,
) -> None:
    """Take a proposal back: its branch, or what was merged.

    Before it is merged, its review branch is deleted; with --push on the remote too. Afterwards
    autopilot-review/SLUG-revert is built: one commit on top of the target branch that sets the
    parameters to what they were, and leaves what was changed in them since.

    \b
    autopilot propose revert classifier-1
    autopilot propose revert classifier-1 --push --reason "worse in production"
    """
    notebook, output = context.notebook(name), context.output
    review, name = notebook.layout.review, notebook.layout.review.removeprefix("refs/heads/")
    where = (remote or default_remote(notebook.repo, pushing=True)) if push else ""
    there = find_branch(notebook.repo, name)
    onto = proposal_of(notebook).onto if there else target_branch(notebook, None)
    known = ParameterHistory(notebook).merged_into(onto.tip)
    document = {"experiment": notebook.slug, "onto": onto.name, "merged": known.epoch}
    if known.epoch:
        made = publishing.take_back(notebook, onto, known.epoch, reason)
        output.line(f"{onto.name} has epoch {known.epoch} of {notebook.slug} already")
        output.line(f"{made.name}: one commit on {onto.name} that takes it back, {made.tip[:7]}")
        output.line(f"see it:   git show {made.name}")
        if where:
            output.lines(map(redact, publishing.publish(notebook, made, where, alone=True)))
            output.line(f"pushed to {where}")
        output.line(f"merge it: git switch {onto.short} && git merge --ff-only {made.name}")
        output.document(document, branch=made.name, tip=made.tip, deleted=None)
        return
    # The remote's goes first: what cannot be deleted there is still here.
    deleted = bool(where) and publishing.unpublish(notebook, where)
    tip = None
    if not deleted or read_ref(notebook.repo, review) is not None:
        tip = publishing.withdraw(notebook)
        output.line(f"deleted {name}; it was at {tip[:10]}")
    if where:
        output.line(f"deleted it on {where}" if deleted else f"{where} has none")
    elif left := find_branch(notebook.repo, name):
        output.line(f"{left.name} is still there: the same with --push deletes it, too")
    output.line(f"again: autopilot propose create {notebook.slug}")
    output.document(document, branch=None, tip=tip, deleted=name)


def list_(context: Context) -> None:
    """List proposals and how they stand.

    open, merged, reverted, outdated (newer epochs were kept), conflicts (with the target branch),
    or edited (by hand).

    \b
    autopilot propose list
    """
    output = context.output
    found = standings(context.repository(), context.project)
    output.document(
        proposals=[
            {
                "experiment": s.slug,
                **picked(s, "state epochs detail"),
                "branch": s.branch.name,
                "tip": s.branch.tip,
                "onto": s.onto or None,
            }
            for s in found
        ]
    )
    if not found:
        output.line("no proposals yet")
        output.line("make one: autopilot propose create SLUG")
        return
    output.lines(proposal_page.table(found))


COMMANDS = {"create": create, "verify": verify, "revert": revert, "list": list_}


def _request(
    context: Context, notebook: Notebook, proposal: Proposal, file: Path | None, remote: str | None
) -> publishing.PullRequest:
    """The request, its text written to a file that it can be opened from."""
    place = notebook.layout.request(notebook.repo)
    if file is not None:
        place = context.working_folder() / file
    with translated_as(UsageError, f"cannot write {place}", "name another file: --body FILE"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(proposal_page.body(notebook, proposal), encoding="utf-8")
    return publishing.PullRequest(
        proposal_page.title(notebook, proposal),
        place,
        proposal.branch.name,
        proposal.onto.short,
        publishing.program_for(notebook.repo, remote or "origin"),
    )
