"""The memory's contract on git: lessons in notes."""

from pathlib import Path

import pytest

from autopilot.core.parameter import PathParameter
from autopilot.core.records.record import Lesson, Manifest
from autopilot.git.commands import run_git
from autopilot.testing import MemoryContract
from autopilot.tracking import GitMemory, GitStore


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
