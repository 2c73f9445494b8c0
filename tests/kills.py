"""SIGKILL at random moments of a run: to the parent, to the child that evaluates, or to both.

`python -m tests.kills 1000` kills runs with an agent that is a program, with models' replies, with
`--tune`, with Python source as the parameter, and of several candidates, by turns; of the last ones
any single process, too. `python -m tests.kills 70 search` kills these alone. After each kill the
run goes on to its end and is compared with one that nobody killed. The last line has the figures so
far.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Done, Place

WHO = ("parent", "child", "both")
MOMENTS = int(os.environ.get("AUTOPILOT_KILLS", "3"))
"""How many moments each test draws; 40 for a thorough look."""


def kills(
    place: Place,
    who: str,
    start: Callable[[str], Any],
    duration_s: float,
    moments: int = MOMENTS,
    numbers: Iterator[int] | None = None,
) -> Iterator[tuple[str, Done]]:
    """Kills a new run each time; it yields the run's name, and how it ended, or what it became.

    Args:
        place: The repository.
        who: One of WHO; or "one": any process of those that the parent and its children started.
        start: Starts the run of a name.
        duration_s: How long a run takes that nobody kills.
        moments: How many kills.
        numbers: Names of runs end with them.
    """
    seed = int(os.environ.get("AUTOPILOT_KILLS_SEED", "0")) or random.randrange(1, 10**6)
    # Shown if the test fails.
    print(f"AUTOPILOT_KILLS_SEED={seed} AUTOPILOT_KILLS={moments}, {who}")
    chance, killed, numbers = random.Random(seed), 0, numbers or count(1)
    # Worktrees, with the checkout; one may be left from kills of another kind, see below.
    linked = len(place.git("worktree", "list").splitlines())
    while killed < moments:
        number = next(numbers)
        slug, delay_s = f"{who}-{number}", chance.uniform(0.02, duration_s)
        process = start(slug)
        time.sleep(delay_s)
        if who == "one":
            pids = [chance.choice(own)] if (own := family(process.pid)) else []
        else:
            pids = [] if who == "parent" else forks(process.pid)
            pids += [] if who == "child" else [process.pid]
        chance.shuffle(pids)
        is_running = process.poll() is None and bool(pids)
        for pid in pids if is_running else ():
            # It may have ended by itself just now.
            send_kill(pid)
        done = place.finish(process)
        if who == "child":
            is_killed = is_running and "SIGKILL" in done.out + done.err
        elif who == "one":  # what started it may start it again, and say nothing
            is_killed = is_running and "exit code -9" not in done.err
        else:
            is_killed = done.code == -signal.SIGKILL
        if is_killed:
            killed += 1
            print(f"{slug}: killed after {delay_s:.3f} s")
            check_no_process(process.pid)
            yield slug, done
        elif "exit code -9" in done.err:
            # A git that was just forked, and looked like a process of ours, was killed.
            linked = len(place.git("worktree", "list").splitlines())
            continue
        else:
            # It was faster than the first one, or between two children: such a kill is none.
            assert done.code == 0, done
            duration_s *= 0.97
        assert len(place.git("worktree", "list").splitlines()) <= linked, slug


def send_kill(pid: int) -> None:
    """Kills a process that may be gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def forks(pid: int) -> list[int]:
    """The processes that a process started of its own program: no git."""
    own = command_line(pid)
    return [child for child in children(pid) if command_line(child) == own]


def family(pid: int) -> list[int]:
    """The processes of its own program that a process started, and those that these started."""
    own, found = command_line(pid), children(pid)
    for each in found:
        found += children(each)
    return [each for each in found if command_line(each) == own]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(each) for each in text.split()]


