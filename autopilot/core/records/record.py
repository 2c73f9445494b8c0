"""Records: what an experiment writes down, one frozen record for each thing that happened.

A record is one self-contained line of a note. `kind` names the note, `id` the record within the
experiment, so that a line that arrives twice counts once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, get_args

from autopilot.core.types import Cost, Datum, Gain, Noise, Verdict, datum_from_json
from autopilot.errors import UsageError

VERSION = 2
# A larger number is a mistake, or made to fill the memory of whoever counts up to it.
LAST_EPOCH = 9_999_999
_NANOSECONDS = re.compile("[0-9]{1,20}")
TASK = "autopilot.command.task:task"  # the target of a run without Python
_COMMANDS = ("setup", "guard", "train_eval", "eval", "val_eval", "test_eval")
# Between the names of strategies that were used together: "prune + add word".
TOGETHER = " + "
# The strategy of a step that merges two states, for which no optimizer is asked.
MERGE = "merge"
EpochOutcome = Literal[
    "kept",
    "rejected",
    "screened",
    "raced",
    "unchanged",
    "repeated",
    "failed",
    "refused",
    "blocked",
    "unblocked",
]
Decide = Literal["promote", "reject"]


def names_in(names: str) -> list[str]:
    """The names in a field of names that were used together."""
    return [name for name in names.split(TOGETHER) if name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The fields of every record.

    Args:
        epoch: The epoch it belongs to; 0 is the baseline.
        id: Its name within kind and experiment.
    """

    kind: ClassVar[str] = ""
    epoch: int = 0
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Record):
    """The description of an experiment, written once, on the start commit.

    Args:
        slug: Its name.
        target: The argument of `autopilot run`; empty for library use.
        hparams: Constructor arguments, as JSON has them; text where the command line gave them.
        options: Stop conditions and the monitored metric, as given.
        seed: Shuffling and evaluation derive from it.
        idea: The idea that is tried, in words.
        hypothesis: The expectation, in words.
        base: The commit that it started from.
        base_branch: The branch that was checked out then.
        directory: The working directory below the repository's top.
        links: Ignored paths that are linked into the worktree.
        in_place: Whether it works in the user's own checkout.
        parameters: Name to repository path.
        versions: Program to version.
        patterns: Name to glob, of parameters that are not all files below their path.
        forked_from: `<slug>@<epoch>`, the state that a fork started from; of a candidate `@7-c2`.
        merged_with: `<slug>@<epoch>`, the state that was merged into that.
        strategies: The names of the strategies that the optimizer states.
        spaces: Name of a number or choice to its space, as `--tune` writes it.
        by_hand: Whether its steps are the edits of a person, or of an agent at work.
        steerable: Whether its optimizer reads what people say.
        taken: The lessons of earlier experiments that it began with, the newest one's first.
    """

    kind: ClassVar[str] = "experiment"
    id: str = "manifest"
    slug: str
    target: str = ""
    hparams: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    idea: str = ""
    hypothesis: str = ""
    base: str = ""
    base_branch: str = ""
    directory: str = ""
    links: tuple[str, ...] = ()
    in_place: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)
    forked_from: str = ""
    merged_with: str = ""
    strategies: tuple[str, ...] = ()
    spaces: Mapping[str, str] = field(default_factory=dict)
    by_hand: bool = False
    steerable: bool = True
    taken: tuple[Taken, ...] = ()

    @property
    def title(self) -> str:
        """Its target; of a run without Python, the command that measures; "" for library use."""
        command = self.hparams.get("eval") or self.hparams.get("val_eval")
        return str(command) if command and self.target == TASK else self.target

    @property
    def commands(self) -> list[str]:
        """The shell's commands that a run without Python measures with, as a person reads them."""
        given = {name: self.hparams.get(name) for name in _COMMANDS if self.target == TASK}
        return [f"runs --{name.replace('_', '-')}: {each}" for name, each in given.items() if each]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Record):
    """Something that happened to the run as a whole.

    Args:
        name: "created" (nothing was run), "started", "resumed", "stopped" (the loop ended by
            itself), "finished" (the test split is scored too), "interrupted", "crashed",
            "measured" (for the first time, or in another environment), "decided" (a person's
            decision on an epoch), "steered" (a person's word to the optimizer), "reviewed" (a
            person's decision on an edit, before it is measured) or "paused" (a person asked for
            it).
        detail: The reason, in one sentence; a person's word, whole.
        time: ISO 8601, UTC.
        decision: "promote" or "reject", of a decision; "approve" or "refuse", of a review.
        reviewer: Who decided, or said it.
        revision: The revision of the epoch, or the edit, that was decided on.
        step: Of a review: the step of the epoch.
        process: Of a pause: the process that is to end.
        into: The branch that took it over, if it was carried out.
        merge: The commit that brought it into that branch.
        options: Of a resumed run: the options that replaced those of the manifest.
        version: Of a resumed run: the autopilot that goes on with it.
        environment: What the results depend on from this epoch on, as far as it is new or differs:
            "python", "platform", distributions that were imported, to versions; "$NAME" of a
            variable that was read to a digest of its value, "secret", or "" if it is unset.
    """

    kind: ClassVar[str] = "experiment"
    name: str
    detail: str = ""
    time: str = ""
    decision: str = ""
    reviewer: str = ""
    revision: str = ""
    step: int = 0
    process: int = 0
    into: str = ""
    merge: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def decided(cls, decision: str, reason: str, reviewer: str, epoch: int, revision: str) -> Event:
        """A person's decision on an epoch.

        Raises:
            UsageError: it is neither "promote" nor "reject".
        """
        if decision not in get_args(Decide):
            raise UsageError(f"{decision!r} is no decision", hint='decide "promote" or "reject"')
        return cls(
            epoch=epoch,
            name="decided",
            detail=reason,
            decision=decision,
            reviewer=reviewer,
            revision=revision,
        )

    def stamped(self) -> Event:
        """The event with the present time and an id of its own."""
        # Whole seconds are for people; the id tells two events of one second apart.
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return replace(self, id=f"{self.name}-{time.time_ns()}", time=now)

    @property
    def order(self) -> int:
        """Sorts events by time: the nanoseconds in the id, since `time` has whole seconds."""
        number = self.id.rpartition("-")[2]
        return int(number) if _NANOSECONDS.fullmatch(number) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord(Record):
    """One optimizer step: the gradients that led to it, and its changes.

    Args:
        step: 1 for the first step of the epoch.
        changed: Whether it changed the parameters; then it has a commit of its own.
        strategy, summary, rationale: As in the optimizer's Step.
        gradients: Parameter name to rendered gradient.
        category: The subject of most of the feedback.
        node: The modules whose parameters got feedback; "" is the whole system.
        error: Why the optimizer failed, if it did.
        violations: Attempts to change files outside of the parameters, a sentence each.
        told: The sentences on target and budget that the optimizer got; a replay gives the same.
        wishes: What people said that the optimizer read in this step, by the ids of their events.
        cost: The cost of the step.
        state: The optimizer's state_dict after the step.
        candidate: The number of the candidate that it is a step of; 0: the epoch has one alone.
        origin: The name of the state that the candidate started from, as "epoch-0003".
        merged_with: Of a merge: the name of the second state.
    """

    kind: ClassVar[str] = "gradients"
    step: int
    changed: bool
    strategy: str = ""
    summary: str = ""
    rationale: str = ""
    gradients: Mapping[str, str] = field(default_factory=dict)
    category: str = ""
    node: str = ""
    error: str = ""
    violations: tuple[str, ...] = ()
    told: str = ""
    wishes: Mapping[str, str] = field(default_factory=dict)
    cost: Cost = Cost()
    state: Mapping[str, Any] = field(default_factory=dict)
    candidate: int = 0
    origin: str = ""
    merged_with: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsRecord(Record):
    """One split of one epoch. The val record carries the verdict's details.

    Args:
        split: "train", "val" or "test". Train was measured before the step, the others after.
        metrics: Name to value; NaN and infinity are kept as they are.
        verdict: "baseline", "kept" or "rejected".
        monitor: The metric that decides.
        mode: "max" or "min".
        baseline: Its value at epoch 0, None where not finite.
        best: Its best value, this epoch included, None where not finite.
        best_epoch: The epoch that the branch's tip equals afterwards.
        gain: By how much it is better than the best before, positive is better in either mode, over
            the items that have a value in both; None where that is not known.
        reasons: Sentences for a person.
        strategy: The strategies of its steps.
        summary: The summaries of its steps.
        outcome: As memory counts it.
        tree: The id of the parameters' state that was measured.
        reused: The earlier epoch whose measurement this is, since the state is the same.
        reused_candidate: The candidate of that epoch that measured it, whose results are recorded
            here, too; 0: it is that epoch's own state.
        inputs: Path to blob id of the other files that were read until then, in val and test.
        cost: The cost of this epoch.
        spent: The cost of the experiment so far.
        stop: Why the run ended after this epoch; empty if it went on.
        unmeasured: How many items could not be measured; if any, the state is measured again.
        state: The state_dicts of "optimizer" and "callbacks", for a resumed run.
        noise: Of the baseline: how far a second measurement differs from it.
        repeat: How many measurements the metrics are the means of.
        test_gain: Of test, on the best epoch: its gain on the baseline.
        restarts: How often another process went on, since its files were to be imported anew.
        restarts_s: The seconds that this took, imports included.
        values: Numbers and choices of the parameters in the measured state, by name.
        memorized: Which items the edit has, in a sentence; "" if none.
        known: How many items an earlier experiment had measured, and which, in a sentence; no
            reason of the verdict, and told to no agent: it is the same as if they were measured.
        candidate: The number of the candidate that was measured; 0: the epoch has one alone. Of an
            epoch with several, the record is that of the best one.
        revisions: Of an epoch with several: the revision of each candidate, "" where it changed
            nothing.
        trees: The state of each of these that measured all of val; "" for the others and the best.
        stay: The numbers of candidates that stay beside the best one, as states to start from.
        origin: The name of the state that the candidate started from, as "epoch-0003".
        origins: Of an epoch with several: that of each candidate.
        better: The numbers of candidates that are better than what they started from.
        objectives: Of the baseline: the objectives of the search, each with "max" or "min".
        merged_with: The name of the second state of a merge, which the first candidate of its epoch
            is; the epoch's own record has it too.
    """

    kind: ClassVar[str] = "metrics"
    split: str
    metrics: Mapping[str, float]
    verdict: Verdict
    monitor: str = ""
    mode: str = "max"
    baseline: float | None = None
    best: float | None = None
    best_epoch: int = 0
    gain: float | None = None
    reasons: tuple[str, ...] = ()
    strategy: str = ""
    summary: str = ""
    outcome: EpochOutcome = "kept"
    tree: str = ""
    reused: int | None = None
    reused_candidate: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict)
    cost: Cost = Cost()
    spent: Cost = Cost()
    stop: str = ""
    unmeasured: int = 0
    state: Mapping[str, Any] = field(default_factory=dict)
    noise: Noise | None = None
    repeat: int = 1
    test_gain: Gain | None = None
    restarts: int = 0
    restarts_s: float = 0.0
    values: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    memorized: str = ""
    known: str = ""
    candidate: int = 0
    revisions: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()
    stay: tuple[int, ...] = ()
    origin: str = ""
    origins: tuple[str, ...] = ()
    better: tuple[int, ...] = ()
    objectives: Mapping[str, str] = field(default_factory=dict)
    merged_with: str = ""

    @property
    def parents(self) -> tuple[str, ...]:
        """The names of the states that a candidate was made from: of a merge, two."""
        second = self.merged_with if self.candidate == 1 else ""
        return tuple(filter(None, (self.origin, second)))

    @property
    def is_merge(self) -> bool:
        """Whether it is a merge that no optimizer was asked for."""
        return len(self.parents) == 2 and self.strategy == MERGE

    @property
    def candidates(self) -> int:
        """How many the epoch has; 0: it has one alone, or the record is a candidate's own."""
        return len(self.revisions)

    @property
    def is_candidate(self) -> bool:
        """Whether it is the record of one of several candidates, not of an epoch."""
        return self.candidate > 0 and not self.revisions

    @property
    def title(self) -> str:
        """The epoch in words: "epoch 7", or "candidate 2 of epoch 7"."""
        own = f"candidate {self.candidate} of " if self.is_candidate else ""
        return f"{own}epoch {self.epoch}"

    @property
    def measured(self) -> int:
        """The epoch whose results are its own: an earlier one of the same state, or itself."""
        return self.epoch if self.reused is None or self.reused_candidate else self.reused

    @property
    def beside(self) -> dict[str, str]:
        """The states in `trees`, each with the revision of its candidate."""
        return {tree: at for tree, at in zip(self.trees, self.revisions, strict=False) if tree}

    @property
    def candidate_state(self) -> str:
        """The state that was measured, of an epoch with several candidates; else ""."""
        return self.tree if self.candidate else ""

    @property
    def commit(self) -> str:
        """The revision of the best candidate; "" where it has none, or the epoch has one alone."""
        return self.revisions[self.candidate - 1] if self.revisions else ""

    @property
    def is_refused(self) -> bool:
        """Whether a person refused the edit before it was measured."""
        return self.outcome == "refused"

    @property
    def is_traced(self) -> bool:
        """Whether val items were measured, some of them at least."""
        return self.outcome not in ("refused", "screened")

    @property
    def is_stopped(self) -> bool:
        """Whether it was rejected before all val items were measured: it has no val metrics."""
        return self.outcome in ("screened", "raced")

    def strategies(self) -> list[str]:
        """The names of the strategies that were used together; each counts."""
        return names_in(self.strategy)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRecord(Record):
    """The results of one split of one epoch, item by item.

    Args:
        split: "train", "val" or "test".
        items: One `datum_to_json` an item; `data` reads them.
        repeat: The number of the measurement: 0 is the first, which readers show.
        given: Digest of the batches in their order, with the content of their items.
        reach: What the results depend on: "content" alone, or "chance" and "programs" too; empty
            where that is not known.
        own: What the result of the split's only batch has beside items, such as its metrics.
        source: The experiment and epoch that measured those of them that were known, as "a-1@3".
        known: How many these are.
    """

    kind: ClassVar[str] = "traces"
    split: str
    items: tuple[Mapping[str, Any], ...] = ()
    repeat: int = 0
    given: str = ""
    reach: tuple[str, ...] = ()
    own: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    known: int = 0

    def data(self) -> list[Datum]:
        """The results, one Datum an item."""
        return [datum_from_json(item, split=self.split, epoch=self.epoch) for item in self.items]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson(Record):
    """The lesson of an epoch for memory: the strategy and its outcome.

    Args:
        strategy: The strategies that were used.
        outcome: The outcome of the epoch.
        summary: The change, in words.
        reason: The reasons of the outcome.
        delta: Gain on the monitored val metric's best before, positive is better; or None.
        category: The subject of the feedback, in the user's own terms.
        node: The modules that got feedback; "" is the whole system.
        experiment: The slug it was learnt in.
        value: The monitored val metric; None where it was not measured or is not finite.
        mode: "max" or "min".
        by_hand: Whether a person recorded it; then no epoch of the loop did.
    """

    kind: ClassVar[str] = "memory"
    strategy: str
    outcome: EpochOutcome
    summary: str = ""
    reason: str = ""
    delta: float | None = None
    category: str = ""
    node: str = ""
    experiment: str = ""
    value: float | None = None
    mode: str = "max"
    by_hand: bool = False

    def strategies(self) -> list[str]:
        """The names of the strategies that were used together; each counts."""
        return names_in(self.strategy)

    def categories(self) -> list[str]:
        """The categories, one name each."""
        return names_in(self.category)

    def nodes(self) -> list[str]:
        """The modules, one name each."""
        return names_in(self.node)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The lessons of an earlier experiment, as another one took them over when it began.

    They are copies: what becomes of the earlier experiment does not matter.

    Args:
        experiment: Its name.
        notes: The commit of its memory notes.
        monitor: The metric that decided there.
        total: How many lessons it had.
        tries: Strategy to how often it was tried, and how often it was kept then.
        lessons: Some of its lessons, oldest first, without its name and with short texts.
    """

    experiment: str
    notes: str = ""
    monitor: str = ""
    total: int = 0
    tries: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    lessons: tuple[Lesson, ...] = ()

    def named(self) -> list[Lesson]:
        """The lessons with its name."""
        return [replace(lesson, experiment=self.experiment) for lesson in self.lessons]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressNote(Record):
    """A result, a step or a death in the epoch in progress; local, and gone with its record.

    Args:
        split: "train" or "val" or "test".
        batch: Its number in the epoch.
        repeat: The number of the measurement that it is part of.
        item: The item's position, where the note is of one item of the batch; otherwise -1.
        died: How the process that evaluated it ended, if it died.
        printed: What that process printed last on stderr.
        waits: Its step has to be made before it stands in for its call, whose graph it lacks.
        replaced: The note is of a process that took another one's place, and of its time.
        notes: What the epoch was noted with so far, where a process ends in its middle.
        stop: Why the run was to end after the epoch, likewise.
        key: Digest of the batch's items and the parameters' state.
        data: The `datum_to_json`; empty if JSON cannot carry it: a kill then repeats the batch.
        items: How many items were evaluated.
        seconds: How long it took.
        stepping: The step that is about to edit files; negative when it is done; 0 for a batch.
        told, wishes: As in the StepRecord of that step.
        void: Earlier notes do not count: they were measured with other files.
        said: The last lines of the step's agent, while it is at work.
        source, reach: As in the TraceRecord of the result.
    """

    kind: ClassVar[str] = "progress"
    split: str = ""
    batch: int = 0
    key: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    items: int = 0
    seconds: float = 0.0
    stepping: int = 0
    told: str = ""
    wishes: Mapping[str, str] = field(default_factory=dict)
    void: bool = False
    repeat: int = 0
    item: int = -1
    died: str = ""
    printed: str = ""
    waits: bool = False
    replaced: bool = False
    notes: tuple[str, ...] = ()
    stop: str = ""
    said: str = ""
    source: str = ""
    reach: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmRecord(Record):
    """A model call that was paid. Its id is the hash of what was asked.

    Args:
        role: Who asked: "module", "judge", "collator", "optimizer", "generator", ...
        model: Who answered.
        request: Path in the request's body to the value there, long texts shortened.
        reply: The whole reply, as the service sends it.
        cost: Tokens and dollars.
        priced: Whether the price was known.
        step: The number of the optimizer step that asked; 0 outside of steps.
        prompt: The text of an agent's question, whole.
        question: The number of that question in the step.
        candidate: The number of the candidate that asked; 0: the epoch has one alone.
    """

    kind: ClassVar[str] = "llm"
    role: str = ""
    model: str = ""
    request: Mapping[str, str] = field(default_factory=dict)
    reply: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = Cost()
    priced: bool = True
    step: int = 0
    prompt: str = ""
    question: int = 0
    candidate: int = 0
