"""Pushing experiments: branch, tags and notes together, after a merge of the remote's notes."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from autopilot.core.records.message import epoch_tag
from autopilot.errors import AutopilotError, ExperimentError, RefMovedError
from autopilot.git.commits import ahead_behind
from autopilot.git.objects import has_object
from autopilot.git.remotes import Pushed, push_refs, shown
from autopilot.git.repository import Repository
from autopilot.sharing.fetching import RefSet, Synced, chosen, local_sets, remote_sets, take
from autopilot.text import counted
from autopilot.tracking.holding import make_tags, missing_tags
from autopilot.tracking.layout import Layout, experiments

_ATTEMPTS = 6
_PAUSE_S = 0.3
# Refs in one push: the command line's length is limited.
_REFS = 5000


@dataclass(frozen=True, slots=True)
class PushResult:
    """How a push ended.

    Args:
        atomic: Whether the remote takes all of a push or nothing. If not, notes and tags went
            first.
        said: The lines of hooks and of the server, which begin with `remote: `.
    """

    outcomes: list[Synced]
    atomic: bool = True
    said: tuple[str, ...] = ()


def push(
    repo: Repository,
    remote: str,
    slugs: Iterable[str] = (),
    *,
    project: str | None = None,
    dry_run: bool = False,
) -> PushResult:
    """Pushes experiments with their branch, review branch, tags and notes.

    Commits and notes that others pushed meanwhile are fetched and merged first, and missing tags
    of kept epochs are made again. An experiment with a tag on a wrong commit is not pushed.

    Args:
        slugs: The experiments; all that are here if none is named.
        project: Of all, only those of this project.

    Raises:
        RemoteError: the remote cannot be reached, or others pushed again and again meanwhile.
        ExperimentError: there is no such experiment.
    """
    own = experiments(repo)
    here = {slug: found for slug, found in local_sets(repo).items() if slug in own}
    wanted = chosen(here, slugs, project, "here")
    return _Push(repo, remote, dry_run=dry_run).run(wanted)


class _Push:
    def __init__(self, repo: Repository, remote: str, *, dry_run: bool) -> None:
        self.repo, self.remote, self.dry_run = repo, remote, dry_run
        self.atomic = True
        self.done: dict[str, Synced] = {}
        self.merged: dict[str, set[str]] = {}
        self.came: dict[str, tuple[str, ...]] = {}
        self.said: dict[str, None] = {}

    def run(self, wanted: list[str]) -> PushResult:
        open_ = list(wanted)
        for attempt in range(_ATTEMPTS):
            if not open_:
                break
            if attempt:
                time.sleep(random.uniform(0, _PAUSE_S * attempt))
            open_ = self._round(open_)
        for slug in open_:
            self.done[slug] = Synced(
                slug,
                error=f"{slug}: others pushed to {shown(self.remote)} again and again meanwhile",
                hint="try again",
            )
        return PushResult([self.done[slug] for slug in wanted], self.atomic, tuple(self.said))

    def _round(self, slugs: list[str]) -> list[str]:
        """One try; returns the experiments that another machine moved meanwhile."""
        theirs = remote_sets(self.repo, self.remote)
        slugs = [slug for slug in self._merge(slugs, theirs) if self._has_tags(slug)]
        ours = local_sets(self.repo)
        parcel: dict[str, dict[str, str]] = {}
        for slug in slugs:
            there = theirs.get(slug, RefSet())
            missing, outcome = _missing(self.repo, slug, ours[slug], there, shown(self.remote))
            merged = tuple(sorted(self.merged.get(slug, ())))
            remarks = (*self.came.get(slug, ()), *outcome.remarks)
            self.done[slug] = replace(outcome, merged=merged, remarks=remarks)
            if missing and not self.dry_run:
                parcel[slug] = missing
        return [slug for part in _parts(parcel) for slug in self._send(part)]

    def _merge(self, slugs: list[str], theirs: Mapping[str, RefSet]) -> list[str]:
        """Fetches the remote's refs that we lack; returns the experiments that can be pushed."""
        ours = local_sets(self.repo)
        moved = {
            slug: theirs[slug]
            for slug in slugs
            if slug in theirs and not _contains(self.repo, ours[slug], theirs[slug])
        }
        if not moved:
            return slugs
        taken = take(self.repo, self.remote, moved, dry_run=self.dry_run)
        for outcome in taken:
            self.merged.setdefault(outcome.slug, set()).update(outcome.merged)
            if outcome.error:
                self.done[outcome.slug] = outcome
            elif outcome.commits:
                what = "1 commit" if outcome.commits == 1 else f"{outcome.commits} commits"
                came = "would come" if self.dry_run else "came"
                said = f"{what} of {shown(self.remote)} {came} here first"
                self.came[outcome.slug] = (*self.came.get(outcome.slug, ()), said)
        failed = {outcome.slug for outcome in taken if outcome.error}
        return [slug for slug in slugs if slug not in failed]

    def _has_tags(self, slug: str) -> bool:
        """Makes the tags of kept epochs again that are gone; whether it has all, and in place."""
        with contextlib.suppress(ExperimentError):  # its records are not here
            try:
                missing = missing_tags(self.repo, slug)
            except RefMovedError as error:
                self.done[slug] = Synced(slug, error=error.message, hint=error.hint)
                return False
            try:
                if missing and not self.dry_run:
                    make_tags(self.repo, slug, missing)
            except AutopilotError as error:
                what = f"{slug} lacks the tag {epoch_tag(*missing[0])}: {error.message}"
                self.done[slug] = Synced(slug, error=what, hint=error.hint)
                return False
            if missing:
                made = "would be made" if self.dry_run else "made"
                said = f"{made} again from the records: {counted(len(missing), 'tag')}"
                self.came[slug] = (*self.came.get(slug, ()), said)
        return True

    def _send(self, parcel: Mapping[str, Mapping[str, str]]) -> list[str]:
        everything = {name: oid for refs in parcel.values() for name, oid in refs.items()}
        pushed = self._push(everything)
        if not pushed.rejected:
            self.said |= dict.fromkeys(pushed.said)
            return []
        if pushed.moved:
            return list(parcel)
        if len(parcel) > 1:
            # One that the remote does not want must not keep the others back.
            return [slug for one, refs in parcel.items() for slug in self._send({one: refs})]
        slug = next(iter(parcel))
        self.done[slug] = Synced(
            slug,
            error=f"{shown(self.remote)} did not take {slug} ({pushed.reasons[0]}){pushed.why}",
            hint=pushed.hint,
        )
        return []

    def _push(self, wanted: Mapping[str, str]) -> Pushed:
        if self.atomic:
            pushed = push_refs(self.repo, self.remote, wanted)
            if pushed.atomic:
                return pushed
            self.atomic = False
        # Ref by ref: a branch that is there has its notes.
        heads = {n: oid for n, oid in wanted.items() if n.startswith("refs/heads/")}
        for part in ({n: o for n, o in wanted.items() if n not in heads}, heads):
            if part:
                pushed = push_refs(self.repo, self.remote, part, atomic=False)
                if pushed.rejected:
                    break
        return pushed


