"""Numbers of the user become floats here; metrics, directions, changes and costs become text."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping

from autopilot.core.types import Cost, Gain, Outcome
from autopilot.errors import UsageError

# Names of costs. A metric named so needs a stated direction; no direction follows from a name.
_COSTS = re.compile(
    r"brier|bug|bugs|byte|bytes|calibration|cer|churn|cost|costs|crossentropy|"
    r"cycles|defects|delay|deviation|divergence|dollar|dollars|drift|duration|"
    r"elapsed|err|error|errors|failure|failures|fee|fees|fnr|fpr|hallucination|"
    r"hallucinations|instructions|jitter|kb|kib|lag|latencies|latency|leak|leaks|"
    r"logloss|loss|losses|lost|mae|mape|mb|mem|memory|mib|microseconds|"
    r"milliseconds|minutes|mismatches|misrate|miss|misses|mistakes|ms|mse|msec|"
    r"nll|ns|overhead|p50|p90|p95|p99|penalty|perplexity|ppl|price|regret|"
    r"rejections|residual|retries|rmse|rss|runtime|sec|second|seconds|secs|size|"
    r"slowness|stalls|time|timeouts|times|timing|tokens|toxicity|ttft|us|usd|"
    r"violations|wait|waits|walltime|warnings|waste|wer"
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+\d*|\d+")


def sounds_like_cost(name: str) -> bool:
    """Whether a metric's name is one of which less is usually better.

    >>> sounds_like_cost("val_loss"), sounds_like_cost("p95LatencyMs"), sounds_like_cost("f1")
    (True, True, False)
    """
    return any(_COSTS.fullmatch(word.lower()) for word in _WORDS.findall(name))


def gained(before: float, after: float, mode: str) -> float:
    """By how much a value is better than another one; positive is better in either direction.

    >>> gained(2.0, 1.5, "min"), gained(2.0, 1.5, "max")
    (0.5, -0.5)
    """
    return before - after if mode == "min" else after - before


def better_by(value: float, gain: float, mode: str) -> float:
    """The value that is better than another one by a gain; worse where the gain is negative.

    >>> better_by(2.0, 0.5, "min"), better_by(2.0, 0.5, "max")
    (1.5, 2.5)
    """
    return value - gain if mode == "min" else value + gain


def wish(name: str, mode: str) -> str:
    """The request to improve a metric, in words.

    >>> wish("seconds", "min")
    'lower seconds'
    """
    return f"{'lower' if mode == 'min' else 'raise'} {name}"


def setting(value: object) -> str:
    """A number or a choice of a parameter as text; "-" for None, where its condition is not met.

    >>> setting(0.30000000000000004), setting(True), setting(None), setting("lru")
    ('0.3', 'true', '-', 'lru')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def changed_settings(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """The numbers and choices that two states differ in, as text; without a state before, all.

    >>> changed_settings({"size": 16, "kind": "lru"}, {"size": 64, "kind": "lru", "ways": 2})
    'size 16 -> 64, ways 2'
    >>> changed_settings({}, {"size": 16, "kind": "lru"})
    'size 16, kind lru'
    """
    return ", ".join(
        f"{name} {setting(before[name])} -> {setting(value)}"
        if name in before
        else f"{name} {setting(value)}"
        for name, value in after.items()
        if name not in before or before[name] != value
    )


def direction_words(mode: str) -> str:
    """A direction as a reader's words."""
    return "lower is better" if mode == "min" else "higher is better"


def check_mode(mode: str | None, where: str) -> str | None:
    """A direction as the user gives it; raises a UsageError if it is neither "max" nor "min"."""
    if mode not in ("max", "min", None):
        raise UsageError(f"{where} is {mode!r}", hint='set mode = "max" or mode = "min"')
    return mode


def direction_of(
    monitor: str, asked: str | None, own: str | None, metrics: Mapping[str, str]
) -> str:
    """The direction of a metric.

    Args:
        asked: The mode given on the command line or to the Trainer; it counts before all else.
        own: The module's `mode`.
        metrics: Name to direction, of the metrics that state one.

    Returns:
        "max" or "min".

    Raises:
        UsageError: module and metric contradict each other, or the name sounds like a cost and
            nothing states a direction.
    """
    asked = check_mode(asked, "the mode")
    own = check_mode(own, "the module's mode")
    stated = metrics.get(monitor)
    if asked is not None:
        return asked
    if own is not None and stated is not None and own != stated:
        raise UsageError(
            f"the module's mode is {own!r}, and its metric {monitor!r} says "
            f"{direction_words(stated)}",
            hint="leave mode out, or change higher_is_better of the metric",
        )
    if own or stated:
        return own or stated or "max"
    if sounds_like_cost(monitor):
        raise UsageError(
            f"it is not stated whether a higher or a lower {monitor!r} is better",
            hint='add mode = "min" (or mode = "max") to the module, or give --mode min',
        )
    return "max"


def plain_name(metric: str) -> str:
    """A val metric's name as a user gives it, without its split.

    >>> plain_name("val_f1"), plain_name("f1")
    ('f1', 'f1')
    """
    return metric.removeprefix("val_").removeprefix("val/").removeprefix("val ")


# With that many more digits, two equal texts differ by the noise of binary fractions only.
_MORE_DIGITS = 12
_NOISE = 1e-12
_SMALL = 0.1


def figure(value: float | None) -> str:
    """A metric's value: three decimals, none from 10,000 on, three digits below 0.1.

    >>> figure(0.5833), figure(0.001243), figure(1e-07), figure(12345.6), figure(None)
    ('0.583', '0.00124', '1e-07', '12346', '-')
    """
    return _text(value, 0)


def figures(*values: float | None) -> tuple[str, ...]:
    """Values that are read side by side, with as many digits as it takes to differ.

    >>> figures(0.00012, 0.00013), figures(1234567.891, 1234567.892, None)
    (('0.00012', '0.00013'), ('1234567.891', '1234567.892', '-'))
    >>> figures(0.05941, 0.0583), figures(0.5833, 0.5917)
    (('0.0594', '0.0583'), ('0.583', '0.592'))
    """
    distinct = sorted({v for v in values if v is not None and math.isfinite(v)})
    for more in range(_MORE_DIGITS):
        if len({_text(value, more) for value in distinct}) == len(distinct):
            return tuple(_text(value, more) for value in values)
    return tuple(map(figure, values))


def signed(change: float | None, of: float | None = None) -> str:
    """A change with its sign; "" where it is None or NaN.

    Args:
        change: The change; noise of binary fractions counts as none.
        of: The value that changed, which scales the noise; 1 unless given.

    >>> signed(0.134), signed(-0.00001), signed(None), signed(0.7 - 0.5 - 0.2)
    ('+0.134', '-1e-05', '', '+0.000')
    >>> signed(-0.00116, of=0.0594)
    '-0.00116'
    """
    if change is None or math.isnan(change):
        return ""
    # Of a value near zero, a change is as small as the value.
    scale = 1.0 if of is None else max(abs(of), abs(change))
    shown = 0.0 if abs(change) < _NOISE * scale else change
    text = _text(shown, 0, small=of is not None and abs(of) < _SMALL)
    return text if shown < 0 else f"+{text}"


def lower_note(mode: str) -> str:
    """The note behind a metric's name or values where lower is better; else nothing.

    >>> lower_note("min"), lower_note("max")
    (' (lower is better)', '')
    """
    return f" ({direction_words(mode)})" if mode == "min" else ""


def progressed(name: str, before: float | None, after: float | None, mode: str) -> str:
    """A val metric's way from one value to another, and its direction where fewer is better.

    >>> progressed("accuracy", 0.5, 0.7, "max"), progressed("wer", 0.5, None, "min")
    ('val accuracy 0.500 -> 0.700', 'val wer 0.500 (lower is better)')
    """
    values = figures(before) if after is None else figures(before, after)
    return f"val {name} {' -> '.join(values)}{lower_note(mode)}"


def outcomes(counts: Mapping[Outcome, int]) -> str:
    """The number of items by outcome, in words; zeros are left out.

    >>> outcomes({"passed": 3, "failed": 0, "unmeasured": 1})
    '3 passed, 1 unmeasured'
    """
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)


