"""Pages of the `propose` commands: the pull request's text, and the state of proposals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from autopilot.core.figures import costs, direction_words, figures, lower_note, signed, test_gain
from autopilot.core.records.message import EPOCH, EXPERIMENT, Score, one_line
from autopilot.proof.verification import Verification
from autopilot.report.comparison import file_documents, file_totals
from autopilot.report.rendering import file_table, pipe_table, plain
from autopilot.review.proposals import Proposal, Standing
from autopilot.text import align, counted, pairs, visible, whole
from autopilot.tracking.attribution import lineage
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.outputs import output_lines

# GitHub takes 65,536 characters.
_EPOCHS, _FILES = 200, 50


def built(proposal: Proposal) -> list[str]:
    """The review branch that was made, for a person."""
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
    """The pull request's title: the metric before and after."""
    return visible(f"{notebook.slug}: {_gain(notebook, proposal)}")


def body(notebook: Notebook, proposal: Proposal) -> str:
    """The pull request's text, in Markdown."""
    counts = notebook.counts(proposal.base, proposal.branch.tip)
    lines = [
        *("## What", "", *_summary(notebook, proposal), "", "## Why", "", *_purpose(notebook), ""),
        *("## Epochs", "", *_epochs(notebook, proposal), ""),
        *("## Net change", "", file_totals(counts), "", *file_table(counts, _FILES, _code), ""),
        *("## See for yourself", "", "```sh", *_commands(notebook, proposal), "```", ""),
        # In a squash merge, which takes this text, the epochs are recognized by these trailers.
        f"{EXPERIMENT}: {notebook.slug}",
        f"{EPOCH}: {max(proposal.epochs, default=0)}",
    ]
    return visible("\n".join(lines)) + "\n"


def _gain(notebook: Notebook, proposal: Proposal) -> str:
    monitor, mode = notebook.monitor
    first = notebook.epoch(proposal.merged.epoch or 0)
    last = notebook.epoch(max(proposal.epochs, default=0))
    return str(Score(f"val {monitor}", first.value, last.value, mode))


def _summary(notebook: Notebook, proposal: Proposal) -> list[str]:
    last, monitor = max(proposal.epochs, default=0), notebook.monitor[0]
    judged = [e for e in notebook.epochs if e.number > (proposal.merged.epoch or 0)]
    # The best state may come from a candidate of an epoch in which none was the best.
    of_none = (e for e in judged if e.number not in proposal.epochs)
    rejected = sum(epoch.verdict == "rejected" for epoch in of_none)
    some = counted(len(proposal.epochs), "epoch") if proposal.epochs else "No epoch"
    paths = ", ".join(map(_code, dict.fromkeys(notebook.manifest.parameters.values())))
    test = test_gain(notebook.test_gain(last)).removeprefix("test ")
    lines = [
        f"{some} of the experiment `{notebook.slug}` improved **{_gain(notebook, proposal)}**; "
        f"tried and rejected: {rejected}. "
        f"Only the parameters change ({paths}), one commit an epoch.",
        "",
        f"On the test split, which no epoch was chosen by: {monitor} {test}."
        if test
        else "The test split was not scored.",
    ]
    if 0 in dict(proposal.commits):
        source = notebook.manifest.forked_from.replace("@", ", epoch ")
        content = f"what it was forked from (`{source}`)" if source else "what was not committed"
        lines += ["", f"The first commit is {content} when the experiment started."]
    return lines


def _purpose(notebook: Notebook) -> list[str]:
    manifest, (monitor, mode) = notebook.manifest, notebook.monitor
    target = f"`{manifest.title}`" if manifest.title else "a program of its own"
    others = {k: v for k, v in manifest.hparams.items() if v != manifest.title}
    arguments = f" with `{pairs(others)}`" if others else ""
    texts = [plain(text, None) for text in (manifest.idea, manifest.hypothesis) if text]
    return [
        *(line for text in texts for line in (text, "")),
        f"{target}{arguments} was evaluated on the val split after each step; an epoch was kept "
        f"if its policy found {monitor} ({direction_words(mode)}) improved. "
        f"It cost {costs(notebook.spent)}.",
    ]


