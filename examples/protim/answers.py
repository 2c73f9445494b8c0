"""What a right answer is, and what is said of a wrong one: a loss without a model, and a judge."""

from __future__ import annotations

from pydantic import BaseModel, Field

from autopilot.ai import Judge, Judgement, LLMStep, Model
from autopilot.ai.judge import own_judgement
from autopilot.ai.steps import WorkflowState
from autopilot.core.gradient import Finding, Gradient, TextGradient
from autopilot.core.loss import Loss
from autopilot.core.types import Datum

SHOWN = 120


def is_right(said: str, answer: str) -> bool:
    """Whether an answer is the expected one, to the letter; spaces around it do not matter.

    >>> is_right(" EUR 12.50\\n", "EUR 12.50"), is_right("It is 12.50 euros.", "EUR 12.50")
    (True, False)
    """
    return said.strip() == answer


class AnswerLoss(Loss):
    """Compares answers, without a model: what was expected and what was said, kind by kind."""

    def forward(self, data: Datum, targets: Datum) -> Gradient | None:
        findings = [
            Finding(
                direction=f"make answers on {asked.metadata['kind']} come out as expected",
                attribution=asked.metadata["kind"],
                evidence=(difference(answer.metadata["said"], asked.metadata["answer"]),),
                item=answer.id,
            )
            for answer, asked in zip(data.leaves(), targets.leaves(), strict=True)
            if not answer.success and "said" in answer.metadata
        ]
        return TextGradient.of(findings) if findings else super().forward(data, targets)


def difference(said: str, answer: str) -> str:
    """A wrong answer beside the expected one, on a line.

    >>> difference("At 2 p.m.", "14:00")
    "expected '14:00', got 'At 2 p.m.'"
    """
    line = " ".join(said.split())
    shown = line if len(line) <= SHOWN else f"{line[:SHOWN]}..."
    return f"expected {answer!r}, got {shown!r}"


class Verdict(BaseModel):
    """What the judge says of a wrong answer."""

    score: float = Field(ge=0, le=1, description="1: only the form is wrong; 0: all of it is")
    feedback: str = Field(description="the rule that the prompt lacks, in general terms")
    attribution: str = Field(description="what kind of question it is about, in one word")


class Tutor(Judge):
    """A model that says which rule the prompt lacks; right answers cost no call.

    Args:
        model: Who judges.
    """

    def __init__(self, model: Model) -> None:
        step = LLMStep(
            "verdict",
            "Message: {message}\nQuestion: {question}\nExpected, to the letter: {answer}\n"
            "Said: {said}",
            Verdict,
            system="A prompt made a model answer a question, and the answer is not as expected. "
            "Say which rule the prompt lacks, so that all questions of this kind come out right. "
            "The rule must not be about this one question.",
        )
        super().__init__([step], model=model)

    def judge(self, item: Datum, target: Datum | None = None) -> Judgement:
        if item.success or "said" not in item.metadata:
            return own_judgement(item)
        return super().judge(item, target)

    def conclude(self, state: WorkflowState, item: Datum) -> Judgement:
        found: Verdict = state.last
        return Judgement(False, found.score, found.feedback, found.attribution)
