"""autopilot watch: the live view in a real terminal, of runs that go on elsewhere or have ended."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from autopilot.cli.output import FOR_AGENT
from autopilot.cli.watch import drawn
from autopilot.core.experiment import Experiment
from autopilot.core.records.index import Judged
from autopilot.core.records.record import LlmRecord, MetricsRecord, ProgressNote
from autopilot.core.run import Run, running
from autopilot.core.types import Cost
from autopilot.git.locks import Holder
from autopilot.git.repository import Repository
from autopilot.report.live import RunReader, reduced
from autopilot.sandbox.programs import run_process
from autopilot.text import display_width
from autopilot.tracking.lines import encode
from autopilot.tracking.notebook import Status
from tests.cli.conftest import COMMAND, Place
from tests.waiting import wait_for

FULL, LEFT = "\x1b[?1049h", "\x1b[?1049l"


@dataclass
class Screen:
    """A command in a terminal of its own."""

    process: subprocess.Popen[bytes]
    main: int
    settings: object
    seen: str = ""
    decoder: codecs.IncrementalDecoder = field(
        # A read may end within a character, and Ctrl-C drops what the terminal has not shown yet.
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def until(self, text: str, after: int = 0) -> int:
        """Waits until a text is shown behind a place; returns where it is."""
        deadline = time.monotonic() + 60
        while (at := self.seen.find(text, after)) < 0:
            assert time.monotonic() < deadline, f"{text!r} is not shown: {self.seen[-3000:]!r}"
            if select.select([self.main], [], [], 0.2)[0]:
                self.seen += self.decoder.decode(os.read(self.main, 1 << 16))
        return at

    def read_rest(self) -> None:
        """Takes in what a command that has ended wrote last."""
        while select.select([self.main], [], [], 0.1)[0]:
            self.seen += self.decoder.decode(os.read(self.main, 1 << 16))

    def resize(self, columns: int, rows: int) -> None:
        """Changes the terminal's size."""
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@contextlib.contextmanager
def screen(place: Place, *arguments: str, columns: int = 90, rows: int = 40) -> Iterator[Screen]:
    """Ctrl-C ends it; then the terminal is as it was."""
    main, end = pty.openpty()
    shown = Screen(None, main, termios.tcgetattr(end))  # type: ignore[arg-type]  # started below
    shown.resize(columns, rows)
    environment = {n: v for n, v in os.environ.items() if n not in ("NO_COLOR", "COLUMNS", "LINES")}
    shown.process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=place.top,
        env={**environment, "TERM": "xterm-256color"},
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    try:
        yield shown
        began = shown.until(FULL)
        os.write(main, b"\x03")
        shown.until(LEFT, began)
        assert shown.process.wait(30) == 0, shown.seen
        shown.until("\x1b[?25h", began)  # the cursor
        shown.read_rest()
        assert shown.seen.count(FULL) == shown.seen.count(LEFT) == 1
        assert "Traceback" not in shown.seen
        assert termios.tcgetattr(end) == shown.settings
    finally:
        shown.process.kill()
        shown.process.wait()
        os.close(main)
        os.close(end)


def test_a_run_on_another_terminal_is_shown_as_it_goes_on_and_as_it_was_killed(
    place: Place,
) -> None:
    # Epoch 1 stands still before its third val item, as long as a file is there.
    pause = place.top.parent / "pause"
    pause.touch()
    wait = "import pathlib, time\n        while int(self.x.read_text()) == 2 and item.id == 'i3'"
    wait += f" and pathlib.Path({str(pause)!r}).exists(): time.sleep(0.02)\n        "
    place.change(
        "counter.py",
        ("def score(self, item):\n        ", f"def score(self, item):\n        {wait}"),
    )
    run = place.spawn("run", "counter.py", "-e", "c")
    try:
        wait_for(lambda: place.git("branch", "--list", "autopilot/c"), "a branch")
        with screen(place, "watch", "c", "--every", "0.1", columns=100) as shown:
            shown.until("c: running (process ")
            at = shown.until("epoch 1, val: ")
            shown.until("2 val", at)
            shown.resize(30, 6)  # nothing wraps: what does not fit is cut
            shown.until("c: running (process ", len(shown.seen))
            run.kill()
            shown.resize(100, 40)
            at = shown.until("c: killed (autopilot resume c goes on with it)", at)
            shown.until("go on: autopilot resume c", at)
            going = place.run("watch", "c", "--json").document["going"]
            assert [item[0] for item in going["items"]] == ["i1", "i2"]
            # An agent must not see the content of val items.
            told = place.run("watch", "c", "--json", **{FOR_AGENT: "1"}).document["going"]
            assert told == going | {"items": [], "lines": []}
            # The resumed run, which no terminal is watching, is the same run.
            pause.unlink()
            place.run("resume", "c", "--max-epochs", "2")
            shown.until("c: finished (reached the maximum of 2 epochs)", at)
        assert "c: finished" in shown.seen[shown.seen.index(LEFT) :]
    finally:
        run.kill()
        run.communicate()


