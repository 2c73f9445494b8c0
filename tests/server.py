"""A scripted server on 127.0.0.1 that speaks the Messages API, as JSON and SSE, and OpenAI's chat.

A script is a function from a request to a Reply, or a list of replies that are given in turn (the
last one again and again). Every request is kept, so that tests count them.

    with MessagesServer([say("hello")]) as server:
        client = anthropic.Anthropic(base_url=server.url, api_key="any")

As a program (`python tests/server.py --delay 0.2`) it prints its address and answers "ok".
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Reply:
    """What the server answers.

    Args:
        content: Content blocks.
        stop_reason: As the API has it; None: "tool_use" where a tool is used, else "end_turn".
        status: An HTTP status other than 200 is an error.
        error: The type of the error.
        message: What the error says.
        delay_s: How long it takes.
        wait: What else it waits for.
        body: What is sent in place of a message.
        cut_after: Bytes of the body after which the connection is closed; None: all is sent.
        headers: Further headers.
        usage: Input and output tokens.
    """

    content: Sequence[Mapping[str, Any]] = ()
    stop_reason: str | None = None
    status: int = 200
    error: str = ""
    message: str = ""
    delay_s: float = 0.0
    wait: Callable[[], object] | None = None
    body: bytes | None = None
    cut_after: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    usage: tuple[int, int] = (100, 20)

    def slowly(self, delay_s: float) -> Reply:
        """The same, later."""
        return replace(self, delay_s=delay_s)

    def after(self, wait: Callable[[], object]) -> Reply:
        """The same, once that returns."""
        return replace(self, wait=wait)

    def cut(self, after: int) -> Reply:
        """The same, with the connection closed after some bytes of the body."""
        return replace(self, cut_after=after)


@dataclass(frozen=True)
class Received:
    """A request that the server got."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    def last_text(self) -> str:
        """The text of the last message."""
        content = self.body["messages"][-1]["content"]
        if isinstance(content, str):
            return content
        return "\n".join(block.get("text", "") for block in content)

    def all_text(self) -> str:
        """Everything in the body."""
        return json.dumps(self.body, ensure_ascii=False)


def say(text: str, **more: Any) -> Reply:
    """A text."""
    return Reply(({"type": "text", "text": text},), **more)


def say_json(value: object, **more: Any) -> Reply:
    """A value as JSON text: structured output."""
    return say(json.dumps(value), **more)


def use_tool(name: str, **arguments: Any) -> Reply:
    """A call of a tool."""
    number = abs(hash((name, json.dumps(arguments, sort_keys=True)))) % 10**8
    block = {"type": "tool_use", "id": f"toolu_{number:08d}", "name": name, "input": arguments}
    return Reply((block,))


def edit(command: str, **arguments: Any) -> Reply:
    """A call of the text editor tool."""
    return use_tool("str_replace_based_edit_tool", command=command, **arguments)


def refuse() -> Reply:
    """The model refuses."""
    return Reply(({"type": "text", "text": "I cannot help with that."},), stop_reason="refusal")


def fail(status: int, message: str = "", **headers: str) -> Reply:
    """An HTTP error, to be retried at once."""
    kind = {429: "rate_limit_error", 529: "overloaded_error", 401: "authentication_error"}
    wait = {"retry-after-ms": "10", **{k.replace("_", "-"): v for k, v in headers.items()}}
    error = kind.get(status, "api_error")
    return Reply(status=status, error=error, message=message, headers=wait)


Script = Callable[[Received], Reply]

KEY = "sk-ant-planted-0123456789abcdef"  # what tests give the client, and look for afterwards


