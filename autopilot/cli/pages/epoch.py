"""Pages of `show` and `diff`, an epoch or a change: lines for a person, or a document."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopilot.core.failures import failure_kinds, failure_lines
from autopilot.core.figures import (
    changed_settings,
    costs,
    figure,
    figures,
    gained,
    lower_note,
    setting,
    signed,
)
from autopilot.core.records.message import one_line
from autopilot.core.records.record import EpochOutcome, LlmRecord, MetricsRecord, StepRecord
from autopilot.core.types import Datum, count_outcomes, datum_document
from autopilot.git import commits, refs
from autopilot.report.comparison import file_documents, item_outcomes, picked
from autopilot.text import align, counted, display_width, git_date, iso, shorten
from autopilot.tracking.attribution import named
from autopilot.tracking.diagnosis import NOT_PASSED, is_graded, moved_values, turned
from autopilot.tracking.epochs import Epoch
from autopilot.tracking.notebook import Notebook

ODD_OUTCOMES: tuple[EpochOutcome, ...] = (
    *("unchanged", "repeated", "failed", "refused", "screened", "raced"),
)
"""Why an epoch was rejected, if not for its score on val."""

_STEP = "step strategy summary rationale gradients error violations wishes cost"
_EPOCH = "value delta metrics commit rollback"
_RECORD = "outcome best best_epoch strategy summary reasons values reused cost restarts restarts_s "
_RECORD += "candidate candidates origin reused_candidate"
_EXAMPLES = 5
_LEAST_TEXT = 12


def lines(notebook: Notebook, epoch: Epoch, width: int | None) -> list[str]:
    """Everything about an epoch but its diff, in the form of `git show`."""
    commit = commits.read_commit(notebook.repo, epoch.steps[-1] if epoch.steps else epoch.commit)
    record = epoch.record
    place = f"tag: {tag}" if (tag := _tag(notebook, epoch)) else ""
    if tag and not record.is_candidate and epoch.commit != commit.id:
        place += f", on {epoch.commit[:7]} with the same files"
    if epoch.verdict == "rejected":
        still = f"still epoch {record.best_epoch}: nothing was committed"
        place = "" if epoch.steps else still
    lines = [f"commit {commit.id}" + (f" ({place})" if place else "")]
    lines.append(f"Epoch:    {epoch.number} of {notebook.slug}, {_verdict(epoch)}")
    if record.origin:
        of = f"{record.candidate} of {record.candidates}" if record.candidates else record.candidate
        lines.append(f"Made:     candidate {of}, from {' and '.join(record.parents)}")
    lines.append(f"Date:     {git_date(commit.time_s)}")
    if record.strategy:
        lines.append(f"Strategy: {one_line(record.strategy, 1000)}")
    often = counted(record.restarts, "restart")
    restarts = f" ({record.restarts_s:.1f} s of it in {often})" if record.restarts else ""
    lines.append(f"Cost:     {costs(record.cost)}{restarts}")
    lines += [*([f"Known:    {record.known}"] if record.known else []), ""]
    if epoch.number == 0:
        lines += ["    the state before anything was changed", ""]
    lines += _steps(notebook, epoch)
    lines += [f"{epoch.verdict}: {reason}" for reason in record.reasons]
    lines += ["", *_scores(notebook, epoch)]
    lines += ["", *values] if (values := _values(notebook, epoch)) else []
    for block in (_failures(notebook, epoch, width), _lessons(notebook, epoch)):
        lines += ["", *block] if block else []
    return [*lines, ""] if epoch.steps else lines


def document(notebook: Notebook, epoch: Epoch, *, for_agent: bool = False) -> dict[str, Any]:
    """Everything about an epoch, for a program.

    Args:
        for_agent: The content of val items is left out.
    """
    number, before = epoch.number, _best_before(notebook, epoch)
    items = _by_need(notebook.items(epoch.measured))
    steps = [
        {"commit": commit if record.changed else None} | picked(record, _STEP)
        for commit, record in notebook.steps(number)
    ]
    failed = {
        "failed_items": [datum_document(item) for item in items if item.outcome in NOT_PASSED],
        "failures": failure_lines("val", items),
    }
    return {
        "experiment": notebook.slug,
        **_epoch(notebook, epoch),
        "monitor": notebook.monitor[0],
        "mode": notebook.monitor[1],
        "date": iso(commits.read_commit(notebook.repo, epoch.commit).time_s),
        "baseline": notebook.epoch(0).metrics,
        "best_before": before and {"epoch": before.number, "metrics": before.metrics},
        "steps": steps,
        "lessons": notebook.lessons(number),
        "val_items": len(items),
        "outcomes": count_outcomes(items),
        "items": [{"id": item.id, "outcome": item.outcome} for item in items],
        **({} if for_agent else failed),
        "failure_kinds": failure_kinds("val", items),
        **_changes(notebook, notebook.before(number), notebook.after(number)),
    }


def questions(notebook: Notebook, epoch: Epoch, asked: Sequence[LlmRecord]) -> dict[str, Any]:
    """The questions to agents in an epoch, for programs."""
    known = [picked(call, "step question role model prompt") for call in asked]
    return {"experiment": notebook.slug, "epoch": epoch.number, "questions": known}


def question_lines(notebook: Notebook, epoch: Epoch, asked: Sequence[LlmRecord]) -> Iterator[str]:
    """The questions to agents in an epoch, whole."""
    for call in asked:
        if len(asked) > 1:
            who = f"{call.role} {call.model}".strip()
            yield f"--- step {call.step}, question {call.question}, to {who}"
        yield from call.prompt.split("\n")
    if not asked:
        why = "the baseline has no step" if epoch.number == 0 else "none was asked, or recorded"
        yield f"no question to an agent in epoch {epoch.number} of {notebook.slug}: {why}"


def _steps(notebook: Notebook, epoch: Epoch) -> list[str]:
    lines: list[str] = []
    steps = notebook.steps(epoch.number)
    for commit, record in steps:
        place = commit[:7] if record.changed else "changed nothing"
        which = f"step {record.step} ({place}): " if len(steps) > 1 else ""
        if which or record.summary:
            lines += [f"    {which}{one_line(record.summary, 1000)}".rstrip(), ""]
        if record.rationale:
            lines += [textwrap.indent(record.rationale.strip(), "    "), ""]
        said = [f"the user said: {word}" for word in record.wishes.values()]
        lines += [*said, ""] if said else []
        if record.error:
            lines += [f"the optimizer failed: {record.error}", ""]
        if record.violations:
            tried = [f"    {one_line(sentence, 1000)}" for sentence in record.violations]
            lines += ["tried outside of the parameters:", *tried, ""]
        same: dict[str, list[str]] = {}
        for parameter, gradient in record.gradients.items():
            same.setdefault(gradient.strip(), []).append(parameter)
        for gradient, parameters in same.items():
            names = ", ".join(parameters)
            lines += [f"gradient of {names}:", textwrap.indent(gradient, "    "), ""]
    return [part for text in lines for part in text.split("\n")]


def _scores(notebook: Notebook, epoch: Epoch) -> list[str]:
    """Metrics beside the best before and the baseline; train, measured before the step, alone."""
    before, baseline = _best_before(notebook, epoch), notebook.epoch(0)
    columns = ["metric", "value"]
    if before is not None:
        columns += [f"best before (epoch {before.number})", "change", "baseline", "change "]
    rows = []
    for split in sorted(epoch.metrics, key="val test train".find):
        for name, value in epoch.metrics[split].items():
            others = (before, baseline) if before is not None else ()
            known = [e.metrics.get(split, {}).get(name) if split == "val" else None for e in others]
            monitored = split == "val" and name == notebook.monitor[0]
            title = f"{split} {name}{lower_note(notebook.monitor[1]) if monitored else ''}"
            shown, *rest = figures(value, *known)
            row = [title, shown]
            for text, was in zip(rest, known, strict=True):
                row += ["", ""] if was is None else [text, signed(value - was, of=was)]
            rows.append(row)
    lines = align(columns, rows, right=columns[1:])
    if "train" in epoch.metrics:
        lines.append("(train was measured before the step, val after it)")
    return lines


def _values(notebook: Notebook, epoch: Epoch) -> list[str]:
    """The parameters' numbers and choices beside those of the best before and the baseline."""
    before, now, first = _best_before(notebook, epoch), epoch.record.values, notebook.epoch(0)
    columns, others = ["parameter", "value"], list[Mapping[str, object]]()
    if before is not None:
        columns += [f"best before (epoch {before.number})", "baseline"]
        others = [before.record.values, first.record.values]
    names = dict.fromkeys([*now, *(name for values in others for name in values)])
    rows = [[name, *(setting(v.get(name)) for v in (now, *others))] for name in names]
    return align(columns, rows, right=columns[1:]) if rows else []


