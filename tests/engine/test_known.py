"""What a run knows from other experiments: what counts for which state, and what does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from checkouts import commit_all
from levels import LEVELS

from autopilot.core.progress import Position
from autopilot.core.records.record import TASK, Manifest, TraceRecord
from autopilot.engine.board import Child
from autopilot.engine.known import RecordedResults, _is_made_here, _measure
from autopilot.engine.options import Options
from autopilot.engine.request import Request
from autopilot.engine.session import Session
from autopilot.git.commands import run_git
from autopilot.git.objects import tree_of
from autopilot.git.refs import create_ref
from autopilot.git.repository import Repository
from autopilot.sandbox import audit_hooks
from autopilot.sharing.fetching import fetch
from autopilot.tracking.notebook import Notebook

VAL = Position("val")
# Batches whose result has more than their items are not known.
PLAIN = LEVELS.replace('metrics={"chance": random.random()},', "")


@pytest.fixture
def target(target: Repository, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """The target of `commit_levels` without a metric of its own."""
    # Another test of this process may have used them: then anything may be of programs.
    for name in audit_hooks._SPAWNED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return change(target)


def change(target: Repository, line: str = "") -> Repository:
    """Commits the target, with a line that each batch begins with."""
    head = "def forward(self, batch):\n"
    text = PLAIN.replace(head, f"{head}        {line}\n")
    (target.workdir / "levels.py").write_text(f"import os, pathlib, subprocess, time\n{text}")
    return Repository.discover(commit_all(target.workdir, "plain"))


def start(target: Repository, slug: str, is_supervised: bool = True, **given: Any) -> Session:
    """A session; what is no field of a request is an option."""
    fields = {name: given.pop(name) for name in [*given] if name in Request.__annotations__}
    request = Request(
        target.workdir,
        "levels.py",
        slug=slug,
        options=Options(**{"max_epochs": 1, **given}),
        **fields,
    )
    return Session.start(request, child=Child(is_supervised=is_supervised))


@contextmanager
def knowing(target: Repository, **given: Any) -> Iterator[tuple[RecordedResults, Session]]:
    """What a second experiment would know, which is not run."""
    session = start(target, "second", **given)
    try:
        cache = session.trainer.experiment.cache
        assert isinstance(cache, RecordedResults)
        yield cache, session
    finally:
        session.discard()


def sources(target: Repository, at: Position = VAL, **given: Any) -> list[str]:
    """The passes over the state of HEAD that a second experiment would know."""
    with knowing(target, **given) as (cache, _):
        return [each.source for each in cache.sources(at, tree_of(target, target.head_commit()))]


def passes(target: Repository, slug: str) -> list[TraceRecord]:
    """All passes that an experiment has recorded."""
    notebook = Notebook(target, slug)
    commits = [epoch.commit for epoch in notebook.epochs]
    return [each for commit in commits for each in notebook.journal.read_on(commit, TraceRecord)]


def test_a_pass_stands_for_one_of_the_same_state_split_and_measurement(target) -> None:
    start(target, "first").run()
    notebook, tree = Notebook(target, "first"), tree_of(target, target.head_commit())
    with knowing(target, seed=7, max_wait=3) as (cache, session):
        said = "first, epoch 0 measured this state: equal items keep its results (or --no-cache)"
        assert said in session.notes
        (found,) = cache.sources(VAL, tree)
        assert [item.success for item in found.data()] == [True, True, False, False]
        assert found.source == "first@0" and found.reach == ("content",)
        (again,) = cache.sources(replace(VAL, repeat=1), tree)
        assert again.repeat == 1
        assert [x.split for x in cache.sources(Position("test", 3), tree)] == ["test"]
        assert cache.sources(Position("train"), tree) == []
        assert cache.sources(replace(VAL, repeat=2), tree) == []
        later = notebook.index.epochs[1].tree
        assert [x.source for x in cache.sources(VAL, later)] == ["first@1"]
        assert cache.sources(VAL, tree[::-1]) == []
    # Another commit is another state, and changes that are taken along make another one.
    (target.workdir / "level.txt").write_text("3\n")
    with knowing(target, include_dirty=True) as (_, session):
        assert not any("measured this state" in note for note in session.notes)
    assert sources(change(target, "None")) == []


def test_what_was_measured_in_another_way_does_not_count(target) -> None:
    start(target, "first").run()
    assert sources(target) == ["first@0"]
    for given in (
        {"hparams": {"size": "2"}},
        {"monitor": "accuracy"},
        {"failed_value": 0.0},
    ):
        assert sources(target, **given) == [], given


def test_a_pass_of_which_it_is_not_known_what_it_depends_on_does_not_count(target) -> None:
    start(target, "first", is_supervised=False).run()
    assert sources(target) == []


def test_chance_is_the_seed_the_epoch_and_who_draws(target) -> None:
    target = change(target, "random.random()")
    start(target, "first").run()
    assert sources(target) == ["first@0"]
    assert sources(target, replace(VAL, epoch=1)) == []
    for given in ({"seed": 1}, {"jobs": 2}, {"num_workers": 2}):
        assert sources(target, **given) == [], given


def test_results_of_programs_count_where_the_user_says_so(target) -> None:
    target = change(target, "subprocess.run(['true'], check=True)")
    start(target, "first").run()
    with knowing(target) as (_, session):
        assert any("of programs, and what those read is not known" in x for x in session.notes)
    assert sources(target) == []
    assert sources(target, cache=True) == ["first@0"]


def test_the_environment_is_as_it_was_and_no_secret(target, monkeypatch) -> None:
    target = change(target, "os.environ.get('LEVEL'), os.environ.get('MY_API_KEY')")
    start(target, "first").run()
    assert sources(target) == ["first@0"]
    monkeypatch.setenv("LEVEL", "7")
    assert sources(target) == []
    # Of a secret nothing is recorded that tells it from another one.
    monkeypatch.setenv("MY_API_KEY", "0123456789abcdef")
    start(target, "secret").run()
    assert sources(target) == []
    monkeypatch.delenv("MY_API_KEY")
    start(target, "third").run()
    assert sources(target) == ["third@0"]


def test_a_baseline_that_was_measured_with_two_results_is_no_source(target) -> None:
    drawn = PLAIN.replace("Datum(success", "Datum(feedback=str(time.time_ns()), success")
    (target.workdir / "levels.py").write_text(f"import time\n{drawn}")
    target = Repository.discover(commit_all(target.workdir, "noisy"))
    start(target, "first").run()
    assert len(Notebook(target, "first").epochs) == 2
    assert sources(target) == []


def test_who_has_measured_the_state_with_another_result_knows_better(target) -> None:
    beside = target.workdir.parent / "beside"
    beside.write_text("")
    target = change(target, f"more = os.stat({str(beside)!r}).st_size")
    text = (target.workdir / "levels.py").read_text()
    (target.workdir / "levels.py").write_text(text.replace("level >=", "level - more >="))
    target = Repository.discover(commit_all(target.workdir, "beside"))
    start(target, "first", max_epochs=2).run()
    assert sources(target) == ["first@0"]
    beside.write_text("1")
    start(target, "second").run()
    Session.resume(target.workdir, "second", Options(max_epochs=2), child=Child()).run()
    assert not any(record.known for record in passes(target, "second"))


def test_links_count_by_their_content_and_all_of_it_was_read(target) -> None:
    data = target.workdir / "data"
    data.mkdir()
    (data / "a.txt").write_text("a\n")
    (target.workdir / ".gitignore").write_text("data\n")
    target = change(target, "pathlib.Path('data/a.txt').read_text()")
    start(target, "first", links=["data"]).run()
    assert sources(target, links=["data"]) == ["first@0"]
    (data / "a.txt").write_text("b\n")
    assert sources(target, links=["data"]) == []
    (data / "a.txt").write_text("a\n")
    (data / "b.txt").write_text("nothing has read it\n")
    assert sources(target, links=["data"]) == []


def test_what_was_fetched_counts_where_the_user_says_so(target, tmp_path, monkeypatch) -> None:
    start(target, "first").run()
    run_git(["clone", "--quiet", str(target.workdir), str(tmp_path / "clone")], cwd=tmp_path)
    clone = Repository.discover(tmp_path / "clone")
    fetch(clone, "origin")
    monkeypatch.chdir(clone.workdir)
    assert sources(clone) == []
    assert sources(clone, cache=True) == ["first@0"]


def test_a_ref_is_made_here_if_runs_alone_have_moved_it(repository) -> None:
    name, head = "refs/heads/autopilot/x", repository.head_commit()
    assert not _is_made_here(repository, name)  # there is no reflog
    create_ref(repository, name, head, "autopilot(x): start")
    assert _is_made_here(repository, name)
    tree = run_git(["commit-tree", "HEAD^{tree}", "-m", "x"], cwd=repository.workdir)
    other = tree.stdout.decode().strip()
    for number, word in enumerate(("autopilot: fetch from origin", "by hand")):
        name = f"refs/heads/autopilot/y{number}"
        create_ref(repository, name, head, "autopilot(y): start")
        run_git(["update-ref", "-m", word, name, other], cwd=repository.workdir)
        assert not _is_made_here(repository, name), word


def test_who_edits_a_task_is_no_part_of_how_it_is_measured() -> None:
    def measured(target: str, **hparams: str) -> Any:
        return _measure(Manifest(slug="x", target=target, hparams=hparams), Options())

    assert measured(TASK, edit="a", model="b", eval="c") == measured(TASK, edit="d", eval="c")
    assert measured(TASK, eval="c") != measured(TASK, eval="d")
    assert measured("x.py", model="b") != measured("x.py", model="c")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"in_place": True}, "--in-place"),
        ({"fresh": "never"}, "--fresh never"),
        ({"is_supervised": False}, "a process that has threads"),
        ({"measure_noise": False}, "--no-measure-noise"),
        ({"in_place": True, "measure_noise": False}, "--in-place and --no-measure-noise"),
    ],
)
def test_what_a_result_depends_on_is_not_known_with_some_options(target, given, named) -> None:
    for cache in (None, True):
        session = start(target, "second", cache=cache, **given)
        assert session.trainer.experiment.cache is None
        said = [note for note in session.notes if "--cache" in note]
        session.discard()
        assert said == [f"--cache has no effect with {named}"] * bool(cache)


def test_no_cache_is_no_cache(target) -> None:
    session = start(target, "second", cache=False)
    assert session.trainer.experiment.cache is None
    session.discard()


def test_what_a_result_depends_on_in_words(target) -> None:
    tree = tree_of(target, target.head_commit())
    with knowing(target) as (cache, session):
        files = session.store.files
        files.known = files.present(write=False)
        session.inputs.uses.add("chance")  # of the pass before
        session.module.level.read_text()
        cache.begin(tree)
        assert cache.reach() == ("content",)
        session.inputs.uses |= {"chance", "network"}
        assert cache.reach() == ("chance", "content", "network")
        # The files are those of another state than this process imported.
        files.known = {}
        session.inputs.uses.clear()
        cache.begin(tree)
        assert cache.reach() == ("content", "stale")
        session.module.level.read_text()
        assert cache.reach() == ("content",)


def test_of_a_state_that_was_measured_once_nothing_is_believed(target) -> None:
    start(target, "first", max_epochs=2).run()
    assert sources(target) == ["first@0"]
    start(target, "second", budget_evaluations=11).run()  # there is no room for a second time
    session = Session.resume(
        target.workdir, "second", Options(max_epochs=2, budget_evaluations=99), child=Child()
    )
    session.run()
    assert not any(record.known for record in passes(target, "second"))
