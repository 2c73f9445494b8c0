"""`--executor` and `--origin`: runs that are measured by workers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import runs
from kills import children, command_line, forks, send_kill
from runs import TARGET, commit_target, script
from server import Received, Reply, say
from waiting import wait_for

from autopilot.ai.model.recording import request_key
from tests.cli.conftest import Place
from tests.conftest import Serve

# Item n passes from level n on. `hold` is a file: while it is there, an item says so, and waits.
LEVELS = """\
import os, random, signal, time
from pathlib import Path

from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step

ITEMS = [{"id": f"i{at}", "at": at} for at in range(1, 7)]


class Raise(Optimizer):
    def step(self):
        level = self.parameters[0]
        level.write_text(f"{int(level.read_text()) + 1}\\n")
        return Step("raise the level", "up", "too few items pass")


class Levels(AutoPilotModule):
    def __init__(
        self, folder: str = "/nowhere", parents: int = 0, size: int = 2, bad: bool = False
    ):
        super().__init__()
        self.level, self.size, self.bad = PathParameter("level.txt"), size, bad
        self.folder, self.parents = Path(folder), parents

    def forward(self, batch):
        return Datum(items=[self.score(item.metadata["at"]) for item in batch.items])

    def score(self, at):
        level, hold = int(self.level.read_text()), self.folder / "hold"
        if (self.folder / "places").exists():
            with (self.folder / "places" / f"{level}-{at}").open("a") as file:
                print(os.getcwd(), file=file)
        if at == 4 and hold.exists() and hold.read_text() == f"{level} {self.training}":
            hold.rename(self.folder / "reached")
            pid = os.getpid()
            for _ in range(self.parents):
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if self.parents:
                os.kill(pid, signal.SIGKILL)
            while (self.folder / "reached").exists() and not self.parents:
                time.sleep(0.02)
        is_bad = self.bad and level == 1 and not self.training
        if is_bad and at == 5:
            os._exit(3)
        while is_bad and at == 6:
            time.sleep(0.02)
        return Datum(success=level >= at, metrics={"chance": random.random()}, feedback="low")

    def configure_optimizers(self):
        return Raise(self.parameters())

    def train_dataloader(self):
        return DataLoader(ITEMS, self.size)

    val_dataloader = test_dataloader = train_dataloader
