"""Models of several providers: their options, keys, failures; one of the user's own."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from runs import make_run
from server import Reply, edit, fail, refuse, say, say_json

import autopilot
from autopilot import (
    AgentContext,
    AgentOptimizer,
    AnthropicAgent,
    AutoPilotModule,
    ChatModel,
    DataGenerator,
    DataLoader,
    Datum,
    Judge,
    JudgeLoss,
    ListDataset,
    LiteLLMModel,
    LLMStep,
    Model,
    Module,
    PathParameter,
    Trainer,
)
from autopilot.ai.model.recording import StoreRecorder, use_recorder
from autopilot.ai.prices import Price, Usage
from autopilot.core.parameter import Parameter
from autopilot.core.run import running
from autopilot.errors import (
    AgentRefusedError,
    AgentReplyError,
    EvaluationError,
    KeyRefusedError,
    ModelCallError,
    NoCreditError,
    NoKeyError,
    NoModelError,
    NoPriceError,
    UsageError,
)

NAME = "claude-haiku-4-5"


@pytest.fixture(autouse=True, scope="module")
def connections() -> Iterator[None]:
    """Closes those that LiteLLM keeps as long as the process lives."""
    yield
    if litellm := sys.modules.get("litellm"):
        for client in litellm.in_memory_llm_clients_cache.cache_dict.values():
            if not inspect.iscoroutinefunction(close := getattr(client, "close", print)):
                close()


class Verdict(BaseModel):
    """A verdict."""

    score: float
    why: str | None = None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "p.md").write_text("be brief\n")
    return tmp_path


def editing(folder: Path, **more: object) -> AgentContext:
    return AgentContext(folder=folder, parameters=[PathParameter(folder / "p.md")], **more)


# --- LiteLLM -----------------------------------------------------------------------------------

LOCAL = """\
import sys
seen = []
sys.addaudithook(lambda event, args: seen.append(args[1]) if event == "socket.connect" else None)
from autopilot import LiteLLMModel
print(LiteLLMModel("openai/my-own", api_base=sys.argv[1], api_key="").complete("hi").output)
import os
assert {host for host, *_ in seen} == {"127.0.0.1"}, seen
assert not {"PLANTED", "LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_MODE"} & set(os.environ)
"""


def test_its_package_stays_offline_and_silent(serve, tmp_path: Path) -> None:
    server = serve([say("hello")])
    (tmp_path / ".env").write_text("PLANTED=1\n")
    line = [sys.executable, "-c", LOCAL, server.url + "/v1"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("hello\n", "", 0)


def test_a_model_of_another_provider_answers_judges_edits_and_is_replayed(
    serve, folder: Path, monkeypatch
) -> None:
    replies = [say("hello", usage=(1000, 200)), say('So: {"score": "?"}'), say('So: {"score": 1}')]
    steps = [edit("view", path="p.md"), edit("view", path="../x"), say_json({"score": 2})]
    change = edit("str_replace", path="p.md", old_str="brief", new_str="kind")
    server = serve([*replies, *steps[:2], change, steps[2]])
    own = {"openai/my-own": Price(1, 2, cache_read=0.5)}
    model = LiteLLMModel(
        "openai/my-own", api_base=f"{server.url}/v1", api_key="sk-own-key", prices=own
    )

    def all_of_it() -> tuple[object, ...]:
        said = model.complete("hi", system="be kind")
        judged = model.parse("judge", Verdict)
        edited = AnthropicAgent(model).run("edit", editing(folder, schema=Verdict))
        return said, judged, edited.output

    run = make_run(cost_usd=1)
    with running(run):
        recorded = all_of_it()
    said, judged, output = recorded
    assert (said.output, said.tokens, judged.score, output) == ("hello", 1200, 1, '{"score": 2}')
    # Half of what is read was cached.
    assert said.cost_usd == pytest.approx((500 + 500 * 0.5 + 200 * 2) / 1e6)
    assert (folder / "p.md").read_text() == "be kind\n"
    assert server.count == run.ledger.total().calls == 7
    bodies = [request.body for request in server.requests]
    assert bodies[0]["messages"][0] == {"role": "system", "content": "be kind"}
    assert '"score"' in bodies[1]["messages"][0]["content"]
    assert "score" in bodies[2]["messages"][-1]["content"]  # what was wrong goes back
    function = bodies[3]["tools"][0]["function"]
    assert {"command", "path"} == set(function["parameters"]["required"])
    answers = [m["content"] for m in bodies[6]["messages"] if m["role"] == "tool"]
    assert answers[0] == "1\tbe brief" and "may not be read" in answers[1]
    (folder / "p.md").write_text("be brief\n")
    monkeypatch.setitem(sys.modules, "litellm", None)  # as if it were not installed
    with running(make_run()), use_recorder(StoreRecorder(run.experiment.store, "replay")):
        assert all_of_it() == recorded
    assert server.count == 7


def test_a_providers_failures_are_ours(serve, monkeypatch) -> None:
    kinds = [
        (fail(401, "bad key"), KeyRefusedError, "api_key"),
        (fail(404, "no such model"), NoModelError, "first argument"),
        (fail(429, "You exceeded your current quota, check your billing"), NoCreditError, "credit"),
        (fail(400, "unknown field"), ModelCallError, "options"),
        (say("half", stop_reason="max_tokens"), AgentReplyError, "max_tokens"),
        (refuse(), AgentRefusedError, "prompt"),
    ]
    server = serve([fail(429), fail(503), say("at last"), *(reply for reply, *_ in kinds)])
    model = LiteLLMModel("openai/my-own", api_base=f"{server.url}/v1", api_key="")
    assert model.complete("hi").output == "at last" and server.count == 3
    for _, kind, hint in kinds:
        with pytest.raises(kind) as caught:
            model.complete("hi")
        assert type(caught.value) is kind and hint in caught.value.hint
        assert "litellm" not in caught.value.message
    assert server.count == 3 + len(kinds)
    for variable in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    for name, kind in {"openai/x": NoKeyError, "gemini/x": NoKeyError, "x": NoModelError}.items():
        with pytest.raises(kind):
            LiteLLMModel(name).complete("hi")
    gone = LiteLLMModel("openai/x", api_base="http://127.0.0.1:9/v1", api_key="", max_retries=0)
    run = make_run()
    with running(run), pytest.raises(ModelCallError, match="no answer from") as caught:
        gone.complete("hi")
    assert caught.value.status == 0 and run.ledger.total().calls == 0
    with running(make_run(cost_usd=1)), pytest.raises(NoPriceError, match="openai/x is unknown"):
        gone.complete("hi")


def test_what_a_service_takes_is_sent_in_its_own_form(serve) -> None:
    safety = fail(400, "invalid_request_error, content_policy_violation: rejected by safety")
    server = serve([*[say_json({"score": 1})] * 4, safety, say("late").slowly(1)])
    for name, takes, is_sent in (
        ("openai/my-own", None, False),
        ("openai/my-own", True, True),
        ("openai/gpt-4o", None, True),
        ("openai/gpt-4o", False, False),
    ):
        model = LiteLLMModel(name, api_base=f"{server.url}/v1", api_key="", json_schema=takes)
        assert model.parse("judge", Verdict).score == 1
        assert ("response_format" in server.requests[-1].body) == is_sent
    image = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    with pytest.raises(AgentRefusedError, match=r"refused: .*rejected by safety"):
        model.complete([{"role": "user", "content": [{"type": "image", "source": image}]}])
    (part,) = server.requests[-1].body["messages"][0]["content"]
    assert part == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    model.max_retries, model.timeout_s = 0, 0.2
    with pytest.raises(ModelCallError, match="did not answer in time"):
        model.complete("hi")


# --- a provider of one's own -------------------------------------------------------------------


class Mine(ChatModel):
    """A server of one's own."""

    def __init__(self, url: str, **more: object) -> None:
        super().__init__("mine", **more)
        self.url = url

    def _complete(self, messages, tools=(), schema=None, *, system=""):
        asked = {"model": self.name, "system": system, "messages": messages, **self.options}
        request = urllib.request.Request(self.url, json.dumps(asked).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            reply = json.load(answer)
        used = Usage(reply["usage"]["input_tokens"], reply["usage"]["output_tokens"])
        return autopilot.Reply(reply["content"][0]["text"], usage=used)


def test_a_provider_of_ones_own_gets_all_the_rest(serve) -> None:
    server = serve([fail(503), say("hi"), say("none"), say_json({"score": 3}), fail(404)])
    run = make_run()
    # The server asks for no pause.
    model = Mine(f"{server.url}/v1/messages", prices={"mine": Price(1, 1)})
    with running(run):
        assert [model.complete("hello").output for _ in range(2)] == ["hi", "hi"]
        assert model.parse("judge", Verdict).score == 3
        with pytest.raises(NoModelError):
            model.complete("again")
    assert server.count == 5
    spent = run.ledger.total()
    assert (spent.calls, spent.tokens, spent.unpriced) == (3, 360, 0)
    assert '"score"' in server.requests[2].body["system"]  # asked for in words
    warm = Mine(f"{server.url}/v1/messages", options={"temperature": 1})
    with use_recorder(StoreRecorder(run.experiment.store, "replay")):
        assert model.complete("hello").output == "hi"
        with pytest.raises(autopilot.AutopilotError, match="temperature: recorded"):
            warm.complete("hello")


def test_a_failed_model_call_is_told_from_a_system_that_does_not_run(serve) -> None:
    class Asking(AutoPilotModule):
        monitor = "accuracy"

        def __init__(self) -> None:
            super().__init__()
            self.text = Parameter("x")

        def forward(self, batch: Datum) -> Datum:
            return Datum(success=bool(batch.items[0].metadata["ask"]()))

        def configure_optimizers(self) -> AgentOptimizer:
            return AgentOptimizer(AnthropicAgent(NAME), self.parameters())

    def broken() -> bool:
        raise ValueError("mine")

    serve([fail(400, "max_tokens: too many")])
    asked = {"the model's call": lambda: Model(NAME).complete("hi"), "the system must run": broken}
    for hint, ask in asked.items():
        items = DataLoader(ListDataset([Datum(metadata={"ask": ask})]))
        with pytest.raises(EvaluationError) as caught:
            Trainer().fit(Asking(), items, items, max_epochs=1)
        assert hint in caught.value.hint


# --- options and clients -----------------------------------------------------------------------


def test_options_reach_the_service_and_are_a_part_of_a_calls_name(serve, folder: Path) -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "sig=="}
    use = edit("view", path="p.md").content[0]
    server = serve([Reply((thought, use)), say_json({"score": 1}), say("plain")])
    options = {
        "temperature": 1,
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "effort": "low",
        "betas": ["context-1m-2025-08-07"],
        "extra_headers": {"x-team": "planted-team-value", "x-api-key": "planted-header-key"},
        "metadata": {"user_id": "u"},
    }
    run = make_run()
    # An old name: the client's warning on its age would be an error here.
    model = Model("claude-3-haiku-20240307", options=options)
    with running(run):
        AnthropicAgent(model).run("edit", editing(folder, schema=Verdict))
        Model("claude-3-haiku-20240307").complete("hi")
    first, second, plain = server.requests
    assert first.body["temperature"] == 1 and first.body["thinking"] == options["thinking"]
    assert first.body["output_config"]["effort"] == "low"
    assert first.body["output_config"]["format"]["type"] == "json_schema"
    assert first.headers["anthropic-beta"] == "context-1m-2025-08-07"
    assert first.headers["x-team"] == "planted-team-value" and "betas" not in first.body
    assert second.body["messages"][1]["content"][0] == thought
    assert "temperature" not in plain.body and "anthropic-beta" not in plain.headers
    calls = run.experiment.store.calls()
    assert "planted" not in str(calls)
    asked = calls[0].request
    assert (asked["temperature"], asked["betas.0"]) == ("1", "context-1m-2025-08-07")
    assert "extra_headers.x-team" in asked and "extra_headers.x-api-key" not in asked
    with pytest.raises(UsageError, match="max_tokens"):
        Model(options={"max_tokens": 5})


