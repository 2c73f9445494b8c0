"""One question to a model, of one or more turns: answered from the record, or paid and recorded.

Every attempt reserves the most that it may cost, waits for the rate limit, and is recorded before
its reply is used. `autopilot.ai.agent` does the same for agents.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from autopilot import audit
from autopilot.ai.agent import AgentResult
from autopilot.ai.model import recording
from autopilot.ai.model.failures import one_line
from autopilot.ai.model.parallel import RateLimit, to_its_end
from autopilot.ai.model.recording import (
    current_ledger,
    current_recorder,
    make_record,
    request_parts,
)
from autopilot.ai.model.reply import Reply
from autopilot.ai.prices import Price, Usage, price_of, require_price
from autopilot.core.records.ledger import Reservation
from autopilot.core.run import current_run
from autopilot.core.types import Cost
from autopilot.errors import AgentError, AgentRefusedError, AgentReplyError, ModelCallError
from autopilot.text import clean, hide

Keep = Callable[[Reply, Cost, bool], None]
Send = Callable[[], Reply]

# Text that the service adds, which is read and paid: on tools (their use takes some 350 tokens, the
# text editor 700) and on the form of an answer.
_UNSEEN = {"tools": 1200, "output_config": 400, "schema": 400}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0


@dataclass
class Call:
    """A question, its replies so far, and their cost.

    Args:
        role: The name under which the cost is counted.
        sample: See `Model.complete`.
        prices: Model name to Price, in front of all others.
        rate: The limit to keep.
        max_retries: The number of further attempts.

    Attributes:
        reply: The last reply.
        read, written: Tokens of all turns.
        cost: That of all turns.
        priced: Whether the cost in dollars is known of all of them.
    """

    model: str
    role: str
    sample: int
    prices: Mapping[str, Price]
    rate: RateLimit
    max_retries: int
    reply: Reply = field(default_factory=Reply)
    read: int = 0
    written: int = 0
    cost: Cost = field(default_factory=Cost)
    priced: bool = True

    @cached_property
    def price(self) -> Price | None:
        """The model's price; None: unknown. Only looked for where a call is paid."""
        return price_of(self.model, self.prices)

    def ask(self, asked: Mapping[str, Any], send: Send) -> Reply:
        """The recorded answer to a request, or the one that `send` brings, recorded.

        Args:
            asked: The request as JSON, all that the answer depends on; its hash is the call's name.

        Raises:
            AgentRefusedError: the model refused.
            AgentReplyError: the reply was cut off.
            ReplayMissError: only records may answer, and there is none.
        """
        self._ask(asked, send)
        self._check()
        return self.reply

    def _ask(self, asked: Mapping[str, Any], send: Send) -> None:
        recorder = current_recorder()
        if recorder is None:
            return self._attempt(asked, send, lambda *_: None)
        run = current_run()
        if run is not None:
            run.asks()
        key, parts = recording.request_key(asked, self.sample), request_parts(asked)
        known = recorder.answer(key, parts)
        if known is None:
            with recorder.one_at_a_time(key):
                # Again under the lock: an equal call may have been recorded in the meantime.
                known = recorder.answer(key, parts)
                if known is None:

                    def keep(reply: Reply, cost: Cost, priced: bool) -> None:
                        message, model = reply.as_message(), reply.model or self.model
                        recorder.keep(
                            make_record(key, self.role, model, cost, parts, message, priced=priced)
                        )

                    return self._attempt(asked, send, keep)
        if run is not None:
            run.charge_recorded(known)
        with audit.executing("model", [self.role, self.model]) as execution:
            execution.detail = "answered from the record"
        reply = Reply.of(known.reply)
        used = reply.usage or Usage(known.cost.tokens)
        return self._take(reply, used, known.cost, priced=known.priced)

    def _check(self) -> None:
        reason, text = self.reply.stop_reason, self.reply.text
        if reason == "refusal":
            raise AgentRefusedError(
                f"{self.model} refused: {one_line(text)}",
                hint="look at what the prompt and the items ask for",
            )
        if reason in ("max_tokens", "model_context_window_exceeded"):
            raise AgentReplyError(
                f"{self.model} was cut off ({reason})",
                hint="give the Model more max_tokens, or a shorter prompt",
                reply=text,
            )

    def result(self) -> AgentResult:
        """The last reply, and the cost of all turns."""
        return AgentResult(
            output=self.reply.text,
            input_tokens=self.read,
            output_tokens=self.written,
            cost_usd=self.cost.cost_usd if self.priced else None,
            seconds=self.cost.seconds,
            model=self.reply.model,
        )

    def _attempt(self, asked: Mapping[str, Any], send: Send, keep: Keep) -> None:
        for retry in range(self.max_retries + 1):
            try:
                return self._pay(asked, send, keep)
            except ModelCallError as error:
                if retry == self.max_retries or not error.again:
                    raise
                pause_s = min(_FIRST_PAUSE_S * 2.0**retry, _LONGEST_PAUSE_S)
                time.sleep(pause_s if error.wait_s is None else error.wait_s)
        raise AssertionError("unreachable")

    def _pay(self, asked: Mapping[str, Any], send: Send, keep: Keep) -> None:
        # A text has at most half as many tokens as bytes: the reservation is never too small.
        read = len(json.dumps(asked, default=str)) // 2
        read += sum(tokens for name, tokens in _UNSEEN.items() if name in asked)
        most = Usage(read, int(asked["max_tokens"]))
        ledger, dollars = current_ledger(), 0.0
        if math.isfinite(ledger.limits.cost_usd):
            require_price(self.model, self.price, ledger.limits.cost_usd)
            dollars = self._cost_of(most).cost_usd
        with ledger.reserve(self.role, most.tokens, dollars) as reservation:
            sent = self.rate.wait(most.tokens)
            took = 0
            try:
                took = to_its_end(lambda: self._send(send, keep, most, reservation))
            except ModelCallError as error:
                took = most.input_tokens // 2 if error.is_charged else 0
                raise
            finally:
                self.rate.settle(sent, took)

    def _send(self, send: Send, keep: Keep, most: Usage, reservation: Reservation) -> int:
        """Makes one attempt.

        Returns:
            The tokens that it took.
        """
        started = time.monotonic()
        try:
            with audit.executing("model", [self.role, self.model]) as execution:
                try:
                    reply = send()
                except AgentError as error:
                    execution.code = getattr(error, "status", 0) or None
                    raise
                execution.code = 200
        except ModelCallError as error:
            if error.is_charged:
                lost = self._cost_of(Usage(most.input_tokens // 2))
                reservation.settle(lost, known=False)
                why = one_line(error.message)
                recording.keep_lost(self.role, self.model, lost, why, priced=False)
            raise
        # Without secrets that it echoes, before anything uses it.
        reply = Reply.of(clean(hide(reply.as_message())))
        # A guess, where the provider does not say: four characters a token.
        used = reply.usage or Usage(most.input_tokens // 2, len(reply.text) // 4)
        priced = self.price is not None and reply.usage is not None
        cost = self._cost_of(used, time.monotonic() - started)
        reservation.settle(cost, known=priced)
        # On disk before anything uses the reply: a kill loses nothing that was paid.
        keep(reply, cost, priced)
        self._take(reply, used, cost, priced=priced)
        return used.tokens

    def _cost_of(self, usage: Usage, seconds: float = 0.0) -> Cost:
        dollars = self.price.cost(usage) if self.price else 0.0
        return Cost(tokens=usage.tokens, cost_usd=dollars, seconds=seconds)

    def _take(self, reply: Reply, used: Usage, cost: Cost, *, priced: bool) -> None:
        self.reply = reply
        self.read, self.written = self.read + used.read, self.written + used.output_tokens
        self.cost, self.priced = self.cost + cost, self.priced and priced
