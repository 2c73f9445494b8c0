"""Pages of `experiment`, `memory` and `log --frontier`: lines for a person, or a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from autopilot.cli.pages.listing import overview, seconds_of, standing
from autopilot.core.figures import costs, direction_words, figure, progressed, signed, test_gain
from autopilot.core.memory import Trend
from autopilot.core.records.history import Summary
from autopilot.core.records.learnt import DECISIONS
from autopilot.core.records.record import Lesson
from autopilot.core.states import RecordedStates
from autopilot.git.objects import LineCounts
from autopilot.report.comparison import (
    compared_results,
    decision_line,
    event_detail,
    file_rows,
    input_rows,
    picked,
    trend_window,
)
from autopilot.report.search import frontier_rule, frontier_table
from autopilot.text import align, counted, git_date, labelled, pairs, shorten
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.outputs import kept_outputs
from autopilot.tracking.upkeep import Removal

# The rows of a comparison above those of its results.
_FACTS = 6
_ABOUT, _STRATEGY, _WHAT = 20, 40, 100


def row(notebook: Notebook) -> dict[str, Any]:
    """An experiment for `experiment list`."""
    manifest = notebook.manifest
    decisions = [event.decision for event in notebook.events if event.name == "decided"]
    return overview(notebook) | {
        "idea": manifest.idea,
        "hypothesis": manifest.hypothesis,
        "target": manifest.title,
        "forked_from": manifest.forked_from or None,
        # The last one holds.
        "decision": decisions[-1] if decisions else None,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """All experiments, one a line."""
    cells = [
        [
            *standing(row),
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
    sources = [text for text in (manifest.forked_from, manifest.merged_with) if text]
    strategies = [f"{name} ({t.kept} of {t.used} kept)" for name, t in summary.strategies.items()]
    kept = kept_outputs(notebook.repo, notebook.slug)
    folder = notebook.layout.kept(notebook.repo)
    facts = {
        "idea": manifest.idea,
        "hypothesis": manifest.hypothesis,
        "target": manifest.title or "library use, without `autopilot run`",
        "arguments": pairs(manifest.hparams),
        "options": pairs(manifest.options),
        "steps": "edits made by hand, with autopilot try" if manifest.by_hand else "",
        "seed": str(manifest.seed),
        "base": f"{manifest.base[:7]} ({manifest.base_branch})",
        "forked from": ", merged with ".join(sources).replace("@", ", epoch "),
        "lessons of": ", ".join(f"{x.experiment} ({len(x.lessons)})" for x in manifest.taken),
        "parameters": pairs(manifest.parameters),
        "versions": pairs(manifest.versions),
        "result": _result(summary) if summary.monitor else notebook.unjudged,
        "strategies": ", ".join(strategies),
        "cost": costs(summary.cost) if summary.epochs else "",
        "outputs": f"{', '.join(map(str, kept))} in {folder}" if kept else "",
        "decision": decision_line(summary.decision) if summary.decision else "none yet",
    }
    detail = f" ({status.detail})" if status.detail and status.state != "killed" else ""
    rows = [
        [
            git_date(seconds_of(e.time)) if e.time else "",
            e.name,
            event_detail(e, notebook.index.wishes),
        ]
        for e in notebook.events
    ]
    events = align(["when", "event", "detail"], rows)
    return [f"{notebook.slug}: {status.state}{detail}", *labelled(facts), "", *events]


def document(notebook: Notebook) -> dict[str, Any]:
    """The same for a program."""
    summary = notebook.summary
    return overview(notebook) | {
        "manifest": notebook.manifest,
        "summary": summary,
        "decision": summary.decision,
        "events": notebook.events,
        "kept": kept_outputs(notebook.repo, notebook.slug),
    }


def _result(summary: Summary) -> str:
    best = summary.best if summary.best_epoch else None
    text = f"{counted(summary.epochs, 'epoch')}, {summary.kept} kept, "
    text += progressed(summary.monitor, summary.baseline, best, summary.mode)
    if summary.best_epoch:
        text += f" in epoch {summary.best_epoch}"
    return ", ".join(filter(None, (text, test_gain(summary.test))))


def comparison(first: Notebook, second: Notebook, counts: Mapping[str, LineCounts]) -> list[str]:
    """Two experiments side by side, and the lines that the second one's best state differs in."""
    rows = compared_results(first, second)
    for fact in ("title", "idea"):
        texts = [shorten(getattr(n.manifest, fact) or "-", 40) for n in (first, second)]
        if texts[0] != texts[1]:
            rows.insert(_FACTS, [fact.replace("title", "target"), *texts, ""])
    columns = [first.slug, second.slug, "change"]
    lines = align(["", *columns], rows, columns)
    inputs = _input_lines(first, second)
    lines += ["", *inputs] if inputs else []
    if not counts:
        return [*lines, "", "the best states have the same content"]
    lines += ["", f"best state of {first.slug} -> best state of {second.slug}:"]
    return [*lines, *align(["file", "added", "removed"], file_rows(counts), ["added", "removed"])]