"""


@pytest.fixture
def system(place: Place, tmp_path: Path) -> Place:
    place.write("levels.py", LEVELS)
    place.write("level.txt", "1\n")
    place.commit()
    (tmp_path / "held").mkdir()
    return place


def measured(place: Place, slug: str) -> list[Any]:
    """What was measured in an experiment, and what became of it."""
    traces = {str(note["id"]): note["items"] for note in place.notes(slug, "traces")}
    epochs = [(note["epoch"], note["metrics"], note["verdict"]) for note in place.judged(slug)]
    return [traces, epochs, place.git("rev-parse", f"autopilot/{slug}^{{tree}}")]


def reached(process: Any, held: Path) -> None:
    """Waits until an item that is to be held says so."""
    wait_for(lambda: (held / "reached").exists() or process.poll() is not None)


def host_of(process: Any) -> int:
    """The process that a run has started for its workers."""
    (found,) = [c for c in children(process.pid) if b"engine.executors" in command_line(c)]
    return found


def test_a_dask_worker_and_then_the_cluster_are_killed(system: Place, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    more = "--max-epochs", "2", "--no-cache"
    system.run("run", "levels.py", "-e", "here", *more)
    held = tmp_path / "held"
    (held / "hold").write_text("2 False")
    # From an item: its process, that of the worker's task, and the worker.
    given = "-H", f"folder={held}", "-H", "parents=2", "--max-wait", "1000"
    process = system.start("run", "levels.py", "-e", "dask", *given, "--executor", "dask", *more)
    reached(process, held)
    (held / "hold").write_text("3 False")
    (held / "reached").unlink()
    reached(process, held)
    assert system.verdicts("dask") == ["baseline", "kept"]
    send_kill(host_of(process))
    done = system.finish(process, 100)  # it is not waited for: no other one comes
    ended = "error: --executor dask: the process of its workers has ended"
    assert (done.code, done.error, done.hint) == (1, ended, "  hint: autopilot resume dask"), done
    system.run("resume", "dask", "--executor", "here")
    assert measured(system, "here") == measured(system, "dask")


# A scheduler, and a worker with it, at a port.
CLUSTER = """\
import sys
from distributed import LocalCluster
at = {"scheduler_port": int(sys.argv[1]), "host": "127.0.0.1", "protocol": "tcp"}
quiet = {"dashboard_address": ":0", "silence_logs": 50}
cluster = LocalCluster(n_workers=1, threads_per_worker=2, processes=False, **at, **quiet)
print(cluster.scheduler_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def cluster(port: str = "0") -> Iterator[str]:
    """The address of a cluster, which is killed at the end of the body."""
    command = [sys.executable, "-P", "-c", CLUSTER, port]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            yield process.stdout.readline().strip().removeprefix("tcp:")
        finally:
            process.kill()


def test_a_cluster_that_goes_away_is_waited_for(system: Place, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    seen, held = tmp_path / "seen", tmp_path / "held"
    for folder in (seen, held):
        (folder / "places").mkdir(parents=True)
    more = "--max-epochs", "2", "--no-cache"
    system.run("run", "levels.py", "-e", "here", "-H", f"folder={seen}", *more)
    progress = system.top / ".git" / "autopilot" / "far.progress.jsonl"

    def held_at(process: Any) -> None:
        reached(process, held)
        # The batch before it is recorded, and so it is not measured again.
        wait_for(lambda: '"split":"val"' in progress.read_text().replace(" ", ""))

    (held / "hold").write_text("2 False")
    with cluster() as address:
        given = "-H", f"folder={held}", "--executor", f"dask:{address}", "--max-wait", "1"
        process = system.start("run", "levels.py", "-e", "far", *given, *more)
        held_at(process)
    (held / "reached").unlink()
    done = system.finish(process)
    assert done.code == 1 and done.err.count("\n") == 2, done
    assert f"--executor dask:{address}: no scheduler answers there (waited for 1 s)" in done.error
    assert done.hint.endswith("then: autopilot resume far")
    (held / "hold").write_text("3 False")
    port = address.rpartition(":")[2]
    with cluster(port):
        process = system.start("resume", "far", "--max-wait", "1000")
        held_at(process)
    (held / "reached").unlink()
    with cluster(port):
        done = system.finish(process)
    assert done.code == 0, done
    assert measured(system, "here") == measured(system, "far")
    for name in (f"{level}-{at}" for level in (1, 2, 3) for at in (1, 2)):
        times = [(top / "places" / name).read_text().count("\n") for top in (seen, held)]
        assert times[0] == times[1], name


def test_kills_of_a_run_its_evaluation_and_its_workers_lose_nothing(
    system: Place, tmp_path: Path
) -> None:
    more = "--max-epochs", "3", "--no-cache"
    system.run("run", "levels.py", "-e", "here", *more)
    held = tmp_path / "held"

    def hold(moment: str) -> None:
        (held / "hold").write_text(moment)

    run = "run", "levels.py", "-e", "far", "-H", f"folder={held}", *more
    hold("1 False")
    process = system.start(*run, "--executor", "processes:2", "--max-wait", "0")
    reached(process, held)
    # The evaluation's process: another one goes on.
    send_kill(forks(process.pid)[-1])  # the first one watches over it
    hold("2 True")
    (held / "reached").unlink()
    reached(process, held)
    send_kill(host_of(process))
    done = system.finish(process)
    # The batches after the one that it waits for are measured ahead.
    assert re.search(r"\(SIGKILL\) in val batch [01] of epoch 0; it goes on", done.out), done
    ended = "the process of its workers has ended"
    assert done.code == 1 and ended in done.error and "resume far" in done.hint, done
    (held / "reached").unlink()
    hold("3 False")
    process = system.start("resume", "far")
    reached(process, held)
    os.kill(process.pid, signal.SIGKILL)
    system.finish(process)
    (held / "reached").unlink()
    system.run("resume", "far")
    assert measured(system, "here") == measured(system, "far")
    system.run("replay", "far")


def test_workers_elsewhere_fetch_the_commits_of_candidates_from_an_origin(
    system: Place, tmp_path: Path
) -> None:
    more = "--max-epochs", "1", "--proposals", "2", "--jobs", "2", "-H", "size=6", "--no-cache"
    system.run("run", "levels.py", "-e", "here", *more)
    bare, held = tmp_path / "bare.git", tmp_path / "held"
    system.git("init", "--quiet", "--bare", str(bare))
    (held / "places").mkdir()
    given = "-H", f"folder={held}", "--executor", "processes:2", "--origin", f"file://{bare}"
    system.run("run", "levels.py", "-e", "far", *given, *more)
    assert measured(system, "here") == measured(system, "far")
    places = {Path(p) for f in (held / "places").iterdir() for p in f.read_text().splitlines()}
    assert places and all(".measure-" in each.name for each in places)
    assert not any(each.is_relative_to(system.top.parent / system.top.name) for each in places)
    assert (system.cache / "autopilot" / "workers").is_dir()
    assert system.git("for-each-ref", cwd=bare) == ""


def test_items_die_and_run_out_of_time_at_a_worker_as_they_do_here(system: Place) -> None:
    more = "--max-epochs", "1", "--no-cache", "-H", "bad=true", "--item-timeout", "1"
    more = *more, "--no-measure-noise"
    system.run("run", "levels.py", "-e", "here", *more)
    system.run("run", "levels.py", "-e", "far", *more, "--executor", "processes:2")
    here, far = measured(system, "here"), measured(system, "far")
    for item in (each for found in (here, far) for items in found[0].values() for each in items):
        item.pop("metadata", None)  # where it was when it was ended
    assert here == far
    errors = [item.get("error_message", "") for item in far[0]["0-val"]]
    assert [why.partition(" (")[0] for why in errors] == [""] * 4 + [
        "the evaluation died: exit code 3",
        "no result within 1 s, in score",
    ]


def test_what_cannot_measure_is_refused_before_anything_is_paid(
    system: Place, tmp_path: Path
) -> None:
    def refused(*options: str, says: str, hint: str, code: int = 1) -> None:
        system.refused("run", "levels.py", *options, says=(says,), hints=(hint,), code=code)

    refused("--executor", "clouds", says="no such executor", hint="dask://ADDRESS", code=2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        there = f"dask://127.0.0.1:{taken.getsockname()[1]}"
        refused("--executor", there, says="no scheduler answers", hint="its address", code=2)
    here = "--executor", "processes:1"
    refused(*here, "--in-place", says="measures commits", hint="leave out --in", code=2)
    refused("--origin", "x", says="the run has no workers", hint="add --executor", code=2)
    nowhere = f"file://{tmp_path}/none.git"
    refused(*here, "--origin", nowhere, says="none.git", hint="git ls-remote")
    secret = "https://ada:hunter2@example.com/a.git"
    refused(*here, "--origin", secret, says="holds a secret", hint="leave it out", code=2)
    bare = tmp_path / "closed.git"
    system.git("init", "--quiet", "--bare", str(bare))
    hook = bare / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    refused(*here, "--origin", str(bare), says="does not take", hint="--origin")
    hook.unlink()
    system.git("remote", "add", "far", str(bare))
    refused(*here, "--origin", "far", says="remotes of", hint="get-url far", code=2)
    # A path is one from where the command is typed.
    near = os.path.relpath(bare, system.top)
    system.run("run", "levels.py", *here, "--origin", near, "--max-epochs", "1")
    assert str(bare) in system.git("log", "-p", "--all", "--format=")
    assert system.git("for-each-ref", cwd=bare) == ""


def test_model_calls_of_workers_are_recorded_and_paid_as_those_made_here(
    place: Place, serve: Serve
) -> None:
    server = serve(script)
    commit_target(place.top, TARGET.replace("range(1, 5)], 4)", "range(1, 5)], 1)"))

    def run(slug: str, command: str, *options: str) -> tuple[Any, ...]:
        before = len(server.requests)
        done = runs.autopilot(place.top, *command.split(), *options, "--json")
        calls = sorted((note["id"], note["role"]) for note in place.notes(slug, "llm"))
        said = json.loads(done.stdout)
        asked = sorted(request_key(each.body) for each in server.requests[before:])
        return done.returncode, said["models"], said["stop_reason"], calls, asked

    # The last calls are those of a block that had a share of the budget, and then all of it.
    new, little = "run answerer.py --no-cache --max-epochs 1 -e", ("--budget-calls", "10")
    far = "--executor", "processes:2"
    assert run("here", f"{new} here", *little) == run("far", f"{new} far", *little, *far)
    more = "--budget-calls", "100"
    far = "--executor", "processes:1"
    assert run("here", "resume here", *more) == run("far", "resume far", *more, *far)


# All items ask a model the same question of a state.
ASKER = """\
from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step
from autopilot.ai import Model


class Raise(Optimizer):
    def step(self):
        self.parameters[0].write_text("2")
        return Step("raise it", "up", "it is low")


class Asker(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.x, self.model = PathParameter("x.txt"), Model("claude-haiku-4-5", max_tokens=100)

    def forward(self, batch):
        said = self.model.complete(f"at {self.x.read_text()}").output
        return Datum(success="2" in said, metadata={"said": said}, feedback="low")

    def configure_optimizers(self):
        return Raise(self.parameters())

    def val_dataloader(self):
        return DataLoader([{"id": "a"}, {"id": "b"}], 1)
"""


def test_a_question_of_two_blocks_at_once_has_one_recorded_reply(
    place: Place, serve: Serve
) -> None:
    asked = list[int]()

    def answer(_: Received) -> Reply:
        asked.append(number := len(asked) + 1)
        return say(f"reply {number}").after(
            lambda: wait_for(lambda: len(asked) >= (number + 1) // 2 * 2)
        )

    server = serve(answer)
    place.write("asker.py", ASKER)
    place.commit()
    options = "--executor", "processes:2", "--max-epochs", "1", "--no-cache"
    done = place.run("run", "asker.py", "-e", "twice", *options)
    calls = place.notes("twice", "llm")
    lost = [call["reply"] for call in calls if "lost" in call["reply"]]
    assert lost == [{"lost": "made twice"}] * 2
    assert len(calls) == len(server.requests) == 4 and "models: 4 calls" in done.out, done
    known = {call["reply"]["content"][0]["text"] for call in calls if call["reply"] not in lost}
    said = [{i["metadata"]["said"] for i in t["items"]} for t in place.notes("twice", "traces")]
    assert [len(each) for each in said] == [1, 1] and set.union(*said) == known
    place.run("replay", "twice", "--level", "full")
    assert len(server.requests) == 4
