"""Arguments that several commands take, and how they are read: experiments, epochs, options.

An experiment is named in one way everywhere: NAME as the first word, or -e NAME; without either it
is the newest. Where an epoch may follow, a number, best, last, tip or baseline is an epoch, and so
are a tag and a commit; any other word is a name.

It is loaded for `autopilot --help` too, so it imports the library where a function needs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum, StrEnum
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from autopilot.cli.context import Context
from autopilot.errors import AutopilotError, ExperimentError, TargetError, UsageError
from autopilot.text import flag


def option(text: str, *names: str, **details: Any) -> Callable[[str], Any]:
    """An option of a command, for the annotation of its parameter.

    Args:
        names: A short name beside the parameter's own; or all names, a long one among them.
        details: As typer.Option takes them.
    """

    def of(parameter: str) -> Any:
        is_named = any(name.startswith("--") for name in names)
        return typer.Option(*(() if is_named else (flag(parameter),)), *names, help=text, **details)

    return of


def experiment_names(ctx: Any, incomplete: str) -> list[str]:
    """Completes experiments here whose names begin so; with -p, without their project in front."""
    from autopilot.git.repository import Repository
    from autopilot.tracking.layout import experiments

    project = _common_option(ctx, "project")
    prefix = f"{project}/" if project else ""
    try:
        found = experiments(Repository.discover(_folder(ctx)))
    except AutopilotError:
        return []
    names = [slug.removeprefix(prefix) for slug in found if slug.startswith(prefix)]
    return [name for name in names if name.startswith(incomplete)]


def project_names(ctx: Any, incomplete: str) -> list[str]:
    """Completes projects of the workspace here whose names begin so."""
    from autopilot.projects.project import find_workspace, projects_of

    workspace = find_workspace(_folder(ctx))
    names = [project.name for project in projects_of(workspace)] if workspace else []
    return [name for name in names if name.startswith(incomplete)]


def _folder(ctx: Any) -> Path:
    return Path(_common_option(ctx, "folder") or Path.cwd()).absolute()


def _common_option(ctx: Any, name: str) -> Any:
    """A common option, before or behind the command's name."""
    while ctx is not None:
        if ctx.params.get(name):
            return ctx.params[name]
        ctx = ctx.parent
    return None


@dataclass(frozen=True, slots=True)
class Word:
    """An argument that is recognized by its place and its looks.

    Args:
        shown: As the usage line has it.
        kind: "name" of an experiment; "ref", a name, or a branch or commit that stands for it;
            "target", which may stand where the name may; "epoch"; or "" for all else.
        option: May be used instead: "--epoch".
    """

    shown: str
    help: str
    kind: str = ""
    option: str = ""


_EPOCH = Word("EPOCH", "A number, best, last, tip, baseline, a tag or a commit.", "epoch")
_EPOCH_TOO = Word("EPOCH", f"{_EPOCH.help} best if not given.", "epoch", "--epoch")
Name = Annotated[str | None, Word("NAME", "The experiment; the newest if not given.", "name")]
NameOrTarget = Annotated[str | None, Word("TARGET", "Your checkout's, as run takes it.", "target")]
Epoch = Annotated[str, _EPOCH]
MaybeEpoch = Annotated[str | None, _EPOCH]
EpochOrOption = Annotated[str, _EPOCH_TOO]
MaybeEpochOrOption = Annotated[str | None, _EPOCH_TOO]

NewName = Annotated[
    str | None,
    option("The experiment's; TARGET's and a number if not.", "--slug", "-e", metavar="NAME"),
]
NAME_OPTION = typer.Option(
    "--slug", "-e", metavar="NAME", help="The same as NAME.", autocompletion=experiment_names
)

