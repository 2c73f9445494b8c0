"""A package as its index has it, with its own tests as the guard: mpmath, which is pure Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from runs import autopilot

from autopilot.git.commands import run_git

BENCH = """\
import random
import sys

import mpmath

chance = random.Random(int(sys.argv[2]))


def gamma():
    for digits in (30, 60, 100):
        mpmath.mp.dps = digits
        for _ in range(5):
            mpmath.gamma(mpmath.mpc(chance.uniform(1, 20), chance.uniform(1, 20)))


def moebius():
    for _ in range(20):
        mpmath.libmp.moebius(chance.randrange(1, 2000))


def trace(frame, event, _):
    global lines
    lines += event == "line"
    return trace


lines, work = 0, globals()[sys.argv[1]]
sys.settrace(trace)
work()
sys.settrace(None)
print(f"lines: {lines}")
"""
# Fast both, but the first is wrong where a square divides n.
AGENT = '''\
import re
import sys
from pathlib import Path

file = Path("mpmath/libmp/libintmath.py")
moebius = """\\
def moebius(n):
    n = abs(int(n))
    if n < 2:
        return n
    sign, p = 1, 2
    while p * p <= n:
        if n % p == 0:
            n //= p
            SQUARE
            sign = -sign
        p += 1
    return -sign if n > 1 else sign


"""
name, square = "forget squares", "while n % p == 0: n //= p"
if name in sys.stdin.read():
    name, square = "divide by what was found", "if n % p == 0: return 0"
new = moebius.replace("SQUARE", square)
file.write_text(re.sub(r"def moebius.*?(?=def gcd)", lambda _: new, file.read_text(), flags=re.S))
print(name)
'''
SUITE = "python -m pytest -q -x --assert=plain -p no:cacheprovider mpmath/tests"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is downloaded; without a network the test is skipped."""
    folder = tmp_path_factory.mktemp("wheel")
    quick = ["--timeout", "5", "--retries", "0", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *quick, "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), "mpmath==1.3.0"], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"no package index: {(done.stderr or done.stdout).strip()[-200:]}")
    (found,) = folder.glob("*.whl")
    return found


def test_a_package_is_tuned_and_edited_under_its_own_tests(
    wheel: Path, tmp_path: Path, git_environment: Path
) -> None:
    (git_environment / ".gitconfig").write_text("[user]\nname = A\nemail = a@example.org\n")
    top = tmp_path / "clone"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(top)
    (top / "bench.py").write_text(BENCH)
    (top / "agent.py").write_text(AGENT)
    (top / ".gitignore").write_text("__pycache__\n")
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "1.3.0"]):
        run_git(words, cwd=top)

    # Complex gamma: the way to where Stirling's series converges against its number of terms. The
    # package itself refuses a precision of 20,000 bits.
    file = "mpmath/libmp/gammazeta.py"
    tuned = _run(
        top,
        "gamma",
        *("--test-eval", "python bench.py gamma 2", "--sampler", "grid"),
        *("--guard", f"{SUITE}/test_gammazeta.py -k test_gamma_"),
        *("--tune", f"{file}:GAMMA_STIRLING_BETA=0.2|0.3"),
        *("--tune", f"{file}:MAX_GAMMA_TAYLOR_PREC=5000|20000"),
    )
    assert tuned["stop_reason"] == "every combination of values was tried"
    assert tuned["kept"] == 1
    best = tuned["log"][tuned["best_epoch"]]
    assert best["summary"] == "GAMMA_STIRLING_BETA 0.200 -> 0.300"
    for split in ("val", "test"):
        before, after = tuned["log"][0]["metrics"][split], best["metrics"][split]
        assert after["lines"] < 0.9 * before["lines"], split
    refused = [epoch for epoch in tuned["log"] if "guard" in epoch["reasons"][0]]
    assert len(refused) == 2
    for epoch in refused:
        assert "AssertionError" in epoch["reasons"][0]

    edited = _run(
        top,
        "moebius",
        *("--edit", "mpmath/libmp/libintmath.py", "--agent", "cmd:python agent.py"),
        *("--guard", f"{SUITE}/test_functions.py::test_constants", "--max-epochs", "2"),
    )
    _, wrong, right = edited["log"]
    assert (wrong["verdict"], right["verdict"]) == ("rejected", "kept")
    assert "FAILED mpmath/tests/test_functions.py::test_constants" in wrong["reasons"][0]
    assert right["value"] * 20 < edited["baseline"]
    assert run_git(["status", "--porcelain"], cwd=top).stdout == b""


def _run(top: Path, work: str, *options: str) -> dict[str, Any]:
    """Runs until it ends; returns its log."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "MPMATH_NOGMPY": "1"}
    measured = ["--eval", f"python bench.py {work} 1", "--metric", "lines", "--mode", "min"]
    done = autopilot(top, "run", "-e", work, *measured, *options, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    log: dict[str, Any] = json.loads(autopilot(top, "log", work, "--json").stdout)
    return log
