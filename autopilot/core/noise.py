"""Noise: how far two measurements of one state differ, and whether a gain exceeds that.

The val split is measured twice before anything changes. Where the two measurements agree, any gain
is real. Where they differ, a change that changes nothing would improve the mean every other time:
the default policy then keeps an epoch only if its gain is significant.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Literal

from autopilot.core.comparison import (
    EpochView,
    Key,
    Monitored,
    keyed,
    measured,
    nothing_to_compare,
    paired,
)
from autopilot.core.figures import figure, figures, gained, signed
from autopilot.core.gate import Gate
from autopilot.core.policy import Decision, Policy
from autopilot.core.statistics import (
    bootstrap_test,
    pair,
    sign_test,
    sure_size,
    swapped_gains,
)
from autopilot.core.types import Datum, GateResult, Noise
from autopilot.errors import UsageError

# A test at exactly 5% keeps more than 5% of a thousand useless epochs every other time. At 3.5% it
# keeps that few in practically every thousand: the limit is 2.6 standard deviations away.
_SHARE_OF_ERROR = 0.7
# That of the default policy, at 95%.
_LIMIT = round(_SHARE_OF_ERROR * 0.05, 12)
# Each computes a metric of the whole split twice.
_SWAPS = 400


def fewest_gains(candidates: int = 1) -> int:
    """How many items have to gain, and none to lose, before that is no chance.

    Of so few items each would gain by chance in a share of the epochs that a candidate may not
    have: see `bootstrap_test`. One noisy number is measured as often, so candidates cost that.

    Args:
        candidates: How many share what chance may pass.

    >>> [fewest_gains(candidates) for candidates in (1, 2, 4, 8)]
    [5, 6, 7, 8]
    """
    return math.ceil(-math.log2(_LIMIT / candidates))


def noise_sentence(noise: Noise, *, default: bool = True) -> str:
    """How the measurements differ, and what follows from it.

    Args:
        default: Whether the default policy decides, not one of the user's own.

    >>> noise_sentence(Noise(items=250, smallest=0.004))
    'two measurements agree; the smallest gain that the val split can resolve is 0.004'
    """
    size = ""
    if noise.smallest is not None:
        among = f" among {noise.candidates} candidates" if noise.candidates > 1 else ""
        size = f"; the smallest gain that the val split can resolve{among} is "
        size += figure(noise.smallest)
    if noise.skipped:
        return f"noise not measured: {noise.skipped}{size}"
    several = "two" if noise.measurements == 2 else noise.measurements
    if not noise.is_noisy:
        return f"{several} measurements agree{size}"
    alone = noise.repeats or noise.items == 1
    which = "all" if noise.differing == noise.items else f"{noise.differing} of"
    found = f"{which} {noise.items} items differ"
    if not noise.differing or alone:
        found = f"{several} measurements differ by {figure(float(f'{noise.shift:.2g}'))}"
    follows = "an epoch is kept only where the difference is significant"
    if not default:
        follows = "the experiment's own policy decides"
    elif noise.items < (fewest := fewest_gains(noise.candidates)):
        few, least = f"{noise.items} val items are too few", f"it takes {fewest} at least"
        if noise.repeats:
            few, least = f"{several} are too few", f"--repeat {fewest}"
        which = "no epoch" if noise.candidates == 1 else f"none of {noise.candidates} candidates"
        return f"{found}: {which} can be kept, {few} to tell any gain from chance; {least}"
    return f"{found}: {follows}{size}"


class DefaultPolicy(Policy):
    """The policy of a module without one: an epoch is kept if the monitored val metric improved.

    Where two measurements of the baseline differed, the gain must be significant as well: see
    `SignificantImprovement`, with "bootstrap".

    >>> DefaultPolicy().judge(EpochView(1, {"val": {"f1": 0.8}}, {}, {"val": {"f1": 0.7}}, "f1"))
    Decision(verdict='kept', reasons=('val f1 0.700 -> 0.800',), gates=...)
    """

    def judge(self, view: EpochView) -> Decision:
        """The verdict on an epoch."""
        if view.noise is None or not view.noise.is_noisy:
            return super().judge(view)
        return Policy([SignificantImprovement(method="bootstrap")]).judge(view)


class GainGate(Gate):
    """A gate on the gain of the monitored val metric over the best epoch.

    It passes while there is no best to compare with.
    """

    def reads(self) -> Sequence[tuple[str, str | None]]:
        return [("val", None)]

    def check(self, view: EpochView) -> GateResult:
        """Compares the epoch with the best."""
        value = measured(view.metrics, "val", view.monitor)
        if isinstance(value, str):
            return self.result(passed=False, reason=value)
        if view.best_value is None:
            return self.result(passed=True, reason=nothing_to_compare(view.monitor))
        gain = view.gain()
        # An infinite value has no gain: it is no evidence that anything improved.
        passed, reason = self._weigh(view, 0.0 if gain is None else gain)
        return self.result(passed=passed, reason=reason)

    @abstractmethod
    def _weigh(self, view: EpochView, gain: float) -> tuple[bool, str]:
        """Whether the gain passes, and the reason."""


class SignificantImprovement(GainGate):
    """The val items got better by more than chance would explain.

    A change that changes nothing, scored by a noisy system, improves the mean every other time,
    and a loop that keeps whatever improved climbs on noise. This gate compares the epoch with the
    best item by item, and lets such a change pass in at most 1 - confidence of the epochs. So that
    chance hardly ever pushes the share beyond that, the p-value is held to 0.7 times it: 0.035 at
    95%. Several candidates of an epoch share it. That is a promise for each epoch: of a hundred
    useless ones, expect a few to pass.

    An item's score is its `metrics[monitor]`; where no item has one, its success. Items are matched
    by id, and all have to be there in both epochs: an item missing on either side fails the gate.

    A gain that may be chance is called indecisive. So is one that is no larger than what two
    measurements of the baseline were apart: then all items of a pass go up and down together.

    Args:
        confidence: How sure to be, between 0.5 and 1.
        method: "sign" counts the items that got better and worse, exactly; at least five have to
            change at 95%. "bootstrap" weighs them by how much: stronger for graded scores. For a
            metric of the whole split it swaps the results of items, and computes it anew.
        repeats: Random draws of "bootstrap"; by default 100 / (1 - confidence), 2,000 at 95%.
        seed: Of those draws; the same epoch always gets the same verdict.
        required: An optional gate only warns.

    Raises:
        UsageError: a confidence or method that does not exist, repeats for "sign", or too few of
            them for the confidence.

    >>> from autopilot.core.types import Datum
    >>> before = [Datum(id=str(i), success=i < 40) for i in range(100)]
    >>> after = [Datum(id=str(i), success=i < 46) for i in range(100)]
    >>> view = EpochView(
    ...     1, {"val": {"accuracy": 0.46}}, {}, {"val": {"accuracy": 0.40}}, monitor="accuracy",
    ...     items=after, best_items=before,
    ... )
    >>> SignificantImprovement().check(view).reason
    '6 val items better and 0 worse in success: p 0.016 is within 0.035'
    """

    def __init__(
        self,
        confidence: float = 0.95,
        method: Literal["sign", "bootstrap"] = "sign",
        repeats: int | None = None,
        seed: int = 0,
        *,
        required: bool = True,
    ) -> None:
        super().__init__(required=required)
        if not 0.5 <= confidence < 1:
            raise UsageError(
                f"a confidence of {confidence} is not between 0.5 and 1", hint="0.95 is usual"
            )
        if method not in ("sign", "bootstrap"):
            raise UsageError(
                f"there is no significance test {method!r}", hint="use 'sign' or 'bootstrap'"
            )
        if repeats is not None and method == "sign":
            raise UsageError("the sign test is exact and draws nothing", hint="leave repeats out")
        self.confidence = confidence
        self.method = method
        self.limit = round(_SHARE_OF_ERROR * (1 - confidence), 12)
        self.repeats = math.ceil(round(100 / (1 - confidence), 6)) if repeats is None else repeats
        self.seed = seed
        # The best that draws can show is a p-value of 1 / (1 + repeats).
        if (fewest := math.ceil(1 / self.limit) - 1) > self.repeats:
            raise UsageError(
                f"{repeats} repeats are too few to show a confidence of {confidence}",
                hint=f"use {fewest} at the very least, and ten times as many for a steady verdict",
            )

    def __repr__(self) -> str:
        optional = "" if self.required else ", required=False"
        return f"SignificantImprovement({self.confidence:g}, {self.method!r}{optional})"

    @property
    def name(self) -> str:
        """The class with its confidence and method."""
        return f"SignificantImprovement({self.confidence:g}, {self.method})"

    def _weigh(self, view: EpochView, gain: float) -> tuple[bool, str]:
        evidence = self._of_the_whole(view) or self._of_items(view)
        if isinstance(evidence, str):
            return False, evidence
        found, p_value = evidence
        bound, each = self._bound(view), ""
        if view.candidates > 1:
            each = f" ({self.limit:g} for {view.candidates} candidates together)"
        shown, limit = _p_value(p_value, bound), f"{bound:g}{each}"
        if p_value > bound:
            chance = " may be chance" if gain > 0 else ""
            return False, _indecisive(view, f"{found}{chance}: p {shown} is above {limit}")
        if view.noise is not None and 0 < gain <= view.noise.shift * (1 + 1e-9):
            reason = f"two measurements of the baseline were {view.noise.shift:.3g} apart"
            return False, _indecisive(view, reason)
        return True, f"{found}: p {shown} is within {limit}"

    def _of_items(self, view: EpochView) -> tuple[str, float] | str:
        """A finding and its p-value; or the reason why there is none."""
        pairs = pair(view)
        if pairs.problem:
            return pairs.problem
        if self.method == "sign":
            found = f"{pairs.wins} val items better and {pairs.losses} worse in {pairs.measure}"
            return found, sign_test(pairs.wins, pairs.losses)
        mean = math.fsum(pairs.differences) / len(pairs.differences)
        amount = signed(abs(mean), of=view.best_value).removeprefix("+")
        size = f"{'better' if mean > 0 else 'worse'} by {amount}" if mean else "the same"
        unit = "measurements" if view.noise is not None and view.noise.repeats else "items"
        found = f"val {pairs.measure} {size} on average over {len(pairs.differences)} {unit}"
        repeats = self.repeats * view.candidates
        return found, bootstrap_test(pairs.differences, repeats, self._random(view))

    def _bound(self, view: EpochView) -> float:
        """The largest p-value that passes: candidates of one epoch share it (Bonferroni)."""
        return float(f"{self.limit / view.candidates:.2g}") if view.candidates > 1 else self.limit

    def _of_the_whole(self, view: EpochView) -> tuple[str, float] | None:
        """The same, of a metric that no item has by itself."""
        monitored, gain = view.monitored, view.gain()
        if self.method == "sign" or monitored is None or monitored.owner is None or gain is None:
            return None
        shared, hits, draws = paired(monitored, view.items, view.best_items), 1, 1
        swaps, bound = _SWAPS * view.candidates, self._bound(view)
        for drawn in swapped_gains(monitored, shared, swaps, self._random(view)):
            # Sums in another order may come out a little smaller.
            hits += gained(0.0, drawn, view.mode) >= gain - 1e-9 * abs(gain)
            draws += 1
            if hits > bound * (1 + swaps):
                break  # further draws cannot make it significant
        return (
            (f"a gain of {gain:.3g} over {len(shared)} items", hits / draws) if draws > 1 else None
        )

    def _random(self, view: EpochView) -> Random:
        # Seeding by epoch too: otherwise every epoch would be judged by the same few draws.
        return Random(f"{self.seed} {view.epoch}")


def _p_value(p_value: float, limit: float) -> str:
    """A p-value as text, with two digits or as many as it takes to differ from its limit."""
    texts = (f"{p_value:.{digits}g}" for digits in range(2, 17))
    return next((text for text in texts if text != f"{limit:g}"), f"{p_value:g}")


def _indecisive(view: EpochView, reason: str) -> str:
    """Why an epoch is not kept: of one that gained, that this is no verdict on the change."""
    if view.best_value is None or view.value is None or not (view.gain() or 0.0) > 0:
        return reason
    before, after = figures(view.best_value, view.value)
    size = view.noise.smallest if view.noise is not None else None
    resolved = f"; this split can resolve {size:.2g}" if size is not None else ""
    return f"indecisive: val {view.monitor} {before} -> {after}, {reason}{resolved}"


def compare(
    measurements: Sequence[Sequence[Datum]],
    monitored: Monitored,
    repeat: int = 1,
    candidates: int = 1,
) -> Noise:
    """Compares several measurements of a state, item by item.

    An item differs if its outcome or its value of the monitored metric does; where the metric is of
    the whole split, if any of its numbers does. Items that one of the measurements could not
    measure, or does not have, say nothing and are left out.

    Args:
        measurements: The results of each; at least two.
        repeat: How many measurements the mean of an epoch is of: its noise is so much smaller.
        candidates: How many of an epoch share what chance may pass.
    """
    known = [keyed(items) for items in measurements]
    keys = [key for key in known[-1] if all(key in items for items in known)]
    keys = [key for key in keys if all(items[key].outcome != "unmeasured" for items in known)]
    differing, sizes = set[Key](), list[float]()
    for first, second in pairwise(known):
        pairs = {key: (first[key], second[key]) for key in keys}
        differing |= {key for key, pair in pairs.items() if _differs(monitored, *pair)}
        sizes.append(_error(monitored, list(pairs.values())))
    # The mean noise of two neighbours.
    error = math.sqrt(math.fsum(size * size for size in sizes) / len(sizes) / repeat)
    # Of one item, the measurements are the items.
    smallest = sure_size(_LIMIT / candidates, len(keys) if len(keys) > 1 else repeat) * error
    found = Noise(len(keys), len(differing), smallest=smallest or None, candidates=candidates)
    return replace(found, measurements=len(measurements))


def _differs(monitored: Monitored, one: Datum, other: Datum) -> bool:
    if monitored.owner is not None:
        return (one.outcome, one.metrics) != (other.outcome, other.metrics)
    values = [monitored.of_item(item) for item in (one, other)]
    return one.outcome != other.outcome or values[0] != values[1]


def _error(monitored: Monitored, pairs: Sequence[tuple[Datum, Datum]]) -> float:
    """The standard error of the monitored metric's difference; 0 where nothing differs."""
    if monitored.owner is not None:
        differs = any(_differs(monitored, *pair) for pair in pairs)
        return _of_the_whole(monitored, pairs) if differs else 0.0
    values = [(monitored.of_item(one), monitored.of_item(other)) for one, other in pairs]
    differences = [b - a for a, b in values if a is not None and b is not None]
    # Without a change their mean is 0.
    return math.hypot(*differences) / len(differences) if differences else 0.0


def _of_the_whole(monitored: Monitored, pairs: Sequence[tuple[Datum, Datum]]) -> float:
    had = [pair for pair in pairs if all(map(monitored.has_value, pair))]
    gains = list(swapped_gains(monitored, had, _SWAPS, Random(0)))
    return math.hypot(*gains) / math.sqrt(len(gains)) if gains else 0.0
