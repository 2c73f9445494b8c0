"""Results that are known already: of an earlier experiment that measured the same content.

A pass over a split is known if an earlier one had the same batches in the same order, of the same
state, by the same target, in the same environment; a pass that drew from the seeded generators also
has the same seed and epoch. What was taken over is recorded like every other result, so that
neither a resumed run nor a replay needs the experiment that it is from.
"""

from __future__ import annotations

import hashlib
import marshal
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

from autopilot.core.items import Batch
from autopilot.core.progress import Position
from autopilot.core.records.record import TraceRecord
from autopilot.core.types import Datum, datum_from_json, datum_to_json, said_of

_Values = Sequence[Mapping[str, Any]]


class Known(ABC):
    """The results that are known of the pass over a split that is going on.

    Attributes:
        is_off: Nothing is known any more: the same state was measured with another result.
        seen: Of the present pass: the digest of the batches so far; "" where they have none.
    """

    def __init__(self) -> None:
        self.is_off, self.seen = False, ""
        self._at, self._source = Position(), ""
        self._results: dict[int, _Values] = {}
        self._own: Mapping[str, Any] = {}

    @abstractmethod
    def sources(self, at: Position, state: str) -> list[TraceRecord]:
        """The recorded passes of the same content; their batches may differ.

        The source of each is the experiment and epoch that it is from, as "support-1@3".
        """

    @abstractmethod
    def begin(self, state: str) -> None:
        """A pass over a split begins."""

    @abstractmethod
    def reach(self) -> tuple[str, ...]:
        """All that the results of the present pass depend on, as far as it was measured here.

        Returns:
            "content", and words on what else; empty where that is not known.
        """

    def batches(
        self, at: Position, state: str, given: Iterable[Batch], *, is_counted: bool
    ) -> Iterator[Batch]:
        """The batches of a pass, once it is known which of them have results.

        Args:
            is_counted: It is one of the measurements that an epoch has; of one that tells how far
                measurements differ, nothing is known.
        """
        self._at, self._results, self._own, self._source, self.seen = at, {}, {}, "", ""
        self.begin(state)
        found = self.sources(at, state) if is_counted and not self.is_off else []
        if found:
            given = list(given)
            self._take(found, [batch for _, batch, _ in given])
        digest, is_plain = hashlib.sha256(), True
        for number, batch, last in given:
            content = _content(batch) if is_plain else b""
            is_plain = bool(content)
            digest.update(content)
            self.seen = digest.hexdigest()[:16] if is_plain else ""
            yield number, batch, last

    def find(self, at: Position, batch: Datum) -> tuple[Datum, str] | None:
        """The known result of a batch, and the experiment and epoch that it is from."""
        values = self._results.get(at.number) if at.item < 0 else None
        if values is None or _pass_of(at) != _pass_of(self._at):
            return None
        read = partial(datum_from_json, split=at.split, epoch=at.epoch)
        made = [read(value) for value in values]
        if not (batch.items or self._own) and [item.id for item in made] == [batch.id]:
            return made[0], self._source
        return replace(read({**self._own, "id": batch.id}), items=made), self._source

    def _take(self, sources: Sequence[TraceRecord], batches: Sequence[Datum]) -> None:
        digest = hashlib.sha256(b"".join(map(_content, batches))).hexdigest()[:16]
        if not all(map(_content, batches)):
            return
        for each in sources:
            items = each.items
            sizes = [len(items)] if len(batches) == 1 else [len(batch) for batch in batches]
            is_usable = len(batches) == 1 or not each.own
            if each.given != digest or sum(sizes) != len(items) or not is_usable:
                continue
            ends = pairwise(accumulate(sizes, initial=0))
            whole: dict[int, _Values] = {n: items[a:b] for n, (a, b) in enumerate(ends)}
            found = {n: values for n, values in whole.items() if _is_result([*values, each.own])}
            is_other = bool(self._results) and self._own != each.own
            if is_other or any(self._results.get(n, x) != x for n, x in found.items()):
                # Measured twice with two results: they do not follow from the content.
                self._results = {}
                return
            if len(found) > len(self._results):
                self._source, self._results, self._own = each.source, found, each.own


def is_plain(data: Datum, batch: Datum) -> bool:
    """Whether traces have a batch's result: those of its items, or of one without any, all."""
    own = (data.metrics, data.metadata, *said_of(data)[1:]) if data.items else ()
    has_own = any(part is not None and part != {} for part in own)
    if batch.items:
        return len(data.items) == len(batch.items) and not has_own
    return len(data.items) != 1 or has_own  # a lone item looks as a result without items


def is_same(first: Sequence[Datum], second: Sequence[Datum]) -> bool:
    """Whether two measurements have the same results, to the last word."""
    values = [[datum_to_json(item, check=False) for item in items] for items in (first, second)]
    return values[0] == values[1]


def known_sentence(facts: TraceRecord, items: int) -> str:
    """How many results of a split were known, and from where.

    >>> known_sentence(TraceRecord(split="val", source="support-1@3", known=12), 40)
    '12 of 40 val items known from support-1, epoch 3'
    """
    slug, _, epoch = facts.source.rpartition("@")
    return f"{facts.known} of {items} {facts.split} items known from {slug}, epoch {epoch}"


def _is_result(values: _Values) -> bool:
    """Whether no item failed: the end of a process or of a time limit is no result of content."""
    return not any("error_message" in value or "unmeasured" in value for value in values)


def _pass_of(at: Position) -> tuple[str, int, int]:
    return at.split, at.epoch, at.repeat


def _content(batch: Datum) -> bytes:
    """The content of a batch as bytes; none where it holds other objects than plain values."""
    try:
        # The second version has no references, which depend on who else holds an object.
        return marshal.dumps(datum_to_json(batch, check=False), 2)
    except ValueError:
        return b""
