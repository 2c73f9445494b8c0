"""What every command shares: its folder, its project, its experiment, and what it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopilot.cli.context import Context
from autopilot.errors import ExperimentError, UsageError
from tests.cli.conftest import Place


def test_a_project_stands_in_front_of_its_experiments() -> None:
    assert Context().full_slug("autopilot/demo") == "demo"
    assert Context(project="shop").full_slug("demo") == "shop/demo"
    assert Context(project="shop").full_slug("other/demo") == "other/demo"


def test_a_folder_that_does_not_exist_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        Context(tmp_path / "nowhere").working_folder()


def test_without_a_name_it_is_the_newest_experiment(levels: Place) -> None:
    assert Context(levels.top).notebook(None).slug == "levels"
    with pytest.raises(ExperimentError, match="no experiment of the project shop"):
        Context(levels.top, project="shop").notebook(None)
    with pytest.raises(ExperimentError, match="no experiment level") as caught:
        Context(levels.top).notebook("level")
    assert "did you mean levels" in caught.value.hint


def test_a_request_has_what_was_asked_for(place: Place) -> None:
    context = Context(place.top, project="shop")
    request = context.request("counter.py", ["size=3"], ["data"], slug="demo", seed=7)
    assert (request.folder, request.target, request.hparams) == (
        *(place.top, "counter.py"),
        {"size": "3"},
    )
    assert (request.slug, request.project, request.seed) == ("demo", "shop", 7)
    assert request.links == ("data",)


def test_without_target_and_project_there_is_nothing_to_work_on(place: Place) -> None:
    with pytest.raises(UsageError, match="neither a TARGET nor a project") as caught:
        Context(place.top).request(None)
    assert "-p NAME" in caught.value.hint
