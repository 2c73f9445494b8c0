"""Memory in git: each lesson is a note on the commit of its epoch."""

from __future__ import annotations

from autopilot.core.memory import BLOCK_AFTER, Memory
from autopilot.core.store import Store


class GitMemory(Memory):
    """Memory that lasts, in the notes of an experiment's store.

    Args:
        store: Where lessons are kept; they go on its newest revision.
        block_after: See Memory.
    """

    def __init__(self, store: Store, block_after: int = BLOCK_AFTER) -> None:
        super().__init__(block_after, store=store)
