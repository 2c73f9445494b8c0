"""Fetching experiments: another machine's work comes here, and nothing of ours is overwritten.

All of a remote's refs come under names of our own first. Then, experiment by experiment: notes
that both wrote are merged, a branch moves only forward, tags never move. A kill in the middle
leaves nothing that the next fetch does not complete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from autopilot.errors import (
    AutopilotError,
    ExperimentError,
    LockHeldError,
    RefMovedError,
    SlugError,
)
from autopilot.git import commits, locks, refs
from autopilot.git.commits import ahead_behind, merge_base
from autopilot.git.locks import one_at_a_time
from autopilot.git.notes import merge_notes
from autopilot.git.refs import checked_out_at, delete_refs, move_refs
from autopilot.git.remotes import deepen, fetch_refs, is_shallow, remote_refs, shown
from autopilot.git.repository import Repository
from autopilot.tracking.layout import BRANCHES, NOTES, TAGS, Layout, held, is_experiment
from autopilot.tracking.notebook import Notebook

_REVIEWS = "refs/heads/autopilot-review/"
# The branches first: notes and tags that are read after them have all that is on them.
_NAMESPACES = (BRANCHES, _REVIEWS, TAGS, NOTES)
# No slug begins with "_": the name is no experiment's.
_INCOMING = "refs/autopilot/_incoming/"
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class RefSet:
    """The refs of one experiment in one repository.

    Args:
        branch: The tip of the experiment branch; None if there is none.
        tags: Full name to tag object.
        notes: Full name to notes commit.
    """

    branch: str | None = None
    review: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def named(self, layout: Layout) -> dict[str, str]:
        """All of them by their full names."""
        heads = {layout.branch: self.branch, layout.review: self.review}
        return {**self.notes, **self.tags, **{n: oid for n, oid in heads.items() if oid}}


@dataclass(frozen=True, slots=True)
class Synced:
    """How the exchange of one experiment ended.

    Args:
        is_new: Whether the receiving side had none of that name.
        commits: How many commits came to the receiving side's branch.
        ahead: Of a fetch: how many commits are here that the remote lacks.
        merged: Those of them that both sides had written, and that were merged.
        error: Why it was left as it is; "" if it was not.
    """

    slug: str
    is_new: bool = False
    commits: int = 0
    ahead: int = 0
    tags: int = 0
    notes: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    error: str = ""
    hint: str = ""

    @property
    def state(self) -> str:
        """ "new", "updated", "up to date", or "left" where there is an error."""
        if self.error:
            return "left"
        if self.is_new:
            return "new"
        moved = self.commits or self.tags or self.notes
        return "updated" if moved else "up to date"


@dataclass(frozen=True, slots=True)
class _Moves:
    """The refs of ours that would move (name to new and old), and the outcome."""

    outcome: Synced
    notes: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    rest: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    def left(self, error: str, hint: str) -> Synced:
        """The outcome where nothing was moved."""
        return Synced(self.outcome.slug, ahead=self.outcome.ahead, error=error, hint=hint)


def grouped(found: Mapping[str, str]) -> dict[str, RefSet]:
    """Refs by the experiment that they belong to; those of no experiment are left out."""
    parts: dict[str, dict[str, dict[str, str]]] = {}
    for name, oid in found.items():
        space = next((s for s in _NAMESPACES if name.startswith(s)), None)
        if space is None:
            continue
        slug = name.removeprefix(space)
        if space in (TAGS, NOTES):
            slug = slug.rpartition("/")[0]
        try:
            Layout(slug)
        except SlugError:
            continue
        parts.setdefault(slug, {}).setdefault(space, {})[name] = oid
    return {
        slug: RefSet(
            branch=next(iter(spaces.get(BRANCHES, {}).values()), None),
            review=next(iter(spaces.get(_REVIEWS, {}).values()), None),
            tags=spaces.get(TAGS, {}),
            notes=spaces.get(NOTES, {}),
        )
        for slug, spaces in sorted(parts.items())
    }


def local_sets(repo: Repository, slug: str = "") -> dict[str, RefSet]:
    """The refs here, of all experiments or of one."""
    found: dict[str, str] = {}
    for space in _NAMESPACES:
        found |= refs.list_refs(repo, f"{space}{slug}")
    return grouped(found)


def remote_sets(repo: Repository, remote: str) -> dict[str, RefSet]:
    """The refs on a remote, of all experiments."""
    return grouped(remote_refs(repo, remote, [f"{space}*" for space in _NAMESPACES]))


def chosen(
    found: Mapping[str, RefSet], slugs: Iterable[str], project: str | None, where: str
) -> list[str]:
    """The named experiments, else all, of the project if given.

    Raises:
        ExperimentError: one that is named is not there.
    """
    there = [slug for slug, refs in found.items() if refs.branch is not None]
    named = list(dict.fromkeys(slugs))
    for slug in named:
        if slug not in there:
            Layout(slug)
            few = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "")
            raise ExperimentError(
                f"there is no experiment {slug} {where}",
                hint=f"experiments {where}: {few or 'none'}",
            )
    return named or [s for s in there if not project or s.startswith(f"{project}/")]


def fetch(
    repo: Repository,
    remote: str,
    slugs: Iterable[str] = (),
    *,
    project: str | None = None,
    dry_run: bool = False,
) -> list[Synced]:
    """Fetches experiments with their branch, review branch, tags and notes.

    In a shallow clone, the rest of their history comes too.

    Args:
        slugs: The experiments; all that the remote has if none is named.
        project: Of all, only those of this project.

    Returns:
        One outcome for each experiment. One that diverged, is being run or is checked out is left
        as it is, and its outcome has an error.

    Raises:
        RemoteError: the remote cannot be reached.
        ExperimentError: the remote has no such experiment, or only a branch that no run made.
    """
    slugs = list(slugs)
    theirs = remote_sets(repo, remote)
    wanted = chosen(theirs, slugs, project, f"on {shown(remote)}")
    taken = take(repo, remote, {slug: theirs[slug] for slug in wanted}, dry_run=dry_run)
    for slug in {*slugs} - {outcome.slug for outcome in taken}:
        raise Layout(slug).no_experiment(f"git fetch {shown(remote)} brings it")
    if is_shallow(repo) and not dry_run:
        for outcome in taken:
            with contextlib.suppress(ExperimentError):  # it is not here, or without its notes
                here = Notebook(repo, outcome.slug)
                first = here.manifest.base or here.start
                repo = deepen(repo, remote, here.layout.branch, here.tip, first)
    return taken


def take(
    repo: Repository, remote: str, theirs: Mapping[str, RefSet], *, dry_run: bool
) -> list[Synced]:
    """Brings a remote's experiments here; as `fetch`, with the remote's refs at hand.

    A branch that no run made is left out.
    """
    folder = repo.common_dir / "autopilot"
    folder.mkdir(exist_ok=True)
    # Two exchanges at once would mix up the incoming refs: one waits for the other.
    with one_at_a_time(folder):
        _clear(repo)
        ours = local_sets(repo)
        wanted: list[str] = []
        for slug, there in theirs.items():
            layout = Layout(slug)
            here = ours.get(slug, RefSet()).named(layout)
            wanted += [name for name, oid in there.named(layout).items() if here.get(name) != oid]
        try:
            fetch_refs(repo, remote, wanted, _INCOMING)
            came = refs.list_refs(repo, _INCOMING)
            incoming = grouped({n.removeprefix(_INCOMING): oid for n, oid in came.items()})
            return [
                _settle(repo, slug, incoming.get(slug, RefSet()), shown(remote), dry_run=dry_run)
                for slug, there in theirs.items()
                if there.notes or not there.branch or is_experiment(repo, slug, there.branch)
            ]
        finally:
            _clear(repo)


def _clear(repo: Repository) -> None:
    """Removes the refs that came under our own names, also before a kill."""
    locks.clear_stale_locks(repo, [_INCOMING.rstrip("/")])
    left = refs.list_refs(repo, _INCOMING)
    if left:
        delete_refs(repo, left)


def _settle(repo: Repository, slug: str, theirs: RefSet, remote: str, *, dry_run: bool) -> Synced:
    """Compares one experiment, and moves the refs that can be moved."""
    for _ in range(_ATTEMPTS):
        ours = local_sets(repo, slug).get(slug, RefSet())
        moves = _moves(repo, slug, ours, theirs, remote)
        if dry_run or not (moves.notes or moves.rest):
            return moves.outcome
        try:
            return _apply(repo, moves, remote)
        except RefMovedError as error:  # a run that goes on wrote a note meanwhile
            moved = error
        except AutopilotError as error:
            return moves.left(f"{slug}: {error.message}", error.hint)
    return moves.left(f"{slug}: {moved.message}", "try again")


def _moves(repo: Repository, slug: str, ours: RefSet, theirs: RefSet, remote: str) -> _Moves:
    """Compares one experiment's refs here with those that differ on the remote."""
    layout, moves = Layout(slug), _Moves(Synced(slug, is_new=ours.branch is None))
    ahead = behind = 0
    if theirs.branch and ours.branch:
        ahead, behind = ahead_behind(repo, ours.branch, theirs.branch)
        if ahead and behind:
            return _Moves(_diverged(repo, slug, ours.branch, theirs.branch, remote))
    if theirs.branch and (behind or not ours.branch):
        moves.rest[layout.branch] = (theirs.branch, ours.branch)
    merged = []
    for name, tip in theirs.notes.items():
        here = ours.notes.get(name)
        message = f"autopilot({slug}): merge {name.rpartition('/')[2]} of {remote}"
        new = merge_notes(repo, here, tip, message) if here else tip
        if new != here:
            moves.notes[name] = (new, here)
            merged += [name.rpartition("/")[2]] if new != tip else []
    new_tags = theirs.tags.keys() - ours.tags.keys()
    moves.rest.update({n: (tip, None) for n, tip in theirs.tags.items() if n in new_tags})
    remarks: tuple[str, ...] = ()
    if theirs.review:
        mine, other = ahead_behind(repo, ours.review, theirs.review) if ours.review else (0, 1)
        if not mine:
            moves.rest[layout.review] = (theirs.review, ours.review)
        elif other:
            remarks = (f"its review branch is another one on {remote}; yours is left as it is",)
    error, hint = _moved_tag(repo, ours, theirs, remote)
    outcome = replace(
        moves.outcome,
        commits=behind,
        ahead=ahead,
        tags=len(new_tags),
        notes=tuple(name.rpartition("/")[2] for name in moves.notes),
        merged=tuple(merged),
        remarks=remarks,
        error=error,
        hint=hint,
    )
    return replace(moves, outcome=outcome)


