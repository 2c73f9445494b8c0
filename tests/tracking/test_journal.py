"""The journal: every record through JSON Lines and back, whatever it holds."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopilot.core.records.record import (
    LAST_EPOCH,
    Event,
    Lesson,
    Manifest,
    MetricsRecord,
    ProgressNote,
    StepRecord,
    TraceRecord,
)
from autopilot.core.types import Cost, Datum, datum_to_json
from autopilot.errors import RecordError, StateError
from autopilot.git.commands import Seen, looking, run_git
from autopilot.git.commits import commit, first_parent_log
from autopilot.git.objects import tree_of
from autopilot.tracking import journal as journals
from autopilot.tracking.journal import Journal
from autopilot.tracking.layout import Layout
from autopilot.tracking.lines import UnreadLine, decode, encode

TEXT = st.text() | st.text("\n\r\x0b\u2028\x85\0\ud800{}\"'", max_size=8)
NUMBERS = st.floats()
EPOCHS = st.integers(0, LAST_EPOCH)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text().filter(lambda k: k != "$float"), inner)
    ),
    max_leaves=8,
)
COSTS = st.builds(Cost, st.integers(0), st.integers(0), st.floats(0, 10), st.floats(0, 10))
RECORDS = st.one_of(
    st.builds(
        MetricsRecord,
        epoch=EPOCHS,
        id=st.text(min_size=1),
        split=st.sampled_from(["train", "val"]),
        metrics=st.dictionaries(st.text(), NUMBERS),
        verdict=st.sampled_from(["kept", "rejected", "baseline"]),
        best=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        reasons=st.lists(st.text()).map(tuple),
        cost=COSTS,
        state=st.dictionaries(st.text().filter(lambda k: k != "$float"), JSON),
    ),
    st.builds(
        StepRecord,
        epoch=EPOCHS,
        id=st.text(min_size=1),
        step=st.integers(),
        changed=st.booleans(),
        rationale=st.text(),
        gradients=st.dictionaries(st.text(), st.text()),
    ),
    st.builds(
        Lesson,
        epoch=EPOCHS,
        id=st.text(min_size=1),
        strategy=st.text(),
        outcome=st.sampled_from(["kept", "failed"]),
        delta=st.none() | st.floats(allow_nan=False),
    ),
    st.builds(ProgressNote, epoch=EPOCHS, split=st.text(), seconds=st.floats(0, 10)),
    st.builds(Event, id=st.text(min_size=1).filter(lambda i: i != "manifest"), name=st.text()),
)


@given(RECORDS)
def test_a_record_is_one_line_and_comes_back(record):
    line = encode(record)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    (back,) = decode(line)
    assert repr(back) == repr(record)


@given(st.lists(RECORDS, max_size=5), st.lists(st.sampled_from([b"", b"  ", b"a remark", b"- x"])))
def test_notes_survive_what_git_does_to_lines(records, remarks):
    lines = [encode(record).rstrip(b"\n") for record in records] + remarks
    merged = b"\n".join(sorted(set(lines))) + b"\n\n"
    found = {repr(record) for record in decode(merged)}
    wanted = {}
    for line in sorted(set(lines)):
        for record in decode(line):
            wanted.setdefault(record.id, repr(record))
    assert found == set(wanted.values())


def test_every_line_says_what_it_is():
    record = MetricsRecord(epoch=3, id="3-val", split="val", metrics={"f1": 0.5}, verdict="kept")
    value = json.loads(encode(record))
    assert value == {
        "v": 2,
        "kind": "metrics",
        "epoch": 3,
        "id": "3-val",
        "split": "val",
        "metrics": {"f1": 0.5},
        "verdict": "kept",
    }


def test_half_a_surrogate_pair_is_kept():
    (back,) = decode(encode(StepRecord(id="1", step=1, changed=True, rationale="\ud83d")))
    assert back.rationale == "\ud83d"


def test_numbers_that_are_none():
    metrics = {"a": math.inf, "b": -math.inf, "c": math.nan}
    line = encode(MetricsRecord(id="1", split="val", metrics=metrics, verdict="kept"))
    json.loads(line, parse_constant=pytest.fail)
    (back,) = decode(line)
    assert repr(back.metrics) == repr(metrics)


def test_what_json_cannot_carry_is_refused():
    with pytest.raises(StateError, match="the gradients record of epoch 2 cannot be written"):
        encode(StepRecord(epoch=2, id="1", step=1, changed=True, state={"x": object()}))


@pytest.mark.parametrize(
    ("line", "field", "said"),
    [
        (b'{"v":2,"kind":"metrics"', "", "it is no JSON: Expecting ',' delimiter at column 24"),
        (b'{"v":99,"kind":"metrics","epoch":1,"id":"x"}', "v", "version 99 is newer"),
        (b'{"v":1,"kind":"metrics","epoch":1,"id":"x"}', "v", "run the experiment anew"),
        (b'{"v":2,"kind":"other","epoch":1,"id":"x"}', "kind", "there is no kind 'other'"),
        (b'{"kind":"metrics"}', "v", "it states no version"),
        (b'{"v":2,"kind":"metrics","epoch":1,"id":"x","split":"val"}', "metrics", "required"),
        (
            b'{"v":2,"kind":"memory","strategy":"s","outcome":"kept","epoch":-1}',
            "epoch",
            "-1 is no",
        ),
        (b"{}", "v", "it states no version"),
        (b'{"$float":[]}', "", "it is no JSON"),
        (b'{"v":' * 5000, "", "it is no JSON"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_hides_no_other(line, field, said):
    good = Lesson(id="1", strategy="s", outcome="kept")
    unread, back = decode(b"a remark\n" + line + b"\n" + encode(good))
    assert isinstance(unread, UnreadLine)
    assert (unread.line, unread.field) == (2, field)
    assert said in unread.reason
    assert back == good


@pytest.mark.parametrize(
    "kind, results, field",
    [
        ("traces", '"items":[{"id":"a"},{}]', "items.1.id"),
        ("traces", '"items":[3]', "items.0"),
        ("traces", '"items":[{"id":"a","success":"yes"}]', "items.0.success"),
        ("traces", '"items":[{"id":"a","metrics":{"f1":"0.5"}}]', "items.0.metrics.f1"),
        (
            "traces",
            '"items":[{"id":"a","items":[{"id":"b","metadata":[]}]}]',
            "items.0.items.0.metadata",
        ),
        ("traces", '"own":{"metrics":3}', "own.metrics"),
        ("progress", '"data":{"success":true}', "data.id"),
    ],
)
@pytest.mark.parametrize("space", ["", " "])  # the fast way to read a line, and the slow one
def test_a_result_that_nobody_writes_so_is_named(kind, results, field, space):
    head = f'{{"v":2,"kind":"{kind}",{space}"epoch":1,"id":"1-val"'
    (unread,) = decode(f'{head},"split":"val",{results}}}\n'.encode())
    assert isinstance(unread, UnreadLine)
    assert unread.field.startswith(field), unread


def test_results_with_ids_that_are_numbers_and_metrics_that_are_not_finite_come_back():
    nan, inf = Datum(id=3, metrics={"a": float("nan")}), Datum(id="b", metrics={"a": float("inf")})
    own = {"metrics": {"a": 1.0}, "feedback": "all of it"}
    items = tuple(map(datum_to_json, (nan, inf, Datum(id="c", success=False, items=[inf]))))
    (back,) = decode(encode(TraceRecord(epoch=1, id="1-val", split="val", items=items, own=own)))
    assert [each.id for each in back.data()] == [3, "b", "c"]
    assert repr(back.data()[:2]) == repr([replace(x, epoch=1, split="val") for x in (nan, inf)])
    assert back.own == own


def test_a_newer_line_is_read_as_far_as_it_can_be():
    line = b'{"v":3,"kind":"memory","epoch":1,"id":"x","strategy":"s","outcome":"kept","new":1}'
    unread, lesson = decode(line)
    assert unread.is_newer
    assert lesson == Lesson(epoch=1, id="x", strategy="s", outcome="kept")


def test_a_manifest_is_read_without_the_fields_that_are_wrong():
    line = b'{"v":2,"kind":"experiment","id":"manifest","slug":"a","seed":"x","idea":"i","links":3}'
    *unread, manifest = decode(line)
    assert [each.field for each in unread] == ["seed", "links"]
    assert manifest == Manifest(slug="a", idea="i")


def test_fields_of_tomorrow_are_not_lost_on_others():
    line = b'{"v":2,"kind":"memory","epoch":1,"id":"x","strategy":"s","outcome":"kept","new":1}\n'
    (back,) = decode(line)
    assert back.strategy == "s"


def test_plain_git_may_append(repository):
    top = Path(repository.workdir)
    journal = Journal(repository, Layout("demo"))
    head = repository.head_commit()
    one, two = (Lesson(epoch=n, id=str(n), strategy="s", outcome="kept") for n in (1, 2))
    journal.write(head, [one, Manifest(slug="demo")])
    text = encode(two).decode() + "\nseen by Ada"
    run_git(
        [
            "notes",
            "--ref=autopilot/demo/memory",
            "append",
            "-m",
            "a person's remark",
            "-m",
            text,
            head,
        ],
        cwd=top,
    )
    assert journal.read_on(head, Lesson) == [one, two]
    journal.write(head, [Lesson(epoch=1, id="1", strategy="s", outcome="rejected")])
    shown = run_git(["notes", "--ref=autopilot/demo/memory", "show", head], cwd=top).stdout.decode()
    assert "a person's remark" in shown and "seen by Ada" in shown
    assert [lesson.outcome for lesson in journal.read_on(head, Lesson)] == ["kept", "rejected"]
    assert list(journal.read(Manifest)) == [(head, Manifest(slug="demo"))]
    assert journal.read_on(head, TraceRecord) == []


def test_what_is_kept_is_what_would_be_read(repository, monkeypatch):
    def fresh():
        return Journal(repository, Layout("demo"))

    def append(parent):
        tree = tree_of(repository, parent)
        return commit(repository, tree=tree, parents=[parent], message=f"after {parent}")

    def look():
        with looking():
            journal = fresh()
            for kind in (Manifest, Lesson, MetricsRecord):
                list(journal.read(kind))
            journal.line(line[-1])

    def check():
        tip, kept = line[-1], [list(fresh().read(kind)) for kind in (Lesson, MetricsRecord)]
        commits = list(fresh().line(tip).values())
        with monkeypatch.context() as patch:
            for name in ("_seen", "_by_folder"):
                patch.setattr(journals, name, Seen())
            assert kept == [list(fresh().read(kind)) for kind in (Lesson, MetricsRecord)]
        assert commits == list(first_parent_log(repository, tip))[: len(commits)]
        assert len(commits) == len(line) and len(kept[0]) == len(lessons)

    line, lessons = [append(repository.head_commit())], set()

    def learn(number, outcome="kept", at=-1):
        lesson = Lesson(epoch=number, id=str(number), strategy="s", outcome=outcome)
        record = MetricsRecord(epoch=number, split="val", metrics={}, verdict="kept")
        fresh().write(line[at], [lesson, record])
        lessons.add(number)

    fresh().write(line[0], [Manifest(slug="demo")])
    for number in range(40):
        line.append(append(line[-1]))
        learn(number)
        if number % 7 == 3:
            look()
    check()
    look()
    check()
    # Lines of earlier commits: another one, and one in another's place.
    learn(90, at=5)
    learn(3, "rejected", at=4)
    check()
    look()
    check()
    # A branch that was moved back, and went on elsewhere.
    del line[-10:]
    check()
    line.append(append(line[-1]))
    look()
    check()


def test_an_older_program_says_which_version_reads_a_newer_line(repository):
    head, layout = repository.head_commit(), Layout("demo")
    journal = Journal(repository, layout, is_strict=True)
    journal.write(head, [Manifest(slug="demo", versions={"autopilot": "9.1"})])
    journal.write(head, [Event(id="resumed-1", name="resumed", version="10.0")])
    line = encode(Lesson(id="1", strategy="s", outcome="kept")).replace(b'"v":2', b'"v":3')
    ref = "--ref=autopilot/demo/memory"
    run_git(["notes", ref, "add", "-m", line.decode(), head], cwd=Path(repository.workdir))
    with pytest.raises(RecordError, match=r"memory on .* line 1, field v: version 3") as caught:
        list(journal.read(Lesson, {head}))
    assert caught.value.hint == "autopilot 10.0 wrote it: pip install 'autopilot>=10.0'"
    lenient = Journal(repository, layout)
    assert [lesson.strategy for _, lesson in lenient.read(Lesson, {head})] == ["s"]
    assert list(repository.damaged) == [caught.value.message]
