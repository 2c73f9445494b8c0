"""The parts that a module configures, checked: data, optimizer, loss, policy and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from autopilot.core.callback import Callback, check_callback
from autopilot.core.gate import Gate
from autopilot.core.loss import Loss
from autopilot.core.module import AutoPilotModule, name_parameters
from autopilot.core.noise import DefaultPolicy
from autopilot.core.optimizer import Optimizer
from autopilot.core.parameter import Parameter
from autopilot.core.policy import Policy
from autopilot.core.rules import ChainOptimizer
from autopilot.core.signatures import check_awaited, check_call, check_init, defines
from autopilot.core.types import Datum
from autopilot.errors import ModuleError, UsageError

T = TypeVar("T")

_DATA_CALLS = {
    "prepare_data": (),
    "setup": ("stage",),
    "train_dataloader": (),
    "val_dataloader": (),
    "test_dataloader": (),
    "teardown": ("stage",),
}


@contextmanager
def data_source(module: AutoPilotModule, datamodule: Any, stage: str) -> Iterator[Any]:
    """The source of loaders: the datamodule, set up and torn down in any case, or the module.

    Raises:
        ModuleError: a method of the datamodule cannot be called.
    """
    if datamodule is None:
        yield module
        return
    for name, given in _DATA_CALLS.items():
        check_call(datamodule, name, given)
    datamodule.prepare_data()
    try:
        datamodule.setup(stage)
        yield datamodule
    finally:
        datamodule.teardown(stage)


def optimizer_of(module: AutoPilotModule) -> Optimizer:
    """The module's optimizer; several become one.

    Raises:
        ModuleError: it is none, or has no step() that can be called.
    """
    name = type(module).__name__
    if not defines(module, AutoPilotModule, "configure_optimizers"):
        raise ModuleError(
            f"{name} defines no configure_optimizers()",
            hint="add: def configure_optimizers(self): return MyOptimizer(self.parameters())",
        )
    # By then each has the name that records have: an optimizer may be told of one by it.
    name_parameters(module)
    configured = _configured(module, "configure_optimizers")
    several = list(configured) if isinstance(configured, list | tuple) else [configured]
    if any(isinstance(each, Mapping | list | tuple) for each in several):
        raise ModuleError(
            f"{name}.configure_optimizers() returned {_outline(configured)}, as in Lightning",
            hint="return the optimizer alone (or a list of optimizers): there are no schedulers",
        )
    for each in several or [None]:
        if not isinstance(each, Optimizer):
            raise ModuleError(
                f"{name}.configure_optimizers() returned {_outline(configured)}, not an Optimizer",
                hint="return an Optimizer, or a list of them",
            )
        check_init(each, "_post_hooks", "parameters")
        if not defines(each, Optimizer, "step"):
            raise ModuleError(
                f"{type(each).__name__} defines no step()",
                hint="an Optimizer changes its parameters in step(self)",
            )
        check_call(each, "step")
        check_call(each, "zero_grad")
    return several[0] if len(several) == 1 else ChainOptimizer(several)


def loss_of(module: AutoPilotModule) -> Loss:
    """The module's loss: what `configure_loss` returns, or a Loss that is an attribute.

    Several that `configure_loss` returns become one; a judge of the module is one more.

    Raises:
        ModuleError: it is none; attributes are Losses that would not be used; or `configure_judge`
            gave no judge.
    """
    name, attributes = type(module).__name__, _attributes(module, Loss)
    if not defines(module, AutoPilotModule, "configure_loss") and attributes:
        if len({id(loss) for loss in attributes.values()}) > 1:
            raise ModuleError(
                f"{name} has several losses: {_listed(attributes)}",
                hint="say which: define configure_loss(), which may return a list of them",
            )
        configured: object = next(iter(attributes.values()))
    else:
        configured = _configured(module, "configure_loss")
    for key, value in vars(module).items():
        if isinstance(value, type) and issubclass(value, Loss):
            raise ModuleError(
                f"{name}.{key} is the class {value.__name__}, not a loss",
                hint=f"make an object of it: self.{key} = {value.__name__}()",
            )
    several = list(configured) if isinstance(configured, list | tuple) else [configured]
    losses = [loss for loss in several if isinstance(loss, Loss)]
    if not losses or len(losses) < len(several):
        raise ModuleError(
            f"{name}.configure_loss() returned {configured!r}, not a Loss",
            hint="return a Loss, or a list of them",
        )
    used = {id(part) for loss in losses for part in (loss, *_attributes(loss, Loss).values())}
    if unused := {key: loss for key, loss in attributes.items() if id(loss) not in used}:
        kinds = " and ".join(type(each).__name__ for each in losses)
        raise ModuleError(
            f"{name}.configure_loss() returned {kinds}, and {_listed(unused)} would not be used",
            hint="return it from configure_loss() too, or keep one of the two",
        )
    judge: object = _configured(module, "configure_judge")
    if judge is not None:
        as_loss = getattr(judge, "as_loss", None)
        if isinstance(judge, type) or not callable(as_loss):
            raise ModuleError(
                f"{name}.configure_judge() returned {judge!r}, not a Judge",
                hint="return a Judge(...), or None; a loss goes into configure_loss()",
            )
        # The default loss sends back the items' feedback: so does the judge's.
        losses = [as_loss(), *(loss for loss in losses if type(loss) is not Loss)]
    for loss in losses:
        check_init(loss, "_gathered")
        check_call(loss, "forward", ["data", "targets"])
        check_call(loss, "score", ["data", "targets"])
        check_call(loss, "backward")
    return losses[0] if len(losses) == 1 else ChainLoss(losses)


def policy_of(module: AutoPilotModule) -> Policy:
    """The module's policy; the default one where it has none of its own."""
    source = f"{type(module).__name__}.configure_policy() returned"
    if not defines(module, AutoPilotModule, "configure_policy"):
        if attributes := _attributes(module, Policy):
            raise ModuleError(
                f"nothing asks the policy {type(module).__name__}.{next(iter(attributes))}",
                hint="return it from configure_policy(), or pass Trainer(policy=...)",
            )
        return DefaultPolicy()
    configured = _configured(module, "configure_policy")
    return DefaultPolicy() if configured is None else as_policy(configured, source)


