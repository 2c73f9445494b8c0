"""A person beside a run: words to its agent, pauses, and decisions on its edits.

The agent is a program that adds a line to `x.txt`, keeps the prompts that it gets, and can be held.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest
from kills import send_kill
from waiting import wait_for

from autopilot.cli.people import _answer
from autopilot.git.locks import ExclusiveLock
from tests.cli.conftest import COMMAND

TARGET = """\
import os, pathlib, subprocess, sys, time

from autopilot import AgentOptimizer, AutoPilotModule, DataLoader, Datum, PathParameter
from autopilot.ai.coding import CommandAgent

SHELF = pathlib.Path({shelf!r})
with (SHELF / "imported").open("a") as file:
    file.write(f"{{len(pathlib.Path('x.txt').read_text().splitlines())}} ")


class Lines(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.x = PathParameter("x.txt")

    def forward(self, batch):
        lines = self.x.read_text().splitlines()
        with (SHELF / "measured").open("a") as file:
            file.write(f"{{len(lines)}} {{lines[-1]}}\\n")
        while (SHELF / "hold-item").exists():
            (SHELF / "in-item").touch()
            time.sleep(0.02)
        return Datum(items=[
            Datum(success=len(lines) > x.metadata["at"], feedback="more lines") for x in batch.items
        ])

    def configure_optimizers(self):
        return AgentOptimizer(CommandAgent([sys.executable, str(SHELF / "agent.py")]),
                              self.parameters())

    def val_dataloader(self):
        return DataLoader([{{"id": f"i{{at}}", "at": at}} for at in range(1, 6)], 5)
"""
AGENT = """\
import json, os, pathlib, sys, time

shelf = pathlib.Path(__file__).parent
number = len(list(shelf.glob("prompt-*"))) + 1
(shelf / f"prompt-{number}").write_text(sys.stdin.read())
while (shelf / "hold-agent").exists():
    time.sleep(0.02)
with open("x.txt", "a") as file:
    file.write(f"line {number}\\n")
print(json.dumps({"strategy": "grow", "summary": f"add line {number}", "rationale": "as asked"}))
"""


class Shelf:
    """The files by which a test and the run see each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "agent.py").write_text(AGENT)

    def hold(self, what: str) -> None:
        (self.folder / f"hold-{what}").touch()

    def free(self, what: str) -> None:
        (self.folder / f"hold-{what}").unlink()

    def prompts(self) -> list[str]:
        found = sorted(self.folder.glob("prompt-*"), key=lambda path: int(path.name[7:]))
        return [path.read_text() for path in found]

    def said(self) -> list[str]:
        """The section of the user in each prompt."""
        found = [text.partition("## The user says\n\n")[2] for text in self.prompts()]
        return [text.partition("\n\n")[0] for text in found]

    def imported(self) -> str:
        """The lines of x.txt that the target was imported with, since this was last asked."""
        file = self.folder / "imported"
        text = file.read_text()
        file.unlink()
        return text.strip()

    def measured(self) -> list[str]:
        return (self.folder / "measured").read_text().splitlines()


@pytest.fixture
def shelf(place, tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "shelf")
    place.write("lines.py", TARGET.format(shelf=str(shelf.folder)))
    place.commit("lines")
    return shelf


def events(place, slug: str, name: str) -> list[dict]:
    return [e for e in place.notes(slug, "experiment") if e.get("name") == name]


def test_a_word_reaches_the_next_prompt_once_and_a_replay_asks_the_same(
    place, shelf, monkeypatch
) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "sk-very-secret-0815")
    shelf.hold("agent")
    process = place.start("run", "lines.py", "-e", "a", "--max-epochs", "4")
    wait_for(lambda: len(shelf.prompts()) == 1)
    # The agent is at work: the words wait for the next step, in their order.
    said = place.call("steer", "a", "shorter,\x1b[31m please").out
    assert said == "a reads it before its next step\n"
    place.call("steer", "the key is sk-very-secret-0815", "-e", "a")
    assert "shorter" in place.call("experiment", "show", "a").out
    # Killed in the step that had no word yet: it is asked anew, with the words of now.
    send_kill(process.pid)
    assert place.finish(process).code == -signal.SIGKILL
    place.call("steer", "a", "and no jokes")
    shelf.free("agent")
    place.run("resume", "a")
    said_then = "- shorter,[31m please\n- the key is [hidden]\n- and no jokes"
    assert shelf.said() == ["", said_then, "", "", ""]
    assert (
        place.git("grep", "-l", "very-secret", "refs/notes/autopilot/a/experiment", check=False)
        == ""
    )
    steered = events(place, "a", "steered")
    assert [e["detail"][:7] for e in steered] == ["shorter", "the key", "and no "]
    assert {e["reviewer"] for e in steered} == {"Ada Byron"}
    steps = place.notes("a", "gradients")
    assert list(steps[0]["wishes"]) == [e["id"] for e in steered]
    assert not any("wishes" in step for step in steps[1:])
    assert "and no jokes (read in epoch 1)" in place.call("experiment", "show", "a").out
    assert "the user said: and no jokes" in place.call("show", "1", "-e", "a").out
    asked = len(shelf.prompts())
    place.run("replay", "a", "--level", "full")
    assert len(shelf.prompts()) == asked
    # A finished one takes it for later; the report has it, and nothing that would be run again.
    assert "--max-epochs N" in place.call("steer", "a", "now the other way").out
    said = "said by Ada Byron: now the other way (not read yet)"
    assert said in place.call("log", "a").out
    place.run("resume", "a", "--max-epochs", "5")
    assert shelf.said()[-1] == "- now the other way"


