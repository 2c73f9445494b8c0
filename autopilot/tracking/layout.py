"""Where an experiment lives in git: its name, its refs, its lock and files in the git directory."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autopilot.core.records.message import EXPERIMENT, epoch_number, epoch_tag, trailer
from autopilot.errors import ExperimentError, LockHeldError, RepositoryError, SlugError
from autopilot.git.commits import first_parent_log
from autopilot.git.locks import ExclusiveLock, clear_stale_locks
from autopilot.git.refs import check_free, delete_ref, list_refs, read_ref
from autopilot.git.repository import Repository
from autopilot.git.worktrees import worktree_path
from autopilot.text import cut_middle, plain_letters

KINDS = ("experiment", "gradients", "metrics", "memory", "traces", "llm")
BRANCHES = "refs/heads/autopilot/"
TAGS = "refs/tags/autopilot/"
NOTES = "refs/notes/autopilot/"
PLACE_LOCK = "autopilot/.place.lock"
"""In a checkout's git folder: the lock of the run that works in it. No slug begins with a dot."""
# A branch without notes here, as from a plain `git fetch`, is told by its newest commits.
_LOOK_BACK = 100
_TAG = re.compile(r".*/epoch-([0-9]+)(?:-c([0-9]{1,9}))?")
_PART = re.compile(r"[a-z0-9][a-z0-9._-]*")
# Files have 255, of which endings such as `.progress.jsonl` take some.
_LONGEST, _REVERT = 240, "-revert"


class Layout:
    """The names that belong to an experiment.

    Args:
        slug: Its name, `[a-z0-9][a-z0-9._-]*`, or `<project>/<slug>`.
        side: The candidate whose line of commits and progress it is, as "7-2"; "" is the
            experiment's own.

    Attributes:
        branch: The experiment branch, or the ref of a candidate of the epoch in progress.
        branch_name: The experiment branch as git's commands take it.
        review: The branch for a pull request.
        review_name: The branch for a pull request as git's commands take it.
        tags: The beginning of the full names of the epochs' tags.
        snapshots: The beginning of the full names of the refs of checkout snapshots.
        candidates: The beginning of the full names of the refs of candidates; local, for an epoch.
        workers: The beginning of the full names of refs of an origin that workers fetch, for a
            while.
        incoming: The beginning of the full names of refs that are fetched to be looked at, for a
            while.

    Raises:
        SlugError: the slug is malformed.

    >>> Layout("fix-1").branch
    'refs/heads/autopilot/fix-1'
    """

    def __init__(self, slug: str, side: str = "") -> None:
        if (why := _fault(slug)) is not None:
            raise SlugError(
                f"{cut_middle(slug, 80)!r} cannot be an experiment's name{why}",
                hint="use small letters, digits, '.', '_' and '-', as in classifier-1",
            )
        self.slug, self.side, own = slug, side, f"refs/autopilot/{slug}"
        self.branch_name, self.review_name = f"autopilot/{slug}", f"autopilot-review/{slug}"
        self.tags, self.review = f"{TAGS}{slug}/", f"refs/heads/{self.review_name}"
        self.snapshots, self.candidates = f"{own}/snapshots", f"{own}/candidates"
        self.workers, self.incoming = f"{own}/workers", f"{own}/theirs"
        self.branch = f"{self.candidates}/{side}" if side else f"{BRANCHES}{slug}"

    def tag_name(self, epoch: int, candidate: int = 0) -> str:
        """The tag of an epoch, or of a candidate that stays, as git's commands take it."""
        return f"autopilot/{self.slug}/{epoch_tag(epoch, candidate)}"

    def notes(self, kind: str) -> str:
        """The notes ref of a kind."""
        return f"{NOTES}{self.slug}/{kind}"

    @property
    def revert(self) -> Layout:
        """The names for taking a promotion back: its review branch."""
        return Layout(f"{self.slug}{_REVERT}")

    def namespaces(self) -> list[str]:
        """Everything that only this experiment's holder writes."""
        tags, notes = self.tags.rstrip("/"), f"{NOTES}{self.slug}"
        return [f"{BRANCHES}{self.slug}", tags, notes, self.snapshots, self.candidates]

    def locked(self) -> list[str]:
        """Everything that a killed process of its holder may have left a lock on."""
        return [*self.namespaces(), self.review, self.incoming]

    def check_free(self, repo: Repository) -> None:
        """Refuses a name that is taken, or that git cannot hold beside the refs that there are.

        Raises:
            SlugError: it names the ref that is in the way.
            ExperimentError: there is an experiment or a branch of that name, or something is left
                of an earlier experiment.
        """
        if (tip := read_ref(repo, self.branch)) is not None:
            if not is_experiment(repo, self.slug, tip):
                raise self.no_experiment("choose another name with -e")
            raise ExperimentError(
                f"the experiment {self.slug} exists already",
                hint=f"autopilot resume {self.slug}, or choose another name with -e",
            )
        found = list_refs(repo, self.branch, self.tags, self.notes(""))
        check_free(repo, self.branch, found)
        if left := leftovers(repo, self, found):
            raise ExperimentError(
                f"the name {self.slug} was used before: {left[0]} is left of it",
                hint="choose another name with -e",
            )
        for name in (f"{self.tags}epoch-0000", self.notes("metrics")):
            check_free(repo, name, found)

    def no_experiment(self, hint: str) -> ExperimentError:
        """The error of a branch of somebody's own that has the name of an experiment's."""
        name = self.branch_name
        return ExperimentError(f"the branch {name} is no experiment: no run made it", hint=hint)

    def clear_half_start(self, repo: Repository) -> None:
        """Removes the manifest note of a start that was killed before its branch was there."""
        oid = read_ref(repo, self.notes("experiment"))
        if oid is not None:
            delete_ref(repo, self.notes("experiment"), oid)

    def lock(self, repo: Repository) -> Path:
        """The lock of the experiment."""
        return repo.common_dir / "autopilot" / f"{self.slug}.lock"

    def progress(self, repo: Repository) -> Path:
        """Results of the epoch that is going on, or of a candidate of it; local."""
        folder, name = repo.common_dir / "autopilot", "progress.jsonl"
        if self.side:
            return self.beside(repo) / f"{self.side}.{name}"
        return folder / f"{self.slug}.{name}"

    def beside(self, repo: Repository) -> Path:
        """The folder with the progress of the candidates of the epoch that is going on; local."""
        return repo.common_dir / "autopilot" / self.slug / "candidates"

    def worktrees_beside(self, repo: Repository) -> list[Path]:
        """The worktrees of its candidates; no slug has an "@"."""
        own = worktree_path(repo, self.slug)
        return sorted(own.parent.glob(f"{own.name}@*"))

    def said(self, repo: Repository) -> Path:
        """Events that people hand over to the process that runs the experiment; local."""
        return repo.common_dir / "autopilot" / f"{self.slug}.said.jsonl"

    def trying(self, repo: Repository) -> Path:
        """The edit by hand that is being measured; local."""
        return repo.common_dir / "autopilot" / f"{self.slug}.try.json"

    def derived(self, repo: Repository) -> Path:
        """Content that follows from the records, for the process that goes on; local."""
        return repo.common_dir / "autopilot" / f"{self.slug}.derived"

    def index(self, repo: Repository) -> Path:
        """An index that is made of the refs, and made anew without it; local."""
        return repo.common_dir / "autopilot" / f"{self.slug}.index"

    def kept(self, repo: Repository) -> Path:
        """The folder for outputs that a run was asked to keep; local."""
        return repo.common_dir / "autopilot" / self.slug / "kept"

    def request(self, repo: Repository) -> Path:
        """The text of the pull request, where none was named; local."""
        return repo.common_dir / "autopilot" / f"{self.slug}.request.md"

    def report(self, repo: Repository) -> Path:
        """The report's page, where no other place was named; local."""
        return repo.common_dir / "autopilot" / "reports" / f"{self.slug}.html"


