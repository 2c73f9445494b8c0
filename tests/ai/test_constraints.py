"""Constraints of an edit: what breaks them, and how an agent hears of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autopilot.ai.agent import Agent, AgentContext, AgentResult
from autopilot.ai.constraints import Constraint, KeepPlaceholders, MaxLength
from autopilot.ai.optimizer import AgentOptimizer
from autopilot.core.configuration import optimizer_of
from autopilot.core.gradient import TextGradient
from autopilot.core.module import AutoPilotModule, Module
from autopilot.core.parameter import Parameter, PathParameter
from autopilot.errors import BudgetExceededError, UsageError
from autopilot.tuning.parameter import ConfigParameter
from autopilot.tuning.spaces import Range


class Writer(Agent):
    """Writes one text after the other into the first file."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.seen: list[str] = []

    def _run(self, prompt: str, context: AgentContext) -> AgentResult:
        self.seen.append(prompt)
        context.files[0].write_text(self.texts.pop(0))
        return AgentResult("Done.", session_id="s")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], PathParameter]:
    monkeypatch.chdir(tmp_path)

    def parameter(name: str, text: str) -> PathParameter:
        Path(name).write_text(text)
        made = PathParameter(name)
        made.name, made.grad = name.partition(".")[0], TextGradient("be polite")
        return made

    return parameter


def valid(parameter: PathParameter) -> str:
    """No shouting, please.

    Capitals are for names.
    """
    if "BROKEN" in parameter.read_text():
        raise ValueError("it does not parse")
    return "it shouts" if parameter.read_text().isupper() else ""


def test_mistakes_go_back_in_the_same_session_and_nothing_lasts_that_breaks_a_rule(make) -> None:
    prompt = make("prompt.md", "Answer {question} in {{ lang }}.\n")
    other = make("other.md", "kind\n")
    agent = Writer(
        "Answer kindly, at length, and whatever was asked.\n",
        "BROKEN {question} {{lang}}",
        "Be kind: {question} {{lang}}\n",
    )
    rules = {"prompt": [MaxLength(40), KeepPlaceholders(), valid], "other": MaxLength(9)}
    optimizer = AgentOptimizer(agent, [prompt, other], constraints=rules)
    step = optimizer.step()
    assert step is not None and step.summary == "edit prompt.md: +1 -1 lines"
    assert prompt.read_text() == "Be kind: {question} {{lang}}\n"
    first, *later = agent.seen
    assert (
        "- prompt.md: at most 40 characters\n- prompt.md: placeholders stay\n"
        "- prompt.md: No shouting, please\n- other.md: at most 9 characters\n"
    ) in first
    told = "Your edit does not count, and is undone: it breaks a rule. prompt.md: "
    assert later == [
        f"{told}it has 50 characters, 10 more than allowed; prompt.md: the placeholders "
        "{question}, {{lang}} are gone.",
        f"{told}it does not parse.",
    ]

    # After the last retry the step says so; the parameter is as it was.
    loud = Writer(*["LOUD {question} {{lang}}\n".upper()] * 2)
    optimizer = AgentOptimizer(loud, [prompt, other], max_retries=1, constraints=valid)
    step = optimizer.step()
    assert step is not None and step.summary == "nothing new"
    assert step.rationale == "undone: it breaks a rule. prompt.md: it shouts."
    assert prompt.read_text() == "Be kind: {question} {{lang}}\n"


@pytest.mark.parametrize(
    ("constraint", "before", "after", "mistake"),
    [
        (MaxLength(4), "", "kind", ""),
        (MaxLength(3), "", "größe", "it has 5 characters, 2 more than allowed"),
        (KeepPlaceholders(), "${a} %(b)s {c:.2f} {d.e!r}", "%(b)s{d.e!r}", "the placeholders ${a}, "
         "{c:.2f} are gone"),
        (KeepPlaceholders(), '{"a": 1} f() { return } {{ x | upper }}', "{{x|upper}}", ""),
        (KeepPlaceholders(), "kind", "kind {new}", ""),
        (KeepPlaceholders("<q>", "<a>"), "{x}", "<a>", "the placeholder <q> is gone"),
    ],
)  # fmt: skip
def test_the_ready_made_ones(constraint: Constraint, before: str, after: str, mistake: str) -> None:
    text = Parameter(before)
    constraint.begin(text)
    text.data = after
    assert constraint.check(text) == mistake


def test_whatever_a_function_returns_as_a_mistake_is_one(make) -> None:
    prompt = make("prompt.md", "kind\n")
    for returned, says in ((["too loud"], "['too loud']"), (False, "<lambda> refuses it")):
        agent = Writer("KIND\n", "kinder\n")
        validate = lambda p, r=returned: r if "KIND" in p.read_text() else None  # noqa: E731
        AgentOptimizer(agent, [prompt], constraints=validate).step()
        assert f"prompt.md: {says}" in agent.seen[1]
        prompt.write_text("kind\n")

    def spends(parameter: Parameter) -> str:
        raise BudgetExceededError("no call is left", hint="raise the budget")

    with pytest.raises(BudgetExceededError):
        AgentOptimizer(Writer("kinder\n"), [prompt], constraints=spends).step()
    assert prompt.read_text() == "kind\n"


def test_of_several_files_each_is_named(tmp_path: Path) -> None:
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text("{question}")
    (tmp_path / "c.bin").write_bytes(b"\0" * 99)
    folder, keep = PathParameter(tmp_path), KeepPlaceholders()
    keep.begin(folder)
    (tmp_path / "a.md").write_text("too long")
    (tmp_path / "b.md").unlink()
    assert keep.check(folder) == "the placeholders {question} of a.md, {question} of b.md are gone"
    assert MaxLength(7).check(folder) == "a.md has 8 characters, 1 more than allowed"


def test_an_edited_value_stays_in_its_space(make) -> None:
    make("config.toml", "size = 16\n")
    config = ConfigParameter("config.toml", {"size": Range(1, 32)})
    config.grad = TextGradient("larger")
    agent = Writer("size = 64\n", "size = \n", "size = 32\n")
    AgentOptimizer(agent, [config]).step()
    assert config.values() == {"size": 32}
    assert "config.toml:1: size is 64, outside of 1..32" in agent.seen[1]
    assert "config.toml:1 is no TOML" in agent.seen[2]


def test_what_is_no_constraint_is_refused(make) -> None:
    prompt = make("prompt.md", "x")
    wrong = {
        "no parameter of the optimizer": {"promt": MaxLength(3)},
        "is no constraint": MaxLength,
        "gets one argument": lambda: "",
    }
    for says, constraints in wrong.items():
        with pytest.raises(UsageError, match=says):
            AgentOptimizer(Writer(), [prompt], constraints=constraints)


def test_a_parameter_is_named_as_in_records(make) -> None:
    class Stage(Module):
        def __init__(self) -> None:
            super().__init__()
            self.prompt = PathParameter("prompt.md")

    class Pipeline(AutoPilotModule):
        def __init__(self) -> None:
            super().__init__()
            self.stage = Stage()

        def configure_optimizers(self) -> AgentOptimizer:
            rules = {"stage.prompt": MaxLength(9)}
            return AgentOptimizer(Writer(), self.parameters(), constraints=rules)

    make("prompt.md", "x")
    optimizer = optimizer_of(Pipeline())
    assert isinstance(optimizer, AgentOptimizer)
    assert optimizer.build_brief().constraints == ["prompt.md: at most 9 characters"]
