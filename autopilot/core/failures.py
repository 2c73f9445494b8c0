"""Failures that cost an item, not the run: errors with their places, counted by kind.

The text of an item's feedback says where its error was raised, so the record has the place too,
and a past epoch is described in the same words as the one in progress.
"""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType

from autopilot.core.types import Datum
from autopilot.text import every

_PACKAGE = __file__.removesuffix("core/failures.py")
_INSTALLED = tuple(
    {sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_SITE = "/site-packages/"
_NO_PLACE = (_PACKAGE, "<frozen ", sysconfig.get_path("scripts"))
_THREAD = re.compile(r"^(?=Current thread |Thread )", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
_RAISED = "it raised "
_PLACE = re.compile(r" \(([^()\s]+:\d+)\)$")
# What differs from item to item in one and the same failure.
_NAMES = re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-fA-F]{8,}\b|\d+")
# Of equally frequent kinds, the first of these is shown first.
_HOW = {"raised": "raised", "failed": "failed with", "unmeasured": "could not be measured"}
_NO_RESULT = ("error", "unmeasured")
_KINDS_AT_MOST = 3
_TEXT_AT_MOST = 160
_LINES_AT_MOST = 20


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception of the user's code.

    Args:
        message: Type and text, as an item's `error_message` has it: "KeyError: 'label'".
        place: The user's own file and line: "classify.py:41"; "" where none of it is theirs.
        traceback: The user's frames of the traceback; "" where there are none.
    """

    message: str
    place: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Raised:
        """The message, place and traceback of an exception."""
        message = f"{type(error).__name__}: {error}".removesuffix(": ")
        return cls(message, _place(error), user_traceback(error))

    def result(self) -> Datum:
        """The result of the item that raised; its feedback says where."""
        feedback = f"{_RAISED}{self.message}" + (f" ({self.place})" if self.place else "")
        return Datum(success=False, error_message=self.message, feedback=feedback)


def user_traceback(error: BaseException) -> str:
    """The traceback without autopilot's and the import system's frames; empty if none is left."""
    shown = traceback.TracebackException.from_exception(error)
    left = 0
    layer: traceback.TracebackException | None = shown
    while layer is not None:
        own = [
            frame
            for frame in layer.stack
            if not frame.filename.startswith((_PACKAGE, "<frozen importlib"))
        ]
        layer.stack = traceback.StackSummary.from_list(own)
        # A SyntaxError says itself where it is.
        left += len(own) + (layer.exc_type is not None and issubclass(layer.exc_type, SyntaxError))
        layer = layer.__cause__ or layer.__context__
    return "".join((*shown.format(), _of_child(error))) if left else ""


def _of_child(error: BaseException) -> str:
    """The end of what a failed child process wrote, where the exception holds it."""
    written = getattr(error, "stderr", None)
    text = written.decode("utf-8", "replace") if isinstance(written, bytes) else written
    lines = text.strip().splitlines()[-_LINES_AT_MOST:] if isinstance(text, str) else []
    return "".join(f"{line}\n" for line in lines)


def _place(error: BaseException) -> str:
    """The innermost line of the user's own; of another library's where none is theirs."""
    frames = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith((_PACKAGE, "<frozen "))
    ]
    if not frames:
        return ""
    # A checkout may stand below the interpreter's own folder, never below site-packages.
    paths = [frame.f_code.co_filename for frame, _ in frames]
    own = [n for n, p in enumerate(paths) if not p.startswith(_INSTALLED) and _SITE not in p]
    frame, line = frames[own[-1] if own else -1]
    return f"{_name(frame)}:{line}"


def place_in_stacks(stacks: str) -> str:
    """The innermost function and line of the user's own in what faulthandler wrote.

    Of another library's where none is theirs; "" where there is none of either.
    """
    # The thread that got the signal is mostly the main one, and stands in no certain order.
    threads = sorted(_THREAD.split(stacks), key=lambda text: not text.startswith("Current"))
    frames = [f for f in _FRAME.findall("".join(threads)) if not f[0].startswith(_NO_PLACE)]
    own = [f for f in frames if not f[0].startswith(_INSTALLED) and _SITE not in f[0]]
    for path, line, function in own or frames:
        return f"{function} ({path.rpartition('/')[2]}:{line})"
    return ""


def _name(frame: FrameType) -> str:
    """A file's name with the folders of its package: the same in a worktree and a checkout."""
    parts = frame.f_code.co_filename.split("/")
    module = str(frame.f_globals.get("__name__", "")).split(".")
    depth = len(module) + (parts[-1] == "__init__.py")
    return "/".join(parts[-depth:] if parts[-depth] == module[0] or depth > 1 else parts[-1:])


@dataclass(slots=True)
class Kind:
    """Failures of the same kind in one split.

    Args:
        how: "raised", "failed" (the module said so itself), or "unmeasured".
        text: The message of the first one.
        place: Where it was raised; "" where that is not known.
        traceback: The first one's; "" where it is not known, as of a recorded result.
        varies: Messages differ within the kind: they quote the item.
    """

    how: str
    text: str
    place: str = ""
    count: int = 0
    traceback: str = ""
    varies: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """The same for failures of one kind: type and place, or the text where no place is."""
        if not self.place:
            return self.how, _key(self.text)
        return self.how, f"{self.text.split(' ')[0]} {self.place}"

    def line(self, split: str, total: int) -> str:
        """One line for a person: `2 of 250 val items raised: KeyError 'label' (classify.py:41)`."""
        items = f"{self.count} of {total} {split} items"
        if self.count == total:
            items = every(total, f"{split} item")
        place = f" ({self.place})" if self.place else ""
        others = ", for example" if self.varies else ""
        if total == 1 and self.how == "failed":
            return f"{split}: {self.text}{place}"
        return f"{items} {_HOW[self.how]}: {self.text}{others}{place}"


class Failures:
    """The failed items of an epoch, by split and kind.

    >>> failures = Failures()
    >>> failures.add("val", Datum(items=[Datum(error_message="timed out"), Datum(success=True)]))
    >>> failures.lines("val")
    ['1 of 2 val items failed with: timed out']
    """

    def __init__(self) -> None:
        self._kinds: dict[str, dict[tuple[str, str], Kind]] = {}
        self._totals: Counter[str] = Counter()
        self._tracebacks: dict[tuple[str, tuple[str, str]], str] = {}

    def clear(self) -> None:
        """Forgets everything: another epoch begins."""
        self._kinds, self._totals, self._tracebacks = {}, Counter(), {}

    def raised(self, split: str, error: BaseException) -> Datum:
        """The result of an item that raised; the first traceback of its kind is kept for `add`."""
        raised = Raised.of(error)
        result = raised.result()
        self._tracebacks.setdefault((split, _kind(result).key), raised.traceback)
        return result

    def learn(self, others: Failures) -> None:
        """Takes in the tracebacks of another process."""
        self._tracebacks = others._tracebacks | self._tracebacks

    def add(self, split: str, data: Datum) -> None:
        """Takes in the results of a batch, as they are once they are scored."""
        self._totals[split] += len(data)
        for item in data.leaves():
            if item.error_message is None and item.unmeasured is None:
                continue
            found = _kind(item)
            kind = self._kinds.setdefault(split, {}).setdefault(found.key, found)
            if not kind.count:
                kind.traceback = self._tracebacks.get((split, found.key), "")
            kind.count += 1
            kind.varies |= _key(kind.text) != _key(found.text)

    def raised_of(self, split: str) -> int:
        """How many items of a split raised, those that an earlier session evaluated included."""
        return sum(kind.count for kind in self.kinds(split) if kind.how == "raised")

    def kinds(self, split: str) -> list[Kind]:
        """The kinds of failures in a split, the most frequent first; of equals, what raised."""
        found, order = self._kinds.get(split, {}).values(), list(_HOW)
        return sorted(found, key=lambda kind: (-kind.count, order.index(kind.how)))

    def lines(self, split: str, *, tracebacks: bool = False) -> list[str]:
        """A line for each kind, at most three, and how many more there are.

        Args:
            tracebacks: Each kind's traceback below its line too, where it is known.
        """
        kinds, total = self.kinds(split), self._totals[split]
        out: list[str] = []
        for kind in kinds[:_KINDS_AT_MOST]:
            out.append(kind.line(split, total))
            out += kind.traceback.rstrip().splitlines() if tracebacks else []
        more = len(kinds) - _KINDS_AT_MOST
        if more > 0:
            out.append(f"and {more} more kind{'' if more == 1 else 's'} of failure")
        return out

    def first_traceback(self, split: str) -> str:
        """The first traceback of the user's own code; "" if unknown."""
        kinds = self._kinds.get(split, {}).values()
        return next((kind.traceback for kind in kinds if kind.traceback), "")

    def first_place(self, split: str) -> str:
        """Where the first failed item raised: file and line; "" if unknown."""
        return next((kind.place for kind in self._kinds.get(split, {}).values()), "")


def failure_lines(split: str, items: Iterable[Datum]) -> list[str]:
    """The same lines for results that are recorded."""
    failures = Failures()
    for item in items:
        failures.add(split, item)
    return failures.lines(split)


def failure_kinds(split: str, items: Iterable[Datum]) -> list[dict[str, str | int]]:
    """The same for a program, without the texts, which may quote an item."""
    failures = Failures()
    for item in items:
        failures.add(split, item)
    return [
        {
            "how": kind.how,
            "type": kind.text.split(" ")[0] if kind.how == "raised" else "",
            "place": kind.place,
            "items": kind.count,
        }
        for kind in failures.kinds(split)
    ]


def never_measured(epochs: Iterable[Iterable[Datum]]) -> tuple[int, list[Datum]]:
    """The items that gave no result in any epoch: each raised or was `unmeasured` every time.

    Args:
        epochs: The results of a split in each epoch that measured it, the last one first: reading
            ends as soon as every item has a result.

    Returns:
        The number of epochs that were looked at, and the last epoch's results of those items.
    """
    left: dict[str, Datum] | None = None
    count = 0
    for items in epochs:
        count += 1
        without = {item.id: item for item in items if item.outcome in _NO_RESULT}
        left = without if left is None else {k: v for k, v in left.items() if k in without}
        if not left:
            break
    return count, list((left or {}).values())


def _kind(item: Datum) -> Kind:
    if item.unmeasured is not None:
        return Kind("unmeasured", _first_line(item.unmeasured))
    message = item.error_message or ""
    if not (item.feedback or "").startswith(f"{_RAISED}{message}"):
        return Kind("failed", _first_line(message))
    place = _PLACE.search(item.feedback or "")
    name, _, text = _first_line(message).partition(": ")
    return Kind("raised", f"{name} {text}".strip(), place[1] if place else "")


def reason(item: Datum) -> str:
    """Why an item has no result, in a few words and with the place; "" if it has one."""
    if item.outcome not in _NO_RESULT:
        return ""
    kind = _kind(item)
    return kind.text + (f" ({kind.place})" if kind.place else "")


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no reason is given")
    return line if len(line) <= _TEXT_AT_MOST else f"{line[: _TEXT_AT_MOST - 3]}..."


def _key(text: str) -> str:
    """A message without what differs from item to item."""
    return _NAMES.sub("#", _first_line(text).replace(": ", " ", 1))
