"""Counts how often `contacts` compares two times, on made-up days. Usage: bench.py SEED

Comparisons are the same on a busy machine and on an idle one, and those that C code makes, as in
`sorted`, count too. Milliseconds stand beside them.
"""

from __future__ import annotations

import json
import random
import sys
import time

from contacts import contacts


class Minute(int):
    """A number that counts comparisons."""

    compared = 0
    __hash__ = int.__hash__

    def __lt__(self, other: int) -> bool:
        Minute.compared += 1
        return int(self) < int(other)

    def __gt__(self, other: int) -> bool:
        Minute.compared += 1
        return int(self) > int(other)

    def __le__(self, other: int) -> bool:
        Minute.compared += 1
        return int(self) <= int(other)

    def __ge__(self, other: int) -> bool:
        Minute.compared += 1
        return int(self) >= int(other)

    def __eq__(self, other: object) -> bool:
        Minute.compared += 1
        return other == int(self)


def main(seed: int) -> None:
    """Prints an item a day, with its comparisons for each visitor and its time."""
    chance = random.Random(seed)
    items = []
    for size in (50, 100, 150, 200, 250, 300):
        day = [visit(chance) for _ in range(size)]
        started = time.perf_counter()
        contacts(day)
        milliseconds = 1000 * (time.perf_counter() - started)
        Minute.compared = 0
        contacts([(Minute(came), Minute(went)) for came, went in day])
        each = {"comparisons": Minute.compared / size, "milliseconds": milliseconds}
        items.append({"id": f"{size} visitors", **each})
    print(json.dumps({"items": items}))


def visit(chance: random.Random) -> tuple[int, int]:
    """Comes between 8 and 18 h, and stays for one to four hours."""
    came = chance.randrange(8 * 60, 18 * 60, 5)
    return came, came + chance.randrange(60, 240, 5)


if __name__ == "__main__":
    main(int(sys.argv[1]))
