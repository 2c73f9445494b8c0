"""The protim example over the scripted server: whole runs, both losses, kills, no key."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from checkouts import commit_all
from runs import autopilot, start
from server import MessagesServer, Received, Reply, edit, fail, say, say_json, use_tool

from autopilot.ai.model.recording import request_key
from autopilot.core.records.record import LlmRecord, MetricsRecord, StepRecord
from autopilot.tracking.git_store import GitStore

EXAMPLE = Path(__file__).parents[2] / "examples" / "protim"
SPLITS = ("train", "val", "test")
FILES = ("answers", "protim", "run")
RUN = ("run", "protim.py", "-e", "p", "--max-epochs", "3")

# What the scripted agent adds to the prompt, epoch by epoch; the second does harm.
RULES = ("write money and date to the letter", "write nothing but unknown", "write time as 14:05")


def questions(split: str) -> list[dict[str, str]]:
    lines = (EXAMPLE / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


EVERYTHING = {q["message"]: q for split in SPLITS for q in questions(split)}


def answer(request: Received) -> Reply:
    """A model that knows every answer, and writes it as expected where the prompt has a rule."""
    prompt = request.body["system"][0]["text"]
    message = request.last_text().removeprefix("Message: ").partition("\n\nQuestion: ")[0]
    asked = EVERYTHING[message]
    if RULES[1] in prompt:
        return say("unknown")
    return say(asked["answer"] if asked["kind"] in prompt else f"It is {asked['answer']}.")


def script(request: Received) -> Reply:
    """The whole of it: answers, verdicts, and edits of the prompt."""
    body = request.body
    if "tools" in body:
        return edits(request)
    if "output_config" in body:
        kind = EVERYTHING[re.findall(r"<data-message-\w+>\n(.*)\n", request.last_text())[0]]["kind"]
        return say_json({"score": 1, "feedback": f"say how {kind} is written", "attribution": kind})
    return answer(request)


def edits(request: Received) -> Reply:
    """An agent that adds the next rule; what was rejected it finds in its memory."""
    said = str(request.body["messages"][0]["content"])
    rule = next(rule for rule in RULES if rule not in said)
    if len(request.body["messages"]) == 1:
        return edit("insert", path="prompt.md", insert_line=2, insert_text=f"{rule}\n")
    return say_json({"strategy": f"say how: {rule}", "summary": rule, "rationale": "it was wrong"})


@pytest.fixture
def top(tmp_path: Path, git_environment: Path) -> Path:
    """A repository of somebody with the example in it; its name has a space and an umlaut."""
    top = tmp_path / "größe 1"
    shutil.copytree(EXAMPLE, top, ignore=shutil.ignore_patterns("__pycache__", "calls.jsonl"))
    return commit(top)


@pytest.fixture
def small(top: Path) -> Path:
    """The same with two questions of each kind in a split, instead of six."""
    for split in SPLITS:
        kinds: Counter[str] = Counter()
        kept = [q for q in questions(split) if kinds.update([q["kind"]]) or kinds[q["kind"]] <= 2]
        lines = (json.dumps(question) for question in kept)
        (top / "data" / f"{split}.jsonl").write_text("\n".join(lines))
    return commit(top)


def commit(top: Path) -> Path:
    return commit_all(top, "example")


@contextlib.contextmanager
def imported_from(top: Path) -> Iterator[None]:
    """In the body, the example's files are imported from a folder, as a script there would."""
    sys.path.insert(0, str(top))
    try:
        yield
    finally:
        sys.path.remove(str(top))
        for name in FILES:
            sys.modules.pop(name, None)


def judged(top: Path) -> dict[int, MetricsRecord]:
    found = (r for _, r in GitStore("p", top).records(MetricsRecord) if r.split == "val")
    return {record.epoch: record for record in found}


def show(top: Path, revision: str) -> str:
    return subprocess.run(
        ["git", "show", f"{revision}:prompt.md"], cwd=top, capture_output=True, text=True
    ).stdout


def check_result(top: Path) -> None:
    """What every whole run comes to, whatever happened on its way."""
    accuracies = {epoch: record.metrics["accuracy"] for epoch, record in judged(top).items()}
    assert accuracies == pytest.approx({0: 0, 1: 2 / 7, 2: 1 / 7, 3: 3 / 7})
    assert [r.verdict for r in judged(top).values()] == ["baseline", "kept", "rejected", "kept"]
    prompt = show(top, "autopilot/p")
    assert RULES[0] in prompt and RULES[2] in prompt and RULES[1] not in prompt
    assert (top / "prompt.md").read_text() == (EXAMPLE / "prompt.md").read_text()


