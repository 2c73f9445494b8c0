"""Items with the system's answers to them, as an optimizer may see them, and must not copy them.

To find copies in an edit, texts are compared by their letters and digits alone, without case. An
input counts if it has `SURE_INPUT` of them, or `SHORT_INPUT` and its expected output beside it; an
expected output alone if it has `SURE_OUTPUT`. What several items have in common, as a label or an
instruction, is no item's own. Of a text of more than `BLOCK`, any such block that is copied counts.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Any, TypedDict, cast

from autopilot.core.gradient import Finding
from autopilot.core.parameter import Parameter
from autopilot.core.types import Datum, Outcome
from autopilot.text import as_json, cut_middle, some

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
# The fields of a result that may be its item's.
_GIVEN = _RIGHT | _QUESTIONS
_LONGEST = 20_000
_PASSING, _FAILING = 100, 5000
NO_WORDS = "make this item succeed"

SURE_INPUT, SHORT_INPUT, SURE_OUTPUT, BLOCK = 16, 8, 24, 80
_NEAR = 24
# Of more items, and of what follows in a long text, nothing is looked for.
_ITEMS_AT_MOST, _HEAD = 20_000, 4_000
# Of a script without spaces, each character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_Payload = Mapping[str, Any]
_KINDS, _SPLITS = ("input", "expected output"), ("train", "val")


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
        item: The result; its metadata is the output, without what only repeats the input beside it.
        target: The item as the module got it.

    >>> exchange(Datum(metadata={"reply": "5"}), Datum(metadata={"q": "2+2", "answer": "4"}))
    {'input': '2+2', 'output': '5', 'expected': '4'}
    >>> exchange(Datum(metadata={"question": "cactus", "reply": "cactus"}), None)
    {'input': 'cactus', 'output': 'cactus'}
    """
    if item.split in ("val", "test"):
        return {}
    parts = zip(("input", "output", "expected"), parts_of(item, target), strict=True)
    return cast("Exchange", {name: as_lines(fields) for name, fields in parts if fields})


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
    # A category is what the user sorts items by. What a module copies along is said once.
    own = {
        name: value
        for name, value in output.items()
        if name != "category" and not (name in given and given[name] == value)
    }
    # Short values may be equal by chance, and a system may answer with its input.
    copied = [value for value in given.values() if isinstance(value, str) and len(value) > 3]
    output = {name: value for name, value in own.items() if value not in copied} or own
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
        passed: The ids of all that passed.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets all, for the next step."""
        self.outcomes, self.passed = Counter[Outcome](), set[str]()
        self._failing: list[tuple[Datum, Datum | None]] = []
        self._passing: list[tuple[Datum, Datum | None]] = []

    @property
    def failing(self) -> list[Finding]:
        """Findings of those that did not pass; made when an optimizer asks, as few do."""
        return [_finding(*pair) for pair in self._failing]

    @property
    def passing(self) -> list[Finding]:
        """Findings of some that passed."""
        return [_finding(*pair) for pair in self._passing]

    def add(self, data: Datum, batch: Any) -> None:
        """Takes in the results of a batch; those of other splits are not to be seen."""
        if data.split in ("val", "test"):
            return
        for item, target in with_targets(data, batch):
            outcome = item.outcome
            self.outcomes[outcome] += 1
            if is_passed := outcome == "passed":
                self.passed.add(item.id)
            kept, most = (self._passing, _PASSING) if is_passed else (self._failing, _FAILING)
            if outcome in ("passed", "failed", "error") and len(kept) < most:
                kept.append((item, target))


def _finding(item: Datum, target: Datum | None) -> Finding:
    said = item.feedback or item.error_message or NO_WORDS
    return Finding(said, item.attribution or "", item=item.id, **exchange(item, target))


# --- copies of items in an edit ----------------------------------------------------------------


class GivenItems:
    """The train and val items of an epoch, to be looked for in its edit.

    Args:
        change: Gives the edit as a unified diff.
        parameters: Gives what is edited.
    """

    def __init__(
        self, change: Callable[[], str], parameters: Callable[[], Iterable[Parameter]]
    ) -> None:
        self._change, self._parameters = change, parameters
        self._items: dict[str, tuple[list[str], list[_Payload], list[_Payload]]] = {}

    def clear(self) -> None:
        """Forgets them: an epoch begins."""
        self._items = {split: ([], [], []) for split in _SPLITS}

    def add(self, split: str, data: Datum, batch: Datum) -> None:
        """Takes in a batch with its results."""
        known = self._items.get(split)
        if known is not None and len(known[0]) < _ITEMS_AT_MOST:
            pairs, (names, results, targets) = with_targets(data, batch), known
            names += [item.id for item, _ in pairs]
            results += [item.metadata for item, _ in pairs]
            targets += [{} if target is None else target.metadata for _, target in pairs]

    def in_edit(self) -> str:
        """Which items the epoch's edit copies, in a sentence without their content; "" if none."""
        after, before = _sides(self._change())
        new, old = letters(after), letters(before)
        if len(new) < SHORT_INPUT:
            return ""
        # By how they begin: a search for each block would take a second where all is much.
        places = defaultdict[str, list[int]](list)
        words = _WORD.findall(after.casefold())
        for at in accumulate(map(len, words), initial=0):
            places[new[at : at + SHORT_INPUT]].append(at)

        def is_copied(block: str) -> bool:
            if (found := places.get(block[:SHORT_INPUT])) is None:
                return False
            return any(new.startswith(block, at) for at in found) and block not in old

        owners, hits = defaultdict[str, set[str]](set), list[tuple[str, str, set[str], Any]]()
        for split, items in self._items.items():
            for name, *payload in zip(*items, strict=True):
                own = [value for key, value in payload[0].items() if key.lower() in _GIVEN]
                if here := set(filter(is_copied, _blocks_in([*own, *payload[1].values()]))):
                    hits.append((split, name, here, payload))
                    for block in here:
                        owners[block].add(name)
        if not hits:
            return ""
        everything = letters("\n".join(each.render() for each in self._parameters()))
        # What also stands where nothing was changed has been there before.
        known = {
            block
            for block, names in owners.items()
            if len(names) > 2 or everything.count(block) > new.count(block)
        }
        found = defaultdict[tuple[str, str], list[str]](list)
        for split, name, here, payload in hits:
            item, target = (Datum(split, metadata=dict(m), id=name) for m in payload)
            for kind in _kinds(new, here - known, item, target) if here - known else ():
                found[kind, split].append(name)
        return _sentence(found)


