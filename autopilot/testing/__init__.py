"""Contract suites for stores, memories and agents, and a scripted optimizer, for your own tests.

A suite is a class. Derive it, say how one of yours is made, and pytest runs every test of the
contract on it; the suites run here on the in-memory and on the git implementation alike.

    class TestMyStore(StoreContract):
        def make_store(self, folder):
            return MyStore(folder)
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from autopilot.ai.agent import Agent, AgentContext, AgentResult
from autopilot.core.experiment import Experiment
from autopilot.core.memory import Memory
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.records.record import EpochOutcome, Lesson, Manifest
from autopilot.core.run import Run, running
from autopilot.core.store import InMemoryStore
from autopilot.testing.stores import StoreContract

__all__ = ["AgentContract", "MemoryContract", "ScriptedOptimizer", "StoreContract"]

Action = Callable[[Sequence[Parameter]], Any]


class ScriptedOptimizer(Optimizer):
    """Follows a script, one entry a step.

    Args:
        parameters: List of Parameter.
        script: For each step a pair of a strategy's name and an action: a function that gets the
            parameters, a value for the first parameter, or an error to raise; None does nothing.
            Entries of blocked strategies are skipped; after the last entry, nothing is done.

    >>> x = Parameter(1)
    >>> optimizer = ScriptedOptimizer([x], [("two", 2), None, ("double", lambda ps: 0)])
    >>> optimizer.step().strategy, x.data, optimizer.step()
    ('two', 2, None)
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        script: Sequence[tuple[str, Action | BaseException | Any] | None],
    ) -> None:
        super().__init__(parameters)
        self.script = list(script)
        self.position = 0

    def step(self) -> Step | None:
        while self.position < len(self.script):
            entry = self.script[self.position]
            self.position += 1
            if entry is None:
                return None
            strategy, action = entry
            if strategy in self.blocked:
                continue
            if isinstance(action, BaseException):
                raise action
            if callable(action):
                action(self.parameters)
            else:
                self.parameters[0].data = action
            return Step(summary=f"{strategy} at {self.position}", strategy=strategy)
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])


class AgentContract(ABC):
    """The tests that every Agent passes. Derive it and define `make_agent`."""

    @abstractmethod
    def make_agent(self) -> Agent:
        """An agent that answers here, without paying; each call of it makes an equal one."""

    def test_its_identity_is_json_and_that_of_an_equal_agent(self) -> None:
        first, other = (json.dumps(self.make_agent().identity(), sort_keys=True) for _ in "ab")
        assert first == other

    def test_it_changes_no_file_but_its_parameters(self, tmp_path: Path) -> None:
        files = [tmp_path / name for name in ("evaluator.py", "prompt.md")]
        for file in files:
            file.write_text("as it was\n")
        for parameters in ([], [PathParameter(files[1])]):
            result = self.make_agent().run("Go on", AgentContext(tmp_path, parameters))
            assert isinstance(result, AgentResult) and result.tokens >= 0
            assert sorted(tmp_path.iterdir()) == files
            for file in files[: 2 - len(parameters)]:
                assert file.read_text() == "as it was\n"

    def test_an_equal_question_is_asked_once_also_from_several_threads(self) -> None:
        store, agent = InMemoryStore(), self.make_agent()
        store.bind([Parameter("x")])
        store.begin(Manifest(slug="s"))
        with running(Run(Experiment(store))), ThreadPoolExecutor(4) as pool:
            answers = set(pool.map(lambda _: agent.run("Why?").output, range(8)))
        # Those that a Model answers for it are recorded by the Model.
        assert len(answers) == 1 and len({call.id for call in store.calls()}) == 1


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
