"""An attempt: all that is known of the epoch in progress, or of one candidate of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autopilot.core.comparison import Compared
from autopilot.core.policy import Decision
from autopilot.core.progress import EpochProgress
from autopilot.core.records.history import KnownState
from autopilot.core.records.record import LlmRecord, MetricsRecord, StepRecord, TraceRecord
from autopilot.core.store import Side
from autopilot.core.types import Cost, Datum


@dataclass
class Draft:
    """The steps of an epoch, or of a candidate, and what was measured after them.

    Attributes:
        progress: The notes on it, over all sessions.
        side: Where a candidate stands; None: the epoch has one alone.
        state: The id of the parameters' state.
        recorded: Steps of before a kill: epoch and step to revision and record.
        steps: The steps that were made.
        items: Split to results for the policy, one Datum an item.
        passes: Those of each measurement of val.
        facts: Split and measurement to a record of where its results are from, without them.
        compared: Comparisons with other states, once made.
        recalled: How many of the results were known before, in a sentence.
        budget_line: The sentence on the budget that its step got.
        revision: Of a candidate: the revision with its state.
        metrics: Of a candidate: split to metric name to value.
        known: Of a candidate: the earlier measurement of its state, if there is one.
        errors: Of a candidate: the error messages of its items, if all of them failed.
        values: Of a candidate: the numbers and choices of its parameters.
        memorized: Of a candidate: the items that its edit has.
        calls: Of a candidate: the model calls that it paid.
        lent: Of a candidate: the model calls of the others, by names of their own but for those
            that measured a state.
        twin: Of a candidate: the one that came to the same state before it.
        is_beside: Of a candidate: it is not the best one.
        is_better: Of a candidate: it is better than the state that it started from.
        record: Of a candidate: its val record, once the epoch is over.
        cost: Of a candidate: its cost.
        decision: Of a candidate: the verdict on it.
    """

    progress: EpochProgress
    side: Side | None = None
    state: str = ""
    recorded: dict[tuple[int, int], tuple[str, StepRecord]] = field(default_factory=dict)
    steps: list[StepRecord] = field(default_factory=list)
    items: dict[str, list[Datum]] = field(default_factory=dict)
    passes: list[list[Datum]] = field(default_factory=list)
    facts: dict[tuple[str, int], TraceRecord] = field(default_factory=dict)
    compared: list[Compared] = field(default_factory=list)
    recalled: str = ""
    budget_line: str = ""
    revision: str = ""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    known: KnownState | None = None
    errors: Sequence[str] = ()
    values: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    memorized: str = ""
    cost: Cost = Cost()
    decision: Decision | None = None
    calls: Sequence[LlmRecord] = ()
    lent: list[LlmRecord] = field(default_factory=list)
    twin: Draft | None = None
    record: MetricsRecord | None = None
    is_beside: bool = False
    is_better: bool = False

    @property
    def place(self) -> Side:
        """Where a candidate stands."""
        assert self.side is not None, "it is a candidate"
        return self.side

    @property
    def origin(self) -> str:
        """The name of the state that it started from; "" for the best one."""
        return self.side.origin if self.side else ""

    @property
    def stays(self) -> bool:
        """Whether it stays beside the best candidate, as a state to start from."""
        return self.is_beside and self.decision is not None and self.decision.kept

    @property
    def is_new(self) -> bool:
        """Whether its state was measured for it, not for an earlier epoch or candidate."""
        return self.known is None and self.twin is None

    @property
    def is_screened(self) -> bool:
        """Whether it was no better than what it was made from, on some train items."""
        return self.known is not None and self.known.outcome == "screened"

    @property
    def changed(self) -> bool:
        """Whether a step changed the parameters."""
        return any(step.changed for step in self.steps)
