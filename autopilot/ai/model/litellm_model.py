"""Models of every other provider, and of local servers, through the `litellm` package."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack

from pydantic import BaseModel

from autopilot.ai.agent import Tool
from autopilot.ai.model import failures
from autopilot.ai.model.base import ChatModel, ModelSettings, key_of
from autopilot.ai.model.reply import Message, Reply, ToolCall, asking_for
from autopilot.ai.prices import Usage
from autopilot.errors import (
    AgentNotFoundError,
    AgentRefusedError,
    AutopilotError,
    NoKeyError,
    NoModelError,
)

_STOPS = {"length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}
# Settings of its import: prices from its package, not from the network; no .env file is read.
_IMPORTED_WITH = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
_NO_KEY = re.compile(r"Missing (credentials|\w+ API key)", re.IGNORECASE)
_loading = threading.Lock()
_owner = 0  # the process whose connections the package holds


class LiteLLMModel(ChatModel):
    """A model by its name in LiteLLM, `PROVIDER/MODEL`: "openai/gpt-5", "ollama/llama3".

    `pip install 'autopilot[litellm]'`. Keys are found in the environment, where the provider has
    them (OPENAI_API_KEY, ...); a model at an address of its own needs a key of its own.

    Args:
        name, max_tokens, role, prices, rate, max_retries: See `ChatModel`.
        api_key: A key, "$NAME" for the environment variable that has it, or "" if the service at
            `api_base` needs none.
        api_base: The service's address: of a server that speaks OpenAI's protocol, the part before
            `/chat/completions`, and `openai/` before the model's name.
        timeout_s: An attempt fails after so long without an answer.
        json_schema: Whether the service takes a JSON schema; None: where LiteLLM knows that the
            model does. The instructions ask for it in any case.
        options: Further arguments of `litellm.completion`, as temperature or reasoning_effort.

    >>> LiteLLMModel("openai/gpt-5", options={"reasoning_effort": "low"}).name
    'openai/gpt-5'
    """

    takes_schema: ClassVar[bool] = True
    key_hint: ClassVar[str] = "the provider's variable, or api_key of the LiteLLMModel"
    reserved: ClassVar[frozenset[str]] = ChatModel.reserved | {"api_base", "base_url"}

    def __init__(
        self,
        name: str,
        *,
        timeout_s: float = 600.0,
        api_key: str | None = None,
        api_base: str | None = None,
        json_schema: bool | None = None,
        **settings: Unpack[ModelSettings],
    ) -> None:
        super().__init__(name, **settings)
        self.timeout_s = timeout_s
        self.api_key = api_key
        self.api_base = api_base
        self.json_schema = json_schema

    def _complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        schema: type[BaseModel] | None = None,
        *,
        system: str = "",
    ) -> Reply:
        elsewhere = os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE") or ""
        key = key_of(
            self.api_key, self.api_base, elsewhere, owner=type(self).__name__, address="api_base"
        )
        litellm = _load()
        asked: dict[str, Any] = {**self.options}
        if schema is not None:
            system = "\n\n".join(filter(None, (system, asking_for(schema))))
            takes = self.json_schema
            if takes is None:
                takes = litellm.supports_response_schema(model=self.name)
            if takes:
                form = {"name": schema.__name__, "schema": schema.model_json_schema()}
                asked["response_format"] = {"type": "json_schema", "json_schema": form}
        if tools:
            asked["tools"] = [_as_function(tool) for tool in tools]
        first = [{"role": "system", "content": system}] if system else []
        response = litellm.completion(
            model=self.name,
            messages=[*first, *as_chat(messages)],
            max_tokens=self.max_tokens,
            timeout=self.timeout_s,
            api_key=key,
            api_base=self.api_base,
            # One attempt: the base makes the others.
            max_retries=0,
            num_retries=0,
            **asked,
        )
        return _as_reply(response.model_dump(mode="json", warnings=False))

    def _translation(self, error: Exception) -> AutopilotError | None:
        litellm = _load()
        if isinstance(error, litellm.ContentPolicyViolationError):
            said = failures.one_line(str(error))
            return AgentRefusedError(f"{self.name} refused: {said}", hint="look at the prompt")
        if isinstance(error, litellm.Timeout):
            return failures.late(self.name)
        if "LLM Provider NOT provided" in str(error):
            return NoModelError(
                f"{self.name!r} names no provider that LiteLLM knows",
                hint="write PROVIDER/MODEL, as in openai/gpt-5 or ollama/llama3",
            )
        # To LiteLLM, that is an error of the service, which would be waited for.
        if _NO_KEY.search(str(error)):
            return NoKeyError(f"{self.name} has no key", hint=f"set it: {self.key_hint}")
        below = [error]
        while isinstance(cause := below[-1].__cause__ or below[-1].__context__, Exception):
            below.append(cause)
        if any(type(each).__name__ in ("ConnectError", "ConnectTimeout") for each in below):
            return failures.no_answer(self.name, str(below[-1]), is_charged=False)
        if isinstance(error, litellm.APIConnectionError):
            return failures.no_answer(self.name, str(error), is_charged=True)
        return super()._translation(error)


def _load() -> Any:
    """The package, quiet and offline.

    Raises:
        AgentNotFoundError: it is not installed.
    """
    global _owner
    with _loading:
        if not _owner:
            before = {name: os.environ.get(name) for name in _IMPORTED_WITH}
            os.environ.update(_IMPORTED_WITH)
            try:
                litellm: Any = importlib.import_module("litellm")
            except ImportError as error:
                raise AgentNotFoundError(
                    f"the package litellm cannot be imported: {error}",
                    hint="pip install 'autopilot[litellm]'",
                ) from error
            finally:
                for name, value in before.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value
            litellm.suppress_debug_info, litellm.telemetry = True, False
            # Its lines, and pydantic's on its objects, would stand in the table of a run.
            for logger in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
                logging.getLogger(logger).setLevel(logging.CRITICAL)
            warnings.filterwarnings("ignore", "Pydantic serializer warnings", UserWarning)
            _owner = os.getpid()
        litellm = importlib.import_module("litellm")
        if _owner != os.getpid():
            # A process that was forked from this one must not write to its connections.
            litellm.in_memory_llm_clients_cache.flush_cache()
            _owner = os.getpid()
        return litellm


def as_chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """A conversation in the form of OpenAI's protocol.

    >>> as_chat([{"role": "user", "content": [{"type": "text", "text": "hi"}]}])
    [{'role': 'user', 'content': [{'type': 'text', 'text': 'hi'}]}]
    """
    found: list[dict[str, Any]] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if isinstance(content, str):
            found.append({"role": role, "content": content})
            continue
        said: dict[str, Any] = {"role": role, "content": []}
        for block in content:
            kind = block.get("type")
            if kind == "text":
                said["content"].append({"type": "text", "text": block["text"]})
            elif kind == "image":
                source = block["source"]
                url = source.get("url") or f"data:{source['media_type']};base64,{source['data']}"
                said["content"].append({"type": "image_url", "image_url": {"url": url}})
            elif kind == "tool_result":
                result = block.get("content") or ""
                text = result if isinstance(result, str) else json.dumps(result)
                answer = {"role": "tool", "tool_call_id": block["tool_use_id"], "content": text}
                found.append(answer)
            elif kind == "tool_use":
                function = {"name": block["name"], "arguments": json.dumps(block["input"])}
                call = {"id": block["id"], "type": "function", "function": function}
                said.setdefault("tool_calls", []).append(call)
            elif kind in ("thinking", "redacted_thinking"):
                said.setdefault("thinking_blocks", []).append(dict(block))
        if role == "assistant":
            said["content"] = "".join(part["text"] for part in said["content"]) or None
        if said["content"] or "tool_calls" in said:
            found.append(said)
    return found


def _as_function(tool: Tool) -> dict[str, Any]:
    given = tool.function()
    function = {
        "name": given["name"],
        "description": given.get("description", ""),
        "parameters": given.get("input_schema") or {"type": "object", "properties": {}},
    }
    return {"type": "function", "function": function}


def _as_reply(response: Mapping[str, Any]) -> Reply:
    choice = response["choices"][0]
    said = choice["message"]
    calls = [
        ToolCall(call["id"], call["function"]["name"], _arguments(call["function"]))
        for call in said.get("tool_calls") or ()
    ]
    stop = "refusal" if said.get("refusal") else _STOPS.get(str(choice.get("finish_reason")), "")
    usage = None
    if used := response.get("usage"):
        details = used.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens") or 0
        kept = details.get("cache_creation_tokens") or used.get("cache_creation_input_tokens") or 0
        read = max((used.get("prompt_tokens") or 0) - cached - kept, 0)
        usage = Usage(read, used.get("completion_tokens") or 0, kept, cached)
    text = said.get("content") or said.get("refusal") or ""
    reply = Reply(text, calls, usage, stop, response.get("model") or "")
    message = reply.as_message()
    thinking = [dict(block) for block in said.get("thinking_blocks") or ()]
    return Reply.of({**message, "content": [*thinking, *message["content"]]})


def _arguments(function: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError:
        return {}
    return arguments if isinstance(arguments, dict) else {}