def test_names_of_calls_without_options_stay_as_they_were(serve, folder: Path) -> None:
    """Recorded experiments are answered by later versions."""
    use = {"type": "tool_use", "id": "toolu_1", "name": "str_replace_based_edit_tool"}
    view = Reply(({**use, "input": {"command": "view", "path": "p.md"}},))
    serve([say("hello"), say("not json"), say_json({"score": 1}), view, say_json({"score": 1})])
    model, run = Model(NAME), make_run()
    with running(run):
        model.complete("hi", system="be kind", sample=1)
        model.parse("judge", Verdict, system="s")
        AnthropicAgent(model).run("edit it", editing(folder, schema=Verdict, system="sys"))
    assert [call.id for call in run.experiment.store.calls()] == [
        "8af65c6999c0a106ce173202dc5baaa2-1",
        "40981a64a6e53e5627a98e34ea39fe1b",
        "c61a84225ffd01435e0d23f7ebdf4f27",
        "c9d5f600e7bcc69bfb28c0d6db702869",
        "b7fed94ce4427f3cc8a0405990bff366",
    ]


def test_a_client_of_bedrock_or_vertex_is_taken_as_it_is(serve) -> None:
    import anthropic

    server = serve([say("ok")])
    vertex = anthropic.AnthropicVertex(
        region="r", project_id="p", access_token="token-of-vertex", base_url=server.url
    )
    clients = [vertex]
    if importlib.util.find_spec("boto3"):
        keys = {"aws_access_key": "a", "aws_secret_key": "s", "aws_region": "us-east-1"}
        clients += [anthropic.AnthropicBedrock(base_url=server.url, **keys)]
    for client in clients:
        # So many tokens come as a stream, which Bedrock does not have in this form.
        long = Model(NAME, client=client, max_tokens=1000 if client is vertex else 64_000)
        assert long.complete("hi").output == "ok"
        client.close()
    headers = [request.headers["authorization"] for request in server.requests]
    assert headers[0] == "Bearer token-of-vertex"
    assert all("planted" not in str(request) for request in server.requests)


