"""Items as a loss sees them: numbers and verdicts are checked, feedback becomes gradients."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from autopilot.core.comparison import Monitored
from autopilot.core.exchanges import NO_WORDS, Exchange, exchange, with_targets
from autopilot.core.figures import bound, number, truth, wish
from autopilot.core.gradient import Finding, Gradient, TextGradient
from autopilot.core.graph import Graph
from autopilot.core.items import singles_of
from autopilot.core.parameter import Parameter
from autopilot.core.progress import Position
from autopilot.core.signatures import as_call, check_init
from autopilot.core.types import Datum, Outcome
from autopilot.errors import EvaluationError, UsageError

_WORDS = ("feedback", "error_message", "unmeasured")
_USUAL, _TRUTHS = frozenset((str, type(None))), frozenset((bool, type(None)))


@dataclass(frozen=True, slots=True)
class Scoring:
    """Converts the numbers of items, once, to floats.

    Args:
        monitored: The names of the item metrics that decide.
        failed_value: The value of an item with an error in them; None: it has none.
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
            if type(item.success) not in _TRUTHS:
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
                # The item's own numbers win: an error may come after they were taken.
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
        # By far the usual case, and asked of every item; only NaN differs from itself.
        for value in item.metrics.values():
            if type(value) is not float or value != value:
                break
        else:
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


class ItemMean:
    """The metrics that the loop measures on every split, of results that Scoring has converted.

    "accuracy" is passed / (passed + failed + error): unmeasured and unscored items do not count. It
    is missing where no item passed or failed, unless all that were measured are errors. An item's
    own `metrics["accuracy"]` counts in place of its outcome. Each other name in an item's `metrics`
    is averaged over the items that have it.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.errors: list[str] = []
        self._by_outcome: Counter[Outcome] = Counter()
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    @property
    def items(self) -> int:
        """The number of items, whatever they came to."""
        return self.outcomes.total()

    @property
    def is_judged(self) -> bool:
        """Whether an item passed or failed."""
        return bool(self.outcomes["passed"] or self.outcomes["failed"])

    def update(self, data: Datum) -> None:
        """Takes in what a step returned."""
        items = list(data.leaves())
        outcomes = [item.outcome for item in items]
        self.outcomes.update(outcomes)
        if "accuracy" not in data.metrics:
            pairs = zip(items, outcomes, strict=True)
            self._by_outcome.update([n for item, n in pairs if "accuracy" not in item.metrics])
        if "error" in outcomes:
            self.errors += [i.error_message or "" for i in items if i.outcome == "error"]
        if "unmeasured" in outcomes:
            items = [item for item in items if item.outcome != "unmeasured"]
        self._take([item.metrics for item in items], 1)
        # A batch's own number stands for each of its items that was measured.
        if data.items and items:
            self._take([data.metrics], len(items))

    def compute(self) -> dict[str, float]:
        """Name to mean; empty where there is nothing to compute."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        own = self._counts.get("accuracy", 0)
        passed, errors = self._by_outcome["passed"], self._by_outcome["error"]
        scored = passed + self._by_outcome["failed"]
        # A system that only raises has an accuracy, 0; one that nothing judges has none.
        all_errors = self.outcomes["error"] == self.items - self.outcomes["unmeasured"]
        if not (scored or own or (errors and all_errors)):
            return means
        means.pop("accuracy", None)
        passed_or_own = passed + self._sums.get("accuracy", 0.0)
        return {"accuracy": passed_or_own / (scored + errors + own), **means}

    def _take(self, metrics: Iterable[Mapping[str, float]], weight: int) -> None:
        sums, counts = self._sums, self._counts
        for each in metrics:
            for name, value in each.items():
                sums[name] = sums.get(name, 0.0) + value * weight
                counts[name] = counts.get(name, 0) + weight


def worst_value(given: object, monitored: Monitored, item_metric: str) -> float | None:
    """The value of an item with an error, as the user gave it; None: it has none.

    Args:
        given: A number, or None.
        item_metric: The metric of the items that it is made of; "" for none.

    Raises:
        UsageError: it is no number, or nothing reads it.
    """
    if given is None:
        return None
    if monitored.owner is not None and not item_metric:
        raise UsageError(
            f"failed_value does nothing: {monitored.name!r} is made of no number of the items",
            hint="leave it out: the metric itself defines the value of an item with an error",
        )
    return bound(given, "failed_value")


