"""A run that is killed, interrupted or crashes goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from checkouts import copy_checkout
from kills import WHO, check_nothing_left, kills, without_notes

from tests.cli.conftest import Place, prepare_commands

if TYPE_CHECKING:
    from tests.cli.conftest import Done

# Chance everywhere, an optimizer and a callback with state, several steps an epoch, new files,
# steps that change nothing and states that come again; each evaluation is one line of a log.
WALK = """\
import os
import random

from autopilot import (
    AutoPilotModule, Callback, DataLoader, Datum, Mean, Optimizer, PathParameter, Step,
)
from autopilot.core.run import current_run


class Walk(Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters)
        self.count, self.lowest, self.seen = 0, float("inf"), []

    def step(self):
        x, rules = self.parameters
        self.count += 1
        value = int(x.read_text())
        self.lowest = min(self.lowest, value)
        asked = len(x.grad.render()) if x.grad else 0
        self.seen = [*self.seen, asked][-3:]
        if os.environ.get("CRASH") == f"step {self.count}":
            x.write_text("half done\\n")
            raise RuntimeError("no luck today")
        if self.count % 7 == 0:
            return Step("rest", "rest")
        name = random.choice(["up", "up", "up", "down", "far"])
        value += {"up": 1, "down": -1, "far": random.randrange(-4, 5)}[name]
        x.write_text(f"{value}\\n")
        if self.count % 5 == 0:
            rules.write_text(f"{sum(self.seen)} {self.lowest}\\n", f"rule {self.count % 3}.txt")
        return Step(f"{name} to {value}", name, f"{asked} characters of feedback")

    def state_dict(self):
        limits = {"upper": float("inf"), "lower": float("nan")}
        return {"count": self.count, "lowest": self.lowest, "seen": self.seen, **limits}

    def load_state_dict(self, state):
        self.count, self.lowest, self.seen = state["count"], state["lowest"], state["seen"]
        assert state["upper"] > 10**9 and state["lower"] != state["lower"]


class Fatigue(Callback):
    rejected = 0

    def on_fit_start(self, trainer, module):
        module.fatigue = self.rejected

    def on_verdict(self, trainer, module, decision):
        self.rejected += not decision.kept
        module.fatigue = self.rejected

    def state_dict(self):
        return {"rejected": self.rejected}

    def load_state_dict(self, state):
        self.rejected = state["rejected"]


class Game(AutoPilotModule):
    monitor = "score"

    def __init__(self):
        super().__init__()
        self.x = PathParameter("x.txt")
        self.rules = PathParameter("rules")
        self.spread = Mean("score")
        self.fatigue, self.where = 0, ""

    def on_train_batch_start(self, batch, batch_idx):
        self.where = f"train {current_run().epoch}.0"

    def on_validation_batch_start(self, batch, batch_idx):
        self.where = f"val {current_run().epoch}.{current_run().repeat}"

    def on_test_batch_start(self, batch, batch_idx):
        self.where = f"test {current_run().epoch}.0"

    def forward(self, batch):
        items = []
        for item in batch.items:
            with open(os.environ["EVALUATIONS"], "a") as log:
                log.write(f"{self.where} {item.id} {self.x.read_text()}")
            if item.metadata["at"] == 3 and self.where.startswith("val 4."):
                raise ValueError("item 3 is broken in epoch 4")
            draw = random.random()
            value = int(self.x.read_text()) + draw - self.fatigue / 100
            score = float("nan") if item.metadata["at"] == 8 and "train" in self.where else value
            items.append(Datum(
                success=value > item.metadata["at"], feedback=f"missed by {draw:.3f}",
                metrics={"score": 10 - abs(8 - score)}, metadata={"draw": draw},
            ))
        return Datum(items=items)

    def configure_optimizers(self):
        return Walk(self.parameters())

    def configure_callbacks(self):
        return [Fatigue()]

    def train_dataloader(self):
        return DataLoader([{"id": f"i{at}", "at": at} for at in range(10)], 2, shuffle=True)

    val_dataloader = test_dataloader = train_dataloader
"""
# The target kills itself before or after the n-th write of a kind, and the process that waits for
# it too, since that would go on: KILL_AT="kind before 2". With a signal's number as a fourth word,
# it sends itself that one instead.
TRAP = """

