"""Epochs of several candidates: made side by side, killed, replayed, shared and reviewed."""

from __future__ import annotations

import inspect
import random
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from kills import check_no_process, family, send_kill
from waiting import wait_for

from autopilot.cli.app import SECTIONS
from autopilot.cli.context import CommandGroup
from autopilot.core.records.index import Index
from autopilot.git.repository import Repository
from autopilot.report.collection import collect
from autopilot.tracking.notebook import Notebook
from tests.cli.test_kill import finished, game

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Place
    from tests.cli.test_kill import Game

__all__ = ["finished", "game"]

SEARCH = ("--proposals", "3", "--parents", "2", "--objective", "accuracy")
OPTIONS = ("--accumulate", "2", "--max-epochs", "2", "--seed", "7", *SEARCH)


def story_of(game: Game, slug: str) -> dict[str, Any]:
    names = game.place.git("tag", "--list", f"autopilot/{slug}/*").replace(slug, "SLUG")
    with pytest.MonkeyPatch.context() as patch:  # tags of candidates are no numbers
        patch.setattr(type(game.place), "tags", lambda *_: names.split())
        return game.story(slug)


def told(game: Game, slug: str) -> dict[str, Any]:
    """All that must be the same whatever was killed, and whichever candidate was the first."""
    story = story_of(game, slug)
    log = game.place.git("log", "--format=%T %s", f"main..autopilot/{slug}").replace(slug, "SLUG")
    revisions = [record.pop("revisions", None) for record in story["metrics"]]
    return story | {
        "trees": sorted(log.splitlines()),
        "messages": sorted(story["messages"].splitlines()),
        "line": game.place.git("log", "--first-parent", "--format=%T", f"autopilot/{slug}"),
        "candidates": [[bool(one) for one in each] for each in revisions if each],
    }


def test_any_process_of_a_search_may_be_killed(game: Game) -> None:
    place, began = game.place, time.monotonic()
    assert (done := place.autopilot("run", "game.py", "-e", "whole", *OPTIONS)).code == 0, done
    duration_s, reference = time.monotonic() - began, told(game, "whole")
    origins = {record.get("origin", "") for record in reference["metrics"]}
    assert len(origins) > 2, origins
    chance = random.Random(3)
    for number, who in enumerate(["parent", "all", "one"]):
        slug = f"{who}-{number}"
        process = place.start("run", "game.py", "-e", slug, *OPTIONS)
        time.sleep(chance.uniform(0.2, 0.8) * duration_s)
        others = family(process.pid)
        chance.shuffle(others)
        own = [process.pid] if who != "one" else []
        for pid in own + {"parent": [], "all": others}.get(who, others[:1]):
            send_kill(pid)
        done = place.finish(process)
        check_no_process(process.pid)
        if done.code:
            command = ("resume", slug) if game.exists(slug) else ("run", "game.py", "-e", slug)
            place.run(*command, *(OPTIONS if command[0] == "run" else ()))
        for name, value in told(game, slug).items():
            assert value == reference[name], (slug, name)
        assert place.git("for-each-ref", f"refs/autopilot/{slug}/candidates") == ""
    assert len(place.git("worktree", "list").splitlines()) == 1
    place.git("fsck", "--strict")
    assert place.run("replay", "whole", "--level", "full").code == 0


