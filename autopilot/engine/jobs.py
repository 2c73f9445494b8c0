"""The items of a batch in processes of their own, several side by side: `--jobs`.

For each batch, some keepers are forked. A keeper runs none of the user's code: it forks a process
for each item, ends it at a limit, and ends all that it started. So each item finds the module as
it was at the start of the batch, and the death of its process costs that item alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

from autopilot import audit
from autopilot.core.interpreter import Aside, Jobs
from autopilot.core.module import Module
from autopilot.core.outages import infrastructure_in
from autopilot.core.progress import Death, Position
from autopilot.core.run import current_run
from autopilot.core.types import Datum
from autopilot.engine import relay
from autopilot.engine.child_output import ChildOutput, end_of, forked, oom_kills
from autopilot.engine.fresh import ItemLimits
from autopilot.sandbox.children import Watcher
from autopilot.sandbox.processes import MemoryWatch, adopt, end_adopted

# The kinds of messages; an empty one is the end of a channel.
_ITEM, _VALUE, _ERROR, _DEATH, _ASK, _REPLY, _INTERRUPT = (bytes([n]) for n in range(7))
_LOOK_S, _LOOK_SOON_S = 0.2, 0.01


class _Keeper:
    """A keeper as the run's process sees it, with the item that it has."""

    def __init__(self, pid: int, channel: Connection[Any, Any]) -> None:
        self.pid, self.channel = pid, channel
        self.number: int | None = None
        self.desk = relay.Desk(current_run())

    def fileno(self) -> int:
        return self.channel.fileno()

    def end(self) -> None:
        """Ends it with the item's process: the end of the channel tells it."""
        self.desk.close()
        self.channel.close()
        os.waitpid(self.pid, 0)


