"""Memory as it is kept: of one experiment, of all in the repository, and to be added to by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from autopilot.core.memory import BLOCK_AFTER, Memory
from autopilot.core.records.record import Lesson
from autopilot.errors import ExperimentError
from autopilot.git.repository import Repository
from autopilot.tracking.holding import stopped
from autopilot.tracking.journal import Journal
from autopilot.tracking.layout import experiments
from autopilot.tracking.notebook import Notebook


def memory_of(notebook: Notebook, block_after: int | None = None) -> Memory:
    """What a run that goes on with the experiment would know.

    To read only: what it learns lasts as long as the object.

    Args:
        notebook: The experiment.
        block_after: In place of the experiment's own.
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
    """The lessons of all experiments, the latest experiment's last; each says where it was learnt.

    To be asked by `recall`: what is blocked, and trends, are an experiment's own.

    Args:
        repo: The repository.
        project: Only experiments of this project.

    Returns:
        The memory, and why the lessons of some experiments are missing in it, by slug.
    """
    slugs = [s for s in experiments(repo) if not project or s.startswith(f"{project}/")]
    notebooks = sorted((Notebook(repo, slug) for slug in slugs), key=lambda n: (n.time_s, n.slug))
    lessons: list[Lesson] = []
    unreadable: dict[str, str] = {}
    for notebook in notebooks:
        try:
            lessons += _lessons(notebook)
        except ExperimentError as error:
            unreadable[notebook.slug] = error.message
    memory = Memory()
    memory.load(lessons)
    return memory, unreadable


@contextmanager
def memory_to_change(repo: Repository, slug: str) -> Iterator[Memory]:
    """The memory of an experiment that nobody runs; what it learns becomes a note on the tip.

    A run that goes on with the experiment knows it.

    Raises:
        ExperimentError: there is no such experiment.
        LockHeldError: it is running.
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
        journal = Journal(self._notebook.repo, self._notebook.layout)
        journal.write(self._notebook.tip, [replace(lesson, experiment=self._notebook.slug)])


def _lessons(notebook: Notebook) -> list[Lesson]:
    """In the order in which they were learnt; that of an epoch without a verdict comes again."""
    line = {commit.id for commit in notebook.commits}
    last = notebook.last.epoch if notebook.last else 0
    found = [
        lesson
        for commit, lesson in Journal(notebook.repo, notebook.layout).read(Lesson)
        if commit in line and (lesson.by_hand or lesson.epoch <= last)
    ]
    found.sort(key=lambda lesson: (lesson.epoch, lesson.id))
    return [x if x.experiment else replace(x, experiment=notebook.slug) for x in found]
