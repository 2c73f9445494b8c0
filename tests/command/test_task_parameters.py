"""Files that may be edited, by globs, without those that are protected."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopilot.command.task import edited_parameter
from autopilot.core.parameter import PathParameter
from autopilot.errors import MissingSourceError
from autopilot.tracking.parameters import ParameterPath

FILES = ("a.py", "b c.txt", "src/a.py", "src/vendor/v.py", "src/tests/test_ü.py", "src/x.md")


@pytest.mark.parametrize(
    ("edit", "protect", "names"),
    [
        ("a.py", (), "a.py"),
        ("b c.txt", ("*.py",), "b c.txt"),
        ("*.py", (), "a.py"),
        ("**/*.py", (), "a.py src/a.py src/tests/test_ü.py src/vendor/v.py"),
        ("src", ("src/vendor", "**/test_*"), "src/a.py src/x.md"),
        ("src/**/*.py", ("src/vendor/**",), "src/a.py src/tests/test_ü.py"),
        ("src/**/*.py", ("vendor/**", "**/vendor/**"), "src/a.py src/tests/test_ü.py"),
        ("src/**/*.py:!src/vendor/**", ("src/t*/*",), "src/a.py"),
        ("./src/*", ("*.md",), "src/a.py src/x.md"),
        ("src/*", ("**/*.md", "other/**"), "src/a.py"),
    ],
)
def test_globs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: str, protect: tuple[str], names: str
) -> None:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    monkeypatch.chdir(tmp_path)

    parameter = edited_parameter(edit, protect)

    found = [(parameter.root / name).relative_to(tmp_path) for name in parameter.files()]
    assert sorted(map(str, found)) == sorted(names.split() if " " not in edit else [names])


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(MissingSourceError, match="nosuch"):
        edited_parameter("nosuch/*.py")


def test_excluded_files_are_no_part_of_a_parameter_anywhere(tmp_path: Path) -> None:
    (tmp_path / "vendor").mkdir()
    for name in ("a.py", "vendor/b.py"):
        (tmp_path / name).write_text("x")
    pattern = "**/*.py:!vendor/**"
    parameter, place = PathParameter(tmp_path, pattern), ParameterPath("src", pattern)

    assert parameter.files() == ["a.py"]
    assert (parameter.matches("a.py"), parameter.matches("vendor/new.py")) == (True, False)
    assert (place.covers("src/a.py"), place.covers("src/vendor/b.py")) == (True, False)
    assert place.pathspec == "':(glob)src/**/*.py' ':(exclude,glob)src/vendor/**'"
