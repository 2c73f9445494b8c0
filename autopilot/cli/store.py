"""Commands on the store: the states that an experiment went through, and your checkout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopilot.cli import forking
from autopilot.cli.context import Context
from autopilot.cli.reading import SlugOption
from autopilot.report.comparison import file_documents
from autopilot.text import counted, git_date, iso

if TYPE_CHECKING:
    from autopilot.git.commits import Commit
    from autopilot.tracking.checkout import ParameterState
    from autopilot.tracking.notebook import Notebook

_STATE = "A number, best, last, baseline, a tag, a commit, or a snapshot's id"


def snapshot(
    context: Context,
    slug: SlugOption = None,
    message: Annotated[
        str, typer.Option("--message", "-m", help="What it is; written into the commit.")
    ] = "",
) -> None:
    """Keep your checkout's parameters as a commit; print its id.

    The commit stands on the experiment's tip, under refs/autopilot/SLUG/snapshots. Your branch,
    HEAD, index and files stay as they are. The same content is not kept twice.

    \b
    autopilot store snapshot -m "before I try it by hand"
    autopilot store checkout 1f2e3d4          later: takes it back
    """
    from autopilot.tracking.checkout import Checkout

    notebook, output = context.notebook(slug), context.output
    checkout = Checkout(notebook)
    commit, is_new = checkout.snapshot(message)
    output.document(
        {
            "experiment": notebook.slug,
            "commit": commit,
            "new": is_new,
            "files": sorted(checkout.present),
            "differs_from_best": checkout.differs_from(notebook.best_commit),
        }
    )
    if not output.as_json:
        output.line(commit)
        if not is_new:
            output.line("the same content was kept before, under this id")


def checkout(
    context: Context,
    state: Annotated[str, typer.Argument(metavar="EPOCH", help=f"{_STATE}.")],
    slug: SlugOption = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace uncommitted content too; a snapshot keeps it."),
    ] = False,
) -> None:
    """Set your checkout's parameters to an epoch's content, exactly.

    Only the parameters' files are written; files that the epoch lacks are removed. HEAD and index
    stay as they are: `git diff` shows the change. Content that is neither committed nor part of
    the experiment is not replaced without --force.

    \b
    autopilot store checkout best
    autopilot store checkout 3 -e classifier-1
    """
    from autopilot.tracking.checkout import Checkout, find_state

    notebook, output = context.notebook(slug), context.output
    found, place = find_state(notebook, state), Checkout(notebook)
    changed, kept = place.set_to(found.commit, force=force)
    output.document(
        {
            "experiment": notebook.slug,
            "epoch": found.epoch,
            "commit": found.commit,
            "changed": changed,
            "snapshot": kept or None,
        }
    )
    if not changed:
        output.line(f"your checkout is at {found.title} of {notebook.slug} already")
        return
    files = changed[0] if len(changed) == 1 else counted(len(changed), "file")
    output.line(f"set to {found.title} of {notebook.slug}: {files}")
    if kept:
        output.line(f"what was there is kept: autopilot store checkout {kept[:10]}")
    paths = " ".join(where.pathspec for where in place.places)
    output.line(f"see it:       git diff -- {paths}")
    output.line(f"back to HEAD: git restore -- {paths}")


def diff(
    context: Context,
    first: Annotated[str | None, typer.Argument(metavar="[EPOCH]", help=f"{_STATE}.")] = None,
    second: Annotated[
        str | None, typer.Argument(metavar="[EPOCH]", help="Compare with this, not your checkout.")
    ] = None,
    slug: SlugOption = None,
    stat: Annotated[
        bool, typer.Option("--stat", help="Name the changed files instead of the changes.")
    ] = False,
) -> None:
    """Compare your checkout's parameters with a state.

    It is the best state unless one is named.

    With two states it compares these. In a pipe it is exactly the patch.

    \b
    autopilot store diff               best state -> your checkout
    autopilot store diff 3             epoch 3 -> your checkout
    autopilot store diff 3 best        epoch 3 -> best state
    """
    from autopilot.git import objects
    from autopilot.tracking.checkout import Checkout, find_state

    notebook, output = context.notebook(slug), context.output
    old = find_state(notebook, first or "best")
    before = objects.tree_of(notebook.repo, old.commit)
    if second is None:
        after, title = Checkout(notebook).tree(old.commit), "your checkout"
    else:
        new = find_state(notebook, second)
        after, title = objects.tree_of(notebook.repo, new.commit), new.title
    title = f"{notebook.slug}: {old.title} -> {title}"
    counts = objects.diff_stat(notebook.repo, before, after)
    if output.as_json:
        files = file_documents(counts)
        patch = notebook.patch(before, after).decode("utf-8", "replace")
        output.document(
            {"experiment": notebook.slug, "title": title, "files": files} | {"patch": patch}
        )
    elif not counts:
        output.warning(f"{title}: no difference")
    elif output.is_terminal or stat:
        output.line(title, "yellow")
        color = "--color=always" if output.is_terminal and output.color else "--no-color"
        options = [color, *(["--stat"] if stat else [])]
        output.raw(notebook.picture(before, after, *options))
    else:
        output.raw(notebook.patch(before, after))


def log(
    context: Context,
    slug: SlugOption = None,
    count: Annotated[
        int | None, typer.Option("--max-count", "-n", min=1, help="Only the newest so many.")
    ] = None,
) -> None:
    """List every commit, state, tag and snapshot.

    Commits with the same state have the same content.

    \b
    autopilot store log
    autopilot store log -e classifier-1 -n 20
    """
    from autopilot.tracking.checkout import snapshots

    notebook, output = context.notebook(slug), context.output
    tags = _tags(notebook)
    found, kept = notebook.commits[:count], snapshots(notebook)
    output.document(
        {
            "experiment": notebook.slug,
            "branch": notebook.layout.branch_name,
            "total": len(notebook.commits),
            "revisions": [_revision(c, notebook, tags.get(c.id)) for c in found],
            "snapshots": [_revision(c, notebook, None) for c in kept[::-1]],
        }
    )
    if output.as_json:
        return
    rows = [_row(commit, notebook, tags.get(commit.id, "")) for commit in found]
    output.table(["commit", "state", "tag", "what"], rows)
    if len(found) < len(notebook.commits):
        output.line(f"{len(notebook.commits) - len(found)} older commits are not shown")
    if kept:
        output.line()
        rows = [[*_row(commit, notebook, "")[:2], git_date(commit.time_s)] for commit in kept[::-1]]
        output.table(["snapshot", "state", "kept"], rows)


def status(context: Context, slug: SlugOption = None) -> None:
    """Show which state your checkout's parameters have.

    \b
    autopilot store status
    """
    from autopilot.tracking.checkout import Checkout, snapshots

    notebook, output = context.notebook(slug), context.output
    place = Checkout(notebook)
    states = len({commit.tree for commit in notebook.commits})
    tags, kept = _tags(notebook), snapshots(notebook)
    at, unsaved = place.is_at(), place.unsaved()
    differs = place.differs_from(notebook.best_commit)
    output.document(
        {
            "experiment": notebook.slug,
            "branch": notebook.layout.branch_name,
            "tip": notebook.tip,
            "commits": len(notebook.commits),
            "states": states,
            "kept_epochs": len(tags),
            "snapshots": [commit.id for commit in kept],
            "checkout": {
                "epochs": [state.epoch for state in at if state.epoch is not None],
                "differs_from_best": differs,
                "unsaved": unsaved,
            },
        }
    )
    parts = [counted(len(notebook.commits), "commit"), counted(states, "state")]
    parts += [counted(len(tags), "tag"), counted(len(kept), "snapshot")]
    output.line(f"{notebook.slug}: {', '.join(parts)}, tip {notebook.tip[:7]}")
    output.line(f"your checkout: {_where(at, differs)}")
    if unsaved:
        output.line(f"neither committed nor kept: {_some(unsaved)}")
        output.line("keep it: autopilot store snapshot")


def promote(
    context: Context,
    state: Annotated[
        str,
        typer.Argument(metavar="[EPOCH]", help="A number, best, last, baseline, a tag, a commit."),
    ] = "best",
    slug: SlugOption = None,
    reason: Annotated[str, typer.Option(help="Why; written down.")] = "",
    reviewer: Annotated[str, typer.Option(help="Who decides; you, as git knows you.")] = "",
) -> None:
    """Write down that an epoch is to be taken over.

    No branch and no file moves. The same as `autopilot experiment decide SLUG promote`. To merge
    it at once: `autopilot promote execute`.

    \b
    autopilot store promote best --reason "passes the audit set"
    """
    from autopilot.cli.experiment import write_decision

    write_decision(context, context.notebook(slug), "promote", state, reason, reviewer)


COMMANDS = {
    "snapshot": snapshot,
    "checkout": checkout,
    "diff": diff,
    "branch": forking.branch,
    "merge": forking.merge,
    "log": log,
    "status": status,
    "promote": promote,
}


def _tags(notebook: Notebook) -> dict[str, str]:
    """Commit to the short name of its tag."""
    return {
        e.commit: notebook.layout.tag_name(e.number).rpartition("/")[2]
        for e in notebook.epochs
        if e.verdict != "rejected"
    }


def _what(commit: Commit, notebook: Notebook) -> str:
    subject = commit.message.partition("\n")[0]
    return subject.removeprefix(f"autopilot({notebook.slug}): ")


def _row(commit: Commit, notebook: Notebook, tag: str) -> list[str]:
    return [commit.id[:7], commit.tree[:7], tag, _what(commit, notebook)]


def _revision(commit: Commit, notebook: Notebook, tag: str | None) -> dict[str, Any]:
    return {
        "commit": commit.id,
        "tree": commit.tree,
        "tag": notebook.layout.tags.removeprefix("refs/tags/") + tag if tag else None,
        "what": _what(commit, notebook),
        "time": iso(commit.time_s),
    }


def _where(at: list[ParameterState], differs: list[str]) -> str:
    if at:
        return f"the parameters are as in {', '.join(state.title for state in at)}"
    if not differs:
        return "the parameters are as where the experiment started"
    differ = f"{counted(len(differs), 'file')} differ{'s' if len(differs) == 1 else ''}"
    return f"{differ} from the best state ({_some(differs)})"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
