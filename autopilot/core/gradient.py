"""Gradients: structured feedback that says where something failed and what to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass
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
        """The part of the feedback that is about some items of a batch, None if there is none.

        The graph asks where a batch's items went through separate calls. By default, all of it.
        """
        return self

    def about(self) -> str:
        """What most of the feedback is about, in the user's own terms; "" where nothing says so."""
        return ""

    def render(self) -> str:
        """The feedback as text, for a person or a model; of much, what comes again is counted."""
        texts = [v.render() if isinstance(v, Gradient) else str(v) for v in self.values]
        if len(texts) > _MANY:
            counts = Counter(texts).items()
            texts = [f"{text} ({n} times)" if n > 1 else text for text, n in counts]
        return "\n".join(texts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.render()[:60]!r})"


@dataclass(frozen=True, slots=True)
class Finding:
    """One piece of a text gradient.

    Args:
        direction: What to change.
        attribution: What it is about: a rule, a file, a category, a node.
        severity: 0 (cosmetic) to 1 (everything failed).
        evidence: What was seen, one string an observation.
        item: The id of the item that it is about; empty for all.
    """

    direction: str
    attribution: str = ""
    severity: float = 1.0
    evidence: tuple[str, ...] = ()
    item: str = ""


class TextGradient(Gradient):
    """Feedback in words: direction, attribution, severity and evidence.

    Args:
        direction: What to change.
        attribution: What it is about.
        severity: 0 to 1; higher is worse.
        evidence: Observations that led to it; a text is one.

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
        finding = Finding(direction, attribution, severity, seen)
        self.findings: tuple[Finding, ...] = (finding,)

    @property
    def values(self) -> tuple[Any, ...]:  # type: ignore[override]  # read-only view of findings
        return self.findings

    @property
    def direction(self) -> str:
        """What to change; of an accumulated gradient, what the worst findings ask for."""
        return self._worst()[1][0].direction

    @property
    def attribution(self) -> str:
        """What `direction` is about."""
        return self._worst()[1][0].attribution

    @property
    def severity(self) -> float:
        """0 to 1, higher is worse: the mean over all findings."""
        return sum(f.severity for f in self.findings) / len(self.findings)

    @property
    def evidence(self) -> tuple[str, ...]:
        """All observations, each once."""
        return tuple(dict.fromkeys(text for f in self.findings for text in f.evidence))

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> TextGradient:
        """A gradient of several findings."""
        gradient = cls("")
        gradient.findings = tuple(findings)
        return gradient

    def accumulate(self, other: Gradient) -> Gradient:
        if isinstance(other, TextGradient):
            return TextGradient.of(self.findings + other.findings)
        return TextGradient.of((*self.findings, Finding(other.render())))

    def for_items(self, ids: Set[str]) -> Gradient | None:
        found = [finding for finding in self.findings if not finding.item or finding.item in ids]
        return TextGradient.of(found) if found else None

    def about(self) -> str:
        """The attribution with the most severity; of equals, the first by name."""
        severity: dict[str, float] = {}
        for finding in self.findings:
            if finding.attribution:
                so_far = severity.get(finding.attribution, 0.0)
                severity[finding.attribution] = so_far + finding.severity
        return min(severity, key=lambda name: (-severity[name], name), default="")

    def render(self, max_evidence: int = 5, max_groups: int = 20) -> str:
        """Grouped by attribution and direction, worst and most frequent first.

        Args:
            max_evidence: Observations shown for a group: the worst, or evenly spaced over all of
                them where none is worse; how many are left out is said.
            max_groups: Groups shown; how many are left out is said.
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
        groups: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.attribution, finding.direction), []).append(finding)
        for findings in groups.values():
            findings.sort(key=lambda finding: -finding.severity)
        return sorted(
            groups.items(), key=lambda group: (-sum(f.severity for f in group[1]), group[0])
        )

    def _worst(self) -> tuple[tuple[str, str], list[Finding]]:
        return self._ranked()[0]


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
