"""Every error that autopilot raises on purpose.

AutopilotError
├── UsageError: SlugError, TargetError, ElsewhereError
├── RepositoryError: UnsupportedRepositoryError, GitCommandError, RemoteError, RefMovedError,
│                    LockHeldError
├── ParameterError: MissingSourceError
├── ExperimentError: RecordError
├── DataError: EmptySplitError
├── EvaluationError: InputsChangedError
├── GraphError, ModuleError, MetricError, StateError, ConfinementError, UserCodeError, OutputError
└── AgentError: AgentTimeoutError, AgentRefusedError, AgentReplyError, ModelCallError
    └── NoMoreCallsError: NoCreditError, NoModelError, AgentNotFoundError, OutageError,
        │                 BudgetExceededError, NoPriceError
        ├── NoKeyError: KeyRefusedError
        └── ReplayMissError: NetworkRefusedError

Expected outcomes (rejected, budget spent, nothing to change) are values, never errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class AutopilotError(Exception):
    """The root of all of autopilot's own errors.

    Args:
        message: One line that says what is wrong with which file, line or option.
        hint: One line that says what to do about it.
        user_traceback: Where the user's own code failed, without autopilot's frames.
    """

    def __init__(self, message: str, *, hint: str = "", user_traceback: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.user_traceback = user_traceback


class UsageError(AutopilotError):
    """An option, an argument or a name that cannot be used."""


class SlugError(UsageError):
    """A malformed or colliding experiment name."""


class TargetError(UsageError):
    """The target of a run cannot be loaded."""


class ElsewhereError(UsageError):
    """A module comes from another checkout than the one that is evaluated."""


class RepositoryError(AutopilotError):
    """The git repository cannot be used."""


class UnsupportedRepositoryError(RepositoryError):
    """A repository format that cannot be read: SHA-256, reftable, partial clone, split index."""


class GitCommandError(RepositoryError):
    """The git command line failed; `said` is all that it printed about it."""

    said = ""


class RemoteError(RepositoryError):
    """A remote repository cannot be reached, or it refuses what is asked of it."""


class RefMovedError(RepositoryError):
    """A ref was moved by another process since it was read."""


class LockHeldError(RepositoryError):
    """Another run holds the experiment."""


class ParameterError(AutopilotError):
    """A parameter's files cannot be optimized, or were edited by hand during a run."""


