"""A model's calls: retried, translated, budgeted, recorded, replayed."""

from __future__ import annotations

import base64
import io
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import BaseModel
from runs import make_run
from server import KEY, Received, Reply, edit, fail, refuse, say, say_json

from autopilot.ai.agent import AgentContext
from autopilot.ai.anthropic_agent import AnthropicAgent
from autopilot.ai.model.model import Model
from autopilot.ai.model.parallel import RateLimit
from autopilot.ai.model.recording import StoreRecorder, use_recorder
from autopilot.ai.prices import Price
from autopilot.core.parameter import PathParameter
from autopilot.core.run import running
from autopilot.core.store import InMemoryStore
from autopilot.errors import (
    AgentError,
    AgentRefusedError,
    AgentReplyError,
    BudgetExceededError,
    KeyRefusedError,
    ModelCallError,
    NoCreditError,
    NoKeyError,
    NoModelError,
    ReplayMissError,
)

NAME = "claude-haiku-4-5"


class Verdict(BaseModel):
    score: float
    why: str


def test_a_text_comes_back_with_what_it_cost(serve) -> None:
    server = serve([say("hello there", usage=(1000, 200))])
    result = Model(NAME).complete("hi", system="be kind")
    assert result.output == "hello there"
    assert (result.input_tokens, result.output_tokens) == (1000, 200)
    assert result.cost_usd == pytest.approx(0.002)
    body = server.requests[0].body
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert body["system"][0]["cache_control"] == {"type": "ephemeral"}


def test_an_unknown_model_counts_tokens_and_says_that_dollars_are_unknown(serve) -> None:
    serve([say("ok", usage=(70, 30))])
    run = make_run()
    with running(run):
        result = Model("somebody-else").complete("hi")
    assert (result.tokens, result.cost_usd) == (100, None)
    assert "1 call, 100 tokens, at unknown cost" in run.ledger.render()
    own = Model("somebody-else", prices={"somebody-else": Price(1, 2)})
    assert own.complete("hi").cost_usd == pytest.approx(130e-6)


@pytest.mark.parametrize("status", [429, 500, 529])
def test_the_client_retries(serve, status: int) -> None:
    server = serve([fail(status), fail(status), say("at last")])
    assert Model(NAME).complete("hi").output == "at last"
    assert server.count == 3


@pytest.mark.parametrize("status", [429, 500, 529])
def test_an_error_that_stays_is_ours_and_costs_nothing(serve, status: int) -> None:
    server = serve([fail(status)])
    run = make_run()
    with running(run), pytest.raises(ModelCallError, match=str(status)) as caught:
        Model(NAME, max_retries=1).complete("hi")
    assert caught.value.status == status
    assert caught.value.hint
    assert server.count == 2
    assert run.ledger.total().calls == 0


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "Your credit balance is too low to access the Anthropic API.", NoCreditError),
        (400, "You have reached your specified API usage limits.", NoCreditError),
        (402, "billing_error", NoCreditError),
        (403, "not for you", KeyRefusedError),
        (404, "model: nope", NoModelError),
        (400, "prompt is too long", ModelCallError),
        (413, "request too large", ModelCallError),
    ],
)
def test_what_no_other_call_would_mend_has_an_error_of_its_own(
    serve, status: int, message: str, kind: type[AgentError]
) -> None:
    server = serve([fail(status, message)])
    with pytest.raises(kind, match=f"answered {status}: {message}") as caught:
        Model(NAME).complete("hi")
    assert type(caught.value) is kind and caught.value.hint and server.count == 1


def test_a_wrong_key_is_not_retried_and_not_shown(serve) -> None:
    server = serve([fail(401)])
    with pytest.raises(KeyRefusedError, match="401") as caught:
        Model(NAME).complete("hi")
    assert server.count == 1
    assert KEY in server.requests[0].headers["authorization"]
    assert KEY not in str(caught.value) + caught.value.hint


def test_without_a_key_it_says_what_is_needed(serve, monkeypatch, tmp_path) -> None:
    server = serve([say("ok")])
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    with pytest.raises(NoKeyError, match="no key") as caught:
        Model(NAME).complete("hi")
    assert "ANTHROPIC_API_KEY" in caught.value.hint
    assert server.count == 0


