"""Pages of `log` and `status`: tables, a chart, and what to type next; documents for a program."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, TypeGuard

from autopilot.cli.arguments import name_before_epoch
from autopilot.cli.pages.epoch import ODD_OUTCOMES, commit_cell, tried
from autopilot.core.figures import (
    costs,
    direction_words,
    figure,
    figures,
    lower_note,
    progressed,
    setting,
    signed,
    test_gain,
)
from autopilot.core.records.index import Judged
from autopilot.core.records.message import epoch_tag, state_name
from autopilot.errors import AutopilotError
from autopilot.git import refs
from autopilot.git.repository import Repository
from autopilot.report.comparison import Tuned, words
from autopilot.text import (
    ago,
    align,
    counted,
    display_width,
    fitting,
    git_date,
    iso,
    labelled,
    pairs,
    shorten,
)
from autopilot.tracking.attribution import state_of
from autopilot.tracking.epochs import Epoch
from autopilot.tracking.layout import experiments
from autopilot.tracking.notebook import Notebook, Status

_OTHER_METRICS = 3
_LEAST_STRATEGY = 12
_OF_LAST = ("monitor", "mode", "baseline", "best", "best_epoch")
_WORKS_IN = {True: "your checkout (in place)", False: "a worktree of its own"}
_UNFINISHED = ("created", "waiting", "interrupted", "crashed", "killed")


def head(notebook: Notebook) -> list[str]:
    """The experiment's state, base, and result so far."""
    last, manifest = notebook.last, notebook.manifest
    base = f"base {manifest.base[:7]} ({manifest.base_branch}), "
    judged = f"{counted(last.epoch, 'epoch')}, {notebook.kept} kept, " if last else ""
    return [f"{notebook.slug}: {_state(notebook.status)}", f"{base}{judged}{_gain(notebook)}"]


def table(notebook: Notebook, epochs: Sequence[Epoch], width: int | None) -> list[str]:
    """The table of epochs: its heading, and a line for each.

    Args:
        width: Columns; strategies are shortened to fit. None for as wide as need be.
    """
    monitor, mode = notebook.monitor
    # An epoch that failed may have an accuracy of 0 where the others have none.
    valued = [epoch for epoch in epochs if epoch.value is not None] or epochs
    others = dict.fromkeys(name for epoch in valued for name in epoch.metrics["val"])
    others.pop(monitor, None)
    if len(others) > _OTHER_METRICS:
        others.clear()
    shown = [figures(epoch.value, epoch.record.best, epoch.before) for epoch in epochs]
    values, bests = [texts[0] for texts in shown], [texts[1] for texts in shown]
    states = {state_name(epoch.record): epoch.record.values for epoch in epochs}

    def before(epoch: Epoch) -> Mapping[str, object]:
        if epoch.origin is None or not epoch.record.values:
            return {}
        name = epoch.record.origin or epoch_tag(epoch.origin)
        known = states.get(name)
        return state_of(notebook, name).record.values if known is None else known

    deltas = [signed(epoch.delta, of=epoch.before) for epoch in epochs]
    value_width, delta_width = (max(map(len, cells), default=0) for cells in (values, deltas))
    columns = ["epoch", f"val {monitor}{lower_note(mode)}", *[f"val {name}" for name in others]]
    made = ["from"] * any(epoch.record.is_candidate for epoch in epochs)
    columns += ["best", "verdict", *made, "strategy", "commit"]
    right = ["epoch", "best", *[f"val {name}" for name in others]]
    rows = [
        [
            f"c{epoch.record.candidate}" if epoch.record.is_candidate else str(epoch.number),
            f"{value:>{value_width}}  {delta:>{delta_width}}".rstrip(),
            *[figure(epoch.metrics["val"].get(name)) for name in others],
            best,
            epoch.verdict,
            *[" and ".join(epoch.record.parents) for _ in made],
            shorten(tried(epoch.record, before(epoch)), None),
            commit_cell(
                epoch.record,
                # A rejected epoch's commit is the state that it went back to.
                epoch.commit if epoch.verdict != "rejected" else ("", *epoch.steps)[-1],
            ),
        ]
        for epoch, value, delta, best in zip(epochs, values, deltas, bests, strict=True)
    ]
    lines = align(columns, rows, right)
    excess = max(map(len, lines)) - width if width else 0
    if excess > 0:
        at = columns.index("strategy")
        room = max(max(len(row[at]) for row in rows) - excess, _LEAST_STRATEGY)
        for row in rows:
            row[at] = shorten(row[at], room)
        lines = align(columns, rows, right)
    return lines


