"""The report's page: one HTML file that holds all it needs and may load nothing.

What users and models wrote is JSON in a block that is no script; the page's own script makes text
nodes of it. The content security policy allows exactly this script and this style, and no network.
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
from autopilot.report.collection import Report
from autopilot.report.comparison import compared_results, input_differences, settings
from autopilot.report.contents import Changes, dumped, patches

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