Target = Annotated[
    str | None,
    typer.Argument(
        metavar="TARGET",
        help="path/to/file.py, path/to/file.py:Name or package.module:Name: an AutoPilotModule, or "
        "a callable that returns one; the module of the project (-p) if not given.",
    ),
]
Seed = Annotated[int, option("Shuffling and evaluation derive from it.")]
Hparams = Annotated[
    list[str] | None,
    typer.Option("-H", metavar="KEY=VALUE", help="A constructor argument; may be repeated."),
]
Links = Annotated[
    list[str] | None, option("An ignored path that the evaluation needs.", "--link", metavar="PATH")
]
Idea = Annotated[str, option("What is tried, in words; written down.")]
Hypothesis = Annotated[str, option("What is expected of it; written down.")]
Reason = Annotated[str, option("Why; written down.")]
Reviewer = Annotated[str, option("Who decides; you, as git knows you.")]
Live = Annotated[
    bool, option("Ask models anew instead of the recorded replies; that may cost money.")
]
Stat = Annotated[bool, option("Name the changed files instead of the changes.")]
Scored = StrEnum("Scored", "val test")
Split = Annotated[Scored, option("The split of the results.")]
# The options of a run that hold wherever items are measured.
LIMITS = ("item_timeout", "memory")
DryRun = Annotated[bool, option("Say what would happen; change nothing.")]


@dataclass(frozen=True, slots=True)
class StartOptions:
    """The options of a new experiment that are not those of its run; see Request."""

    seed: Seed = 0
    hparams: Hparams = None
    links: Links = None
    in_place: Annotated[bool, option("Work in this checkout, not in a worktree.")] = False
    include_dirty: Annotated[bool, option("Start from the parameters' uncommitted content.")] = (
        False
    )
    idea: Idea = ""
    hypothesis: Hypothesis = ""


