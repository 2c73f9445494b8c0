"""Deaths of the process that evaluates: where it was, and which item is to blame."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autopilot.core.types import Datum

if TYPE_CHECKING:
    from autopilot.core.experiment import Experiment


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is.

    Args:
        split: "train", "val" or "test"; "step" in an optimizer's step; "" before the experiment is
            open.
        epoch: The epoch.
        number: The number of the batch or of the step.
        repeat: The number of the measurement.
        item: The item's position, where a batch is evaluated item by item; otherwise -1.
        is_running: Whether the batch is being evaluated; False after it.
    """

    split: str = ""
    epoch: int = 0
    number: int = 0
    repeat: int = 0
    item: int = -1
    is_running: bool = False

    def __str__(self) -> str:
        if not self.split:
            return "before the experiment was open"
        if self.split == "step":
            return f"in step {self.number} of epoch {self.epoch}"
        where = f"{self.split} batch {self.number} of epoch {self.epoch}"
        if not self.is_running:
            return f"after {where}"
        return f"in item {self.item} of {where}" if self.item >= 0 else f"in {where}"


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a process that evaluated something.

    Args:
        place: Where it was.
        reason: What ended it, in words.
    """

    place: Place
    reason: str


class Watch:
    """Hears where a run is; this one keeps nothing, a supervisor's does."""

    def at(self, place: Place) -> None:
        """The run is there now."""


def item_by_item(
    experiment: Experiment,
    place: Place,
    items: Sequence[Datum],
    died: Mapping[int, str],
    evaluate: Callable[[Datum, int], tuple[Datum, Datum | None]],
) -> Iterator[tuple[Datum, Datum]]:
    """Evaluates a batch in which the process died: each item by itself, and noted by itself.

    So a further death is the item's that was going on; it is an error, and not run again.

    Args:
        experiment: Keeps the results.
        place: The batch.
        items: Its items, each as a batch.
        died: The deaths: an item's position, or -1 for the whole batch, to the reason.
        evaluate: Returns an item's result, and the same if it can stand in for its call.

    Yields:
        Each item with its result.
    """
    batch = place.split, place.epoch, place.number
    for position, one in enumerate(items):
        reason = died.get(position) or (died.get(-1) if len(items) == 1 else None)
        if reason:
            yield one, Datum(success=False, error_message=reason, feedback=reason)
            continue
        data = experiment.recall(*batch, one, place.repeat, position)
        if data is None:
            started = time.perf_counter()
            experiment.watch.at(replace(place, item=position))
            data, kept = evaluate(one, position)
            seconds = time.perf_counter() - started
            experiment.remember(*batch, one, kept, seconds, place.repeat, position)
        yield one, data
    experiment.watch.at(place)