def costs(cost: Cost) -> str:
    """A cost in words."""
    parts = [f"{cost.evaluations:,} evaluations" if cost.evaluations != 1 else "1 evaluation"]
    if cost.known:
        parts.append(f"{cost.known:,} known")
    if cost.saved:
        parts.append(f"{cost.saved:,} not measured")
    if cost.tokens:
        parts.append(f"{cost.tokens:,} tokens")
    if cost.cost_usd:
        parts.append(f"${cost.cost_usd:.2f}" if cost.cost_usd >= 0.01 else f"${cost.cost_usd:.2g}")
    return ", ".join([*parts, f"{cost.seconds:.1f} s" if cost.seconds >= 0.05 else "under 0.1 s"])


def test_gain(gain: Gain | None) -> str:
    """The gain on the test split, in words; "" where it was not scored.

    >>> from autopilot.core.types import Gain
    >>> test_gain(Gain(0.44, 0.836, 0.3, 0.49))
    'test 0.440 -> 0.836 (95% interval of the gain 0.300 .. 0.490)'
    >>> test_gain(Gain(0.44, 0.836, items=7))
    'test 0.440 -> 0.836 over the 7 items that have a value in both'
    """
    if gain is None or gain.after is None:
        return ""
    if gain.before is None:
        return f"test {figure(gain.after)}"
    text = f"test {' -> '.join(figures(gain.before, gain.after))}"
    if gain.items is not None:
        text += f" over the {gain.items} items that have a value in both"
    if gain.low is None:
        return text
    return f"{text} (95% interval of the gain {' .. '.join(figures(gain.low, gain.high))})"


