"""A run that dies at any point and goes on ends like one that was never interrupted.

The story has every kind of epoch: kept, rejected, unchanged, repeated, failed, blocked, several
steps with commits of their own, chance in the evaluation and in the optimizer. It is killed before
each kind of call of the store, the optimizer and the module (and in git before each kind of write),
those of a run that goes on too, and finished by fresh objects. Two moments are of one kind where
the same lines of the package led to them, in epochs with the same outcome: nothing else tells them
apart. A run dies many times: each death costs a start, not a whole run.
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
PARTS = 3


class Killed(KeyboardInterrupt):
    """The process is gone: of what user code may raise, only this passes through it."""


class Clock:
    """Tells the kinds of moments, and kills at one of them; a dead process does nothing any more.

    Args:
        deadly: Whether to die at a kind of moment.
        softly: Whether what is done after it, is done.
    """

    def __init__(self, deadly=None, *, softly=False, world=None):
        self.deadly, self.softly, self.world = deadly, softly, world
        self.kinds, self.is_dead = {}, False

    def tick(self):
        if self.world is not None:
            kind = lines_of_the_package(), self.world.outcome_now()
            self.kinds.setdefault(kind, len(self.kinds))
            if self.deadly is not None and not self.is_dead and self.deadly(kind):
                self.is_dead, self.lost = True, len(self.world.seen) - self.world.noted
                raise Killed
        if self.is_dead and not self.softly:
            raise Killed


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
        action = getattr(self._store, name)
        return noting(action, self._clock) if name == "note_progress" else action


def noting(action, clock):
    """Notes progress, and that what was evaluated so far is not lost."""

    def call(*arguments, **options):
        found = action(*arguments, **options)
        if clock.world is not None:
            clock.world.noted = len(clock.world.seen)
        return found

    return call


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
        self.seen, self.noted = [], 0
        (folder / "rules").mkdir(parents=True)
        (folder / STATE).write_text("refund\n")

    def fit(self, clock, max_epochs=8):
        """One process: everything that is not on disk is new."""
        module = Finder(self.folder, clock, self.seen)
        self.experiment = self.open(clock)
        self.trainer = Trainer(experiment=self.experiment, seed=7, accumulate_grad_batches=2)
        return self.trainer.fit(module, max_epochs=max_epochs)

    def outcome_now(self):
        """What becomes of the epoch that is going on."""
        return [*OUTCOMES, "end"][len(self.experiment.history)]

    def die(self):
        """What the system does for a process that was killed."""

    def live(self, deadly, *, softly, max_epochs=8):
        """Dies and goes on until no moment is deadly any more; the result, and how often it died.

        At most the batch that was going on is evaluated twice: whole, then item by item.
        """
        lost = deaths = 0
        while True:
            with pytest.MonkeyPatch.context() as patch:
                clock = Clock(deadly, softly=softly, world=self)
                self.ticking(clock, patch)
                with suppress(Killed):
                    result = self.fit(clock, max_epochs)
                if not clock.is_dead:
                    return result, deaths, lost
                self.die()
            assert clock.lost <= 7
            deaths, lost, self.noted = deaths + 1, lost + clock.lost, len(self.seen)

    def ticking(self, clock, patch):
        """Makes moments of what the store does."""

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
            self.folder, self.seen, self.noted = folder, [], 0
            return
        super().__init__(folder)
        commit_all(folder, "first")

    def open(self, clock):
        self.store = GitStore("story", self.folder)
        return Experiment(self.store, GitMemory(self.store, block_after=1))

    def die(self):
        self.store._lock.release()
        self.store.progress_file.close()

    def ticking(self, clock, patch):
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
            patch.setattr(home, name, ticking(getattr(home, name), clock))
        patch.setattr(GitStore, "note_progress", noting(GitStore.note_progress, clock))


def ticking(function, clock):
    def call(*arguments, **options):
        clock.tick()
        return function(*arguments, **options)

    return call


OUTCOMES = [
    *["kept", "kept", "rejected"],
    *["unchanged", "repeated", "kept"],
    *["failed", "rejected", "kept"],
]


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The run that nobody interrupts."""
    world = InMemoryWorld(tmp_path_factory.mktemp("calm"))
    clock = Clock(world=world)
    result = world.fit(clock)
    return world, list(clock.kinds), result


