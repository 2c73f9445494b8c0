"""A search over numbers and choices, by Optuna's samplers."""

from __future__ import annotations

import contextlib
import io
import math
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autopilot.core.figures import figures
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import values_of
from autopilot.core.records.record import MetricsRecord
from autopilot.core.run import current_run, say
from autopilot.errors import AgentError, ParameterError, StateError, UsageError
from autopilot.tuning import samplers
from autopilot.tuning.parameter import ConfigParameter
from autopilot.tuning.spaces import Value, holds, same

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

    from autopilot.core.experiment import Experiment


@dataclass(frozen=True, slots=True)
class _Told:
    """An epoch that the search was told.

    Args:
        value: The monitored metric; None where it failed or could not be measured.
        values: The values of the state that was measured, by their names in the study.
        undone: The step failed and was taken back, so the values are not those of a proposal.
        candidate: The number of the candidate; 0: the epoch has one alone.
        is_merge: Whether it is a merge, which was not asked for.
        is_stopped: Whether it was rejected before all val items were measured.
    """

    number: int
    value: float | None
    values: Mapping[str, Value]
    undone: bool
    candidate: int = 0
    is_merge: bool = False
    is_stopped: bool = False


@dataclass(frozen=True, slots=True)
class _Asked:
    """A trial that was asked for, and its values by their names in the study."""

    trial: Trial
    values: Mapping[str, Value]


