"""What the reading commands say: a notebook as lines for a person, or as a document."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from autopilot.cli.output import align, number, shorten
from autopilot.core.message import one_line
from autopilot.core.types import Cost
from autopilot.git import commits, refs
from autopilot.git.objects import LineCounts
from autopilot.tracking.notebook import Epoch, Notebook, Status

_OTHER_METRICS = 3
_EXAMPLES = 5
_LEAST_STRATEGY = 12
_UNFINISHED = ("interrupted", "crashed", "killed")
_ODD = ("unchanged", "repeated", "failed")


# --- log ---------------------------------------------------------------------------------------


def head(notebook: Notebook) -> list[str]:
    """What the experiment is and how it stands."""
    last, manifest = notebook.last, notebook.manifest
    lines = [f"{notebook.slug}: {_state(notebook.status)}"]
    base = f"base {manifest.base[:7]} ({manifest.base_branch})"
    if last is None:
        return [*lines, f"{base}, no epoch is judged yet"]
    lines.append(f"{base}, {_count(last.epoch, 'epoch')}, {notebook.kept} kept, {_gain(notebook)}")
    return lines


def table(notebook: Notebook, epochs: Sequence[Epoch], width: int | None) -> list[str]:
    """The table of epochs: its heading, and a line for each.

    Args:
        notebook: The experiment.
        epochs: Those to show.
        width: Columns; strategies are shortened to fit. None for as wide as need be.
    """
    monitor = notebook.monitor[0]
    others = [name for name in _val_metrics(epochs) if name != monitor]
    others = others if len(others) <= _OTHER_METRICS else []
    values = [number(epoch.value) for epoch in epochs]
    deltas = [_change(epoch.delta) for epoch in epochs]
    value_width, delta_width = (max(map(len, cells), default=0) for cells in (values, deltas))
    columns = ["epoch", f"val {monitor}", *[f"val {name}" for name in others]]
    columns += ["best", "verdict", "strategy", "commit"]
    right = ["epoch", "best", *[f"val {name}" for name in others]]
    rows = [
        [
            str(epoch.number),
            f"{value:>{value_width}}  {delta:>{delta_width}}".rstrip(),
            *[number(epoch.metrics["val"].get(name)) for name in others],
            number(epoch.best),
            epoch.verdict,
            shorten(epoch.strategy or epoch.summary, None),
            _commit(epoch),
        ]
        for epoch, value, delta in zip(epochs, values, deltas, strict=True)
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
    """What is not told by the table, and what to type next."""
    lines = []
    state, epoch = notebook.status.state, notebook.going_on
    if state in ("running", *_UNFINISHED) and epoch is not None:
        lines.append(f"epoch {epoch} has no verdict yet")
    if state in _UNFINISHED:
        lines.append(f"go on: autopilot resume {notebook.slug}")
    return lines


def epochs(notebook: Notebook, chosen: Sequence[Epoch]) -> list[dict[str, Any]]:
    """Epochs for a program."""
    return [_epoch(notebook, epoch) for epoch in chosen]


def _epoch(notebook: Notebook, epoch: Epoch) -> dict[str, Any]:
    tag = notebook.layout.tag_name(epoch.number) if epoch.verdict != "rejected" else None
    return {
        "epoch": epoch.number,
        "verdict": epoch.verdict,
        "outcome": epoch.outcome,
        "value": epoch.value,
        "delta": epoch.delta,
        "best": epoch.best,
        "best_epoch": epoch.best_epoch,
        "metrics": epoch.metrics,
        "strategy": epoch.strategy,
        "summary": epoch.summary,
        "reasons": epoch.reasons,
        "reused": epoch.reused,
        "commit": epoch.commit,
        "commits": epoch.steps,
        "rollback": epoch.rollback,
        "tag": tag,
        "cost": epoch.cost,
    }


def _commit(epoch: Epoch) -> str:
    if epoch.verdict != "rejected":
        return epoch.commit[:7]
    odd = f" ({epoch.outcome})" if epoch.outcome in _ODD else ""
    if not epoch.steps:
        return f"-      {odd}"
    return f"{epoch.steps[-1][:7]}{odd} -> rolled back to epoch {epoch.best_epoch}"


# --- show --------------------------------------------------------------------------------------


def epoch_page(notebook: Notebook, epoch: Epoch, width: int | None) -> list[str]:
    """All about an epoch, but for the diff; in the form of `git show`."""
    commit = commits.read_commit(notebook.repo, epoch.steps[-1] if epoch.steps else epoch.commit)
    tag = notebook.layout.tag_name(epoch.number)
    lines = [f"commit {commit.id}" + (f" (tag: {tag})" if epoch.verdict != "rejected" else "")]
    lines.append(f"Epoch:    {epoch.number} of {notebook.slug}, {_verdict(epoch)}")
    lines.append(f"Date:     {_git_date(commit.time_s)}")
    if epoch.strategy:
        lines.append(f"Strategy: {one_line(epoch.strategy, 1000)}")
    lines += [f"Cost:     {_cost(epoch.cost)}", ""]
    if epoch.number == 0:
        lines += ["    the state before anything was changed", ""]
    lines += _steps(notebook, epoch)
    lines += [f"{epoch.verdict}: {reason}" for reason in epoch.reasons]
    for block in (
        _scores(notebook, epoch),
        _failures(notebook, epoch, width),
        _lessons(notebook, epoch),
    ):
        lines += ["", *block] if block else []
    return [*lines, ""] if epoch.steps else lines


def epoch_document(notebook: Notebook, epoch: Epoch) -> dict[str, Any]:
    """All about an epoch, for a program."""
    number_, before = epoch.number, _best_before(notebook, epoch)
    items = notebook.items(_measured(epoch))
    change = Change(notebook.before(number_), notebook.after(number_), "")
    steps = [
        {
            "commit": commit if record.changed else None,
            "step": record.step,
            "strategy": record.strategy,
            "summary": record.summary,
            "rationale": record.rationale,
            "gradients": record.gradients,
            "error": record.error,
            "cost": record.cost,
        }
        for commit, record in notebook.steps(number_)
    ]
    return {
        "experiment": notebook.slug,
        **_epoch(notebook, epoch),
        "monitor": notebook.monitor[0],
        "mode": notebook.monitor[1],
        "date": _iso(commits.read_commit(notebook.repo, epoch.commit).time_s),
        "baseline": notebook.epoch(0).metrics,
        "best_before": before and {"epoch": before.number, "metrics": before.metrics},
        "steps": steps,
        "lessons": notebook.lessons(number_),
        "val_items": len(items),
        "failed_items": [item for item in items if _failed(item)],
        **_changes(notebook, change),
    }


def _steps(notebook: Notebook, epoch: Epoch) -> list[str]:
    lines: list[str] = []
    steps = notebook.steps(epoch.number)
    for commit, record in steps:
        place = commit[:7] if record.changed else "changed nothing"
        which = f"step {record.step} ({place}): " if len(steps) > 1 else ""
        lines += [f"    {which}{one_line(record.summary, 1000) or 'no summary'}", ""]
        if record.rationale:
            lines += [textwrap.indent(record.rationale.strip(), "    "), ""]
        if record.error:
            lines += [f"the optimizer failed: {record.error}", ""]
        same: dict[str, list[str]] = {}
        for parameter, gradient in record.gradients.items():
            same.setdefault(gradient.strip(), []).append(parameter)
        for gradient, parameters in same.items():
            lines += [
                f"gradient of {', '.join(parameters)}:",
                textwrap.indent(gradient, "    "),
                "",
            ]
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
            row = [f"{split} {name}", number(value)]
            for other in (before, baseline) if before is not None else ():
                known = other.metrics.get(split, {}).get(name) if split == "val" else None
                row += [number(known), _change(value - known)] if known is not None else ["", ""]
            rows.append(row)
    lines = align(columns, rows, right=columns[1:])
    if "train" in epoch.metrics:
        lines.append("(train was measured before the step, val after it)")
    return lines


def _failures(notebook: Notebook, epoch: Epoch, width: int | None) -> list[str]:
    measured = _measured(epoch)
    items = notebook.items(measured)
    if not items:
        return []
    failed = {str(item["id"]): item for item in items if _failed(item)}
    text = f"val items: {len(failed)} of {len(items)} failed"
    if measured != epoch.number:
        text += f" (measured in epoch {measured})"
    before = _best_before(notebook, epoch)
    if before is not None:
        known = notebook.items(_measured(before))
        was = {str(item["id"]) for item in known if _failed(item)}
        ok = {str(item["id"]) for item in known} - was
        now_ok = {str(item["id"]) for item in items} - failed.keys()
        fixed, broken = len(was & now_ok), len(ok & failed.keys())
        text += f"; against epoch {before.number}: {fixed} fixed, {broken} broken"
    lines = [text]
    examples = list(failed.items())[:_EXAMPLES]
    wide = max((len(name) for name, _ in examples), default=0)
    for name, item in examples:
        what = item.get("error_message") or item.get("feedback") or _json(item.get("metadata"))
        text = shorten(what, max((width or 100) - wide - 6, _LEAST_STRATEGY))
        lines.append(f"    {name:<{wide}}  {text}".rstrip())
    if len(failed) > _EXAMPLES:
        command = f"autopilot show {epoch.number} -e {notebook.slug} --json"
        lines.append(f"    and {len(failed) - _EXAMPLES} more: {command}")
    return lines


def _lessons(notebook: Notebook, epoch: Epoch) -> list[str]:
    """What memory keeps; a reason that the verdict gave already is not said twice."""
    lines = []
    for lesson in notebook.lessons(epoch.number):
        change = f", {_change(lesson.delta)}" if _change(lesson.delta) else ""
        told = lesson.reason in ("", "; ".join(epoch.reasons))
        because = "" if told else f": {one_line(lesson.reason, 200)}"
        name = one_line(lesson.strategy, 200) or "unnamed"
        lines.append(f"memory: strategy {name}: {lesson.outcome}{change}{because}")
    return lines


def _best_before(notebook: Notebook, epoch: Epoch) -> Epoch | None:
    earlier = [e for e in notebook.epochs if e.number < epoch.number]
    return notebook.epoch(earlier[-1].best_epoch) if earlier else None


def _measured(epoch: Epoch) -> int:
    return epoch.number if epoch.reused is None else epoch.reused


def _failed(item: Mapping[str, Any]) -> bool:
    return not item.get("success", True)


def _verdict(epoch: Epoch) -> str:
    odd = f" ({epoch.outcome})" if epoch.outcome in _ODD else ""
    if epoch.rollback is None or not epoch.steps:
        return f"{epoch.verdict}{odd}"
    back = f"rolled back to epoch {epoch.best_epoch} by {epoch.rollback[:7]}"
    return f"{epoch.verdict}{odd}, {back}"


# --- diff --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """Two commits to compare, and what the comparison is called."""

    old: str
    new: str
    title: str


def change(notebook: Notebook, first: str | None, second: str | None) -> Change:
    """What `diff` compares: base and best, before and after one epoch, or two epochs' states."""
    if first is None:
        best = notebook.find("best")
        title = f"{notebook.slug}: base -> epoch {best.number} (best)"
        return Change(notebook.base or notebook.start, notebook.after(best.number), title)
    one = notebook.find(first)
    if second is None:
        title = f"{notebook.slug}: epoch {one.number} ({_verdict(one)})"
        return Change(notebook.before(one.number), notebook.after(one.number), title)
    other = notebook.find(second)
    title = f"{notebook.slug}: epoch {one.number} -> epoch {other.number}"
    return Change(notebook.after(one.number), notebook.after(other.number), title)