def test_a_finished_run_is_shown_on_any_terminal_and_once_without_one(levels: Place) -> None:
    with screen(levels, "watch", columns=40, rows=12) as shown:
        shown.until("levels: finished (reached the maximum of")
    before = levels.snapshot()
    done = levels.call("watch", "levels")
    lines = done.out.splitlines()
    assert lines[0] == "levels: finished (reached the maximum of 4 epochs)"
    assert lines[1].startswith("val accuracy 0.25") and "4 epochs, 3 kept" in lines[1]
    assert any("best so far" in line for line in lines)
    assert levels.call("watch", "--json").document["points"][0] == [0, 0.25, 0.25, True]
    assert levels.snapshot() == before


def test_a_terminal_that_cannot_be_drawn_on_gets_the_page_once(levels: Place) -> None:
    main, end = pty.openpty()
    command, environment = [*COMMAND, "watch", "levels"], {**os.environ, "TERM": "dumb"}
    done = subprocess.run(
        command, cwd=levels.top, env=environment, stdin=end, stdout=end, timeout=60, check=True
    )
    shown = os.read(main, 1 << 16).decode()
    os.close(main)
    os.close(end)
    assert done.returncode == 0 and FULL not in shown
    assert "levels: finished" in shown


def test_the_reducer_folds_records_and_notes_into_what_both_views_draw() -> None:
    records = [
        MetricsRecord(
            epoch=n, id=f"m{n}", split="val", metrics={"f1": value}, monitor="f1", verdict=verdict,
            best=best, baseline=0.5, best_epoch=at, strategy="up", cost=Cost(evaluations=8),
        )
        for n, value, verdict, best, at in (
            (0, 0.5, "baseline", 0.5, 0), (1, 0.7, "kept", 0.7, 1), (2, 0.6, "rejected", 0.7, 1),
        )
    ]  # fmt: skip
    item = {"id": "b", "success": False, "feedback": "too\nlow"}
    batch = {"id": "x", "items": [{"id": "a", "success": True}, item]}
    notes = [
        ProgressNote(epoch=3, split="train", items=4, data={"id": "old"}, batch=0),
        ProgressNote(epoch=3, void=True),
        ProgressNote(epoch=2, split="val", items=9, data={"id": "of the epoch before"}),
        LlmRecord(epoch=3, id="c", role="agent", reply={"output": "Look.\nDone."}, cost=Cost(0, 7)),
        ProgressNote(epoch=3, stepping=1),
        ProgressNote(epoch=3, stepping=1, said="at work\n"),
        ProgressNote(epoch=3, stepping=-1, seconds=1),
        ProgressNote(epoch=3, split="val", items=1, data=item, item=1),
        ProgressNote(epoch=3, split="val", items=2, data=batch),
        ProgressNote(epoch=3, split="val", batch=1, died="signal 9"),
    ]
    running = Status("running", "process 7", Holder(7, "here", "now"))
    points = [Judged.of(record) for record in records]
    run = reduced("a", running, records[-1], points, notes)

    assert [(p.number, p.value, p.best, p.is_kept) for p in run.points] == [
        (0, 0.5, 0.5, True), (1, 0.7, 0.7, True), (2, 0.6, 0.7, False),
    ]  # fmt: skip
    assert (run.baseline, run.best, run.best_epoch, run.kept) == (0.5, 0.7, 1, 1)
    going = run.going
    assert going is not None and (going.epoch, going.most) == (3, 8)
    assert going.doing == "val; 1 ended with their process"
    # A batch takes the place of its items; what was voided, or is of another epoch, does not count.
    assert (going.done, going.outcomes) == ({"val": 2}, {"passed": 1, "failed": 1})
    assert going.items == [("a", "passed", ""), ("b", "failed", "too low")]
    assert going.lines == ["agent: Look.", "agent: Done."] and going.spent.tokens == 7
    assert [(u.strategy, u.used, u.kept, u.last) for u in run.strategies] == [("up", 3, 1, 2)]
    at_work = reduced("a", running, records[-1], points, notes[:6]).going
    assert at_work is not None and at_work.doing == "step 1 is made"
    assert at_work.lines == ["agent: Look.", "agent: Done.", "agent: at work"]
    assert reduced("a", Status("finished", ""), records[-1], points, notes).going is None
    # An answer comes after what the agent said at work; of one that was lost, its text is known.
    answers = [
        LlmRecord(epoch=3, id="d", role="agent", reply={"lost": "Too long"}),
        LlmRecord(epoch=3, id="e", model="m", reply={"content": [{"text": "Yes."}, {}]}),
    ]
    answered = reduced("a", running, records[-1], points, [*notes[4:6], *answers]).going
    assert answered is not None and answered.lines == ["agent: Too long", "m: Yes."]
    # Candidates side by side: the items are those of the one that is furthest.
    beside = {1: [], 2: notes[6:], 3: notes[4:6]}
    several = reduced("a", running, records[-1], points, [], candidates=beside).going
    assert several is not None and several.items == going.items
    told = "1 begins; 2 val; 1 ended with their process; 3 step 1 is made"
    assert (several.doing, several.done) == (f"3 candidates: {told}", {"val": 2})
    assert several.lines == ["3: agent: at work"]


