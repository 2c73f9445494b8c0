"""Pages of the `experiment` and `memory` commands: lines for a person, or a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from autopilot.cli.pages.listing import overview
from autopilot.core.figures import costs, direction_words, figure, progressed, signed, test_gain
from autopilot.core.memory import DECISIONS, Memory, Trend
from autopilot.core.records.history import Summary
from autopilot.core.records.record import Event, Lesson
from autopilot.git.objects import LineCounts
from autopilot.report.comparison import (
    compared_results,
    decision_line,
    event_detail,
    file_rows,
    input_differences,
)
from autopilot.text import align, counted, git_date, labelled, pairs, shorten
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.upkeep import Removal


def row(notebook: Notebook) -> dict[str, Any]:
    """An experiment for `experiment list`."""
    manifest = notebook.manifest
    decision = decided(notebook)
    return overview(notebook) | {
        "idea": manifest.idea,
        "hypothesis": manifest.hypothesis,
        "target": manifest.target,
        "forked_from": manifest.forked_from or None,
        "decision": decision.decision if decision else None,
    }


def decided(notebook: Notebook) -> Event | None:
    """The decision that holds."""
    found = [event for event in notebook.events if event.name == "decided"]
    return found[-1] if found else None


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """All experiments, one a line."""
    cells = [
        [
            row["experiment"],
            row["state"],
            str(row.get("epochs", "-")),
            str(row.get("kept", "-")),
            _gained(row),
            row.get("decision") or "",
            shorten(row.get("idea") or row.get("target") or row["detail"], 60),
        ]
        for row in rows
    ]
    columns = ["experiment", "state", "epochs", "kept", "baseline -> best", "decision", "idea"]
    return align(columns, cells, right=["epochs", "kept"])


def _gained(row: Mapping[str, Any]) -> str:
    if not row.get("monitor"):
        return "-"
    best = row["best"] if row["best_epoch"] else None
    return progressed(row["monitor"], row["baseline"], best, row["mode"]).removeprefix("val ")


def page(notebook: Notebook) -> list[str]:
    """Manifest, result, decision and events of an experiment."""
    manifest, status, summary = notebook.manifest, notebook.status, notebook.summary
    source = ", merged with ".join(
        text.replace("@", ", epoch ")
        for text in (manifest.forked_from, manifest.merged_with)
        if text
    )
    facts = {
        "idea": manifest.idea,
        "hypothesis": manifest.hypothesis,
        "target": manifest.target or "library use, without `autopilot run`",
        "arguments": pairs(manifest.hparams),
        "options": pairs(manifest.options),
        "seed": str(manifest.seed),
        "base": f"{manifest.base[:7]} ({manifest.base_branch})",
        "forked from": source,
        "parameters": pairs(manifest.parameters),
        "versions": pairs(manifest.versions),
        "result": _result(summary),
        "strategies": _strategies(summary),
        "cost": costs(summary.cost) if summary.epochs else "",
        "decision": decision_line(summary.decision) if summary.decision else "none yet",
    }
    detail = f" ({status.detail})" if status.detail and status.state != "killed" else ""
    lines = [f"{notebook.slug}: {status.state}{detail}"]
    lines += labelled(facts)
    rows = [[_when(e.time), e.name, event_detail(e)] for e in notebook.events]
    return [*lines, "", *align(["when", "event", "detail"], rows)]


def document(notebook: Notebook) -> dict[str, Any]:
    """The same for a program."""
    summary = notebook.summary
    return overview(notebook) | {
        "manifest": notebook.manifest,
        "summary": summary,
        "decision": summary.decision,
        "events": notebook.events,
    }


def _when(time: str) -> str:
    return git_date(datetime.fromisoformat(time).timestamp()) if time else ""


def _result(summary: Summary) -> str:
    if not summary.monitor:
        return "no epoch is judged yet"
    best = summary.best if summary.best_epoch else None
    text = f"{counted(summary.epochs, 'epoch')}, {summary.kept} kept, "
    text += progressed(summary.monitor, summary.baseline, best, summary.mode)
    if summary.best_epoch:
        text += f" in epoch {summary.best_epoch}"
    return ", ".join(filter(None, (text, test_gain(summary.test))))


def _strategies(summary: Summary) -> str:
    told = [f"{name} ({t.kept} of {t.used} kept)" for name, t in summary.strategies.items()]
    return ", ".join(told)


# --- compare -----------------------------------------------------------------------------------


def comparison(first: Notebook, second: Notebook, counts: Mapping[str, LineCounts]) -> list[str]:
    """Two experiments side by side.

    Args:
        first: An experiment.
        second: Another one.
        counts: What changed from the first one's best state to the second one's, by path.
    """
    rows = compared_results(first, second)
    for other in ("target", "idea"):
        texts = [shorten(getattr(n.manifest, other) or "-", 40) for n in (first, second)]
        if texts[0] != texts[1]:
            rows.insert(_FACTS, [other, *texts, ""])
    lines = align(
        ["", first.slug, second.slug, "change"], rows, [first.slug, second.slug, "change"]
    )
    known = input_lines(first, second)
    lines += ["", *known] if known else []
    if not counts:
        return [*lines, "", "the best states have the same content"]
    lines += ["", f"best state of {first.slug} -> best state of {second.slug}:"]
    return [*lines, *align(["file", "added", "removed"], file_rows(counts), ["added", "removed"])]


_FACTS = 6


def input_lines(first: Notebook, second: Notebook) -> list[str]:
    """What to know before the scores of two experiments are compared."""
    if not first.inputs or not second.inputs:
        return []
    differ = input_differences(first, second)
    if not differ:
        return [f"measured with the same evaluator and data: {counted(len(first.inputs), 'file')}"]
    rows = [[x["path"], *((x[k] or "not read")[:10] for k in ("first", "second"))] for x in differ]
    return [
        "measured with other evaluator or data files: their scores cannot be compared",
        *align(["file", first.slug, second.slug], rows, []),
    ]


# --- delete ------------------------------------------------------------------------------------


def removal(found: Removal) -> list[str]:
    """What deleting removes, one thing a line."""
    lines = [f"the branch autopilot/{found.slug}, at {tip[:7]}" for tip in found.branch.values()]
    lines += [f"the branch {name.removeprefix('refs/heads/')}" for name in found.review]
    if found.tags:
        lines.append(f"{counted(len(found.tags), 'tag')}: {_ends(sorted(found.tags))}")
    if found.notes:
        kinds = ", ".join(sorted(name.rpartition("/")[2] for name in found.notes))
        lines.append(f"its notes: {kinds}")
    if found.snapshots:
        lines.append(counted(len(found.snapshots), "snapshot") + " of your checkout")
    if found.progress is not None:
        lines.append(f"the progress of the last epoch: {found.progress}")
    if found.worktree is not None:
        written = f", with {', '.join(map(str, found.outputs))}" if found.outputs else ""
        lines.append(f"the worktree {found.worktree}{written}")
    if found.report is not None:
        lines.append(f"its report {found.report}")
    return lines


def _ends(names: Sequence[str]) -> str:
    short = [name.removeprefix("refs/tags/") for name in names]
    return short[0] if len(short) == 1 else f"{short[0]} to {short[-1].rpartition('/')[2]}"


_ABOUT = 20
_STRATEGY = 40
_WHAT = 100


def lessons(found: Sequence[Lesson], *, with_slug: bool) -> list[str]:
    """Lessons, one a line; what none of them has takes no column."""
    columns = [*(["experiment"] if with_slug else []), "epoch", "outcome", "gain", "strategy"]
    about = [x for x in ("category", "node") if any(getattr(lesson, x) for lesson in found)]
    rows = [_row(lesson, about, with_slug=with_slug) for lesson in found]
    columns += [*about, "what was done, and why it went so"]
    return align(columns, rows, ["epoch", "gain"])


def trend(
    notebook: Notebook, found: Trend, ahead: int, strategies: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Where the metric is going, and thanks to what.

    Args:
        notebook: The experiment.
        found: Its trend.
        ahead: How many epochs to project.
        strategies: What `by_strategy` gives.
    """
    if found.direction == "unknown":
        return [f"{notebook.slug}: no epoch is judged yet, so there is no trend"]
    monitor, mode = notebook.monitor
    over = "the last epoch" if found.epochs == 1 else f"the last {found.epochs} epochs"
    lines = [
        f"{notebook.slug}: val {monitor} ({direction_words(mode)}) is {found.direction}",
        f"best:       {figure(found.best)}",
        f"rate:       a gain of {signed(found.rate, of=found.best)} an epoch over {over}, "
        f"{found.kept:.0%} of them kept",
    ]
    projected = found.projection(ahead)
    if projected is not None:
        after = "1 more epoch" if ahead == 1 else f"{ahead} more epochs"
        lines.append(
            f"projection: {figure(projected)} after {after} at this rate (a straight line: "
            "it knows no end of the scale)"
        )
    rows = [
        [
            shorten(row["strategy"], _STRATEGY),
            str(row["used"]),
            str(row["kept"]),
            signed(row["gain"], of=found.best),
            row["blocked"] or "",
        ]
        for row in strategies
    ]
    columns = ["strategy", "used", "kept", "gain", "blocked"]
    return [*lines, "", *align(columns, rows, columns[1:4])] if rows else lines