def change_document(notebook: Notebook, compared: Change) -> dict[str, Any]:
    """A comparison for a program."""
    return {"experiment": notebook.slug, "title": compared.title, **_changes(notebook, compared)}


def _changes(notebook: Notebook, compared: Change) -> dict[str, Any]:
    counts: dict[str, LineCounts] = notebook.counts(compared.old, compared.new)
    return {
        "from": compared.old,
        "to": compared.new,
        "files": [{"path": path, **_as_dict(count)} for path, count in counts.items()],
        "patch": notebook.patch(compared.old, compared.new).decode("utf-8", "replace"),
    }


def _as_dict(count: LineCounts) -> dict[str, Any]:
    return {"added": count.added, "removed": count.removed, "binary": count.binary}


# --- status ------------------------------------------------------------------------------------


def overview(notebook: Notebook) -> dict[str, Any]:
    """Where an experiment stands, for a program; found without reading all of its notes."""
    last, status, manifest = notebook.last, notebook.status, notebook.manifest
    judged = last.epoch if last else 0
    return {
        "experiment": notebook.slug,
        "state": status.state,
        "detail": status.detail,
        "stop_reason": status.detail if status.state == "stopped" else None,
        "branch": notebook.layout.branch_name,
        "tip": notebook.tip,
        "base": manifest.base,
        "base_branch": manifest.base_branch,
        "epochs": judged,
        "kept": notebook.kept,
        "rejected": judged - notebook.kept,
        "monitor": last.monitor if last else None,
        "mode": last.mode if last else None,
        "baseline": last.baseline if last else None,
        "best": last.best if last else None,
        "best_epoch": last.best_epoch if last else None,
        "cost": notebook.spent,
        "updated": _iso(notebook.time_s),
    }