def paid(server: MessagesServer) -> Counter[str]:
    return Counter(request_key(request.body) for request in server.requests)


def test_a_whole_run_improves_the_prompt_and_records_every_call(top: Path, serve) -> None:
    server = serve(script)
    done = autopilot(top, *RUN)
    assert done.returncode == 0, done.stderr
    check_result(top)
    assert "42 train / 42 val items" in done.stdout
    assert "val accuracy 0.000 -> 0.429, test 0.000 -> 0.429 (95% interval" in done.stdout
    assert max(paid(server).values()) == 1
    kept = {record.id: record for _, record in GitStore("p", top).records(LlmRecord)}
    assert kept.keys() == paid(server).keys()
    assert Counter(record.role for record in kept.values())["optimizer"] == 6
    said = next(r for r in server.requests if "tools" in r.body).all_text()
    assert "make answers on money come out as expected" in said
    assert re.search(r"expected 'EUR \d+\.\d\d', got 'It is EUR \d+\.\d\d\.'", said)


def test_the_judge_explains_what_is_wrong(small: Path, serve) -> None:
    server = serve(script)
    options = ("-e", "p", "--max-epochs", "1", "-H", "judge=true")
    done = autopilot(small, "run", "protim.py", *options)
    assert done.returncode == 0, done.stderr
    assert judged(small)[1].metrics["accuracy"] == pytest.approx(2 / 7)
    assert max(paid(server).values()) == 1
    roles = Counter(record.role for _, record in GitStore("p", small).records(LlmRecord))
    assert roles["judge"] == 14
    said = next(r for r in server.requests if "tools" in r.body).all_text()
    assert "say how money is written" in said
    # The scripted judge gives the highest score, for the form, to answers that are wrong.
    steps = GitStore("p", small).records(StepRecord)
    (gradient,) = steps[0][1].gradients.values()
    assert "severity 0.50" in gradient


@pytest.mark.parametrize("at", [30, 70])
def test_a_killed_run_pays_nothing_twice(small: Path, serve, at: int) -> None:
    answered: list[str] = []

    def killing(request: Received) -> Reply:
        if server.count == at:
            os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.3)  # until its child is gone too
            return fail(500)
        answered.append(request_key(request.body))
        return script(request)

    server = serve(killing)
    process = start(small, *RUN)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = autopilot(small, "resume", "p")
    assert done.returncode == 0, done.stderr
    check_result(small)
    # Requests beside the killed one were answered to nobody: all others were asked once.
    assert sum(Counter(answered).values()) - len(set(answered)) < 8


