"""Tests of log, show, diff and status, on experiments in real repositories."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from checkouts import copy_checkout, make_checkout, own_home
from forks import fork

from autopilot import (
    AutoPilotModule,
    Datum,
    Experiment,
    GitMemory,
    GitStore,
    Manifest,
    Optimizer,
    PathParameter,
    Step,
    Trainer,
)
from autopilot.cli.main import AutoPilotCLI
from autopilot.errors import AgentError
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository

FOLDER = "rü les"
FILES = {"README.md": "readme\n", "x.txt": "3\n", f"{FOLDER}/a b.txt": "a\n"}
ITEMS = [{"id": f"item-{i}", "at": i} for i in range(10)]


@dataclass
class Plan:
    """What each epoch's optimizer does to x.txt; None changes nothing, "fail" raises."""

    values: Sequence[int | str | None]
    strategies: Sequence[str] = ()
    extra: dict[int, dict[str, bytes]] = field(default_factory=dict)


class Scripted(Optimizer):
    def __init__(self, parameters: Any, plan: Plan) -> None:
        super().__init__(parameters)
        self.plan, self.steps = plan, 0

    def step(self) -> Step | None:
        self.steps += 1
        value = self.plan.values[self.steps - 1]
        if value == "fail":
            raise AgentError("the agent is away")
        if value is not None:
            Path("x.txt").write_text(f"{value}\n")
        for name, content in self.plan.extra.get(self.steps, {}).items():
            path = Path(FOLDER, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        names = self.plan.strategies
        strategy = names[self.steps - 1] if names else "up"
        return Step(f"set x to {value}", strategy, "the items ask for more")

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Any) -> None:
        self.steps = state["steps"]


class Threshold(AutoPilotModule):
    """An item passes if x.txt is above it. x = 99 makes the miss NaN."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.x, self.rules, self.plan = PathParameter("x.txt"), PathParameter(FOLDER), plan

    def forward(self, batch: Datum) -> Datum:
        x = int(Path("x.txt").read_text())
        miss = math.nan if x == 99 else 10.0 - x
        return Datum(
            items=[
                Datum(
                    id=item.id,
                    success=item.metadata["at"] < x,
                    metrics={"miss": miss},
                    feedback=None if item.metadata["at"] < x else f"raise x above {item.id}",
                )
                for item in batch.items
            ]
        )

    def configure_optimizers(self) -> Scripted:
        return Scripted(self.parameters(), self.plan)

    def train_dataloader(self) -> Any:
        return [ITEMS[:5], ITEMS[5:]]

    val_dataloader = test_dataloader = train_dataloader


PLAN = Plan(
    values=[5, 4, None, 4, 7, "fail", 9],
    strategies=[
        "add missing words",
        "split broad rules\nin two",
        "wait",
        "again",
        "more",
        "",
        "up",
    ],
    extra={5: {"neu ö.txt": "grün\n".encode(), "latin.txt": b"gr\xfcn\r\n", "b.bin": b"\0\1\xff"}},
)


def make(
    slug: str, plan: Plan, *, monitor: str | None = None, mode: str = "max", test: bool = True
) -> None:
    """An experiment in the working directory."""
    store = GitStore(slug)
    manifest = Manifest(slug=slug, target="app.py:App", hparams={"size": "3"}, seed=7)
    trainer = Trainer(experiment=Experiment(store, GitMemory(store), manifest), monitor=monitor)
    module = Threshold(plan)
    module.mode = mode
    trainer.fit(module, max_epochs=len(plan.values))
    if test:
        trainer.test(module)
    trainer.experiment.close()
    run_git(["checkout", "--quiet", "--force", "main"], cwd=Path.cwd())
    run_git(["clean", "-fdq"], cwd=Path.cwd())


@dataclass
class Here:
    """A repository, and the command line in it."""

    repo: Repository
    capsys: pytest.CaptureFixture[bytes]

    def git(self, *arguments: str) -> str:
        return run_git(arguments, cwd=self.repo.workdir).stdout.decode("utf-8", "replace").strip()

    def run(self, *arguments: str, code: int = 0) -> str:
        self.capsys.readouterr()
        found = AutoPilotCLI().run(arguments)
        captured = self.capsys.readouterr()
        self.bytes = captured.out
        self.out, self.err = (x.decode("utf-8", "replace") for x in captured)
        assert found == code, self.err
        return self.out

    def json(self, *arguments: str, code: int = 0) -> Any:
        text = self.run(*arguments, "--json", code=code)
        return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    def refused(self, *arguments: str, code: int = 1) -> tuple[str, str]:
        assert self.run(*arguments, code=code) == ""
        message, hint = self.err.splitlines()
        return message.removeprefix("error: "), hint.removeprefix("  hint: ")


@pytest.fixture(scope="module")
def made_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository with the experiment `demo`; no command that reads changes it."""
    folder = tmp_path_factory.mktemp("demo")
    top = folder / "repo"
    with pytest.MonkeyPatch.context() as patch:
        own_home(patch, folder)
        patch.chdir(make_checkout(top, FILES))
        make("demo", PLAN)

    def state() -> list[bytes]:
        commands = (["for-each-ref"], ["status", "--porcelain"])
        return [run_git(each, cwd=top).stdout for each in commands]

    before = state()
    yield top
    assert state() == before