def test_only_a_reply_that_may_take_too_long_in_one_comes_as_a_stream(serve) -> None:
    server = serve([say("ok")])
    assert Model(NAME).complete("hi").output == "ok"
    assert Model(NAME, max_tokens=32_000).complete("hi").output == "ok"
    assert Model(NAME, timeout_s=60).complete("hi").output == "ok"
    assert Model(NAME, timeout_s=60, max_tokens=1000).complete("hi").output == "ok"
    assert [r.body.get("stream", False) for r in server.requests] == [False, True, True, False]


@pytest.mark.parametrize("max_tokens", [1000, 32_000])
def test_a_reply_that_is_cut_is_asked_again(serve, max_tokens: int) -> None:
    server = serve([say("a long answer " * 50).cut(500), say("whole")])
    run = make_run()
    with running(run):
        assert Model(NAME, max_tokens=max_tokens).complete("hi").output == "whole"
    assert server.count == 2
    # The broken attempt may have been charged: it is counted, as a guess.
    assert (run.ledger.total().calls, run.ledger.total().unpriced) == (2, 1)


@pytest.mark.parametrize("kind", ["application/json", "text/html", "text/event-stream"])
def test_what_is_no_message_is_an_error_that_may_pass(serve, kind: str) -> None:
    page = b"<html>%slog in, %s</html>" % (b" " * 190, KEY.encode())
    cut = [b'{"type": "message", "content": [{"type": "te', b'data: {"type": "message_sta\n\n']
    others = [b'{"type": "error", "error": {"type": "overloaded_error"}}', b"[1]", b"null", b"\xfc"]
    wrong = [Reply(body=x, headers={"content-type": kind}) for x in [page, *cut, *others, b""]]
    server = serve([*wrong, wrong[0], say("whole")])
    run = make_run()
    with running(run):
        for number in range(len(wrong)):
            with pytest.raises(ModelCallError, match=r"no answer from .*: (what came|the reply)"):
                Model(NAME, max_retries=0).complete(f"hi {number}")
        assert Model(NAME, max_retries=1).complete("hi").output == "whole"
    # They may have been charged: they are counted, as guesses, and answer nothing later.
    spent = run.ledger.total()
    assert (server.count, spent.calls, spent.unpriced) == (10, 10, 9)
    assert "planted" not in str(run.experiment.store.calls())


def test_counted_tokens_are_recorded_as_a_call_that_costs_nothing(serve) -> None:
    serve([])
    model, run = Model(NAME), make_run(calls=2)
    with running(run):
        counted = model.count_tokens("hi", system="be kind")
        assert model.count_tokens("hi", system="be kind") == counted > 0
        assert model.count_tokens("hi " * 100) > counted
        with pytest.raises(BudgetExceededError):
            model.count_tokens("something else")
    spent = run.ledger.total()
    assert (spent.calls, spent.tokens, spent.cost_usd, spent.unpriced) == (2, 0, 0.0, 0)
    elsewhere = Model(NAME, base_url="http://127.0.0.1:9", max_retries=0)
    with running(make_run()), use_recorder(StoreRecorder(run.experiment.store, "replay")):
        assert elsewhere.count_tokens("hi", system="be kind") == counted
        with pytest.raises(ReplayMissError, match=r"messages.0.content: recorded 'hi', now 'ho'"):
            elsewhere.count_tokens("ho", system="be kind")


def test_messages_may_hold_the_clients_own_blocks(serve) -> None:
    from anthropic.types import TextBlock

    server, run = serve([say("ok")]), make_run()
    said = [TextBlock(type="text", text="hello")]
    asked = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": ({"type": "text", "text": t} for t in ("and", "so?"))},
    ]
    with running(run):
        assert Model(NAME).complete(asked[:2]).output == "ok"
        assert Model(NAME).complete(asked[:2]).output == "ok"
        assert Model(NAME).count_tokens(asked[:2]) > 0
        assert Model(NAME).complete(asked).output == "ok"
    assert server.count == 2
    assert server.requests[0].body["messages"][1]["content"] == [{"type": "text", "text": "hello"}]
    assert [b["text"] for b in server.requests[1].body["messages"][2]["content"]] == ["and", "so?"]