def test_words_that_nobody_reads_are_refused(place, shelf) -> None:
    place.run("run", "counter.py", "-e", "plain", "--max-epochs", "1")
    refused = place.call("steer", "plain", "be kind", code=1)
    assert "reads no words" in refused.error
    assert "there is no experiment b" in place.call("steer", "b", "be kind", code=1).error
    for text, why in (("", "no text"), ("\x1b\n", "no text"), ("x" * 4001, "4,001 characters")):
        assert why in place.call("steer", "plain", text, code=2).error
    assert "not running: it is finished" in place.call("pause", "plain", code=1).error
    assert "holds no edit" in place.call("review", "plain", code=1).error
    # A process of an agent bears its worktree's mark.
    own = place.autopilot("review", "plain", "--approve", AUTOPILOT_AGENT_IN="/somewhere")
    assert "an agent of the run cannot do it" in own.error
    lock = ExclusiveLock(place.top / ".git" / "autopilot" / "plain.lock")
    with lock:
        held = json.loads(lock.path.read_text())
        lock.path.write_text(json.dumps(held | {"host": "elsewhere"}))
        assert "runs on elsewhere" in place.call("pause", "plain", code=1).error


def test_a_pause_ends_the_run_after_the_item_or_the_step(place, shelf) -> None:
    shelf.hold("agent")
    process = place.start("run", "lines.py", "-e", "a", "--max-epochs", "2")
    wait_for(lambda: len(shelf.prompts()) == 1)
    asked = place.call("pause", "a", "--no-wait").out
    assert asked.endswith("ends after the agent's step of epoch 1\ngo on: autopilot resume a\n")
    waiting = place.start("pause", "a", "--json")
    time.sleep(0.3)
    assert process.poll() is None and waiting.poll() is None
    shelf.free("agent")
    run, paused = place.finish(process), place.finish(waiting)
    # The step that was paid is there, and nothing was measured after it.
    assert (run.code, paused.code) == (130, 0)
    assert "paused by Ada Byron, in epoch 1: " in run.out
    assert "autopilot resume a" in run.out
    assert paused.document["state"] == "interrupted"
    assert paused.document["detail"] == "paused by Ada Byron, in epoch 1"
    assert len(shelf.measured()) == 2 and len(place.line("a")) == 2
    shelf.hold("item")
    process = place.start("resume", "a")
    wait_for((shelf.folder / "in-item").exists)
    assert "after the item that is measured" in place.call("pause", "a", "--no-wait").out
    shelf.free("item")
    assert place.finish(process).code == 130
    assert len(shelf.measured()) == 3
    done = place.run("resume", "a")
    # The item was measured before the pause: once.
    assert [line.split()[0] for line in shelf.measured()] == ["1", "1", "2", "3"]
    assert len(shelf.prompts()) == 2 and "2 epochs" in done.out