@pytest.fixture
def begin(
    git_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> Callable[[Path], Here]:
    """Goes to a repository."""

    def enter(top: Path) -> Here:
        monkeypatch.chdir(top)
        monkeypatch.setenv("NO_COLOR", "1")
        return Here(Repository.discover(top), capsysbinary)

    return enter


@pytest.fixture
def here(begin: Callable[[Path], Here], tmp_path: Path) -> Here:
    """A repository without experiments."""
    return begin(make_checkout(tmp_path / "repo", FILES))


@pytest.fixture
def demo(begin: Callable[[Path], Here], made_demo: Path) -> Here:
    """The repository of all tests that only read it."""
    return begin(made_demo)


@pytest.fixture
def copied(begin: Callable[[Path], Here], made_demo: Path, tmp_path: Path) -> Here:
    """A copy of it, which may be changed."""
    return begin(copy_checkout(made_demo, tmp_path / "repo"))


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command with a terminal of some columns as its stdout."""

    def run(*arguments: str, columns: int = 80, color: bool = False) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        if color:
            monkeypatch.delenv("NO_COLOR", raising=False)
        stdout = Terminal()
        with contextlib.redirect_stdout(stdout):
            assert AutoPilotCLI().run(arguments) == 0
        return stdout.getvalue()

    return run


def process(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command line as a process of its own."""
    root = Path(__file__).parents[2]
    code = "from autopilot.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(root)},
        input=stdin,
        capture_output=True,
        check=False,
    )


# --- log -----------------------------------------------------------------------------------------


def test_log_is_the_table_of_epochs(demo: Here) -> None:
    lines = demo.run("log").splitlines()
    base = demo.git("rev-parse", "--short=7", "main")
    sha = {
        n: demo.git("rev-parse", "--short=7", f"autopilot/demo/epoch-{n:04}^{{commit}}")
        for n in (0, 1, 5)
    }
    second = demo.git("log", "--format=%h", "--abbrev=7", "--grep=epoch 2:", "autopilot/demo")

    assert lines[0] == "demo: stopped (reached the maximum of 7 epochs)"
    assert lines[1] == (
        f"base {base} (main), 7 epochs, 3 kept, "
        "best: epoch 7, val accuracy 0.300 -> 0.900, test 0.300 -> 0.900 "
        "(95% interval of the gain 0.250 .. 1.000)"
    )
    assert lines[2].split("  ")[0] == "epoch"
    assert lines[2].split() == [
        *("epoch", "val", "accuracy", "val", "miss", "best", "verdict", "strategy", "commit"),
    ]
    assert lines[3].split() == ["0", "0.300", "7.000", "0.300", "baseline", sha[0]]
    assert lines[4].split() == [
        *("1", "0.500", "+0.200", "5.000", "0.500", "kept", "add", "missing", "words", sha[1]),
    ]
    assert lines[5].split("rejected  ")[1].split("  ") == [
        "split broad rules in two",
        f"{second} -> rolled back to epoch 1",
    ]
    assert [line.split()[0] for line in lines[3:]] == [str(n) for n in range(8)]
    assert len(lines) == 11


def test_log_says_why_epochs_without_evaluation_were_rejected(demo: Here) -> None:
    lines = demo.run("log").splitlines()[3:]

    assert lines[3].endswith("(unchanged)")
    assert "(repeated) -> rolled back to epoch 1" in lines[4]
    assert lines[6].endswith("(failed)")
    assert "rolled back" not in lines[3] + lines[6]


