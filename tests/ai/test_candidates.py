"""Agents that make the candidates of an epoch: at the same time, within one budget, replayed."""

from __future__ import annotations

import re
import threading
from collections import Counter
from pathlib import Path

import pytest
from runs import autopilot, commit_target, role_of, script
from server import Received, Reply, edit

from autopilot.core.records.record import LlmRecord
from autopilot.git.repository import Repository
from autopilot.tracking.journal import Journal
from autopilot.tracking.layout import Layout

RUN = ("run", "answerer.py", "-e", "a", "--max-epochs", "2", "--proposals", "2")


@pytest.fixture
def top(repository) -> Path:
    """A repository with the target."""
    return commit_target(repository.workdir)


def test_agents_work_at_the_same_time_and_each_on_a_proposal_of_its_own(
    top: Path, serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2)

    def both(request: Received) -> Reply:
        reply = script(request)
        if role_of(request) != "optimizer" or len(request.body["messages"]) > 1:
            return reply
        number = re.search(r"proposal (\d) of 2", request.body["messages"][0]["content"])
        assert number is not None
        if number[1] == "2":  # it changes nothing that counts
            return edit("insert", path="prompt.md", insert_line=1, insert_text="hello").after(
                lambda: together.wait(60)
            )
        return reply.after(lambda: together.wait(60))

    server = serve(both)
    done = autopilot(top, *RUN)
    assert done.returncode == 0, done.stderr
    assert not together.broken
    assert "best: epoch 2, val accuracy 0.000 -> 0.500" in done.stdout
    # The train split is measured once for both, and each paid call is recorded once.
    kept = [c for _, c in Journal(Repository.discover(top), Layout("a")).read(LlmRecord)]
    assert Counter(c.candidate for c in kept if c.role == "optimizer") == {1: 4, 2: 4}
    assert len({c.id for c in kept}) == len(kept) == len(server.requests)
    shown = autopilot(top, "show", "1", "-c", "2", "--prompt").stdout
    assert "proposal 2 of 2" in shown
    # Offline: everything is answered from the notes, each candidate's from its own.
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    for level in ("metrics", "full"):
        replayed = autopilot(top, "replay", "a", "--level", level)
        assert replayed.returncode == 0, replayed.stdout + replayed.stderr


def test_all_candidates_together_keep_within_the_budget(top: Path, serve) -> None:
    server = serve(script)
    done = autopilot(top, *RUN, "--budget-calls", "30")
    assert done.returncode in (0, 130), done.stderr
    assert "call budget" in done.stdout + done.stderr, done.stdout
    assert 28 <= len(server.requests) <= 30
