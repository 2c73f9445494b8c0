"""A judged epoch as a reader sees it, made of its records and of the branch around them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass

from autopilot.core.records import message
from autopilot.core.records.index import INDEXED, Index
from autopilot.core.records.learnt import BLOCK_AFTER
from autopilot.core.records.message import trailer_number
from autopilot.core.records.record import MetricsRecord, Record
from autopilot.core.types import Verdict
from autopilot.errors import AutopilotError, RepositoryError
from autopilot.files import REGULAR, FileState, replace_file
from autopilot.git import objects, refs
from autopilot.git.commands import Seen, looking
from autopilot.git.commits import Commit, first_parent_log, is_ancestor, read_commit
from autopilot.git.repository import Repository
from autopilot.tracking.journal import Journal


@dataclass(frozen=True, slots=True)
class Epoch:
    """One judged epoch.

    Args:
        record: Its val record.
        commit: The commit with its notes: the last step's; the start commit for the baseline.
        metrics: Split to metric name to value.
        before: The best value before it, None where there is none.
        origin: The epoch whose state it started from; None for the baseline.
        rollback: The rollback commit after a rejected epoch.
        steps: Its step commits, oldest first; none where nothing was changed. Of an epoch with
            several candidates: the last one of the best candidate.
    """

    record: MetricsRecord
    commit: str
    metrics: Mapping[str, Mapping[str, float]]
    before: float | None
    origin: int | None
    rollback: str | None
    steps: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The epoch in words: "epoch 7", or "candidate 2 of epoch 7"."""
        return self.record.title

    @property
    def number(self) -> int:
        """Its number; 0 is the baseline."""
        return self.record.epoch

    @property
    def verdict(self) -> Verdict:
        """The policy's verdict: "baseline", "kept" or "rejected"."""
        return self.record.verdict

    @property
    def value(self) -> float | None:
        """The monitored val metric, None where missing."""
        return self.record.metrics.get(self.record.monitor)

    @property
    def measured(self) -> int:
        """The epoch whose results are its own: an earlier one of the same state, or itself."""
        return self.record.measured

    @property
    def delta(self) -> float | None:
        """The value's change against the best before, None where there is nothing to compare."""
        if self.value is None or self.before is None:
            return None
        return self.value - self.before


def steps_in(line: Iterable[Commit]) -> dict[int, list[Commit]]:
    """Epoch to its step commits, in the order of the line."""
    found: dict[int, list[Commit]] = {}
    for commit in line:
        number = trailer_number(commit.message, message.EPOCH)
        if number is not None:
            found.setdefault(number, []).append(commit)
    return found


def rollbacks_in(line: Iterable[Commit]) -> dict[int, Commit]:
    """Rejected epoch to its rollback commit."""
    pairs = ((trailer_number(commit.message, message.REJECTED), commit) for commit in line)
    return {epoch: commit for epoch, commit in pairs if epoch is not None}


def judged_epochs(
    noted: Iterable[tuple[str, MetricsRecord]],
    steps: Mapping[int, Sequence[Commit]],
    rollbacks: Mapping[int, Commit],
) -> list[Epoch]:
    """The epochs that have a val record, oldest first."""
    records: dict[int, dict[str, tuple[str, MetricsRecord]]] = {}
    for commit, record in noted:
        records.setdefault(record.epoch, {}).setdefault(record.split, (commit, record))
    found: list[Epoch] = []
    best: float | None = None
    origin: int | None = None
    for number, splits in sorted(records.items()):
        if "val" not in splits:
            continue
        commit, val = splits["val"]
        metrics = {name: record.metrics for name, (_, record) in splits.items()}
        back = rollbacks[number].id if number in rollbacks else None
        own = tuple(step.id for step in steps.get(number, ()))
        if val.candidates:  # of several candidates, the steps of the best one
            own = (val.commit,) if val.commit else ()
        found.append(Epoch(val, commit, metrics, best, origin, back, own))
        best, origin = val.best, val.best_epoch
    return found


# --- the index: reading one epoch does not read the others ---------------------------------------
#
# It is derived from the branch and its notes, and holds the tips that it was made from. Where they
# have moved, what was added is read; where more than that has changed, or the file is damaged, it
# is made anew. It lies in the git folder; nothing is lost with it, and where it cannot be written,
# each reader makes its own.

