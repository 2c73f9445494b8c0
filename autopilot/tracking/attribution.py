"""Which epoch brought what: the states behind the best one, a file's lines, and a broken item.

All look at kept epochs alone: what a rejected one changed, its rollback took back.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from autopilot.core.figures import gained
from autopilot.core.noise import noise_sentence
from autopilot.core.records.message import (
    CANDIDATE,
    EPOCH,
    EXPERIMENT,
    STEP,
    epoch_tag,
    trailer,
    trailer_number,
)
from autopilot.core.records.record import StepRecord
from autopilot.core.states import RecordedStates, val_record_on
from autopilot.core.types import Datum
from autopilot.core.writing import recorded_passes
from autopilot.errors import ExperimentError, RepositoryError
from autopilot.git import commits, objects
from autopilot.git.commands import run_git
from autopilot.text import some
from autopilot.tracking.diagnosis import NOT_PASSED, is_graded
from autopilot.tracking.epochs import Epoch
from autopilot.tracking.layout import state_of_tag
from autopilot.tracking.notebook import Notebook

_SAID = NOT_PASSED | {"passed"}
_BLAMED = re.compile(rb"([0-9a-f]{40}) \d+ (\d+)")


def lineage(notebook: Notebook, last: Epoch | None = None) -> list[Epoch]:
    """The kept epochs that a state is made of, the best one unless given, the baseline first.

    Of a search that went on from several states, each from that of the one before it, and of a
    merge from the better one. Where that is a candidate beside the best one, the epoch is read as
    this candidate from now on.
    """
    found, last = list[Epoch](), last or notebook.best
    while last is not None:
        found.insert(0, last)
        if last.record.is_candidate:
            notebook.read_as(last)
        origin = "" if last.origin is None else epoch_tag(last.origin)
        origin = last.record.origin or origin
        last = state_of(notebook, origin) if origin else None
    return found


def every_step(notebook: Notebook) -> Iterator[tuple[str, StepRecord]]:
    """All steps, those of candidates too, each with its commit."""
    yield from notebook.records(StepRecord)
    for epoch in notebook.epochs:
        if not epoch.record.candidates:
            continue
        for place in commits.read_commit(notebook.repo, epoch.commit).parents[1:]:
            for commit in notebook.line_of(place, epoch.number):
                for record in notebook.journal.read_on(commit, StepRecord):
                    yield commit, record


def recorded_states(notebook: Notebook) -> RecordedStates:
    """The states that candidates may start from, read from records alone."""
    return RecordedStates(notebook.index.epochs, notebook.journal.read_on)


def candidates_of(notebook: Notebook, epoch: int) -> list[Epoch]:
    """The candidates that changed something, of an epoch that has several, in order."""
    judged, found, read = notebook.epoch(epoch), list[Epoch](), notebook.journal.read_on
    of = judged.record
    if of.is_candidate:  # as which the epoch is read
        place = notebook.index.epochs.place(epoch)
        of = val_record_on(read, notebook.index.epochs[place].revision, epoch) or of
    for number, revision in enumerate(of.revisions, 1):
        if revision and (record := val_record_on(read, revision, epoch, number)) is not None:
            metrics, before = {"val": record.metrics}, (judged.before, judged.origin)
            steps = tuple(notebook.line_of(revision, epoch))
            found.append(Epoch(record, revision, metrics, *before, None, steps))
    return found


def state_of(notebook: Notebook, name: str) -> Epoch:
    """A state by its name, as "epoch-0003-c2": that of an epoch, or of a candidate of it.

    Raises:
        ExperimentError: there is none.
    """
    number, candidate = state_of_tag(f"/{name}") or (0, 0)
    own = candidates_of(notebook, number) if candidate else []
    found = (each for each in own if each.record.candidate == candidate)
    return next(found, None) or notebook.find(name)


def candidate_of(notebook: Notebook, epoch: int, number: int) -> Epoch:
    """A candidate, as which the epoch is read from now on.

    Raises:
        ExperimentError: the epoch has none of that number, or that one changed nothing.
    """
    for found in candidates_of(notebook, epoch):
        if found.record.candidate == number:
            notebook.read_as(found)
            return found
    count = notebook.epoch(epoch).record.candidates
    if 0 < number <= count:
        why, hint = "changed nothing", f"see the others: autopilot log {notebook.slug} -v"
    else:
        why = "does not exist"
        hint = f"choose one of 1 to {count}" if count else "the epoch has one alone"
    raise ExperimentError(f"candidate {number} of epoch {epoch} {why}", hint=hint)


def named(notebook: Notebook, name: str) -> Epoch:
    """An epoch as `Notebook.find` takes it, or a candidate by its tag or commit.

    The epoch is read as this candidate from now on. Raises as `candidate_of` and `Notebook.find`.
    """
    epoch, candidate = state_of_tag(f"/{name}") or (None, None)
    if epoch is None and not (name.isdigit() and len(name) < 7):
        with contextlib.suppress(RepositoryError):
            text = commits.read_commit(notebook.repo, notebook.repo.resolve(name)).message
            if trailer(text, STEP) and trailer(text, EXPERIMENT) == notebook.slug:
                epoch, candidate = (trailer_number(text, each) for each in (EPOCH, CANDIDATE))
    if epoch and candidate:
        return candidate_of(notebook, epoch, candidate)
    return notebook.find(name)


@dataclass(frozen=True, slots=True)
class BlamedLine:
    """A line of a file in the best state.

    Args:
        number: Counted from 1.
        text: The line, without its end.
        commit: The commit that wrote it; the epoch's last step, or one of before the experiment.
        epoch: The kept epoch; None: it was there before.
    """

    number: int
    text: str
    commit: str
    epoch: Epoch | None


def blame(notebook: Notebook, path: str) -> list[BlamedLine]:
    """The lines of a file in the best state, each with the epoch that wrote it. Starts git.

    Args:
        path: From the top of the repository.

    Raises:
        ExperimentError: the best state has no text file of that name.
    """
    best = notebook.best_commit
    entry = objects.entry_at(notebook.repo, best, path)
    if entry is None or entry.mode in (objects.TREE, objects.SUBMODULE):
        raise ExperimentError(
            f"{path} is no file in the best state of {notebook.slug}",
            hint=f"list its files: git ls-tree -r --name-only {best[:7]}",
        )
    line = lineage(notebook)
    owners = {notebook.after(epoch.number): epoch for epoch in line if epoch.number}
    states = [notebook.start, *owners]
    # Each kept state follows from the kept one before it, whatever was tried in between.
    parents = "".join(f"{new} {old}\n" for old, new in pairwise(states))
    command = ["blame", "-S", "/dev/stdin", "--porcelain", best, "--", path]
    printed = run_git(command, cwd=notebook.repo.workdir, stdin=parents.encode()).stdout
    found, at = list[BlamedLine](), ("", 0)
    for each in printed.split(b"\n"):
        if each.startswith(b"\t"):
            text = each[1:].decode("utf-8", "replace")
            found.append(BlamedLine(at[1], text, at[0], owners.get(at[0])))
        elif (head := _BLAMED.match(each)) is not None:
            at = head[1].decode(), int(head[2])
    return found


@dataclass(frozen=True, slots=True)
class Break:
    """Where an item got worse, among the kept epochs that have a result of it.

    Args:
        item: Its id.
        good: The last epoch in which it was as good as ever; None: it never passed.
        bad: The next one, since when it never was; None: in the newest one it is as good as ever.
        before: Its result in `good`; if it never passed, in the oldest one.
        after: Its result in `bad`; without one, in the newest one.
        chance: What shows that chance may have broken it; "" where nothing does.
    """

    item: str
    good: Epoch | None
    bad: Epoch | None
    before: Datum
    after: Datum
    chance: str = ""


def bisect(notebook: Notebook, item: str, split: str = "val") -> Break:
    """The kept epoch that broke an item, by the recorded results; nothing is measured.

    An item is as good as ever where it passed; one that is graded, where its value is the best one.

    Raises:
        ExperimentError: no kept epoch has a result of it.
    """
    monitor, mode = notebook.monitor

    def score(result: Datum) -> float:
        if result.outcome == "unscored":
            return gained(0.0, result.metrics[monitor], mode)
        return float(result.outcome == "passed")

    found = [
        (epoch, result)
        for epoch in lineage(notebook)
        for result in notebook.items(epoch.measured, split)
        if result.id == item and (result.outcome in _SAID or is_graded(result, monitor))
    ]
    if not found:
        ids = [each.id for each in notebook.items(notebook.epoch(0).number, split)]
        raise ExperimentError(
            f"no kept epoch of {notebook.slug} has a {split} result of {item!r}",
            hint=f"some items: {some(ids, 5, ',')}" if ids else f"--split: {split} has no results",
        )
    scores = [score(result) for _, result in found]
    last = len(scores) - 1 - scores[::-1].index(max(scores))
    if all(result.outcome in NOT_PASSED for _, result in found):
        return Break(item, None, None, found[0][1], found[-1][1])
    (good, before), rest = found[last], found[last + 1 :]
    if not rest:
        return Break(item, good, None, before, found[-1][1])
    bad, after = rest[0]
    return Break(item, good, bad, before, after, _chance(notebook, item, split, good, bad))


def _chance(notebook: Notebook, item: str, split: str, *epochs: Epoch) -> str:
    """Says what shows that chance may have changed an item; "" if nothing does."""
    said, differs, noise = list[str](), False, notebook.noise
    for epoch in epochs:
        place, read = notebook.epoch(epoch.measured).commit, notebook.journal.read_on
        passes = recorded_passes(read, place, split, epoch.measured)
        own = [result.outcome for results in passes for result in results if result.id == item]
        differs |= len(set(own)) > 1
        said.append(f"{own.count('passed')} of {len(own)} measurements of epoch {epoch.number}")
    if differs:
        return f"it passed in {' and in '.join(said)}"
    if noise is None or not noise.is_noisy:
        return ""
    return f"measured again, the baseline was another: {noise_sentence(noise).partition(':')[0]}"