def foot(notebook: Notebook) -> list[str]:
    """The epoch in progress, and what to type next."""
    lines = words(notebook)
    if (epoch := notebook.going_on) is not None:
        lines.append(f"epoch {epoch} has no verdict yet: autopilot show {epoch} names its steps")
    if notebook.status.state in _UNFINISHED:
        lines.append(f"go on: {notebook.goes_on_by}")
    return lines


def rows(
    repo: Repository, project: str | None, row: Callable[[Notebook], dict[str, Any]]
) -> list[dict[str, Any]]:
    """A row an experiment, newest first; one that cannot be read does not hide the others."""
    ranked: list[tuple[tuple[int, int], dict[str, Any]]] = []
    for slug in experiments(repo, project):
        try:
            notebook = Notebook(repo, slug)
            ranked.append((notebook.recency, row(notebook)))
        except AutopilotError as error:
            damaged = {"state": "unreadable", "detail": error.message, "updated": ""}
            ranked.append(((0, 0), {"experiment": slug, **damaged}))
    return [row for _, row in sorted(ranked, key=itemgetter(0), reverse=True)]


def none_yet(project: str | None) -> list[str]:
    """The lines printed if no experiment exists."""
    if project:
        run = f"autopilot -p {project} run"
        return [f"no experiments of the project {project} yet", f"make one: {run}"]
    run = "autopilot init, or autopilot run path/to/file.py"
    return ["no experiments yet", f"make one: {run}"]


def overview(notebook: Notebook) -> dict[str, Any]:
    """The state of an experiment, for a program; does not read all of its epochs."""
    last, status, manifest = notebook.last, notebook.status, notebook.manifest
    judged = last.epoch if last else 0
    return {
        "experiment": notebook.slug,
        "state": status.state,
        "detail": status.detail,
        "stop_reason": status.detail if status.state in ("finished", "stopped") else None,
        "branch": notebook.layout.branch_name,
        "tip": notebook.tip,
        "base": manifest.base,
        "base_branch": manifest.base_branch,
        "epochs": judged,
        "kept": notebook.kept,
        "rejected": judged - notebook.kept,
        **{name: getattr(last, name, None) for name in _OF_LAST},
        "cost": notebook.spent,
        "updated": iso(notebook.time_s),
    }


def standing(row: Mapping[str, Any]) -> list[str]:
    """The first four cells of an experiment's row: its name, state, epochs, and those kept."""
    return [row["experiment"], row["state"], *(str(row.get(x, "-")) for x in ("epochs", "kept"))]


def seconds_of(time: str) -> float:
    """An ISO 8601 time as seconds since 1970."""
    return datetime.fromisoformat(time).timestamp()


def status_table(rows: Sequence[Mapping[str, Any]], now_s: float, width: int | None) -> list[str]:
    """All experiments, one a line."""
    columns = ["experiment", "state", "epochs", "kept", "metric", "baseline", "best", "updated"]
    cells = [
        [
            *standing(row),
            f"val {row['monitor']}{lower_note(row['mode'])}" if row.get("monitor") else "-",
            *figures(row.get("baseline"), row.get("best")),
            ago(now_s - seconds_of(row["updated"])) if row["updated"] else "-",
            row["detail"] if row["state"] != "killed" else "",
        ]
        for row in rows
    ]
    lines = align([*columns, "detail"], cells, right=("epochs", "kept", "baseline", "best"))
    return [shorten_end(line, width) for line in lines]


def shorten_end(line: str, width: int | None) -> str:
    """A line cut at its end, its spaces left as they are."""
    if width is None or display_width(line) <= width:
        return line
    return fitting(line, max(width - 3, 0)).rstrip() + "..."


def status_page(notebook: Notebook) -> list[str]:
    """Everything about one experiment, and what to type next."""
    manifest, last, slug = notebook.manifest, notebook.last, notebook.slug
    branch = notebook.layout.branch_name
    count = counted(notebook.index.length, "commit")
    started = notebook.events[0].time if notebook.events else ""
    facts = {
        "target": manifest.title or "library use, without `autopilot run`",
        "arguments": pairs(manifest.hparams),
        "options": pairs({k: v for k, v in manifest.options.items() if v is not None}),
        "seed": str(manifest.seed),
        "idea": manifest.idea,
        "hypothesis": manifest.hypothesis,
        "base": f"{manifest.base[:7]} ({manifest.base_branch})",
        "fork of": manifest.forked_from.replace("@", ", epoch "),
        "branch": f"{branch}, {count}, tip {notebook.tip[:7]}",
        "parameters": pairs(manifest.parameters),
        "works in": _WORKS_IN[manifest.in_place] if manifest.target else "",
        "linked": ", ".join(manifest.links),
        "metric": f"val {last.monitor}, {direction_words(last.mode)}" if last else "",
        "result": _gain(notebook),
        "epochs": _counts(notebook) if last else "",
        "cost": costs(notebook.spent),
        "started": git_date(seconds_of(started)) if started else "",
        "updated": f"{git_date(notebook.time_s)} ({ago(time.time() - notebook.time_s)})",
    }
    following = [f"  {line}" for line in _next(notebook)]
    return [f"{slug}: {_state(notebook.status)}", *labelled(facts), "next:", *following]


