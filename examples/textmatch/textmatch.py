"""A support desk's ticket classifier, made of keyword rules that a strategy may edit.

`autopilot run examples/textmatch/textmatch.py` improves rules.txt by itself.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from feedback import RuleLoss, explain
from rulebook import RuleBook
from strategies import all_strategies

from autopilot.core.loss import Loss
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer
from autopilot.core.parameter import PathParameter
from autopilot.core.rules import RuleOptimizer
from autopilot.core.types import Datum
from autopilot.data import DataLoader, ListDataset

HERE = Path(__file__).parent


class TicketClassifier(AutoPilotModule):
    """Sends support tickets to one of eight teams by the rules in a text file.

    Args:
        rules: The rules file, which is what gets optimized.
    """

    def __init__(self, rules: Path = HERE / "rules.txt") -> None:
        super().__init__()
        self.rules = PathParameter(rules)

    def forward(self, batch: Datum) -> Datum:
        """Where each ticket of the batch goes."""
        book = _rule_book(self.rules.read_text())
        return Datum(items=[self._answer(book, ticket) for ticket in batch.leaves()])

    def _answer(self, book: RuleBook, ticket: Datum) -> Datum:
        label = ticket.metadata["label"]
        judgement = book.judge(ticket.metadata["text"])
        prediction = judgement.category
        answer = Datum(
            id=ticket.id,
            success=prediction == label,
            metadata={"label": label, "prediction": prediction},
            feedback=explain(label, judgement, book.weights) or None,
        )
        # Only the loss asks for these, and val results are kept in git: so, not in eval mode.
        if self.training:
            answer.metadata["lead"] = judgement.lead(label)
            answer.metadata["fired"] = [list(key) for key in judgement.fired]
        return answer

    def configure_loss(self) -> Loss:
        return RuleLoss()

    def configure_optimizers(self) -> Optimizer:
        return RuleOptimizer(self.parameters(), all_strategies())

    def train_dataloader(self) -> DataLoader[dict[str, str]]:
        return DataLoader(_tickets("train"), batch_size=32, shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, str]]:
        return DataLoader(_tickets("val"), batch_size=50)

    def test_dataloader(self) -> DataLoader[dict[str, str]]:
        return DataLoader(_tickets("test"), batch_size=50)


@lru_cache(maxsize=2)  # the present rules, and those that a rejected epoch goes back to
def _rule_book(text: str) -> RuleBook:
    return RuleBook.parse(text)


def _tickets(split: str) -> ListDataset[dict[str, str]]:
    return ListDataset.from_jsonl(HERE / "data" / f"{split}.jsonl")
