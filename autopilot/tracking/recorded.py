"""What an experiment has recorded, as git holds it: commits, notes and tags, read once.

Unlike the notebook, which tells what an experiment came to, it takes nothing for granted: records
may be missing, or be on commits that the branch does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from autopilot.core.records import message
from autopilot.core.records.message import trailer_number
from autopilot.core.records.record import MetricsRecord, StepRecord
from autopilot.git import commits, refs
from autopilot.tracking.journal import Journal
from autopilot.tracking.notebook import Notebook


@dataclass(frozen=True, slots=True)
class Judged:
    """An epoch as it is recorded.

    Args:
        commit: The commit that its metrics note is on.
        record: The val record.
        metrics: Split to metric name to value.
    """

    commit: str
    record: MetricsRecord
    metrics: Mapping[str, Mapping[str, float]]


class Recorded:
    """Reads an experiment.

    Args:
        notebook: The experiment.

    Attributes:
        line: Id to commit, the start commit first.
        judged: Epoch to its records, as far as they are on the branch.
        elsewhere: Epoch to a commit that the branch does not have, with a verdict on it.
        steps: Commit to the steps that its notes tell of.
        tags: Epoch to its tag's name.
        expected: The epochs that there must be records of.
    """

    def __init__(self, notebook: Notebook) -> None:
        self.notebook, self.repo = notebook, notebook.repo
        self.line = {commit.id: commit for commit in reversed(notebook.commits)}
        self.journal = Journal(self.repo, notebook.layout)
        self.elsewhere: dict[int, str] = {}
        self.judged = self._judged()
        self.steps = self._read_steps()
        self.tags = {
            int(name.rpartition("epoch-")[2]): name.removeprefix("refs/tags/")
            for name in refs.list_refs(self.repo, notebook.layout.tags)
            if name.rpartition("epoch-")[2].isdigit() and not self._is_later(name)
        }
        self.expected = self._expected()

    def _judged(self) -> dict[int, Judged]:
        self._strays: dict[int, set[str]] = {}
        places: dict[int, str] = {}
        vals: dict[int, MetricsRecord] = {}
        metrics: dict[int, dict[str, Mapping[str, float]]] = {}
        for commit, record in self.journal.read(MetricsRecord):
            if commit not in self.line:
                self.elsewhere.setdefault(record.epoch, commit)
                self._strays.setdefault(record.epoch, set()).add(commit)
                continue
            metrics.setdefault(record.epoch, {})[record.split] = record.metrics
            if record.split == "val":
                places[record.epoch], vals[record.epoch] = commit, record
        return {n: Judged(places[n], vals[n], metrics[n]) for n in sorted(vals)}

    def _read_steps(self) -> dict[str, list[StepRecord]]:
        found: dict[str, list[StepRecord]] = {}
        for commit, record in self.journal.read(StepRecord):
            found.setdefault(commit, []).append(record)
        return found

    def _expected(self) -> list[int]:
        """Every epoch that left a trace; the one that is going on has no verdict yet."""
        numbers = {0, *self.tags, *self.judged}
        stepped = set()
        for commit in self.line.values():
            numbers.add(trailer_number(commit.message, message.REJECTED) or 0)
            stepped.add(trailer_number(commit.message, message.EPOCH) or 1)
        for epoch, places in self._strays.items():
            if not any(map(self._is_there, places)):
                numbers.add(epoch)
        last = max(numbers | {n - 1 for n in stepped})
        return list(range(last + 1))

    def _is_later(self, tag: str) -> bool:
        """Whether a tag is of an epoch behind the commit that the branch is read up to."""
        found = commits.read_tag(self.repo, tag.removeprefix("refs/tags/"))
        if found is None or found.commit in self.line:
            return False
        return self.notebook.tip in self._log(found.commit) and self._is_there(found.commit)

    def _is_there(self, commit: str) -> bool:
        """Whether a branch has it; where the branch is only a commit, nobody knows."""
        return not self._on_branches or commit in self._on_branches

    @cached_property
    def _on_branches(self) -> set[str]:
        """What the experiment's branch has, here and of remotes, also behind what is read."""
        branch = self.notebook.layout.branch
        abroad = f"/{branch.removeprefix('refs/heads/')}"
        remotes = refs.list_refs(self.repo, "refs/remotes")
        tips = {tip for name, tip in remotes.items() if name.endswith(abroad)}
        here = refs.read_ref(self.repo, branch)
        return {oid for tip in tips | ({here} if here else set()) for oid in self._log(tip)}

    def _log(self, tip: str) -> set[str]:
        log = commits.first_parent_log(self.repo, tip, stop=self.notebook.base)
        return {commit.id for commit in log}
