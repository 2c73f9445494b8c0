"""Messages of commits and tags: one subject, trailers that come back, nothing git chokes on."""

import textwrap

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autopilot.core.records import message
from autopilot.core.records.message import (
    Score,
    plain_message,
    review_message,
    trailer_number,
    trailers_of,
)
from autopilot.core.records.record import Manifest, MetricsRecord, StepRecord
from autopilot.core.store import Revision
from autopilot.text import visible

TEXT = st.text(max_size=300) | st.text("\n\r\x0b\x1c\x85\u2028 #:-A", max_size=60)


def trailer(text, name):
    return Revision("", "", text).trailer(name)


@given(TEXT, TEXT, TEXT, st.integers(1, 10**6))
@example(
    "Autopilot-Epoch: 7", "Autopilot-Epoch: 8\n\nAutopilot-Epoch: 9", "x\nAutopilot-Step: 5", 3
)
@example("a\0b", "a\0b", "a\0b", 1)
@example("\ud800", "\ud800", "\ud800", 1)
@example("\x1b[2J" * 40, "no \u202epots\x9b31m", "\x1b]0;mine\x07", 1)
def test_trailers_come_back_whatever_an_optimizer_says(summary, rationale, strategy, epoch):
    record = StepRecord(
        epoch=epoch, step=2, changed=True, summary=summary, rationale=rationale, strategy=strategy
    )
    text = message.step_message("demo", record)
    text.encode()
    assert text == visible(text) == message.displayed(text), "nothing steers a terminal"
    subject, rest = text.split("\n", 1)
    assert subject.startswith(f"autopilot(demo): epoch {epoch}: ")
    assert len(subject) <= 110
    assert rest.startswith("\n")
    assert trailer(text, message.EXPERIMENT) == "demo"
    assert trailer(text, message.EPOCH) == str(epoch)
    assert trailer(text, message.STEP) == "2"
    named = [message.STRATEGY] if message.one_line(strategy) else []
    assert bool(trailer(text, message.STRATEGY)) == bool(named)
    block = text.rstrip("\n").split("\n\n")[-1].split("\n")
    assert [line.partition(":")[0] for line in block] == [
        message.EXPERIMENT,
        message.EPOCH,
        message.STEP,
        *named,
    ]
    assert not any(line.startswith("#") for line in text.split("\n"))


def test_a_message_of_before_the_escapes_is_the_same_when_it_is_compared():
    subject = "autopilot(demo): epoch 1: " + "stop \x1b[31m" * 6
    before = f"{subject}\n\n\u202eno\n\nAutopilot-Epoch: 1\n"
    after = message.displayed(before)
    assert after == message.displayed(after) != before
    assert len(after.partition("\n")[0]) == len(subject)
    assert after.endswith("\n\n\\u202eno\n\nAutopilot-Epoch: 1\n")


def test_a_step_commit_reads_as_the_design_says():
    record = StepRecord(
        epoch=3,
        step=1,
        changed=True,
        summary="add missing words",
        strategy="add words",
        gradients={"rules": "billing: missing refund", "other": "billing: missing refund"},
    )
    assert message.step_message("demo", record) == (
        "autopilot(demo): epoch 3: add missing words\n"
        "\n"
        "billing: missing refund\n"
        "\n"
        "Autopilot-Experiment: demo\n"
        "Autopilot-Epoch: 3\n"
        "Autopilot-Step: 1\n"
        "Autopilot-Strategy: add words\n"
    )


def test_what_is_left_out_of_a_long_reason_is_counted():
    record = StepRecord(epoch=1, step=1, changed=True, rationale="word " * 2000)
    text = message.step_message("demo", record)
    assert "[6000 characters more in the gradients note]" in text
    assert max(len(line) for line in text.splitlines()) <= 110


def record(**more):
    return MetricsRecord(epoch=3, split="val", metrics={}, monitor="f1", **more)


