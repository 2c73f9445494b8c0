"""A run that dies at any point and goes on ends like one that was never interrupted.

The story has every kind of epoch: kept, rejected, unchanged, repeated, failed, blocked, several
steps with commits of their own, chance in the evaluation and in the optimizer. It is killed before
each kind of call of the store, the optimizer and the module (and in git before each kind of write),
and finished by fresh objects. Two moments are of one kind where the same lines of the package led
to them, in epochs with the same outcome: nothing else tells them apart.
"""

import random
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from checkouts import commit_all

from autopilot.core.experiment import Experiment
from autopilot.core.memory import Memory
from autopilot.core.module import AutoPilotModule
from autopilot.core.parameter import PathParameter
from autopilot.core.records.record import Lesson, MetricsRecord, StepRecord, TraceRecord
from autopilot.core.stopping import EarlyStopping, Plateau
from autopilot.core.store import InMemoryStore
from autopilot.core.trainer import Trainer
from autopilot.core.types import Cost, Datum
from autopilot.data import DataLoader, ListDataset
from autopilot.errors import AgentError
from autopilot.git import commits, notes, objects, refs, workfiles
from autopilot.git.commands import run_git
from autopilot.testing import ScriptedOptimizer
from autopilot.tracking import GitMemory, GitStore

WORDS = ["refund", "login", "invoice", "crash", "slow", "parcel"]
STATE = Path("rules/words.txt")


class Killed(KeyboardInterrupt):
    """The process is gone: of what user code may raise, only this passes through it."""


class Clock:
    """Counts moments, and kills at one of them; a dead process does nothing any more."""

    def __init__(self, at=None, *, softly=False, world=None):
        self.count, self.at, self.softly, self.world = 0, at, softly, world
        self.ticks = []

    def tick(self):
        self.count += 1
        if self.world is not None:
            self.ticks.append((lines_of_the_package(), len(self.world.experiment.history)))
        if self.at is not None and (
            self.count == self.at or (self.count > self.at and not self.softly)
        ):
            raise Killed

    def kinds(self):
        """The first moment of each kind, in order."""
        history = self.world.experiment.history
        outcomes = [*(record.outcome for record in history), "end"]
        first = {}
        for moment, (lines, epoch) in enumerate(self.ticks, 1):
            first.setdefault((lines, outcomes[epoch]), moment)
        return list(first.values())


def lines_of_the_package():
    """The lines by which a call came here."""
    frame, lines = sys._getframe(2), []
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("autopilot."):
            lines.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(lines)


class Ticking:
    """A store whose every call is a moment."""

    def __init__(self, store, clock):
        self._store, self._clock = store, clock

    def __getattr__(self, name):
        if name != "slug":
            self._clock.tick()
        return getattr(self._store, name)


class Finder(AutoPilotModule):
    """Succeeds on the words that its file lists; one item always raises."""

    def __init__(self, folder, clock, seen):
        super().__init__()
        self.words = PathParameter(folder / "rules")
        self.clock, self.seen = clock, seen

    def forward(self, batch):
        known = self.words.read_text("words.txt").split()
        items = []
        for item in batch.items:
            word = item.metadata["word"]
            if word == "raises" and len(batch.items) > 1:
                raise RuntimeError("cannot take this one")
            self.seen.append((self.training, item.id, tuple(known)))
            if word == "raises":
                raise RuntimeError("cannot take this one")
            found = word in known
            items.append(
                Datum(
                    success=found,
                    feedback=None if found else f"missing {word}",
                    metrics={"luck": random.random()},
                    metadata={"word": word},
                )
            )
        self.clock.tick()
        return Datum(items=items)

    def configure_optimizers(self):
        clock = self.clock

        def write(parameter, words):
            clock.tick()
            parameter.write_text("\n".join(words) + "\n", "words.txt")
            clock.tick()

        def add(parameters):
            (parameter,) = parameters
            missing = sorted(w for w in WORDS if w in parameter.grad.render())
            known = parameter.read_text("words.txt").split()
            write(parameter, [*known, *([random.choice(missing)] if missing else [])])
            if len(known) % 2:
                parameter.write_text(f"{len(known)}\n", f"extra/{len(known)}.txt")

        def clear(parameters):
            write(parameters[0], [])

        def same(parameters):
            write(parameters[0], parameters[0].read_text("words.txt").split())

        script = [
            *[("add", add), ("add", add)],
            *[("clear", clear), None],
            *[("same", same), None],
            *[("clear", clear), None],
            *[("add", add), ("ask", AgentError("no answer", hint="wait"))],
            *[("ask", AgentError("no answer", hint="wait")), None],
            *[("clear", clear), None],
            *[("same", same), ("add", add)],
        ]
        return ScriptedOptimizer(self.parameters(), script)

    def configure_callbacks(self):
        return [EarlyStopping(patience=9), Plateau(window=9), EarlyStopping(target=2.0)]

    def train_dataloader(self):
        items = [{"id": f"t-{w}", "word": w} for w in [*WORDS, "raises"]]
        return DataLoader(ListDataset(items), batch_size=3, shuffle=True)

    def val_dataloader(self):
        items = [{"id": f"v-{w}", "word": w} for w in [*WORDS, "other"]]
        return DataLoader(ListDataset(items), batch_size=4)


