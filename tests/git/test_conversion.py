"""autopilot.git.conversion: which files differ from their blobs, and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopilot.git.commands import run_git
from autopilot.git.conversion import Converter
from autopilot.git.repository import Repository


def converter(top: Path, attributes: str, **config: str) -> Converter:
    run_git(["init", "-q", str(top)], cwd=top.parent)
    for key, value in config.items():
        run_git(["config", key.replace("_", "."), value], cwd=top)
    (top / ".gitattributes").write_text(attributes)
    made = Converter(Repository.discover(top))
    made.learn(["a"])
    return made


@pytest.mark.parametrize(
    ("attributes", "config", "stored", "written"),
    [
        ("", {}, True, True),
        ("* text", {}, False, True),
        ("* -text", {"core_autocrlf": "true"}, True, True),
        ("* eol=crlf", {}, False, False),
        ("* text eol=lf", {"core_autocrlf": "true"}, False, True),
        ("", {"core_autocrlf": "input"}, False, True),
        ("", {"core_autocrlf": "true"}, False, False),
        ("* crlf", {"core_eol": "crlf"}, False, False),
        ("* ident", {}, False, False),
        ("* filter=up", {}, True, True),
        ("* filter=up", {"filter_up_clean": "cat"}, False, False),
        ("* working-tree-encoding=UTF-16", {}, False, False),
    ],
)
def test_attributes_and_configuration_decide(
    tmp_path: Path, attributes: str, config: dict[str, str], stored: bool, written: bool
) -> None:
    top = tmp_path / "repo"
    top.mkdir()
    made = converter(top, attributes, **config)
    content = b"x\r\ny\r\n"
    assert made.stored_as_is("a", content) == stored
    assert made.written_as_is("a", b"x\ny\n") == written
    assert made.converts("a") == (not (stored and written))
    (top / "a").write_bytes(content)
    if not any(word in attributes for word in ("filter", "ident", "encoding")):
        plain = run_git(["hash-object", "--no-filters", "a"], cwd=top).stdout.decode().strip()
        assert (made.clean(["a"], write=False)["a"] == plain) == stored


def test_attributes_are_read_once_until_they_are_forgotten(tmp_path: Path) -> None:
    top = tmp_path / "repo"
    top.mkdir()
    made = converter(top, "")
    (top / ".gitattributes").write_text("* text\n")
    made.learn(["a"])
    assert not made.converts("a")
    made.forget()
    made.learn(["a"])
    assert made.converts("a")


def test_blobs_become_files_by_the_rules_of_git(tmp_path: Path) -> None:
    top = tmp_path / "repo"
    top.mkdir()
    made = converter(top, "* text eol=crlf\n")
    (top / "a").write_bytes(b"x\r\n")
    (top / "b\nc").write_bytes(b"y\r\n")
    blobs = made.clean(["a", "b\nc"], write=True)
    assert made.smudge(blobs) == {"a": b"x\r\n", "b\nc": b"y\r\n"}
    assert made.clean([], write=True) == made.smudge({}) == {}