class Arguments:
    """The arguments of a command: as typer reads them, and as its function takes them.

    Args:
        function: A command, `(context, ...)`. Its parameters with a Word become arguments, and
            options that may stand for them. A parameter that is a dataclass becomes an option for
            each field, or for the fields that its annotation names.

    Attributes:
        parameters: For typer.
    """

    def __init__(self, function: Callable[..., int | None]) -> None:
        self._heads: dict[str, tuple[Word, inspect.Parameter]] = {}
        self._others: dict[str, tuple[Word, inspect.Parameter]] = {}
        self._tables: dict[str, tuple[Any, dict[str, inspect.Parameter]]] = {}
        own: list[inspect.Parameter] = []
        signature = inspect.signature(function, eval_str=True)
        for name, parameter in list(signature.parameters.items())[1:]:
            is_annotated = get_origin(parameter.annotation) is Annotated
            kind, *details = get_args(parameter.annotation) if is_annotated else [None]
            kind = kind or parameter.annotation
            if is_dataclass(kind):
                self._tables[name] = kind, _options(kind, details)
                own += self._tables[name][1].values()
            elif details and isinstance(details[0], Word):
                # These are the first of the words, or left out.
                is_head = details[0].kind in ("name", "ref", "target")
                (self._heads if is_head else self._others)[name] = details[0], parameter
            else:
                own.append(declared(name, kind, details[0], parameter.default))
        # A name may be left out in front of words that may not: then these are counted from behind.
        self._counted = any(map(_needed, self._others.values()))
        self.parameters = [*self._word_parameters(own), *own]

    def _word_parameters(self, own: Sequence[inspect.Parameter]) -> list[inspect.Parameter]:
        found, options = [], []
        if self._heads:
            words = [word for word, _ in self._heads.values()]
            argument = typer.Argument(
                metavar="|".join(word.shown for word in words),
                help=" ".join(word.help for word in words),
                autocompletion=experiment_names,
            )
            found.append(declared("head", (list[str] if self._counted else str) | None, argument))
            is_taken = any("-e" in get_args(p.annotation)[-1].param_decls for p in own)
            options += [declared("named", str | None, NAME_OPTION)] * (not is_taken)
        for name, (word, parameter) in self._others.items():
            argument = typer.Argument(metavar=word.shown, help=word.help)
            if _needed((word, parameter)):
                kind = get_args(parameter.annotation)[0]
                found.append(declared(f"word_{name}", kind, argument, inspect.Parameter.empty))
            else:
                found.append(declared(f"word_{name}", str | None, argument))
            if word.option:
                same = option("The same as EPOCH.", word.option, metavar=word.shown)
                options.append(declared(f"named_{name}", str | None, same))
        return found + options

    def values(self, context: Context, path: str, given: dict[str, Any]) -> dict[str, Any]:
        """The function's arguments, from the values that typer read.

        Args:
            path: How it was called, for hints.

        Raises:
            UsageError: too few words or too many, or two different experiments or epochs.
            ExperimentError: a word is neither an experiment nor an epoch.
        """
        try:
            return self._values(context, given)
        except UsageError as error:
            raise UsageError(error.message, hint=error.hint or f"see: {path} --help") from error

    def _values(self, context: Context, given: dict[str, Any]) -> dict[str, Any]:
        for name, (kind, options) in self._tables.items():
            given[name] = kind(**{field: _plain(given.pop(p.name)) for field, p in options.items()})
        head = given.pop("head", None)
        words = [*(head or ())] if self._counted else [head]
        others = [given.pop(f"word_{name}") for name in self._others]
        found: dict[str, Any] = dict.fromkeys(self._heads)
        if self._counted:
            if len(words) > 1:
                raise UsageError(f"Got unexpected extra argument ({words[0]})", hint="")
            if words:
                found[next(iter(self._heads))] = words[0]
            elif [word.kind for word, _ in self._others.values()] == ["epoch"]:
                word = others[0]
                if not _is_plain_epoch(word) and _is_experiment(context, word):
                    raise UsageError("Missing argument 'EPOCH'.", hint=f"name one: {word} best")
        else:
            others = [word for word in (*words, *others) if word is not None]
            if self._heads and others:
                has_epoch = any(given.get(f"named_{name}") is not None for name in self._others)
                others = self._split(context, others, found, has_epoch=has_epoch)
        for (name, (word, parameter)), text in zip_longest(self._others.items(), others):
            text = _one_of(word.option, text, given.pop(f"named_{name}", None))
            found[name] = parameter.default if text is None else text
        if self._heads:
            first = next(iter(self._heads))
            found[first] = self._name(context, first, found, given.pop("named", None))
        return given | found

    def _split(
        self, context: Context, words: list[str], found: dict[str, Any], *, has_epoch: bool
    ) -> list[str]:
        """Takes the name or target from the words, if the first is one."""
        *_, last = heads = list(self._heads)
        word, is_one_more = words[0], len(words) > len(self._others)
        if self._heads[last][0].kind == "target" and _is_target(context, word):
            found[last] = word
            return words[1:]
        # Beside --epoch, the number is the name of an experiment that is called so.
        is_named = has_epoch and _is_experiment(context, word)
        if not (is_one_more or is_named) and _is_epoch(context, word):
            return words
        if self._others and not _is_experiment(context, word):
            if is_one_more and _is_plain_epoch(word):
                raise UsageError(f"Got unexpected extra argument ({words[-1]})", hint="")
            if not is_one_more:
                raise _is_neither(context, word)
        # Where there is a word too many for epochs, the first is a name whatever it looks like.
        found[heads[0]] = word
        return words[1:]

    def _name(
        self, context: Context, head: str, found: dict[str, Any], named: str | None
    ) -> str | None:
        """The experiment that the words and -e name; None for the newest."""
        from autopilot.tracking.finding import experiment_of

        word = self._heads[head][0]
        typed = found[head]
        if word.kind == "name":
            typed, named = (text and context.full_slug(text) for text in (typed, named))
        name = _one_of("-e", typed, named)
        if name is None and _needed(self._heads[head]):
            raise UsageError(f"Missing argument '{word.shown}'.", hint="")
        epochs = [found[n] for n, (each, _) in self._others.items() if each.kind == "epoch"]
        for text in filter(None, epochs if name is None else ()):
            # A tag or a commit says which experiment's it is; seven digits may be a commit.
            if not _is_plain_epoch(text) or (text.isdecimal() and len(text) > 6):
                return experiment_of(context.repository(), text)
        return name


