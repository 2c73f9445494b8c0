"""A scripted agent that learns from the prompt alone: prompt and rules to new rules.

The rules are lines "word: label"; the first whose word is in a text labels it. The brain takes the
first word of each failing item's input for its expected label, and puts these rules first. Where
the prompt shows that it tried so, and which items that broke, it puts them after the rules of those
items' labels, which their ids begin with. As a program it reads the prompt from stdin.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FAILING, FAILED = "Items that fail", "What was tried and taken back"
_ITEM = re.compile(r"input: (\w+) [^\n]*\n(?:.*\n)*?\s*expected: (\w+)")


def section(prompt: str, title: str) -> str:
    """A section of the prompt, "" where it has none."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", prompt, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def think(prompt: str, rules: str) -> str:
    """The rules as they are to be."""
    failing, failed = section(prompt, FAILING), section(prompt, FAILED)
    learned = dict(_ITEM.findall(failing))
    new = [f"{word}: {label}" for word, label in learned.items()]
    lines = rules.splitlines()
    tried = re.findall(r"^\s*\+(\w+: \w+)$", failed, re.MULTILINE)
    broken = {name.partition("-")[0] for name in re.findall(r"\b\w+-\d+\b", _broken(failed))}
    at = 0
    if tried:
        new = tried
        at = max(
            (n + 1 for n, line in enumerate(lines) if line.split(": ")[-1] in broken), default=0
        )
    return "\n".join([*lines[:at], *new, *lines[at:], ""])


def _broken(failed: str) -> str:
    return "\n".join(line for line in failed.splitlines() if line.strip().startswith("broke "))


if __name__ == "__main__":
    place = Path("rules.txt")
    place.write_text(think(sys.stdin.read(), place.read_text()))
    print("order the rules")
