"""The typer application: every command, and the options that all of them share.

The common options may stand before or after the command's name. Commands are functions of
`(context, ...)` in the modules of this package; `command` turns one into a typer command.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from autopilot import audit
from autopilot.cli.arguments import Arguments, declared, option, project_names
from autopilot.cli.context import IN_CHILD, CommandGroup, CommandLine, Commands, Context
from autopilot.cli.output import Output
from autopilot.errors import AutopilotError, UsageError

if TYPE_CHECKING:
    from autopilot.engine.board import Child

_DAMAGED_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Listed:
    """A command, or a group of commands, in the table. Its module is imported when it is used.

    Args:
        place: `module:function` in `autopilot.cli`; of a group `module:NAME`, a dict of names and
            functions, which is COMMANDS if not given.
    """

    name: str
    place: str
    help: str

    def load(self) -> Callable[..., int | None] | Commands:
        """The command's function, or the commands of the group."""
        module, _, attribute = self.place.partition(":")
        found = importlib.import_module(f"autopilot.cli.{module}")
        loaded: Callable[..., int | None] | Commands = getattr(found, attribute or "COMMANDS")
        return loaded


SECTIONS: dict[str, tuple[Listed, ...]] = {
    "Run": (
        Listed("init", "init:init", "Look at the repository, and write what to run."),
        Listed("run", "running:run", "Optimize TARGET in git."),
        Listed("resume", "running:resume", "Go on with a run, exactly where it was."),
        Listed("steer", "people:steer", "Say something to the agent of a run."),
        Listed("pause", "people:pause", "End a run at its next safe point; resume goes on."),
        Listed("review", "people:review", "Approve or refuse the edit that a run holds."),
        Listed("try", "trying", "Edit by hand, and let it be measured, kept or taken back."),
        Listed(
            "mcp", "mcp:serve", "Serve `try`, and what there is to read, to an agent's host by MCP."
        ),
        Listed("skill", "tools:skill", "Print a SKILL.md: how an agent improves a system with it."),
        Listed("optimize", "optimize", "The loop step by step: check, train, measure, set."),
    ),
    "Read": (
        Listed("status", "reading:status", "Show where the experiments stand."),
        Listed("watch", "watch:watch", "Watch a run as it goes on, on the whole terminal."),
        Listed("log", "reading:log", "Show the epochs of an experiment."),
        Listed("show", "reading:show", "Show one epoch."),
        Listed("diff", "reading:diff", "Show the changes of an experiment or an epoch."),
        Listed("blame", "attribution:blame_file", "Show which epoch wrote each line of a file."),
        Listed("bisect", "attribution:bisect_item", "Find the kept epoch that broke an item."),
        Listed("report", "reading:report", "Write an experiment as a page to read in a browser."),
        Listed("memory", "memory", "What was tried, and how it went; what is blocked."),
        Listed("diagnose", "trace:DIAGNOSE", "What fails: in words, and drawn over the epochs."),
        Listed("trace", "trace", "Results item by item: collect them, inspect one."),
        Listed("policy", "promote:POLICY", "What the policy says of an epoch, gate by gate."),
    ),
    "Keep and compare": (
        Listed("experiment", "experiment", "Create, list, compare, export and delete experiments."),
        Listed("store", "store", "States in git: list, take, fork and merge them."),
    ),
    "Prove and share": (
        Listed("replay", "replay:replay", "Check that what was recorded comes out again."),
        Listed(
            "distill", "attribution:distill_steps", "Measure which kept steps earn their place."
        ),
        Listed("propose", "propose", "Kept epochs as a branch for a pull request."),
        Listed("promote", "promote", "Take an epoch over into a branch."),
        Listed("push", "sharing:push", "Push experiments: branch, tags and notes together."),
        Listed("fetch", "sharing:fetch", "Fetch experiments: branch, tags and notes together."),
        Listed("hooks", "sharing:HOOKS", "Git hooks: install, remove and look at them."),
    ),
    "Workspace": (
        Listed(
            "project",
            "workspace:PROJECT",
            "Projects of the workspace: make, list and look after them.",
        ),
        Listed(
            "workspace", "workspace:WORKSPACE", "The workspace as a whole: make it, look at it."
        ),
        Listed("dataset", "dataset", "Datasets: list, show, split and check them."),
        Listed("ai", "ai", "Make datasets and judge them, with models."),
        Listed(
            "doctor", "workspace:doctor", "Check git, keys, locks, worktrees and unfinished runs."
        ),
        Listed(
            "gc", "workspace:gc", "Remove what killed runs left behind, and pack the repository."
        ),
    ),
}

