"""What a module configures, checked: its data, its optimizer, its loss, its policy, callbacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from autopilot.core.callback import Callback, check_callback
from autopilot.core.loss import ChainLoss, Loss
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer
from autopilot.core.policy import Policy
from autopilot.core.rules import ChainOptimizer
from autopilot.errors import ModuleError, UsageError

if TYPE_CHECKING:
    from autopilot.core.trainer import Trainer


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
    """The module's loss; several become one, its judge's among them.

    Raises:
        ModuleError: it is none, or `configure_judge` gave no judge.
    """
    configured: object = module.configure_loss()
    several = list(configured) if isinstance(configured, list | tuple) else [configured]
    losses = [loss for loss in several if isinstance(loss, Loss)]
    if not losses or len(losses) < len(several):
        raise ModuleError(
            f"{type(module).__name__}.configure_loss() returned {configured!r}, not a Loss",
            hint="return a Loss, or a list of them",
        )
    judge: object = module.configure_judge()
    if judge is not None:
        as_loss = getattr(judge, "as_loss", None)
        if isinstance(judge, type) or not callable(as_loss):
            raise ModuleError(
                f"{type(module).__name__}.configure_judge() returned {judge!r}, not a Judge",
                hint="return a Judge(...), or None; a loss goes into configure_loss()",
            )
        # The default loss sends back the items' feedback: so does the judge's.
        losses = [as_loss(), *(loss for loss in losses if type(loss) is not Loss)]
    return losses[0] if len(losses) == 1 else ChainLoss(losses)


def policy_of(module: AutoPilotModule) -> Policy:
    """The module's policy; the default one where it has none of its own.

    Raises:
        ModuleError: it is none.
    """
    configured: object = module.configure_policy() or Policy()
    if not isinstance(configured, Policy):
        raise ModuleError(
            f"{type(module).__name__}.configure_policy() returned {configured!r}, not a Policy",
            hint="return a Policy; gates go into one: Policy([...])",
        )
    return configured


def callbacks_of(module: AutoPilotModule) -> list[Callback]:
    """The module's callbacks.

    Raises:
        ModuleError: they are no list.
        UsageError: one is no Callback, or has a method that would never be called.
    """
    configured: object = module.configure_callbacks()
    if not isinstance(configured, list | tuple):
        raise ModuleError(
            f"{type(module).__name__}.configure_callbacks() returned {configured!r}, not a list",
            hint="return a list of Callbacks",
        )
    return [check_callback(callback) for callback in configured]


def check_window(accumulate: object) -> None:
    """Looks at `accumulate_grad_batches`.

    Raises:
        UsageError: it is no whole number, or less than 1.
    """
    if accumulate is not None and (not isinstance(accumulate, int) or accumulate < 1):
        raise UsageError(
            f"accumulate_grad_batches must be a whole number, at least 1, not {accumulate!r}",
            hint="leave it out for one step an epoch",
        )


def forecast(
    trainer: Trainer,
    module: AutoPilotModule,
    datamodule: Any,
    train: Iterable[Any] | None,
    val: Iterable[Any] | None,
    max_epochs: int | None,
) -> str:
    """What `fit` would do, in a sentence. Asks the module what it configures; runs nothing.

    Raises:
        ModuleError: fit would fail: there is no optimizer, loss or train split.
    """
    optimizer, loss = optimizer_of(module), loss_of(module)
    if datamodule is not None:
        data = f"data from {type(datamodule).__name__} (not set up)"
    else:
        train = module.train_dataloader() if train is None else train
        val = module.val_dataloader() if val is None else val
        if train is None:
            raise ModuleError(
                f"there is no train split for {type(module).__name__}",
                hint="pass train_dataloaders, or define train_dataloader()",
            )
        data = f"{size_of(train)} train and {size_of(val)} val batches"
    names = ", ".join(parameter.name or repr(parameter) for parameter in optimizer.parameters)
    epochs = "no limit of epochs" if max_epochs is None else f"{max_epochs} epochs"
    return (
        f"dry run: {type(module).__name__}, parameters {names} by {type(optimizer).__name__}, "
        f"feedback from {type(loss).__name__}, {data}, monitoring val {trainer.monitor} "
        f"({trainer.mode}), {epochs}"
    )


def size_of(loader: Iterable[Any] | None) -> str:
    """How many batches a loader has, in words."""
    if loader is None:
        return "no"
    return str(len(loader)) if isinstance(loader, Sized) else "an unknown number of"
