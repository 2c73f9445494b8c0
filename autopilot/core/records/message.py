"""The messages of commits and tags, as a person reads them in `git log`, and their trailers.

The trailers are the contract with everything that reads the branch later. They are read here alone.
No other line of a message begins like one, so text that is added behind them by hand changes
nothing.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autopilot.core.figures import figures, lower_note
from autopilot.core.records.record import LAST_EPOCH, Manifest, MetricsRecord, StepRecord
from autopilot.text import clean, hide, visible

EXPERIMENT = "Autopilot-Experiment"
EPOCH = "Autopilot-Epoch"
STEP = "Autopilot-Step"
STRATEGY = "Autopilot-Strategy"
VIOLATIONS = "Autopilot-Violations"
ROLLBACK = "Autopilot-Rollback"
REJECTED = "Autopilot-Rejected"
SOURCE = "Autopilot-Source"
SCORE = "Autopilot-Score"
ONTO = "Autopilot-Onto"
REVIEWER = "Autopilot-Reviewer"
REVERTS = "Autopilot-Reverts"
CANDIDATE = "Autopilot-Candidate"
PARENT = "Autopilot-Parent"
MERGED = "Autopilot-Merged"

BODY_LIMIT = 4000

# `git merge --squash` indents the messages that it joins by four.
_BLOCK = re.compile(r"^(?:    )?(?=Autopilot-[\w-]+: )", re.MULTILINE)
_TRAILER = re.compile(r"(Autopilot-[\w-]+): +(.*\S)\s*")
# What git would take for a trailer or a comment.
_LIKE_OURS = re.compile(r"^(?:\s*(?=Autopilot-)|(?=#))")
# Of violations: the content of what was there, its mode, what is new, the rest.
_WORST = [
    re.compile(x) for x in (r"(?:changed|removed|replaced) (?!the mode)", "changed", "made", "")
]
_NOT_UNDONE = re.compile(r": (?:it cannot|too large to) be put back$|: left, ")
_FOLD = textwrap.TextWrapper(
    100,
    subsequent_indent="    ",
    break_long_words=False,
    break_on_hyphens=False,
    replace_whitespace=False,
)


@dataclass(frozen=True, slots=True)
class Score:
    """A metric before and after a change; None where it was not measured.

    Args:
        name: "val accuracy".

    >>> str(Score("val accuracy", 0.58333, 0.71666)), str(Score("val wer", 0.2, 0.1, "min"))
    ('val accuracy 0.583 -> 0.717', 'val wer 0.200 -> 0.100 (lower is better)')
    """

    name: str
    before: float | None
    after: float | None
    mode: str = "max"

    @property
    def change(self) -> str:
        """Name and values."""
        return f"{self.name} {' -> '.join(figures(self.before, self.after))}"

    def __str__(self) -> str:
        return self.change + lower_note(self.mode)


def start_message(manifest: Manifest) -> str:
    """The message of the start commit."""
    what = one_line(manifest.title) or "library run"
    body = [manifest.idea, manifest.hypothesis]
    if manifest.forked_from:
        sources = filter(None, [manifest.forked_from, manifest.merged_with])
        body.append(f"Forked from: {', '.join(s.replace('@', ' epoch ') for s in sources)}")
    body.append(f"Base: {manifest.base or 'in memory'} ({manifest.base_branch or '-'})")
    return _message(f"autopilot({manifest.slug}): start {what}", body, {EXPERIMENT: manifest.slug})


def worst_first(violations: Iterable[str]) -> list[str]:
    """Attempts beside the parameters, once each: what was not undone, then what was there before.

    Of equal ones, the order stays.

    >>> worst_first(["made a: removed", "changed b: put back", "removed c: it cannot be put back"])
    ['removed c: it cannot be put back', 'changed b: put back', 'made a: removed']
    """

    def rank(sentence: str) -> tuple[bool, int]:
        kind = next(number for number, start in enumerate(_WORST) if start.match(sentence))
        return _NOT_UNDONE.search(sentence) is None, kind

    return sorted(dict.fromkeys(violations), key=rank)


def step_message(slug: str, record: StepRecord) -> str:
    """The message of a step commit: the change, why it was made, and the epoch it belongs to."""
    body = [_shorten(record.rationale or "\n".join(dict.fromkeys(record.gradients.values())))]
    if record.violations:
        tried = "\n".join(f"- {one_line(sentence, 300)}" for sentence in record.violations)
        body.append(_shorten(f"Tried outside of the parameters:\n{tried}"))
    trailers = {EXPERIMENT: slug, EPOCH: str(record.epoch), STEP: str(record.step)}
    trailers |= {CANDIDATE: str(record.candidate or ""), PARENT: record.origin}
    trailers |= {MERGED: record.merged_with, STRATEGY: one_line(record.strategy)}
    trailers |= {VIOLATIONS: str(len(record.violations) or "")}
    summary = one_line(record.summary) or "change the parameters"
    return _message(f"autopilot({slug}): epoch {record.epoch}: {summary}", body, trailers)


def rollback_message(slug: str, record: MetricsRecord) -> str:
    """The message of a rollback commit: to which epoch, and why."""
    reasons = [f"Epoch {record.epoch} was rejected: {'; '.join(record.reasons)}."]
    trailers = {EXPERIMENT: slug, ROLLBACK: epoch_tag(record.best_epoch)}
    trailers |= {REJECTED: str(record.epoch)}
    subject = f"autopilot({slug}): rollback to epoch {record.best_epoch}"
    return _message(subject, reasons, trailers)


def search_message(slug: str, record: MetricsRecord) -> str:
    """The message of the commit that ends an epoch of several candidates.

    Args:
        record: The record of the best one.
    """
    is_kept = record.verdict != "rejected"
    named = f"candidate {record.candidate} of {record.candidates}"
    trailers = {EXPERIMENT: slug, EPOCH: str(record.epoch), STRATEGY: one_line(record.strategy)}
    if is_kept:
        what = f"{one_line(record.summary, 60) or 'change the parameters'} ({named})"
        trailers |= {CANDIDATE: str(record.candidate), PARENT: record.origin}
        trailers |= {MERGED: "".join(record.parents[1:])}
    else:
        what = f"none of {record.candidates} candidates is kept"
        trailers |= {ROLLBACK: epoch_tag(record.best_epoch), REJECTED: str(record.epoch)}
    reasons = f"{named[0].upper()}{named[1:]}: {'; '.join(record.reasons)}."
    return _message(f"autopilot({slug}): epoch {record.epoch}: {what}", [reasons], trailers)


def tag_message(
    slug: str, record: MetricsRecord, metrics: Mapping[str, Mapping[str, float]]
) -> str:
    """The message of a kept epoch's tag: metrics, change against the baseline, reasons."""
    lines = [
        f"{split} {name} {value:.6g}"
        for split, values in metrics.items()
        for name, value in values.items()
    ]
    value = metrics.get("val", {}).get(record.monitor)
    if record.epoch and value is not None and record.baseline is not None:
        change = f"{value - record.baseline:+.6g}{lower_note(record.mode)}"
        lines.append(f"val {record.monitor} against baseline {change}")
    lines += [f"reason: {reason}" for reason in record.reasons]
    subject = f"autopilot({slug}): epoch {record.epoch} {record.verdict}"
    return _message(subject, ["\n".join(lines)], {EXPERIMENT: slug, EPOCH: str(record.epoch)})