def unreadable(slug: str, why: str) -> dict[str, Any]:
    """The row of an experiment whose notes are missing or damaged."""
    return {"experiment": slug, "state": "unreadable", "detail": why, "updated": ""}


def status_table(rows: Sequence[Mapping[str, Any]], now_s: float, width: int | None) -> list[str]:
    """All experiments, one a line."""
    columns = [
        "experiment",
        "state",
        "epochs",
        "kept",
        "metric",
        "baseline",
        "best",
        "updated",
        "detail",
    ]
    cells = [
        [
            row["experiment"],
            row["state"],
            str(row.get("epochs", "-")),
            str(row.get("kept", "-")),
            f"val {row['monitor']}" if row.get("monitor") else "-",
            number(row.get("baseline")),
            number(row.get("best")),
            _ago(now_s - datetime.fromisoformat(row["updated"]).timestamp())
            if row["updated"]
            else "-",
            row["detail"] if row["state"] != "killed" else "",
        ]
        for row in rows
    ]
    lines = align(columns, cells, right=("epochs", "kept", "baseline", "best"))
    return [shorten_end(line, width) for line in lines]


def shorten_end(line: str, width: int | None) -> str:
    """A line cut at its end, its spaces left as they are."""
    return line if width is None or len(line) <= width else line[: width - 3].rstrip() + "..."