def test_a_search_in_git_is_read_shared_and_reviewed(place: Place, tmp_path: Path) -> None:
    place.change("counter.py", ("int(x.read_text()) + 1", "int(x.read_text()) + self.proposal[0]"))
    ran = place.run("run", "counter.py", "-e", "demo", "--max-epochs", "3", "--proposals", "3")
    git, branch = place.git, "autopilot/demo"
    line = git("log", "--first-parent", "--format=%s", f"main..{branch}").splitlines()
    assert line == [
        "autopilot(demo): epoch 3: none of 3 candidates is kept",
        "autopilot(demo): epoch 2: add one (candidate 2 of 3)",
        "autopilot(demo): epoch 1: add one (candidate 3 of 3)",
        "autopilot(demo): start counter.py",
    ]
    tips = git("rev-parse", f"{branch}^2", f"{branch}^3", f"{branch}^4").splitlines()
    bodies = [git("show", "-s", "--format=%B", tip) for tip in tips]
    assert ["Autopilot-Candidate: 3" in body for body in bodies] == [False, False, True]
    assert all("Autopilot-Parent: epoch-0002" in body for body in bodies)
    # Each was made from the commit of its state, and the branch's tree is the best state.
    best = git("rev-parse", f"{branch}/epoch-0002")
    assert {git("rev-parse", f"{tip}^") for tip in tips} == {git("rev-parse", f"{best}^{{commit}}")}
    assert git("diff", f"{branch}/epoch-0002", branch) == ""
    assert git("show", f"{branch}:x.txt") == "6"

    logged, back = place.run("log").out, re.compile(r"[0-9a-f]{7} -> rolled back to epoch 2")
    assert back.findall(ran.out) == back.findall(logged) != []
    rows = [row.split()[:2] for row in place.run("log", "-v").out.splitlines()[3:]]
    assert [row for row in rows if row[0] in ("2", "c1", "c2", "c3")][3:7] == [
        ["2", "1.000"],
        ["c1", "0.800"],
        ["c2", "1.000"],
        ["c3", "1.000"],
    ]
    shown = place.run("show", "2", "-c", "1").out
    assert "rejected: candidate 2 is better" in shown
    assert shown.endswith("-4\n+5\n")
    says = ("candidate 4 of epoch 2 does not exist",)
    place.refused("show", "2", "-c", "4", says=says, hints=("choose one of 1 to 3",))

    git("init", "--quiet", "--bare", str(tmp_path / "origin.git"))
    git("remote", "add", "origin", str(tmp_path / "origin.git"))
    git("push", "--quiet", "origin", "main")
    place.run("push", "demo")
    git("clone", "--quiet", str(tmp_path / "origin.git"), str(tmp_path / "clone"), cwd=tmp_path)
    place.run("fetch", cwd=tmp_path / "clone")
    # A clone that has an older state, and has read it, gets what was added.
    assert place.run("log", cwd=tmp_path / "clone").out == place.call("log").out
    place.run("resume", "demo", "--max-epochs", "4")
    place.call("push", "demo")
    place.run("fetch", cwd=tmp_path / "clone")
    each = ["--format=%(refname) %(objectname)", "refs/notes", "refs/tags", f"refs/heads/{branch}"]
    assert git("for-each-ref", *each, cwd=tmp_path / "clone") == git("for-each-ref", *each)
    assert place.run("log", cwd=tmp_path / "clone").out == place.call("log").out
    for level in ("metrics", "full"):
        place.run("replay", "demo", "--level", level, cwd=tmp_path / "clone")
    place.run("propose", "create", "demo")
    review = git("log", "--format=%s", "main..autopilot-review/demo").splitlines()
    assert [subject.partition(" (")[0] for subject in review] == [
        "autopilot(demo): epoch 2: add one",
        "autopilot(demo): epoch 1: add one",
    ]
    assert git("diff", "autopilot-review/demo", branch) == ""


