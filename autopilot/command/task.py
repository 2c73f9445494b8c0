"""The module of a run without Python."""

from __future__ import annotations

from autopilot.command.editing import EditOptimizer, agent_of, check_apart, edited_parameters
from autopilot.command.module import CommandModule
from autopilot.command.options import TaskOptions
from autopilot.core.optimizer import Optimizer
from autopilot.core.rules import ChainOptimizer
from autopilot.tuning.parameter import config_parameters
from autopilot.tuning.search import SearchOptimizer


def task(**options: str) -> CommandTask:
    """The module of a run without Python, by its options as the manifest has them."""
    return CommandTask(TaskOptions.of(options))


class CommandTask(CommandModule):
    """A run without Python: the command measures, the agent edits."""

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(
            eval=options.eval or "",
            train_eval=options.train_eval or "",
            val_eval=options.val_eval or "",
            test_eval=options.test_eval or "",
            metric=options.metric,
            guard=options.guard or "",
            setup=options.setup or "",
            env=options.env or (),
            junit=options.junit or "",
            metric_regex=options.metric_regex or "",
        )
        self.options = options
        self._edited = edited_parameters(options.edit or (), options.protect or ())
        self._tuned = config_parameters(options.tune or ())
        check_apart(self._edited, self._tuned)
        for kind, parameters in (("edit", self._edited), ("tune", self._tuned)):
            for number, parameter in enumerate(parameters, 1):
                setattr(self, kind if number == 1 else f"{kind}_{number}", parameter)

    def details(self) -> list[str]:
        edited = [f"edited by: {self.options.agent}"] if self._edited and self.options.agent else []
        tuned = [f"searched by: {self.options.sampler or 'tpe'}"] if self._tuned else []
        return [*super().details(), *tuned, *edited]

    def configure_optimizers(self) -> Optimizer:
        options, found = self.options, list[Optimizer]()
        if self._tuned:
            found.append(SearchOptimizer(self._tuned, options.sampler or "tpe"))
        if self._edited:
            agent = agent_of(options.agent or "", options.model)
            found.append(EditOptimizer(agent, self._edited, goal=options.goal or ""))
        return found[0] if len(found) == 1 else ChainOptimizer(found)
