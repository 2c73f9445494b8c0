"""What the propose commands say: the pull request's text, and how proposals stand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autopilot.core.figures import (
    apart,
    costs,
    direction_words,
    figure,
    figures,
    lower_note,
    signed,
    test_gain,
)
from autopilot.core.records.message import EPOCH, EXPERIMENT, Score, one_line
from autopilot.git.objects import LineCounts
from autopilot.proof.verification import Verification
from autopilot.report.comparison import file_documents, file_rows, file_totals
from autopilot.review.proposals import Proposal, Standing
from autopilot.text import align, counted, pairs
from autopilot.tracking.notebook import Epoch, Notebook

# GitHub takes 65,536 characters.
_EPOCHS, _FILES = 200, 50


def built(proposal: Proposal) -> list[str]:
    """What making it came to."""
    onto, branch = proposal.onto, proposal.branch
    commits = counted(len(proposal.commits), "commit")
    lines = [
        f"{branch.name}: {proposal.done}, {commits} on {onto.name} {proposal.base[:7]}, "
        f"tip {branch.tip[:7]}"
    ]
    if proposal.merged.epoch:
        lines.append(f"{onto.name} has epoch {proposal.merged.epoch} already")
    return [*lines, f"see it:  git log -p {onto.name}..{branch.name}"]


def title(notebook: Notebook, proposal: Proposal) -> str:
    """The pull request's title: what got better by how much."""
    return f"{notebook.slug}: {_gain(notebook, proposal)}"


