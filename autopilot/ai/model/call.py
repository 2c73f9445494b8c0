"""One call of a model, of one or more turns: answered from the record, or paid and recorded.

`attempt` is the client's middleware, inside its retry loop: it answers from the record, reserves
what the attempt may cost, waits for the rate limit, and records the reply before anybody uses it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from autopilot import audit
from autopilot.ai.agent import AgentResult
from autopilot.ai.model import client
from autopilot.ai.model.prices import Price, Usage
from autopilot.ai.model.rate import RateLimit, Sent
from autopilot.ai.model.recording import (
    Recorder,
    current_recorder,
    keep_lost,
    make_record,
    request_key,
)
from autopilot.ai.model.requests import request_parts
from autopilot.ai.model.spending import current_ledger
from autopilot.ai.parallel import to_its_end
from autopilot.core.records.ledger import Reservation
from autopilot.core.records.record import LlmRecord
from autopilot.core.run import current_run, say
from autopilot.core.types import Cost
from autopilot.errors import AgentRefusedError, AgentReplyError

Message = Mapping[str, Any]

# The service's own words, which are read and paid: on tools (their use takes some 350 tokens, the
# text editor 700) and on the form of an answer.
_UNSEEN = {"tools": 1200, "output_config": 400}


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt of the client, and under which name its reply is recorded.

    Args:
        request: The client's.
        call_next: Sends it.
        recorder: Who keeps the reply; None: nobody.
        key: See LlmRecord.
        parts: See `request_parts`.
    """

    request: Any
    call_next: Callable[[Any], Any]
    recorder: Recorder | None
    key: str
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """What one call has come to so far.

    Args:
        model: The model's name.
        role: Under which name the cost is counted.
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
        """Looks at how the last reply ended.

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
        """The last reply, and what all turns cost."""
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
        known = recorder.answer(request_key(body, self.sample), request_parts(body))
        if known is not None:
            self.messages = list(body["messages"])
            self._take_recorded(known)
        return known is not None

    def attempt(self, key: str, request: Any, call_next: Callable[[Any], Any]) -> Any:
        """One attempt of the client."""
        recorder = current_recorder()
        if recorder is None:
            return self._pay(_Attempt(request, call_next, None, key))
        parts = request_parts(request.json)
        known = recorder.answer(key, parts)
        if known is None:
            with recorder.one_at_a_time(key):
                known = recorder.answer(key, parts)
                if known is None:
                    return self._pay(_Attempt(request, call_next, recorder, key, parts))
        self._take_recorded(known)
        return client.as_response(self.sdk, request, known.reply)

    def _pay(self, attempt: _Attempt) -> Any:
        body = attempt.request.json
        # No text has more tokens than half its bytes: what is reserved is never too little.
        read = len(json.dumps(body, default=str)) // 2
        read += sum(tokens for name, tokens in _UNSEEN.items() if name in body)
        most = Usage(read, int(body["max_tokens"]))
        worst = _cost(most, self.price)
        ledger = current_ledger()
        if self.price is None and math.isfinite(ledger.limits.cost_usd):
            say(f"the price of {self.model} is unknown: its calls do not count in dollars")
        with ledger.reserve(self.role, worst.tokens, worst.cost_usd) as reservation:
            sent = self.rate.wait(most.tokens)
            return to_its_end(lambda: self._send(attempt, most, reservation, sent))

    def _send(self, attempt: _Attempt, most: Usage, reservation: Reservation, sent: Sent) -> Any:
        request, recorder, priced = attempt.request, attempt.recorder, self.price is not None
        took, started = 0, time.monotonic()
        try:
            with audit.executing("model", [self.role, self.model]) as execution:
                response = client.send(self.sdk, request, attempt.call_next)
                execution.code = response.http_response.status_code
                if not response.http_response.is_success:
                    return response
                reply, response = client.read_reply(self.sdk, request, response)
                took = usage_of(reply).tokens
        except Exception as error:
            if client.may_be_charged(error):
                lost = _cost(Usage(most.input_tokens // 2), self.price)
                reservation.settle(lost, known=False)
                why = client.one_line(str(error))
                keep_lost(self.role, self.model, lost, why, priced=False)
                took = most.input_tokens // 2
            raise
        finally:
            self.rate.settle(sent, took)
        cost = _cost(usage_of(reply), self.price, time.monotonic() - started)
        reservation.settle(cost, known=priced)
        if recorder is not None:
            key, parts, model = attempt.key, attempt.parts, str(reply.get("model", self.model))
            recorder.keep(make_record(key, self.role, model, cost, parts, reply, priced=priced))
        self._take(reply, cost, priced=priced)
        return response

    def _take_recorded(self, known: LlmRecord) -> None:
        run = current_run()
        if run is not None:
            run.charge_recorded(known)
        with audit.executing("model", [self.role, self.model]) as execution:
            execution.detail = "answered from the record"
        self._take(known.reply, known.cost, priced=known.priced)

    def _take(self, reply: Mapping[str, Any], cost: Cost, *, priced: bool) -> None:
        usage = usage_of(reply)
        self.reply = reply
        self.read, self.written = self.read + usage.read, self.written + usage.output_tokens
        self.cost, self.priced = self.cost + cost, self.priced and priced


calling: ContextVar[Call | None] = ContextVar("autopilot_call", default=None)


def handle(request: Any, call_next: Callable[[Any], Any]) -> Any:
    """The client's middleware: messages of a Call go through it, everything else passes."""
    call, body = calling.get(), request.json
    if call is None or not isinstance(body, Mapping) or "max_tokens" not in body:
        return call_next(request)
    call.messages = list(body["messages"])
    return call.attempt(request_key(body, call.sample), request, call_next)


def usage_of(reply: Mapping[str, Any]) -> Usage:
    """The tokens that a reply says it took."""
    usage = reply.get("usage") or {}
    return Usage(
        usage.get("input_tokens") or 0,
        usage.get("output_tokens") or 0,
        usage.get("cache_creation_input_tokens") or 0,
        usage.get("cache_read_input_tokens") or 0,
    )


def _cost(usage: Usage, price: Price | None, seconds: float = 0.0) -> Cost:
    dollars = price.cost(usage) if price else 0.0
    return Cost(tokens=usage.tokens, cost_usd=dollars, seconds=seconds)
