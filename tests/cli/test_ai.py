"""autopilot ai generate and judge, over the scripted server: killed, resumed, out of budget."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections import Counter

import pytest
from server import Received, Reply, fail, say, say_json

from autopilot.ai.datasets.generator import DataGenerator
from autopilot.ai.judge import Judge
from autopilot.ai.model.recording import request_key
from autopilot.ai.steps import PythonStep
from autopilot.cli.main import AutoPilotCLI
from autopilot.engine import supervisor

PARTS = """\
from pydantic import BaseModel

from autopilot.ai import DataGenerator, Judge, LLMStep, Model

MODEL = Model("claude-haiku-4-5", max_tokens=100)


class Question(BaseModel):
    question: str


class Said(BaseModel):
    success: bool
    score: float
    feedback: str


class Questions(DataGenerator):
    def __init__(self, workers: int = 3):
        steps = [LLMStep("item", "slot {slot}, {tone}", Question)]
        super().__init__(steps, {"tone": ["kind", "curt"]}, model=MODEL, num_workers=workers)


class Strict(Judge):
    steps = (LLMStep("said", "judge {question}", Said),)
    model = MODEL


judge = Strict(num_workers=3)
"""


def slot(request: Received) -> int:
    found = re.search(r"slot <data-slot-\w+>\n(\d+)\n", request.last_text())
    assert found is not None
    return int(found[1])


def script(request: Received) -> Reply:
    """A question named after its slot; a judge who passes the even ones."""
    if "judge" not in request.last_text():
        return say_json({"question": f"number {slot(request)}"})
    number = int(re.findall(r"number (\d+)", request.last_text())[0])
    return say_json({"success": number % 2 == 0, "score": number / 10, "feedback": "be even"})


@pytest.fixture
def parts(place, serve):
    """A folder with a generator and a judge; its name has a space and an umlaut."""
    place.write("größe 1/parts.py", PARTS)
    place.top = place.top / "größe 1"
    return place


@pytest.fixture
def inside(parts, monkeypatch, capsys):
    """Runs an `ai` command in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(parts.top)
    monkeypatch.syspath_prepend(parts.top)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run.cli().run(["ai", *arguments])
        return code, *capsys.readouterr()

    run.cli = AutoPilotCLI
    return run


def killing(serve, at: int):
    """A server that kills the process before it answers that request, and what it answered."""
    answered: list[str] = []

    def kill(request: Received) -> Reply:
        if server.count == at:
            os.kill(kill.process.pid, signal.SIGKILL)
            return fail(500)
        answered.append(request_key(request.body))
        return script(request)

    server = serve(kill)
    return kill, answered


def test_a_generation_that_was_killed_pays_nothing_twice(parts, serve) -> None:
    kill, answered = killing(serve, at=7)
    kill.process = parts.start("ai", "generate", "run", "parts.py", "-n", "10", "-o", "my data")
    assert parts.finish(kill.process).code == -signal.SIGKILL
    done = parts.run("ai", "generate", "resume", "my data")
    assert "10 of 10 items made" in done.out
    # Requests beside the killed one were answered to nobody: all others were asked once.
    assert sum(Counter(answered).values()) - len(set(answered)) <= 2
    assert len(set(answered)) == 10
    items = [
        json.loads(line)
        for split in ("train", "val", "test")
        for line in parts.read(f"my data/{split}.jsonl").splitlines()
    ]
    assert sorted(item["question"] for item in items) == sorted(f"number {n}" for n in range(10))
    assert done.out.splitlines()[-4:] == [
        "variable  value  train  val  test",
        "all                  6    2     2",
        "tone      kind       3    1     1",
        "tone      curt       3    1     1",
    ]


