"""What every command shares: its folder, its project, its experiment, and what it is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autopilot.cli.context import Context
from autopilot.command.options import TaskOptions
from autopilot.engine.options import Options
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
    assert caught.value.hint.endswith("or run autopilot init")


def test_a_goal_is_read_from_a_file_and_is_for_an_agent(place: Place) -> None:
    place.write("goal.md", "Make it quick.\n")
    context, numbers = Context(place.top), TaskOptions(tune=["c.json:n=1..2"], eval="true")
    edited = replace(numbers, edit=["counter.py"], agent="cmd:true")
    asked = context.run_request(None, edited, Options(goal="@goal.md", background="a shop"))
    assert asked.options.given() == {"goal": "Make it quick.", "background": "a shop"}
    for task, options, problem in (
        (numbers, Options(goal="be quick"), "--goal is of no use without --agent"),
        (numbers, Options(boldness="bold"), "--boldness is of no use without --agent"),
        (edited, Options(goal="@no"), "--goal @no: "),
        (
            edited,
            Options(background="sk-ant-api03-abcdefghijklmnop"),
            "--background holds a secret",
        ),
    ):
        with pytest.raises(UsageError, match=problem):
            context.run_request(None, task, options)
