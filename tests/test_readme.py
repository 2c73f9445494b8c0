"""The README's code runs, and what it shows is what the program prints."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
README = (TOP / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [code for name, code in found if name == language]


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


def test_the_first_command_prints_what_the_readme_shows(clone: Path, tmp_path: Path) -> None:
    command = blocks("sh")[0].strip()
    assert command.endswith(".venv/bin/autopilot run examples/textmatch/textmatch.py")
    shown = blocks("")[0]
    done = run(
        [sys.executable, "-m", "autopilot", "run", "examples/textmatch/textmatch.py"],
        clone,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    printed = shape(done.stdout)
    expected = [line for line in shape(shown) if line.strip() != "..."]
    assert len(expected) > 10
    assert [line for line in printed if line in expected] == expected
    assert run(["git", "status", "--porcelain"], clone, tmp_path).stdout == ""


def test_a_kept_and_a_rolled_back_epoch_stand_within_sixty_lines() -> None:
    head = README.splitlines()
    first_command = next(i for i, line in enumerate(head) if "pip install" in line)
    kept = next(i for i, line in enumerate(head) if " kept " in line)
    rolled_back = next(i for i, line in enumerate(head) if "rolled back" in line)
    assert first_command < 20
    assert max(kept, rolled_back) < 60


def test_the_commands_after_a_run_work(clone: Path, tmp_path: Path) -> None:
    autopilot = [sys.executable, "-m", "autopilot"]
    target = "examples/textmatch/textmatch.py"
    done = run([*autopilot, "run", target, "--max-epochs", "6"], clone, tmp_path)
    assert done.returncode == 0, done.stderr
    for line in blocks("sh")[1].splitlines():
        words = line.partition("#")[0].split()
        command = [*autopilot, *words[1:]] if words[0] == "autopilot" else words
        shown = run(command, clone, tmp_path)
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
    for line in blocks("sh")[2].splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "autopilot"
        done = run([*autopilot, *words[1:]], clone, tmp_path)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    assert "holds on the test split" in run(["git", "log", "-1"], clone, tmp_path).stdout
    assert run(["git", "status", "--porcelain"], clone, tmp_path).stdout == ""


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


@pytest.mark.parametrize("name", ["Threshold", "Support"])
def test_the_library_examples_run(name: str) -> None:
    code = next(block for block in blocks("python") if f"class {name}" in block)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_second_command_is_what_ci_runs() -> None:
    tests = next(block for block in blocks("sh") if "pytest" in block).strip()
    assert tests in (TOP / ".ci" / "run").read_text(encoding="utf-8")
