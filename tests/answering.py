"""A target that asks a model, and what the scripted server answers it, its judge and its agent."""

from __future__ import annotations

import re

from server import Received, Reply, edit, say, say_json

TARGET = """\
from pydantic import BaseModel

from autopilot import AutoPilotModule, DataLoader, Datum, PathParameter
from autopilot.ai import AgentOptimizer, AnthropicAgent, Judge, JudgeLoss, LLMStep, Model

NAME = "claude-haiku-4-5"


class Verdict(BaseModel):
    success: bool
    score: float
    feedback: str


class Answerer(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.prompt = PathParameter("prompt.md")
        self.model = Model(NAME, max_tokens=50)

    def forward(self, batch):
        return Datum(items=[self.answer(item) for item in batch.items])

    def answer(self, item):
        number = item.metadata["number"]
        said = self.model.complete(f"question {number}", system=self.prompt.read_text()).output
        passed = said == f"good {number}"
        return Datum(metadata={"said": said}, success=passed)

    def configure_loss(self):
        step = LLMStep("verdict", "Q: {number} A: {said}", Verdict)
        return JudgeLoss(Judge([step], model=Model(NAME, max_tokens=50), num_workers=2))

    def configure_optimizers(self):
        agent = AnthropicAgent(Model(NAME, max_tokens=100))
        return AgentOptimizer(agent, self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": f"i{n}", "number": n} for n in range(1, 5)], 2)

    val_dataloader = train_dataloader
"""


def script(request: Received) -> Reply:
    """The module answers well where its prompt has the rule; the agent adds one rule a step."""
    body = request.body
    if "tools" in body:
        known = max([0, *map(int, re.findall(r"rule-(\d)", body["messages"][0]["content"]))])
        if len(body["messages"]) == 1:
            return edit("insert", path="prompt.md", insert_line=1, insert_text=f"rule-{known + 1}")
        return say_json({"strategy": "add rule", "summary": f"add rule {known + 1}"})
    text = request.last_text()
    if "output_config" in body:
        good = "good" in text
        return say_json({"success": good, "score": float(good), "feedback": "add a rule"})
    number = text.split()[-1]
    return say(f"good {number}" if f"rule-{number}" in body["system"][0]["text"] else "bad")