def test_a_judging_that_was_killed_pays_nothing_twice(parts, inside, serve) -> None:
    lines = (json.dumps({"id": f"i{n}", "question": f"number {n}"}) for n in range(10))
    parts.write("answers.jsonl", "\n".join(lines))
    kill, answered = killing(serve, 6)
    kill.process = parts.start("ai", "judge", "run", "parts.py", "-d", "answers.jsonl")
    assert parts.finish(kill.process).code == -signal.SIGKILL
    done = parts.run("ai", "judge", "resume", "verdicts.jsonl", "--json")
    assert sum(Counter(answered).values()) - len(set(answered)) <= 2
    found = done.document
    assert (found["items"], found["passed"], found["pass_rate"]) == (10, 5, 0.5)
    assert found["mean_score"] == pytest.approx(0.45)
    assert found["feedback"] == {"be even": 5}
    shown = inside("judge", "summarize", "verdicts.jsonl")[1]
    assert shown.splitlines() == [
        "5 of 10 items passed (50%), mean score 0.450",
        "said most often of items that did not pass:",
        "    5x  be even",
        "cost: 10 calls, 1200 tokens, $0.002",
    ]
    shown = inside("judge", "distribution", "verdicts.jsonl", "--bins", "2")[1]
    bar = "#" * 40
    assert shown.splitlines() == [
        "split answers: 5 of 10 items passed (50%), mean score 0.450",
        f"  0.0-0.5      5  {bar}",
        f"  0.5-1.0      5  {bar}",
    ]


def test_a_budget_stops_and_a_larger_one_goes_on(inside, serve) -> None:
    server = serve(script)
    run = ("generate", "run", "parts.py:Questions", "-H", "workers=2", "-n", "6", "-o", "d")
    code, out, _ = inside(*run, "--budget-calls", "4")
    assert code == 130
    assert "stopped: call budget: 4 of 4 made" in out
    assert "go on: autopilot ai generate resume d --budget-calls MORE" in out
    assert server.count == 4
    code, out, _ = inside("generate", "resume", "d", "--budget-calls", "9", "--json")
    assert server.count == 6
    assert json.loads(out)["distribution"]["splits"]["val"] == {"planned": 1, "made": 1}
    assert "cost: 6 calls, 720 tokens, $0.0012" in inside("generate", "summarize", "d")[1]
    rows = inside("generate", "distribution", "d")[1].splitlines()
    assert rows[1].split() == ["all", "4", "1", "1"]


def test_a_budget_of_dollars_needs_a_price_and_a_budget_of_time_ends(inside, parts, serve) -> None:
    server = serve(script)
    parts.write("parts.py", PARTS.replace("claude-haiku-4-5", "somebody-else"))
    run = ("generate", "run", "parts.py", "-n", "4")
    code, _, err = inside(*run, "--budget-usd", "1")
    assert code == 1 and server.count == 0
    assert "the price of somebody-else is unknown" in err and "--price somebody-else=" in err
    code, out, _ = inside(*run, "--budget-seconds", "0")
    assert code == 130 and "--budget-seconds MORE" in out and server.count == 0
    assert inside(*run, "--budget-usd", "100", "--price", "somebody-else=1000/1000")[0] == 0
    assert "$0.48" in inside("generate", "summarize", "dataset")[1]
    lines = (json.dumps({"id": f"i{n}", "question": f"number {n}"}) for n in range(2))
    parts.write("answers.jsonl", "\n".join(lines))
    run = ("judge", "run", "parts.py", "-d", "answers.jsonl")
    code, _, err = inside(*run, "--budget-usd", "1")
    assert code == 1 and "the price of somebody-else is unknown" in err
    assert inside(*run, "--budget-seconds", "0")[0] == 130 and server.count == 4
    assert inside(*run, "--budget-usd", "100", "--price", "somebody-else=1000/1000")[0] == 0
    assert "$0.24" in inside("judge", "summarize", "verdicts.jsonl")[1]


def test_ctrl_c_says_how_to_go_on(inside, serve, monkeypatch) -> None:
    heard = threading.Event()
    monkeypatch.setattr(supervisor, "_listeners", [heard.set])

    def interrupting(request: Received) -> Reply:
        if server.count == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return script(request).after(heard.wait) if server.count >= 5 else script(request)

    server = serve(interrupting)
    code, out, _ = inside("generate", "run", "parts.py", "-n", "40", "-o", "d", "--json")
    assert code == 130
    assert json.loads(out) == {"interrupted": True, "resume": "autopilot ai generate resume d"}
    assert server.count < 15
    assert "40 of 40" in inside("generate", "resume", "d")[1]
    assert server.count == 40


def test_missing_slots_are_said_and_their_exit_code_is_1(inside, parts, serve) -> None:
    server = serve(lambda r: say("no", stop_reason="refusal") if slot(r) == 2 else script(r))
    code, out, _ = inside("generate", "run", "parts.py", "-n", "4", "-o", "my d")
    assert code == 1
    assert "1 of 4 items are missing\ngo on: autopilot ai generate resume 'my d'" in out
    assert inside("generate", "resume", "my d")[0] == 1
    assert server.count == 5
    assert "go on: autopilot ai generate resume" in inside("generate", "summarize", "my d")[1]
    serve(script)
    code, out, _ = inside("generate", "resume", "my d")
    assert (code, "missing" in out, "go on" in out) == (0, False, False)
    assert inside("generate", "resume", "my d")[0] == 0