# What lost in epoch 1, beside the candidate that is kept, is what all later ones come to. Each
# evaluation is a line of a file, and draws by chance; from epoch 2 on, steps wait while `wait` is.
BACK = """\
import random, time
from pathlib import Path

from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step

BESIDE = Path({beside!r})


class Back(Optimizer):
    def step(self):
        (x,), level = self.parameters, int(self.parameters[0].read_text())
        while level > 1 and (BESIDE / "wait").exists():
            (BESIDE / "ready").touch()
            time.sleep(0.01)
        x.write_text("2" if level > 1 or self.proposal[0] == 1 else "3")
        return Step("back", "back")


class Levels(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.x = PathParameter("x.txt")

    def forward(self, batch):
        level, luck = int(self.x.read_text()), random.random()
        with open(BESIDE / "seen", "a") as seen:
            seen.write(f"{{level}}\\n")
        passed = [level > item.metadata["at"] for item in batch.items]
        return Datum(items=[Datum(success=each, metrics={{"luck": luck}}) for each in passed])

    def configure_optimizers(self):
        return Back(self.parameters())

    def val_dataloader(self):
        return DataLoader([{{"id": f"i{{at}}", "at": at}} for at in range(1, 6)], 5)
"""
_RUN = ("run", "back.py", "--proposals", "2", "--seed", "3", "--max-epochs")


@pytest.fixture
def back(place: Place) -> Place:
    place.write("back.py", BACK.format(beside=str(place.top.parent)))
    place.commit()
    return place


def lost_again(place: Place, slug: str) -> list[Any]:
    """The scores of each epoch, and of those that have another's results, whose these are."""
    records = [r for r in place.judged(slug) if "revisions" in r or not r["epoch"]]
    return [(r["metrics"], r.get("reused"), r.get("reused_candidate", 0)) for r in records]


def test_a_state_that_lost_is_not_measured_again(back: Place) -> None:
    place, beside = back, back.top.parent
    place.run(*_RUN, "3", "-e", "whole")
    scores = lost_again(place, "whole")
    assert [whose for _, *whose in scores] == [[None, 0], [None, 0], [1, 1], [1, 1]]
    of_loser = next(r for r in place.judged("whole") if r["id"] == "1-c1-val")
    assert of_loser["verdict"] == "rejected"
    assert scores[2][0] == scores[3][0] == of_loser["metrics"] != scores[1][0]
    assert place.read("../seen").split().count("2") == 1

    # Another run, of which all processes are killed, goes on in the same way, without its index.
    (beside / "wait").touch()
    process = place.start(*_RUN, "3", "-e", "other", "--no-cache")
    wait_for((beside / "ready").exists)
    for pid in [process.pid, *family(process.pid)]:
        send_kill(pid)
    place.finish(process)
    (beside / "wait").unlink()
    index = place.top / ".git/autopilot/other.index"
    index.unlink(missing_ok=True)
    place.run("resume", "other")
    assert lost_again(place, "other") == scores
    assert place.read("../seen").split().count("2") == 2
    place.run("log", "other")
    kept = index.read_bytes()
    index.unlink()
    place.run("log", "other")
    assert Index.decode(index.read_bytes()) == Index.decode(kept)

    shown = place.call("show", "2", "-e", "whole").out
    assert "the same state as candidate 1 of epoch 1 (rejected), not evaluated again" in shown
    assert "val items: 4 of 5 failed; against epoch 1: 0 fixed, 1 broken" in shown
    assert place.call("show", "2", "-e", "whole", "--json").document["reused_candidate"] == 1
    for level in ("metrics", "full"):
        place.run("replay", "whole", "--level", level, "--epochs", "0-3", "--tolerance", "luck=0")


def test_what_an_older_version_measured_twice_is_measured_twice_in_a_replay(back: Place) -> None:
    older = "if (BESIDE / 'older').exists():\n    in_progress.Draft.measured = ''"
    back.change(
        "back.py",
        ("class Back", f"from autopilot.core import in_progress\n\n{older}\n\n\nclass Back"),
    )
    (back.top.parent / "older").touch()
    back.run(*_RUN, "2", "-e", "older")
    assert [whose for _, *whose in lost_again(back, "older")] == [[None, 0]] * 3
    (back.top.parent / "older").unlink()
    back.run("replay", "older", "--level", "full", "--tolerance", "luck=0")