def _trap():
    import signal

    import autopilot.git.commits as commits
    import autopilot.git.notes as notes
    import autopilot.git.refs as refs
    import autopilot.git.workfiles as workfiles
    import autopilot.tracking.git_store as git_store
    from autopilot.engine.session import Session

    deadly, when, number, *gentle = os.environ["KILL_AT"].split()
    left = int(number)

    def pass_by(name, now):
        nonlocal left
        left -= (name, now) == (deadly, when)
        if left == 0 and gentle:
            left = -1
            os.kill(os.getpid(), int(gentle[0]))
        elif left == 0:
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(home, name):
        action = getattr(home, name)

        def run(*arguments, **named):
            pass_by(name, "before")
            found = action(*arguments, **named)
            pass_by(name, "after")
            return found

        setattr(home, name, run)

    watch(commits, "commit")
    watch(commits, "create_tag")
    watch(notes.Notes, "write")
    watch(refs, "create_ref")
    watch(refs, "update_ref")
    watch(workfiles.WorkFiles, "restore")
    watch(git_store.GitStore, "note_progress")
    watch(git_store.GitStore, "clear_progress")
    watch(git_store.GitStore, "bind")
    watch(Session, "_remove")


if "KILL_AT" in os.environ:
    _trap()
"""
OPTIONS = ("--accumulate", "2", "--max-epochs", "6", "--seed", "7", "--no-cache")


@dataclass
class Game:
    """The user's repository with the game in it, and where evaluations are logged."""

    place: Place
    log: Path
    story_of_ref: dict[str, Any] = field(default_factory=dict)
    duration_s: float = 0.0
    evaluations_of_ref: int = 0

    def run(self, slug: str, *more: str, **environment: str) -> Done:
        return self.place.autopilot("run", "game.py", "-e", slug, *OPTIONS, *more, **environment)

    def of_ref(self) -> tuple[dict[str, Any], float, int]:
        """What is known of the run that nobody kills."""
        return self.story_of_ref, self.duration_s, self.evaluations_of_ref

    def evaluations(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def killed(self, slug: str, delay_s: float, *command: str) -> bool:
        """Kills a run, or another command, after a while; says whether it was still running."""
        process = self.place.start(*(command or ("run", "game.py", "-e", slug, *OPTIONS)))
        time.sleep(delay_s)
        process.kill()
        process.communicate()
        return process.returncode == -signal.SIGKILL

    def recorded(self, slug: str) -> set[str]:
        """What a kill left as evaluated: "split epoch.repeat item", and judged epochs as such."""
        found: set[str] = set()
        path = self.place.top / f".git/autopilot/{slug}.progress.jsonl"
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            if line.endswith(b"\n") and line.strip():
                batch = json.loads(line)
                moment = f"{batch.get('split')} {batch['epoch']}.{batch.get('repeat', 0)}"
                found |= {
                    f"{moment} {item['id']}" for item in batch.get("data", {}).get("items", [])
                }
        if self.exists(slug):
            for record in self.place.judged(slug):
                moments = [f"train {record['epoch']}.0", f"val {record['epoch']}.0"]
                moments += ["val 0.1"] if record["epoch"] == 0 else []
                found |= {f"{moment} i{item}" for moment in moments for item in range(10)}
        return found

    def exists(self, slug: str) -> bool:
        found = self.place.git("for-each-ref", f"refs/heads/autopilot/{slug}")
        return bool(found)

    def go_on(self, slug: str, code: int = 0, **environment: str) -> None:
        """Resumes, or starts again what was killed too early; nothing is evaluated again."""
        recorded, before = self.recorded(slug), len(self.evaluations())
        command = (
            ("resume", slug) if self.exists(slug) else ("run", "game.py", "-e", slug, *OPTIONS)
        )
        done = self.place.autopilot(*command, **environment)
        assert done.code == code, done
        again = [" ".join(x.split()[:-1]) for x in self.evaluations()[before:]]
        assert not recorded & set(again), f"{slug}: evaluated again"

    def story(self, slug: str) -> dict[str, Any]:
        """All that must be the same as in a run that nobody killed."""
        place, drop = self.place, ("on", "spent", "cost", "v", "kind", "restarts", "restarts_s")
        metrics = [
            {k: v for k, v in r.items() if k not in drop}
            | {"evaluations": r.get("spent", {}).get("evaluations")}
            for r in place.notes(slug, "metrics")
        ]
        steps = [
            {k: v for k, v in r.items() if k not in drop} for r in place.notes(slug, "gradients")
        ]
        subjects = place.git("log", "--format=%B", f"main..autopilot/{slug}")
        return {
            "trees": place.trees(slug),
            "metrics": sorted(metrics, key=lambda r: (r["epoch"], r["id"])),
            "steps": sorted(steps, key=lambda r: (r["epoch"], r["id"])),
            "tags": place.tags(slug),
            "messages": subjects.replace(slug, "SLUG"),
        }

    def check_complete(self, slug: str) -> None:
        """No commit without its notes, no kept epoch without its tag, the tip is the best."""
        place = self.place
        assert without_notes(place, slug) == []
        judged = place.judged(slug)
        assert [record["epoch"] for record in judged] == list(range(7))
        kept = [r["epoch"] for r in judged if r["verdict"] != "rejected"]
        assert place.tags(slug) == kept
        best = place.git("rev-parse", f"autopilot/{slug}/epoch-{kept[-1]:04d}^{{tree}}")
        assert place.git("rev-parse", f"autopilot/{slug}^{{tree}}") == best


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Game:
    """The game, and in it the run `ref` that nobody kills."""
    folder = tmp_path_factory.mktemp("game")
    with pytest.MonkeyPatch.context() as patch:
        place = Place(folder / "repo", prepare_commands(patch, folder / "home"))
        place.init()
        for name, text in {
            "x.txt": "1\n",
            "counter.py": "# an idea\n",
            "game.py": WALK + TRAP,
            "rules/rule 0.txt": "none\n",
        }.items():
            place.write(name, text)
        place.commit()
        game = Game(place, folder / "evaluations.log")
        patch.setenv("EVALUATIONS", str(game.log))
        place.run(
            "experiment", "list"
        )  # the first command waits for imports, which later runs do not
        started = time.monotonic()
        done = game.run("ref")
        assert done.code == 0, done
        game.duration_s = time.monotonic() - started
        game.story_of_ref = game.story("ref")
        game.evaluations_of_ref = len(game.evaluations())
        game.check_complete("ref")
    return game


@pytest.fixture
def game(
    finished: Game, tmp_path: Path, git_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> Game:
    """A copy of it, and what the user is at: an edit, a new file, an index that is out of date."""
    log = tmp_path / "evaluations.log"
    monkeypatch.setenv("EVALUATIONS", str(log))
    top = copy_checkout(finished.place.top, tmp_path / "repo")
    place = Place(top, prepare_commands(monkeypatch, git_environment))
    place.write("counter.py", "# half an idea\n")
    place.write("todo.txt", "milk\n")
    os.utime(place.top / "game.py", (1, 1))
    return Game(place, log, *finished.of_ref())


def test_the_game_is_worth_the_name(finished: Game) -> None:
    """All that can happen to an epoch happens."""
    verdicts, outcomes = (
        {r.get(k) for r in finished.place.judged("ref")} for k in ("verdict", "outcome")
    )
    assert verdicts == {"baseline", "kept", "rejected"}
    assert "repeated" in outcomes or "unchanged" in outcomes, outcomes
    assert max(r["step"] for r in finished.story_of_ref["steps"]) == 3


@pytest.mark.parametrize("who", WHO)
def test_kill_at_random_moments(game: Game, who: str) -> None:
    """The run goes on, by itself or by a resume, to the same end."""
    expected, duration_s = game.story_of_ref, game.duration_s

    def start(slug: str) -> Any:
        return game.place.start("run", "game.py", "-e", slug, *OPTIONS)

    with game.place.untouched():
        for slug, done in kills(game.place, who, start, duration_s):
            if done.code != 0:
                # Before the experiment is there, a death ends it.
                assert who != "child" or not game.exists(slug), done
                game.go_on(slug)
            assert game.story(slug) == expected, slug
            game.check_complete(slug)
    check_nothing_left(game.place)


def test_a_process_for_each_state_changes_nothing(game: Game) -> None:
    expected = game.story_of_ref
    done = game.run("many", "--fresh", "always")
    assert done.code == 0, done
    assert game.story("many") == expected
    assert len(game.evaluations()) == game.evaluations_of_ref
    assert sum(record.get("restarts", 0) for record in game.place.judged("many")) > 6


def test_kill_again_and_again(game: Game) -> None:
    """Killed, and killed while it resumes, until nothing is left to do."""
    expected, duration_s = game.story_of_ref, game.duration_s
    chance = random.Random(1)
    with game.place.untouched():
        game.killed("one", duration_s * 0.8)
        for _ in range(4):
            if game.exists("one"):
                game.killed("one", chance.uniform(0.2, duration_s), "resume", "one")
            else:
                game.killed("one", duration_s * 0.8)
        game.go_on("one")
    assert game.story("one") == expected
    game.check_complete("one")
    game.place.check_sound()


@pytest.mark.parametrize(
    ("number", "moments"), [(signal.SIGINT, (5, 70)), (signal.SIGTERM, (40, 110))]
)
def test_interrupt(game: Game, number: int, moments: tuple[int, ...]) -> None:
    expected = game.story_of_ref
    with game.place.untouched():
        for wanted in moments:
            slug = f"stop-{wanted}"
            before = len(game.evaluations())
            process = game.place.start("run", "game.py", "-e", slug, *OPTIONS)
            while len(game.evaluations()) < before + wanted and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(number)
            done = game.place.finish(process)

            assert done.code == 130, done
            # After the last record, there is nothing left but to remove the worktree.
            last = game.place.notes(slug, "experiment")[-1]["name"]
            told = done.err if last == "finished" else done.out
            assert f"go on: autopilot resume {slug}" in told, done
            assert "Traceback" not in done.err, done
            assert last in ("interrupted", "finished")
            game.go_on(slug)
            assert game.story(slug) == expected, slug
    game.place.check_sound()


def test_interrupt_before_and_after_the_loop(game: Game) -> None:
    """There it is not the loop that says how to go on."""
    before = game.place.snapshot()
    done = game.run("one", KILL_AT=f"bind before 1 {signal.SIGTERM:d}")
    assert (done.code, done.err, game.place.snapshot()) == (130, "interrupted\n", before)
    how = "interrupted\ngo on: autopilot resume one\n"
    done = game.run("one", KILL_AT=f"_remove before 1 {signal.SIGTERM:d}")
    assert (done.code, done.err) == (130, how), done
    done = game.place.autopilot("resume", "one")
    assert (done.code, done.out.splitlines()[0][:16]) == (0, "one is finished:"), done
    assert game.place.git("worktree", "list", "--porcelain").count("worktree ") == 1
    more = "resume", "one", "--max-epochs", "7"
    done = game.place.autopilot(*more, KILL_AT=f"bind before 1 {signal.SIGINT:d}")
    assert (done.code, done.err) == (130, how), done
    game.place.run(*more)
    assert len(game.place.judged("one")) == 8
    game.place.check_sound()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_it_starts(game: Game, number: int) -> None:
    """Whenever it comes, nothing half-made is left behind."""
    before = game.place.snapshot()
    for delay_s in (0.05, 0.15, 0.2, 0.25, 0.3):
        process = game.place.spawn("run", "game.py", "-e", "one", *OPTIONS)
        time.sleep(delay_s)
        process.send_signal(number)
        done = game.place.finish(process)
        # Before our code runs, it is Python that dies of the signal.
        assert done.code in (130, -number, 1), done
        if game.exists("one"):
            assert done.code == 130, done
            game.go_on("one")
            break
        assert before == game.place.snapshot(), delay_s


@pytest.mark.parametrize("step", [1, 2, 17])
def test_crash_of_the_optimizer(game: Game, step: int) -> None:
    expected = game.story_of_ref
    with game.place.untouched():
        done = game.run("one", CRASH=f"step {step}")

        assert done.code == 1, done
        assert "RuntimeError: no luck today" in done.error, done
        assert "autopilot resume one" in done.hint, done
        assert 'game.py", line' in done.err, done
        assert "in step" in done.err, done
        assert "autopilot/core" not in done.err, done
        assert game.place.notes("one", "experiment")[-1]["name"] == "crashed"
        game.go_on("one")
    assert game.story("one") == expected
    game.place.check_sound()


# Each process dies at another kind of write, and the next one begins with what that left.
WRITES = [
    *[("create_ref", 1), ("note_progress", 9), ("create_tag", 1), ("commit", 2)],
    *[("restore", 1), ("write", 2), ("update_ref", 3), ("clear_progress", 1)],
]


def test_kill_before_and_after_writes_of_each_kind(game: Game) -> None:
    with game.place.untouched():
        for kind, number in WRITES:
            for when in ("before", "after"):
                game.go_on("one", -signal.SIGKILL, KILL_AT=f"{kind} {when} {number}")
        game.go_on("one")
    assert game.story("one") == game.story_of_ref
    game.check_complete("one")
    game.place.check_sound()


def test_the_kills_that_are_no_test_can_be_started(tmp_path: Path) -> None:
    command, top = [sys.executable, "-m", "tests.kills", "1", "tune"], Path(__file__).parents[2]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=top, env=environment, capture_output=True, text=True)
    figures = "0 lost, 0 commits without notes, 0 other trees, 0 did not go on"
    assert done.stdout.splitlines()[-1] == f"1 kills: {figures} (tune, parent)", done
    assert (done.returncode, list(tmp_path.glob("autopilot-kills-*"))) == (0, [])