class World:
    """A folder and a store in it that outlive the process."""

    def __init__(self, folder):
        self.folder = folder
        self.seen = []
        (folder / "rules").mkdir(parents=True)
        (folder / STATE).write_text("refund\n")

    def fit(self, clock, max_epochs=8):
        """One process: everything that is not on disk is new."""
        module = Finder(self.folder, clock, self.seen)
        self.experiment = self.open(clock)
        self.trainer = Trainer(experiment=self.experiment, seed=7, accumulate_grad_batches=2)
        return self.trainer.fit(module, max_epochs=max_epochs)

    def die(self):
        """What the system does for a process that was killed."""

    def outcome(self):
        """All that the run leaves, but for times."""
        store = self.store
        log = store.log()
        place = {revision.id: n for n, revision in enumerate(reversed(log))}

        def records(kind):
            return [(place[revision], timeless(r)) for revision, r in store.records(kind)]

        rules = self.folder / "rules"
        return {
            "files": {p.name: p.read_bytes() for p in rules.rglob("*") if p.is_file()},
            "log": [(revision.tree, without_base(revision.message)) for revision in log],
            "tags": {epoch: place[revision] for epoch, revision in store.tags().items()},
            **{k.__name__: records(k) for k in (MetricsRecord, StepRecord, Lesson, TraceRecord)},
            "blocked": self.experiment.memory.blocked(),
            "lessons": self.experiment.memory.lessons,
            "best items": [(d.id, d.success) for d in self.experiment.best_items],
        }


def timeless(record):
    if isinstance(record, MetricsRecord):
        return replace(record, cost=without_time(record.cost), spent=without_time(record.spent))
    return record


def without_base(message):
    return re.sub("^Base: .*", "", message, flags=re.MULTILINE)


def without_time(cost):
    return replace(cost, seconds=0.0) if cost else Cost()


class InMemoryWorld(World):
    def __init__(self, folder):
        super().__init__(folder)
        self.store = InMemoryStore()

    def open(self, clock):
        return Experiment(Ticking(self.store, clock), Memory(block_after=1))


class GitWorld(World):
    """In place, so that edits by hand are told from what a killed run left."""

    def __init__(self, folder, like=None):
        if like is not None:
            # Quicker than git init, two hundred times.
            shutil.copytree(like, folder)
            self.folder, self.seen = folder, []
            return
        super().__init__(folder)
        commit_all(folder, "first")

    def open(self, clock):
        self.store = GitStore("story", self.folder)
        return Experiment(self.store, GitMemory(self.store, block_after=1))

    def die(self):
        self.store._lock.release()
        self.store.progress_file.close()

    def ticking(self, clock, monkeypatch):
        """Every write that anything could read again is a moment: refs, tags, notes and files."""
        for home, name in (
            (refs, "update_ref"),
            (refs, "create_ref"),
            (notes, "update_ref"),
            (notes, "create_ref"),
            (commits, "create_tag"),
            (objects, "write_tree"),
            (workfiles, "replace_file"),
            (workfiles, "remove_file"),
            (GitStore, "note_progress"),
            (GitStore, "clear_progress"),
        ):
            monkeypatch.setattr(home, name, ticking(getattr(home, name), clock))


