"""Mutants of the files that decide: `python -m tests.mutations [FILE ...] [--sample N] [--seed S]`.

Each mutant is one small change of a file: a comparison at its edge, a condition turned round, a
number off by one, a statement or an argument left out. In a copy of the checkout, the tests that
stand beside the file are run against it. Those that no test notices are printed as a diff line:
either a test is missing, or the change makes no difference, which CONTRIBUTING.md explains.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = {
    "autopilot/policy/gates.py": ["tests/policy"],
    "autopilot/policy/comparisons.py": ["tests/policy"],
    "autopilot/core/policy.py": ["tests/core/test_policy.py", "tests/policy"],
    "autopilot/core/comparison.py": ["tests/core/test_comparison.py", "tests/policy"],
    "autopilot/core/statistics.py": ["tests/core/test_statistics.py", "tests/policy"],
    "autopilot/core/stopping.py": ["tests/core/test_stopping.py", "tests/core/test_trainer.py"],
    "autopilot/core/records/ledger.py": ["tests/core/records", "tests/core/test_stopping.py"],
    "autopilot/core/loop.py": ["tests/core/test_loop.py", "tests/core", "tests/tracking"],
    "autopilot/git/refs.py": ["tests/git/test_refs.py", "tests/git"],
    "autopilot/git/notes.py": ["tests/git/test_notes.py", "tests/git"],
    "autopilot/git/workfiles.py": ["tests/git", "tests/tracking"],
    "autopilot/tracking/git_store.py": ["tests/tracking"],
    "autopilot/tracking/integrity.py": ["tests/cli/test_replay.py"],
    "autopilot/proof/replay.py": ["tests/proof"],
    "autopilot/text.py": ["tests/test_text.py", "tests/cli/test_output.py"],
    "autopilot/sandbox/confinement.py": ["tests/sandbox"],
    "autopilot/sandbox/processes.py": ["tests/sandbox", "tests/engine"],
    "autopilot/sandbox/git_folders.py": ["tests/sandbox"],
}
OTHER = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip


class Source:
    """A file's text and tree, and the mutants of it."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text()
        self.lines = self.text.splitlines(keepends=True)
        self.tree = ast.parse(self.text)

    def mutants(self) -> Iterator[tuple[int, int, str]]:
        """Where each mutant begins and ends (characters of the text), and what it has there."""
        functions = [n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef)]
        nodes = {id(n): n for f in functions for s in f.body for n in ast.walk(s)}
        for node in nodes.values():
            yield from ((*self._span(node), new) for new in self._changed(node))

    def _changed(self, node: ast.AST) -> Iterator[str]:
        def text(part: ast.AST) -> str:
            begin, end = self._span(part)
            return self.text[begin:end]

        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OTHER:
                yield f"({text(left)} {OTHER[type(op)]} {text(right)})"
            case ast.BoolOp(op=op, values=values):
                word = " or " if isinstance(op, ast.And) else " and "
                yield f"({word.join(f'({text(v)})' for v in values)})"
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield f"bool({text(operand)})"
            case ast.Constant(value=bool(value)):
                yield str(not value)
            case ast.Constant(value=int(value)):
                yield str(value + 1)
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
                yield f"({text(left)} {'-' if isinstance(op, ast.Add) else '+'} {text(right)})"
            case ast.IfExp(body=body):
                yield f"({text(body)})"
            case ast.Call(func=func, args=args, keywords=[*keywords]) if keywords:
                for left_out in keywords:
                    kept = [*args, *(k for k in keywords if k is not left_out)]
                    yield f"{text(func)}({', '.join(map(text, kept))})"
            case ast.Return(value=ast.AST() as value) if text(value) != "None":
                yield "return None"
            case ast.Expr(value=ast.Call()) | ast.Raise() | ast.AugAssign():
                yield "pass"
            case ast.Assign(targets=[ast.Attribute()]) | ast.Continue() | ast.Break():
                yield "pass"

    def _span(self, node: ast.AST) -> tuple[int, int]:
        return self._at(node.lineno, node.col_offset), self._at(
            node.end_lineno, node.end_col_offset
        )

    def _at(self, line: int, column: int) -> int:
        before = sum(map(len, self.lines[: line - 1]))
        return before + len(self.lines[line - 1].encode()[:column].decode())


def survivors(copy: Path, name: str, sample: int, seed: int) -> Iterator[str | None]:
    """A line for each mutant of the sample that the file's tests accept; None for the others."""
    source = Source(copy / name)
    every = sorted(set(source.mutants()))
    chosen = random.Random(f"{seed} {name}").sample(every, min(sample, len(every)))
    options = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *TESTS[name]]
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    for begin, end, new in sorted(chosen):
        (copy / name).write_text(source.text[:begin] + new + source.text[end:])
        try:
            done = subprocess.run(command, cwd=copy, env=env, capture_output=True, timeout=600)
        except subprocess.TimeoutExpired:
            yield None  # it hangs: a person would notice
            continue
        if done.returncode == 1:
            yield None
            continue
        line = source.text.count("\n", 0, begin) + 1
        old = " ".join(source.text[begin:end].split())
        why = f" (pytest: {done.returncode})" if done.returncode else ""
        yield f"{name}:{line}: {old}  ->  {new}{why}"
    (copy / name).write_text(source.text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("files", nargs="*", default=list(TESTS), metavar="FILE")
    parser.add_argument("--sample", type=int, default=12, help="mutants of a file (12)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if unknown := [name for name in given.files if name not in TESTS]:
        parser.error(f"{unknown[0]} is none of the files that decide: {', '.join(TESTS)}")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(
            ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".venv", "__pycache__")
        )
        for name in given.files:
            found = list(survivors(copy, name, given.sample, given.seed))
            alive = [line for line in found if line]
            print(
                f"{name}: {len(found)} mutants, {len(alive)} not noticed",
                *alive,
                sep="\n  ",
                flush=True,
            )


if __name__ == "__main__":
    main()
