"""What continuous integration reads of a check: JUnit's XML, and GitHub's annotations."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from autopilot.errors import UsageError

# What XML 1.0 cannot hold.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that was checked.

    Args:
        name: What.
        failures: A sentence for each way in which it failed; none: it passed.
        seconds: How long it took.
    """

    name: str
    failures: Sequence[str] = ()
    seconds: float = 0.0


def write_junit(path: Path, suite: str, cases: Sequence[Case]) -> None:
    """Writes a file in JUnit's form.

    Raises:
        UsageError: it cannot be written.
    """
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}", hint="name a file in a folder of yours"
        ) from error


def on_github() -> bool:
    """Whether this runs in one of GitHub's jobs."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotation(level: str, title: str, text: str) -> str:
    """A line that GitHub shows at the job.

    Args:
        level: "error" or "notice".
        title: Its title.
        text: What is said; line breaks are kept.

    >>> annotation("error", "epoch 3: val f1", "0.7 before, 0.6 now")
    '::error title=epoch 3%3A val f1::0.7 before, 0.6 now'
    """
    head = _escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={head}::{_escaped(text)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
