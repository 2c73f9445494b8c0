"""The description of an edit that its agent did not describe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autopilot.ai.edits import changes, described, difference, first_line
from autopilot.core.parameter import PathParameter
from autopilot.git.commands import run_git

BEFORE = {
    "a.md": b"be kind\nand brief\n",
    "blank.md": b"be\nkind",
    "gone.md": b"1\n2\n3\n",
    "logo.png": b"\0\1",
    "run.sh": b"echo\n",
    "moved.txt": b"x\ny\nz\n",
    "crlf.txt": b"a\r\nb\x0cc\r\n",
    "link": b"",
    "long.csv": b"0,0\n" * 400,
}


def edit(folder: Path) -> None:
    (folder / "a.md").write_text("be kind\nplease\n")
    (folder / "blank.md").write_text(" be\nkind\n")
    (folder / "gone.md").unlink()
    (folder / "logo.png").write_bytes(b"\0\2\3")
    (folder / "run.sh").chmod(0o755)
    (folder / "moved.txt").write_text("z\nx\ny\n")
    (folder / "crlf.txt").write_bytes(b"a\nb\x0cc\n")
    (folder / "link").unlink()
    os.symlink("a.md", folder / "link")
    (folder / "long.csv").write_text("0,0\n" * 200 + "1,1\n" + "0,0\n" * 201)
    (folder / "new.md").write_bytes(b"no newline")


def test_changes_count_lines_as_git_does_and_say_what_no_line_shows(repository) -> None:
    top: Path = repository.workdir
    for name, content in BEFORE.items():
        (top / name).write_bytes(content)
    run_git(["add", "--all"], cwd=top)
    parameter = PathParameter(top)
    before = parameter.snapshot()
    edit(top)
    after = parameter.snapshot()

    def of(*names: str) -> str:
        old, new = ({n: s[n] for n in names if n in s} for s in (before, after))
        return changes(old, new)

    run_git(["add", "--intent-to-add", "new.md"], cwd=top)
    counted = run_git(["diff", "--numstat", "--no-renames"], cwd=top).stdout.decode().split("\n")
    git = {name: (more, less) for more, less, name in (x.split("\t") for x in counted if x)}
    for name in ("a.md", "blank.md", "gone.md", "moved.txt", "crlf.txt", "new.md", "long.csv"):
        assert "+{} -{} lines".format(*git[name]) in of(name)
    assert of("blank.md") == "edit blank.md: +2 -2 lines, white space only"
    assert of("crlf.txt") == "edit crlf.txt: +2 -2 lines, white space only"
    assert of("gone.md") == "delete gone.md: +0 -3 lines"
    assert of("logo.png") == "edit logo.png: binary"
    assert of("run.sh") == "edit run.sh: executable"
    assert of("new.md") == "add new.md: +1 -0 lines"
    assert of("link") == "edit link: +1 -0 lines, a symbolic link"
    assert of("a.md", "gone.md", "new.md") == "edit a.md, delete gone.md, add new.md: +2 -4 lines"
    assert of(*BEFORE).startswith("edit 8 files, delete gone.md: +")
    assert of("a.md", "logo.png") == "edit a.md and logo.png: +1 -1 lines, binary"
    names = ("a.md", "logo.png")
    old, new = ({n: s[n] for n in names} for s in (before, after))
    assert difference(old, new).splitlines() == [
        "=== a.md: +1 -1 lines",
        " be kind",
        "-and brief",
        "+please",
        "=== logo.png: binary",
    ]


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("", ""),
        ("Done.\n✅ All changes made successfully!\n100 %", ""),
        ("I've edited the file.\n\n`a.md` asks for **kindness**", "`a.md` asks for kindness"),
        ("\x1b[32mmade it polite\x1b[0m", "made it polite"),
        ("```diff\n+please\n```\n> added please", "added please"),
        ('{\n  "summary": null,\n  "why": "x"\n}', ""),
        ('Be kind. {"summary": ""}', "Be kind."),
        ("[INFO] loading\n規則を足した", "規則を足した"),
    ],
)  # fmt: skip
def test_the_first_line_that_says_something(answer: str, line: str) -> None:
    assert first_line(answer).strip() == line
    assert described(answer).summary.strip() == line


def test_an_object_within_the_answer_is_not_taken_for_it() -> None:
    answer = 'So: {"strategy": "a", "summary": "b", "note": {"summary": "c"}}'
    assert (described(answer).strategy, described(answer).summary) == ("a", "b")
