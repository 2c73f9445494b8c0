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
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from autopilot import __version__
from autopilot.core.failures import failure_lines
from autopilot.core.figures import costs, figures, lower_note, signed, test_gain
from autopilot.core.types import Datum
from autopilot.git.objects import LineCounts
from autopilot.report import comparison
from autopilot.report.collection import Report
from autopilot.report.contents import Changes, dumped, patches
from autopilot.report.search import SearchStory, frontier_rule, frontier_table
from autopilot.text import counted, visible
from autopilot.tracking.epochs import Epoch
from autopilot.tracking.notebook import Notebook

_STYLES = ("page.css", "parts.css")
_SCRIPTS = ["dom", "data", "scroll", "chart", "diff", "detail", "tree", "items", "values"]
_SCRIPTS += ["frontier", "pages", "live", "main"]


def page(reports: Sequence[Report], between: Changes | None = None) -> str:
    """The page of an experiment, or of two that are compared.

    Args:
        reports: One or two; they share their pool of patches.
        between: From the first one's best state to the second one's.
    """
    return rendered(page_data(reports, between))


def page_data(
    reports: Sequence[Report], between: Changes | None = None, *, live: bool = False
) -> dict[str, Any]:
    """The data of a page.

    Args:
        live: A server has news of it.
    """
    notebooks = [report.notebook for report in reports]
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "program": f"autopilot {__version__}",
        "live": live,
        "experiments": [report.document() for report in reports],
        "comparison": _comparison(notebooks[0], notebooks[1], between) if between else None,
        "diffs": patches(reports[0].pool),
        "left_out": left_out(reports),
    }


def rendered(data: Mapping[str, Any]) -> str:
    """The page with its data; one that is live may ask its server for news, and nobody else."""
    style = "\n".join(_source(name) for name in _STYLES)
    script = "\n".join(_source(f"{name}.js") for name in _SCRIPTS)
    script = f'(() => {{\n"use strict";\n{script}\n}})();\n'
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
    policy += "connect-src 'self'; " if data["live"] else ""
    policy += "base-uri 'none'; form-action 'none'"
    parts = {
        "policy": policy,
        "title": html.escape(" and ".join(each["slug"] for each in data["experiments"])),
        "style": style,
        # Neither the end of a script nor of a comment can stand in it.
        "data": dumped(data).replace("<", "\\u003c"),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda field: parts[field[1]], _source("page.html"))


def left_out(reports: Sequence[Report]) -> list[str]:
    """A sentence for each limit that left something out; the limits on diffs are shared."""
    return list(dict.fromkeys(text for report in reports for text in report.left_out()))


def _comparison(first: Notebook, second: Notebook, between: Changes) -> dict[str, Any]:
    one, other = comparison.settings(first.manifest), comparison.settings(second.manifest)
    return {
        "settings": [[n, one.get(n, ""), other.get(n, "")] for n in dict.fromkeys([*one, *other])],
        "results": comparison.compared_results(first, second),
        "inputs": comparison.input_rows(first, second),
        "title": f"From the best state of {first.slug} to the best state of {second.slug}.",
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
# The characters with a meaning in Markdown, wherever reports and requests are shown.
_MARKS = re.compile(r"([\\`*_{}\[\]|~#!:@$])")
_NAMED = {"`": "&#96;", "|": "&#124;", "@": "&#64;", "\\": "&#92;", ":": "&#58;", "$": "&#36;"}


def markdown(notebook: Notebook, *, with_errors: bool = True) -> str:
    """The summary of an experiment: headline, epochs, items and net change.

    Args:
        with_errors: The errors of val items, which may quote them, are in it.
    """
    slug, branch, base = notebook.slug, notebook.layout.branch_name, notebook.manifest.base[:10]
    status = notebook.status
    state = f"{status.state} ({plain(status.detail)})" if status.detail else status.state
    lines = [f"## {plain(slug)}: {_headline(notebook)}", ""]
    lines += [f"{state}. {plain(notebook.manifest.idea)}".rstrip(), ""]
    if notebook.last is not None:
        judged = counted(notebook.last.epoch, "epoch")
        lines += [f"{judged}, {notebook.kept} kept. {costs(notebook.spent)}.", ""]
        lines += [*_table(notebook), "", *_items(notebook, with_errors=with_errors)]
        lines += _frontier(slug, SearchStory.of(notebook, ()))
        lines += [*_values(comparison.Tuned.of(notebook)), *_net(notebook)]
    fetch = f"autopilot fetch origin {slug}    # where the experiment is not here yet"
    lines += ["### Read on", "", "```sh", fetch, f"autopilot log {slug}"]
    lines += [f"autopilot show best -e {slug}", f"git log -p {base}..{branch}", "```", ""]
    return visible("\n".join(lines))


def plain(text: str, length: int | None = _TEXT) -> str:
    r"""A text on one line that Markdown and HTML show as it is; None leaves its length.

    >>> plain("a|b <img> `c`\n@ada *d*")
    'a&#124;b &lt;img&gt; &#96;c&#96; &#64;ada \\*d\\*'
    """
    line = " ".join(text.split())
    line = line if length is None or len(line) <= length else f"{line[: length - 1]}…"
    # In a pipe table a backslash does not always help: those are named.
    marked = _MARKS.sub(lambda found: _NAMED.get(found[1], f"\\{found[1]}"), html.escape(line))
    return re.sub(r"&(amp|lt|gt|quot|\\#x27);", lambda f: f"&{f[1].lstrip(chr(92))};", marked)


def pipe_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()
) -> list[str]:
    """A table in Markdown.

    >>> pipe_table(["epoch", "verdict"], [["3", "kept"]], right=["epoch"])
    ['| epoch | verdict |', '| ---: | --- |', '| 3 | kept |']
    """
    ruler = ["---:" if column in right else "---" for column in columns]
    return [f"| {' | '.join(row)} |" for row in (columns, ruler, *rows)]


