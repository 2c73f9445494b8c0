"""The settings and results of an experiment in words, and of two experiments side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopilot.core.figures import figures, lower_note, outcomes, setting, signed
from autopilot.core.memory import Memory, Trend
from autopilot.core.people import APPROVE, PAUSED, REVIEWED, STEERED
from autopilot.core.records.learnt import FAILURES, UNJUDGED
from autopilot.core.records.message import one_line
from autopilot.core.records.record import Event, Manifest
from autopilot.core.types import Datum, count_outcomes
from autopilot.git.objects import LineCounts
from autopilot.text import counted, jsonable, shorten
from autopilot.tracking.diagnosis import is_graded
from autopilot.tracking.notebook import Notebook
from autopilot.tuning.samplers import Importance, importance, space_of
from autopilot.tuning.spaces import Choice, Range, Value


def picked(owner: object, names: str) -> dict[str, Any]:
    """Some attributes of an object by their names, for a document.

    >>> picked(3 + 4j, "real imag")
    {'real': 3.0, 'imag': 4.0}
    """
    return {name: getattr(owner, name) for name in names.split()}


def decision_line(event: Event) -> str:
    """A decision in words."""
    did = {"promote": "promoted", "reject": "rejected"}[event.decision]
    who = f" by {event.reviewer}" if event.reviewer else ""
    why = f": {event.detail}" if event.detail else ""
    into = f" into {event.into} as {event.merge[:7]}" if event.into else ""
    return f"epoch {event.epoch} ({event.revision[:7]}) {did}{into}{who}{why}"


def words(notebook: Notebook) -> list[str]:
    """The words of people to the agent, one a line, with the steps that they reached."""
    said = (event for event in notebook.events if event.name == STEERED)
    return [f"said by {event_detail(event, notebook.index.wishes)}" for event in said]


def event_detail(event: Event, read: Mapping[str, int]) -> str:
    """The text of an event beside its name; of a person's word, with the epoch that read it."""
    by = f" (read in epoch {read[event.id]})" if event.id in read else " (not read yet)"
    if event.name == STEERED:
        return f"{event.reviewer}: {one_line(event.detail, 200)}{by}"
    if event.name == REVIEWED and event.decision == APPROVE:
        return f"epoch {event.epoch} approved by {event.reviewer}"
    if event.name == REVIEWED:
        why = one_line(event.detail, 200)
        return f"epoch {event.epoch} refused by {event.reviewer}: {why}{by}"
    if event.name == PAUSED:
        return f"by {event.reviewer}"
    if event.environment:
        return ", ".join(
            name if name.startswith("$") else f"{name} {value}"
            for name, value in event.environment.items()
        )
    return decision_line(event) if event.name == "decided" else event.detail


def settings(manifest: Manifest) -> dict[str, str]:
    """The manifest's settings, name to value, for a person and for comparing two."""
    facts = {
        "target": manifest.title or "library use, without `autopilot run`",
        "idea": manifest.idea,
        "hypothesis": manifest.hypothesis,
        "seed": str(manifest.seed),
        "base": manifest.base[:10],
        "base branch": manifest.base_branch,
        "directory": manifest.directory,
        "links": ", ".join(manifest.links),
        "works in": "your checkout (in place)" if manifest.in_place else "",
        "forked from": manifest.forked_from.replace("@", ", epoch "),
        "merged with": manifest.merged_with.replace("@", ", epoch "),
        "strategies": ", ".join(manifest.strategies),
    }
    facts |= {f"argument {name}": str(value) for name, value in manifest.hparams.items()}
    facts |= {f"option {name}": str(v) for name, v in manifest.options.items() if v is not None}
    for name, path in manifest.parameters.items():
        pattern = manifest.patterns.get(name, "")
        facts[f"parameter {name}"] = f"{path} ({pattern})" if pattern else path
    facts |= {f"version of {name}": version for name, version in manifest.versions.items()}
    return {name: value for name, value in facts.items() if value}