LETTERS = """\
import time

from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step


class Letter(Optimizer):
    def step(self):
        letter = "abcd"[self.proposal[0] - 1]
        self.parameters[0].write_text(self.parameters[0].read_text() + letter)
        return Step(f"add {letter}", letter)


class Words(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.word = PathParameter("x.txt")

    def forward(self, batch):
        word = self.word.read_text()
        time.sleep(0.1)
        passed = [x.metadata["at"] in word and len(word) <= 2 for x in batch.items]
        return Datum(items=[Datum(success=each, feedback="more") for each in passed])

    def configure_optimizers(self):
        return Letter(self.parameters())

    def val_dataloader(self):
        return DataLoader([{"id": at, "at": at} for at in "abcd"], 4)
"""


def taking_epochs() -> set[str]:
    """All commands with an argument or an option that is an epoch or a state."""
    found, left = set[str](), [(e.name, e.load()) for part in SECTIONS.values() for e in part]
    while left:
        path, command = left.pop()
        if isinstance(command, CommandGroup):
            command = command.commands
        if not callable(command):
            left += [(f"{path} {name}".strip(), each) for name, each in command.items()]
            continue
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            for each in getattr(parameter.annotation, "__metadata__", ()):
                made = each(parameter.name) if inspect.isfunction(each) else each
                parts = (getattr(made, part, "") for part in ("shown", "metavar", "help"))
                if re.search(r"\bEPOCH\b|A number, best|Which epochs", " ".join(map(str, parts))):
                    found.add(path)
    return found


def all_take_it(place: Place, state: str) -> None:
    """Every command that takes an epoch takes the name of a candidate that stays."""
    says = {
        "show": f"(tag: autopilot/demo/{state})",
        "diff": "+b",
        "store diff": "-b",
        "policy check": "candidate 2 of epoch 1 ",
        "policy explain": "candidate 2 of epoch 1 by ",
        "optimize validate": "demo candidate 2 of epoch 1, val: ",
        "optimize test": "demo candidate 2 of epoch 1 has no test split",
        "trace collect": '"id": "b"',
        "promote plan": "demo, candidate 2 of epoch 1 -> main",
        "promote execute": "candidate 2 of epoch 1",
        "store branch": "fork: forked from demo, candidate 2 of epoch 1",
        "store promote": f"promote execute demo --epoch {state}",
        "experiment decide": f"promote execute demo --epoch {state}",
        "replay": "a replay measures the best state of an epoch only",
    }
    words = {"store branch": ("demo", "fork", "--from"), "replay": ("demo", "--epochs")}
    words["experiment decide"] = ("demo", "promote", "--epoch")
    words["promote execute"] = ("--dry-run", "demo")
    assert taking_epochs() - {"store checkout"} == says.keys()
    for path, text in says.items():
        done = place.autopilot(*path.split(), *words.get(path, ("demo",)), state)
        assert text in done.out + done.err, (path, done)
    assert collect(Notebook(Repository.discover(place.top), "demo")).forks == [("fork", 1, 2)]
    place.call("experiment", "delete", "fork", "--yes")


