"""The index of judged epochs is the same as one that is made anew, whatever changed since."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autopilot.ai.model.recording import StoreRecorder
from autopilot.cli.output import Output
from autopilot.cli.pages.progress import ChildReporter
from autopilot.core.experiment import Experiment
from autopilot.core.records.index import Index
from autopilot.core.records.ledger import Spent
from autopilot.core.records.record import Event, Lesson, LlmRecord, MetricsRecord, StepRecord
from autopilot.core.stopping import ledger_of
from autopilot.core.types import Cost
from autopilot.git.commands import looking
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.journal import Journal
from autopilot.tracking.notebook import Notebook
from tests.benchmarks.epochs import Drill
from tests.benchmarks.repos import make_repository
from tests.experiments import again, git


def _facts(index: Index) -> tuple[object, ...]:
    return (
        *(index.tips, index.length, index.start, index.outcomes, index.wishes, index.inputs),
        index.tallies,
        *(list(index.epochs), list(index.lessons), list(index.calls)),
        *(index.kept, index.most_evaluations, index.spent, index.learnt(3), index.learnt(1)),
    )


def _score(book: Notebook) -> None:
    """A test score on an earlier epoch, as the end of a run writes it."""
    commit = book.after(3)
    record = MetricsRecord(epoch=3, id="3-test", split="test", metrics={"f1": 0.5}, verdict="kept")
    book.journal.write(commit, [record])


def _block(book: Notebook) -> None:
    lesson = Lesson(epoch=5, id="5.1-blocked", strategy="guess", outcome="blocked", by_hand=True)
    book.journal.write(book.tip, [lesson])


def _rewrite(book: Notebook) -> None:
    """The record of an earlier epoch is replaced."""
    record = book.epoch(2).record
    changed = MetricsRecord(epoch=2, id=record.id, split="val", metrics={}, verdict="kept")
    book.journal.write(book.epoch(2).commit, [changed])


def _continue_apart(book: Notebook) -> None:
    """Notes of epochs that another clone made, on commits that this branch lacks."""
    commit = git(_top(book), "commit-tree", "-m", "elsewhere", "-p", book.start, f"{book.start}:")
    book.journal.write(commit, [Lesson(epoch=1, id="1", strategy="other", outcome="kept")])


def _move_back(book: Notebook) -> None:
    git(_top(book), "update-ref", book.layout.branch, book.after(4))


def _forget(book: Notebook) -> None:
    """The tips that the index was made from are gone."""
    _rewrite(book)
    git(_top(book), "reflog", "expire", "--expire=now", "--all")
    git(_top(book), "update-ref", book.layout.notes("memory"), _orphan(book))
    git(_top(book), "gc", "--quiet", "--prune=now")


def _orphan(book: Notebook) -> str:
    tree = f"{book.layout.notes('memory')}:"
    return git(_top(book), "commit-tree", "-m", "one", git(_top(book), "rev-parse", tree))


def _damage(book: Notebook) -> None:
    path = book.layout.index(book.repo)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(book: Notebook) -> None:
    path = book.layout.index(book.repo)
    path.write_bytes(path.read_bytes()[:40])


def _reshape(book: Notebook) -> None:
    """The checksum is that of the content, which has another form."""
    book.layout.index(book.repo).write_bytes(b"00000000\n")


def _of_before(book: Notebook) -> None:
    """Another version of the program wrote it."""
    path = book.layout.index(book.repo)
    body = path.read_bytes().partition(b"\n")[2].replace(b'{"v":', b'{"v":9', 1)
    path.write_bytes(b"%08x\n" % zlib.crc32(body) + body)


def _of_another(book: Notebook) -> None:
    """It is whole, and another repository's experiment of the same name was read for it."""
    path = book.layout.index(book.repo)
    other = Index.decode(path.read_bytes())
    assert other is not None
    other.tips = dict.fromkeys(other.tips, "1" * 40)
    path.write_bytes(other.encode())


def _write_late(book: Notebook) -> None:
    """Of two that write it, the one that read less is the later."""
    path = book.layout.index(book.repo)
    earlier = path.read_bytes()
    _block(book)
    assert len(again(book).index.lessons) == 6
    path.write_bytes(earlier)


def _replace(book: Notebook) -> None:
    book.layout.index(book.repo).unlink()
    book.layout.index(book.repo).mkdir()


def _say(book: Notebook) -> None:
    book.journal.write(book.start, [Event(name="stopped").stamped()])


def _top(book: Notebook) -> Path:
    return Path(book.repo.workdir)


_CHANGES = (
    *(_score, _block, _rewrite, _continue_apart, _move_back, _forget),
    *(_damage, _cut, _reshape, _of_before, _of_another, _write_late, _replace, _say),
)


@pytest.mark.parametrize("change", _CHANGES)
def test_the_index_is_as_if_made_anew(demo: Notebook, change: Callable[[Notebook], object]) -> None:
    path = demo.layout.index(demo.repo)
    assert _facts(demo.index)[1] == len(demo.commits)
    change(demo)
    found = _facts(again(demo).index)
    kept = path.read_bytes()
    # The file is as good as what was read: nothing is read from the refs but their tips.
    assert _facts(again(demo).index) == found
    path.unlink()
    fresh = again(demo)
    assert _facts(fresh.index) == found
    assert Index.decode(path.read_bytes()) == Index.decode(kept)
    numbers = [epoch.number for epoch in fresh.epochs]
    assert [epoch.number for epoch in fresh.index.epochs] == numbers


