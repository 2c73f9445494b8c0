"""Optimizers without a model: named rules, and several optimizers in turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any

from autopilot.core.gradient import Gradient
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.core.records.record import TOGETHER, MetricsRecord
from autopilot.core.signatures import as_call
from autopilot.core.types import Cost
from autopilot.errors import ModuleError, StateError

ALL_BLOCKED = "every strategy is blocked"


class Rule(ABC):
    """One strategy: looks at a gradient and edits a parameter, without a model.

    Attributes:
        name: The strategy's name in commits and in memory.
        attempt: How often this rule was applied before; set by the optimizer and saved with its
            state, so that a rule can try something else each time and still resume exactly.
    """

    name: str = ""
    attempt: int = 0

    def __repr__(self) -> str:
        return as_call(self)

    def applies(self, gradient: Gradient) -> bool:
        """Whether this rule has an answer to the feedback."""
        return True

    @abstractmethod
    def apply(self, parameter: Parameter, gradient: Gradient) -> str | None:
        """Edits the parameter.

        Returns:
            What was done, as a commit's subject reads; None where nothing was changed.
        """


class RuleOptimizer(Optimizer):
    """Applies one rule a step: the next in order that applies, is not blocked and does something.

    With `--strategies bandit` the order is by how the rules did so far. Of several candidates in an
    epoch, the second one takes the rule after that, and so on.

    Args:
        parameters: List of Parameter.
        rules: The strategies, in order. After the last comes the first again.

    Raises:
        ValueError: no rules, two of one name, or something that is no Rule.

    >>> class Longer(Rule):
    ...     name = "longer"
    ...     def apply(self, parameter, gradient):
    ...         parameter.data += "!"
    ...         return "add emphasis"
    >>> text = Parameter("hi")
    >>> optimizer = RuleOptimizer([text], [Longer()])
    >>> text.grad = Gradient("too dull")
    >>> optimizer.step().summary, text.data
    ('add emphasis', 'hi!')
    >>> optimizer.block_strategy("longer")
    >>> optimizer.step() is None
    True
    """

    ranks = True

    def __init__(self, parameters: Iterable[Parameter], rules: Sequence[Rule]) -> None:
        super().__init__(parameters)
        self.rules = list(rules)
        other = next((rule for rule in self.rules if not isinstance(rule, Rule)), None)
        if other is not None or not self.rules:
            wrong = f"{other!r} is not a Rule" if self.rules else "there are no rules"
            raise ValueError(f"{wrong}; pass objects, as in [AddWord()]")
        names = self.strategies()
        if len(set(names)) < len(names) or not all(names):
            raise ValueError(f"rules need distinct names, got {names}")
        self._next = 0

    def step(self) -> Step | None:
        others = self.proposal[0] - 1  # those before it take the rules before
        before = [(p, p.snapshot()) for p in self.parameters] if others else []
        ranks = {strategy.name: rank for rank, strategy in enumerate(self.preferred)}
        ordered = self.rules[self._next :] + self.rules[: self._next]
        if ranks:
            ordered = sorted(self.rules, key=lambda rule: ranks.get(rule.name, len(ranks)))
        for offset in range(len(ordered) * self.proposal[0]):
            rule = ordered[offset % len(ordered)]
            if rule.name in self.blocked or not (done := self._apply(rule)):
                continue
            if not others:
                self._next = (self.rules.index(rule) + 1) % len(self.rules)
                return Step("; ".join(done), rule.name)
            others -= 1
            for parameter, snapshot in before:
                parameter.restore(snapshot)
        return None

    def exhausted(self) -> str:
        return ALL_BLOCKED if self.blocked.issuperset(self.strategies()) else ""

    def strategies(self) -> Sequence[str]:
        return [rule.name for rule in self.rules]

    def _apply(self, rule: Rule) -> list[str]:
        done = []
        for parameter in self.parameters:
            if parameter.grad is None or not rule.applies(parameter.grad):
                continue
            summary = rule.apply(parameter, parameter.grad)
            if not isinstance(summary, str | None):
                raise ModuleError(
                    f"{type(rule).__name__}.apply() returned {summary!r}, not a text",
                    hint="say what was done, as a commit's subject reads; None if nothing was",
                )
            if summary:
                done.append(summary)
        if done:
            # Only now: a rule that changed nothing tries the same again next time.
            rule.attempt += 1
        return done

    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next, "attempts": {rule.name: rule.attempt for rule in self.rules}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        attempts, names = state.get("attempts", {}), sorted(self.strategies())
        if sorted(attempts) != names:
            raise StateError(
                f"the saved rules {sorted(attempts)} are not the present ones {names}",
                hint="resume with the code that the experiment was started with",
            )
        self._next = int(state["next"])
        for rule in self.rules:
            rule.attempt = int(attempts[rule.name])


class ChainOptimizer(Optimizer):
    """Runs several optimizers in turn, as one step.

    Edits that an agent makes to parameters of the other optimizers alone are undone.

    Args:
        optimizers: At least one; their parameters together are this one's.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        parameters = {id(p): p for optimizer in optimizers for p in optimizer.parameters}
        super().__init__(parameters.values())
        self.optimizers = list(optimizers)
        self.confined = any(optimizer.confined for optimizer in optimizers)
        self.steerable = any(optimizer.steerable for optimizer in optimizers)
        self.ranks = any(optimizer.ranks for optimizer in optimizers)
        self.needs_gradient = all(optimizer.needs_gradient for optimizer in optimizers)

    def step(self) -> Step | None:
        steps: list[Step] = []
        for optimizer in self.optimizers:
            # Also the strategies that were blocked by hand here, which the loop does not assign.
            optimizer.blocked, optimizer.context = self.blocked, self.context
            optimizer.proposal, names = self.proposal, optimizer.strategies()
            is_own = (s.name in names or not self.strategies() for s in self.preferred)
            optimizer.preferred = [*compress(self.preferred, is_own)]
            own = optimizer.parameters
            # An agent may write into any file, and in a replay it brings the edits of all.
            others = [p for p in self.parameters if p not in own] if optimizer.confined else []
            before = [(p, p.snapshot()) for p in others]
            if (step := optimizer.step()) is not None:
                steps.append(step)
            # Its own ones last: files of another one's folder may be among them.
            after = [(p, p.snapshot()) for p in own] if others else []
            for parameter, snapshot in before + after:
                parameter.restore(snapshot)
        if not steps:
            return None
        return Step(
            summary="; ".join(step.summary for step in steps if step.summary),
            strategy=TOGETHER.join(dict.fromkeys(s.strategy for s in steps if s.strategy)),
            rationale="\n".join(step.rationale for step in steps if step.rationale),
            cost=sum((step.cost for step in steps), Cost()),
        )

    def tell(self, record: MetricsRecord) -> None:
        for optimizer in self.optimizers:
            optimizer.tell(record)

    def is_told(self) -> bool:
        return any(optimizer.is_told() for optimizer in self.optimizers)

    def exhausted(self) -> str:
        for optimizer in self.optimizers:
            optimizer.blocked = self.blocked
        reasons = [optimizer.exhausted() for optimizer in self.optimizers]
        return reasons[0] if all(reasons) else ""

    def reads_feedback(self) -> bool:
        return any(optimizer.reads_feedback() for optimizer in self.optimizers)

    def strategies(self) -> Sequence[str]:
        return [name for optimizer in self.optimizers for name in optimizer.strategies()]

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for optimizer, own in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
