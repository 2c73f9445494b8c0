"""How commands name an experiment and an epoch: in one way, for all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from checkouts import begin_experiments

from autopilot.cli.app import SECTIONS
from autopilot.cli.arguments import (
    Arguments,
    Epoch,
    MaybeEpoch,
    Name,
    NameOrTarget,
    name_before_epoch,
)
from autopilot.cli.context import CommandGroup, Commands, Context
from autopilot.command.options import TaskOptions
from autopilot.engine.options import CHANGEABLE, Options
from autopilot.errors import ExperimentError, UsageError
from tests.cli.conftest import Place


def functions(path: str, command: Any) -> Iterator[tuple[str, Callable[..., int | None]]]:
    inner: Commands | None = command.commands if isinstance(command, CommandGroup) else None
    inner = command if isinstance(command, dict) else inner
    if inner is None:
        yield path, command
    else:
        for name, each in inner.items():
            yield from functions(f"{path} {name}", each)


COMMANDS = {
    path: function
    for entry in (entry for part in SECTIONS.values() for entry in part)
    for path, function in functions(entry.name, entry.load())
}
# Commands that take no existing experiment, or, as push and fetch, any number of them.
WITHOUT = {
    *("run", "optimize loop", "optimize preflight", "optimize set-hparams", "push", "fetch"),
    *("experiment create", "experiment list", "propose list", "doctor", "gc"),
    "mcp",
    "skill",
}
OTHER_GROUPS = ("hooks", "project", "workspace", "dataset", "ai", "init", "try")
NAMING = {
    path: function
    for path, function in COMMANDS.items()
    if path not in WITHOUT and path.split()[0] not in OTHER_GROUPS
}
NEEDED = {"experiment delete"}
SAMPLES = {"outcome": "kept", "decision": "promote"}


@pytest.fixture
def context(place: Place) -> Context:
    begin_experiments(place.top, "demo", "other", "2024", "shop/demo")
    return Context(place.top)


def values(
    context: Context, function: Callable[..., int | None], *words: str, **options: Any
) -> dict[str, Any]:
    """What a command gets where the words are the optional ones; the needed ones are filled in."""
    arguments = Arguments(function)
    given: dict[str, Any] = {}
    rest = list(words)
    for parameter in arguments.parameters:
        needed = parameter.default is inspect.Parameter.empty
        given[parameter.name] = parameter.default
        if needed:
            given[parameter.name] = SAMPLES.get(parameter.name.removeprefix("word_"), "sample")
        elif parameter.name == "head" and rest:
            is_list = "list" in str(parameter.annotation)
            given["head"] = [rest.pop(0)] if is_list else rest.pop(0)
        elif parameter.name.startswith("word_") and rest:
            given[parameter.name] = rest.pop(0)
    return arguments.values(context, "autopilot command", given | options)


@pytest.mark.parametrize("path", NAMING)
def test_every_command_takes_name_or_option_or_the_newest(path: str, context: Context) -> None:
    function = NAMING[path]
    assert values(context, function, "demo")["name"] == "demo"
    assert values(context, function, named="demo")["name"] == "demo"
    assert values(context, function, "demo", named="demo")["name"] == "demo"
    with pytest.raises(UsageError, match="demo and -e other differ"):
        values(context, function, "demo", named="other")
    if path in NEEDED:
        with pytest.raises(UsageError, match="Missing argument 'NAME'"):
            values(context, function)
    else:
        assert values(context, function)["name"] is None
    context.project = "shop"
    if path != "replay":  # it takes commits and branches too, and completes the name itself
        assert values(context, function, "demo")["name"] == "shop/demo"
        assert values(context, function, named="demo")["name"] == "shop/demo"


def epochs_of(function: Callable[..., int | None]) -> list[str]:
    names = [p.name for p in Arguments(function).parameters if p.default is None]
    return [name.removeprefix("word_") for name in names if name.startswith("word_")]


WITH_EPOCHS = {path: function for path, function in NAMING.items() if epochs_of(function)}


def test_these_commands_take_epochs() -> None:
    reading = {"show", "diff", "store diff", "policy check", "policy explain"}
    deciding = {"store promote", "promote plan", "promote execute"}
    measuring = {"optimize validate", "optimize test", "trace collect"}
    assert WITH_EPOCHS.keys() == reading | deciding | measuring


@pytest.mark.parametrize("path", WITH_EPOCHS)
def test_a_number_is_an_epoch_and_a_word_is_a_name(path: str, context: Context) -> None:
    function, (epoch, *more) = WITH_EPOCHS[path], epochs_of(WITH_EPOCHS[path])
    for word in ("6", "best", "tip", "last", "baseline", "epoch-0006", "2024"):
        alone = values(context, function, word)
        assert (alone["name"], alone[epoch]) == (None, word)
        both = values(context, function, "demo", word)
        assert (both["name"], both[epoch]) == ("demo", word)
        named = values(context, function, word, named="demo")
        assert (named["name"], named[epoch]) == ("demo", word)
    for words in (["demo", "3", "5"], ["2024", "3", "5"]) if more else (["2024", "3"],):
        all_ = values(context, function, *words)
        assert all_["name"] == words[0]
        assert [all_[each] for each in (epoch, *more)] == words[1:]
    with pytest.raises(ExperimentError, match="'dem' is neither") as caught:
        values(context, function, "dem")
    assert "did you mean demo" in caught.value.hint
    assert "a number, best" in caught.value.hint


@pytest.mark.parametrize("path", ["promote plan", "promote execute", "store promote"])
def test_a_number_beside_the_epochs_option_is_a_name(path: str, context: Context) -> None:
    found = values(context, WITH_EPOCHS[path], "2024", named_epoch="3")
    assert (found["name"], found["epoch"]) == ("2024", "3")
    with pytest.raises(UsageError, match="4 and --epoch 3 differ"):
        values(context, WITH_EPOCHS[path], "4", named_epoch="3")


@pytest.mark.parametrize("slug", ["2025", "best", "spelling", "shop/6"])
def test_a_name_that_a_command_prints_is_read_as_a_name(
    slug: str, context: Context, place: Place
) -> None:
    begin_experiments(place.top, slug)
    printed = name_before_epoch(slug)
    named = printed.removeprefix("-e ") if printed.startswith("-e ") else None
    words = () if named else (printed,)
    found = values(context, WITH_EPOCHS["promote plan"], *words, named=named)
    assert (found["name"], found["epoch"]) == (slug, "best")


def show(context: Context, name: Name = None, epoch: Epoch = "last") -> None:
    del context, name, epoch


def diff(
    context: Context, name: Name = None, first: MaybeEpoch = None, second: MaybeEpoch = None
) -> None:
    del context, name, first, second


def measure(
    context: Context, name: Name = None, target: NameOrTarget = None, epoch: MaybeEpoch = None
) -> None:
    del context, name, target, epoch


def test_a_tag_or_a_commit_says_which_experiment_it_is(levels: Place) -> None:
    context = Context(levels.top)
    begin_experiments(levels.top, "newer")
    commit = levels.git("rev-parse", "autopilot/levels")
    for word in (commit[:10], "autopilot/levels/epoch-0001"):
        assert values(context, show, word) == {"name": "levels", "epoch": word}
    assert values(context, diff, commit, "3") == {"name": "levels", "first": commit, "second": "3"}
    # Where a target may stand, a tag is no path.
    tag = "autopilot/levels/epoch-0001"
    assert values(context, measure, tag) == {"name": "levels", "target": None, "epoch": tag}


def test_a_target_stands_where_the_name_may(context: Context) -> None:
    target = values(context, measure, "counter.py")
    assert target == {"name": None, "target": "counter.py", "epoch": None}
    named = values(context, measure, "counter.py:Counter", named="demo")
    assert (named["name"], named["target"]) == ("demo", "counter.py:Counter")
    assert values(context, measure, "demo", "3")["target"] is None


def test_too_many_words_are_refused(context: Context) -> None:
    with pytest.raises(UsageError, match=r"extra argument \(3\)") as caught:
        values(context, show, "2", "3")
    assert caught.value.hint == "see: autopilot command --help"
    with pytest.raises(UsageError, match="3 and --epoch 4 differ"):
        values(context, COMMANDS["promote plan"], "3", named_epoch="4")
    assert values(context, COMMANDS["promote plan"], named_epoch="4")["epoch"] == "4"


def test_words_that_are_needed_leave_the_rest_to_the_name(place: Place, context: Context) -> None:
    del context
    place.refused(
        *("memory", "block", "demo", "prune", "rules"),
        code=2,
        says=("extra argument (demo)",),
        hints=("autopilot memory block --help",),
    )
    place.refused("memory", "record", "x", code=2, says=("'STRATEGY'",), hints=("--help",))
    place.refused("experiment", "delete", code=2, says=("'NAME'",), hints=("delete --help",))
    place.refused("store", "checkout", "demo", code=2, says=("'EPOCH'",), hints=("demo best",))
    place.refused("diagnose", "run", "--split", "train", code=2, says=("'val', 'test'",), hints=())


def test_a_table_of_options_becomes_one_value(context: Context) -> None:
    def command(context: Context, *, options: Annotated[Options, "max_epochs", "mode"]) -> None:
        del context, options

    arguments = Arguments(command)
    assert [p.name for p in arguments.parameters] == ["option_max_epochs", "option_mode"]
    given = {"option_max_epochs": 3, "option_mode": None}
    assert arguments.values(context, "x", given) == {"options": Options(max_epochs=3)}


def test_run_and_resume_take_the_same_options_but_those_that_are_fixed() -> None:
    def options(path: str) -> set[str]:
        parameters = Arguments(COMMANDS[path]).parameters
        return {p.name for p in parameters if p.name.startswith("option_")}

    every = {f"option_{name}" for name in Options.__dataclass_fields__}
    assert options("run") == every | {f"option_{n}" for n in TaskOptions.__dataclass_fields__}
    fixed = {"monitor", "mode", "failed_value", "accumulate", "num_workers", "measure_noise"}
    fixed |= {"goal", "background", "boldness", "proposals", "parents", "select", "keep_states"}
    fixed |= {"strategies", "merge", "objectives", "memory_from", "screen", "race"}
    assert every - options("resume") == {f"option_{name}" for name in fixed | {"repeat"}}
    assert set(CHANGEABLE) | fixed | {"repeat"} == set(Options.__dataclass_fields__)


# --- what the shell completes, asked as bash asks it ----------------------------------------------


@pytest.fixture
def shop(place: Place) -> Place:
    """A repository with the branches of three experiments, and a workspace of two projects."""
    for name in ("shop", "store"):
        place.write(f"autopilot/projects/{name}/cli.py", "")
    place.commit()
    begin_experiments(place.top, "classifier-1", "shop/words-1", "shop/words-2")
    return place


def offered(place: Place, *words: str, cwd: Path | None = None) -> list[str]:
    done = place.autopilot(
        cwd=cwd,
        _AUTOPILOT_COMPLETE="complete_bash",
        COMP_WORDS=" ".join(("autopilot", *words)),
        COMP_CWORD=str(len(words)),
    )
    assert (done.code, done.err) == (0, ""), done
    return done.out.split()


def test_names_are_completed(shop: Place, tmp_path: Path) -> None:
    assert offered(shop, "stat") == ["status"]
    assert offered(shop, "propose", "v") == ["verify"]
    assert offered(shop, "log", "c") == ["classifier-1"]
    assert offered(shop, "experiment", "show", "sh") == ["shop/words-1", "shop/words-2"]
    assert offered(shop, "-p", "shop", "resume", "w") == ["words-1", "words-2"]
    assert offered(shop, "-p", "s") == ["shop", "store"]
    assert offered(shop, "-C", str(shop.top), "push", "cl", cwd=tmp_path) == ["classifier-1"]
    assert offered(shop, "log", "c", cwd=tmp_path) == []