def status_page(notebook: Notebook) -> list[str]:
    """All about one experiment, and what to type next."""
    manifest, last, slug = notebook.manifest, notebook.last, notebook.slug
    branch = notebook.layout.branch_name
    count = _count(len(notebook.commits), "commit")
    started = notebook.events[0].time if notebook.events else ""
    facts = {
        "target": manifest.target or "library use, without `autopilot run`",
        "arguments": _pairs(manifest.hparams),
        "options": _pairs({k: v for k, v in manifest.options.items() if v is not None}),
        "seed": str(manifest.seed),
        "idea": manifest.idea,
        "hypothesis": manifest.hypothesis,
        "base": f"{manifest.base[:7]} ({manifest.base_branch})",
        "branch": f"{branch}, {count}, tip {notebook.tip[:7]}",
        "parameters": _pairs(manifest.parameters),
        "works in": _PLACES[manifest.in_place] if manifest.target else "",
        "linked": ", ".join(manifest.links),
        "metric": f"val {last.monitor}, {_HIGHER[last.mode]} is better" if last else "",
        "result": _gain(notebook) if last else "no epoch is judged yet",
        "epochs": _counts(notebook) if last else "",
        "cost": _cost(notebook.spent),
        "started": _git_date(datetime.fromisoformat(started).timestamp()) if started else "",
        "updated": f"{_git_date(notebook.time_s)} ({_ago(time.time() - notebook.time_s)})",
    }
    wide = max(map(len, facts)) + 2
    lines = [f"{slug}: {_state(notebook.status)}"]
    lines += [f"{name:<{wide}}{one_line(text, 1000)}" for name, text in facts.items() if text]
    return [*lines, "next:", *(f"  {line}" for line in _next(notebook))]


