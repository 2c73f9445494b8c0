"""States: the attributes of a metric that `reset` puts back and that each of its copies has."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

from autopilot.core.figures import truth
from autopilot.core.signatures import as_call
from autopilot.core.types import Datum
from autopilot.errors import AutopilotError, MetricError

A = TypeVar("A", bound="Accumulator")


class Accumulator(ABC):
    """The part of a Metric that subclasses inherit and do not write; the contract is Metric's."""

    higher_is_better: bool | Mapping[str, bool | None] | None
    noisy: bool
    _defaults: dict[str, Any]

    def __init__(self) -> None:
        # A subclass may have declared states before it called this.
        self.__dict__.setdefault("_defaults", {})

    @abstractmethod
    def update(self, data: Datum) -> None:
        """See Metric."""

    @abstractmethod
    def compute(self) -> float | Mapping[str, float]:
        """See Metric."""

    @abstractmethod
    def has_value(self, item: Datum) -> bool:
        """See Metric."""

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
            raise MetricError(
                f"{name!r} cannot be a state's name", hint="use a valid attribute name"
            )
        kept = default if _is_factory(default) else self._copied(name, default, {})
        self.__dict__.setdefault("_defaults", {})[name] = kept
        setattr(self, name, self._fresh(name))

    def reset(self) -> None:
        """Forgets everything, in the metrics inside this one too."""
        states = self._states()
        for name in states:
            setattr(self, name, self._fresh(name))
        for name, held in list(vars(self).items()):
            for metric in () if name in states else _metrics_in(held):
                metric.reset()

    def clone(self: A) -> A:
        """A copy with the states as they are; see Metric for what it shares."""
        return copy.deepcopy(self)

    def __deepcopy__(self: A, memo: dict[int, Any]) -> A:
        twin = copy.copy(self)
        memo[id(self)] = twin
        states = self._states()
        for name in states:
            if hasattr(self, name):
                setattr(twin, name, self._copied(name, getattr(self, name), memo))
        for name, held in vars(self).items():
            if name not in states and _metrics_in(held):
                if not _is_metric(held):
                    # The memo keeps deepcopy from copying a container's other elements: shared.
                    others = held.values() if isinstance(held, dict) else held
                    memo |= {id(other): other for other in others if not _is_metric(other)}
                setattr(twin, name, self._copied(name, held, memo))
        twin._defaults = dict(states)
        return twin

    def _states(self) -> dict[str, Any]:
        # Through __dict__: a subclass that did not call super().__init__() has none.
        found: dict[str, Any] = self.__dict__.get("_defaults", {})
        return found

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
            if _is_factory(self._states().get(name)):
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
