"""One call of a model or of an agent's program: answered from the record, or paid and recorded.

`Call.attempt` is the client's middleware, inside its retry loop: it answers from the record,
reserves the most that the attempt may cost, waits for the rate limit, and records the reply before
it is used. `agent_call` does the same for calls that are not messages of the API.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from autopilot import audit
from autopilot.ai.agent import AgentResult
from autopilot.ai.model import client, recording
from autopilot.ai.model.parallel import RateLimit, Sent, to_its_end
from autopilot.ai.model.recording import StoreRecorder, current_recorder, make_record, request_parts
from autopilot.ai.prices import Price, Usage
from autopilot.core.records.ledger import Ledger, Reservation
from autopilot.core.records.record import LlmRecord
from autopilot.core.run import Run, current_run, say
from autopilot.core.types import Cost
from autopilot.errors import AgentRefusedError, AgentReplyError

Message = Mapping[str, Any]
Keep = Callable[[Mapping[str, Any], Cost], None]

# Text that the service adds, which is read and paid: on tools (their use takes some 350 tokens, the
# text editor 700) and on the form of an answer.
_UNSEEN = {"tools": 1200, "output_config": 400}


def current_ledger() -> Ledger:
    """The ledger of the run that is going on; outside of runs, one that is thrown away."""
    run = current_run()
    return Ledger() if run is None else run.ledger


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
        if self.price is None and math.isfinite(ledger.limits.cost_usd):
            say(f"the price of {self.model} is unknown: its calls do not count in dollars")
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


# --- calls of programs -------------------------------------------------------------------------


class _AskedSteps(set[tuple[int, int]]):
    """The steps, as epoch and number, in which an agent was asked already in a replay."""


def agent_call(
    asked: Mapping[str, Any], role: str, make: Callable[[], AgentResult], *, edits: bool
) -> AgentResult:
    """A call that is not a message of the API: answered from the record, or made and recorded.

    An agent's edits are in commits, not in records.

    Args:
        asked: All that the answer depends on, including "prompt" if the agent edits.
        edits: The agent may edit files: it is called again as long as its step was not committed.

    Raises:
        ReplayMissError: only records may answer, and there is none.
    """
    recorder, run = current_recorder(), current_run()
    if recorder is None:
        return make()
    if edits:
        if run is not None and run.experiment.only_recorded:
            return _recorded_step(run, str(asked["prompt"]), role)
        # Never answered from the record, so the key sorts by time and not by content.
        asked, key = {"prompt": asked["prompt"]}, f"{time.time_ns():016x}{uuid.uuid4().hex[:8]}"
    else:
        key = recording.request_key(asked)
    parts = request_parts(asked)
    with recorder.one_at_a_time(key):
        known = recorder.answer(key, parts)
        if known is not None:
            return _answer(run, [known])
        result = make()
        names = ("output", "session_id", "input_tokens", "output_tokens")
        reply = {name: getattr(result, name) for name in names}
        model, priced = result.model, result.cost_usd is not None
        recorder.keep(make_record(key, role, model, result.cost, parts, reply, priced=priced))
    return result


def _recorded_step(run: Run, prompt: str, role: str) -> AgentResult:
    """The agent's answer in the step that is replayed, where only records may answer.

    The agent is not called: the step's commit stands for its edits, and its last answer for all
    that were sent back to it. Only the first question is compared.

    Raises:
        ReplayMissError: it was not asked this, or it failed in that step.
    """
    asked = request_parts({"prompt": prompt})
    calls = StoreRecorder.of(run).calls()
    place = (run.epoch, run.step_number)
    known = [c for c in calls if c.role == role and set(c.request) == {"prompt"}]
    known = sorted((c for c in known if (c.epoch, c.step) == place), key=lambda c: c.id)
    revision, step = run.experiment.repeats.get(place, ("", None))
    if not known or step is None or step.error:
        raise recording.miss(asked, known or calls)
    steps = run.service(_AskedSteps, lambda _: _AskedSteps())
    if place not in steps:
        steps.add(place)
        if known[0].request != asked:
            raise recording.miss(asked, known[:1])
    if step.changed:
        run.experiment.store.restore(revision)
    return _answer(run, known)


def _answer(run: Run | None, calls: list[LlmRecord]) -> AgentResult:
    """The last answer, with the cost of all calls."""
    if run is not None:
        for call in calls:
            run.charge_recorded(call)
    last, cost = calls[-1], sum((call.cost for call in calls), Cost())
    written = sum(int(call.reply.get("output_tokens", 0)) for call in calls)
    return AgentResult(
        output=str(last.reply.get("output", "")),
        session_id=str(last.reply.get("session_id", "")),
        input_tokens=int(cost.tokens) - written,
        output_tokens=written,
        cost_usd=cost.cost_usd if all(call.priced for call in calls) else None,
        seconds=cost.seconds,
        model=last.model,
    )
