"""The contract of Store, as a suite of tests."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autopilot.core.parameter import PathParameter
from autopilot.core.records.record import (
    Event,
    Lesson,
    LlmRecord,
    Manifest,
    MetricsRecord,
    ProgressNote,
    StepRecord,
    TraceRecord,
)
from autopilot.core.store import Store
from autopilot.core.types import Cost
from autopilot.errors import AutopilotError, ExperimentError


class StoreContract(ABC):
    """The tests that every Store passes. Derive it and define `make_store`."""

    @abstractmethod
    def make_store(self, folder: Path) -> Store:
        """A store of the experiment in `folder`, over the files below `folder/rules`.

        A second call for a folder gives a store with the records kept in it before. The earlier
        one is closed by then.
        """

    def prepare(self, folder: Path) -> None:  # noqa: B027  # files are enough for some
        """Makes what the store needs; the files of the parameter are there already."""

    def open(self, folder: Path) -> tuple[Store, PathParameter]:
        """The store with its parameter bound, and the parameter."""
        store, parameter = self.make_store(folder), PathParameter(folder / "rules")
        parameter.name = "rules"
        store.bind([parameter])
        return store, parameter

    def prepare_files(self, folder: Path) -> Path:
        """Makes the parameter's files, one beside it, and the rest by `prepare`."""
        rules = folder / "rules"
        (rules / "deep").mkdir(parents=True)
        (rules / "a.txt").write_bytes(b"a0\n")
        (rules / "deep" / "b.txt").write_bytes(b"b0\n")
        (folder / "beside.txt").write_bytes(b"not a parameter\n")
        self.prepare(folder)
        return rules

    @contextmanager
    def begun(self, folder: Path) -> Iterator[tuple[Store, Path]]:
        """A new experiment over `rules/a.txt` and `rules/deep/b.txt`, and the folder of both."""
        rules = self.prepare_files(folder)
        store, _ = self.open(folder)
        store.begin(Manifest(slug=store.slug, idea="see what happens"))
        try:
            yield store, rules
        finally:
            store.close()

    def change(self, store: Store, rules: Path, text: str) -> str:
        """Writes `a.txt` and commits it."""
        (rules / "a.txt").write_bytes(text.encode())
        return store.commit(store.state(), _subject(text), [])

    def test_begin_makes_the_first_revision_of_the_present_state(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, _):
            (first,) = store.log()
            assert store.exists()
            assert store.tip == first.id
            assert first.tree == store.state()
            ((revision, manifest),) = store.records(Manifest)
            assert revision == first.id
            assert (manifest.slug, manifest.idea) == (store.slug, "see what happens")

    def test_an_experiment_begins_once(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, _):
            tip = store.tip
            store.close()
            again, _ = self.open(tmp_path)
            with refused(ExperimentError):
                again.begin(Manifest(slug=again.slug))
            assert again.tip == tip

    def test_what_was_not_begun_cannot_be_reopened(self, tmp_path: Path) -> None:
        self.prepare_files(tmp_path)
        store, _ = self.open(tmp_path)
        assert not store.exists()
        with refused(ExperimentError):
            store.reopen()

    def test_a_new_store_finds_everything_again(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, rules):
            start = store.tip
            second = self.change(store, rules, "a1\n")
            store.annotate(second, [_metrics(1)])
            store.tag(1, second, "epoch 1 kept\n")
            store.note_progress(ProgressNote(epoch=2, split="train", batch=3))
            log, state = store.log(), store.state()
            store.close()

            again, _ = self.open(tmp_path)
            assert again.exists()
            again.reopen()
            assert (again.tip, again.log(), again.state()) == (second, log, state)
            assert again.records(MetricsRecord) == [(second, _metrics(1))]
            assert [revision for revision, _ in again.records(Manifest)] == [start]
            assert again.tags() == {1: second}
            assert [p.batch for p in again.progress()] == [3]
            again.restore(start)
            assert (rules / "a.txt").read_bytes() == b"a0\n"
            third = self.change(again, rules, "a2\n")
            assert [revision.id for revision in again.log()] == [third, second, start]
            again.close()

    def test_equal_states_have_equal_ids(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, rules):
            before = store.state()
            (rules / "a.txt").write_bytes(b"a1\n")
            other = store.state()
            (rules / "a.txt").write_bytes(b"a0\n")
            assert store.state() == before != other

    def test_the_log_has_the_newest_first(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, rules):
            start = store.tip
            ids = [self.change(store, rules, f"a{n}\n") for n in (1, 2)]
            assert [revision.id for revision in store.log()] == [ids[1], ids[0], start]
            assert store.tip == ids[1]
            newest = store.log()[0]
            assert newest.tree == store.state()
            assert newest.message.splitlines()[0] == "write a2"
            assert newest.trailer("Autopilot-Epoch") == "2"
            assert newest.trailer("Autopilot-Step") is None

    def test_restore_is_exact(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, rules):
            for name, content in _SPECIAL_FILES.items():
                path = rules / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            (rules / "run.sh").write_bytes(b"#!/bin/sh\n")
            (rules / "run.sh").chmod(0o755)
            (rules / "link").symlink_to("deep/b.txt")
            special = store.commit(store.state(), "special\n", [])
            wanted = _listing(rules)

            (rules / "run.sh").chmod(0o644)
            (rules / "run.sh").write_bytes(b"echo\n")
            (rules / "link").unlink()
            (rules / "link").write_bytes(b"a file now\n")
            for name in _SPECIAL_FILES:
                (rules / name).unlink()
            (rules / "deep" / "b.txt").unlink()
            (rules / "deep").rmdir()
            (rules / "deep").write_bytes(b"a file where a folder was\n")
            (rules / "more").mkdir()
            (rules / "more" / "new.txt").write_bytes(b"new\n")
            (tmp_path / "beside.txt").write_bytes(b"changed beside\n")
            other = store.commit(store.state(), "other\n", [])
            others = _listing(rules)

            store.restore(special)
            assert _listing(rules) == wanted
            assert (tmp_path / "beside.txt").read_bytes() == b"changed beside\n"
            store.restore(other)
            assert _listing(rules) == others
            assert store.tip == other

    def test_rollback_appends_and_restores(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, rules):
            good = self.change(store, rules, "a1\n")
            bad = self.change(store, rules, "a2\n")
            back = store.rollback(good, "roll back\n\nAutopilot-Rejected: 2\n")
            assert [revision.id for revision in store.log()][:3] == [back, bad, good]
            newest, _, earlier = store.log()[:3]
            assert newest.tree == earlier.tree == store.state()
            assert newest.trailer("Autopilot-Rejected") == "2"
            assert (rules / "a.txt").read_bytes() == b"a1\n"

    def test_diff_tells_lines_apart(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, rules):
            start = store.tip
            second = self.change(store, rules, "a0\nand more\n")
            lines = store.diff(start, second).splitlines()
            assert "+and more" in lines
            assert "-a0" not in lines
            assert not any("b0" in line for line in lines)
            assert "-and more" in store.diff(second, start).splitlines()
            assert store.diff(start, start) == ""

    def test_edits_by_others_are_noticed(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, rules):
            assert store.edited() == []
            (rules / "a.txt").write_bytes(b"by hand\n")
            assert len(store.edited()) == 1
            assert len(store.edited()) == 1
            assert (rules / "a.txt").read_bytes() == b"by hand\n"
            (rules / "a.txt").write_bytes(b"a0\n")
            assert store.edited() == []
            (rules / "a.txt").write_bytes(b"a1\n")
            store.commit(store.state(), "ours\n", [])
            assert store.edited() == []
            store.restore(store.log()[-1].id)
            assert store.edited() == []

    def test_records_come_back_as_they_were(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, rules):
            start = store.tip
            step = StepRecord(
                epoch=1,
                id="1-1",
                step=1,
                changed=True,
                strategy="add",
                summary='say "hello" in ümlauts',
                rationale="two\nlines",
                gradients={"rules": "a.txt: too short\n  - t1"},
                cost=Cost(3, 100, 0.25, 1.5),
                state={"next": 2, "nested": {"names": ["x", None, True]}},
            )
            (rules / "a.txt").write_bytes(b"a1\n")
            second = store.commit(store.state(), "first step\n", [step])
            assert store.records(StepRecord) == [(second, step)]

            trace = TraceRecord(
                epoch=1, id="1-val", split="val", items=({"id": "i", "metrics": {"f1": 0.5}},)
            )
            lesson = Lesson(epoch=1, id="1", strategy="add", outcome="kept", delta=0.125)
            event = Event(id="started-1", name="started", time="2024-01-01T00:00:00+00:00")
            store.annotate(second, [trace, lesson, _metrics(1)])
            store.annotate(start, [event])
            assert store.records(Lesson) == [(second, lesson)]
            assert store.records(Event) == [(start, event)]
            assert store.records(MetricsRecord) == [(second, _metrics(1))]
            ((_, found),) = store.records(TraceRecord)
            assert [dict(item) for item in found.items] == [{"id": "i", "metrics": {"f1": 0.5}}]
            assert [r.slug for _, r in store.records(Manifest)] == [store.slug]

    def test_numbers_that_are_none_stay_what_they_are(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, _):
            metrics = {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "third": 1 / 3}
            store.annotate(
                store.tip,
                [MetricsRecord(id="0-val", split="val", metrics=metrics, verdict="baseline")],
            )
            ((_, found),) = store.records(MetricsRecord)
            assert math.isnan(found.metrics["nan"])
            assert found.metrics["inf"] == math.inf
            assert found.metrics["minus"] == -math.inf
            assert found.metrics["third"] == 1 / 3

    def test_a_repeated_id_replaces(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, _):
            store.annotate(store.tip, [_metrics(1, 0.1), _metrics(2, 0.2)])
            store.annotate(store.tip, [_metrics(1, 0.9)])
            found = [record.metrics["accuracy"] for _, record in store.records(MetricsRecord)]
            assert found == [0.9, 0.2]

    def test_records_come_by_epoch(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, rules):
            start = store.tip
            second = self.change(store, rules, "a1\n")
            store.annotate(second, [_metrics(11), _metrics(2)])
            store.annotate(start, [_metrics(10), _metrics(0)])
            found = [(revision, record.epoch) for revision, record in store.records(MetricsRecord)]
            assert found == [(start, 0), (second, 2), (start, 10), (second, 11)]

    def test_a_tag_never_moves(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, rules):
            start = store.tip
            second = self.change(store, rules, "a1\n")
            store.tag(0, start, "baseline\n")
            store.tag(1, second, "kept\n")
            store.tag(0, start, "baseline\n")
            with refused(AutopilotError):
                store.tag(0, second, "moved\n")
            assert store.tags() == {0: start, 1: second}

    def test_progress_is_kept_in_order_until_it_is_cleared(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, _):
            assert store.progress() == []
            notes = [
                ProgressNote(
                    epoch=1,
                    split="train",
                    batch=n,
                    key=f"k{n}",
                    data={"id": "i", "metadata": {"said": "naïve\nline"}, "metrics": {"m": 0.1}},
                    seconds=0.5,
                )
                for n in range(3)
            ]
            for note in notes:
                store.note_progress(note)
            assert store.progress() == notes
            store.clear_progress()
            assert store.progress() == []
            store.note_progress(notes[0])
            store.note_progress(ProgressNote(epoch=1, stepping=1))
            assert [(p.batch, p.stepping) for p in store.progress()] == [(0, 0), (0, 1)]
            store.clear_progress()

    def test_model_calls_are_kept_beside_progress_and_as_records(self, tmp_path: Path) -> None:
        with self.begun(tmp_path) as (store, _):
            call = LlmRecord(
                epoch=1,
                id="a1b2",
                role="judge",
                model="m",
                request={"messages.0.content": "how good?"},
                reply={"content": [{"type": "text", "text": "naïve\nline"}]},
                cost=Cost(tokens=12, cost_usd=0.25),
                step=1,
            )
            store.note_call(call)
            store.note_progress(ProgressNote(epoch=1, split="train"))
            assert store.calls() == [call]
            assert len(store.progress()) == 1
            store.annotate(store.tip, store.calls())
            store.clear_progress()
            assert store.calls() == []
            assert store.records(LlmRecord) == [(store.tip, call)]


