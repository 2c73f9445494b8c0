"""The one reader of a recorded experiment: its judged epochs, their values, results and files.

It takes no lock. Best values and the direction come from the val records.
"""

from __future__ import annotations

import contextlib
import difflib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

from autopilot.core.comparison import averaged, mean_items
from autopilot.core.people import REVIEWED
from autopilot.core.records import message
from autopilot.core.records.history import Summary, summarize
from autopilot.core.records.index import Index
from autopilot.core.records.message import epoch_number, trailer_number
from autopilot.core.records.record import (
    Event,
    Lesson,
    LlmRecord,
    Manifest,
    MetricsRecord,
    Record,
    StepRecord,
    TraceRecord,
)
from autopilot.core.states import Results, measured_on
from autopilot.core.store import R
from autopilot.core.types import Cost, Datum, Gain, Noise
from autopilot.core.writing import recorded_passes
from autopilot.errors import ExperimentError, RecordError, RepositoryError
from autopilot.git import commits, objects, refs
from autopilot.git.commands import run_git
from autopilot.git.commits import Commit
from autopilot.git.locks import ExclusiveLock, Holder
from autopilot.git.repository import Repository
from autopilot.tracking.epochs import Epoch, judged_epochs, read_index, rollbacks_in, steps_in
from autopilot.tracking.journal import Journal, ProgressFile
from autopilot.tracking.layout import Layout, experiments, is_experiment, tagged_epochs

# What names an epoch of every experiment; "tip" and "last" are the newest.
EPOCH_WORDS = ("best", "last", "tip", "baseline")


@dataclass(frozen=True, slots=True)
class Status:
    """Where an experiment stands.

    Args:
        state: "created" (not run yet), "running", "finished", "stopped" (the loop came to its end,
            the test split is not scored), "waiting" (the same, for the next edit of `autopilot
            try`), "interrupted", "crashed" or "killed".
        detail: The reason, or who is running it.
    """

    state: str
    detail: str
    holder: Holder | None = None

    @property
    def is_over(self) -> bool:
        """Whether its latest run came to an end, and wrote that down."""
        return self.state not in ("running", "killed")


