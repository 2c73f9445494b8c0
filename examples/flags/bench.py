"""What requests cost under the settings of pragmas.toml. Usage: python bench.py SEED

A service keeps sessions in SQLite. Counted are reads and writes, their bytes, and what the database
occupies on disk and in memory: with one version of SQLite the same numbers on every machine. Linux
counts the reads and writes of a process in /proc/self/io.
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import tempfile
import tomllib
from pathlib import Path

SETTINGS = tomllib.loads(Path(__file__).with_name("pragmas.toml").read_text(encoding="utf-8"))
COUNTS = Path("/proc/self/io")
MEMORY = "/dev/shm"
USERS, REQUESTS = 1_500, 600
# What is dear is for you to say: of a request, each call counts 5, each KiB 1, each MiB 3.
CALL, KIB, MIB = 5.0, 1.0, 3.0


def main(seed: int) -> None:
    """Prints the cost of a request, and what it is made of."""
    if not COUNTS.exists():
        sys.exit(f"there is no {COUNTS}: reads and writes are counted on Linux only")
    chance = random.Random(seed)
    # In memory, so that nothing waits for a disk: the counts are the same.
    with tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None) as folder:
        file = Path(folder, "sessions.db")
        fill(file, chance)
        database = connect(file)
        before = counts()
        for _ in range(REQUESTS):
            request(database, chance)
        occupied = [each.stat().st_size / 2**20 for each in Path(folder).iterdir()]
        database.close()
        calls, kib = ((now - then) / REQUESTS for now, then in zip(counts(), before, strict=True))
    memory, disk = -SETTINGS["cache_size"] / 2**10, sum(occupied)
    numbers = {
        "cost": CALL * calls + KIB * kib + MIB * (disk + memory),
        "calls": calls,
        "kib": kib,
        "disk_mib": disk,
        "cache_mib": memory,
    }
    print(json.dumps({name: round(value, 3) for name, value in numbers.items()}))


def connect(file: Path) -> sqlite3.Connection:
    """A connection as the service opens it."""
    database = sqlite3.connect(file, isolation_level=None)
    for name, value in SETTINGS.items():
        database.execute(f"PRAGMA {name} = {value}").fetchall()
    return database


def fill(file: Path, chance: random.Random) -> None:
    """A new database with five sessions for each user, in no order."""
    database = connect(file)
    database.execute("BEGIN")
    database.execute("CREATE TABLE session (id INTEGER PRIMARY KEY, user INTEGER, state BLOB)")
    database.execute("CREATE INDEX by_user ON session (user)")
    rows = ((chance.randrange(USERS), state(chance)) for _ in range(5 * USERS))
    database.executemany("INSERT INTO session (user, state) VALUES (?, ?)", rows)
    database.execute("COMMIT")
    database.close()


def request(database: sqlite3.Connection, chance: random.Random) -> None:
    """Of ten, seven read a user's sessions, two change a session, one begins one and ends one."""
    kind = chance.randrange(10)
    user, session = chance.randrange(USERS), chance.randrange(5 * USERS)
    if kind < 7:
        database.execute("SELECT state FROM session WHERE user = ?", (user,)).fetchall()
    elif kind < 9:
        change = (state(chance), session)
        database.execute("UPDATE session SET state = ? WHERE id = ?", change)
    else:
        database.execute("BEGIN")
        begun = (user, state(chance))
        database.execute("INSERT INTO session (user, state) VALUES (?, ?)", begun)
        database.execute("DELETE FROM session WHERE id = ?", (session,))
        database.execute("COMMIT")


def state(chance: random.Random) -> bytes:
    """What a session remembers."""
    return chance.randbytes(chance.randrange(40, 400))


def counts() -> tuple[int, float]:
    """How many reads and writes this process has made so far, and of how many KiB."""
    found = dict(line.split(": ") for line in COUNTS.read_text().splitlines())
    calls = int(found["syscr"]) + int(found["syscw"])
    return calls, (int(found["rchar"]) + int(found["wchar"])) / 1024


if __name__ == "__main__":
    main(int(sys.argv[1]))