# --- keys --------------------------------------------------------------------------------------


def test_a_key_goes_to_no_other_address_than_its_own(serve, monkeypatch) -> None:
    home, other = serve([say("home")]), serve([say("other")])
    monkeypatch.setenv("ANTHROPIC_BASE_URL", home.url)
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, f"sk-planted-{name.lower()}-123")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-gateway: planted-gateway-key")
    monkeypatch.setenv("MY_KEY", "sk-mine-0123456789")
    kinds = [(Model, {"base_url": other.url}), (LiteLLMModel, {"api_base": f"{other.url}/v1"})]
    for kind, where in kinds:
        for key in (None, "$NO_KEY"):
            with pytest.raises(NoKeyError) as caught:
                kind(f"openai/{NAME}", api_key=key, **where).complete("hi")
            assert "NAME" in caught.value.hint or "NO_KEY" in caught.value.hint
        assert other.count == 0
    for kind, where in kinds:
        for key in ("$MY_KEY", "sk-given-0123456789"):
            assert kind(f"openai/{NAME}", api_key=key, **where).complete("hi").output == "other"
    seen = [json.dumps(dict(request.headers)) for request in other.requests]
    assert ["sk-mine" in text for text in seen] == [True, False] * len(kinds)
    assert "planted" not in "".join(seen)
    # The address of the environment gets the environment's.
    assert Model(NAME).complete("hi").output == "home"
    assert Model(NAME, base_url=home.url).complete("hi").output == "home"
    assert all("planted-anthropic_api_key" in r.headers["authorization"] for r in home.requests)
    echo = serve(lambda request: say(request.headers["authorization"]))
    said = Model(NAME, base_url=echo.url, api_key="sk-given-0123456789").complete("hi").output
    assert said == "Bearer [hidden]"