def test_states_that_stay_are_named_as_epochs_are(place: Place, tmp_path: Path) -> None:
    place.write("words.py", LETTERS)
    place.write("x.txt", "")
    place.commit()
    search = ("--proposals", "3", "--parents", "2", "--select", "frontier", "--max-epochs", "2")
    place.run("run", "words.py", "-e", "demo", *search)
    git, tags = place.git, "refs/tags/autopilot/demo"
    there = {name: git("rev-parse", f"{name}^{{commit}}") for name in git("tag").splitlines()}
    stay = sorted(name.rpartition("/")[2] for name in there if "-c" in name)
    assert stay[:2] == ["epoch-0001-c2", "epoch-0001-c3"], stay
    assert not list((place.top / ".git/autopilot").glob("demo/**/*"))
    # Its time is that of its own process, which measured it ahead of the loop.
    for number in ("1", "2", "3"):
        cost = place.call("show", "1", "-c", number, "--json").document["cost"]
        assert 0.1 < cost["seconds"] < 60 and cost["evaluations"] == 4, cost
    # By its tag and by its commit, as an epoch is.
    commit = there["autopilot/demo/epoch-0001-c2"]
    for name in ("epoch-0001-c2", "autopilot/demo/epoch-0001-c2", commit[:8]):
        shown = place.call("show", name)
        assert "(tag: autopilot/demo/epoch-0001-c2)" in shown.out and "add b" in shown.out, shown
    all_take_it(place, "epoch-0001-c2")
    place.call("store", "checkout", "demo", "epoch-0001-c3")
    assert place.read("x.txt") == "c"
    assert "as in candidate 3 of epoch 1" in place.call("store", "status", "demo").out
    assert "-b\n" in place.call("diff", "demo", "epoch-0001-c2", "epoch-0001-c3").out
    git("checkout", "--quiet", "x.txt")
    planned = place.call("promote", "plan", "demo", "epoch-0001-c2", "--into", "main").out
    assert "demo, candidate 2 of epoch 1 -> main, squash" in planned
    assert "--epoch epoch-0001-c2 " in planned
    says = ("candidate 7 of epoch 1 does not exist",)
    place.refused("show", "epoch-0001-c7", says=says, hints=("choose one of 1 to 3",))

    # A tag that lies is named; one that is gone is made again.
    git("update-ref", f"{tags}/epoch-0001-c2", git("rev-parse", f"{tags}/epoch-0001-c3"))
    git("tag", "autopilot/demo/epoch-0002-c9", "main")
    found = place.autopilot("replay", "demo", "--epochs", "0").out
    assert "tag of candidate 2" in found and "git tag -d autopilot/demo/epoch-0001-c2" in found
    assert "epoch-0002-c9" in found and "candidate 9 was rejected" in found, found
    says = f"autopilot/demo/epoch-0001-c2 is on {there['autopilot/demo/epoch-0001-c3'][:7]}"
    assert f"{says}, its candidate on {commit[:7]}" in place.call("gc", "--dry-run").err
    gone = ["autopilot/demo/epoch-0001-c2", "autopilot/demo/epoch-0002"]
    git("tag", "-d", "autopilot/demo/epoch-0002-c9", *gone)
    assert place.call("gc", "--json").document["tags"] == {"demo": [1, 2]}
    git("tag", "-d", "autopilot/demo/epoch-0001-c3")
    git("init", "--quiet", "--bare", str(tmp_path / "origin.git"))
    git("remote", "add", "origin", str(tmp_path / "origin.git"))
    assert "made again from the records: 1 tag" in place.call("push", "demo").out
    again = {name: git("rev-parse", f"{name}^{{commit}}") for name in git("tag").splitlines()}
    assert again == there
    assert git("ls-remote", "origin", "refs/tags/*").count("^{}") == len(there)
    place.call("replay", "demo", "--epochs", "0")
    git("fsck", "--strict")

    # A shallow clone with refs as plain git brings them names what it lacks, and goes on with it.
    git("push", "--quiet", "origin", "main")
    clone, url = tmp_path / "clone", (tmp_path / "origin.git").as_uri()
    git("clone", "--quiet", "--depth=1", "--branch=main", url, str(clone))
    parts = [f"+refs/{name}/*:refs/{name}/*" for name in ("notes", "tags", "heads/autopilot")]
    git("fetch", "--quiet", "--depth=2", "origin", *parts, cwd=clone)
    says = "error: this clone is shallow: it lacks commits of autopilot/demo after"
    for command in ("log", "resume", "distill"):
        done = place.autopilot(command, "demo", cwd=clone)
        assert done.code == 1 and done.error.startswith(says), done
        assert done.hint.strip() == "hint: git fetch --unshallow, or: autopilot fetch demo", done
    assert place.autopilot("status", cwd=clone).code == 0
    git("fetch", "--quiet", "--unshallow", cwd=clone)
    for command in ("status", "log"):
        there = place.run(command, "--json", cwd=clone).document
        here = place.run(command, "--json").document
        name = "experiments" if command == "status" else "log"
        assert there[name] == here[name]
    place.call("experiment", "delete", "demo", "--yes")
    assert git("for-each-ref", "refs/tags", "refs/notes", "refs/autopilot") == ""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--proposals", "2", "--parents", "3"), "3 parents for 2 proposals"),
        (("--select", "worst"), "--select: 'worst' is no selection"),
        (("--select", "beam:0"), "--select beam:0"),
        (
            ("--proposals", "2", "--keep-states", "some"),
            "--keep-states some is no number of states",
        ),
        (("--proposals", "0"), "--proposals"),
        (("--proposals", "2", "--jobs", "-1"), "--jobs"),
        (("--parents", "-2"), "--parents"),
        (("--proposals", "2", "--keep-states", "-1"), "--keep-states -1"),
        # It is imported from the checkout that is worked in.
        (("--proposals", "2", "--select", "counter:Raise"), "--select counter:Raise: "),
        (("--strategies", "worst"), "--strategies: 'worst' is no selection"),
        (("--strategies", "bandit"), "--strategies bandit: Raise goes by no ranking"),
        (("--strategies", "beam:2"), "--strategies beam:2: Raise goes by no ranking"),
        (("--strategies", "frontier"), "--strategies: 'frontier' is no selection"),
    ],
)
def test_a_search_that_cannot_work_is_refused(
    place: Place, options: tuple[str, ...], says: str
) -> None:
    done = place.autopilot("run", "counter.py", *options)
    assert (done.code, says in done.err) == (2, True), done
    assert place.git("for-each-ref", "refs/heads/autopilot", "refs/notes") == ""