_COMMON = (
    declared(
        "folder", Path | None, typer.Option("-C", metavar="PATH", help="Work in this folder.")
    ),
    declared(
        "project",
        str | None,
        option("Experiments of this project.", "-p", metavar="NAME", autocompletion=project_names),
    ),
    declared("as_json", bool, option("Print one JSON document.", "--json"), False),
    declared("verbose", bool, option("Show tracebacks."), False),
    declared("no_color", bool, option("Print without colors."), False),
    declared("expose", bool, option("Show what was executed: git, programs, model calls."), False),
)
# Answered before the application is built; here for --help.
_VERSION = declared(
    "version", bool, option("Show the versions of autopilot, git and Python."), False
)
# Typer brings its own click, or uses the installed one: the class is found, not imported.
_WRONG_USAGE: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def build(cli: CommandLine) -> typer.Typer:
    """The application with all commands; each is made when it is asked for."""
    app = typer.Typer(
        name="autopilot",
        help="Optimize any software that can be run and scored, in your own git repository.",
        cls=_lazy(cli),
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_callback(_VERSION))
    return app


def _lazy(cli: CommandLine) -> type[TyperGroup]:
    entries = {entry.name: entry for part in SECTIONS.values() for entry in part}

    class LazyGroup(TyperGroup):
        """Makes the commands of the table as they are asked for; a subclass's own are there."""

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name in entries and cmd_name not in self.commands:
                self.commands[cmd_name] = _made(entries[cmd_name], cli)
            found = self.commands.get(cmd_name)
            return found or (_own_command(cli, ctx, cmd_name) if ctx is not None else None)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            try:
                return super().resolve_command(ctx, args)
            except _WRONG_USAGE as error:
                # Typer's own suggestion knows only the commands that were made.
                near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
                if near and "Did you mean" not in error.message:
                    error.message += f" Did you mean '{near[0]}'?"
                raise

        def list_commands(self, ctx: Any) -> list[str]:
            return [*entries, *(name for name in self.commands if name not in entries)]

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            own = {n: c for n, c in self.commands.items() if n not in entries and not c.hidden}
            sections = {title: [(e.name, e.help) for e in part] for title, part in SECTIONS.items()}
            if own:
                sections["More"] = [(name, c.get_short_help_str(60)) for name, c in own.items()]
            for title, rows in sections.items():
                with formatter.section(title):
                    formatter.write_dl(rows)

    return LazyGroup


# Sections of a command's help with the options in them; all others stand in front.
OPTION_SECTIONS = {
    "Without Python": (
        *("edit", "protect", "agent", "model", "tune", "sampler", "eval", "train_eval", "val_eval"),
        *("test_eval", "metric", "metric_regex", "junit", "guard", "setup", "env"),
    ),
    "What decides": ("monitor", "mode", "failed_value", "measure_noise", "repeat"),
    "When it stops": (
        *("max_epochs", "patience", "target", "plateau", "min_delta"),
        *("budget_evaluations", "budget_seconds", "budget_tokens", "budget_usd", "budget_calls"),
    ),
    "Optimizers and agents": (
        *("goal", "background", "boldness", "accumulate", "strategies", "block_after"),
        *("memory_from", "review", "prices"),
    ),
    "Several candidates in an epoch": (
        *("proposals", "parents", "select", "keep_states", "objectives"),
        *("merge", "screen", "race"),
    ),
    "How items are measured": (
        *("item_timeout", "memory", "num_workers", "jobs", "executor", "origin", "fresh", "cache"),
        *("keep", "max_wait"),
    ),
}
_SECTION_OF = {f"option_{name}": title for title, part in OPTION_SECTIONS.items() for name in part}
# Typer's words for what an option takes, of all its versions.
_KINDS = re.compile(r"<(int|float|str|list)(?:\[\w+\])?(?: range)?>|(INTEGER|FLOAT)(?: RANGE)?")
_SHORT = {"int": "N", "float": "X", "str": "TEXT", "list": "TEXT", "INTEGER": "N", "FLOAT": "X"}


class SectionedCommand(TyperCommand):
    """A command whose help lists options in the sections that their tables name."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, options of no section, and the sections in their order."""
        rows = defaultdict[str, list[tuple[str, str]]](list)
        for param in self.get_params(ctx):
            title = _SECTION_OF.get(param.name or "", "Options")
            if record := param.get_help_record(ctx):
                words = _KINDS.sub(lambda found: _SHORT[found[1] or found[2]], record[0])
                if param.param_type_name == "argument":
                    title, words = "Arguments", words.removesuffix(" TEXT")
                rows[title].append((words, record[1]))
        for title in ("Arguments", "Options", *OPTION_SECTIONS):
            if title in rows:
                with formatter.section(title):
                    formatter.write_dl(rows[title])


def _own_command(cli: CommandLine, ctx: Any, name: str) -> Any:
    """A command that the project named by -p adds to ours."""
    given = {common.name: ctx.params.get(common.name) for common in _COMMON}
    if cli.project or not given["project"]:
        return None
    project = _context(cli, given).own_cli()
    group: Any = typer.main.get_command(project.app())
    return group.get_command(None, name)


def _made(entry: Listed, cli: CommandLine) -> Any:
    loaded = entry.load()
    if not callable(loaded):
        return typer.main.get_command(_group(entry.name, entry.help, loaded, cli))
    alone = typer.Typer(rich_markup_mode=None, add_completion=False)
    alone.command(entry.name, cls=SectionedCommand)(command(loaded, cli))
    return typer.main.get_command(alone)


