"""Experiments in git: the store, the memory, the journal of notes, and reading them again."""

from autopilot.tracking.git_store import GitStore
from autopilot.tracking.layout import Layout, experiments, free_slugs
from autopilot.tracking.memory import GitMemory

__all__ = ["GitMemory", "GitStore", "Layout", "experiments", "free_slugs"]