def test_log_as_json_agrees_with_git(demo: Here) -> None:
    document = demo.json("log", "demo")

    assert document["experiment"] == "demo"
    assert document["state"] == "stopped"
    assert document["stop_reason"] == "reached the maximum of 7 epochs"
    assert document["base"] == demo.git("rev-parse", "main")
    assert document["tip"] == demo.git("rev-parse", "autopilot/demo")
    assert (document["epochs"], document["kept"], document["rejected"]) == (7, 3, 4)
    assert (document["baseline"], document["best"], document["best_epoch"]) == (0.3, 0.9, 7)
    log = document["log"]
    assert [e["value"] for e in log] == [0.3, 0.5, 0.4, 0.5, 0.4, 0.7, 0.7, 0.9]
    assert [e["verdict"] for e in log] == [
        *("baseline", "kept", "rejected", "rejected", "rejected", "kept", "rejected", "kept"),
    ]
    assert [e["outcome"] for e in log[2:7]] == [
        *("rejected", "unchanged", "repeated", "kept", "failed"),
    ]
    assert [e["reused"] for e in log] == [None, None, None, 1, 2, None, 5, None]
    for epoch in log:
        if epoch["tag"]:
            assert demo.git("rev-parse", f"{epoch['tag']}^{{commit}}") == epoch["commit"]
        else:
            subject = demo.git("log", "-1", "--format=%s", epoch["rollback"])
            assert subject == f"autopilot(demo): rollback to epoch {epoch['best_epoch']}"
    assert log[1]["delta"] == pytest.approx(0.2)
    assert log[2]["delta"] == pytest.approx(-0.1)
    assert log[7]["metrics"] == {
        "train": {"accuracy": 0.7, "miss": 3.0},
        "val": {"accuracy": 0.9, "miss": 1.0},
        "test": {"accuracy": 0.9, "miss": 1.0},
    }


def test_log_takes_the_last_epochs_and_turns_them_round(demo: Here) -> None:
    assert [e["epoch"] for e in demo.json("log", "-n", "2")["log"]] == [6, 7]
    assert [e["epoch"] for e in demo.json("log", "-n", "3", "--reverse")["log"]] == [7, 6, 5]
    rows = demo.run("log", "--reverse", "-n", "2").splitlines()[3:]
    assert [row.split()[0] for row in rows] == ["7", "6"]


def test_log_shows_the_last_thirty_epochs_and_says_how_to_see_all(here: Here) -> None:
    make("demo", Plan([5, *[4] * 31]))

    def numbers(*options: str) -> list[str]:
        lines = here.run("log", *options).splitlines()
        return [row.split()[0] for row in lines if row[:5].strip().isdigit()]

    shown = here.run("log").splitlines()
    assert numbers() == [str(number) for number in range(3, 33)]
    assert shown[-1] == "3 earlier epochs are not shown: autopilot log demo --all"
    assert numbers("--all") == [str(number) for number in range(33)]
    assert numbers("-n", "31") == [str(number) for number in range(2, 33)]
    assert "not shown" not in here.run("log", "-n", "1") + here.run("log", "--all")
    assert len(here.json("log")["log"]) == 33


def test_log_shortens_strategies_to_the_terminal_and_nowhere_else(
    here: Here, terminal: Callable[..., str]
) -> None:
    name = "make the rules of the third kind more specific, one by one, in the order given"
    make("demo", Plan([5], [name]))

    assert name in here.run("log")
    shown = terminal("log", columns=90)
    row = next(line for line in shown.splitlines() if "make the" in line)
    assert len(row) <= 90
    assert row.split("  ")[-2].endswith("...")
    assert row.split()[-1] == here.git(
        "rev-parse", "--short=7", "autopilot/demo/epoch-0001^{commit}"
    )


def test_log_counts_down_where_lower_is_better(here: Here) -> None:
    make("down", Plan([5, 4]), monitor="miss", mode="min")
    lines = here.run("log").splitlines()

    assert (
        "best: epoch 1, val miss 7.000 -> 5.000 (lower is better), test 7.000 -> 5.000 (95%"
        in lines[1]
    )
    assert lines[4].split()[:6] == ["1", "5.000", "-2.000", "0.500", "5.000", "kept"]
    assert lines[5].split()[:6] == ["2", "6.000", "+1.000", "0.400", "5.000", "rejected"]
    assert here.json("status", "down")["mode"] == "min"


def test_log_of_a_metric_that_is_not_a_number(here: Here) -> None:
    make("nan", Plan([99, 5]), monitor="miss", mode="min", test=False)
    log = here.json("log")["log"]

    assert [e["value"] for e in log] == [7.0, None, 5.0]
    assert [e["best"] for e in log] == [7.0, 7.0, 5.0]
    row = here.run("log").splitlines()[4].split()
    assert row[:2] == ["1", "-"]
    assert "rejected" in row
    assert "●" in here.run("log", "--graph")


def test_log_draws_the_metric(demo: Here, terminal: Callable[..., str]) -> None:
    lines = demo.run("log", "--graph").splitlines()

    assert lines[2].startswith("0.900 ┤")
    assert lines[11].startswith("0.300 ┤")
    assert "".join(lines[2:12]).count("●") == 4
    assert "verdict" not in "".join(lines)
    assert max(map(len, terminal("log", "--graph", columns=60).splitlines()[2:])) == 60


