"""What a process that runs an experiment again is asked, and what it tells after each epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from pydantic import TypeAdapter

from autopilot.core.records.record import Manifest
from autopilot.proof.measuring_worker import Failure


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be run again.

    Args:
        user: The user's checkout.
        place: The repository to work in.
        links: Path from the top to the user's own path, of what is linked in.
        slug: The experiment.
        tip: Where its branch ends.
        manifest: How it is run.
        last: The last epoch.
        test: Whether the test split is scored then.
    """

    user: str
    place: str
    links: tuple[tuple[str, str], ...]
    slug: str
    tip: str
    manifest: Manifest
    last: int
    test: bool

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True, slots=True)
class StepAgain:
    """A step as it came out.

    Args:
        number: Its number in the epoch.
        tree: The state after it; "" if it changed nothing.
        gradients: Parameter name to rendered gradient.
        strategy: What it says it did.
        error: Why it failed.
    """

    number: int
    tree: str
    gradients: Mapping[str, str]
    strategy: str
    error: str


@dataclass(frozen=True, slots=True)
class EpochAgain:
    """An epoch as it came out; or why there is none.

    Args:
        number: The epoch; -1 for the test score, which comes last.
        tree: The state that was measured.
        verdict: The verdict.
        best_epoch: The best one after it.
        metrics: Split to metric name to value.
        steps: Its steps.
        inputs: See Measurement.
        seconds: Wall clock.
        noisy: See Measurement.
        failure: The error that ended the run in this epoch.
    """

    number: int
    tree: str = ""
    verdict: str = ""
    best_epoch: int = 0
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    steps: tuple[StepAgain, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    noisy: tuple[str, ...] = ()
    failure: Failure | None = None

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, told: bytes) -> EpochAgain:
        """From JSON."""
        found: EpochAgain = TypeAdapter(cls).validate_python(json.loads(told))
        return found
