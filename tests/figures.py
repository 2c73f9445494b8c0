"""The code in figures: `python -m tests.figures [CHECKOUT ...]`, a column for each checkout.

A checkout's own `.venv` runs it, where it has one; times are medians of processes that take turns.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

TIMES = 11
STARTS = {
    "autopilot --help, s": "import sys; sys.argv[1:] = ['--help']; "
    "from autopilot.cli.main import main; main()",
    "import autopilot, s": "import autopilot",
    "import autopilot.core.trainer, s": "import autopilot.core.trainer",
    "import autopilot.engine.session, s": "import autopilot.engine.session",
}
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def figures(top: Path) -> dict[str, float]:
    """Sizes of the package of a checkout: name to figure."""
    files = sorted((top / "autopilot").rglob("*.py"))
    lines, lengths, before, kinds = 0, list[int](), 0, Counter[str]()
    for path in files:
        text = path.read_text()
        tree = ast.parse(text)
        count = len(text.splitlines())
        lines += count
        lengths += list(_lengths(tree))
        definitions = [node for node in tree.body if isinstance(node, _DEFINITIONS)]
        before += min((_start(node) for node in definitions), default=count + 1) - 1
        kinds += _kinds(text, tree)
    by_share = quantiles(lengths, n=10)
    return {
        "files": len(files),
        "lines": lines,
        "of code": kinds["code"],
        "of docstrings": kinds["docstring"],
        "of imports": kinds["import"],
        "comments in 100 lines of code": 100 * kinds["comment"] / kinds["code"],
        "lines of a function, median": median(lengths),
        "9 of 10 have at most": by_share[8],
        "the longest": max(lengths),
        "% of lines before a file's first definition": 100 * before / lines,
    }


def _lengths(tree: ast.Module) -> Iterator[int]:
    """Lines of each function, decorators and docstring included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or 0) - _start(node) + 1


def _start(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    return min([node.lineno, *(each.lineno for each in node.decorator_list)])


def _kinds(text: str, tree: ast.Module) -> Counter[str]:
    """What each line is: code, docstring, import, comment or blank."""
    lines = text.splitlines()
    kinds = [
        "blank" if not line.strip() else "comment" if line.strip().startswith("#") else "code"
        for line in lines
    ]
    for node in ast.walk(tree):
        marked, kind = node, "import"
        if isinstance(node, (ast.Module, *_DEFINITIONS)):
            if ast.get_docstring(node) is None:
                continue
            marked, kind = node.body[0], "docstring"
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for at in range(marked.lineno - 1, marked.end_lineno or 0):
            kinds[at] = kind
    return Counter(kinds)


def starts(tops: list[Path]) -> dict[str, list[float]]:
    """Seconds of processes: name to one figure a checkout."""
    taken: dict[str, list[list[float]]] = {name: [[] for _ in tops] for name in STARTS}
    for _ in range(TIMES):
        for name, code in STARTS.items():
            for place, top in enumerate(tops):
                python = top / ".venv" / "bin" / "python"
                command = [str(python) if python.exists() else sys.executable, "-c", code]
                started = time.perf_counter()
                environment = {**os.environ, "PYTHONPATH": str(top)}
                subprocess.run(command, check=True, capture_output=True, cwd=top, env=environment)
                taken[name][place].append(time.perf_counter() - started)
    return {name: [median(each) for each in found] for name, found in taken.items()}


def main() -> None:
    """Prints the table, in Markdown."""
    tops = [Path(name).resolve() for name in sys.argv[1:]] or [Path(__file__).parents[1]]
    columns = [figures(top) for top in tops]
    print("| |" + "".join(f" {top.name} |" for top in tops))
    print("|---|" + "---:|" * len(tops))
    for name in columns[0]:
        cells = [
            f"{c[name]:,.0f}" if float(c[name]).is_integer() else f"{c[name]:.1f}" for c in columns
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    for name, found in starts(tops).items():
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in found)} |")


if __name__ == "__main__":
    main()
