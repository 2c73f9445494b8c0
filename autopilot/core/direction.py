"""Directions: whether more of a metric is better, and so which of two values is.

A direction is stated, never guessed. No other file compares a mode to know a sign.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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


def direction_words(mode: str) -> str:
    """A direction as a reader's words."""
    return "lower is better" if mode == "min" else "higher is better"


def check_mode(mode: str | None, where: str) -> str | None:
    """A direction as the user gives it.

    Raises:
        UsageError: it is neither "max" nor "min".
    """
    if mode not in ("max", "min", None):
        raise UsageError(f"{where} is {mode!r}", hint='set mode = "max" or mode = "min"')
    return mode


def direction_of(
    monitor: str, asked: str | None, own: str | None, metrics: Mapping[str, str]
) -> str:
    """The direction of a metric.

    Args:
        monitor: The metric's name.
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