@pytest.mark.parametrize("given", [Path, lambda path: io.BytesIO(path.read_bytes())])
def test_messages_may_hold_files(serve, tmp_path, given) -> None:
    server, run = serve([say("a cat")]), make_run()
    picture = tmp_path / "Bild ü 1.png"
    picture.write_bytes(b"\x89PNG\n1\n")

    def ask() -> str:
        source = {"type": "base64", "media_type": "image/png", "data": given(picture)}
        content = [{"type": "image", "source": source}, {"type": "text", "text": "what is it?"}]
        return Model(NAME).complete([{"role": "user", "content": content}]).output

    with running(run):
        assert (ask(), ask()) == ("a cat", "a cat")
    assert ask() == "a cat"
    assert server.count == 2
    sent = [request.body["messages"][0]["content"][0]["source"] for request in server.requests]
    data = base64.b64encode(picture.read_bytes()).decode()
    assert sent == [{"type": "base64", "media_type": "image/png", "data": data}] * 2


def test_ctrl_c_waits_for_a_call_that_is_paid(serve) -> None:
    def interrupting(_request: Received) -> Reply:
        os.kill(os.getpid(), signal.SIGINT)
        return say("ok").slowly(0.1)

    server, run = serve(interrupting), make_run()
    with running(run):
        with pytest.raises(KeyboardInterrupt):
            Model(NAME).complete("hi")
        assert run.ledger.total().tokens == 120
        assert Model(NAME).complete("hi").output == "ok"
    assert server.count == 1


def test_ctrl_c_does_not_wait_for_a_call_that_may_not_go_out_yet(serve) -> None:
    server = serve([say("ok")])
    model = Model(NAME, rate=RateLimit(requests_per_minute=1))
    with running(make_run()):
        model.complete("hi")
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            model.complete("ho")
    assert server.count == 1 and time.monotonic() - started < 20


def test_a_slow_reply_times_out(serve) -> None:
    ended = threading.Event()
    serve([say("late").after(lambda: ended.wait(60))])
    with pytest.raises(ModelCallError, match="did not answer in time") as caught:
        Model(NAME, timeout_s=0.3, max_retries=0).complete("hi")
    ended.set()
    assert caught.value.status == 0


def test_a_refusal_and_a_reply_that_is_cut_off_have_their_errors(serve) -> None:
    serve([refuse(), say("half", stop_reason="max_tokens"), refuse()])
    with pytest.raises(AgentRefusedError, match="I cannot help"):
        Model(NAME).complete("hi")
    with pytest.raises(AgentReplyError, match="cut off"):
        Model(NAME).complete("hi")
    with pytest.raises(AgentRefusedError):
        Model(NAME).parse("hi", Verdict)


def test_a_structured_reply(serve) -> None:
    server = serve([say_json({"score": 0.5, "why": "half"})])
    assert Model(NAME).parse("judge", Verdict) == Verdict(score=0.5, why="half")
    form = server.requests[0].body["output_config"]["format"]
    assert form["type"] == "json_schema"
    assert set(form["schema"]["properties"]) == {"score", "why"}


def test_a_reply_that_breaks_the_schema_goes_back_with_what_is_wrong(serve) -> None:
    server = serve([say_json({"score": "high"}), say_json({"score": 1, "why": "now"})])
    assert Model(NAME).parse("judge", Verdict).why == "now"
    first, bad, again = server.requests[1].body["messages"]
    assert (first["content"], bad["role"]) == ("judge", "assistant")
    assert "score" in again["content"] and "why" in again["content"]


def test_a_reply_that_never_fits_is_an_error(serve) -> None:
    server = serve([say("no json")])
    with pytest.raises(AgentReplyError, match="as Verdict asks") as caught:
        Model(NAME).parse("judge", Verdict, max_retries=1)
    assert server.count == 2
    assert caught.value.reply == "no json"


# --- recording ---------------------------------------------------------------------------------


