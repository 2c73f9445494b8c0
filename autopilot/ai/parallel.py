"""Work on many items side by side, in threads that wait on the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
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
