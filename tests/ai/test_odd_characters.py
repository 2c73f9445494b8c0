"""Half of an emoji and NUL on their way to models and programs, and back: never fatal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel
from server import Reply, say

from autopilot.ai.agent import AgentContext
from autopilot.ai.coding import ClaudeCodeAgent, CommandAgent
from autopilot.ai.model.model import Model
from autopilot.ai.model.recording import LocalRecorder, use_recorder
from autopilot.ai.prompt.prompting import ask, read_reply
from autopilot.core.parameter import PathParameter
from autopilot.errors import AgentReplyError

ODD = "cut \ud83d here, \0 there, \ud83d\ude00 whole"
CLEAN = "cut \ufffd here, \ufffd there, \U0001f600 whole"


class Answer(BaseModel):
    strategy: str
    more: list[str] = []


def as_body(text: str, **fields: object) -> Reply:
    message = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 4},
        **fields,
    }
    return Reply(body=json.dumps(message).encode())


def test_a_models_prompt_and_reply(serve, tmp_path: Path) -> None:
    server = serve([as_body(ODD)])
    model = Model("claude-haiku-4-5")
    with use_recorder(LocalRecorder(tmp_path / "calls.jsonl")):
        result = model.complete(ODD, system=ODD)
        # What is recorded answers the same question.
        again = Model("claude-haiku-4-5").complete(ODD, system=ODD)
    assert result.output == again.output == CLEAN
    (request,) = server.requests
    assert request.body["messages"][0]["content"] == CLEAN
    assert request.body["system"][0]["text"] == CLEAN
    assert len(list((tmp_path / "calls.jsonl").read_bytes().strip().split(b"\n"))) == 1


def test_a_structured_reply_with_halves_in_its_escapes(serve) -> None:
    server = serve([as_body('{"strategy": "half \\ud83d", "more": ["\\ud83d\\ude00", "\\u0000"]}')])
    answer = Model("claude-haiku-4-5").parse("p", Answer)
    assert answer == Answer(strategy="half \ufffd", more=["\U0001f600", "\ufffd"])
    assert len(server.requests) == 1


def test_a_reply_that_is_sent_back_with_what_is_wrong(serve) -> None:
    server = serve([as_body(f'{{"strategy": 3}} {ODD}'), say('{"strategy": "s"}')])
    assert Model("claude-haiku-4-5").parse("p", Answer).strategy == "s"
    assert CLEAN in json.dumps(server.requests[1].body, ensure_ascii=False)


@pytest.mark.parametrize("arguments", [[], ["{prompt_file}"]])
def test_a_programs_prompt_and_answer(arguments: list[str]) -> None:
    program = "import sys; data = (open(sys.argv[1], 'rb') if sys.argv[1:] else sys.stdin.buffer)"
    program += ".read(); sys.stdout.buffer.write(data + b' \\xff \\0')"
    agent = CommandAgent([sys.executable, "-c", program, *arguments])
    assert agent.run(ODD, AgentContext(system=ODD)).output == f"{CLEAN}\n\n{CLEAN} \ufffd \ufffd"


def test_claudes_arguments_and_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "claude"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\nsystem = sys.argv[sys.argv.index("
        "'--append-system-prompt') + 1]\nsaid = sys.stdin.read() + '|' + system + '|\\ud83d \\0'\n"
        "print(json.dumps({'result': said, 'session_id': 's', 'total_cost_usd': 0}))\n"
    )
    program.chmod(0o755)
    agent = ClaudeCodeAgent(system=ODD, command=str(program))
    assert agent.run(ODD).output == f"{CLEAN}|{CLEAN}|\ufffd \ufffd"


def test_any_agents_structured_answer() -> None:
    reply = json.dumps({"strategy": ODD})
    agent = CommandAgent([sys.executable, "-c", f"print({reply!r})"])
    assert ask(agent, "p", Answer, role="judge") == Answer(strategy=CLEAN)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, "\0", "\ud83d", '{"strategy": }']
)
def test_what_is_no_json_is_an_error_of_the_reply(text: str) -> None:
    with pytest.raises(AgentReplyError):
        read_reply(text, Answer)


def test_a_parameters_file(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("before")
    parameter = PathParameter(tmp_path / "p.txt")
    parameter.write_text(ODD)
    # A file may hold NUL.
    assert parameter.read_text() == "cut \ufffd here, \0 there, \U0001f600 whole"
