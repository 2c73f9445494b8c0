"""Blocks that an executor loses, delays and doubles; workers that cannot measure."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from checkouts import commit_all, make_checkout

from autopilot import __version__
from autopilot.core.experiment import Experiment
from autopilot.core.records.record import Manifest, TraceRecord
from autopilot.core.trainer import Trainer
from autopilot.core.types import Result
from autopilot.engine import wire, workers
from autopilot.engine.wire import Block, CommitSource, at_worker
from autopilot.errors import NoMoreCallsError, OutageError, UsageError
from autopilot.git import refs
from autopilot.git.repository import Repository
from autopilot.tracking.git_store import GitStore

SYSTEM = """\
import random

from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step

ITEMS = [{"id": f"i{at}", "at": at} for at in range(1, 7)]


class Raise(Optimizer):
    def step(self):
        level = self.parameters[0]
        level.write_text(f"{int(level.read_text()) + 2}\\n")
        return Step("raise the level", "up", "too few items pass")


class System(AutoPilotModule):
    def __init__(self, size=2):
        super().__init__()
        self.level, self.size = PathParameter("level.txt"), size

    def on_validation_start(self):
        self.at_start = int(self.level.read_text())

    def forward(self, batch):
        return Datum(items=[self.score(item.metadata["at"]) for item in batch.items])

    def score(self, at):
        level = int(self.level.read_text())
        if not self.training and level != self.at_start:
            raise ValueError(f"{level} is not {self.at_start}")
        return Datum(success=level >= at, metrics={"chance": random.random()}, feedback="low")

    def configure_optimizers(self):
        return Raise(self.parameters())

    def train_dataloader(self):
        return DataLoader(ITEMS, self.size)

    val_dataloader = train_dataloader
"""


@pytest.fixture
def system(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the target `system.py`, which is the working directory."""
    (repository.workdir / "system.py").write_text(SYSTEM)
    (repository.workdir / "level.txt").write_text("1\n")
    monkeypatch.chdir(commit_all(repository.workdir, "system"))
    monkeypatch.syspath_prepend(str(repository.workdir))
    monkeypatch.delitem(sys.modules, "system", raising=False)  # of another test
    return repository.workdir


def fit(top: Path, slug: str, executor: Executor | None, **more: Any) -> Result:
    """Two epochs from the first state on."""
    from system import System  # type: ignore[import-not-found]  # the fixture's

    (top / "level.txt").write_text("1\n")
    manifest = Manifest(slug=slug, target="system.py", options=more.pop("options", {}))
    experiment = Experiment(GitStore(slug), manifest=manifest)
    try:
        return Trainer(executor=executor, experiment=experiment, **more).fit(System(), max_epochs=2)
    finally:
        experiment.close()


def results(slug: str) -> list[Any]:
    """What was measured in an experiment, and the tree of its branch."""
    store = GitStore(slug)
    traces = [(each.id, each.items) for _, each in store.records(TraceRecord)]
    history = [(each.metrics, each.tree, each.verdict) for each in Experiment(store).history]
    return [sorted(traces, key=lambda each: each[0]), history, store.log()[0].tree]


class Unreliable(Executor):
    """Threads, of whose answers some are lost, late, or of a second try.

    Args:
        lost: Whether an answer is lost, for a block and the number of its requests so far.
    """

    def __init__(self, lost: Callable[[Block, int], bool]) -> None:
        self._pool, self._lost, self.asked = ThreadPoolExecutor(3), lost, dict[str, int]()
        self._late: list[Callable[[], None]] = []
        self._open, self._lock = 0, Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        block: Block = pickle.loads(pickle.loads(args[0])[1])
        name = f"{block.position} {block.position.repeat} {block.commit}" if block.parts else ""
        self.asked[name] = number = self.asked.get(name, 0) + 1
        answer: Future[Any] = Future()

        def deliver() -> None:
            is_lost = self._lost(block, number)
            fn(*args)
            done = None if is_lost else fn(*args)  # twice: only one of them may count
            with self._lock:
                self._open -= 1
                late, self._late = self._late, []
                if self._open and not (late or is_lost):
                    self._late.append(lambda: answer.set_result(done))  # behind one in progress
                    return
            if is_lost:
                answer.set_exception(ConnectionResetError("the worker is gone"))
            else:
                answer.set_result(done)
            for each in late:
                each()

        with self._lock:
            self._open += 1
        self._pool.submit(deliver)
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


@contextmanager
def unreliable(lost: Callable[[Block, int], bool]) -> Iterator[Unreliable]:
    executor = Unreliable(lost)
    try:
        yield executor
    finally:
        executor.shutdown()