def _input_lines(first: Notebook, second: Notebook) -> list[str]:
    """Whether the scores of two experiments can be compared: by the files that measured them."""
    if not first.inputs or not second.inputs:
        return []
    rows = input_rows(first, second)
    if not rows:
        return [f"measured with the same evaluator and data: {counted(len(first.inputs), 'file')}"]
    return [
        "measured with other evaluator or data files: their scores cannot be compared",
        *align(["file", first.slug, second.slug], rows, []),
    ]


def removal(removed: Removal) -> list[str]:
    """The things that deleting removes, one a line."""
    lines = [
        f"the branch autopilot/{removed.slug}, at {tip[:7]}" for tip in removed.branch.values()
    ]
    lines += [f"the branch {name.removeprefix('refs/heads/')}" for name in removed.review]
    if removed.tags:
        first, last = min(removed.tags).removeprefix("refs/tags/"), max(removed.tags)
        more = f" to {last.rpartition('/')[2]}" if len(removed.tags) > 1 else ""
        lines.append(f"{counted(len(removed.tags), 'tag')}: {first}{more}")
    if removed.notes:
        kinds = ", ".join(sorted(name.rpartition("/")[2] for name in removed.notes))
        lines.append(f"its notes: {kinds}")
    if removed.snapshots:
        lines.append(counted(len(removed.snapshots), "snapshot") + " of your checkout")
    if removed.progress is not None:
        lines.append(f"the progress of the last epoch: {removed.progress}")
    if removed.candidates:
        lines.append(f"{counted(len(removed.candidates), 'candidate')} of the epoch in progress")
    if removed.worktree is not None:
        written = f", with {', '.join(map(str, removed.outputs))}" if removed.outputs else ""
        lines.append(f"the worktree {removed.worktree}{written}")
    if removed.report is not None:
        lines.append(f"its report {removed.report}")
    lines += [f"what a tracker has of it: {folder}" for folder in removed.trackers]
    lines += [f"kept from its evaluations: {replace(o, kept='')} in {o.kept}" for o in removed.kept]
    stay = (name.split("/", 2)[2] for name in removed.others)
    return lines + [f"but not {name}, which no run made" for name in stay]


def lessons(chosen: Sequence[Lesson], *, with_slug: bool) -> list[str]:
    """Lessons, one a line; what none of them has takes no column."""
    columns = [*(["experiment"] if with_slug else []), "epoch", "outcome", "gain", "strategy"]
    about = [x for x in ("category", "node") if any(getattr(lesson, x) for lesson in chosen)]
    rows = [_row(lesson, about, with_slug=with_slug) for lesson in chosen]
    columns += [*about, "what was done, and why it went so"]
    return align(columns, rows, ["epoch", "gain"])


def trend(
    notebook: Notebook, latest: Trend, ahead: int, strategies: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The trend of the metric, and the strategies that caused it."""
    if latest.direction == "unknown":
        return [f"{notebook.slug}: {notebook.unjudged}, so there is no trend"]
    monitor, mode = notebook.monitor
    lines = [
        f"{notebook.slug}: val {monitor} ({direction_words(mode)}) is {latest.direction}",
        f"best:       {figure(latest.best)}",
        f"rate:       a gain of {signed(latest.rate, of=latest.best)} an epoch over "
        f"{trend_window(latest)}, {latest.kept:.0%} of them kept",
    ]
    projected = latest.projection(ahead)
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
            signed(row["gain"], of=latest.best),
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


_STATES = 30


def frontier_lines(
    notebook: Notebook, states: RecordedStates, *, show_all: bool = False
) -> list[str]:
    """The states that no other one dominates, the best one first; the first 30 unless all."""
    slug = notebook.slug
    if not states.places:
        missing = f"no val results are recorded here: autopilot fetch {slug} brings them"
        return [missing if states.pool.states else notebook.unjudged]
    ranked = states.undominated()
    shown = ranked if show_all else ranked[:_STATES]
    columns, rows = frontier_table(states, shown)
    lines = align(columns, rows, columns[1:-1])
    if more := len(ranked) - len(shown):
        lines.append(f"{more:,} more are not shown: autopilot log {slug} --frontier --all")
    return [*lines, frontier_rule(states, len(ranked))]


def frontier_document(states: RecordedStates) -> list[dict[str, Any]]:
    """The same for a program; the name of a state is the last part of its tag."""
    return [
        {
            "state": each.state.name,
            "commit": each.state.revision,
            **picked(each.state, "epoch tries gains"),
            **picked(each, "value objectives items"),
        }
        for each in (states.undominated() if states.places else ())
    ]
