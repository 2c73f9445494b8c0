"""One call of a model: answered from the record, or paid and recorded.

`Call.attempt` is the client's middleware, inside its retry loop: it answers from the record,
reserves the most that the attempt may cost, waits for the rate limit, and records the reply before
it is used. `autopilot.ai.agent` does the same for calls that are not messages of the API.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from autopilot import audit
from autopilot.ai.agent import AgentResult
from autopilot.ai.model import client, recording
from autopilot.ai.model.parallel import RateLimit, Sent, to_its_end
from autopilot.ai.model.recording import (
    current_ledger,
    current_recorder,
    make_record,
    request_parts,
)
from autopilot.ai.prices import Price, Usage, require_price
from autopilot.core.records.ledger import Reservation
from autopilot.core.records.record import LlmRecord
from autopilot.core.run import current_run
from autopilot.core.types import Cost
from autopilot.errors import AgentRefusedError, AgentReplyError

Message = Mapping[str, Any]
Keep = Callable[[Mapping[str, Any], Cost], None]

# Text that the service adds, which is read and paid: on tools (their use takes some 350 tokens, the
# text editor 700) and on the form of an answer.
_UNSEEN = {"tools": 1200, "output_config": 400}


@dataclass
class Call:
    """One call, of one or more turns.

    Args:
        role: The name under which the cost is counted.
        sample: See `Model.complete`.
        price: None: unknown.
        rate: The limit to keep.

    Attributes:
        sdk: The client, once it is asked.
        reply: The last reply.
        messages: The conversation that the last reply answered.
    """

    model: str
    role: str
    sample: int
    price: Price | None
    rate: RateLimit
    sdk: Any = None
    reply: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Message] = ()
    read: int = 0
    written: int = 0
    cost: Cost = field(default_factory=Cost)
    priced: bool = True

    @property
    def text(self) -> str:
        """The text of the last reply."""
        blocks = self.reply.get("content", ())
        return "".join(block["text"] for block in blocks if block["type"] == "text")

    def check(self) -> None:
        """Checks how the last reply ended.

        Raises:
            AgentRefusedError: the model refused.
            AgentReplyError: it was cut off.
        """
        reason = self.reply.get("stop_reason")
        if reason == "refusal":
            raise AgentRefusedError(
                f"{self.model} refused: {client.one_line(self.text)}",
                hint="look at what the prompt and the items ask for",
            )
        if reason in ("max_tokens", "model_context_window_exceeded"):
            raise AgentReplyError(
                f"{self.model} was cut off ({reason})",
                hint="give the Model more max_tokens, or a shorter prompt",
                reply=self.text,
            )

    def result(self) -> AgentResult:
        """The last reply, and the cost of all turns."""
        return AgentResult(
            output=self.text,
            input_tokens=self.read,
            output_tokens=self.written,
            cost_usd=self.cost.cost_usd if self.priced else None,
            seconds=self.cost.seconds,
            model=str(self.reply.get("model", "")),
        )

    def is_answered(self, body: Mapping[str, Any]) -> bool:
        """Takes the recorded answer to a request, if there is one; without the client.

        Raises:
            ReplayMissError: only records may answer, and there is none.
        """
        recorder = current_recorder()
        if recorder is None:
            return False
        known = recorder.answer(recording.request_key(body, self.sample), request_parts(body))
        if known is not None:
            self.messages = list(body["messages"])
            self._take_recorded(known)
        return known is not None

    def attempt(self, key: str, request: Any, call_next: Callable[[Any], Any]) -> Any:
        """One attempt of the client."""
        recorder = current_recorder()
        if recorder is None:
            return self._pay(request, call_next, lambda *_: None)
        parts = request_parts(request.json)
        known = recorder.answer(key, parts)
        if known is None:
            with recorder.one_at_a_time(key):
                # Again under the lock: an equal call may have been recorded in the meantime.
                known = recorder.answer(key, parts)
                if known is None:

                    def keep(reply: Mapping[str, Any], cost: Cost) -> None:
                        model, priced = str(reply.get("model", self.model)), self.price is not None
                        recorder.keep(
                            make_record(key, self.role, model, cost, parts, reply, priced=priced)
                        )

                    return self._pay(request, call_next, keep)
        self._take_recorded(known)
        return client.as_response(self.sdk, request, known.reply)

    def _pay(self, request: Any, call_next: Callable[[Any], Any], keep: Keep) -> Any:
        body = request.json
        # A text has at most half as many tokens as bytes: the reservation is never too small.
        read = len(json.dumps(body, default=str)) // 2
        read += sum(tokens for name, tokens in _UNSEEN.items() if name in body)
        most = Usage(read, int(body["max_tokens"]))
        worst = self._cost_of(most)
        ledger = current_ledger()
        require_price(self.model, self.price, ledger.limits.cost_usd)
        with ledger.reserve(self.role, worst.tokens, worst.cost_usd) as reservation:
            sent = self.rate.wait(most.tokens)
            return to_its_end(lambda: self._send(request, call_next, keep, most, reservation, sent))

    def _send(
        self,
        request: Any,
        call_next: Callable[[Any], Any],
        keep: Keep,
        most: Usage,
        reservation: Reservation,
        sent: Sent,
    ) -> Any:
        took, started = 0, time.monotonic()
        try:
            with audit.executing("model", [self.role, self.model]) as execution:
                response = client.send(self.sdk, request, call_next)
                execution.code = response.http_response.status_code
                if not response.http_response.is_success:
                    return response
                reply, response = client.read_reply(self.sdk, request, response)
                usage = _usage_of(reply)
                took = usage.tokens
        except Exception as error:
            if client.may_be_charged(error):
                took = most.input_tokens // 2
                lost, why = self._cost_of(Usage(took)), client.one_line(str(error))
                reservation.settle(lost, known=False)
                recording.keep_lost(self.role, self.model, lost, why, priced=False)
            raise
        finally:
            self.rate.settle(sent, took)
        cost = self._cost_of(usage, time.monotonic() - started)
        reservation.settle(cost, known=self.price is not None)
        # On disk before anything uses the reply: a kill loses nothing that was paid.
        keep(reply, cost)
        self._take(reply, cost, priced=self.price is not None)
        return response

    def _cost_of(self, usage: Usage, seconds: float = 0.0) -> Cost:
        dollars = self.price.cost(usage) if self.price else 0.0
        return Cost(tokens=usage.tokens, cost_usd=dollars, seconds=seconds)

    def _take_recorded(self, known: LlmRecord) -> None:
        run = current_run()
        if run is not None:
            run.charge_recorded(known)
        with audit.executing("model", [self.role, self.model]) as execution:
            execution.detail = "answered from the record"
        self._take(known.reply, known.cost, priced=known.priced)

    def _take(self, reply: Mapping[str, Any], cost: Cost, *, priced: bool) -> None:
        usage = _usage_of(reply)
        self.reply = reply
        self.read, self.written = self.read + usage.read, self.written + usage.output_tokens
        self.cost, self.priced = self.cost + cost, self.priced and priced


calling: ContextVar[Call | None] = ContextVar("autopilot_call", default=None)


def handle(request: Any, call_next: Callable[[Any], Any]) -> Any:
    """The client's middleware: messages of a Call go through it, other requests pass."""
    call, body = calling.get(), request.json
    if call is None or not isinstance(body, Mapping) or "max_tokens" not in body:
        return call_next(request)
    call.messages = list(body["messages"])
    return call.attempt(recording.request_key(body, call.sample), request, call_next)


def _usage_of(reply: Mapping[str, Any]) -> Usage:
    usage = reply.get("usage") or {}
    return Usage(
        usage.get("input_tokens") or 0,
        usage.get("output_tokens") or 0,
        usage.get("cache_creation_input_tokens") or 0,
        usage.get("cache_read_input_tokens") or 0,
    )