def test_each_epoch_alone_is_the_same_as_among_all(demo: Notebook) -> None:
    every = again(demo).epochs
    assert len(every) == 6
    for epoch in every:
        assert again(demo).epoch(epoch.number) == epoch
        # Its commits name it, without the others being read.
        for commit in filter(None, (*epoch.steps, epoch.rollback)):
            assert again(demo).epoch_at(commit) == epoch.number
        book = again(demo)
        assert book.newest(epoch.number + 1) == every[-epoch.number - 1 :]
        assert "epochs" not in vars(book)
    assert again(demo).epoch_at(demo.base or "") is None


def test_who_looks_again_adds_to_a_copy_and_writes_once(demo: Notebook) -> None:
    with looking():
        first = demo.index
    kept = demo.layout.index(demo.repo).read_bytes()
    before = _facts(first)
    _block(demo)
    with looking():
        assert len(again(demo).index.lessons) == len(first.lessons) + 1
    # What another thread has in hand stays, and the file is brought up to date by the next reader.
    assert _facts(first) == before
    assert demo.layout.index(demo.repo).read_bytes() == kept


def test_what_is_going_on_is_added_without_reading_the_rest(tmp_path, monkeypatch) -> None:
    drill = Drill(make_repository(tmp_path / "repo", 2, 1), 1)
    drill.run(3)
    repo, slug = drill.store.repo, drill.store.slug
    _ = Notebook(repo, slug).index
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "line", None)  # whoever makes it anew asks for it
        drill._step(4)
        # Here an edit is on the branch, and its epoch has no verdict.
        assert len(Notebook(repo, slug).index.epochs) == 4
        book = Notebook(repo, slug)
        written = git(_top(book), "commit-tree", "-m", "next", "-p", book.tip, f"{book.tip}:")
        step = StepRecord(epoch=4, id="4.2", step=2, changed=True, wishes={"e1": "shorter"})
        book.journal.write(written, [step])
        # Here it is written, and not yet on the branch.
        assert Notebook(repo, slug).index.wishes == {}
        git(_top(book), "update-ref", book.layout.branch, written)
        drill.store._tip = written
        assert Notebook(repo, slug).index.wishes == {"e1": 4}
        drill._judge(4)
        found = Notebook(repo, slug).index
    book.layout.index(repo).unlink()
    assert _facts(found) == _facts(Notebook(repo, slug).index)
    assert (found.length, len(found.epochs), len(found.lessons)) == (8, 5, 4)


def test_the_index_is_brought_up_to_date_beside_a_run(demo: Notebook) -> None:
    path, reporter = demo.layout.index(demo.repo), ChildReporter(Output(), _top(demo))
    reporter.beside(0, demo.slug)
    assert Index.decode(path.read_bytes()) == again(demo).index
    reporter.look(demo.slug)  # what this process has read for its children is no file
    _block(demo)
    reporter._due_s = 0.0
    reporter.beside(0, demo.slug)
    kept = Index.decode(path.read_bytes())
    assert kept is not None
    assert len(kept.lessons) == 6
    assert kept.tips["memory"] == git(_top(demo), "rev-parse", demo.layout.notes("memory"))
    # Soon after, nothing is done: it takes a small part of a processor.
    path.unlink()
    reporter._due_s = math.inf
    reporter.beside(0, demo.slug)
    assert not path.exists()


def test_the_index_of_another_tip_is_not_kept(demo: Notebook) -> None:
    tips = demo.index.tips
    earlier = Notebook(demo.repo, demo.slug, demo.after(3))
    assert [epoch.number for epoch in earlier.index.epochs] == [0, 1, 2, 3]
    kept = Index.decode(demo.layout.index(demo.repo).read_bytes())
    assert kept is not None
    assert kept.tips == tips


def test_what_a_process_that_goes_on_reads_does_not_grow(tmp_path, monkeypatch) -> None:
    def read_at(epochs: int) -> list[str]:
        top = make_repository(tmp_path / str(epochs), 2, 1)
        drill = Drill(top, 1)
        for epoch in range(1, epochs + 1):
            reply, cost = {"text": f"t{epoch}"}, Cost(tokens=10, cost_usd=0.5)
            call = LlmRecord(epoch=epoch, id=f"k{epoch}", role="judge", model="m", reply=reply)
            drill.store.note_call(replace(call, cost=cost))
            drill.run(1)
        drill.close()
        _ = Notebook(drill.store.repo, drill.store.slug).index
        store, read = GitStore(drill.store.slug, top), list[str]()
        for name in ("read", "read_on"):
            whole = getattr(store.journal, name)

            def counted(*given, name: str = name, whole=whole):
                read.append(f"{name} {next(x.__name__ for x in given if isinstance(x, type))}")
                return whole(*given)

            monkeypatch.setattr(store.journal, name, counted)
        experiment = Experiment(store)
        experiment.open(drill.optimizer.parameters)
        assert (experiment.last_epoch, len(experiment.history)) == (epochs, epochs + 1)
        assert len(experiment.memory.lessons) == epochs
        assert experiment.memory.context().tried == Counter(
            lesson.strategy for _, lesson in drill.store.records(Lesson)
        )
        spent = ledger_of(experiment, []).by_role()
        assert spent == {"judge": Spent(epochs, 10 * epochs, 0.5 * epochs)}
        recorder = StoreRecorder(store)
        assert [recorder.answer(key, {}) for key in ("k0", "k")] == [None, None]
        assert (found := recorder.answer("k3", {})) and found.reply == {"text": "t3"}
        experiment.close()
        return read

    few = read_at(6)
    assert read_at(24) == few
    assert {each for each in few if each.startswith("read ")} == {"read Manifest"}