def test_the_story_has_every_kind_of_epoch(calm):
    world, _, result = calm
    assert [r.outcome for r in world.experiment.history] == OUTCOMES
    assert [r.best_epoch for r in world.experiment.history] == [0, 1, 1, 1, 1, 5, 5, 5, 8]
    assert world.experiment.memory.blocked() == {"same": "did nothing"}
    assert (result.epochs, result.kept, result.best_epoch) == (8, 3, 8)
    assert result.stop_reason == "reached the maximum of 8 epochs"
    assert sum(step.changed for _, step in world.store.records(StepRecord)) == 7


def check_lives(make, calm, *, softly=False, max_epochs=8, parts=PARTS):
    """Worlds die at each kind of moment, and end like the calm one; returns the last one.

    Each of the first ones dies at a part of them, so that something happens between two deaths;
    the others at those that are left, since a death may lead around a later one.
    """
    expected, kinds, result = calm
    wanted, met, number = expected.outcome(), set(), 0
    while number < parts or (parts == PARTS and not met >= set(kinds)):
        assert number < 2 * PARTS, "there are moments that are not met"
        world = make(number)

        def deadly(kind, part=number):
            is_due = kind not in met and (part >= PARTS or part_of(kind) == part)
            met.update([kind] if is_due else [])
            return is_due

        again, deaths, lost = world.live(deadly, softly=softly, max_epochs=max_epochs)
        assert deaths > len(kinds) / 4 or number >= PARTS
        assert world.outcome() == wanted, f"after {deaths} deaths in part {number}"
        assert replace(again, cost=Cost()) == replace(result, cost=Cost())
        assert again.cost.evaluations == result.cost.evaluations
        # What was noted is not evaluated again.
        assert len(world.seen) <= len(expected.seen) + lost
        number += 1
    return world


def part_of(kind):
    lines, outcome = kind
    return (sum(number for _, number in lines) + len(outcome)) % PARTS


@pytest.mark.parametrize("softly", [False, True], ids=["killed", "interrupted"])
def test_in_memory_interruptions_are_repaired(calm, tmp_path, softly):
    assert len(calm[1]) > 100
    check_lives(lambda number: InMemoryWorld(tmp_path / f"{number}"), calm, softly=softly)


def test_the_same_objects_go_on_after_an_interrupt(calm, tmp_path):
    """As in a notebook: Ctrl-C, then fit again, and again."""
    expected, moments, _ = calm
    wanted, left = expected.outcome(), set(moments[::4])

    def deadly(kind):
        is_due = kind in left
        left.discard(kind)
        return is_due

    for at in range(3):
        world = InMemoryWorld(tmp_path / str(at))
        clock = Clock(deadly, softly=True, world=world)
        module = Finder(world.folder, clock, world.seen)
        optimizer = module.configure_optimizers()
        module.configure_optimizers = lambda optimizer=optimizer: optimizer
        world.experiment = world.open(clock)
        trainer = Trainer(experiment=world.experiment, seed=7, accumulate_grad_batches=2)
        before = len(left)
        for _ in range(before + 1):
            clock.is_dead = False
            with suppress(Killed):
                trainer.fit(module, max_epochs=8)
            if not clock.is_dead:
                break
        assert world.outcome() == wanted, f"after {before - len(left)} interrupts"
        if not left:
            break
    assert not left


def test_a_fit_in_parts_is_the_whole_fit(calm, tmp_path):
    world = InMemoryWorld(tmp_path)
    module = Finder(world.folder, Clock(), world.seen)
    world.experiment = world.open(Clock())
    trainer = Trainer(experiment=world.experiment, seed=7, accumulate_grad_batches=2)
    for epochs in (0, 1, 3, 8):
        trainer.fit(module, max_epochs=epochs)
    assert world.outcome() == calm[0].outcome()


@pytest.mark.parametrize("softly", [False, True], ids=["killed", "interrupted"])
def test_in_git_every_interruption_is_repaired(tmp_path, git_environment, softly):
    fresh = GitWorld(tmp_path / "fresh").folder
    template, epochs = GitWorld(tmp_path / "template", fresh), 5
    with pytest.MonkeyPatch.context() as patch:
        template.ticking(clock := Clock(world=template), patch)
        result = template.fit(clock, epochs)
    template.experiment.close()
    assert len(clock.kinds) > 80
    calm = template, list(clock.kinds), result
    # What happens after a death is shown in memory; in git, of a part.
    options = {"softly": softly, "max_epochs": epochs, "parts": 1 if softly else PARTS}
    world = check_lives(lambda number: GitWorld(tmp_path / f"{number}", fresh), calm, **options)
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
