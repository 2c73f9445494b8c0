"""A report rendered: as one HTML page, or as Markdown for a job summary or a pull request.

The page is one file that holds all it needs and may load nothing. Text of users and models is JSON
in a block that is no script; the page's own script makes text nodes of it. The content security
policy allows exactly this script and this style, and no network.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from autopilot import __version__
from autopilot.core.failures import failure_lines
from autopilot.core.figures import costs, figures, lower_note, signed, test_gain
from autopilot.core.types import Datum
from autopilot.report.collection import Report
from autopilot.report.comparison import (
    came_to,
    compared_results,
    file_rows,
    input_differences,
    settings,
)
from autopilot.report.contents import Changes, dumped, patches
from autopilot.text import counted
from autopilot.tracking.notebook import Epoch, Notebook

_STYLES = ("page.css", "parts.css")
_SCRIPTS = (
    *("dom.js", "data.js", "scroll.js", "chart.js", "diff.js", "detail.js", "tree.js", "items.js"),
    *("pages.js", "main.js"),
)


def page(reports: Sequence[Report], between: Changes | None = None) -> str:
    """The page of an experiment, or of two that are compared.

    Args:
        reports: One or two; they share their pool of patches.
        between: From the first one's best state to the second one's.
    """
    data = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "program": f"autopilot {__version__}",
        "experiments": [report.document() for report in reports],
        "comparison": _comparison(reports[0], reports[1], between) if between else None,
        "diffs": patches(reports[0].pool),
        "left_out": left_out(reports),
    }
    style = "\n".join(_source(name) for name in _STYLES)
    script = "\n".join(_source(name) for name in _SCRIPTS)
    script = f'(() => {{\n"use strict";\n{script}\n}})();\n'
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
    policy += "base-uri 'none'; form-action 'none'"
    parts = {
        "policy": policy,
        "title": html.escape(" and ".join(report.notebook.slug for report in reports)),
        "style": style,
        # Neither the end of a script nor of a comment can stand in it.
        "data": dumped(data).replace("<", "\\u003c"),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _source("page.html"))


def left_out(reports: Sequence[Report]) -> list[str]:
    """What limits left out, a sentence each; the limits on diffs are shared."""
    return list(dict.fromkeys(text for report in reports for text in report.left_out()))


def _comparison(first: Report, second: Report, between: Changes) -> dict[str, Any]:
    one, other = (settings(report.notebook.manifest) for report in (first, second))
    slugs = [report.notebook.slug for report in (first, second)]
    return {
        "settings": [[n, one.get(n, ""), other.get(n, "")] for n in dict.fromkeys([*one, *other])],
        "results": compared_results(first.notebook, second.notebook),
        "inputs": [
            [found["path"], *((found[which] or "not read")[:10] for which in ("first", "second"))]
            for found in input_differences(first.notebook, second.notebook)
        ],
        "title": f"From the best state of {slugs[0]} to the best state of {slugs[1]}.",
        "net": between,
    }


def _source(name: str) -> str:
    return files("autopilot.report").joinpath("assets", name).read_text("utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


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
