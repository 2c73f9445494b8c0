"""A report as the JSON that its page reads: the list of epochs plain, all that is long packed."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autopilot.cli.pages.experiment import event_detail
from autopilot.core.figures import signed
from autopilot.core.records.lessons import FAILURES
from autopilot.core.records.record import StepRecord
from autopilot.core.types import Cost
from autopilot.report.collection import EpochStory, Report, settings
from autopilot.report.cost import RoleCost
from autopilot.report.diffs import Changes, DiffPool, clipped
from autopilot.report.items import CODES, Results
from autopilot.text import jsonable, whole
from autopilot.tracking.notebook import Notebook

_PART_CHARACTERS = 250_000
_TEXT = 20_000
_IDS = 40
_VERDICTS = ("baseline", "kept", "rejected")


def packed(rows: Iterable[Any]) -> dict[str, Any]:
    """Rows in deflated parts, as base64, with the number of each part's first row."""
    starts, parts, group, size, count = [0], [], list[str](), 0, 0
    for row in rows:
        text = dumped(row)
        if group and size + len(text) > _PART_CHARACTERS:
            parts.append(_deflated(group))
            starts.append(count)
            group, size = [], 0
        group.append(text)
        size, count = size + len(text), count + 1
    parts.append(_deflated(group))
    return {"starts": starts, "parts": parts}


def _deflated(group: Sequence[str]) -> str:
    squeeze = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    text = f"[{','.join(group)}]".encode()
    return base64.b64encode(squeeze.compress(text) + squeeze.flush()).decode()


def dumped(value: Any) -> str:
    """JSON in few characters; what UTF-8 cannot store is replaced."""
    try:
        text = _ENCODER.encode(value)
    except ValueError:  # NaN and infinity, which are rare, become words.
        text = _ENCODER.encode(jsonable(value))
    return whole(text)


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=jsonable
)


def patches(pool: DiffPool) -> dict[str, Any]:
    """The patches of all changes, packed: (binary, lines left out, hunks)."""
    return packed(
        [p.binary, p.left_out, [[h.old_start, h.new_start, h.lines] for h in p.hunks]]
        for p in pool.patches
    )


def experiment(report: Report) -> dict[str, Any]:
    """An experiment for the page."""
    notebook, stories = report.notebook, report.stories
    manifest, last, status = notebook.manifest, notebook.last, notebook.status
    monitor, mode = notebook.monitor
    texts = list(dict.fromkeys(story.epoch.strategy for story in stories))
    places = {text: place for place, text in enumerate(texts)}
    rows = [_row(story, places) for story in stories]
    return {
        "slug": notebook.slug,
        "state": status.state,
        "detail": status.detail,
        "branch": notebook.layout.branch_name,
        "tip": notebook.tip,
        "base": manifest.base,
        "base_branch": manifest.base_branch,
        "idea": manifest.idea,
        "monitor": monitor,
        "mode": mode,
        "baseline": last.baseline if last else None,
        "best": last.best if last else None,
        "best_epoch": last.best_epoch if last else 0,
        "kept": sum(story.epoch.verdict == "kept" for story in stories),
        "violations": sum(len(r.violations) for s in stories for _, r in s.steps),
        "test": notebook.test_metrics(last.best_epoch) if last else {},
        "test_gain": _test_gain(notebook),
        "spent": _cost(notebook.spent),
        "settings": list(settings(manifest).items()),
        "events": [[e.time, e.name, event_detail(e)] for e in notebook.events],
        "series": _series(stories),
        "columns": _COLUMNS,
        "texts": texts,
        "rows": rows,
        "roles": [_role(role) for role in report.roles],
        "memory": _memory(report),
        "results": [_results(results) for results in report.results.values()],
        "forks": report.forks,
        "forked_from": manifest.forked_from,
        "merged_with": manifest.merged_with,
        "net": _changes(report.net),
        "details": packed(_detail(story) for story in stories),
        "commands": commands(report),
    }


def _test_gain(notebook: Notebook) -> list[float | None] | None:
    """Baseline, best state, and the interval of the gain."""
    gain = notebook.test_gain(notebook.last.best_epoch) if notebook.last else None
    return None if gain is None else [gain.before, gain.after, gain.low, gain.high]


def commands(report: Report) -> list[str]:
    """How to read on in a terminal."""
    slug, branch = report.notebook.slug, report.notebook.layout.branch_name
    base = report.notebook.manifest.base[:10]
    return [
        f"autopilot log {slug}",
        f"autopilot show best -e {slug}",
        f"git log -p {base}..{branch}",
        f"git diff {base}...{branch}",
    ]


_COLUMNS = (
    *("number", "verdict", "outcome", "value", "delta", "best", "best_epoch", "from", "strategy"),
    *("summary", "reasons", "reused", "commit", "rollback", "steps", "violations", "cost", "time"),
)