def _next(notebook: Notebook) -> list[str]:
    slug, branch, base = notebook.slug, notebook.layout.branch_name, notebook.manifest.base_branch
    if refs.read_ref(notebook.repo, f"refs/heads/{base}") is None:
        base = notebook.manifest.base[:7]
    does = {}
    if notebook.status.state in _UNFINISHED:
        does[notebook.goes_on_by] = "go on where it was left"
    does[f"autopilot log {slug}"] = "every epoch; --graph draws them"
    if notebook.last is not None and notebook.last.best_epoch:
        does[f"autopilot show best -e {slug}"] = "the best epoch: why, scores, failures, diff"
        does[f"git log -p {base}..{branch}"] = "every step as a commit"
        does[f"git diff {base}...{branch}"] = "the net change"
        does[f"autopilot propose create {slug}"] = "a branch for a pull request"
        plan = f"autopilot promote plan {name_before_epoch(slug)}"
        does[plan] = "take it: what would change, and the gates"
    return labelled(does, gap=3)


def _counts(notebook: Notebook) -> str:
    outcomes = notebook.index.outcomes
    odd = ", ".join(f"{outcomes[name]} {name}" for name in ODD_OUTCOMES if outcomes[name])
    judged, kept = outcomes.total(), outcomes["kept"]
    text = f"{judged} judged: {kept} kept, {judged - kept} rejected"
    return f"{text} ({odd})" if odd else text


def _state(status: Status) -> str:
    if status.state == "killed":
        return "killed (no end is recorded)"
    return f"{status.state} ({status.detail})" if status.detail else status.state


def _gain(notebook: Notebook) -> str:
    last = notebook.last
    if last is None:
        return notebook.unjudged
    value = last.best if last.best_epoch else None
    best = f"best: epoch {last.best_epoch}, "
    best += progressed(last.monitor, last.baseline, value, last.mode)
    return ", ".join(filter(None, (best, test_gain(notebook.test_gain(last.best_epoch)))))


# The bit of each dot of a braille character, by row from the top and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
# The lines of a drawing over a number or choice, without its axis.
_SLICE_HEIGHT = 5
_KEPT, _BEST, _LINE = "●", "─", "⠒"


