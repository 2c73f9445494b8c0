"""The memory's contract in this process, alone and with a store."""

import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopilot.core.memory import Memory
from autopilot.core.records.record import Lesson, Manifest
from autopilot.core.store import InMemoryStore
from autopilot.testing import MemoryContract


class TestMemory(MemoryContract):
    @pytest.fixture(autouse=True)
    def stores(self):
        self.made: dict[Path, InMemoryStore] = {}

    def make_memory(self, folder, block_after=3):
        store = self.made.get(folder)
        if store is None:
            store = self.made[folder] = InMemoryStore()
            store.bind([])
            store.begin(Manifest(slug="in-memory"))
        return Memory(block_after, store=store)


def test_without_a_store_lessons_last_as_long_as_the_memory():
    memory = Memory()
    memory.learn(Lesson(epoch=1, strategy="guess", outcome="kept"))
    memory.load(memory.kept())
    assert [lesson.strategy for lesson in memory.lessons] == ["guess"]


def test_block_after_is_no_negative_number():
    with pytest.raises(ValueError, match="block_after must be 0 or more, not -1"):
        Memory(block_after=-1)


OUTCOMES = st.sampled_from(["kept", "rejected", "unchanged", "repeated", "failed"])


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "a + b", ""]), OUTCOMES)), st.integers(1, 4))
def test_blocked_is_exactly_what_did_nothing_last_often_enough(told, block_after):
    memory = Memory(block_after)
    for epoch, (strategy, outcome) in enumerate(told, 1):
        memory.learn(Lesson(epoch=epoch, strategy=strategy, outcome=outcome))
    for name in ("a", "b"):
        used = [outcome for strategy, outcome in told if name in strategy and outcome != "repeated"]
        since = used[len(used) - used[::-1].index("kept") :] if "kept" in used else used
        idle = max(len(row) for row in "".join(o[0] for o in since).replace("u", "f").split("r"))
        assert (name in memory.blocked()) == (idle >= block_after or len(since) >= 10 * block_after)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_a_strategy_that_succeeds_now_and_then_is_hardly_ever_blocked(rate):
    chance, blocked = random.Random(0), 0
    for _ in range(400):
        memory = Memory()
        for epoch in range(1, 41):
            kept = chance.random() < rate
            memory.learn(Lesson(epoch=epoch, strategy="s", outcome="kept" if kept else "rejected"))
            if memory.blocked():
                blocked += 1
                break
    assert blocked <= 400 * 0.02


def test_recall_of_a_hundred_thousand_is_quick():
    memory = Memory()
    memory.load(
        [
            Lesson(epoch=n, strategy=f"s{n % 50}", outcome="rejected", category=f"c{n % 7}")
            for n in range(100_000)
        ]
    )
    started = time.perf_counter()
    found = memory.recall(strategy="s3", category="c3", epochs=range(50_000))
    assert time.perf_counter() - started < 0.2
    assert found[0].epoch == 49703
    assert len(found) == len([n for n in range(50_000) if n % 50 == 3 and n % 7 == 3])
