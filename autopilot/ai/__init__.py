"""Agents that edit, judges that score, generators that make data.

Each name is imported when it is first used; the model's client only when a call is made.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "autopilot.ai.agent": "Agent AgentContext AgentResult Tool",
    "autopilot.ai.anthropic_agent": "AnthropicAgent ModelAgent TextEditor",
    "autopilot.ai.prompt.briefing": "Brief",
    "autopilot.ai.coding": "ClaudeCodeAgent CommandAgent",
    "autopilot.ai.coding_tools": "AiderAgent CodexAgent GeminiAgent",
    "autopilot.ai.constraints": "Constraint KeepPlaceholders MaxLength",
    "autopilot.ai.datasets.generator": "DataGenerator",
    "autopilot.ai.function_agent": "FunctionAgent",
    "autopilot.ai.gradient": "AgentCollator ConcatCollator GradientCollator",
    "autopilot.ai.datasets.judging": "Judging",
    "autopilot.ai.judge": "Judge Judgement",
    "autopilot.ai.loss": "JudgeLoss",
    "autopilot.ai.model.base": "ChatModel",
    "autopilot.ai.model.litellm_model": "LiteLLMModel",
    "autopilot.ai.model.model": "Model",
    "autopilot.ai.model.reply": "Reply ToolCall",
    "autopilot.ai.model.parallel": "RateLimit each",
    "autopilot.ai.prices": "Price",
    "autopilot.ai.model.recording": "StoreRecorder recording_beside use_recorder",
    "autopilot.ai.optimizer": "AgentOptimizer",
    "autopilot.ai.steps": "BackStep LLMStep PythonStep WorkflowStep",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)  # all strings


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'autopilot.ai' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
