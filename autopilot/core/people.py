"""The people beside a run: what they say to its optimizer, what they decide on its edits, pauses.

Another process hands an event over (`Store.hear`). The run writes it down at its next safe point,
where nothing that was paid gets lost, and acts on it. What reached a step is in the step's record,
so that a resumed run and a replay ask the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from autopilot.core.outages import sleep
from autopilot.core.records.history import KnownState
from autopilot.core.records.ledger import Ledger
from autopilot.core.records.record import Event, StepRecord
from autopilot.core.store import Store
from autopilot.errors import UsageError
from autopilot.text import hide

STEERED, REVIEWED, PAUSED = "steered", "reviewed", "paused"
APPROVE, REFUSE = "approve", "refuse"
_LOOK_S = 0.1


class Paused(KeyboardInterrupt):
    """A person asked the run to pause: it ends as after Ctrl-C. Its text says who asked."""


class People:
    """The words and decisions of people, for one experiment.

    Invariants:

    - A word belongs to one step: the first one, after it was said, whose optimizer reads `wishes`.
      If that step is made again, as after a kill, it has the word again.
    - A step whose agent was answered asks the same when it is made again: words that came since
      then are for the next step.

    Attributes:
        review: Whether each edit waits for a decision.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.review = False
        self._words: dict[str, str] = {}
        self._given: set[str] = set()
        self._decisions: dict[tuple[int, int], Event] = {}
        self._pause = ""
        self._own: Mapping[str, str] = {}
        self._is_read = self._in_step = False
        self._looked_s = 0.0

    def load(
        self,
        events: Iterable[Event],
        read: Iterable[str],
        records_on: Callable[[str, type[StepRecord]], Iterable[StepRecord]],
    ) -> None:
        """Takes in what earlier sessions wrote down.

        Args:
            events: The experiment's, oldest first.
            read: The ids of the words that steps have read.
            records_on: Gives the recorded steps on a revision.
        """
        self._given.update(read)
        for event in events:
            if event.name == REVIEWED:
                made = [(step.epoch, step.step) for step in records_on(event.revision, StepRecord)]
                if (event.epoch, event.step) not in made:
                    continue
            self._take(event)

    def look(self) -> None:
        """Takes in what was handed over, at a safe point; cheap enough for each item.

        Raises:
            Paused: the run is to end here.
        """
        now = time.monotonic()
        if now - self._looked_s >= _LOOK_S:
            self._looked_s = now
            self._hear()
        if self._pause:
            reason, self._pause = self._pause, ""
            raise Paused(reason)

    def _hear(self) -> None:
        # In a step, what is written to the notes would be put back as the agent's doing.
        for event in () if self._in_step else self._store.hear():
            # Nobody can decide on an edit before it is there, least of all the agent that makes it.
            if event.name != REVIEWED or event.revision == self._store.tip:
                self._take(event)
            if event.name == PAUSED:
                self._pause = f"paused by {event.reviewer}"

    def _take(self, event: Event) -> None:
        if event.name == STEERED:
            self._words[event.id] = event.detail
        elif event.name == REVIEWED:
            self._decisions.setdefault((event.epoch, event.step), event)
            if event.decision == REFUSE:
                self._words[event.id] = f"I refused the edit of epoch {event.epoch}: {event.detail}"

    # --- words ---------------------------------------------------------------------------------

    def begin_step(
        self, epoch: int, step: int, known: Mapping[str, str], *, is_fixed: bool = False
    ) -> Mapping[str, str]:
        """The words for a step that begins, by the ids of their events.

        Args:
            known: Those that it had when it was begun before.
            is_fixed: They are those of its record, which is repeated.
        """
        self._hear()
        new = {name: word for name, word in self._words.items() if name not in self._given}
        asked = [call for call in self._store.calls() if (call.epoch, call.step) == (epoch, step)]
        is_answered = any("lost" not in call.reply for call in asked)
        is_fixed = is_fixed or new.keys() <= known.keys() or is_answered
        self._own = known if is_fixed else new
        self._is_read, self._in_step = False, True
        return self._own

    def wishes(self) -> tuple[str, ...]:
        """The words for the step in progress, oldest first; reading binds them to it."""
        self._is_read = True
        return tuple(self._own.values())

    def end_step(self, *, is_made: bool = True) -> Mapping[str, str]:
        """Ends a step; returns the words that it read."""
        self._in_step = False
        read = self._own if self._is_read and is_made else {}
        self._given.update(read)
        return read

    # --- decisions -----------------------------------------------------------------------------

    def decide(self, decision: str, reason: str, reviewer: str, record: StepRecord) -> None:
        """Decides on the step that waits; a callback may, in `on_review`."""
        event = reviewed(decision, reason, reviewer, record, self._store.tip)
        self._store.annotate(self._store.start, [event])
        self._take(event)

    def refusal(
        self, record: StepRecord, ledger: Ledger, call: Callable[[str, object], object]
    ) -> KnownState | None:
        """Waits for the decision on a step, where edits are reviewed; None if it may be measured.

        Args:
            ledger: Whose time limit ends the waiting.
            call: Runs a moment of the callbacks: "on_review" again and again until there is one,
                and "on_review_end" then.

        Raises:
            Paused: the run is to end; when it is resumed, it waits again.
            BudgetExceededError: the time is up, likewise.
        """
        self._looked_s = 0.0
        self.look()
        place = record.epoch, record.step
        if not record.changed:
            return None
        while (event := self._decisions.get(place)) is None:
            if not self.review:
                return None
            call("on_review", record)
            if place not in self._decisions:
                sleep(_LOOK_S, ledger, "waiting for a review")
                self.look()
        call("on_review_end", event)
        if event.decision != REFUSE:
            return None
        return KnownState(None, {}, "refused", (f"refused by {event.reviewer}: {event.detail}",))


def reviewed(decision: str, reason: str, reviewer: str, record: StepRecord, revision: str) -> Event:
    """A person's decision on a step's edit, a revision, before it is measured.

    Raises:
        UsageError: it is neither "approve" nor "refuse", or a refusal without a reason.
    """
    if decision not in (APPROVE, REFUSE):
        raise UsageError(f"{decision!r} is no decision", hint='"approve" or "refuse"')
    if decision == REFUSE and not reason.strip():
        raise UsageError("a refusal needs a reason", hint="say what is wrong: the agent reads it")
    return Event(
        name=REVIEWED,
        epoch=record.epoch,
        step=record.step,
        detail=hide(reason.strip()),
        decision=decision,
        reviewer=reviewer,
        revision=revision,
    ).stamped()
