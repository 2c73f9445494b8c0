"""Parts of long texts, for prompts: what feedback points to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_WORD = re.compile(r"\w+")
_LINE = re.compile(r"(?:\bline |:)(\d+)\b")
_AROUND = 2
_TRIED = 100


def show(files: Sequence[tuple[str, str]], feedback: str, room: int) -> str:
    """Files, as far as there is room: whole, in part, or by their names, as far as those fit.

    Args:
        files: Names and contents.
        feedback: What is said of them: what it names comes first.
        room: Characters of content at most, and of names of files without any.

    >>> show([("a.md", "be kind"), ("b.md", "be brief, and be done")], "b.md is wrong", 10)
    '=== a.md\\nbe kind\\n\\n=== b.md (21 characters, not shown: read it with your tools)'
    """
    named = {name for name, _ in files if Path(name).name in feedback}
    left, parts = room, dict[str, str]()
    for name, text in sorted(files, key=lambda pair: pair[0] not in named):
        if len(text) <= left:
            parts[name] = text
        elif name in named:
            parts[name] = excerpt(text, feedback, left // min(len(files), 2))
        left -= len(parts.get(name, ""))
    share = left // max(len(files) - len(parts), 1)
    shown, names, unnamed = list[str](), 0, 0
    for name, text in files:
        part = parts[name] if name in parts else excerpt(text, feedback, share)
        head = _head(name, text, part)
        if part != text and not part:
            names += len(head)
            if names > room and name not in named:
                unnamed += 1
                continue
        shown.append(f"{head}\n{part}" if part or not text else head)
    if unnamed:
        shown.append(f"=== and {unnamed} more, not shown: list them with your tools")
    return "\n\n".join(shown)


def _head(name: str, text: str, part: str) -> str:
    if part == text:
        return f"=== {name}"
    what = "in part" if part else "not shown"
    return f"=== {name} ({len(text)} characters, {what}: read it with your tools)"


def excerpt(text: str, feedback: str, room: int) -> str:
    """The lines that feedback points to, by number or by their rarer words, with those around.

    Args:
        text: A text.
        feedback: What is said of it.
        room: Characters at most.

    Returns:
        Numbered lines in order, "..." where some are left out; "" where feedback points nowhere.

    >>> excerpt("be kind to ada\\nbe kind to bo\\nthe end", "Bo was treated rudely", 60)
    '1\\tbe kind to ada\\n2\\tbe kind to bo\\n3\\tthe end'
    >>> excerpt("be kind to ada\\nbe kind to bo\\nthe end", "Bo was treated rudely", 30)
    '...\\n2\\tbe kind to bo\\n...'
    """
    lines = text.splitlines()
    words = [set(_WORD.findall(line.lower())) for line in lines]
    often = Counter(word for line in words for word in line)
    asked = set(_WORD.findall(feedback.lower()))
    weights = [sum(1 / often[word] for word in line & asked) for line in words]
    for number in map(int, _LINE.findall(feedback)):
        if 1 <= number <= len(lines):
            weights[number - 1] += len(lines)
    ranked = sorted(range(len(lines)), key=lambda n: (-weights[n], n))
    chosen: set[int] = set()
    for place in [n for n in ranked[:_TRIED] if weights[n] > 0]:
        around = range(max(place - _AROUND, 0), min(place + _AROUND + 1, len(lines)))
        for wanted in ({place}, set(around)):
            if len(_numbered(lines, chosen | wanted)) <= room:
                chosen |= wanted
    return _numbered(lines, chosen)


def _numbered(lines: list[str], chosen: set[int]) -> str:
    shown, before = [], -1
    for place in sorted(chosen):
        if place > before + 1:
            shown.append("...")
        shown.append(f"{place + 1}\t{lines[place]}")
        before = place
    if shown and before < len(lines) - 1:
        shown.append("...")
    return "\n".join(shown)