def as_policy(given: object, source: str = "the policy is") -> Policy:
    """A policy as it may be given: itself, a gate, or a list of gates.

    Args:
        source: The beginning of the sentence that an error says.

    Raises:
        ModuleError: it is none of these, or has a method that nothing would call.
        UsageError: something in the list is no gate.

    >>> from autopilot.policy import MinGate
    >>> [gate.name for gate in as_policy(MinGate("recall", 0.7)).gates]
    ['MinGate(val recall >= 0.7)']
    """
    if isinstance(given, Gate):
        given = Policy([given])
    elif isinstance(given, list | tuple):
        given = Policy(given)
    if not isinstance(given, Policy):
        raise ModuleError(
            f"{source} {given!r}, not a Policy",
            hint="a Policy, a gate or a list of gates will do: [MinGate(...)]",
        )
    kind = type(given)
    judging = next(owner for owner in kind.__mro__ if "judge" in vars(owner))
    for name in ("forward", "__call__"):
        # A policy that judges by itself may call it.
        if hasattr(given, name) and judging.__module__.partition(".")[0] == "autopilot":
            raise ModuleError(
                f"{kind.__name__}.{name} would never be called: a policy decides in judge",
                hint="override judge(self, view) instead, and return a Decision",
            )
    check_call(given, "judge", ["view"])
    # A policy of the user's that decides by itself may have no gates at all.
    for gate in getattr(given, "gates", ()):
        check_init(gate, "required")
        check_call(gate, "check", ["view"])
    return given


def callbacks_of(module: AutoPilotModule) -> list[Callback]:
    """The module's callbacks.

    Raises:
        ModuleError: they are no list.
        UsageError: one is no Callback, or has a method that would never be called.
    """
    configured = _configured(module, "configure_callbacks")
    if not isinstance(configured, list | tuple):
        raise ModuleError(
            f"{type(module).__name__}.configure_callbacks() returned {configured!r}, not a list",
            hint="return a list of Callbacks",
        )
    return [check_callback(callback) for callback in configured]


def check_window(accumulate: object) -> None:
    """Raises a UsageError if `accumulate_grad_batches` is no whole number, or less than 1."""
    if accumulate is not None and (not isinstance(accumulate, int) or accumulate < 1):
        raise UsageError(
            f"accumulate_grad_batches must be a whole number, at least 1, not {accumulate!r}",
            hint="leave it out for one step an epoch",
        )


def _configured(module: AutoPilotModule, name: str) -> Any:
    check_call(module, name)
    value = getattr(module, name)()
    check_awaited(value, f"{type(module).__name__}.{name}()", ModuleError)
    return value


def _attributes(owner: object, kind: type[T]) -> dict[str, T]:
    """Attribute name to object of a kind: of the instance and its class, lists looked into."""
    held = {
        name: each for home in reversed(type(owner).__mro__) for name, each in vars(home).items()
    }
    found: dict[str, T] = {}
    for name, value in (held | vars(owner)).items():
        if isinstance(value, kind):
            found[name] = value
        elif isinstance(value, list | tuple):
            found |= {
                f"{name}[{n}]": each for n, each in enumerate(value) if isinstance(each, kind)
            }
    return found


def _listed(attributes: Mapping[str, object]) -> str:
    return " and ".join(f"self.{key} ({type(each).__name__})" for key, each in attributes.items())


def _outline(value: object) -> str:
    """A value's type and parts: `a dict of optimizer, lr_scheduler`."""
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value))}"
    if isinstance(value, list | tuple):
        kinds = ", ".join(type(each).__name__ for each in value)
        return f"a {type(value).__name__} of {kinds or 'nothing'}"
    return "None" if value is None else f"a {type(value).__name__}"


class ChainLoss(Loss):
    """Several losses on one module: each sees every batch, their feedback adds up."""

    def __init__(self, losses: Sequence[Loss]) -> None:
        super().__init__()
        self.losses = list(losses)

    def __call__(self, data: Datum, targets: Any = None) -> None:
        for loss in self.losses:
            loss(data, targets)

    def direct(self, monitor: str, mode: str) -> None:
        super().direct(monitor, mode)
        for loss in self.losses:
            loss.direct(monitor, mode)

    def score(self, data: Datum, targets: Any) -> None:
        for loss in self.losses:
            loss.score(data, targets)

    def backward(self, *, retain_graph: bool = False) -> None:
        *first, last = self.losses
        for loss in first:
            loss.backward(retain_graph=True)
        last.backward(retain_graph=retain_graph)

    def mark(self, parameters: Iterable[Parameter] = ()) -> Callable[[], None]:
        marks = [loss.mark() for loss in self.losses] + [super().mark(parameters)]

        def put_back() -> None:
            for back in marks:
                back()

        return put_back

    def reset(self) -> None:
        for loss in self.losses:
            loss.reset()
