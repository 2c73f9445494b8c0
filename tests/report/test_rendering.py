"""autopilot.report.rendering: tables and foreign text in Markdown."""

import re

import pytest

from autopilot.git.objects import LineCounts
from autopilot.report.rendering import file_table, plain


def test_a_table_of_files_counts_those_beyond_its_limit():
    counts = {
        "a|b.txt": LineCounts(2, 1, False),
        "logo.png": LineCounts(0, 0, True),
        "c.txt": LineCounts(1, 0, False),
    }
    head, ruler, *rows = file_table(counts, 2)
    assert (head, ruler) == ("| file | added | removed |", "| --- | ---: | ---: |")
    assert rows == [
        "| a&#124;b.txt | +2 | -1 |",
        "| logo.png | binary |  |",
        "| and 1 more file |  |  |",
    ]
    assert len(file_table(counts, 3)) == 5


@pytest.mark.parametrize("text", ["<b>", "[a](http://b)", "@all", "`x`", "$x$", "a|b", "**a**"])
def test_foreign_text_makes_no_markup(text):
    # Without entities, and without characters behind a backslash, no mark is left.
    shown = re.sub(r"\\.|&#?\w+;", "", plain(text))
    assert not set(shown) & set("<>@`$|*[]")


def test_a_text_is_cut_where_a_length_is_given():
    assert plain("x" * 300) == "x" * 199 + "…"
    assert plain("x" * 300, None) == "x" * 300