def test_log_colors_verdicts_on_a_terminal_only(demo: Here, terminal: Callable[..., str]) -> None:
    assert "\x1b" not in demo.run("log")
    assert "\x1b" not in terminal("log", "--no-color", color=True)
    kept = next(x for x in terminal("log", color=True, columns=120).splitlines() if "words" in x)
    assert kept.startswith("\x1b[32m")


def test_text_of_a_model_does_not_steer_the_terminal(
    here: Here, terminal: Callable[..., str]
) -> None:
    make("demo", Plan([5], ["up\x1b]0;owned\x07"]))

    assert "\x1b" not in terminal("log")
    assert "up\\x1b]0;owned\\x07" in terminal("log", columns=200)


# --- experiments that did not come to their end --------------------------------------------------


class Kill(KeyboardInterrupt):
    """Ends a run as a signal would: nothing may catch it."""


@pytest.fixture
def killed(here: Here) -> Here:
    """A run that was cut off after the step of epoch 2."""
    store = GitStore("cut")
    manifest = Manifest(slug="cut", target="threshold.py")
    trainer = Trainer(experiment=Experiment(store, GitMemory(store), manifest))

    class Cut(Threshold):
        def forward(self, batch: Datum) -> Datum:
            if Path("x.txt").read_text() == "6\n":
                raise Kill
            return super().forward(batch)

    with pytest.raises(Kill):
        trainer.fit(Cut(Plan([5, 6])), max_epochs=2)
    store.close()
    return here


def test_a_killed_run_says_how_to_go_on(killed: Here) -> None:
    lines = killed.run("log").splitlines()

    assert lines[0] == "cut: killed (no end is recorded)"
    assert lines[-2:] == [
        "epoch 2 has no verdict yet: autopilot show 2 names its steps",
        "go on: autopilot resume cut",
    ]
    assert killed.json("status")["experiments"][0]["state"] == "killed"
    assert "go on with one: autopilot resume EXPERIMENT" in killed.run("status")
    assert "autopilot resume cut   " in killed.run("status", "cut")


def test_an_epoch_without_a_verdict_cannot_be_shown_yet(killed: Here) -> None:
    step = killed.git("rev-parse", "--short=7", "autopilot/cut")

    assert killed.refused("show", "2") == (
        "epoch 2 of cut has no verdict yet",
        f"its steps so far: git log -p -1 {step}",
    )
    assert killed.json("diff")["to"] == killed.git("rev-parse", "autopilot/cut/epoch-0001^{commit}")


def test_a_running_experiment_says_who_runs_it(copied: Here) -> None:
    store = GitStore("demo")
    store._lock.acquire()
    try:
        document = copied.json("status", "demo")
        assert document["state"] == "running"
        assert document["detail"].startswith(f"process {os.getpid()} on ")
        assert document["stop_reason"] is None
        assert "resume" not in copied.run("log")
    finally:
        store.close()


@pytest.mark.parametrize("name", ["interrupted", "crashed"])
def test_how_a_session_ended_is_told(copied: Here, name: str) -> None:
    store = GitStore("demo")
    experiment = Experiment(store, GitMemory(store))
    experiment.store.bind([PathParameter("x.txt")])
    experiment.on_loop_complete(name, "by Ctrl-C")
    experiment.close()
    lines = copied.run("log").splitlines()

    assert lines[0] == f"demo: {name} (by Ctrl-C)"
    assert lines[-1] == "go on: autopilot resume demo"


def test_an_experiment_without_a_judged_epoch(here: Here) -> None:
    store = GitStore("fresh")
    experiment = Experiment(store, GitMemory(store))
    experiment.open([PathParameter("x.txt")])
    experiment.close()
    base = here.git("rev-parse", "--short=7", "main")

    assert here.run("log").splitlines()[:2] == [
        "fresh: killed (no end is recorded)",
        f"base {base} (main), no epoch is judged yet",
    ]
    assert here.run("log", "--graph").splitlines()[2] == "val accuracy has no finite value yet"
    document = here.json("status")["experiments"][0]
    assert (document["epochs"], document["kept"], document["best"]) == (0, 0, None)
    assert here.refused("show", "best") == ("fresh has no epoch 0", "no epoch is judged yet")
    assert here.refused("diff")[1] == "no epoch is judged yet"
    assert "no epoch is judged yet" in here.run("status", "fresh")


# --- show ----------------------------------------------------------------------------------------


