"""A recorded epoch, judged again by the policy of the checkout."""

from __future__ import annotations

import sys

import pytest

from autopilot.errors import ExperimentError
from autopilot.proof.verification import rule
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.notebook import Notebook


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


def test_without_a_target_the_policy_is_not_known(repository) -> None:
    from autopilot.core.records.record import Manifest

    store = GitStore("own", repository.workdir)
    store.begin(Manifest(slug="own"))
    store.close()
    with pytest.raises(ExperimentError, match="its policy is not known"):
        rule(Notebook(repository, "own"), 0)
