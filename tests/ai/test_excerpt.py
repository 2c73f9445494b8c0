"""Parts of a long text."""

from __future__ import annotations

from autopilot.ai.excerpt import excerpt

TEXT = "\n".join(f"rule {n}: answer kindly" for n in range(1, 501))


def test_the_lines_that_feedback_names_are_shown_with_those_around() -> None:
    text = TEXT.replace("rule 300: answer kindly", "rule 300: shout at customers")
    shown = excerpt(text, "customers were shouted at", 300)
    assert shown.splitlines() == [
        "...",
        "298\trule 298: answer kindly",
        "299\trule 299: answer kindly",
        "300\trule 300: shout at customers",
        "301\trule 301: answer kindly",
        "302\trule 302: answer kindly",
        "...",
    ]


def test_a_line_number_counts_most() -> None:
    for said in ("see prompt.md:77", "what stands in line 77 misled it"):
        assert "77\trule 77" in excerpt(TEXT, said, 100)


def test_it_never_takes_more_room_than_there_is() -> None:
    for room in (0, 10, 100, 1000):
        assert len(excerpt(TEXT, "answer kindly, rule 5, line 9", room)) <= room


def test_feedback_that_points_nowhere_shows_nothing() -> None:
    assert excerpt(TEXT, "zzz", 1000) == ""
