"""Commands that measure: what is read of their output, and what bad ones come to."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from autopilot import CommandModule, Datum, PathParameter
from autopilot.errors import UsageError

if TYPE_CHECKING:
    from tests.command.conftest import Bench

OWN = os.getpid()  # in numbers of seconds: other test runs on the machine have theirs
# A line for each epoch: the command, the verdict, and the line that explains it.
BAD = [
    ("nosuchprogram", "rejected", "was not found (exit code 127)", "nosuchprogram: not found"),
    ("echo hello", "rejected", "printed no metric 'seconds'", "hello"),
    ("echo seconds: nan", "rejected", "seconds is nan, which is no finite number", ""),
    ("echo seconds: fast", "rejected", "printed 'seconds: fast', which is no number", ""),
    (
        "echo seconds: 1; echo seconds: 2",
        "rejected",
        "printed seconds twice: 'seconds: 1' and 'seconds: 2'",
        "",
    ),
    (f"echo seconds: 1; sleep 99.{OWN}", "rejected", "did not end within 1 s", "seconds: 1"),
    (
        f"(sleep 98.{OWN} &); setsid sleep 98.{OWN} & echo seconds: 9",
        "rejected",
        f"left processes running, which were ended (sleep 98.{OWN} and 1 more)",
        "",
    ),
    ("(sleep 0.1 & sleep 0.1); (sleep .3 &); setsid sleep .3 & echo seconds: 9", "kept", "", ""),
    ("yes", "rejected", "printed more than 64 MiB", "y | y | y"),
    ("echo x >> 'ä b.txt'; echo seconds: 1", "rejected", "changed the tracked file ä b.txt", ""),
    ("rm 'ä b.txt'; echo seconds: 1", "rejected", "changed the tracked file ä b.txt", "put back"),
    ("echo >> cmd.py; echo seconds: 1", "rejected", "changed a file that is edited, cmd.py", ""),
    ("echo seconds: 1; echo oh >&2; exit 3", "rejected", "ended with exit code 3", "oh"),
    ("cat 'ä b.txt'; echo seconds: 8", "kept", "9.000 -> 8.000", ""),
]


def test_each_bad_command_has_its_own_line_and_the_run_goes_on(bench: Bench) -> None:
    place = bench.place
    place.write("cmd.py", "echo seconds: 10\n")
    place.write("ä b.txt", "data\n")
    place.write("bad.txt", "".join(f"{command}\n" for command, *_ in BAD))
    count = place.cache.parent / "count"
    count.write_text("0")
    place.write(
        "agent.sh",
        f"cat > /dev/null; n=$(($(cat {count}) + 1)); echo $n > {count}\n"
        'sed -n "${n}p" bad.txt > cmd.py\n',
    )
    place.commit()

    with place.untouched():
        done = bench.run(len(BAD), edit="cmd.py", eval="sh cmd.py", item_timeout="1")

    assert done.code == 0, done
    judged = place.judged("cmd-1")[1:]
    for (command, verdict, says, tail), record in zip(BAD, judged, strict=True):
        reasons = "; ".join(record["reasons"])
        assert record["verdict"] == verdict, (command, reasons)
        assert says in reasons and tail in reasons, (command, reasons)
    assert not _running(f"sleep\00098.{OWN}") and not _running(f"sleep\00099.{OWN}")
    # Only child processes import what is edited, even where Python could.
    assert not any(record.get("restarts") for record in judged)
    assert [record["cost"]["evaluations"] for record in judged] == [1] * len(BAD)
    assert "accuracy" not in place.call("log", "cmd-1").out
    assert "best: epoch 14, val seconds 10.000 -> 8.000" in done.out


def _running(line: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            found += [path.name] if (path / "cmdline").read_text().startswith(line) else []
        except OSError:
            continue
    return found


class Files(CommandModule):
    """Its parameter is one file."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]  # as given
        self.file = PathParameter("speed.txt")


