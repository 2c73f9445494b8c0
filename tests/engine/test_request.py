"""Options, and the name that a run gets."""

from __future__ import annotations

import pytest
from checkouts import begin_experiments

from autopilot.core.stopping import Budget, EarlyStopping, Plateau
from autopilot.engine.options import Options
from autopilot.engine.request import Request, claim, name_of
from autopilot.engine.target import committed_target
from autopilot.errors import ExperimentError, LockHeldError, TargetError
from autopilot.git import refs


def test_stop_conditions_follow_from_the_options() -> None:
    def kinds(options: Options, *, alone: bool = True) -> list[str]:
        return [type(each).__name__ for each in options.conditions(alone=alone)]

    assert kinds(Options()) == ["EarlyStopping"]  # the default patience
    assert kinds(Options(), alone=False) == []
    assert kinds(Options(max_epochs=3)) == []
    assert kinds(Options(max_epochs=3, target=0.9)) == ["EarlyStopping"]
    several = Options(patience=2, plateau=4, budget_usd=1.0).conditions(alone=True)
    assert [type(each) for each in several] == [EarlyStopping, Plateau, Budget]


def test_only_what_was_asked_for_is_recorded() -> None:
    assert Options(max_epochs=3, mode="min").given() == {"max_epochs": 3, "mode": "min"}
    assert Options().given() == {}


def test_a_name_is_claimed_once(target) -> None:
    request = Request(target.workdir, "levels.py", slug="own")
    parsed = committed_target(target, target.head_commit(), request.folder, request.target)
    assert name_of(target, parsed, request) == "own"
    slug, lock = claim(target, parsed, request)
    assert slug == "own"
    with pytest.raises(LockHeldError):
        claim(target, parsed, request)
    lock.release()
    begin_experiments(target.workdir, "own")
    refs.create_ref(target, "refs/heads/autopilot/other", target.head_commit(), "test")
    others = Request(target.workdir, "levels.py", slug="other")
    for taking in (claim, name_of):
        with pytest.raises(ExperimentError, match="the experiment own exists already"):
            taking(target, parsed, request)
        with pytest.raises(ExperimentError, match="autopilot/other is no experiment: no run made"):
            taking(target, parsed, others)


def test_without_a_name_it_is_the_targets_with_a_number(target) -> None:
    request = Request(target.workdir, "levels.py", project="spam")
    parsed = committed_target(target, target.head_commit(), request.folder, request.target)
    slug, lock = claim(target, parsed, request)
    assert slug == "spam/levels-1"
    lock.release()


def test_the_target_must_be_in_the_commit(target, tmp_path) -> None:
    base = target.head_commit()
    (target.workdir / "other.py").write_text("")
    outside = tmp_path / "outside.py"
    outside.write_text("")
    for text, said in (
        ("missing.py", "no such file"),
        ("other.py", "is not committed"),
        (str(outside), "is outside the repository"),
    ):
        with pytest.raises(TargetError, match=said):
            committed_target(target, base, target.workdir, text)
