"""CommandModule: a system that is measured by a command of the shell."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autopilot.command.reading import Printed, check_regex, cut, last_lines, read_junit, read_output
from autopilot.command.shell import Ran, TrackedFiles, repository_here, run_shell
from autopilot.core.module import AutoPilotModule
from autopilot.core.parameter import PathParameter
from autopilot.core.run import current_run, say
from autopilot.core.types import Datum
from autopilot.errors import EvaluationError, MetricError, ModuleError, UsageError
from autopilot.git.workfiles import Stamp, stamp_of
from autopilot.git.worktrees import note_set_up
from autopilot.sandbox.environment import depends_on
from autopilot.sandbox.processes import mark
from autopilot.text import some

_BY_HAND = "try it by hand in the same folder; what it prints is a metric as METRIC {}=1.5"
_PASSING = "leave out --metric, and the share that passes decides; or give the items their {}"
_ELSEWHERE = "let it write to untracked files outside of --edit, or leave a file out by --protect"
_UNDO = "undo that, or stash it, and resume the run; what the command writes, git should not track"


class Whole:
    """A split as one batch without items: a command prints how many there are."""

    dataset = None  # there is nothing that could be looked through

    def __init__(self, split: str) -> None:
        self._split = split

    def __iter__(self) -> Iterator[Datum]:
        yield Datum(id=self._split, metadata={"split": self._split})

    def __len__(self) -> int:
        return 1


class CommandModule(AutoPilotModule):
    """Measures by a command: its output has the metrics, and the items if there are some.

    Subclasses declare parameters and define `configure_optimizers`. A command is run by the shell
    in the working directory, with the variables AUTOPILOT_SPLIT (train, val or test) and
    AUTOPILOT_SEED. It measures what the files hold now, and changes no tracked file.

    A metric counts only if the command ends with exit code 0. Items, printed or in a JUnit file,
    count whatever it is: test programs end with 1 where one of them failed.

    Args:
        eval: Measures the val split. Without `train_eval` its results are the feedback.
        train_eval: Measures the train split, before each step.
        val_eval: The same as `eval`, beside the other two.
        test_eval: Measures the test split, once, at the end.
        metric: The val metric that decides. Without it the items' success does, or the exit code.
        mode: Its direction, "max" or "min"; None: the class's.
        guard: Must end with 0, or the state is rejected before it is measured.
        setup: Run once in each worktree before anything is measured.
        env: NAME of a variable that must be set, or NAME=VALUE.
        junit: A JUnit file that the command writes: each test is an item.
        metric_regex: The metric's value is its first group.

    >>> class Bench(CommandModule):
    ...     pass
    >>> bench = Bench(eval="echo 'METRIC seconds=1.5'", metric="seconds")
    >>> bench(Datum(metadata={"split": "val"})).metrics
    {'seconds': 1.5}
    """

    fresh = "never"
    ends_items = True

    def __init__(
        self,
        *,
        eval: str = "",
        train_eval: str = "",
        val_eval: str = "",
        test_eval: str = "",
        metric: str | None = None,
        mode: str | None = None,
        guard: str = "",
        setup: str = "",
        env: Sequence[str] = (),
        junit: str = "",
        metric_regex: str = "",
    ) -> None:
        super().__init__()
        if bool(eval) == bool(val_eval):
            what = "eval and val_eval are given" if eval else "no eval is given"
            raise ModuleError(
                f"{what}: the val split is measured by one command",
                hint="CommandModule(eval='python bench.py')",
            )
        self.commands = {"train": train_eval, "val": eval or val_eval, "test": test_eval}
        self.metric, self.metric_regex, self.junit = metric, metric_regex, junit
        self.guard, self._setup = guard, setup
        self.variables = dict(each.split("=", 1) for each in env if "=" in each)
        if metric_regex:
            check_regex(metric_regex)
        for name in (each for each in env if "=" not in each):
            if name not in os.environ:
                raise UsageError(f"the variable {name} is not set", hint=f"export {name}=...")
            depends_on(name)
        self.monitor, self.mode = metric or self.monitor, mode or self.mode
        self._repo = repository_here()
        self._files: TrackedFiles | None = None
        self._is_set_up, self._seed = False, ""
        self._guarded: tuple[Mapping[str, Stamp] | None, Ran, str] | None = None

    def details(self) -> list[str]:
        named = {
            **{f"measure {split} by": command for split, command in self.commands.items()},
            "before val is measured": self.guard,
            "prepare a worktree by": self._setup,
        }
        return [f"{what}: {command}" for what, command in named.items() if command]

    def train_dataloader(self) -> Iterable[Any] | None:
        return self._batches("train")

    def val_dataloader(self) -> Iterable[Any] | None:
        return self._batches("val")

    def test_dataloader(self) -> Iterable[Any] | None:
        return self._batches("test")

    def _batches(self, split: str) -> Iterable[Any] | None:
        return Whole(split) if self.commands[split] else None

    def forward(self, batch: Datum) -> Datum:
        split = str(batch.metadata["split"])
        # Seeded for each batch, so that a measurement that is repeated repeats its chance.
        self._seed = str(random.getrandbits(31))
        self._set_up(split)
        state = self._files.look() if self._files is not None else None
        if split == "val" and self.guard and (refused := self._refused(state)) is not None:
            return refused
        junit = Path(self.junit) if self.junit else None
        before = _written(junit)
        ran = self._run(self.commands[split], split, self.item_timeout_s)
        problem, hint = self._changed(ran), _ELSEWHERE
        if not problem and ran.is_cut_short:
            problem = ran.explained()
            hint = ran.remedy or _BY_HAND
        if problem:
            return self._failed(split, f"{ran.name} {problem}", ran, hint)
        try:
            printed = read_output(ran.finished.stdout, self.metric, self.metric_regex)
            if junit is not None:
                if _written(junit) == before:
                    raise MetricError(f"it did not write {self.junit}")
                printed = Printed(printed.metrics, read_junit(junit))
            # Items say how they went; else the exit code counts, with a metric or without.
            if not printed.items and self.metric and (problem := ran.explained()):
                return self._failed(split, f"{ran.name} {problem}", ran)
            return self._result(printed, ran)
        except MetricError as error:
            problem = ran.explained() if junit is None else ""
            message = f"{ran.name} {problem}" if problem else f"{ran.name}: {error.message}"
            return self._failed(split, message, ran, error.hint or _BY_HAND)

    def _refused(self, state: Mapping[str, Stamp] | None) -> Datum | None:
        """The result of a state that the guard refuses; None if it passes.

        A state is guarded once, however often it is measured.
        """
        if self._guarded is None or state is None or state != self._guarded[0]:
            ran = self._run(self.guard, "val", self.item_timeout_s)
            if ran.left:
                # Its exit code is the answer, whatever a test forgot to end.
                say(f"guard {ran.name} {ran.problem()}")
                ran = replace(ran, left=())
            self._guarded = state, ran, self._changed(ran) or ran.explained()
        _, ran, problem = self._guarded
        if not problem:
            return None
        hint = "the guard must pass on the files as they are"
        return self._failed("val", f"guard {ran.name} failed: {problem}", ran, hint)

    def _result(self, printed: Printed, ran: Ran) -> Datum:
        metrics, metric = dict(printed.metrics), self.metric
        known = [metrics, *(item.metrics for item in printed.items)]
        if metric and not any(metric in each for each in known):
            if printed.items:
                raise MetricError(f"it printed items, but no metric {metric!r}", hint=_PASSING)
            where = "" if ran.finished.stdout.strip() or not ran.said else " on stderr"
            raise MetricError(
                f"it printed no metric {metric!r}, but{where}: {last_lines(ran.said)}"
            )
        if printed.items:
            if metric is None and all(item.outcome == "unscored" for item in printed.items):
                raise MetricError("its items have no success, and no metric is named")
            return Datum(items=printed.items, metrics=metrics)
        success = printed.verdict
        if success is None and metric is None:
            success = ran.finished.code == 0
        feedback = "\n".join(filter(None, (printed.feedback, cut(ran.said))))
        return Datum(metrics=metrics, success=success, feedback=feedback or None)

    def _run(self, command: str, split: str, limit: float | None) -> Ran:
        variables = {
            "AUTOPILOT_SPLIT": split,
            "AUTOPILOT_SEED": self._seed,
            **self.variables,
            # A resumed run ends what a killed one was measuring by.
            **(mark(self._repo.workdir) if self._repo is not None else {}),
        }
        return run_shell(command, variables, limit)

    def _changed(self, ran: Ran) -> str:
        """The sentence on tracked files that a command changed, and that are put back.

        Raises:
            EvaluationError: it is a file that may be the user's: it stays as it is, and what would
                be measured with it is no state of the experiment.
        """
        own, others = self._files.changed() if self._files is not None else ([], [])
        if not (own or others):
            return ""
        what = "the tracked file" if others else "a file that is edited,"
        sentence = f"changed {what} {some([*others, *own], 1)}"
        if others and self._files is not None and not self._files.puts_back:
            raise EvaluationError(f"{ran.name} {sentence}, or you did", hint=_UNDO)
        return f"{sentence}: put back"

    def _set_up(self, split: str) -> None:
        """Runs the set-up where that was not done, and looks at the files.

        Raises:
            EvaluationError: it failed, or changed a tracked file.
        """
        if self._is_set_up:
            return
        run = current_run()
        if self._setup and run is not None:
            run.experiment.guard.use("outside")  # what it makes is no content of the commit
        if self._repo is not None:
            files = [each for each in self.parameters() if isinstance(each, PathParameter)]
            self._files = TrackedFiles(self._repo, files)
        marker = self._files.marker if self._files is not None else None
        is_replacement = run is not None and run.experiment.is_replacement
        done = is_replacement if marker is None else marker.exists()
        if self._setup and not done:
            if self._files is not None:
                self._files.look()
            ran = self._run(self._setup, split, limit=None)
            if problem := self._changed(ran) or ran.explained():
                raise EvaluationError(
                    f"setup {ran.name} failed: {problem}",
                    hint="try it by hand in a new clone of the repository",
                )
            if marker is not None and self._repo is not None:
                note_set_up(self._repo)
        self._is_set_up = True

    def _failed(self, split: str, problem: str, ran: Ran, hint: str = _BY_HAND) -> Datum:
        """The result of a command that gave none.

        Raises:
            EvaluationError: it was the baseline's: nothing could be compared with it.
        """
        run = current_run()
        is_first = run is not None and run.epoch == {"val": 0, "train": 1}.get(split)
        if is_first:
            raise EvaluationError(problem, hint=hint.format(self.metric or "score"))
        return Datum(success=False, error_message=problem, feedback=f"{problem}\n{cut(ran.said)}")


def _written(path: Path | None) -> Stamp | None:
    """Differs once a file is written anew; None where there is none."""
    try:
        return stamp_of(path.stat()) if path is not None else None
    except OSError:
        return None
