"""The contract of Memory, as a suite of tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from autopilot.core.memory import Memory
from autopilot.core.records.record import EpochOutcome, Lesson


class MemoryContract(ABC):
    """The tests that every Memory passes. Derive it and define `make_memory`."""

    @abstractmethod
    def make_memory(self, folder: Path, block_after: int = 3) -> Memory:
        """A memory of the lessons in `folder`.

        A second call for a folder gives one that has the lessons learnt in it before.
        """

    def test_doing_nothing_in_a_row_blocks(self, tmp_path: Path) -> None:
        memory = self.make_memory(tmp_path)
        outcomes: list[EpochOutcome] = ["unchanged", "failed", "kept", "unchanged", "failed"]
        for epoch, outcome in enumerate(outcomes, 1):
            memory.learn(_lesson(epoch, "guess", outcome))
            assert memory.blocked() == {}
        memory.learn(_lesson(6, "other", "unchanged"))
        memory.learn(_lesson(7, "guess", "repeated"))
        assert memory.blocked() == {}
        memory.learn(_lesson(8, "guess", "unchanged"))
        assert memory.blocked() == {"guess": "did nothing 3 times in a row"}

    def test_new_states_block_by_their_rate_of_failure(self, tmp_path: Path) -> None:
        memory = self.make_memory(tmp_path)
        for epoch in range(1, 60):
            memory.learn(_lesson(epoch, "guess", "rejected" if epoch % 30 else "kept"))
            assert memory.blocked() == {}
        memory.learn(_lesson(60, "guess", "rejected"))
        assert memory.blocked() == {"guess": "none of its last 30 tries was kept"}
        memory.learn(_lesson(61, "guess", "kept"))
        assert memory.blocked() == {}

    def test_repeating_a_state_never_blocks(self, tmp_path: Path) -> None:
        memory = self.make_memory(tmp_path, block_after=1)
        for epoch in range(1, 50):
            memory.learn(_lesson(epoch, "guess", "repeated"))
        assert memory.blocked() == {}

    def test_how_many_failures_block_is_a_choice(self, tmp_path: Path) -> None:
        memory = self.make_memory(tmp_path, block_after=1)
        memory.learn(_lesson(1, "idle", "unchanged"))
        assert memory.blocked() == {"idle": "did nothing"}
        memory = self.make_memory(tmp_path, block_after=0)
        for epoch in range(2, 100):
            memory.learn(_lesson(epoch, "idle", "unchanged"))
            memory.learn(_lesson(epoch, "guess", "rejected"))
        assert memory.blocked() == {}
        memory.block_strategy("guess", "too risky")
        assert memory.blocked() == {"guess": "too risky"}
        memory.reconsider(2)
        assert list(memory.blocked()) == ["idle", "guess"]

    def test_a_step_without_a_strategy_blocks_nothing(self, tmp_path: Path) -> None:
        memory = self.make_memory(tmp_path)
        for epoch in range(1, 6):
            memory.learn(_lesson(epoch, "", "unchanged"))
        assert memory.blocked() == {}

    def test_each_strategy_of_a_combined_one_counts(self, tmp_path: Path) -> None:
        memory = self.make_memory(tmp_path, block_after=2)
        memory.learn(_lesson(1, "prune + guess", "unchanged"))
        memory.learn(_lesson(2, "guess", "unchanged"))
        assert list(memory.blocked()) == ["guess"]
        assert memory.context().tried == {"prune": 1, "guess": 2}
        assert [lesson.epoch for lesson in memory.recall(strategy="prune")] == [1]
        assert [lesson.epoch for lesson in memory.recall(strategy="guess")] == [2, 1]

    def test_blocking_by_hand(self, tmp_path: Path) -> None:
        memory = self.make_memory(tmp_path)
        memory.learn(_lesson(1, "guess", "rejected"))
        memory.block_strategy("delete everything", "too risky")
        memory.block_strategy("guess")
        assert memory.blocked() == {"delete everything": "too risky", "guess": "blocked by hand"}
        memory.unblock("guess")
        assert list(memory.blocked()) == ["delete everything"]

    def test_unblocking_forgets_the_failures(self, tmp_path: Path) -> None:
        memory = self.make_memory(tmp_path)
        for epoch in (1, 2, 3):
            memory.learn(_lesson(epoch, "guess", "unchanged"))
        assert list(memory.blocked()) == ["guess"]
        memory.unblock("guess")
        memory.learn(_lesson(4, "guess", "unchanged"))
        assert memory.blocked() == {}

    def test_recall_filters_newest_first(self, tmp_path: Path) -> None:
        memory = self.make_memory(tmp_path)
        for epoch in range(1, 7):
            memory.learn(
                Lesson(
                    epoch=epoch,
                    id=str(epoch),
                    strategy="even" if epoch % 2 == 0 else "odd",
                    outcome="kept" if epoch == 4 else "rejected",
                    category="billing" if epoch < 4 else "login",
                    node="retriever" if epoch == 5 else "",
                    experiment="e1" if epoch < 6 else "e2",
                )
            )

        def epochs(**filters: Any) -> list[int]:
            return [lesson.epoch for lesson in memory.recall(**filters)]

        assert epochs() == [6, 5, 4, 3, 2, 1]
        assert epochs(strategy="even") == [6, 4, 2]
        assert epochs(outcome="kept") == [4]
        assert epochs(category="billing") == [3, 2, 1]
        assert epochs(node="retriever") == [5]
        assert epochs(epochs=range(2, 4)) == [3, 2]
        assert epochs(experiment="e2") == [6]
        assert epochs(strategy="odd", outcome="rejected", limit=2) == [5, 3]
        assert epochs(strategy="odd", category="nothing") == []

    def test_trends_are_of_the_latest_epochs(self, tmp_path: Path) -> None:
        memory = self.make_memory(tmp_path)
        assert memory.trends().direction == "unknown"
        memory.learn(_lesson(1, "a", "kept", delta=0.5))
        memory.learn(_lesson(2, "a", "rejected", delta=-0.25))
        memory.block_strategy("b")
        trend = memory.trends()
        assert (trend.direction, trend.rate, trend.kept) == ("improving", 0.25, 0.5)
        assert memory.trends(window=1).direction == "flat"

    def test_the_context_is_what_an_optimizer_should_know(self, tmp_path: Path) -> None:
        memory = self.make_memory(tmp_path)
        for epoch in range(1, 9):
            memory.learn(_lesson(epoch, "guess", "failed", summary=f"guess {epoch}"))
        memory.learn(_lesson(9, "prune", "kept", delta=0.125))
        context = memory.context(limit=2)
        assert context.tried == {"guess": 8, "prune": 1}
        assert [lesson.epoch for lesson in context.failures] == [8, 7]
        assert context.blocked == {"guess": "did nothing 8 times in a row"}
        assert context.trend.direction == "improving"
        said = context.render().splitlines()
        assert said[0] == "tried: guess (8x), prune (1x)"
        assert said[1].startswith("failed: guess: guess 8")
        assert said[-1] == "blocked: guess: did nothing 8 times in a row"

    def test_what_was_learnt_is_known_again(self, tmp_path: Path) -> None:
        memory = self.make_memory(tmp_path, block_after=2)
        for epoch in range(1, 12):
            memory.learn(_lesson(epoch, f"s{epoch % 4}", "unchanged" if epoch % 3 else "kept"))
            if epoch % 4 == 0:
                memory.block_strategy("hand")
            if epoch % 4 == 2:
                memory.unblock("hand")
        memory.unblock("hand")
        memory.block_strategy("hand", "for good")
        again = self.make_memory(tmp_path, block_after=2)
        again.load(again.kept())
        assert again.lessons == memory.lessons
        assert again.blocked() == memory.blocked()
        assert again.blocked()["hand"] == "for good"
        assert again.context() == memory.context()

    def test_a_repeated_lesson_counts_once_when_it_is_read(self, tmp_path: Path) -> None:
        memory = self.make_memory(tmp_path)
        for _ in range(3):
            memory.keep(_lesson(1, "guess", "unchanged"))
        memory.load(memory.kept())
        assert memory.blocked() == {}
        assert len(memory.recall()) <= 1


def _lesson(epoch: int, strategy: str, outcome: EpochOutcome, **more: Any) -> Lesson:
    return Lesson(epoch=epoch, id=str(epoch), strategy=strategy, outcome=outcome, **more)