def file_table(
    counts: Mapping[str, LineCounts], most: int, shown: Callable[[str], str] = plain
) -> list[str]:
    """A table of changed files in Markdown; its last row has the number of those beyond `most`."""
    rows = [[shown(path), *lines] for path, *lines in comparison.file_rows(counts)[:most]]
    if len(counts) > most:
        rows.append([f"and {counted(len(counts) - most, 'more file')}", "", ""])
    return pipe_table(["file", "added", "removed"], rows, right=["added", "removed"])


def _headline(notebook: Notebook) -> str:
    last = notebook.last
    if last is None:
        return notebook.unjudged
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
    epochs: Sequence[Epoch] = notebook.epochs
    if len(epochs) > _ROWS:
        baseline, *kept = (epoch for epoch in epochs if epoch.verdict != "rejected")
        epochs = [baseline, *kept[-_ROWS + 1 :]]
    monitor, mode = notebook.monitor
    columns = ["epoch", f"val {plain(monitor)}{lower_note(mode)}", "change"]
    rows = [
        [
            str(epoch.number),
            figures(epoch.value, epoch.before)[0],
            signed(epoch.delta, of=epoch.before),
            f"**{epoch.verdict}**" if epoch.verdict == "kept" else epoch.verdict,
            plain(epoch.record.strategy or epoch.record.summary),
            plain("; ".join(epoch.record.reasons)),
            f"`{epoch.commit[:7]}`" if epoch.steps or not epoch.number else "",
        ]
        for epoch in epochs
    ]
    lines = pipe_table([*columns, "verdict", "strategy", "why", "commit"], rows, right=columns)
    missing = len(notebook.epochs) - len(epochs)
    if missing:
        text = f"{counted(missing, 'epoch')} are not in this table: it has the latest kept ones"
        lines += ["", f"{text}. `autopilot log {notebook.slug}` has all."]
    return lines


def best_items(notebook: Notebook) -> list[Datum]:
    """The val results of the best epoch; empty where there are none."""
    best = notebook.best
    return notebook.items(best.measured) if best else []


def _items(notebook: Notebook, *, with_errors: bool) -> list[str]:
    """The outcomes of the items at the best epoch, and why those failed that have no result."""
    best, items = notebook.best, best_items(notebook)
    if best is None or not items:
        return []
    total = f"{counted(len(items), 'val item')} at epoch {best.number}"
    lines = [f"{total}: {plain(comparison.item_outcomes(items, notebook.monitor[0]))}.", ""]
    failures = [f"- {plain(line)}" for line in failure_lines("val", items)]
    return [*lines, *failures, ""] if failures and with_errors else lines


def _frontier(slug: str, search: SearchStory | None) -> list[str]:
    """The states of a search that no other one dominates; none where there are no results."""
    if search is None or search.states is None or not search.states.places:
        return [f"{text}." for text in search.left_out(slug)] if search else []
    ranked = search.states.undominated()
    columns, rows = frontier_table(search.states, ranked[:_FILES])
    cells = [[*map(plain, row[:-1]), f"`{row[-1]}`"] for row in rows]
    names = [*map(plain, columns)]
    lines = ["### Frontier", "", *pipe_table(names, cells, right=names[1:-1]), ""]
    if len(ranked) > _FILES:
        lines += [f"The best {_FILES} of them are in this table.", ""]
    return [*lines, f"{frontier_rule(search.states, len(ranked))}.", ""]


def _values(tuned: comparison.Tuned | None) -> list[str]:
    """The numbers and choices of best state and baseline, and how much each matters."""
    if tuned is None:
        return []
    columns = ["baseline", f"best (epoch {tuned.best_epoch})", "importance"]
    rows = [
        [f"`{name}`", plain(first), plain(best), f"{share:.0%}" if share is not None else ""]
        for name, first, best, share in tuned.rows()
    ]
    lines = ["### Numbers and choices", "", *pipe_table(["parameter", *columns], rows, columns)]
    unknown = tuned.importance.unknown
    return [*lines, "", *([f"Importance is not known: {unknown}.", ""] if unknown else [])]


def _net(notebook: Notebook) -> list[str]:
    best = notebook.best
    if best is None or not best.number:
        return ["Nothing was changed.", ""]
    counts = notebook.counts(notebook.base or notebook.start, notebook.after(best.number))
    return ["### Net change", "", *file_table(counts, _FILES), ""]
