"""Metrics: numbers over a whole split, gathered batch by batch.

The contract is torchmetrics': `add_state`, `update`, `compute`, `reset`, with `update` taking the
Datum that a step returned. `update_all` and `compute_all` are where the loop calls the user's
metrics: what they return becomes floats there, and what they raise is given their name.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping

from autopilot.core.metric_state import DeclaredStates
from autopilot.core.numbers import number, truth
from autopilot.core.types import Datum
from autopilot.errors import AutopilotError, MetricError


class Metric(DeclaredStates):
    """A number over a split, or several by name. Subclasses declare their state and how it grows.

    A copy of a metric (the loop measures each split on one) has copies of the declared states and
    of the metrics inside it; every other attribute is shared, so a metric may hold a client, a
    lock, a file or a generator.

    Attributes:
        higher_is_better: True, False, or None where nothing is stated; where `compute` returns a
            dict, one for all of its keys or a dict by key.
        noisy: Whether two measurements of the same state differ, as with times: a replay compares
            it only within a tolerance that it is given.

    >>> class Words(Metric):
    ...     higher_is_better = False
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.add_state("total", 0)
    ...     def update(self, data):
    ...         self.total += sum(len(item.metadata["text"].split()) for item in data.leaves())
    ...     def compute(self):
    ...         return float(self.total)
    >>> words = Words()
    >>> words.update(Datum(metadata={"text": "to be or not"}))
    >>> words.compute()
    4.0
    """

    higher_is_better: bool | Mapping[str, bool | None] | None = None
    noisy: bool = False

    def update(self, data: Datum) -> None:
        """Takes in what a step returned: a batch's Datum with its items, or a single item."""
        raise NotImplementedError(f"{type(self).__name__} defines no update(data)")

    def compute(self) -> float | Mapping[str, float]:
        """The value over all that was taken in since the last reset.

        Returns:
            What converts to a float, or a dict of such by name: key "recall" of the metric "acc" is
            the metric "acc_recall".
        """
        raise NotImplementedError(f"{type(self).__name__} defines no compute()")

    def has_value(self, item: Datum) -> bool:
        """Whether an item contributes to the value.

        Two states are compared on the items that have a value in both, and a state in which an item
        lacks the value that it had in the best state is not better. So a metric may leave items out
        only where this says so.
        """
        return item.outcome not in ("error", "unmeasured")

    def direction(self, key: str = "") -> bool | None:
        """Whether higher is better: of the value, or of a key of the dict that is computed.

        Raises:
            MetricError: `higher_is_better` is neither True, False nor None.
        """
        stated = self.higher_is_better
        try:
            return truth(stated.get(key) if isinstance(stated, Mapping) else stated)
        except ValueError as error:
            raise MetricError(
                f"{type(self).__name__}.higher_is_better is {error}",
                hint="a direction is stated as True or False",
            ) from error

    def directions(self, name: str) -> dict[str, bool | None]:
        """Full names to whether higher is better, as far as they are known before `compute`."""
        keys = self.higher_is_better if isinstance(self.higher_is_better, Mapping) else ("",)
        return {f"{name}_{key}" if key else name: self.direction(key) for key in keys}

    def forward(self, data: Datum) -> float | Mapping[str, float]:
        """The value on this Datum alone; it is taken in as well."""
        alone = self.clone()
        alone.reset()
        alone.update(data)
        self.update(data)
        return alone.compute()

    __call__ = forward

    def __add__(self, other: Metric | MetricCollection) -> MetricCollection:
        return MetricCollection([self]) + other

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class MetricCollection:
    """Several metrics under their names.

    The values are named as in torchmetrics, prefix and postfix around all of it, but that the key
    of a metric that computes a dict always follows the metric's name: "val_acc_recall_macro".

    Args:
        metrics: Metrics by name, or a list whose names are the class names in lower case.
        more: Further metrics, named so too.
        prefix: Put before every name.
        postfix: Put after every name.

    Raises:
        MetricError: two metrics of the same name.
    """

    def __init__(
        self,
        metrics: Metric | Mapping[str, Metric] | Iterable[Metric],
        *more: Metric,
        prefix: str = "",
        postfix: str = "",
    ) -> None:
        self.prefix, self.postfix = prefix, postfix
        self._metrics: dict[str, Metric] = {}
        self.add_metrics(metrics, *more)

    def add_metrics(
        self, metrics: Metric | Mapping[str, Metric] | Iterable[Metric], *more: Metric
    ) -> None:
        """Adds metrics, as the constructor takes them.

        Raises:
            MetricError: two metrics of the same name, or something that is none.
        """
        if isinstance(metrics, Mapping):
            for name, metric in metrics.items():
                self._add(name, metric)
            metrics = ()
        for metric in (metrics, *more) if isinstance(metrics, Metric) else (*metrics, *more):
            self._add(type(metric).__name__.lower(), metric)

    def _add(self, name: str, metric: Metric) -> None:
        if not isinstance(metric, Metric):
            raise MetricError(
                f"{name} is a {type(metric).__name__}, not a Metric",
                hint="pass Metric objects, or a mapping from name to Metric",
            )
        if name in self._metrics:
            raise MetricError(
                f"two metrics are named {name!r}",
                hint="name them: MetricCollection({'first': ..., 'second': ...})",
            )
        self._metrics[name] = metric

    def items(self) -> Iterator[tuple[str, Metric]]:
        """Full name and metric."""
        for name, metric in self._metrics.items():
            yield f"{self.prefix}{name}{self.postfix}", metric

    def update(self, data: Datum) -> None:
        """Updates every metric.

        Raises:
            MetricError: one of them raised; it says which.
        """
        update_all(dict(self.items()), data)

    def compute(self) -> dict[str, float]:
        """Every value by full name.

        Raises:
            MetricError: a metric raised, returned what is no number, or two values have one name.
        """
        return self._named(lambda metric: metric.compute(), "compute")

    def _named(
        self, value_of: Callable[[Metric], float | Mapping[str, float]], method: str
    ) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, metric in self._metrics.items():
            with_keys = _values(name, metric, value_of, method)
            _add(found, {f"{self.prefix}{n}{self.postfix}": v for n, v in with_keys.items()})
        return found

    def reset(self) -> None:
        """Resets every metric."""
        for metric in self._metrics.values():
            metric.reset()

    def forward(self, data: Datum) -> dict[str, float]:
        """Every metric's value on this Datum alone; it is taken in as well."""
        return self._named(lambda metric: metric.forward(data), "forward")

    __call__ = forward

    def directions(self, name: str = "") -> dict[str, bool | None]:
        """Full names to whether higher is better."""
        return {
            f"{self.prefix}{inner}{self.postfix}": higher
            for own, metric in self._metrics.items()
            for inner, higher in metric.directions(own).items()
        }

    def clone(self, prefix: str | None = None, postfix: str | None = None) -> MetricCollection:
        """An independent copy, with its state, under another prefix or postfix if given."""
        return MetricCollection(
            {name: metric.clone() for name, metric in self._metrics.items()},
            prefix=self.prefix if prefix is None else prefix,
            postfix=self.postfix if postfix is None else postfix,
        )

    def __add__(self, other: Metric | MetricCollection) -> MetricCollection:
        combined = MetricCollection(dict(self.items()))
        right = other if isinstance(other, MetricCollection) else MetricCollection([other])
        for name, metric in right.items():
            combined._add(name, metric)
        return combined

    def find(self, name: str) -> tuple[Metric, str] | None:
        """The metric whose value has a full name, and the key of it; see `find_metric`."""
        if not (name.startswith(self.prefix) and name.endswith(self.postfix)):
            return None
        inner = name.removeprefix(self.prefix).removesuffix(self.postfix)
        return find_metric(inner, self._metrics)

    def keys(self) -> Iterator[str]:
        """The metrics' full names."""
        return (name for name, _ in self.items())

    def values(self) -> Iterator[Metric]:
        """The metrics."""
        return iter(self._metrics.values())

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self.keys())

    def __len__(self) -> int:
        return len(self._metrics)

    def __getitem__(self, name: str) -> Metric:
        return dict(self.items())[name]

    def __repr__(self) -> str:
        return f"MetricCollection({', '.join(name for name, _ in self.items())})"


