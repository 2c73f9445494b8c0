"""Mutants of the files that decide: `python -m tests.mutations [FILE ...] [--sample N] [--seed S]`.

Each mutant is one small change of a file: a comparison at its edge, a condition turned round, a
number off by one, a statement or an argument left out. In a copy of the checkout, the tests that
stand beside the files run once, and it is written down which statements each of them reaches, in
its own process and in those that it starts. Then each mutant is run against the tests that reach
it, the quickest first, until one fails. Those that no test notices are printed: either a test is
missing, or the change makes no difference, which CONTRIBUTING.md explains.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import importlib
import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = {
    "autopilot/policy/gates.py": ["tests/policy", "tests/core/test_exchanges.py"],
    "autopilot/policy/comparisons.py": ["tests/policy"],
    "autopilot/core/policy.py": ["tests/core/test_policy.py", "tests/core/test_exchanges.py"],
    "autopilot/core/comparison.py": ["tests/core", "tests/policy"],
    "autopilot/core/statistics.py": ["tests/core", "tests/policy"],
    "autopilot/core/stopping.py": ["tests/core"],
    "autopilot/core/records/ledger.py": ["tests/core"],
    "autopilot/core/loop.py": ["tests/core", "tests/tracking"],
    "autopilot/git/refs.py": ["tests/git", "tests/tracking"],
    "autopilot/git/notes.py": ["tests/git", "tests/tracking"],
    "autopilot/git/workfiles.py": ["tests/git", "tests/tracking"],
    "autopilot/tracking/git_store.py": ["tests/tracking"],
    "autopilot/tracking/integrity.py": ["tests/cli/test_replay.py", "tests/tracking"],
    "autopilot/proof/replay.py": [
        "tests/proof",
        "tests/cli/test_replay.py",
        "tests/cli/test_noise.py",
    ],
    "autopilot/text.py": ["tests/test_text.py", "tests/cli/test_output.py"],
    "autopilot/sandbox/confinement.py": ["tests/sandbox", "tests/cli/test_confinement.py"],
    "autopilot/sandbox/processes.py": ["tests/sandbox", "tests/engine"],
    "autopilot/sandbox/git_folders.py": ["tests/sandbox", "tests/cli/test_confinement.py"],
}
OTHER = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
LIMIT_S = 100
"""Time limit of a test: it is red if it hangs."""
# What tests import that is none of ours: it is imported once, and each mutant's run is a fork.
LIBRARIES = ("numpy", "pydantic", "pygit2", "rich.progress", "typer")
# Reads the variable without asking for it, which the run would note of the evaluation.
TOUCH = """\
import os

known = set()


def touch(place):
    key = getattr(os.environ, "_data", {}).get(b"PYTEST_CURRENT_TEST", b"").decode(), place
    if key not in known:
        known.add(key)
        file = os.open(TOUCHED, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, ("\\t".join(key) + "\\n").encode())
        os.close(file)
"""


class Source:
    """A file's text and tree, and the mutants of it."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text()
        self.lines = self.text.splitlines(keepends=True)
        self.tree = ast.parse(self.text)
        self.functions = [n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef)]

    def mutants(self) -> Iterator[tuple[int, int, str]]:
        """Where each mutant begins and ends (characters of the text), and what it has there."""
        nodes = {id(n): n for f in self.functions for s in f.body for n in ast.walk(s)}
        for node in nodes.values():
            yield from ((*self._span(node), new) for new in self._changed(node))

    def statements(self) -> dict[int, int]:
        """First and last line of each statement of a function that can have one before it."""
        found = {}
        for node in ast.walk(ast.Module([s for f in self.functions for s in f.body], [])):
            if not isinstance(node, ast.stmt):
                continue
            first = min(n.lineno for n in (node, *getattr(node, "decorator_list", ())))
            text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not text and not self.lines[first - 1].lstrip().startswith("elif "):
                found[first] = node.end_lineno
        return found

    def watched(self, name: str) -> str:
        """The text, with a note of each statement that is reached."""
        begins = self.statements()
        written = []
        for number, line in enumerate(self.lines, start=1):
            if number in begins:
                indent = line[: len(line) - len(line.lstrip())]
                written.append(f"{indent}_touch({f'{name}:{number}'!r})\n")
            written.append(line)
            if line.startswith("from __future__"):
                written.append("from autopilot.touched import touch as _touch\n")
        return "".join(written)

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