def test_agent_judge_and_generator_have_models_and_keys_of_their_own(
    serve, folder: Path, monkeypatch
) -> None:
    monkeypatch.chdir(folder)

    class Answerer(Module):
        def __init__(self) -> None:
            super().__init__()
            self.prompt = PathParameter(folder / "p.md")

        def forward(self, batch: Datum) -> Datum:
            return Datum(id=batch.id, metadata={"said": self.prompt.read_text()})

    class Judged(BaseModel):
        success: bool
        feedback: str

    done = say_json({"strategy": "s", "summary": "kinder", "rationale": "r"})
    editor = serve([edit("create", path="p.md", file_text="be kind\n"), done])
    judging = serve([say_json({"success": False, "feedback": "be kind"})])
    making = serve(lambda request: say_json({"text": f"item {making.count}"}))

    class Item(BaseModel):
        text: str

    def model(server: object, key: str) -> Model:
        return Model(NAME, base_url=server.url, api_key=f"sk-{key}-0123456789")

    generator = DataGenerator([LLMStep("item", "Make {slot}.", Item)], model=model(making, "maker"))
    assert not generator.run(2, folder / "data").missing
    module = Answerer()
    judge = Judge([LLMStep("verdict", "{said}", Judged)], model=model(judging, "judge"))
    loss = JudgeLoss(judge)
    optimizer = AgentOptimizer(AnthropicAgent(model(editor, "agent")), module.parameters())
    run = make_run()
    with running(run):
        batch = Datum(metadata={"q": 1})
        loss(module(batch), batch)
        loss.backward()
        optimizer.step()
    assert (folder / "p.md").read_text() == "be kind\n"
    assert {role: spent.calls for role, spent in run.ledger.by_role().items()} == {
        "judge": 1,
        "optimizer": 2,
    }
    for server, key in ((editor, "agent"), (judging, "judge"), (making, "maker")):
        keys = {request.headers["authorization"] for request in server.requests}
        assert keys == {f"Bearer sk-{key}-0123456789"}


def test_the_editor_is_an_ordinary_function_for_other_services(folder: Path) -> None:
    editor = autopilot.ai.anthropic_agent.TextEditor([PathParameter(folder / "p.md")], folder)
    assert "input_schema" not in editor.definition()
    function = editor.function()
    assert function["name"] == editor.definition()["name"]
    commands = function["input_schema"]["properties"]["command"]["enum"]
    for command in commands:
        # Each is known: what is missing is its arguments.
        with pytest.raises(autopilot.AutopilotError, match="is missing"):
            editor.use({"command": command})
