"""Claude through Anthropic's API as an agent that edits files: no program needed, only a key."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from dataclasses import replace

from autopilot.ai.agent import Agent, AgentContext, AgentResult
from autopilot.ai.model.call import Message
from autopilot.ai.model.model import Model
from autopilot.ai.tools import TextEditor, Tool

_SESSIONS = 32


class AnthropicAgent(Agent):
    """Edits the parameters' files by the API's text editor tool, and may be given other tools.

    Conversations last as long as this object; the latest 32 can be gone on with.

    Args:
        model: A Model, or a model's name.
        tools: What it may use beside the text editor.
        system: Instructions in front of the context's own.
        max_turns: Replies at most in one run.

    >>> AnthropicAgent("claude-haiku-4-5").model.name
    'claude-haiku-4-5'
    """

    def __init__(
        self,
        model: Model | str | None = None,
        *,
        tools: Sequence[Tool] = (),
        system: str = "",
        max_turns: int = 50,
    ) -> None:
        if model is None or isinstance(model, str):
            model = Model(model) if model else Model()
        self.model = model
        self.tools = tuple(tools)
        self.system = system
        self.max_turns = max_turns
        self._lock = threading.Lock()
        self._sessions: dict[str, list[Message]] = {}

    def run(self, prompt: str, context: AgentContext | None = None) -> AgentResult:
        context = context or AgentContext()
        editor = [TextEditor(context.parameters, context.folder)] if context.parameters else []
        with self._lock:
            before = self._sessions.get(context.session_id, [])
        result, messages = self.model.use_tools(
            [*before, {"role": "user", "content": prompt}],
            [*editor, *self.tools],
            system="\n\n".join(part for part in (self.system, context.system) if part),
            role=context.role,
            schema=context.schema,
            max_turns=self.max_turns,
        )
        session = context.session_id or uuid.uuid4().hex
        with self._lock:
            self._sessions.pop(session, None)
            self._sessions[session] = messages
            while len(self._sessions) > _SESSIONS:
                del self._sessions[next(iter(self._sessions))]
        return replace(result, session_id=session)