def _fault(slug: str) -> str | None:
    """Why no experiment can have a name, as the end of a sentence; None if one can."""
    parts = slug.split("/")
    for part in parts:
        if len(part.removesuffix(_REVERT)) > _LONGEST:
            return f": of {len(part)} characters a file's name takes only {_LONGEST}"
        if ".." in part:
            return ": git allows no two dots in a row"
        if part.endswith((".", ".lock")):
            return ": git allows no '.' and no '.lock' at the end"
        if len(parts) > 2 or not _PART.fullmatch(part):
            return ""
    return None


def experiments(repo: Repository, project: str | None = None) -> dict[str, str]:
    """Slug to the tip of its branch, of all experiments here, or of those of a project.

    A branch of that form which no run made is none.
    """
    folders = os.walk(repo.common_dir / BRANCHES)
    files = {f"{folder}/{name}" for folder, _, names in folders for name in names}
    found = list_refs(repo, BRANCHES, NOTES)
    # Git says nothing of a branch that leads nowhere.
    for name in sorted({os.path.relpath(file, repo.common_dir) for file in files} - found.keys()):
        try:
            read_ref(repo, name)
        except RepositoryError:
            if not name.endswith(".lock"):
                repo.leave_out(name)
    own = f"{BRANCHES}{project}/" if project else BRANCHES
    slugs = {n.removeprefix(BRANCHES): t for n, t in sorted(found.items()) if n.startswith(own)}
    return {
        slug: tip
        for slug, tip in slugs.items()
        if _fault(slug) is None
        and (f"{NOTES}{slug}/experiment" in found or _names(repo, slug, tip))
    }


