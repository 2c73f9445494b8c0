"""Judging datasets: resumable, paid once, summed up."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from server import Received, Reply, fail, say, say_json

from autopilot.ai.datasets.judging import Judging
from autopilot.ai.judge import Judge, Judgement
from autopilot.ai.model.model import Model
from autopilot.ai.model.recording import LocalRecorder, spent_beside
from autopilot.ai.steps import LLMStep, PythonStep
from autopilot.core.records.ledger import Limits
from autopilot.errors import AgentError, BudgetExceededError, DataError, NoKeyError


class Said(BaseModel):
    success: bool
    score: float
    feedback: str = ""


def judge(**more) -> Judge:
    step = LLMStep("said", "Q: {q} True: {target}", Said)
    model = Model("claude-haiku-4-5", max_tokens=100, max_retries=0)
    return Judge([step], model=model, **more)


def number_of(request: Received) -> int:
    found = re.search(r"^q(\d+)$", request.last_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def script(request: Received) -> Reply:
    number = number_of(request)
    passed = number % 2 == 0
    return say_json({"success": passed, "score": number / 10, "feedback": f"add {number % 4}"})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "val.jsonl"
    lines = [json.dumps({"id": f"i{n}", "q": f"q{n}", "topic": "ab"[n % 2]}) for n in range(10)]
    path.write_text("\n".join([*lines, lines[0]]) + "\n")
    return path


def test_each_item_gets_a_verdict_once(serve, data: Path, tmp_path: Path) -> None:
    server = serve(script)
    judging = Judging(tmp_path / "out" / "verdicts.jsonl")
    found = judging.run(judge(), [data])
    assert server.count == 10
    assert (found.all.items, found.all.passed, found.failed) == (10, 5, 0)
    assert found.all.pass_rate == 0.5
    assert found.all.mean_score == pytest.approx(0.45)
    assert found.feedback == {"add 1": 3, "add 3": 2}
    lines = [json.loads(x) for x in judging.path.read_text().splitlines()]
    (third,) = (line for line in lines if line.get("id") == "i3")
    assert (third["success"], third["score"], third["feedback"]) == (False, 0.3, "add 3")
    assert (third["split"], third["item"]["topic"]) == ("val", "b")
    assert spent_beside(judging.calls).tokens == 1200
    assert Judging(judging.path).summary() == found
    assert "<data-target-" in server.requests[0].last_text()


def test_what_was_judged_is_not_judged_again(serve, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    server = serve(script)
    with pytest.raises(BudgetExceededError):
        Judging(path).run(judge(), [data], budget=Limits(calls=6))
    with pytest.raises(BudgetExceededError):
        Judging(path).resume(judge())
    assert server.count == 6
    with path.open("ab") as file:
        file.write(b'{"kind":"verd')
    assert Judging(path).resume(judge(), budget=Limits()).all.items == 10
    assert server.count == 10
    with data.open("a") as file:
        file.write('{"q": "q1"}\n')
    assert Judging(path).resume(judge()).all.items == 11
    assert server.count == 11


def test_an_item_that_fails_is_told_and_tried_again(serve, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    serve(lambda r: fail(500) if number_of(r) == 7 else script(r))
    found = Judging(path).run(judge(), [data])
    assert (found.all.items, found.failed) == (9, 1)
    assert "500" in next(iter(found.reasons))
    serve(script)
    assert Judging(path).resume(judge()).failed == 0


def unusable(kind: str) -> Reply:
    """An answer of which no verdict can be read; it is recorded all the same."""
    if kind == "refused":
        return say("no", stop_reason="refusal")
    if kind == "cut off":
        return say('{"success": tr', stop_reason="max_tokens")
    return say_json({"success": True, "score": 7} if kind == "out of range" else {"score": "x"})


@pytest.mark.parametrize("kind", ["refused", "cut off", "out of range", "no schema"])
def test_an_answer_that_could_not_be_used_is_asked_for_anew(serve, data, tmp_path, kind) -> None:
    path = tmp_path / "verdicts.jsonl"
    bad: list[Received] = []

    def script_with(times: int):
        def answer(request: Received) -> Reply:
            if not re.search(r"q7\b", request.all_text()) or len(bad) >= times:
                return script(request)
            bad.append(request)
            return unusable(kind)

        return answer

    tries = 3 if kind == "no schema" else 1
    serve(script_with(2 * tries))
    assert Judging(path).run(judge(), [data]).failed == 1
    assert len(bad) == tries
    assert Judging(path).resume(judge()).failed == 1
    assert len(bad) == 2 * tries
    server = serve(script_with(0))
    assert Judging(path).resume(judge()).failed == 0
    assert server.count == 1
    names = [call.id.partition("-")[2] for call in LocalRecorder(Judging(path).calls).calls()]
    assert sorted(names)[-1] == "a3-v1"
    assert Judging(path).resume(judge()).all.items == 10
    assert server.count == 1


def test_a_failure_of_the_users_own_code_pays_nothing_twice(serve, data, tmp_path) -> None:
    def broken(state) -> Said:
        raise KeyError("score")

    path, server = tmp_path / "verdicts.jsonl", serve(script)
    told = judge()
    told.steps = [*told.steps, PythonStep("broken", broken)]
    with pytest.raises(AgentError, match="none of 10 items could be judged: KeyError"):
        Judging(path).run(told, [data])
    assert server.count == 10
    assert Judging(path).resume(judge()).all.items == 10
    assert server.count == 10


def test_an_item_that_failed_and_is_gone_is_not_missing(serve, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    serve(lambda r: fail(500) if number_of(r) == 7 else script(r))
    assert Judging(path).run(judge(), [data]).failed == 1
    lines = [line for line in data.read_text().splitlines() if '"q7"' not in line]
    data.write_text("\n".join(lines) + "\n")
    found = Judging(path).resume(judge())
    assert (found.all.items, found.failed) == (9, 0)


def test_scores_of_another_range_are_counted_in_it(data: Path, tmp_path: Path) -> None:
    by_number = PythonStep("n", lambda s: float(s["q"][1:]))
    judging = Judging(tmp_path / "v.jsonl")
    judging.run(Judge([by_number], score_range=(0, 9)), [data])
    (found,) = Judging(judging.path).histograms(bins=9)
    assert (found.score_range, found.counts) == ((0.0, 9.0), (1,) * 8 + (2,))
    assert found.rates.passed == 5


def test_a_judge_that_says_nothing_leaves_its_items_unjudged(data: Path, tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="none of 10 items could be judged: the judge says noth"):
        Judging(tmp_path / "v.jsonl").run(Judge(), [data])


def test_data_that_changed_under_its_verdicts_is_refused(serve, data: Path, tmp_path: Path) -> None:
    serve(script)
    path = tmp_path / "verdicts.jsonl"
    Judging(path).run(judge(), [data])
    data.write_text(data.read_text().replace("q3", "q5"))
    with pytest.raises(DataError, match="1 items with a verdict are gone or changed, such as i3"):
        Judging(path).resume(judge())


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lambda s: 1 / (len(s["q"]) - 2), "ZeroDivisionError: division by zero"),
        (lambda s: Judgement(True, float("nan")), "the score nan is outside of 0 to 1"),
        (lambda s: {"success": "maybe"}, "success='maybe' is neither true nor false"),
    ],
)
def test_what_the_users_judge_raises_is_its_items(data, tmp_path, step, reason) -> None:
    with pytest.raises(AgentError, match=f"none of 10 items could be judged: {reason}") as raised:
        Judging(tmp_path / "v.jsonl").run(Judge([PythonStep("x", step)]), [data])
    assert "the first item holds id, q, topic;" in raised.value.hint


def test_where_nothing_was_paid_nothing_is_left(serve, data, tmp_path: Path, monkeypatch) -> None:
    serve(script)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    path = tmp_path / "v.jsonl"
    with pytest.raises(NoKeyError):
        Judging(path).run(judge(), [data])
    assert not path.exists()
    with pytest.raises(DataError, match="does not hold verdicts"):
        Judging(path).summary()


def test_scores_are_counted_by_group(serve, data: Path, tmp_path: Path) -> None:
    serve(script)
    judging = Judging(tmp_path / "v.jsonl")
    judging.run(judge(), [data])
    (all_of_them,) = judging.histograms()
    assert (all_of_them.group, all_of_them.counts) == ("val", (1,) * 10)
    a, b = judging.histograms(by="topic", bins=5)
    assert (a.group, a.counts, a.rates.passed) == ("a", (1, 1, 1, 1, 1), 5)
    assert (b.group, b.counts, b.rates.passed) == ("b", (1, 1, 1, 1, 1), 0)
    with pytest.raises(DataError, match="no item has a field 'tone'") as caught:
        judging.histograms(by="tone")
    assert "topic" in caught.value.hint
