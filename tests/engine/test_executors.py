"""A Dask cluster that goes away, or does not answer, while a run waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from waiting import wait_for

from autopilot.engine import executors
from autopilot.engine.executors import DaskWorkers, has_worker, submit

RELEASED = threading.Event()


def held() -> None:
    RELEASED.wait(60)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    at: dict[str, Any] = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": ":0"}
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, silence_logs=50, **at
    ) as cluster:
        yield cluster


@pytest.fixture(params=["ours", "a program's"])
def dask(cluster: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """An executor, its client, and the handlers of the scheduler's requests."""
    ours = DaskWorkers(cluster.scheduler_address, "dask:there")
    client = vars(ours)["_client"]
    yield (
        ours if request.param == "ours" else client.get_executor(),
        client,
        cluster.scheduler.handlers,
    )
    ours.shutdown()


def test_a_scheduler_that_is_lost_while_it_hands_a_result_out_ends_the_wait(
    dask: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, client, handlers = dask

    async def gather(**_: Any) -> None:
        for comm in cluster.scheduler.client_comms.values():
            comm.abort()
        raise OSError("gone")

    with monkeypatch.context() as patch:
        patch.setitem(handlers, "gather", gather)
        assert submit(executor, abs, -1).exception(20) is not None
    wait_for(lambda: client.status == "running")
    assert submit(executor, abs, -2).result(20) == 2


@pytest.mark.parametrize("dask", ["a program's"], indirect=True)
def test_options_of_a_programs_executor_hold(dask: Any, cluster: Any) -> None:
    _, client, _ = dask
    RELEASED.clear()
    answer, tasks = submit(client.get_executor(retries=3), held), cluster.scheduler.tasks
    wait_for(lambda: 3 in [each.retries for each in [*tasks.values()]])
    RELEASED.set()
    answer.result(20)


@pytest.mark.parametrize(
    ("dask", "closes"),
    [("ours", True), ("ours", False), ("a program's", True)],
    indirect=["dask"],
)
def test_what_a_closed_client_was_asked_for_is_lost(
    dask: Any, monkeypatch: pytest.MonkeyPatch, closes: bool
) -> None:
    executor, client, _ = dask
    is_ours = isinstance(executor, DaskWorkers)
    RELEASED.clear()
    answer = submit(executor, held)
    with monkeypatch.context() as patch:
        if not closes:
            patch.setattr(client, "close", Mock(side_effect=TimeoutError))
        (executor.shutdown if is_ours else client.close)()
    RELEASED.set()
    assert str(answer.exception(20)).startswith(("its client is closed", "held"))


def test_a_scheduler_that_does_not_answer_has_no_worker(
    dask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, _, handlers = dask
    assert has_worker(executor)
    asked = threading.Event()

    async def silent(**_: Any) -> None:
        asked.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(executors, "NO_WORKER_S", 0.1)
    for name in ("identity", "ncores"):
        monkeypatch.setitem(handlers, name, silent)
    assert not has_worker(executor) and asked.is_set()
    if isinstance(executor, DaskWorkers):
        assert vars(DaskWorkers)["_max_workers"].fget(executor) == 1