def test_show_a_kept_epoch(demo: Here) -> None:
    lines = demo.run("show", "5").splitlines()
    commit = demo.git("rev-parse", "autopilot/demo/epoch-0005^{commit}")
    date = demo.git("log", "-1", "--format=%cd", "--date=local", commit)

    assert lines[0] == f"commit {commit} (tag: autopilot/demo/epoch-0005)"
    assert lines[1] == "Epoch:    5 of demo, kept"
    assert lines[2].startswith(f"Date:     {date} ")
    assert lines[3] == "Strategy: more"
    assert "    set x to 7" in lines
    assert "    the items ask for more" in lines
    assert "kept: val accuracy 0.500 -> 0.700" in lines
    scores = [line.split() for line in lines if line.startswith(("val acc", "val miss", "train"))]
    assert scores == [
        ["val", "accuracy", "0.700", "0.500", "+0.200", "0.300", "+0.400"],
        ["val", "miss", "3.000", "5.000", "-2.000", "7.000", "-4.000"],
        ["train", "accuracy", "0.500"],
        ["train", "miss", "5.000"],
    ]
    assert "val items: 3 of 10 failed; against epoch 1: 2 fixed, 0 broken" in lines
    assert "    item-7  raise x above item-7" in lines
    assert "memory: strategy more: kept, +0.200" in lines
    assert any(line.startswith("gradient of ") for line in lines)


def test_show_prints_the_diff_that_git_prints(demo: Here) -> None:
    page = demo.run("show", "5")
    commit = demo.git("rev-parse", "autopilot/demo/epoch-0005^{commit}")

    assert page.rstrip("\n").endswith(demo.git("show", "--format=", commit))
    assert demo.run("show", "5", "--prompt") == (
        "no question to an agent in epoch 5 of demo: none was asked, or recorded\n"
    )
    stat = demo.run("show", "5", "--stat")
    assert "x.txt" in stat
    assert "4 files changed" in stat
    assert "diff --git" not in stat


def test_show_a_rejected_epoch_and_where_it_went(demo: Here) -> None:
    lines = demo.run("show", "2").splitlines()
    rollback = demo.git("log", "--format=%h", "--abbrev=7", "--grep=Rejected: 2", "autopilot/demo")

    assert lines[1] == f"Epoch:    2 of demo, rejected, rolled back to epoch 1 by {rollback}"
    assert "tag:" not in lines[0]
    assert "val items: 6 of 10 failed; against epoch 1: 0 fixed, 1 broken" in lines
    assert "    and 1 more: autopilot show 2 -e demo --json" in lines


def test_show_an_epoch_that_took_over_a_measurement(demo: Here) -> None:
    lines = demo.run("show", "4").splitlines()

    assert lines[1].startswith("Epoch:    4 of demo, rejected (repeated), rolled back to epoch 1")
    assert (
        "val items: 6 of 10 failed (measured in epoch 2); against epoch 1: 0 fixed, 1 broken"
        in lines
    )


def test_show_epochs_that_changed_nothing(demo: Here) -> None:
    unchanged, failed = demo.run("show", "3"), demo.run("show", "6")

    assert "Epoch:    3 of demo, rejected (unchanged)\n" in unchanged
    assert "rejected: the optimizer changed nothing\n" in unchanged
    assert "the optimizer failed: the agent is away\n" in failed
    best = demo.git("rev-parse", "autopilot/demo/epoch-0005^{commit}")
    assert f"commit {best} (still epoch 5: nothing was committed)\n" in failed
    assert "val items: 3 of 10 failed (measured in epoch 5)\n" in failed
    assert "diff --git" not in unchanged + failed


def test_show_the_baseline(demo: Here) -> None:
    page = demo.run("show", "0")

    assert "Epoch:    0 of demo, baseline\n" in page
    assert "val accuracy   0.300\n" in page
    assert "test accuracy  0.300\n" in page
    assert "val items: 7 of 10 failed\n" in page
    assert "diff --git" not in page


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        ("best", 7),
        ("last", 7),
        ("baseline", 0),
        ("0", 0),
        ("5", 5),
        ("epoch-0005", 5),
        ("autopilot/demo/epoch-0005", 5),
        ("refs/tags/autopilot/demo/epoch-0005", 5),
        ("autopilot/demo", 7),
        ("autopilot/demo~1", 6),
    ],
)
def test_an_epoch_has_many_names(demo: Here, name: str, epoch: int) -> None:
    assert demo.json("show", name)["epoch"] == epoch


def test_every_commit_of_the_branch_is_an_epoch(demo: Here) -> None:
    for line in demo.git("log", "--format=%h %s", "main..autopilot/demo").splitlines():
        commit, _, subject = line.partition(" ")
        shown = demo.json("show", commit)
        if "rollback" in subject:
            assert shown["rollback"].startswith(commit)
        elif "start" in subject:
            assert shown["epoch"] == 0
        else:
            assert subject.startswith(f"autopilot(demo): epoch {shown['epoch']}: ")