def body(notebook: Notebook, proposal: Proposal) -> str:
    """The pull request's text, in Markdown."""
    parts = [
        _what(notebook, proposal),
        _why(notebook),
        _epochs(notebook, proposal),
        _files(notebook.counts(proposal.base, proposal.branch.tip)),
        _again(notebook, proposal),
        # So that a squash merge, which takes this text, can be told to have the epochs.
        f"{EXPERIMENT}: {notebook.slug}\n{EPOCH}: {max(proposal.epochs, default=0)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _gain(notebook: Notebook, proposal: Proposal) -> str:
    monitor, mode = notebook.monitor
    first = notebook.epoch(proposal.merged.epoch or 0)
    last = notebook.epoch(max(proposal.epochs, default=0))
    return str(Score(f"val {monitor}", first.value, last.value, mode))


def _what(notebook: Notebook, proposal: Proposal) -> str:
    last, monitor = max(proposal.epochs, default=0), notebook.monitor[0]
    judged = [e for e in notebook.epochs if e.number > (proposal.merged.epoch or 0)]
    rejected = sum(epoch.verdict == "rejected" for epoch in judged)
    some = counted(len(proposal.epochs), "epoch") if proposal.epochs else "No epoch"
    lines = [
        "## What",
        "",
        f"{some} of the experiment `{notebook.slug}` improved **{_gain(notebook, proposal)}**; "
        f"tried and rejected: {rejected}. "
        f"Only the parameters change ({_code(notebook.manifest.parameters)}), one commit an epoch.",
    ]
    test = test_gain(notebook.test_gain(last)).removeprefix("test ")
    if test:
        lines += ["", f"On the test split, which no epoch was chosen by: {monitor} {test}."]
    else:
        lines += ["", "The test split was not scored."]
    if 0 in dict(proposal.commits):
        source = notebook.manifest.forked_from.replace("@", ", epoch ")
        found = f"what it was forked from (`{source}`)" if source else "what was not committed"
        lines += ["", f"The first commit is {found} when the experiment started."]
    return "\n".join(lines)


def _why(notebook: Notebook) -> str:
    manifest = notebook.manifest
    lines = ["## Why", ""]
    told = [text for text in (manifest.idea, manifest.hypothesis) if text]
    for text in told:
        lines += [_cell(text), ""]
    target = f"`{manifest.target}`" if manifest.target else "a program of its own"
    arguments = f" with `{pairs(manifest.hparams)}`" if manifest.hparams else ""
    monitor, mode = notebook.monitor
    lines.append(
        f"{target}{arguments} was evaluated on the val split after each step; an epoch was kept "
        f"if its policy found {monitor} ({direction_words(mode)}) improved. "
        f"It cost {costs(notebook.spent)}."
    )
    return "\n".join(lines)


def _epochs(notebook: Notebook, proposal: Proposal) -> str:
    monitor, mode = notebook.monitor
    made = dict(proposal.commits)
    told = [e for e in notebook.epochs if e.number and e.number in made]
    rows = [_row(epoch, made[epoch.number]) for epoch in told]
    if len(rows) > _EPOCHS:
        left_out = ["", "", "", f"{len(rows) - _EPOCHS} more: `autopilot log`", "", ""]
        rows = [*rows[: _EPOCHS // 2], left_out, *rows[-_EPOCHS // 2 :]]
    rows.insert(
        0, ["epoch", f"val {monitor}{lower_note(mode)}", "change", "what", "strategy", "commit"]
    )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| ---: | ---: | ---: | --- | --- | --- |")
    return "\n".join(["## Epochs", "", *lines])


def _row(epoch: Epoch, commit: str) -> list[str]:
    what = one_line(epoch.summary or epoch.strategy, 100)
    shown, _ = figures(epoch.value, epoch.before)
    cells = [str(epoch.number), shown, signed(epoch.delta, of=epoch.before)]
    return [*cells, _cell(what), _cell(epoch.strategy), commit[:10]]


def _files(counts: Mapping[str, LineCounts]) -> str:
    lines = [
        "## Net change",
        "",
        file_totals(counts),
        "",
        "| file | added | removed |",
        "| --- | ---: | ---: |",
    ]
    for path, added, removed in file_rows(counts)[:_FILES]:
        lines.append(f"| {_code([path])} | {added} | {removed} |")
    if len(counts) > _FILES:
        lines.append(f"| and {len(counts) - _FILES} more | | |")
    return "\n".join(lines)


def _again(notebook: Notebook, proposal: Proposal) -> str:
    slug, branch = notebook.slug, notebook.layout.branch_name
    lines = [
        "## See for yourself",
        "",
        "```sh",
        f"autopilot fetch origin {slug}",
        f"autopilot log {slug}",
        f"git log -p {proposal.onto.short}..{branch}    # every step, rejected ones included",
    ]
    if notebook.manifest.target:
        lines.append(f"autopilot replay {slug}")
        lines.append(f"autopilot propose verify {slug}")
    return "\n".join([*lines, "```"])


def _cell(text: str) -> str:
    """Text in a Markdown table: what a model wrote must not become markup."""
    escaped = "".join(f"\\{c}" if c in "\\`*_{}[]<>#|~!" else c for c in " ".join(text.split()))
    return escaped.replace("@", "@\u200b")


def _code(names: Sequence[str] | Mapping[str, str]) -> str:
    paths = list(names.values()) if isinstance(names, Mapping) else list(names)
    # Two backticks: one may be part of a name.
    return ", ".join(
        f"`` {name} ``" if "`" in name else f"`{name.replace('|', chr(92) + '|')}`"
        for name in dict.fromkeys(paths)
    )


# --- for programs ------------------------------------------------------------------------------


def document(notebook: Notebook, proposal: Proposal, text: str) -> dict[str, Any]:
    """A proposal for a program."""
    return {
        "experiment": proposal.slug,
        "done": proposal.done,
        "branch": proposal.branch.name,
        "tip": proposal.branch.tip,
        "onto": proposal.onto.name,
        "base": proposal.base,
        "commits": [{"epoch": epoch or None, "commit": oid} for epoch, oid in proposal.commits],
        "files": file_documents(notebook.counts(proposal.base, proposal.branch.tip)),
        "body": text,
    }


# --- list --------------------------------------------------------------------------------------


def table(found: Sequence[Standing]) -> list[str]:
    """Proposals, one a line."""
    rows = [
        [
            *(s.slug, s.state, s.onto or "-", str(len(s.epochs)), str(max(s.epochs, default="-"))),
            *(s.branch.tip[:7], s.detail),
        ]
        for s in found
    ]
    columns = ["experiment", "state", "for", "epochs", "last", "tip", "detail"]
    return align(columns, rows, right=["epochs", "last"])


# --- verify ------------------------------------------------------------------------------------


def verification(found: Verification) -> list[str]:
    """What was measured, what it shows, and whether the claim holds."""
    name, low = f"{found.split} {found.monitor}", lower_note(found.mode)
    lines = [f"{found.slug}: {name}{low}, base {found.base[:7]}, head {found.head[:7]}"]
    rows = [
        [str(repeat), *figures(base, head), signed(_difference(base, head), of=base)]
        for repeat, (base, head) in enumerate(zip(found.before, found.after, strict=True), start=1)
    ]
    lines += align(["run", "base", "head", "change"], rows, right=["run", "base", "head", "change"])
    same = found.items - found.better - found.worse
    lines.append(
        f"items: {found.items} by {found.measure}, {found.better} better, {found.worse} worse, "
        f"{same} the same"
    )
    known = math.isfinite(found.low) or math.isfinite(found.high)
    ends = [_end(found, value) for value in (found.low, found.high)]
    interval = " to ".join(ends) if known else "unknown"
    lowers = found.mode == "min" and found.measure == found.monitor
    what = "paired gain, by how much it is lower" if lowers else "paired difference"
    lines.append(
        f"{what}: {signed(found.difference, of=found.before[0])}, "
        f"{found.confidence:.0%} interval {interval} (above 0 is better)"
    )
    if found.recorded is not None:
        lines.append(f"on record: {name} {_as_recorded(found)} in epoch {found.epoch}")
    lines += [f"note: {note}" for note in found.notes]
    if found.holds:
        lines.append("the claim holds: head is better than base")
    else:
        lines += [f"the claim does not hold: {failure}" for failure in found.failures]
    return lines


def _as_recorded(found: Verification) -> str:
    first = found.after[0]
    if found.recorded is None or first is None:
        return figure(found.recorded)
    return apart(found.recorded, first)[0]


def _difference(base: float | None, head: float | None) -> float | None:
    return None if base is None or head is None else head - base


def _end(found: Verification, value: float) -> str:
    return signed(value, of=found.before[0]) if math.isfinite(value) else "unknown"