def _epochs(notebook: Notebook, proposal: Proposal) -> list[str]:
    monitor, mode = notebook.monitor
    made = dict(proposal.commits)
    rows = [
        [
            str(epoch.number),
            figures(epoch.value, epoch.before)[0],
            signed(epoch.delta, of=epoch.before),
            plain(one_line(epoch.record.summary or epoch.record.strategy, 100)),
            plain(epoch.record.strategy),
            made[epoch.number][:10],
        ]
        for epoch in lineage(notebook)
        if epoch.number and epoch.number in made
    ]
    if len(rows) > _EPOCHS:
        left_out = ["", "", "", f"{len(rows) - _EPOCHS} more: `autopilot log`", "", ""]
        rows = [*rows[: _EPOCHS // 2], left_out, *rows[-_EPOCHS // 2 :]]
    numbers = ["epoch", f"val {monitor}{lower_note(mode)}", "change"]
    return pipe_table([*numbers, "what", "strategy", "commit"], rows, right=numbers)


def _commands(notebook: Notebook, proposal: Proposal) -> list[str]:
    slug, branch = notebook.slug, notebook.layout.branch_name
    lines = [
        f"autopilot fetch origin {slug}",
        f"autopilot log {slug}",
        f"git log -p {proposal.onto.short}..{branch}    # every step, rejected ones included",
    ]
    measured = [f"autopilot replay {slug}", f"autopilot propose verify {slug}"]
    return lines + (measured if notebook.manifest.target else [])


def _code(name: str) -> str:
    """A name as code in Markdown, also in a table."""
    name = whole(name)
    # Two backticks: one may be part of a name.
    return f"`` {name} ``" if "`" in name else f"`{name.replace('|', chr(92) + '|')}`"


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


def table(standings: Sequence[Standing]) -> list[str]:
    """Proposals, one a line."""
    rows = [
        [
            *(s.slug, s.state, s.onto or "-", str(len(s.epochs)), str(max(s.epochs, default="-"))),
            *(s.branch.tip[:7], s.detail),
        ]
        for s in standings
    ]
    columns = ["experiment", "state", "for", "epochs", "last", "tip", "detail"]
    return align(columns, rows, right=["epochs", "last"])


def verification(result: Verification) -> list[str]:
    """The measurements, what they show, and whether the claim holds."""
    name, low = f"{result.split} {result.monitor}", lower_note(result.mode)
    first = result.before[0]
    columns = ["run", "base", "head", "change"]
    rows = []
    for repeat, (base, head) in enumerate(zip(result.before, result.after, strict=True), start=1):
        change = None if base is None or head is None else head - base
        rows.append([str(repeat), *figures(base, head), signed(change, of=base)])
    same = result.items - result.better - result.worse
    ends = [
        signed(x, of=first) if math.isfinite(x) else "unknown" for x in (result.low, result.high)
    ]
    interval = " to ".join(ends) if {*ends} != {"unknown"} else "unknown"
    lowers = result.mode == "min" and result.measure == result.monitor
    lines = [
        f"{result.slug}: {name}{low}, base {result.base[:7]}, head {result.head[:7]}",
        *align(columns, rows, right=columns),
        f"items: {result.items} by {result.measure}, {result.better} better, {result.worse} worse, "
        f"{same} the same",
        f"{'paired gain, by how much it is lower' if lowers else 'paired difference'}: "
        f"{signed(result.difference, of=first)}, "
        f"{result.confidence:.0%} interval {interval} (above 0 is better)",
    ]
    if result.recorded is not None:
        # With as many digits as it takes to tell it from the measured one.
        recorded = figures(result.recorded, result.after[0])[0]
        lines.append(f"on record: {name} {recorded} in epoch {result.epoch}")
    lines += [*(f"note: {note}" for note in result.notes), *output_lines(result.outputs)]
    if result.holds:
        return [*lines, "the claim holds: head is better than base"]
    return lines + [f"the claim does not hold: {failure}" for failure in result.failures]