def _text(value: float | None, more: int, *, small: bool = True) -> str:
    if value is None:
        return "-"
    size = abs(value)
    if not math.isfinite(value):
        return str(value)
    if not value:
        return "0.000"
    if size < 0.001 or size >= 1e15:
        return f"{value:.{3 + more}g}"
    if small and size < _SMALL:
        # Three significant digits, and three decimals at least: 0.00583, but 0.050.
        text = f"{value:.{2 - math.floor(math.log10(size)) + more}f}"
        whole, _, decimals = text.partition(".")
        return f"{whole}.{decimals[:3]}{decimals[3:].rstrip('0')}"
    return f"{value:.{(0 if size >= 10_000 else 3) + more}f}"


def number(value: object) -> float:
    """A number of the user's as a float: numpy scalars, Decimal, Fraction, bool, one-item tensors.

    NaN and infinity pass: the caller decides about them.

    Raises:
        ValueError: it is no number; the message says so, as in "None, not a number".

    >>> from decimal import Decimal
    >>> number(Decimal("0.5")), number(True)
    (0.5, 1.0)
    >>> number("0.5")
    Traceback (most recent call last):
    ValueError: the text '0.5', not a number
    """
    if type(value) is float:
        return value
    if isinstance(value, str | bytes | bytearray):
        raise ValueError(f"the text {value[:40]!r}, not a number")
    convert = getattr(value, "__float__", None)
    # A type that is given instead of its instance has the method too.
    is_complex = isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real)
    if convert is None or isinstance(value, type) or is_complex:
        kind = "None" if value is None else f"a {type(value).__name__}"
        raise ValueError(f"{kind}, not a number")
    try:
        return float(convert())
    except OverflowError:
        return math.copysign(math.inf, 1 if value > 0 else -1)  # type: ignore[operator]  # an int
    except (TypeError, ValueError) as error:
        raise ValueError(f"a {type(value).__name__} that is not one number: {error}") from error


def bound(value: object, what: str) -> float:
    """A number of a setting, such as a limit, that values are compared with.

    Raises:
        UsageError: it is no number, or NaN: nothing is above or below it.

    >>> from fractions import Fraction
    >>> bound(Fraction(1, 2), "a gate's limit")
    0.5
    """
    try:
        found = number(value)
        if math.isnan(found):
            raise ValueError("NaN")
    except ValueError as error:
        raise UsageError(f"{what} is {error}", hint="give a number") from error
    return found


def truth(value: object) -> bool | None:
    """A `success` of the user's: a bool, a numpy bool, or None where nothing is said.

    Raises:
        ValueError: it is something else, such as a score or a word.

    >>> truth(None), truth(True)
    (None, True)
    """
    if value is None or isinstance(value, bool):
        return value
    if type(value).__name__ in ("bool_", "bool") and type(value).__module__ == "numpy":
        return bool(value)
    raise ValueError(f"{value!r:.60}, neither True, False nor None")
