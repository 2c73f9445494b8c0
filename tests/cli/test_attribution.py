"""blame and bisect: which epoch wrote a line, and which one broke an item."""

from __future__ import annotations

import json
import re
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from checkouts import commit_all
from experiments import git, make, top

from autopilot import (
    AutoPilotModule,
    DataLoader,
    Datum,
    Experiment,
    GitStore,
    Optimizer,
    PathParameter,
    Step,
    Trainer,
)
from autopilot.cli.main import AutoPilotCLI
from autopilot.cli.pages.proposal import body
from autopilot.core.search import SearchLoop
from autopilot.core.selection import Selection
from autopilot.git.commits import commit, read_commit
from autopilot.git.objects import tree_of
from autopilot.review.changes import ParameterHistory
from autopilot.review.proposals import propose
from autopilot.tracking.attribution import bisect, blame, lineage
from autopilot.tracking.notebook import Notebook
from tests.cli.test_trace import walked

if TYPE_CHECKING:
    from pathlib import Path

    from autopilot.git.repository import Repository
    from tests.cli.conftest import Place

__all__ = ["top", "walked"]


def lines(*changed: tuple[int, str]) -> str:
    own = dict(changed)
    return "".join(f"{own.get(n, n)}\n" for n in range(10))


def test_each_line_belongs_to_the_kept_epoch_that_wrote_it(top: Path) -> None:
    first = (2, "two, by epoch 1")
    notebook = make(
        top,
        epochs=[
            ({"b.txt": lines(first)}, 0.5),
            # Rejected: its rollback wrote the old lines once more, and owns none of them.
            ({"b.txt": lines((2, "no"), (5, "no"))}, 0.4),
            ({"b.txt": lines(first, (7, "seven, by epoch 3"))}, 0.75),
        ],
    )
    found = blame(notebook, "rules/b.txt")
    assert "".join(f"{line.text}\n" for line in found) == lines(first, (7, "seven, by epoch 3"))
    owners = {line.number: line.epoch.number for line in found if line.epoch is not None}
    assert owners == {3: 1, 8: 3}
    base = git(top, "rev-parse", "HEAD")
    assert {line.commit for line in found if line.epoch is None} == {base}
    assert {line.commit for line in found if line.epoch} == {notebook.after(1), notebook.after(3)}