def _failures(notebook: Notebook, epoch: Epoch, width: int | None) -> list[str]:
    measured = epoch.measured
    items = _by_need(notebook.items(measured))
    if not items:
        return []
    counts, (monitor, mode) = count_outcomes(items), notebook.monitor
    text = f"val items: {counts['failed']} of {len(items)} failed"
    if counts["passed"] + counts["failed"] < len(items):
        text = f"{counted(len(items), 'val item')}: {item_outcomes(items, monitor)}"
    graded = [item for item in items if is_graded(item, monitor)]
    if measured != epoch.number:
        text += f" (measured in epoch {measured})"
    before = _best_before(notebook, epoch)
    if before is not None and measured != before.measured:
        known = {item.id: item for item in notebook.items(before.measured)}
        now = {item.id: item for item in items}
        fixed, broken = map(len, turned(known, now))
        better, worse = map(len, moved_values(known, now, monitor, mode))
        changed = [f"{fixed} fixed, {broken} broken"] if counts["unscored"] < len(items) else []
        changed += [f"{better} better, {worse} worse"] if graded else []
        text += f"; against epoch {before.number}: {', '.join(changed)}" if changed else ""
    lines = [text, *(f"    {line}" for line in failure_lines("val", items))]
    graded.sort(key=lambda item: gained(0.0, item.metrics[monitor], mode))
    odd = [x for x in items if x.outcome != "passed" and not is_graded(x, monitor)] + graded
    wide = max((display_width(item.id) for item in odd[:_EXAMPLES]), default=0)
    for item in odd[:_EXAMPLES]:
        data = json.dumps(item.metadata, ensure_ascii=False) if item.metadata else ""
        what = item.unmeasured or item.error_message or item.feedback or data
        if item.outcome != "failed":
            values = ", ".join(f"{name} {figure(value)}" for name, value in item.metrics.items())
            lead = values if is_graded(item, monitor) else item.outcome
            what = ": ".join(filter(None, (lead, what or (values if lead != values else ""))))
        text = shorten(what, max((width or 100) - wide - 6, _LEAST_TEXT))
        lines.append(f"    {item.id}{' ' * (wide - display_width(item.id))}  {text}".rstrip())
    if len(odd) > _EXAMPLES:
        own = f" -c {epoch.record.candidate}" if epoch.record.is_candidate else ""
        command = f"autopilot show {epoch.number}{own} -e {notebook.slug} --json"
        lines.append(f"    and {len(odd) - _EXAMPLES} more: {command}")
    died = next((item for item in items if item.outcome == "error" and printed(item)), None)
    if died is not None:
        lines += [f"    stderr of {died.id}, the last lines:", *printed(died)]
    return lines


