"""Runs in a tracker that the user has installed: MLflow, Weights & Biases or TensorBoard.

`python -m autopilot.tracking.loggers KIND FOLDER` is a process beside a run. It reads the records
and sends the epochs that the tracker lacks, so the loop never waits for it, none of the tracker's
imports are taken for inputs of the evaluation, and the next one catches up on what a kill left
out. A run of the tracker is found by the experiment's start commit: a resumed run goes on in it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import select
import shlex
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autopilot.errors import UsageError
from autopilot.git.repository import Repository
from autopilot.text import hide, redact, shorten
from autopilot.tracking.epochs import Epoch
from autopilot.tracking.notebook import Notebook

_PAUSE_S = 0.5
_LONGEST = 500
_TAG = "autopilot.start"


@dataclass(frozen=True, slots=True)
class Card:
    """The facts that a tracker shows of an experiment beside its metrics.

    Args:
        start: The start commit, which no other experiment has.
        group: The project, or the name of the repository's folder.
        place: The folder for trackers that are given none: in the git folder.
    """

    slug: str
    start: str
    group: str
    place: Path
    params: Mapping[str, str]
    tags: Mapping[str, str]

    @classmethod
    def of(cls, notebook: Notebook) -> Card:
        """The card of an experiment."""
        manifest, layout = notebook.manifest, notebook.layout
        params = {"target": manifest.title, "seed": manifest.seed, "base": manifest.base}
        params |= {f"argument.{name}": value for name, value in manifest.hparams.items()}
        params |= {f"option.{name}": value for name, value in manifest.options.items()}
        params |= {f"parameter.{name}": path for name, path in manifest.parameters.items()}
        texts = {name: str(value)[:_LONGEST] for name, value in hide(params).items()}
        project, _, _ = notebook.slug.rpartition("/")
        tags = {_TAG: notebook.start, "autopilot.branch": layout.branch_name}
        tags["autopilot.base_branch"] = manifest.base_branch
        group = project or notebook.repo.workdir.name
        place = _place(notebook.repo)
        return cls(notebook.slug, notebook.start, group, place, texts, tags)


def tracker_runs(repo: Repository, start: str) -> list[Path]:
    """The folders with what trackers have of an experiment in the git folder."""
    place = _place(repo)
    found = [*place.glob(f"tensorboard/**/*-{start[:7]}"), *place.glob(f"wandb/*-{start[:16]}")]
    tags = place.glob(f"mlruns/*/*/tags/{_TAG}")
    return [*found, *(tag.parents[1] for tag in tags if tag.read_text() == start)]


def _place(repo: Repository) -> Path:
    return repo.common_dir / "autopilot" / "trackers"


class Tracker(ABC):
    """A run of a tracker, new or attached to, for the experiment of a card."""

    @abstractmethod
    def __init__(self, card: Card) -> None: ...

    @abstractmethod
    def steps(self, metric: str) -> set[int]:
        """The steps at which it has a metric."""

    @abstractmethod
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes finite values for a step."""

    @abstractmethod
    def close(self, state: str) -> str:
        """Ends the session; returns where the run is, and how to look at it."""


class MLflow(Tracker):
    """Where MLFLOW_TRACKING_URI says, or in files. MLFLOW_RUN_ID names a run to go on with."""

    def __init__(self, card: Card) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        self._look = f"mlflow ui --backend-store-uri {self._uri}"
        if not self._uri:
            # Its own default is a database in the working folder: a new file in the repository.
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
            self._uri = (card.place / "mlruns").as_uri()
            self._look = f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {self._uri}"
        from mlflow.tracking import MlflowClient

        client = self._client = MlflowClient(self._uri)
        run_id = os.environ.get("MLFLOW_RUN_ID") or self._find(client, card)
        known = client.get_run(run_id).data.params
        for name, value in card.params.items():
            key = _key(name)
            if known.get(key, value) != value:
                client.set_tag(run_id, f"resumed.{key}", value)  # a param cannot be changed
            elif key not in known:
                client.log_param(run_id, key, value)
        for name, value in card.tags.items():
            client.set_tag(run_id, name, value)
        client.update_run(run_id, status="RUNNING")
        self._run, self._slug = run_id, card.slug

    def _find(self, client: Any, card: Card) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or card.group
        there = client.get_experiment_by_name(name)
        place = there.experiment_id if there else client.create_experiment(name)
        found = client.search_runs([place], f"tags.`{_TAG}` = '{card.start}'", max_results=1)
        run = found[0] if found else client.create_run(place, run_name=card.slug)
        return str(run.info.run_id)

    def steps(self, metric: str) -> set[int]:
        return {each.step for each in self._client.get_metric_history(self._run, _key(metric))}

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        values = [Metric(_key(name), value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._run, metrics=values)

    def close(self, state: str) -> str:
        ends = {"finished": "FINISHED", "stopped": "FINISHED", "crashed": "FAILED"}
        self._client.set_terminated(self._run, ends.get(state, "KILLED"))
        return f"run {self._slug} ({self._run}): {self._look}"


class WandB(Tracker):
    """Offline, unless WANDB_MODE says something else. WANDB_RUN_ID names a run to go on with."""

    def __init__(self, card: Card) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        card.place.mkdir(parents=True, exist_ok=True)
        import wandb

        # Neither files nor the machine's state: what is asked for is the records.
        own = wandb.Settings(
            console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", card.group),
            name=card.slug,
            id=os.environ.get("WANDB_RUN_ID", card.start[:16]),
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(card.place)),
            config={**card.params, **card.tags},
            settings=own,
        )

    def steps(self, metric: str) -> set[int]:
        # A session offline knows nothing of those before: it has all epochs, and the server leaves
        # out the steps that it has. A summary may be set again.
        return set(range(self._run.step)) if metric == "kept" else set()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if step < self._run.step:
            self._run.summary.update(metrics)  # steps only grow there
        else:
            self._run.log(metrics, step=step)

    def close(self, state: str) -> str:
        self._run.summary["state"] = state
        place, is_offline = Path(self._run.dir).parent, self._run.offline
        self._run.finish(exit_code=0 if state in ("finished", "stopped") else 1)
        sync = f"wandb sync {shlex.quote(str(place))}"
        return f"run {self._run.id}: {sync if is_offline else self._run.url}"


