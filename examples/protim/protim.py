"""A prompt that an agent improves, measured on questions with one right answer each.

`autopilot run examples/protim/protim.py` improves prompt.md by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from answers import AnswerLoss, Tutor, is_right

from autopilot.ai import (
    Agent,
    AgentOptimizer,
    AnthropicAgent,
    ClaudeCodeAgent,
    JudgeLoss,
    Model,
    each,
)
from autopilot.core.loss import Loss
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer
from autopilot.core.parameter import PathParameter
from autopilot.core.types import Datum
from autopilot.data import DataLoader, ListDataset

HERE = Path(__file__).parent
AT_ONCE = 8


class Protim(AutoPilotModule):
    """Answers questions about messages by the prompt in a text file.

    Args:
        agent: Who edits the prompt: "anthropic" through the API, or "claude-code", the program.
        judge: Whether a model says what is wrong with each wrong answer; else they are compared.
        model: Who answers, and judges.
        prompt: The prompt's file, which is what gets optimized.
    """

    def __init__(
        self,
        agent: Literal["anthropic", "claude-code"] = "anthropic",
        judge: bool = False,
        model: str = "claude-haiku-4-5",
        prompt: Path = HERE / "prompt.md",
    ) -> None:
        super().__init__()
        self.prompt = PathParameter(prompt)
        self.agent: Agent = AnthropicAgent() if agent == "anthropic" else ClaudeCodeAgent()
        self.judge = Tutor(Model(model, max_tokens=400)) if judge else None
        self.model = Model(model, max_tokens=400)

    def forward(self, batch: Datum) -> Datum:
        """An answer to each question of the batch, some side by side."""
        system = self.prompt.read_text()
        return Datum(items=each(lambda q: self._answer(q, system), list(batch.leaves()), AT_ONCE))

    def _answer(self, question: Datum, system: str) -> Datum:
        asked = question.metadata
        text = f"Message: {asked['message']}\n\nQuestion: {asked['question']}"
        said = self.model.complete(text, system=system).output
        return Datum(
            id=question.id,
            success=is_right(said, asked["answer"]),
            metadata={"kind": asked["kind"], "said": said},
        )

    def configure_loss(self) -> Loss:
        return JudgeLoss(self.judge) if self.judge is not None else AnswerLoss()

    def configure_optimizers(self) -> Optimizer:
        return AgentOptimizer(self.agent, self.parameters())

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(_questions("train"), batch_size=14, shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(_questions("val"), batch_size=14)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(_questions("test"), batch_size=14)


def _questions(split: str) -> ListDataset[dict[str, Any]]:
    return ListDataset.from_jsonl(HERE / "data" / f"{split}.jsonl")