def test_the_commands_say_it_to_people_and_programs(
    walked: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    def ask(*words: str) -> tuple[int, str]:
        code = AutoPilotCLI().run(["-C", str(walked.top), *words])
        out, err = capfd.readouterr()
        return code, out or err

    assert ask("blame", "x.txt")[1].splitlines()[1].split()[1:] == ["4", "+0.400", "1", "5"]
    assert json.loads(ask("blame", "x.txt", "--json")[1])["lines"][0]["epoch"] == 4
    code, out = ask("blame", "nothing.txt")
    assert (code, "is no file in the best state" in out) == (1, True)

    # Epoch 2 broke i2 and was rejected: no kept epoch did.
    assert "none broke it" in ask("bisect", "--item", "i2")[1]
    assert "never passed" in ask("bisect", "--item", "i5")[1]
    code, out = ask("bisect", "--item", "i99")
    assert (code, "some items: i1" in out) == (1, True)
    assert ask("bisect")[0] == 2


def test_the_epoch_that_broke_an_item_is_the_one_after_it_was_last_good(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    place.write("x.txt", "2\n")
    place.change(
        "counter.py",
        ("int(self.x.read_text()) > item.metadata", "str(item.metadata"),
        ('["at"]', '["at"]) in self.x.read_text()'),
        (
            'f"{int(x.read_text()) + 1}\\n"',
            "{'2': '13', '13': '123', '123': '1345'}[x.read_text().strip()]",
        ),
    )
    place.run("run", "counter.py", "-e", "demo", "--max-epochs", "3")
    # Broken in epoch 1, mended in epoch 2, and broken for good in epoch 3.
    found = place.run("bisect", "--item", "i2", "--json").document
    assert [found[at]["epoch"] for at in ("good", "bad")] == [2, 3]
    assert [found[at]["result"]["success"] for at in ("good", "bad")] == [True, False]
    out = place.run("bisect", "--item", "i2").out
    assert out.startswith("epoch 3 broke i2\n")
    assert "it says: raise it\n" in out
    assert out.endswith("see the change: autopilot show demo 3\n")


class Coins(AutoPilotModule):
    """The step mends all items but two, which pass as it is listed, one list a measurement."""

    def __init__(self, top, fair, own):
        super().__init__()
        self.word = PathParameter(top / "word.txt")
        self.fair, self.own = iter(fair), iter(own)

    def forward(self, batch):
        is_mended = self.word.read_text() != "a"
        passed = {"fair": next(self.fair), "own": next(self.own)}
        return Datum(items=[Datum(success=passed.get(x.id, is_mended)) for x in batch.items])

    def configure_optimizers(self):
        return Grow(self.parameters())

    def val_dataloader(self):
        return [[{"id": each} for each in ["fair", "own", *map(str, range(12))]]]


@pytest.mark.parametrize(
    ("fair", "own", "repeat", "chance"),
    [
        ([1, 1, 1], [1, 1, 0], 1, ""),
        # Another item differs; and the item itself, in the second measurement of the baseline.
        ([1, 0, 1], [1, 1, 0], 1, "measured again, the baseline was another: 1 of 14 items differ"),
        (
            *([1, 1, 1], [1, 0, 0], 1),
            "it passed in 1 of 2 measurements of epoch 0 and in 0 of 1 measurements of epoch 1",
        ),
        # Two measurements of each state, the first one last: it says that the item broke.
        (
            *([1, 1, 1, 1], [1, 1, 1, 0], 2),
            "it passed in 2 of 2 measurements of epoch 0 and in 1 of 2 measurements of epoch 1",
        ),
    ],
)
def test_chance_that_may_have_broken_an_item_is_said(
    repository: Repository,
    fair: list[int],
    own: list[int],
    repeat: int,
    chance: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    top = repository.workdir
    (top / "word.txt").write_text("a")
    commit_all(top)
    with closing(Experiment(GitStore("coins", top))) as experiment:
        module = Coins(top, map(bool, fair), map(bool, own))
        Trainer(experiment=experiment, repeat=repeat).fit(module, max_epochs=1)
    found = bisect(Notebook(repository, "coins"), "own")
    assert (found.good.number, found.bad.number, found.chance) == (0, 1, chance)
    assert AutoPilotCLI().run(["-C", str(top), "bisect", "--item", "own"]) == 0
    said = capfd.readouterr().out.splitlines()
    assert (f"chance may have broken it: {chance}" in said) == bool(chance)


def test_steps_that_earn_their_place_are_told_from_those_that_do_not(place: Place) -> None:
    # Each epoch writes a line of its own; "c" brings nothing any more once "d" is there.
    place.write("x.txt", "1\n\n\n\n\n\n\n\n\n")
    place.change(
        "counter.py",
        ("int(self.x.read_text()) > item.metadata", "str(item.metadata"),
        ('["at"]', '["at"]) in self.x.read_text()'),
        (
            'x.write_text(f"{int(x.read_text()) + 1}\\n")',
            "lines = x.read_text().splitlines()\n"
            "        at = 2 * sum(map(bool, lines[::2]))\n"
            "        lines[at] = {2: '2', 4: '3', 6: '3 4', 8: '5'}[at]\n"
            "        x.write_text('\\n'.join(lines) + '\\n')",
        ),
    )
    place.run("run", "counter.py", "-e", "demo", "--max-epochs", "4")
    refs = place.git("for-each-ref")
    found = place.run("distill", "demo", "--json").document
    assert [(s["epoch"], s["difference"], s["earns"]) for s in found["steps"]] == [
        (1, pytest.approx(0.2), True),
        (2, 0, False),
        (3, pytest.approx(0.2), True),
        (4, pytest.approx(0.2), True),
    ]
    assert (found["value"], found["steps"][0]["value"], found["made"]) == (1.0, 0.8, None)
    assert place.git("for-each-ref") == refs
    done = place.run("distill", "--apply", "-e", "small")
    assert "3 of 4 steps earn their place" in done.out
    assert "made small: val accuracy 1.000 -> 1.000" in done.out
    place.run("propose", "create", "small")
    log = place.git("log", "--format=%s", "main..autopilot-review/small")
    assert len(log.splitlines()) == 3
    assert place.git("show", "autopilot-review/small:x.txt").split() == ["1", "2", "3", "4", "5"]
    place.run("replay", "small")
    place.git("fsck", "--strict")


class Worst(Selection):
    """The state with the lowest value, the youngest of several."""

    reads_scores = reads_trials = False

    def choose(self, pool, count, chance):
        return pool.ranked()[-count:]


class Grow(Optimizer):
    def step(self):
        word = self.parameters[0]
        letters = ["ab", ""][self.proposal[0] - 1]
        word.write_text("c" if not letters else word.read_text() + letters)
        return Step(f"take {letters or 'c'}", letters or "c")


class Word(AutoPilotModule):
    def __init__(self, top):
        super().__init__()
        self.word = PathParameter(top / "word.txt")

    def forward(self, batch):
        word = self.word.read_text()
        passed = [(item.metadata["at"], item.metadata["at"] in word) for item in batch.items]
        return Datum(items=[Datum(success=x, feedback=f"take {at}") for at, x in passed])

    def configure_optimizers(self):
        return Grow(self.parameters())

    def val_dataloader(self):
        return DataLoader([{"id": at, "at": at} for at in "abcd"], 4)


def test_the_line_of_the_best_state_goes_through_a_state_that_stood_beside_the_best(repository):
    top = repository.workdir
    (top / "word.txt").write_text("a")
    commit_all(top)
    loop = SearchLoop(2, 1, Worst(), None)
    with closing(Experiment(GitStore("words", top))) as experiment:
        Trainer(experiment=experiment, loop=loop).fit(Word(top), max_epochs=2)
    notebook = Notebook(repository, "words")
    line = [(each.number, each.record.candidate, each.value) for each in lineage(notebook)]
    assert line == [(0, 0, 0.25), (1, 2, 0.25), (2, 1, 0.75)]
    # The same of a notebook that has read all epochs before.
    other = Notebook(repository, "words")
    assert [each.value for each in other.epochs] == [0.25, 0.5, 0.75]
    assert [each.value for each in lineage(other)] == [0.25, 0.25, 0.75]
    assert [each.value for each in other.epochs] == [0.25, 0.5, 0.75]

    proposal = propose(notebook, "main")
    shown = git(top, "log", "-p", "--format=%s", "main..autopilot-review/words")
    lines = [x for x in shown.splitlines() if re.match(r"[-+]\w|autopilot", x)]
    assert lines == [
        "autopilot(words): epoch 2: take ab (val accuracy 0.250 -> 0.750)",
        *("-c", "+cab"),
        "autopilot(words): epoch 1: take c (val accuracy 0.250 -> 0.250)",
        *("-a", "+c"),
    ]
    rows = [line for line in body(notebook, proposal).splitlines() if line.startswith("| 1 |")]
    assert rows[0].startswith("| 1 | 0.250 | +0.000 | take c | c |")
    assert [each.epoch.number for each in blame(notebook, "word.txt")] == [2]
    broken = bisect(notebook, "a")
    assert (broken.good.number, broken.bad) == (2, None)
    # A branch with the other candidate of epoch 1 does not have the state that this line goes by.
    history, candidate = ParameterHistory(notebook), proposal.commits[0][1]
    assert history.merged_into(candidate).epoch == 1
    text = read_commit(repository, candidate).message
    winner = Notebook(repository, "words").after(1)
    other_text = text.replace(notebook.after(1), winner)
    assert other_text != text
    main, tree = repository.resolve("main"), tree_of(repository, winner)
    made = commit(repository, tree=tree, parents=[main], message=other_text)
    assert history.merged_into(made).epoch is None
