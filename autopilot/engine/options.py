"""The options of a run: one table, of which the command line is made and which a manifest keeps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from autopilot.core.callback import Callback
from autopilot.core.interpreter import Fresh
from autopilot.core.loop import EpochLoop
from autopilot.core.records.record import Event, Manifest
from autopilot.core.screening import CheapGates
from autopilot.core.search import SearchLoop
from autopilot.core.selection import selection
from autopilot.core.signatures import option
from autopilot.core.stopping import Budget, EarlyStopping, Plateau
from autopilot.engine.board import check_timeout, parse_size
from autopilot.engine.executors import check_executor
from autopilot.errors import UsageError
from autopilot.git.remotes import shown
from autopilot.text import flag, redact
from autopilot.tracking.loggers import TrackerName
from autopilot.tracking.notebook import Notebook

DEFAULT_MAX_EPOCHS = 100
DEFAULT_PATIENCE = 10


Direction = StrEnum("Direction", "max min")
Boldness = StrEnum("Boldness", "auto focused bold")


@dataclass(frozen=True, slots=True)
class Options:
    """How long a run goes on and what decides: the one table of options. None: not asked for.

    Args:
        prices: MODEL=INPUT/OUTPUT, in dollars for a million tokens.
        fresh: "auto" unless given.
    """

    max_epochs: int | None = option("Number of the last epoch; 100 unless given.", min=1)
    monitor: str | None = option(
        "The val metric that decides; the module's if not given.", fixed=True
    )
    mode: str | None = option(
        "Whether a higher or lower value is better, if nothing says.", fixed=True, type=Direction
    )
    failed_value: float | None = option(
        "What an item that raised counts as in the monitored metric; it has no value if not.",
        fixed=True,
    )
    patience: int | None = option(
        "Stop after so many epochs in a row without improvement; 10 unless limits are given, no "
        "limit for a search over numbers.",
        min=1,
    )
    target: float | None = option("Stop when the monitored metric reaches this.")
    plateau: int | None = option(
        "Stop when the best gained under --min-delta in so many epochs.", min=1
    )
    min_delta: float | None = option("The gain that --plateau asks for; 0.001 unless given.")
    budget_evaluations: int | None = option(
        "Stop before more items than this are evaluated.", min=1
    )
    budget_seconds: float | None = option("Stop after so much wall clock.", min=0)
    budget_tokens: int | None = option("Stop after so many model tokens.", min=1)
    budget_usd: float | None = option("Stop after so many dollars.", min=0)
    budget_calls: int | None = option("Stop after so many model calls.", min=0)
    block_after: int | None = option(
        "Block a strategy that does nothing so many times in a row, or one of whose new states "
        "none is kept in ten times as many tries; 3 unless given, 0: never.",
        min=0,
    )
    max_wait: float | None = option(
        "Wait so long for a service that does not answer; 1800 unless given, 0: not at all.",
        min=0,
        metavar="SECONDS",
    )
    goal: str | None = option(
        "For an agent that edits: what to reach; @FILE reads it.", fixed=True, metavar="TEXT"
    )
    background: str | None = option(
        "For an agent that edits: what to know of the system; @FILE reads it.",
        fixed=True,
        metavar="TEXT",
    )
    boldness: str | None = option(
        "How large a change an agent is asked for: focused, bold, or auto, unless given: bold once "
        "the score is flat.",
        fixed=True,
        type=Boldness,
    )
    item_timeout: float | None = option(
        "End an item that takes longer, a batch after that for each of its items; no limit if not.",
        metavar="SECONDS",
    )
    memory: str | None = option(
        "End an item when the evaluation, with all that it started, takes more memory: 500M, 4GB.",
        metavar="SIZE",
    )
    prices: Sequence[str] | None = option(
        "Dollars for a million tokens read and written, where genai-prices is wrong or has none.",
        type=list[str],
        names="--price",
        metavar="MODEL=IN/OUT",
    )
    keep: Sequence[str] | None = option(
        "Move what the evaluation writes there to the git folder before the worktree goes; a glob, "
        "too.",
        type=list[str],
        names="--keep",
        metavar="PATH",
    )
    accumulate: int | None = option(
        "Batches between two optimizer steps; one step an epoch if not.", fixed=True, min=1
    )
    num_workers: int | None = option(
        "Threads for the items of a batch, if they wait on a network.", fixed=True, min=1
    )
    jobs: int | None = option(
        "Processes for a batch's items, if they compute: each has a process and seed of its own.",
        min=1,
        metavar="N",
    )
    executor: str | None = option(
        "Measure at workers: processes (of this machine), processes:N, dask (a cluster of it), "
        "dask://ADDRESS, or here (unless given). --jobs is how many blocks of items at once.",
        metavar="WORKERS",
    )
    origin: str | None = option(
        "Where workers of other machines fetch the commits that they measure; the repository's own "
        "path unless given.",
        metavar="URL",
    )
    measure_noise: bool | None = option(
        "Measure the baseline's val split twice; unless given, where that calls no model.",
        fixed=True,
        names="--measure-noise/--no-measure-noise",
    )
    repeat: int | None = option(
        "Measure each val item so often, and judge the means.", fixed=True, min=1
    )
    proposals: int | None = option(
        "Candidates that each epoch makes, side by side; the best one is kept if it passes.",
        fixed=True,
        min=1,
        metavar="N",
    )
    parents: int | None = option(
        "States that the candidates of an epoch start from; 1 unless given.", fixed=True, min=1
    )
    select: str | None = option(
        "How these states are chosen: best (unless given), frontier, beam:K, tournament, bandit, "
        "or module:Class.",
        fixed=True,
        metavar="NAME",
    )
    memory_from: str | None = option(
        "Begin with the lessons of: all earlier experiments with the same parameters and metric "
        "(unless given), none, or the experiment of a name.",
        fixed=True,
        metavar="NAME|all|none",
    )
    strategies: str | None = option(
        "How an optimizer chooses its next strategy: in turn (unless given), or by how each did so "
        "far: bandit, best, beam:K, tournament, or module:Class.",
        fixed=True,
        metavar="turn|NAME",
    )
    keep_states: str | None = option(
        "Candidates that stay beside the best one as states to start from: none (unless given, "
        "for best), all that no other state dominates, or the best N of these.",
        fixed=True,
        metavar="all|none|N",
    )
    objectives: Sequence[str] | None = option(
        "A val metric that a state may be good at beside the items; with it --select frontier is "
        "the default. Its direction as :min or :max, unless the metric states it.",
        fixed=True,
        type=list[str],
        names="--objective",
        metavar="METRIC[:min|:max]",
    )
    merge: bool | None = option(
        "Let one candidate of an epoch be git's merge of two states that are good at different "
        "items.",
        fixed=True,
        names="--merge/--no-merge",
    )
    screen: int | None = option(
        "Measure a candidate on so many train items first, those that failed above all; unless it "
        "is better there than what it was made from, it is rejected without val.",
        fixed=True,
        min=1,
        metavar="N",
    )
    race: bool | None = option(
        "Measure val in blocks, and stop a candidate that cannot reach the best any more.",
        fixed=True,
        names="--race/--no-race",
    )
    cache: bool | None = option(
        "Take over results of equal content: unless given, not those of programs or fetched ones.",
        names="--cache/--no-cache",
    )
    review: bool | None = option(
        "Hold each edit until you approve or refuse it.", names="--review/--no-review"
    )
    log_to: str | None = option(
        "Send the epochs to your own tracker, too; a resumed run goes on in the same run there. "
        "It stays in files unless the tracker's own variables name a server.",
        type=TrackerName,
    )
    fresh: str | None = option(
        "Evaluate in a new process whenever a file of the parameters that Python may import has "
        "changed (auto, unless given), or any file (always), or never.",
        type=Fresh,
    )

    def __post_init__(self) -> None:
        """Checks the values that typer cannot check.

        Raises:
            UsageError: a time limit of 0 or less, a size that is none, or --jobs beside threads.
        """
        if self.item_timeout is not None:
            check_timeout(self.item_timeout, "--item-timeout")
        if self.memory is not None:
            parse_size(self.memory)
        if self.jobs is not None and self.num_workers is not None:
            raise UsageError(
                "--jobs and --num-workers cannot be combined: an item has a process or a thread",
                hint="leave out --num-workers where items compute, --jobs where they wait",
            )
        if self.jobs is not None and not hasattr(os, "fork"):
            raise UsageError("--jobs needs a system with fork", hint="leave it out")
        if self.executor is not None:
            check_executor(self.executor)
        self.loop(imports=False)

    def read(self, folder: Path) -> Options:
        """The options with the texts of the files that `@FILE` names.

        Raises:
            UsageError: a file cannot be read, or a text holds a secret: options are kept in git.
        """
        texts: dict[str, Any] = {}
        for name in ("goal", "background", "origin"):
            text = getattr(self, name) or ""
            if text.startswith("@") and name != "origin":
                try:
                    text = (folder / text[1:]).read_text(encoding="utf-8").strip()
                except (OSError, UnicodeDecodeError) as error:
                    raise UsageError(
                        f"{flag(name)} {text}: {error}", hint="name a text file"
                    ) from error
            if redact(text) != text or (name == "origin" and shown(text) != text):
                raise UsageError(
                    f"{flag(name)} holds a secret, and options are recorded in git",
                    hint="leave it out",
                )
            if name == "origin" and text and (folder / text).is_dir():
                text = os.path.abspath(folder / text)  # a worker has another folder
            texts[name] = text or None
        return replace(self, **texts)

    def given(self) -> dict[str, Any]:
        """The options that were asked for, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def words(self) -> list[str]:
        """The options that were asked for, as they are typed."""
        found: list[str] = []
        for field_ in fields(self):
            value = getattr(self, field_.name)
            name, _, no = field_.metadata.get("names", flag(field_.name)).partition("/")
            if isinstance(value, bool):
                found.append(name if value else no)
            elif value is not None:
                each = [value] if isinstance(value, str | int | float) else value
                found += [word for one in each for word in (name, str(one))]
        return found

    def loop(self, *, imports: bool = True) -> EpochLoop:
        """How epochs follow one another.

        Args:
            imports: Whether a selection of the user's own is imported: from the checkout that
                this process works in.

        Raises:
            UsageError: the options of a search do not go together.
        """
        loop = self._search(imports=imports)
        loop.gates = CheapGates(self.screen or 0, bool(self.race))
        if self.strategies not in (None, "turn"):
            loop.strategies = selection(self.strategies, "--strategies", imports=imports)
        return loop

    def _search(self, *, imports: bool) -> EpochLoop:
        goals = self.objectives or ()
        given = self.proposals, self.parents, self.select, self.keep_states, self.merge
        if given == (None,) * 5 and not goals:
            return EpochLoop()
        named, parents = self.select or ("frontier" if goals else "best"), self.parents or 1
        kept = self.keep_states or ("none" if named == "best" else "all")
        if kept not in ("all", "none") and not kept.isdecimal():
            what = f"--keep-states {kept} is no number of states"
            raise UsageError(what, hint="give all, none, or how many of an epoch")
        count = {"all": None, "none": 0}.get(kept, -1)
        count = int(kept) if count == -1 else count
        proposals, merge = self.proposals or parents, bool(self.merge)
        chosen = selection(named, imports=imports)
        return SearchLoop(proposals, parents, chosen, count, goals, merge=merge)

    def conditions(self, *, alone: bool) -> list[Callback]:
        """The stop conditions.

        Args:
            alone: The module has none of its own: the default patience holds.
        """
        found: list[Callback] = []
        patience = self.patience
        if patience is None and alone and self.max_epochs is None:
            patience = DEFAULT_PATIENCE
        if patience is not None or self.target is not None:
            found.append(EarlyStopping(patience, self.target))
        if self.plateau is not None:
            found.append(Plateau(self.plateau, 0.001 if self.min_delta is None else self.min_delta))
        budget = [getattr(self, name) for name in BUDGETS.values()]
        if any(limit is not None for limit in budget):
            found.append(Budget(*budget))
        return found


