"""What a step changed where it may not, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Did = Literal["made", "removed", "replaced", "changed", "changed the mode of"]
PUT_BACK, REMOVED, LOST = "put back", "removed", "too large to be put back"


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one path.

    Args:
        name: The path from the worktree's top.
        did: What was done to it.
        folder: Whether it was or is a folder.
        detail: What it is now: " by a link to /etc", say.
        undone: How it was undone; "" if it was not.
    """

    name: str
    did: Did
    folder: bool = False
    detail: str = ""
    undone: str = PUT_BACK

    def sentence(self, inside: int | None = None) -> str:
        """In words.

        Args:
            inside: The number of files below it to which the same happened.
        """
        many = "" if inside is None else f" ({inside} file{'s' * (inside != 1)})"
        end = f": {self.undone}" if self.undone else ""
        return f"{self.did} {printable(self.name)}{'/' * self.folder}{self.detail}{many}{end}"


def sentences(changes: Iterable[Change], matters: Callable[[str], bool]) -> Iterator[str]:
    """One a path; of a folder that came or went as a whole, one for all that is in it.

    Args:
        changes: What happened.
        matters: Whether a path is worth telling; the tools that an agent uses leave caches where
            git ignores them.
    """
    ordered = sorted(changes, key=lambda change: change.name.split("/"))
    position = 0
    while position < len(ordered):
        change = ordered[position]
        position += 1
        if change.did not in ("made", "removed", "replaced"):
            if matters(change.name):
                yield change.sentence()
            continue
        start = position
        while position < len(ordered) and ordered[position].name.startswith(f"{change.name}/"):
            position += 1
        if not change.folder or change.did == "replaced":
            if matters(change.name):
                yield change.sentence()
            continue
        files = [each.name for each in ordered[start:position] if not each.folder]
        if any(map(matters, files or [f"{change.name}/"])):
            yield change.sentence(len(files))


def printable(name: str) -> str:
    """A name on one line, whatever an agent called its file."""
    escaped = (c if c.isprintable() else repr(c)[1:-1] for c in name)
    return "".join(escaped).encode("utf-8", "backslashreplace").decode()