def chart(points: Sequence[Judged], name: str, *, width: int = 72, height: int = 10) -> list[str]:
    """A chart's lines: the metric as dots, the best so far as a line, kept epochs as circles.

    Args:
        points: One an epoch, oldest first; more than there are columns share them.
        height: Lines of the drawing; axis, labels and legend come below it.

    >>> print(chart([Judged(0, 0.5, 0.5, True)], "f1", width=20, height=1)[0])
    0.500 ┤●
    """
    seen = [v for p in points for v in (p.value, p.best) if _finite(v)]
    if not seen:
        return [f"{name} has no finite value yet"]
    low, high = min(seen), max(seen)
    marks = {0: high, height // 2: (low + high) / 2, height - 1: low} if high > low else {}
    labels = {r: _label(v, high - low) for r, v in (marks or {height // 2: low}).items()}
    margin = max(len(label) for label in labels.values())
    columns = max(width - margin - 2, 10)
    stretch = (2 * columns - 1) / max(len(points) - 1, 1)

    def x(index: int) -> int:
        return round(index * stretch)

    def y(value: float) -> int:
        """Dots from the top."""
        share = (high - value) / (high - low) if high > low else 0.5
        return round(share * (4 * height - 1))

    dots = [[0] * columns for _ in range(height)]
    cells = [[" "] * columns for _ in range(height)]
    # Of thousands of epochs, most are drawn over one another.
    strokes = set[tuple[tuple[int, int], tuple[int, int]]]()
    for i, point in enumerate(points):
        if _finite(point.value):
            before = points[i - 1].value if i else None
            start = (x(i - 1), y(before)) if _finite(before) else (x(i), y(point.value))
            strokes.add((start, (x(i), y(point.value))))
        if _finite(point.best):
            until = x(i + 1) // 2 if i + 1 < len(points) else x(i) // 2 + 1
            for column in range(x(i) // 2, until):
                cells[y(point.best) // 4][column] = _BEST
    for across, down in (dot for stroke in strokes for dot in _line(*stroke)):
        dots[down // 4][across // 2] |= _DOTS[down % 4][across % 2]
    for row in range(height):
        drawn = zip(dots[row], cells[row], strict=True)
        cells[row] = [chr(0x2800 + bits) if bits else cell for bits, cell in drawn]
    for i, point in enumerate(points):
        if point.is_kept and _finite(point.value):
            cells[y(point.value) // 4][x(i) // 2] = _KEPT
    lines = [
        f"{labels.get(row, ''):>{margin}} {'┤' if row in labels else '│'}{''.join(cells[row])}"
        for row in range(height)
    ]
    first, last = f"epoch {points[0].number}", str(points[-1].number) if len(points) > 1 else ""
    legend = f"{_LINE * 2} {name}   {_BEST * 2} best so far   {_KEPT} kept"
    below = (f"└{'─' * columns}", f" {first}{last:>{columns - len(first)}}", f" {legend}")
    return [line.rstrip() for line in (*lines, *(f"{'':{margin}} {line}" for line in below))]


def slices(notebook: Notebook, *, width: int) -> list[str]:
    """A plot of the metric over each number or choice, the most important first."""
    if (tuned := Tuned.of(notebook)) is None:
        return []
    found, epochs, lines = tuned.document(), notebook.epochs, list[str]()
    for place, own in sorted(enumerate(found["names"]), key=lambda n: -(n[1]["share"] or 0)):
        rows = zip((row[place] for row in found["points"]), epochs, strict=True)
        known = [(x, e.value, e.verdict) for x, e in rows if x is not None and _finite(e.value)]
        known = [each for each in known if each[0] > 0 or not own["log"]]  # an agent may write any
        share = f", importance {own['share']:.0%}" if own["share"] is not None else ""
        change = " -> ".join(dict.fromkeys((own["first"], own["best"])))
        lines += ["", f"{own['name']} {change}{share}"]
        xs, ys = [x for x, *_ in known], [y for _, y, _ in known]
        if not (len(set(xs)) > 1 and len(set(ys)) > 1):
            continue
        top, low = figures(max(ys), min(ys))
        margin = max(len(top), len(low))
        columns = max(width - margin - 2, 10)
        options, scale = own["options"], math.log if own["log"] else float
        left, right = (0, len(options)) if options else (scale(min(xs)), scale(max(xs)))
        cells = [[" "] * columns for _ in range(_SLICE_HEIGHT)]
        for x, y, verdict in sorted(known, key=lambda each: each[2] != "rejected"):
            down = (max(ys) - y) / (max(ys) - min(ys)) * (_SLICE_HEIGHT - 1)
            across = (scale(x) - left) / (right - left) * (columns - 1)
            cells[round(down)][round(across)] = "○" if verdict == "rejected" else _KEPT
        labels = {0: f"{top:>{margin}} ┤", _SLICE_HEIGHT - 1: f"{low:>{margin}} ┤"}
        lines += [labels.get(n, f"{'':{margin}} │") + "".join(row) for n, row in enumerate(cells)]
        first, last = setting(min(xs)), setting(max(xs))
        slot = columns // max(len(options), 1)
        below = "".join(f"{o[: slot - 1]:<{slot}}" for o in options) if options else first
        lines.append(f"{'':{margin}}  {below}" + f"{last:>{columns - len(first)}}" * (not options))
    if unknown := tuned.importance.unknown:
        lines += ["", f"importance is not known: {unknown}"]
    return [line.rstrip() for line in lines]


def _line(start: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int]]:
    across, down = end[0] - start[0], end[1] - start[1]
    steps = max(abs(across), abs(down), 1)
    for step in range(steps + 1):
        yield start[0] + round(across * step / steps), start[1] + round(down * step / steps)


def _label(value: float, span: float) -> str:
    """Enough decimals to tell the labels of an axis apart."""
    if abs(value) >= 1e10 or 0 < span < 1e-9:
        return f"{value:.3e}"
    return f"{value:.{min(max(2 - math.floor(math.log10(span or 0.1)), 0), 12)}f}"


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
