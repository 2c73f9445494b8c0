"""What `autopilot init` sees in a repository."""

from pathlib import Path

import pytest

from autopilot.command.task import edited_parameter
from autopilot.projects.looking import Survey


@pytest.mark.parametrize(
    ("source", "tests"),
    [
        ("pkg/loop.go", ["pkg/loop_test.go", "pkg/sub/more_test.go"]),
        ("loop.js", ["loop.test.js", "__tests__/loop.js"]),
        ("src/loop.js", ["src/loop.test.js", "src/sub/more.spec.js", "src/__tests__/all.js"]),
        (
            "src/pkg/loop.py",
            ["src/pkg/test_loop.py", "src/pkg/conftest.py", "src/pkg/tests/all.py"],
        ),
    ],
)
def test_tests_beside_the_source_are_not_what_may_be_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, tests: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in (source, *tests):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    (parameter,) = map(edited_parameter, Survey(tmp_path, [source, *tests], frozenset()).sources)
    assert [parameter.root / name for name in parameter.files()] == [tmp_path / source]


@pytest.mark.parametrize("text", ["[1", "[]", '{"scripts": null}', '{"scripts": {"bench": 1}}'])
def test_an_odd_package_json_offers_what_it_has(tmp_path: Path, text: str) -> None:
    (tmp_path / "package.json").write_text(text)
    found = Survey(tmp_path, ["package.json"], frozenset()).programs
    assert [script.command for script in found] == ["npm run --silent bench"] * ("bench" in text)