NO_OPTIONS = Options()
# Those that a resumed run may replace.
CHANGEABLE = tuple(field.name for field in fields(Options) if not field.metadata["fixed"])
# What the reason of a spent budget begins with, to the option that gives more.
BUDGETS = {"evaluation": "budget_evaluations", "time": "budget_seconds", "token": "budget_tokens"}
BUDGETS |= {"dollar": "budget_usd", "call": "budget_calls"}


def options_of(notebook: Notebook, changes: Options = NO_OPTIONS) -> Options:
    """The options of an experiment: of its start, of each resumption, and the changes, in turn.

    Raises:
        RecordError: they cannot be read, or one is unknown to this version.
        UsageError: --jobs, which it was started without, would give each item another chance.
    """
    notebook.need(Event)
    given: dict[str, Any] = {}
    records: list[Manifest | Event] = [notebook.manifest, *notebook.events]
    for record in records:
        for name, value in record.options.items():
            given[name] = _usable(notebook, record, name, value)
        if record is notebook.manifest and changes.jobs is not None and "jobs" not in given:
            raise UsageError(
                f"{notebook.slug} was started without --jobs: its items would get other seeds",
                hint="leave it out, or begin another experiment with it",
            )
    # A single noisy number is measured more often than was asked for.
    if (baseline := notebook.baseline) is not None and baseline.repeat > 1:
        given["repeat"] = baseline.repeat
    return Options(**(given | changes.given()))


def _usable(notebook: Notebook, record: Manifest | Event, name: str, value: Any) -> Any:
    """A recorded option's value, if this version knows it and its type.

    Raises:
        RecordError: it does not.
    """
    kind = get_type_hints(Options).get(name)
    if kind is None:
        why = "this version has no such option"
        raise notebook.journal.unusable(
            notebook.start, record, f"options.{name}", why, is_newer=True
        )
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        why = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise notebook.journal.unusable(notebook.start, record, f"options.{name}", why) from error


def measured_as(notebook: Notebook, limits: Options) -> Manifest:
    """The manifest of an experiment with the options that hold now, some limits replaced."""
    return replace(notebook.manifest, options=options_of(notebook, limits).given())
