"""The result of a replay: a table of differences, JSON, JUnit's XML and GitHub's annotations."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from autopilot.cli.output import Output
from autopilot.errors import UsageError, translated_as
from autopilot.report.comparison import picked
from autopilot.text import align

if TYPE_CHECKING:
    from autopilot.proof.replay import EpochReplay, Replay
    from autopilot.tracking.integrity import Difference

# The characters that XML 1.0 cannot hold.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that was checked.

    Args:
        failures: A sentence for each way in which it failed; none: it passed.
    """

    name: str
    failures: Sequence[str] = ()
    seconds: float = 0.0


def write_junit(path: Path, suite: str, cases: Sequence[Case]) -> None:
    """Writes a file in JUnit's form."""
    root = ElementTree.Element(
        "testsuite",
        name=suite,
        tests=str(len(cases)),
        failures=str(sum(bool(case.failures) for case in cases)),
        errors="0",
        time=f"{sum(case.seconds for case in cases):.3f}",
    )
    for case in cases:
        attributes = {"classname": suite, "name": case.name, "time": f"{case.seconds:.3f}"}
        node = ElementTree.SubElement(root, "testcase", attributes)
        if case.failures:
            first, text = _clean(case.failures[0]), _clean("\n".join(case.failures))
            ElementTree.SubElement(node, "failure", message=first).text = text
    ElementTree.indent(root)
    with translated_as(UsageError, f"cannot write {path}", "name a file in a folder of yours"):
        path.parent.mkdir(parents=True, exist_ok=True)
        ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def on_github() -> bool:
    """Whether this runs in one of GitHub's jobs."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotation(level: str, title: str, text: str) -> str:
    """A line that GitHub shows at the job.

    Args:
        level: "error" or "notice".

    >>> annotation("error", "epoch 3: val f1", "0.7 before, 0.6 now")
    '::error title=epoch 3%3A val f1::0.7 before, 0.6 now'
    """
    head = _escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={head}::{_escaped(text)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def table(output: Output, differences: Sequence[Difference]) -> None:
    """Prints the differences: epoch, what, recorded and replayed value, and why."""
    rows = [
        [
            *("-" if each.epoch is None else str(each.epoch), each.what),
            *(_value(each.recorded), _value(each.found)),
        ]
        for each in differences
    ]
    lines = align(["epoch", "what", "recorded", "replayed"], rows, ["epoch"])
    output.line(lines[0], "bold")
    previous = ""
    for each, line in zip(differences, lines[1:], strict=True):
        output.line(line, "red")
        if each.why and each.why != previous:
            output.line(f"       {each.why}")
        previous = each.why


def incomparable(judged: Sequence[EpochReplay]) -> list[str]:
    """The metrics that changed without counting as differences, since they are noisy."""
    epochs: dict[str, list[str]] = {}
    for epoch in judged:
        for each in epoch.incomparable:
            epochs.setdefault(each.what, []).append(str(each.epoch))
    if not epochs:
        return []
    lines = [f"not comparable: {what} in epoch {', '.join(n)}" for what, n in epochs.items()]
    metric = next(iter(epochs)).partition(" ")[2]
    return [*lines, f"       no seed repeats it; compare a metric: --tolerance {metric}=0.2"]


def environment(replay: Replay, found: Sequence[Difference]) -> list[str]:
    """A line with the differences from the environment of the epochs that differ."""
    from autopilot.core.records.history import environment_at
    from autopilot.sandbox.environment import differing

    epochs = dict.fromkeys(each.epoch for each in found if each.epoch is not None)
    differs = differing(*(environment_at(replay.notebook.events, epoch) for epoch in epochs))
    return [differs] if differs else []


def next_lines(replay: Replay, differences: Sequence[Difference]) -> list[str]:
    """The commands to go on with."""
    slug = replay.notebook.slug
    if not differences:
        return [f"read it:   autopilot log {slug}"]
    lines = []
    if any(each.found == "missing" for each in differences):
        lines.append(f"is it all here?  autopilot fetch origin {slug}, then again")
    command = f"git log --notes='autopilot/*' {replay.notebook.tip[:10]}"
    for each in differences:
        if each.epoch is not None and each.epoch in replay.judged:
            command = f"autopilot show {each.epoch} -e {slug}"
            break
    return [*lines, f"look at it:      {command}"]


def cases(
    replay: Replay, branch: Sequence[Difference], judged: Sequence[EpochReplay]
) -> list[Case]:
    """A case for branch, tags and notes, and one for each epoch that was evaluated."""
    whole = Case("branch, tags and notes", [f"{_about(each)}{sentence(each)}" for each in branch])
    return [whole] + [
        Case(
            f"epoch {e.number} {e.split}",
            [*map(sentence, e.differences), *environment(replay, e.differences)],
            e.seconds,
        )
        for e in judged
    ]


def document(
    replay: Replay, differences: Sequence[Difference], judged: Sequence[EpochReplay], seconds: float
) -> dict[str, Any]:
    """A replay as JSON."""
    settings = replay.settings
    return {
        "experiment": replay.notebook.slug,
        "tip": replay.notebook.tip,
        "level": replay.level,
        "tolerance": settings.tolerance,
        "tolerances": settings.shares,
        "live": settings.live,
        "same": not differences,
        "epochs": [
            {
                "epoch": epoch.number,
                **picked(epoch, "split verdict commit recorded replayed seconds"),
                "same": not epoch.differences,
                "not_comparable": [each.what for each in epoch.incomparable],
            }
            for epoch in judged
        ],
        "differences": differences,
        "environment": environment(replay, differences),
        "outputs": replay.outputs,
        "seconds": seconds,
    }


def title(slug: str, each: Difference) -> str:
    """A difference in a few words."""
    return f"{slug}, {_about(each)}{each.what}"


def _about(each: Difference) -> str:
    return "" if each.epoch is None else f"epoch {each.epoch}: "


def sentence(each: Difference) -> str:
    """A difference in one line."""
    values = f"{each.what}: recorded {_value(each.recorded)}, replayed {_value(each.found)}"
    return f"{values} ({each.why})" if each.why else values


def _value(value: float | str | None) -> str:
    """Enough digits to tell two values apart."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.12g}"
