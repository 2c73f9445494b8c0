"""Judging a dataset: a verdict, a score and feedback for each item, in a file that only grows.

Model calls are in a file beside it, and answer a resumed judging.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from autopilot.ai.datasets.generator import Watch
from autopilot.ai.datasets.lines import Budget, Lines, Origin
from autopilot.ai.datasets.verdicts import Summary, Unjudged, Verdict, summarize
from autopilot.ai.judge import Judge
from autopilot.ai.judgement import Judgement
from autopilot.ai.model.recording import numbered, recording_beside
from autopilot.ai.parallel import each
from autopilot.core.types import Datum, as_datum, digest
from autopilot.data.jsonl import read_jsonl
from autopilot.errors import AgentError, DataError, NoMoreCallsError


class Beginning(BaseModel):
    """What is judged; the first line."""

    kind: Literal["judging"] = "judging"
    data: list[str]
    origin: Origin = Field(default_factory=Origin)


Line = Beginning | Budget | Verdict | Unjudged


@dataclass(frozen=True, slots=True)
class _Work:
    """An item that is to be judged."""

    key: str
    split: str
    datum: Datum


class Judging:
    """The verdicts on a dataset, in memory and on disk.

    Args:
        path: The file of verdicts; the model calls are in `<name>.calls.jsonl` beside it.

    Attributes:
        verdicts: Item's key to its verdict.
        failed: Item's key to why it could not be judged.

    Raises:
        DataError: a line cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.begun: Beginning | None = None
        self.budget = Budget()
        self.verdicts: dict[str, Verdict] = {}
        self.failed: dict[str, Unjudged] = {}
        self._anew: Counter[str] = Counter()
        self._lock = threading.Lock()
        kinds = Annotated[Line, Field(discriminator="kind")]
        self._lines: Lines[Line] = Lines(self.path, kinds)
        for line in self._lines.read():
            self._take_in(line)

    @classmethod
    def existing(cls, path: str | Path) -> tuple[Judging, Beginning]:
        """A judging that was begun, and how.

        Raises:
            DataError: there is none.
        """
        judging = cls(path)
        if judging.begun is None:
            raise DataError(f"{path} holds no verdicts", hint="judge something into it first")
        return judging, judging.begun

    @property
    def calls(self) -> Path:
        """Where the model calls are kept."""
        return self.path.with_name(f"{self.path.name.removesuffix('.jsonl')}.calls.jsonl")

    def run(
        self,
        judge: Judge,
        data: Sequence[str | Path],
        *,
        budget: Budget | None = None,
        origin: Origin | None = None,
        watch: Watch = lambda *_: None,
    ) -> Summary:
        """Judges each item of some files, several at once; equal ones of a split count once.

        The judge gets the item both as what is judged and as its target.

        Args:
            judge: Who says what passes.
            data: JSON Lines files.
            budget: What it may cost.
            origin: How the command line found the judge.
            watch: Told after each item how many are done, of how many, and what was spent.

        Raises:
            DataError: the file holds verdicts already; the data cannot be read.
            BudgetExceededError: too little is left; `resume` goes on with a larger budget.
            AgentError: no item could be judged.
        """
        if self.begun is not None:
            raise DataError(
                f"{self.path} holds verdicts already", hint="resume it, or name another file"
            )
        beginning = Beginning(data=[str(path) for path in data], origin=origin or Origin())
        work = _work(beginning)
        try:
            with self._lines.held():
                self._append(beginning)
                return self._judge(judge, work, budget, watch)
        except BaseException:
            # Where nothing was paid, nothing is left of it.
            if not (self.verdicts or self.failed or self.calls.exists()):
                self.path.unlink(missing_ok=True)
            raise

    def resume(
        self, judge: Judge, *, budget: Budget | None = None, watch: Watch = lambda *_: None
    ) -> Summary:
        """Judges what has no verdict yet, new lines of the data included; pays nothing twice.

        An item whose judge's answer could not be used is asked about anew.

        Args:
            judge: The same as before.
            budget: Takes the place of the one before.
            watch: See `run`.

        Raises:
            DataError: there is nothing to resume, or an item with a verdict is gone or changed.
        """
        _, beginning = Judging.existing(self.path)
        work = _work(beginning)
        gone = self.verdicts.keys() - {one.key for one in work}
        if gone:
            first = min((self.verdicts[key] for key in gone), key=lambda verdict: verdict.id)
            raise DataError(
                f"{len(gone)} items with a verdict are gone or changed, such as {first.id} of "
                f"{first.split}",
                hint="put the data back, or judge it into another file",
            )
        with self._lines.held():
            return self._judge(judge, work, budget, watch)

    def summary(self) -> Summary:
        """Counts, means, and the most frequent feedback."""
        return summarize(list(self.verdicts.values()), list(self.failed.values()))

    # --- inside --------------------------------------------------------------------------------

    def _judge(
        self, judge: Judge, work: Sequence[_Work], budget: Budget | None, watch: Watch
    ) -> Summary:
        if budget is not None:
            self._append(budget)
        keys = {one.key for one in work}
        self.failed = {key: line for key, line in self.failed.items() if key in keys}
        left = [one for one in work if one.key not in self.verdicts]
        done = len(work) - len(left)
        with recording_beside(self.calls, self.budget.limits()) as ledger:
            each(
                lambda one: self._append(_judged(judge, one, self._anew[one.key])),
                left,
                judge.num_workers,
                lambda n: watch(done + n, len(work), ledger),
            )
        if work and not self.verdicts:
            reason = next(iter(self.failed.values())).reason
            holds = ", ".join(sorted(work[0].datum.metadata)) or "nothing"
            raise AgentError(
                f"none of {len(work)} items could be judged: {reason}",
                hint=f"the first item holds {holds}; mend the data or the judge, and resume it",
            )
        return self.summary()

    def _append(self, line: Line) -> None:
        with self._lock:
            self._lines.append(line)
            self._take_in(line)

    def _take_in(self, line: Line) -> None:
        if isinstance(line, Beginning):
            self.begun = line
        elif isinstance(line, Budget):
            self.budget = line
        elif isinstance(line, Verdict):
            self.verdicts[line.key] = line
            self.failed.pop(line.key, None)
        else:
            self.failed[line.key] = line
            self._anew[line.key] += line.ask_anew