def _kinds(new: str, own: set[str], item: Datum, target: Datum) -> Iterator[str]:
    """The parts of an item that these blocks copy: its input, its expected output."""
    given, _, expected = parts_of(item, target)
    asked, right = (own.intersection(_blocks_in(part.values())) for part in (given, expected))
    answers = [answer for text in expected.values() if (answer := letters(str(text)))]
    if any(len(b) >= SURE_INPUT or any(_beside(new, b, a) for a in answers) for b in asked):
        yield _KINDS[0]
    if any(len(block) >= SURE_OUTPUT for block in right):
        yield _KINDS[1]


def _beside(new: str, block: str, answer: str) -> bool:
    """Whether the answer stands close before or after the block."""
    for found in re.finditer(re.escape(block), new):
        room = _NEAR + len(answer)
        if answer in new[max(found.start() - room, 0) : found.start()]:
            return True
        if answer in new[found.end() : found.end() + room]:
            return True
    return False


def _sentence(found: Mapping[tuple[str, str], list[str]]) -> str:
    parts = []
    for kind in _KINDS:
        named = {split: list(dict.fromkeys(found.get((kind, split), ()))) for split in _SPLITS}
        of = [f"{s} item{'s' * (len(n) > 1)} {some(n)}" for s, n in named.items() if n]
        if of:
            several = len(of) > 1 or any(len(n) > 1 for n in named.values())
            parts.append(f"the {kind}{'s' * several} of {' and of '.join(of)}")
    return f"the edit has {'; '.join(parts)}" if parts else ""


def letters(text: str) -> str:
    """A text by its letters and digits alone, without case.

    >>> letters("My card -\\nWAS lost!")
    'mycardwaslost'
    """
    return "".join(_WORD.findall(text.casefold()))


@lru_cache(maxsize=1 << 16)
def _blocks(text: str) -> tuple[str, ...]:
    """A text's letters, in parts that begin with a word."""
    blocks = [""]
    for word in _WORD.findall(text[:_HEAD].casefold()):
        blocks += [""] if len(blocks[-1]) >= BLOCK else []
        blocks[-1] += word
    least = SHORT_INPUT if len(blocks) == 1 else SURE_INPUT  # a rest says little
    return tuple(block for block in blocks if len(block) >= least)


def _blocks_in(values: Iterable[Any]) -> list[str]:
    found: list[str] = []
    for value in values:
        if isinstance(value, str):
            found += _blocks(value)
        elif isinstance(value, (list, tuple)):
            found += _blocks_in(value)
        # Of a number, to ask for the abstract Mapping takes as long as all else here.
        elif not isinstance(value, (int, float)) and isinstance(value, (dict, Mapping)):
            found += _blocks_in(value.values())
    return found


def _sides(diff: str) -> tuple[str, str]:
    """The text of a diff's hunks, after the edit and before it."""
    new, old = list[str](), list[str]()
    for line in diff.split("\n"):
        if not line.startswith(("--- a/", "+++ b/", "--- /dev", "+++ /dev")):
            new += [line[1:]] if line[:1] in ("+", " ") else []
            old += [line[1:]] if line[:1] in ("-", " ") else []
    return "\n".join(new), "\n".join(old)