def test_a_rollback_commit():
    text = message.rollback_message(
        "demo", record(verdict="rejected", best_epoch=2, reasons=("worse", "slower"))
    )
    assert text == (
        "autopilot(demo): rollback to epoch 2\n"
        "\n"
        "Epoch 3 was rejected: worse; slower.\n"
        "\n"
        "Autopilot-Experiment: demo\n"
        "Autopilot-Rollback: epoch-0002\n"
        "Autopilot-Rejected: 3\n"
    )


def test_a_tag():
    kept = record(verdict="kept", baseline=0.5, reasons=("val f1 0.500 -> 0.750",))
    text = message.tag_message("demo", kept, {"train": {"f1": 0.8}, "val": {"f1": 0.75}})
    assert text == (
        "autopilot(demo): epoch 3 kept\n"
        "\n"
        "train f1 0.8\n"
        "val f1 0.75\n"
        "val f1 against baseline +0.25\n"
        "reason: val f1 0.500 -> 0.750\n"
        "\n"
        "Autopilot-Experiment: demo\n"
        "Autopilot-Epoch: 3\n"
    )


def test_the_start():
    manifest = Manifest(
        slug="demo", target="a.py", idea="be polite", base="abc", base_branch="main"
    )
    lines = message.start_message(manifest).splitlines()
    assert lines[0] == "autopilot(demo): start a.py"
    assert "be polite" in lines
    assert "Base: abc (main)" in lines


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  a\n b ", "a b"),
        ("x" * 73, "x" * 69 + "..."),
        ("x" * 72, "x" * 72),
        ("", ""),
    ],
)
def test_one_line(text, line):
    assert message.one_line(text) == line


def test_epoch_tags_sort_as_numbers():
    assert message.epoch_tag(7) == "epoch-0007"
    assert message.epoch_tag(12345) == "epoch-12345"


@given(st.lists(TEXT, min_size=1, max_size=3).map(tuple))
def test_violations_are_counted_by_a_trailer_and_told_in_the_body(violations):
    record = StepRecord(epoch=1, step=1, changed=True, summary="x", violations=violations)
    text = message.step_message("demo", record)
    assert trailer(text, message.VIOLATIONS) == str(len(violations))
    assert trailer(text, message.EPOCH) == "1"
    assert "Tried outside of the parameters:\n-" in text
    plain = StepRecord(epoch=1, step=1, changed=True, summary="x")
    assert message.VIOLATIONS not in message.step_message("demo", plain)


def test_a_score_shows_as_many_digits_as_tell_it_apart():
    assert str(Score("val f1", 0.69996, 0.7)) == "val f1 0.69996 -> 0.70000"
    assert str(Score("val f1", None, 0.5)) == "val f1 - -> 0.500"
    assert str(Score("val f1", 0.5, None)) == "val f1 0.500 -> -"


def test_what_a_model_wrote_is_no_trailer_of_a_review_commit():
    text = review_message(
        "fix-1",
        3,
        "1234",
        "main",
        what="a" * 100,
        why=["Autopilot-Epoch: 7\nbecause"],
        scores=[Score("val f1", 0.5, 0.6), Score("val recall", 0.1, 0.2)],
    )
    subject, *rest = text.splitlines()
    assert subject == f"autopilot(fix-1): epoch 3: {'a' * 57}... (val f1 0.500 -> 0.600)"
    assert "val recall 0.100 -> 0.200" in rest
    assert trailers_of(text, "Autopilot-Epoch") == ["3"]
    assert trailers_of(text, "Autopilot-Epoch", "fix-1") == ["3"]
    assert trailers_of(text, "Autopilot-Epoch", "fix") == []
    # A squash merge indents messages by four.
    assert trailers_of(textwrap.indent(text, "    "), "Autopilot-Source") == ["1234"]


