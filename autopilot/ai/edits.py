"""An agent's edit: what the agent says of it, and what it changed."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from autopilot.ai.prompt.prompting import read_reply, shorten
from autopilot.errors import AgentReplyError
from autopilot.files import EXECUTABLE, REGULAR, SYMLINK, FileState

# A line of only these says no more than that something was edited: "All done!".
_EMPTY = re.compile(
    "a|all|am|and|are|been|changed?|changes|completed?|done|edit|edited|edits|everything|files?|"
    "finished|has|have|i|is|it|made|ok|okay|ready|set|success|successful|successfully|sure|task|"
    "that|the|these|this|ve|was|were|yes"
)
_MARKS = re.compile(r"^(?:[#>*•-]+\s+)+|\*\*")
_WORD = re.compile(r"[^\W\d_]+")
_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_JSON = re.compile(r"""^\s*[{}\[\]].*|^\s*"\w+"\s*:.*|\{".*""")
_COLORS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


# Requests hold the names and docstrings of both: in other words, no recorded call is found.
class Value(BaseModel):
    """A new value for a parameter that is no file."""

    parameter: str
    text: str


class EditReply(BaseModel):
    """What the agent says of its edit.

    Args:
        strategy: The name under which memory counts how it went.
        summary: The commit's subject.
        rationale: The commit's body.
        values: New values of parameters that are no files.
    """

    strategy: str = Field(min_length=1)
    summary: str = Field(min_length=1)
    rationale: str = ""
    values: list[Value] = Field(default_factory=list)


class _Description(EditReply):
    """The same with empty fields for those that are missing or wrong."""

    strategy: str = ""
    summary: str = ""

    @model_validator(mode="before")
    @classmethod
    def _describes(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or not value.keys() & cls.model_fields.keys():
            raise ValueError(f"it has none of: {', '.join(cls.model_fields)}")
        return value

    @field_validator("*", mode="wrap")
    @classmethod
    def _or_empty(
        cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        try:
            return check(value)
        except ValidationError:
            return cls.model_fields[str(info.field_name)].get_default(call_default_factory=True)


def described(text: str) -> EditReply:
    """An agent's answer as the description of an edit, as far as it is one.

    The first line that says something is the summary of an answer without JSON, or whose JSON has
    no summary.

    >>> described('Be kind. {"strategy": "tone", "values": "none"}').strategy
    'tone'
    >>> described("Done.\\nI ask for polite answers now.").summary
    'I ask for polite answers now.'
    >>> described("Ask for polite answers.\\nThey were rude.").rationale
    'They were rude.'
    """
    # The strict form first: objects within it may have one of its fields, too.
    for form in (EditReply, _Description):
        with contextlib.suppress(AgentReplyError):
            reply = read_reply(text, form)
            summary = reply.summary.strip() or first_line(text)
            return reply.model_copy(update={"summary": summary})
    line = first_line(text)
    rest = shorten(text.strip().removeprefix(line).strip(), 2000) if line else ""
    return EditReply.model_construct(strategy="", summary=line, rationale=rest, values=[])


def first_line(text: str) -> str:
    """The first line of an answer that says something, without marks of lists and titles.

    >>> first_line("All done!\\n\\n- raised the limit to 9")
    'raised the limit to 9'
    """
    in_block = False
    for each in _COLORS.sub("", text).splitlines():
        line = _JSON.sub("", each)
        words = _WORD.findall(line.lower())
        in_block ^= line.lstrip().startswith("```")
        if not in_block and not all(map(_EMPTY.fullmatch, words)):
            return _MARKS.sub("", line.strip())
    return ""


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The difference of two states as the subject of a commit.

    Args:
        before: Path of a file, or name of a value, to its state.
        after: The same of the later state.

    >>> old, new = FileState(0o100644, b"be kind\\n"), FileState(0o100644, b"be kind\\nplease\\n")
    >>> changes({"a.md": old}, {"a.md": new})
    'edit a.md: +1 -0 lines'
    >>> changes({"a.md": old}, {"b.md": new})
    'delete a.md, add b.md: +2 -1 lines'
    """
    verbs, remarks = dict[str, list[str]](), dict[str, None]()
    added = removed = 0
    is_blank = True
    for name, old, new in _changed(before, after):
        verb = "add" if old is None else "delete" if new is None else "edit"
        verbs.setdefault(verb, []).append(name)
        remarks |= dict.fromkeys(_mode(old, new))
        left, right = _text(old), _text(new)
        if left is None or right is None:
            remarks["binary"] = None
            continue
        is_blank = is_blank and left.split() == right.split()
        lines = [*_unified(left, right, 0)]
        added += sum(line[0] == "+" for line in lines)
        removed += sum(line[0] == "-" for line in lines)
    brief = ((v, " and ".join(n) if len(n) < 3 else f"{len(n)} files") for v, n in verbs.items())
    what = ", ".join(f"{verb} {names}" for verb, names in brief)
    counts = [f"+{added} -{removed} lines"] if added or removed else []
    blank = ["white space only"] if counts and is_blank else []
    return ": ".join(filter(None, [what, ", ".join([*counts, *blank, *remarks])]))


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The difference of two states, as `changes` takes them, as lines of a diff."""
    lines = list[str]()
    for name, old, new in _changed(before, after):
        left, right = _text(old), _text(new)
        lines += ["=== " + changes({name: old}, {name: new}).removeprefix("edit ")]
        if left is not None and right is not None:
            lines += _unified(left, right, 2)
    return "\n".join(lines)


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if old != new:
            yield name, old, new


def _text(state: Any) -> str | None:
    """A state as text, "" of a file that is not there; None: it is binary."""
    if not isinstance(state, FileState):
        return "" if state is None else str(state)
    return None if b"\0" in state.content else state.content.decode("utf-8", "replace")


def _unified(left: str, right: str, around: int) -> Iterator[str]:
    # By newlines alone, as git counts; the last line may lack its own.
    old, new = _LINES.findall(left), _LINES.findall(right)
    # Equal ends first: difflib takes lines that are frequent in a long text for different ones.
    for _ in range(2):
        pairs = enumerate(zip(old, new, strict=False))
        equal = next((n for n, (a, b) in pairs if a != b), min(len(old), len(new)))
        same = max(equal - around, 0)
        # Turned around twice, for the beginning and the end.
        old, new = old[same:][::-1], new[same:][::-1]
    lines = islice(difflib.unified_diff(old, new, n=around), 2, None)
    return (line.rstrip("\n") for line in lines if not line.startswith("@@"))


def _mode(old: Any, new: Any) -> list[str]:
    was, now = (getattr(state, "mode", REGULAR) for state in (old, new))
    if new is None or was == now:
        return []
    words = {EXECUTABLE: "executable", SYMLINK: "a symbolic link", REGULAR: "a plain file"}
    return [words[now]]