def printed(item: Datum) -> list[str]:
    """The last lines of stderr of an item that ended its process, from its metadata."""
    return [f"      {line}".rstrip() for line in str(item.metadata.get("stderr", "")).splitlines()]


def _by_need(items: Sequence[Datum]) -> list[Datum]:
    """Items in the order: errors, failures, those without a result, those that passed."""
    order = ("error", "failed", "unmeasured", "unscored", "passed")
    return sorted(items, key=lambda item: order.index(item.outcome))


def _lessons(notebook: Notebook, epoch: Epoch) -> list[str]:
    """The lessons in memory; a reason that the verdict gave already is not repeated."""
    lines = []
    for lesson in notebook.lessons(epoch.number):
        gain, by = "gain " if lesson.mode == "min" else "", signed(lesson.delta, of=lesson.value)
        change = f", {gain}{by}" if by else ""
        is_known = lesson.reason in ("", "; ".join(epoch.record.reasons))
        because = "" if is_known else f": {one_line(lesson.reason, 200)}"
        name = one_line(lesson.strategy, 200)
        named = f"strategy {name}: " if name else ""
        lines.append(f"memory: {named}{lesson.outcome}{change}{because}")
    return lines


def _best_before(notebook: Notebook, epoch: Epoch) -> Epoch | None:
    return None if epoch.origin is None else notebook.epoch(epoch.origin)