def check_no_process(session: int) -> None:
    """No process of a command is left; each has a session of its own."""
    deadline = time.monotonic() + 60
    while left := [pid for pid, its, state in _processes() if its == session and state != "Z"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def _processes() -> Iterator[tuple[int, int, str]]:
    """Number, session and state of all processes."""
    for path in Path("/proc").glob("[0-9]*"):  # with "/stat", one that ends meanwhile is an error
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        yield int(path.name), int(fields[3]), fields[0]


def without_notes(place: Place, slug: str) -> list[str]:
    """The commits of steps that have no note."""
    steps = {record["on"] for record in place.notes(slug, "gradients")}
    form = "--format=%H %(trailers:key=Autopilot-Step,valueonly,separator=%x2C)"
    lines = place.git("log", form, f"main..autopilot/{slug}").splitlines()
    parts = [line.partition(" ") for line in lines]
    return [commit for commit, _, step in parts if step and commit not in steps]


def check_nothing_left(place: Place) -> None:
    """No lock of git's, and nothing that git finds wrong."""
    place.check_sound()
    folder = place.top / ".git"
    locks = [path for path in folder.rglob("*.lock") if folder / "autopilot" not in path.parents]
    assert locks == []


# --- a thousand ----------------------------------------------------------------------------------


@dataclass
class Victim:
    """A kind of run that is killed, in a repository of its own.

    Args:
        command: The run without its name.
        trees: Those of a run that nobody killed; so are its verdicts.
    """

    name: str
    place: Place
    command: Sequence[str]
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    duration_s: float = 0.0
    trees: Sequence[str] = ()
    verdicts: Sequence[str] = ()

    def start(self, slug: str) -> Any:
        """Starts the run of a name; those of one kind know what the first one measured."""
        options = () if self.name == "known" else ("--no-cache",)
        return self.place.start(*self.command, *options, "-e", slug)

    def begin(self) -> None:
        """Makes the run that nobody kills."""
        started = time.monotonic()
        done = self.place.finish(self.start("whole"))
        assert done.code == 0, done
        self.duration_s = time.monotonic() - started
        self.trees, self.verdicts = self.place.trees("whole"), self.place.verdicts("whole")
        assert len(self.trees) > 3, done

    def kills(self, who: str, moments: int) -> Iterator[tuple[str, Done]]:
        """So many kills of it."""
        return kills(self.place, who, self.start, self.duration_s, moments, self.numbers)

    def settle(self, slug: str, done: Done) -> Counter[str]:
        """Lets a killed run go on to its end; what is wrong with it then."""
        line, notes = self._written(slug)
        if done.code != 0:
            again = self.place.start("resume", slug) if line else self.start(slug)
            done = self.place.finish(again)
            assert done.code == 0, done
        after, noted = self._written(slug)
        is_same = self.place.trees(slug) == self.trees
        wrong = Counter(
            lost=len(notes - noted) + (after[: len(line)] != line),
            without=len(without_notes(self.place, slug)),
            trees=not (is_same and self.place.verdicts(slug) == self.verdicts),
        )
        check_nothing_left(self.place)
        # A thousand runs in one repository would make git slow.
        self.place.run("experiment", "delete", slug, "--yes")
        return wrong

    def _written(self, slug: str) -> tuple[list[str], set[tuple[str, str, str]]]:
        """An experiment's commits, and the kind, commit and id of each line of its notes."""
        if not self.place.git("for-each-ref", f"refs/heads/autopilot/{slug}"):
            return [], set()
        prefix = f"refs/notes/autopilot/{slug}/"
        refs = self.place.git("for-each-ref", "--format=%(refname)", prefix).split()
        kinds = [ref.removeprefix(prefix) for ref in refs]
        records = [(kind, record) for kind in kinds for record in self.place.notes(slug, kind)]
        return self.place.line(slug), {(kind, r["on"], r["id"]) for kind, r in records}


def main() -> int:
    """Kills as many runs as it is told, a thousand if it is not; returns the exit code.

    Names of kinds may follow the number.
    """
    number, names = int(sys.argv[1]) if len(sys.argv) > 1 else 1000, sys.argv[2:]
    sys.path.insert(0, str(Path(__file__).parent))
    folder = Path(tempfile.mkdtemp(prefix="autopilot-kills-"))
    wrong = Counter[str]()
    try:
        with contextlib.ExitStack() as stack:
            victims = [v for v in _victims(folder, stack) if not names or v.name in names]
            for victim in victims:
                victim.begin()
                print(f"{victim.name}: {len(victim.trees)} commits in {victim.duration_s:.1f} s")
            pairs = [(v, who) for who in (*WHO, "one") for v in victims]
            pairs = [(v, who) for v, who in pairs if who != "one" or v.name == "search"]
            turns = [(v, who, v.kills(who, number)) for v, who in pairs]
            for at in range(number):
                victim, who, moments = turns[at % len(turns)]
                try:
                    slug, done = next(moments)
                    wrong += victim.settle(slug, done)
                except (AssertionError, pytest.fail.Exception):
                    traceback.print_exc()
                    wrong["failed"] += 1
                    turns[at % len(turns)] = victim, who, victim.kills(who, number)
                print(
                    f"{at + 1} kills: {wrong['lost']} lost, {wrong['without']} commits without "
                    f"notes, {wrong['trees']} other trees, {wrong['failed']} did not go on "
                    f"({victim.name}, {who})",
                    flush=True,
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if wrong.total() else 0


def _victims(folder: Path, stack: contextlib.ExitStack) -> list[Victim]:
    """The kinds of runs, each in its repository."""
    from runs import commit_target, script
    from server import KEY, MessagesServer

    from tests.cli.conftest import COUNTER, Place, prepare_commands
    from tests.cli.test_fresh import TARGET
    from tests.command.conftest import AGENT, BENCH, Bench

    cache = prepare_commands(pytest.MonkeyPatch(), folder / "home")
    server = stack.enter_context(MessagesServer(script))
    os.environ |= {
        "EVALUATIONS": str(folder / "evaluations.log"),
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_API_KEY": KEY,
        "no_proxy": "127.0.0.1",
    }
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

    def place(name: str, **files: str) -> Place:
        made = Place(folder / name, cache)
        made.init()
        for path, text in files.items():
            made.write(path, text)
        if files:
            made.commit("base")
        return made

    measured = ("--eval", "sh bench.sh", "--mode", "min", "--metric")
    bench = """awk '{ s += ($3 - 3) * ($3 - 3) } END { print "cost: " s }' config.toml\n"""
    numbers = place("tune", **{"config.toml": "a = 9\nb = 1\n", "bench.sh": bench})
    spaces = ("--tune", "config.toml:a=0..9", "--tune", "config.toml:b=1|2|3|4")
    parts = ("top.py", "late.py", "deep/number.py")
    source = {f"parts/{name}": "def value():\n    return 0\n" for name in parts}
    source |= {"parts/__init__.py": "", "text.txt": "none\n", "target.py": TARGET}
    source["parts/deep/__init__.py"] = "from parts.deep.number import value\n"
    fresh = ("run", "target.py:System", "--max-epochs", "3", "--accumulate", "2")
    script_files = {"bench.sh": BENCH, "agent.sh": AGENT, "speed.txt": "10\n"}
    candidates = COUNTER.replace("int(x.read_text()) + 1", "int(x.read_text()) + self.proposal[0]")
    counter, known = (
        place(name, **{"counter.py": candidates, "x.txt": "1\n"}) for name in ("search", "known")
    )
    search = ("run", "counter.py", "--proposals", "4", "--parents", "2", "--max-epochs", "3")
    models = place("models")
    commit_target(models.top)
    return [
        Victim("agent", place("agent", **script_files), Bench.options(4)),
        Victim("models", models, ("run", "answerer.py", "--max-epochs", "3")),
        Victim("tune", numbers, ("run", *measured, "cost", *spaces, "--max-epochs", "6")),
        Victim("fresh", place("fresh", **source), fresh),
        Victim("search", counter, search),
        Victim("known", known, search),
    ]


if __name__ == "__main__":
    sys.exit(main())
