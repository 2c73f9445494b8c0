"""An experiment between its runs: held, tagged, decided on, forked, merged.

A fork is a whole experiment: a start commit with a manifest, and no epoch yet. Its history leads
back into the experiment that it comes from, so git knows where it left it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from autopilot.core.records.message import (
    EXPERIMENT,
    epoch_tag,
    plain_message,
    start_message,
    tag_message,
    trailer,
)
from autopilot.core.records.record import Event, Manifest, MetricsRecord, StepRecord
from autopilot.core.states import val_record_on
from autopilot.errors import ExperimentError, LockHeldError, RefMovedError, RepositoryError
from autopilot.git import commits, objects, refs
from autopilot.git.locks import named, one_at_a_time
from autopilot.git.repository import Repository
from autopilot.tracking.attribution import candidates_of
from autopilot.tracking.attribution import named as epoch_named
from autopilot.tracking.journal import Journal, ProgressFile
from autopilot.tracking.layout import Layout, held
from autopilot.tracking.notebook import Notebook

_ANEW = "git tag -d {}, then autopilot gc makes it anew"


@contextmanager
def stopped(repo: Repository, slug: str) -> Iterator[Notebook]:
    """Holds an experiment for the time of the body: no run of it can start meanwhile.

    Raises:
        ExperimentError: there is no such experiment.
        RecordError: a line with a verdict cannot be read: nothing is written on top of it.
        LockHeldError: it is running.
    """
    # Before the lock: a name that does not exist leaves no lock file behind.
    Notebook(repo, slug)
    with held(repo, slug):
        notebook = Notebook(repo, slug)
        notebook.need(Event, MetricsRecord)
        yield notebook


def missing_tags(repo: Repository, slug: str) -> list[tuple[int, int]]:
    """The kept states of an experiment whose tags are gone: deleted by hand, or not fetched.

    Returns:
        The epoch of each, and its number among the candidates that stay; 0: the epoch's best one.

    Raises:
        RefMovedError: a tag is on another commit than its state, or its object is gone.
    """
    notebook, missing = Notebook(repo, slug), list[tuple[int, int]]()
    there = refs.list_refs(repo, notebook.layout.tags)
    for row in notebook.index.epochs:
        states = dict.fromkeys([0] * row.is_kept, row.revision)
        # The index lacks the commits of candidates.
        read = notebook.journal.read_on
        if row.stay and (record := val_record_on(read, row.revision, row.number)):
            states |= {number: record.revisions[number - 1] for number in sorted(row.stay)}
        for candidate, commit in states.items():
            tag = notebook.layout.tag_name(row.number, candidate)
            if (oid := there.get(f"refs/tags/{tag}")) is None:
                missing.append((row.number, candidate))
                continue
            kind, hint = "candidate" if candidate else "epoch", _ANEW.format(tag)
            try:
                on = commits.peel(repo, oid)
            except RepositoryError as error:
                raise RefMovedError(f"the tag {tag} has no object {oid[:7]}", hint=hint) from error
            if on != commit:
                says = f"the tag {tag} is on {on[:7]}, its {kind} on {commit[:7]}"
                raise RefMovedError(says, hint=hint)
    return missing


def make_tags(repo: Repository, slug: str, states: Sequence[tuple[int, int]]) -> None:
    """Makes tags again from the records."""
    with stopped(repo, slug) as notebook:
        for number, candidate in states:
            ref = f"{notebook.layout.tags}{epoch_tag(number, candidate)}"
            try:
                refs.read_ref(repo, ref)
            except RepositoryError:  # a file that is no ref; a packed one may be behind it
                (repo.common_dir / ref).unlink(missing_ok=True)
                repo.damaged.pop(repo.leave_out(ref).message)
            of = candidates_of(notebook, number) if candidate else [notebook.epoch(number)]
            epoch = next(each for each in of if candidate in (0, each.record.candidate))
            text = tag_message(slug, epoch.record, epoch.metrics)
            commits.create_tag(
                repo, notebook.layout.tag_name(number, candidate), epoch.commit, text
            )


def unnoted(notebook: Notebook) -> list[str]:
    """Commits behind the last verdict whose notes are not here: another machine made them."""
    last, made = notebook.last.epoch if notebook.last else -1, notebook.open_steps
    found = [
        commit.id
        for number, steps in made.items()
        for commit in steps
        # A run that goes on is one epoch ahead of its verdicts, and notes each step first.
        if number > last + 1 or not notebook.journal.read_on(commit.id, StepRecord)
    ]
    found += [made[epoch][-1].id for epoch in notebook.tagged if epoch > last and epoch in made]
    return found + [back.id for number, back in notebook.open_rollbacks.items() if number > last]


def refuse_torn(notebook: Notebook) -> None:
    """Refuses to go on with a branch that is of another time than its notes and tags.

    Else an epoch is measured before its tag turns out to be taken.

    Raises:
        ExperimentError: its notes are older than it is, or its tags are newer.
    """
    repo, slug, layout = notebook.repo, notebook.slug, notebook.layout
    if missing := unnoted(notebook):
        notebook.need(MetricsRecord)
        raise ExperimentError(
            f"the notes of {slug} are older than its branch: none on {missing[0][:7]}",
            hint=f"a plain git fetch or pull leaves them behind: autopilot fetch {slug}",
        )
    newest, last = max(notebook.tagged, default=-1), notebook.last
    tag = commits.read_tag(repo, name := layout.tag_name(newest)) if newest >= 0 else None
    is_ahead = tag is not None and newest > (last.epoch if last else -1)
    if tag and is_ahead and _is_behind(repo, notebook.tip, tag.commit, slug):
        notebook.need(MetricsRecord)
        raise ExperimentError(
            f"{layout.branch_name} ends before epoch {newest}, which has a tag",
            hint=f"if another clone went on: autopilot fetch {slug}; if the branch was moved back: "
            f"git branch -f {layout.branch_name} {name}, or go on from an epoch under another "
            "name: autopilot store branch",
        )


def _is_behind(repo: Repository, tip: str, commit: str, slug: str) -> bool:
    """Whether a commit is of an experiment, and not on its branch: a tag may be a person's own."""
    with contextlib.suppress(RepositoryError):
        is_own = trailer(commits.read_commit(repo, commit).message, EXPERIMENT) == slug
        return is_own and not commits.is_ancestor(repo, commit, tip)
    return False


