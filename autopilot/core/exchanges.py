"""Items with the system's answers to them, as an optimizer may see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypedDict

from autopilot.core.gradient import Finding
from autopilot.core.types import Datum, Outcome
from autopilot.text import as_json, cut_middle

# Fields of a dataset's item that hold the right answer.
_RIGHT = frozenset(
    (
        *("expected", "expected_output", "expected_answer", "correct", "correct_answer", "gold"),
        *("ground_truth", "label", "labels", "target", "targets", "reference", "solution"),
    )
)
_ANSWERS = _RIGHT | {"answer", "answers", "y"}
# Fields of a result that stands alone, as those that a command prints.
_QUESTIONS = frozenset(["input", "inputs", "question", "query", "prompt", "text"])
_LONGEST = 20_000
_PASSING, _FAILING = 100, 5000
NO_WORDS = "make this item succeed"


def with_targets(data: Datum, targets: Any) -> list[tuple[Datum, Datum | None]]:
    """Each item with its target: by position if the numbers agree, else by id."""
    items = list(data.leaves())
    known: list[Datum | None] = [None] * len(items)
    if isinstance(targets, Datum):
        known = [*targets.leaves()]
        if len(known) != len(items):
            by_id = {target.id: target for target in targets.leaves()}
            known = [by_id.get(item.id) for item in items]
    elif isinstance(targets, list | tuple) and len(targets) == len(items):
        known = [t if isinstance(t, Datum) else Datum(metadata={"value": t}) for t in targets]
    return list(zip(items, known, strict=True))


class Exchange(TypedDict, total=False):
    """The texts of an item for a Finding."""

    input: str
    output: str
    expected: str


def exchange(item: Datum, target: Datum | None) -> Exchange:
    """The texts of a train item's result.

    An item of val or test has none: an optimizer that saw them would fit the system to them.

    Args:
        item: The result; its metadata is the output, without what only repeats the input.
        target: The item as the module got it.

    >>> exchange(Datum(metadata={"reply": "5"}), Datum(metadata={"q": "2+2", "answer": "4"}))
    {'input': '2+2', 'output': '5', 'expected': '4'}
    """
    if item.split in ("val", "test"):
        return {}
    found: Exchange = {}
    given, output, expected = parts_of(item, target)
    if given:
        found["input"] = as_lines(given)
    if output:
        found["output"] = as_lines(output)
    if expected:
        found["expected"] = as_lines(expected)
    return found


def parts_of(
    item: Datum, target: Datum | None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The fields of an item's result that are its input, its output and its expected output."""
    output, given = dict(item.metadata), dict(target.metadata) if target is not None else {}
    for name, value in (("id", item.id), ("split", item.split)):  # they say nothing of the task
        for fields in (given, output):
            if fields.get(name) == value:
                del fields[name]
    if not given:
        given = {name: output.pop(name) for name in [*output] if name.lower() in _QUESTIONS}
    expected = {name: given.pop(name) for name in [*given] if name.lower() in _ANSWERS}
    for name in [name for name in output if name.lower() in _RIGHT]:
        # A result may hold the right answer beside its own.
        if len(output) > 1 and expected.setdefault(name, output[name]) == output[name]:
            del output[name]
    # What a module copies along is said once; short values may be equal by chance.
    copied = [value for value in given.values() if isinstance(value, str) and len(value) > 3]
    for name, value in [*output.items()]:
        if value in copied or (name in given and given[name] == value):
            del output[name]
    return given, output, expected


def as_lines(fields: Mapping[str, Any]) -> str:
    """Named values as text: one alone without its name, several a line each.

    >>> as_lines({"order": 17, "text": "late\\nagain"})
    'order: 17\\ntext: late\\n  again'
    """
    texts = {n: v if isinstance(v, str) else _as_text(v) for n, v in fields.items()}
    if len(texts) == 1:
        return cut_middle(next(iter(texts.values())), _LONGEST)
    lines = (f"{name}: {text.replace(chr(10), chr(10) + '  ')}" for name, text in texts.items())
    return cut_middle("\n".join(lines), _LONGEST)


def _as_text(value: Any) -> str:
    try:
        return as_json(value)
    except (TypeError, ValueError):
        return str(value)


class StepItems:
    """The train items of the step in progress: how they went, and some of them.

    Attributes:
        outcomes: The number of items by outcome.
        failing: Findings of those that did not pass.
        passing: Findings of some that passed.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets all, for the next step."""
        self.outcomes = Counter[Outcome]()
        self.failing: list[Finding] = []
        self.passing: list[Finding] = []

    def add(self, data: Datum, batch: Any) -> None:
        """Takes in the results of a batch; those of other splits are not to be seen."""
        if data.split in ("val", "test"):
            return
        for item, target in with_targets(data, batch):
            self.outcomes[item.outcome] += 1
            is_passed = item.outcome == "passed"
            kept, most = (self.passing, _PASSING) if is_passed else (self.failing, _FAILING)
            if item.outcome in ("passed", "failed", "error") and len(kept) < most:
                said = item.feedback or item.error_message or NO_WORDS
                kept.append(
                    Finding(said, item.attribution or "", item=item.id, **exchange(item, target))
                )
