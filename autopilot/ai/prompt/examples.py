"""Items for a prompt: grouped by cause, the worst and most typical first, within a limit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace

from autopilot.ai.prompt.prompting import fence
from autopilot.core.gradient import Finding, Gradient, TextGradient
from autopilot.text import counted, cut_middle, some

_WORD = re.compile(r"\w{2,}")
# Where two texts of one cause differ: values in quotes, numbers, and long words of digits.
_VALUE = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|`[^`\n]*`|\b[\w.-]*\d[\w.-]*")
DIGEST = re.compile(r"[0-9a-f]{12}")
_ITEM, _SMALLEST, _OF_A_GROUP, _ALL = 1200, 240, 5, 24
_EVIDENCE, _IDS, _OFTEN, _ALIKE = 5, 8, 3, 2


@dataclass(slots=True)
class Cause:
    """Findings that say the same, but for values.

    Args:
        parameters: The parameters that they are for; empty where they are for all.
        text: The feedback that they share.
    """

    attribution: str
    text: str
    parameters: tuple[str, ...]
    findings: list[Finding] = field(default_factory=list)

    @property
    def weight(self) -> float:
        """How much it costs: the severities of all."""
        return sum(finding.severity for finding in self.findings)

    def head(self, passed: Set[str]) -> str:
        """The cause with how often it occurs, and how many of its items pass all the same."""
        about = f"{self.attribution}: " if self.attribution else ""
        count, worst = len(self.findings), max(f.severity for f in self.findings)
        facts = [counted(count, "item")] if self.findings[0].item or count > 1 else []
        good = sum(finding.item in passed for finding in self.findings)
        facts += [f"{good} of them pass"] if good else []
        facts += [f"severity {self.weight / count:.2f}"] if worst < 1 else []
        facts += [f"feedback for {', '.join(self.parameters)}"] if self.parameters else []
        # Below the title, further lines are indented: a line of feedback may look like a title.
        title, *more = f"{about}{self.text}".strip().splitlines() or [""]
        counts = f" ({'; '.join(facts)})" if facts else ""
        return "\n    ".join([f"### {title}{counts}", *more])


def as_examples(
    feedback: Sequence[tuple[str, Gradient]],
    others: Sequence[Finding],
    room: int,
    passed: Set[str] = frozenset(),
) -> str:
    """The section on items that fail: each cause once, with some of its items.

    Args:
        feedback: Parameter name to gradient; what goes to several of them stands once.
        others: Findings of items that no gradient is about.
        room: The largest number of characters.
        passed: The ids of items that pass: feedback on them says how they could be better.
    """
    texts, causes = _causes(feedback, others)
    frame = len(fence("failing", ""))
    left = room - frame
    if left <= 0 or not (texts or causes):
        return ""
    body = "\n\n".join(texts)
    if len(body) > (left // 2 if causes else left):
        body = cut_middle(body, left // 2 if causes else left)
    parts = [body] if body else []
    left -= len(body) + (2 if body and causes else 0)
    parts += _of_causes(causes, left, passed)
    return fence("failing", "\n\n".join(parts))


def as_passing(findings: Sequence[Finding], room: int) -> str:
    """The section on items that pass: one for each right answer first."""
    left = room - len(fence("passing", ""))
    seen, shown = Counter[str](), list[str]()
    ranked = []
    for finding in _unlike(sorted(findings, key=lambda f: len(f.input) + len(f.output))):
        ranked.append((seen[finding.expected], finding))
        seen[finding.expected] += 1
    for _, finding in sorted(ranked, key=lambda pair: pair[0])[:_OF_A_GROUP]:
        same = finding.output == finding.expected
        text = _item(replace(finding, expected="") if same else finding, "", _ITEM // 3)
        if text and len(text) + 1 <= left:
            shown.append(text)
            left -= len(text) + 1
    return fence("passing", "\n".join(shown)) if shown else ""


def _causes(
    feedback: Sequence[tuple[str, Gradient]], others: Sequence[Finding]
) -> tuple[list[str], list[Cause]]:
    """Feedback without structure as texts, and the causes of all findings, the worst first."""
    texts: dict[str, list[str]] = {}
    owners: dict[Finding, list[str]] = {}
    often: dict[Finding, int] = {}
    for name, gradient in feedback:
        if isinstance(gradient, TextGradient) and type(gradient).render is TextGradient.render:
            for finding, count in Counter(gradient.findings).items():
                owners.setdefault(finding, []).append(name)
                often[finding] = max(often.get(finding, 0), count)
        else:
            texts.setdefault(gradient.render(), []).append(name)
    every = [name for name, _ in feedback]
    for finding in others:
        owners.setdefault(finding, every)
        often[finding] = often.get(finding, 0) + 1
    alike: dict[tuple[str, str, tuple[str, ...]], dict[str, list[Finding]]] = {}
    for finding, names in owners.items():
        own = () if len(names) == len(every) else tuple(names)
        key = finding.attribution, _VALUE.sub("...", finding.direction), own
        by_text = alike.setdefault(key, {})
        by_text.setdefault(finding.direction, []).extend([finding] * often[finding])
    found: list[Cause] = []
    for (attribution, text, own), by_text in alike.items():
        if sum(map(len, by_text.values())) >= _OFTEN * len(by_text):
            found += [Cause(attribution, said, own, each) for said, each in by_text.items()]
        else:
            # Texts that hold values of their items are one cause with one text.
            together = [finding for each in by_text.values() for finding in each]
            found.append(Cause(attribution, text, own, together))
    plain = [
        text if len(names) == len(every) else f"Feedback for {', '.join(names)}:\n{text}"
        for text, names in texts.items()
    ]
    return plain, sorted(found, key=lambda cause: -cause.weight)


def _of_causes(causes: Sequence[Cause], room: int, passed: Set[str]) -> list[str]:
    """The causes as texts, with as many items as there is room, in turn of each cause."""
    heads = [cut_middle(cause.head(passed), 600) for cause in causes]
    named, used = 0, 0
    for head in heads:
        # At most half of the room is for causes without any item.
        if named and used + len(head) + 2 > room // 2:
            break
        named, used = named + 1, used + len(head) + 2
    if not named:
        return []
    left, blocks = room - used, [[head] for head in heads[:named]]
    more = ""
    if causes[named:]:
        count = sum(len(cause.findings) for cause in causes[named:])
        more = f"... and {counted(len(causes) - named, 'other cause')} ({counted(count, 'item')})"
        left -= len(more) + 2
    item_room = max(min(_ITEM, room // 8), _SMALLEST)
    queues = [_ranked(cause, passed) for cause in causes[:named]]
    shown, most = 0, _OF_A_GROUP if named > 1 else _ALL
    for turn in range(most):
        for cause, block, queue in zip(causes, blocks, queues, strict=False):
            if turn >= len(queue) or shown >= _ALL:
                continue
            text = _item(queue[turn], cause.text, item_room, passed)
            if text and len(text) + 1 <= left:
                block.append(text)
                left, shown = left - len(text) - 1, shown + 1
    for cause, block in zip(causes, blocks, strict=False):
        if len(block) == 1 and (ids := _ids(cause)) and len(ids) + 1 <= left:
            block.append(ids)
            left -= len(ids) + 1
    return ["\n".join(block) for block in blocks] + ([more] if more else [])


def _ranked(cause: Cause, passed: Set[str]) -> list[Finding]:
    """The findings to show, the worst first, of equals the most typical; few that are alike."""
    seen = list({(f.input, f.output, f.expected, f.direction): f for f in cause.findings}.values())
    words = [set(_WORD.findall(f"{f.input} {f.output}".lower())) for f in seen]
    often = Counter(word for each in words for word in each)
    typical = [sum(often[word] for word in each) / (len(each) or 1) for each in words]
    order = sorted(
        range(len(seen)), key=lambda n: (seen[n].item in passed, -seen[n].severity, -typical[n], n)
    )
    return _unlike([seen[n] for n in order])


def _unlike(findings: Sequence[Finding]) -> list[Finding]:
    """Of findings that differ in numbers and names alone, the first ones; then second ones."""
    count, kept = Counter[str](), [list[Finding]() for _ in range(_ALIKE)]
    for finding in findings:
        skeleton = _VALUE.sub("...", f"{finding.input}\n{finding.output}")
        if count[skeleton] < _ALIKE:
            kept[count[skeleton]].append(finding)
        count[skeleton] += 1
    return [finding for each in kept for finding in each]


def _item(finding: Finding, said: str, room: int, passed: Set[str] = frozenset()) -> str:
    """An item with input, output, expected and its own feedback; "" where there is none of them."""
    own = finding.direction if finding.direction != said and said else ""
    seen = (text.removeprefix(f"{finding.item}: ") for text in finding.evidence)
    fields = {
        "input": finding.input,
        "output": finding.output,
        "expected": finding.expected,
        "feedback": own,
        "seen": "; ".join([text for text in seen if text != finding.item][:_EVIDENCE]),
    }
    fields = {name: text for name, text in fields.items() if text}
    if not fields:
        return ""
    name = "" if not finding.item or DIGEST.fullmatch(finding.item) else f"{finding.item}:"
    name = f"{name} (passes)".strip() if finding.item in passed else name
    # Short fields leave their room to the long ones.
    left, rooms = room, dict[str, int]()
    for count, (field_name, text) in enumerate(sorted(fields.items(), key=lambda p: len(p[1]))):
        rooms[field_name] = min(len(text), left // (len(fields) - count))
        left -= rooms[field_name]
    lines = []
    for label, text in fields.items():
        cut = cut_middle(text, rooms[label])
        # Of several lines, each is indented below the label.
        parts = [f"{label}:", *cut.split("\n")] if "\n" in cut else [f"{label}: {cut}"]
        lines.append("\n      ".join(parts))
    head = f"- {name} {lines[0]}" if name else f"- {lines[0]}"
    return "\n".join([head, *(f"  {line}" for line in lines[1:])])


def _ids(cause: Cause) -> str:
    """The ids of a cause's items, as far as they are more than digests."""
    ids = [f.item for f in cause.findings if f.item and not DIGEST.fullmatch(f.item)]
    return f"- items {some(ids, _IDS)}" if ids else ""
