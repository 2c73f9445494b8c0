"""Whether an experiment's branch, tags and notes still tell one story: from git alone.

Nothing is evaluated. Every commit must be one that autopilot makes, with the notes that it writes
beside it; every tag must stand where its epoch's note stands and say what that note says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from autopilot import __version__
from autopilot.core import message
from autopilot.core.record import MetricsRecord, StepRecord, TraceRecord
from autopilot.git import commits, objects, refs
from autopilot.git.commits import Commit
from autopilot.tracking.journal import Journal
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.places import places_of


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as it was recorded.

    Args:
        epoch: The epoch that it is about; None: the branch as a whole.
        what: "val accuracy", "tag", "metrics note", "commit", "rollback", a file's path, ...
        recorded: What the experiment says.
        found: What there is; of a metric, what it came to when it was measured again.
        why: One sentence, where the three do not say it all.
    """

    epoch: int | None
    what: str
    recorded: float | str | None
    found: float | str | None
    why: str = ""


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


class Integrity:
    """Reads an experiment once, and compares what was written in several places.

    Args:
        notebook: The experiment.

    Attributes:
        judged: Epoch to its records, as far as they are on the branch.
        expected: The epochs that there must be records of.
    """

    def __init__(self, notebook: Notebook) -> None:
        self.notebook, self.repo = notebook, notebook.repo
        self.line = {commit.id: commit for commit in reversed(notebook.commits)}
        self._journal = Journal(self.repo, notebook.layout)
        self._elsewhere: dict[int, str] = {}
        self._places = places_of(notebook.manifest)
        self.judged = self._judged()
        self._steps = self._steps_on_line()
        self._tags = {
            int(name.rpartition("epoch-")[2]): name.removeprefix("refs/tags/")
            for name in refs.list_refs(self.repo, notebook.layout.tags)
            if name.rpartition("epoch-")[2].isdigit() and not self._is_later(name)
        }
        self.expected = self._expected()

    def differences(self) -> list[Difference]:
        """All that does not fit, in order of epochs; what is about no epoch comes first."""
        found = [
            *self._start(),
            *self._commits(),
            *self._missing(),
            *self._records(),
            *self._chain(),
            *self._tagged(),
            *self._rollbacks(),
        ]
        return sorted(found, key=lambda each: -1 if each.epoch is None else each.epoch)

    # --- what there is -------------------------------------------------------------------------

    def _judged(self) -> dict[int, Judged]:
        places: dict[int, str] = {}
        vals: dict[int, MetricsRecord] = {}
        metrics: dict[int, dict[str, Mapping[str, float]]] = {}
        for commit, record in self._journal.read(MetricsRecord):
            if commit not in self.line:
                self._elsewhere.setdefault(record.epoch, commit)
                continue
            metrics.setdefault(record.epoch, {})[record.split] = record.metrics
            if record.split == "val":
                places[record.epoch], vals[record.epoch] = commit, record
        return {n: Judged(places[n], vals[n], metrics[n]) for n in sorted(vals)}

    def _steps_on_line(self) -> dict[str, list[StepRecord]]:
        found: dict[str, list[StepRecord]] = {}
        for commit, record in self._journal.read(StepRecord):
            found.setdefault(commit, []).append(record)
        return found

    def _expected(self) -> list[int]:
        """Every epoch that left a trace; the one that is going on has no verdict yet."""
        numbers = {0, *self._tags, *self.judged}
        stepped = set()
        for commit in self.line.values():
            numbers.add(int(_trailer(commit, message.REJECTED) or 0))
            stepped.add(int(_trailer(commit, message.EPOCH) or 1))
        last = max(numbers | {n - 1 for n in stepped})
        return list(range(last + 1))

    # --- what must fit -------------------------------------------------------------------------

    def _start(self) -> Iterator[Difference]:
        notebook, manifest = self.notebook, self.notebook.manifest
        start = self.line.get(notebook.start)
        if start is None:
            yield Difference(None, "start commit", notebook.start[:7], "not on the branch")
            return
        if manifest.base and manifest.base not in start.parents:
            parents = ", ".join(parent[:7] for parent in start.parents) or "nothing"
            yield Difference(None, "base commit", manifest.base[:7], parents)
        elif manifest.base:
            yield from self._strangers(None, start, manifest.base)

    def _commits(self) -> Iterator[Difference]:
        for commit in self.line.values():
            if commit.id == self.notebook.start:
                continue
            if len(commit.parents) != 1:
                yield Difference(None, "commit", "one parent", commit.id[:7], "it is a merge")
            epoch, step = _trailer(commit, message.EPOCH), _trailer(commit, message.STEP)
            rejected = _trailer(commit, message.REJECTED)
            subject = commit.message.partition("\n")[0]
            if epoch and step:
                yield from self._step(commit, int(epoch), int(step))
            elif not rejected:
                files = ", ".join(self._changed(commit)) or "no file"
                why = f"made by hand: {message.one_line(subject, 50)!r} changes {files}"
                yield Difference(None, "commit", "a step or a rollback", commit.id[:7], why)

    def _step(self, commit: Commit, epoch: int, step: int) -> Iterator[Difference]:
        yield from self._strangers(epoch, commit, commit.parents[0])
        records = [r for r in self._steps.get(commit.id, ()) if (r.epoch, r.step) == (epoch, step)]
        if not records:
            if epoch not in self._elsewhere:
                yield Difference(epoch, "gradients note", f"on {commit.id[:7]}", "missing")
        elif self._is_ours() and _words(commit.message) != _words(
            message.step_message(self.notebook.slug, records[0])
        ):
            why = "the gradients note and the commit's message tell of different steps"
            yield Difference(epoch, "gradients note", _subject(commit.message), commit.id[:7], why)

    def _missing(self) -> Iterator[Difference]:
        for number in self.expected:
            if number in self.judged:
                continue
            place = self._elsewhere.get(number)
            if place is None:
                yield Difference(number, "metrics note", "a verdict", "missing")
            else:
                own = [
                    c.id for c in self.line.values() if _trailer(c, message.EPOCH) == str(number)
                ]
                found = own[-1][:7] if own else "not on the branch"
                why = "the branch was rewritten: the epoch's notes are on another commit"
                yield Difference(number, "commit", place[:7], found, why)

    def _records(self) -> Iterator[Difference]:
        for number, judged in self.judged.items():
            commit, record = self.line[judged.commit], judged.record
            if record.tree and record.tree != commit.tree:
                why = f"{commit.id[:7]} does not hold what was measured"
                yield Difference(number, "tree", record.tree[:7], commit.tree[:7], why)
            traced = [t for t in self._journal.read_on(commit.id, TraceRecord) if t.epoch == number]
            if record.reused is None and not any(trace.split == "val" for trace in traced):
                yield Difference(number, "traces note", f"on {commit.id[:7]}", "missing")
            for path, oid in record.inputs.items():
                entry = objects.entry_at(self.repo, commit.tree, path)
                if entry is not None and entry.oid != oid:
                    why = "it was measured with another version of this file"
                    yield Difference(number, path, oid[:7], entry.oid[:7], why)

    def _chain(self) -> Iterator[Difference]:
        """The best so far follows from the verdicts."""
        best_epoch, best = 0, None
        for number, judged in self.judged.items():
            record = judged.record
            value = record.metrics.get(record.monitor)
            if record.verdict != "rejected":
                best_epoch = number
                best = value if value is not None and math.isfinite(value) else best
            if record.best_epoch != best_epoch:
                yield Difference(number, "best epoch", record.best_epoch, best_epoch)
            if record.best != best:
                yield Difference(number, f"best val {record.monitor}", record.best, best)

    def _tagged(self) -> Iterator[Difference]:
        for number, judged in self.judged.items():
            if judged.record.verdict == "rejected":
                if number in self._tags:
                    why = "the epoch was rejected"
                    yield Difference(number, "tag", "none", self._tags[number], why)
                continue
            tag = commits.read_tag(self.repo, self.notebook.layout.tag_name(number))
            if tag is None:
                yield Difference(number, "tag", f"on {judged.commit[:7]}", "missing")
            elif tag.commit != judged.commit:
                yield Difference(number, "tag", f"on {judged.commit[:7]}", f"on {tag.commit[:7]}")
            elif self._is_ours():
                yield from self._told(number, judged, tag.message)
        for number in self._tags.keys() - self.judged.keys() - set(self.expected):
            yield Difference(number, "tag", "none", self._tags[number], "there is no such epoch")

    def _told(self, number: int, judged: Judged, told: str) -> Iterator[Difference]:
        """What a tag says against what the note says; the test score comes after the tag."""
        text = message.tag_message(self.notebook.slug, judged.record, judged.metrics)
        noted, tagged = (
            {line for line in each.splitlines() if line and not line.startswith("test ")}
            for each in (text, told)
        )
        if noted == tagged:
            return
        only = sorted(noted - tagged) or ["nothing more"]
        other = sorted(tagged - noted) or ["nothing of it"]
        why = "the metrics note and the tag, written together, say different things"
        yield Difference(number, "metrics note", only[0], f"tag: {other[0]}", why)

    def _rollbacks(self) -> Iterator[Difference]:
        rolled: dict[int, Commit] = {}
        for commit in self.line.values():
            rejected = _trailer(commit, message.REJECTED)
            if rejected:
                rolled[int(rejected)] = commit
        last = max(self.judged, default=0)
        for number, judged in self.judged.items():
            record = judged.record
            if record.verdict != "rejected":
                if number in rolled:
                    yield Difference(number, "rollback", "none", rolled[number].id[:7])
                continue
            back, best = rolled.get(number), self.judged.get(record.best_epoch)
            if back is None:
                # The last one's may be still to come: a run that was killed makes it on resume.
                if number != last or self._goes_on(judged):
                    yield Difference(number, "rollback", f"to epoch {record.best_epoch}", "missing")
                continue
            if best is not None and back.tree != self.line[best.commit].tree:
                why = f"{back.id[:7]} does not hold the state of epoch {record.best_epoch}"
                state = self.line[best.commit].tree[:7]
                yield Difference(number, "rollback", state, back.tree[:7], why)
            text = message.rollback_message(self.notebook.slug, record)
            if self._is_ours() and _words(back.message) != _words(text):
                why = "the metrics note and the rollback's message give different reasons"
                yield Difference(number, "metrics note", _subject(text), back.id[:7], why)

    # --- inside --------------------------------------------------------------------------------

    def _is_later(self, tag: str) -> bool:
        """Whether a tag is of an epoch behind the commit that the branch is read up to."""
        found = commits.read_tag(self.repo, tag.removeprefix("refs/tags/"))
        if found is None or found.commit in self.line:
            return False
        log = commits.first_parent_log(self.repo, found.commit, stop=self.notebook.base)
        return any(commit.id == self.notebook.tip for commit in log)

    def _goes_on(self, judged: Judged) -> bool:
        return self.notebook.tip != judged.commit

    def _is_ours(self) -> bool:
        """Whether this version of the program wrote it: messages may be worded otherwise."""
        return self.notebook.manifest.versions.get("autopilot") == __version__

    def _changed(self, commit: Commit) -> list[str]:
        parent = commit.parents[0] if commit.parents else None
        if parent is None:
            return []
        before = objects.tree_of(self.repo, parent)
        return sorted(objects.diff_trees(self.repo, before, commit.tree))

    def _strangers(self, epoch: int | None, commit: Commit, parent: str) -> Iterator[Difference]:
        """Files outside of the parameters that a commit changes: the evaluator's, the data's."""
        before = objects.tree_of(self.repo, parent)
        changes = objects.diff_trees(self.repo, before, commit.tree)
        for path, (old, new) in sorted(changes.items()):
            if not self._is_parameter(path):
                why = f"{commit.id[:7]} changes a file that is no parameter"
                recorded, found = (e.oid[:7] if e else "no file" for e in (old, new))
                yield Difference(epoch, path, recorded, found, why)

    def _is_parameter(self, path: str) -> bool:
        return any(place.covers(path) for place in self._places)


def _trailer(commit: Commit, name: str) -> str | None:
    """A number in a trailer."""
    block = commit.message.rstrip().rpartition("\n\n")[2]
    for line in reversed(block.splitlines()):
        if line.startswith(f"{name}: "):
            value = line.partition(": ")[2].strip()
            return value if value.isdigit() else None
    return None


def _words(text: str) -> list[str]:
    """A message without its white space, which git may clean up."""
    return text.split()


def _subject(text: str) -> str:
    return message.one_line(text.partition("\n")[0], 50)
