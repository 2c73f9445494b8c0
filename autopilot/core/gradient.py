"""Gradients: structured feedback that says where something failed and what to change."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

_MANY = 20


class Gradient:
    """Feedback on a parameter. Any object can be one; subclasses give it structure.

    A gradient is a value: `accumulate` returns a new one and changes neither side.

    Args:
        value: The user's own payload.

    >>> Gradient("too slow").accumulate(Gradient("too vague")).render()
    'too slow\\ntoo vague'
    """

    def __init__(self, value: Any) -> None:
        self.values: tuple[Any, ...] = (value,)

    @property
    def value(self) -> Any:
        """The payload; of an accumulated gradient, the first."""
        return self.values[0]

    def accumulate(self, other: Gradient) -> Gradient:
        """Both together: a gradient of the same kind as this one."""
        combined = Gradient(None)
        combined.values = self.values + (other.values if type(other) is Gradient else (other,))
        return combined

    def for_items(self, ids: Set[str]) -> Gradient | None:
        """The part of the feedback on some items of a batch, None if there is none; by default all.

        The graph asks for it where a batch's items went through separate calls.
        """
        return self

    def about(self) -> str:
        """The subject of most of the feedback, in the user's own terms; "" where unknown."""
        return ""

    def render(self) -> str:
        """The feedback as text; with many entries, repeats are shown once with a count."""
        texts = [v.render() if isinstance(v, Gradient) else str(v) for v in self.values]
        if len(texts) > _MANY:
            counts = Counter(texts).items()
            texts = [f"{text} ({n} times)" if n > 1 else text for text, n in counts]
        return "\n".join(texts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.render()[:60]!r})"


# Never changed. It is not frozen, since an epoch makes one an item, and that takes twice as long.
@dataclass(slots=True, unsafe_hash=True)
class Finding:
    """One piece of a text gradient.

    Args:
        attribution: Its subject: a rule, a file, a category, a node.
        severity: 0 (cosmetic) to 1 (everything failed).
        evidence: One string an observation.
        item: The id of the item that it belongs to; empty for all.
        input: The item as the system got it, as text; empty where an optimizer must not see it, as
            of val items.
        output: The system's answer to it.
        expected: The right answer, where it is known.
    """

    direction: str
    attribution: str = ""
    severity: float = 1.0
    evidence: tuple[str, ...] = ()
    item: str = ""
    input: str = ""
    output: str = ""
    expected: str = ""


_Part = tuple[Finding, Callable[[], Mapping[str, Any]] | None]


class TextGradient(Gradient):
    """Feedback in words: direction, attribution, severity and evidence.

    The arguments are those of a Finding; `evidence` may also be one text.

    >>> g = TextGradient("answer in one word", attribution="prompt.md", evidence=["t1: rambled"])
    >>> print(g.accumulate(TextGradient("answer in one word", "prompt.md")).render())
    prompt.md: answer in one word (2 findings, severity 1.00)
      - t1: rambled
    """

    def __init__(
        self,
        direction: str,
        attribution: str = "",
        severity: float = 1.0,
        evidence: Iterable[str] | str = (),
    ) -> None:
        if not 0.0 <= severity <= 1.0:
            raise ValueError(f"severity must be between 0 and 1, not {severity}")
        seen = (evidence,) if isinstance(evidence, str) else tuple(evidence)
        self._parts: tuple[_Part, ...] = ((Finding(direction, attribution, severity, seen), None),)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All pieces, with the texts of their items."""
        if any(texts for _, texts in self._parts):
            self._parts = tuple((replace(f, **t()) if t else f, None) for f, t in self._parts)
        return self._bare

    @property
    def _bare(self) -> tuple[Finding, ...]:
        return tuple(finding for finding, _ in self._parts)

    @property
    def values(self) -> tuple[Any, ...]:  # type: ignore[override]  # read-only view of findings
        return self.findings

    @property
    def direction(self) -> str:
        """The change to make; of an accumulated gradient, that of the worst findings."""
        return self._worst().direction

    @property
    def attribution(self) -> str:
        """The subject of `direction`."""
        return self._worst().attribution

    @property
    def severity(self) -> float:
        """0 to 1, higher is worse: the mean over all findings."""
        return sum(f.severity for f in self._bare) / len(self._parts)

    @property
    def evidence(self) -> tuple[str, ...]:
        """All observations, each once."""
        return tuple(dict.fromkeys(text for f in self._bare for text in f.evidence))

    @classmethod
    def of(cls, findings: Iterable[Finding | _Part]) -> TextGradient:
        """A gradient of several findings.

        Args:
            findings: Beside one, a function may stand that makes the texts of its item, by the
                names of the fields: it is called when an optimizer asks for `findings`.
        """
        gradient = cls("")  # replaced: the constructor makes one finding
        gradient._parts = tuple((f, None) if isinstance(f, Finding) else f for f in findings)
        return gradient

    def accumulate(self, other: Gradient) -> Gradient:
        if isinstance(other, TextGradient):
            together = TextGradient("")  # replaced: no part is looked at again
            together._parts = self._parts + other._parts
            return together
        return TextGradient.of((*self._parts, Finding(other.render())))

    def for_items(self, ids: Set[str]) -> Gradient | None:
        found = [part for part in self._parts if not part[0].item or part[0].item in ids]
        return TextGradient.of(found) if found else None

    def about(self) -> str:
        """The attribution with the most severity; of equals, the first by name."""
        severity: dict[str, float] = defaultdict(float)
        for finding in self._bare:
            if finding.attribution:
                severity[finding.attribution] += finding.severity
        return min(severity, key=lambda name: (-severity[name], name), default="")

    def render(self, max_evidence: int = 5, max_groups: int = 20) -> str:
        """Grouped by attribution and direction, worst and most frequent first.

        Args:
            max_evidence: Observations shown for a group, with the number of others: the worst, or
                evenly spaced over all of them where none is worse.
            max_groups: Groups shown, with the number of others.
        """
        ranked = self._ranked()
        lines = [
            line
            for (attribution, direction), findings in ranked[:max_groups]
            for line in _render_group(attribution, direction, findings, max_evidence)
        ]
        left = [len(findings) for _, findings in ranked[max_groups:]]
        if left:
            lines.append(f"... and {len(left)} more directions ({sum(left)} findings)")
        return "\n".join(lines)

    def _ranked(self) -> list[tuple[tuple[str, str], list[Finding]]]:
        groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
        for finding in sorted(self._bare, key=lambda finding: -finding.severity):
            groups[finding.attribution, finding.direction].append(finding)
        return sorted(
            groups.items(), key=lambda group: (-sum(f.severity for f in group[1]), group[0])
        )

    def _worst(self) -> Finding:
        return self._ranked()[0][1][0]


def _render_group(
    attribution: str, direction: str, findings: list[Finding], max_evidence: int
) -> Iterable[str]:
    head = f"{attribution}: {direction}" if attribution else direction
    severity = sum(f.severity for f in findings) / len(findings)
    if len(findings) > 1:
        head += f" ({len(findings)} findings, severity {severity:.2f})"
    elif severity < 1:
        head += f" (severity {severity:.2f})"
    yield head
    evidence = list(dict.fromkeys(text for f in findings for text in f.evidence))
    shown = evidence[:max_evidence]
    if len(evidence) > max_evidence and findings[0].severity == findings[-1].severity:
        # None is worse than another: all of them are represented.
        shown = [evidence[i * len(evidence) // max_evidence] for i in range(max_evidence)]
    for text in shown:
        yield f"  - {text}"
    if len(shown) < len(evidence):
        yield f"  - ... and {len(evidence) - len(shown)} more"
