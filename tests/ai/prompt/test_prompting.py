"""Parts of a long text, and what an agent is asked for."""

from __future__ import annotations

from pydantic import BaseModel

from autopilot.ai.agent import Agent, AgentContext, AgentResult
from autopilot.ai.prompt.prompting import ask, excerpt, show

TEXT = "\n".join(f"rule {n}: answer kindly" for n in range(1, 501))


def test_the_lines_that_feedback_names_are_shown_with_those_around() -> None:
    text = TEXT.replace("rule 300: answer kindly", "rule 300: shout at customers")
    shown = excerpt(text, "customers were shouted at", 300)
    assert shown.splitlines() == [
        "...",
        "298\trule 298: answer kindly",
        "299\trule 299: answer kindly",
        "300\trule 300: shout at customers",
        "301\trule 301: answer kindly",
        "302\trule 302: answer kindly",
        "...",
    ]


def test_a_line_number_counts_most() -> None:
    for said in ("see prompt.md:77", "what stands in line 77 misled it"):
        assert "77\trule 77" in excerpt(TEXT, said, 100)


def test_it_never_takes_more_room_than_there_is() -> None:
    for room in (0, 10, 100, 1000):
        assert len(excerpt(TEXT, "answer kindly, rule 5, line 9", room)) <= room


def test_feedback_that_points_nowhere_shows_nothing() -> None:
    assert excerpt(TEXT, "zzz", 1000) == ""


def test_of_many_files_the_named_parts_come_first_and_all_of_it_is_limited() -> None:
    files = [(f"src/modül {n:04}.py", f"value = {n}\n" * 20) for n in range(2000)]
    files.append(("src/the rules.md", TEXT * 20))
    shown = show(files, "modül 1500.py is wrong, and line 77 of the rules.md", 5000)
    assert "=== src/modül 1500.py\nvalue = 1500\n" in shown
    assert f"=== src/the rules.md ({len(TEXT * 20)} characters, in part: " in shown
    assert "\n77\trule 77: answer kindly\n" in shown
    assert "=== src/modül 0000.py\n" in shown
    assert "more, not shown: list them with your tools" in shown
    assert len(shown) < 3 * 5000


def test_an_empty_file_is_named() -> None:
    assert show([("a.md", ""), ("b.md", "long")], "", 2).startswith("=== a.md\n")


class Answer(BaseModel):
    """An answer."""

    text: str


class Answerer(Agent):
    """Keeps its instructions."""

    def run(self, prompt: str, context: AgentContext | None = None) -> AgentResult:
        self.system = context.system if context else ""
        return AgentResult('{"text": "yes"}')


def test_without_a_system_an_agent_gets_the_schema_alone() -> None:
    agent = Answerer()
    for system, start in (("", "Answer with JSON"), ("Be brief.", "Be brief.\n\nAnswer with")):
        assert ask(agent, "?", Answer, system=system, role="judge").text == "yes"
        assert agent.system.startswith(start)


def test_lines_that_weigh_the_same_are_shown_in_order_in_every_process() -> None:
    """The order of a set, and with it a plain sum, differs from process to process."""
    for n in range(40):
        first, second = ([f"{letter}{n}w{place}" for place in range(6)] for letter in "ab")
        pairs = [
            f"{a} {b}"
            for k, (a, b) in enumerate(zip(first, second, strict=True))
            for _ in range(k + 1)
        ]
        text = "\n".join([" ".join(first), " ".join(second), *pairs])
        shown = excerpt(text, " ".join(first + second), len(" ".join(first)) + 10)
        assert shown == f"1\t{' '.join(first)}\n..."
