"""Fetching experiments: what another machine did comes here, and nothing of ours is overwritten.

All of a remote's refs come under names of our own first. Then, experiment by experiment: notes
that both wrote are merged, a branch moves only forward, tags never move. A kill in the middle
leaves nothing that the next fetch does not complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from autopilot.errors import AutopilotError, LockHeldError, RefMovedError
from autopilot.git import commits, refs
from autopilot.git.branches import checked_out_at
from autopilot.git.commits import ahead_behind, merge_base
from autopilot.git.notes import merge_notes
from autopilot.git.refs import delete_refs, move_refs
from autopilot.git.remotes import fetch_refs, remote_refs, shown
from autopilot.git.repository import Repository
from autopilot.sharing.sync import NAMESPACES, RefSet, Synced, alone, chosen, grouped, local_sets
from autopilot.tracking.layout import Layout, held

# No slug begins with "_": the name is no experiment's.
_INCOMING = "refs/autopilot/_incoming/"
_ATTEMPTS = 5
_Moves = dict[str, tuple[str, str | None]]


@dataclass
class _Plan:
    """What of ours would move, and what is to be said about it."""

    outcome: Synced
    notes: _Moves = field(default_factory=dict)
    rest: _Moves = field(default_factory=dict)


def fetch(
    repo: Repository,
    remote: str,
    slugs: Iterable[str] = (),
    *,
    project: str | None = None,
    dry_run: bool = False,
    may_ask: bool = False,
) -> list[Synced]:
    """Fetches experiments with their branch, review branch, tags and notes.

    Args:
        repo: The repository; may be shallow.
        remote: A remote's name, a URL or a path.
        slugs: The experiments; all that the remote has if none is named.
        project: Of all, only those of this project.
        dry_run: Say what would happen; no ref is changed.
        may_ask: Whether git may ask for a password at the terminal.

    Returns:
        One outcome for each experiment. One that diverged, is being run or is checked out is left
        as it is, and its outcome has an error.

    Raises:
        RemoteError: the remote cannot be reached.
        ExperimentError: the remote has no such experiment.
    """
    theirs = remote_sets(repo, remote, may_ask=may_ask)
    wanted = chosen(theirs, slugs, project, f"on {shown(remote)}")
    sets = {slug: theirs[slug] for slug in wanted}
    return take(repo, remote, sets, dry_run=dry_run, may_ask=may_ask)


def remote_sets(repo: Repository, remote: str, *, may_ask: bool = False) -> dict[str, RefSet]:
    """What a remote has, of all experiments.

    Raises:
        RemoteError: it cannot be reached.
    """
    patterns = [f"{space}*" for space in NAMESPACES]
    return grouped(remote_refs(repo, remote, patterns, may_ask=may_ask))


def take(
    repo: Repository,
    remote: str,
    theirs: Mapping[str, RefSet],
    *,
    dry_run: bool = False,
    may_ask: bool = False,
) -> list[Synced]:
    """Brings a remote's experiments here; as `fetch`, with what the remote has at hand."""
    with alone(repo):
        _clear(repo)
        ours = local_sets(repo)
        wanted: list[str] = []
        for slug, there in theirs.items():
            layout = Layout(slug)
            here = ours.get(slug, RefSet()).named(layout)
            wanted += [name for name, oid in there.named(layout).items() if here.get(name) != oid]
        try:
            fetch_refs(repo, remote, wanted, _INCOMING, may_ask=may_ask)
            came = refs.list_refs(repo, _INCOMING)
            incoming = grouped({n.removeprefix(_INCOMING): oid for n, oid in came.items()})
            return [
                _settle(repo, slug, incoming.get(slug, RefSet()), shown(remote), dry_run=dry_run)
                for slug in theirs
            ]
        finally:
            _clear(repo)


def _settle(repo: Repository, slug: str, theirs: RefSet, remote: str, *, dry_run: bool) -> Synced:
    """Compares one experiment, and moves what is to be moved."""
    for _ in range(_ATTEMPTS):
        ours = local_sets(repo, slug).get(slug, RefSet())
        plan = _plan(repo, slug, ours, theirs, remote)
        if dry_run or not (plan.notes or plan.rest):
            return plan.outcome
        try:
            return _apply(repo, plan, remote)
        except RefMovedError as error:  # a run that goes on wrote a note meanwhile
            moved = error
        except AutopilotError as error:
            return _left(plan, f"{slug}: {error.message}", error.hint)
    return _left(plan, f"{slug}: {moved.message}", "try again")