def test_without_a_key_it_says_what_it_needs_and_writes_nothing(
    top: Path, monkeypatch, capsys
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    done = autopilot(top, *RUN)
    with imported_from(top), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(top / "run.py"), run_name="__main__")
    for code, said in (
        (done.returncode, done.stderr),
        (ended.value.code, capsys.readouterr().err),
    ):
        assert code == 1
        assert [line.partition(":")[0] for line in said.splitlines()] == ["error", "  hint"]
        assert "there is no key for Anthropic's service" in said
        assert "set ANTHROPIC_API_KEY" in said
    refs = subprocess.run(["git", "for-each-ref"], cwd=top, capture_output=True, text=True).stdout
    assert [line.split()[-1] for line in refs.splitlines()] == ["refs/heads/main"]
    status = ["git", "status", "--porcelain", "--ignored"]
    assert subprocess.run(status, cwd=top, capture_output=True, text=True).stdout == ""
    listed = subprocess.run(["git", "worktree", "list"], cwd=top, capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1


CLAUDE = os.environ.get("AUTOPILOT_TEST_CLAUDE", "")


@pytest.mark.skipif(not CLAUDE, reason="AUTOPILOT_TEST_CLAUDE names no Claude Code")
def test_claude_code_itself_edits_the_prompt(small: Path, serve, monkeypatch) -> None:
    def scripted(request: Received) -> Reply:
        tools = {tool.get("name") for tool in request.body.get("tools", ())}
        if "Edit" not in tools:
            return script(request) if "Message: " in request.last_text() else say("ok")
        (prompt,) = (small.parent / "home" / ".cache").rglob("prompt.md")
        text = str(request.body["messages"][0]["content"])
        rule = next(rule for rule in RULES if rule not in text)
        turns = [
            use_tool("Read", file_path=str(prompt)),
            use_tool("Edit", file_path=str(prompt), old_string="Be helpful.", new_string=rule),
            say(json.dumps({"strategy": rule, "summary": rule})),
        ]
        return turns[sum(m["role"] == "assistant" for m in request.body["messages"])]

    server = serve(scripted)
    monkeypatch.setenv("PATH", f"{Path(CLAUDE).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
    monkeypatch.setenv("DISABLE_AUTOUPDATER", "1")
    options = ("-e", "p", "--max-epochs", "1", "-H", "agent=claude-code")
    done = autopilot(small, "run", "protim.py", *options)
    assert done.returncode == 0, done.stderr
    assert judged(small)[1].metrics["accuracy"] == pytest.approx(2 / 7)
    assert RULES[0] in show(small, "autopilot/p")
    assert max(paid(server).values()) == 1


# --- in this process ---------------------------------------------------------------------------


@pytest.fixture
def example(small: Path) -> Iterator[dict[str, ModuleType]]:
    """The example's files, imported as a script in their folder would."""
    with imported_from(small):
        yield {name: importlib.import_module(name) for name in FILES}


def test_the_data_is_large_varied_and_disjoint() -> None:
    splits = {name: questions(name) for name in SPLITS}
    assert sum(map(len, splits.values())) == len(EVERYTHING) == 126
    assert len({q["id"] for q in EVERYTHING.values()}) == 126
    for split in splits.values():
        kinds = Counter(q["kind"] for q in split)
        assert len(kinds) == 7
        assert set(kinds.values()) == {6}


FORMS = {
    "money": r"EUR \d+\.\d\d",
    "time": r"([01]\d|2[0-3]):[0-5]\d",
    "date": r"202\d-[01]\d-[0-3]\d",
    "duration": r"\d+ h( [1-5]?\d min)?|[1-5]?\d min",
    "count": r"[1-9]\d*",
    "list": r"\w+(; \w+)+",
    "missing": "unknown",
}


def test_answers_have_one_form_a_kind() -> None:
    for asked in EVERYTHING.values():
        assert re.fullmatch(FORMS[asked["kind"]], asked["answer"]), asked
    for asked in EVERYTHING.values():
        names = asked["answer"].split("; ")
        assert names == sorted(names), asked
        if asked["kind"] == "list":
            assert all(
                name in asked["message"] or name.capitalize() in asked["message"] for name in names
            ), asked


def test_the_loop_by_hand_works_on_a_copy_and_costs_nothing_when_repeated(
    example, small: Path, serve, monkeypatch, capsys
) -> None:
    server = serve(script)
    monkeypatch.setattr(sys, "argv", ["run.py", "--max-epochs", "3"])
    assert example["run"].main() == 0
    first, count = capsys.readouterr().out, server.count
    assert [line.split()[:5] for line in first.splitlines()[:4]] == [
        ["0", "0.000", "best", "0.000", "baseline"],
        ["1", "0.286", "best", "0.286", "kept"],
        ["2", "0.143", "best", "0.286", "rejected"],
        ["3", "0.429", "best", "0.429", "kept"],
    ]
    assert max(paid(server).values()) == 1
    assert (small / "prompt.md").read_text() == (EXAMPLE / "prompt.md").read_text()
    assert example["run"].main() == 0
    assert server.count == count
    assert capsys.readouterr().out.splitlines()[:5] == first.splitlines()[:5]


@pytest.mark.parametrize(
    ("option", "kind"), [("anthropic", "AnthropicAgent"), ("claude-code", "ClaudeCodeAgent")]
)
def test_the_agent_is_an_option(example, option: str, kind: str) -> None:
    from autopilot import AutoPilotModule
    from autopilot.engine.target import build

    hparams = {"agent": option, "judge": "true"}
    module = build(example["protim"].Protim, hparams, "protim.py", AutoPilotModule)
    optimizer = module.configure_optimizers()
    assert type(optimizer.agent).__name__ == kind
    assert type(module.configure_loss()).__name__ == "JudgeLoss"


def test_docstring_examples(example) -> None:
    for name in FILES:
        assert doctest.testmod(example[name]).failed == 0
