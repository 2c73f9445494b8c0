"""autopilot report: the command, the page as a file, and the page in a browser."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import socket
import struct
import threading
import zlib
from contextlib import closing
from copy import copy
from pathlib import Path

import pytest
from checkouts import commit_all, make_checkout, own_home

from autopilot import (
    AutoPilotModule,
    Callback,
    Choice,
    ConfigParameter,
    DataLoader,
    Datum,
    Experiment,
    GitStore,
    Optimizer,
    PathParameter,
    Range,
    SearchOptimizer,
    Step,
    Trainer,
)
from autopilot.cli.context import Context
from autopilot.cli.output import FOR_AGENT, Output
from autopilot.cli.pages import epoch as epoch_page
from autopilot.cli.pages import listing
from autopilot.cli.reading import report
from autopilot.core.figures import changed_settings, setting
from autopilot.core.search import SearchLoop
from autopilot.core.selection import selection
from autopilot.errors import UsageError
from autopilot.git.commands import run_git
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import Repository
from autopilot.report.collection import between, collect
from autopilot.report.contents import DiffPool, dumped, packed
from autopilot.report.rendering import markdown, page
from autopilot.report.search import SearchStory
from autopilot.report.serving import ReportServer
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook
from tests.browser import chromium, find_chromium
from tests.cli.report_story import MARKUP, SHOWN, SPACED, tell

needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
LOADED = "!!document.getElementById('detail-title')"
TITLE = "document.getElementById('detail-title').textContent"
CELLS = (
    "[...document.querySelectorAll('.panel tbody tr')]"
    ".map(row => [...row.children].map(cell => cell.textContent))"
)
PLACE = "(box => [box.x, box.y, box.height])(document.querySelector('{}').getBoundingClientRect())"
DIFF = "[...document.querySelectorAll('.detail .diff')].map(e => e.textContent).join('\\n')"


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The experiment, in a repository whose name has a space and an umlaut."""
    folder = tmp_path_factory.mktemp("story")
    with pytest.MonkeyPatch.context() as patch:
        own_home(patch, folder)
        yield tell(folder / "my größe")


