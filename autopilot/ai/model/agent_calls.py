"""Calls that are no messages of the API: answered from the record, or made and recorded.

What one edits is commits, not records.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from autopilot.ai.agent import AgentResult
from autopilot.ai.model.recording import (
    StoreRecorder,
    current_recorder,
    make_record,
    request_key,
    store_recorder,
)
from autopilot.ai.model.requests import miss, request_parts
from autopilot.core.records.record import LlmRecord
from autopilot.core.run import Run, current_run
from autopilot.core.types import Cost


def agent_call(
    asked: Mapping[str, Any], role: str, make: Callable[[], AgentResult], *, edits: bool
) -> AgentResult:
    """A call of an agent that is a program: answered from the record, or made and recorded.

    Args:
        asked: All that its answer depends on; "prompt" among it if it edits.
        role: Under which name it is counted.
        make: Makes it.
        edits: It may edit files: it is made again as long as its step was not committed.

    Raises:
        ReplayMissError: only records may answer, and there is none.
    """
    recorder, run = current_recorder(), current_run()
    if recorder is None:
        return make()
    if edits:
        if run is not None and run.experiment.only_recorded:
            return _recorded_step(run, str(asked["prompt"]), role)
        # In the order of the calls.
        asked, key = {"prompt": asked["prompt"]}, f"{time.time_ns():016x}{uuid.uuid4().hex[:8]}"
    else:
        key = request_key(asked)
    parts = request_parts(asked)
    with recorder.one_at_a_time(key):
        known = recorder.answer(key, parts)
        if known is not None:
            return _answer(run, [known])
        result = make()
        reply = {
            "output": result.output,
            "session_id": result.session_id,
            "input_tokens": result.input_tokens,
            "output_tokens": result.output_tokens,
        }
        model, priced = result.model, result.cost_usd is not None
        recorder.keep(make_record(key, role, model, result.cost, parts, reply, priced=priced))
    return result


def _recorded_step(run: Run, prompt: str, role: str) -> AgentResult:
    """What an agent answered in the step that is repeated, where only records may answer.

    It is not run again: the step's commit stands in for its edits, and its last answer for those
    that it was sent back with. Only the first question is compared.

    Raises:
        ReplayMissError: it was not asked this, or it failed in that step.
    """
    asked = request_parts({"prompt": prompt})
    calls = run.service(StoreRecorder, store_recorder).calls()
    place = (run.epoch, run.step_number)
    known = [c for c in calls if c.role == role and set(c.request) == {"prompt"}]
    known = sorted((c for c in known if (c.epoch, c.step) == place), key=lambda c: c.id)
    revision, step = run.experiment.repeats.get(place, ("", None))
    if known and step is not None and not step.error:
        first = run.service(_AskedSteps, lambda _: _AskedSteps()).is_first(place)
        if first and known[0].request != asked:
            raise miss(asked, known[:1])
        if step.changed:
            run.experiment.store.restore(revision)
        return _answer(run, known)
    raise miss(asked, known or calls)


class _AskedSteps:
    """The steps in which an agent was asked already."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()

    def is_first(self, place: tuple[int, int]) -> bool:
        """Whether a step is new here."""
        new = place not in self._seen
        self._seen.add(place)
        return new


def _answer(run: Run | None, calls: list[LlmRecord]) -> AgentResult:
    """The last answer, with what all calls cost."""
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
