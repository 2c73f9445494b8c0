"""The values that flow through the loop: Datums, their outcomes, costs and results."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from operator import add, attrgetter, sub
from typing import Any, Literal, get_args

from autopilot.core.node import Node
from autopilot.errors import DataError

Verdict = Literal["baseline", "kept", "rejected"]
Outcome = Literal["passed", "failed", "error", "unmeasured", "unscored"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
# Split to metric name to value.
Metrics = Mapping[str, Mapping[str, float]]
# A Datum's fields that are None where there is nothing to say.
_TEXTS = ("error_message", "feedback", "unmeasured", "attribution")
# Its `__dict__` is never asked for: that is a second object for each item, made and kept.
said_of = attrgetter("id", "success", *_TEXTS)


@dataclass
class Datum:
    """One item, or a batch of them, on its way through a module.

    A batch is a Datum whose `items` are Datums. A module returns a Datum too: one item in its
    `items` for each item of the batch, in the same order, or the result of a single item.

    Args:
        split: "train", "val" or "test"; filled in by the loop.
        epoch: Filled in by the loop; 0 is the baseline.
        metrics: Name to number, for this item; the loop averages them over the split.
        metadata: The user's own payload: inputs, targets, outputs.
        success: Whether the item passed, a bool; None if unknown. Readers ask `outcome`; the share
            that passed is the metric "accuracy".
        error_message: The error, when the system failed rather than answered badly.
        feedback: How to do better, in words: the raw material of gradients.
        items: The Datums of a batch.
        id: Names the item across epochs and in notes.
        grad_fn: The Node that produced this Datum, as on a tensor; None outside the graph.
        unmeasured: Why it could not be measured: a service or program that the measurement needs
            gave no answer, which says nothing about the system.
        attribution: The subject of the feedback; None where no judge looked at the item.

    >>> Datum(metadata={"question": "2+2", "answer": "4"}, success=True).outcome
    'passed'
    """

    split: str = ""
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    success: bool | None = None
    error_message: str | None = None
    feedback: str | None = None
    items: list[Datum] = field(default_factory=list)
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    grad_fn: Node | None = field(default=None, repr=False, compare=False)
    unmeasured: str | None = None
    attribution: str | None = None

    @property
    def outcome(self) -> Outcome:
        """The one answer to "did it pass?".

        "passed", "failed" (it answered badly), "error" (the system raised, died, or ran out of time
        or memory), "unmeasured" (what the measurement needs did not answer; it says nothing about
        the system), or "unscored" (neither success nor a judge).

        >>> Datum(success=True, error_message="it raised").outcome, Datum().outcome
        ('error', 'unscored')
        """
        if self.unmeasured is not None:
            return "unmeasured"
        if self.error_message is not None:
            return "error"
        if self.success is None:
            return "unscored"
        return "passed" if self.success else "failed"

    def __len__(self) -> int:
        """The number of items; 1 for a single item."""
        return len(self.items) or 1

    def __bool__(self) -> bool:
        return True

    def leaves(self) -> Iterator[Datum]:
        """The items of a batch, or the Datum itself when it is a single item."""
        return iter(self.items or [self])


def bare_copy(value: Datum) -> Datum:
    """A Datum with the values of another, but without its metrics, metadata and items.

    A call of the class takes twice as long.
    """
    twin: Datum = object.__new__(Datum)
    twin.split, twin.epoch, twin.id = value.split, value.epoch, value.id
    twin.success, twin.error_message = value.success, value.error_message
    twin.feedback, twin.attribution = value.feedback, value.attribution
    twin.unmeasured, twin.grad_fn = value.unmeasured, value.grad_fn
    return twin


def as_datum(item: object, index: int) -> Datum:
    """A dataset's item as a Datum: a Datum as it is, a mapping or any other value as its metadata.

    The id is the item's own "id" where it has one, else a digest of its content, so that an item
    keeps its name when the dataset is sorted or shuffled.

    >>> as_datum({"id": "t7", "text": "hello"}, 0).id
    't7'
    """
    if isinstance(item, Datum):
        return item
    payload = item
    if type(item) is not dict and callable(dump := getattr(item, "model_dump", None)):
        payload = dump()
    metadata = dict(payload) if isinstance(payload, (dict, Mapping)) else {"value": payload}
    own_id = metadata.get("id")
    own_id = digest(payload) if own_id is None else own_id
    return Datum(metadata=metadata, id=own_id if type(own_id) is str else str(own_id))


def digest(value: object, length: int = 12) -> str:
    """A short, stable name for a JSON-like value: hex of its SHA-256."""
    try:
        text = json.dumps(value, sort_keys=True, default=repr)
    except TypeError:
        # Keys of several types cannot be sorted: their own order is as stable.
        text = json.dumps(value, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def canonical(value: object) -> str:
    """A value as text that identifies its content: equal content, equal text.

    Dicts and sets count in any order. Objects without a `repr` of their own count by what they
    hold, arrays by their bytes, since their `repr` leaves most of them out.

    >>> canonical({"b": {2, 1}, "a": [1.0]}) == canonical({"a": [1.0], "b": {1, 2}})
    True
    """
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{k!r}: {canonical(v)}' for k, v in value.items()))}}}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(canonical, value))})"
    if isinstance(value, set | frozenset):
        return f"set({', '.join(sorted(map(canonical, value)))})"
    raw = getattr(value, "tobytes", None)
    if callable(raw):
        kind = f"{getattr(value, 'dtype', '')}{getattr(value, 'shape', '')}"
        return f"{type(value).__name__}({kind} {hashlib.sha256(raw()).hexdigest()})"
    if type(value).__repr__ is object.__repr__:
        return f"{type(value).__qualname__}({canonical(value.__getstate__())})"
    return repr(value)


def datum_to_json(datum: Datum, *, check: bool = True) -> dict[str, Any]:
    """A result as JSON, without the defaults.

    Args:
        check: Whether to refuse a payload that JSON cannot carry.

    Raises:
        DataError: the payload holds something that JSON cannot carry; it names the field.
    """
    out: dict[str, Any] = {"id": datum.id}
    # Field by field: a loop over their names takes five times as long.
    if datum.success is not None:
        out["success"] = datum.success
    if datum.metrics is not None and datum.metrics != {}:
        out["metrics"] = datum.metrics
    if datum.metadata is not None and datum.metadata != {}:
        out["metadata"] = datum.metadata
    if datum.error_message is not None:
        out["error_message"] = datum.error_message
    if datum.feedback is not None:
        out["feedback"] = datum.feedback
    if datum.unmeasured is not None:
        out["unmeasured"] = datum.unmeasured
    if datum.attribution is not None:
        out["attribution"] = datum.attribution
    if datum.items:
        out["items"] = [datum_to_json(item, check=check) for item in datum.items]
    elif check:
        try:
            json.dumps(out)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"the result of item {datum.id} cannot be recorded: {error}",
                hint="keep strings, numbers, lists and dicts in a Datum's metadata and metrics",
            ) from error
    return out


def datum_document(datum: Datum) -> dict[str, Any]:
    """A result as JSON with its outcome, so that no reader derives it."""
    return {**datum_to_json(datum), "outcome": datum.outcome}


def count_outcomes(items: Iterable[Datum]) -> dict[Outcome, int]:
    """The number of items by outcome, in the order of OUTCOMES; zeros too."""
    counts = Counter(item.outcome for item in items)
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def unlike_json(value: object, path: str) -> str:
    """The first part of a value that JSON would change or cannot carry, with its place and type.

    Empty if the value comes back from JSON as it was, as NaN and infinity do.

    >>> unlike_json({"seen": [1, (2, 3)]}, "state")
    "state['seen'][1] is a tuple"
    >>> unlike_json({"counts": {3: 1}}, "state")
    "state['counts'] has the key 3, a int"
    """
    try:
        found = _unlike_json(value)
        return found and path + found
    except RecursionError:
        return f"{path} is nested too deeply"


# By their exact types: JSON gives an instance of a subclass back as its base.
_ATOMS = frozenset((str, int, float, bool, type(None)))


def _unlike_json(value: object) -> str:
    # The place is put together on the way back: of most values, there is nothing to say.
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                return f" has the key {key!r}, a {type(key).__name__}"
            if type(item) not in _ATOMS and (found := _unlike_json(item)):
                return f"[{key!r}]{found}"
        return ""
    if type(value) is list:
        for index, item in enumerate(value):
            if type(item) not in _ATOMS and (found := _unlike_json(item)):
                return f"[{index}]{found}"
        return ""
    return "" if type(value) in _ATOMS else f" is a {type(value).__name__}"


def datum_from_json(value: Mapping[str, Any], *, split: str, epoch: int) -> Datum:
    """The result that `datum_to_json` wrote."""
    return Datum(
        split=split,
        epoch=epoch,
        metrics=dict(value.get("metrics", {})),
        metadata=dict(value.get("metadata", {})),
        items=[datum_from_json(item, split=split, epoch=epoch) for item in value.get("items", ())],
        **{name: value.get(name) for name in ("success", *_TEXTS)},
        id=value["id"],
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of something. Costs add up.

    Args:
        evaluations: Items that went through the module.
        tokens: Model tokens, read and written.
        cost_usd: Dollars.
        seconds: Wall clock.
        known: Items whose results an earlier experiment had measured: no evaluations.
        saved: Val items that were not measured, since a screen or a race had rejected the state.
    """

    evaluations: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    known: int = 0
    saved: int = 0

    def since(self, before: Cost) -> Cost:
        """The part of it that came after an earlier total."""
        return Cost(*map(sub, _PARTS(self), _PARTS(before)))

    def __add__(self, other: Cost) -> Cost:
        return Cost(*map(add, _PARTS(self), _PARTS(other)))