def test_a_tag_or_commit_names_its_experiment(copied: Here) -> None:
    make("later", Plan([8]))

    assert copied.json("show", "1")["experiment"] == "later"
    assert copied.json("show", "autopilot/demo/epoch-0005")["experiment"] == "demo"
    commit = copied.git("rev-parse", "--short", "autopilot/demo~2")
    assert copied.json("show", commit)["experiment"] == "demo"
    assert copied.json("show", "1", "-e", "demo")["experiment"] == "demo"
    message, hint = copied.refused("show", "autopilot/demo/epoch-0005", "-e", "later")
    assert message == "'autopilot/demo/epoch-0005' is no epoch of later"
    assert hint == "give a number, best, last, a tag, or a commit of autopilot/later"


def test_show_as_json(demo: Here) -> None:
    document = demo.json("show", "5")

    assert document["best_before"]["epoch"] == 1
    assert document["baseline"]["val"]["accuracy"] == 0.3
    assert document["val_items"] == 10
    assert [item["id"] for item in document["failed_items"]] == ["item-7", "item-8", "item-9"]
    assert document["failed_items"][0]["feedback"] == "raise x above item-7"
    assert [step["summary"] for step in document["steps"]] == ["set x to 7"]
    assert document["steps"][0]["commit"] == document["commit"]
    assert set(document["steps"][0]["gradients"]) == {"x", "rules"}
    assert [lesson["strategy"] for lesson in document["lessons"]] == ["more"]
    assert {f["path"]: f["added"] for f in document["files"]} == {
        "x.txt": 1,
        f"{FOLDER}/neu ö.txt": 1,
        f"{FOLDER}/latin.txt": 1,
        f"{FOLDER}/b.bin": 0,
    }
    assert document["patch"].count("diff --git") == 4


# --- diff ----------------------------------------------------------------------------------------


def test_diff_in_a_pipe_is_exactly_the_patch(copied: Here) -> None:
    patch = process("diff").stdout
    top = copied.repo.workdir

    run_git(["apply", "--check", "-"], cwd=top, stdin=patch)
    run_git(["apply", "--index", "-"], cwd=top, stdin=patch)
    assert copied.git("write-tree") == copied.git("rev-parse", "autopilot/demo^{tree}")


def test_the_patch_does_not_depend_on_how_the_user_likes_diffs(copied: Here) -> None:
    copied.run("diff")
    plain = copied.bytes
    for setting in (
        "diff.noprefix=true",
        "diff.mnemonicPrefix=true",
        "color.ui=always",
        "diff.external=false",
        "diff.context=0",
        "core.quotePath=false",
    ):
        copied.git("config", *setting.split("="))
    copied.run("diff")
    styled = copied.bytes

    assert b"\x1b" not in styled
    assert styled.count(b"\n+++ b/x.txt\n") == 1
    run_git(["apply", "--check", "--unidiff-zero", "-"], cwd=copied.repo.workdir, stdin=styled)
    assert b"-3\n+9\n" in plain


