"""Parts of a long text: what feedback points to."""

from __future__ import annotations

import re
from collections import Counter

_WORD = re.compile(r"\w+")
_LINE = re.compile(r"(?:\bline |:)(\d+)\b")
_AROUND = 2
_TRIED = 100


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
