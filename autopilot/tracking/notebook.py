"""Reading an experiment: what `log`, `show`, `diff` and `status` are made of. Takes no lock."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

from autopilot.core.comparison import mean_items
from autopilot.core.records import message
from autopilot.core.records.history import Summary, summarize
from autopilot.core.records.message import trailer, trailer_number
from autopilot.core.records.record import (
    Event,
    Lesson,
    Manifest,
    MetricsRecord,
    StepRecord,
    TraceRecord,
)
from autopilot.core.types import Cost, Datum, Gain, Noise, Verdict
from autopilot.errors import ExperimentError, RepositoryError
from autopilot.git import commits, objects, refs
from autopilot.git.commands import run_git
from autopilot.git.commits import Commit
from autopilot.git.locks import ExclusiveLock, Holder
from autopilot.git.objects import LineCounts
from autopilot.git.repository import Repository
from autopilot.tracking.journal import Journal
from autopilot.tracking.layout import Layout, experiments


@dataclass(frozen=True, slots=True)
class Epoch:
    """One judged epoch.

    Args:
        number: 0 is the baseline.
        verdict: "baseline", "kept" or "rejected".
        metrics: Split to metric name to value.
        value: The monitored val metric, None where missing.
        before: The best value before it, None where there is none.
        delta: Its change against that, None where there is nothing to compare with.
        best: The best value afterwards.
        strategy: What was tried.
        summary: What was done.
        reasons: Why the verdict.
        outcome: As memory counts it.
        reused: The epoch whose measurement was taken over.
        commit: The epoch's last step commit; the start commit for the baseline.
        rollback: The rollback commit after a rejected epoch.
        best_epoch: The epoch that the branch equals afterwards.
        cost: What it cost.
        steps: Its step commits, oldest first; none where nothing was changed.
    """

    number: int
    verdict: Verdict
    metrics: Mapping[str, Mapping[str, float]]
    value: float | None
    before: float | None
    delta: float | None
    best: float | None
    strategy: str
    summary: str
    reasons: tuple[str, ...]
    outcome: str
    reused: int | None
    commit: str
    rollback: str | None
    best_epoch: int
    cost: Cost
    steps: tuple[str, ...] = ()

    @property
    def measured(self) -> int:
        """The epoch that its results were measured in."""
        return self.number if self.reused is None else self.reused


@dataclass(frozen=True, slots=True)
class Status:
    """Where an experiment stands.

    Args:
        state: "created" (not run yet), "running", "finished", "stopped" (the loop came to its end,
            the test split is not scored), "interrupted", "crashed" or "killed".
        detail: The reason, or who is running it.
        holder: The process that holds it.
    """

    state: str
    detail: str
    holder: Holder | None = None


class Notebook:
    """An experiment as it is recorded.

    Args:
        repo: The repository.
        slug: The experiment's name.
        tip: Where its branch ends; the local branch's tip if not given.

    Raises:
        ExperimentError: there is no such experiment; the hint names those that there are.
    """

    def __init__(self, repo: Repository, slug: str, tip: str | None = None) -> None:
        self.repo, self.slug = repo, slug
        self.layout = Layout(slug)
        self._journal = Journal(repo, self.layout)
        tip = tip or refs.read_ref(repo, self.layout.branch)
        if tip is None:
            raise ExperimentError(
                f"there is no experiment {slug}", hint=_which(slug, list(experiments(repo)))
            )
        self.tip = tip

    @cached_property
    def _start(self) -> tuple[str, Manifest]:
        for commit, manifest in self._journal.read(Manifest):
            return commit, manifest
        raise ExperimentError(
            f"the experiment {self.slug} has no manifest note",
            hint=f"fetch its notes: autopilot fetch {self.slug}",
        )

    @property
    def manifest(self) -> Manifest:
        """What the experiment is."""
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
    def base(self) -> str | None:
        """The commit that the experiment started from; None where it has no history."""
        return next(iter(commits.read_commit(self.repo, self.start).parents), None)

    @cached_property
    def time_s(self) -> int:
        """When something happened last, in seconds since 1970."""
        return commits.read_commit(self.repo, self.tip).time_s

    @property
    def recency(self) -> tuple[int, int]:
        """Puts experiments in order: of one second, the later begun is the newer."""
        return self.time_s, self.events[0].order if self.events else 0

    @cached_property
    def events(self) -> list[Event]:
        """What happened to the runs, oldest first."""
        found = self._journal.read_on(self.start, Event)
        return sorted(found, key=attrgetter("order"))

    @cached_property
    def summary(self) -> Summary:
        """What it has come to."""
        line = {commit.id for commit in self.commits}
        judged = {
            record.epoch: record
            for commit, record in self._journal.read(MetricsRecord)
            if commit in line and record.split == "val"
        }
        history = [judged[number] for number in sorted(judged)]
        metrics = self.best.metrics if self.best else {}
        test = self.test_gain(self.best.number) if self.best else None
        return summarize(self.manifest, history, metrics, self.events, test)

    @cached_property
    def epochs(self) -> list[Epoch]:
        """All judged epochs, oldest first."""
        line = {commit.id: position for position, commit in enumerate(self.commits)}
        records: dict[int, dict[str, tuple[str, MetricsRecord]]] = {}
        for commit, record in self._journal.read(MetricsRecord):
            if commit in line:
                records.setdefault(record.epoch, {}).setdefault(record.split, (commit, record))
        rollbacks, steps = self._rollbacks(), self._steps
        found: list[Epoch] = []
        best: float | None = None
        for number in sorted(records):
            splits = records[number]
            if "val" not in splits:
                continue
            commit, val = splits["val"]
            value = val.metrics.get(val.monitor)
            found.append(
                Epoch(
                    number=number,
                    verdict=val.verdict,
                    metrics={name: record.metrics for name, (_, record) in splits.items()},
                    value=value,
                    before=best,
                    delta=value - best if value is not None and best is not None else None,
                    best=val.best,
                    strategy=val.strategy,
                    summary=val.summary,
                    reasons=val.reasons,
                    outcome=val.outcome,
                    reused=val.reused,
                    commit=commit,
                    rollback=rollbacks.get(number),
                    best_epoch=val.best_epoch,
                    cost=val.cost,
                    steps=tuple(step.id for step in steps.get(number, ())),
                )
            )
            best = val.best
        return found

    @cached_property
    def last(self) -> MetricsRecord | None:
        """The val record of the newest judged epoch; it knows baseline, best and what was spent.

        Found from the tip, without reading the others.
        """
        for commit in commits.first_parent_log(self.repo, self.tip, stop=self.base):
            records = self._journal.read_on(commit.id, MetricsRecord)
            judged = [record for record in records if record.split == "val"]
            if judged:
                return max(judged, key=lambda record: record.epoch)
        return None

    @cached_property
    def tagged(self) -> frozenset[int]:
        """The epochs that have a tag. `tagged_epochs` reads those of all experiments at once."""
        return tagged_epochs(self.repo, self.slug).get(self.slug, frozenset())

    @cached_property
    def kept(self) -> int:
        """How many epochs were kept, the baseline not counted."""
        if self.last is None:
            return 0
        tags, best = self.tagged, self.last.best_epoch
        if 0 not in tags or (best not in tags and best != self.last.epoch):
            # The tags are not here, as after a fetch of the branch alone.
            return sum(epoch.verdict == "kept" for epoch in self.epochs)
        return len((tags | {best}) - {0})

    @property
    def monitor(self) -> tuple[str, str]:
        """The name of the metric that decides, and "max" or "min"."""
        return (self.last.monitor, self.last.mode) if self.last else ("accuracy", "max")

    @property
    def spent(self) -> Cost:
        """What the judged epochs cost."""
        return self.last.spent if self.last else Cost()

    @property
    def going_on(self) -> int | None:
        """The epoch that has step commits but no verdict yet; None between epochs."""
        last = self.last.epoch if self.last else -1
        return max((number for number in self._steps if number > last), default=None)

    @property
    def unnoted(self) -> list[str]:
        """Commits behind the last verdict whose notes are not here: another machine made them."""
        last = self.last.epoch if self.last else -1
        found = [
            commit.id
            for number, made in self._steps.items()
            for commit in made
            # A run that goes on is one epoch ahead of its verdicts, and notes each step first.
            if number > last + 1
            or (number > last and not self._journal.read_on(commit.id, StepRecord))
        ]
        return found + [commit for number, commit in self._rollbacks().items() if number > last]

    @property
    def best(self) -> Epoch | None:
        """The best epoch."""
        if not self.epochs:
            return None
        return self.epoch(self.epochs[-1].best_epoch)

    def epoch(self, number: int) -> Epoch:
        """One epoch.

        Raises:
            ExperimentError: there is no such epoch.
        """
        for epoch in self.epochs:
            if epoch.number == number:
                return epoch
        steps = self._steps.get(number)
        if steps:
            raise ExperimentError(
                f"epoch {number} of {self.slug} has no verdict yet",
                hint=f"its steps so far: git log -p -{len(steps)} {steps[-1].id[:7]}",
            )
        last = self.epochs[-1].number if self.epochs else None
        raise ExperimentError(
            f"{self.slug} has no epoch {number}",
            hint="no epoch is judged yet" if last is None else f"choose one of 0 to {last}",
        )

    def find(self, name: str) -> Epoch:
        """The epoch that a user means.

        Args:
            name: A number, "best", "last", "baseline", a tag, or a commit of the branch; a rollback
                commit belongs to the epoch that was rejected.

        Raises:
            ExperimentError: it names no judged epoch.
        """
        if name in ("best", "last", "baseline"):
            place = {"best": self.last.best_epoch, "last": self.last.epoch} if self.last else {}
            return self.epoch(place.get(name, 0))
        short = name.removeprefix("refs/tags/").removeprefix(f"{self.layout.branch_name}/")
        number = short if "/" in short or _is_number(short) else _epoch_of_tag(f"/{short}")
        number = number if _is_number(number) else ""
        # Seven digits and more are an abbreviated commit, unless there are so many epochs.
        if number and (len(number) < 7 or int(number) <= len(self.commits)):
            return self.epoch(int(number))
        try:
            found = self.epoch_at(self.repo.resolve(name))
        except RepositoryError:
            found = None
        if found is None:
            raise ExperimentError(
                f"{name!r} is no epoch of {self.slug}",
                hint=f"give a number, best, last, a tag, or a commit of {self.layout.branch_name}",
            )
        return self.epoch(found)

    def steps(self, epoch: int) -> list[tuple[str, StepRecord]]:
        """The optimizer steps of an epoch with the commits that their records are on."""
        places = [self.epoch(epoch).commit]
        places += [commit.id for commit in self._steps.get(epoch, ())]
        found = {
            record.id: (commit, record)
            for commit in dict.fromkeys(places)
            for record in self._journal.read_on(commit, StepRecord)
            if record.epoch == epoch
        }
        return sorted(found.values(), key=lambda pair: pair[1].step)

    @cached_property
    def violations(self) -> dict[int, list[str]]:
        """Epoch to what its steps tried beside the parameters; epochs without are left out."""
        line = {commit.id for commit in self.commits}
        tried: dict[int, dict[str, StepRecord]] = {}
        for commit, record in self._journal.read(StepRecord):
            if record.violations and commit in line:
                tried.setdefault(record.epoch, {})[record.id] = record
        return {
            number: [sentence for record in steps.values() for sentence in record.violations]
            for number, steps in tried.items()
        }

    @property
    def noise(self) -> Noise | None:
        """What a second measurement of the baseline came to; None where there was none."""
        records = self._journal.read_on(self.start, MetricsRecord)
        return next((r.noise for r in records if (r.epoch, r.split) == (0, "val")), None)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Repository path to blob id of what evaluations read, as it was at first."""
        line = {commit.id for commit in self.commits}
        records = (r for commit, r in self._journal.read(MetricsRecord) if commit in line)
        found: dict[str, str] = {}
        for record in sorted(records, key=lambda record: record.epoch):
            found = {**record.inputs, **found}
        return found

    def lessons(self, epoch: int) -> list[Lesson]:
        """What memory learnt from an epoch."""
        found = self._journal.read_on(self.epoch(epoch).commit, Lesson)
        return [lesson for lesson in found if lesson.epoch == epoch]

    def items(self, epoch: int, split: str = "val") -> list[Datum]:
        """The results of an epoch, one Datum an item; empty where none were recorded."""
        for trace in self._journal.read_on(self.epoch(epoch).commit, TraceRecord):
            if (trace.epoch, trace.split, trace.repeat) == (epoch, split, 0):
                return trace.data()
        return []

    def data(self, epoch: int, split: str = "val") -> list[Datum]:
        """The results of an epoch as the policy saw them: of several measurements, the means."""
        commit = self.epoch(epoch).commit
        records = self._journal.read_on(commit, MetricsRecord)
        counted = next((r.repeat for r in records if (r.epoch, r.split) == (epoch, split)), 1)
        traces = [
            trace
            for trace in self._journal.read_on(commit, TraceRecord)
            if (trace.epoch, trace.split) == (epoch, split) and trace.repeat < counted
        ]
        return mean_items(
            [trace.data() for trace in sorted(traces, key=lambda trace: trace.repeat)]
        )

    def test_metrics(self, epoch: int) -> Mapping[str, float]:
        """The test metrics of the best epoch or one that was best; empty where none are."""
        record = self._test(epoch)
        return record.metrics if record else {}

    def test_gain(self, epoch: int) -> Gain | None:
        """What the test split says of such an epoch beside the baseline."""
        record = self._test(epoch)
        return record.test_gain if record else None

    def _test(self, epoch: int) -> MetricsRecord | None:
        places = [commit.id for commit in self._steps.get(epoch, ())] or [self.start]
        records = self._journal.read_on(places[-1], MetricsRecord)
        return next((r for r in records if r.split == "test" and r.epoch == epoch), None)

    def before(self, epoch: int) -> str:
        """The commit that an epoch started from: its own for one that changed nothing."""
        own = self._steps.get(epoch)
        return own[0].parents[0] if own else self.epoch(epoch).commit

    def after(self, epoch: int) -> str:
        """The commit with an epoch's state, as it was measured."""
        own = self._steps.get(epoch)
        return own[-1].id if own else self.epoch(epoch).commit

    def epoch_at(self, commit: str) -> int | None:
        """The epoch that a commit of the branch belongs to: as a step or as its rollback."""
        if commit == self.start:
            return 0
        for found in self.commits:
            if found.id == commit:
                number = trailer_number(found.message, message.EPOCH)
                return number or trailer_number(found.message, message.REJECTED)
        return None

    def diff(self, old: str, new: str) -> str:
        """What changed between two commits, as a unified diff."""
        trees = [objects.tree_of(self.repo, commit) for commit in (old, new)]
        return objects.diff_text(self.repo, trees[0], trees[1])

    def patch(self, old: str, new: str) -> bytes:
        """What changed between two commits, byte for byte, as `git apply` takes it.

        Starts git. The user's settings of how diffs look have no say.
        """
        options = ["-p", "-r", "--binary", "--full-index", "--no-color", "--no-ext-diff"]
        options += ["--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/"]
        return run_git(["diff-tree", *options, old, new], cwd=self.repo.workdir).stdout

    def picture(self, old: str, new: str, *options: str) -> bytes:
        """What changed between two commits as `git diff` shows it to this user.

        Starts git.

        Args:
            old: A commit.
            new: A commit.
            options: Of `git diff`: "--stat", "--color=always".
        """
        # From the top, whatever diff.relative says.
        return run_git(["diff", "--no-ext-diff", *options, old, new], cwd=self.repo.workdir).stdout

    def counts(self, old: str, new: str) -> dict[str, LineCounts]:
        """How many lines each file gained and lost between two commits."""
        trees = [objects.tree_of(self.repo, commit) for commit in (old, new)]
        return objects.diff_stat(self.repo, trees[0], trees[1])

    @property
    def status(self) -> Status:
        """Where it stands."""
        holder = ExclusiveLock(self.layout.lock(self.repo)).holder()
        if holder is not None:
            who = f"process {holder.pid} on {holder.host} since {holder.since}"
            return Status("running", who, holder)
        for event in reversed(self.events):
            if event.name in ("finished", "stopped", "interrupted", "crashed"):
                return Status(event.name, event.detail)
            if event.name == "created":
                return Status("created", event.detail or "not run yet")
            if event.name in ("started", "resumed"):
                break
        return Status("killed", f"{self.goes_on_by} goes on with it")

    @property
    def goes_on_by(self) -> str:
        """What resumes it."""
        program = "the program that started it"
        return f"autopilot resume {self.slug}" if self.manifest.target else program

    @cached_property
    def _steps(self) -> dict[int, list[Commit]]:
        """Epoch to its step commits, oldest first."""
        found: dict[int, list[Commit]] = {}
        for commit in reversed(self.commits):
            number = trailer_number(commit.message, message.EPOCH)
            if number is not None:
                found.setdefault(number, []).append(commit)
        return found

    def _rollbacks(self) -> dict[int, str]:
        found = {}
        for commit in self.commits:
            rejected = trailer_number(commit.message, message.REJECTED)
            if rejected is not None:
                found[rejected] = commit.id
        return found


