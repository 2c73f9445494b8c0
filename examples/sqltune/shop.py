"""The shop: its database, made anew from a seed, and the items of the three splits.

`python shop.py` writes data/*.jsonl: a call of a query with its arguments, and a digest of the rows
that the queries returned before anybody tuned them.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from autopilot.core.types import digest

HERE = Path(__file__).parent
CUSTOMERS, ORDERS, CITIES = 1_000, 12_000, 200
START = datetime(2024, 1, 1)
SPLITS = ("train", "val", "test")
STATUSES = ("open", "paid", "shipped", "returned")

SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, email TEXT NOT NULL, city TEXT NOT NULL);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers, placed TEXT NOT NULL,
    reference TEXT NOT NULL, status TEXT NOT NULL, total INTEGER NOT NULL, note TEXT NOT NULL
);
"""
PLACE_ORDER = "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)"


def email_of(customer: int) -> str:
    """A customer's address."""
    return f"c{customer}@example.org"


def customers() -> Iterator[tuple[int, str, str]]:
    """The rows of the table."""
    for number in range(1, CUSTOMERS + 1):
        yield number, email_of(number), f"city-{number * 7 % CITIES}"


def orders(first: int, count: int) -> Iterator[tuple[Any, ...]]:
    """Rows of the table, from a number on; the same number is always the same order."""
    for number in range(first, first + count):
        chance = random.Random(number)
        customer = chance.randint(1, CUSTOMERS)
        placed = START + timedelta(minutes=37 * number + chance.randint(0, 30))
        # Some customers of even numbers give their own address where a reference is asked for.
        own = customer % 2 == 0 and chance.random() < 0.2
        reference = email_of(customer) if own else f"R{number:06}"
        status = chance.choice(STATUSES)
        total = chance.randint(500, 50_000)
        yield number, customer, placed.isoformat(" "), reference, status, total, f"box {number % 9}"


def make_database() -> sqlite3.Connection:
    """The database in memory, without an index."""
    database = sqlite3.connect(":memory:")
    database.executescript(SCHEMA)
    database.executemany("INSERT INTO customers VALUES (?, ?, ?)", customers())
    database.executemany(PLACE_ORDER, orders(1, ORDERS))
    database.commit()
    return database


def calls(split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The workload of a split: names of queries with their arguments."""
    chance = random.Random(split)
    for number in range(4):
        yield "recent_orders", {"customer": chance.randint(1, CUSTOMERS)}
        # No day of one split is a day of another.
        days = 20 * (3 * number + SPLITS.index(split)) + chance.randint(1, 20)
        day = START + timedelta(days=days)
        yield "takings", {"day": day.date().isoformat()}
        yield "best_customers", {"city": f"city-{chance.randrange(CITIES)}"}
        yield "large_orders", {"least": chance.randint(47_000, 49_900)}
        yield "find_order", {"text": f"R{chance.randint(1, ORDERS):06}"}
        # Train lacks what val and test have: an address that is also the reference of orders.
        customer = 2 * chance.randint(1, CUSTOMERS // 2) - (split == "train")
        yield "find_order", {"text": email_of(customer)}


def items(split: str, queries: dict[str, str], database: sqlite3.Connection) -> Iterator[Any]:
    """The lines of a split's file."""
    for number, (name, arguments) in enumerate(calls(split), start=1):
        rows = database.execute(queries[name], arguments).fetchall()
        yield {
            "id": f"{name}-{number}",
            "query": name,
            "arguments": arguments,
            "rows": digest_rows(rows),
        }
    for number in range(1, 4):
        first = ORDERS + 1_000 * (3 * number + SPLITS.index(split))
        yield {"id": f"place_orders-{number}", "first": first, "count": 100}


def digest_rows(rows: Sequence[Sequence[Any]]) -> str:
    """A short name for the result of a query, the order of its rows included."""
    return digest([list(row) for row in rows])


def main() -> None:
    """Writes the files of the splits from the queries as they are now."""
    queries = {path.stem: path.read_text() for path in (HERE / "sql" / "queries").glob("*.sql")}
    for split in SPLITS:
        lines = [json.dumps(item) for item in items(split, queries, make_database())]
        (HERE / "data" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
