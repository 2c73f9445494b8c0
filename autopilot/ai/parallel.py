"""Work in threads that wait on the network: on many items side by side, and what is paid."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each(
    function: Callable[[T], R],
    work: Sequence[T],
    num_workers: int,
    finished: Callable[[int], None] = lambda _: None,
) -> list[R]:
    """What the function returns for each item, in their order.

    The first error, Ctrl-C included, ends it: what is going on is waited for, since it is paid,
    and nothing is begun any more.

    Args:
        function: Called in the threads, with the context of this call.
        work: The items.
        num_workers: Threads.
        finished: Told in this thread, after each item, how many are done.

    >>> each(lambda number: number * 2, [1, 2, 3], num_workers=2)
    [2, 4, 6]
    """
    if not work:
        return []
    with ThreadPoolExecutor(max(1, min(num_workers, len(work)))) as pool:
        futures = [pool.submit(copy_context().run, function, item) for item in work]
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                future.result()
                finished(number)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def to_its_end(work: Callable[[], R]) -> R:
    """What the work returns; Ctrl-C waits for it, since it is paid, and a second one does not.

    Args:
        work: Called with the context of this call; in a thread where Ctrl-C would break it off.

    >>> to_its_end(lambda: 42)
    42
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    future: Future[R] = Future()
    context = copy_context()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(context.run(work))
        except BaseException as error:  # noqa: BLE001  # it is raised where it is waited for
            future.set_exception(error)

    try:
        threading.Thread(target=run, daemon=True).start()
        return future.result()
    except KeyboardInterrupt:
        if not future.cancel():
            # It has begun.
            future.exception()
        raise
