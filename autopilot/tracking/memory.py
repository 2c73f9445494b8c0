"""The memory of experiments: of one that runs or is stopped, and of all of them.

A new experiment takes over lessons of earlier ones, as copies in its manifest: they are the same
for whoever resumes, clones, forks or replays it, whatever became of the others meanwhile.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from operator import itemgetter

from autopilot.core.figures import direction_words
from autopilot.core.memory import Memory
from autopilot.core.records.learnt import BLOCK_AFTER, DECISIONS
from autopilot.core.records.record import EpochOutcome, Lesson, Manifest, Taken
from autopilot.core.rules import ALL_BLOCKED
from autopilot.core.store import Store
from autopilot.errors import AutopilotError, ExperimentError, RepositoryError
from autopilot.git.commits import read_commit
from autopilot.git.repository import Repository
from autopilot.text import counted, shorten, some
from autopilot.tracking.finding import find
from autopilot.tracking.holding import stopped
from autopilot.tracking.layout import experiments
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.parameters import EVERYTHING


class GitMemory(Memory):
    """Memory that lasts: each lesson is a note on the commit of its epoch.

    Args:
        store: Where lessons are kept; they go on its newest revision.
        known: Of a run that is repeated: its recorded lessons by their ids, which count instead of
            new ones, so that an agent is asked the same where a metric is noisy.
    """

    def __init__(
        self,
        store: Store,
        block_after: int = BLOCK_AFTER,
        known: Mapping[str, Lesson] | None = None,
    ) -> None:
        super().__init__(block_after, store=store)
        self._known = known or {}

    def learn(self, lesson: Lesson) -> None:
        super().learn(lesson if lesson.by_hand else self._known.get(lesson.id, lesson))


def memory_of(notebook: Notebook, block_after: int | None = None) -> Memory:
    """The memory of a run that goes on with the experiment.

    To read only: lessons that it learns last as long as the object.
    """
    memory = Memory(_last_rule(notebook) if block_after is None else block_after)
    memory.load(_lessons(notebook))
    memory.taken = notebook.manifest.taken
    return memory


def block_after_by_epoch(notebook: Notebook) -> dict[int, int]:
    """The `block_after` of a run, and those of resumed ones by the epoch that they began after."""
    rules = {0: notebook.manifest.options.get("block_after", BLOCK_AFTER)}
    for event in notebook.events:
        if "block_after" in event.options:
            rules[event.epoch] = event.options["block_after"]
    return rules


def _last_rule(notebook: Notebook) -> int:
    rules = block_after_by_epoch(notebook)
    return rules[max(rules)]


def memory_of_all(repo: Repository, project: str | None = None) -> tuple[Memory, dict[str, str]]:
    """The lessons of all experiments, the latest experiment's last; each names its experiment.

    To be asked by `recall`: blocked strategies and trends belong to one experiment. Also returns,
    by slug, why the lessons of some experiments are missing.
    """
    found: list[tuple[int, str, list[Lesson]]] = []
    unreadable: dict[str, str] = {}
    for slug in experiments(repo, project):
        try:
            notebook = Notebook(repo, slug)
            found.append((notebook.time_s, slug, _lessons(notebook)))
        except AutopilotError as error:
            unreadable[slug] = error.message
    memory = Memory()
    memory.load(lesson for *_, lessons in sorted(found, key=itemgetter(0, 1)) for lesson in lessons)
    return memory, unreadable


@contextmanager
def memory_to_change(repo: Repository, slug: str) -> Iterator[Memory]:
    """The memory of an experiment that is not running; its new lessons become notes on the tip.

    A run that goes on with the experiment knows them. Raises as `stopped`.
    """
    with stopped(repo, slug) as notebook:
        memory = _NotedMemory(notebook)
        memory.load(_lessons(notebook))
        yield memory


class _NotedMemory(Memory):
    def __init__(self, notebook: Notebook) -> None:
        super().__init__(_last_rule(notebook))
        self._notebook = notebook

    def keep(self, lesson: Lesson) -> None:
        lesson = replace(lesson, experiment=self._notebook.slug)
        self._notebook.journal.write(self._notebook.tip, [lesson])


def _lessons(notebook: Notebook) -> list[Lesson]:
    """In the order in which they were learnt, without that of an epoch that has no verdict yet."""
    last = notebook.last.epoch if notebook.last else 0
    found = [x for x in notebook.index.lessons if x.by_hand or x.epoch <= last]
    return [x if x.experiment else replace(x, experiment=notebook.slug) for x in found]


def unblocked_by(notebook: Notebook, block_after: int | None = None) -> str:
    """The command that unblocks an experiment; "" if a strategy of it is not blocked."""
    status = notebook.status
    if status.state not in ("finished", "stopped") or status.detail != ALL_BLOCKED:
        return ""
    strategies = set(notebook.manifest.strategies)
    blocked = memory_of(notebook, block_after).blocked()
    if not blocked or not strategies <= blocked.keys():
        return ""
    name = next((name for name in blocked if name in strategies), next(iter(blocked)))
    how = f"autopilot memory unblock {shlex.quote(name)} -e {notebook.slug} ({blocked[name]})"
    by_hand = memory_of(notebook, block_after=0).blocked()
    if not blocked.keys() <= by_hand.keys():
        how += f"; for all that failed: autopilot resume {notebook.slug} --block-after 0"
    return how


# --- lessons of earlier experiments --------------------------------------------------------------

_EXPERIMENTS, _LESSONS, _STRATEGIES = 10, 12, 50
# So many of the newest lessons are looked at, and of kept epochs; so many of one kind are taken.
_NEWEST, _KEPT, _ALIKE, _TEXT = 100, 8, 2, 160
_TEXTS = ("strategy", "summary", "reason", "category", "node")


def lessons_before(
    repo: Repository, asked: str, new: Manifest, metric: tuple[str, str], strategies: Sequence[str]
) -> tuple[list[Taken], str, list[str]]:
    """The lessons that a new experiment takes over, a line on them, and what else to know of them.

    Reads the index of each experiment, not its epochs.

    Args:
        asked: "none"; "all": those of the newest experiments with the same parameters and the same
            metric; or the name of one, whatever it has.
        new: The manifest of the new experiment, with its parameters.
        metric: The name of the metric that decides, and its direction.
        strategies: Those of its optimizer; where it states none, those that were tried most count.

    Raises:
        ExperimentError: there is no experiment of that name.
    """
    said, taken, damaged = list[str](), list[Taken](), set(repo.damaged)
    here, named, left = dict[str, str](), None, 0
    if asked == "all":
        here = experiments(repo)
    elif asked != "none":
        try:
            named = find(repo, asked, new.slug.rpartition("/")[0] or None).notebook
        except AutopilotError as error:
            what = f"--memory-from {asked}: {error.message}"
            raise ExperimentError(what, hint=error.hint) from error
        here = {named.slug: named.tip}

    def age(slug: str) -> tuple[int, str]:
        with suppress(RepositoryError):  # it is named below
            return read_commit(repo, here[slug]).time_s, slug
        return 0, slug

    for number, slug in enumerate(sorted(here, key=age, reverse=True)):
        if len(taken) == _EXPERIMENTS:
            left = len(here) - number
            break
        try:
            notebook = named or Notebook(repo, slug, here[slug])
            unlike = [*islice(_unlike(notebook, new, metric), None if named else 1)]
            said += [f"{each}; its lessons count, as named" for each in unlike if named]
            taken += _taken(notebook, strategies) if named or not unlike else ()
        except AutopilotError as error:
            said.append(f"without the lessons of {slug}: {error.message}")
    said += [f"left out of the lessons: {each}" for each in repo.damaged if each not in damaged]
    if not taken:
        return taken, "", said + ([f"{named.slug} has no lessons yet"] if named else [])
    count, total = sum(len(x.lessons) for x in taken), sum(x.total for x in taken)
    of = f"{count} of {total} lessons" if total > count else counted(count, "lesson")
    older = f", without {counted(left, 'older experiment')}" if left else ""
    names = some([each.experiment for each in taken], 3)
    return taken, f"memory: {of} of {names}{older} (--memory-from none: without)", said


def _unlike(notebook: Notebook, new: Manifest, metric: tuple[str, str]) -> Iterator[str]:
    """How an experiment differs from a new one in parameters and metric, in sentences."""
    earlier = notebook.manifest
    if _parameters(earlier) != _parameters(new):
        places = ", ".join(f"{path} ({pattern})" for path, pattern in sorted(_parameters(earlier)))
        yield f"{notebook.slug} has other parameters: {places}"
    if notebook.last is not None and notebook.monitor != metric:
        name, mode = notebook.monitor
        yield f"{notebook.slug} has another metric: val {name} ({direction_words(mode)})"


def _parameters(manifest: Manifest) -> set[tuple[str, str]]:
    """Where the parameters are; their names do not matter."""
    patterns = manifest.patterns
    return {(path, patterns.get(name, EVERYTHING)) for name, path in manifest.parameters.items()}


def _taken(notebook: Notebook, strategies: Sequence[str]) -> Iterator[Taken]:
    """The lessons that are taken over of an experiment; nothing, where it has none."""
    index, last = notebook.index, notebook.last
    if not index.lessons or last is None:
        return
    learnt, kinds = index.learnt(BLOCK_AFTER), Counter[tuple[str, str, EpochOutcome]]()
    bits = f"{index.kept:b}"
    kept = (len(bits) - 1 - found.start() for found in islice(re.finditer("1", bits), _KEPT))
    places = {*range(len(index.lessons))[-_NEWEST:], *(index.lessons.place((n, "")) for n in kept)}
    chosen = dict[int, Lesson]()
    for at in sorted(places - {len(index.lessons)}, reverse=True):
        lesson = index.lessons[at]
        is_open = not lesson.by_hand and lesson.epoch > last.epoch
        kinds[kind := (lesson.strategy, lesson.category, lesson.outcome)] += 1
        is_undone = lesson.outcome in DECISIONS and lesson.strategy not in learnt.blocked
        if len(chosen) < _LESSONS and kinds[kind] <= _ALIKE and not is_open and not is_undone:
            texts = {name: shorten(getattr(lesson, name), _TEXT) for name in _TEXTS}
            chosen[at] = replace(lesson, experiment="", **texts)
    often = (name for name, _ in learnt.tried.most_common(_STRATEGIES) if len(name) <= _TEXT)
    names = strategies or [*often]
    yield Taken(
        experiment=notebook.slug,
        notes=index.tips.get(Lesson.kind, ""),
        monitor=notebook.monitor[0],
        total=len(index.lessons),
        tries={x: (learnt.tried[x], learnt.gains[x]) for x in names if x in learnt.tried},
        lessons=tuple(chosen[at] for at in sorted(chosen)),
    )