def test_missing_verdicts_are_said_and_their_exit_code_is_1(inside, parts, serve) -> None:
    lines = (json.dumps({"id": f"i{n}", "question": f"number {n}"}) for n in range(4))
    parts.write("answers.jsonl", "\n".join(lines))
    cut = say('{"success": tr', stop_reason="max_tokens")
    server = serve(lambda r: cut if "number 2" in r.last_text() else script(r))
    code, out, _ = inside("judge", "run", "parts.py", "-d", "answers.jsonl")
    assert code == 1
    assert "1 of 4 verdicts are missing\ngo on: autopilot ai judge resume verdicts.jsonl" in out
    code, out, _ = inside("judge", "resume", "verdicts.jsonl", "--json")
    assert (code, json.loads(out)["failed"], server.count) == (1, 1, 5)
    serve(script)
    code, out, _ = inside("judge", "resume", "verdicts.jsonl")
    assert (code, "missing" in out, "go on" in out) == (0, False, False)


class Mine(DataGenerator):
    steps = (PythonStep("item", lambda s: {"n": s["slot"]}),)


def test_a_projects_own_generator_and_judge_are_used(inside) -> None:
    class MyCLI(AutoPilotCLI, project="demo"):
        def __init__(self) -> None:
            super().__init__()
            self.generator = Mine()
            self.judge = Judge([PythonStep("said", lambda s: s["n"] / 4)])

    inside.cli = MyCLI
    assert "4 of 4 items made" in inside("generate", "run", "-n", "4", "-o", "d")[1]
    assert "4 of 4 items made" in inside("generate", "resume", "d")[1]
    files = [part for split in ("train", "val", "test") for part in ("-d", f"d/{split}.jsonl")]
    out = inside("judge", "run", *files)[1]
    assert "2 of 4 items passed (50%), mean score 0.375" in out
    assert "  train: " in out
    found = json.loads(inside("judge", "summarize", "verdicts.jsonl", "--json")[1])
    assert {name: rates["items"] for name, rates in found["splits"].items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }


@pytest.mark.parametrize(
    ("arguments", "says", "hints", "code"),
    [
        (("generate", "run"), "no TARGET is given", "a DataGenerator", 2),
        (("judge", "run", "-d", "x"), "no TARGET is given", "a Judge", 2),
        (("judge", "run", "parts.py"), "nothing to judge", "--data", 2),
        (("judge", "run", "parts.py", "-d", "x.jsonl"), "x.jsonl does not exist", "check", 1),
        (("generate", "run", "nix.py"), "nix.py: no such file", "looked in", 2),
        (("generate", "run", "parts.py:Nix"), "no class or callable Nix", "Questions", 2),
        (("generate", "run", "parts.py:Strict"), "gives Strict, not a DataGenerator", "name", 2),
        (("generate", "run", "two.py"), "defines several: A, B", "two.py:A", 2),
        (("generate", "run", "none.py"), "defines no DataGenerator", "make_generator", 2),
        (("generate", "resume", "d"), "does not hold a generation", "run it first", 1),
        (("judge", "summarize", "v.jsonl"), "does not hold verdicts", "judge something", 1),
        (("judge", "summarize", "parts.py"), "line 1 cannot be read", "another kind", 1),
        (("generate", "run", "parts.py", "-H", "a=1"), "no such argument", "workers", 2),
        (("generate", "run", "parts.py"), "there is no key", "ANTHROPIC_API_KEY", 1),
    ],
)
def test_what_cannot_be_done_is_said_in_two_lines(
    parts, inside, monkeypatch, arguments, says, hints, code
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    parts.write("none.py", "x = 1\n")
    parts.write("two.py", "from parts import Questions\nA, B = Questions(), Questions()\n")
    before = sorted(parts.top.iterdir())
    found, _, err = inside(*arguments)
    assert found == code
    error, hint = err.splitlines()
    assert error.startswith("error: ") and says in error
    assert hint.startswith("  hint: ") and hints in hint
    left = sorted(path for path in parts.top.iterdir() if path.name != "__pycache__")
    assert left == before