def _needed(pair: tuple[Word, inspect.Parameter]) -> bool:
    return pair[1].default is inspect.Parameter.empty


def _one_of(option: str, typed: str | None, given: str | None) -> str | None:
    """The value that was typed as a word or behind an option; None without either."""
    if typed is not None and given is not None and typed != given:
        raise UsageError(f"{typed} and {option} {given} differ", hint="leave one of them out")
    return given if typed is None else typed


def name_before_epoch(slug: str) -> str:
    """An experiment's name, for a command line to type where an epoch may follow.

    >>> name_before_epoch("spelling"), name_before_epoch("2024")
    ('spelling', '-e 2024')
    """
    return f"-e {slug}" if _is_plain_epoch(slug) else slug


def _is_plain_epoch(word: str) -> bool:
    """Whether a word is an epoch of whatever experiment; digits are, however many."""
    from autopilot.tracking.notebook import EPOCH_WORDS

    number = word.removeprefix("epoch-")
    number = number if number == word else number.partition("-c")[0]  # a candidate's tag
    return word in EPOCH_WORDS or (number.isascii() and number.isdigit())


def _is_experiment(context: Context, word: str) -> bool:
    from autopilot.tracking.layout import experiments

    return context.full_slug(word) in experiments(context.repository())


def _is_epoch(context: Context, word: str) -> bool:
    """Whether a word that may be a name is an epoch: it looks so, or is a tag or a commit."""
    from autopilot.tracking.finding import experiment_of

    if _is_plain_epoch(word):
        return True
    return not _is_experiment(context, word) and bool(experiment_of(context.repository(), word))


def _is_neither(context: Context, word: str) -> ExperimentError:
    from autopilot.tracking.notebook import Notebook

    hint = f"an epoch is {_EPOCH.help[0].lower()}{_EPOCH.help[1:-1]}"
    try:
        _ = Notebook(context.repository(), context.full_slug(word)).manifest
    except ExperimentError as error:
        hint = f"{error.hint}; {hint}"
    return ExperimentError(f"{word!r} is neither an experiment nor an epoch", hint=hint)


def _is_target(context: Context, word: str) -> bool:
    from autopilot.engine.target import parse_target
    from autopilot.tracking.finding import experiment_of

    try:
        parse_target(word)
    except TargetError:
        return False
    # A tag, autopilot/NAME/epoch-0003, looks like a path.
    return not (_is_experiment(context, word) or experiment_of(context.repository(), word))


def declared(name: str, kind: Any, details: Any, default: Any = None) -> inspect.Parameter:
    """An argument or option as typer reads it: its type, and what typer or `option` made."""
    place = inspect.Parameter.KEYWORD_ONLY
    details = details(name) if callable(details) else details
    return inspect.Parameter(name, place, default=default, annotation=Annotated[kind, details])


def _options(table: Any, chosen: Sequence[Any]) -> dict[str, inspect.Parameter]:
    """The options of a table by field: all of them, or the chosen ones.

    Fields have help and more in their metadata, or are annotated as a command's parameters are.
    """
    kinds, found = get_type_hints(table, include_extras=True), {}
    for field in fields(table):
        if not field.metadata:
            kind, details = get_args(kinds[field.name])
            found[field.name] = declared(field.name, kind, details, field.default)
        elif not chosen or field.name in chosen:
            details = {key: value for key, value in field.metadata.items() if key != "fixed"}
            kind = details.pop("type", kinds[field.name]) | None
            names = details.pop("names", flag(field.name))
            made = option(details.pop("help"), names, **details)
            found[field.name] = declared(f"option_{field.name}", kind, made)
    return found


def _plain(value: Any) -> Any:
    """An option as Options has it: no enum, and None where a list is empty."""
    return value.value if isinstance(value, Enum) else None if value == [] else value
