"""Experiments in two repositories: which refs each has of them, and how an exchange ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from autopilot.errors import ExperimentError, SlugError
from autopilot.git.locks import one_at_a_time
from autopilot.git.refs import list_refs
from autopilot.git.repository import Repository
from autopilot.tracking.layout import BRANCHES, Layout

REVIEWS = "refs/heads/autopilot-review/"
TAGS = "refs/tags/autopilot/"
NOTES = "refs/notes/autopilot/"
# The branches first: notes and tags that are read after them have all that is on them.
NAMESPACES = (BRANCHES, REVIEWS, TAGS, NOTES)


@dataclass(frozen=True, slots=True)
class RefSet:
    """The refs of one experiment in one repository.

    Args:
        branch: What the experiment branch points at; None if there is none.
        review: The same of the review branch.
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
        slug: The experiment.
        is_new: Whether the receiving side had none of that name.
        commits: How many commits came to the receiving side's branch.
        ahead: Of a fetch: how many commits are here that the remote lacks.
        tags: How many tags came.
        notes: The kinds of notes that came.
        merged: Those of them that both sides had written, and that were merged.
        remarks: What else is to be said, a sentence each.
        error: Why it was left as it is; "" if it was not.
        hint: What to do about that.
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


def grouped(found: Mapping[str, str]) -> dict[str, RefSet]:
    """Refs by the experiment that they belong to; those of no experiment are left out."""
    parts: dict[str, dict[str, dict[str, str]]] = {}
    for name, oid in found.items():
        space = next((s for s in NAMESPACES if name.startswith(s)), None)
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
            review=next(iter(spaces.get(REVIEWS, {}).values()), None),
            tags=spaces.get(TAGS, {}),
            notes=spaces.get(NOTES, {}),
        )
        for slug, spaces in sorted(parts.items())
    }


def local_sets(repo: Repository, slug: str = "") -> dict[str, RefSet]:
    """What is here, of all experiments or of one."""
    found: dict[str, str] = {}
    for space in NAMESPACES:
        found |= list_refs(repo, f"{space}{slug}")
    return grouped(found)


def chosen(
    found: Mapping[str, RefSet], slugs: Iterable[str], project: str | None, where: str
) -> list[str]:
    """The experiments that are meant: those that are named, else all, of the project if given.

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


@contextmanager
def alone(repo: Repository) -> Iterator[None]:
    """No other exchange brings refs into this repository meanwhile; waits for one."""
    folder = repo.common_dir / "autopilot"
    folder.mkdir(exist_ok=True)
    with one_at_a_time(folder):
        yield
