"""Measuring one state now: the checkout as it is, or an epoch. Records nothing."""

from __future__ import annotations

from collections.abc import Sequence

from autopilot.core.records.record import Manifest
from autopilot.engine.request import Request, committed_target
from autopilot.git.repository import Repository
from autopilot.git.worktrees import commit_of_checkout
from autopilot.proof.measuring import Measurement, Measurer
from autopilot.sandbox.workspace import directory_of
from autopilot.tracking.notebook import Notebook


def measure_checkout(request: Request, split: str) -> Measurement:
    """Measures a split of the checkout, uncommitted changes of tracked files included.

    Model calls are made and may cost money.

    Raises:
        AutopilotError: it cannot be loaded or evaluated.
    """
    user = Repository.discover(request.folder)
    commit = commit_of_checkout(user)
    target = committed_target(user, commit, request)
    manifest = Manifest(
        slug="checkout",
        target=target.text,
        hparams=dict(request.hparams),
        options=request.options.given(),
        seed=request.seed,
        directory=directory_of(user, request.folder),
        links=tuple(request.links),
    )
    with Measurer(user, manifest, manifest.slug, live=True) as measurer:
        return measurer.measure(commit, [split])


def measure_epoch(
    notebook: Notebook, epoch: int, split: str, *, live: bool = False, links: Sequence[str] = ()
) -> Measurement:
    """Measures a split of an epoch's state, with the chance that the run had.

    Args:
        notebook: The experiment.
        epoch: A judged epoch.
        split: "train" is not among them: its measurement is part of training.
        live: Model calls are made anew; otherwise the recorded ones answer.
        links: Ignored paths that the evaluation needs, beside the experiment's own.

    Raises:
        ReplayMissError: a model call is not recorded.
        AutopilotError: it cannot be loaded or evaluated.
    """
    with Measurer(notebook.repo, notebook.manifest, notebook.slug, live=live, links=links) as m:
        return m.measure(notebook.after(epoch), [split], epoch=epoch)
