"""Agents that make their own calls: what they answered is recorded, their edits are commits."""

from __future__ import annotations

import time
import uuid

from autopilot.ai.agent import AgentResult
from autopilot.ai.recording import (
    StoreRecorder,
    current_recorder,
    miss,
    request_parts,
    store_recorder,
)
from autopilot.core.record import LlmRecord
from autopilot.core.run import Run, current_run
from autopilot.core.types import Cost


def keep_agent_call(prompt: str, result: AgentResult, role: str) -> None:
    """Records what an agent that makes its own calls answered and cost; its edits are commits."""
    recorder, run = current_recorder(), current_run()
    if recorder is None:
        return
    recorder.keep(
        LlmRecord(
            epoch=run.epoch if run else 0,
            # In the order of the calls.
            id=f"{time.time_ns():016x}{uuid.uuid4().hex[:8]}",
            role=role,
            model=result.model,
            request=request_parts({"prompt": prompt}),
            reply={"output": result.output, "session_id": result.session_id},
            cost=result.cost,
            priced=result.cost_usd is not None,
            step=run.step_number if run else 0,
        )
    )


def recorded_agent_call(prompt: str, role: str) -> AgentResult | None:
    """What an agent that makes its own calls answered, where only records may answer.

    It is not run again. Inside of an optimizer's step the step's commit stands in for its edits,
    and its last answer for those that it was sent back with: only the first question is compared.

    Returns:
        The recorded answer; None where the agent is to be run.

    Raises:
        ReplayMissError: it was not asked this, or it failed in that step.
    """
    run = current_run()
    if run is None or not run.experiment.only_recorded:
        return None
    asked = request_parts({"prompt": prompt})
    calls = run.service(StoreRecorder, store_recorder).calls()
    place = (run.epoch, run.step_number)
    known = [c for c in calls if c.role == role and set(c.request) == {"prompt"}]
    if run.step_number:
        known = sorted((c for c in known if (c.epoch, c.step) == place), key=lambda c: c.id)
        revision, step = run.experiment.repeats.get(place, ("", None))
        if known and step is not None and not step.error:
            first = run.service(_AskedSteps, lambda _: _AskedSteps()).is_first(place)
            if first and known[0].request != asked:
                raise miss(asked, known[:1])
            if step.changed:
                run.experiment.store.restore(revision)
            return _answer(run, known)
    else:
        same = [call for call in known if call.request == asked]
        if same:
            return _answer(run, same[:1])
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


def _answer(run: Run, calls: list[LlmRecord]) -> AgentResult:
    """The last answer, with what all calls cost."""
    for call in calls:
        run.charge_recorded(call)
    last, cost = calls[-1], sum((call.cost for call in calls), Cost())
    return AgentResult(
        output=str(last.reply.get("output", "")),
        session_id=str(last.reply.get("session_id", "")),
        input_tokens=cost.tokens,
        cost_usd=cost.cost_usd if all(call.priced for call in calls) else None,
        seconds=cost.seconds,
        model=last.model,
    )
