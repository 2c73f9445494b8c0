"""Datasets: items to train on and to measure with.

A Dataset has an index and a length, as a list has; an IterableDataset is only iterated. Any
Sequence may stand in for a Dataset.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import Any, Generic, NoReturn, Protocol, TypeVar, cast

from autopilot.errors import DataError, UsageError, translated_as
from autopilot.files import replacing
from autopilot.text import as_json

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Indexable(Protocol[T_co]):
    """A map-style dataset: a Dataset, a list, or anything with index and length."""

    def __getitem__(self, index: int, /) -> T_co: ...

    def __len__(self) -> int: ...


class Dataset(ABC, Generic[T_co]):
    """Items by index, from 0 to the length. An item is a mapping, a pydantic model or a Datum.

    An item keeps its content: index 3 is the same item whenever it is asked for. `a + b` is a
    ConcatDataset of both.

    >>> class Squares(Dataset[int]):
    ...     def __getitem__(self, index: int) -> int:
    ...         return index * index
    ...     def __len__(self) -> int:
    ...         return 4
    >>> list(Squares())
    [0, 1, 4, 9]
    """

    @abstractmethod
    def __getitem__(self, index: int, /) -> T_co:
        """The item; IndexError past the end."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of items."""

    def __iter__(self) -> Iterator[T_co]:
        return (self[index] for index in range(len(self)))

    def __add__(self, other: Indexable[T]) -> ConcatDataset[T_co | T]:
        return ConcatDataset([self, other])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} items)"


class IterableDataset(ABC, Generic[T_co]):
    """Items one after the other, of unknown number; each `iter()` starts again at the first.

    >>> class Countdown(IterableDataset[int]):
    ...     def __iter__(self) -> Iterator[int]:
    ...         return iter((3, 2, 1))
    >>> list(Countdown())
    [3, 2, 1]
    """

    @abstractmethod
    def __iter__(self) -> Iterator[T_co]:
        """A new walk through all items, in the same order."""


class ListDataset(Dataset[T]):
    """Items held in memory.

    Args:
        items: Copied into a list.

    >>> dataset = ListDataset([{"text": "refund please"}, {"text": "hello"}])
    >>> len(dataset), dataset[1]
    (2, {'text': 'hello'})
    """

    def __init__(self, items: Iterable[T]) -> None:
        self.items = list(items)

    def __getitem__(self, index: int, /) -> T:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def from_jsonl(
        cls, path: str | PathLike[str], model: type[Any] | None = None
    ) -> ListDataset[Any]:
        """Reads a JSON Lines file: one object a line, UTF-8, blank lines skipped.

        Args:
            path: The file.
            model: A pydantic model that each object becomes; None gives dicts.

        Raises:
            DataError: the file cannot be read, or a line is malformed; it names file and line.
        """
        check_model(model)
        return cast(type[ListDataset[Any]], cls)(read_jsonl(Path(path), model))

    def to_jsonl(self, path: str | PathLike[str]) -> None:
        """Writes the items, mappings or pydantic models, so that `from_jsonl` reads them back.

        Makes the folder if it is missing; replaces the file in one step.

        Raises:
            DataError: an item is no object or cannot be JSON; the file cannot be written.
        """
        write_jsonl(Path(path), self.items)


class StreamingDataset(IterableDataset[T_co]):
    """A JSON Lines file that is read while it is iterated: memory holds one line, however many.

    Args:
        path: The file; opened anew by each walk.
        model: A pydantic model that each object becomes; None gives dicts.

    Raises:
        DataError: here, if the file is missing; while iterating, as `ListDataset.from_jsonl`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ListDataset([{"n": 1}, {"n": 2}]).to_jsonl(f"{folder}/n.jsonl")
    ...     sum(item["n"] for item in StreamingDataset(f"{folder}/n.jsonl"))
    3
    """

    def __init__(self, path: str | PathLike[str], model: type[Any] | None = None) -> None:
        check_model(model)
        self.path = Path(path)
        self.model = model
        try:
            # A missing file is an error before the first epoch, not in the middle of it.
            self.path.open("rb").close()
        except OSError as error:
            raise unreadable(self.path, error) from error

    def __iter__(self) -> Iterator[T_co]:
        return read_jsonl(self.path, self.model)

    def __repr__(self) -> str:
        return f"StreamingDataset({str(self.path)!r})"


class ConcatDataset(Dataset[T_co]):
    """Several datasets as one, one after the other.

    Args:
        datasets: Datasets or sequences; their lengths are taken now.

    Raises:
        UsageError: one of them has no length or no index.

    >>> list(ConcatDataset([["a", "b"], ["c"]]))
    ['a', 'b', 'c']
    """

    def __init__(self, datasets: Iterable[Indexable[T_co]]) -> None:
        self.datasets = list(datasets)
        for dataset in self.datasets:
            check_indexable(dataset, "ConcatDataset")
        self.cumulative_sizes = list(accumulate(len(dataset) for dataset in self.datasets))

    def __getitem__(self, index: int, /) -> T_co:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"index {index} is not in a dataset of {count} items")
        position = index % count
        which = bisect_right(self.cumulative_sizes, position)
        start = self.cumulative_sizes[which - 1] if which else 0
        return self.datasets[which][position - start]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1] if self.cumulative_sizes else 0


