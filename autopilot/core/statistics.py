"""Tests on paired items: whether an epoch beats the best by more than chance would.

If a change changes nothing, it is a coin's toss which of an item's two scores is the new one. The
p-value is the share of tosses that do as well as this epoch, for scores of any distribution.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import getitem
from random import Random
from statistics import NormalDist

from autopilot.core.comparison import EpochView, Monitored, keyed, paired
from autopilot.core.figures import gained
from autopilot.core.types import Datum, Gain
from autopilot.text import some

Pairs = Sequence[tuple[Datum, Datum]]

_SUBSETS = 20_000
# Each computes a metric of the whole split twice.
_RESAMPLES = 400
# With fewer, no interval is sure at 95%.
_FEWEST = 6


@dataclass(frozen=True, slots=True)
class Pairing:
    """The val items of an epoch beside those of the best one.

    Args:
        differences: By how much each item is better than it was; positive in either mode.
        measure: The quantity compared: the monitored metric, or "success".
        problem: Why nothing could be compared; empty when it could.
    """

    differences: tuple[float, ...] = ()
    measure: str = ""
    problem: str = ""

    @property
    def wins(self) -> int:
        """Items that got better."""
        return sum(difference > 0 for difference in self.differences)

    @property
    def losses(self) -> int:
        """Items that got worse."""
        return sum(difference < 0 for difference in self.differences)


def pair(view: EpochView) -> Pairing:
    """Matches the epoch's val items with the best epoch's by id, and compares their values.

    An item's value is its accuracy, its `metrics[monitor]`, or, where the monitored metric is of
    the whole split, whether it passed; then more is better in either mode. Only items that have a
    value in both count; an item that lost its value is a problem. Items that share an id are
    matched in their order.
    """
    if not view.items:
        return Pairing(problem=f"epoch {view.epoch} recorded no val items to compare")
    if not view.best_items:
        return Pairing(problem="the best epoch recorded no val items to compare with")
    now, before = keyed(view.items), keyed(view.best_items)
    if unmatched := [item_id for item_id, _ in sorted(now.keys() ^ before.keys())]:
        many = f"{len(unmatched)} val items were not measured in both epochs"
        return Pairing(problem=f"{many}: {some(unmatched)}")
    measure, monitored = view.monitor, Monitored(view.monitor)
    answered = (item for item in (*now.values(), *before.values()) if item.outcome != "error")
    if not any(measure in item.metrics for item in answered):
        measure, monitored = "success", Monitored("accuracy")
    mode = "max" if measure == "success" else view.mode
    values = [(monitored.of_item(before[key]), monitored.of_item(now[key]), key[0]) for key in now]
    lost = [name for old, new, name in values if old is not None and new is None]
    gains = [gained(a, b, mode) for a, b, _ in values if a is not None and b is not None]
    if lost:
        return Pairing(problem=f"{len(lost)} val items have no {measure} any more: {some(lost)}")
    if not gains:
        return Pairing(problem=f"no val item has a {measure} in both epochs")
    if not all(map(math.isfinite, gains)):
        return Pairing(problem=f"a val item's {measure} is not a finite number")
    return Pairing(tuple(gains), measure)


def sign_test(wins: int, losses: int) -> float:
    """The exact one-sided p-value of `wins` against `losses`; 1 when there is neither.

    The chance that a fair coin, tossed once for every item that changed, shows at least that many
    wins. Items that stayed the same say nothing and are left out.

    >>> sign_test(5, 0), sign_test(4, 1)
    (0.03125, 0.1875)
    """
    tosses = wins + losses
    ways = tail = math.comb(tosses, wins)
    for heads in range(wins, tosses):
        ways = ways * (tosses - heads) // (heads + 1)
        tail += ways
    return tail / (1 << tosses)


def bootstrap_test(differences: Sequence[float], repeats: int, random: Random) -> float:
    """The one-sided p-value of the mean difference.

    A wild bootstrap: each repeat turns the signs of a random half of the differences, as if the
    change did nothing, and compares the mean with the real one. (Signs as weights: Liu, "Bootstrap
    procedures under some non-i.i.d. models", 1988; as an exact test: Fisher, "The Design of
    Experiments", 1935.) Drawing items with replacement instead finds three wins among 200 unchanged
    items significant; this does not.

    With few differences every combination of signs is tried. With more they are drawn, and the real
    one counts as a draw, so that the p-value is never 0 and holds for any number of repeats.

    Args:
        differences: One an item; positive is better.
        repeats: The number of sign patterns drawn. The work is repeats times items.

    >>> bootstrap_test([0.2, 0.4, 0.1, 0.3, 0.2], 1000, Random(0))
    0.03125
    """
    changed = [difference for difference in differences if difference]
    # The turned mean is at least the real one exactly when the turned part adds up to nothing
    # better than zero. Rounding errors are counted against the change.
    margin = 1e-9 * sum(map(abs, changed))
    if 2 ** len(changed) <= repeats:
        sums = _subset_sums(changed)
        return sum(not total > margin for total in sums) / len(sums)
    # Eight signs a time: one random byte looks up the sum of the differences it turns.
    changed += [0.0] * (-len(changed) % 8)
    tables = [_subset_sums(changed[at : at + 8]) for at in range(0, len(changed), 8)]
    hits = 0
    for _ in range(repeats):
        turned = random.randbytes(len(tables))
        hits += not sum(map(getitem, tables, turned)) > margin
    return (1 + hits) / (1 + repeats)


def swapped_gains(
    monitored: Monitored, pairs: Pairs, repeats: int, random: Random
) -> Iterator[float]:
    """Gains of a metric of the whole split by chance alone: each draw swaps some items' results.

    The metric is computed anew over the swapped items. (A permutation test: Fisher, as above.)

    Yields:
        The second state's value less the first one's, a draw each; nothing where the metric cannot
        be computed from the items.
    """
    for _ in range(repeats):
        bits = random.getrandbits(len(pairs)) if pairs else 0
        swaps = [pair[::-1] if bits >> at & 1 else pair for at, pair in enumerate(pairs)]
        gain = _gain_over(monitored, swaps)
        if gain is None:
            return
        yield gain


def _gain_over(monitored: Monitored, pairs: Pairs) -> float | None:
    first, second = (monitored.over([pair[side] for pair in pairs]) for side in (0, 1))
    return None if first is None or second is None else second - first


def subset_interval(
    differences: Sequence[float], confidence: float, repeats: int, random: Random
) -> tuple[float, float]:
    """A confidence interval of the mean difference, for any distribution that is symmetric.

    It holds the changes that the bootstrap test would not reject. Its ends are means of random
    subsets: the true mean is as likely to be between any two neighbours of them. (Hartigan, "Using
    subsample values as typical values", 1969.) The lower end is above 0 exactly when the test
    rejects at half of 1 - confidence.

    Args:
        differences: One an item; positive is better.
        confidence: Between 0 and 1.
        repeats: The number of subsets drawn; with few differences each is taken once.

    Returns:
        Its ends; infinite where there are too few items for the confidence: 95% takes six.

    >>> low, high = subset_interval([0.2, 0.4, 0.1, 0.3, 0.2, 0.2], 0.95, 1000, Random(0))
    >>> round(low, 3), round(high, 3)
    (0.1, 0.4)
    """
    count, means = len(differences), list[float]()
    if 2**count <= repeats:
        sums = _subset_sums(differences)
        means = [sums[bits] / bits.bit_count() for bits in range(1, len(sums))]
    else:
        values = list(differences) + [0.0] * (-count % 8)
        tables = [_subset_sums(values[at : at + 8]) for at in range(0, count, 8)]
        # The zeros that fill up the last eight are in no subset.
        masks = [(1 << min(8, count - at)) - 1 for at in range(0, count, 8)]
        while len(means) < repeats:
            drawn = [b & m for b, m in zip(random.randbytes(len(tables)), masks, strict=True)]
            size = sum(bits.bit_count() for bits in drawn)
            if size:
                means.append(sum(map(getitem, tables, drawn)) / size)
    return _ends(means, confidence)


def resampled_interval(
    monitored: Monitored, pairs: Pairs, confidence: float, repeats: int, random: Random
) -> tuple[float, float]:
    """A confidence interval of the gain of a metric of the whole split.

    The metric is computed anew over items drawn with replacement, the same ones in both states.
    (The bootstrap's percentiles: Efron, "Bootstrap methods: another look at the jackknife", 1979.)

    Args:
        pairs: Each item's results in both states.
        confidence: Between 0 and 1.

    Returns:
        Its ends, of the second state's value less the first one's; infinite where there are too
        few items, or the metric cannot be computed from them.
    """
    gains: list[float] = []
    for _ in range(repeats if len(pairs) >= _FEWEST else 0):
        gain = _gain_over(monitored, random.choices(pairs, k=len(pairs)))
        if gain is None:
            break
        if math.isfinite(gain):
            gains.append(gain)
    return _ends(gains if len(gains) == repeats else [], confidence)


def _ends(values: list[float], confidence: float) -> tuple[float, float]:
    """The interval that leaves out as many values on each side; infinite where they are too few."""
    outside = int((1 - confidence) / 2 * (len(values) + 1) + 1e-9)
    values.sort()
    return (values[outside - 1], values[-outside]) if outside else (-math.inf, math.inf)


def gain_of(view: EpochView, split: str, seed: int) -> Gain:
    """A state's gain on another one on a split, with an interval where one is known.

    Args:
        view: The state; `baseline` and `best_items` are of the other one.
        seed: Of the random subsets.
    """
    before, after = (m.get(split, {}).get(view.monitor) for m in (view.baseline, view.metrics))
    gain, found, pairs = Gain(before, after), view.comparison, pair(view)
    if found is not None and (found.lost or found.fresh):
        if found.value is None or found.other is None:
            return Gain(None, after)
        gain = Gain(found.other, found.value, items=found.shared)
    if view.monitored is not None and view.monitored.owner is not None:
        both = paired(view.monitored, view.items, view.best_items)
        ends = resampled_interval(view.monitored, both, 0.95, _RESAMPLES, Random(seed))
        low, high = sorted(gained(0.0, end, view.mode) for end in ends)
    # Without the metric, the items alone say nothing about the size of its gain.
    elif pairs.problem or (pairs.measure != view.monitor and view.monitor != "accuracy"):
        return gain
    else:
        low, high = subset_interval(pairs.differences, 0.95, _SUBSETS, Random(seed))
    return replace(gain, low=low, high=high) if math.isfinite(low) else gain


def sure_size(limit: float, items: int) -> float:
    """The gain, in standard errors, that reaches a p-value of `limit` in 80 of 100 tries.

    It is z(1 - limit) + z(0.8), the usual sample size formula solved for the effect. Few items take
    more: both quantiles are those of Student's t, in its first terms; where each item has to gain,
    it is at least what that takes.

    >>> [round(sure_size(0.035, items), 2) for items in (5, 8, 1000)]
    [3.82, 3.05, 2.66]
    """
    quantile, freedom = NormalDist().inv_cdf, max(items - 1, 1)
    z, all_gain = quantile(1 - limit), 0.0
    if items < 1 - math.log2(limit):
        all_gain = math.sqrt(items) * quantile(0.8 ** (1 / items))
    t = z + (z**3 + z) / (4 * freedom)
    return max(t + quantile(0.8) * math.sqrt(1 + t * t / (2 * freedom)), all_gain)


def _subset_sums(values: Sequence[float]) -> array[float]:
    """The sum of each subset; the bits of an index say which values are in it."""
    sums = array("d", [0.0])
    for value in values:
        sums.extend([total + value for total in sums])
    return sums