def review_message(
    slug: str,
    epoch: int,
    source: str,
    onto: str,
    *,
    what: str,
    why: Sequence[str] = (),
    scores: Sequence[Score] = (),
    strategy: str = "",
) -> str:
    """The message of a kept epoch's commit on a review branch.

    Args:
        epoch: The epoch; 0 stands for the state that the experiment started from.
        source: The experiment's commit with the epoch's state.
        what: The change, in words.
        why: Its reasons, a paragraph each.
        scores: Against the state before; the metric that decides comes first.
    """
    gained = f" ({scores[0].change})" if scores else ""
    named = f"epoch {epoch}: " if epoch else ""
    subject = f"autopilot({slug}): {named}{one_line(what, 60) or 'change the parameters'}{gained}"
    others = "\n".join(str(score) for score in scores[1:])
    trailers = {EXPERIMENT: slug, EPOCH: str(epoch), STRATEGY: one_line(strategy), SOURCE: source}
    trailers |= {SCORE: str(scores[0]) if scores else "", ONTO: onto}
    return _message(subject, [*map(_shorten, why), others], trailers)


def promotion_message(
    slug: str,
    epoch: int,
    source: str,
    onto: str,
    *,
    verb: str,
    score: Score,
    changes: Sequence[str],
    reason: str = "",
    reviewer: str = "",
) -> str:
    """The message of the commit that brings an epoch's state into a branch.

    Args:
        verb: The first words of the subject: "take over" or "merge".
        score: The metric that decides, against the baseline.
        changes: The changes of the kept epochs, a line each.
    """
    trailers = {EXPERIMENT: slug, EPOCH: str(epoch), SOURCE: source, SCORE: str(score)}
    trailers |= {ONTO: onto, REVIEWER: one_line(reviewer)}
    subject = f"autopilot({slug}): {verb} epoch {epoch} ({score.change})"
    return _message(subject, [reason, "\n".join(changes)], trailers)


