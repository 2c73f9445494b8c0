"""The strategies: each reads the plans and edits sql/, without a model.

They know no database but this: which columns a scan compared, which index a plan used, and a few
ways to write a query so that an index can serve it. One of those ways is wrong.
"""

from __future__ import annotations

import re
from abc import abstractmethod

from plans import PlanGradient

from autopilot.core.gradient import Gradient
from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.rules import Rule

INDEXES = "indexes.sql"
_INDEX = re.compile(r"CREATE INDEX (\w+) ON (\w+) \((.+)\);\n")
_OF_DAY = re.compile(r"date\((\w+)\) = (:\w+)")
_OR = re.compile(r"(.*)WHERE (\S+) = (\S+) OR (\S+) = (\S+)\n(ORDER BY .*)", re.DOTALL)


def all_strategies() -> list[Rule]:
    """The strategies in the order in which they take turns."""
    return [
        AddIndex(),
        CompareColumn(),
        SplitOr("split OR in two", "UNION ALL"),  # rows that both halves find come twice
        SplitOr("split OR, each row once", "UNION"),
        IndexOrder(),
        DropUnused(),
    ]


def create(table: str, *columns: str) -> str:
    """The line of an index.

    >>> create("orders", "city", "day")
    'CREATE INDEX orders_city_day ON orders (city, day);\\n'
    """
    return f"CREATE INDEX {'_'.join((table, *columns))} ON {table} ({', '.join(columns)});\n"


class Edit(Rule):
    """What the strategies share: the files, as text by name, which `edit` changes."""

    def applies(self, gradient: Gradient) -> bool:
        return isinstance(gradient, PlanGradient)

    def apply(self, parameter: Parameter, gradient: Gradient) -> str | None:
        if not isinstance(parameter, PathParameter) or not isinstance(gradient, PlanGradient):
            raise TypeError(f"{self.name} edits SQL files by a PlanGradient")
        before = {name: parameter.read_text(name) for name in parameter.files()}
        files = dict(before)
        summary = self.edit(files, gradient)
        for name, text in files.items():
            if text != before[name]:
                parameter.write_text(text, name)
        return summary

    @abstractmethod
    def edit(self, files: dict[str, str], gradient: PlanGradient) -> str | None:
        """Changes the texts in place; returns what was done."""


class AddIndex(Edit):
    """Adds an index for a column that a scanning query compares; each attempt takes another."""

    name = "add an index"

    def edit(self, files: dict[str, str], gradient: PlanGradient) -> str | None:
        known = {(table, columns.split(", ")[0]) for _, table, columns in indexes(files)}
        wanted = [
            (plan.query, *column)
            for plan in gradient.one_each
            for column in plan.columns
            if column not in known
        ]
        if not wanted:
            return None
        query, table, column = wanted[self.attempt % len(wanted)]
        files[INDEXES] += create(table, column)
        return f"index {table} ({column}), which {query} compares"


class CompareColumn(Edit):
    """`date(column) = day` hides the column from every index: compares it with two bounds."""

    name = "unwrap the column"

    def edit(self, files: dict[str, str], gradient: PlanGradient) -> str | None:
        for plan in gradient.one_each:
            found = _OF_DAY.search(plan.text)
            if found is None:
                continue
            column, day = found.groups()
            bounds = f"{column} >= date({day}) AND {column} < date({day}, '+1 day')"
            files[file_of(plan.query)] = plan.text.replace(found[0], bounds)
            table = plan.text.partition("FROM ")[2].split()[0]
            files[INDEXES] += create(table, column)
            return f"{plan.query}: compare {column} itself, and index it"
        return None


class SplitOr(Edit):
    """No index serves an OR over two tables: makes two queries of it, and indexes both columns.

    Args:
        name: The strategy's name.
        union: How the two are joined.
    """

    def __init__(self, name: str, union: str) -> None:
        self.name, self.union = name, union

    def edit(self, files: dict[str, str], gradient: PlanGradient) -> str | None:
        for plan in gradient.one_each:
            found = _OR.fullmatch(plan.text.rstrip())
            if found is None:
                continue
            head, one, first, two, second, order = found.groups()
            halves = f"{head}WHERE {one} = {first}\n{self.union}\n{head}WHERE {two} = {second}"
            files[file_of(plan.query)] = f"{halves}\n{order}\n"
            for column in (one, two):
                alias, _, name = column.partition(".")
                table = re.search(rf"(?:FROM|JOIN) (\w+) {alias}\b", head)
                files[INDEXES] += create(table[1], name) if table else ""
            return f"{plan.query}: {self.union} instead of OR"
        return None


class IndexOrder(Edit):
    """Rows that an index finds are sorted afterwards: lets the index have them in order."""

    name = "index the order too"

    def edit(self, files: dict[str, str], gradient: PlanGradient) -> str | None:
        for plan in gradient.one_each:
            order = re.search(r"ORDER BY (\w+)", plan.text)
            if order is None or not any("FOR ORDER BY" in line for line in plan.lines):
                continue
            for name, table, columns in indexes(files):
                if f"{plan.lines[0]} ".startswith(f"SEARCH {table} USING INDEX {name} "):
                    old = f"CREATE INDEX {name} ON {table} ({columns});\n"
                    new = create(table, *columns.split(", "), order[1])
                    files[INDEXES] = files[INDEXES].replace(old, new)
                    return f"{plan.query}: {name} has {order[1]} too, so that nothing is sorted"
        return None


class DropUnused(Edit):
    """Each index costs every write: drops those that no plan uses."""

    name = "drop unused indexes"

    def edit(self, files: dict[str, str], gradient: PlanGradient) -> str | None:
        unused = [each for each in indexes(files) if each[0] not in gradient.used]
        for name, table, columns in unused:
            line = f"CREATE INDEX {name} ON {table} ({columns});\n"
            files[INDEXES] = files[INDEXES].replace(line, "")
        return f"drop {', '.join(name for name, _, _ in unused)}" if unused else None


def indexes(files: dict[str, str]) -> list[tuple[str, str, str]]:
    """(name, table, columns) of each index."""
    return _INDEX.findall(files[INDEXES])


def file_of(query: str) -> str:
    """The name of a query's file."""
    return f"queries/{query}.sql"