def _group(name: str, text: str, commands: Commands, cli: CommandLine) -> typer.Typer:
    """Commands under a common name; the common options may stand behind that too.

    The one whose own name is empty is the group's: it runs where no other is named.
    """
    bare = commands.get("")
    alone = None if bare is None or isinstance(bare, CommandGroup) else bare
    group = typer.Typer(
        name=name,
        help=inspect.getdoc(alone) if alone else text,
        no_args_is_help=alone is None,
        invoke_without_command=alone is not None,
        rich_markup_mode=None,
        add_completion=False,
    )
    group.callback()(_or_alone(command(alone, cli)) if alone else _callback())
    for own_name, own in commands.items():
        if own is alone:
            continue
        if isinstance(own, CommandGroup):
            group.add_typer(_group(own_name, own.help, own.commands, cli))
        else:
            group.command(own_name, cls=SectionedCommand)(command(own, cli))
    return group


def invoke(app: typer.Typer, arguments: list[str]) -> int:
    """Runs the application on some arguments; returns the command's exit code."""
    # A call that failed before its command was made has left its options.
    _before.clear()
    try:
        code = typer.main.get_command(app).main(arguments, "autopilot", standalone_mode=False)
    except _WRONG_USAGE as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "autopilot"
        message = error.format_message().replace(": Value error, ", ": ")
        if type(error).__name__ == "NoArgsIsHelpError":
            if "--json" not in arguments:
                print(context.get_help() if context else "")  # noqa: T201  # help, not an answer
                return 2
            message = "Missing command."
        raise UsageError(" ".join(message.split()), hint=f"see: {path} --help") from error
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except typer.Exit as ended:
        return ended.exit_code
    return code if isinstance(code, int) else 0


def command(function: Callable[..., int | None], cli: CommandLine) -> Callable[..., int | None]:
    """A function of `(context, ...)` as a typer command with the common options."""
    arguments = Arguments(function)

    @functools.wraps(function)
    def run(**given: Any) -> int | None:
        common = {each.name: given.pop(each.name) for each in _COMMON}
        context, ctx = _context(cli, common), given.pop("ctx")
        context.output.options = frozenset(opt for each in ctx.command.params for opt in each.opts)
        try:
            values = arguments.values(context, ctx.command_path, given)
            if function not in IN_CHILD:
                return function(context, **values)
            from autopilot.cli.running import supervised

            def work(child: Child) -> int:
                return function(replace(context, child=child), **values) or 0

            return supervised(context.output, work, context.folder)
        except AutopilotError as error:
            error.hint = context.output.own_hint(error.hint)
            context.output.damaged.pop(error.message, None)
            raise
        finally:
            _name_damage(context.output)

    ctx = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    _declare(run, [*arguments.parameters, *_COMMON, ctx])
    return run


def _name_damage(output: Output) -> None:
    """Names on stderr what the command left out: the first, and how many more."""
    for error in itertools.islice(output.damaged.values(), _DAMAGED_SHOWN):
        output.warning(f"{error.message}; {error.hint}")
    if (more := len(output.damaged) - _DAMAGED_SHOWN) > 0:
        output.warning(f"{more} more cannot be read")


def _declare(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> None:
    """Sets the signature that typer reads."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    function.__annotations__ = {p.name: p.annotation for p in parameters}


def _callback(*own: inspect.Parameter) -> Callable[..., None]:
    def callback(**given: Any) -> None:
        _before.update({each.name: given[each.name] for each in _COMMON if given[each.name]})

    _declare(callback, [*_COMMON, *own])
    return callback


def _or_alone(run: Callable[..., int | None]) -> Callable[..., int | None]:
    """A group's own command, unless one of the others is named behind it."""

    @functools.wraps(run)
    def callback(**given: Any) -> int | None:
        ctx = given["ctx"]
        if ctx.invoked_subcommand is None:
            return run(**given)
        common = {each.name for each in _COMMON}
        for own in ctx.command.params:
            if own.name not in common and given.get(own.name) not in (None, False, []):
                raise UsageError(
                    f"{own.opts[0]} does not go with {ctx.invoked_subcommand}",
                    hint=f"see: {ctx.command_path} {ctx.invoked_subcommand} --help",
                )
        _before.update({name: given[name] for name in common if given[name]})
        return None

    return callback


_before: dict[str, Any] = {}


def _context(cli: CommandLine, given: dict[str, Any]) -> Context:
    merged = {name: given[name] or _before.get(name) for name in given}
    _before.clear()
    if merged["expose"]:
        audit.begin()
    folder = merged["folder"] or Path.cwd()
    color = not merged["no_color"] and "NO_COLOR" not in os.environ
    output = Output(as_json=bool(merged["as_json"]), verbose=bool(merged["verbose"]), color=color)
    return Context(folder.absolute(), merged["project"] or cli.project, output, cli)