class Notebook:
    """An experiment as it is recorded, at one moment: a run may go on meanwhile.

    Args:
        tip: Where its branch ends; the local branch's tip if not given.

    Raises:
        ExperimentError: there is no such experiment; the hint names those that there are.
    """

    def __init__(self, repo: Repository, slug: str, tip: str | None = None) -> None:
        self.repo, self.slug = repo, slug
        self.layout = Layout(slug)
        self.journal = Journal(repo, self.layout, is_steady=True)
        tip = tip or refs.read_ref(repo, self.layout.branch)
        if tip is None:
            raise ExperimentError(
                f"there is no experiment {slug}", hint=_which(slug, list(experiments(repo)))
            )
        try:
            commits.read_commit(repo, tip)
        except RepositoryError as error:
            what = f"{self.layout.branch_name} cannot be read: {error.message}"
            raise RepositoryError(what, hint=error.hint) from error
        self.tip = tip

    @cached_property
    def _start(self) -> tuple[str, Manifest]:
        try:
            return self.journal.beginning(self.tip)
        except ExperimentError:
            if is_experiment(self.repo, self.slug, self.tip):
                raise
            others = _which(self.slug, list(experiments(self.repo)))
            hint = f"it is a branch of your own: git branch -m renames it; {others}"
            raise self.layout.no_experiment(hint) from None

    @property
    def manifest(self) -> Manifest:
        """The experiment's target, arguments, options, base and parameters."""
        return self._start[1]

    @property
    def start(self) -> str:
        """The start commit."""
        return self._start[0]

    @cached_property
    def commits(self) -> list[Commit]:
        """The branch from the tip down to the start commit."""
        return list(commits.first_parent_log(self.repo, self.tip, stop=self.base))

    @cached_property
    def line(self) -> dict[str, Commit]:
        """Id to commit, the start commit first."""
        return {commit.id: commit for commit in reversed(self.commits)}

    @cached_property
    def base(self) -> str | None:
        """The commit that the experiment started from; None where it has no history."""
        return next(iter(commits.read_commit(self.repo, self.start).parents), None)

    @cached_property
    def time_s(self) -> int:
        """The time of its newest commit, in seconds since 1970."""
        return commits.read_commit(self.repo, self.tip).time_s

    @property
    def recency(self) -> tuple[int, int]:
        """A key to sort experiments by; within one second, the later begun is the newer."""
        with contextlib.suppress(ExperimentError):  # its notes may be missing
            return self.time_s, self.events[0].order if self.events else 0
        return self.time_s, 0

    @cached_property
    def events(self) -> list[Event]:
        """The events of its runs, oldest first; with those that its process has yet to take in."""
        waiting: list[Event] = []
        try:
            waiting = ProgressFile(self.layout.said(self.repo)).read(Event)
        except RecordError as error:
            self.repo.damaged.setdefault(error.message, error)
        noted = self.journal.read_on(self.start, Event)
        found = {event.id: event for event in (*waiting, *noted)}
        return sorted(found.values(), key=attrgetter("order"))

    @property
    def held(self) -> tuple[str, StepRecord] | None:
        """The edit that waits for a decision, with its step's record; None without --review."""
        return self.undecided if self.is_reviewed else None

    @property
    def undecided(self) -> tuple[str, StepRecord] | None:
        """The newest edit, if neither a person has decided on it nor anything measured it."""
        if self.going_on is None:
            return None
        commit = self.open_steps[self.going_on][-1].id
        if any(event.revision == commit for event in self.events if event.name == REVIEWED):
            return None
        records = self.journal.read_on(commit, StepRecord)
        return next(((commit, record) for record in records if record.changed), None)

    @property
    def is_reviewed(self) -> bool:
        """Whether its latest run holds edits, as far as its options say."""
        given = [self.manifest.options, *(event.options for event in self.events)]
        return next((bool(each["review"]) for each in reversed(given) if "review" in each), False)

    @cached_property
    def summary(self) -> Summary:
        """Its result on one page."""
        metrics = self.best.metrics if self.best else {}
        test = self.test_gain(self.best.number) if self.best else None
        return summarize(self.manifest, self.index, self.last, metrics, self.events, test)

    def need(self, *kinds: type[Record]) -> None:
        """Reads all records of some classes, for what may leave none out.

        Raises:
            RecordError: one cannot be read; it names the line, and what shows and mends it.
        """
        strict = Journal(self.repo, self.layout, is_strict=True)
        _ = self.start  # raises: no run made the branch
        strict.beginning(self.tip)
        for kind in kinds:
            deque(strict.read(kind, [self.start] if kind is Event else self.line), maxlen=0)

    def records(self, kind: type[R]) -> Iterator[tuple[str, R]]:
        """The records of a class on the branch, each with the commit that it is on.

        Notes on other commits do not count: others may have continued the branch from an earlier
        commit, and their notes come with a fetch.
        """
        return self.journal.read(kind, self.line)

    @cached_property
    def epochs(self) -> list[Epoch]:
        """All judged epochs, oldest first; `newest` and `epoch` read some alone."""
        return judged_epochs(self.records(MetricsRecord), self.step_commits, self.rollbacks)

    def newest(self, count: int) -> list[Epoch]:
        """The last so many judged epochs, oldest first, read from the tip."""
        if "epochs" in self.__dict__:
            return self.epochs[-count:]
        return self._since(self.last.epoch - count + 1 if self.last else 0, self.tip)

    def _since(self, number: int, tip: str) -> list[Epoch]:
        """The epochs from a number on whose records are at or below a commit."""
        line, records = list[Commit](), list[tuple[str, MetricsRecord]]()
        for commit in commits.first_parent_log(self.repo, tip, stop=self.base):
            line.append(commit)
            noted = self.journal.read_on(commit.id, MetricsRecord)
            records += ((commit.id, record) for record in noted)
            # The one before it too: an epoch is compared with the best until then.
            if any(record.split == "val" and record.epoch < number for record in noted):
                break
        found = judged_epochs(records, steps_in(line[::-1]), rollbacks_in(line))
        return [epoch for epoch in found if epoch.number >= number]

    @cached_property
    def index(self) -> Index:
        """Facts that no epoch has to be read for."""
        return read_index(self.repo, self.journal, self.tip)

    @cached_property
    def _end(self) -> tuple[MetricsRecord | None, list[Commit]]:
        """The newest val record, and the branch above its commit, oldest first."""
        above: list[Commit] = []
        for commit in commits.first_parent_log(self.repo, self.tip, stop=self.base):
            judged = [r for r in self.journal.read_on(commit.id, MetricsRecord) if r.split == "val"]
            if judged:
                return max(judged, key=lambda record: record.epoch), above
            above.insert(0, commit)
        return None, above

    @property
    def last(self) -> MetricsRecord | None:
        """The val record of the newest judged epoch; it has baseline, best and the cost so far."""
        return self._end[0]

    @cached_property
    def tagged(self) -> frozenset[int]:
        """The epochs that have a tag."""
        return tagged_epochs(self.repo, self.slug).get(self.slug, frozenset())

    @property
    def unjudged(self) -> str:
        """Why it has no verdict, in words, where it has none."""
        if self.journal.tip(MetricsRecord) is None and self.tagged:
            return f"its metrics notes are not here: autopilot fetch {self.slug} brings them"
        return "no epoch is judged yet"

    @property
    def kept(self) -> int:
        """How many epochs were kept, the baseline not counted."""
        return self.index.outcomes["kept"]

    @property
    def monitor(self) -> tuple[str, str]:
        """The name of the metric that decides, and "max" or "min"."""
        return (self.last.monitor, self.last.mode) if self.last else ("accuracy", "max")

    @property
    def spent(self) -> Cost:
        """The cost of the judged epochs."""
        return self.last.spent if self.last else Cost()

    @property
    def going_on(self) -> int | None:
        """The epoch that has step commits but no verdict yet; None between epochs."""
        return max(self.open_steps, default=None)

    @cached_property
    def open_steps(self) -> dict[int, list[Commit]]:
        """Epoch without a verdict to its step commits."""
        last, above = self.last.epoch if self.last else -1, steps_in(self._end[1])
        return {number: steps for number, steps in above.items() if number > last}

    @property
    def open_rollbacks(self) -> dict[int, Commit]:
        """Rejected epoch to its rollback commit, of those above the last verdict's commit."""
        return rollbacks_in(self._end[1])

    @property
    def best(self) -> Epoch | None:
        """The best epoch; if its verdict cannot be read, the newest other one that was kept."""
        if self.last is None:
            return None
        with contextlib.suppress(ExperimentError):
            return self.epoch(self.last.best_epoch)
        return next((epoch for epoch in self.epochs[::-1] if epoch.verdict != "rejected"), None)

    @property
    def best_commit(self) -> str:
        """The commit with the best state: the best epoch's, or the start if none is judged."""
        return self.after(self.last.best_epoch) if self.last else self.start

    def epoch(self, number: int) -> Epoch:
        """One epoch."""
        if number not in self._known:
            has_all = "epochs" in self.__dict__
            read = self.epochs if has_all else self._read(number)
            for each in read:
                # What was read beside it may lack a rollback.
                if has_all or each.number == number:
                    self._known.setdefault(each.number, each)
        if number in self._known:
            return self._known[number]
        last = self.last.epoch if self.last else -1
        if 0 <= number < max(self.open_steps, default=last):
            steps = self.step_commits.get(number)
            raise self.journal.lost(MetricsRecord, steps[-1].id if steps else self.start)
        if steps := self.open_steps.get(number):
            raise ExperimentError(
                f"epoch {number} of {self.slug} has no verdict yet",
                hint=f"its steps so far: git log -p -{len(steps)} {steps[-1].id[:7]}",
            )
        raise ExperimentError(
            f"{self.slug} has no epoch {number}",
            hint=self.unjudged if last < 0 else f"choose one of 0 to {last}",
        )

    def read_as(self, epoch: Epoch) -> None:
        """From now on, its epoch is read as this: as one of its candidates."""
        self._known[epoch.number] = epoch

    @cached_property
    def _known(self) -> dict[int, Epoch]:
        return {}

    def _read(self, number: int) -> list[Epoch]:
        """An epoch, and those whose records are between it and the next one's."""
        if self.last is None or not 0 <= number <= self.last.epoch:
            return []
        if number == self.last.epoch:
            return self._since(number, self.tip)
        # Its rollback is above its records, below those of the next one.
        after = self.index.epochs[(at := self.index.epochs.place(number + 1)) : at + 1]
        return self._since(number, after[0].revision if after else self.tip)

    def find(self, name: str) -> Epoch:
        """The epoch that a user means.

        Args:
            name: A number, "best", "last" or "tip" (the newest), "baseline", a tag, or a commit of
                the branch; a rollback commit belongs to the epoch that was rejected.

        Raises:
            ExperimentError: it names no judged epoch.
        """
        if name in EPOCH_WORDS:
            if name == "baseline" or self.last is None:
                return self.epoch(0)
            return self.epoch(self.last.best_epoch if name == "best" else self.last.epoch)
        short = name.removeprefix("refs/tags/").removeprefix(f"{self.layout.branch_name}/")
        text = short.removeprefix("epoch-")
        number = epoch_number(text)
        # Seven digits and more are an abbreviated commit, unless there are so many epochs.
        if number is not None and (len(text) < 7 or number <= self.index.length):
            return self.epoch(number)
        found = None
        with contextlib.suppress(RepositoryError):
            found = self.epoch_at(self.repo.resolve(name))
        if found is None:
            raise ExperimentError(
                f"{name!r} is no epoch of {self.slug}",
                hint=f"give a number, best, last, a tag, or a commit of {self.layout.branch_name}",
            )
        return self.epoch(found)

    def steps(self, epoch: int) -> list[tuple[str, StepRecord]]:
        """The optimizer steps of an epoch with the commits that their records are on."""
        places = [self.epoch(epoch).commit, *self._steps_of(self.epoch(epoch))]
        found = {
            record.id: (commit, record)
            for commit in dict.fromkeys(places)
            for record in self.journal.read_on(commit, StepRecord)
            if record.epoch == epoch
        }
        return sorted(found.values(), key=lambda pair: pair[1].step)

    def violations(self, epoch: int) -> list[str]:
        """The attempts of an epoch's steps outside of the parameters."""
        return [text for _, record in self.steps(epoch) for text in record.violations]

    @property
    def baseline(self) -> MetricsRecord | None:
        """The val record of the baseline; None where there is none."""
        found = self.journal.read_on(self.start, MetricsRecord)
        return next((r for r in found if (r.epoch, r.split) == (0, "val")), None)

    @property
    def noise(self) -> Noise | None:
        """The noise found by a second measurement of the baseline; None without one."""
        baseline = self.baseline
        return baseline.noise if baseline else None

    @property
    def inputs(self) -> dict[str, str]:
        """Repository path to first blob id of the files that evaluations read."""
        return self.index.inputs

    def lessons(self, epoch: int) -> list[Lesson]:
        """The lessons of an epoch."""
        found = self.journal.read_on(self.epoch(epoch).commit, Lesson)
        return [lesson for lesson in found if lesson.epoch == epoch]

    def items(self, epoch: int, split: str = "val") -> list[Datum]:
        """The results of an epoch, one Datum an item; empty where none were recorded."""
        for trace in self.journal.read_on(self.epoch(epoch).commit, TraceRecord):
            if (trace.epoch, trace.split, trace.repeat) == (epoch, split, 0):
                return trace.data()
        return []

    def data(self, epoch: int, split: str = "val") -> list[Datum]:
        """The results of an epoch as the policy saw them: of several measurements, the means."""
        return mean_items(self._passes(epoch, split))

    def val_of(self, epoch: int) -> tuple[Mapping[str, float], list[Datum]]:
        """The val metrics of an epoch, and its results, one Datum an item."""
        found = self.epoch(epoch)
        return found.metrics.get("val", {}), averaged(self._passes(found.measured, "val"))

    def measured(self, epoch: int, candidate: int) -> Results | None:
        """Val metrics and results of an epoch, or of its candidate of that number above 0."""
        found = measured_on(self.journal.read_on, self.epoch(epoch).commit, epoch, candidate)
        return found and found[1]

    def judged(self) -> list[MetricsRecord]:
        """The val records of all judged epochs, oldest first."""
        return [epoch.record for epoch in self.epochs]

    def change(self, epoch: int) -> str:
        """The unified diff of an epoch against the state that it started from."""
        return objects.diff_text(self.repo, self.before(epoch), self.after(epoch))

    def questions(self, epoch: int) -> list[LlmRecord]:
        """The calls that asked an agent in an epoch's steps; empty where none were recorded."""
        judged, place = self.epoch(epoch), self.index.epochs.place(epoch)
        # Those of a candidate are with the calls of the others.
        is_one = judged.record.is_candidate
        commit = self.index.epochs[place].revision if is_one else judged.commit
        calls, here = self.journal.read_on(commit, LlmRecord), (epoch, judged.record.candidate)
        asked = [call for call in calls if (call.epoch, call.candidate) == here and call.prompt]
        return sorted(asked, key=lambda call: (call.step, call.question))

    def _passes(self, epoch: int, split: str) -> list[list[Datum]]:
        commit = self.epoch(epoch).commit
        records = self.journal.read_on(commit, MetricsRecord)
        counted = next((r.repeat for r in records if (r.epoch, r.split) == (epoch, split)), 1)
        return recorded_passes(self.journal.read_on, commit, split, epoch)[:counted]

    def test_metrics(self, epoch: int) -> Mapping[str, float]:
        """The test metrics of an epoch that is or was the best; empty where none are."""
        record = self._test(epoch)
        return record.metrics if record else {}

    def test_gain(self, epoch: int) -> Gain | None:
        """The gain of such an epoch on the baseline, on the test split."""
        record = self._test(epoch)
        return record.test_gain if record else None

    def _test(self, epoch: int) -> MetricsRecord | None:
        with contextlib.suppress(RecordError):  # its verdict may be gone
            records = self.journal.read_on(self.epoch(epoch).commit, MetricsRecord)
            return next((r for r in records if r.split == "test" and r.epoch == epoch), None)
        return None

    def before(self, epoch: int) -> str:
        """The commit that an epoch started from: its own for one that changed nothing."""
        judged = self.epoch(epoch)
        if not judged.steps:
            return judged.commit
        return commits.read_commit(self.repo, self._steps_of(judged)[0]).parents[0]

    def _steps_of(self, judged: Epoch) -> list[str]:
        """The step commits of an epoch, oldest first; of several candidates, those of the best."""
        if judged.record.candidates and judged.steps:
            return self.line_of(judged.steps[-1], judged.number)
        return list(judged.steps)

    def line_of(self, commit: str, epoch: int) -> list[str]:
        """The step commits of a candidate, oldest first, down from its last one."""
        found = list[str]()
        for each in commits.first_parent_log(self.repo, commit, stop=self.base):
            number, is_step = (
                trailer_number(each.message, name) for name in (message.EPOCH, message.STEP)
            )
            if number != epoch or not is_step:
                break
            found.insert(0, each.id)
        return found

    def after(self, epoch: int) -> str:
        """The commit with an epoch's state, as it was measured."""
        try:
            judged = self.epoch(epoch)
        except RecordError:  # the verdict is gone, its steps are not
            if not (steps := self.step_commits.get(epoch)):
                raise
            return steps[-1].id
        if judged.record.candidates and judged.verdict != "rejected":
            return judged.commit  # on the branch, with the state of the best candidate
        return (judged.commit, *judged.steps)[-1]

    def epoch_at(self, commit: str) -> int | None:
        """The epoch that a commit of the branch belongs to: as a step or as its rollback."""
        if commit == self.start:
            return 0
        text = commits.read_commit(self.repo, commit).message
        number = trailer_number(text, message.EPOCH) or trailer_number(text, message.REJECTED)
        if number is None:
            return None
        if number in self.open_steps or not self.index.has(number):
            return number if commit in self.line else None
        judged = self.epoch(number)
        return number if commit in (*judged.steps, judged.commit, judged.rollback) else None

    def patch(self, old: str, new: str) -> bytes:
        """The changes between two commits, byte for byte, as `git apply` takes them.

        Starts git. The user's settings for diffs do not count.
        """
        options = ["-p", "-r", "--binary", "--full-index", "--no-color", "--no-ext-diff"]
        options += ["--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/"]
        return run_git(["diff-tree", *options, old, new], cwd=self.repo.workdir).stdout

    def picture(self, old: str, new: str, *options: str) -> bytes:
        """The changes between two commits as `git diff` shows them to this user. Starts git."""
        command = ["diff", "--no-ext-diff", *options, old, new]
        return run_git(command, cwd=self.repo.workdir).stdout  # there, for diff.relative

    def counts(self, old: str, new: str) -> dict[str, objects.LineCounts]:
        """How many lines each file gained and lost between two commits."""
        return objects.diff_stat(self.repo, old, new)

    @property
    def status(self) -> Status:
        """Where it stands."""
        holder = ExclusiveLock(self.layout.lock(self.repo)).holder()
        if holder is not None:
            who = f"process {holder.pid} on {holder.host} since {holder.since}"
            if (held := self.held) is not None:
                who += f"; it holds the edit of epoch {held[1].epoch}: autopilot review {self.slug}"
            return Status("running", who, holder)
        for event in reversed(self.events):
            if event.name == "stopped" and self.manifest.by_hand:
                return Status("waiting", f"for the next edit: {self.goes_on_by}")
            if event.name in ("finished", "stopped", "interrupted", "crashed"):
                return Status(event.name, event.detail)
            if event.name == "created":
                return Status("created", event.detail or "not run yet")
            if event.name in ("started", "resumed"):
                break
        return Status("killed", f"{self.goes_on_by} goes on with it")

    @property
    def goes_on_by(self) -> str:
        """The command or program that resumes it."""
        program = "the program that started it"
        if self.manifest.by_hand:
            return f'autopilot try -e {self.slug} -m "what you changed"'
        return f"autopilot resume {self.slug}" if self.manifest.target else program

    @cached_property
    def step_commits(self) -> dict[int, list[Commit]]:
        """Epoch to its step commits, oldest first."""
        return steps_in(self.line.values())

    @cached_property
    def rollbacks(self) -> dict[int, Commit]:
        """Rejected epoch to its rollback commit."""
        return rollbacks_in(self.line.values())


def _which(slug: str, there: list[str]) -> str:
    """The hint for a slug that does not exist."""
    if not there:
        return "there is none yet: autopilot run TARGET makes one"
    close = difflib.get_close_matches(slug, there, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}? `autopilot status` lists all"
    return f"experiments: {', '.join(there)}" if len(there) <= 3 else "`autopilot status` lists all"