def is_experiment(repo: Repository, slug: str, tip: str) -> bool:
    """Whether a run made the branch of an experiment's name, whose tip is given."""
    with suppress(RepositoryError):  # the ref may hold anything
        if read_ref(repo, f"{NOTES}{slug}/experiment") is not None:
            return True
    return _names(repo, slug, tip)


def _names(repo: Repository, slug: str, tip: str) -> bool:
    with suppress(RepositoryError):  # a shallow clone has no more of it
        newest = itertools.islice(first_parent_log(repo, tip), _LOOK_BACK)
        return any(trailer(commit.message, EXPERIMENT) == slug for commit in newest)
    return False


def epoch_of_tag(name: str) -> int | None:
    """The epoch of a tag's name; None if it is no epoch's, or that of a candidate."""
    epoch, candidate = state_of_tag(name) or (None, 0)
    return None if candidate else epoch


def state_of_tag(name: str) -> tuple[int, int] | None:
    """The epoch and the candidate of a tag's name; 0: the epoch's own. None if it is no state's."""
    found = _TAG.fullmatch(name)
    epoch = epoch_number(found[1]) if found else None
    return (epoch, int(found[2] or 0)) if found and epoch is not None else None


def candidates_progress(repo: Repository, slug: str) -> dict[int, Path]:
    """Number to the progress of each candidate of the epoch that is going on."""
    paths = Layout(slug).beside(repo).glob("*-*.progress.jsonl")
    places = ((path.name.partition(".")[0].split("-"), path) for path in paths)
    found = sorted((int(epoch), int(number), path) for (epoch, number), path in places)
    return {number: path for epoch, number, path in found if epoch == found[-1][0]}


def tagged_epochs(repo: Repository, slug: str | None = None) -> dict[str, frozenset[int]]:
    """Slug to the epochs that have a tag, of one experiment or of all; those without have no entry.

    Starts git once.
    """
    found: dict[str, set[int]] = {}
    for name in list_refs(repo, Layout(slug).tags if slug else TAGS):
        number = epoch_of_tag(name)
        if number is not None:
            found.setdefault(name.removeprefix(TAGS).rpartition("/")[0], set()).add(number)
    return {owner: frozenset(numbers) for owner, numbers in found.items()}


def free_slugs(repo: Repository, stem: str, project: str | None = None) -> Iterator[str]:
    """Those of stem-1, stem-2, ... that no experiment has, made of allowed characters."""
    clean = re.sub(r"[^a-z0-9._-]+|\.{2,}", "-", plain_letters(stem)).strip("-._") or "experiment"
    clean = clean[: _LONGEST // 2].rstrip("-._")
    prefix = f"{project}/{clean}" if project else clean
    taken = {name.removeprefix(BRANCHES) for name in list_refs(repo, BRANCHES)}
    for number in itertools.count(1):
        slug = f"{prefix}-{number}"
        if slug not in taken and not leftovers(repo, Layout(slug)):
            yield slug


def leftovers(repo: Repository, layout: Layout, listed: Iterable[str] | None = None) -> list[str]:
    """Tags and notes of an experiment whose branch is gone, of its refs where they are known.

    The manifest note alone is not one: a run that was killed before its first commit left it.
    """
    tags, notes = layout.tags, layout.notes("")
    found = list_refs(repo, tags, notes) if listed is None else listed
    left = [n for n in found if n.startswith((tags, notes)) and n != layout.notes("experiment")]
    return sorted(left, key=lambda name: not name.startswith(tags))


def is_in_use(repo: Repository) -> bool:
    """Whether some process runs or measures an experiment of this repository."""
    locks = (repo.common_dir / "autopilot").rglob("*.lock")
    return any(ExclusiveLock(path).holder() is not None for path in locks)


def hold(lock: ExclusiveLock, slug: str) -> None:
    """Takes an experiment's lock for a run; raises a LockHeldError that names the process."""
    _acquire(lock, f"{slug} is running already", "wait for it, or start another one with -e")


@contextmanager
def held(repo: Repository, slug: str) -> Iterator[None]:
    """Holds a name, whether there is an experiment of it or not; clears stale locks of its refs.

    Raises:
        LockHeldError: a run holds it; the message names the process.
    """
    lock = ExclusiveLock(Layout(slug).lock(repo))
    hint = "wait until it has ended, or stop it with Ctrl-C: it can be resumed"
    _acquire(lock, f"{slug} is running", hint)
    try:
        clear_stale_locks(repo, Layout(slug).locked())
        yield
    finally:
        lock.release()


def _acquire(lock: ExclusiveLock, what: str, hint: str) -> None:
    try:
        lock.acquire()
    except LockHeldError as error:
        raise LockHeldError(f"the experiment {what}: {error.message}", hint=hint) from error
