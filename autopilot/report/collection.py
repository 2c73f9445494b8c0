"""A report: the complete record of an experiment, as the JSON that its page reads.

The list of epochs is plain; details, patches and items, which are long, are packed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from autopilot.core.figures import signed
from autopilot.core.memory import Memory
from autopilot.core.records.learnt import Learnt
from autopilot.core.records.message import epoch_number
from autopilot.core.records.record import Lesson, LlmRecord, StepRecord, TraceRecord
from autopilot.core.types import Cost
from autopilot.errors import AutopilotError
from autopilot.git import objects, refs
from autopilot.git.repository import Repository
from autopilot.report.comparison import (
    Tuned,
    by_strategy,
    event_detail,
    picked,
    settings,
    trend_window,
)
from autopilot.report.contents import Changes, DiffPool, Results, clipped, packed
from autopilot.report.search import SearchStory
from autopilot.tracking.epochs import Epoch
from autopilot.tracking.layout import experiments
from autopilot.tracking.memory import block_after_by_epoch, memory_of
from autopilot.tracking.notebook import Notebook

SPLITS = ("val", "train", "test")
COLUMNS = (
    *("number", "verdict", "outcome", "value", "delta", "best", "best_epoch", "from", "strategy"),
    *("summary", "reasons", "reused", "commit", "rollback", "steps", "violations", "cost", "time"),
)
_VERDICTS = ("baseline", "kept", "rejected")
_TEXT = 20_000
_STEP_TEXTS = ("summary", "rationale", "error")
_LESSON = ("epoch", "strategy", "outcome", "reason", "summary", "category", "node", "by_hand")
_IDS = 40
_LESSONS = 500
DETAILED = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An experiment as a report shows it.

    Args:
        rows: A list an epoch, oldest first: what COLUMNS names; the strategy as its place in texts.
        texts: The strategies.
        details: A dict an epoch: its steps, changes, lessons, failures, items fixed and broken.
        results: Those splits that have results, item by item.
        roles: The model calls and their cost, the dearest role first.
        memory: The memory that a resumed run would start with.
        forks: The experiments that took over a state of this one: slug, epoch, candidate or 0.
        net: From the base to the best.
        pool: The patches of all changes.
        absent: The kinds of notes that are missing although epochs exist.
        search: The candidates and the frontier; None where it was no search.
        bare: How many epochs have a row and no details, since there are too many.
    """

    notebook: Notebook
    rows: Sequence[Sequence[Any]]
    texts: Sequence[str]
    details: Sequence[Mapping[str, Any]]
    results: Mapping[str, Results]
    roles: Sequence[Mapping[str, Any]]
    memory: Memory
    forks: Sequence[tuple[str, int, int]]
    net: Changes
    pool: DiffPool
    search: SearchStory | None = None
    absent: Sequence[str] = ()
    bare: int = 0

    def document(self) -> dict[str, Any]:
        """The experiment for the page."""
        notebook = self.notebook
        manifest, last, status = notebook.manifest, notebook.last, notebook.status
        monitor, mode = notebook.monitor
        at = {name: place for place, name in enumerate(COLUMNS)}
        gain = notebook.test_gain(last.best_epoch) if last else None
        slug, branch, base = notebook.slug, notebook.layout.branch_name, manifest.base[:10]
        return {
            "slug": slug,
            "state": status.state,
            "detail": status.detail,
            "branch": branch,
            "tip": notebook.tip,
            **picked(manifest, "base base_branch idea forked_from merged_with"),
            "monitor": monitor,
            "mode": mode,
            "baseline": last.baseline if last else None,
            "best": last.best if last else None,
            "best_epoch": last.best_epoch if last else 0,
            "kept": notebook.kept,
            "violations": sum(row[at["violations"]] for row in self.rows),
            "test": notebook.test_metrics(last.best_epoch) if last else {},
            "test_gain": gain and [gain.before, gain.after, gain.low, gain.high],
            "spent": _cost(notebook.spent),
            "settings": list(settings(manifest).items()),
            "events": [
                [e.time, e.name, event_detail(e, notebook.index.wishes)] for e in notebook.events
            ],
            "series": _series(notebook.epochs),
            "tuned": tuned.document() if (tuned := Tuned.of(notebook)) else None,
            "columns": COLUMNS,
            "search": self.search and self.search.document(),
            **picked(self, "texts rows roles forks net"),
            "memory": _memory(self.memory),
            "results": [results.document() for results in self.results.values()],
            "details": packed(self.details),
            "commands": [
                f"autopilot log {slug}",
                f"autopilot show best -e {slug}",
                f"git log -p {base}..{branch}",
                f"git diff {base}...{branch}",
            ],
        }

    def left_out(self) -> list[str]:
        """A sentence for each limit that left something out."""
        slug, pool, sentences = self.notebook.slug, self.pool, []
        if self.absent:
            kinds = ", ".join(self.absent)
            sentences.append(
                f"there are no notes of {kinds} here: `autopilot fetch {slug}` brings them"
            )
        if self.bare:
            shows = f"`autopilot show EPOCH -e {slug}` has them"
            sentences.append(f"{self.bare:,} earlier epochs have no details here; {shows}")
        sentences += self.search.left_out(slug) if self.search else []
        files = sum(d["changes"].left_out for d in self.details) + self.net.left_out
        for count, which in (
            (files, "{:,} changed files are not listed"),
            (pool.files_left_out, "the lines of {:,} changed files are missing"),
            (pool.lines_left_out, "{:,} lines at the end of long diffs are missing"),
            (pool.long_lines, "{:,} very long lines of diffs are cut"),
        ):
            if count:
                shows = f"`autopilot diff EPOCH -e {slug}` shows it"
                sentences.append(f"{which.format(count)}; {shows}")
        for split, results in self.results.items():
            if results.left_out:
                sentences.append(
                    f"{results.left_out:,} {split} results are not in the heat map; "
                    f"`autopilot show EPOCH -e {slug} --json` has them"
                )
        return sentences


