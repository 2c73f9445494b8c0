"""Constraints: conditions on an agent's edit that are checked before anything is measured."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.run import is_infrastructure
from autopilot.core.signatures import as_call, check_function
from autopilot.errors import UsageError
from autopilot.tuning.parameter import ConfigParameter

_PLACEHOLDER = re.compile(
    r"\{\{\s*[A-Za-z_][\w.]*\s*(?:\|[\w\s|]*)?\}\}"  # Jinja, Mustache
    r"|\$\{\w+\}"  # string.Template, shells
    r"|%\(\w+\)[a-z]"  # printf with names
    r"|\{[A-Za-z_][\w.\[\]]*(?:![rsa])?(?::[^{}\s]*)?\}"  # str.format
)


class Constraint:
    """A condition on one parameter that an edit must not break. Subclasses define `check`.

    Attributes:
        rule: The condition in words, which the agent reads before it edits; "" keeps it silent.

    >>> class NoTabs(Constraint):
    ...     rule = "no tabs"
    ...     def check(self, parameter):
    ...         return "it has a tab" if "\\t" in parameter.render() else ""
    >>> NoTabs().check(Parameter("be\\tkind"))
    'it has a tab'
    """

    rule: str = ""

    def begin(self, parameter: Parameter) -> None:
        """Called before each step, with the state that the agent is about to edit."""

    def check(self, parameter: Parameter) -> str:
        """The mistake in a parameter's new state, in words for the agent; "" if there is none.

        An exception is a mistake too: its message is the sentence.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no check()")

    def __repr__(self) -> str:
        return as_call(self)


class MaxLength(Constraint):
    """Each file, or the value, has at most so many characters.

    >>> MaxLength(5).check(Parameter("be kind"))
    'it has 7 characters, 2 more than allowed'
    """

    def __init__(self, chars: int) -> None:
        if chars < 1:
            raise ValueError(f"chars must be 1 or more, not {chars}")
        self.chars = chars
        self.rule = f"at most {chars} characters"

    def check(self, parameter: Parameter) -> str:
        lengths = {name: len(text) for name, text in _texts(parameter).items()}
        return "; ".join(
            f"{name} has {length} characters, {length - self.chars} more than allowed"
            for name, length in lengths.items()
            if length > self.chars
        )


class KeepPlaceholders(Constraint):
    """The placeholders of a text stay in it.

    Args:
        names: Placeholders as they are written, each of which must stand in the parameter. Without
            any: all that a file, or the value, has before the step, such as `{question}`,
            `{{question}}`, `${question}` and `%(question)s`.

    >>> KeepPlaceholders("{question}").check(Parameter("Answer kindly."))
    'the placeholder {question} is gone'
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self.rule = f"these placeholders stay: {' '.join(names)}" if names else "placeholders stay"
        self._before: dict[Parameter, dict[str, dict[str, None]]] = {}

    def begin(self, parameter: Parameter) -> None:
        texts = _texts(parameter).items()
        self._before[parameter] = {name: _placeholders(text) for name, text in texts}

    def check(self, parameter: Parameter) -> str:
        texts = _texts(parameter)
        gone = [each for each in self.names if not any(each in text for text in texts.values())]
        if not self.names:
            for name, before in self._before.get(parameter, {}).items():
                left = _placeholders(texts.get(name, ""))
                of = "" if name == "it" else f" of {name}"
                gone += [f"{each}{of}" for each in before if each not in left]
        if not gone:
            return ""
        several = len(gone) > 1
        return f"the placeholder{'s' * several} {', '.join(gone)} {'are' if several else 'is'} gone"


class _Function(Constraint):
    """A function `validate(parameter)` that returns the mistake, or raises it."""

    def __init__(self, validate: Callable[[Parameter], Any]) -> None:
        if not callable(validate) or inspect.isclass(validate):
            raise UsageError(
                f"{validate!r} is no constraint",
                hint="give an object such as MaxLength(4000), or a function validate(parameter)",
            )
        self.validate = validate
        self._name = getattr(validate, "__name__", type(validate).__name__)
        check_function(validate, self._name, ["parameter"], UsageError)
        doc = inspect.getdoc(validate) if inspect.isroutine(validate) else ""
        self.rule = (doc or "").partition("\n")[0].rstrip(".")

    def check(self, parameter: Parameter) -> str:
        found = self.validate(parameter)
        if found is False:
            return f"{self._name} refuses it"
        return "" if not found or found is True else str(found)


Check = Constraint | Callable[[Parameter], Any]
Constraints = Check | Sequence[Check] | Mapping[str, Check | Sequence[Check]]


class Constrained:
    """The constraints of several parameters. A ConfigParameter has that of its spaces, too.

    Args:
        constraints: Those of every parameter, or by a parameter's name.

    Raises:
        UsageError: there is no such parameter, or a function does not take one.
    """

    def __init__(self, constraints: Constraints, parameters: Sequence[Parameter]) -> None:
        names = [parameter.name for parameter in parameters]
        by_name = constraints if isinstance(constraints, Mapping) else {}
        if unknown := [name for name in by_name if name not in names]:
            raise UsageError(
                f"constraints name {unknown[0]!r}, which is no parameter of the optimizer",
                hint=f"one of: {', '.join(filter(None, names)) or 'none has a name'}",
            )
        self._pairs: list[tuple[Parameter, Constraint]] = []
        for parameter in parameters:
            given = by_name.get(parameter.name, ()) if by_name else constraints
            listed: list[Any] = [*given] if isinstance(given, list | tuple) else [given]
            if isinstance(parameter, ConfigParameter):
                listed.insert(0, lambda config: config.check())
            for each in listed:
                made = each if isinstance(each, Constraint) else _Function(each)
                self._pairs.append((parameter, made))

    def rules(self) -> list[str]:
        """Each constraint in words, after the parameter that it is on."""
        return [f"{_name(p)}: {each.rule}" for p, each in self._pairs if each.rule]

    def begin(self) -> None:
        """Tells each constraint the state that a step starts from."""
        for parameter, constraint in self._pairs:
            constraint.begin(parameter)

    def broken(self) -> str:
        """The mistakes of the present state; "" if there are none."""
        found = []
        for parameter, constraint in self._pairs:
            try:
                mistake = constraint.check(parameter)
            except Exception as error:
                if is_infrastructure(error):
                    raise
                mistake = getattr(error, "message", "") or str(error) or type(error).__name__
            if mistake:
                found.append(f"{_name(parameter)}: {mistake}")
        return "; ".join(found)


def _name(parameter: Parameter) -> str:
    path = parameter.source if isinstance(parameter, PathParameter) else None
    return os.path.relpath(path) if path else parameter.name or "the value"


def _texts(parameter: Parameter) -> dict[str, str]:
    """The text of each file, or of the value; "it" names the only one."""
    if not isinstance(parameter, PathParameter):
        return {"it": parameter.render()}
    states = {name: state.content for name, state in parameter.snapshot().items()}
    texts = {name: c.decode("utf-8", "replace") for name, c in states.items() if b"\0" not in c}
    return {"it" if parameter.is_file else name: text for name, text in texts.items()}


def _placeholders(text: str) -> dict[str, None]:
    """The placeholders in a text, in order, without white space."""
    return dict.fromkeys("".join(found.split()) for found in _PLACEHOLDER.findall(text))
