"""The contract of a gate: one condition on an epoch. Ready-made ones stand in `autopilot.policy`.

A gate only reads: it touches neither disk, git nor a model, so a replay comes to the same verdict.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from autopilot.core.comparison import EpochView
from autopilot.core.signatures import as_call
from autopilot.core.types import GateResult


class Gate(ABC):
    """One condition on an epoch: a policy keeps the epoch only if every required gate passes.

    A metric that was not measured fails its gate, and so does NaN: no evidence is not good news.
    `core.comparison.measured` gives a metric's value, or the sentence for the reason.

    Args:
        required: An optional gate only warns.

    >>> class Brief(Gate):
    ...     def check(self, view):
    ...         words = view.metrics["val"]["words"]
    ...         return self.result(passed=words < 50, reason=f"answers have {words:.0f} words")
    >>> view = EpochView(1, {"val": {"words": 62.0}}, {}, {}, monitor="accuracy")
    >>> Brief().check(view).reason
    'answers have 62 words'
    """

    def __init__(self, *, required: bool = True) -> None:
        self.required = required

    @property
    def name(self) -> str:
        """The gate's name in reasons and records."""
        return type(self).__name__

    @abstractmethod
    def check(self, view: EpochView) -> GateResult:
        """Judges the epoch; an exception ends the run.

        Args:
            view: The epoch's metrics, items and cost, beside those of the baseline and the best.
        """

    def reads(self) -> Sequence[tuple[str, str | None]]:
        """The split and the name of each metric that it needs; None names the monitored one.

        A run that cannot have one of them is refused at its start.
        """
        return ()

    def describe(self) -> str:
        """The condition on one line, for an agent: its name and its class's first line of docs."""
        about = (vars(type(self)).get("__doc__") or "").strip().partition("\n")[0]
        return f"{self.name}: {about}" if about else self.name

    def result(self, *, passed: bool, reason: str) -> GateResult:
        """A result under this gate's name; the reason is one sentence for a person."""
        return GateResult(self.name, passed, reason, self.required)

    def __repr__(self) -> str:
        return as_call(self)