def test_the_same_question_is_paid_once(serve) -> None:
    server = serve([say("one"), say("two")])
    run = make_run()
    model = Model(NAME)
    with running(run):
        first, second = model.complete("hi"), model.complete("hi")
        other = model.complete("hi", sample=1)
    assert (first.output, second.output, other.output) == ("one", "one", "two")
    assert server.count == 2
    assert second.cost_usd == first.cost_usd
    assert run.ledger.total().calls == 2
    (record, _) = run.experiment.store.calls()
    assert (record.role, record.model, record.cost.tokens) == ("module", NAME, 120)
    assert record.reply["content"][0]["text"] == "one"


def test_the_same_question_side_by_side_is_paid_once(serve) -> None:
    server = serve([say("one").slowly(0.2)])
    run, model = make_run(), Model(NAME)
    with running(run), ThreadPoolExecutor(8) as pool:
        # These threads know nothing of the run: they find it, since it is the only one.
        answers = list(pool.map(lambda _: model.complete("hi").output, range(8)))
    assert answers == ["one"] * 8
    assert server.count == 1


def test_a_replay_opens_no_socket_and_names_what_changed(serve, monkeypatch) -> None:
    serve([say("one")])
    run = make_run()
    with running(run):
        Model(NAME).complete("What is two and two?", system="be brief")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    replay = StoreRecorder(run.experiment.store, "replay")
    with use_recorder(replay):
        model = Model(NAME, max_retries=0)
        assert model.complete("What is two and two?", system="be brief").output == "one"
        with pytest.raises(ReplayMissError) as caught:
            model.complete("What is two and three?", system="be brief")
    message = str(caught.value)
    assert "messages.0.content: recorded 'What is two and two?'" in message
    assert "now 'What is two and three?'" in message
    assert "system" not in message


def test_a_replay_needs_no_client(serve, monkeypatch) -> None:
    serve([say("recorded", usage=(7, 1))])
    run = make_run()
    with running(run):
        recorded = Model(NAME).complete("hi", system="be kind", sample=1)
    monkeypatch.setitem(sys.modules, "anthropic", None)  # as if it were not installed
    with running(run), use_recorder(StoreRecorder(run.experiment.store, "replay")):
        assert Model(NAME).complete("hi", system="be kind", sample=1) == recorded
        with pytest.raises(ReplayMissError, match="only how often it was asked"):
            Model(NAME).complete("hi", system="be kind")


def test_a_replay_of_nothing_says_so() -> None:
    replay = use_recorder(StoreRecorder(InMemoryStore(), "replay"))
    with replay, pytest.raises(ReplayMissError, match="neither is any other"):
        Model(NAME).complete("hi")


# --- budget and limits -------------------------------------------------------------------------


def test_parallel_calls_do_not_overshoot(serve) -> None:
    server = serve(lambda r: say("ok", usage=(30, 20)).slowly(0.05))
    run = make_run(tokens=2000)
    model = Model(NAME, max_tokens=300)
    refused = []

    def ask(number: int) -> None:
        try:
            model.complete(f"question {number}")
        except BudgetExceededError as error:
            refused.append(error)

    with running(run), ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(100)))
    spent = run.ledger.total()
    assert spent.tokens == 50 * server.count <= 2000
    assert len(refused) == 100 - server.count
    # A call reserves 300 to write and what it may read: all but the last such room is used.
    assert spent.tokens > 2000 - 500
    assert "token budget" in str(refused[0]) and refused[0].hint


def test_what_the_service_adds_for_tools_is_reserved(serve, tmp_path: Path) -> None:
    """Its own words on tools are read too, and paid, though no request shows them."""
    (tmp_path / "prompt.md").write_text("be brief")
    server = serve([say("ok", usage=(1500, 20))])
    context = AgentContext(folder=tmp_path, parameters=[PathParameter(tmp_path / "prompt.md")])
    run = make_run(tokens=1200)
    with running(run), pytest.raises(BudgetExceededError):
        AnthropicAgent(Model(NAME, max_tokens=100)).run("improve it", context)
    assert server.count == run.ledger.total().tokens == 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"calls": 2}, "call budget: 2 of 2 made"),
        ({"cost_usd": 0.0001}, "dollar budget"),
        ({"seconds": 0.0}, "time budget"),
    ],
)
def test_every_limit_is_looked_at_before_the_call(serve, limits, message) -> None:
    server = serve([say("ok")])
    run = make_run(**limits)
    with running(run), pytest.raises(BudgetExceededError, match=message):
        for number in range(5):
            Model(NAME).complete(f"question {number}")
    assert server.count == limits.get("calls", 0)


