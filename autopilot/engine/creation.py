"""An experiment that is begun and not run: `autopilot experiment create`."""

from __future__ import annotations

from autopilot.core.records.record import Event
from autopilot.engine.request import Request
from autopilot.engine.session import Session


def create(request: Request) -> Session:
    """Begins an experiment: its branch with the start commit, its manifest. Nothing is evaluated.

    All that `run` checks is checked. `resume` measures the baseline and goes on.

    Raises:
        AutopilotError: something is not as it should be; nothing was changed.
    """
    session = Session.start(request)
    try:
        for name, parameter in session.module.named_parameters():
            parameter.name = name
        session.store.bind(session.module.parameters())
        start = session.store.begin(session.manifest)
        session.store.annotate(start, [Event(name="created").stamped()])
    finally:
        session.inputs.close()
        session.store.close()
        session.workspace.undo()
    return session
