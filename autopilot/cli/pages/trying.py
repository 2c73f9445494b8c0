"""The answers of `autopilot try`: the verdict on an edit, and where the experiment stands."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autopilot.ai.prompt.briefing import Brief, Editable
from autopilot.ai.prompt.facts import STALLED, recorded_brief
from autopilot.core.figures import figures, signed
from autopilot.core.gradient import Finding, TextGradient
from autopilot.core.people import STEERED
from autopilot.core.records.learnt import DECISIONS
from autopilot.core.records.message import one_line
from autopilot.core.records.record import LlmRecord, ProgressNote
from autopilot.engine.options import NO_OPTIONS, options_of
from autopilot.engine.trying import HOW, OF_STATE, Trial, TryPlace, kept_facts
from autopilot.report.comparison import picked
from autopilot.text import redact, some
from autopilot.tracking.diagnosis import moved_values, turned
from autopilot.tracking.journal import ProgressFile
from autopilot.tracking.memory import memory_of
from autopilot.tracking.notebook import Notebook

NAMES = 8
_IDS, _LESSONS, _REASON = 8, 5, 160


def verdict_lines(place: TryPlace, trial: Trial, known: Mapping[str, Any]) -> list[str]:
    """The verdict on an edit: why, the metric, the items that changed, and what may follow.

    Args:
        known: See `verdict`.
    """
    notebook, slug = place.notebook, place.slug
    epoch = notebook.epoch(trial.epoch)
    record = epoch.record
    why = redact(one_line("; ".join(record.reasons), _REASON))
    said = "taken back" if trial.takes_back is not None else record.verdict
    lines = [f"{slug} epoch {epoch.number}: {said}: {why}"]
    before, after, best = figures(known["before"], known["after"], known["best"])
    change = f" ({signed(known['change'], of=known['before'])})" if known["change"] else ""
    moved = f"val {record.monitor}: {before} -> {after}{change}"
    lines.append(f"{moved}; best: epoch {record.best_epoch}, {best}")
    for word in ("fixed", "broken", "better", "worse"):
        if ids := known[word]:
            lines.append(f"{word} {len(ids)}: {some(ids, _IDS)}")
    if trial.beside:
        fate = "left as it is" if place.in_place else f"put back, kept in {trial.revision[:10]}"
        lines.append(f"no parameter, so no part of it: {some(trial.beside)} ({fate})")
    if said != "kept":
        where = f"epoch {record.best_epoch} is in the files"
        where = "your later edits are in the files, not tried" if trial.later else where
        tried = f"; read what was tried: {known['read']}" if trial.takes_back is None else ""
        lines.append(where + tried)
    lines += standing_lines(known)
    return [*lines, f"next: edit, then {HOW}; autopilot try --undo; autopilot try done"]


def verdict(place: TryPlace, trial: Trial) -> dict[str, Any]:
    """The same for programs, with where the experiment stands."""
    notebook = place.notebook
    epoch, (monitor, mode) = notebook.epoch(trial.epoch), notebook.monitor
    best = notebook.epoch(notebook.epoch(epoch.number - 1).record.best_epoch)
    old, new = ({item.id: item for item in notebook.data(each.measured)} for each in (best, epoch))
    fixed, broken = turned(old, new)
    better, worse = moved_values(old, new, monitor, mode)
    return {
        **standing(place),
        **picked(epoch.record, "verdict outcome summary strategy"),
        "before": best.value,
        "after": epoch.value,
        "change": epoch.delta,
        "best": epoch.record.best,
        "fixed": fixed,
        "broken": broken,
        "better": better,
        "worse": worse,
        "epoch": epoch.number,
        "why": epoch.record.reasons,
        "read": f"autopilot show {epoch.number} -e {place.slug}",
        "beside": trial.beside,
        "snapshot": trial.revision if trial.takes_back is None else None,
    }


def standing(place: TryPlace) -> dict[str, Any]:
    """Where an experiment stands, for programs."""
    notebook, last = place.notebook, place.notebook.last
    monitor, mode = notebook.monitor
    lessons = [x for x in memory_of(notebook).lessons if x.outcome not in DECISIONS]
    trial = place.unfinished
    return {
        "experiment": place.slug,
        "state": notebook.status.state,
        "path": str(place.path),
        "parameters": place.what,
        "monitor": monitor,
        "mode": mode,
        "baseline": last and last.baseline,
        "best": last and last.best,
        "best_epoch": last and last.best_epoch,
        "tried": [
            picked(lesson, "epoch outcome strategy summary") | {"gain": lesson.delta}
            for lesson in lessons
        ],
        "left": _left(notebook),
        "edited": sorted(place.edited()),
        "unfinished": trial and {"epoch": trial.epoch, "message": trial.message},
    }


def _left(notebook: Notebook) -> dict[str, float]:
    """The rest of each budget; `tries`: so many edits can be measured, by what one has cost."""
    options, spent = options_of(notebook, NO_OPTIONS), notebook.spent
    # A look at the train split is paid by the next epoch.
    noted = ProgressFile(notebook.layout.progress(notebook.repo)).read(ProgressNote)
    looked = sum(note.items for note in noted if note.split == "train")
    pairs = {
        "evaluations": (options.budget_evaluations, spent.evaluations + looked),
        "seconds": (options.budget_seconds, spent.seconds),
        "tokens": (options.budget_tokens, spent.tokens),
        "dollars": (options.budget_usd, spent.cost_usd),
        "calls": (options.budget_calls, sum(1 for _ in notebook.records(LlmRecord))),
    }
    left = {
        n: round(max(0, limit - used), 2) for n, (limit, used) in pairs.items() if limit is not None
    }
    # The baseline's cost: a later epoch may have paid for a look at the train split.
    if "evaluations" in left and (first := notebook.baseline) is not None:
        each = first.cost.evaluations - (first.noise.evaluations if first.noise else 0)
        left["tries"] = left["evaluations"] // max(1, each)
    return left


def standing_lines(standing: Mapping[str, Any]) -> list[str]:
    """The edits that were tried, the latest first, and the rest of the budget."""
    tried, left = standing["tried"], standing["left"]
    lines = []
    if tried:
        counts = Counter(lesson["outcome"] for lesson in tried)
        head = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        latest = "; ".join(
            f"{each['epoch']} {each['outcome']} {one_line(each['summary'] or '-', 40)}"
            for each in reversed(tried[-_LESSONS:])
        )
        lines.append(f"tried {len(tried)} ({head}): {latest}")
    return [*lines, f"left: {_left_in_words(left) or 'no budget was set'}"]


def _left_in_words(left: Mapping[str, float]) -> str:
    """The rest of each budget; "" where none was set."""
    rest = {name: value for name, value in left.items() if name != "tries"}
    parts = [f"{value:.6g} {name if value != 1 else name[:-1]}" for name, value in rest.items()]
    if "tries" in left:
        parts[0] += f" (enough for {left['tries']:.0f} more)"
    return ", ".join(parts)


def status_lines(place: TryPlace, standing: Mapping[str, Any]) -> list[str]:
    """Where the experiment stands, and what may be done next."""
    last, status = place.notebook.last, place.notebook.status
    lines = [f"{place.slug}: {status.state}; edits are made in {standing['path']}"]
    if last is not None:
        baseline, best = figures(last.baseline, last.best)
        values = f"baseline {baseline}, best {best} (epoch {last.best_epoch})"
        lines.append(f"val {last.monitor}: {values}")
    lines += standing_lines(standing)
    edited, unfinished = standing["edited"], standing["unfinished"]
    if standing["state"] == "running":
        return [*lines, f"an edit is being measured: {status.detail}"]
    if unfinished:
        said = one_line(unfinished["message"], 60)
        lines.append(f"not finished: epoch {unfinished['epoch']}, {said}")
        return [*lines, f"next: {HOW} goes on with it; autopilot try --undo takes it back"]
    if edited:
        # A kill has left the edit in a snapshot alone; the next try puts it back.
        trial = None if place.is_over else place.trial
        kept = f" (kept: git show {trial.revision[:10]})" if trial else ""
        lines.append(f"edited and not measured: {', '.join(edited[:NAMES])}{kept}")
        return [*lines, f"next: {HOW}; autopilot try --undo takes it back"]
    if place.repo is None:
        return [*lines, f"next: autopilot try start -e {place.slug} makes its worktree again"]
    return [*lines, f"next: edit {', '.join(standing['parameters'])}, then {HOW}"]


# --- the context of the next edit ----------------------------------------------------------------


def look_at(notebook: Notebook) -> dict[str, Any] | None:
    """The facts that are kept on the best state; None where they have to be gathered."""
    last, content = notebook.last, b""
    with contextlib.suppress(OSError):
        content = notebook.layout.derived(notebook.repo).read_bytes()
    tree = notebook.epoch(last.best_epoch).record.tree if last else ""
    return kept_facts(content).get(tree)


def context_of(place: TryPlace) -> Brief:
    """The facts for the next edit; without those that have to be gathered, if they are not."""
    notebook, facts = place.notebook, look_at(place.notebook) or {}
    found, memory = recorded_brief(notebook), memory_of(notebook)
    stalled = memory.trends().stalled
    given: dict[str, Any] = {name: facts[name] for name in OF_STATE if name in facts}
    editable = [Editable(**each) for each in given.pop("parameters", ())] or found.parameters
    for name in ("failing", "passing"):
        given[name] = [_finding(each) for each in given.get(name, ())]
    if "feedback" in facts:
        given["feedback"] = [
            (name, TextGradient.of([_finding(each) for each in findings]))
            for name, findings in facts["feedback"]
        ]
    words = [event.detail for event in notebook.events if event.name == STEERED]
    return replace(
        found,
        **given,
        parameters=[
            replace(each, name=f"{each.name}, {what} in {place.path}", files=())
            for each, what in zip(editable, place.what, strict=True)
        ],
        blocked=memory.blocked(),
        left=_left_in_words(_left(notebook)),
        wishes=words,
        bold=stalled >= STALLED,
        stalled=stalled,
    )


def _finding(fields: dict[str, Any]) -> Finding:
    return Finding(**{**fields, "evidence": tuple(fields["evidence"])})
