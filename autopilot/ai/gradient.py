"""Collators: the findings on many items become one gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, Field

from autopilot.ai.agent import Agent
from autopilot.ai.model.base import ChatModel
from autopilot.ai.prompt.prompting import DATA_RULE, ask, fence, shorten
from autopilot.core.gradient import Finding, TextGradient
from autopilot.core.run import is_infrastructure, say
from autopilot.errors import AgentError

__all__ = ["AgentCollator", "ConcatCollator", "Finding", "GradientCollator", "TextGradient"]


class GradientCollator(ABC):
    """Turns the findings on a batch into a gradient. Subclasses define `collate`."""

    @abstractmethod
    def collate(self, findings: Sequence[Finding]) -> TextGradient:
        """The gradient of at least one finding."""


class ConcatCollator(GradientCollator):
    """Keeps all findings in order; rendering groups equal ones. Needs no model.

    >>> findings = [Finding("be brief", item="a"), Finding("be brief", item="b")]
    >>> ConcatCollator().collate(findings).render()
    'be brief (2 findings, severity 1.00)'
    """

    def collate(self, findings: Sequence[Finding]) -> TextGradient:
        return TextGradient.of(findings)


# Requests hold the names and docstrings of both: in other words, no recorded call is found.
class CollatedFinding(BaseModel):
    """A cause that several items have in common."""

    direction: str = Field(min_length=1, description="what to change, in the imperative")
    attribution: str = Field("", description="the rule, file or part that it is about")
    severity: float = Field(1.0, ge=0, le=1, description="0 cosmetic, 1 everything fails")
    evidence: list[str] = Field(default_factory=list, description="what was seen, with item ids")


class Collated(BaseModel):
    """What a batch's feedback comes to."""

    findings: list[CollatedFinding] = Field(min_length=1)


SYSTEM = f"""\
You are given feedback on single items that a system got wrong. Say what causes they have in \
common: few findings, the worst first, each with what to change, what it is about and which items \
show it. Do not name a cause that the feedback does not show.

{DATA_RULE}
"""


@dataclass
class AgentCollator(GradientCollator):
    """A model sums up the findings by their causes.

    An answer that does not fit is sent back to the model. If none fits, the findings are used as
    they are; a finding of severity 0 and a note of the epoch say so. A single finding needs no
    summary.

    Args:
        model: A model or an agent.
        max_retries: The number of times that an answer is sent back.
        max_chars: The largest number of characters of the findings in the prompt.

    Attributes:
        fallbacks: Why findings were used as they are, one reason for each time.
    """

    model: ChatModel | Agent
    max_retries: int = 2
    max_chars: int = 40_000
    fallbacks: list[str] = field(default_factory=list)

    def collate(self, findings: Sequence[Finding]) -> TextGradient:
        if len(findings) < 2:
            return TextGradient.of(findings)
        prompt = fence("feedback", shorten("\n".join(map(_line, findings)), self.max_chars))
        try:
            collated = ask(
                self.model,
                f"{prompt}\n\nWhat do these have in common?",
                Collated,
                system=SYSTEM,
                role="collator",
                max_retries=self.max_retries,
            )
        except AgentError as error:
            # An outage is waited for by the run; only an unusable answer has a substitute.
            if is_infrastructure(error):
                raise
            self.fallbacks.append(error.message)
            say(f"the feedback was taken as it is, not summed up: {error.message}")
            note = Finding(f"(not summed up: {error.message})", severity=0.0)
            return TextGradient.of([*findings, note])
        return TextGradient.of(
            Finding(x.direction, x.attribution, x.severity, tuple(x.evidence))
            for x in collated.findings
        )


def _line(finding: Finding) -> str:
    about = f"{finding.attribution}: " if finding.attribution else ""
    seen = f" ({'; '.join(finding.evidence)})" if finding.evidence else ""
    head = f"- [{finding.item or 'all'}, severity {finding.severity:.2f}]"
    return f"{head} {about}{finding.direction}{seen}"
