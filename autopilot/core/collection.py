"""Metrics, one and several: states and copies, collections, values as floats by name.

`update_all` and `compute_all` are where the loop calls the user's metrics: the values they return
become floats there, and an error they raise is given the metric's name.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from autopilot.core.figures import number, truth
from autopilot.core.signatures import as_call
from autopilot.core.types import Datum
from autopilot.errors import AutopilotError, MetricError

V = TypeVar("V")
A = TypeVar("A", bound="Accumulator")


class Accumulator:
    """The part of a Metric that subclasses inherit and do not write; the contract is Metric's."""

    higher_is_better: bool | Mapping[str, bool | None] | None
    noisy: bool
    update: Callable[[Datum], None]
    compute: Callable[[], float | Mapping[str, float]]
    has_value: Callable[[Datum], bool]
    _defaults: dict[str, Any]

    def __new__(cls: type[A], *_: Any, **__: Any) -> A:
        self = super().__new__(cls)
        # Not in __init__, which a subclass may call late or never. It refuses arguments.
        self._defaults = {}
        return self

    def __init__(self) -> None: ...

    def add_state(self, name: str, default: Any) -> None:
        """Declares a state: an attribute that `reset` puts back to its default.

        Args:
            name: The attribute's name.
            default: A value, which is copied for each reset, or what makes one: `list`, `Counter`,
                a function without arguments.

        Raises:
            MetricError: the name is no attribute's, or the default cannot be copied or made.
        """
        if not name.isidentifier():
            raise MetricError(f"{name!r} cannot be a state's name", hint="use an identifier")
        self._defaults[name] = default if _is_factory(default) else self._copied(name, default, {})
        setattr(self, name, self._fresh(name))

    def reset(self) -> None:
        """Forgets everything, in the metrics inside this one too."""
        for name in self._defaults:
            setattr(self, name, self._fresh(name))
        for name, held in list(vars(self).items()):
            for metric in () if name in self._defaults else _metrics_in(held):
                metric.reset()

    def clone(self: A) -> A:
        """A copy with the states as they are; see Metric for what it shares."""
        return copy.deepcopy(self)

    def __deepcopy__(self: A, memo: dict[int, Any]) -> A:
        twin = copy.copy(self)
        memo[id(self)] = twin
        for name in self._defaults:
            if hasattr(self, name):
                setattr(twin, name, self._copied(name, getattr(self, name), memo))
        for name, held in vars(self).items():
            if name not in self._defaults and _metrics_in(held):
                if not _is_metric(held):
                    # The memo keeps deepcopy from copying a container's other elements: shared.
                    others = held.values() if isinstance(held, dict) else held
                    memo |= {id(other): other for other in others if not _is_metric(other)}
                setattr(twin, name, self._copied(name, held, memo))
        # Its own dict: a state that a copy declares later is not the original's.
        twin._defaults = dict(self._defaults)
        return twin

    def _fresh(self, name: str) -> Any:
        default = self._defaults[name]
        if not _is_factory(default):
            return self._copied(name, default, {})
        try:
            return default()
        except Exception as error:
            raise MetricError(
                f"{type(self).__name__}: the state {name!r} cannot be made: {error}",
                hint="give a value, or what makes one without arguments, such as list",
            ) from error

    def _copied(self, name: str, value: Any, memo: dict[int, Any]) -> Any:
        try:
            return copy.deepcopy(value, memo)
        except AutopilotError:
            raise
        except Exception as error:
            if _is_factory(self._defaults.get(name)):
                return self._fresh(name)
            raise MetricError(
                f"{type(self).__name__}: {name!r} cannot be copied: {error}",
                hint="keep it as a plain attribute, without add_state: it is shared by all copies",
            ) from error

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
        # On a copy: the metric's own state must hold this Datum once, beside those before it.
        alone = self.clone()
        alone.reset()
        alone.update(data)
        self.update(data)
        return alone.compute()

    __call__ = forward

    def __repr__(self) -> str:
        return as_call(self)


def _is_factory(default: Any) -> bool:
    # A metric can be called too, but as a default it is a value.
    return callable(default) and not _is_metric(default)


def _is_metric(value: object) -> bool:
    """Whether it has a metric's methods, as torchmetrics' metrics have."""
    kind = type(value)
    return all(callable(getattr(kind, name, None)) for name in ("update", "compute", "reset"))