class Gatherer(ABC):
    """The part of a Loss that subclasses inherit and do not write; the contract is Loss's."""

    def __init__(self, parameters: Iterable[Parameter] | None = None) -> None:
        self.parameters = None if parameters is None else list(parameters)
        self._gathered: list[tuple[Datum, Gradient]] = []

    @abstractmethod
    def forward(self, data: Datum, targets: Any) -> Gradient | None:
        """See Loss."""

    def __call__(self, data: Datum, targets: Any = None) -> None:
        check_init(self, "_gathered")
        gradient = self.forward(data, targets)
        if gradient is not None and not isinstance(gradient, Gradient):
            raise EvaluationError(
                f"{type(self).__name__}.forward returned a {type(gradient).__name__}, "
                "not a Gradient",
                hint="return Gradient(value), TextGradient(direction), or None",
            )
        if gradient is not None:
            self._gathered.append((data, gradient))

    def backward(self, *, retain_graph: bool = False) -> None:
        """Sends back what was gathered since the last call, and forgets it.

        Raises:
            GraphError: no parameters were given, and the data was not returned by a module call.
        """
        # Emptied first: what raises below must not be sent a second time.
        gathered, self._gathered = self._gathered, []
        graphs: list[Graph] = []
        for data, gradient in gathered:
            if self.parameters is None:
                graphs.append(Graph(data))
                # Results may share a part of their graph: all of it is kept until the last.
                graphs[-1].backward(gradient, retain_graph=True)
                continue
            for parameter in self.parameters:
                if parameter.requires_grad:
                    parameter.accumulate_grad(gradient)
        for graph in graphs if not retain_graph else ():
            graph.free()

    def mark(self, parameters: Iterable[Parameter] = ()) -> Callable[[], None]:
        """Remembers what is gathered, and the gradients of some parameters.

        Returns:
            A function that puts all of it back.
        """
        gathered = list(self.__dict__.get("_gathered", ()))
        gradients = [(parameter, parameter.grad) for parameter in parameters]

        def put_back() -> None:
            self._gathered = list(gathered)
            for parameter, gradient in gradients:
                parameter.grad = gradient

        return put_back

    def reset(self) -> None:
        """Forgets what was gathered."""
        self._gathered.clear()

    def __repr__(self) -> str:
        return as_call(self)


def worst_first(data: Datum, monitor: str, mode: str, targets: Any = None) -> Gradient | None:
    """The feedback of the items that have some, did not pass, or have the value that decides.

    Args:
        monitor: The item metric that decides; "" where it is none.
        targets: The batch, for the inputs and the right answers of its items.
    """
    alone = len(data) == 1
    found = [pair for pair in with_targets(data, targets) if _speaks(pair[0], monitor)]
    # From 0.1 (best) to 1 (worst), by rank of the monitored value; errors are the worst.
    values = {item.metrics[monitor] for item, _ in found if monitor in item.metrics}
    ranks = enumerate(sorted(values, reverse=mode != "min"), 1)
    badness: dict[float | None, float] = {v: 0.1 + 0.9 * n / len(values) for n, v in ranks}
    if badness:
        found.sort(key=lambda pair: -badness.get(pair[0].metrics.get(monitor), 1.0))
    findings, own_wish = list[tuple[Finding, Callable[[], Exchange]]](), wish(monitor, mode)
    for item, target in found:
        value = item.metrics.get(monitor)
        about = item.id if value is None else f"{item.id}: {monitor} {value:.6g}"
        if not (said := item.feedback or item.error_message):
            said = NO_WORDS if value is None or item.outcome == "failed" else own_wish
        finding = Finding(
            said,
            severity=badness.get(value, 1.0),
            evidence=() if alone and not badness else (about,),
            item="" if alone else item.id,
        )
        # Few optimizers read the texts, and to make them takes longer than all else here.
        findings.append((finding, partial(exchange, item, target)))
    return TextGradient.of(findings) if findings else None


def _speaks(item: Datum, monitor: str) -> bool:
    if item.unmeasured is not None:
        return False
    return bool(item.feedback) or monitor in item.metrics or item.outcome in ("failed", "error")


def mistake_in(data: object, batch: Datum) -> str:
    """The mistake in a value that a step returned; "" if it can be a result."""
    if not isinstance(data, Datum):
        return f"{type(data).__name__}, not a Datum"
    items: object = data.items
    if not isinstance(items, list | tuple):
        return f"a Datum whose items are a {type(items).__name__}, not a list"
    if items and batch.items and len(items) != len(batch.items):
        return f"{len(items)} items for a batch of {len(batch.items)}"
    for item in (*items, data):
        if not isinstance(item, Datum):
            return f"an item that is a {type(item).__name__}, not a Datum"
        texts: tuple[object, ...] = (item.feedback, item.error_message, item.unmeasured)
        # In C for the usual item: a loop over the three takes as long as all else here.
        for name, text in (
            () if _USUAL.issuperset(map(type, texts)) else zip(_WORDS, texts, strict=True)
        ):
            if text is not None and not isinstance(text, str):
                return f"an item whose {name} is a {type(text).__name__}, not a text"
        metrics: object = item.metrics
        if not isinstance(metrics, (dict, Mapping)):
            return f"an item whose metrics are a {type(metrics).__name__}, not a dict"
    return ""


def label(data: Datum, batch: Datum, position: Position) -> None:
    """Gives results the place and, where they are as many, the ids of their items."""
    split, epoch = data.split, data.epoch = position.split, position.epoch
    outputs, inputs = list(data.leaves()), list(batch.leaves())
    same_length = len(outputs) == len(inputs)
    for place, item in enumerate(outputs):
        item.split, item.epoch = split, epoch
        if same_length:
            item.id = inputs[place].id
    # A result that is one item's own keeps the item's id.
    if data.items or not same_length:
        data.id = batch.id


def to_score(
    running: Position, data: Datum, batch: Datum, died: Collection[int]
) -> list[tuple[Position, Datum, Datum]]:
    """Position, results and items of each call of a score: the batch, or each item that lives."""
    if not died:
        return [(running, data, batch)]
    singles = singles_of(batch) if len(batch.items) > 1 else []
    return [
        (replace(running, item=at, size=1), Datum(items=[result]), single)
        for at, (result, single) in enumerate(zip(data.items, singles, strict=False))
        if at not in died
    ]
