"""Gradients: structured feedback that says where something failed and what to change."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Any


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
        """The feedback as text, for a person or a model."""
        return "\n".join(v.render() if isinstance(v, Gradient) else str(v) for v in self.values)

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
        evidence: Observations that led to it.

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
        evidence: Iterable[str] = (),
    ) -> None:
        if not 0.0 <= severity <= 1.0:
            raise ValueError(f"severity must be between 0 and 1, not {severity}")
        finding = Finding(direction, attribution, severity, tuple(evidence))
        self.findings: tuple[Finding, ...] = (finding,)

    @property
    def values(self) -> tuple[Any, ...]:  # type: ignore[override]  # read-only view of findings
        return self.findings

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

    def render(self, max_evidence: int = 5) -> str:
        """Grouped by attribution and direction, worst and most frequent first.

        Args:
            max_evidence: Observations shown for a group, evenly spaced over all of them; how many
                are left out is said.
        """
        groups: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.attribution, finding.direction), []).append(finding)
        ranked = sorted(
            groups.items(),
            key=lambda group: (-sum(f.severity for f in group[1]), group[0]),
        )
        return "\n".join(
            line
            for (attribution, direction), findings in ranked
            for line in _render_group(attribution, direction, findings, max_evidence)
        )


def _render_group(
    attribution: str, direction: str, findings: list[Finding], max_evidence: int
) -> Iterable[str]:
    head = f"{attribution}: {direction}" if attribution else direction
    severity = sum(f.severity for f in findings) / len(findings)
    if len(findings) > 1:
        head += f" ({len(findings)} findings, severity {severity:.2f})"
    yield head
    evidence = list(dict.fromkeys(text for f in findings for text in f.evidence))
    shown = evidence
    if len(evidence) > max_evidence:
        shown = [evidence[i * len(evidence) // max_evidence] for i in range(max_evidence)]
    for text in shown:
        yield f"  - {text}"
    if len(shown) < len(evidence):
        yield f"  - ... and {len(evidence) - len(shown)} more"