class ForkedJobs(Jobs):
    """Evaluates items in processes that are forked from this one.

    Args:
        limits: What an item may take, and how many are evaluated at once.
        module: Its modules and parameters stay the same objects in results and their graphs.
        watchers: They learn what happens in the items' processes.
    """

    def __init__(self, limits: ItemLimits, module: Module, watchers: Sequence[Watcher]) -> None:
        self._limits, self._module, self._watchers = limits, module, watchers

    def run(
        self,
        numbers: Sequence[int],
        evaluate: Callable[[int], tuple[Datum, Aside]],
        finished: Callable[[int, tuple[Datum, Aside] | Death], None],
    ) -> None:
        self._held = [*self._module.modules(), *self._module.parameters()]
        waiting, killed, keepers = deque(numbers), set[int](), list[_Keeper]()
        failure: BaseException | None = None

        def take(keeper: _Keeper, kind: bytes, content: bytes) -> None:
            nonlocal failure
            if kind == _ASK:
                _send(keeper.channel, _REPLY, keeper.desk.answer_to(content))
                return
            number, keeper.number = keeper.number, None
            keeper.desk.close()
            if not kind:
                keepers.remove(keeper)
                keeper.end()
                reason, _ = end_of(signal.SIGKILL, math.inf)
                kind, content = _DEATH, json.dumps((reason, "", True)).encode()
            if number is None:
                return
            if kind == _ERROR:
                error = relay.unpack_error(content)
                if isinstance(error, KeyboardInterrupt) and failure is None:
                    # The item's own: this process sends an interruption only when it has a failure.
                    finished(number, Death(Position(), "the evaluation interrupted itself"))
                failure = failure or (None if isinstance(error, KeyboardInterrupt) else error)
            elif kind == _VALUE:
                finished(number, self._opened(content))
            else:
                reason, printed, by_kill = json.loads(content)
                # A kill from outside says nothing about the item: the first is no death of it.
                if by_kill and number not in killed:
                    killed.add(number)
                    waiting.appendleft(number)
                else:
                    finished(number, Death(Position(), reason, printed))

        try:
            while True:
                try:
                    while waiting and failure is None:
                        free = next((k for k in keepers if k.number is None), None)
                        if free is None and len(keepers) == self._limits.jobs:
                            break
                        if free is None:
                            keepers.append(free := self._keeper(evaluate, keepers))
                        free.number = waiting.popleft()
                        _send(free.channel, _ITEM, b"%d" % free.number)
                    busy = [keeper for keeper in keepers if keeper.number is not None]
                    if not busy:
                        break
                    for keeper in select.select(busy, [], [])[0]:
                        take(keeper, *_receive(keeper.channel))
                except KeyboardInterrupt as interrupt:
                    # Calls that are paid are waited for; a second signal ends this process.
                    failure = interrupt
                    for keeper in keepers:
                        _send(keeper.channel, _INTERRUPT)
        finally:
            for keeper in keepers:
                keeper.end()
        if failure is not None:
            raise failure

    def _opened(self, content: bytes) -> tuple[Datum, Aside] | Death:
        try:
            value, gathered, executed = relay.unpickled(content, self._held)
        except Exception as error:  # noqa: BLE001  # the user's own classes are made here
            return Death(Position(), relay.unsent(error))
        for watcher, each in zip(self._watchers, gathered, strict=True):
            watcher.take_in(each)
        if (trail := audit.current()) is not None:
            trail.executed += executed
        return value  # type: ignore[no-any-return]  # as it was sent

    # --- the keeper ------------------------------------------------------------------------------

    def _keeper(self, evaluate: Callable[[int], Any], others: Sequence[_Keeper]) -> _Keeper:
        ours, above = Pipe()

        def work() -> None:
            # The ends of the others would keep their channels open.
            for end in (ours, *(other.channel for other in others)):
                end.close()
            # Signals of a terminal are for the run, which ends its items.
            os.setsid()
            since = adopt(is_on=True)
            while (message := _receive(above))[0]:
                if message[0] == _ITEM and not self._item(int(message[1]), evaluate, above, since):
                    break

        keeper = _Keeper(forked(work), ours)
        above.close()
        return keeper

    def _item(
        self, number: int, evaluate: Callable[[int], Any], above: Connection[Any, Any], since: float
    ) -> bool:
        """In the keeper: evaluates one item; returns whether the run's process is still there."""
        below, theirs = Pipe()
        output = ChildOutput()

        def work() -> None:
            output.take_over()
            below.close()
            above.close()
            # Its own children must not keep the channel open.
            os.register_at_fork(after_in_child=theirs.close)
            self._evaluate(number, evaluate, theirs)

        pid = forked(work)
        theirs.close()
        output.started()
        try:
            found = self._attend(pid, below, above, output)
            with contextlib.suppress(ChildProcessError):  # it has left none
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
                end_adopted(since, everywhere=True)
        finally:
            output.close()
            below.close()
        _send(above, *found)
        return bool(found[0])

    def _attend(
        self,
        pid: int,
        below: Connection[Any, Any],
        above: Connection[Any, Any],
        output: ChildOutput,
    ) -> tuple[bytes, bytes]:
        """Waits for an item's process; returns its last message, or its death."""
        timeout_s, memory = self._limits.item_timeout_s, self._limits.memory
        killed = oom_kills()
        began_s, excess, is_open, watch = time.monotonic(), "", True, MemoryWatch()
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            while is_open and below.poll():
                kind, content = _receive(below)
                if kind == _ASK:
                    _send(above, kind, content)
                elif kind and not excess:
                    if not ended:
                        os.waitpid(pid, 0)
                    return kind, content
                is_open = bool(kind)
            if ended:
                reason, by_kill = end_of(status, killed)
                death = (excess or reason, output.last(), by_kill and not excess)
                return _DEATH, json.dumps(death).encode()
            left_s = began_s + timeout_s - time.monotonic()
            is_over = watch.is_over(memory)
            if not excess and (is_over or left_s <= 0):
                why = "" if is_over else f"no result within {timeout_s:g} s"
                excess = output.end_child(pid, why, memory)
            look_s = min(_LOOK_S, left_s, watch.pause_s)
            wait_s = max(look_s, _LOOK_SOON_S) if is_open and not excess else _LOOK_SOON_S
            ends: list[Any] = [above, below] if is_open else [above]
            ends += [output.reader] if output.reader >= 0 else []
            ready = select.select(ends, [], [], wait_s)[0]
            output.relay()
            if above in ready:
                kind, content = _receive(above)
                if kind == _REPLY:
                    _send(below, kind, content)
                else:
                    os.kill(pid, signal.SIGINT if kind else signal.SIGKILL)
                if not kind:
                    os.waitpid(pid, 0)
                    return kind, content

    # --- the item's process ----------------------------------------------------------------------

    def _evaluate(
        self,
        number: int,
        evaluate: Callable[[int], tuple[Datum, Aside]],
        channel: Connection[Any, Any],
    ) -> None:
        def ask(question: bytes) -> bytes:
            _send(channel, _ASK, question)
            return _receive(channel)[1]

        for watcher in self._watchers:
            watcher.begin_apart()
        if (trail := audit.current()) is not None:
            trail.executed.clear()
        if (run := current_run()) is not None:
            relay.ask_parent(run, ask)
        try:
            value = evaluate(number)
        except BaseException as error:  # noqa: BLE001  # it is raised where the result is waited for
            types = run.outages.types if run else ()
            _send(channel, _ERROR, relay.pack_error(infrastructure_in(error, types) or error))
            return
        gathered = [watcher.gathered() for watcher in self._watchers]
        told = value, gathered, trail.executed if trail else []
        try:
            kind, content = _VALUE, relay.pickled(told, self._held)
        except Exception as error:  # noqa: BLE001  # the user's own objects say how they are pickled
            reason = relay.unsent(error, value[0])
            kind, content = _DEATH, json.dumps((reason, "", False)).encode()
        _send(channel, kind, content)


def _send(end: Connection[Any, Any], kind: bytes, content: bytes = b"") -> None:
    with contextlib.suppress(OSError):  # the other end is gone: whoever reads it notices
        end.send_bytes(kind + content)


def _receive(end: Connection[Any, Any]) -> tuple[bytes, bytes]:
    """Kind and content of the next message."""
    try:
        message = end.recv_bytes()
    except (EOFError, OSError):
        return b"", b""
    return message[:1], message[1:]