def collect(notebook: Notebook, pool: DiffPool | None = None, details: int = DETAILED) -> Report:
    """Reads an experiment for a report.

    Args:
        pool: Takes the patches; reports can share it.
        details: How many of the newest epochs have more than their row.
    """
    repo, epochs = notebook.repo, notebook.epochs
    pool = pool or DiffPool(repo)
    # The epochs with all details: the newest, and those that they are compared with.
    newest = epochs[-details:]
    wanted = {
        0,
        *(n for e in newest for n in (e.number, e.origin, e.record.best_epoch, e.measured)),
    }
    detailed = {epoch.number: epoch for epoch in epochs if epoch.number in wanted}
    results, memory = _results(notebook, detailed), memory_of(notebook)
    texts = list(dict.fromkeys(epoch.record.strategy for epoch in epochs))
    pairs = list(_epochs(notebook, detailed, results, memory.lessons, texts, pool))
    base, best = notebook.base or notebook.start, notebook.best_commit
    # Every run writes these kinds of notes; after a partial fetch some are missing.
    kinds = ("gradients", "memory", "traces") if len(epochs) > 1 else ()
    there = refs.list_refs(repo, notebook.layout.notes(""))
    return Report(
        notebook=notebook,
        rows=[row for row, _ in pairs],
        texts=texts,
        details=[detail for _, detail in pairs],
        results=results,
        roles=_roles(notebook),
        memory=memory,
        forks=list(_forks(repo, notebook.slug)),
        net=pool.between(objects.tree_of(repo, base), objects.tree_of(repo, best)),
        pool=pool,
        search=SearchStory.of(notebook, detailed),
        absent=[kind for kind in kinds if notebook.layout.notes(kind) not in there],
        bare=len(epochs) - len(detailed),
    )


def between(first: Notebook, second: Notebook, pool: DiffPool) -> Changes:
    """The changes from the best state of one experiment to that of another."""
    one, other = (notebook.best_commit for notebook in (first, second))
    return pool.between(objects.tree_of(first.repo, one), objects.tree_of(first.repo, other))


