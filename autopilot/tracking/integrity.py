"""Whether an experiment's branch, tags and notes still tell one story: from git alone.

Nothing is evaluated. Every commit must be one that autopilot makes, with the notes that it writes
beside it; every tag must be on the commit of its epoch's note and agree with it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from autopilot import __version__
from autopilot.core.records import message
from autopilot.core.records.record import Lesson, MetricsRecord, StepRecord, TraceRecord
from autopilot.errors import RepositoryError
from autopilot.git import commits, objects, refs
from autopilot.git.commits import Commit
from autopilot.tracking.attribution import candidates_of
from autopilot.tracking.epochs import Epoch
from autopilot.tracking.layout import KINDS, state_of_tag
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.parameters import manifest_paths

_REWRITTEN = "the branch was rewritten: the epoch's notes are on another commit"
_MISSING_AT_MOST = 100_000
_CUT = "the branch was cut back, or is behind its remote's: autopilot fetch"


@dataclass(frozen=True, slots=True)
class Difference:
    """A contradiction between two places of a record, or a record and a new measurement.

    Args:
        epoch: The epoch that it is about; None: the branch as a whole.
        what: "val accuracy", "tag", "metrics note", "commit", "rollback", a file's path, ...
        found: The value found; of a metric, its value when it was measured again.
        why: One sentence, where the three do not say it all.
    """

    epoch: int | None
    what: str
    recorded: float | str | None
    found: float | str | None
    why: str = ""


class Integrity:
    """Compares an experiment's commits, notes and tags with each other.

    It takes nothing for granted: records may be missing, or be on commits that the branch lacks.

    Attributes:
        judged: Number to epoch, as far as their records are on the branch.
        elsewhere: Epoch to a commit that the branch lacks, with a verdict on it.
        expected: The epochs that there must be records of.
    """

    def __init__(self, notebook: Notebook) -> None:
        self.notebook, self.repo, self.line = notebook, notebook.repo, notebook.line
        self.judged = {epoch.number: epoch for epoch in notebook.epochs}
        self._strays: dict[int, list[str]] = {}
        for commit, record in notebook.journal.read(MetricsRecord):
            if commit not in self.line:
                self._strays.setdefault(record.epoch, []).append(commit)
        self.elsewhere = {epoch: places[0] for epoch, places in self._strays.items()}
        self._tags = {
            state: name.removeprefix("refs/tags/")
            for name in refs.list_refs(self.repo, notebook.layout.tags)
            if (state := state_of_tag(name)) is not None and not self._is_later(name)
        }
        self.expected = self._expected()
        self._places = manifest_paths(notebook.manifest)
        # Another version may word the messages of commits and tags otherwise. Their words are
        # compared, since git may clean up white space.
        self._is_ours = notebook.manifest.versions.get("autopilot") == __version__

    def _expected(self) -> list[int]:
        """Every epoch that left a trace; the one that is going on has no verdict yet."""
        numbers, stepped = {0, *(epoch for epoch, _ in self._tags), *self.judged}, set()
        for commit in self.line.values():
            numbers.add(message.trailer_number(commit.message, message.REJECTED) or 0)
            stepped.add(message.trailer_number(commit.message, message.EPOCH) or 1)
        for epoch, places in self._strays.items():
            if not any(map(self._is_there, places)):
                numbers.add(epoch)
        last = max(numbers | {n - 1 for n in stepped})
        # Each epoch leaves a commit: a number far above that was not counted up to by a run.
        is_counted = last <= _MISSING_AT_MOST + len(self.line) + len(self._strays)
        return list(range(last + 1)) if is_counted else sorted(numbers)

    def _is_later(self, tag: str) -> bool:
        """Whether a tag is of an epoch behind the commit that the branch is read up to."""
        found = commits.read_tag(self.repo, tag.removeprefix("refs/tags/"))
        if found is None or found.commit in self.line:
            return False
        with contextlib.suppress(RepositoryError):  # it may be on anything
            return self.notebook.tip in self._log(found.commit) and self._is_there(found.commit)
        return False

    def _is_there(self, commit: str) -> bool:
        """Whether a branch has it; if the branch is only a commit, that cannot be known."""
        return not self._on_branches or commit in self._on_branches

    @cached_property
    def _on_branches(self) -> set[str]:
        """The commits of the experiment's branch, here and of remotes, also behind the tip read."""
        branch = self.notebook.layout.branch
        remotes = refs.list_refs(self.repo, "refs/remotes")
        suffix = f"/{self.notebook.layout.branch_name}"
        tips = {tip for name, tip in remotes.items() if name.endswith(suffix)}
        here = refs.read_ref(self.repo, branch)
        return {oid for tip in tips | ({here} if here else set()) for oid in self._log(tip)}

    def _log(self, tip: str) -> set[str]:
        log = commits.first_parent_log(self.repo, tip, stop=self.notebook.base)
        return {commit.id for commit in log}

    def differences(self) -> list[Difference]:
        """All contradictions in order of epochs; those about no epoch come first."""
        unread = list(self._unread())
        found = [
            *self._start(),
            *unread,
            *self._commits(),
            *self._missing(),
            *self._records(),
            *self._repeated(),
            *self._lessons(),
            *self._chain(),
            *self._tagged(),
            *self._rollbacks(),
        ]
        for error in [error for error in self.repo.damaged if any(error in u.why for u in unread)]:
            del self.repo.damaged[error]  # it is a difference
        return sorted(found, key=lambda each: -1 if each.epoch is None else each.epoch)

    # --- the checks ----------------------------------------------------------------------------

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
        if self._differs(start, message.start_message(manifest)):
            why = "the manifest note and the start commit's message tell of different experiments"
            yield Difference(None, "experiment note", _subject(start.message), start.id[:7], why)

    def _unread(self) -> Iterator[Difference]:
        for kind in KINDS:
            for commit, error in self.notebook.journal.unread(kind, self.line):
                epoch, why = self.notebook.epoch_at(commit), f"{error.message}; {error.hint}"
                yield Difference(epoch, f"{kind} note", "a record", f"on {commit[:7]}", why)

    def _commits(self) -> Iterator[Difference]:
        for commit in self.line.values():
            if commit.id == self.notebook.start:
                continue
            epoch, step, rejected = (
                message.trailer_number(commit.message, name)
                for name in (message.EPOCH, message.STEP, message.REJECTED)
            )
            judged = self.judged.get(-1 if epoch is None or step else epoch)
            if judged is not None and judged.commit == commit.id and judged.record.candidates:
                yield from self._search(commit, judged)
                continue
            if len(commit.parents) != 1:
                yield Difference(None, "commit", "one parent", commit.id[:7], "it is a merge")
            subject = commit.message.partition("\n")[0]
            if epoch and step:
                yield from self._step(commit, epoch, step)
            elif not rejected:
                files = ", ".join(self._changed(commit)) or "no file"
                why = f"made by hand: {message.one_line(subject, 50)!r} changes {files}"
                yield Difference(None, "commit", "a step or a rollback", commit.id[:7], why)

    def _search(self, commit: Commit, judged: Epoch) -> Iterator[Difference]:
        """The commit that ends an epoch of several candidates, and these."""
        notebook, number, record = self.notebook, judged.number, judged.record
        yield from self._strangers(number, commit, commit.parents[0])
        text = message.search_message(notebook.slug, record)
        if self._differs(commit, text):
            why = "the metrics note and the commit's message tell of different epochs"
            yield Difference(number, "metrics note", _subject(commit.message), commit.id[:7], why)
        if record.commit not in ("", *commit.parents[1:]):
            why = "the best candidate is none of its parents"
            yield Difference(number, "commit", record.commit[:7], commit.id[:7], why)
        for place in commit.parents[1:]:
            for own in notebook.line_of(place, number):
                made = commits.read_commit(self.repo, own)
                step = message.trailer_number(made.message, message.STEP) or 0
                yield from self._step(made, number, step)

    def _step(self, commit: Commit, epoch: int, step: int) -> Iterator[Difference]:
        yield from self._strangers(epoch, commit, commit.parents[0])
        noted = self._steps.get(commit.id) or self.notebook.journal.read_on(commit.id, StepRecord)
        records = [r for r in noted if (r.epoch, r.step) == (epoch, step)]
        if not records:
            if epoch not in self.elsewhere:
                yield Difference(epoch, "gradients note", f"on {commit.id[:7]}", "missing")
            return
        text = message.step_message(self.notebook.slug, records[0])
        if self._differs(commit, text):
            why = "the gradients note and the commit's message tell of different steps"
            yield Difference(epoch, "gradients note", _subject(commit.message), commit.id[:7], why)

    @cached_property
    def _steps(self) -> dict[str, list[StepRecord]]:
        found: dict[str, list[StepRecord]] = {}
        for commit, record in self.notebook.records(StepRecord):
            found.setdefault(commit, []).append(record)
        return found

    def _missing(self) -> Iterator[Difference]:
        for number in [each for each in self.expected if each not in self.judged]:
            place = self.elsewhere.get(number)
            if place is None:
                yield Difference(number, "metrics note", "a verdict", "missing")
            else:
                own = self.notebook.step_commits.get(number)
                found = own[-1].id[:7] if own else "not on the branch"
                is_cut = not own and number > max(self.judged, default=-1)
                why = _CUT if is_cut else _REWRITTEN
                yield Difference(number, "commit", place[:7], found, why)

    def _records(self) -> Iterator[Difference]:
        for number, judged in self.judged.items():
            commit, record = self.line[judged.commit], judged.record
            if record.commit:
                with contextlib.suppress(RepositoryError):  # another check names it
                    commit = commits.read_commit(self.repo, record.commit)
            if record.tree and record.tree != commit.tree:
                why = f"{commit.id[:7]} does not hold what was measured"
                yield Difference(number, "tree", record.tree[:7], commit.tree[:7], why)
            traces = self.notebook.journal.read_on(commit.id, TraceRecord)
            traced = any((trace.epoch, trace.split) == (number, "val") for trace in traces)
            if not traced and record.reused is None and record.is_traced:
                yield Difference(number, "traces note", f"on {commit.id[:7]}", "missing")
            for path, oid in record.inputs.items():
                entry = objects.entry_at(self.repo, commit.tree, path)
                if entry is not None and entry.oid != oid:
                    why = "it was measured with another version of this file"
                    yield Difference(number, path, oid[:7], entry.oid[:7], why)

    def _repeated(self) -> Iterator[Difference]:
        """Two lines of one id are one to every reader, so they may not say two things."""
        for commit, first, other in self.notebook.journal.repeated(MetricsRecord):
            said, also = (f"{r.verdict} {dict(r.metrics)}" for r in (first, other))
            if commit in self.line and said != also:
                why = f"two lines {first.id} say different things"
                yield Difference(first.epoch, "metrics note", said, f"also: {also}", why)

    def _lessons(self) -> Iterator[Difference]:
        """An epoch's lesson in memory agrees with its metrics note, written beside it."""
        for number, judged in self.judged.items():
            record = judged.record
            if number == 0 or not self.notebook.manifest.target:
                continue
            lessons = self.notebook.journal.read_on(judged.commit, Lesson)
            own = f"{number}-c{record.candidate}" if record.candidate else str(number)
            lesson = next((each for each in lessons if each.id == own), None)
            if lesson is None:
                yield Difference(number, "memory note", f"on {judged.commit[:7]}", "missing")
            elif self._is_ours:
                yield from self._taught(number, record, lesson)

    def _taught(self, number: int, record: MetricsRecord, lesson: Lesson) -> Iterator[Difference]:
        value = record.metrics.get(record.monitor, math.nan)
        # A kept epoch's value is compared with the tag instead.
        noted = value if record.verdict == "rejected" and math.isfinite(value) else lesson.value
        for name, said, kept in (
            ("strategy", record.strategy, lesson.strategy),
            ("summary", record.summary, lesson.summary),
            (f"val {record.monitor}", noted, lesson.value),
        ):
            if said != kept:
                why = "the metrics note and the memory note, written together, differ"
                yield Difference(number, name, said, f"memory: {kept}", why)

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
        rest = dict(self._tags)
        for number, judged in self.judged.items():
            record, states = judged.record, {0: judged}
            beside = candidates_of(self.notebook, number) if record.stay else ()
            states |= {each.record.candidate: each for each in beside}
            for candidate in (*((0,) if record.verdict != "rejected" else ()), *record.stay):
                rest.pop((number, candidate), None)
                if candidate in states:
                    yield from self._tag(number, candidate, states[candidate])
                else:
                    what, there = "metrics note of candidate", record.revisions[candidate - 1][:7]
                    yield Difference(number, f"{what} {candidate}", f"on {there}", "missing")
        for (number, candidate), name in rest.items():
            if number in self.judged:
                who = f"candidate {candidate}" if candidate else "the epoch"
                yield Difference(number, "tag", "none", name, f"{who} was rejected")

    def _tag(self, number: int, candidate: int, judged: Epoch) -> Iterator[Difference]:
        """The tag of a kept state."""
        tag, name = None, self.notebook.layout.tag_name(number, candidate)
        what = f"tag of candidate {candidate}" if candidate else "tag"
        on = f"on {judged.commit[:7]}"
        with contextlib.suppress(RepositoryError):  # a file that is no ref
            tag = commits.read_tag(self.repo, name)
        if tag is None:
            why = "autopilot gc makes it again"
            if refs.read_ref(self.repo, self.notebook.layout.branch) is None:
                why = f"autopilot fetch {self.notebook.slug} brings it"
            yield Difference(number, what, on, "missing", why)
        elif tag.commit != judged.commit:
            why = f"git tag -d {name} && autopilot gc makes it anew"
            yield Difference(number, what, on, f"on {tag.commit[:7]}", why)
        elif self._is_ours:
            yield from self._tag_message(number, judged, tag.message)

    def _tag_message(self, number: int, judged: Epoch, tagged_text: str) -> Iterator[Difference]:
        """A tag's message against the note; without the test score, which comes after the tag."""
        text = message.tag_message(self.notebook.slug, judged.record, judged.metrics)
        noted, tagged = (
            {line for line in each.splitlines() if line and not line.startswith("test ")}
            for each in (text, message.displayed(tagged_text))
        )
        if noted == tagged:
            return
        only = sorted(noted - tagged) or ["nothing more"]
        other = sorted(tagged - noted) or ["nothing of it"]
        why = "the metrics note and the tag, written together, say different things"
        yield Difference(number, "metrics note", only[0], f"tag: {other[0]}", why)

    def _rollbacks(self) -> Iterator[Difference]:
        rollbacks = self.notebook.rollbacks
        for number, judged in self.judged.items():
            record = judged.record
            if record.verdict != "rejected":
                if number in rollbacks:
                    yield Difference(number, "rollback", "none", rollbacks[number].id[:7])
                continue
            back, best = rollbacks.get(number), self.judged.get(record.best_epoch)
            if back is None:
                # The last one's may be still to come: a run that was killed makes it on resume.
                if self.notebook.tip != judged.commit:
                    yield Difference(number, "rollback", f"to epoch {record.best_epoch}", "missing")
                continue
            if best is not None and back.tree != self.line[best.commit].tree:
                why = f"{back.id[:7]} does not hold the state of epoch {record.best_epoch}"
                state = self.line[best.commit].tree[:7]
                yield Difference(number, "rollback", state, back.tree[:7], why)
            text = message.rollback_message(self.notebook.slug, record)
            if back.id == judged.commit:
                continue  # it ends an epoch of several candidates, and was looked at
            if self._differs(back, text):
                why = "the metrics note and the rollback's message give different reasons"
                yield Difference(number, "metrics note", _subject(text), back.id[:7], why)

    # --- inside --------------------------------------------------------------------------------

    def _differs(self, commit: Commit, text: str) -> bool:
        """Whether a commit that we made has another message than a note makes it."""
        return self._is_ours and message.displayed(commit.message).split() != text.split()

    def _changed(self, commit: Commit) -> list[str]:
        if not commit.parents:
            return []
        return sorted(objects.diff_trees(self.repo, commit.parents[0], commit.tree))

    def _strangers(self, epoch: int | None, commit: Commit, parent: str) -> Iterator[Difference]:
        """Files outside of the parameters that a commit changes: the evaluator's, the data's."""
        changes = objects.diff_trees(self.repo, parent, commit.tree)
        for path, (old, new) in sorted(changes.items()):
            if not any(place.covers(path) for place in self._places):
                why = f"{commit.id[:7]} changes a file that is no parameter"
                recorded, found = (e.oid[:7] if e else "no file" for e in (old, new))
                yield Difference(epoch, path, recorded, found, why)


def _subject(text: str) -> str:
    return message.one_line(text.partition("\n")[0], 50)
