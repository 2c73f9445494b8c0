"""Experiments with a note line that is anything: what is read all the same, and what is named.

`AUTOPILOT_DRAWS=500` draws more lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from autopilot.core.records.record import Event, ProgressNote
from autopilot.errors import RecordError
from autopilot.git.notes import Notes
from autopilot.git.objects import read_blob
from autopilot.git.refs import read_ref, update_ref
from autopilot.git.repository import Repository
from autopilot.tracking.integrity import Integrity
from autopilot.tracking.layout import KINDS, Layout
from autopilot.tracking.lines import CLASSES, UnreadLine, decode
from autopilot.tracking.notebook import Notebook
from tests.cli.conftest import COUNTER, Place

# With a rejected epoch: at 3, no item passes.
WAVERING = COUNTER.replace("passed = ", "passed = self.x.read_text() != '3\\n' and ")
PARTS = [
    ("show", "1", "-e", "a"),
    ("show", "2", "-e", "a", "--json"),
    ("diff", "a", "3"),
]
WHOLE = [
    ("log", "a"),
    ("log", "a", "--json"),
    ("status",),
    ("status", "a", "--json"),
    ("report", "a"),
    ("report", "a", "--md"),
    ("experiment", "list"),
    ("experiment", "show", "a"),
    ("memory", "query", "a"),
    ("memory", "query", "--all"),
    ("gc", "--dry-run"),
    ("diagnose", "run", "a"),
    ("propose", "list"),
]
NOTED = [Event, *(each for each in CLASSES if each is not ProgressNote)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=4,
)
NUMBERS = st.sampled_from([-1, 0, 1, 2, 7, 10**7, 10**30, 0.5, "2", None])


@st.composite
def lines_in_place_of(draw: Callable[..., Any], line: bytes) -> bytes:
    """Any bytes, any object, or the line itself with one field or item more, less or changed."""
    how = draw(st.sampled_from(["bytes", "object", "changed", "number", "less", "more"]))
    if how == "bytes":
        return bytes(draw(st.binary(max_size=20)).replace(b"\n", b""))
    if how == "object":
        return json.dumps(draw(st.dictionaries(st.text(max_size=5), JSON, max_size=3))).encode()
    value = at = json.loads(line)
    while True:
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not (isinstance(at[key], dict | list) and at[key] and draw(st.booleans())):
            break
        at = at[key]
    if how == "less":
        del at[key]
    elif how == "more" and isinstance(at, dict):
        at[draw(st.text(max_size=5))] = draw(JSON)
    else:
        at[key] = draw(NUMBERS if how == "number" else JSON)
    return json.dumps(value).encode()


@pytest.fixture
def repo(place: Place) -> Repository:
    """With the experiments a, whose second epoch was rejected, and b."""
    place.write("counter.py", WAVERING)
    place.commit()
    place.run("run", "counter.py", "-e", "a", "--max-epochs", "3")
    place.run("run", "counter.py", "-e", "b", "--max-epochs", "1")
    return Repository.discover(place.top)


def note_lines(repo: Repository) -> list[tuple[str, str, int, bytes]]:
    """Kind, commit and number, from 1, of all lines of a."""
    return [
        (kind, commit, number, line)
        for kind in KINDS
        for _, notes in Notes(repo, Layout("a").notes(kind)).folders()
        for commit, oid in notes
        for number, line in enumerate(read_blob(repo, oid).splitlines(), 1)
    ]


@contextmanager
def replaced(repo: Repository, kind: str, commit: str, number: int, new: bytes) -> Iterator[None]:
    """The body finds a line replaced."""
    notes = Notes(repo, Layout("a").notes(kind))
    before = read_ref(repo, notes.ref) or ""

    def edit(existing: bytes | None) -> bytes:
        lines = (existing or b"").splitlines()
        lines[number - 1] = new
        return b"\n".join(lines) + b"\n"

    notes.write({commit: edit}, "damage")
    try:
        yield
    finally:
        update_ref(repo, notes.ref, before, read_ref(repo, notes.ref) or "", "as it was")


def test_any_note_line_may_be_anything(place: Place, repo: Repository) -> None:
    lines, before = note_lines(repo), place.call("log", "a", "--json").document["log"]
    assert {kind for kind, *_ in lines} == {*KINDS} - {"llm"}
    others = place.call("log", "b", "--json").document

    @settings(
        max_examples=int(os.environ.get("AUTOPILOT_DRAWS", "12")),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        phases=[Phase.generate],  # each example takes a while
        database=None,
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        kind = data.draw(st.sampled_from(sorted({kind for kind, *_ in lines})))
        _, commit, number, line = data.draw(st.sampled_from([x for x in lines if x[0] == kind]))
        new = data.draw(lines_in_place_of(line))
        whole, partial = data.draw(st.sampled_from(WHOLE)), data.draw(st.sampled_from(PARTS))
        found = list(decode(new))
        epochs = {json.loads(line)["epoch"], *(each.epoch for each in found)}

        def untouched(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            own = [e for e in rows if e["epoch"] not in epochs and e["commit"] != commit]
            return [e | {"delta": None} for e in own]  # that is against the best before it

        with replaced(repo, kind, commit, number, new):
            place.call(*whole)
            place.call("doctor", code=None)  # it is no error that it finds one
            done = place.call(*partial, code=None)
            assert done.code == 0 or (done.error and done.hint), (partial, done)
            shown = place.call("log", "a", "--json").document["log"]
            assert untouched(shown) == untouched(before)
            assert place.call("log", "b", "--json").document == others
            Integrity(Notebook(repo, "a")).differences()
            if any(isinstance(each, UnreadLine) for each in found):
                with pytest.raises(RecordError) as caught:
                    Notebook(repo, "a").need(*NOTED)
                where = f"{Layout('a').notes(kind)} on {commit[:10]}"
                assert f"{where} cannot be read" in caught.value.message
                assert f": line {number}" in caught.value.message

    check()
    assert place.call("log", "a", "--json").document["log"] == before
    Notebook(repo, "a").need(*NOTED)
    with replaced(repo, "metrics", before[1]["commit"], 2, b""):  # the verdict on the best epoch
        place.call("log", "a")
        place.call("report", "a")


def test_refs_and_files_that_cannot_be_read_hide_nothing_else(levels: Place) -> None:
    repo, layout = Repository.discover(levels.top), Layout("levels")
    blob = levels.git("hash-object", "-w", "levels.py")
    for kind in {*KINDS} - {"llm"}:
        ref = layout.notes(kind)
        before = levels.git("rev-parse", ref)
        levels.git("update-ref", ref, blob)
        for command in (("status",), ("log", "levels"), ("gc", "--dry-run")):
            levels.call(*command)
        assert ref in levels.call("report", "levels", "--md").err
        if kind == "metrics":
            error = levels.call("show", "1", "-e", "levels", code=1).error
            assert "cannot be read: it has no metrics of the epoch" in error
        with pytest.raises(RecordError, match=ref):
            Notebook(repo, "levels").need(*NOTED)
        levels.git("update-ref", ref, before)
    for name in (f"refs/heads/{layout.review_name}", f"{layout.snapshots}/1"):
        levels.write(f".git/{name}", "garbage\n")
    levels.write(".git/refs/heads/autopilot/garbled", "garbage\n")
    levels.write(".git/refs/heads/autopilot/other", f"{blob}\n")
    levels.git("update-ref", Layout("other").notes("experiment"), layout.notes("experiment"))
    for place in (layout.progress, layout.said, layout.index):
        place(repo).unlink(missing_ok=True)
        place(repo).mkdir()
    assert "unreadable" in levels.call("propose", "list").out
    assert f"{layout.snapshots}/1 cannot be read" in levels.call("store", "log", "levels").err
    done = levels.call("log")
    assert done.out.startswith("levels: finished")
    assert "refs/heads/autopilot/garbled cannot be read" in done.err
    assert "refs/heads/autopilot/other cannot be read" in done.err
    levels.call("watch", "levels")


def test_a_gap_among_verdicts_is_named_once_and_stops_whoever_goes_on(levels: Place) -> None:
    before = levels.call("log", "levels", "--json").document["log"]
    start, commit = levels.line("levels")[0], before[2]["commit"]
    levels.git("notes", "--ref=autopilot/levels/experiment", "copy", start, "main")
    assert levels.call("log", "levels", "--json").document["log"] == before
    levels.git("notes", "--ref=autopilot/levels/metrics", "add", "-fm", '{"v": 2', commit)
    where = f"refs/notes/autopilot/levels/metrics on {commit[:10]} cannot be read: line 1"
    repo = Repository.discover(levels.top)
    found = Integrity(Notebook(repo, "levels")).differences()
    assert [each.what for each in found if where in each.why] == ["metrics note"]
    assert not repo.damaged
    assert where in levels.call("doctor", code=None).out
    assert where in levels.call("gc", "--dry-run").err
    done = levels.autopilot("resume", "levels", "--max-epochs", "5")
    assert (done.code, where in done.error) == (1, True), done
    levels.git("notes", "--ref=autopilot/levels/metrics", "remove", commit)
    done = levels.autopilot("resume", "levels", "--max-epochs", "5")
    assert (done.code, "it has no metrics of the epoch" in done.error) == (1, True), done
