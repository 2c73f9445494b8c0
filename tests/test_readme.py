"""The README's code runs, and what it shows is what the program prints."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkouts import make_checkout
from forks import fork, program

TOP = Path(__file__).resolve().parents[1]
README = (TOP / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [code for name, code in found if name == language]


def block(beginning: str) -> str:
    """The shell block that begins so."""
    return next(code for code in blocks("sh") if code.startswith(beginning))


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return kept | {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "PYTHONPATH": str(TOP),
        "COLUMNS": "200",
    }


def run(arguments: list[str], folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    if arguments[:3] == [sys.executable, "-m", "autopilot"]:
        process = fork(arguments[3:], cwd=folder, env=environment(home))
        out, err = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)
    return subprocess.run(
        arguments, cwd=folder, env=environment(home), capture_output=True, text=True, check=False
    )


def shape(text: str) -> list[str]:
    """Lines with commit ids, seconds and file counts of the day taken out."""
    text = re.sub(r"\b[0-9a-f]{7}\b", "COMMIT", text)
    text = re.sub(r"\d+\.\d s\b", "SECONDS", text)
    return [re.sub(r"\(\w[\w/.-]*\), 490", "(BRANCH), 490", line) for line in text.splitlines()]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return make_clone(tmp_path)


def make_clone(tmp_path: Path) -> Path:
    """A repository with the example as the only commit, as a clone of this one has it."""
    place = tmp_path / "clone"
    place.mkdir()
    listed = run(["git", "ls-files", "-z", "examples/textmatch"], TOP, tmp_path)
    if listed.returncode != 0 or not listed.stdout:
        pytest.skip("not a git checkout")
    for name in listed.stdout.rstrip("\0").split("\0"):
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((TOP / name).read_bytes())
    for command in (
        ["git", "init", "-q", "-b", "main"],
        ["git", "add", "."],
        ["git", "-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "base"],
    ):
        assert run(command, place, tmp_path).returncode == 0
    return place


@pytest.fixture(scope="module")
def improved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Such a repository after the first command, and what that printed."""
    home = tmp_path_factory.mktemp("improved")
    clone = make_clone(home)
    command = [sys.executable, "-m", "autopilot", "run", "examples/textmatch/textmatch.py"]
    done = run(command, clone, home)
    assert done.returncode == 0, done.stderr
    return clone, done.stdout


def test_the_first_command_prints_what_the_readme_shows(improved: tuple[Path, str]) -> None:
    clone, text = improved
    command = blocks("sh")[0].strip()
    assert command.endswith(".venv/bin/autopilot run examples/textmatch/textmatch.py")
    shown = blocks("")[0]
    printed = shape(text)
    expected = [line for line in shape(shown) if line.strip() != "..."]
    assert len(expected) > 10
    assert [line for line in printed if line in expected] == expected
    assert run(["git", "status", "--porcelain"], clone, clone.parent).stdout == ""


def test_a_kept_and_a_rolled_back_epoch_stand_within_sixty_lines() -> None:
    head = README.splitlines()
    first_command = next(i for i, line in enumerate(head) if "pip install" in line)
    kept = next(i for i, line in enumerate(head) if " kept " in line)
    rolled_back = next(i for i, line in enumerate(head) if "rolled back" in line)
    assert first_command < 20
    assert max(kept, rolled_back) < 60


def test_the_commands_after_a_run_work(improved: tuple[Path, str]) -> None:
    autopilot, (clone, _) = [sys.executable, "-m", "autopilot"], improved
    for line in block("autopilot log --graph").splitlines():
        words = line.partition("#")[0].split()
        command = [*autopilot, *words[1:]] if words[0] == "autopilot" else words
        shown = run(command, clone, clone.parent)
        assert shown.returncode == 0, (line, shown.stderr)
        assert shown.stdout.strip(), line