def test_a_name_that_would_steer_the_terminal_shifts_no_column() -> None:
    names = ("up", "left\u202e", "規則\u3000x", "a\tb\nc", "\x1b[2J", "half \ud83d")
    records = [
        MetricsRecord(epoch=n, split="val", metrics={"f1": 0.5}, verdict="kept", strategy=name)
        for n, name in enumerate(names, 1)
    ]
    points = [Judged.of(record) for record in records]
    run = reduced("a", Status("running", "process 7"), records[-1], points, [])
    drawings = {width: drawn(run, width, 40).plain.splitlines() for width in (80, 9)}
    rows = drawings[80][-len(names) - 2 :]
    shown = [row.partition("  ")[0] for row in rows[1:-1]]
    assert sorted(shown) == sorted(
        ["up", "left\\u202e", "規則\u3000x", "a b c", "\\x1b[2J", "half \ufffd"]
    )
    assert len({display_width(row) for row in rows[:-1]}) == 1
    assert max(map(display_width, drawings[9][:-1])) <= 9


@pytest.mark.parametrize("state", ["running", "killed", "finished"])
def test_only_of_a_run_that_is_at_work_is_it_said_that_it_goes_on(state: str) -> None:
    last = drawn(reduced("a", Status(state, ""), None, [], []), 80, 40).plain.splitlines()[-1]
    assert last == " Ctrl-C leaves" + ("; the run goes on" if state == "running" else "")


def test_a_look_without_news_reads_nothing_and_an_emptied_progress_file_is_another_epoch(
    levels: Place,
) -> None:
    source = RunReader(Repository.discover(levels.top), "levels")
    first = source.look()
    assert first is not None and source.look() is None
    file = levels.top / ".git/autopilot/levels.progress.jsonl"
    encoded = [
        encode(ProgressNote(epoch=n, split="test", items=n, data={"id": "x"})) for n in (5, 6)
    ]
    file.write_bytes(encoded[0] * 3 + encoded[0][:9])  # a kill cut the last one short
    source.look()
    assert len(source.notes) == 3
    file.write_bytes(encoded[1] * 5)
    source.look()
    assert [note.epoch for note in source.notes] == [6] * 5
    file.write_bytes(encoded[1] * 5 + encoded[0])
    source.look()
    assert [note.epoch for note in source.notes] == [6] * 5 + [5]


def test_a_reader_takes_a_tenth_of_the_time_however_long_a_look_is(
    levels: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = RunReader(Repository.discover(levels.top), "levels")
    clock, pauses = [0.0], list[float]()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", pauses.append)
    looks = source.looks(0.5)
    for took_s in (0.0, 2.0, 0.0):
        next(looks)
        clock[0] += took_s
    assert pauses == [0.5, 18.0]


def test_an_agents_last_lines_are_noted_while_it_is_at_work() -> None:
    with running(Run(Experiment())) as run:
        run.epoch, store = 3, run.experiment.store
        words = {"stdin": "", "folder": None, "timeout_s": 60.0, "hint": ""}
        run_process(["echo", "outside of a step"], **words)
        assert store.progress() == []
        run.step_number = 2
        done = run_process(["sh", "-c", "echo I read the rules; echo and edit"], **words)
        noted = store.progress()
        assert done.stdout == "I read the rules\nand edit\n"
        # It ended within a second: one note, of what was there first, and the step is begun still.
        assert [(note.epoch, note.stepping) for note in noted] == [(3, 2)]
        assert noted[0].said.startswith("I read the rules")