def test_what_ends_a_candidate_is_said_once(place: Place) -> None:
    own = 'x.write_text(f"{int(x.read_text()) + 1}\\n")'
    place.change("counter.py", (own, 'raise ValueError("broken")'))
    done = place.autopilot("run", "counter.py", "--proposals", "2")
    assert (done.code, done.err.count("ValueError: broken"), done.err.count("Traceback")) == (
        *(1, 2),  # where, and in the error's line
        1,
    ), done
    place.change("counter.py", ("ValueError", "ConnectionError"))
    done = place.autopilot("run", "counter.py", "--proposals", "2", "--max-wait", "0")
    assert (done.code, "Traceback" in done.err, "no answer" in done.err) == (1, False, True), done


# A state is a word; an item asks for one letter. Longer words pass more and are larger.
WORDS = """\
from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step


class Letter(Optimizer):
    def step(self):
        letter = "abcd"[(self.proposal[0] - 1) % 4]
        word = self.parameters[0].read_text().strip()
        self.parameters[0].write_text((letter if len(word) > 1 else word + letter) + "\\n")
        return Step(f"take {letter}", letter)


class Words(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.word = PathParameter("word.txt")

    def forward(self, batch):
        word = self.word.read_text().strip()
        return Datum(items=[self.score(item.metadata["at"], word) for item in batch.items])

    def score(self, letter, word):
        return Datum(success=letter in word, metrics={"size": len(word)}, feedback=letter)

    def configure_optimizers(self):
        return Letter(self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": at, "at": at} for at in "abcd"], 4)

    val_dataloader = train_dataloader
"""


