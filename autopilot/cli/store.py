"""Commands on the store: the states that an experiment went through, and your checkout."""

from __future__ import annotations

from typing import Annotated, Any

from autopilot.cli import arguments
from autopilot.cli.arguments import option
from autopilot.cli.context import Context
from autopilot.cli.experiment import write_decision
from autopilot.cli.output import Output
from autopilot.cli.reading import print_change
from autopilot.core.figures import progressed
from autopilot.git import objects
from autopilot.git.commits import Commit
from autopilot.report.comparison import file_documents
from autopilot.text import counted, git_date, iso, some
from autopilot.tracking.attribution import named
from autopilot.tracking.checkout import Checkout, ParameterState, find_state, snapshots
from autopilot.tracking.holding import fork
from autopilot.tracking.holding import merge as merge_bests
from autopilot.tracking.layout import free_slugs
from autopilot.tracking.notebook import Notebook

_STATE = arguments.Word(
    "EPOCH", "A number, best, last, tip, baseline, a tag, a commit, a snapshot's id.", "epoch"
)


def snapshot(
    context: Context,
    name: arguments.Name = None,
    message: Annotated[str, option("What it is; written into the commit.", "-m")] = "",
) -> None:
    """Keep your checkout's parameters as a commit; print its id.

    The commit stands on the experiment's tip, under refs/autopilot/SLUG/snapshots. Your branch,
    HEAD, index and files stay as they are. The same content is not kept twice.

    \b
    autopilot store snapshot -m "before I try it by hand"
    autopilot store checkout 1f2e3d4          later: takes it back
    """
    notebook, output = context.notebook(name), context.output
    checkout = Checkout(notebook)
    commit, is_new = checkout.snapshot(message)
    output.document(
        experiment=notebook.slug,
        commit=commit,
        new=is_new,
        files=sorted(checkout.present),
        differs_from_best=checkout.differs_from(notebook.best_commit),
    )
    if not output.as_json:
        output.line(commit)
        if not is_new:
            output.line("the same content was kept before, under this id")


def checkout(
    context: Context,
    state: Annotated[str, _STATE],
    name: arguments.Name = None,
    force: Annotated[bool, option("Replace uncommitted content too; a snapshot keeps it.")] = False,
) -> None:
    """Set your checkout's parameters to an epoch's content, exactly.

    Only the parameters' files are written; files that the epoch lacks are removed. HEAD and index
    stay as they are: `git diff` shows the change. Content that is neither committed nor part of
    the experiment is not replaced without --force.

    \b
    autopilot store checkout best
    autopilot store checkout classifier-1 3
    """
    notebook, output = context.notebook(name), context.output
    found, place = find_state(notebook, state), Checkout(notebook)
    changed, kept = place.set_to(found.commit, force=force)
    output.document(
        experiment=notebook.slug,
        epoch=found.epoch,
        commit=found.commit,
        changed=changed,
        snapshot=kept or None,
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
    name: arguments.Name = None,
    first: Annotated[str | None, _STATE] = None,
    second: Annotated[str | None, _STATE] = None,
    stat: arguments.Stat = False,
) -> None:
    """Compare your checkout's parameters with a state.

    It is the best state unless one is named. With two states it compares these. In a pipe it is
    exactly the patch.

    \b
    autopilot store diff               best state -> your checkout
    autopilot store diff 3             epoch 3 -> your checkout
    autopilot store diff 3 best        epoch 3 -> best state
    """
    notebook, output = context.notebook(name), context.output
    old = find_state(notebook, first or "best")
    before = old.commit
    if second is None:
        after, title = Checkout(notebook).tree(before), "your checkout"
    else:
        new = find_state(notebook, second)
        after, title = new.commit, new.title
    title = f"{notebook.slug}: {old.title} -> {title}"
    counts = objects.diff_stat(notebook.repo, before, after)
    if output.as_json:
        patch = notebook.patch(before, after).decode("utf-8", "replace")
        document = {"experiment": notebook.slug, "title": title, "files": file_documents(counts)}
        output.document(document, patch=patch)
    elif counts:
        if stat and not output.is_terminal:
            output.line(title)
        print_change(output, notebook, title, before, after, stat=stat)
    else:
        output.warning(f"{title}: no difference")