def revert_message(slug: str, epoch: int, onto: str, reason: str = "") -> str:
    """The message of the commit that takes an experiment's changes back out of a branch."""
    trailers = {EXPERIMENT: slug, REVERTS: str(epoch), ONTO: onto}
    subject = f"autopilot({slug}): take epoch {epoch} back, with all before it"
    return _message(subject, [reason], trailers)


def plain_message(slug: str, what: str, note: str = "") -> str:
    """The message of a commit without an epoch: a snapshot, or a merge of two experiments."""
    return _message(f"autopilot({slug}): {what}", [note], {EXPERIMENT: slug})


def trailer(message: str, name: str) -> str | None:
    """The value of one of our trailers in the first run of them; None if it is not there.

    >>> trailer("a subject\\n\\nAutopilot-Epoch: 3\\nAutopilot-Epoch: 7\\n\\nThanks!", EPOCH)
    '3'
    """
    return next(_blocks(message), {}).get(name) if name in message else None


def trailer_number(message: str, name: str) -> int | None:
    """The value of one of our trailers, if it is a number that an epoch or a step can have."""
    return epoch_number(trailer(message, name) or "")


def epoch_number(text: str) -> int | None:
    """The number of an epoch or a step; None of a text that is none.

    >>> epoch_number("0012"), epoch_number("12a"), epoch_number("9" * 5000)
    (12, None, None)
    """
    is_one = text.isascii() and text.isdigit() and len(text) <= len(str(LAST_EPOCH))
    return int(text) if is_one else None


def trailers_of(message: str, name: str, slug: str | None = None) -> list[str]:
    """The values of a trailer in all messages that a squash merge joined.

    Args:
        slug: Only of this experiment; None: of every one.
    """
    return [
        block[name]
        for block in _blocks(message)
        if name in block and EXPERIMENT in block and slug in (None, block[EXPERIMENT])
    ]


def _blocks(message: str) -> Iterator[dict[str, str]]:
    """Each run of our trailers, up to an empty line or to the next message's."""
    position = 0
    while found := _BLOCK.search(message, position):
        block, position = dict[str, str](), found.end()
        for line in message[position:].splitlines(keepends=True):
            own = _TRAILER.fullmatch(line.removeprefix(found[0]))
            if not line.strip() or (own and own[1] == EXPERIMENT and block):
                break
            position += len(line)
            if own:
                block.setdefault(own[1], own[2])
        yield block


def epoch_tag(epoch: int, candidate: int = 0) -> str:
    """The last part of the tag name of an epoch, or of a candidate that stays beside its best."""
    return f"epoch-{epoch:04d}" + (f"-c{candidate}" if candidate else "")


def state_name(record: MetricsRecord) -> str:
    """The last part of the tag name of the state that a record measured."""
    return epoch_tag(record.epoch, record.candidate if record.is_candidate else 0)


def one_line(text: str, width: int = 72) -> str:
    """The text on one line, shortened with a mark."""
    line = " ".join(clean(text).split())
    return line if len(line) <= width else line[: width - 3].rstrip() + "..."


def _shorten(text: str) -> str:
    missing = len(text) - BODY_LIMIT
    more = f"\n[{missing} characters more in the gradients note]" if missing > 0 else ""
    return text[:BODY_LIMIT] + more


def _message(subject: str, body: Sequence[str], trailers: Mapping[str, str]) -> str:
    # Hidden before it is folded: a secret on two lines would not be found any more.
    wrapped = [_wrap(hide(part)) for part in body if part.strip()]
    # On one line each: a metric may have any name, and a score is a trailer, too.
    block = [f"{name}: {' '.join(value.split())}" for name, value in trailers.items() if value]
    parts = [" ".join(subject.split()), *wrapped, "\n".join(block)]
    return displayed(clean(hide("\n\n".join(parts)) + "\n"))


def displayed(text: str) -> str:
    """A message with escapes for what steers a terminal; its subject gets no longer by them.

    One that was written before messages had escapes becomes what it would be now.
    """
    subject, _, rest = text.partition("\n")
    return f"{visible(subject)[: len(subject)]}\n{visible(rest)}"


def _wrap(text: str) -> str:
    """Long lines folded; a line that git would take for a trailer or a comment is indented."""
    lines = (part for line in text.splitlines() for part in _FOLD.wrap(line) or [""])
    return "\n".join(_LIKE_OURS.sub("  ", line, count=1) for line in lines).strip("\n")