def test_an_edit_waits_for_a_decision_whatever_ends_the_run(place, shelf) -> None:
    process = place.start("run", "lines.py", "-e", "a", "--max-epochs", "2", "--review")
    wait_for(lambda: len(place.git("branch", "--list", "autopilot/a")) and place.line("a")[1:])
    shown = place.call("review", "a")
    assert "+line 1" in shown.out and "strategy: grow" in shown.out and "add line 1" in shown.out
    send_kill(process.pid)
    place.finish(process)
    shelf.imported()
    # Nothing is measured, the edit is not imported, and the agent is not asked again.
    process = place.start("resume", "a")
    wait_for(lambda: "waiting for a decision on epoch 1: add line 1" in process.printed())
    assert place.call("pause", "a", "--json").document["state"] == "interrupted"
    assert place.finish(process).code == 130
    assert (len(shelf.prompts()), len(shelf.measured())) == (1, 2)
    assert set(shelf.imported().split()) == {"1"}
    assert place.call("review", "a", "--refuse", "", code=2)
    refused = place.call("review", "a", "--refuse", "one line is\x07 enough", "--json").document
    assert (refused["decision"], refused["reason"]) == ("refuse", "one line is enough")
    assert "holds no edit" in place.call("review", "a", code=1).error
    process = place.start("resume", "a", "--patience", "1")
    wait_for(lambda: len(place.line("a")) == 4, "a step, its rollback, a step")
    assert place.call("review", "a", "--approve").out.endswith("is approved\n")
    done = place.finish(process)
    assert done.code == 0, done
    assert "refused by Ada Byron: one line is enough" in done.out
    assert shelf.said()[1] == "- I refused the edit of epoch 1: one line is enough"
    assert "\nx.txt\n+line 1\n" in shelf.prompts()[1]
    assert place.verdicts("a") == ["baseline", "rejected", "kept"]
    record = place.judged("a")[1]
    assert (record["outcome"], record["metrics"]) == ("refused", {})
    # The refused edit and its reason are read in git; it was never measured.
    assert "line 1" not in place.git("show", "autopilot/a:x.txt")
    assert "one line is enough" in place.git("log", "--format=%B", "autopilot/a")
    assert [line.split()[-1] for line in shelf.measured()] == ["1", "1", "2"]
    assert "rejected (refused)" in place.call("show", "1", "-e", "a").out
    assert "rejected" in place.call("log", "a").out
    page = place.call("experiment", "show", "a").out
    assert "grow (1 of 1 kept)" in page and "epoch 2 approved by Ada Byron" in page
    assert "epoch 1 refused by Ada Byron: one line is enough (read in epoch 2)" in page
    assert "rejected" in place.run("policy", "explain", "a", "1").out.splitlines()[0]
    assert len(place.call("memory", "query", "a", "--outcome", "refused", "--json").document) > 0
    place.run("report", "a", "--md")
    place.run("report", "a")
    place.run("replay", "a")
    place.run("replay", "a", "--level", "full")
    assert len(shelf.prompts()) == 2


def test_in_place_an_edit_that_waits_is_in_the_checkout_and_not_imported(place, shelf) -> None:
    run = "run", "lines.py", "-e", "a", "--max-epochs", "1", "--review", "--in-place"
    process = place.start(*run)
    wait_for(lambda: "waiting for a decision" in process.printed())
    send_kill(process.pid)
    place.finish(process)
    shelf.imported()
    process = place.start("resume", "a")
    wait_for(lambda: "waiting for a decision" in process.printed())
    assert set(shelf.imported().split()) == {"1"}
    assert place.read("x.txt") == "1\nline 1\n"
    place.call("review", "a", "--approve")
    assert place.finish(process).code == 0
    assert place.verdicts("a") == ["baseline", "kept"] and len(shelf.prompts()) == 1


def test_a_run_asks_at_its_terminal_and_listens_to_others_meanwhile(place, shelf) -> None:
    ours, theirs = pty.openpty()
    arguments = ["run", "lines.py", "-e", "a", "--max-epochs", "3", "--review"]
    run = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=place.top,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = ""

    def until_it_says(*texts: str) -> None:
        nonlocal seen
        for text in texts:
            while text not in seen:
                with contextlib.suppress(OSError):  # the last program has closed it
                    seen += os.read(ours, 65536).decode()
                assert text in seen or run.poll() is None, seen
            seen = seen.partition(text)[2]

    until_it_says("add line 1", "strategy: grow", "as asked", "+line 1", "[y]es, or [n]o and why: ")
    os.write(ours, b"hm\n")
    until_it_says("[y]es, or [n]o and why: ")
    os.write(ours, b"y\n")
    until_it_says("kept", "+line 2", "[y]es, or [n]o and why: ")
    os.write(ours, b"n\n")
    until_it_says("why not? ")
    os.write(ours, b"\n")
    until_it_says("why not? ")
    os.write(ours, b"no line 2\n")
    until_it_says("refused by Ada Byron: no line 2", "+line 3")
    # A decision from elsewhere counts as well.
    place.call("review", "a", "--approve")
    until_it_says("approved", "stopped: reached the maximum of 3 epochs")
    assert run.wait() == 0
    os.close(ours)
    assert place.verdicts("a") == ["baseline", "kept", "rejected", "kept"]
    assert shelf.said()[2] == "- I refused the edit of epoch 2: no line 2"


def test_answers_at_the_terminal() -> None:
    assert _answer(" Yes ") == _answer("y") == ("approve", "")
    assert _answer("n too long") == _answer("No, too long") == ("refuse", "too long")
    assert _answer("n") == ("refuse", "")
    assert _answer("yes but") is _answer("") is _answer("never") is None
