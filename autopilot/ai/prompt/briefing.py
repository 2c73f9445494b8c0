"""The prompt of a step: its sections, in an order that caches well, within a limit.

A `Brief` holds the facts and `Brief.render` makes the text, so that equal facts give an equal
prompt; `ai/prompt/facts.py` gathers them from a run that goes on, or from the records of one.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from autopilot.ai.prompt.examples import DIGEST, as_examples, as_passing
from autopilot.ai.prompt.prompting import fence, shorten, show
from autopilot.core.gradient import Finding, Gradient
from autopilot.core.records.message import one_line
from autopilot.core.selection import State
from autopilot.errors import UsageError
from autopilot.text import clean, counted, cut_middle

# Section to its title and its share of the limit; room that one does not need goes to the others.
SECTIONS: Mapping[str, tuple[str, int]] = {
    "goal": ("Goal", 4),
    "background": ("Background", 8),
    "parameters": ("What you may edit", 32),
    "score": ("Score", 4),
    "failing": ("Items that fail", 28),
    "passing": ("Items that pass, and have to stay so", 4),
    "worked": ("What worked", 4),
    "failed": ("What was tried and taken back", 12),
    "blocked": ("Strategies that are blocked: use none of them", 2),
    "budget": ("Budget", 1),
    "wishes": ("The user says", 3),
    "task": ("Now", 1),
}
REST = "rest"
_DIFFS, _ROWS = 3, 8
# The lines of a diff that name its file; git quotes odd names, and ends some by a tab.
_DIFF_HEAD = re.compile(r'(?:---|\+\+\+) (?:("?)[ab]/(.*?)\1\t?|/dev/null)')
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Editable:
    """A parameter, as an agent gets to know it.

    Args:
        name: Its dotted name in the module.
        description: Its purpose, in the user's words.
        readers: The modules that read it.
        files: Path from the working directory, or the value's name, to content; those that the
            agent reads itself may be left out.
    """

    name: str
    description: str = ""
    readers: Sequence[str] = ()
    files: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A judged epoch.

    Args:
        change: The monitored metric before and after, as text; "" where it was not measured.
        why: Why it was not kept, beside that it is no improvement.
        fixed: Category to the ids of the val items that passed then, and did not before.
        broken: The reverse.
        diff: Its unified diff; "" where it is not shown.
        experiment: The earlier experiment that it is of; "": the present one.
    """

    epoch: int
    kept: bool
    strategy: str = ""
    summary: str = ""
    change: str = ""
    why: Sequence[str] = ()
    fixed: Mapping[str, Sequence[str]] | None = None
    broken: Mapping[str, Sequence[str]] | None = None
    diff: str = ""
    experiment: str = ""

    @property
    def title(self) -> str:
        """The epoch, its strategy and its summary."""
        # "strategy: what I changed" is a usual summary.
        named = self.summary.removeprefix(f"{self.strategy}: ")
        named = ": ".join(dict.fromkeys(filter(None, [self.strategy, named])))
        where = f"in the earlier experiment {self.experiment}, " if self.experiment else ""
        return f"{where}epoch {self.epoch}, {one_line(named, 160) if named else 'unnamed'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """The facts that a prompt tells; those that are not known are left out.

    Args:
        goal: What to reach.
        background: Paragraphs on the system, the idea and the hypothesis.
        parameters: What may be edited.
        constraints: Sentences that hold for every edit.
        score: Lines on the metric, its values, and what an epoch needs to be kept.
        feedback: Parameter name to its gradient.
        failing: Train items that do not pass and that no gradient is about.
        passing: Train items that pass.
        passed: The ids of all that pass, some of which may have feedback.
        attempts: The judged epochs, oldest first.
        earlier: Sentences on attempts that are not among them.
        blocked: Strategy to the reason.
        left: Sentences on the budget.
        wishes: The user's own words for this step.
        bold: Whether a large change is wanted rather than one focused one.
        stalled: How many epochs the score has not moved; says why it is to be bold.
        proposal: Which of how many proposals of the epoch it is for.
        strategy: The strategy that was chosen for it by how each did, "" is a new one; None: the
            agent chooses.
        to_merge: The changes that it is to bring together: see Optimizer.
    """

    goal: str = ""
    background: Sequence[str] = ()
    parameters: Sequence[Editable] = ()
    constraints: Sequence[str] = ()
    score: Sequence[str] = ()
    feedback: Sequence[tuple[str, Gradient]] = ()
    failing: Sequence[Finding] = ()
    passing: Sequence[Finding] = ()
    passed: frozenset[str] = frozenset()
    attempts: Sequence[Attempt] = ()
    earlier: Sequence[str] = ()
    blocked: Mapping[str, str] | None = None
    left: str = ""
    wishes: Sequence[str] = ()
    bold: bool = False
    stalled: int = 0
    proposal: tuple[int, int] = (1, 1)
    strategy: State | None = None
    to_merge: Mapping[str, str] = field(default_factory=dict)

    def render(self, max_chars: int, template: str = "") -> str:
        """The prompt.

        Args:
            max_chars: The largest number of characters.
            template: The text around the sections, each as "{name}"; see `check_template`.
        """
        template = template or f"{{{REST}}}"
        named = {name for _, name, _, _ in string.Formatter().parse(template)}
        others = [name for name in SECTIONS if name not in named]
        empty = dict.fromkeys(SECTIONS, "") | {REST: "\n\n".join("" for _ in others)}
        texts = self.sections(max_chars - len(template.format_map(empty)))
        # Gaps of sections without text are closed before the texts, whose blank lines stay, go in.
        marks = {name: f"\0{name}\0" if text else "" for name, text in texts.items()}
        marked = template.format_map(marks | {REST: "\n\n".join(marks[n] for n in others)})
        gapless = re.sub(r"\n{3,}", "\n\n", marked).strip()
        # Half of a surrogate pair, or NUL, is nothing that an agent could send.
        return clean(re.sub("\0(.*?)\0", lambda found: texts[found[1]], gapless))

    def sections(self, max_chars: int) -> dict[str, str]:
        """Section to its text with its title, "" where there is nothing to say; together no more
        than so many characters."""
        writers: dict[str, Callable[[int], str]] = {
            "goal": lambda room: shorten_to(self.goal, room),
            "background": lambda room: shorten_to("\n\n".join(self.background), room),
            "parameters": self._parameters,
            "score": lambda room: shorten_to("\n".join(self.score), room),
            "failing": lambda room: as_examples(self.feedback, self.failing, room, self.passed),
            "passing": lambda room: as_passing(self.passing, room),
            "worked": self._worked,
            "failed": self._failed,
            "blocked": self._blocked,
            "budget": lambda room: shorten_to(self.left, room),
            "wishes": lambda room: shorten_to("\n".join(f"- {w}" for w in self.wishes), room),
            "task": lambda room: self._task(min(room, max_chars // 4)),
        }
        whole = {name: _titled(name, write(max_chars)) for name, write in writers.items()}
        lengths = {name: len(text) for name, text in whole.items()}
        rooms = share(lengths, {name: part for name, (_, part) in SECTIONS.items()}, max_chars)
        for name, room in rooms.items():
            if lengths[name] > room:
                whole[name] = _titled(name, writers[name](room - len(_titled(name, "-")) + 1))
        return whole

    # --- the sections --------------------------------------------------------------------------

    def _parameters(self, room: int) -> str:
        lines = [f"- {_described(each)}" for each in self.parameters]
        lines += [f"- {sentence}" for sentence in self.constraints]
        head = shorten_to("\n".join(lines), room // 2)
        files = [file for each in self.parameters for file in each.files]
        if not files:
            return head
        named = "\n".join(
            [gradient.render() for _, gradient in self.feedback]
            + [finding.direction for finding in self.failing]
        )
        frame = len(fence("parameters", "")) + 2
        left = asked = max(room - len(head) - frame, 0)
        text = show(files, named, asked)
        # It counts neither the names of the files nor its own remarks.
        while len(text) > left and asked > 0:
            asked -= max(len(text) - left, 200)
            text = show(files, named, max(asked, 0))
        return f"{head}\n\n{fence('parameters', shorten_to(text, left))}"

    def _worked(self, room: int) -> str:
        kept = [each for each in self.attempts if each.kept]
        lines = [f"- {each.title}" + (f" ({each.change})" if each.change else "") for each in kept]
        older = [f"- and {counted(len(kept) - _ROWS, 'earlier epoch')}"] if kept[_ROWS:] else []
        return _fenced("worked", "\n".join([*older, *lines[-_ROWS:]]), room)

    def _failed(self, room: int) -> str:
        failed = [each for each in self.attempts if not each.kept]
        with_diff = [each for each in failed if each.diff][-_DIFFS:]
        frame = len(fence("failed", ""))
        each_room = max((room - frame) // max(len(with_diff), 1) - 400, 200)
        blocks = []
        for attempt in failed[-_ROWS:]:
            lines = [f"{attempt.title}" + (f" ({attempt.change})" if attempt.change else "")]
            lines += [f"  {one_line(sentence, 300)}" for sentence in attempt.why]
            for what, items in (("fixed", attempt.fixed), ("broke", attempt.broken)):
                lines += [f"  {what} {_by_category(items)}"] if items else []
            if any(attempt is each for each in with_diff):
                lines.append(short_diff(attempt.diff, each_room))
            blocks.append("\n".join(lines))
        older = Counter(one_line(each.strategy or "unnamed", 60) for each in failed[:-_ROWS])
        often = ", ".join(f"{name} ({n}x)" for name, n in older.most_common(_ROWS))
        head = [f"and {counted(older.total(), 'earlier epoch')}: {often}"] if older else []
        return _fenced("failed", "\n\n".join([*head, *self.earlier, *blocks]), room)

    def _blocked(self, room: int) -> str:
        reasons = (self.blocked or {}).items()
        return shorten_to(
            "\n".join(f"- {name}: {why}" if why else f"- {name}" for name, why in reasons), room
        )

    def _task(self, room: int) -> str:
        if self.to_merge:
            each = max(room // len(self.to_merge) - 200, 200)
            changed = [(name, short_diff(text, each)) for name, text in self.to_merge.items()]
            texts = [f"The change of {name}:\n{fence('change', text)}" for name, text in changed]
            names = " and ".join(self.to_merge)
            head = f"The states {names} are good at different items, and come from one state; "
            head += f"what you see is {next(iter(self.to_merge))}. Their changes conflict."
            end = (
                "Bring both changes together: what either of them made pass is to pass afterwards."
            )
            return "\n\n".join([head, *texts, end])
        (number, of), asked, chosen = self.proposal, self._change(), self.strategy
        if chosen is not None and chosen.name:
            kept = f"it was kept in {chosen.gains} of {counted(chosen.tries, 'epoch')}"
            name = json.dumps(one_line(chosen.name, 60))
            asked += f"\n\nLet it be a further change of the strategy {name}: {kept}."
        elif chosen is not None and chosen.tries:
            asked += (
                "\n\nLet it be of a kind that was not tried yet, with a strategy's name of its own."
            )
        if of == 1:
            return asked
        apart = f"This is proposal {number} of {of}, which are made at the same time and compared. "
        apart += "Each is to remove another cause, or the same one in another way: of those that "
        return f"{asked}\n\n{apart}you see, take number {number}."

    def _change(self) -> str:
        if self.bold:
            epochs = counted(self.stalled, "epoch")
            make = f"The score has not moved in {epochs}: make" if self.stalled else "Make"
            return (
                f"{make} one bold change. Question how the system goes about its task, and try an "
                "approach that differs from all that was tried."
            )
        return (
            "Make one focused change: the smallest that removes the cause which costs most, and "
            "leaves alone what works."
        )


def check_template(template: str) -> None:
    """Checks the placeholders of a prompt's template.

    Each section has to stand in it once; "{rest}" stands for all those that are not named.

    Raises:
        UsageError: one is unknown, missing, or there twice.
    """
    try:
        names = [
            "!".join(filter(None, [name, spec, conversion]))
            for _, name, spec, conversion in string.Formatter().parse(template)
            if name is not None
        ]
    except ValueError as error:
        raise UsageError(
            f"the prompt_template cannot be read: {error}", hint="write {{ and }} for braces"
        ) from error
    known = [*SECTIONS, REST]
    for name in names:
        if name not in known or names.count(name) > 1:
            what = "twice" if name in known else "which is no section"
            raise UsageError(
                f"the prompt_template has {{{name}}} {what}", hint=f"sections: {', '.join(known)}"
            )
    missing = [name for name in SECTIONS if name not in names]
    if missing and REST not in names:
        raise UsageError(
            f"the prompt_template lacks {', '.join(f'{{{name}}}' for name in missing)}",
            hint="put them in, or {rest} for all that it does not name",
        )


def share(lengths: Mapping[str, int], parts: Mapping[str, int], limit: int) -> dict[str, int]:
    """The room of each: its length where that fits, else its share of what the others leave.

    >>> share({"a": 10, "b": 500, "c": 900}, {"a": 1, "b": 1, "c": 2}, 1000)
    {'a': 10, 'b': 330, 'c': 660}
    """
    rooms, left = dict.fromkeys(lengths, 0), max(limit, 0)
    waiting = [name for name, length in lengths.items() if length]
    while waiting:
        total = sum(parts[name] for name in waiting)
        fitting = [name for name in waiting if lengths[name] * total <= left * parts[name]]
        if not fitting:
            return rooms | {name: left * parts[name] // total for name in waiting}
        for name in fitting:
            rooms[name], left = lengths[name], left - lengths[name]
        waiting = [name for name in waiting if name not in fitting]
    return rooms


def shorten_to(text: str, room: int) -> str:
    """The text; or as much of its beginning as there is room, and how much is missing."""
    if len(text) <= room:
        return text
    return shorten(text, max(room - len(f"\n[... {len(text)} characters more]"), 0))[: max(room, 0)]


def short_diff(diff: str, room: int) -> str:
    """The changed lines of a unified diff by file, without what is around them.

    >>> print(short_diff("--- a/x.md\\n+++ b/x.md\\n@@ -1,2 +1,2 @@\\n be\\n-brief\\n+kind", 80))
    x.md
    -brief
    +kind
    """
    lines, old = list[str](), ""
    for line in diff.splitlines():
        if head := _DIFF_HEAD.fullmatch(line):
            name = _unquoted(head[2] or "")
            if line.startswith("+"):
                lines.append(name or f"{old} (deleted)")
            old = name
        elif line.startswith(("+", "-", "Binary files")):
            lines.append(line)
    return cut_middle("\n".join(lines), room)


def _unquoted(name: str) -> str:
    """A name of a diff's head with the bytes that git writes as octal numbers."""
    plain = _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), name.encode())
    return plain.decode("utf-8", "replace")


def _described(parameter: Editable) -> str:
    about = f": {parameter.description}" if parameter.description else ""
    by = f" (read by {', '.join(parameter.readers)})" if parameter.readers else ""
    return f"{parameter.name}{by}{about}"


def _by_category(items: Mapping[str, Sequence[str]]) -> str:
    total = sum(len(ids) for ids in items.values())
    parts = []
    for category, ids in sorted(items.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        # A digest names nothing that could be looked up.
        own = [name for name in ids if not DIGEST.fullmatch(name)]
        some = ", ".join(own[:3]) + (", ..." if own[3:] else "")
        parts.append(f"{category} {len(ids)} ({some})" if category and some else category or some)
    return ": ".join(filter(None, (counted(total, "val item"), "; ".join(filter(None, parts)))))


def _fenced(name: str, text: str, room: int) -> str:
    return fence(name, shorten_to(text, room - len(fence(name, "")))) if text else ""


def _titled(name: str, text: str) -> str:
    return f"## {SECTIONS[name][0]}\n\n{text}" if text else ""