def _judged(judge: Judge, one: _Work, asked_before: int) -> Verdict | Unjudged:
    datum = one.datum
    try:
        with numbered("a", 1 + asked_before):
            found = judge.attempt(datum, datum)
    except NoMoreCallsError:
        raise
    except (AgentError, ConnectionError, TimeoutError) as outage:
        # A service did not answer: the others are judged meanwhile, and a resume asks again.
        found = Judgement(None, None, error=str(outage))
    error = found.error
    if found.success is None or found.score is None:
        error = error or "the judge says nothing of it"
        return Unjudged(
            key=one.key, id=datum.id, split=one.split, reason=error, ask_anew=found.again
        )
    return Verdict(
        key=one.key,
        id=datum.id,
        split=one.split,
        success=found.success,
        score=found.score,
        score_range=found.score_range,
        feedback=found.feedback,
        attribution=found.attribution,
        item=datum.metadata,
    )


def _work(beginning: Beginning) -> list[_Work]:
    """The items of all files; what is there twice counts once."""
    found: dict[str, _Work] = {}
    for path in map(Path, beginning.data):
        for number, value in enumerate(read_jsonl(path, None)):
            split = str(value.get("split") or path.stem)
            key = digest([split, value], 16)
            found.setdefault(key, _Work(key, split, as_datum(value, number)))
    if not found:
        raise DataError(
            f"{', '.join(beginning.data)}: there is nothing to judge",
            hint="name JSON Lines files with one item a line",
        )
    return list(found.values())