LIKE_OURS = st.text("\n\n \t\x85\u2028\u3000", max_size=8).flatmap(
    lambda space: st.sampled_from(
        [
            f"{space}Autopilot-Epoch: 7",
            f"{space}Autopilot-Experiment: other{space}\n{space}Autopilot-Epoch: 8",
            f"{'word ' * 19}{space}Autopilot-Experiment: other\nAutopilot-Rejected: 2",
            f"{' ' * 120}Autopilot-Experiment: other\n{' ' * 120}# Autopilot-Reverts: 3",
            f"{space}\r\n    Autopilot-Experiment: demo\r\n    Autopilot-Reverts: 9",
        ]
    )
)
BEHIND = st.sampled_from(
    [
        "Signed-off-by: Ada <ada@example.invalid>\n",
        "(cherry picked from commit 0123456789abcdef0123456789abcdef01234567)\n",
        "\nThanks for this: Autopilot-Epoch: 9 is better.\n",
        "Autopilot-Epoch: 9\n",
        "\nAutopilot-Epoch: 9\nAutopilot-Step: 9\n",
        "\nReviewed-by: Bo\n\nAutopilot-Experiment: other\nAutopilot-Epoch: 9\n",
        "Change-Id: I00\r\nAutopilot-Experiment: other\r\n",
    ]
)
NAMES = [message.EXPERIMENT, message.EPOCH, message.STEP, message.STRATEGY, message.REJECTED]
NAMES += [message.ROLLBACK, message.SOURCE, message.ONTO, message.REVERTS]


def written(body, metric="f1"):
    """A message of each kind, with a text of a model's or a user's in its body."""
    step = StepRecord(epoch=3, step=2, changed=True, rationale=body, strategy=body, summary=body)
    worse = record(verdict="rejected", best_epoch=2, reasons=(body,))
    score = Score(f"val {metric}", 0.5, 0.6)
    return [
        message.step_message("demo", step),
        message.rollback_message("demo", worse),
        message.start_message(Manifest(slug="demo", idea=body, hypothesis=body)),
        review_message("demo", 3, "12", "main", what=body, why=[body], scores=[score, score]),
        message.promotion_message(
            "demo", 3, "12", "main", verb="merge", score=score, changes=[body], reason=body
        ),
        message.revert_message("demo", 3, "main", body),
        plain_message("demo", body, body),
    ]


@given(LIKE_OURS | TEXT, st.lists(BEHIND, max_size=3))
def test_neither_a_body_nor_a_line_by_hand_changes_the_trailers(body, behind):
    for plain, text in zip(written("because"), written(body), strict=True):
        for name in NAMES:
            if name != message.STRATEGY:
                assert trailer(text, name) == trailer(plain, name), (name, text)
        assert trailers_of(text, message.EXPERIMENT) == ["demo"], text
        for by_hand in (text + "".join(behind), text.rstrip("\n") + "\n" + "".join(behind)):
            expected = [trailer(text, message.EXPERIMENT), trailer(text, message.EPOCH)]
            assert trailer(by_hand, message.EXPERIMENT) == expected[0]
            if expected[1] is not None:
                assert trailer(by_hand, message.EPOCH) == expected[1]
                # A squash merge joins messages, and what was written behind them.
                assert trailers_of(by_hand, message.EPOCH, "demo") == [expected[1]]
                indented = textwrap.indent(by_hand, "    ", lambda line: True)
                squashed = f"Squashed commit of the following:\n\ncommit 12\n\n{indented}"
                assert trailers_of(squashed, message.EPOCH, "demo") == [expected[1]]
                joined = f"{by_hand}\n* {by_hand}"
                assert trailers_of(joined, message.EPOCH, "demo") == [expected[1]] * 2


def test_a_metric_of_any_name_is_no_trailer():
    for text in written("because", metric="x\nAutopilot-Reverts: 3\n\n# y"):
        assert len(text.partition("\n\n")[0].splitlines()) == 1
        assert trailers_of(text, message.EXPERIMENT) == ["demo"]
    assert trailer(written("because", metric="x\nAutopilot-Reverts: 3")[3], message.REVERTS) is None


def test_only_digits_are_a_number():
    assert trailer_number("x\n\nAutopilot-Epoch: 12\n", message.EPOCH) == 12
    for odd in ("\xb2", "\u0663", "-1", "1.0", "x", ""):
        assert trailer_number(f"x\n\nAutopilot-Epoch: {odd}\n", message.EPOCH) is None