class MessagesServer:
    """The server, in a thread of this process, while the block lasts.

    Attributes:
        requests: The messages requests, in the order of their arrival.
        most_at_once: How many were being answered at the same time, at most.
    """

    def __init__(self, script: Script | Sequence[Reply], port: int = 0) -> None:
        self._script = script if callable(script) else _in_turn(script)
        self.requests: list[Received] = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", port), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def url(self) -> str:
        """Its address, for ANTHROPIC_BASE_URL."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def count(self) -> int:
        """The number of messages requests."""
        return len(self.requests)

    def answer(self, request: Received) -> Reply:
        """What the script says to a request; at once."""
        with self._lock:
            self.requests.append(request)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            reply = self._script(request)
        time.sleep(reply.delay_s)
        if reply.wait is not None:
            reply.wait()
        with self._lock:
            self._now -= 1
        return reply

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


def _in_turn(replies: Sequence[Reply]) -> Script:
    left = list(replies)
    return lambda _request: left.pop(0) if len(left) > 1 else left[0]


_PATHS = ("/v1/messages", "/v1/chat/completions")


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    owner: MessagesServer

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._send(200, b"", {})

    def do_GET(self) -> None:
        self._send(404, _error("not_found_error"), {})

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        raw = self.rfile.read(length)
        if len(raw) < length:
            # Whoever asked was killed in the middle of the request.
            self.close_connection = True
            return
        path = self.path.partition("?")[0]
        body = json.loads(raw) if raw else {}
        if path == "/v1/messages/count_tokens":
            self._send(200, json.dumps({"input_tokens": len(raw) // 4}).encode(), {})
            return
        # The last two: the same message in the addresses of Bedrock and of Vertex.
        if path not in _PATHS and not path.endswith(("/invoke", ":rawPredict")):
            self._send(404, _error("not_found_error"), {})
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.owner.answer(Received(path, headers, body))
        if reply.status != 200:
            self._send(reply.status, _error(reply.error, reply.message), reply.headers)
        elif reply.body is not None:
            self._send(200, reply.body, reply.headers, reply.cut_after)
        elif path == "/v1/chat/completions":
            content = json.dumps(_chat(_message(reply, body))).encode()
            self._send(200, content, reply.headers, reply.cut_after)
        elif body.get("stream"):
            content = b"".join(_events(_message(reply, body)))
            self._send(200, content, {"content-type": "text/event-stream"}, reply.cut_after)
        else:
            content = json.dumps(_message(reply, body)).encode()
            self._send(200, content, reply.headers, reply.cut_after)

    def _send(
        self, status: int, content: bytes, headers: Mapping[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:cut])
        self.wfile.flush()
        if cut is not None:
            self.close_connection = True


def _error(kind: str, message: str = "") -> bytes:
    value = {"type": "error", "error": {"type": kind, "message": message or f"scripted {kind}"}}
    return json.dumps(value).encode()


def _message(reply: Reply, body: Mapping[str, Any]) -> dict[str, Any]:
    uses_tool = any(block["type"] == "tool_use" for block in reply.content)
    return {
        "id": f"msg_{time.monotonic_ns():x}",
        "type": "message",
        "role": "assistant",
        "model": body.get("model", "scripted"),
        "content": list(reply.content),
        "stop_reason": reply.stop_reason or ("tool_use" if uses_tool else "end_turn"),
        "stop_sequence": None,
        "usage": {"input_tokens": reply.usage[0], "output_tokens": reply.usage[1]},
    }


def _chat(message: dict[str, Any]) -> dict[str, Any]:
    """A message in the form of OpenAI's chat completions."""
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": json.dumps(block["input"])},
        }
        for block in message["content"]
        if block["type"] == "tool_use"
    ]
    text = "".join(b["text"] for b in message["content"] if b["type"] == "text")
    reasons = {"tool_use": "tool_calls", "max_tokens": "length", "refusal": "content_filter"}
    read, written = message["usage"].values()
    said = {
        "role": "assistant",
        "content": text or None,
        **({"tool_calls": calls} if calls else {}),
    }
    return {
        "id": message["id"],
        "object": "chat.completion",
        "created": 1,
        "model": message["model"],
        "choices": [
            {
                "index": 0,
                "message": said,
                "finish_reason": reasons.get(message["stop_reason"], "stop"),
            }
        ],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": read // 2},
        },
    }


def _events(message: dict[str, Any]) -> Iterator[bytes]:
    def event(kind: str, **value: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **value})}\n\n".encode()

    usage = message["usage"]
    empty = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield event("message_start", message=empty)
    for index, block in enumerate(message["content"]):
        if block["type"] == "text":
            yield event(
                "content_block_start", index=index, content_block={"type": "text", "text": ""}
            )
            for start in range(0, len(block["text"]), 20):
                delta = {"type": "text_delta", "text": block["text"][start : start + 20]}
                yield event("content_block_delta", index=index, delta=delta)
        else:
            yield event("content_block_start", index=index, content_block={**block, "input": {}})
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=ended, usage={"output_tokens": usage["output_tokens"]})
    yield event("message_stop")


def main() -> None:
    """Answers "ok" until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    with MessagesServer([say("ok").slowly(arguments.delay)], arguments.port) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