def _moved_tag(repo: Repository, ours: RefSet, theirs: RefSet, remote: str) -> tuple[str, str]:
    """Error and hint for a tag that is on different commits on the two sides."""
    for name in sorted(theirs.tags.keys() & ours.tags.keys()):
        here, there = (commits.read_commit(repo, s.tags[name]).id[:7] for s in (ours, theirs))
        if here != there:
            short = name.removeprefix("refs/tags/")
            return (
                f"the tag {short} is on {here} here and on {there} on {remote}; it is not moved",
                f"see both: git show {here} {there}; git tag -d {short} gives yours up",
            )
    return "", ""


def _diverged(repo: Repository, slug: str, ours: str, theirs: str, remote: str) -> Synced:
    ahead, behind = ahead_behind(repo, ours, theirs)
    base = merge_base(repo, ours, theirs)
    common = f"both have all up to {base[:7]}" if base else "they have no commit in common"
    return Synced(
        slug,
        ahead=ahead,
        error=f"{slug} was continued on both sides: here to {ours[:7]} (+{ahead}), on {remote} to "
        f"{theirs[:7]} (+{behind}); {common}. Nothing was changed",
        hint=f"keep yours as a fork and take theirs: autopilot store branch {slug}-mine -e {slug} "
        f"&& autopilot experiment delete {slug} && autopilot fetch {remote} {slug}",
    )


def _apply(repo: Repository, moves: _Moves, remote: str) -> Synced:
    slug, layout = moves.outcome.slug, Layout(moves.outcome.slug)
    for branch in (layout.branch, layout.review):
        where = checked_out_at(repo, branch) if branch in moves.rest else None
        if where is not None:
            short = branch.removeprefix("refs/heads/")
            return moves.left(
                f"{slug} was left as it is: {short} is checked out in {where}",
                f"git switch another branch there, then autopilot fetch {remote} {slug}",
            )
    # Notes come first, as in every write: no commit of an experiment is without its own.
    log = f"autopilot: fetch from {remote}"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(repo, slug))
        except LockHeldError as error:
            # A run that goes on takes notes in by compare-and-swap, as this does.
            if layout.branch in moves.rest:
                text = f"{slug} was left as it is, with commits on {remote}: {error.message}"
                return moves.left(text, error.hint)
        move_refs(repo, moves.notes, log)
        move_refs(repo, moves.rest, log)
    return moves.outcome