@contextmanager
def refused(error: type[AutopilotError]) -> Iterator[None]:
    """Fails unless the block raises this error, with a message and a hint of one line each."""
    try:
        yield
    except error as raised:
        assert raised.message and "\n" not in raised.message, f"message: {raised.message!r}"
        assert raised.hint and "\n" not in raised.hint, f"hint: {raised.hint!r}"
        return
    raise AssertionError(f"{error.__name__} was not raised")


_SPECIAL_FILES = {
    "binary.bin": bytes(range(256)),
    "dos.txt": b"one\r\ntwo\r\n",
    "no newline.txt": b"end",
    "empty": b"",
    "ümlaut/[1]*?.txt": b"glob\n",
}


def _subject(text: str) -> str:
    name = text.strip()
    return f"write {name}\n\nwhy\n\nAutopilot-Epoch: {name[-1]}\n"


def _metrics(epoch: int, accuracy: float = 0.75) -> MetricsRecord:
    return MetricsRecord(
        epoch=epoch,
        id=f"{epoch}-val",
        split="val",
        metrics={"accuracy": accuracy},
        verdict="kept" if epoch else "baseline",
        monitor="accuracy",
        baseline=0.5,
        best=accuracy,
        best_epoch=epoch,
        reasons=("val accuracy 0.500 -> 0.750",),
        tree="t",
        cost=Cost(evaluations=4),
        state={"optimizer": {"position": epoch}},
    )


def _listing(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Every file below a folder: "file", "executable" or "link", and its content or target."""
    found = {}
    for top, folders, files in os.walk(folder):
        for name in [*files, *folders]:
            path = Path(top, name)
            key = path.relative_to(folder).as_posix()
            if path.is_symlink():
                found[key] = ("link", os.fsencode(os.readlink(path)))
            elif path.is_file():
                kind = "executable" if path.stat().st_mode & 0o100 else "file"
                found[key] = (kind, path.read_bytes())
    return found