def ticking(function, clock):
    def call(*arguments, **options):
        clock.tick()
        return function(*arguments, **options)

    return call


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The run that nobody interrupts."""
    world = InMemoryWorld(tmp_path_factory.mktemp("calm"))
    clock = Clock(world=world)
    result = world.fit(clock)
    return world, clock.kinds(), result


def test_the_story_has_every_kind_of_epoch(calm):
    world, _, result = calm
    assert [r.outcome for r in world.experiment.history] == [
        "kept",
        "kept",
        "rejected",
        "unchanged",
        "repeated",
        "kept",
        "failed",
        "rejected",
        "kept",
    ]
    assert [r.best_epoch for r in world.experiment.history] == [0, 1, 1, 1, 1, 5, 5, 5, 8]
    assert world.experiment.memory.blocked() == {"same": "did nothing"}
    assert (result.epochs, result.kept, result.best_epoch) == (8, 3, 8)
    assert result.stop_reason == "reached the maximum of 8 epochs"
    assert sum(step.changed for _, step in world.store.records(StepRecord)) == 7


@pytest.mark.parametrize("softly", [False, True], ids=["killed", "interrupted"])
def test_in_memory_interruptions_are_repaired(calm, tmp_path, softly):
    expected, moments, result = calm
    wanted, evaluated = expected.outcome(), len(expected.seen)
    assert len(moments) > 100
    # One half of them in each of both ways: git shows all of them.
    for at in moments[softly::2]:
        world = InMemoryWorld(tmp_path / str(at))
        with pytest.raises(Killed):
            world.fit(Clock(at, softly=softly))
        again = world.fit(Clock())
        assert world.outcome() == wanted, f"killed at moment {at}"
        assert replace(again, cost=Cost()) == replace(result, cost=Cost()), f"moment {at}"
        assert again.cost.evaluations == result.cost.evaluations
        # At most the batch that was going on is evaluated twice: whole, then item by item.
        assert len(world.seen) <= evaluated + 7, f"killed at moment {at}"


def test_the_same_objects_go_on_after_an_interrupt(calm, tmp_path):
    """As in a notebook: Ctrl-C, then fit again."""
    expected, moments, _ = calm
    wanted = expected.outcome()
    for at in moments[::4]:
        world = InMemoryWorld(tmp_path / str(at))
        module = Finder(world.folder, clock := Clock(at, softly=True), world.seen)
        optimizer = module.configure_optimizers()
        module.configure_optimizers = lambda optimizer=optimizer: optimizer
        world.experiment = Experiment(Ticking(world.store, clock), Memory(1, store=world.store))
        trainer = Trainer(experiment=world.experiment, seed=7, accumulate_grad_batches=2)
        with suppress(Killed):
            trainer.fit(module, max_epochs=8)
        clock.at = None
        trainer.fit(module, max_epochs=8)
        assert world.outcome() == wanted, f"interrupted at moment {at}"


def test_a_fit_in_parts_is_the_whole_fit(calm, tmp_path):
    world = InMemoryWorld(tmp_path)
    module = Finder(world.folder, Clock(), world.seen)
    world.experiment = world.open(Clock())
    trainer = Trainer(experiment=world.experiment, seed=7, accumulate_grad_batches=2)
    for epochs in (0, 1, 3, 8):
        trainer.fit(module, max_epochs=epochs)
    assert world.outcome() == calm[0].outcome()


@pytest.mark.parametrize("softly", [False, True], ids=["killed", "interrupted"])
def test_in_git_every_interruption_is_repaired(calm, tmp_path, git_environment, softly):
    fresh = GitWorld(tmp_path / "fresh").folder
    template, epochs = GitWorld(tmp_path / "template", fresh), 5
    with pytest.MonkeyPatch.context() as patch:
        template.ticking(clock := Clock(world=template), patch)
        result = template.fit(clock, epochs)
    wanted, moments = template.outcome(), clock.kinds()
    template.experiment.close()
    assert len(moments) > 80
    for at in moments[:: 4 if softly else 1]:
        world = GitWorld(tmp_path / f"{at}", fresh)
        with pytest.MonkeyPatch.context() as patch:
            world.ticking(clock := Clock(at, softly=softly), patch)
            with suppress(Killed):
                world.fit(clock, epochs)
            world.die()
        again = world.fit(Clock(), epochs)
        assert world.outcome() == wanted, f"killed at moment {at}"
        assert replace(again, cost=Cost()) == replace(result, cost=Cost()), f"moment {at}"
        assert len(world.seen) <= len(template.seen) + 7, f"killed at moment {at}"
        world.experiment.close()
    status = run_git(["status", "--porcelain"], cwd=world.folder).stdout.decode().splitlines()
    assert sorted(line[3:].split("/")[0] for line in status) == ["rules", "rules"]
    assert run_git(["fsck", "--strict", "--no-dangling"], cwd=world.folder).stdout == b""


def test_both_stores_tell_the_same_story(calm, tmp_path, git_environment):
    world = GitWorld(tmp_path / "git")
    result = world.fit(Clock())
    world.experiment.close()
    assert comparable(world.outcome()) == comparable(calm[0].outcome())
    assert replace(result, cost=Cost()) == replace(calm[2], cost=Cost())


def comparable(outcome):
    """Without what names a state or an experiment: the stores name them differently."""

    def plain(record):
        if isinstance(record, MetricsRecord):
            return replace(record, tree="")
        return replace(record, experiment="") if isinstance(record, Lesson) else record

    kinds = ("MetricsRecord", "StepRecord", "Lesson")
    records = {kind: [(n, plain(record)) for n, record in outcome[kind]] for kind in kinds}
    subjects = [message.split("\n")[0].split(": ", 1)[1:] for _, message in outcome["log"]]
    same = ("files", "tags", "blocked", "best items")
    return {**{key: outcome[key] for key in same}, **records, "log": subjects}
