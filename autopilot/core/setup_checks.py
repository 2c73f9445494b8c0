"""Set-ups that cannot work, found before anything is measured or written.

`check_setup` is the one list of these checks: fit, run, preflight and dry runs use it. What only
the first metrics can show is looked at by `check_gates`, once the baseline is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

from autopilot.core.callback import check_moments
from autopilot.core.configuration import loss_of, optimizer_of, policy_of
from autopilot.core.evaluation import STEPS
from autopilot.core.gate import Gate
from autopilot.core.interpreter import is_importable
from autopilot.core.items import check_ids
from autopilot.core.loss import Loss
from autopilot.core.metric import Metric
from autopilot.core.module import AutoPilotModule, Module
from autopilot.core.optimizer import Optimizer
from autopilot.core.outages import transient_errors_of
from autopilot.core.parameter import PathParameter
from autopilot.core.policy import Policy
from autopilot.core.signatures import check_call, defines
from autopilot.core.types import Datum, Metrics
from autopilot.errors import DataError, EmptySplitError, ModuleError, UsageError

_MEASURED = ("train", "val")


@dataclass(frozen=True, slots=True)
class Setup:
    """The parts that a module configures, checked."""

    optimizer: Optimizer
    loss: Loss
    policy: Policy


def check_module(module: object) -> None:
    """Checks a module as far as that calls none of the user's code.

    Raises:
        ModuleError: it is no AutoPilotModule, one of its methods cannot be called, or its
            `transient_errors` are no exception types.
    """
    if not isinstance(module, AutoPilotModule):
        name = module.__name__ if isinstance(module, type) else type(module).__name__
        hint = f"derive it: class {name}(AutoPilotModule)"
        if isinstance(module, type) and issubclass(module, AutoPilotModule):
            hint = f"pass an instance: {name}()"
        raise ModuleError(f"{name} is not an AutoPilotModule", hint=hint)
    check_moments(module)
    transient_errors_of(module)
    for name in dir(AutoPilotModule):
        if name.startswith("configure_") or name.endswith("_dataloader"):
            check_call(module, name)
    for _, metric in module.named_metrics():
        if isinstance(metric, Metric):
            for name, given in (("update", ["data"]), ("compute", [])):
                if not defines(metric, Metric, name):
                    raise ModuleError(
                        f"{type(metric).__name__} defines no {name}({', '.join(given)})",
                        hint="a Metric defines update(data) and compute()",
                    )
                check_call(metric, name, given)


def check_setup(
    module: AutoPilotModule,
    loaders: Mapping[str, Any],
    policy: Policy | None = None,
    monitor: str | None = None,
) -> Setup:
    """Looks at everything that can be known without an evaluation; calls the configure_* methods.

    Args:
        loaders: Split to its loader, None where there is no such split; a split that is not known
            yet is left out. None of them is iterated.
        policy: The trainer's own, which goes before the module's.
        monitor: Another one than the module's, if it was asked for.

    Raises:
        ModuleError: the set-up cannot work, with neither a train nor a val split for example; the
            hint is the line to write.
        DataError: a split is empty, or items of it share an id.
        UsageError: a hook that would never be called, or a monitor without a val split.
    """
    check_module(module)
    absent = {split for split, loader in loaders.items() if loader is None}
    known = {split for split, loader in loaders.items() if loader is not None}
    check_steps(module, [s for s in STEPS if s in known or (s == "train" and s not in absent)])
    for split, loader in loaders.items():
        check_loader(loader, split)
    if {"train", "val"} <= absent:
        raise ModuleError(
            f"there is no train split for {type(module).__name__}, and no val split",
            hint="pass train_dataloaders, or define train_dataloader(); with val_dataloader() "
            "alone, the optimizer learns from the val items",
        )
    if monitor and "val" in absent:
        raise UsageError(
            f"there is no val split to monitor {monitor!r} on",
            hint="define val_dataloader(), or leave the monitor out",
        )
    setup = Setup(optimizer_of(module), loss_of(module), policy or policy_of(module))
    for gate, split, _ in _reads(setup.policy):
        if split not in _MEASURED:
            raise ModuleError(
                f"{gate.name} reads {split} metrics, and an epoch has those of train and val",
                hint="let it read one of these: split='val'",
            )
        if split in absent:
            raise ModuleError(
                f"{gate.name} reads {split} metrics, and there is no {split} split",
                hint=f"define {split}_dataloader(), or take the gate out",
            )
    return setup


def split_notes(loaders: Mapping[str, Any]) -> list[str]:
    """A sentence on what a missing train or val split means; none where there are both."""
    if loaders["train"] is None:
        return ["no train split: the optimizer learns from the val items"]
    if loaders["val"] is None:
        return ["there is no val split: an epoch is kept unless all its items fail"]
    return []


def check_gates(
    policy: Policy, metrics: Metrics, monitor: str, objectives: Iterable[str] = ()
) -> None:
    """Looks at what is read of the metrics, once a split is measured.

    Raises:
        UsageError: a gate reads a metric that does not exist, or no item has an objective.
    """
    for gate, split, metric in _reads(policy):
        name, there = monitor if metric is None else metric, metrics.get(split, {})
        if there and name not in there:
            raise UsageError(
                f"there is no {split} metric {name!r}, which {gate.name} reads",
                hint=f"let it read one of: {', '.join(sorted(there))}",
            )
    val = metrics.get("val", {})
    for name in objectives:
        if val and name not in val:
            raise UsageError(
                f"no val item has the objective {name!r}",
                hint=f"give --objective one of: {', '.join(sorted(val))}",
            )


def check_loader(loader: Any, split: str) -> None:
    """Looks at a split's loader; consumes nothing of it.

    Raises:
        ModuleError: it gives no batches.
        DataError: it is empty, it gives its batches once where they are wanted every epoch, or its
            items share an id.
    """
    if loader is None:
        return
    source = f"{split}_dataloader()"
    many = isinstance(loader, Iterable) or hasattr(loader, "__getitem__")
    if not many or isinstance(loader, str | bytes | Mapping):
        raise ModuleError(
            f"the {split} split is a {type(loader).__name__}, which gives no batches",
            hint=f"let {source} return a DataLoader or a list of batches",
        )
    if split == "val" and isinstance(loader, Iterator):
        raise DataError(
            f"the val split is a {type(loader).__name__}, which gives its batches once, and val is "
            "measured every epoch",
            hint=f"let {source} return a DataLoader, a list, or what can be iterated again",
        )
    if item_count(loader) == 0:
        raise EmptySplitError(
            f"the {split} split is empty",
            hint=f"look at {source}; without such a split, let it return None",
        )
    check_ids(loader, split)


def item_count(loader: Any) -> int | None:
    """How many items a loader gives in a pass; None where that is not known beforehand."""
    if isinstance(loader, Sized):
        try:
            if len(loader) == 0:
                return 0
        except TypeError:
            # A loader over a stream has the method, and no length.
            return None
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, Sized):
        return len(dataset)
    if isinstance(loader, list | tuple):
        sized = (list, tuple, Datum)
        return sum(len(batch) if isinstance(batch, sized) else 1 for batch in loader)
    return None


def forecast(
    module: AutoPilotModule,
    datamodule: Any,
    train: Iterable[Any] | None,
    val: Iterable[Any] | None,
    policy: Policy | None,
    monitor: str | None,
) -> str:
    """The parts that `fit` would work with, in words; runs nothing. Raises as `check_setup`."""
    loaders: dict[str, Iterable[Any] | None] = {}
    if datamodule is not None:
        data = f"data from {type(datamodule).__name__} (not set up)"
    else:
        train = module.train_dataloader() if train is None else train
        val = module.val_dataloader() if val is None else val
        loaders = {"train": train, "val": val}
        data = f"{size_of(train)} train and {size_of(val)} val batches"
    setup = check_setup(module, loaders, policy, monitor)
    optimizer, loss = setup.optimizer, type(setup.loss).__name__
    names = ", ".join(parameter.name or repr(parameter) for parameter in optimizer.parameters)
    return (
        f"{type(module).__name__}, parameters {names} by {type(optimizer).__name__}, "
        f"feedback from {loss}, {data}"
    )


def size_of(loader: Iterable[Any] | None) -> str:
    """How many batches a loader has, in words."""
    if loader is None:
        return "no"
    return str(len(loader)) if isinstance(loader, Sized) else "an unknown number of"


def check_steps(module: AutoPilotModule, splits: Iterable[str]) -> None:
    """Looks at the steps of these splits, and at `forward` where one calls it.

    Raises:
        ModuleError: one cannot be called with a batch, or does not exist.
    """
    for step in (STEPS[split] for split in splits):
        check_call(module, step, ["batch"])
        if defines(module, AutoPilotModule, step):
            continue
        if not defines(module, Module, "forward"):
            raise ModuleError(
                f"{type(module).__name__} defines neither forward(batch) nor {step}(batch)",
                hint="add: def forward(self, batch): return Datum(items=[...])",
            )
        check_call(module, "forward", ["batch"])


def imported_once(module: Module) -> list[str]:
    """A sentence on parameters whose edits a run in one process may not see; none without such."""
    parameters = [p for p in module.parameters() if isinstance(p, PathParameter)]
    names = [p.label for p in parameters if any(map(is_importable, p.files()))]
    if not names:
        return []
    return [
        f"Python files are edited ({', '.join(names)}): what this process has imported of them "
        "stays as it was; child processes see the edits"
    ]


def _reads(policy: Policy) -> Iterator[tuple[Gate, str, str | None]]:
    # A policy of the user's that decides by itself may have no gates at all.
    for gate in getattr(policy, "gates", ()):
        for split, metric in gate.reads():
            yield gate, split, metric