def _row(lesson: Lesson, about: list[str], *, with_slug: bool) -> list[str]:
    hand = " (by hand)" if lesson.by_hand and lesson.outcome not in DECISIONS else ""
    what = "; ".join(filter(None, [lesson.summary, lesson.reason]))
    return [
        *([lesson.experiment] if with_slug else []),
        str(lesson.epoch),
        f"{lesson.outcome}{hand}",
        signed(lesson.delta, of=lesson.value),
        shorten(lesson.strategy, _STRATEGY) or "unnamed",
        *(shorten(getattr(lesson, name), _ABOUT) for name in about),
        shorten(what, _WHAT),
    ]


def by_strategy(memory: Memory) -> list[dict[str, Any]]:
    """The strategies, those that gained most first."""
    blocked = memory.blocked()
    found: dict[str, dict[str, Any]] = {}
    for lesson in memory.lessons:
        if lesson.outcome in DECISIONS:
            continue
        for name in lesson.strategies():
            row = found.setdefault(
                name,
                {"strategy": name, "used": 0, "kept": 0, "gain": 0.0, "blocked": blocked.get(name)},
            )
            row["used"] += 1
            if lesson.outcome == "kept":
                row["kept"] += 1
                row["gain"] += lesson.delta or 0.0
    return sorted(found.values(), key=lambda row: (-row["gain"], row["strategy"]))