def _epochs(
    notebook: Notebook,
    detailed: Mapping[int, Epoch],
    results: Mapping[str, Results],
    lessons: Sequence[Lesson],
    texts: Sequence[str],
    pool: DiffPool,
) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Row and detail of each epoch, oldest first."""
    line, steps = notebook.line, defaultdict[int, dict[str, tuple[str, StepRecord]]](dict)
    for epoch in detailed.values():
        for commit, record in notebook.steps(epoch.number):
            steps[record.epoch][record.id] = (commit if record.changed else "", record)
    learnt = defaultdict[int, list[Lesson]](list)
    for lesson in lessons:
        learnt[lesson.epoch].append(lesson)
    places = {text: place for place, text in enumerate(texts)}
    measured = {epoch.number: epoch.measured for epoch in notebook.epochs}
    rules = block_after_by_epoch(notebook)
    val, counts = results.get("val", Results("val")), Learnt(rules[0])
    before: int | None = None
    bare: dict[str, Any] = {}
    for epoch in notebook.epochs:
        number = epoch.number
        counts.take(learnt[number])
        if number in rules:
            counts = Learnt(rules[number]).take(x for x in lessons if x.epoch <= number)
        changes = Changes()
        if epoch.steps and number in detailed and number:
            # A candidate's commits are beside the line.
            ends = notebook.before(number), epoch.steps[-1]
            trees = (line[c].tree if c in line else objects.tree_of(notebook.repo, c) for c in ends)
            changes = pool.between(*trees)
        known = measured[number]
        fixed, broken = val.turned(measured.get(number if before is None else before, known), known)
        own = sorted(steps[number].values(), key=lambda pair: pair[1].step)
        row = [
            number,
            _VERDICTS.index(epoch.verdict),
            epoch.record.outcome,
            _short(epoch.value),
            _short(epoch.delta),
            _short(epoch.record.best),
            epoch.record.best_epoch,
            before,
            places[epoch.record.strategy],
            clipped(epoch.record.summary, _TEXT),
            epoch.record.reasons,
            epoch.record.reused,
            epoch.steps[-1] if epoch.steps else epoch.commit,
            epoch.rollback,
            len(epoch.steps),
            sum(len(record.violations) for _, record in own),
            _cost(epoch.record.cost),
            line[epoch.commit].time_s,
        ]
        # Of those without details, which are many, most are as the one before.
        if number not in detailed and bare.get("blocked") == counts.blocked:
            before = epoch.record.best_epoch
            yield row, bare
            continue
        detail = {
            "steps": [_step(commit, record) for commit, record in own],
            "lessons": list(map(_lesson, learnt[number])) if number in detailed else [],
            "blocked": dict(counts.blocked),
            "measured": known,
            "counts": val.counts(known),
            "failures": val.failures.get(known, ()),
            "fixed": fixed[:_IDS],
            "fixed_count": len(fixed),
            "broken": broken[:_IDS],
            "broken_count": len(broken),
            "changes": changes,
        }
        bare = bare if number in detailed else detail
        yield row, detail
        before = epoch.record.best_epoch


def _step(commit: str, record: StepRecord) -> dict[str, Any]:
    texts = {name: clipped(getattr(record, name), _TEXT) for name in _STEP_TEXTS}
    gradients = {name: clipped(text, _TEXT) for name, text in record.gradients.items()}
    return {"commit": commit, **texts, "gradients": gradients, "violations": record.violations}


def _lesson(lesson: Lesson) -> dict[str, Any]:
    return {name: getattr(lesson, name) for name in _LESSON} | {"delta": _short(lesson.delta)}


def _series(epochs: Sequence[Epoch]) -> list[dict[str, Any]]:
    """The values of each split's metrics, None where an epoch has none; val comes first."""
    names = {(split, name): None for e in epochs for split, of in e.metrics.items() for name in of}
    ranked = sorted(names, key=lambda n: SPLITS.index(n[0]) if n[0] in SPLITS else len(SPLITS))
    return [
        {
            "split": split,
            "metric": name,
            "values": [_short(e.metrics.get(split, {}).get(name)) for e in epochs],
        }
        for split, name in ranked
    ]


