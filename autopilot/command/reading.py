"""The results in a command's output: metrics and items.

Numbers are read from, in this order: a JSON object on the last line, `METRIC name=value` lines,
lines that are no more than `name: value` or `name=value`. The first form that has a name counts.
"""

from __future__ import annotations

import json
import math
import re
from collections import ChainMap, Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from autopilot.core.figures import number
from autopilot.core.types import Datum
from autopilot.errors import MetricError, UsageError
from autopilot.text import shorten

_NUMBER = r"[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?)"
# It ends with no space, so that a long run of spaces is looked through once.
_NAME = r"[^\W\d](?:[\w .%/@-]*[\w.%/@-])?"
_METRIC = re.compile(rf"METRIC\s+({_NAME})\s*=\s*(.*)")
_PLAIN = re.compile(rf"(?!METRIC\s)({_NAME})\s*[:=]\s*({_NUMBER})", re.IGNORECASE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_HEADING = re.compile(r"([=_*#~!^-])\1{2,}( .* \1{3,})?")
_HEAD, _TAIL, _LINE = 1000, 3000, 200
_JUNIT_BYTES = 64 << 20
# The keys of an item that are no metrics.
_OF_ITEM = ("id", "success", "feedback", "error", "input", "output", "expected")


@dataclass(frozen=True, slots=True)
class Printed:
    """The results that a command printed.

    Args:
        metrics: Finite numbers by name.
        items: One Datum an item; empty where there are none.
        verdict: Whether the whole succeeded, where the JSON object says it.
        feedback: As the JSON object has it.
        wrong: A line that begins with a name and has no number, by that name.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    items: list[Datum] = field(default_factory=list)
    verdict: bool | None = None
    feedback: str = ""
    wrong: Mapping[str, str] = field(default_factory=dict)


def read_output(text: str, metric: str | None, regex: str = "") -> Printed:
    """Reads what a command printed.

    Args:
        metric: The monitored metric; None where the exit code or the items decide.
        regex: Its only group is the monitored metric's value, and no other form counts for it.

    Raises:
        MetricError: the monitored metric is printed twice in one form, or is no finite number; or
            an item is none.
    """
    lines = list(filter(None, map(str.strip, _COLOUR.sub("", text).splitlines())))
    last = lines[-1] if lines else ""
    printed = _json(last, metric) if last.startswith("{") else Printed()
    forms, wrong = [dict(printed.metrics)], dict(printed.wrong)
    for pattern in (_METRIC, _PLAIN):
        found: dict[str, list[tuple[str, str]]] = {}
        for line in lines:
            if match := pattern.fullmatch(line):
                found.setdefault(match[1], []).append((match[2], line))
        forms.append(_once(found, metric, wrong))
    if regex and metric:
        for form in forms:
            form.pop(metric, None)
        matches = list(re.finditer(regex, _COLOUR.sub("", text), re.MULTILINE))
        found = {metric: [(m[m.re.groups and 1], _line_of(m)) for m in matches]}
        forms.insert(0, _once(found if matches else {}, metric, wrong))
    if metric and not any(metric in form for form in forms) and metric not in wrong:
        begins = re.compile(rf"{re.escape(metric)}\s*[:=]")
        for line in filter(begins.match, lines):
            wrong[metric] = line
    metrics = dict(ChainMap(*forms))
    if metric is not None:
        if metric not in metrics and metric in wrong:
            raise MetricError(f"it printed {shorten(wrong[metric], _LINE)!r}, which is no number")
        if not math.isfinite(metrics.get(metric, 0.0)):
            raise MetricError(f"{metric} is {metrics[metric]}, which is no finite number")
    metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
    return replace(printed, metrics=metrics)


def check_regex(regex: str) -> None:
    """Refuses what is no regular expression.

    Raises:
        UsageError: it says why.
    """
    try:
        re.compile(regex)
    except re.error as error:
        raise UsageError(
            f"--metric-regex {regex!r}: {error}", hint=r"as in 'took ([\d.]+) s'"
        ) from error


def _once(
    found: Mapping[str, list[tuple[str, str]]], metric: str | None, wrong: dict[str, str]
) -> dict[str, float]:
    """The names that one form has once; the monitored one must not come twice."""
    metrics: dict[str, float] = {}
    for name, values in found.items():
        if len(values) > 1:
            # Others may be the lines of a progress report: which of them counts is not known.
            if name == metric:
                first, second = (shorten(line, _LINE) for _, line in values[:2])
                raise MetricError(f"it printed {name} twice: {first!r} and {second!r}")
            continue
        try:
            metrics[name] = float(values[0][0])
        except ValueError:
            wrong[name] = values[0][1]
    return metrics


def _line_of(match: re.Match[str]) -> str:
    start = match.string.rfind("\n", 0, match.start()) + 1
    return match.string[start:].partition("\n")[0].strip()


def _json(line: str, metric: str | None) -> Printed:
    """The results in the JSON object of a line; empty where it is none."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = [value for name, value in pairs if name == metric]
        if len(values) > 1:
            raise MetricError(f"it printed {metric} twice in one object: {values[0]}, {values[1]}")
        return dict(pairs)

    try:
        value = json.loads(line, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return Printed()
    metrics, wrong = _numbers(value, ("items", "success", "feedback"))
    items = value.get("items") if isinstance(value.get("items"), list) else []
    success = value.get("success")
    return Printed(
        metrics,
        _items(items, metric),
        success if isinstance(success, bool) else None,
        str(value.get("feedback") or ""),
        wrong,
    )


def _numbers(
    value: Mapping[str, Any], but: Iterable[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """The numbers of an object, and the texts that stand where a number may be wanted."""
    metrics: dict[str, float] = {}
    wrong: dict[str, str] = {}
    for name, held in value.items():
        if name in but:
            continue
        if isinstance(held, bool | int | float):
            metrics[name] = number(held)
        else:
            wrong[name] = f'"{name}": {json.dumps(held)}'
    return metrics, wrong


def _items(listed: Iterable[object], metric: str | None) -> list[Datum]:
    items: list[Datum] = []
    seen: set[str] = set()
    for place, item in enumerate(listed):
        if not isinstance(item, dict):
            raise MetricError(f"item {place} is {shorten(json.dumps(item), 60)}, not an object")
        name = str(item.get("id", place))
        if name in seen:
            raise MetricError(f"it printed two items with the id {name!r}")
        seen.add(name)
        success = item.get("success")
        if not isinstance(success, bool | None):
            raise MetricError(f"item {name!r} has success={success!r}, not true or false")
        metrics, wrong = _numbers(item, _OF_ITEM)
        if odd := wrong.get("score") or wrong.get(metric or ""):
            raise MetricError(f"item {name!r} has {shorten(odd, 60)}, which is no number")
        error = item.get("error")
        payload = {key: item[key] for key in ("input", "output", "expected") if key in item}
        items.append(
            Datum(
                id=name,
                metrics=metrics,
                success=success,
                error_message=str(error) if error else None,
                feedback=str(item.get("feedback") or "") or _difference(item, success),
                metadata=payload,
            )
        )
    return items


def _difference(item: Mapping[str, Any], success: object) -> str | None:
    """Feedback on an item that has none of its own."""
    if success is not False or "expected" not in item:
        return None
    asked = f"{shorten(json.dumps(item['input']), _LINE)}: " if "input" in item else ""
    wanted, got = (shorten(json.dumps(item.get(key)), _LINE) for key in ("expected", "output"))
    return f"{asked}expected {wanted}, got {got}"


def read_junit(path: Path) -> list[Datum]:
    """The tests of a JUnit file, one Datum each; skipped ones are left out.

    Raises:
        MetricError: it is missing or no such file, or has no test.
    """
    try:
        if path.stat().st_size > _JUNIT_BYTES:
            raise MetricError(f"{path.name} is larger than 64 MiB")
        root = ElementTree.fromstring(path.read_bytes())
    except (OSError, ElementTree.ParseError) as error:
        raise MetricError(f"{path.name} is no JUnit file: {error}") from error
    items: dict[str, Datum] = {}
    counts = Counter[str]()
    for case in root.iter("testcase"):
        if case.find("skipped") is not None:
            continue
        name = ".".join(filter(None, (case.get("classname"), case.get("name")))) or "test"
        counts[name] += 1
        name = f"{name}#{counts[name]}" if counts[name] > 1 else name
        wrong = next((w for w in map(case.find, ("failure", "error")) if w is not None), None)
        said = "" if wrong is None else "\n".join(filter(None, (wrong.get("message"), wrong.text)))
        items[name] = Datum(id=name, success=wrong is None, feedback=cut(said) or None)
    if not items:
        raise MetricError(f"{path.name} has no tests")
    return list(items.values())


def cut(text: str) -> str:
    """A text that is short enough to be feedback: its beginning and its end.

    >>> cut("a" * 5000)[998:1040]
    'aa\\n[... 1000 characters left out ...]\\naaaa'
    """
    text = text.strip()
    left_out = len(text) - _HEAD - _TAIL
    if left_out <= 0:
        return text
    return f"{text[:_HEAD]}\n[... {left_out} characters left out ...]\n{text[-_TAIL:]}"


def last_lines(text: str) -> str:
    """The last three lines of an output, on one line; a sentence where there is none.

    Headings, as `===== summary =====`, are left out where there is anything else.

    >>> last_lines("F\\n=== FAILURES ===\\nFAILED test_a\\n1 failed")
    'F | FAILED test_a | 1 failed'
    """
    lines = [shorten(line, _LINE) for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not _HEADING.fullmatch(line)]
    return " | ".join((told or lines)[-3:]) or "it printed nothing"
