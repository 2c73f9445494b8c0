"""Whole runs in which a judge alone scores: killed in val, resumed, replayed, out of budget."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runs import autopilot, commit_target, notes, start
from server import Received, Reply, fail, say_json

TARGET = """\
from pydantic import BaseModel, Field

from autopilot import AutoPilotModule, DataLoader, Datum, PathParameter, Rule, RuleOptimizer
from autopilot.ai import BackStep, Judge, LLMStep, Model


class Verdict(BaseModel):
    success: bool
    score: float = Field(ge=0, le=1)
    feedback: str
    attribution: str


class More(Rule):
    name = "more"

    def apply(self, parameter, gradient):
        parameter.write_text(parameter.read_text().strip() + "x\\n")
        return "one more"


class Writer(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.text = PathParameter("prompt.md")

    def forward(self, batch):
        said = self.text.read_text().strip()
        items = batch.items
        return Datum(items=[Datum(metadata={"said": f"{said} {i.metadata['n']}"}) for i in items])

    def configure_judge(self):
        rate = LLMStep("rate", "Rate {said}", Verdict)
        again = BackStep("again", "rate", lambda s: s["rate"].score < 0.3, 3)
        model = Model("claude-haiku-4-5", max_tokens=50, max_retries=0)
        return Judge([rate, again], model=model, num_workers=1)

    def configure_optimizers(self):
        return RuleOptimizer(self.parameters(), [More()])

    def train_dataloader(self):
        return DataLoader([{"id": f"t{n}", "n": n} for n in (1, 2)], 1)

    def val_dataloader(self):
        return DataLoader([{"id": f"v{n}", "n": n} for n in (3, 4)], 1)

    def test_dataloader(self):
        return DataLoader([{"id": f"e{n}", "n": n} for n in (5, 6)], 1)
"""


def said(request: Received) -> str:
    found = re.search(r"x* ?be brief(x*) (\d)", request.all_text())
    assert found is not None
    return f"{len(found[1])} {found[2]}"


class Script:
    """The score grows with the text; of item 4 each first answer is a low one."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def __call__(self, request: Received) -> Reply:
        name = said(request)
        self.asked[name] += 1
        letters, number = map(int, name.split())
        low = number == 4 and self.asked[name] % 2 == 1
        score = 0.1 if low else 0.4 + letters / 10
        verdict = {"success": score > 0.45, "score": score, "feedback": "longer"}
        return say_json({**verdict, "attribution": "length"})


@pytest.fixture
def top(repository) -> Path:
    """A repository with the target."""
    return commit_target(repository.workdir, TARGET)


RUN = ("run", "answerer.py", "-e", "a", "--max-epochs", "2")


def of_run(top: Path) -> dict[str, Any]:
    """What a run wrote down, without times and ids."""
    judged = {r["id"]: (r["metrics"], r.get("verdict")) for r in notes(top, "metrics")}
    steps = [(r["epoch"], r["gradients"]) for r in notes(top, "gradients")]
    items = {(r["epoch"], r["split"]): r["items"] for r in notes(top, "traces")}
    return {"judged": judged, "steps": steps, "items": items}


def test_the_judge_scores_val_and_test_and_comes_back_to_a_step(top: Path, serve) -> None:
    script = Script()
    serve(script)
    done = autopilot(top, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    judged = {r["id"]: r["metrics"] for r in notes(top, "metrics") if r["split"] != "train"}
    assert judged["0-val"] == {"accuracy": 0.0, "score": 0.4}
    assert judged["1-val"] == {"accuracy": 1.0, "score": 0.5}
    # Each state's items once; item 4 twice, since its step is come back to.
    val = {f"{letters} {n}": 2 if n == 4 else 1 for letters in (0, 1, 2) for n in (3, 4)}
    train = {f"{letters} {n}": 1 for letters in (0, 1) for n in (1, 2)}
    test = {name: n for name, n in script.asked.items() if name[-1] in "56"}
    assert script.asked == Counter(val | train | test)
    assert set(test.values()) == {1}
    calls = notes(top, "llm")
    assert len(calls) == script.asked.total()
    assert {call["role"] for call in calls} == {"judge"}
    assert sum(call["id"].endswith("-v2") for call in calls) == 3


def test_a_kill_in_val_judges_nothing_twice(top: Path, serve) -> None:
    serve(Script())
    assert autopilot(top, *RUN).returncode == 0
    whole = of_run(top)
    assert autopilot(top, "experiment", "delete", "a", "--yes").returncode == 0

    script, kills = Script(), [4, 7, 9]

    def killing(request: Received) -> Reply:
        if kills and script.asked.total() + 1 == kills[0]:
            del kills[0]
            os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.3)  # until its child is gone too
            return fail(500)
        return script(request)

    server = serve(killing)
    process = start(top, *RUN)
    process.communicate()
    while kills:
        process = start(top, "resume", "a")
        process.communicate()
    process = start(top, "resume", "a", "--max-epochs", "2")
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert server.count == script.asked.total() + 3
    assert of_run(top) == whole


def test_judged_runs_replay_from_the_notes_alone(
    top: Path, serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(Script())
    assert autopilot(top, *RUN).returncode == 0
    count = server.count
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.delenv("ANTHROPIC_BASE_URL")
    for options, values in (((), [0.0, 1.0]), (("--level", "full"), [0.0, 1.0, 1.0, 1.0])):
        done = autopilot(top, "replay", "a", "--json", *options)
        document = json.loads(done.stdout)
        assert document["differences"] == [], options
        assert [e["recorded"] for e in document["epochs"]] == values
        assert [e["replayed"] for e in document["epochs"]] == values
    assert server.count == count


def test_the_score_is_monitored_and_a_budget_ends_in_val(top: Path, serve) -> None:
    serve(Script())
    done = autopilot(top, *RUN, "--monitor", "score", "--budget-calls", "7")
    assert "call budget: 7 of 7 made" in done.stdout
    done = autopilot(top, "resume", "a", "--max-epochs", "2", "--budget-calls", "100")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "best: epoch 2, val score 0.400 -> 0.600" in done.stdout
