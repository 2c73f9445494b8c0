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
    """The tests of `keep` and `kept`, for every Memory. Derive it and define `make_memory`."""

    @abstractmethod
    def make_memory(self, folder: Path, block_after: int = 3) -> Memory:
        """A memory of the lessons in `folder`.

        A second call for a folder gives one that has the lessons learnt in it before.
        """

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