class Looking:
    """Which tests there are, how long each takes, which failed, and which share a fixture.

    Args:
        found: Where it is written when they have been run.
    """

    def __init__(self, found: Path) -> None:
        self.found = found
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: list[str] = []
        self.fixtures: dict[str, list[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            info = getattr(item, "_fixtureinfo", None)
            used = [d[-1] for d in info.name2fixturedefs.values() if d] if info else []
            shared = [f"{d.baseid}::{d.argname}" for d in used if d.scope != "function"]
            self.fixtures[item.nodeid] = shared

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.found.write_text(json.dumps([self.seconds, self.failed, self.fixtures]))


class Chosen:
    """Runs some tests, in this order."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self.places = {node: at for at, node in enumerate(nodes)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kept = [item for item in items if item.nodeid in self.places]
        items[:] = sorted(kept, key=lambda item: self.places[item.nodeid])


class Bench:
    """A copy of the checkout in which tests are run, each time by a fork of this process.

    Args:
        folder: Where the copy is, and all that the tests leave.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.copy = folder, folder / "copy"
        ignored = shutil.ignore_patterns(".venv", "__pycache__", ".git", ".*_cache")
        shutil.copytree(ROOT, self.copy, symlinks=True, ignore=ignored)
        (folder / "left").mkdir()
        os.environ |= {"PYTHONPATH": str(self.copy), "TMPDIR": str(folder / "left")}
        sys.path.insert(0, str(self.copy))
        os.chdir(self.copy)
        for library in LIBRARIES:
            importlib.import_module(library)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what tests leave is found

    def look(self, names: Sequence[str]) -> Iterator[str]:
        """Runs the files' tests as they are, and notes which of them reaches each statement.

        Yields:
            The tests that are red: no mutant is run against them.
        """
        found, touched = self.folder / "found", self.folder / "touched"
        begin = f"TOUCHED = {str(touched)!r}\n"
        (self.copy / "autopilot/touched.py").write_text(begin + TOUCH)
        self.sources = {name: Source(self.copy / name) for name in names}
        for name, source in self.sources.items():
            self.write(name, source.watched(name))
        tests = list(dict.fromkeys(test for name in names for test in (*TESTS[name], name)))
        self.run(tests, Looking(found))
        self.seconds, failed, fixtures = json.loads(found.read_text())
        for name, source in self.sources.items():
            self.write(name, source.text)
        sharing: dict[str, set[str]] = defaultdict(set)
        for node, shared in fixtures.items():
            for fixture in shared:
                sharing[fixture].add(node)
        self.reached: dict[str, set[str]] = defaultdict(set)
        for line in touched.read_text().splitlines():
            test, _, place = line.rpartition("\t")
            node, _, phase = test.rpartition(" ")
            nodes = {node} & fixtures.keys()
            # Others may look at a fixture that this one made.
            nodes.update(*(sharing[f] for f in fixtures.get(node, ()) if phase == "(setup)"))
            self.reached[place] |= nodes - {*failed}
        yield from failed

    def survives(self, name: str, line: int, text: str) -> bool:
        """Whether all the tests accept a text of the file in which this line is changed."""
        begins = [at for at, end in self.sources[name].statements().items() if at <= line <= end]
        reached = self.reached[f"{name}:{max(begins)}"]
        nodes = sorted(reached, key=lambda node: self.seconds[node])
        if not nodes:
            return True
        self.write(name, text)
        files = list(dict.fromkeys(node.partition("::")[0] for node in nodes))
        code = self.run(["-x", *files], Chosen(nodes))
        self.write(name, self.sources[name].text)
        assert code != 5, f"pytest finds none of {nodes}"
        return code == 0

    def write(self, name: str, text: str) -> None:
        """Writes a file of the copy; bytecode of the same size and second would stand for it."""
        (self.copy / name).write_text(text)
        Path(importlib.util.cache_from_source(self.copy / name)).unlink(missing_ok=True)

    def run(self, arguments: Sequence[str], plugin: object) -> int:
        """Runs tests in a process, ends all that it leaves, and gives the exit code."""
        pid = os.fork()
        if pid == 0:
            log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            options = ["-q", "-n", "0", "-p", "no:cacheprovider", "-o", f"timeout={LIMIT_S}"]
            os._exit(pytest.main([*options, *arguments], [plugin]))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        while children.is_file() and (left := children.read_text().split()):
            for child in map(int, left):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        return code


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("files", nargs="*", default=list(TESTS), metavar="FILE")
    parser.add_argument("--sample", type=int, default=12, help="mutants of a file (12)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if unknown := [name for name in given.files if name not in TESTS]:
        parser.error(f"{unknown[0]} is none of the files that decide: {', '.join(TESTS)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder))
        for test in bench.look(given.files):
            print(f"not used, since it is red without a mutant: {test}", flush=True)
        tried = alive = 0
        for name, source in bench.sources.items():
            every = sorted(set(source.mutants()))
            chosen = random.Random(f"{given.seed} {name}")
            for begin, end, new in sorted(chosen.sample(every, min(given.sample, len(every)))):
                line = source.text.count("\n", 0, begin) + 1
                tried += 1
                if bench.survives(name, line, source.text[:begin] + new + source.text[end:]):
                    alive += 1
                    old = " ".join(source.text[begin:end].split())
                    print(f"{name}:{line}: {old}  ->  {new}", flush=True)
        print(f"{tried} mutants, {alive} not noticed")


if __name__ == "__main__":
    main()