def test_what_is_proved_and_merged_works_line_by_line(clone: Path, tmp_path: Path) -> None:
    autopilot = [sys.executable, "-m", "autopilot"]
    target = "examples/textmatch/textmatch.py"
    for command in (
        ["git", "init", "-q", "--bare", str(tmp_path / "remote.git")],
        ["git", "remote", "add", "origin", str(tmp_path / "remote.git")],
        ["git", "config", "user.name", "Ada Byron"],
        ["git", "config", "user.email", "ada@example.com"],
        [*autopilot, "run", target, "--max-epochs", "2"],
    ):
        done = run(command, clone, tmp_path)
        assert done.returncode == 0, done.stderr
    for line in block("autopilot push").splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "autopilot"
        done = run([*autopilot, *words[1:]], clone, tmp_path)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    assert "holds on the test split" in run(["git", "log", "-1"], clone, tmp_path).stdout
    assert run(["git", "status", "--porcelain"], clone, tmp_path).stdout == ""


SYSTEM = {
    "rules.txt": "billing: refund\nlogin: password\n",
    "tickets.csv": "text,label\n"
    + "".join(
        f"my {word} {number},{label}\n"
        for label, words in (("billing", "invoice charge"), ("login", "account name"))
        for word in words.split()
        for number in range(8)
    ),
    "prompt.md": "Sort it.\n",
    "answer.py": "text = open('prompt.md').read()\nprint('accuracy:', min(1, len(text) / 40))\n",
    "score.py": "BOOST = 0.5  # of a word in capitals\n",
    "config.toml": "casing = 'keep'  # or 'lower'\n\n[window]\nsize = 4\n",
    "quality.py": "import tomllib\nfrom score import BOOST\n"
    "config = tomllib.load(open('config.toml', 'rb'))\n"
    "away = abs(BOOST - 0.3) + abs(config['window']['size'] - 30) / 60\n"
    "print('METRIC score=%.6f' % (1 - away - (config['casing'] == 'keep') / 9))\n",
    "program.md": "Make it faster.\n",
    "src/loop.py": "def total(n):\n    return sum(range(n + 1))\n",
    "bench.py": "import sys\nsys.path.insert(0, 'src')\nimport loop\n"
    "print('seconds:', 2 if 'range' in open(loop.__file__).read() else 1)\n",
    "tests/test_loop.py": "import sys\nsys.path.insert(0, 'src')\nfrom loop import total\n\n\n"
    "def test_total():\n    assert total(4) == 10\n",
}
# Stands in for Claude Code: it makes one edit that its prompt asks for, and describes it.
CLAUDE = """#!{python}
import json, pathlib, sys
asked = sys.stdin.read()
prompt, code = pathlib.Path("prompt.md"), pathlib.Path("src/loop.py")
if "Make it faster." in asked:
    code.write_text("def total(n):\\n    return n * (n + 1) // 2\\n")
elif "the name of the queue alone" in asked:
    prompt.write_text(prompt.read_text() + "Answer with its name.\\n")
said = json.dumps(dict(strategy="edit", summary="edit it", rationale="better"))
print(json.dumps(dict(type="result", subtype="success", is_error=False, result=said,
    session_id="s", total_cost_usd=0.0, stop_reason="end_turn", modelUsage={{}}, usage={{}})))
"""


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Path]:
    """A repository with the files that the README's first commands name."""
    place = make_checkout(tmp_path / "a system of my öwn", SYSTEM)
    home = tmp_path / "bin"
    home.mkdir()
    for name, script in (
        ("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n'),
        ("claude", CLAUDE.format(python=sys.executable)),
    ):
        (home / name).write_text(script)
        (home / name).chmod(0o755)
    with program(home / "autopilot"):
        yield place


@pytest.mark.parametrize(
    ("beginning", "best"),
    [
        ("autopilot init --kind rules", r"val accuracy 0\.\d+ -> [01]\.\d+"),
        ("autopilot run --edit prompt.md", r"val accuracy 0\.\d+ -> 1.000.* test 0\.\d+ -> 1.000"),
        ("autopilot run --eval 'python quality.py'", r"val score 0\.\d+ -> 0\.9\d+"),
        ("autopilot run --edit 'src/**/*.py'", r"val seconds 2.000 -> 1.000"),
    ],
)
def test_four_lines_improve_a_system(
    system: Path, tmp_path: Path, beginning: str, best: str
) -> None:
    code = block(beginning)
    assert len(code.splitlines()) <= 4
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = run(["env", f"PATH={path}", "sh", "-ec", code], system, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"best: epoch [1-9]\d*, {best}", done.stdout), done.stdout


def test_write_writes_the_class_that_is_shown(system: Path, tmp_path: Path) -> None:
    words = shlex.split(block("autopilot run --edit 'src/**/*.py'").replace("\\\n", ""))
    command = [sys.executable, "-m", *words, "--write", "optimize.py"]
    done = run(command, system, tmp_path)
    assert done.returncode == 0, done.stderr
    shown = next(code for code in blocks("python") if "class Bench" in code)
    assert (system / "optimize.py").read_text() == shown


def test_the_search_of_a_class_has_its_number(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(system)
    names: dict[str, Any] = {}
    exec(next(code for code in blocks("python") if "SearchOptimizer" in code), names)
    assert names["optimizer"].parameters == [names["settings"]]
    assert names["settings"].values() == {"window.size": 4}


def test_the_loop_turned_round_works_line_by_line(system: Path, tmp_path: Path) -> None:
    module = (
        "from autopilot import CommandModule, PathParameter\n\n\n"
        "class Bench(CommandModule):\n"
        "    def __init__(self):\n"
        "        super().__init__(eval='python answer.py', metric='accuracy')\n"
        "        self.mode, self.prompt = 'max', PathParameter('prompt.md')\n"
    )
    (system / "optimize.py").write_text(module)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    git = ["git", "add", "."], ["git", "commit", "-qm", "module"]
    assert all(run(list(command), system, tmp_path).returncode == 0 for command in git)
    for line in block("autopilot try").splitlines():
        done = run(["env", f"PATH={path}", "sh", "-ec", line], system, tmp_path)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        if " start " in line:
            place = re.search("edit: +prompt.md in (.*)", done.stdout)
            assert place is not None, done.stdout
            prompt = Path(place[1]) / "prompt.md"
            prompt.write_text("Sort it, and say no more than its name.")
        if " -m " in line:
            assert "epoch 1: kept" in done.stdout
            assert prompt.read_text().startswith("Sort it, and")
        if "--undo" in line:
            assert prompt.read_text() == SYSTEM["prompt.md"]
    assert (
        "epoch"
        in run(["git", "log", "-1", "--format=%s", "autopilot/optimize-1"], system, tmp_path).stdout
    )


def test_the_greeter_runs_in_a_repository(tmp_path: Path) -> None:
    code = next(block for block in blocks("python") if "class Greeter" in block)
    place = tmp_path / "repo"
    place.mkdir()
    (place / "greeter.py").write_text(code, encoding="utf-8")
    (place / "greeting.txt").write_text("hello", encoding="utf-8")
    for command in (
        ["git", "init", "-q", "-b", "main"],
        ["git", "add", "."],
        ["git", "-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "base"],
    ):
        assert run(command, place, tmp_path).returncode == 0
    done = run(
        [sys.executable, "-m", "autopilot", "run", "greeter.py", "--target", "1"], place, tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "val accuracy 0.250 -> 1.000" in done.stdout
    tip = run(["git", "show", "autopilot/greeter-1:greeting.txt"], place, tmp_path)
    assert tip.stdout == "hello!!!"


@pytest.mark.parametrize(
    "part", ["class Threshold", "class Support", "KeepPlaceholders", "LiteLLMModel"]
)
def test_the_library_examples_run(part: str) -> None:
    code = next(block for block in blocks("python") if part in block)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_second_command_is_what_ci_runs() -> None:
    tests = next(
        code for code in blocks("sh") if "pip install" in code and "pytest" in code
    ).strip()
    assert tests in (TOP / ".ci" / "run").read_text(encoding="utf-8")
