"""Measuring a state now: `optimize validate` and `test`, and what `trace collect` measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autopilot.cli import running
from autopilot.cli.context import Context
from autopilot.cli.reading import SlugOption
from autopilot.core.failures import failure_lines
from autopilot.core.figures import figures, outcomes
from autopilot.core.types import count_outcomes
from autopilot.errors import UsageError
from autopilot.text import counted, redact

if TYPE_CHECKING:
    from autopilot.proof.measuring import Measurement
    from autopilot.tracking.notebook import Notebook

EpochOption = Annotated[
    str | None,
    typer.Option("--epoch", metavar="EPOCH", help="Its state; the best one's if not given."),
]
Live = Annotated[
    bool, typer.Option("--live", help="Ask models anew instead of the recorded replies.")
]


def validate(
    context: Context,
    target: running.Target = None,
    slug: SlugOption = None,
    epoch: EpochOption = None,
    live: Live = False,
    seed: running.Seed = 0,
    hparam: running.Hparams = None,
    link: running.Links = None,
) -> None:
    """Measure the val split of your checkout, or of an epoch.

    The checkout is measured as it is, with uncommitted changes of tracked files, in a worktree of
    its own. Nothing is recorded.

    \b
    autopilot optimize validate support/classifier.py     your checkout
    autopilot -p my-project optimize validate
    autopilot optimize validate -e classifier-1 --epoch 7
    """
    _measure(context, "val", target, slug, epoch, live, seed, hparam, link)


def test(
    context: Context,
    target: running.Target = None,
    slug: SlugOption = None,
    epoch: EpochOption = None,
    live: Live = False,
    seed: running.Seed = 0,
    hparam: running.Hparams = None,
    link: running.Links = None,
) -> None:
    """Measure the test split of your checkout, or of an epoch.

    As `validate` does. A test split that is looked at often is one more val split.

    \b
    autopilot optimize test support/classifier.py         your checkout
    autopilot optimize test -e classifier-1 --epoch best
    """
    _measure(context, "test", target, slug, epoch, live, seed, hparam, link)


def _measure(
    context: Context,
    split: str,
    target: str | None,
    slug: str | None,
    epoch: str | None,
    live: bool,
    seed: int,
    hparam: list[str] | None,
    link: list[str] | None,
) -> None:
    notebook, number_, measured = measure_now(
        context, split, target, slug, epoch, live=live, seed=seed, hparam=hparam, link=link
    )
    output, metrics = context.output, measured.metrics.get(split, {})
    items = measured.items.get(split, ())
    what = "your checkout" if notebook is None else f"{notebook.slug} epoch {number_}"
    if not metrics:
        raise UsageError(f"{what} has no {split} split", hint=f"define {split}_dataloader()")
    recorded = notebook.epoch(number_ or 0).metrics.get(split, {}) if notebook else {}
    counts = count_outcomes(items)
    passed = counts["passed"]
    told = f"{what}, {split}: {passed} of {counted(len(items), 'item')} passed"
    if passed + counts["failed"] < len(items):
        told = f"{what}, {split}: {counted(len(items), 'item')}: {outcomes(counts)}"
    output.line(told)
    for name, value in metrics.items():
        now, known = figures(value, recorded.get(name))
        was = f"  (recorded: {known})" if name in recorded else ""
        output.line(f"  {name} {now}{was}")
    for text in failure_lines(split, items):
        output.line(f"  {redact(text)}")
    output.document(
        {
            "experiment": notebook.slug if notebook else None,
            "epoch": number_,
            "commit": measured.commit,
            "split": split,
            "metrics": metrics,
            "recorded": recorded or None,
            "items": len(items),
            "passed": passed,
            "outcomes": counts,
            "seconds": measured.seconds,
        }
    )


def measure_now(
    context: Context,
    split: str,
    target: str | None,
    slug: str | None,
    epoch: str | None,
    *,
    live: bool,
    seed: int = 0,
    hparam: list[str] | None = None,
    link: list[str] | None = None,
) -> tuple[Notebook | None, int | None, Measurement]:
    """Measures the checkout of a target, or an epoch of an experiment.

    Returns:
        The experiment and the epoch's number, None for the checkout; what was measured.
    """
    from autopilot.engine.request import Request
    from autopilot.engine.supervisor import interruptible
    from autopilot.proof.measuring import measure_checkout, measure_epoch

    links = tuple(link or ())
    with interruptible():
        if slug is None and epoch is None:
            subject = context.subject(target, hparam)
            request = Request(
                subject.folder, subject.target, seed=seed, hparams=subject.hparams, links=links
            )
            return None, None, measure_checkout(request, split)
        if target is not None or hparam:
            raise UsageError(
                "an epoch has a target and hyperparameters of its own",
                hint="leave out TARGET and -H, or -e and --epoch",
            )
        notebook = context.notebook(slug)
        found = notebook.find(epoch or "best").number
        return notebook, found, measure_epoch(notebook, found, split, live=live, links=links)