def _memory(memory: Memory) -> dict[str, Any]:
    lessons, trend, text = memory.lessons, memory.trends(), ""
    if trend.direction != "unknown":
        rate = signed(trend.rate, of=trend.best)
        text = f"Over {trend_window(trend)}: {trend.direction}, {rate} an epoch."
    tally = itemgetter("strategy", "used", "kept", "failed", "gain")
    return {
        "tallies": list(map(tally, by_strategy(memory))),
        "blocked": memory.blocked(),
        "lessons": list(map(_lesson, lessons[-_LESSONS:])),
        "earlier": max(0, len(lessons) - _LESSONS),
        "trend": text,
    }


@dataclass(slots=True)
class _Calls:
    """The model calls of a role."""

    models: set[str] = field(default_factory=set)
    calls: int = 0
    unpriced: int = 0
    cost: Cost = Cost()
    by_epoch: dict[int, Cost] = field(default_factory=dict)


def _roles(notebook: Notebook) -> list[dict[str, Any]]:
    """Each role's calls and their cost, the dearest first; "other" is the cost of no call."""
    roles = defaultdict[str, _Calls](_Calls)
    for _, record in notebook.records(LlmRecord):
        role = roles[record.role]
        role.models.add(record.model)
        role.calls += 1
        role.unpriced += not record.priced
        role.cost += record.cost
        role.by_epoch[record.epoch] = role.by_epoch.get(record.epoch, Cost()) + record.cost
    spent = notebook.spent
    called = sum((role.cost for role in roles.values()), Cost())
    tokens, usd = spent.tokens - called.tokens, spent.cost_usd - called.cost_usd
    if tokens > 0 or usd > 1e-9:
        roles["other"] = _Calls(cost=Cost(tokens=max(tokens, 0), cost_usd=max(usd, 0.0)))
    dearest = sorted(roles.items(), key=lambda r: (-r[1].cost.cost_usd, -r[1].cost.tokens, r[0]))
    return [
        {
            "role": name,
            "models": sorted(role.models),
            "calls": role.calls,
            "unpriced": role.unpriced,
            "cost": _cost(role.cost),
            "by_epoch": [[epoch, *_cost(cost)] for epoch, cost in sorted(role.by_epoch.items())],
        }
        for name, role in dearest
    ]


def _results(notebook: Notebook, detailed: Mapping[int, Epoch]) -> dict[str, Results]:
    traces = defaultdict[str, dict[int, TraceRecord]](dict)
    for commit in dict.fromkeys(epoch.commit for epoch in detailed.values()):
        for trace in notebook.journal.read_on(commit, TraceRecord):
            if not trace.repeat:
                traces[trace.split][trace.epoch] = trace
    results = {x: Results(x) for x in dict.fromkeys([*SPLITS, *traces]) if x in traces}
    for split, of_split in results.items():
        for _, trace in sorted(traces[split].items()):
            of_split.add(trace)
    return results


def _forks(repo: Repository, slug: str) -> Iterator[tuple[str, int, int]]:
    for other in experiments(repo):
        try:
            manifest = Notebook(repo, other).manifest
        except AutopilotError:
            continue  # Its notes are not here: it cannot say where it comes from.
        for source in (manifest.forked_from, manifest.merged_with):
            name, _, state = source.rpartition("@")
            epoch, _, candidate = state.partition("-c")
            if name == slug and (number := epoch_number(epoch)) is not None:
                yield other, number, epoch_number(candidate) or 0


def _cost(of: Cost) -> list[float]:
    return [of.evaluations, of.tokens, round(of.cost_usd, 6), round(of.seconds, 3), of.saved]


def _short(value: float | None) -> float | None:
    """A number with nine digits: more than one can see, and half as long."""
    if value is None or not math.isfinite(value):
        return value
    return float(f"{value:.9g}")
