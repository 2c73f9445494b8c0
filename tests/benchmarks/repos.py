"""Repositories of any size, in seconds, and what git needs to know nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from autopilot.git.commands import run_git
from tests.checkouts import own_home

RULES = "rules"
LINES = 60
_FOLDER = 100
_WHO = "Ada Byron <ada@example.com>"


def isolate(home: Path) -> None:
    """Hides the machine's configuration, identity and hooks from git, here and in children."""
    home.mkdir(parents=True)
    own_home(pytest.MonkeyPatch(), home)
    (home / ".gitconfig").write_text("[user]\nname = Ada Byron\nemail = ada@example.com\n")


def make_repository(folder: Path, files: int, rules: int) -> Path:
    """A repository with one commit, checked out: `files` of source code, `rules` of rules.

    Args:
        folder: Where it is made.
        files: Files in all, the rules among them; 100 in a folder, 100 folders in a folder.
        rules: Files of `rules/`, the parameter.

    Returns:
        Its top folder.
    """
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    stream = b"".join(_stream(files, rules))
    run_git(["fast-import", "--quiet"], cwd=folder, stdin=stream)
    git(folder, "reset", "--quiet", "--hard", "main")
    return folder


def rule_text(number: int, epoch: int) -> str:
    """A rule file of a few kB; of two epochs, one line differs, and never its length."""
    lines = [f"rule {number:04d}.{line:02d}: route what mentions topic" for line in range(LINES)]
    lines[epoch % LINES] += " carefully"
    return f"edited in epoch {epoch:06d}\n" + "\n".join(lines) + "\n"


def rule_name(number: int) -> str:
    """The path of a rule file below `rules/`."""
    return f"group_{number // _FOLDER:02d}/rule_{number:04d}.md"


def git(folder: Path, *arguments: str) -> None:
    """Runs git in a repository."""
    run_git(list(arguments), cwd=folder)


def disk_bytes(folder: Path) -> tuple[int, int]:
    """The content of all files below a folder, and the blocks that they take on the disk."""
    content = blocks = 0
    for place, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(place, name))
            content += status.st_size
            blocks += status.st_blocks * 512
    return content, blocks


def remove(folder: Path) -> None:
    """Removes a folder with all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)


def _stream(files: int, rules: int) -> Iterator[bytes]:
    yield f"commit refs/heads/main\ncommitter {_WHO} 1700000000 +0000\n".encode()
    yield b"data 5\nfirst\n"
    for number in range(rules):
        yield _file(f"{RULES}/{rule_name(number)}", rule_text(number, 0))
    for number in range(files - rules):
        group = number // _FOLDER
        name = f"src/{group // _FOLDER:02d}/{group % _FOLDER:02d}/module_{number:06d}.py"
        yield _file(name, f'"""Module {number}."""\n\nVALUE = {number}\n')


def _file(name: str, text: str) -> bytes:
    content = text.encode()
    return f"M 100644 inline {name}\ndata {len(content)}\n".encode() + content + b"\n"