class SearchOptimizer(Optimizer):
    """Proposes values for the keys of ConfigParameters, one trial of Optuna's an epoch.

    Trial 0 is the present values with the baseline's score. Each later epoch is told to the study,
    kept or not; one that failed is told as failed. It needs no feedback.

    A resumed run asks the sampler for all trials again and tells it the recorded values, so that
    it goes on as if it had not stopped. For that the sampler must be seeded.

    Args:
        parameters: ConfigParameters, each of another file.
        sampler: "tpe", "cmaes", "gp", "random", "grid", "qmc", or a sampler of Optuna's.
        seed: Of the sampler; the run's, if not given. A sampler that is an object has its own.

    Raises:
        UsageError: there is no such sampler, it is not installed, or it cannot lay out a grid.
        ParameterError: a parameter is no ConfigParameter, or two of them are one file.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from autopilot.core.module import AutoPilotModule
    >>> from autopilot.core.trainer import Trainer
    >>> from autopilot.core.types import Datum
    >>> from autopilot.tuning.spaces import Range
    >>> class Oven(AutoPilotModule):
    ...     monitor, mode = "off", "min"
    ...     def __init__(self, file):
    ...         super().__init__()
    ...         self.config = ConfigParameter(file, {"heat": Range(0, 20)})
    ...     def forward(self, batch):
    ...         off = abs(self.config.values()["heat"] - 7)
    ...         return Datum(items=[Datum(metrics={"off": off})])
    ...     def val_dataloader(self):
    ...         return [["a loaf"]]
    ...     def configure_optimizers(self):
    ...         return SearchOptimizer([self.config], "grid")
    >>> file = Path(tempfile.mkdtemp()) / "oven.json"
    >>> _ = file.write_text('{"heat": 3}')
    >>> result = Trainer().fit(Oven(file))
    >>> file.read_text(), result.baseline, result.best, result.epochs
    ('{"heat": 7}', 4.0, 0.0, 21)
    """

    needs_gradient = False

    def __init__(
        self,
        parameters: Iterable[ConfigParameter],
        sampler: str | BaseSampler = "tpe",
        seed: int | None = None,
    ) -> None:
        super().__init__(parameters)
        self.configs: list[ConfigParameter] = []
        for parameter in self.parameters:
            if not isinstance(parameter, ConfigParameter):
                raise ParameterError(
                    f"a search cannot propose values for {parameter!r}",
                    hint='name its keys: ConfigParameter("config.toml", {"size": Range(1, 9)})',
                )
            if any(parameter.source == other.source for other in self.configs):
                raise ParameterError(
                    f"there are two parameters for one file, {parameter.label}",
                    hint="put all its keys into one ConfigParameter",
                )
            self.configs.append(parameter)
        keys = [key for config in self.configs for key in config.spaces]
        self._names = {
            (config, key): key if keys.count(key) == 1 else f"{config.label}:{key}"
            for config in self.configs
            for key in config.spaces
        }
        self._spaces = {name: config.spaces[key] for (config, key), name in self._names.items()}
        self.sampler, self.seed = sampler, seed
        samplers.make_sampler(sampler, 0, self._spaces)  # raises what it lacks, before a run
        self._first = [config.present() for config in self.configs]
        self._forget()

    def _forget(self) -> None:
        self._epochs: list[_Told] = []
        self._mode = "max"
        self._study: Study | None = None
        self._in_study = 0
        self._pending: list[_Asked] = []
        self._differs = False
        # The latest epoch with a proposal; epochs whose step failed before there was one; epochs
        # in which an agent changed the values after the search.
        self._proposed = 0
        self._without: list[int] = []
        self._changed: list[int] = []

    # --- what the loop calls -------------------------------------------------------------------

    def tell(self, record: MetricsRecord) -> None:
        if record.epoch == 0:
            self._forget()
            self._mode = record.mode
        value = record.metrics.get(record.monitor)
        undone = record.outcome == "failed"
        if undone or record.unmeasured or value is None or not math.isfinite(value):
            value = None
        found = {}
        for (config, key), name in self._names.items():
            # Among several parameters of a module, the record has the file before the key.
            each = record.values.get(f"{config.label}:{key}", record.values.get(key))
            if each is not None:
                found[name] = each
        which = record.candidate, record.is_merge, record.is_stopped
        told = _Told(record.epoch, value, found, undone, *which)
        self._epochs.append(told)
        if record.candidate:
            # Its trial failed too if nothing was changed. All of an epoch are asked for before one
            # of them is told: see `_settle_all`.
            if record.outcome == "unchanged":
                self._epochs[-1] = replace(self._epochs[-1], value=None, undone=True)
            return
        if record.epoch > 0 and record.epoch not in (self._proposed, *self._without):
            self._without.append(record.epoch)  # of a resumed run, load_state_dict knows better
        if self._pending and dict(self._pending[0].values) != found:
            self._changed.append(record.epoch)
        if self._study is not None:
            self._up_to_date()

    def step(self) -> Step | None:
        study, number = self._up_to_date(), self.proposal[0]
        if not self._ask_for(study, number):
            return None
        # A step that is made again, as after an outage, proposes the same.
        proposal, changes = self._pending[number - 1], list[str]()
        self._proposed = self._number
        self._without = [number for number in self._without if number != self._number]
        for config, first in zip(self.configs, self._first, strict=True):
            try:
                before = config.present()
            except ParameterError as error:
                # Another optimizer of the same step left it so: that costs the epoch, not the run.
                raise AgentError(error.message, hint=error.hint) from error
            # A key whose condition does not hold goes back to where it was at first: states that
            # differ in nothing that counts are one state.
            names = {key: self._names[config, key] for key in config.spaces}
            after = {key: proposal.values.get(name, first[key]) for key, name in names.items()}
            changed = [key for key in after if not same(before[key], after[key])]
            if changed:
                config.set({key: after[key] for key in changed})
            changes += [
                f"{names[key]} {_change(before[key], after[key])}"
                for key in changed
                if names[key] in proposal.values
            ]
        if not changes:
            return None
        trial = f"trial {proposal.trial.number} of {self._sampler_name}"
        return Step(", ".join(changes), rationale=trial)

    def exhausted(self) -> str:
        if not self._epochs or (isinstance(self.sampler, str) and self.sampler != "grid"):
            return ""
        over = samplers.is_over(self._up_to_date())
        return "every combination of values was tried" if over else ""

    def state_dict(self) -> dict[str, Any]:
        without = list(self._without)
        if self._epochs and self._number not in (self._proposed, *without):
            without.append(self._number)
        changed, pending = list(self._changed), self._pending[self.proposal[0] - 1 :]
        if pending and self._number == self._proposed:
            changed += [self._number] if values_of(self.configs) != dict(pending[0].values) else []
        return {
            "first": [dict(values) for values in self._first],
            "proposed": self._proposed,
            "without": without,
            "changed": changed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not state:
            self._without, self._changed = [], []
            return
        first = state.get("first", [])
        if [set(values) for values in first] != [set(config.spaces) for config in self.configs]:
            raise StateError(
                "the saved keys of the search are not the present ones",
                hint="resume with the code that the experiment was started with",
            )
        self._first = [dict(values) for values in first]
        self._proposed = int(state["proposed"])
        self._without, self._changed = list(state["without"]), list(state["changed"])

    # --- the study -----------------------------------------------------------------------------

    @property
    def _number(self) -> int:
        """The number of the epoch in progress."""
        return self._epochs[-1].number + 1

    @property
    def _sampler_name(self) -> str:
        return self.sampler if isinstance(self.sampler, str) else type(self.sampler).__name__

    def _up_to_date(self) -> Study:
        """The study, which knows all epochs that were told."""
        if not self._epochs:
            raise UsageError(
                "a SearchOptimizer was not told the baseline's value",
                hint="let a Trainer run it; in a loop of your own: optimizer.tell(record)",
            )
        study = self._study or self._derived()
        if study is None:
            run = current_run()
            seed = getattr(run, "seed", 0) if self.seed is None else self.seed
            sampler = samplers.make_sampler(self.sampler, seed, self._spaces)
            study = self._study = samplers.new_study(sampler, self._mode)
        while self._in_study < len(self._epochs):
            number = self._epochs[self._in_study].number
            several = [e for e in self._epochs[self._in_study :] if e.number == number]
            if several[0].candidate and not self._differs:
                self._ask_for(study, sum(not each.is_merge for each in several))
            for epoch in several:
                self._settle(study, epoch)
                self._in_study += 1
        return study

    def _ask_for(self, study: Study, count: int) -> bool:
        """Asks for the first so many trials of the epoch; returns whether there are so many."""
        known = len(self._pending)
        while len(self._pending) < count and not samplers.is_over(study):
            self._pending.append(self._ask(study))
        if len(self._pending) > known:
            self._keep_derived()
        return len(self._pending) >= count

    def _settle(self, study: Study, epoch: _Told) -> None:
        """Takes an epoch into the study: as its pending trial, or as one that is asked again."""
        asked = self._pending.pop(0) if self._pending and not epoch.is_merge else None
        if epoch.number in self._without and not epoch.is_merge:
            return
        if epoch.number == 0:
            study.enqueue_trial(dict(epoch.values))
        if asked is None and not self._differs and not epoch.candidate:
            asked = self._ask(study)
        if asked is not None:
            alike = asked.values.keys() == epoch.values.keys()
            if epoch.undone or (
                alike and all(same(asked.values[name], v) for name, v in epoch.values.items())
            ):
                samplers.tell_trial(study, asked.trial, epoch.value, is_stopped=epoch.is_stopped)
                return
            samplers.tell_trial(study, asked.trial, None)
            if epoch.number not in self._changed:
                self._differs = True
                say(
                    f"the sampler asks otherwise than it did in epoch {epoch.number}: what is "
                    "recorded counts, and the search goes on from it by another way"
                )
        known = all(self._spaces[name].contains(value) for name, value in epoch.values.items())
        if epoch.value is not None and epoch.values and known:
            samplers.add_trial(study, epoch.values, self._spaces, epoch.value)

    def _ask(self, study: Study) -> _Asked:
        trial, values = study.ask(), dict[str, Value]()
        for config in self.configs:
            found: dict[str, Value] = {}
            for key, space in config.spaces.items():
                if holds(space, found):
                    name = self._names[config, key]
                    values[name] = found[key] = samplers.suggested(trial, name, space)
        return _Asked(trial, values)

    # Where the edited files are Python's, each state has a process of its own: the study would be
    # made anew for every epoch. So it goes on from process to process in a file.

    def _keep_derived(self) -> None:
        """Hands the study to the process that goes on, if processes follow one another."""
        if (experiment := _replaced()) is None:
            return
        told = self._epochs[: self._in_study]
        with contextlib.suppress(pickle.PicklingError, TypeError, AttributeError):
            content = pickle.dumps((self._fingerprint(), told, self._differs))
            state = pickle.dumps((self._study, self._pending))
            experiment.store.keep_derived(content + state)

    def _derived(self) -> Study | None:
        """The study as the process before left it; None if it is not that of these records."""
        if (experiment := _replaced()) is None:
            return None
        stream = io.BytesIO(experiment.store.derived())
        # A file that a kill cut short, or of another version, may raise anything.
        with contextlib.suppress(Exception):
            fingerprint, told, differs = pickle.load(stream)
            if fingerprint == self._fingerprint() and told == self._epochs[: len(told)]:
                self._study, self._pending = pickle.load(stream)
                self._in_study, self._differs = len(told), differs
        return self._study

    def _fingerprint(self) -> tuple[str, ...]:
        import optuna

        return optuna.__version__, repr(self.configs), self._sampler_name, repr(self.seed)


def _replaced() -> Experiment | None:
    """The experiment in progress, if this process goes on where another one of its run ended."""
    run = current_run()
    return run.experiment if run is not None and run.experiment.is_replacement else None


def _change(before: Value, after: Value) -> str:
    """The way from one value to another, in words."""
    if isinstance(before, float) and isinstance(after, float):
        return " -> ".join(figures(before, after))
    return f"{before} -> {after}"