def _verdict(epoch: Epoch) -> str:
    odd = f" ({epoch.record.outcome})" if epoch.record.outcome in ODD_OUTCOMES else ""
    back = ""
    if epoch.rollback is not None and epoch.steps:
        back = f", rolled back to epoch {epoch.record.best_epoch} by {epoch.rollback[:7]}"
    return f"{epoch.verdict}{odd}{back}"


def tried(record: MetricsRecord, before: Mapping[str, object]) -> str:
    """An epoch's change in a table: its strategy, and the values that it changed.

    Args:
        before: The values of the state that it started from.
    """
    changes = changed_settings(before if record.epoch else {}, record.values)
    if record.strategy:
        return f"{record.strategy}: {changes}" if changes else record.strategy
    # The summary of a search is the same list, of the keys that count.
    return record.summary or changes


def commit_cell(record: MetricsRecord, revision: str) -> str:
    """An epoch's commit in a table, and how a rejected one ended.

    Args:
        revision: Its commit; "" where no step changed anything.
    """
    commit = revision[:7] or "-"
    if record.verdict != "rejected":
        return commit
    odd = f" ({record.outcome})" if record.outcome in ODD_OUTCOMES else ""
    if record.is_stopped:  # "stopped at 24 of 120 val items"
        odd = f" ({re.split(' [(]|:', record.reasons[0])[0]})"
    if any(reason.startswith("indecisive") for reason in record.reasons):
        odd = " (indecisive)"
    is_back = revision and not record.is_candidate
    back = f" -> rolled back to epoch {record.best_epoch}" if is_back else ""
    return f"{commit:<7}{odd}{back}"


def epochs(notebook: Notebook, chosen: Sequence[Epoch]) -> list[dict[str, Any]]:
    """Epochs for a program."""
    return [_epoch(notebook, epoch) for epoch in chosen]


def _tag(notebook: Notebook, epoch: Epoch) -> str | None:
    """The tag of a kept state; of a candidate its own, which has one if it stays."""
    if epoch.verdict == "rejected":
        return None
    if not epoch.record.is_candidate:
        return notebook.layout.tag_name(epoch.number)
    own = notebook.layout.tag_name(epoch.number, epoch.record.candidate)
    return own if refs.read_ref(notebook.repo, f"refs/tags/{own}") else None


def _own_steps(notebook: Notebook, epoch: Epoch) -> list[StepRecord]:
    """The steps of an epoch, or of the candidate that it is."""
    if not epoch.record.is_candidate:
        return [record for _, record in notebook.steps(epoch.number)]
    return [r for commit in epoch.steps for r in notebook.journal.read_on(commit, StepRecord)]


def _epoch(notebook: Notebook, epoch: Epoch) -> dict[str, Any]:
    return {
        "epoch": epoch.number,
        "verdict": epoch.verdict,
        **picked(epoch, _EPOCH),
        **picked(epoch.record, _RECORD),
        "commits": epoch.steps,
        "tag": _tag(notebook, epoch),
        "violations": [text for step in _own_steps(notebook, epoch) for text in step.violations],
    }


@dataclass(frozen=True, slots=True)
class Change:
    """Two commits to compare, and the title of the comparison."""

    old: str
    new: str
    title: str


def change(notebook: Notebook, first: str | None, second: str | None) -> Change:
    """The commits of `diff`: base and best, before and after an epoch, or two epochs' states."""
    if first is None:
        best = notebook.find("best")
        title = f"{notebook.slug}: base -> epoch {best.number} (best)"
        return Change(notebook.base or notebook.start, notebook.after(best.number), title)
    one = named(notebook, first)
    if second is None:
        title = f"{notebook.slug}: {one.title} ({_verdict(one)})"
        return Change(notebook.before(one.number), notebook.after(one.number), title)
    before = notebook.after(one.number)
    # A notebook reads an epoch as one of its candidates only.
    other = named(notebook := Notebook(notebook.repo, notebook.slug), second)
    title = f"{notebook.slug}: {one.title} -> {other.title}"
    return Change(before, notebook.after(other.number), title)


def change_document(notebook: Notebook, compared: Change) -> dict[str, Any]:
    """A comparison for a program."""
    changes = _changes(notebook, compared.old, compared.new)
    return {"experiment": notebook.slug, "title": compared.title, **changes}


def _changes(notebook: Notebook, old: str, new: str) -> dict[str, Any]:
    return {
        "from": old,
        "to": new,
        "files": file_documents(notebook.counts(old, new)),
        "patch": notebook.patch(old, new).decode("utf-8", "replace"),
    }
