"""The commands that an agent at work uses, as tools of its host, and as the skill that it reads.

A tool's arguments are the options of its command, by the same names. What would execute a command
line, or take a path, is left to a person at the command line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from typer.models import OptionInfo

from autopilot.cli.arguments import NAME_OPTION, Arguments
from autopilot.cli.context import Context
from autopilot.cli.memory import query
from autopilot.cli.reading import log, report, show
from autopilot.cli.trying import brief, done, edit, start, status
from autopilot.engine.options import BUDGETS
from autopilot.engine.target import parse_target
from autopilot.errors import UsageError
from autopilot.text import flag
from autopilot.tracking.layout import Layout

_LIMITS = *BUDGETS.values(), "max_wait", "item_timeout", "memory"
_START = (
    *("target", "hparams", "seed", "idea", "hypothesis", "in_place", "include_dirty", "monitor"),
    *("mode", "failed_value", "jobs", "num_workers", "measure_noise", "repeat", "fresh"),
)


@dataclass(frozen=True, slots=True)
class HostTool:
    """A command as a tool of a host.

    Args:
        words: The command, as it is typed.
        function: Its function, whose options are the tool's arguments.
        takes: The arguments beside the experiment's name.
        needs: The one that must be given; "" if none.
        changes: Whether it measures or changes something: such calls are made in turn.
    """

    name: str
    words: tuple[str, ...]
    function: Callable[..., int | None]
    help: str
    takes: tuple[str, ...] = ()
    needs: str = ""
    changes: bool = False

    @property
    def typed(self) -> str:
        """The command with what must be given."""
        needs = {"start": " TARGET", "try": ' -m "what you changed"', "show": " EPOCH"}
        return f"autopilot {' '.join(self.words)}{needs.get(self.name, '')}"

    def options(self) -> dict[str, tuple[Any, Any, list[str]]]:
        """The arguments: the type of each, its details, and the option's names; none of a word."""
        found = {}
        for parameter in Arguments(self.function).parameters:
            kind, details = get_args(parameter.annotation)
            own = parameter.name.removeprefix("option_").removeprefix("word_")
            names = list[str]()
            if isinstance(details, OptionInfo):
                given = (details.default, *(details.param_decls or ()))
                names = [each for each in given if isinstance(each, str)] or [flag(own)]
            long = next((n.partition("/")[0] for n in names if n.startswith("--")), own)
            key = long.removeprefix("--").replace("-", "_")
            key = "experiment" if key == "slug" else key
            if key == "experiment" or key in (*self.takes, self.needs):
                found[key] = kind, details, sorted(names, key=len, reverse=True)
        return found

    def model(self) -> type[BaseModel]:
        """The arguments as a class that checks them."""
        fields: dict[str, Any] = {}
        for key, (kind, details, _) in self.options().items():
            kind = next((each for each in get_args(kind) if each is not type(None)), kind)
            if isinstance(kind, type) and issubclass(kind, Enum):
                kind = Literal[tuple(each.value for each in kind)]
            limits = {"ge": details.min} if details.min is not None else {}
            default = ... if key == self.needs else None
            text = details.help
            if details is NAME_OPTION:
                text = "The experiment; the newest if not given."
            field = Field(default, description=text, **limits)
            fields[key] = dict[str, Any] if key == "hparams" else kind, field
        config = ConfigDict(extra="forbid")
        return cast("type[BaseModel]", create_model(self.name, __config__=config, **fields))

    def schema(self) -> dict[str, Any]:
        """The arguments as JSON schema."""
        made = self.model().model_json_schema()
        del made["title"]
        for each in made.get("properties", {}).values():
            each.pop("title", None)
            if each.get("default", ...) is None:
                del each["default"]
        return made

    def command(self, arguments: Mapping[str, Any], top: Path, folder: Path) -> list[str]:
        """The words of a call.

        Each value is one word with its option, or stands behind `--`: none becomes an option.

        Args:
            top: The repository; nothing outside of it may be named.
            folder: Where the server works.

        Raises:
            AutopilotError: an argument that there is not, or a value that it cannot have.
        """
        options, model = self.options(), self.model()
        for key in arguments:
            if key not in options:
                raise UsageError(
                    f"{self.name} has no argument {key!r}", hint=f"it has: {', '.join(options)}"
                )
        try:
            given = model.model_validate_json(json.dumps(arguments), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the arguments"
            raise UsageError(
                f"{self.name}: {where}: {first['msg']}", hint="see its schema"
            ) from error
        if any("\0" in text for text in _texts(arguments)):
            raise UsageError(f"{self.name}: a text has a zero byte", hint="leave it out")
        values = given.model_dump(mode="json", exclude_unset=True)
        if "experiment" in values:
            Layout(values["experiment"])  # refuses what cannot be a name
        words, last = [*self.words, "--json"], list[str]()
        for key, value in values.items():
            names = options[key][2]
            if key == "hparams":
                for name, own in value.items():
                    for text in _texts(own):
                        _check_path(text, top, folder)
                    words.append(f"-H{name}={own if isinstance(own, str) else json.dumps(own)}")
            elif not names:
                if key == "target":
                    _check_target(value, top, folder)
                last = ["--", value]
            elif isinstance(value, bool):
                name, _, no = names[0].partition("/")
                words += [name] if value else [no] if no else []
            else:
                words.append(f"{names[0]}={value}")
        return words + last


TOOLS = {
    tool.name: tool
    for tool in (
        HostTool(
            "start",
            ("try", "start"),
            start,
            "Begin an experiment on a target, whose steps are your edits: measure the baseline, "
            "answer in which folder (path) to edit which files (parameters). With the name of one "
            "that was begun and no target, that one is made ready again.",
            (*_START, *_LIMITS),
            changes=True,
        ),
        HostTool(
            "status",
            ("try", "status"),
            status,
            "Where the experiment stands: best, what was tried, what is left of the budget, and "
            "what is edited and not measured.",
        ),
        HostTool(
            "context",
            ("try", "context"),
            brief,
            "What to know before an edit: goal, score, failing items of the train split with "
            "input, output, expected and feedback, what worked, what failed, what is left. "
            "Measures the train split once a state.",
            ("max_chars", *_LIMITS),
            changes=True,
        ),
        HostTool(
            "try",
            ("try",),
            edit,
            "Measure what you edited, as an epoch: a better state is kept, any other is taken back "
            "out of the files. Answers the verdict, why, and the ids of items fixed and broken.",
            _LIMITS,
            needs="message",
            changes=True,
        ),
        HostTool(
            "undo",
            ("try", "--undo"),
            edit,
            "Take back what is edited and not measured; without that, the last kept edit.",
            changes=True,
        ),
        HostTool(
            "done",
            ("try", "done"),
            done,
            "End the experiment: scores the test split on baseline and best. The last call.",
            changes=True,
        ),
        HostTool(
            "log", ("log",), log, "The epochs with scores and verdicts.", ("max_count", "reverse")
        ),
        HostTool(
            "show",
            ("show",),
            show,
            "One epoch: its change, reason, scores, verdict, and the outcome of each val item.",
            ("epoch",),
        ),
        HostTool(
            "report",
            ("report",),
            report,
            "Write the experiment as an HTML page into the git folder; with md, answer a summary "
            "in Markdown instead.",
            ("md",),
        ),
        HostTool(
            "memory",
            ("memory", "query"),
            query,
            "Lessons: what was tried in this or in all experiments, how it went, and why.",
            ("all", "strategy", "outcome", "category", "node", "epochs", "max_count"),
        ),
    )
}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield name
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _check_target(text: str, top: Path, folder: Path) -> None:
    """Refuses a target that no file of the repository defines: it would be imported."""
    target, places = parse_target(text), list[Path]()
    if target.path is not None:
        places = [folder / target.path]
    else:
        parts = str(target.module).split(".")
        for base in (folder, folder / "src", top, top / "src"):
            stem = base.joinpath(*parts)
            places += [place for place in (stem.with_suffix(".py"), stem) if place.exists()][:1]
    if not places or not places[0].resolve().is_relative_to(top):
        raise UsageError(f"target {text!r} is not in {top}", hint="name a file of the repository")


def _check_path(text: str, top: Path, folder: Path) -> None:
    """Refuses a text that is a path out of the repository."""
    place = Path(text.removeprefix("file://"))
    is_path = place.is_absolute() or ".." in place.parts or text.startswith("~")
    if is_path and not (text[:1] != "~" and (folder / place).resolve().is_relative_to(top)):
        raise UsageError(f"{text} is not in {top}", hint="name a path of the repository")


INSTRUCTIONS = (
    "Improve a system by measured edits. start measures the baseline and names the files to edit; "
    "edit them, then try, with a message that says what you changed: a better state is kept, any "
    "other is taken back out of the files already. Again, until the budget is spent or nothing "
    "helps; then done. status shows where it stands, undo takes back."
)
_SKILL = """\
---
name: autopilot
description: Improves prompts, rules, configuration or code in a git repository by edits that are \
measured one by one, kept where the score rises and taken back where it does not. Use it to \
optimize, tune or fix anything that can be run and scored, and wherever autopilot is mentioned.
---

# Improve a system by measured edits

You edit; autopilot measures each edit on items that you do not see, keeps it or takes it back, and
remembers. All of it is in git, so nothing is lost.

Use the tools of the server `autopilot` (`autopilot mcp`) where your host has them, and otherwise
the command line; `--json` answers with one JSON document. Both do the same:

| tool | command | what it does |
| --- | --- | --- |
{tools}

A tool's arguments are the options of its command: `--budget-evaluations` is `budget_evaluations`,
`-m` is `message`, `-e` is `experiment`.

## The order

1. **Begin.** Without a target, a command that prints a number is enough, on the command line:
   `autopilot try start --edit 'src/*.py' --eval 'python bench.py' --metric seconds --mode min`.
   Or write one by `autopilot init`, and commit it. Start answers `path`, the folder to edit in,
   and `parameters`, the files that may be edited there.
   Where you may only write in the user's folder, start with `--in-place`. Set a limit:
   {limits}.
2. **Look before you edit.** Read the answer of `autopilot try context`, then the parameters. Find
   the cause that costs most, and do not repeat what was rejected unless you change why it failed.
3. **One idea, one edit.** Change only files of the parameters, in `path`, for one reason that you
   can say in a sentence. Other files are no part of it.
4. **Measure it:** `autopilot try -m "strategy: what you changed"`. The words before the colon name
   the strategy in the memory. A long evaluation may take its time; one that was interrupted is
   finished by the same call.
5. **Read the answer** and go on at 2: `fixed` and `broken` are the ids of the items that turned.
6. **End:** `autopilot try done` scores the test split once. Tell the user baseline, best and test,
   and `autopilot propose create NAME`, which makes a branch for a review.

## The verdicts

- **kept**: better than the best before. It is in the files; build on it.
- **rejected**: not better, or a gate of the policy objects; `why` says which. It is out of the
  files already: do not undo it. `autopilot show EPOCH` has its change, to learn from.
- **rejected** with `"outcome": "repeated"`: an earlier epoch had the same files; it cost nothing.
- **rejected** with errors in `failure_kinds` of `autopilot show EPOCH --json`: the edit broke the
  system. Mend that before you judge the idea.
- **no verdict** (`"verdict": null`): it was not measured; `why` says what stopped it, such as a
  spent budget. The edit is still in the files.

`autopilot try --undo` takes back what is edited and not measured; without such an edit, the last
kept one. A change that improves the score by a trick, such as writing the items' answers into the
parameters, is no improvement: take it back, and say so.

## When to stop

Stop, and call done, when the target that the user named is reached, the budget is spent (`left`
says what remains), or three different ideas in a row were rejected and you have no better one.
Never edit what measures: the target's file, its data, its tests. Never raise a budget by yourself:
ask the user. Where `autopilot` reports an error, do what its hint says, or stop and tell the user.
"""


def skill(context: Context) -> None:
    """Print a SKILL.md: how an agent improves a system with it.

    In the public format of Agent Skills, for a folder that is called autopilot.

    \b
    mkdir -p .claude/skills/autopilot
    autopilot skill > .claude/skills/autopilot/SKILL.md
    """
    tools = "\n".join(f"| {t.name} | `{t.typed}` | {t.help} |" for t in TOOLS.values())
    limits = ", ".join(f"`{flag(name)}`" for name in BUDGETS.values())
    text = _SKILL.format(tools=tools, limits=limits)
    context.output.document(skill=text)
    if not context.output.as_json:
        context.output.raw(text.encode())
