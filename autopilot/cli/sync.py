"""autopilot push and fetch: experiments between machines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopilot.cli.completion import experiment_names
from autopilot.cli.context import Context
from autopilot.text import counted

if TYPE_CHECKING:
    from autopilot.git.repository import Repository
    from autopilot.sharing.fetching import Synced

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[REMOTE] [SLUG]...",
        help="A remote (its name, a URL, a path), then experiments; all if none is named.",
        show_default=False,
        autocompletion=experiment_names,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would happen; change nothing on either side.")
]


def push(context: Context, names: Names = None, dry_run: DryRun = False) -> int:
    """Push experiments: branch, tags and notes together.

    All or nothing, if the remote can. Notes that somebody else wrote meanwhile are fetched and
    merged first. Nothing is overwritten: an experiment that was continued on both sides is left as
    it is and named.

    \b
    autopilot push                           all, to the branch's remote
    autopilot push origin classifier-1
    autopilot push --dry-run
    """
    from autopilot.sharing.pushing import push as send

    repo = context.repository()
    remote, slugs = _split(context, repo, names or [], pushing=True)
    report = send(
        repo, remote, slugs, project=context.project, dry_run=dry_run, may_ask=_may_ask(context)
    )
    if not report.atomic:
        context.output.warning(
            "the remote takes no push as a whole: notes and tags went first, then the branches"
        )
    return _tell(context, remote, report.outcomes, "pushed", dry_run, {"atomic": report.atomic})


def fetch(context: Context, names: Names = None, dry_run: DryRun = False) -> int:
    """Fetch experiments: branch, tags and notes together.

    `status`, `log`, `replay` and `resume` work on them then. Notes that were written on both sides
    are merged, a branch moves only forward, tags never move. An experiment that was continued on
    both sides, is being run here or is checked out is left as it is and named.

    \b
    autopilot fetch                          all, from the branch's remote
    autopilot fetch origin classifier-1
    autopilot fetch ../colleague/repo --dry-run
    """
    from autopilot.sharing.fetching import fetch as receive

    repo = context.repository()
    remote, slugs = _split(context, repo, names or [], pushing=False)
    outcomes = receive(
        repo, remote, slugs, project=context.project, dry_run=dry_run, may_ask=_may_ask(context)
    )
    return _tell(context, remote, outcomes, "fetched", dry_run, {})


def _split(
    context: Context, repo: Repository, names: list[str], *, pushing: bool
) -> tuple[str, list[str]]:
    """The remote and the slugs; the first name is the remote if it can be one."""
    from autopilot.git.remotes import default_remote, is_address, remotes

    rest = names
    if names and names[0] in remotes(repo):
        remote, rest = names[0], names[1:]
    elif names and is_address(names[0]):
        remote, rest = names[0], names[1:]
        if remote.startswith("."):  # as it is seen from where the command was typed
            remote = str((context.working_folder() / remote).resolve())
    else:
        remote = default_remote(repo, pushing=pushing)
        if names and pushing:
            _check_known(context, repo, names[0])
    return remote, [context.full_slug(slug) for slug in rest]


def _check_known(context: Context, repo: Repository, name: str) -> None:
    """Says of a name that is nothing here that it is no remote, either."""
    from autopilot.errors import UsageError
    from autopilot.git.remotes import remotes
    from autopilot.tracking.layout import experiments

    there = experiments(repo)
    if context.full_slug(name) not in there:
        raise UsageError(
            f"{name} is neither a remote nor an experiment here",
            hint=f"remotes: {', '.join(remotes(repo))}; experiments: {', '.join(there) or 'none'}",
        )


def _may_ask(context: Context) -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty() and not context.output.as_json


def _tell(
    context: Context,
    remote: str,
    outcomes: list[Synced],
    verb: str,
    dry_run: bool,
    more: dict[str, Any],
) -> int:
    from autopilot.errors import ExperimentError
    from autopilot.git.remotes import shown

    output, failed = context.output, [outcome for outcome in outcomes if outcome.error]
    output.document(
        {
            "remote": shown(remote),
            "dry_run": dry_run,
            **more,
            "experiments": [_document(outcome) for outcome in outcomes],
        }
    )
    if output.as_json:
        return 1 if failed else 0
    if not outcomes:
        there = "here" if verb == "pushed" else f"on {shown(remote)}"
        of = f" of the project {context.project}" if context.project else ""
        output.line(f"no experiments{of} {there}")
        return 0
    would = "would be " if dry_run else ""
    output.line(f"{would}{verb} {'to' if verb == 'pushed' else 'from'} {shown(remote)}:")
    width = max(len(outcome.slug) for outcome in outcomes)
    for outcome in outcomes:
        output.line(f"  {outcome.slug:{width}}  {_words(outcome, verb)}")
    for outcome in failed[:-1]:
        output.error(ExperimentError(outcome.error, hint=outcome.hint))
    if failed:
        raise ExperimentError(failed[-1].error, hint=failed[-1].hint)
    return 0


def _words(outcome: Synced, verb: str) -> str:
    if outcome.error:
        return "left as it is, see below"
    parts = ["new"] if outcome.is_new else []
    if outcome.commits:
        parts.append(counted(outcome.commits, "commit"))
    if outcome.tags:
        parts.append(counted(outcome.tags, "tag"))
    if outcome.notes and not outcome.is_new:
        parts.append(f"notes ({', '.join(outcome.notes)})")
    if outcome.merged:
        parts.append(f"merged with those of the other side: {', '.join(outcome.merged)}")
    if outcome.state == "up to date":
        parts.append("up to date")
    if outcome.ahead and verb == "fetched":
        parts.append(f"{counted(outcome.ahead, 'commit')} to push")
    return "; ".join([", ".join(parts), *outcome.remarks])


def _document(outcome: Synced) -> dict[str, Any]:
    return {
        "experiment": outcome.slug,
        "state": outcome.state,
        "commits": outcome.commits,
        "ahead": outcome.ahead,
        "tags": outcome.tags,
        "notes": outcome.notes,
        "merged": outcome.merged,
        "remarks": outcome.remarks,
        "error": outcome.error,
        "hint": outcome.hint,
    }