def test_what_workers_measure_is_what_is_measured_here(system: Path) -> None:
    fit(system, "here", None)
    with ProcessPoolExecutor(2) as pool:
        fit(system, "pool", pool)
    with unreliable(lambda block, number: number == 1 and block.position.number == 1) as bad:
        fit(system, "bad", bad)
    assert results("here") == results("pool") == results("bad")
    assert len(results("here")[0]) == 4  # three states, the first of them twice
    again = {name for name, number in bad.asked.items() if number > 1}
    assert len(again) == 6 and all(" batch 1 " in name for name in again)  # 4 of val, 2 of train


def test_items_run_side_by_side_at_a_worker_too(system: Path) -> None:
    meet = "MEET = threading.Barrier(2)\n\n\nclass Raise("
    met = "at):\n        MEET.wait(20)\n"
    text = SYSTEM.replace("random.random()", "0.5").replace("import random", "import threading")
    (system / "system.py").write_text(text.replace("class Raise(", meet).replace("at):\n", met))
    commit_all(system, "two meet")
    with ProcessPoolExecutor(1) as pool:
        fit(system, "far", pool, num_workers=2)
    assert [item["success"] for item in dict(results("far")[0])["1-val"]] == [True] * 3 + [
        False
    ] * 3


def test_an_item_has_no_more_memory_at_a_worker(system: Path) -> None:
    read = "level = int(self.level.read_text())\n        if not"
    more = "while at == 2 and level == 1 and not self.training:\n            _ = b'x' * (400 << 20)"
    assert read in SYSTEM
    text = SYSTEM.replace(read, read.replace("if not", f"{more}\n        if not"))
    (system / "system.py").write_text(text)
    commit_all(system, "take much")
    with ProcessPoolExecutor(1) as pool:
        fit(system, "much", pool, options={"memory": "300M"}, measure_noise=False)
    first, much, *others = dict(results("much")[0])["0-val"]
    assert much["error_message"].startswith("killed for memory: over 300 MiB, in score (system.py:")
    assert not any("error_message" in each for each in (first, *others))


def test_a_block_that_ends_every_worker_is_an_error_of_its_items(system: Path) -> None:
    with unreliable(lambda block, _: bool(block.parts) and block.position.number == 2) as bad:
        fit(system, "bad", bad, measure_noise=False)
    traces = dict(results("bad")[0])
    errors = [item.get("error_message") for item in traces["0-val"]]
    assert errors[:4] == [None] * 4
    assert (
        errors[4:] == ["its worker was lost 3 times (ConnectionResetError: the worker is gone)"] * 2
    )


def test_without_a_worker_the_epoch_stays_open(system: Path) -> None:
    fit(system, "here", None)
    is_gone = False

    def lost(block: Block, _: int) -> bool:
        return is_gone or (bool(block.parts) and block.position.epoch == 1 and leave())

    def leave() -> bool:
        nonlocal is_gone
        is_gone = True
        return True

    with unreliable(lost) as bad, pytest.raises(OutageError, match="the worker is gone"):
        fit(system, "gone", bad, max_wait_s=0)
    with pytest.raises(UsageError, match="the worker is gone"), unreliable(lambda *_: True) as bad:
        fit(system, "gone", bad)
    fit(system, "gone", None)
    assert results("gone") == results("here")


class Leaving(Executor):
    """Measures the baseline, and nothing else: it takes no work any more, or its process ended."""

    def __init__(self, *, takes: bool) -> None:
        self._takes, self.has_ended = takes, False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        block, answer = pickle.loads(pickle.loads(args[0])[1]), Future[Any]()
        if not block.parts or block.position.epoch == 0:
            answer.set_result(fn(*args))
        elif self._takes:
            self.has_ended = answer.set_running_or_notify_cancel()
            if not block.position.number:  # the others never end
                answer.set_exception(ConnectionRefusedError("gone"))
        else:
            raise ValueError("the client is closed")  # of a library's own kind
        return answer


