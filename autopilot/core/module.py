"""Modules: the system that is optimized, and the class that makes one an experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from autopilot.core import graph
from autopilot.core.gradient import Gradient
from autopilot.core.loss import Loss, Scorer
from autopilot.core.metric import Metric, MetricCollection
from autopilot.core.parameter import Parameter
from autopilot.core.signatures import check_function
from autopilot.core.types import Datum
from autopilot.errors import ModuleError, StateError

if TYPE_CHECKING:
    from autopilot.core.gate import Gate
    from autopilot.core.optimizer import Optimizer
    from autopilot.core.policy import Policy

Hook = Callable[..., Any]


class RemovableHandle:
    """Removes a hook: `handle.remove()`."""

    def __init__(self, hooks: list[Hook], hook: Hook) -> None:
        self._hooks, self._hook = hooks, hook

    def remove(self) -> None:
        """Removes the hook; a second call does nothing."""
        hooks, self._hooks = self._hooks, []
        if self._hook in hooks:
            hooks.remove(self._hook)


class Module:
    """A system: define `forward(batch)`, and declare what may change as Parameter attributes.

    >>> class Greeter(Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.greeting = Parameter("hello")
    ...     def forward(self, batch):
    ...         text = f"{self.greeting.data} {batch.metadata['name']}"
    ...         return Datum(metadata={"text": text})
    >>> Greeter()(Datum(metadata={"name": "Ada"})).metadata["text"]
    'hello Ada'
    """

    training: bool
    _parameters: dict[str, Parameter]
    _modules: dict[str, Module]
    _metrics: dict[str, Metric | MetricCollection]
    _pre_hooks: list[Hook]
    _hooks: list[Hook]

    def __init__(self) -> None:
        state = self.__dict__
        state["_parameters"], state["_modules"], state["_metrics"] = {}, {}, {}
        state["_pre_hooks"], state["_hooks"] = [], []
        state["training"] = True

    def forward(self, batch: Any) -> Any:
        """The system's answer to a batch (a Datum with items): one Datum, items in order."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward(batch)")

    def backward(self, gradient: Gradient, inputs: tuple[Any, ...], output: Any) -> Any:
        """Credit assignment: takes feedback on an output, returns the feedback for what led to it.

        The default gives it unchanged to the module's own parameters and passes it on unchanged.

        Args:
            gradient: Feedback on the output, from everything that used it.
            inputs: The arguments of the call.
            output: The return value of the call.

        Returns:
            One Gradient for all upstream calls, a list with one for each, a dict from module to
            Gradient, or None to pass nothing on.
        """
        for parameter in graph.own_parameters(self):
            parameter.accumulate_grad(gradient)
        return gradient

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(self.forward, *args, **kwargs)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs one of the module's own methods as a recorded call, with its hooks."""
        self._check_initialized()
        # Copies: a hook may remove itself.
        for pre_hook in list(self._pre_hooks):
            replaced = pre_hook(self, args)
            if replaced is not None:
                args = replaced if isinstance(replaced, tuple) else (replaced,)
        if graph.is_grad_enabled():
            output = graph.record(self, function, args, kwargs)
        else:
            output = function(*args, **kwargs)
        for hook in list(self._hooks):
            replaced = hook(self, args, output)
            if isinstance(replaced, Datum) and replaced.grad_fn is None:
                replaced.grad_fn = getattr(output, "grad_fn", None)
            output = output if replaced is None else replaced
        return output

    def register_forward_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Calls `hook(module, args)` before forward; a returned value replaces the arguments."""
        return self._register("_pre_hooks", hook, "the forward pre-hook", ["module", "args"])

    def register_forward_hook(self, hook: Hook) -> RemovableHandle:
        """Calls `hook(module, args, output)` after forward; a returned value replaces that one."""
        return self._register("_hooks", hook, "the forward hook", ["module", "args", "output"])

    def _register(self, home: str, hook: Hook, label: str, given: list[str]) -> RemovableHandle:
        self._check_initialized()
        check_function(hook, label, given)
        hooks: list[Hook] = self.__dict__[home]
        hooks.append(hook)
        return RemovableHandle(hooks, hook)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter | Module | Metric | MetricCollection):
            self._check_initialized()
        elif value is not None and name in self.__dict__.get("_parameters", {}):
            # `module.prompt = "new text"` is meant as a change, and would drop the parameter.
            own = f"{type(self).__name__}.{name}"
            raise ModuleError(
                f"{own} is a parameter, not a {type(value).__name__}",
                hint=f"set {own}.data, or del {own} first",
            )
        for home, kind in _HOMES.items():
            # Before super().__init__() there are no homes: plain attributes may be set then.
            registered = self.__dict__.get(home, {})
            if isinstance(value, kind):
                registered[name] = value
            else:
                registered.pop(name, None)
        if isinstance(value, Parameter) and not value.name:
            value.name = name
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        for home in _HOMES:
            self.__dict__.get(home, {}).pop(name, None)
        super().__delattr__(name)

    def _check_initialized(self) -> None:
        if "_parameters" not in self.__dict__:
            raise ModuleError(
                f"{type(self).__name__}.__init__ did not call super().__init__()",
                hint="make it the first line of __init__",
            )

    def children(self) -> Iterator[Module]:
        """The modules that are attributes of this one."""
        yield from {id(child): child for _, child in self.named_children()}.values()

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Attribute name and module."""
        self._check_initialized()
        yield from list(self._modules.items())

    def modules(self) -> Iterator[Module]:
        """This module and all below, each once."""
        yield from (module for _, module in self.named_modules())

    def named_modules(
        self, prefix: str = "", seen: set[int] | None = None
    ) -> Iterator[tuple[str, Module]]:
        """Dotted name and module, this one first, each once."""
        seen = set() if seen is None else seen
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def parameters(self, recurse: bool = True) -> list[Parameter]:  # as in torch.nn
        """All parameters, each once."""
        return [parameter for _, parameter in self.named_parameters(recurse=recurse)]

    def named_parameters(
        self,
        prefix: str = "",
        recurse: bool = True,  # as in torch.nn
    ) -> Iterator[tuple[str, Parameter]]:
        """Dotted name, behind a prefix if given, and parameter, each once."""
        for name, parameter in self._named("_parameters", recurse=recurse):
            yield f"{prefix}.{name}" if prefix else name, parameter

    def named_metrics(self) -> Iterator[tuple[str, Metric | MetricCollection]]:
        """Dotted name and metric, each once."""
        yield from self._named("_metrics", recurse=True)

    def _named(self, home: str, *, recurse: bool) -> Iterator[tuple[str, Any]]:
        self._check_initialized()
        seen: set[int] = set()
        for prefix, module in self.named_modules() if recurse else [("", self)]:
            for name, value in module.__dict__[home].items():
                if id(value) not in seen:
                    seen.add(id(value))
                    yield f"{prefix}.{name}" if prefix else name, value

    def train(self, mode: bool = True) -> Self:  # as in torch.nn
        """Sets `training` on this module and all below."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Unsets `training` on this module and all below."""
        return self.train(False)

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Calls the function on every module below, then on this one."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:  # as in torch.nn
        """Sets whether backward fills the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self) -> None:
        """Forgets the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Dotted name to the parameter's snapshot."""
        return {name: parameter.snapshot() for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:  # as in torch
        """Restores the parameters.

        Args:
            state: The value of an earlier `state_dict()`.
            strict: Every key must fit.

        Raises:
            StateError: keys are missing or unexpected; it names them, and nothing is restored.
        """
        own = dict(self.named_parameters())
        wrong = {"missing": own.keys() - state.keys(), "unexpected": state.keys() - own.keys()}
        parts = [f"{how} keys {', '.join(sorted(keys))}" for how, keys in wrong.items() if keys]
        if strict and parts:
            raise StateError(
                f"the state does not fit {type(self).__name__}: {'; '.join(parts)}",
                hint="pass strict=False to load what fits",
            )
        for name, parameter in own.items():
            if name in state:
                parameter.restore(state[name])

    def __getattr__(self, name: str) -> Any:
        if name in ("training", "_pre_hooks", "_hooks", *_HOMES):
            self._check_initialized()
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __repr__(self) -> str:
        lines = [f"({name}): {p!r}" for name, p in self.__dict__.get("_parameters", {}).items()]
        for name, child in self.__dict__.get("_modules", {}).items():
            lines.append(f"({name}): " + repr(child).replace("\n", "\n  "))
        body = "".join(f"\n  {line}" for line in lines)
        return f"{type(self).__name__}({body}\n)" if lines else f"{type(self).__name__}()"


_HOMES: dict[str, type | tuple[type, ...]] = {
    "_parameters": Parameter,
    "_modules": Module,
    "_metrics": (Metric, MetricCollection),
}


def name_parameters(module: Module) -> None:
    """Gives each parameter its dotted name, which is unique in records."""
    for name, parameter in module.named_parameters():
        parameter.name = name


class AutoPilotModule(Module):
    """A module that says how it is trained: one class is a whole experiment.

    Define `forward` and `configure_optimizers`; everything else has a default.

    Attributes:
        objective: The goal in words, for an agent that edits; `--goal` counts before it.
        background: Facts on the system and its users, likewise; `--background` is added to it.
        monitor: The val metric that decides, "accuracy" unless set.
        mode: "max" when higher is better, "min" when lower is. If unset, `higher_is_better` of the
            metric counts; a name that sounds like a cost needs one of the two.
        failed_value: The value of an item with an error in the monitored metric. None: it has no
            value, and an epoch in which an item lost its value is not better.
        accumulate_grad_batches: Batches between two optimizer steps; None, or without a train
            split: one step an epoch.
        item_timeout_s: Seconds of wall clock after which an item, with its scoring, is ended and an
            error; a batch has them for each of its items. None: no limit.
        transient_errors: Exception types that mean that a service did not answer, beside
            ConnectionError, TimeoutError and failed model calls. The call is repeated after a
            pause, up to `--max-wait`, and is never a result. If slowness is the system's own
            fault, catch the error and return Datum(error_message=...).
        fresh: When a new process evaluates, unless `--fresh` says so: "auto", "always", or "never",
            which is right where only child processes import the parameters' files.
        ends_items: Whether the module ends an item by itself after `item_timeout_s`, which is then
            set to the limit that holds.
    """

    monitor: str = "accuracy"
    mode: str | None = None
    failed_value: float | None = None
    accumulate_grad_batches: int | None = None
    item_timeout_s: float | None = None
    transient_errors: tuple[type[BaseException], ...] = ()
    fresh: str | None = None
    ends_items: bool = False

    def details(self) -> Sequence[str]:
        """Sentences on how it is measured and changed, for a look before a run."""
        return ()

    def training_step(self, batch: Datum) -> Datum:
        """One batch of the train split."""
        return self.forward(batch)  # type: ignore[no-any-return]  # forward is the user's

    def validation_step(self, batch: Datum) -> Datum:
        """One batch of the val split."""
        return self.forward(batch)  # type: ignore[no-any-return]  # forward is the user's

    def test_step(self, batch: Datum) -> Datum:
        """One batch of the test split."""
        return self.forward(batch)  # type: ignore[no-any-return]  # forward is the user's

    def configure_optimizers(self) -> Optimizer | Sequence[Optimizer]:
        """The optimizer that changes the parameters; several run in turn."""
        raise NotImplementedError(f"{type(self).__name__} defines no configure_optimizers()")

    def configure_loss(self) -> Loss | Sequence[Loss]:
        """The loss, which turns results into feedback; by default that of the failed items.

        Several losses add up. Where this is not overridden, a Loss that is an attribute of the
        module is its loss.
        """
        return Loss()

    def configure_judge(self) -> Scorer | None:
        """A Judge that scores the items of every split; its feedback is added to the loss's.

        An item's own success stays; the judge's score is the metric "score".
        """
        return None

    def configure_policy(self) -> Policy | Gate | Sequence[Gate] | None:
        """The policy, which decides whether an epoch is kept; None: val improved.

        A gate, or a list of gates, is a condition beside the improvement.
        """
        return None

    def configure_callbacks(self) -> Sequence[Any]:
        """A list of the Callbacks of this experiment, beside the Trainer's."""
        return []

    def train_dataloader(self) -> Iterable[Any] | None:
        """Batches of the train split; without one, the optimizer learns from the val results."""
        return None

    def val_dataloader(self) -> Iterable[Any] | None:
        """Batches of the val split; without one every epoch is kept."""
        return None

    def test_dataloader(self) -> Iterable[Any] | None:
        """Batches of the test split, scored once, after the last epoch."""
        return None
