"""A resumable worklist: paid work, item by item, in a file that only grows.

The data generator and the judging of datasets are worklists. Each line is written at once, so that
a kill loses nothing that was paid. Model calls are recorded in a file beside it, and answer a
resumed session.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from autopilot.ai.model.parallel import each
from autopilot.ai.model.recording import recording_beside
from autopilot.core.records.ledger import Ledger, Limits
from autopilot.errors import DataError, LockHeldError, translated_as
from autopilot.text import clean

# JSON has no infinity: no limit is null.
Limit = Annotated[float, BeforeValidator(lambda given: math.inf if given is None else given)]
Watch = Callable[[int, int, Ledger], None]


class Origin(BaseModel):
    """How the command line finds the generator or judge again.

    Args:
        target: TARGET as it was written; "" for a project's own, or for library use.
    """

    target: str = ""
    hparams: dict[str, str] = Field(default_factory=dict)


class BudgetLine(BaseModel):
    """Limits for all sessions together; the last line of this kind counts."""

    kind: Literal["budget"] = "budget"
    calls: Limit = math.inf
    tokens: Limit = math.inf
    cost_usd: Limit = math.inf


class Failure(Protocol):
    """A line for an item that failed; a resumed session tries the item again.

    Attributes:
        ask_anew: The model's answer was unusable: a resumed session does not reuse its recording.
    """

    reason: str
    ask_anew: bool


B = TypeVar("B", bound=BaseModel)
D = TypeVar("D", bound=BaseModel)
F = TypeVar("F", bound=Failure)
W = TypeVar("W")


class Worklist(Generic[B, D, F]):
    """Items that are done or failed, in memory and in a file.

    Several threads may append, while one process holds the file.

    Args:
        calls: The file of recorded model calls.
        kinds: All kinds of lines, as a union of pydantic models with a field `kind`.
        key: The field of both that tells items apart.

    Attributes:
        begun: The first line; None while there is none.
        limits: Limits for all sessions together, from the file.
        done: Key to the item's line.
        failed: Key to the line of an item that is not done.
        asked_anew: Key to the number of failures with an unusable answer.

    Raises:
        DataError: a line cannot be read.
    """

    noun: ClassVar[str]
    begin_hint: ClassVar[str]

    def __init__(
        self,
        path: Path,
        calls: Path,
        kinds: Any,
        first: type[B],
        done: type[D],
        failed: type[F],
        key: str,
    ) -> None:
        self.path, self.calls = path, calls
        self.begun: B | None = None
        self.limits = Limits()
        self.done: dict[Any, D] = {}
        self.failed: dict[Any, F] = {}
        self.asked_anew: Counter[Any] = Counter()
        self._first, self._done, self._failed, self._key = first, done, failed, key
        self._adapter: TypeAdapter[BaseModel] = TypeAdapter(kinds)
        self._has_results = False
        self._lock = threading.Lock()
        for line in self._read():
            self._take_in(line)

    def first_line(self) -> B:
        """The line that says what is to be done.

        Raises:
            DataError: nothing was begun in this file.
        """
        if self.begun is None:
            raise DataError(f"{self.place} does not hold {self.noun}", hint=self.begin_hint)
        return self.begun

    @property
    def place(self) -> Path:
        """The path that the user gave for the file."""
        return self.path

    @contextlib.contextmanager
    def begin(self, first: B) -> Iterator[None]:
        """Writes the first line, and holds the file. If the body raises before any result or model
        call is written, the file is removed.

        Raises:
            DataError: the file has lines already, or cannot be written.
            LockHeldError: another process holds it.
        """
        is_new_folder = not self.path.parent.exists()
        with self.held():
            # Only looked at under the lock: another process may have begun since the file was read.
            if self.path.stat().st_size:
                raise DataError(
                    f"{self.place} holds {self.noun} already",
                    hint="resume it, or name another place",
                )
            try:
                self.append(first)
                yield
            except BaseException:
                if not (self._has_results or self.calls.exists()):
                    self.path.unlink(missing_ok=True)
                    if is_new_folder:
                        self.path.parent.rmdir()
                raise

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Locks the file against other processes, and mends a last line that a kill cut short.

        Raises:
            LockHeldError: another process holds it.
            DataError: the file cannot be written.
        """
        with translated_as(DataError, f"cannot write {self.path}", "name a writable place"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+b")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LockHeldError(
                    f"another process is writing {self.path}", hint="wait for it, or end it"
                ) from error
            self._mend(file)
            yield

    def work_off(
        self,
        work: Mapping[Any, W],
        do: Callable[[W], None],
        num_workers: int,
        *,
        limits: Limits,
        budget: Limits | None,
        watch: Watch,
    ) -> None:
        """Does the items that are not done yet, several at once. The file must be held.

        Args:
            work: Key to item.
            limits: Limits beside those of the file.
            budget: Replaces the limits of the file; its seconds are for this session only.
            watch: Called after each item with the number of items done, of all, and the costs.

        Raises:
            BudgetExceededError: too little is left for the next call.
        """
        if budget is not None:
            self.append(
                BudgetLine(calls=budget.calls, tokens=budget.tokens, cost_usd=budget.cost_usd)
            )
            limits &= budget
        left = [item for key, item in work.items() if key not in self.done]
        before = len(work) - len(left)
        with recording_beside(self.calls, limits & self.limits) as ledger:
            each(do, left, num_workers, lambda n: watch(before + n, len(work), ledger))

    def append(self, line: BaseModel) -> None:
        """Writes a line to the file, then takes it into memory."""
        try:
            text = line.model_dump_json()
        except PydanticSerializationError:
            # Half of a surrogate pair, which pydantic neither writes nor reads.
            text = type(line).model_validate(clean(line.model_dump())).model_dump_json()
        with self._lock:
            with self.path.open("ab") as file:
                file.write(text.encode() + b"\n")
            self._take_in(line)

    def _take_in(self, line: Any) -> None:
        if isinstance(line, BudgetLine):
            self.limits = Limits(line.calls, line.tokens, line.cost_usd)
            return
        if isinstance(line, self._first):
            self.begun = line
            return
        self._has_results, key = True, getattr(line, self._key)
        if isinstance(line, self._done):
            self.done[key] = line
            self.failed.pop(key, None)
        elif isinstance(line, self._failed):
            self.failed[key] = line
            self.asked_anew[key] += line.ask_anew

    def _read(self) -> Iterator[BaseModel]:
        """All lines; a last one that a kill cut short is left out: its item was not finished."""
        if not self.path.exists():
            return
        with translated_as(DataError, f"cannot read {self.path}", "name a file that can be read"):
            *lines, last = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                yield self._adapter.validate_json(line)
            except ValidationError as error:
                raise DataError(
                    f"{self.path} line {number} cannot be read",
                    hint="it was edited, is another kind of file, or a newer version wrote it",
                ) from error
        if last:
            with contextlib.suppress(ValidationError):
                yield self._adapter.validate_json(last)

    def _mend(self, file: BinaryIO) -> None:
        file.seek(0)
        content = file.read()
        last = content[content.rfind(b"\n") + 1 :]
        if not last:
            return
        try:
            self._adapter.validate_json(last)
        except ValidationError:
            file.truncate(len(content) - len(last))
        else:
            # The line is whole: only its newline was cut off.
            file.write(b"\n")