def test_diff_from_a_folder_below_the_top_is_whole(
    copied: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = copied.run("diff")
    copied.git("config", "diff.relative", "true")
    monkeypatch.chdir(FOLDER)

    assert copied.run("diff") == whole
    assert "x.txt" in copied.run("diff", "--stat")
    assert copied.json("-C", "..", "diff")["patch"] == copied.json("diff")["patch"]


@pytest.mark.parametrize(
    ("arguments", "old", "new"),
    [
        ([], "main", "autopilot/demo"),
        (["2"], "autopilot/demo/epoch-0001", ":/epoch 2: set x"),
        (["5"], "autopilot/demo/epoch-0001", "autopilot/demo/epoch-0005"),
        (["1", "5"], "autopilot/demo/epoch-0001", "autopilot/demo/epoch-0005"),
        (["5", "1"], "autopilot/demo/epoch-0005", "autopilot/demo/epoch-0001"),
        (["2", "best"], ":/epoch 2: set x", "autopilot/demo"),
        (["0", "epoch-0001"], "main", "autopilot/demo/epoch-0001"),
    ],
)
def test_diff_compares_what_it_is_given(
    demo: Here, arguments: list[str], old: str, new: str
) -> None:
    document = demo.json("diff", *arguments)
    trees = [demo.git("rev-parse", f"{document[side]}^{{tree}}") for side in ("from", "to")]

    assert trees == [
        demo.git("rev-parse", f"{demo.git('rev-parse', s)}^{{tree}}") for s in (old, new)
    ]
    assert demo.run("diff", *arguments) == document["patch"]


def test_diff_stat_is_gits(demo: Here) -> None:
    expected = demo.git("diff", "--stat=100", "main", "autopilot/demo")

    assert demo.run("diff", "--stat").strip() == expected
    files = {f["path"]: f for f in demo.json("diff")["files"]}
    assert files[f"{FOLDER}/b.bin"]["binary"] is True
    assert files["x.txt"] == {"path": "x.txt", "added": 1, "removed": 1, "binary": False}


def test_diff_on_a_terminal_says_what_it_compares_in_color(
    demo: Here, terminal: Callable[..., str]
) -> None:
    plain, colored = terminal("diff", "5"), terminal("diff", "5", color=True)

    assert plain.splitlines()[0] == "demo: epoch 5 (kept)"
    assert "\x1b" not in plain
    assert "\x1b[31m-5\x1b[m\n" in colored
    assert terminal("diff", "--no-color").splitlines()[0] == "demo: base -> epoch 7 (best)"


def test_no_difference_is_said_beside_the_empty_patch(demo: Here) -> None:
    assert demo.run("diff", "3") == ""
    assert demo.err == "warning: demo: epoch 3 (rejected (unchanged)): no difference\n"
    assert demo.json("diff", "3")["files"] == []


# --- status --------------------------------------------------------------------------------------


def test_status_without_experiments_says_how_to_make_one(here: Here) -> None:
    assert here.run("status").splitlines() == [
        "no experiments yet",
        "make one: autopilot init, or autopilot run path/to/file.py",
    ]
    assert here.json("status") == {"experiments": []}
    assert here.run("status", "-p", "shop").startswith("no experiments of the project shop yet\n")


def test_status_lists_the_newest_first(copied: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 4_000_000_000.0)
    make("shop/later", Plan([8]), monitor="miss", mode="min")
    rows = copied.json("status")["experiments"]
    head, *lines = copied.run("status").splitlines()

    assert [row["experiment"] for row in rows] == ["shop/later", "demo"]
    assert [(row["epochs"], row["kept"]) for row in rows] == [(1, 1), (7, 3)]
    assert [(row["monitor"], row["baseline"], row["best"]) for row in rows] == [
        ("miss", 7.0, 2.0),
        ("accuracy", 0.3, 0.9),
    ]
    assert head.split() == [
        *("experiment", "state", "epochs", "kept", "metric", "baseline", "best"),
        *("updated", "detail"),
    ]
    assert lines[0].split()[:12] == [
        *("shop/later", "stopped", "1", "1", "val", "miss", "(lower", "is", "better)"),
        *("7.000", "2.000", "0"),
    ]
    assert lines[1].endswith("reached the maximum of 7 epochs")


def test_a_project_sees_its_own_experiments(copied: Here) -> None:
    make("shop/one", Plan([8]))
    make("last", Plan([8]))

    rows = copied.json("status", "-p", "shop")["experiments"]
    assert [row["experiment"] for row in rows] == ["shop/one"]
    assert copied.json("log", "-p", "shop")["experiment"] == "shop/one"
    assert copied.json("status", "one", "-p", "shop")["branch"] == "autopilot/shop/one"
    message, hint = copied.refused("log", "-p", "none")
    assert message.startswith("there is no experiment of the project none in ")
    assert hint == "these have some: shop"


def test_status_of_one_experiment(copied: Here) -> None:
    lines = copied.run("status", "demo").splitlines()
    facts = {line[:12].strip(): line[12:] for line in lines[1:]}
    tip = copied.git("rev-parse", "--short=7", "autopilot/demo")
    count = copied.git("rev-list", "--count", "main..autopilot/demo")

    assert lines[0] == "demo: stopped (reached the maximum of 7 epochs)"
    assert facts["target"] == "app.py:App"
    assert facts["arguments"] == "size=3"
    assert facts["seed"] == "7"
    assert facts["branch"] == f"autopilot/demo, {count} commits, tip {tip}"
    assert facts["metric"] == "val accuracy, higher is better"
    assert facts["result"] == (
        "best: epoch 7, val accuracy 0.300 -> 0.900, test 0.300 -> 0.900 "
        "(95% interval of the gain 0.250 .. 1.000)"
    )
    assert facts["epochs"] == ("7 judged: 3 kept, 4 rejected (1 unchanged, 1 repeated, 1 failed)")
    commands = [line.strip().split("   ")[0] for line in lines[lines.index("next:") + 1 :]]
    assert "autopilot resume demo" not in commands
    for command in commands:
        program, *arguments = command.split()
        if program == "git":
            copied.git(*arguments)
        else:
            copied.run(*arguments)
    document = copied.json("status", "demo")
    assert document["manifest"]["hparams"] == {"size": "3"}
    assert document["manifest"]["parameters"] == {"x": "x.txt", "rules": FOLDER}
    assert document["cost"]["evaluations"] == 130


def test_status_costs_nothing_that_log_needs(demo: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    from autopilot.tracking.notebook import Notebook

    def epochs(_notebook: Notebook) -> None:
        raise AssertionError("status read every note")

    monkeypatch.setattr(Notebook, "epochs", property(epochs))
    monkeypatch.setattr(Notebook, "commits", property(epochs))

    assert demo.json("status")["experiments"][0]["kept"] == 3


def test_kept_epochs_are_counted_without_tags_too(copied: Here) -> None:
    for tag in copied.git("tag").splitlines():
        copied.git("tag", "-d", tag)

    assert copied.json("status")["experiments"][0]["kept"] == 3
    assert copied.json("log")["kept"] == 3


def test_an_experiment_without_its_notes_hides_no_other(copied: Here) -> None:
    make("bare", Plan([8]))
    copied.git("update-ref", "-d", "refs/notes/autopilot/bare/experiment")
    rows = {row["experiment"]: row for row in copied.json("status")["experiments"]}

    assert rows["demo"]["state"] == "stopped"
    assert rows["bare"]["state"] == "unreadable"
    assert "no manifest note" in rows["bare"]["detail"]
    assert "unreadable" in copied.run("status")
    message, hint = copied.refused("log", "bare")
    assert message == "the experiment bare has no manifest note"
    assert hint == "fetch its notes: autopilot fetch bare"


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (["log", "nope"], 1, "there is no experiment nope", "experiments: demo"),
        (["log", "dem"], 1, "there is no experiment dem", "did you mean demo?"),
        (["log", "Demo!"], 2, "'Demo!' cannot be an experiment's name", "use small letters"),
        (["show", "8"], 1, "demo has no epoch 8", "choose one of 0 to 7"),
        (["show", "main"], 1, "'main' is neither an experiment", "a number, best, last"),
        (["show", "dem"], 1, "'dem' is neither an experiment nor an epoch", "did you mean demo?"),
        (["show", "1234567"], 1, "'1234567' is no epoch of demo", "give a number"),
        (["diff", "1", "9"], 1, "demo has no epoch 9", "choose one of 0 to 7"),
        (["diff", "1", "2", "3"], 2, "Got unexpected extra argument", "autopilot diff --help"),
        (["log", "-n", "0"], 2, "Invalid value for '--max-count'", "autopilot log --help"),
        (
            ["run", "x.py", "--mode", "mini"],
            2,
            "Invalid value for '--mode': 'mini' is not one of 'max', 'min'.",
            "autopilot run --help",
        ),
        (["-C", "/nowhere", "log"], 2, "-C /nowhere: no such folder", "existing folder"),
    ],
)
def test_errors_say_what_and_what_to_do(
    demo: Here, arguments: list[str], code: int, message: str, hint: str
) -> None:
    said, advised = demo.refused(*arguments, code=code)

    assert said.startswith(message)
    assert hint in advised
    document = demo.json(*arguments, code=code)
    assert document == {"error": said, "hint": advised}