def _metrics_in(held: Any) -> list[Any]:
    """The metric that an attribute holds, or those in its list, tuple or dict."""
    inside = held.values() if type(held) is dict else held
    return [x for x in (inside if type(held) in (dict, list, tuple) else [held]) if _is_metric(x)]


Several = Accumulator | Mapping[str, Accumulator] | Iterable[Accumulator]


class MetricCollection(Mapping[str, Accumulator]):
    """Several metrics: a mapping from full name to metric.

    The values are named as in torchmetrics, prefix and postfix around all of it, but the key of a
    metric that computes a dict always follows the metric's name: "val_acc_recall_macro".

    Args:
        metrics: Metrics by name, or a list whose names are the class names in lower case.
        more: Further metrics, named so too.
        prefix: Put before every name.
        postfix: Put after every name.

    Raises:
        MetricError: two metrics of the same name, or something that is no metric.
    """

    def __init__(
        self, metrics: Several, *more: Accumulator, prefix: str = "", postfix: str = ""
    ) -> None:
        self.prefix, self.postfix = prefix, postfix
        self._metrics: dict[str, Accumulator] = {}
        self.add_metrics(metrics, *more)

    def add_metrics(self, metrics: Several, *more: Accumulator) -> None:
        """Adds metrics, as the constructor takes them; raises as it."""
        named = metrics if isinstance(metrics, Mapping) else {}
        listed = (
            [metrics] if isinstance(metrics, Accumulator) else () if named is metrics else metrics
        )
        unnamed = [(type(metric).__name__.lower(), metric) for metric in (*listed, *more)]
        for name, metric in (*named.items(), *unnamed):
            if not isinstance(metric, Accumulator):
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

    def update(self, data: Datum) -> None:
        """Updates every metric; raises as `update_all`."""
        update_all(self, data)

    def compute(self) -> dict[str, float]:
        """Every value by full name; raises as `compute_all`."""
        return self._with_affixes(compute_all(self._metrics))

    def _with_affixes(self, values: Mapping[str, V]) -> dict[str, V]:
        return {f"{self.prefix}{name}{self.postfix}": value for name, value in values.items()}

    def reset(self) -> None:
        """Resets every metric."""
        for metric in self._metrics.values():
            metric.reset()

    def forward(self, data: Datum) -> dict[str, float]:
        """Every metric's value on this Datum alone; it is taken in as well."""
        return self._with_affixes(compute_all(self._metrics, "forward", data))

    __call__ = forward

    def directions(self, name: str = "") -> dict[str, bool | None]:
        """Full names to whether higher is better."""
        return self._with_affixes(directions_of(self._metrics))

    def clone(self, prefix: str | None = None, postfix: str | None = None) -> MetricCollection:
        """An independent copy, with its state, under another prefix or postfix if given."""
        return MetricCollection(
            {name: metric.clone() for name, metric in self._metrics.items()},
            prefix=self.prefix if prefix is None else prefix,
            postfix=self.postfix if postfix is None else postfix,
        )

    def __add__(self, other: Accumulator | MetricCollection) -> MetricCollection:
        combined = MetricCollection(dict(self))
        right = other if isinstance(other, MetricCollection) else MetricCollection([other])
        combined.add_metrics(dict(right))
        return combined

    def find(self, name: str) -> tuple[Accumulator, str] | None:
        """The metric whose value has a full name, and the key of it; see `find_metric`."""
        if not (name.startswith(self.prefix) and name.endswith(self.postfix)):
            return None
        inner = name.removeprefix(self.prefix).removesuffix(self.postfix)
        return find_metric(inner, self._metrics)

    def __iter__(self) -> Iterator[str]:
        return iter(self._with_affixes(self._metrics))

    def __len__(self) -> int:
        return len(self._metrics)

    def __getitem__(self, name: str) -> Accumulator:
        return self._with_affixes(self._metrics)[name]

    # By identity, as every metric: two collections of the same names are not the same.
    __eq__, __hash__ = object.__eq__, object.__hash__

    def __repr__(self) -> str:
        return f"MetricCollection({dict(self)!r})"


ByName = Mapping[str, Accumulator | MetricCollection]