def _contains(repo: Repository, ours: RefSet, theirs: RefSet) -> bool:
    """Whether we have all that the remote has; a tag that differs counts as missing."""
    heads = [(ours.branch, theirs.branch)]
    heads += [(ours.notes.get(name), tip) for name, tip in theirs.notes.items()]
    for here, there in heads:
        if there is None or here == there:
            continue
        if here is None or not has_object(repo, there) or ahead_behind(repo, here, there)[1]:
            return False
    if theirs.review and not has_object(repo, theirs.review):
        return False
    return all(ours.tags.get(name, tip) == tip for name, tip in theirs.tags.items())


def _missing(
    repo: Repository, slug: str, ours: RefSet, theirs: RefSet, remote: str
) -> tuple[dict[str, str], Synced]:
    """The refs that the remote lacks of an experiment, in the order in which they are sent."""
    layout = Layout(slug)
    notes = {n: oid for n, oid in ours.notes.items() if _is_news(repo, oid, theirs.notes.get(n))}
    tags = {n: oid for n, oid in ours.tags.items() if n not in theirs.tags}
    missing = notes | tags
    commits, remarks = 0, []
    if ours.branch and ours.branch != theirs.branch:
        if theirs.branch and has_object(repo, theirs.branch):
            commits = ahead_behind(repo, ours.branch, theirs.branch)[0]
        if commits or not theirs.branch:
            missing[layout.branch] = ours.branch
    if ours.review and ours.review != theirs.review:
        known = theirs.review and has_object(repo, theirs.review)
        behind = ahead_behind(repo, ours.review, theirs.review)[1] if known and theirs.review else 0
        if not behind and (known or not theirs.review):
            missing[layout.review] = ours.review
        elif ahead_behind(repo, ours.review, theirs.review or "")[0]:
            remarks.append(f"its review branch is another one on {remote}; that is left as it is")
    kinds, is_new = tuple(sorted(name.rpartition("/")[2] for name in notes)), theirs.branch is None
    outcome = Synced(slug, is_new, commits, tags=len(tags), notes=kinds, remarks=tuple(remarks))
    return missing, outcome


def _is_news(repo: Repository, ours: str, theirs: str | None) -> bool:
    """Whether the remote lacks something of ours; a trial run leaves us behind it."""
    if theirs is None or not has_object(repo, theirs):
        return True
    return ours != theirs and ahead_behind(repo, ours, theirs)[0] > 0


def _parts(parcel: Mapping[str, dict[str, str]]) -> Iterable[dict[str, dict[str, str]]]:
    """Whole experiments, as many as one command line carries."""
    part: dict[str, dict[str, str]] = {}
    for slug, refs in parcel.items():
        if part and sum(map(len, part.values())) + len(refs) > _REFS:
            yield part
            part = {}
        part[slug] = refs
    if part:
        yield part