class Subset(Dataset[T_co]):
    """Some items of a dataset, in the order of the indices.

    Args:
        dataset: A Dataset or a sequence.
        indices: Positions in it; one may occur twice.

    Raises:
        UsageError: an index is not in the dataset, or the dataset has no index.

    >>> list(Subset(["a", "b", "c"], [2, 0]))
    ['c', 'a']
    """

    def __init__(self, dataset: Indexable[T_co], indices: Sequence[int]) -> None:
        check_indexable(dataset, "Subset")
        self.dataset = dataset
        self.indices = list(indices)
        count = len(dataset)
        for index in self.indices:
            if not -count <= index < count:
                raise UsageError(
                    f"index {index} is not in a dataset of {count} items",
                    hint="take indices from range(len(dataset))",
                )

    def __getitem__(self, index: int, /) -> T_co:
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)


def is_indexable(dataset: object) -> bool:
    """Whether it has items by index and a length. A mapping has keys, and a str is a path."""
    return (
        hasattr(dataset, "__getitem__")
        and hasattr(dataset, "__len__")
        and not isinstance(dataset, (Mapping, str, bytes))
    )


def check_indexable(dataset: object, wanted_by: str) -> None:
    """Raises a UsageError where a dataset has no length or no index."""
    if not is_indexable(dataset):
        raise UsageError(
            f"{wanted_by} needs items by index and a length, a {type(dataset).__name__} has not",
            hint="read it into memory first: ListDataset(items) or ListDataset.from_jsonl(path)",
        )


# --- JSON Lines: one object a line, read lazily and written in one step --------------------------

_BOM = b"\xef\xbb\xbf"
_ONE_OBJECT = "write one JSON object a line, complete on its line; blank lines are skipped"


def read_jsonl(path: Path, model: type[Any] | None) -> Iterator[Any]:
    """The objects of a file, as `ListDataset.from_jsonl` says, open while it is iterated.

    Lines end at a newline only, so that U+2028 and its like may stand inside a string.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                # Files put together with `cat` carry a mark in the middle too.
                content = line.removeprefix(_BOM).strip()
                if not content:
                    continue
                where = f"{path} line {number}"
                value = _parse(content, where)
                yield value if model is None else _validate(model, value, where)
    except OSError as error:
        raise unreadable(path, error) from error


def write_jsonl(path: Path, items: Iterable[object]) -> None:
    """As `ListDataset.to_jsonl`: an item that cannot be written leaves the old file in place."""
    # The file behind a symbolic link is replaced, and the link stays.
    target = Path(os.path.realpath(path))
    hint = "name a file in a folder that can be written"
    with translated_as(DataError, f"cannot write {path}", hint):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as created, created.open("wb") as file:
            for index, item in enumerate(items):
                file.write(_format(item, index))


def check_model(model: object) -> None:
    """Refuses a `model=` that cannot check a mapping: it has no `model_validate`."""
    if model is not None and not callable(getattr(model, "model_validate", None)):
        raise UsageError(
            f"model={model!r} has no model_validate",
            hint="pass a pydantic model class, or leave model out to get dicts",
        )


def unreadable(path: Path, error: OSError) -> DataError:
    """The DataError for a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        hint = f"check the path; relative ones are looked up in {Path.cwd()}"
        return DataError(f"{path} does not exist", hint=hint)
    return DataError(
        f"cannot read {path}: {error.strerror or error}", hint="name a JSON Lines file"
    )


def _parse(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = _DECODER.decode(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8: byte 0x{content[error.start]:02x} at byte {error.start + 1}",
            hint="save the file as UTF-8",
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not JSON: {error.msg} at column {error.colno}", hint=_ONE_OBJECT
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {_one_line(error)}", hint=_ONE_OBJECT) from error
    if not isinstance(value, dict):
        kind = _KINDS.get(type(value), "a number")
        raise DataError(f"{where}: {kind}, not an object", hint=_ONE_OBJECT)
    return value


def _validate(model: type[Any], value: dict[str, Any], where: str) -> Any:
    try:
        return model.model_validate(value)
    except Exception as error:  # the user's validators may raise anything
        raise DataError(
            f"{where}: not a {model.__name__}: {_reason(error)}",
            hint=f"correct the line, or the fields of {model.__name__}",
        ) from error


def _reason(error: Exception) -> str:
    """The first entry of a pydantic ValidationError, else the error's own text."""
    errors = getattr(error, "errors", None)
    found = errors() if callable(errors) else ()
    if not found:
        return _one_line(error)
    field = ".".join(str(part) for part in found[0]["loc"])
    message = " ".join(found[0]["msg"].split())
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return (f"{field}: {message}" if field else message) + more


def _format(item: object, index: int) -> bytes:
    dump: Callable[..., object] | None = getattr(item, "model_dump", None)
    # Aliases are what the model reads back.
    value = dump(mode="json", by_alias=True) if callable(dump) else item
    if not isinstance(value, Mapping):
        raise DataError(
            f"item {index} is a {type(item).__name__}, not an object",
            hint="give mappings or pydantic models; of a Datum, its metadata",
        )
    try:
        return as_json(dict(value)).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"item {index} cannot be written as JSON: {_one_line(error)}",
            hint="keep strings, numbers, lists and dicts in it",
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value; null is")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_KINDS: dict[type, str] = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
