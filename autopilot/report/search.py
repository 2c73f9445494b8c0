"""A search as a report shows it: the candidates of its epochs, and the frontier of its states."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from autopilot.core.figures import figures, lower_note
from autopilot.core.records.message import epoch_tag
from autopilot.core.states import RankedState, RecordedStates, val_record_on
from autopilot.report.comparison import picked
from autopilot.report.contents import clipped
from autopilot.text import counted
from autopilot.tracking.attribution import recorded_states
from autopilot.tracking.notebook import Notebook

# Each is read with its results: of more, a report draws none, and `log --frontier` has them.
STATES_AT_MOST = 500
CANDIDATE = (
    *("epoch", "number", "leads", "from", "second", "verdict", "value"),
    *("strategy", "summary", "reason"),
)
STATE = ("name", "epoch", "value", "objectives", "items", "undominated")
_TEXT = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStory:
    """The part of a report on a search.

    Args:
        candidates: A list for each candidate: what CANDIDATE names. Its verdict is "beside" if it
            stays beside the best one. The texts and the value of one that leads are its epoch's.
        states: None: there are too many to be read.
        count: How many there are.
    """

    candidates: Sequence[Sequence[Any]]
    states: RecordedStates | None
    count: int

    @classmethod
    def of(cls, notebook: Notebook, detailed: Collection[int]) -> SearchStory | None:
        """Reads it; None where no epoch had several candidates, and no objective was given.

        Args:
            detailed: The epochs of which all candidates are shown; of the others, those that stay.
        """
        epochs, first = notebook.index.epochs, notebook.baseline
        candidates = list(_candidates(notebook, detailed))
        if not candidates and not (first and first.objectives):
            return None
        count = sum(row.is_kept + len(row.stay) for row in epochs)
        states = recorded_states(notebook) if count <= STATES_AT_MOST else None
        return cls(candidates=candidates, states=states, count=count)

    def document(self) -> dict[str, Any]:
        """The search for the page."""
        states = self.states
        return {
            "columns": CANDIDATE,
            "candidates": self.candidates,
            "frontier": states
            and {
                "columns": STATE,
                **picked(states, "monitor objectives items"),
                "rule": frontier_rule(states, len(states.undominated())),
                "states": [
                    [
                        *(each.state.name, each.state.epoch, each.value),
                        *(list(each.objectives.values()), each.items, each.is_undominated),
                    ]
                    for each in states.ranked()
                ],
            },
        }

    def left_out(self, slug: str) -> list[str]:
        """A sentence where the frontier is left out."""
        if self.states is not None:
            return []
        text = f"the frontier of {self.count:,} states is not drawn"
        return [f"{text}; `autopilot log {slug} --frontier` lists it"]


def _candidates(notebook: Notebook, detailed: Collection[int]) -> Iterator[list[Any]]:
    for epoch in notebook.epochs:
        record = epoch.record
        origins = record.origins or (record.origin,) * record.candidates
        for number, revision in enumerate(record.revisions, 1):
            is_best, stays = number == record.candidate, number in record.stay
            own, origin = None, origins[number - 1]
            if epoch.number not in detailed:
                # Most start from the best state, as is assumed where nothing is said.
                is_usual = epoch.origin is not None and origin == epoch_tag(epoch.origin)
                if not stays and (not is_best or is_usual):
                    continue
            elif revision and not is_best:
                own = val_record_on(notebook.journal.read_on, revision, epoch.number, number)
            verdict = "beside" if stays else record.verdict if is_best else "rejected"
            texts = (own.strategy, own.summary, *own.reasons[:1]) if own else ()
            texts = texts if revision else ("", "", "it changed nothing")
            yield [
                *(epoch.number, number, is_best, origin),
                # The first candidate may be a merge of two states.
                *(record.merged_with if number == 1 else "", verdict),
                own and own.metrics.get(own.monitor),
                *(clipped(text, _TEXT) for text in (*texts, "", "", "")[:3]),
            ]


def frontier_table(
    states: RecordedStates, ranked: Sequence[RankedState]
) -> tuple[list[str], list[list[str]]]:
    """States beside one another: the columns, and a row for each.

    The second column and those of the objectives are values; the one before the last counts items.
    """
    others = {n: mode for n, mode in states.objectives.items() if n != states.monitor}
    columns = ["state", f"val {states.monitor}{lower_note(states.mode)}"]
    columns += [f"val {name}{lower_note(mode)}" for name, mode in others.items()]
    values = [figures(*(each.value for each in ranked))]
    values += [figures(*(each.objectives[name] for each in ranked)) for name in others]
    rows = [
        [each.state.name, *row, str(each.items), each.state.revision[:7]]
        for each, *row in zip(ranked, *values, strict=True)
    ]
    return [*columns, f"best at (of {states.items:,})", "commit"], rows


def frontier_rule(states: RecordedStates, count: int) -> str:
    """How many states no other one dominates, in a sentence."""
    over = " and objectives" if states.objectives else ""
    of = counted(len(states.pool.states), "state")
    return f"{count:,} of {of}: no other one is as good on all items{over}, and better on one"