class TensorBoard(Tracker):
    """Event files in a folder of the git folder."""

    def __init__(self, card: Card) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
        from tensorboard.util.tensor_util import make_tensor_proto

        self._top = card.place / "tensorboard"
        self._folder = self._top / f"{card.slug}-{card.start[:7]}"
        is_new = not self._folder.exists()
        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(self._folder))
        if is_new:
            self._write(hparams_pb(dict(card.params), trial_id=card.slug), 0)
            text = "\n".join(f"{name}: {value}  " for name, value in card.tags.items())
            kind = create_summary_metadata(display_name="", description="")
            about = Summary.Value(tag="about", metadata=kind, tensor=make_tensor_proto([text]))
            self._write(Summary(value=[about]), 0)

    def _write(self, summary: Any, step: int) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def steps(self, metric: str) -> set[int]:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(self._folder), size_guidance={"scalars": 0}).Reload()
        is_there = metric in found.Tags()["scalars"]
        return {each.step for each in found.Scalars(metric)} if is_there else set()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        values = [self._summary.Value(tag=name, simple_value=v) for name, v in metrics.items()]
        self._write(self._summary(value=values), step)
        self._writer.flush()

    def close(self, state: str) -> str:
        self._writer.close()
        return f"{self._folder}: tensorboard --logdir {shlex.quote(str(self._top))}"


# By the names of their packages.
TrackerName = StrEnum("TrackerName", "mlflow wandb tensorboard")
TRACKERS: dict[str, Callable[[Card], Tracker]]
TRACKERS = {"mlflow": MLflow, "wandb": WandB, "tensorboard": TensorBoard}


def is_installed(kind: str) -> bool:
    """Whether a tracker's package is here."""
    return find_spec(kind) is not None


def check_installed(kind: str | None) -> None:
    """Raises a UsageError where a tracker's package is not installed."""
    if kind is not None and not is_installed(kind):
        hint = f"pip install {kind}, in the environment of autopilot; or leave it out"
        raise UsageError(f"--log-to {kind}: it is not installed", hint=hint)


def _key(name: str) -> str:
    return re.sub(r"[^\w\-. /]", "_", name)


def epoch_metrics(epoch: Epoch) -> dict[str, float]:
    """The values of an epoch, "split/name" and others to a finite value."""
    spent, values = epoch.record.spent, dict[str, Any]()
    for split, metrics in {**epoch.metrics, "values": epoch.record.values}.items():
        values |= {f"{split}/{name}": value for name, value in metrics.items()}
    values |= {"best": epoch.record.best, "cost/evaluations": spent.evaluations}
    values |= {"cost/tokens": spent.tokens, "cost/usd": spent.cost_usd}
    values |= {"cost/seconds": spent.seconds, "kept": epoch.verdict == "kept"}
    numbers = {n: float(v) for n, v in values.items() if isinstance(v, int | float)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


class Follower:
    """Sends the judged epochs of an experiment to a tracker, each once."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind, self._folder = kind, folder
        self._tracker: Tracker | None = None
        self._next = 0

    def send(self, slug: str) -> tuple[Tracker, Notebook]:
        """Sends the epochs that are new, with what is measured of them until now."""
        notebook = Notebook(Repository.discover(self._folder), slug)
        if self._tracker is None:
            self._tracker = TRACKERS[self._kind](Card.of(notebook))
            self._next = max(self._tracker.steps("kept"), default=-1) + 1
        new = notebook.last.epoch + 1 - self._next if notebook.last else 0
        for epoch in notebook.newest(new) if new > 0 else ():
            self._tracker.log(epoch_metrics(epoch), epoch.number)
            self._next = epoch.number + 1
        return self._tracker, notebook

    def close(self, slug: str) -> str:
        """Sends the rest and ends the session; returns where the run is."""
        tracker, notebook = self.send(slug)
        # The test split is scored at the end, on epochs that have been sent by then.
        scored = {0, notebook.last.best_epoch} if notebook.last else set()
        for number in sorted(scored - tracker.steps(f"test/{notebook.monitor[0]}")):
            found = notebook.test_metrics(number).items()
            if values := {f"test/{name}": v for name, v in found if math.isfinite(v)}:
                tracker.log(values, number)
        return tracker.close(notebook.status.state)


def main(kind: str, folder: str) -> None:
    """Follows the experiment that stdin names, a line whenever there is news, to its end."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    follower, slug = Follower(kind, Path(folder)), ""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a tracker prints is not an answer
    os.dup2(1, 2)
    with contextlib.suppress(OSError):
        os.nice(5)
    while news := os.read(0, 1 << 16):
        slug = news.decode().split("\n")[-2]
        # It is tried again, and the last try's error is told.
        with contextlib.suppress(Exception):
            follower.send(slug)
        # Many epochs a second are sent together.
        select.select([], [], [], _PAUSE_S)
    if slug:
        try:
            answers.write(follower.close(slug) + "\n")
        except Exception as error:  # noqa: BLE001  # the run stands without it
            why = shorten(f"{type(error).__name__}: {error}", _LONGEST)
            again = f"autopilot resume {slug} --log-to {kind} sends them"
            answers.write(f"epochs are missing there ({redact(why)}); {again}\n")
    answers.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