def update_all(metrics: Mapping[str, Metric | MetricCollection], data: Datum) -> None:
    """Updates metrics by name.

    Raises:
        MetricError: one of them raised; it says which, and where in the user's code.
    """
    for name, metric in metrics.items():
        try:
            metric.update(data)
        except AutopilotError:
            raise
        except Exception as error:
            raise _failure(name, metric, "update", error) from error


def computed(name: str, metric: Metric | MetricCollection) -> dict[str, float]:
    """The values of a metric, as floats by full name.

    That of a metric has its name, a key of a dict that it computes follows that name, and a
    collection has its own names: {"acc": 0.5}, {"acc_recall": 0.5}, {"val_acc": 0.5}.

    Raises:
        MetricError: a metric raised, returned what is no number, or two values have one name.
    """
    if isinstance(metric, MetricCollection):
        return metric.compute()
    return _values(name, metric, lambda metric: metric.compute(), "compute")


def compute_all(metrics: Mapping[str, Metric | MetricCollection]) -> dict[str, float]:
    """The values of several metrics, see `computed`.

    Raises:
        MetricError: a metric raised, returned what is no number, or two values have one name.
    """
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        _add(found, computed(name, metric))
    return found


def find_metric(
    name: str, metrics: Mapping[str, Metric | MetricCollection]
) -> tuple[Metric, str] | None:
    """The metric that computes a value, and the value's key in its dict; "" where it is no dict.

    Args:
        name: The value's full name, as `compute_all` gives it.
        metrics: Metrics and collections by name.

    >>> collection = MetricCollection({"acc": Metric()}, prefix="val_")
    >>> find_metric("val_acc_recall", {"all": collection})
    (Metric(), 'recall')
    """
    own = metrics.get(name)
    if isinstance(own, Metric):
        return own, ""
    found: list[tuple[Metric, str]] = []
    for known, metric in metrics.items():
        if isinstance(metric, MetricCollection):
            inner = metric.find(name)
            found += [inner] if inner else []
        elif name.startswith(f"{known}_") and _may_give_keys(metric):
            found.append((metric, name.removeprefix(f"{known}_")))
    # The longest name of a metric: "f1_macro" before "f1" with the key "macro".
    return min(found, key=lambda pair: len(pair[1]), default=None)