def test_the_frontier_is_over_items_and_objectives_and_read_without_the_target(
    place: Place, tmp_path: Path
) -> None:
    place.write("words.py", WORDS)
    place.write("word.txt", "a\n")
    place.commit()
    objectives = ("--objective", "accuracy", "--objective", "size:min")
    search = ("--proposals", "4", "--parents", "3", "--keep-states", "2", *objectives)
    done = place.run("run", "words.py", "-e", "demo", "--max-epochs", "2", *search)
    assert "accuracy decides: higher is better; objectives: accuracy (higher is" in done.out
    # One row an epoch, and with -v each candidate; at most two stay beside the best one.
    log = [row.split() for row in place.run("log").out.splitlines()[3:]]
    assert [row[0] for row in log] == ["0", "1", "2"]
    rows = place.run("log", "-v", "--json").document["log"]
    each = {(row["epoch"], row["candidate"]): row for row in rows if not row["candidates"]}
    assert [at for at in each if at[0] == 2] == [(2, number) for number in range(1, 5)]
    assert {row["origin"] for at, row in each.items() if at[0] == 2} == {
        *("epoch-0000", "epoch-0001-c3", "epoch-0001-c4"),
    }
    stay = [row for at, row in each.items() if row["verdict"] == "kept" and at != (1, 2)]
    assert [row["tag"] for row in stay] == [
        f"autopilot/demo/epoch-000{number}" for number in ("1-c3", "1-c4", "2-c3", "2-c4")
    ]
    # The best one's state has the epoch's tag, which is on another commit.
    won, joint = each[1, 2], place.git("rev-parse", "--short=7", "autopilot/demo/epoch-0001^{}")
    first = place.run("show", "1", "-c", "2").out.splitlines()[0]
    assert (first, won["tag"]) == (f"commit {won['commits'][-1]}", None)
    shown = place.run("show", "1").out.splitlines()[0]
    assert shown == f"{first} (tag: autopilot/demo/epoch-0001, on {joint} with the same files)"
    shown = place.run("show", "2", "-c", "3").out
    assert "(tag: autopilot/demo/epoch-0002-c3)\n" in shown
    assert "\nMade:     candidate 3, from epoch-0001-c4\n" in shown
    assert "\nMade:     candidate 3 of 4, from epoch-0001-c4\n" in place.run("show", "2").out

    # A clone whose target cannot even be imported lists the same.
    told = place.run("log", "--frontier").out
    lines = told.splitlines()[2:]
    assert re.split("  +", lines[0]) == [
        *("state", "val accuracy", "val size (lower is better)", "best at (of 4)", "commit")
    ]
    assert [row.split()[:4] for row in lines[1:-1:3]] == [
        ["epoch-0001", "0.500", "2.000", "2"],
        ["epoch-0000", "0.250", "1.000", "1"],
    ]
    assert lines[-1].startswith("6 of 6 states: no other one is as good on all items and objectiv")
    place.git("clone", "--quiet", "--bare", str(place.top), str(tmp_path / "origin.git"))
    place.git("push", "--quiet", str(tmp_path / "origin.git"), "refs/notes/*:refs/notes/*")
    clone = tmp_path / "clone"
    place.git("clone", "--quiet", str(tmp_path / "origin.git"), str(clone), cwd=tmp_path)
    place.run("fetch", cwd=clone)
    (clone / "words.py").unlink()
    assert place.run("log", "--frontier", cwd=clone).out == told
    assert place.run("replay", "demo", "--level", "full").code == 0
    done = place.autopilot("log", "--frontier", "-n", "3")
    assert (done.code, done.error) == (2, "error: --frontier and -n do not go together")


@pytest.mark.parametrize(
    ("options", "says", "hints"),
    [
        (("seconds",), "whether a higher or a lower 'seconds' is", "--objective seconds:min, or"),
        (("accuracy:min",), "and 'accuracy' decides: higher is better", "--mode min turns both"),
        (("size", "val_size"), "the objective 'size' is given twice", "leave one out"),
        (("speed",), "no val item has the objective 'speed'", "one of: accuracy, size"),
    ],
)
def test_an_objective_that_cannot_work_is_refused(
    place: Place, options: tuple[str, ...], says: str, hints: str
) -> None:
    place.write("words.py", WORDS)
    place.write("word.txt", "a\n")
    place.commit()
    given = [word for each in options for word in ("--objective", each)]
    place.refused("run", "words.py", *given, says=(says,), hints=(hints,), code=2)
