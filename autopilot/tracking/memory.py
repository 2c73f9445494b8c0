"""The memory of experiments: of one that runs or is stopped, and of all of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from operator import itemgetter

from autopilot.core.memory import Memory
from autopilot.core.records.learnt import BLOCK_AFTER
from autopilot.core.records.record import Lesson
from autopilot.core.rules import ALL_BLOCKED
from autopilot.core.store import Store
from autopilot.errors import AutopilotError
from autopilot.git.repository import Repository
from autopilot.tracking.holding import stopped
from autopilot.tracking.layout import experiments
from autopilot.tracking.notebook import Notebook


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