class MissingSourceError(ParameterError):
    """A parameter's source does not exist; `path` is where it was looked for, absolute."""

    def __init__(self, message: str, *, hint: str = "", path: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = path


class ExperimentError(AutopilotError):
    """An experiment is missing, exists already, or is damaged."""


class RecordError(ExperimentError):
    """A note of an experiment that cannot be read."""


class DataError(AutopilotError):
    """A dataset or an item of it is malformed."""


class EmptySplitError(DataError):
    """A split that gives nothing to measure."""


class GraphError(AutopilotError):
    """Feedback that has nowhere to go."""


class ModuleError(AutopilotError):
    """A module that is not set up as one."""


class MetricError(AutopilotError):
    """A metric that is missing or cannot be computed."""


class StateError(AutopilotError):
    """A state_dict that does not fit."""


class EvaluationError(AutopilotError):
    """Evaluation cannot give a score."""


class InputsChangedError(EvaluationError):
    """The evaluator or its data are not those that the baseline was measured with."""


class ConfinementError(AutopilotError):
    """A step changed files of the user's own: they are left as they are, and the run stops."""


class UserCodeError(AutopilotError):
    """The user's own code raised outside the evaluation of an item; the run can be resumed."""


class OutputError(AutopilotError):
    """The output cannot be written; the message is empty where its reader has left."""


class AgentError(AutopilotError):
    """An agent or a model call failed; the epoch is recorded as failed.

    `cost` is the failed call's Cost, where that is known.
    """

    cost: object = None


class AgentTimeoutError(AgentError):
    """An agent took longer than it was allowed to; its processes are ended."""


class AgentRefusedError(AgentError):
    """The model refused to answer."""


class AgentReplyError(AgentError):
    """The `reply` of an agent or a model cannot be used: no JSON, or it breaks the schema."""

    def __init__(self, message: str, *, hint: str = "", reply: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reply = reply


class ModelCallError(AgentError):
    """The model's service answered with an error, or not at all, after all attempts.

    Args:
        status: The HTTP status; 0 without an answer.
        again: Whether another attempt may succeed; None: the status says it.
        wait_s: How long the service asks to wait before another attempt; None: it does not say.
        is_charged: Whether the attempt may have been read, and paid.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        status: int = 0,
        again: bool | None = None,
        wait_s: float | None = None,
        is_charged: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.again = status in (0, 408, 409, 429) or status >= 500 if again is None else again
        self.wait_s = wait_s
        self.is_charged = is_charged


class NoMoreCallsError(AgentError):
    """No call at all can be made now: the run stops, and can be resumed."""


class NoKeyError(NoMoreCallsError):
    """There is no key to ask a model with."""


class KeyRefusedError(NoKeyError):
    """The service does not take the key, or does not let it use the model."""


class NoCreditError(NoMoreCallsError):
    """The account that pays for the calls has no credit left."""


class NoModelError(NoMoreCallsError):
    """The service has no model of that name."""


class AgentNotFoundError(NoMoreCallsError):
    """The agent's program, or the package of the model's client, is not installed."""


class OutageError(NoMoreCallsError):
    """A service that is needed did not answer, for as long as the run waited for it."""


class ReplayMissError(NoMoreCallsError):
    """A model call that was not recorded, where only records may answer."""


class NetworkRefusedError(ReplayMissError):
    """A connection that the user's own code makes, where only records may answer."""


class BudgetExceededError(NoMoreCallsError):
    """A call that would cost more than is left: it is not made."""


class NoPriceError(NoMoreCallsError):
    """A call whose dollars cannot be counted, under a budget of dollars: it is not made."""


# What the system, git or libgit2 says, and what to do then.
_REMEDIES = {
    "aborted by .*hook": "see what the hook reference-transaction of this repository asks for",
    "No space left|Disk quota exceeded|File too large": "make room on the disk",
    "Permission denied|not permitted|insufficient permission": "give write permission there",
    "Read-only file system": "make its file system writable, or work on another one",
    "File name too long": "choose a shorter name",
    "Too many open files": "raise the limit: ulimit -n 4096",
    "Cannot allocate memory|out of memory": "free memory",
    "No locks available|not supported|not implemented": "move it to a file system with locks",
    "Input/output error|Stale file handle": "look at the disk or its connection",
    r"\.lock': File exists": "if no git command is running, remove that file",
    "ot a directory|Is a directory|File exists|not empty": "move away what has that name",
    "unable to read|missing (blob|tree)|object not found|is corrupt|bad object|inflate": (
        "an object is missing or damaged: `git fsck` names it, and `git fetch` may bring it"
    ),
}


def remedy(reason: str, otherwise: str = "mend that") -> str:
    """The advice for the reason why a file, a folder or git's objects could not be used.

    Args:
        reason: The system's, git's or libgit2's words.
        otherwise: For a reason that is not known here.

    >>> remedy("No space left on device"), remedy("Bad luck", "see the log")
    ('make room on the disk', 'see the log')
    """
    return next((do for said, do in _REMEDIES.items() if re.search(said, reason)), otherwise)


@contextmanager
def translated_as(kind: type[AutopilotError], what: str, hint: str) -> Iterator[None]:
    """Turns the system's errors of the body into one of ours.

    Args:
        what: What could not be done; the reason is added.
        hint: `{remedy}` in it is what to do about the reason; else that comes first where known.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        hint = f"{{remedy}}, or {hint}" if "{remedy}" not in hint and remedy(reason, "") else hint
        raise kind(f"{what}: {reason}", hint=hint.replace("{remedy}", remedy(reason))) from error


def all_failed(messages: list[str]) -> str:
    """The hint for items that all failed with an error, "KIND: text" each.

    >>> all_failed(["ModelCallError: m: the service answered 400"])[:23]
    "the model's call failed"
    """
    kinds = [globals().get(message.partition(":")[0]) for message in messages]
    if all(isinstance(kind, type) and issubclass(kind, AgentError) for kind in kinds):
        return "the model's call failed: look at its name, max_tokens, options and prompt"
    return "the system must run before it can be improved: try it on one item by hand"
