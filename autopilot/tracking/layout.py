"""Where an experiment lives in git: its name, its refs, its files in the git directory."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autopilot.core.records.message import epoch_tag
from autopilot.errors import ExperimentError, SlugError
from autopilot.git.refs import check_free, list_refs
from autopilot.git.repository import Repository

KINDS = ("experiment", "gradients", "metrics", "memory", "traces", "llm")
BRANCHES = "refs/heads/autopilot/"
_PART = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Layout:
    """The names that belong to an experiment.

    Args:
        slug: Its name, `[a-z0-9][a-z0-9._-]*`, or `<project>/<slug>`.

    Raises:
        SlugError: the slug is malformed.

    >>> Layout("fix-1").branch
    'refs/heads/autopilot/fix-1'
    """

    slug: str

    def __post_init__(self) -> None:
        parts = self.slug.split("/")
        for part in parts:
            why = ""
            if ".." in part:
                why = ": git allows no two dots in a row"
            elif part.endswith((".", ".lock")):
                why = ": git allows no '.' and no '.lock' at the end"
            if len(parts) > 2 or not _PART.fullmatch(part) or why:
                raise SlugError(
                    f"{self.slug!r} cannot be an experiment's name{why}",
                    hint="use small letters, digits, '.', '_' and '-', as in classifier-1",
                )

    @property
    def branch(self) -> str:
        """The experiment branch."""
        return f"{BRANCHES}{self.slug}"

    @property
    def branch_name(self) -> str:
        """The experiment branch as git's commands take it."""
        return f"autopilot/{self.slug}"

    @property
    def tags(self) -> str:
        """What the full names of the epochs' tags begin with."""
        return f"refs/tags/autopilot/{self.slug}/"

    def tag_name(self, epoch: int) -> str:
        """An epoch's tag as git's commands take it."""
        return f"autopilot/{self.slug}/{epoch_tag(epoch)}"

    def notes(self, kind: str) -> str:
        """The notes ref of a kind."""
        return f"refs/notes/autopilot/{self.slug}/{kind}"

    @property
    def snapshots(self) -> str:
        """What the full names of snapshots of the user's checkout begin with."""
        return f"refs/autopilot/{self.slug}/snapshots"

    @property
    def review(self) -> str:
        """The branch for a pull request."""
        return f"refs/heads/autopilot-review/{self.slug}"

    @property
    def revert(self) -> Layout:
        """Where a promotion is taken back: its review branch."""
        return Layout(f"{self.slug}-revert")

    def namespaces(self) -> list[str]:
        """Everything that only this experiment's holder writes."""
        notes = f"refs/notes/autopilot/{self.slug}"
        return [self.branch, self.tags.rstrip("/"), notes, self.snapshots]

    def check_free(self, repo: Repository) -> None:
        """Refuses a name that git cannot hold beside the refs that there are.

        Raises:
            SlugError: it names the ref that is in the way.
            ExperimentError: something is left of an earlier experiment of that name.
        """
        check_free(repo, self.branch)
        left = leftovers(repo, self)
        if left:
            raise ExperimentError(
                f"the name {self.slug} was used before: {left[0]} is left of it",
                hint="choose another name with -e",
            )
        for name in (f"{self.tags}epoch-0000", self.notes("metrics")):
            check_free(repo, name)

    def lock(self, repo: Repository) -> Path:
        """The lock of the experiment."""
        return repo.common_dir / "autopilot" / f"{self.slug}.lock"

    def progress(self, repo: Repository) -> Path:
        """Results of the epoch that is going on; local."""
        return repo.common_dir / "autopilot" / f"{self.slug}.progress.jsonl"

    def request(self, repo: Repository) -> Path:
        """The text of the pull request, where none was named; local."""
        return repo.common_dir / "autopilot" / f"{self.slug}.request.md"

    def report(self, repo: Repository) -> Path:
        """The report's page, where no other place was named; local."""
        return repo.common_dir / "autopilot" / "reports" / f"{self.slug}.html"


def experiments(repo: Repository) -> dict[str, str]:
    """Slug to the tip of its branch, of all experiments here."""
    found = list_refs(repo, BRANCHES)
    return {name.removeprefix(BRANCHES): oid for name, oid in sorted(found.items())}


def free_slugs(repo: Repository, stem: str, project: str | None = None) -> Iterator[str]:
    """Those of stem-1, stem-2, ... that no experiment has, made of allowed characters."""
    clean = re.sub(r"[^a-z0-9._-]+|\.{2,}", "-", stem.lower()).strip("-._") or "experiment"
    prefix = f"{project}/{clean}" if project else clean
    taken = experiments(repo)
    for number in itertools.count(1):
        slug = f"{prefix}-{number}"
        if slug not in taken and not leftovers(repo, Layout(slug)):
            yield slug


def leftovers(repo: Repository, layout: Layout) -> list[str]:
    """Tags and notes of an experiment whose branch is gone.

    The manifest note alone is not one: a run that was killed before its first commit left it.
    """
    found = [*list_refs(repo, layout.tags), *list_refs(repo, layout.notes(""))]
    return [name for name in found if name != layout.notes("experiment")]
