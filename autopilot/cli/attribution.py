"""Commands that say which epoch brought what: `blame`, `bisect` and `distill`."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Any

from autopilot.cli import arguments
from autopilot.cli.arguments import option
from autopilot.cli.context import Context
from autopilot.core.figures import figure, figures, signed
from autopilot.core.types import datum_document
from autopilot.engine.options import Options
from autopilot.errors import UsageError
from autopilot.proof.distillation import Contribution, distill
from autopilot.proof.distillation import apply as make
from autopilot.report.comparison import picked
from autopilot.text import align, counted, shorten
from autopilot.tracking.attribution import bisect, blame
from autopilot.tracking.epochs import Epoch
from autopilot.tracking.layout import Layout, free_slugs


def blame_file(
    context: Context,
    file: Annotated[str, arguments.Word("FILE", "A file of the best state.")],
    name: arguments.Name = None,
) -> None:
    """Show which epoch wrote each line of a file.

    As the best state has it, with what the epoch gained. Rejected epochs wrote none. Lines without
    an epoch were there before the experiment.

    \b
    autopilot blame rules.txt
    autopilot blame classifier-1 prompts/system.md
    """
    notebook, output = context.notebook(name), context.output
    place = Path(os.path.abspath(context.working_folder() / file))
    top = notebook.repo.workdir
    if not place.is_relative_to(top):
        raise UsageError(f"{file} is outside of the repository", hint=f"name a file below {top}")
    path = place.relative_to(top).as_posix()
    lines = blame(notebook, path)
    output.document(
        {
            "experiment": notebook.slug,
            "file": path,
            "lines": [
                {"line": each.number, "commit": each.commit, **_epoch(each.epoch)}
                | {"text": each.text}
                for each in lines
            ],
        }
    )
    rows = []
    for each in lines:
        known = _epoch(each.epoch)
        epoch = "-" if each.epoch is None else str(known["epoch"])
        rows.append([each.commit[:7], epoch, signed(known["gain"]), str(each.number), each.text])
    output.lines(align(["commit", "epoch", "gain", "line", ""], rows, ["epoch", "gain", "line"]))


def bisect_item(
    context: Context,
    item: Annotated[str, option("The item's id.", metavar="ID")],
    name: arguments.Name = None,
    split: arguments.Split = arguments.Scored.val,
) -> None:
    """Find the kept epoch that broke an item.

    By the recorded results, the first measurement of each state; nothing is measured. Where
    measurements of one state differ, it says that chance may have broken it.

    \b
    autopilot bisect --item t17
    autopilot bisect classifier-1 --item t17 --split test
    """
    notebook, output = context.notebook(name), context.output
    found = bisect(notebook, item, split)
    output.document(
        {
            "experiment": notebook.slug,
            "item": found.item,
            "split": split,
            "good": found.good and _epoch(found.good) | {"result": datum_document(found.before)},
            "bad": found.bad and _epoch(found.bad) | {"result": datum_document(found.after)},
            "chance": found.chance,
        }
    )
    if found.good is None:
        output.line(f"{found.item} never passed in a kept epoch: none of them broke it")
        return
    if found.bad is None:
        output.line(f"{found.item} is as good as ever in the newest kept epoch: none broke it")
        return
    number = found.bad.number
    output.line(f"epoch {number} broke {found.item}", "bold")
    states = [(found.good, found.before), (found.bad, found.after)]
    rows = []
    for epoch, result in states:
        values = ", ".join(f"{name} {figure(value)}" for name, value in result.metrics.items())
        about = [str(epoch.number), epoch.commit[:7], result.outcome]
        rows.append([*about, values, epoch.record.summary])
    columns = ["epoch", "commit", "result", "metrics", "change"]
    output.lines(shorten(line, output.width) for line in align(columns, rows, ["epoch"]))
    said = found.after.error_message or found.after.feedback
    if said and not output.is_for_agent:
        output.line(f"it says: {said}")
    if found.chance:
        output.line(f"chance may have broken it: {found.chance}")
    output.line(f"see the change: autopilot show {notebook.slug} {number}")


def distill_steps(
    context: Context,
    name: arguments.Name = None,
    repeats: Annotated[int, option("Measure each state so often.", min=1)] = 1,
    apply: Annotated[
        bool, option("Make an experiment that has only the steps that earn their place.")
    ] = False,
    new: Annotated[
        str | None,
        option("What --apply makes; NAME and a number if not.", "--slug", "-e", metavar="NAME"),
    ] = None,
    live: arguments.Live = False,
    *,
    limits: Annotated[Options, *arguments.LIMITS],
) -> None:
    """Measure which kept steps earn their place.

    Each is taken out of the best state as `git revert` does it, and val is measured without it. A
    step earns its place if that is worse; where measurements differ, if the 95% interval is above
    0. In one of 40 cases each, chance keeps a step that brings nothing, and drops one that brings
    as much as its interval is wide: --repeats makes it narrower. With --apply, those that stay are
    the epochs of a new experiment, whose review branch has them alone.

    \b
    autopilot distill classifier-1
    autopilot distill classifier-1 --repeats 3 --apply
    """
    notebook, output = context.notebook(name), context.output
    slug = context.full_slug(new) if new else next(free_slugs(notebook.repo, notebook.slug))
    if new and not apply:
        raise UsageError("-e names the experiment that --apply makes", hint="add --apply")
    if apply:
        Layout(slug).check_free(notebook.repo)
    output.line(f"val {notebook.monitor[0]} of {notebook.slug} without each kept step", "bold")
    found = distill(notebook, repeats=repeats, live=live, limits=limits)
    output.lines(align(_HEADINGS, list(map(_row, found.steps)), _HEADINGS[:2]))
    kept = [step for step in found.steps if step.earns]
    stay = sum(bool(step.unknown) for step in kept)
    text = f"{len(kept) - stay} of {counted(len(found.steps), 'step')} earn their place"
    output.line(text + f"; of those that stay, not known: {stay}" * (stay > 0))
    made = make(found, slug, limits) if apply and kept else None
    if made is not None and made.best is not None:
        values = figures(found.value, made.best.value)
        output.line(f"made {slug}: val {notebook.monitor[0]} {values[0]} -> {values[1]}")
        output.line(f"review it: autopilot propose create {slug}")
    steps = [_epoch(step.epoch) | picked(step, _CONTRIBUTION) for step in found.steps]
    document = {"experiment": notebook.slug, "value": found.value, "steps": steps}
    output.document(document | {"made": slug if made else None})


_HEADINGS = ["epoch", "without", "contribution", "better", "worse", ""]
_CONTRIBUTION = "value difference low high better worse conflicts earns"


def _row(step: Contribution) -> list[str]:
    number = str(step.epoch.number)
    why = f"stays: {step.unknown}"
    if step.conflicts:
        return [number, "-", "-", "", "", why]
    ends = f" ({signed(step.low)} to {signed(step.high)})" if math.isfinite(step.low) else ""
    verdict = why if step.unknown else "earns its place" if step.earns else "does not"
    return [
        number,
        figure(step.value),
        f"{signed(step.difference)}{ends}",
        str(step.better),
        str(step.worse),
        f"{verdict}: {step.epoch.record.summary or step.epoch.record.strategy}",
    ]


def _epoch(epoch: Epoch | None) -> dict[str, Any]:
    if epoch is None:
        return {"epoch": None, "gain": None, "strategy": ""}
    return {"epoch": epoch.number, "gain": epoch.record.gain, "strategy": epoch.record.strategy}
