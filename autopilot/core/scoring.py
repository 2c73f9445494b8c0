"""What the numbers and verdicts of an item mean: they are made floats and bools here, once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autopilot.core.comparison import Monitored
from autopilot.core.numbers import bound, number, truth
from autopilot.core.types import Datum
from autopilot.errors import EvaluationError, UsageError


@dataclass(frozen=True, slots=True)
class Scoring:
    """What the numbers of an item mean: they are made floats here, once.

    Args:
        monitored: The names of the item metrics that decide.
        failed_value: What an item with an error counts as in them; None: it has no value.
    """

    monitored: tuple[str, ...] = ()
    failed_value: float | None = None

    def apply(self, data: Datum) -> None:
        """Converts what a step returned, in place.

        A metric of an item that is no number, or NaN where it decides, is that item's error.

        Raises:
            EvaluationError: `success` is a score or a word, or the batch's own metric no number.
        """
        for item in data.leaves():
            try:
                item.success = truth(item.success)
            except ValueError as error:
                raise EvaluationError(
                    f"an item has success={error}",
                    hint="write a score as a metric: Datum(success=score >= 0.5, "
                    'metrics={"score": score}) with monitor = "score"',
                ) from error
            if item.metrics:
                self._convert(item)
            if self.failed_value is not None and item.outcome == "error":
                item.metrics = dict.fromkeys(self.monitored, self.failed_value) | item.metrics
        if not data.items or not data.metrics:
            return
        for name, value in data.metrics.items():
            try:
                data.metrics[name] = number(value)
            except ValueError as error:
                raise EvaluationError(
                    f"the metric {name!r} of a batch is {error}",
                    hint="give a number, or leave the metric out",
                ) from error

    def _convert(self, item: Datum) -> None:
        if all(type(v) is float and v == v for v in item.metrics.values()):
            return
        converted: dict[str, float] = {}
        for name, value in item.metrics.items():
            try:
                converted[name] = number(value)
                if math.isnan(converted[name]) and name in self.monitored:
                    del converted[name]
                    raise ValueError("nan")
            except ValueError as error:
                item.error_message = item.error_message or f"its metric {name!r} is {error}"
        item.metrics = converted


def worst_value(given: object, monitored: Monitored, item_metric: str) -> float | None:
    """What an item with an error counts as, as the user gave it; None: it has no value.

    Args:
        given: A number, or None.
        monitored: The metric that decides.
        item_metric: The metric of the items that it is made of; "" for none.

    Raises:
        UsageError: it is no number, or nothing reads it.
    """
    if given is None:
        return None
    if monitored.owner is not None and not item_metric:
        raise UsageError(
            f"failed_value does nothing: {monitored.name!r} is made of no number of the items",
            hint="leave it out: the metric itself says what an item with an error counts as",
        )
    return bound(given, "failed_value")
