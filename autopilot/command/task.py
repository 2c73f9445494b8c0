"""The module of a run without Python."""

from __future__ import annotations

from autopilot.ai.optimizer import AgentOptimizer
from autopilot.command.editing import agent_of, parameters_of
from autopilot.command.module import CommandModule
from autopilot.command.options import OF_MODULE, TaskOptions
from autopilot.core.optimizer import Optimizer
from autopilot.core.rules import ChainOptimizer
from autopilot.tuning.search import SearchOptimizer


def task(**options: str) -> CommandTask:
    """The module of a run without Python, by its options as the manifest has them."""
    return CommandTask(TaskOptions.of(options))


class CommandTask(CommandModule):
    """A run without Python: the command measures, the agent edits."""

    def __init__(self, options: TaskOptions) -> None:
        given = {name: value for name, value in options.given().items() if name in OF_MODULE}
        super().__init__(**given)  # type: ignore[arg-type]  # by the fields' own types
        self.options = options
        edited, tuned = parameters_of(options)
        for name, parameter in (edited | tuned).items():
            setattr(self, name, parameter)
        self._edited, self._tuned = [*edited.values()], [*tuned.values()]

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
            found.append(AgentOptimizer(agent, self._edited))
        return found[0] if len(found) == 1 else ChainOptimizer(found)
