"""The literals of a Python file: constants of the module, of its classes, and in dicts and lists.

The file is parsed, never imported.
"""

from __future__ import annotations

import ast
import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import accumulate

from autopilot.tuning.literals import Literal, MalformedError, Path, value_or_problem
from autopilot.tuning.spaces import Value

_SINGLE = re.compile("[uU]?'")


def python_literals(text: str) -> list[Literal]:
    """The literals of a Python text.

    Raises:
        MalformedError: it is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes: they are not ours to mend
            tree = ast.parse(text)
    except SyntaxError as error:
        raise MalformedError(error.msg, error.lineno or 0) from error
    except ValueError as error:
        raise MalformedError(str(error)) from error
    return list(_Places(text).of_body(tree.body, ()))


class _Places:
    """Finds the places of nodes in a text."""

    def __init__(self, text: str) -> None:
        self._lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)
        self._starts = [0, *accumulate(map(len, self._lines))]

    def of_body(self, body: Sequence[ast.stmt], path: Path) -> Iterator[Literal]:
        """The literals that statements bind to names, those of a branch or a class too."""
        for node in body:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    yield from self._of_target(target, node.value, path, len(node.targets) > 1)
            elif isinstance(node, ast.AnnAssign):
                if node.value is not None:
                    yield from self._of_target(node.target, node.value, path, False)
            elif isinstance(node, ast.AugAssign):
                yield from self._of_target(node.target, node, path, False)
            elif isinstance(node, ast.ClassDef):
                yield from self.of_body(node.body, (*path, node.name))
            elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for name in ("body", "orelse", "finalbody"):
                    yield from self.of_body(getattr(node, name, []), path)
                for handler in getattr(node, "handlers", []):
                    yield from self.of_body(handler.body, path)

    def _of_target(
        self, target: ast.expr, value: ast.AST, path: Path, is_shared: bool
    ) -> Iterator[Literal]:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            if len(target.elts) == len(value.elts):
                for name, each in zip(target.elts, value.elts, strict=True):
                    yield from self._of_target(name, each, path, is_shared)
            return
        if not isinstance(target, ast.Name):
            return
        path = (*path, target.id)
        if is_shared:
            yield self._literal(path, value, (None, "bound to several names at once"))
        else:
            yield from self._of_value(value, path)

    def _of_value(self, value: ast.AST, path: Path) -> Iterator[Literal]:
        if isinstance(value, ast.Dict):
            for key, each in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant):
                    yield from self._of_value(each, (*path, str(key.value)))
        elif isinstance(value, ast.List | ast.Tuple):
            for index, each in enumerate(value.elts):
                yield from self._of_value(each, (*path, str(index)))
        else:
            found: tuple[Value | None, str] = None, "computed"
            if isinstance(value, ast.Constant | ast.UnaryOp):
                with contextlib.suppress(ValueError):
                    found = value_or_problem(ast.literal_eval(value))
            yield self._literal(path, value, found)

    def _literal(self, path: Path, node: ast.AST, found: tuple[Value | None, str]) -> Literal:
        assert isinstance(node, ast.expr | ast.stmt)
        start = self._place(node.lineno, node.col_offset)
        end = self._place(node.end_lineno or 0, node.end_col_offset or 0)
        return Literal(path, start, end, *found)

    def _place(self, line: int, column: int) -> int:
        # The column of a node counts bytes of UTF-8.
        before = self._lines[line - 1].encode()[:column].decode()
        return self._starts[line - 1] + len(before)


def in_python(text: str, old: str) -> str:
    """A text as Python has it, in the quotes of the old literal."""
    quote, literal = "'" if _SINGLE.match(old) else '"', repr(text)
    if literal[0] == quote:
        return literal
    inner = literal[1:-1].replace(f"\\{literal[0]}", literal[0])
    return quote + inner.replace(quote, f"\\{quote}") + quote
