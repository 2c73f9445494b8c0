"""`--log-to`: the epochs of a run in the real trackers, offline; each once, in one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autopilot.errors import UsageError
from autopilot.git.repository import Repository
from autopilot.tracking.loggers import check_installed
from autopilot.tracking.upkeep import plan_removal
from tests.cli.conftest import Place, levels, levels_template, place  # noqa: F401  # fixtures

# Every address beyond this machine that a process looks up or connects to is written down.
LISTENER = """\
import pathlib, sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        place = arguments[1] if event == "socket.connect" else arguments[0]
        if not isinstance(place, str | bytes) and place[0] in ("127.0.0.1", "::1"):
            return
        if event == "socket.connect" and isinstance(place, str | bytes):
            return
        with pathlib.Path(__file__).with_name("calls").open("a") as file:
            file.write(f"{event} {place}\\n")
sys.addaudithook(note)
"""
# In one process: the import takes long. The place that the user names comes after the default one.
MLFLOW = """\
import os, sys
from pathlib import Path
from autopilot.tracking.loggers import Follower

def send():
    print(Follower("mlflow", Path(sys.argv[1])).close("levels"))

send(), send()
from mlflow.tracking import MlflowClient
os.environ["MLFLOW_TRACKING_URI"] = sys.argv[2]
client = MlflowClient(sys.argv[2])
run = client.create_run(client.create_experiment("mine"), run_name="by hand").info.run_id
os.environ["MLFLOW_RUN_ID"] = run
print(run)
send()
"""


@pytest.fixture
def listened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process in the body looks for the network."""
    folder = tmp_path / "listener"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(LISTENER)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}")
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(name)
    yield
    assert not (folder / "calls").exists(), (folder / "calls").read_text()


def send(kind: str, place: Place) -> str:  # noqa: F811
    """Sends what the tracker lacks of the experiment `levels`; returns what is said of it."""
    command = [sys.executable, "-P", "-m", "autopilot.tracking.loggers", kind, str(place.top)]
    done = subprocess.run(command, input="levels\n", capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def own_runs(place: Place) -> list[Path]:  # noqa: F811
    """What deleting the experiment `levels` would take from trackers."""
    found = plan_removal(Repository.discover(place.top), "levels").trackers
    return [folder for folder in found if folder.exists()]


def test_mlflow_has_each_epoch_once_in_a_run_that_it_finds_or_is_named(
    levels: Place,  # noqa: F811
    listened: None,
    tmp_path: Path,
) -> None:
    before, own = levels.checkout(), tmp_path / "own"
    command = [sys.executable, "-P", "-W", "ignore", "-c", MLFLOW, str(levels.top), own.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second, named, third = done.stdout.splitlines()

    store = levels.top / ".git/autopilot/trackers/mlruns"
    (folder,) = store.glob("*/*/params")
    run = folder.parent
    assert first == second and run.name in first and store.as_uri() in first
    assert own_runs(levels) == [run]
    rows = [line.split()[1:] for line in (run / "metrics/val/accuracy").read_text().splitlines()]
    recorded = {r["epoch"]: r["metrics"] for r in levels.judged("levels")}
    assert rows == [[str(recorded[n]["accuracy"]), str(n)] for n in range(5)]
    kept = [line.split()[1:] for line in (run / "metrics/kept").read_text().splitlines()]
    assert kept == [[value, str(n)] for n, value in enumerate(["0.0", "1.0", "0.0", "1.0", "1.0"])]
    assert (run / "metrics/test/accuracy").exists() and (run / "metrics/train/accuracy").exists()
    assert (run / "params/target").read_text() == "levels.py"
    assert (run / "params/option.max_epochs").read_text() == "4"
    assert (run / "tags/autopilot.branch").read_text() == "autopilot/levels"
    assert (run / "tags/mlflow.runName").read_text() == "levels"
    assert "status: 3" in (run / "meta.yaml").read_text()  # finished
    # What the user's own variables name comes first: the place, and a run that is there.
    (folder,) = own.glob("*/*/params")
    assert folder.parent.name == named and named in third
    assert (folder.parent / "tags/mlflow.runName").read_text() == "by hand"
    assert len((folder.parent / "metrics/best").read_text().splitlines()) == 5
    assert levels.checkout() == before


def test_wandb_stays_offline_and_keeps_its_run(levels: Place, listened: None) -> None:  # noqa: F811
    levels = Place(levels.top.rename(levels.top.with_name("my repo")), levels.cache)
    said = send("wandb", levels)

    (file,) = (levels.top / ".git/autopilot/trackers/wandb").glob("offline-run-*/run-*.wandb")
    start = levels.git("log", "--format=%H", "--grep=start", "autopilot/levels")
    assert file.stem == f"run-{start[:16]}" and f"wandb sync '{file.parent}'" in said
    assert own_runs(levels) == [file.parent]
    content = file.read_bytes()
    for word in ("val/accuracy", "autopilot/levels", "levels.py", "test/accuracy"):
        assert word.encode() in content


def test_a_run_and_its_resume_are_one_run_of_tensorboard(
    place: Place,  # noqa: F811
    listened: None,
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    before, options = place.checkout(), ("--log-to", "tensorboard", "--max-epochs")
    done = place.run("run", "counter.py", "-e", "c", *options, "1")
    (folder,) = (place.top / ".git/autopilot/trackers/tensorboard").glob("c-*")
    assert f"tensorboard: {folder}: tensorboard --logdir {folder.parent}" in done.out
    place.run("resume", "c", "--max-epochs", "3")

    found = EventAccumulator(str(folder)).Reload()
    steps = [each.step for each in found.Scalars("val/accuracy")]
    assert steps == [0, 1, 2, 3]
    # The best epoch of each session, and the baseline once.
    assert [each.step for each in found.Scalars("test/accuracy")] == [0, 1, 3]
    assert {"kept", "best", "cost/evaluations"} <= set(found.Tags()["scalars"])
    (about,) = found.Tensors("about")
    assert b"autopilot.branch: autopilot/c" in about.tensor_proto.string_val[0]
    # The tracker's package and variables are no part of what the results depend on.
    assert "tensorboard" not in json.dumps(place.notes("c", "experiment")[1:])
    assert place.checkout() == before
    # With the experiment it goes; a later one of that name is another run in any case.
    assert str(folder) in place.call("experiment", "delete", "c", "--yes").out
    assert not folder.exists()


def test_what_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError) as caught:
        check_installed("wandb")
    assert caught.value.hint.startswith("pip install wandb")