_BRANCH = "branch"
_seen = Seen["Index"]()


def read_index(
    repo: Repository,
    journal: Journal,
    tip: str,
    known: Index | None = None,
    block_after: int = BLOCK_AFTER,
) -> Index:
    """The index of an experiment's branch as it is now, brought up to date.

    Args:
        tip: Where the branch ends.
        known: The result of an earlier call.
        block_after: The rule under which it is to know the lessons.

    Raises:
        RecordError: the manifest's note is not here.
    """
    layout = journal.layout
    path, tips = layout.index(repo), {_BRANCH: tip}
    for kind in INDEXED:
        with contextlib.suppress(RepositoryError):  # who reads it names it
            if (oid := journal.tip(kind)) is not None:
                tips[kind.kind] = oid
    # Threads share the one in memory: it is added to in a copy.
    seen = _seen.known(str(path))
    found = copy(known or seen)
    if found is None:
        # A checksum does not say that it is of this form.
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
            found = Index.decode(path.read_bytes())
    is_new = found is None or found.tips != tips
    if found is None or (is_new and not _is_longer(found, repo, journal, tips)):
        line = journal.line(tip)
        found = Index(start="".join([*line][-1:]), length=len(line))
        with looking(is_on=False):  # all records are too much to be kept
            found.take(pair for kind in INDEXED for pair in journal.read(kind, line))
    found.tips = tips
    # Lines that cannot be read are named by each reader, who has to meet them for that. And a
    # shallow clone may lack the beginning, which a later fetch brings.
    is_cut = is_new and journal.start() not in (None, found.start)
    if is_cut or any(named.startswith(layout.notes("")) for named in repo.damaged):
        return found
    # Who looks again and again writes it once.
    is_new |= found.add_rule(block_after)
    if is_new and seen is None and refs.read_ref(repo, layout.branch) == tip:
        with contextlib.suppress(AutopilotError, OSError):
            replace_file(path.parent, path.name, FileState(REGULAR, found.encode()))
    return _seen.keep(str(path), found)


def _is_longer(index: Index, repo: Repository, journal: Journal, tips: dict[str, str]) -> bool:
    """Takes in what was added; False where more than that has changed, or may have."""
    # What it was made from may be gone; then it is made anew.
    with contextlib.suppress(AutopilotError):
        return _extend(index, repo, journal, tips)
    return False


def _extend(index: Index, repo: Repository, journal: Journal, tips: dict[str, str]) -> bool:
    # From the newest judged epoch's commit on, there may be notes that were not there, or of which
    # the commits were not yet on the branch.
    judged = index.epochs[-1].revision if index.epochs else index.start
    recent = list[str]()
    for commit in first_parent_log(repo, tips[_BRANCH]):
        recent.append(commit.id)
        if commit.id == judged:
            break
    else:
        return False
    if index.tips[_BRANCH] not in recent:
        return False
    above, added = recent.index(index.tips[_BRANCH]), list[tuple[str, Record]]()
    for kind in INDEXED:
        before, now = index.tips.get(kind.kind), tips.get(kind.kind)
        changed = dict.fromkeys(recent) if above or before != now else {}
        if before != now:
            if before is None or now is None:
                return False
            trees = (objects.tree_of(repo, each) for each in (before, now))
            for path, (old, note) in objects.diff_trees(repo, *trees).items():
                contents = [objects.read_blob(repo, x.oid) if x else b"" for x in (note, old)]
                if not contents[0].startswith(contents[1]):
                    return False
                if (annotated := path.replace("/", "")) in changed:
                    continue
                if index.epochs.with_text(annotated):
                    changed[annotated] = None
                elif _is_below(repo, annotated, tips[_BRANCH]):
                    return False
        added += [(c, record) for c in changed for record in journal.read_on(c, kind)]
    index.length += above
    index.take(added)
    return True


def _is_below(repo: Repository, commit: str, tip: str) -> bool:
    """Whether a commit is on a branch; notes are on others too: a kill left them, or a fetch.

    A candidate of an epoch that has several is beside the branch's line.
    """
    with contextlib.suppress(RepositoryError):  # it may not be here
        text = read_commit(repo, commit).message
        return message.trailer(text, message.CANDIDATE) is None and is_ancestor(repo, commit, tip)
    return False