def _plan(repo: Repository, slug: str, ours: RefSet, theirs: RefSet, remote: str) -> _Plan:
    """Compares one experiment.

    Args:
        repo: The repository.
        slug: The experiment.
        ours: Its refs here.
        theirs: Those that differ from ours or are missing here.
        remote: How the remote is called.
    """
    layout = Layout(slug)
    plan = _Plan(Synced(slug, is_new=ours.branch is None))
    if theirs.branch and ours.branch:
        ahead, behind = ahead_behind(repo, ours.branch, theirs.branch)
        if ahead and behind:
            error = _diverged(repo, slug, ours.branch, theirs.branch, (ahead, behind), remote)
            return _Plan(error)
        plan.outcome = replace(plan.outcome, commits=behind, ahead=ahead)
        if behind:
            plan.rest[layout.branch] = (theirs.branch, ours.branch)
    elif theirs.branch:
        plan.rest[layout.branch] = (theirs.branch, None)
    _plan_notes(repo, plan, ours, theirs, remote)
    _plan_tags(repo, plan, ours, theirs, remote)
    if theirs.review:
        ahead, behind = ahead_behind(repo, ours.review, theirs.review) if ours.review else (0, 1)
        if not ahead:
            plan.rest[layout.review] = (theirs.review, ours.review)
        elif behind:
            _remark(plan, f"its review branch is another one on {remote}; yours is left as it is")
    return plan


def _plan_notes(repo: Repository, plan: _Plan, ours: RefSet, theirs: RefSet, remote: str) -> None:
    came, merged = [], []
    for name, tip in theirs.notes.items():
        kind, here = name.rpartition("/")[2], ours.notes.get(name)
        message = f"autopilot({plan.outcome.slug}): merge {kind} of {remote}"
        new = merge_notes(repo, here, tip, message) if here else tip
        if new == here:
            continue
        came.append(kind)
        plan.notes[name] = (new, here)
        if new != tip:
            merged.append(kind)
    plan.outcome = replace(plan.outcome, notes=tuple(came), merged=tuple(merged))


def _plan_tags(repo: Repository, plan: _Plan, ours: RefSet, theirs: RefSet, remote: str) -> None:
    new = {name: (tip, None) for name, tip in theirs.tags.items() if name not in ours.tags}
    plan.rest |= new
    plan.outcome = replace(plan.outcome, tags=len(new))
    for name in theirs.tags.keys() & ours.tags.keys():
        sides = (commits.read_commit(repo, s.tags[name]).id for s in (ours, theirs))
        here, there = sides
        if here != there:
            short = name.removeprefix("refs/tags/")
            _fail(
                plan,
                f"the tag {short} is on {here[:7]} here and on {there[:7]} on {remote}; "
                "it is not moved",
                f"see both: git show {here[:7]} {there[:7]}; git tag -d {short} gives yours up",
            )


def _apply(repo: Repository, plan: _Plan, remote: str) -> Synced:
    slug, layout = plan.outcome.slug, Layout(plan.outcome.slug)
    for branch in (layout.branch, layout.review):
        where = checked_out_at(repo, branch) if branch in plan.rest else None
        if where is not None:
            short = branch.removeprefix("refs/heads/")
            return _left(
                plan,
                f"{slug} was left as it is: {short} is checked out in {where}",
                f"git switch another branch there, then autopilot fetch {remote} {slug}",
            )
    # Notes come first, as in every write: no commit of an experiment is without its own.
    log = f"autopilot: fetch from {remote}"
    try:
        with held(repo, slug):
            refs.clear_stale_locks(repo, [*layout.namespaces(), layout.review])
            move_refs(repo, plan.notes, log)
            move_refs(repo, plan.rest, log)
            return plan.outcome
    except LockHeldError as error:
        if layout.branch in plan.rest:
            text = f"{slug} was left as it is, with commits on {remote}: {error.message}"
            return _left(plan, text, error.hint)
    # A run that goes on takes notes in by compare-and-swap, as this does.
    move_refs(repo, plan.notes, log)
    move_refs(repo, plan.rest, log)
    return plan.outcome


def _diverged(
    repo: Repository, slug: str, ours: str, theirs: str, counts: tuple[int, int], remote: str
) -> Synced:
    ahead, behind = counts
    base = merge_base(repo, ours, theirs)
    common = f"both have all up to {base[:7]}" if base else "they have no commit in common"
    return Synced(
        slug,
        commits=0,
        ahead=ahead,
        error=f"{slug} was continued on both sides: here to {ours[:7]} (+{ahead}), on {remote} to "
        f"{theirs[:7]} (+{behind}); {common}. Nothing was changed",
        hint=f"keep yours as a fork and take theirs: autopilot store branch {slug}-mine -e {slug} "
        f"&& autopilot experiment delete {slug} && autopilot fetch {remote} {slug}",
    )


def _remark(plan: _Plan, text: str) -> None:
    plan.outcome = replace(plan.outcome, remarks=(*plan.outcome.remarks, text))


def _fail(plan: _Plan, error: str, hint: str) -> None:
    plan.outcome = replace(plan.outcome, error=error, hint=hint)


def _left(plan: _Plan, error: str, hint: str) -> Synced:
    ahead = plan.outcome.ahead
    return Synced(plan.outcome.slug, ahead=ahead, error=error, hint=hint)


def _clear(repo: Repository) -> None:
    """Removes what came under our own names, also before a kill."""
    refs.clear_stale_locks(repo, [_INCOMING.rstrip("/")])
    left = refs.list_refs(repo, _INCOMING)
    if left:
        delete_refs(repo, left)
