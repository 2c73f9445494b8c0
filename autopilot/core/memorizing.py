"""Memorizing: an edit that writes items themselves into a parameter, instead of what they teach.

Texts are compared by their letters and digits alone, without case. An input counts if it has
`SURE_INPUT` of them, or `SHORT_INPUT` and its expected output beside it; an expected output alone
if it has `SURE_OUTPUT`. What several items have in common, as a label or an instruction, is no
item's own. Of a text of more than `BLOCK` characters, any such block that is copied counts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from autopilot.core.comparison import some
from autopilot.core.exchanges import parts_of, with_targets
from autopilot.core.parameter import Parameter
from autopilot.core.types import Datum

if TYPE_CHECKING:
    from autopilot.core.experiment import Experiment

SURE_INPUT, SHORT_INPUT, SURE_OUTPUT, BLOCK = 16, 8, 24, 80
_NEAR = 24
# Of more items, and of what follows in a long text, nothing is looked for.
_ITEMS_AT_MOST, _HEAD = 20_000, 4_000
# Of a script without spaces, each character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_KINDS, _SPLITS = ("input", "expected output"), ("train", "val")


class GivenItems:
    """The train and val items of an epoch, to be looked for in its edit.

    Args:
        experiment: Has the edit: its tip beside its best state.
        parameters: Gives what is edited.
    """

    def __init__(
        self, experiment: Experiment, parameters: Callable[[], Iterable[Parameter]]
    ) -> None:
        self._experiment, self._parameters = experiment, parameters
        self._items: dict[str, list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]] = {}

    def clear(self) -> None:
        """Forgets them: an epoch begins."""
        self._items = {"train": [], "val": []}

    def add(self, split: str, data: Datum, batch: Datum) -> None:
        """Takes in a batch with its results."""
        known = self._items.get(split)
        if known is not None and len(known) < _ITEMS_AT_MOST:
            known += [
                (item.id, item.metadata, {} if target is None else target.metadata)
                for item, target in with_targets(data, batch)
            ]

    def in_edit(self) -> str:
        """Which items the epoch's edit copies, in a sentence without their content; "" if none."""
        store, best_epoch = self._experiment.store, self._experiment.best_epoch
        after, before = _sides(store.diff(self._experiment.revision_of(best_epoch), store.tip))
        new, old = letters(after), letters(before)
        if len(new) < SHORT_INPUT:
            return ""
        # By how they begin: a search for each block would take a second where all is much.
        blocks = {b for items in self._items.values() for _, *m in items for b in _blocks_in(m)}
        beginning = defaultdict[str, list[str]](list)
        for block in blocks:
            beginning[_start(block)].append(block)
        copied = {
            block
            for at in _word_starts(after)
            for size in (SHORT_INPUT, SURE_INPUT)
            for block in beginning.get(new[at : at + size], ())
            if new.startswith(block, at) and block not in old
        }
        if not copied:
            return ""
        owners, hits = defaultdict[str, set[str]](set), list[tuple[str, str, set[str], Any]]()
        for split, items in self._items.items():
            for name, *payload in items:
                if here := copied.intersection(_blocks_in(payload)):
                    hits.append((split, name, here, payload))
                    for block in here:
                        owners[block].add(name)
        everything = letters("\n".join(each.render() for each in self._parameters()))
        # What also stands where nothing was changed has been there before.
        known = {block for block in copied if everything.count(block) > new.count(block)}
        known |= {block for block, names in owners.items() if len(names) > 2}
        found = defaultdict[tuple[str, str], list[str]](list)
        for split, name, here, payload in hits:
            item, target = (Datum(split, metadata=dict(m), id=name) for m in payload)
            for kind in _kinds(new, here - known, item, target) if here - known else ():
                found[kind, split].append(name)
        return _sentence(found)


def _kinds(new: str, own: set[str], item: Datum, target: Datum) -> Iterator[str]:
    """The parts of an item that these blocks copy: its input, its expected output."""
    given, _, expected = parts_of(item, target)
    asked, right = own.intersection(_blocks_in(given)), own.intersection(_blocks_in(expected))
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


def _word_starts(text: str) -> Iterator[int]:
    """Where each word begins among the letters of a text."""
    return accumulate(map(len, _WORD.findall(text.casefold())), initial=0)


@lru_cache(maxsize=1 << 15)
def _blocks(text: str) -> tuple[str, ...]:
    """A text's letters, in parts that begin with a word."""
    blocks = [""]
    for word in _WORD.findall(text[:_HEAD].casefold()):
        blocks += [""] if len(blocks[-1]) >= BLOCK else []
        blocks[-1] += word
    least = SHORT_INPUT if len(blocks) == 1 else SURE_INPUT  # a rest says little
    return tuple(block for block in blocks if len(block) >= least)


def _start(block: str) -> str:
    return block[: SURE_INPUT if len(block) >= SURE_INPUT else SHORT_INPUT]


def _blocks_in(value: Any) -> Iterator[str]:
    for text in _strings(value):
        yield from _blocks(text)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)


def _sides(diff: str) -> tuple[str, str]:
    """The text of a diff's hunks, after the edit and before it."""
    new, old = list[str](), list[str]()
    for line in diff.split("\n"):
        if not line.startswith(("--- a/", "+++ b/", "--- /dev", "+++ /dev")):
            new += [line[1:]] if line[:1] in ("+", " ") else []
            old += [line[1:]] if line[:1] in ("-", " ") else []
    return "\n".join(new), "\n".join(old)
