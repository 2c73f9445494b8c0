"""A file of JSON Lines that only grows: what a kill must not lose is appended at once.

What generations and judgings have in common: their lines, how they were begun, and their budget.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from autopilot.core.records.ledger import Limits
from autopilot.errors import DataError, LockHeldError
from autopilot.text import clean

L = TypeVar("L", bound=BaseModel)


class Origin(BaseModel):
    """How the command line found the generator or judge, so that it is found again.

    Args:
        target: As it was written; "" for a project's own, or for library use.
        hparams: Constructor arguments.
    """

    target: str = ""
    hparams: dict[str, str] = Field(default_factory=dict)


class Budget(BaseModel):
    """What all sessions together may cost; the last line of this kind counts.

    Args:
        calls: Model calls; None: as many as it takes.
        tokens: Tokens read and written.
        cost_usd: Dollars.
    """

    kind: Literal["budget"] = "budget"
    calls: float | None = None
    tokens: float | None = None
    cost_usd: float | None = None

    def limits(self) -> Limits:
        """The same as Limits."""
        given = (self.calls, self.tokens, self.cost_usd)
        return Limits(*(math.inf if limit is None else limit for limit in given))


class Lines(Generic[L]):
    """The lines of a file. Several threads may append, while one process holds it.

    Args:
        path: The file.
        kinds: What a line may be: a pydantic model, or a union of some.
    """

    def __init__(self, path: Path, kinds: Any) -> None:
        self.path = path
        self._adapter: TypeAdapter[L] = TypeAdapter(kinds)
        self._lock = threading.Lock()

    def read(self) -> Iterator[L]:
        """All lines; a last one that a kill cut short stands for something that was not finished.

        Raises:
            DataError: the file, or a line of it, cannot be read.
        """
        if not self.path.exists():
            return
        try:
            *lines, last = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise DataError(
                f"cannot read {self.path}: {error.strerror}", hint="name a file that can be read"
            ) from error
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

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else may append meanwhile; what a kill cut short is mended first.

        Raises:
            LockHeldError: another process does.
            DataError: the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+b")
        except OSError as error:
            raise DataError(
                f"cannot write {self.path}: {error.strerror}",
                hint="name a place that can be written",
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LockHeldError(
                    f"another process is writing {self.path}", hint="wait for it, or end it"
                ) from error
            self._mend(file)
            yield

    def append(self, line: L) -> None:
        """Adds a line; it lasts when this returns."""
        try:
            text = line.model_dump_json()
        except PydanticSerializationError:
            # Half of a surrogate pair, which pydantic neither writes nor reads.
            text = type(line).model_validate(clean(line.model_dump())).model_dump_json()
        with self._lock, self.path.open("ab") as file:
            file.write(text.encode() + b"\n")

    def _mend(self, file: Any) -> None:
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
            file.write(b"\n")
