"""autopilot.report.collection: the content of a report, and what its limits leave out."""

from __future__ import annotations

import shutil

import pytest
from checkouts import own_home

from autopilot.git.commands import run_git
from autopilot.git.repository import Repository
from autopilot.report import contents
from autopilot.report.collection import COLUMNS, between, collect
from autopilot.report.comparison import settings
from autopilot.report.contents import DiffPool
from autopilot.tracking.notebook import Notebook
from tests.cli.report_story import EVIL, MARKUP, SLUG, SPACED, tell


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The experiment's repository; tests only read it, or a copy of it."""
    folder = tmp_path_factory.mktemp("story")
    with pytest.MonkeyPatch.context() as patch:
        own_home(patch, folder)
        tell(folder / "repo")
        yield folder / "repo"


@pytest.fixture
def notebook(told) -> Notebook:
    return Notebook(Repository.discover(told), SLUG)


def _starts(report):
    return [row[COLUMNS.index("from")] for row in report.rows]


def test_each_epoch_says_where_it_started_and_what_it_turned(notebook):
    report = collect(notebook)
    details = report.details
    assert _starts(report) == [None, 0, 1, 1, 3]
    turned = [(detail["fixed"], detail["broken"]) for detail in details]
    # v4 was not evaluated in epoch 2: that is neither fixed nor broken.
    assert turned[1:4] == [(["v2"], []), ([], ["v1"]), (["v3"], [])]
    counts = [tuple(d["counts"][x] for x in ("passed", "failed", "error")) for d in details]
    assert counts[:3] == [(1, 2, 1), (2, 1, 1), (1, 1, 1)]
    failure = details[1]["failures"][0]
    assert failure.outcome == "error" and EVIL in failure.text
    assert [s["violations"] for s in details[2]["steps"]] == [(f"it wrote outside.txt {EVIL}",)]
    assert [lesson["outcome"] for lesson in details[3]["lessons"]] == ["kept"]
    assert details[4]["steps"][0]["commit"] == ""
    assert report.forks == [("story-fork", 1, 0)]


def test_an_epochs_changes_are_its_own_and_the_net_change_is_the_bests(notebook):
    report = collect(notebook)
    changed = {f.path: f for f in report.details[1]["changes"].files}
    assert changed.keys() == {SPACED, MARKUP, "rules/new.txt", "rules/picture.bin"}
    assert (changed["rules/new.txt"].status, changed[SPACED].status) == ("added", "changed")
    assert (changed[SPACED].added, changed[SPACED].removed) == (2, 1)
    assert report.pool.patches[changed["rules/picture.bin"].patch].binary
    hunk = report.pool.patches[changed[SPACED].patch].hunks[0]
    assert hunk.lines == (" one", "-two", "+two changed in 1", " three", f"+{EVIL}")
    assert {f.path for f in report.net.files} == changed.keys()
    assert report.details[4]["changes"].files == ()


def test_the_same_change_is_kept_once(notebook):
    pool = DiffPool(notebook.repo)
    first = collect(notebook, pool)
    count = len(pool.patches)
    second = collect(notebook, pool)
    assert (first.rows, first.details) == (second.rows, second.details)
    assert len(pool.patches) == count


def test_cost_is_told_by_role_and_the_rest_has_a_name(notebook):
    roles = {role["role"]: role for role in collect(notebook).roles}
    assert list(roles) == ["optimizer", "other", "judge"]
    judge = roles["judge"]
    assert (judge["calls"], judge["cost"][2]) == (1, 0.02)
    assert [epoch for epoch, *_ in judge["by_epoch"]] == [1]
    # 1,000 tokens and 0.10 dollars were spent, 600 and 0.07 by recorded calls.
    _, tokens, usd, *_ = roles["other"]["cost"]
    assert (tokens, usd) == (400, pytest.approx(0.03))


def test_limits_on_diffs_say_what_is_missing(notebook, monkeypatch):
    monkeypatch.setattr(contents, "LINES_A_FILE", 2)
    monkeypatch.setattr(contents, "LINE_LENGTH", 10)
    monkeypatch.setattr(contents, "FILES_A_CHANGE", 3)
    monkeypatch.setattr(contents, "LINES_IN_ALL", 6)
    report = collect(notebook)
    told = "\n".join(report.left_out())
    # Epoch 1 and the net change have four files each.
    assert "2 changed files are not listed" in told
    assert report.pool.files_left_out and "changed files are missing" in told
    assert report.pool.lines_left_out and "at the end of long diffs are missing" in told
    assert "`autopilot diff EPOCH -e story` shows it" in told


def test_a_line_that_is_cut_says_how_much_is_missing(notebook, monkeypatch):
    monkeypatch.setattr(contents, "LINE_LENGTH", 10)
    report = collect(notebook)
    lines = [line for p in report.pool.patches for hunk in p.hunks for line in hunk.lines]
    assert f"+{EVIL[:9]}... [{len(EVIL) - 9} characters more]" in lines
    assert "very long lines of diffs are cut" in report.left_out()[0]


def test_notes_that_were_not_fetched_are_named(told, tmp_path):
    shutil.copytree(told, tmp_path / "copy")
    notebook = Notebook(Repository.discover(tmp_path / "copy"), SLUG)
    for kind in ("traces", "gradients"):
        ref = notebook.layout.notes(kind)
        run_git(["update-ref", "-d", ref], cwd=notebook.repo.workdir)
    report = collect(notebook)
    assert report.left_out() == [
        "there are no notes of gradients, traces here: `autopilot fetch story` brings them"
    ]
    assert report.results == {}
    assert _starts(report) == [None, 0, 1, 1, 3]


def test_settings_name_what_was_given(notebook):
    told = settings(notebook.manifest)
    assert told["idea"] == EVIL
    assert told["parameter rules"] == "rules"


def test_best_states_of_two_experiments_differ_by_what_came_after_the_fork(notebook):
    fork = Notebook(notebook.repo, "story-fork")
    changes = between(notebook, fork, DiffPool(notebook.repo))
    assert [f.path for f in changes.files] == [SPACED]


def test_of_many_epochs_the_newest_have_details_and_those_they_are_compared_with(notebook):
    whole, some = collect(notebook), collect(notebook, details=1)
    violations = COLUMNS.index("violations")
    assert [row[:violations] for row in some.rows] == [row[:violations] for row in whole.rows]
    # The newest, the best state that it started from, and the baseline.
    shown = [bool(detail["counts"]["passed"]) for detail in some.details]
    assert shown == [True, False, False, True, True]
    for number in (0, 3, 4):
        assert some.details[number]["counts"] == whole.details[number]["counts"]
    assert some.details[4]["steps"] == whole.details[4]["steps"]
    assert not some.details[1]["changes"].files
    sentence = "2 earlier epochs have no details here; `autopilot show EPOCH -e story` has them"
    assert sentence in some.left_out()
    assert not any("no details" in each for each in whole.left_out())