@dataclass(frozen=True, slots=True)
class Tuned:
    """The numbers and choices of an experiment's parameters.

    Args:
        names: Their names, as the records have them.
        states: The values of each epoch, in the order of the epochs.
        best: Those of the best state.
        best_epoch: The epoch that measured it.
        importance: How much each matters.
        spaces: Name to space, where it is known.
    """

    names: Sequence[str]
    states: Sequence[Mapping[str, Value]]
    best: Mapping[str, Value]
    best_epoch: int
    importance: Importance
    spaces: Mapping[str, str]

    @classmethod
    def of(cls, notebook: Notebook) -> Tuned | None:
        """Those of an experiment; None where its parameters have none."""
        epochs, spaces = notebook.epochs, notebook.manifest.spaces
        states = [epoch.record.values for epoch in epochs]
        names = list(dict.fromkeys(name for values in states for name in values))
        if not names or (best := notebook.best) is None:
            return None
        measured = [
            (epoch.record.values, epoch.value)
            for epoch in epochs
            if epoch.value is not None
            and math.isfinite(epoch.value)
            and epoch.record.reused is None
        ]
        found = importance(measured, notebook.monitor[1], spaces)
        return cls(names, states, best.record.values, best.number, found, spaces)

    def rows(self) -> list[tuple[str, str, str, float | None]]:
        """Name, the baseline's value, the best state's, and its share of importance, if known."""
        first, best, shares = self.states[0], self.best, self.importance.shares
        return [(n, setting(first.get(n)), setting(best.get(n)), shares.get(n)) for n in self.names]

    def document(self) -> dict[str, Any]:
        """For the page: a place in `options` stands for a choice."""
        names, columns = list[dict[str, Any]](), list[list[Any]]()
        for name, first, best, share in self.rows():
            values: list[Any] = [each.get(name) for each in self.states]
            space, options = space_of(self.spaces.get(name, "")), list[str]()
            if any(isinstance(value, str | bool) for value in values) or isinstance(space, Choice):
                known = space.options if isinstance(space, Choice) else ()
                there = [value for value in (*known, *values) if value is not None]
                options = list(dict.fromkeys(map(setting, there)))
                places = {text: place for place, text in enumerate(options)}
                values = [places.get(setting(v)) if v is not None else None for v in values]
            columns.append(values)
            log = isinstance(space, Range) and space.log
            own = {"name": name, "space": self.spaces.get(name, ""), "first": first, "best": best}
            names.append({**own, "share": share, "log": log, "options": options})
        points = [list(row) for row in zip(*columns, strict=True)]
        return {"names": names, "unknown": self.importance.unknown, "points": points}


def compared_results(first: Notebook, second: Notebook) -> list[list[str]]:
    """The results of two experiments: rows of a name, both values, and the change."""
    a, b = first.summary, second.summary
    facts = {
        "state": (first.status.state, second.status.state),
        "base": (first.manifest.base[:7], second.manifest.base[:7]),
        "seed": (first.manifest.seed, second.manifest.seed),
        "epochs": (a.epochs, b.epochs),
        "kept": (a.kept, b.kept),
        "best epoch": (a.best_epoch, b.best_epoch),
    }
    rows = [[name, *map(str, values), ""] for name, values in facts.items()]
    low = {s.monitor: lower_note(s.mode) for s in (a, b)}
    for name in dict.fromkeys([a.monitor, b.monitor]):
        if name:
            baselines = [s.baseline if s.monitor == name else None for s in (a, b)]
            rows.append([f"baseline val {name}{low.get(name, '')}", *_pair(*baselines)])
    for split in ("val", "test"):
        one, other = a.metrics.get(split, {}), b.metrics.get(split, {})
        for name in dict.fromkeys([*one, *other]):
            values = _pair(one.get(name), other.get(name))
            rows.append([f"best {split} {name}{low.get(name, '')}", *values])
    for name in dict.fromkeys([*a.strategies, *b.strategies]):
        tallies = [s.strategies.get(name) for s in (a, b)]
        kept = [f"{t.kept} of {t.used} kept" if t else "-" for t in tallies]
        rows.append([f"strategy {shorten(name, 30)}", *kept, ""])
    rows += [
        ["evaluations", f"{a.cost.evaluations:,}", f"{b.cost.evaluations:,}", ""],
        ["seconds", f"{a.cost.seconds:.1f}", f"{b.cost.seconds:.1f}", ""],
    ]
    if a.cost.tokens or b.cost.tokens:
        rows.append(["tokens", f"{a.cost.tokens:,}", f"{b.cost.tokens:,}", ""])
    if a.cost.cost_usd or b.cost.cost_usd:
        rows.append(["dollars", f"{a.cost.cost_usd:.2f}", f"{b.cost.cost_usd:.2f}", ""])
    return rows


