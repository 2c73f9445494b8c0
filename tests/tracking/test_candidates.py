"""Candidates in git: two states are merged, and the best one comes from one that was not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from checkouts import make_checkout

from autopilot import (
    AutoPilotModule,
    ConfigParameter,
    DataLoader,
    Datum,
    Experiment,
    GitStore,
    InMemoryStore,
    Optimizer,
    PathParameter,
    Range,
    Step,
    Trainer,
)
from autopilot.core.records.record import Manifest
from autopilot.core.search import SearchLoop
from autopilot.core.selection import BestSelection, Pool, State
from autopilot.core.store import Side
from autopilot.git.repository import Repository
from autopilot.tracking.attribution import lineage
from autopilot.tracking.notebook import Notebook

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random


@pytest.mark.parametrize("kind", [InMemoryStore, GitStore])
def test_two_states_are_combined_line_by_line_and_key_by_key(
    kind: type[InMemoryStore | GitStore],
    git_environment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text, pair = "1\n2\n3\n4\n5\n", '{"a": 1, "b": 1}\n'
    top = make_checkout(tmp_path / "repo", {"rules/a.txt": text, "pair.json": pair})
    monkeypatch.chdir(top)
    spaces = {"a": Range(1, 9), "b": Range(1, 9)}
    parameters = [PathParameter("rules"), ConfigParameter("pair.json", spaces)]
    store = kind("demo")
    store.bind(parameters)
    base = store.begin(Manifest(slug="demo"))

    def state(number: int, **files: str) -> str:
        """The revision of a state that was made from the first one."""
        store.enter(Side(1, number, base))
        store.restore(base)
        for name, content in files.items():
            place = "pair.json" if name == "pair" else f"rules/{name}.txt"
            (top / place).write_text(content)
        return store.commit(store.state(), f"state {number}", [])

    ours = state(1, a="one\n2\n3\n4\n5\n", pair='{"a": 4, "b": 1}\n')
    theirs = state(2, a="1\n2\n3\n4\nfive\n", pair='{"a": 1, "b": 7}\n', c="new\n")
    third = state(3, a="uno\n2\n3\n4\n5\n")
    fourth = state(4, pair='{"a": 5, "b": 1}\n')
    same = state(5, a="one\n2\n3\n4\n5\n")

    def combined(one: str, other: str) -> tuple[str, bool]:
        return store.combine(Side(2, 1, one, theirs=other, ancestor=base))

    store.enter(None)
    made, conflicts = combined(ours, theirs)
    assert (bool(made), conflicts) == (True, False)
    store.restore(third)
    store.place(made)
    found = {path.name: path.read_text() for path in (*top.glob("rules/*"), top / "pair.json")}
    assert found == {
        "a.txt": "one\n2\n3\n4\nfive\n",
        "c.txt": "new\n",
        "pair.json": '{"a": 4, "b": 7}\n',
    }
    assert store.state() == made
    # The same line, or the same key; and one that the other has whole.
    assert combined(ours, third) == combined(ours, fourth) == ("", True)
    assert combined(ours, same) == combined(same, ours) == ("", False)
    store.close()


class Line(Optimizer):
    """The first proposal adds x to the first line, the second y to the last."""

    def step(self) -> Step:
        text, (number, _) = self.parameters[0], self.proposal
        assert isinstance(text, PathParameter)
        lines = text.read_text().splitlines()
        lines[-(number - 1)] += "xy"[number - 1]
        text.write_text("\n".join(lines) + "\n")
        return Step(f"line {number}", f"line-{number}")


class Words(AutoPilotModule):
    def __init__(self) -> None:
        super().__init__()
        self.text = PathParameter("words.txt")

    def forward(self, batch: Datum) -> Datum:
        text = self.text.read_text()
        passed = [text.count(item.metadata["at"]) == 1 for item in batch.items]
        return Datum(items=[Datum(success=each, feedback="more") for each in passed])

    def configure_optimizers(self) -> Line:
        return Line(self.parameters())

    def val_dataloader(self) -> DataLoader:
        return DataLoader([{"id": at, "at": at} for at in "xy"], 2)


class SecondFirst(BestSelection):
    def choose(self, pool: Pool, count: int, chance: Random) -> list[State]:
        return [state for state in pool.ranked() if state.name.endswith("-c2")] or pool.ranked()


def test_the_best_state_comes_from_a_candidate_that_was_not_the_best(
    git_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = make_checkout(tmp_path / "repo", {"words.txt": "1\n2\n3\n"})
    monkeypatch.chdir(top)
    experiment = Experiment(GitStore("demo", top, in_place=False))
    loop = SearchLoop(2, 1, SecondFirst(), keep=None)
    Trainer(experiment=experiment, loop=loop, measure_noise=False).fit(Words(), max_epochs=2)
    experiment.close()
    notebook = Notebook(Repository.discover(top), "demo")
    assert experiment.record_of(2).origin == "epoch-0001-c2"
    line = lineage(notebook)
    assert [(epoch.number, epoch.record.candidate) for epoch in line] == [(0, 0), (1, 2), (2, 1)]
    # So its edit is taken for that of the epoch, by reviews, blame and distill.
    changes = [notebook.change(number).splitlines()[-1] for number in (1, 2)]
    assert changes == ["+3y", " 3y"], changes
