"""The memory of experiments in git: blocked by hand, all together, and as a contract."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from experiments import Untouched, again, git, make

from autopilot.core.experiment import Experiment
from autopilot.core.parameter import PathParameter
from autopilot.core.records.record import Lesson, Manifest, MetricsRecord
from autopilot.errors import ExperimentError, LockHeldError
from autopilot.git.commands import run_git
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import Repository
from autopilot.git.worktrees import add_worktree
from autopilot.testing import MemoryContract
from autopilot.tracking import GitMemory, GitStore
from autopilot.tracking.holding import fork
from autopilot.tracking.layout import Layout
from autopilot.tracking.memory import lessons_before, memory_of, memory_of_all, memory_to_change
from autopilot.tracking.notebook import Notebook


def reopened(top, slug="demo"):
    """The experiment as a resumed run has it."""
    user = Repository.discover(top)
    place = add_worktree(user, top.parent / "again", Notebook(user, slug).manifest.base)
    store = GitStore(slug, place.workdir, in_place=False)
    experiment = Experiment(store, GitMemory(store))
    experiment.open([PathParameter(place.workdir / "rules", "*.txt")])
    return experiment


def test_what_is_blocked_by_hand_is_blocked_when_the_run_goes_on(top, demo):
    untouched, tip = Untouched(top), demo.tip
    with memory_to_change(demo.repo, "demo") as memory:
        memory.block_strategy("write", "enough of it")
    untouched.check()
    assert git(top, "rev-parse", "autopilot/demo") == tip
    noted = git(top, "notes", "--ref=autopilot/demo/memory", "show", tip).splitlines()
    assert json.loads(noted[-1])["outcome"] == "blocked"
    assert memory_of(again(demo)).blocked() == {"write": "enough of it"}
    experiment = reopened(top)
    assert experiment.memory.blocked() == {"write": "enough of it"}
    experiment.close()
    with memory_to_change(demo.repo, "demo") as memory:
        memory.unblock("write")
    assert memory_of(again(demo)).blocked() == {}


def test_decisions_by_hand_keep_their_order(top, demo):
    for number in range(12):
        with memory_to_change(demo.repo, "demo") as memory:
            memory.block_strategy(f"s{number}")
            memory.unblock("s3")
    found = memory_of(again(demo))
    assert list(found.blocked()) == [f"s{n}" for n in range(12) if n != 3]
    assert found.recall(outcome="blocked", limit=1)[0].strategy == "s11"


def test_a_running_experiment_is_not_written_to(top, demo):
    with (
        ExclusiveLock(Layout("demo").lock(demo.repo)),
        pytest.raises(LockHeldError, match=r"the experiment demo is running: .*process"),
        memory_to_change(demo.repo, "demo"),
    ):
        pytest.fail("it was held")
    with (
        pytest.raises(ExperimentError, match="there is no experiment nope"),
        memory_to_change(demo.repo, "nope"),
    ):
        pytest.fail("there is none")
    assert not Layout("nope").lock(demo.repo).exists()


def test_memory_of_a_stopped_experiment_is_what_a_resumed_run_knows(top, demo):
    store = GitStore("demo", top)
    # A kill between an epoch's lesson and its record: the epoch comes again, and its lesson too.
    store.annotate(store.tip, [Lesson(epoch=6, id="6", strategy="late", outcome="rejected")])
    with memory_to_change(demo.repo, "demo") as memory:
        memory.record("prune", "failed", reason="I know it")
    found = memory_of(again(demo))
    experiment = reopened(top)
    assert found.context() == experiment.memory.context()
    assert "late" not in found.context().tried
    assert [x.outcome for x in found.recall(strategy="prune")] == ["failed"]
    experiment.close()


def test_the_lessons_of_all_experiments(top, demo):
    make(top, "shop/one", [({"a.txt": "x\n"}, 0.5)])
    make(top, "shop/two", [({"a.txt": "y\n"}, 0.1)])
    with memory_to_change(demo.repo, "shop/two") as memory:
        memory.block_strategy("write")
    found, missing = memory_of_all(demo.repo)
    assert missing == {}
    counts = {slug: len(found.recall(experiment=slug)) for slug in ("demo", "shop/one", "shop/two")}
    assert counts == {"demo": 5, "shop/one": 1, "shop/two": 2}
    assert len(found.lessons) == 8
    shop, _ = memory_of_all(demo.repo, "shop")
    assert {lesson.experiment for lesson in shop.lessons} == {"shop/one", "shop/two"}
    git(top, "update-ref", "-d", "refs/notes/autopilot/shop/one/experiment")
    found, missing = memory_of_all(demo.repo)
    assert list(missing) == ["shop/one"]
    assert len(found.lessons) == 7


class TestGitMemory(MemoryContract):
    @pytest.fixture(autouse=True)
    def in_a_repository(self, repository):
        self.top = Path(repository.workdir)
        self.store: GitStore | None = None

    def make_memory(self, folder, block_after=3):
        fresh = self.store is None
        if self.store is not None:
            self.store.close()
        self.store = GitStore("notes", self.top)
        self.store.bind([PathParameter(self.top / "rules")])
        if fresh:
            self.store.begin(Manifest(slug="notes"))
        else:
            self.store.reopen()
        return GitMemory(self.store, block_after)


def test_plain_git_reads_a_lesson(repository):
    store = GitStore("notes", repository.workdir)
    store.bind([PathParameter(Path(repository.workdir) / "rules")])
    store.begin(Manifest(slug="notes"))
    GitMemory(store).learn(Lesson(epoch=1, id="1", strategy="guess", outcome="rejected"))
    shown = run_git(
        ["notes", "--ref=autopilot/notes/memory", "show", store.tip], cwd=repository.workdir
    )
    assert shown.stdout == (
        b'{"v":2,"kind":"memory","epoch":1,"id":"1","strategy":"guess","outcome":"rejected"}\n'
    )
    store.close()


def test_the_operations_of_the_store_itself(demo):
    store = GitStore("demo", demo.repo.workdir)
    assert store.status().state in ("finished", "stopped")
    assert store.diff(0, 1) == store.diff(store.tags()[0], store.tags()[1]) != ""
    with pytest.raises(ExperimentError, match="demo has no kept epoch 99"):
        store.diff(0, 99)
    other = store.branch("side", 0)
    assert (other.slug, other.exists(), other.status().state) == ("side", True, "created")
    best = store.branch("top")
    assert best.diff(best.log()[-1].id, store.tip) == ""
    kept = store.snapshot("as it is")
    assert store.diff(kept, store.tags()[0]) == ""
    event = store.promote(1, reason="audited", reviewer="Bo")
    assert (event.epoch, event.decision, event.reviewer) == (1, "promote", "Bo")


def test_a_summary_from_the_notes_is_that_of_the_experiment(top, demo):
    summary = demo.summary
    assert (summary.epochs, summary.kept, summary.best_epoch) == (5, 3, 5)
    assert (summary.baseline, summary.best, summary.gain) == (0.25, 0.875, 0.625)
    assert (summary.strategies["write"].used, summary.strategies["write"].kept) == (5, 3)
    assert summary.ended == "stopped"


def test_a_repeated_run_learns_the_recorded_lesson_of_each_candidate(repository):
    store = GitStore("notes", repository.workdir)
    store.bind([PathParameter(Path(repository.workdir) / "rules")])
    store.begin(Manifest(slug="notes"))
    candidates = [("1-c1", "kept"), ("1-c2", "rejected")]
    recorded = [Lesson(epoch=1, id=name, strategy=name, outcome=how) for name, how in candidates]
    memory = GitMemory(store, known={lesson.id: lesson for lesson in recorded})
    for name, _ in candidates:
        memory.learn(Lesson(epoch=1, id=name, strategy=name, outcome="failed"))
    assert memory.kept() == recorded
    store.close()


# --- lessons of earlier experiments --------------------------------------------------------------

NEW = Manifest(slug="new", parameters={"any": "rules"}, patterns={"any": "*.txt"})
ACCURACY = ("accuracy", "max")


def before(demo, asked="all", new=NEW, metric=ACCURACY, strategies=()):
    """The lessons that a new experiment takes, by experiment, and the sentences on them."""
    repo = Repository.discover(demo.repo.workdir)
    taken, line, said = lessons_before(repo, asked, new, metric, strategies)
    return {each.experiment: each for each in taken}, [*filter(None, [line]), *said]


def recorded(demo, slug, *lessons):
    """An experiment as its records say, which has no commits of its epochs."""
    fork(demo, 0, slug)
    store = GitStore(slug, demo.repo.workdir, in_place=False)
    judged = [MetricsRecord(id="0-val", split="val", metrics={}, verdict="baseline")]
    for lesson in lessons:
        verdict = "kept" if lesson.outcome == "kept" else "rejected"
        own = {"epoch": lesson.epoch, "id": f"{lesson.epoch}-val", "split": "val", "metrics": {}}
        judged += [MetricsRecord(verdict=verdict, **own)] if lesson.epoch else []
    store.annotate(store.tip, [*(replace(x, monitor="accuracy") for x in judged), *lessons])


def test_lessons_come_of_experiments_with_the_same_parameters_and_metric(demo):
    how = dict.fromkeys(range(1, 121), "rejected") | {3: "kept"}
    lessons = [Lesson(epoch=n, id=str(n), strategy="write", outcome=how[n]) for n in how]
    recorded(demo, "long", *lessons)
    with memory_to_change(demo.repo, "long") as memory:
        memory.record("prune", "failed", reason="last year " + "x" * 400)
        memory.block_strategy("rewrite", "audits read it")
        memory.block_strategy("undone")
        memory.unblock("undone")
    found, said = before(demo)
    assert set(found) == {"long", "demo"}
    # Of those alike, the newest two, and the newest that was kept; of decisions, those that stand.
    assert said == ["memory: 9 of 129 lessons of long, demo (--memory-from none: without)"]
    long = found["long"]
    assert (long.total, long.monitor) == (124, "accuracy")
    assert long.tries == {"write": (120, 1), "prune": (1, 0)}
    assert [(x.epoch, x.strategy, x.outcome, x.by_hand) for x in long.lessons] == [
        (3, "write", "kept", False),
        (119, "write", "rejected", False),
        (120, "write", "rejected", False),
        (120, "prune", "failed", True),
        (120, "rewrite", "blocked", True),
    ]
    assert max(len(x.reason) for x in long.lessons) <= 160
    assert not any(x.experiment for x in long.lessons)
    # An optimizer that states its strategies has all of their counts, and no others.
    assert before(demo, strategies=["prune", "new"])[0]["long"].tries == {"prune": (1, 0)}
    assert before(demo, "none") == ({}, [])
    assert (
        before(demo, metric=("accuracy", "min")) == before(demo, metric=("f1", "max")) == ({}, [])
    )
    other = replace(NEW, patterns={})
    assert before(demo, new=other) == ({}, [])
    found, said = before(demo, "demo", other, ("f1", "max"))
    assert set(found) == {"demo"} and said[1:] == [
        "demo has other parameters: rules (*.txt); its lessons count, as named",
        "demo has another metric: val accuracy (higher is better); its lessons count, as named",
    ]


def test_lessons_that_cannot_be_read_are_left_out_and_named(top, demo):
    make(top, "odd", [({"a.txt": "x\n"}, 0.5)])
    make(top, "lost", [({"a.txt": "x\n"}, 0.5)])
    fork(demo, 0, "idle")  # it has no lessons
    git(top, "update-ref", "-d", "refs/notes/autopilot/lost/experiment")
    tip = git(top, "rev-parse", "autopilot/odd")
    git(top, "notes", "--ref=autopilot/odd/memory", "add", "-f", "-m", '{"v":2,"epoch"', tip)
    found, said = before(demo)
    assert set(found) == {"demo"}
    assert said[0].startswith("memory: 4 of 5 lessons of demo (")
    assert said[1].startswith("without the lessons of lost: ")
    assert said[2].startswith("left out of the lessons: refs/notes/autopilot/odd/memory on ")
    assert before(demo, "idle") == ({}, ["idle has no lessons yet"])
    with pytest.raises(ExperimentError, match="--memory-from nope: there is no experiment nope"):
        before(demo, "nope")


def test_of_many_experiments_the_newest_ones_teach(demo):
    lesson = Lesson(epoch=0, id="0.1", strategy="s", outcome="failed", by_hand=True)
    for number in range(11):
        recorded(demo, f"f{number:02}", lesson)
    found, said = before(demo)
    assert list(found) == [f"f{number:02}" for number in range(10, 0, -1)]
    of = "f10, f09, f08 and 7 more, without 2 older experiments"
    assert said[0].startswith(f"memory: 10 lessons of {of} (")