def _may_give_keys(metric: Metric) -> bool:
    if isinstance(metric.higher_is_better, Mapping):
        return True
    # Nothing says beforehand what `compute` returns: what it makes of no items does.
    alone = metric.clone()
    alone.reset()
    try:
        return isinstance(alone.compute(), Mapping)
    except Exception:  # noqa: BLE001  # the user's: it may need items
        return True


def _values(
    name: str,
    metric: Metric,
    value_of: Callable[[Metric], float | Mapping[str, float]],
    method: str,
) -> dict[str, float]:
    """What a metric returned, as floats by name."""
    returned = f"{name}: {type(metric).__name__}.{method}() returned"
    try:
        value = value_of(metric)
    except AutopilotError:
        raise
    except Exception as error:
        raise _failure(name, metric, method, error) from error
    given = value if isinstance(value, Mapping) else {"": value}
    found: dict[str, float] = {}
    for key, one in given.items():
        if not isinstance(key, str | int):
            raise MetricError(
                f"{returned} a dict with the key {key!r:.60}", hint="name its values by texts"
            )
        try:
            as_float = number(one)
        except ValueError as error:
            where = f" as {key!r}" if given is value else ""
            raise MetricError(
                f"{returned} {error}{where}",
                hint="return a number, or a dict from names to numbers",
            ) from error
        _add(found, {f"{name}_{key}" if given is value else name: as_float})
    return found


def _add(found: dict[str, float], more: Mapping[str, float]) -> None:
    twice = found.keys() & more.keys()
    if twice:
        raise MetricError(
            f"two metrics compute a value named {min(twice)!r}",
            hint="the key of a dict follows the metric's name: acc and recall are acc_recall",
        )
    found.update(more)


def _failure(
    name: str, metric: Metric | MetricCollection, method: str, error: Exception
) -> MetricError:
    frames = traceback.extract_tb(error.__traceback__)
    place = next((f"{f.filename}:{f.lineno}" for f in frames if f.filename != __file__), "")
    return MetricError(
        f"{name}: {type(metric).__name__}.{method}() raised {type(error).__name__}: {error}",
        hint=f"look at {place or type(metric).__name__}; --verbose shows the traceback",
    )
