"""A recorded epoch, judged again by the policy of the checkout."""

from __future__ import annotations

import sys
from contextlib import closing

import pytest

from autopilot.core.experiment import Experiment
from autopilot.core.records.record import Manifest
from autopilot.core.search import SearchLoop
from autopilot.core.trainer import Trainer
from autopilot.errors import ExperimentError
from autopilot.proof.verification import rule
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.notebook import Notebook
from tests.checkouts import commit_all

SHARED = """
from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Policy, Step
from autopilot.core.policy import Decision


class Shared(Policy):
    def judge(self, view):
        return Decision("rejected", (f"{view.candidates} share it",))


class Take(Optimizer):
    def step(self):
        self.parameters[0].write_text("bbca"[self.proposal[0] - 1])
        return Step("take a letter", "letter")


class Word(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.word = PathParameter("word.txt")

    def forward(self, batch):
        return Datum(items=[Datum(success=False, feedback="no") for _ in batch.items])

    def configure_optimizers(self):
        return Take(self.parameters())

    def configure_policy(self):
        return Shared()

    def val_dataloader(self):
        return DataLoader([{"id": "a"}, {"id": "b"}], 2)
"""


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target is loaded in this process, which is put back afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setitem(sys.modules, "levels", sys)
    monkeypatch.delitem(sys.modules, "levels")


def test_an_unchanged_policy_rules_as_the_run_did(finished: Notebook, monkeypatch) -> None:
    monkeypatch.chdir(finished.repo.workdir)
    ruling = rule(finished, 2)
    assert (ruling.against, ruling.policy, ruling.decision.kept) == (1, "DefaultPolicy", True)
    assert not ruling.differs
    assert (rule(finished, 0).against, rule(finished, 0).differs) == (None, False)


def test_a_changed_policy_rules_otherwise(finished: Notebook, monkeypatch) -> None:
    monkeypatch.chdir(finished.repo.workdir)
    target = finished.repo.workdir / "levels.py"
    gate = "    def configure_policy(self):\n        return MinGate('accuracy', 0.9)\n\n"
    text = target.read_text().replace("import AutoPilotModule,", "import MinGate, AutoPilotModule,")
    target.write_text(text.replace("    def configure_opt", f"{gate}    def configure_opt"))
    ruling = rule(finished, 2)
    assert (ruling.decision.kept, ruling.differs) == (False, True)


def test_the_policy_is_told_how_many_candidates_share_what_chance_may_pass(
    repository, monkeypatch
) -> None:
    top = repository.workdir
    (top / "word.txt").write_text("a")
    (top / "shared.py").write_text(SHARED)
    commit_all(top)
    monkeypatch.chdir(top)
    monkeypatch.syspath_prepend(top)
    import shared

    manifest = Manifest(slug="shared", target="shared.py")
    with closing(Experiment(GitStore("shared", top), manifest=manifest)) as experiment:
        trainer = Trainer(experiment=experiment, loop=SearchLoop(4), measure_noise=False)
        trainer.fit(shared.Word(), max_epochs=1)
    monkeypatch.delitem(sys.modules, "shared")
    notebook = Notebook(repository, "shared")
    # The second is equal to the first, the fourth changes nothing.
    assert notebook.epoch(1).record.reasons == ("2 share it",)
    assert rule(notebook, 1).decision.reasons == ("2 share it",)


def test_without_a_target_the_policy_is_not_known(repository) -> None:
    store = GitStore("own", repository.workdir)
    store.begin(Manifest(slug="own"))
    store.close()
    with pytest.raises(ExperimentError, match="its policy is not known"):
        rule(Notebook(repository, "own"), 0)