# --- decisions ---------------------------------------------------------------------------------


def decide(
    repo: Repository,
    slug: str,
    decision: str,
    *,
    epoch: str = "best",
    reason: str = "",
    reviewer: str = "",
) -> Event:
    """Writes a decision on an epoch down; moves no branch and no file. Raises as `stopped`.

    Args:
        epoch: A number, "best", "last", a tag or a commit; those of candidates too.
        reviewer: Who decided; the author by git's configuration, if not given.
    """
    with stopped(repo, slug) as notebook:
        number = epoch_named(notebook, epoch).number
        return record_decision(notebook, decision, number, reason, reviewer)


def record_decision(
    notebook: Notebook,
    decision: str,
    epoch: int,
    reason: str,
    reviewer: str,
    *,
    into: str = "",
    merge: str = "",
) -> Event:
    """Writes a decision down, of an experiment that the caller holds.

    Args:
        into: The branch that took it over.
        merge: The commit with which it did.
    """
    who = reviewer or notebook.repo.identity().name
    event = Event.decided(decision, reason, who, epoch, notebook.after(epoch))
    event = replace(event, into=into, merge=merge).stamped()
    notebook.journal.write(notebook.start, [event])
    return event


# --- words, reviews and pauses of a run that is going on ------------------------------------------


def hand_over(notebook: Notebook, event: Event) -> None:
    """Hands an event over to the process that runs the experiment; writes it down if it has ended.

    A run puts back what others write to its notes while an agent works. So it is handed over by a
    file, which outlasts a kill, and the run writes it down itself.
    """
    path = notebook.layout.said(notebook.repo)
    path.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(path.parent):
        file = ProgressFile(path)
        file.write(event)
        file.close()
    # Else it may be between two of its processes, and the next one needs the lock.
    if Notebook(notebook.repo, notebook.slug).status.is_over:
        with contextlib.suppress(LockHeldError), stopped(notebook.repo, notebook.slug) as held_one:
            take_in(held_one.repo, held_one.journal)


def take_in(repo: Repository, journal: Journal) -> list[Event]:
    """Writes down what was handed over, and returns it; the caller holds the experiment.

    A request to pause that is for another process is out of date: it is left out.
    """
    path = journal.layout.said(repo)
    if not path.exists():
        return []
    with one_at_a_time(path.parent):
        found = [e for e in ProgressFile(path).read(Event) if e.process in (0, named())]
        if found and (start := journal.start()):
            # Only then: of a kill between the two, what is written twice has one id.
            journal.write(start, found)
        path.unlink()
    return found