@pytest.fixture(scope="module")
def written(story, tmp_path_factory):
    """The page as a file."""
    path = tmp_path_factory.mktemp("page") / "story ü.html"
    path.write_text(page([collect(story)]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """An experiment whose parameter has a number, another one with a condition, and a choice."""
    top = tmp_path_factory.mktemp("tuned")
    (top / "cache.toml").write_text('size = 16\nkind = "fifo"\nways = 2  # of lru\n')
    commit_all(top)
    module = Cache(top)
    Trainer(experiment=Experiment(GitStore("tuned", top))).fit(module, max_epochs=12)
    return Notebook(Repository.discover(top), "tuned")


class Cache(AutoPilotModule):
    """The size decides; from 3000 on, it fails."""

    monitor, mode = "misses", "min"

    def __init__(self, top):
        super().__init__()
        spaces = {"size": Range(16, 4096, log=True), "kind": Choice(["fifo", "lru"])}
        spaces["ways"] = Range(1, 8, when={"kind": "lru"})
        self.cache = ConfigParameter(top / "cache.toml", spaces)

    def forward(self, batch):
        size = self.cache.present()["size"]
        if size > 3000:
            raise MemoryError("too large")
        return Datum(items=[Datum(metrics={"misses": abs(size - 512.0)})])

    def val_dataloader(self):
        return [[{"id": "bench"}]]

    def configure_optimizers(self):
        return SearchOptimizer(self.parameters(), "random", seed=3)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search: one candidate is kept, two stay beside it, one comes to the first state again."""
    top = tmp_path_factory.mktemp("searched")
    (top / "letter.txt").write_text("a")
    commit_all(top)
    loop = SearchLoop(4, 1, selection("frontier"), None, ["accuracy", "size:min"])
    with closing(Experiment(GitStore("search", top))) as experiment:
        Trainer(experiment=experiment, loop=loop).fit(Letters(top), max_epochs=1)
    return Notebook(Repository.discover(top), "search")


class PutLetter(Optimizer):
    def step(self):
        letter = "bcda"[self.proposal[0] - 1]
        self.parameters[0].write_text(letter)
        return Step(f"put {letter}, <img src=x>", letter)


class Letters(AutoPilotModule):
    """A letter passes some of two items, and has a size."""

    passed = ("x", "xy", "y", "")
    sizes = (5, 4, 3, 1)

    def __init__(self, top):
        super().__init__()
        self.letter = PathParameter(top / "letter.txt")

    def forward(self, batch):
        at = "abcd".index(self.letter.read_text())
        size = {"size": self.sizes[at]}
        passed = [x.metadata["at"] in self.passed[at] for x in batch.items]
        return Datum(items=[Datum(success=x, metrics=size, feedback="more") for x in passed])

    def val_dataloader(self):
        return DataLoader([{"id": at, "at": at} for at in "xy"], 2)

    def configure_optimizers(self):
        return PutLetter(self.parameters())


@pytest.fixture(scope="module")
def compared(story, tmp_path_factory):
    """The page of two experiments."""
    pool, other = DiffPool(story.repo), Notebook(story.repo, "story-fork")
    changes = between(story, other, pool)
    path = tmp_path_factory.mktemp("page") / "compared.html"
    path.write_text(page([collect(story, pool), collect(other, pool)], changes), encoding="utf-8")
    return path


# --- the command -------------------------------------------------------------------------------


def call(story, *, as_json=False, **options):
    """What the command prints."""
    out = io.StringIO()
    err = io.StringIO() if as_json else out
    output = Output(as_json=as_json, stdout=out, stderr=err)
    report(Context(story.repo.workdir, None, output), **options)
    return out.getvalue()


def git_status(story):
    return run_git(["status", "--porcelain", "-uall"], cwd=story.repo.workdir).stdout.decode()


def test_by_default_it_is_written_where_git_does_not_look(story):
    before = git_status(story)
    told = call(story, name="story")
    path = story.repo.common_dir / "autopilot" / "reports" / "story.html"
    assert f"wrote {path}" in told
    assert f"read it: {path.as_uri()}" in told
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert git_status(story) == before


def test_a_file_that_git_sees_is_pointed_out(story):
    target = Path(story.repo.workdir) / "out" / "page.html"
    try:
        told = call(story, name="story", to=Path("out/page.html"))
        assert "note: out/page.html is in your repository and not ignored" in told
        assert target.is_file()
        assert [p.name for p in target.parent.iterdir()] == ["page.html"]
    finally:
        target.unlink()
        target.parent.rmdir()


def test_a_folder_gets_the_file_by_its_name(story, tmp_path):
    document = json.loads(call(story, as_json=True, name="story", to=tmp_path))
    path = tmp_path / "story.html"
    assert document == {
        "experiments": ["story"],
        "path": str(path),
        "bytes": path.stat().st_size,
        "left_out": [],
    }


def test_markdown_goes_to_a_file_too(story, tmp_path):
    told = call(story, name="story", md=True, to=tmp_path)
    assert told == f"story: wrote {tmp_path / 'story.md'}\n"
    assert (tmp_path / "story.md").read_text(encoding="utf-8") == markdown(story)
    document = json.loads(call(story, as_json=True, name="story", md=True))
    assert (document["experiment"], document["markdown"]) == ("story", markdown(story))
    assert [item["outcome"] for item in document["items"]][:2] == ["passed", "passed"]


def test_an_agent_gets_no_results_of_val_items(story, monkeypatch):
    monkeypatch.setenv(FOR_AGENT, "1")
    document = json.loads(call(story, as_json=True, name="story", md=True))
    assert document == {"experiment": "story", "markdown": markdown(story)}


@pytest.mark.parametrize("there", [True, False])
def test_it_is_opened_where_there_is_a_browser(story, tmp_path, monkeypatch, there):
    asked = []
    monkeypatch.setattr("webbrowser.open", lambda address: asked.append(address) or there)
    told = call(story, name="story", to=tmp_path / "ü.html", open_it=True)
    assert asked == [(tmp_path / "ü.html").as_uri()]
    assert ("no browser was found; open it by hand" in told) is not there


def test_two_are_compared_in_one_file(story, tmp_path):
    document = json.loads(call(story, as_json=True, compare=("story", "story-fork"), to=tmp_path))
    assert document["experiments"] == ["story", "story-fork"]
    assert (tmp_path / "story..story-fork.html").is_file()


@pytest.mark.parametrize(
    "options",
    [
        {"name": "story", "compare": ("story", "story-fork")},
        {"md": True, "compare": ("story", "story-fork")},
        {"md": True, "open_it": True},
    ],
)
def test_what_does_not_go_together_is_refused(story, options):
    with pytest.raises(UsageError, match="do not go together"):
        call(story, **options)


def test_a_place_that_cannot_be_written_is_named(story, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write") as refused:
        call(story, name="story", to=tmp_path / "file" / "page.html")
    assert refused.value.hint == "move away what has that name, or name another file with -o"


def test_the_commands_of_a_real_run(place):
    place.run("run", "counter.py", "-e", "up", "--max-epochs", "2")
    with place.untouched():
        done = place.run("report")
        assert done.out.startswith("up: 2 epochs; wrote ")
        summary = place.run("report", "--md").out
    assert summary.startswith(
        "## up: val accuracy 0.000 → 0.400 (+0.400) in epoch 2, test 0.000 -> 0.400\n"
    )
    assert "| 1 | 0.200 | +0.200 | **kept** | up |" in summary
    assert "| x.txt | +1 | -1 |" in summary
    assert "autopilot show best -e up" in summary
    place.refused("report", "upp", says=("there is no experiment upp",), hints=("mean up",))


# --- the file ----------------------------------------------------------------------------------


def test_markdown_shows_foreign_text_as_it_is(story):
    text = markdown(story)
    assert "<img" not in text and "<!--" not in text and "@all" not in text
    assert "\u202e" not in text
    rows = [line for line in text.splitlines() if line.startswith("| 1 |")]
    # A bar in a text makes no column: 7 cells are 8 bars.
    assert rows[0].count("|") == 8
    assert "&lt;img src=x onerror=" in rows[0]


def test_markdown_of_many_epochs_says_what_it_leaves_out(story, monkeypatch):
    monkeypatch.setattr("autopilot.report.rendering._ROWS", 3)
    text = markdown(story)
    assert "2 epochs are not in this table: it has the latest kept ones" in text
    assert [x.split("|")[1].strip() for x in text.splitlines() if re.match(r"\| \d", x)] == [*"013"]


def test_no_text_ends_the_block_of_data(written):
    text = written.read_text(encoding="utf-8")
    assert text.count("</script>") == 2
    assert text.count("<script") == 2
    assert "<img" not in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1]
    assert "<" not in data
    assert json.loads(data)["experiments"][0]["idea"] == SHOWN


def test_the_policy_allows_this_script_and_style_and_nothing_else(written):
    text = written.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", text)


def test_numbers_that_json_lacks_and_names_that_are_no_text_are_told():
    assert dumped([float("nan"), float("-inf"), "a\udcff\u2066", (1,)]) == (
        r'["NaN","-Infinity","a�\\u2066",[1]]'
    )


def test_packed_rows_come_back_by_their_parts(monkeypatch):
    monkeypatch.setattr("autopilot.report.contents._PART_CHARACTERS", 10)
    made = packed(["123", "4567", "89", "x" * 40])
    assert made["starts"] == [0, 1, 3]
    parts = [zlib.decompress(base64.b64decode(part), -15) for part in made["parts"]]
    assert parts == [b'["123"]', b'["4567","89"]', f'["{"x" * 40}"]'.encode()]


def test_scores_that_were_measured_with_other_files_say_so(story):
    pool = DiffPool(story.repo)
    one, other = (collect(Notebook(story.repo, "story"), pool) for _ in range(2))
    for each, blob in ((one, "a" * 40), (other, "b" * 40)):
        own = copy(each.notebook.index)
        own.inputs = {"judge.py": blob, "data.csv": "c" * 40}
        each.notebook.__dict__["index"] = own
    text = page([one, other], between(one.notebook, other.notebook, pool))
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert data["comparison"]["inputs"] == [["judge.py", "a" * 10, "b" * 10]]


# --- numbers and choices -----------------------------------------------------------------------


def test_an_epochs_values_are_shown_wherever_it_is(tuned):
    best = tuned.best.record
    assert best.epoch > 0
    values = {n: setting(v) for n, v in best.values.items()}
    last = tuned.epochs[1]
    changed = changed_settings({"size": 16, "kind": "fifo"}, last.record.values)
    _, first, second, *_ = listing.table(tuned, tuned.epochs, None)
    assert " size 16, kind fifo " in first
    assert f" {changed} " in second
    assert listing.table(tuned, tuned.epochs[1:], None)[1].count(changed) == 1
    assert [e["values"] for e in epoch_page.epochs(tuned, tuned.epochs)] == [
        epoch.record.values for epoch in tuned.epochs
    ]
    shown = "\n".join(epoch_page.lines(tuned, tuned.best, 100))
    assert re.search(r"^parameter +value +best before \(epoch \d+\) +baseline$", shown, re.M)
    assert re.search(rf"^size +{values['size']} +\d+ +16$", shown, re.M)


def test_the_report_has_the_best_values_and_how_much_each_matters(tuned):
    data = collect(tuned).document()["tuned"]
    assert [each["name"] for each in data["names"]] == ["size", "kind", "ways"]
    size, kind, _ = data["names"]
    assert (size["space"], size["log"], size["first"]) == ("16..4096:log", True, "16")
    assert (kind["options"], kind["log"]) == (["fifo", "lru"], False)
    assert sum(each["share"] for each in data["names"]) == pytest.approx(1)
    assert size["share"] == max(each["share"] for each in data["names"])
    for epoch, (at, choice, number) in zip(tuned.epochs, data["points"], strict=True):
        values = epoch.record.values
        assert (at, ["fifo", "lru"][choice]) == (values["size"], values["kind"])
        assert number == values.get("ways")
    text = markdown(tuned)
    assert f"| parameter | baseline | best (epoch {tuned.best.number}) | importance |" in text
    assert f"| `size` | 16 | {tuned.best.record.values['size']} | {size['share']:.0%} |" in text


def test_the_log_plots_the_metric_over_each_value_the_most_important_first(tuned):
    size, *_ = collect(tuned).document()["tuned"]["names"]
    text = "\n".join(listing.slices(tuned, width=60))
    best, sizes = size["best"], [epoch.record.values["size"] for epoch in tuned.epochs]
    assert text.startswith(f"\nsize 16 -> {best}, importance {size['share']:.0%}\n")
    plot = text.split("\n\n")[0]
    assert re.search(rf"\n +{min(sizes)} +{max(sizes)}$", plot)
    kept = sum(epoch.verdict != "rejected" for epoch in tuned.epochs)
    assert 1 <= plot.count("●") <= kept and 1 <= plot.count("○") <= len(sizes) - kept
    assert re.search(r"\n +fifo +lru$", text, re.M)


def test_an_experiment_without_numbers_has_no_word_of_them(story):
    assert collect(story).document()["tuned"] is None
    assert "Numbers and choices" not in markdown(story)
    assert listing.slices(story, width=60) == []


# --- a search ----------------------------------------------------------------------------------


def test_the_report_has_the_frontier_and_every_candidate(searched):
    document = collect(searched).document()["search"]
    columns = document["columns"]
    rows = [dict(zip(columns, row, strict=True)) for row in document["candidates"]]
    assert [(r["number"], r["leads"], r["verdict"], r["value"]) for r in rows] == [
        (1, True, "kept", None),  # its value is its epoch's
        (2, False, "beside", 0.5),
        (3, False, "beside", 0.0),
        (4, False, "rejected", None),
    ]
    assert {r["from"] for r in rows} == {"epoch-0000"}
    assert rows[3]["reason"] == "it changed nothing"
    frontier = document["frontier"]
    assert frontier["objectives"] == {"accuracy": "max", "size": "min"}
    assert frontier["states"] == [
        ["epoch-0001", 1, 1.0, [1.0, 4.0], 2, True],
        ["epoch-0000", 0, 0.5, [0.5, 5.0], 1, False],
        ["epoch-0001-c2", 1, 0.5, [0.5, 3.0], 1, True],
        ["epoch-0001-c3", 1, 0.0, [0.0, 1.0], 0, True],
    ]
    text = markdown(searched)
    assert "| state | val accuracy | val size (lower is better) | best at (of 2) | commit |" in text
    assert re.search(r"\n\| epoch-0001-c3 \| 0.000 \| 1.000 \| 0 \| `[0-9a-f]{7}` \|\n", text)
    assert "3 of 4 states: no other one is as good on all items and objectives" in text


def test_too_many_states_are_left_out_and_epochs_without_details_keep_those_that_stay(
    searched, monkeypatch
):
    monkeypatch.setattr("autopilot.report.search.STATES_AT_MOST", 3)
    story = SearchStory.of(searched, detailed=())
    assert [row[1] for row in story.candidates] == [2, 3]
    assert story.document()["frontier"] is None
    says = "the frontier of 4 states is not drawn; `autopilot log search --frontier` lists it"
    assert collect(searched).left_out() == [says]
    assert says in markdown(searched)


def test_without_a_search_there_is_no_word_of_one(story):
    assert collect(story).document()["search"] is None
    assert "Frontier" not in markdown(story)


# --- in a browser ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        started.resize(1440, 1000)
        yield started


def opened(browser, path, hash_=""):
    browser.open(path.as_uri() + hash_)
    return browser


def quiet(browser):
    """No error, no request, and no text of others was run."""
    assert browser.problems == []
    assert browser.requests == []
    assert browser.evaluate("window.broken === undefined && !document.querySelector('img')")


@needs_chromium
def test_it_opens_on_the_best_epoch_without_an_error_or_a_request(browser, written):
    opened(browser, written).wait_for(LOADED)
    assert browser.evaluate(TITLE) == "Epoch 3"
    assert browser.evaluate("document.title") == "story, epoch 3"
    rows = browser.evaluate("[...document.querySelectorAll('.row:not(.headline)')].map(r => r.id)")
    assert rows == [f"row-{n}" for n in range(5)]
    quiet(browser)


@needs_chromium
def test_each_number_has_a_plot(browser, tuned, tmp_path):
    path = tmp_path / "tuned.html"
    path.write_text(page([collect(tuned)]), encoding="utf-8")
    opened(browser, path, "#values").wait_for("document.querySelectorAll('.slice').length === 3")
    rows = browser.evaluate(CELLS)
    assert [row[:3] for row in rows] == [
        ["size", "16..4096:log", "16"], ["kind", "fifo|lru", "fifo"], ["ways", "1..8", "-"],
    ]  # fmt: skip
    captions = "[...document.querySelectorAll('figcaption')].map(e => e.textContent)"
    assert browser.evaluate(captions) == ["size (log scale)", "kind", "ways"]
    quiet(browser)


@needs_chromium
def test_on_a_narrow_screen_a_short_list_leaves_no_gap(browser, written):
    browser.resize(390, 1400)
    try:
        opened(browser, written).wait_for(LOADED)
        gap = "(r => r.scrollHeight - document.querySelectorAll('.row[id]').length * 34)"
        assert browser.evaluate(f"{gap}(document.querySelector('.rows'))") <= 40
    finally:
        browser.resize(1440, 1000)


@needs_chromium
def test_a_click_shows_an_epochs_diff_and_foreign_text_stays_text(browser, written):
    opened(browser, written).wait_for(LOADED)
    browser.click("#row-1")
    browser.wait_for(
        f"{TITLE} === 'Epoch 1' && document.querySelectorAll('.detail .diff').length === 3"
    )
    diff = browser.evaluate(DIFF)
    assert "two changed in 1" in diff and SHOWN in diff
    names = browser.evaluate(
        "[...document.querySelectorAll('.file summary')].map(e => e.textContent)"
    )
    assert any(SPACED in name for name in names) and any(MARKUP in name for name in names)
    assert "A binary file" in browser.evaluate("document.querySelector('.detail').textContent")
    # Before and after stand side by side.
    sides = browser.evaluate(
        "['.del', '.add'].map(c => document.querySelectorAll(`.detail .diff > ${c}`)[1])"
        ".map(e => e.getBoundingClientRect())"
        ".map(b => [Math.round(b.x), Math.round(b.y)])"
    )
    assert sides[0][0] < sides[1][0] and sides[0][1] == sides[1][1]
    assert SHOWN in browser.evaluate("document.querySelector('.summary + .reasons').textContent")
    quiet(browser)


@needs_chromium
def test_violations_memory_and_failures_are_told(browser, written):
    opened(browser, written, "#epoch-2").wait_for(LOADED)
    text = browser.evaluate("document.querySelector('.detail').textContent")
    assert f"Outside of the parameters, undone:it wrote outside.txt {SHOWN}" in text
    said = "3 val items: 1 passed, 1 failed, 1 error; against epoch 1: 0 fixed, 1 broken"
    assert said in text
    assert f"rejected shout {SHOWN}" in text
    assert browser.evaluate("document.getElementById('row-2').textContent").endswith("violation")
    quiet(browser)


@needs_chromium
def test_links_into_it_reload_and_back_work(browser, written):
    opened(browser, written, "#epoch-1").wait_for(f"{LOADED} && {TITLE} === 'Epoch 1'")
    browser.click("#row-2")
    browser.wait_for(f"{TITLE} === 'Epoch 2' && location.hash === '#epoch-2'")
    browser.reload()
    browser.wait_for(f"{LOADED} && {TITLE} === 'Epoch 2'")
    browser.evaluate("history.back()")
    browser.wait_for(f"{LOADED} && {TITLE} === 'Epoch 1' && location.hash === '#epoch-1'")
    browser.click("#tab-tree")
    browser.wait_for("location.hash === '#tree' && !!document.querySelector('.treebox')")
    browser.evaluate("history.back()")
    browser.wait_for(f"{LOADED} && {TITLE} === 'Epoch 1'")
    # A link to what is not there is no error.
    opened(browser, written, "#epoch-99").wait_for(f"{LOADED} && {TITLE} === 'Epoch 3'")
    quiet(browser)


@needs_chromium
def test_it_works_by_keyboard(browser, written):
    opened(browser, written, "#epoch-0").wait_for(LOADED)
    browser.press("j", "ArrowDown")
    browser.wait_for(f"{TITLE} === 'Epoch 2'")
    browser.press("k")
    browser.wait_for(f"{TITLE} === 'Epoch 1' && location.hash === '#epoch-1'")
    browser.press("Enter")
    browser.wait_for("document.activeElement.id === 'detail-title'")
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press("Escape")
    browser.wait_for("document.activeElement.getAttribute('role') === 'grid'")
    active = "document.activeElement.getAttribute('aria-activedescendant')"
    assert browser.evaluate(active) == "row-1"
    browser.press("End")
    browser.wait_for(f"{TITLE} === 'Epoch 4' && {active} === 'row-4'")
    browser.press("/")
    browser.wait_for("document.activeElement.id === 'search'")
    browser.press("j")
    assert browser.evaluate(f"[document.activeElement.value, {TITLE}]") == ["j", "Epoch 4"]
    browser.evaluate("document.getElementById('tab-epochs').focus()")
    browser.press("ArrowRight")
    browser.wait_for("document.activeElement.id === 'tab-tree' && location.hash === '#tree'")
    browser.press("Escape")
    browser.wait_for("location.hash === '#epoch-4'")
    quiet(browser)


@needs_chromium
def test_the_list_is_filtered_by_verdict_and_by_words(browser, written):
    opened(browser, written).wait_for(LOADED)
    shown = "[...document.querySelectorAll('.row:not(.headline)')].map(r => r.id.slice(4)).join()"

    def choose(selector, value, event):
        browser.evaluate(
            f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('{event}')); }})"
            f"(document.querySelector('{selector}'))"
        )
        return browser.evaluate(shown)

    assert choose("#verdict", "kept", "change") == "1,3"
    assert choose("#verdict", "rejected", "change") == "2,4"
    assert choose("#verdict", "violations", "change") == "2"
    assert choose("#verdict", "all", "change") == "0,1,2,3,4"
    assert choose("#search", "WAIT", "input") == "4"
    assert choose("#search", "onerror='window", "input") == "0,1,2,3,4"
    assert choose("#search", "nothing of it", "input") == ""
    assert "no epoch matches" in browser.evaluate("document.querySelector('.rows').textContent")
    quiet(browser)


@needs_chromium
def test_in_the_heat_map_what_was_not_evaluated_is_not_what_failed(browser, written):
    opened(browser, written, "#items").wait_for("!!document.querySelector('.heatbox canvas')")
    browser.wait_for("document.querySelector('.heatbox canvas').width > 100")
    # As evaluated: v1 to v4 down, epochs across.
    browser.evaluate(
        "(e => { e.value = 'given'; e.dispatchEvent(new Event('change')); })"
        "(document.querySelectorAll('.panel select')[1])"
    )
    x, y, _ = browser.evaluate(PLACE.format(".heatbox"))
    wide, tall, left, top = 30, 15, 132, 22

    def cell(item, epoch):
        at = left + epoch * wide + wide / 2, top + item * tall + tall / 2
        browser.move_to(x + at[0], y + at[1])
        said = browser.evaluate("document.getElementById('tip').firstChild.textContent")
        corner = at[0] - wide / 2 + 4, at[1] - tall / 2 + 4
        color = browser.evaluate(
            "(context => { context.drawImage(document.querySelector('.heatbox canvas'),"
            f"{corner[0]}, {corner[1]}, 1, 1, 0, 0, 1, 1);"
            "return context.getImageData(0, 0, 1, 1).data.join(); })"
            "(new OffscreenCanvas(1, 1).getContext('2d'))"
        )
        return said, color

    states = [cell(0, 0), cell(0, 2), cell(2, 2), cell(3, 2)]
    assert [said for said, _ in states] == [
        "v1 in epoch 0: passed",
        "v1 in epoch 2: failed",
        "v3 in epoch 2: failed with an error",
        "v4 in epoch 2: not evaluated",
    ]
    assert len({color for _, color in states}) == 4
    browser.evaluate("document.querySelector('.panel details').open = true")
    browser.wait_for("document.querySelectorAll('.panel td').length > 0")
    cells = browser.evaluate(CELLS)
    # Passed, failed, with an error, not evaluated: what no item was has no column.
    assert cells[3] == ["v4", "0", "2", "2", "1"]
    quiet(browser)


@needs_chromium
def test_the_tree_the_cost_and_the_memory_are_told(browser, written):
    opened(browser, written, "#tree").wait_for("!!document.querySelector('.treebox canvas')")
    assert "story-fork took over from epoch 1." in browser.evaluate("main.textContent")
    browser.evaluate("document.querySelector('.panel details').open = true")
    browser.wait_for("document.querySelectorAll('.panel tbody tr').length === 5")
    rows = browser.evaluate(CELLS)
    assert rows[2] == ["2", "rejected", "1", "rolled back to 1"]
    assert rows[3] == ["3", "kept", "1", ""]
    x, y, _ = browser.evaluate(PLACE.format(".treebox"))
    browser.click_at(x + 30 + 46, y + 64)
    browser.wait_for(f"{LOADED} && {TITLE} === 'Epoch 1'")
    browser.click("#tab-cost")
    # The address changes before the page does.
    for said in ("optimizermodel-x1300$0.05", "other400$0.03"):
        browser.wait_for(f"main.textContent.includes({json.dumps(said)})")
    browser.click("#tab-memory")
    browser.wait_for(f"main.textContent.includes({json.dumps(f'shout {SHOWN}3')})")
    quiet(browser)


@needs_chromium
@pytest.mark.parametrize("width", [420, 1300])
def test_the_tree_of_a_search_and_its_frontier(browser, searched, tmp_path, width):
    path = tmp_path / "search.html"
    path.write_text(page([collect(searched)]), encoding="utf-8")
    said = "[...document.getElementById('tip').children].map(e => e.textContent)"
    browser.resize(width, 1000)
    try:
        opened(browser, path, "#tree").wait_for("!!document.querySelector('.treebox canvas')")
        x, y, _ = browser.evaluate(PLACE.format(".treebox"))
        browser.move_to(x + 158, y + 64 + 36)
        assert browser.evaluate(said) == [
            "epoch 1, candidate 2: c",
            "kept beside the best · 0.500",
            "put c, <img src=x>",
            "no other state is as good on all items and objectives, and better on one",
            "started from epoch 0",
        ]
        browser.move_to(x + 30 + 18, y + 64 + 2 * 36 + 30)
        nothing = ["epoch 1, candidate 4", "rejected · –", "it changed nothing"]
        assert browser.evaluate(said)[:3] == nothing
        browser.evaluate("document.querySelector('.panel details').open = true")
        browser.wait_for("document.querySelectorAll('.panel tbody tr').length === 5")
        made = "put c, <img src=x>"
        assert browser.evaluate(CELLS)[2] == ["1", "2", "beside", "0.500", "epoch 0", made]
        # Two objectives against one another: up the first, across the second.
        browser.click("#tab-frontier")
        browser.wait_for("!!document.querySelector('.plot canvas[aria-label]') && main.innerText")
        plot = ".panel .plot canvas"
        label = browser.evaluate(f"document.querySelector('{plot}').getAttribute('aria-label')")
        assert label.startswith("val accuracy against val size (lower is better): 4 states, 3 on")
        assert browser.evaluate(CELLS) == [
            ["epoch 1", "1.000", "4.000", "2", "best"],
            ["epoch 1, candidate 2", "0.500", "3.000", "1", ""],
            ["epoch 1, candidate 3", "0.000", "1.000", "0", ""],
        ]
        x, y, height = browser.evaluate(PLACE.format(".panel .plot"))
        browser.move_to(x + 62, y + height - 40)  # the lower left corner
        assert browser.evaluate(said) == [
            "epoch 1, candidate 3",
            "val accuracy: 0.000",
            "val size (lower is better): 1.000",
            "items that no state is better at (of 2): 0",
        ]
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        browser.click_at(x + 62, y + height - 40)
        browser.wait_for(f"{LOADED} && {TITLE} === 'Epoch 1'")
        rows = "[...document.querySelectorAll('.detail tbody')].at(-1).textContent"
        assert "30.000kept beside the bestepoch 0d" in browser.evaluate(rows)
        quiet(browser)
    finally:
        browser.resize(1440, 1000)


@needs_chromium
def test_a_point_of_the_curve_leads_to_its_epoch(browser, written):
    opened(browser, written).wait_for(LOADED)
    x, y, height = browser.evaluate(PLACE.format(".plot"))
    browser.click_at(x + 54, y + height - 40)
    browser.wait_for(f"{LOADED} && {TITLE} === 'Epoch 0'")
    names = browser.evaluate(
        "[...document.querySelectorAll('#chart option')].map(o => o.textContent)"
    )
    assert names == ["accuracy", "f1"]
    before = browser.evaluate("document.querySelector('.plot canvas').toDataURL()")
    browser.click("#chart input[type=checkbox]:not(:checked)")
    assert browser.evaluate("document.querySelector('.plot canvas').toDataURL()") != before
    label = browser.evaluate("document.querySelector('.plot canvas').getAttribute('aria-label')")
    assert label.startswith("story: val accuracy went from 0.250 to 0.750 in 4 epochs")
    quiet(browser)


@needs_chromium
def test_it_is_dark_where_the_system_is_and_where_one_wants_it(browser, written):
    ground = "getComputedStyle(document.body).backgroundColor"
    try:
        browser.resize(1440, 1000, dark=True)
        opened(browser, written).wait_for(LOADED)
        assert browser.evaluate(ground) == "rgb(20, 21, 23)"
        browser.click("#theme")
        assert browser.evaluate(ground) == "rgb(247, 247, 245)"
        browser.reload()
        browser.wait_for(LOADED)
        assert browser.evaluate(ground) == "rgb(247, 247, 245)"
    finally:
        browser.evaluate("localStorage.clear()")
        browser.resize(1440, 1000)
    quiet(browser)


@needs_chromium
def test_two_experiments_share_a_page(browser, compared):
    said = "From the best state of story to the best state of story-fork."
    opened(browser, compared).wait_for(f"main.textContent.includes({json.dumps(said)})")
    text = browser.evaluate("main.textContent")
    assert "forked fromstory, epoch 1" in text
    browser.wait_for("document.querySelectorAll('main .diff').length === 1")
    opened(browser, compared, "#1/epoch-2").wait_for(f"{LOADED} && {TITLE} === 'Epoch 2'")
    opened(browser, compared, "#2/epochs").wait_for(
        "main.textContent.includes('No epoch is judged yet')"
    )
    quiet(browser)


@needs_chromium
def test_nothing_but_its_own_script_can_run(browser, written):
    opened(browser, written).wait_for(LOADED)
    browser.evaluate(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.broken = 3';"
        "document.body.append(s);"
        "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'})); })()"
    )
    browser.wait_for("true")
    assert browser.evaluate("window.broken === undefined")
    assert len([p for p in browser.problems if "Content Security Policy" in p]) == 2


# --- as it goes on -------------------------------------------------------------------------------


class Look(Callback):
    """Looks at a batch's end, when its results are noted."""

    def __init__(self, look):
        self.look = look

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 1:
            self.look(trainer.current_epoch)


class Several(AutoPilotModule):
    """Three metrics, and words that are long."""

    monitor = "accuracy"

    def __init__(self, top):
        super().__init__()
        self.x = PathParameter(top / "x.txt")

    def forward(self, batch):
        x = int(self.x.read_text())
        values = {
            "a_metric_with_a_long_name": x / 3,
            "seconds_of_the_whole_request": 1234.5 / (x + 1),
        }
        passed = [x > item.metadata["at"] for item in batch.items]
        return Datum(
            items=[Datum(success=p, metrics=values, feedback="more " * 60) for p in passed]
        )

    def train_dataloader(self):
        items = [{"id": f"an-item-with-a-long-name-{n}", "at": n} for n in range(8)]
        return DataLoader(items, 4)

    val_dataloader = test_dataloader = train_dataloader

    def configure_optimizers(self):
        return Add(self.parameters())


class Add(Optimizer):
    def step(self):
        x = self.parameters[0]
        x.write_text(f"{int(x.read_text()) + 1}\n")
        return Step(
            "add one to it", f"a strategy with a long name {int(x.read_text()) % 3}", "w" * 300
        )


@pytest.fixture
def several(tmp_path, git_environment):
    """Goes on with an experiment, up to an epoch."""
    top = make_checkout(tmp_path / "repo", {"x.txt": "0\n"})

    def fit(max_epochs, look=lambda epoch: None):
        trainer = Trainer(experiment=Experiment(GitStore("several", top)), callbacks=[Look(look)])
        trainer.fit(Several(top), max_epochs=max_epochs)
        trainer.experiment.store.close()
        return top

    return fit


@needs_chromium
def test_a_served_page_shows_the_run_as_it_goes_on(browser, several):
    top = several(2)
    seen = []

    def look(epoch):
        if epoch == 3:
            seen.append(
                browser.wait_for("/Epoch 3: train/.test(live.textContent) && live.textContent")
            )

    with ReportServer(top, "several") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(server.url)
        browser.wait_for(f"{LOADED} && !live.hidden")
        assert "interrupted" not in browser.evaluate("live.textContent")
        browser.click("#row-1")
        browser.wait_for(f"{TITLE} === 'Epoch 1'")
        browser.evaluate(
            "window.marker = list => list; document.getElementById('search').value = ''"
        )
        several(4, look)
        browser.wait_for("!!document.getElementById('row-4')")
        # The same page: what is chosen stays, and it asked nobody else.
        assert browser.evaluate(f"{TITLE} === 'Epoch 1' && !!window.marker")
        assert "4 train" in seen[0] and "a strategy with a long name" in seen[0]
        browser.wait_for("live.textContent.includes('a strategy with a long name 2')")
        # Where another state is all that is new, the page's head has it too.
        head = "document.getElementById('head').textContent.includes"
        browser.wait_for(f"!{head}('running')")
        with ExclusiveLock(Layout("several").lock(Repository.discover(top))):
            browser.wait_for(f"{head}('running')")
        browser.wait_for(f"!{head}('running')")
        assert browser.problems == []
        assert {url.rpartition("/")[0] + "/" for url in browser.requests} == {server.url}
        # Another name for this machine, as of a page that leads a browser here, and no secret.
        for path, host in ((server.place, "evil.example"), ("/", server.hosts[0])):
            asked = http.client.HTTPConnection("127.0.0.1", server.server_port)
            asked.request("GET", path, headers={"Host": host})
            assert asked.getresponse().status == 404
        browser.open("about:blank")
        browser.requests.clear()
        server.shutdown()


@needs_chromium
@pytest.mark.parametrize("width", [1300, 420])
def test_the_tables_fit_with_three_metrics(browser, several, tmp_path, width):
    path = tmp_path / "several.html"
    path.write_text(page([collect(Notebook(Repository.discover(several(4)), "several"))]))
    browser.resize(width, 900)
    wide = (
        "[document.documentElement.scrollWidth, ...[...document.querySelectorAll('table, .rows')]"
    )
    wide += ".map(e => Math.ceil(e.getBoundingClientRect().right))]"
    try:
        for view in ("epoch-3", "tree", "items", "cost", "memory", "setup"):
            opened(browser, path, f"#{view}").wait_for("!!document.querySelector('main .card')")
            browser.wait_for("document.querySelectorAll('main *').length > 10")
            browser.evaluate("document.querySelectorAll('details').forEach(e => (e.open = true))")
            assert max(browser.evaluate(wide)) <= width, view
        quiet(browser)
    finally:
        browser.resize(1440, 1000)


def test_serve_says_what_it_does_not_go_with_and_that_a_port_is_taken(story):
    with pytest.raises(UsageError, match="--serve and --md"):
        call(story, serve=True, md=True)
    with ReportServer(story.repo.workdir, "story") as server:
        with pytest.raises(UsageError) as caught:
            call(story, serve=True, port=server.server_port)
        assert "another" in caught.value.hint
    with pytest.raises(UsageError, match="port 70000: there is no such port"):
        call(story, serve=True, port=70_000)


def test_a_served_page_of_an_experiment_that_was_deleted_says_so(story):
    with ReportServer(story.repo.workdir, "gone") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in ("", "report.json", "events"):
            asked = http.client.HTTPConnection("127.0.0.1", server.server_port)
            asked.request("GET", f"{server.place}{name}", headers={"Host": server.hosts[0]})
            answer = asked.getresponse()
            assert answer.status == 410 and "no experiment gone" in answer.read().decode(), name
        server.shutdown()


def test_a_served_page_says_nothing_of_a_client_that_has_gone(story, capfd):
    with ReportServer(story.repo.workdir, "story") as server:
        for name in ("", "events"):
            asked = socket.create_connection(server.server_address)
            place = f"GET {server.place}{name} HTTP/1.1\r\nHost: {server.hosts[0]}\r\n\r\n"
            asked.sendall(place.encode()[: None if name else 9])
            asked.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            asked.close()
            server.handle_request()
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(10)
    assert capfd.readouterr().err == ""