@pytest.mark.parametrize("command", [["log"], ["show"], ["diff"], ["status"], ["status", "x"]])
def test_outside_a_repository(here: Here, tmp_path: Path, command: list[str]) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    message, hint = here.refused("-C", str(folder), *command)

    assert message == f"{folder} is not in a git repository"
    assert "git init" in hint


@pytest.mark.parametrize("command", [["log"], ["show"], ["diff"]])
def test_in_a_repository_without_experiments(here: Here, command: list[str]) -> None:
    message, hint = here.refused(*command)

    assert message.startswith("there is no experiment in ")
    assert hint == "autopilot run TARGET makes one"


# --- as a process --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["log"], ["show", "5"], ["diff"], ["status"]])
def test_json_is_all_that_stdout_has(demo: Here, command: list[str]) -> None:
    done = fork([*command, "--json"], cwd=Path.cwd(), env=os.environ)
    out, err = done.communicate()

    assert done.returncode == 0
    assert err == ""
    assert isinstance(json.loads(out), dict)


def test_many_experiments_start_no_more_processes_than_one(copied: Here) -> None:
    def started() -> tuple[list[str], list[int]]:
        document = copied.json("status", "--expose")
        commands = [each["command"] for each in document["expose"]]
        return commands, [row["kept"] for row in document["experiments"]]

    one, (kept,) = started()
    for ref in copied.git("for-each-ref", "--format=%(refname)", "refs/").splitlines():
        if "/autopilot/demo" in ref:
            for name in ("other", "shop/third"):
                copy = ref.replace("/autopilot/demo", f"/autopilot/{name}")
                copied.git("update-ref", copy, ref)
    assert started() == (one, [kept] * 3)


def test_reading_changes_nothing(demo: Here) -> None:
    def state() -> tuple[str, str]:
        return demo.git("for-each-ref"), demo.git("status", "--porcelain")

    before = state()
    for command in (["log", "--graph"], ["show"], ["diff"], ["status"], ["status", "demo"]):
        demo.run(*command)
    assert state() == before


def test_a_stream_that_cannot_carry_a_character_gets_a_question_mark(
    demo: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = process("log", "--graph")

    assert done.returncode == 0
    assert b"?" in done.stdout
