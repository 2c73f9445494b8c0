"""A run in this process: bench, session, dry run and preflight."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autopilot.core.experiment import Experiment
from autopilot.core.records.record import Manifest
from autopilot.core.stopping import EarlyStopping
from autopilot.engine.bench import Bench, check_parameters
from autopilot.engine.options import Options, options_of
from autopilot.engine.preflight import forecast, preflight
from autopilot.engine.request import Request
from autopilot.engine.session import Session, create
from autopilot.errors import ExperimentError, LockHeldError, ParameterError
from autopilot.git import refs
from autopilot.git.commands import run_git
from autopilot.sandbox.workspace import Workspace
from autopilot.tracking.notebook import Notebook

SEARCH = "class Raise(Optimizer):\n    needs_gradient = False\n"


def request_of(target, **changes) -> Request:
    given = {"slug": "levels", "options": Options(max_epochs=1), "in_place": True}
    return Request(target.workdir, "levels.py", **(given | changes))


def test_a_bench_loads_a_target_and_gives_its_trainer(target) -> None:
    manifest = Manifest(slug="s", target="levels.py", hparams={"size": "2"}, seed=7)
    bench = Bench(Workspace(target, target, ""), manifest, target.head_commit())
    bench.inputs.close()
    assert bench.module.size == 2
    assert [scope.path for scope in bench.scopes] == ["level.txt"]
    trainer = bench.trainer(Experiment(), Options(accumulate=2, repeat=3), max_wait_s=0)
    assert (trainer.seed, trainer.accumulate_grad_batches, trainer.repeat) == (7, 2, 3)
    assert trainer.max_wait_s == 0
    assert bench.trainer(Experiment(), Options(max_wait=5), seed=9).seed == 9


def test_parameters_with_uncommitted_changes_need_a_word(target) -> None:
    manifest = Manifest(slug="s", target="levels.py", base=target.head_commit())
    bench = Bench(Workspace(target, target, ""), manifest, manifest.base)
    bench.inputs.close()
    assert check_parameters(bench, include_dirty=False) == []
    (target.workdir / "level.txt").write_text("3\n")
    with pytest.raises(ParameterError):
        check_parameters(bench, include_dirty=False)
    assert check_parameters(bench, include_dirty=True) == []


def test_a_session_runs_to_its_end_and_is_resumed(target, monkeypatch) -> None:
    session = Session.start(request_of(target))
    assert session.split_sizes == ("4", "4")
    with pytest.raises(LockHeldError):
        Session.start(request_of(target, slug="other"))
    result = session.run()
    assert not result.interrupted
    notebook = Notebook(target, "levels")
    assert [epoch.verdict for epoch in notebook.epochs] == ["baseline", "kept"]
    assert options_of(notebook, Options(max_epochs=2)).max_epochs == 2
    again = Session.resume(target.workdir, "levels", Options(max_epochs=2))
    assert again.run().metrics["val"]["accuracy"] == 1.0
    read = Notebook(target, "levels")
    assert options_of(read).max_epochs == 2
    assert "epochs" not in vars(read)  # it costs the same however many there are
    baseline = read.baseline
    assert baseline is not None
    monkeypatch.setattr(Notebook, "baseline", replace(baseline, repeat=5))
    assert options_of(read).repeat == 5
    assert (target.workdir / "level.txt").read_text() == "4\n"


def test_a_session_that_is_not_run_leaves_nothing(target) -> None:
    before = refs.list_refs(target, "refs/")
    Session.start(request_of(target)).discard()
    assert refs.list_refs(target, "refs/") == before
    Session.start(request_of(target)).discard()  # the name and the place are free again


def test_an_experiment_may_be_begun_and_not_run(target) -> None:
    create(request_of(target, idea="higher"))
    notebook = Notebook(target, "levels")
    assert (notebook.manifest.idea, notebook.status.state) == ("higher", "created")
    assert notebook.epochs == []
    with pytest.raises(ExperimentError, match="exists already"):
        create(request_of(target))


def test_a_dry_run_says_what_a_run_would_do(target) -> None:
    found = forecast(request_of(target))
    assert (found.experiment, found.train_items, found.val_items) == ("levels", "4", "4")
    assert found.parameters == {"level.txt": 1}
    assert (found.monitor, found.mode, found.max_epochs) == ("accuracy", "max", 1)
    assert "val item i1 passed" in found.first_item
    assert any("dry run: nothing was changed" in line for line in found.lines())
    assert refs.read_ref(target, "refs/heads/autopilot/levels") is None


def test_preflight_ends_at_what_stops_the_run(target) -> None:
    names = [check.name for check in preflight(request_of(target))]
    assert names[:4] == ["repository", "target", "experiment", "module"]
    assert names[-3:] == ["evaluation", "monitor", "cost"]
    last = preflight(request_of(target, options=Options(monitor="f1")))[-1]
    assert (last.name, last.state) == ("monitor", "failed")
    last = preflight(Request(target.workdir, "missing.py"))[-1]
    assert (last.name, last.state) == ("target", "failed")


@pytest.mark.parametrize("searches", [False, True])
def test_a_search_has_no_default_patience(target, searches) -> None:
    source = target.workdir / "levels.py"
    if searches:
        text = source.read_text().replace("class Raise(Optimizer):", SEARCH)
        source.write_text(text)
        run_git(["commit", "--all", "--quiet", "--message=search"], cwd=target.workdir)
    session = Session.start(request_of(target, options=Options()))
    waits = [c for c in session.trainer.callbacks if isinstance(c, EarlyStopping)]
    assert [each.patience for each in waits] == ([] if searches else [10])
    session.discard()
    given = Session.start(request_of(target, options=Options(patience=3)))
    assert [c.patience for c in given.trainer.callbacks if isinstance(c, EarlyStopping)] == [3]
    given.discard()
