"""A report in Markdown, for a job summary or a pull request: headline, epochs, net change."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from autopilot.core.failures import failure_lines
from autopilot.core.figures import costs, figures, lower_note, signed, test_gain
from autopilot.core.types import Datum
from autopilot.report.comparison import came_to, file_rows
from autopilot.text import counted
from autopilot.tracking.notebook import Epoch, Notebook

_ROWS = 100
_FILES = 50
_TEXT = 200
# What has a meaning in Markdown, on the places that it is shown on.
_MARKS = re.compile(r"([\\`*_{}\[\]|~#!:@$])")
_NAMED = {"`": "&#96;", "|": "&#124;", "@": "&#64;", "\\": "&#92;", ":": "&#58;", "$": "&#36;"}


def markdown(notebook: Notebook) -> str:
    """The summary of an experiment."""
    last, slug, branch = notebook.last, notebook.slug, notebook.layout.branch_name
    base, status = notebook.manifest.base[:10], notebook.status
    lines = [f"## {plain(slug)}: {_headline(notebook)}", ""]
    state = f"{status.state} ({plain(status.detail)})" if status.detail else status.state
    lines += [f"{state}. {plain(notebook.manifest.idea)}".rstrip(), ""]
    if last is not None:
        lines += [
            f"{counted(last.epoch, 'epoch')}, {notebook.kept} kept. {costs(notebook.spent)}.",
            "",
            *_table(notebook),
            "",
            *_items(notebook),
            *_net(notebook),
        ]
    return "\n".join(
        [
            *lines,
            "### Read on",
            "",
            "```sh",
            f"autopilot fetch origin {slug}    # where the experiment is not here yet",
            f"autopilot log {slug}",
            f"autopilot show best -e {slug}",
            f"git log -p {base}..{branch}",
            "```",
            "",
        ]
    )


def plain(text: str, length: int = _TEXT) -> str:
    r"""A text on one line that Markdown and HTML show as it is.

    >>> plain("a|b <img> `c`\n@ada *d*")
    'a&#124;b &lt;img&gt; &#96;c&#96; &#64;ada \\*d\\*'
    """
    line = " ".join(text.split())
    line = line if len(line) <= length else f"{line[: length - 1]}…"
    # In a pipe table a backslash does not always help: those are named.
    marked = _MARKS.sub(lambda found: _NAMED.get(found[1], f"\\{found[1]}"), html.escape(line))
    return re.sub(r"&(amp|lt|gt|quot|\\#x27);", lambda f: f"&{f[1].lstrip(chr(92))};", marked)


def _headline(notebook: Notebook) -> str:
    last = notebook.last
    if last is None:
        return "no epoch is judged yet"
    first, best = figures(last.baseline, last.best)
    text = f"val {plain(last.monitor)} {first}"
    if last.best_epoch:
        change = None
        if last.best is not None and last.baseline is not None:
            change = signed(last.best - last.baseline, of=last.baseline)
        text += f" → {best}" + (f" ({change})" if change is not None else "")
        text += f" in epoch {last.best_epoch}"
    text += lower_note(last.mode)
    return ", ".join(filter(None, (text, test_gain(notebook.test_gain(last.best_epoch)))))


def _table(notebook: Notebook) -> list[str]:
    shown: Sequence[Epoch] = notebook.epochs
    if len(shown) > _ROWS:
        kept = [epoch for epoch in shown if epoch.verdict != "rejected"]
        shown = [kept[0], *kept[1:][-_ROWS + 1 :]]
    monitor, mode = notebook.monitor
    metric = f"val {plain(monitor)}{lower_note(mode)}"
    lines = [
        f"| epoch | {metric} | change | verdict | strategy | why | commit |",
        "|---:|---:|---:|---|---|---|---|",
    ]
    for epoch in shown:
        commit = f"`{epoch.commit[:7]}`" if epoch.steps or not epoch.number else ""
        verdict = f"**{epoch.verdict}**" if epoch.verdict == "kept" else epoch.verdict
        cells = [
            str(epoch.number),
            figures(epoch.value, epoch.before)[0],
            signed(epoch.delta, of=epoch.before),
            verdict,
            plain(epoch.strategy or epoch.summary),
            plain("; ".join(epoch.reasons)),
            commit,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    missing = len(notebook.epochs) - len(shown)
    if missing:
        text = f"{counted(missing, 'epoch')} are not in this table: it has the latest kept ones"
        lines += ["", f"{text}. `autopilot log {notebook.slug}` has all."]
    return lines


def best_items(notebook: Notebook) -> list[Datum]:
    """The val results of the best epoch; empty where there are none."""
    best = notebook.best
    return notebook.items(best.measured) if best else []


def _items(notebook: Notebook) -> list[str]:
    """What the items came to at the best epoch, and why those failed that have no result."""
    best, items = notebook.best, best_items(notebook)
    if best is None or not items:
        return []
    told = f"{counted(len(items), 'val item')} at epoch {best.number}"
    lines = [f"{told}: {plain(came_to(items, notebook.monitor[0]))}.", ""]
    failures = [f"- {plain(line)}" for line in failure_lines("val", items)]
    return [*lines, *failures, ""] if failures else lines


def _net(notebook: Notebook) -> list[str]:
    best = notebook.best
    if best is None or not best.number:
        return ["Nothing was changed.", ""]
    counts = notebook.counts(notebook.base or notebook.start, notebook.after(best.number))
    lines = ["### Net change", "", "| file | added | removed |", "|---|---:|---:|"]
    for path, added, removed in file_rows(counts)[:_FILES]:
        lines.append(f"| {plain(path)} | {added} | {removed} |")
    if len(counts) > _FILES:
        lines += ["", f"and {counted(len(counts) - _FILES, 'more file')}"]
    return [*lines, ""]