_PARTS = attrgetter(*(each.name for each in fields(Cost)))


@dataclass(frozen=True, slots=True)
class GateResult:
    """The result of one gate.

    Args:
        gate: The gate's name.
        passed: Whether its condition holds.
        reason: One sentence for a person.
        required: An optional gate only warns.
    """

    gate: str
    passed: bool
    reason: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Gain:
    """The test split's result of the best state beside that of the baseline.

    Args:
        before: The monitored metric of the baseline.
        after: The same of the best state.
        low: The lower end of the 95% interval of the gain, from the items paired by id; positive is
            better in either mode. None where the items are too few, or cannot be paired.
        high: The upper end.
        items: How many items both numbers are of, where not every item has a value in both states;
            else None. Of no items at all, there is no `before`.
    """

    before: float | None = None
    after: float | None = None
    low: float | None = None
    high: float | None = None
    items: int | None = None


@dataclass(frozen=True, slots=True)
class Noise:
    """How far measurements of one state differ: the baseline's two, or its repeats.

    Args:
        items: The items that all of them measured.
        differing: How many of them have another outcome or another value of the monitored metric.
        shift: How far apart the monitored metric of two epochs is by chance, as far as that is
            known; 0 where it is the same in all measurements.
        smallest: The smallest gain that the split resolves, as far as it is known: see
            `statistics.sure_size`. Of the accuracy, one item's share where nothing differs, else
            at least that of as many items as a test needs.
        evaluations: The items that the second measurement took.
        skipped: Why there was none; empty where there was one.
        measurements: How many were compared.
        repeats: Whether the items are the measurements of a single one.
        candidates: How many of an epoch share what chance may pass.
    """

    items: int = 0
    differing: int = 0
    shift: float = 0.0
    smallest: float | None = None
    evaluations: int = 0
    skipped: str = ""
    measurements: int = 2
    repeats: bool = False
    candidates: int = 1

    @property
    def is_noisy(self) -> bool:
        """Whether the measurements differ."""
        return self.differing > 0 or self.shift > 0


@dataclass(frozen=True, slots=True)
class Result:
    """The result of `fit`, `validate` or `test`.

    Args:
        stop_reason: One honest sentence why it ended; empty for validate and test.
        epochs: Epochs that were judged, without the baseline.
        kept: How many of them were kept.
        best_epoch: The epoch whose state the parameters now hold.
        baseline: The monitored val metric at epoch 0; None where it was not finite.
        best: The monitored val metric at the best epoch.
        metrics: Split to metric name to value, of the best epoch (fit) or of this call.
        interrupted: True when it can be resumed because it was cut short.
        cost: The cost over all sessions of the experiment.
        test: Baseline and best state on the test split; None where it was not scored.
    """

    stop_reason: str = ""
    epochs: int = 0
    kept: int = 0
    best_epoch: int = 0
    baseline: float | None = None
    best: float | None = None
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    interrupted: bool = False
    cost: Cost = Cost()
    test: Gain | None = None