def log(
    context: Context,
    name: arguments.Name = None,
    count: Annotated[
        int | None, option("Only the newest so many.", "--max-count", "-n", min=1)
    ] = None,
) -> None:
    """List every commit, state, tag and snapshot.

    Commits with the same state have the same content.

    \b
    autopilot store log
    autopilot store log classifier-1 -n 20
    """
    notebook, output = context.notebook(name), context.output
    tags = _tags(notebook)
    found, kept = notebook.commits[:count], snapshots(notebook.repo, notebook.layout)
    output.document(
        experiment=notebook.slug,
        branch=notebook.layout.branch_name,
        total=len(notebook.commits),
        revisions=[_revision(c, notebook, tags.get(c.id)) for c in found],
        snapshots=[_revision(c, notebook, None) for c in kept[::-1]],
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


def status(context: Context, name: arguments.Name = None) -> None:
    """Show which state your checkout's parameters have.

    \b
    autopilot store status
    """
    notebook, output = context.notebook(name), context.output
    place = Checkout(notebook)
    states = len({commit.tree for commit in notebook.commits})
    tags, kept = _tags(notebook), snapshots(notebook.repo, notebook.layout)
    at, unsaved = place.is_at(), place.unsaved()
    differs = place.differs_from(notebook.best_commit)
    output.document(
        experiment=notebook.slug,
        branch=notebook.layout.branch_name,
        tip=notebook.tip,
        commits=len(notebook.commits),
        states=states,
        kept_epochs=len(tags),
        snapshots=[commit.id for commit in kept],
        checkout={
            "epochs": [state.epoch for state in at if state.epoch is not None],
            "differs_from_best": differs,
            "unsaved": unsaved,
        },
    )
    parts = [counted(len(notebook.commits), "commit"), counted(states, "state")]
    parts += [counted(len(tags), "tag"), counted(len(kept), "snapshot")]
    output.line(f"{notebook.slug}: {', '.join(parts)}, tip {notebook.tip[:7]}")
    output.line(f"your checkout: {_where(at, differs)}")
    if unsaved:
        output.line(f"neither committed nor kept: {some(unsaved)}")
        output.line("keep it: autopilot store snapshot")


def branch(
    context: Context,
    new: Annotated[str, arguments.Word("NEWNAME", "The new experiment's name.")],
    name: arguments.Name = None,
    state: Annotated[
        str, option("The epoch to start from, kept or not.", "--from", metavar="EPOCH")
    ] = "best",
    idea: arguments.Idea = "",
    hypothesis: arguments.Hypothesis = "",
) -> None:
    """Fork an experiment from any epoch.

    The fork has the same target, arguments, options and seed, and the lessons that the experiment
    itself began with. Its baseline is its own, and its own memory is empty. Nothing is run;
    `autopilot resume NEWNAME` goes on.

    \b
    autopilot store branch classifier-1 classifier-1b --from 3
    autopilot resume classifier-1b
    """
    notebook, output = context.notebook(name), context.output
    epoch = named(notebook, state)
    made = fork(notebook, epoch.number, context.full_slug(new), idea=idea, hypothesis=hypothesis)
    monitor, mode = notebook.monitor
    scored = progressed(monitor, epoch.value, None, mode)
    output.line(f"{made.slug}: forked from {notebook.slug}, {epoch.title} ({scored})")
    _tell_made(output, notebook, made, epoch.number)


def merge(
    context: Context,
    other: Annotated[str, arguments.Word("OTHER", "The experiment to merge into it.")],
    name: arguments.Name = None,
    new: Annotated[
        str | None, option("The new one's name; NAME-merged-1 if not.", "--as", metavar="NEWNAME")
    ] = None,
    idea: arguments.Idea = "",
    hypothesis: arguments.Hypothesis = "",
) -> None:
    """Merge the best states of two experiments into a new one.

    It is a three-way merge, as `git merge` does it. Neither of the two changes. If both changed
    the same lines, the files are named and nothing is written. The merged state is not measured
    yet: `autopilot resume NEWNAME` does that first.

    \b
    autopilot store merge classifier-1 classifier-2
    autopilot store merge classifier-1 classifier-2 --as both
    """
    ours, output = context.notebook(name), context.output
    theirs = Notebook(ours.repo, context.full_slug(other))
    project, _, stem = ours.slug.rpartition("/")
    free = free_slugs(ours.repo, f"{stem}-merged", project or None)
    slug = context.full_slug(new) if new else next(free)
    made = merge_bests(ours, theirs, slug, idea=idea, hypothesis=hypothesis)
    if made is None:
        output.line(f"nothing to merge: {ours.slug} has all that {theirs.slug} changed")
        output.document(experiment=None, merged=[ours.slug, theirs.slug])
        return
    output.line(f"{made.slug}: merged from {ours.slug} and {theirs.slug}, without conflict")
    if theirs.manifest.target != ours.manifest.target:
        output.line(f"note: it runs the target of {ours.slug}: {ours.manifest.target}")
    best = ours.last.best_epoch if ours.last else 0
    _tell_made(output, ours, made, best, merged=[ours.slug, theirs.slug])


def _tell_made(output: Output, source: Notebook, made: Notebook, epoch: int, **more: Any) -> None:
    output.line(f"start commit {made.start[:7]} on autopilot/{made.slug}; nothing was run")
    in_program = f" in your program: Trainer(experiment=Experiment(GitStore({made.slug!r})))"
    how = f": autopilot resume {made.slug}" if source.manifest.target else in_program
    output.line(f"go on{how}")
    output.document(
        experiment=made.slug,
        branch=f"autopilot/{made.slug}",
        start=made.start,
        base=made.manifest.base,
        forked_from={"experiment": source.slug, "epoch": epoch},
        **more,
    )


def promote(
    context: Context,
    name: arguments.Name = None,
    epoch: arguments.EpochOrOption = "best",
    reason: arguments.Reason = "",
    reviewer: arguments.Reviewer = "",
) -> None:
    """Write down that an epoch is to be taken over.

    No branch and no file moves. The same as `autopilot experiment decide NAME promote`. To merge
    it at once: `autopilot promote execute`.

    \b
    autopilot store promote best --reason "passes the audit set"
    """
    write_decision(context, context.notebook(name), "promote", epoch, reason, reviewer)


COMMANDS = {
    "snapshot": snapshot,
    "checkout": checkout,
    "diff": diff,
    "branch": branch,
    "merge": merge,
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


def _row(commit: Commit, notebook: Notebook, tag: str) -> list[str]:
    subject = commit.message.partition("\n")[0].removeprefix(f"autopilot({notebook.slug}): ")
    return [commit.id[:7], commit.tree[:7], tag, subject]


def _revision(commit: Commit, notebook: Notebook, tag: str | None) -> dict[str, Any]:
    return {
        "commit": commit.id,
        "tree": commit.tree,
        "tag": notebook.layout.tags.removeprefix("refs/tags/") + tag if tag else None,
        "what": _row(commit, notebook, "")[-1],
        "time": iso(commit.time_s),
    }


def _where(at: list[ParameterState], differs: list[str]) -> str:
    if at:
        return f"the parameters are as in {', '.join(state.title for state in at)}"
    if not differs:
        return "the parameters are as where the experiment started"
    differ = f"{counted(len(differs), 'file')} differ{'s' if len(differs) == 1 else ''}"
    return f"{differ} from the best state ({some(differs)})"