def test_an_executor_that_takes_no_work_is_waited_for_and_one_that_ended_is_not(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_LOOK_S", 0.01)
    with pytest.raises(OutageError, match="takes no work: the client is closed"):
        fit(system, "closed", Leaving(takes=False), max_wait_s=0)
    with pytest.raises(NoMoreCallsError, match="the process of its workers has ended") as ended:
        fit(system, "ended", Leaving(takes=True), max_wait_s=600)
    assert ended.value.hint == "autopilot resume ended"


def test_a_worker_that_cannot_measure_names_itself_in_one_line(
    system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (system / "system.py").write_text(f"import rare\n{SYSTEM}")
    head = Repository.discover(commit_all(system, "of another machine")).head_commit()
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    monkeypatch.setenv("NODE_TOKEN", "t0p-of-node7")

    def asked(folder: Path = system, *, parts: bytes = b"", is_here: bool = False) -> str:
        source = CommitSource(str(folder), wire.this_machine() if is_here else "another machine")
        block = Block(source, head, Manifest(slug="a", target="system.py"), parts=parts)
        _, why, hint = pickle.loads(at_worker(wire.as_request(block)))
        assert not why or (hint and "\n" not in why and why.startswith("a worker on node7"))
        assert "t0p-of-node7" not in why + hint
        return str(why)

    assert asked(is_here=True) == asked() == ""
    nowhere = asked(system / "t0p-of-node7")
    assert f"cannot reach the repository {system}/[hidden]" in nowhere
    for versions in ("autopilot 0.0.1 on Python 3.11", f"autopilot {__version__} on Python 2.7"):
        with monkeypatch.context() as patch:
            patch.setattr(wire, "_VERSIONS", versions)
            request = wire.as_request(Block(CommitSource("", ""), head, Manifest(slug="a")))
        _, why, _ = pickle.loads(at_worker(request))
        assert why.startswith("a worker on node7 has autopilot") and f"is of {versions}" in why
    refused = asked(parts=b"some", is_here=True)  # its target is imported before they are read
    assert "system.py cannot be imported: ModuleNotFoundError: No module named 'rare'" in refused
    (tmp_path / "file").touch()
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # not to be written, root or not
        for is_here in (True, False):
            assert "Not a directory" in asked(parts=b"some", is_here=is_here)
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
        patch.setenv("PATH", "")
        assert "the git command line is not installed" in asked()


def test_a_worker_without_room_measures_nothing(
    system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (system / "data.bin").write_bytes(os.urandom(1 << 20))
    commit_all(system, "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "small"))
    pool = ProcessPoolExecutor(1, initializer=_without_room)
    with pool, pytest.raises(UsageError, match=r"a worker on .*: cannot make a worktree") as error:
        fit(system, "full", pool, max_wait_s=0)
    assert "room for it" in error.value.hint and not Experiment(GitStore("full")).history


def _without_room() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))


class Silent(Executor):
    """Answers nothing."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        return Future()


def test_a_program_is_told_what_its_executor_needs(
    system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from system import System

    monkeypatch.setattr(workers, "NO_WORKER_S", 0.01)
    origin = make_checkout(tmp_path / "origin")
    with pytest.raises(UsageError, match="no worker within"):
        fit(system, "silent", Silent(), options={"origin": str(origin)})
    assert not refs.list_refs(Repository.discover(origin), "refs/autopilot/")  # it had pushed

    with ThreadPoolExecutor(1) as pool, pytest.raises(UsageError, match="names the module"):
        Trainer(executor=pool).fit(System(), max_epochs=1)
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(UsageError, match="takes no work"):
        fit(system, "shut", pool)


KEYS = {"RUN_API_KEY": "r0-of-the-run", "NODE_API_KEY": "n0-of-the-node"}


class Sealed(ProcessPoolExecutor):
    """A worker with another environment; nothing that is sent to it has a key of the run's."""

    def __init__(self) -> None:
        super().__init__(1, initializer=_at_node)

    travelled = b""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        self.travelled += args[0]
        future = super().submit(fn, *args)
        self.travelled += future.result()
        return future


def _at_node() -> None:
    os.environ.pop("RUN_API_KEY")
    os.environ["NODE_API_KEY"] = KEYS["NODE_API_KEY"]


def test_keys_stay_where_they_are(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_API_KEY", KEYS["RUN_API_KEY"])
    said = """
        import os
        names = ("RUN_API_KEY", "NODE_API_KEY")
        keys = " and ".join(str(os.environ.get(name)) for name in names)
        if at == 6:
            raise ValueError(keys)
        if at == 5:
            return Datum(success=False, metadata={"keys": {keys: [keys]}}, feedback=keys)
        level ="""
    target = system / "system.py"
    target.write_text(SYSTEM.replace("\n        level = int", said + " int"))
    commit_all(system, "say keys")
    with Sealed() as pool:
        fit(system, "keys", pool)
    *_, answered, raised = dict(results("keys")[0])["0-val"]
    assert answered["metadata"] == {"keys": {"None and [hidden]": ["None and [hidden]"]}}
    assert answered["feedback"] == "None and [hidden]"
    assert raised["error_message"] == "ValueError: None and [hidden]"
    assert b"i6" in pool.travelled and not any(k.encode() in pool.travelled for k in KEYS.values())
