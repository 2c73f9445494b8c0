"""Optimize any software that can be run and scored, the way a network is trained.

Every public noun is here, and loads when it is first used: importing autopilot loads neither git
nor a model client.
"""

from __future__ import annotations

# Not from typing: this file is loaded in a moment, in which Ctrl-C would end in a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "autopilot.ai.agent": "Agent AgentContext AgentResult",
    "autopilot.ai.anthropic_agent": "AnthropicAgent ModelAgent",
    "autopilot.ai.coding": "ClaudeCodeAgent CommandAgent",
    "autopilot.ai.coding_tools": "AiderAgent CodexAgent GeminiAgent",
    "autopilot.ai.function_agent": "FunctionAgent",
    "autopilot.ai.constraints": "Constraint KeepPlaceholders MaxLength",
    "autopilot.ai.datasets.generator": "DataGenerator",
    "autopilot.ai.gradient": "AgentCollator ConcatCollator GradientCollator",
    "autopilot.ai.judge": "Judge Judgement",
    "autopilot.ai.loss": "JudgeLoss",
    "autopilot.ai.model.base": "ChatModel",
    "autopilot.ai.model.litellm_model": "LiteLLMModel",
    "autopilot.ai.model.model": "Model",
    "autopilot.ai.model.reply": "Reply ToolCall",
    "autopilot.ai.model.parallel": "RateLimit",
    "autopilot.ai.optimizer": "AgentOptimizer",
    "autopilot.ai.steps": "BackStep LLMStep PythonStep",
    "autopilot.command.module": "CommandModule",
    "autopilot.core.callback": "Callback RunView",
    "autopilot.core.callbacks": (
        "CostTracker Diagnostics MemoryCallback Progress Promotion StoreCheckpointCallback"
    ),
    "autopilot.core.experiment": "Experiment",
    "autopilot.core.gradient": "Gradient TextGradient",
    "autopilot.core.graph": "Graph Node enable_grad no_grad",
    "autopilot.core.loop": "EpochLoop Loop",
    "autopilot.core.loss": "Loss",
    "autopilot.core.memory": "Memory MemoryContext Trend",
    "autopilot.core.metric": "Metric MetricCollection",
    "autopilot.core.metrics": (
        "Accuracy FBeta Latency Max Mean Min PassRate Precision Quantile Recall Sum"
    ),
    "autopilot.core.containers": "ModuleDict ModuleList Sequential",
    "autopilot.core.module": "AutoPilotModule Module",
    "autopilot.core.optimizer": "Optimizer Step",
    "autopilot.core.parameter": "Parameter PathParameter",
    "autopilot.core.records.record": "Lesson Manifest",
    "autopilot.core.rules": "ChainOptimizer Rule RuleOptimizer",
    "autopilot.core.stopping": "Budget EarlyStopping Plateau",
    "autopilot.core.store": "InMemoryStore Store",
    "autopilot.core.records.history": "Summary",
    "autopilot.core.trainer": "Trainer",
    "autopilot.core.types": "Cost Datum GateResult Result",
    "autopilot.data": (
        "ConcatDataset DataLoader DataModule Dataset IterableDataset ListDataset StreamingDataset "
        "Subset find_leakage random_split stratified_split"
    ),
    "autopilot.errors": "AutopilotError",
    "autopilot.policy": (
        "CostGate CustomGate Gate GeneralizationGap Improvement MaxGate MinGate NoRegression "
        "NoMemorizing NoViolations Policy QualityFirstPolicy RangeGate SignificantImprovement"
    ),
    "autopilot.tracking": "GitMemory GitStore",
    "autopilot.tracking.callbacks": "DataRecorder JSONCheckpoint JSONLogger",
    "autopilot.tuning.parameter": "ConfigParameter",
    "autopilot.tuning.search": "SearchOptimizer",
    "autopilot.tuning.spaces": "Choice Range",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = ["__version__", *sorted(_HOME_OF)]  # all strings


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'autopilot' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