def input_differences(first: Notebook, second: Notebook) -> list[dict[str, Any]]:
    """The evaluator's and data files that are not the same in both; empty where nothing is known.

    Of a file that only one of them read, the other's blob is None.
    """
    a, b = first.inputs, second.inputs
    if not a or not b:
        return []
    return [
        {"path": path, "first": a.get(path), "second": b.get(path)}
        for path in sorted({*a, *b})
        if a.get(path) != b.get(path)
    ]


def input_rows(first: Notebook, second: Notebook) -> list[list[str]]:
    """A row a file of `input_differences`: its path, and the start of both blob ids."""
    return [
        [file["path"], *((file[side] or "not read")[:10] for side in ("first", "second"))]
        for file in input_differences(first, second)
    ]


def by_strategy(memory: Memory) -> list[dict[str, Any]]:
    """A row a strategy, those that gained most first: how often it was used, kept, and failed."""
    blocked, rows = memory.blocked(), dict[str, dict[str, Any]]()
    for lesson in memory.lessons:
        for name in lesson.strategies() if lesson.outcome not in UNJUDGED else ():
            row = rows.setdefault(
                name, {"strategy": name, "used": 0, "kept": 0, "failed": 0, "gain": 0.0}
            )
            row["used"] += 1
            row["kept"] += lesson.outcome == "kept"
            row["failed"] += lesson.outcome in FAILURES
            row["gain"] += lesson.delta or 0.0 if lesson.outcome == "kept" else 0.0
    for name, row in rows.items():
        row["blocked"] = blocked.get(name)
    return sorted(rows.values(), key=lambda row: (-row["gain"], row["strategy"]))


def trend_window(trend: Trend) -> str:
    """The epochs that a trend was measured over, in words."""
    return "the last epoch" if trend.epochs == 1 else f"the last {trend.epochs} epochs"


def _pair(first: float | None, second: float | None) -> list[str]:
    change = second - first if first is not None and second is not None else None
    return [*figures(first, second), signed(change, of=first)]


def file_rows(counts: Mapping[str, LineCounts]) -> list[list[str]]:
    """A row a file: path, lines added, lines removed."""
    return [
        [path, "binary", ""] if c.binary else [path, f"+{c.added}", f"-{c.removed}"]
        for path, c in counts.items()
    ]


def file_documents(counts: Mapping[str, LineCounts]) -> list[dict[str, Any]]:
    """The same for a program."""
    return [{"path": path, **jsonable(count)} for path, count in counts.items()]


def file_totals(counts: Mapping[str, LineCounts]) -> str:
    """The number of files and lines that were changed.

    >>> file_totals({"a": LineCounts(2, 1, False), "b": LineCounts(1, 0, False)})
    '2 files, +3 -1'
    """
    added, removed = sum(c.added for c in counts.values()), sum(c.removed for c in counts.values())
    return f"{counted(len(counts), 'file')}, +{added} -{removed}"


def item_outcomes(items: Sequence[Datum], monitor: str) -> str:
    """The number of items by outcome; those that only a metric scores are counted by that metric.

    >>> item_outcomes([Datum(metrics={"score": 0.7}), Datum(success=True)], "score")
    '1 passed, 1 graded by score'
    """
    counts, graded = count_outcomes(items), sum(is_graded(item, monitor) for item in items)
    counts["unscored"] -= graded
    by = f"{graded} graded by {monitor}" if graded else ""
    return ", ".join(filter(None, (outcomes(counts), by)))