_HIGHER = {"max": "higher", "min": "lower"}
_PLACES = {True: "your checkout (in place)", False: "a worktree of its own"}


def _next(notebook: Notebook) -> list[str]:
    slug, branch, base = notebook.slug, notebook.layout.branch_name, notebook.manifest.base_branch
    if refs.read_ref(notebook.repo, f"refs/heads/{base}") is None:
        base = notebook.manifest.base[:7]
    does = {}
    if notebook.status.state in _UNFINISHED:
        does[f"autopilot resume {slug}"] = "go on where it was left"
    does[f"autopilot log {slug}"] = "every epoch; --graph draws them"
    if notebook.last is not None and notebook.last.best_epoch:
        does[f"autopilot show best -e {slug}"] = "the best epoch: why, scores, failures, diff"
        does[f"git log -p {base}..{branch}"] = "every step as a commit"
        does[f"git diff {base}...{branch}"] = "the net change"
        does[f"git merge --squash {branch}"] = "take it"
    wide = max(map(len, does)) + 3
    return [f"{command:<{wide}}{what}" for command, what in does.items()]


def _counts(notebook: Notebook) -> str:
    judged = [epoch for epoch in notebook.epochs if epoch.number]
    rejected = [epoch for epoch in judged if epoch.verdict == "rejected"]
    odd = {name: sum(epoch.outcome == name for epoch in rejected) for name in _ODD}
    told = ", ".join(f"{count} {name}" for name, count in odd.items() if count)
    kept = len(judged) - len(rejected)
    text = f"{len(judged)} judged: {kept} kept, {len(rejected)} rejected"
    return text + (f" ({told})" if told else "")


# --- words -------------------------------------------------------------------------------------


def _state(status: Status) -> str:
    if status.state == "killed":
        return "killed (no end is recorded)"
    return f"{status.state} ({status.detail})" if status.detail else status.state


def _gain(notebook: Notebook) -> str:
    last = notebook.last
    if last is None:
        return ""
    best = f"best: epoch {last.best_epoch}, val {last.monitor} {number(last.baseline)}"
    if last.best_epoch:
        best += f" -> {number(last.best)}"
    with_test = notebook.test_metrics(last.best_epoch).get(last.monitor)
    return best + (f", test {number(with_test)}" if with_test is not None else "")


def _val_metrics(found: Sequence[Epoch]) -> list[str]:
    return list(dict.fromkeys(name for epoch in found for name in epoch.metrics["val"]))


def _change(delta: float | None) -> str:
    """A signed change; what is only the noise of binary fractions is none."""
    if delta is None or delta != delta:
        return ""
    return number(0.0 if abs(delta) < 1e-12 else delta, signed=True)


def _cost(cost: Cost) -> str:
    parts = [f"{cost.evaluations:,} evaluations" if cost.evaluations != 1 else "1 evaluation"]
    if cost.tokens:
        parts.append(f"{cost.tokens:,} tokens")
    if cost.cost_usd:
        parts.append(f"${cost.cost_usd:.2f}" if cost.cost_usd >= 0.01 else f"${cost.cost_usd:.2g}")
    return ", ".join([*parts, f"{cost.seconds:.1f} s" if cost.seconds >= 0.05 else "under 0.1 s"])


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" if name != value else name for name, value in values.items())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if value else ""


def _iso(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")


def _git_date(time_s: float) -> str:
    local = time.localtime(time_s)
    return time.strftime(f"%a %b {local.tm_mday} %H:%M:%S %Y %z", local)


def _ago(seconds: float) -> str:
    """How long ago, as git says it."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length or (unit == "minute" and seconds >= length):
            return f"{_count(int(seconds // length), unit)} ago"
    return f"{_count(max(int(seconds), 0), 'second')} ago"