def latest(repo: Repository, project: str | None = None) -> str:
    """The slug of the experiment whose branch has the newest commit.

    Args:
        repo: The repository.
        project: Only experiments of this project count.

    Raises:
        ExperimentError: there is no experiment.
    """
    every = experiments(repo)
    tips = {s: tip for s, tip in every.items() if not project or s.startswith(f"{project}/")}
    if not tips:
        of = f" of the project {project}" if project else ""
        others = sorted({slug.partition("/")[0] for slug in every if "/" in slug})
        raise ExperimentError(
            f"there is no experiment{of} in {repo.workdir}",
            hint=f"these have some: {', '.join(others)}"
            if project and others
            else "autopilot run TARGET makes one",
        )
    times = {slug: commits.read_commit(repo, tip).time_s for slug, tip in tips.items()}
    newest = [slug for slug in tips if times[slug] == max(times.values())]
    if len(newest) == 1:
        return newest[0]
    return max(newest, key=lambda slug: Notebook(repo, slug).recency)


def experiment_of(repo: Repository, name: str) -> str | None:
    """The experiment that a tag or a commit belongs to; None if it is none's."""
    tag = name.removeprefix("refs/tags/").removeprefix("tags/")
    if tag.startswith("autopilot/") and _epoch_of_tag(tag):
        return tag.removeprefix("autopilot/").rpartition("/")[0]
    try:
        commit = commits.read_commit(repo, repo.resolve(name))
    except RepositoryError:
        return None
    return trailer(commit.message, message.EXPERIMENT)


def tagged_epochs(repo: Repository, slug: str | None = None) -> dict[str, frozenset[int]]:
    """Slug to the epochs that have a tag, of one experiment or of all; those without have no entry.

    Starts git once.
    """
    found: dict[str, set[int]] = {}
    for name in refs.list_refs(repo, Layout(slug).tags if slug else "refs/tags/autopilot"):
        if number := _epoch_of_tag(name):
            owner = name.removeprefix("refs/tags/autopilot/").rpartition("/")[0]
            found.setdefault(owner, set()).add(int(number))
    return {owner: frozenset(numbers) for owner, numbers in found.items()}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _which(slug: str, there: list[str]) -> str:
    """What to do about a slug that does not exist."""
    if not there:
        return "there is none yet: autopilot run TARGET makes one"
    close = difflib.get_close_matches(slug, there, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}? `autopilot status` lists all"
    return f"experiments: {', '.join(there)}" if len(there) <= 3 else "`autopilot status` lists all"


def _epoch_of_tag(name: str) -> str:
    number = name.rpartition("/epoch-")[2]
    return number if _is_number(number) else ""