def update_all(metrics: ByName, data: Datum) -> None:
    """Updates metrics by name; a MetricError says which one raised, and where."""
    for name, metric in metrics.items():
        try:
            metric.update(data)
        except AutopilotError:
            raise
        except Exception as error:
            raise _failure(name, metric, "update", error) from error


def compute_all(metrics: ByName, method: str = "compute", *given: Datum) -> dict[str, float]:
    """The values of several metrics, as floats by full name.

    A metric's value has its name, a key of a dict that it computes follows that name, and a
    collection has its own names: {"acc": 0.5}, {"acc_recall": 0.5}, {"val_acc": 0.5}.

    Raises:
        MetricError: a metric raised, returned no number, or two values have one name.
    """
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        if isinstance(metric, MetricCollection):
            _add(found, metric.compute())
        else:
            _add(found, _values(name, metric, method, given))
    return found


def directions_of(metrics: ByName) -> dict[str, bool | None]:
    """Full names to whether higher is better, as far as the metrics state it."""
    every = (metric.directions(name) for name, metric in metrics.items())
    return {name: higher for stated in every for name, higher in stated.items()}


def find_metric(name: str, metrics: ByName) -> tuple[Accumulator, str] | None:
    """The metric that computes a value, and the value's key in its dict; "" where it is no dict.

    Args:
        name: The value's full name, as `compute_all` gives it.

    >>> from autopilot.core.metric import Metric
    >>> find_metric("val_acc_recall", {"all": MetricCollection({"acc": Metric()}, prefix="val_")})
    (Metric(), 'recall')
    """
    own = metrics.get(name)
    if isinstance(own, Accumulator):
        return own, ""
    found: list[tuple[Accumulator, str]] = []
    for known, metric in metrics.items():
        if isinstance(metric, MetricCollection):
            inner = metric.find(name)
            found += [inner] if inner else []
        elif name.startswith(f"{known}_") and _may_give_keys(metric):
            found.append((metric, name.removeprefix(f"{known}_")))
    # The longest name of a metric: "f1_macro" before "f1" with the key "macro".
    return min(found, key=lambda pair: len(pair[1]), default=None)


def _may_give_keys(metric: Accumulator) -> bool:
    if isinstance(metric.higher_is_better, Mapping):
        return True
    # Only calling `compute` shows whether it returns a dict: over no items, on a copy.
    alone = metric.clone()
    alone.reset()
    try:
        return isinstance(alone.compute(), Mapping)
    except Exception:  # noqa: BLE001  # the user's: it may need items
        return True


def _values(
    name: str, metric: Accumulator, method: str, given: Iterable[Datum]
) -> dict[str, float]:
    """A metric's value or values, as floats by name."""
    returned = f"{name}: {type(metric).__name__}.{method}() returned"
    try:
        value = getattr(metric, method)(*given)
    except AutopilotError:
        raise
    except Exception as error:
        raise _failure(name, metric, method, error) from error
    named = value if isinstance(value, Mapping) else {"": value}
    found: dict[str, float] = {}
    for key, one in named.items():
        # Labels may be numbers; other keys would make names that no one can type.
        if not isinstance(key, str | int):
            raise MetricError(
                f"{returned} a dict with the key {key!r:.60}", hint="name its values by texts"
            )
        try:
            as_float = number(one)
        except ValueError as error:
            where = f" as {key!r}" if named is value else ""
            hint = "return a number, or a dict from names to numbers"
            raise MetricError(f"{returned} {error}{where}", hint=hint) from error
        _add(found, {f"{name}_{key}" if named is value else name: as_float})
    return found


def _add(found: dict[str, float], more: Mapping[str, float]) -> None:
    if twice := found.keys() & more.keys():
        raise MetricError(
            f"two metrics compute a value named {min(twice)!r}",
            hint="the key of a dict follows the metric's name: acc and recall are acc_recall",
        )
    found.update(more)


def _failure(name: str, metric: object, method: str, error: Exception) -> MetricError:
    # The first frame outside of this file is the user's.
    frames = traceback.extract_tb(error.__traceback__)
    place = next((f"{f.filename}:{f.lineno}" for f in frames if f.filename != __file__), "")
    return MetricError(
        f"{name}: {type(metric).__name__}.{method}() raised {type(error).__name__}: {error}",
        hint=f"look at {place or type(metric).__name__}; --verbose shows the traceback",
    )
