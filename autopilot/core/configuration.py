"""What a module configures, checked: its data, its optimizer, its loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

from autopilot.core.loss import ChainLoss, Loss
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer
from autopilot.core.rules import ChainOptimizer
from autopilot.errors import ModuleError


@contextmanager
def data_source(module: AutoPilotModule, datamodule: Any, stage: str) -> Iterator[Any]:
    """What gives the loaders: the datamodule, set up and torn down in any case, or the module."""
    if datamodule is None:
        yield module
        return
    datamodule.prepare_data()
    try:
        datamodule.setup(stage)
        yield datamodule
    finally:
        datamodule.teardown(stage)


def optimizer_of(module: AutoPilotModule) -> Optimizer:
    """The module's optimizer; several become one.

    Raises:
        ModuleError: it is none.
    """
    configured = module.configure_optimizers()
    if isinstance(configured, list | tuple) and configured:
        return configured[0] if len(configured) == 1 else ChainOptimizer(configured)
    if not isinstance(configured, Optimizer):
        raise ModuleError(
            f"{type(module).__name__}.configure_optimizers() returned "
            f"{type(configured).__name__}, not an Optimizer",
            hint="return an Optimizer, or a list of them",
        )
    return configured


def loss_of(module: AutoPilotModule) -> Loss:
    """The module's loss; several become one.

    Raises:
        ModuleError: it is none.
    """
    configured: object = module.configure_loss()
    several = list(configured) if isinstance(configured, list | tuple) else [configured]
    losses = [loss for loss in several if isinstance(loss, Loss)]
    if not losses or len(losses) < len(several):
        raise ModuleError(
            f"{type(module).__name__}.configure_loss() returned {configured!r}, not a Loss",
            hint="return a Loss, or a list of them",
        )
    return losses[0] if len(losses) == 1 else ChainLoss(losses)


def size_of(loader: Iterable[Any] | None) -> str:
    """How many batches a loader has, in words."""
    if loader is None:
        return "no"
    return str(len(loader)) if isinstance(loader, Sized) else "an unknown number of"
