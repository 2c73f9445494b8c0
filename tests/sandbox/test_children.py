"""autopilot.sandbox.children: what a program that is started is, and whose files it is given."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from autopilot.sandbox.children import Children, Program

PYTHON = sys.executable


def shell(text: str, **variables: str) -> Program:
    """As `subprocess.run(text, shell=True)` reports it."""
    return Program.of("subprocess.Popen", ("/bin/sh", ["/bin/sh", "-c", text], "/", variables))


@pytest.mark.parametrize(
    ("text", "command", "folder", "variables"),
    [
        ("cat x", ["cat", "x"], "/", {}),
        ("cd a && cat x", ["cat", "x"], "/a", {}),
        ("A=1 B=$A.$PWD cat", ["cat"], "/", {"A": "1", "B": "1./"}),
        ("export A=1; cat", ["cat"], "/", {"A": "1"}),
        ("A=1 env -i B=2 cat", ["cat"], "/", {"B": "2"}),
        ("exec nohup sh -c 'cd b; A=1 cat y'", ["cat", "y"], "/b", {"A": "1"}),
    ],
)
def test_of_a_shells_text_the_last_program_is_found(text, command, folder, variables) -> None:
    found = [part for part in shell(text).parts() if part.command[0] != "cd"]
    assert found == [Program(command, folder, variables)]


def test_each_way_to_start_a_program_is_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONLY", "here")
    popen = ("/bin/cat", ["other name", b"x"], None, {b"A": b"1"})
    assert Program.of("subprocess.Popen", popen) == Program(
        ["/bin/cat", "x"], str(tmp_path), {"A": "1"}
    )
    spawned = Program.of("os.posix_spawn", ("/bin/cat", ["cat"], None))
    assert spawned.variables["ONLY"] == "here"
    (system,) = Program.of("os.system", ("cat x",)).parts()
    assert system.command == ["cat", "x"] and system.folder == str(tmp_path)


def test_an_interpreter_is_known_with_what_decides_its_imports(tmp_path: Path) -> None:
    def python(*command: str) -> list[str]:
        path = f"{Path(PYTHON).parent}{os.pathsep}/bin"
        return Program(command, str(tmp_path), {"PATH": path}).python()

    for name, first in (("plain", f"#!{PYTHON} -sE"), ("by-env", "#!/usr/bin/env python3")):
        (tmp_path / name).write_text(f"{first}\nprint(1)\n")
        (tmp_path / name).chmod(0o755)
    assert python(PYTHON, "-u", "-IB", "-m", "pkg", "-E") == [PYTHON, "-I"]
    assert python("./plain") == [PYTHON, "-sE"]
    assert [Path(part).name for part in python("./by-env")] == ["python3"]
    assert python("cat", "x") == python("no-such-program") == []


def test_a_path_of_the_checkout_is_told_once_unless_the_worktree_links_to_it(
    tmp_path: Path,
) -> None:
    user, here = tmp_path / "user", tmp_path / "here"
    for top in (user, here):
        top.mkdir()
        for name in ("rules.txt", "data.txt"):
            (top / name).write_text("x\n")
    (user / "only-here.txt").write_text("x\n")
    children = Children(user, here, [], [user / "data.txt"])
    for name in ("rules.txt", "data.txt", "only-here.txt"):
        children.hear(Program(["cat", f"{user}/{name}"], str(here), {}))
    children.hear(Program(["git", "-C", f"{user}/rules.txt"], str(here), {}))
    (said,) = children.strays()
    assert said.startswith("cat is started with rules.txt of your checkout")
    # What an item's process heard is told by the run's, and nothing twice.
    children.begin_apart()
    children.hear(Program(["cat", f"{user}/rules.txt"], str(here), {}))
    gathered = children.gathered()
    assert gathered == ({"rules.txt": "cat"}, [])
    children.take_in(gathered)
    assert children.strays() == []