def test_roles_are_counted_apart(serve) -> None:
    serve([say("ok")])
    run, model = make_run(), Model(NAME, role="module")
    with running(run):
        model.complete("a")
        model.complete("b", role="judge")
    by_role = run.ledger.by_role()
    assert {role: spent.tokens for role, spent in by_role.items()} == {"module": 120, "judge": 120}


def test_64_workers_keep_64_calls_in_the_air(serve) -> None:
    """Ten waves of 64, each answered when it is complete: nothing on the way holds a call back.

    How long 640 calls take is a benchmark: `python -m tests.benchmarks calls`.
    """
    wave = threading.Barrier(64, timeout=60)

    def together(request: Received) -> Reply:
        return say("ok").after(wave.wait)

    server = serve(together)
    run, model = make_run(), Model(NAME, max_retries=0)
    with running(run), ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda n: model.complete(f"question {n}").output, range(640)))
    assert answers == ["ok"] * 640
    assert (server.count, server.most_at_once) == (640, 64)
    assert run.ledger.total().calls == 640


# --- the agent ---------------------------------------------------------------------------------


def test_the_agent_edits_only_what_it_may(serve, tmp_path: Path) -> None:
    (tmp_path / "prompt.md").write_text("be brief\n")
    (tmp_path / "evaluator.py").write_text("score = 0\n")
    (tmp_path / "link.md").symlink_to("evaluator.py")
    server = serve(
        [
            edit("view", path="prompt.md"),
            edit("str_replace", path="prompt.md", old_str="brief", new_str="kind"),
            edit("create", path="evaluator.py", file_text="score = 1"),
            edit("create", path="../outside.md", file_text="x"),
            edit("str_replace", path="prompt.md", old_str="nowhere", new_str=""),
            edit("insert", path="prompt.md", insert_line=1, insert_text="and brave"),
            say("done"),
        ]
    )
    agent = AnthropicAgent(NAME)
    context = AgentContext(
        folder=tmp_path, parameters=[PathParameter(tmp_path / "prompt.md")], role="optimizer"
    )
    run = make_run()
    with running(run):
        result = agent.run("improve", context)
    assert (tmp_path / "prompt.md").read_text() == "be kind\nand brave\n"
    assert (tmp_path / "evaluator.py").read_text() == "score = 0\n"
    assert not (tmp_path.parent / "outside.md").exists()
    assert result.output == "done"
    assert result.tokens == 7 * 120
    assert run.ledger.by_role()["optimizer"].calls == 7
    told = server.requests[-1].all_text()
    assert "1\\tbe brief" in told
    assert "evaluator.py may not be read or edited" in told
    assert "stands 0 times" in told

    # The conversation goes on where it was.
    agent.run("once more", AgentContext(session_id=result.session_id))
    texts = server.requests[-1].all_text()
    assert "improve" in texts and "once more" in texts


def test_an_agent_that_does_not_end_is_stopped(serve, tmp_path: Path) -> None:
    (tmp_path / "p.md").write_text("x")
    server = serve([edit("view", path="p.md")])
    context = AgentContext(folder=tmp_path, parameters=[PathParameter(tmp_path / "p.md")])
    with pytest.raises(AgentReplyError, match="not done after 3 turns"):
        AnthropicAgent(NAME, max_turns=3).run("improve", context)
    assert server.count == 3


def test_an_import_of_the_ai_layer_loads_no_client() -> None:
    code = (
        "import sys, autopilot.ai.model.model, autopilot.ai.anthropic_agent, autopilot.ai.coding\n"
        "assert 'anthropic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