@pytest.fixture
def here(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(bench.place.top)
    return bench


def measured(split: str = "val", **options: object) -> Datum:
    """What a command's output is read as."""
    return Files(**options).forward(Datum(metadata={"split": split}))


@pytest.mark.parametrize(
    ("printed", "value"),
    [
        ("seconds: 2", 2.0),
        ("  seconds=2.5 ", 2.5),
        ("METRIC seconds=-1e-3", -1e-3),
        ('noise\n{"seconds": 3}\n\n', 3.0),
        ('METRIC seconds=4\nseconds: 5\n{"seconds": 6}', 6.0),
        ("seconds: 5\nMETRIC seconds=4", 4.0),
        # Read in time that grows with its length, not with the square of it.
        (f"seconds: 5\nwide{' ' * 300_000}x\nMETRIC wide=x{' ' * 300_000}y", 5.0),
        ("\x1b[32mseconds: 7\x1b[0m", 7.0),
        ("loss: 1\nloss: 2\nseconds: 8", 8.0),
        ("it took seconds: 9\nseconds: 1_000", 1000.0),
    ],
)
def test_forms_of_a_metric(here: Bench, printed: str, value: float) -> None:
    here.place.write("out", printed)

    assert measured(eval="cat out", metric="seconds").metrics["seconds"] == value


def test_a_regex_finds_the_metric_where_no_form_does(here: Bench) -> None:
    result = measured(
        eval="echo 'took 3.5s (seconds: 9)'", metric="seconds", metric_regex=r"took ([\d.]+)s"
    )

    assert result.metrics == {"seconds": 3.5}
    with pytest.raises(UsageError, match="--metric-regex"):
        Files(eval="true", metric="seconds", metric_regex="took (")


@pytest.mark.parametrize(
    ("printed", "says"),
    [
        ('{"seconds": 1, "seconds": 2}', "printed seconds twice in one object: 1, 2"),
        ('{"seconds": NaN}', "seconds is nan, which is no finite number"),
        ('{"seconds": "fast"}', '"seconds": "fast"\', which is no number'),
        ("METRIC seconds=inf", "seconds is inf, which is no finite number"),
        ("", "printed no metric 'seconds', but: it printed nothing"),
        ('{"items": [{"success": true}]}', "printed items, but no metric 'seconds'"),
        ('{"items": [{"id": 1, "seconds": 1}, {"id": "1"}]}', "two items with the id '1'"),
        ('{"items": [3]}', "item 0 is 3, not an object"),
        (
            '{"items": [{"seconds": "fast"}]}',
            'item \'0\' has "seconds": "fast", which is no number',
        ),
        ('{"items": [{"success": "no"}]}', "item '0' has success='no', not true or false"),
    ],
)
def test_a_metric_that_is_none_is_an_error(here: Bench, printed: str, says: str) -> None:
    here.place.write("out", printed)

    assert says in (measured(eval="cat out", metric="seconds").error_message or "")


def test_items_are_items(here: Bench) -> None:
    here.place.write(
        "out",
        '{"recall": 0.5, "items": [{"id": "a", "success": false, "input": "2+2", "output": "5", '
        '"expected": "4"}, {"id": "b", "success": true, "score": 0.9, "feedback": "fine"}]}',
    )

    result = measured(eval="cat out")

    a, b = result.items
    assert result.metrics == {"recall": 0.5}
    assert (a.id, a.outcome, a.feedback) == ("a", "failed", '"2+2": expected "4", got "5"')
    assert (b.id, b.outcome, b.metrics, b.feedback) == ("b", "passed", {"score": 0.9}, "fine")
    assert a.metadata == {"input": "2+2", "output": "5", "expected": "4"}


def test_items_count_whatever_the_exit_code_a_metric_does_not(here: Bench) -> None:
    here.place.write("out", '{"items": [{"id": "a", "success": false}, {"success": true}]}')

    items = measured(eval="cat out; exit 1")
    crashed = measured(eval="echo seconds: 1; exit 1", metric="seconds")
    empty = measured(eval="exit 1", metric="seconds")

    assert [item.outcome for item in items.items] == ["failed", "passed"]
    for result in (crashed, empty):
        assert "ended with exit code 1" in (result.error_message or ""), result


JUNIT = """<testsuite><testcase classname="t" name="a"/><testcase classname="t" name="b">
<failure message="assert 1 == 2">where</failure></testcase><testcase name="c"><skipped/></testcase>
</testsuite>"""


def test_each_test_of_a_junit_file_is_an_item_whatever_the_exit_code(here: Bench) -> None:
    here.place.write("tests.xml", JUNIT)

    result = measured(eval="cp tests.xml new.xml; exit 1", junit="new.xml")
    stale = measured(eval="true", junit="tests.xml")

    assert [(item.id, item.outcome) for item in result.items] == [
        ("t.a", "passed"),
        ("t.b", "failed"),
    ]
    assert result.items[1].feedback == "assert 1 == 2\nwhere"
    assert "did not write tests.xml" in (stale.error_message or "")


def test_without_a_metric_the_exit_code_is_the_result(here: Bench) -> None:
    passed, failed = measured(eval="echo fine"), measured(eval="echo no >&2; exit 1")

    assert (passed.outcome, passed.feedback) == ("passed", "fine")
    assert (failed.outcome, failed.feedback) == ("failed", "no")


def test_the_tail_of_both_outputs_is_feedback_cut_in_the_middle(here: Bench) -> None:
    result = measured(eval="seq 1 5000; echo seconds: 1; echo late >&2", metric="seconds")

    assert result.feedback is not None and len(result.feedback) < 4100
    assert result.feedback.startswith("1\n2\n") and result.feedback.endswith("--- stderr\nlate")
    assert "characters left out ...]" in result.feedback


def test_a_command_knows_its_split_its_seed_and_its_variables(here: Bench) -> None:
    said = 'echo "$AUTOPILOT_SPLIT $MODE $AUTOPILOT_SEED"'
    random.seed(1)

    results = [measured("test", eval="true", test_eval=said, env=["MODE=a b"]) for _ in "12"]

    random.seed(1)
    seeds = [random.getrandbits(31) for _ in "12"]
    assert [result.feedback for result in results] == [f"test a b {seed}" for seed in seeds]
    # By its mark, a resumed run finds what a killed one left running: `end_marked`.
    assert measured(eval='echo "$AUTOPILOT_AGENT_IN"').feedback == str(here.place.top.resolve())
    # A guard has no part in it: it runs once a state.
    random.seed(1)
    guarded = measured(eval=said, guard="true")
    assert (guarded.feedback or "").split() == ["val", str(seeds[0])]


def test_a_daemon_does_not_hold_up_a_command(here: Bench) -> None:
    started = time.monotonic()

    left, passed = (
        measured(**{"eval": "true", which: f"setsid sleep 97.{OWN} &"})
        for which in ("eval", "guard")
    )

    assert f"(sleep 97.{OWN})" in (left.error_message or "") and passed.outcome == "passed"
    assert time.monotonic() - started < 90 and not _running(f"sleep\00097.{OWN}")
