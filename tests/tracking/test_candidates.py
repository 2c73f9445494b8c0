"""Two states are merged by either store, with the same rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from checkouts import make_checkout

from autopilot import ConfigParameter, GitStore, InMemoryStore, PathParameter, Range
from autopilot.core.records.record import Manifest
from autopilot.core.store import Second, Side

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", [InMemoryStore, GitStore])
def test_two_states_are_combined_line_by_line_and_key_by_key(
    kind: type[InMemoryStore | GitStore],
    git_environment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text, pair = "1\n2\n3\n4\n5\n", '{"a": 1, "b": 1}\n'
    top = make_checkout(tmp_path / "repo", {"rules/a.txt": text, "pair.json": pair})
    monkeypatch.chdir(top)
    spaces = {"a": Range(1, 9), "b": Range(1, 9)}
    parameters = [PathParameter("rules"), ConfigParameter("pair.json", spaces)]
    store = kind("demo")
    store.bind(parameters)
    base = store.begin(Manifest(slug="demo"))

    def state(number: int, **files: str) -> str:
        """The revision of a state that was made from the first one."""
        store.enter(Side(1, number, base))
        store.restore(base)
        for name, content in files.items():
            place = "pair.json" if name == "pair" else f"rules/{name}.txt"
            (top / place).write_text(content)
        return store.commit(store.state(), f"state {number}", [])

    ours = state(1, a="one\n2\n3\n4\n5\n", pair='{"a": 4, "b": 1}\n')
    theirs = state(2, a="1\n2\n3\n4\nfive\n", pair='{"a": 1, "b": 7}\n', c="new\n")
    third = state(3, a="uno\n2\n3\n4\n5\n")
    fourth = state(4, pair='{"a": 5, "b": 1}\n')
    same = state(5, a="one\n2\n3\n4\n5\n")

    def combined(one: str, other: str) -> tuple[str, bool]:
        return store.combine(Side(2, 1, one, second=Second("other", other, base)))

    store.enter(None)
    made, conflicts = combined(ours, theirs)
    assert (bool(made), conflicts) == (True, False)
    store.restore(third)
    store.place(made)
    found = {path.name: path.read_text() for path in (*top.glob("rules/*"), top / "pair.json")}
    assert found == {
        "a.txt": "one\n2\n3\n4\nfive\n",
        "c.txt": "new\n",
        "pair.json": '{"a": 4, "b": 7}\n',
    }
    assert store.state() == made
    # The same line, or the same key; and one that the other has whole.
    assert combined(ours, third) == combined(ours, fourth) == ("", True)
    assert combined(ours, same) == combined(same, ours) == ("", False)
    store.close()