def _row(story: EpochStory, places: Mapping[str, int]) -> list[Any]:
    """What _COLUMNS names."""
    epoch = story.epoch
    return [
        epoch.number,
        _VERDICTS.index(epoch.verdict),
        epoch.outcome,
        _short(epoch.value),
        _short(epoch.delta),
        _short(epoch.best),
        epoch.best_epoch,
        story.started_from,
        places[epoch.strategy],
        clipped(epoch.summary, _TEXT),
        epoch.reasons,
        epoch.reused,
        epoch.steps[-1] if epoch.steps else epoch.commit,
        epoch.rollback,
        len(epoch.steps),
        sum(len(record.violations) for _, record in story.steps),
        _cost(epoch.cost),
        story.time_s,
    ]


def _series(stories: Sequence[EpochStory]) -> list[dict[str, Any]]:
    """The values of each split's metrics, None where an epoch has none; val comes first."""
    names = dict.fromkeys(
        (split, metric)
        for story in stories
        for split, metrics in story.epoch.metrics.items()
        for metric in metrics
    )
    order = ("val", "train", "test")
    ranked = sorted(names, key=lambda n: order.index(n[0]) if n[0] in order else len(order))
    return [
        {
            "split": split,
            "metric": metric,
            "values": [_short(s.epoch.metrics.get(split, {}).get(metric)) for s in stories],
        }
        for split, metric in ranked
    ]


def _detail(story: EpochStory) -> dict[str, Any]:
    return {
        "steps": [_step(commit, record) for commit, record in story.steps],
        "lessons": [_lesson(lesson) for lesson in story.lessons],
        "blocked": story.blocked,
        "measured": story.measured,
        "counts": story.counts,
        "failures": [[f.id, f.text, f.outcome] for f in story.failures],
        "fixed": story.fixed[:_IDS],
        "fixed_count": len(story.fixed),
        "broken": story.broken[:_IDS],
        "broken_count": len(story.broken),
        "changes": _changes(story.changes),
    }


def _step(commit: str, record: StepRecord) -> dict[str, Any]:
    return {
        "commit": commit,
        "summary": clipped(record.summary, _TEXT),
        "rationale": clipped(record.rationale, _TEXT),
        "gradients": {name: clipped(text, _TEXT) for name, text in record.gradients.items()},
        "error": clipped(record.error, _TEXT),
        "violations": record.violations,
    }


def _lesson(lesson: Any) -> dict[str, Any]:
    names = ("epoch", "strategy", "outcome", "reason", "summary", "category", "node", "by_hand")
    return {name: getattr(lesson, name) for name in names} | {"delta": _short(lesson.delta)}


def _changes(changes: Changes) -> dict[str, Any]:
    return {"files": changes.files, "left_out": changes.left_out}


def _results(results: Results) -> dict[str, Any]:
    return {
        "split": results.split,
        "codes": {code: outcome for outcome, code in CODES.items()},
        "epochs": list(results.rows),
        "ids": packed([results.ids]),
        "rows": packed(results.rows.values()),
    }


def _role(role: RoleCost) -> dict[str, Any]:
    return {
        "role": role.role,
        "models": sorted(role.models),
        "calls": role.calls,
        "unpriced": role.unpriced,
        "cost": _cost(role.cost),
        "by_epoch": [[epoch, *_cost(cost)] for epoch, cost in sorted(role.by_epoch.items())],
    }


def _memory(report: Report) -> dict[str, Any]:
    lessons = report.memory.lessons
    tallies: dict[str, list[Any]] = {}
    for lesson in (x for x in lessons if x.outcome not in ("blocked", "unblocked")):
        for name in lesson.strategies():
            tally = tallies.setdefault(name, [name, 0, 0, 0, 0.0])
            tally[1] += 1
            tally[2] += lesson.outcome == "kept"
            tally[3] += lesson.outcome in FAILURES
            tally[4] += lesson.delta or 0.0 if lesson.outcome == "kept" else 0.0
    trend = report.memory.trends()
    text = ""
    if trend.direction != "unknown":
        over = "the last epoch" if trend.epochs == 1 else f"the last {trend.epochs} epochs"
        text = f"Over {over}: {trend.direction}, {signed(trend.rate, of=trend.best)} an epoch."
    return {
        "tallies": sorted(tallies.values(), key=lambda tally: -tally[4]),
        "blocked": report.memory.blocked(),
        "lessons": [_lesson(lesson) for lesson in lessons[-_LESSONS:]],
        "earlier": max(0, len(lessons) - _LESSONS),
        "trend": text,
    }


_LESSONS = 500


def _cost(cost: Cost) -> list[float]:
    return [cost.evaluations, cost.tokens, round(cost.cost_usd, 6), round(cost.seconds, 3)]


def _short(value: float | None) -> float | None:
    """A number with nine digits: more than one can see, and half as long."""
    if value is None or not math.isfinite(value):
        return value
    return float(f"{value:.9g}")