# --- forks -------------------------------------------------------------------------------------


def fork(
    source: Notebook, epoch: int, slug: str, *, idea: str = "", hypothesis: str = ""
) -> Notebook:
    """Begins an experiment from the state of an epoch, kept or not, as the source reads it.

    Target, arguments, options and seed are the source's, and so are the lessons of others that it
    began with; memory and baseline are its own.

    Raises:
        ExperimentError: the name is taken, or there is no such epoch.
        SlugError: the name is malformed.
    """
    source.need(Event, MetricsRecord)
    record = source.epoch(epoch).record
    manifest = _manifest(source, slug, source.after(epoch), idea, hypothesis)
    which = f"{epoch}-c{record.candidate}" if record.is_candidate else f"{epoch}"
    manifest = replace(manifest, forked_from=f"{source.slug}@{which}")
    return _begin(source.repo, manifest, f"forked from {source.slug}, epoch {which}")


def merge(
    ours: Notebook, theirs: Notebook, slug: str, *, idea: str = "", hypothesis: str = ""
) -> Notebook | None:
    """Begins an experiment from the best states of two, merged.

    Target, arguments, options and seed are those of `ours`. None if that has all of `theirs`.

    Raises:
        ExperimentError: they conflict, and it names the files; or the name is taken. Nothing is
            written then.
    """
    repo = ours.repo
    (our_epoch, our_commit), (their_epoch, their_commit) = _best(ours), _best(theirs)
    base = commits.merge_base(repo, our_commit, their_commit)
    if base is None:
        raise ExperimentError(
            f"{ours.slug} and {theirs.slug} have no commit in common",
            hint="only experiments of one history can be merged",
        )
    merged = commits.merge_trees(repo, base, our_commit, their_commit)
    if merged.conflicts:
        raise ExperimentError(
            f"{theirs.slug} and {ours.slug} conflict in {', '.join(merged.conflicts)}; "
            "nothing was written",
            hint=f"compare them: git diff {our_commit[:7]} {their_commit[:7]} -- "
            f"{merged.conflicts[0]}",
        )
    if merged.tree == objects.tree_of(repo, our_commit):
        return None
    what = f"merge {theirs.slug} epoch {their_epoch} into {ours.slug} epoch {our_epoch}"
    Layout(slug).check_free(repo)
    parents, text = [our_commit, their_commit], plain_message(slug, what)
    joined = commits.commit(repo, tree=merged.tree, parents=parents, message=text)
    manifest = replace(
        _manifest(ours, slug, joined, idea, hypothesis),
        forked_from=f"{ours.slug}@{our_epoch}",
        merged_with=f"{theirs.slug}@{their_epoch}",
    )
    detail = f"merged from {ours.slug}, epoch {our_epoch}, and {theirs.slug}, epoch {their_epoch}"
    return _begin(repo, manifest, detail)


def _best(notebook: Notebook) -> tuple[int, str]:
    notebook.need(Event, MetricsRecord)
    if notebook.last is None:
        raise ExperimentError(
            f"{notebook.slug} has no judged epoch yet", hint=f"autopilot resume {notebook.slug}"
        )
    epoch = notebook.last.best_epoch
    return epoch, notebook.after(epoch)


def _manifest(source: Notebook, slug: str, base: str, idea: str, hypothesis: str) -> Manifest:
    return replace(
        source.manifest,
        slug=slug,
        base=base,
        base_branch=source.layout.branch_name,
        in_place=False,  # the user's checkout is not at that state
        by_hand=False,
        idea=idea or source.manifest.idea,
        hypothesis=hypothesis or source.manifest.hypothesis,
        forked_from="",
        merged_with="",
    )


def _begin(repo: Repository, manifest: Manifest, detail: str) -> Notebook:
    """Objects, then notes, then the branch: as every experiment begins."""
    layout = Layout(manifest.slug)
    with held(repo, manifest.slug):
        # Checked a second time: another process may have taken the name before the lock was held.
        layout.check_free(repo)
        layout.clear_half_start(repo)
        tree, text = objects.tree_of(repo, manifest.base), start_message(manifest)
        start = commits.commit(repo, tree=tree, parents=[manifest.base], message=text)
        created = Event(name="created", detail=detail).stamped()
        Journal(repo, layout).write(start, [manifest, created])
        refs.create_ref(repo, layout.branch, start, f"autopilot: {detail}")
    return Notebook(repo, manifest.slug)
