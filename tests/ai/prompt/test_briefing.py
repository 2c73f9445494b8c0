"""The prompt of a step: what it tells of a pipeline, and that it tells nothing of val items."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autopilot import (
    AgentCollator,
    AgentOptimizer,
    AgentResult,
    AutoPilotModule,
    Budget,
    CustomGate,
    DataLoader,
    Datum,
    EarlyStopping,
    Experiment,
    FunctionAgent,
    Gradient,
    InMemoryStore,
    Judge,
    JudgeLoss,
    Lesson,
    Loss,
    Manifest,
    Memory,
    MinGate,
    Module,
    NoRegression,
    PathParameter,
    Policy,
    TextGradient,
    Trainer,
)
from autopilot.ai.agent import Agent, AgentContext
from autopilot.ai.prompt.briefing import Attempt, Brief, Editable
from autopilot.ai.prompt.facts import recorded_brief
from autopilot.core.comparison import EpochView
from autopilot.core.gradient import Finding
from autopilot.core.parameter import Parameter
from autopilot.core.records.record import Taken
from autopilot.core.selection import State
from autopilot.errors import UsageError
from autopilot.git.repository import Repository
from autopilot.tracking import GitStore
from autopilot.tracking.notebook import Notebook

GOLDEN = Path(__file__).parent / "golden" / "prompt.md"
CANARY = "CANARY"
TEXTS = {
    "billing": [
        "I was charged {n} euros twice for order {o}. Please give the second payment back.",
        "The invoice of order {o} lacks my tax number, and my accountant asks for it daily.",
        "Why does order {o} cost {n} euros more than the shop said?",
    ],
    "shipping": [
        "My parcel with order {o} was to arrive {n} days ago, and nobody knows where it is.",
        "Can order {o} be left with a neighbour? I am away for {n} days.",
    ],
    "returns": [
        "The vase of order {o} came broken, in {n} pieces. I want to send it back.",
        "Order {o} does not fit. What do I have to do to exchange it?",
        "I sent {n} of the lamps in order {o} back, and heard nothing since.",
    ],
    "account": [
        "I cannot log in since I changed my address {n} times; my last order was {o}.",
        "Please delete my account. Order {o} was my last one.",
    ],
}
LONG = "\n\nOn Monday I called, and was put through to four people who all asked for the same." * 40
RULES = "parcel -> shipping\norder -> shipping\n"
REPLIES = {queue: f"Dear customer, this is a matter of {queue}.\n" for queue in TEXTS}
HANDBOOK = "".join(
    f"{n}. In case {n} of the {queue} desk, say what happens next, and when; promise no more.\n"
    for n in range(1, 101)
    for queue in TEXTS
)


def tickets(count: int, start: int = 0, more: str = "") -> list[dict[str, str]]:
    queues, found = list(TEXTS), []
    for n in range(start, start + count):
        queue, order = queues[n % 4], 1000 + 7 * n
        text = TEXTS[queue][n // 4 % len(TEXTS[queue])].format(n=n % 9 + 2, o=order)
        text += more + (LONG if n % 50 == 2 else "")
        answer = f"names the order {order}"
        found.append({"id": f"t{n}", "text": text, "label": queue, "answer": answer})
    return found


class Classify(Module):
    """Chooses the queue of a ticket: that of the first rule whose word occurs in it."""

    def __init__(self) -> None:
        super().__init__()
        self.rules = PathParameter(
            "rules.txt", description="One rule a line, WORD -> QUEUE; the first that fits counts."
        )

    def forward(self, batch: Datum) -> Datum:
        rules = [line.split(" -> ") for line in self.rules.read_text().splitlines() if line]
        found = []
        for item in batch.items:
            text = item.metadata["text"].lower()
            queue = next((queue for word, queue in rules if word in text), "account")
            found.append(Datum(id=item.id, metadata={"queue": queue, "text": text}))
        return Datum(items=found)


class Reply(Module):
    """Fills in the reply of the queue: {order} is the number of the order."""

    def __init__(self) -> None:
        super().__init__()
        self.replies = PathParameter("replies", "*.md")

    def forward(self, batch: Datum) -> Datum:
        found = []
        for item in batch.items:
            order = max(re.findall(r"\d+", item.metadata["text"]), key=len)
            text = self.replies.read_text(f"{item.metadata['queue']}.md")
            reply = {
                "queue": item.metadata["queue"],
                "reply": text.strip().replace("{order}", order),
            }
            found.append(Datum(id=item.id, metadata=reply))
        return Datum(items=found)


class Desk(AutoPilotModule):
    """Answers a customer's ticket: chooses its queue, then writes that queue's reply."""

    objective = "Every ticket gets the reply of its queue, and the reply names the order."

    def __init__(self, agent: FunctionAgent, *, trains: bool = True, **options: object) -> None:
        super().__init__()
        self.classify, self.reply = Classify(), Reply()
        self.agent, self.trains, self.options = agent, trains, options

    def forward(self, batch: Datum) -> Datum:
        replies = self.reply(self.classify(batch))
        for item, target in zip(replies.items, batch.items, strict=True):
            queue, wanted = item.metadata["queue"], target.metadata["label"]
            order = target.metadata["answer"].split()[-1]
            item.metadata["category"] = wanted
            if queue != wanted:
                item.feedback = f"the queue is {queue!r}, and should be {wanted!r}"
            elif order not in item.metadata["reply"]:
                item.feedback = "the reply does not name the order"
            item.success = item.feedback is None
            if CANARY in target.metadata["text"]:
                item.metadata["note"] = f"{CANARY}-OUTPUT of {target.id}"
                item.metadata["code"] = f"{CANARY}{target.id}"
                if "crash" in self.classify.rules.read_text():
                    raise ValueError(target.metadata["text"])
        return replies

    def configure_optimizers(self) -> AgentOptimizer:
        return AgentOptimizer(self.agent, self.parameters(), **self.options)  # type: ignore[arg-type]

    def configure_policy(self) -> Policy:
        return Policy([MinGate("accuracy", 0.2), NoRegression("accuracy")])

    def train_dataloader(self) -> DataLoader | None:
        return DataLoader(tickets(380), batch_size=190) if self.trains else None

    def val_dataloader(self) -> DataLoader:
        return DataLoader(tickets(40, 1000, more=f" {CANARY}-INPUT"), batch_size=10)


def quotes(view: EpochView) -> tuple[bool, str]:
    """Names the worst item by its code, the end of what it got, and a part of its result."""
    text = tickets(40, 1000, more=f" {CANARY}-INPUT")[0]["text"]
    of = view.items[0].metadata
    return False, f"worst of all: {of['code']} {text[-20:]!r}, {str(of)[-30:]}"


class Quoting(Desk):
    def configure_policy(self) -> Policy:
        return Policy([*super().configure_policy().gates, CustomGate(quotes, required=False)])


Edit = Callable[[Path], tuple[str, str]]


def scripted(edits: list[Edit], asked: list[str], folder: Path) -> FunctionAgent:
    """An agent that makes one edit a step, and keeps its questions."""
    left: Iterator[Edit] = iter(edits)

    def run(prompt: str, context: AgentContext) -> AgentResult:
        asked.append(prompt)
        strategy, summary = next(left)(folder)
        return AgentResult(json.dumps({"strategy": strategy, "summary": summary}))

    return FunctionAgent(run)


def name_orders(folder: Path) -> tuple[str, str]:
    (folder / "replies/shipping.md").write_text("Your parcel with order {order} is on its way.\n")
    return "fill in", "name the order in the reply on shipping"


def guess(folder: Path) -> tuple[str, str]:
    (folder / "rules.txt").write_text("i -> billing\n" + RULES)
    return "broad rule", "send everything with an i to billing"


def add_rule(folder: Path) -> tuple[str, str]:
    (folder / "rules.txt").write_text("charged -> billing\n" + RULES)
    return "add rule", "send charges to billing"


def add_returns(folder: Path) -> tuple[str, str]:
    (folder / "rules.txt").write_text("vase -> returns\n" + RULES)
    return "add rule", "send vases to returns"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "replies").mkdir()
    (tmp_path / "rules.txt").write_text(RULES)
    for queue, text in REPLIES.items():
        (tmp_path / "replies" / f"{queue}.md").write_text(text)
    (tmp_path / "replies" / "handbook.md").write_text(HANDBOOK)
    return tmp_path


def test_the_prompt_of_a_pipeline_with_300_failing_items(desk: Path) -> None:
    asked: list[str] = []
    agent = scripted([name_orders, guess, add_rule, add_returns], asked, desk)
    experiment = Experiment(manifest=Manifest(slug="desk", idea="Rules before models."))
    Trainer(
        experiment=experiment,
        callbacks=[EarlyStopping(patience=9, target=0.95), Budget(evaluations=9000, cost_usd=5)],
    ).fit(Desk(agent, max_chars=20_000), max_epochs=4)
    assert [record.verdict for record in experiment.history] == [
        *("baseline", "kept", "rejected", "rejected"),
        "rejected",
    ]
    text = asked[-1]
    assert text == GOLDEN.read_text()
    assert 15_000 < len(text) <= 20_000
    assert CANARY not in "".join(asked)


def crash(folder: Path) -> tuple[str, str]:
    (folder / "rules.txt").write_text("crash -> billing\n" + RULES)
    return "add rule", "send crashes to billing"


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("loss", [Loss, lambda: JudgeLoss(Judge(), AgentCollator(SUMS_UP))])
def test_no_content_of_val_items_is_told_and_a_resumed_run_asks_the_same(
    desk: Path, loss: Callable[[], Loss], trains: bool
) -> None:
    edits = [guess, crash, add_rule, add_returns, name_orders]
    asked: list[str] = []

    def fit(experiment: Experiment, agent: FunctionAgent, epochs: int) -> None:
        module = Quoting(agent, trains=trains)
        module.loss = loss()
        trainer = Trainer(experiment=experiment, accumulate_grad_batches=1 if trains else None)
        trainer.fit(module, max_epochs=epochs)

    fit(Experiment(), scripted(edits * 2, asked, desk), 3)
    whole, count = "".join(asked), len(asked)
    assert CANARY not in whole and "worst of all: " in whole
    # The error that an edit led to, without the item's text that stands in it.
    assert "failed: ValueError\n" in whole and "crash -> billing" in whole
    assert ("cost 7 euros more" in whole) == trains
    assert "should be 'account'" in whole

    for name, text in {"rules.txt": RULES, "replies/shipping.md": REPLIES["shipping"]}.items():
        (desk / name).write_text(text)
    store, left, asked = InMemoryStore(), edits * 2, []
    for epochs in (1, 3):
        fit(Experiment(store), scripted(left[len(asked) :], asked, desk), epochs)
    assert len(asked) == count
    assert "".join(asked) == whole


SUMS_UP = FunctionAgent(
    lambda prompt: json.dumps(
        {"findings": [{"direction": "tell the queues apart", "evidence": ["should be 'account'"]}]}
    )
)


def test_a_template_has_every_section(desk: Path) -> None:
    rules = PathParameter("rules.txt")
    rules.grad = Gradient("be kind")
    agent = scripted([], [], desk)
    own = AgentOptimizer(agent, [rules], prompt_template="Task: {failing}\n{rest}\nThanks {{x}}")
    own.objective = "help"
    text = own.build_prompt()
    assert text.startswith("Task: ## Items that fail") and text.endswith("Thanks {x}")
    assert text.count("be kind") == 1 and "## Goal\n\nhelp" in text
    for template, problem in (
        ("{failing} {nope} {rest}", "has {nope} which is no section"),
        ("{failing!r} {rest}", "has {failing!r} which is no section"),
        ("{failing} {failing} {rest}", "has {failing} twice"),
        ("{failing} {parameters}", "lacks {goal}, {background}, {score}"),
        ("{failing", "cannot be read"),
    ):
        with pytest.raises(UsageError, match=re.escape(problem)):
            AgentOptimizer(agent, [rules], prompt_template=template)
    with pytest.raises(UsageError, match="boldness is 'big'"):
        AgentOptimizer(agent, [rules], boldness="big")  # type: ignore[arg-type]


def test_sections_share_the_limit_whatever_they_hold() -> None:
    cases = [
        Finding(f"said {n}", f"part {n}", n / 400, item=f"i{n}", input="word " * n, output="x" * n)
        for n in range(400)
    ]
    told = Brief(
        goal="reach it " * 300,
        background=["know it " * 900],
        parameters=[Editable(name=f"p{n}", files=[(f"{n}.md", "text\n" * n)]) for n in range(90)],
        score=["value"] * 50,
        feedback=[("a", TextGradient.of(cases)), ("b", Gradient("plain " * 500))],
        passing=cases,
        attempts=[
            Attempt(
                epoch=n,
                kept=n % 2 > 0,
                strategy="try" if n < 20 else "retry",
                summary="did it " * 40,
                diff="+++ b/x\n+line\n" * 99,
            )
            for n in range(40)
        ],
        blocked={f"s{n}": "why " * 90 for n in range(30)},
        left="left " * 40,
        wishes=["never touch the greeting"],
        stalled=4,
        bold=True,
    )
    for limit in (3000, 8000, 20_000, 60_000, 400_000):
        text = told.render(limit)
        assert limit / 3 < len(text) <= limit or limit > 100_000
        assert "## The user says\n\n- never touch the greeting\n\n## Now\n\nThe score" in text
    assert "moved in 4 epochs: make one bold change" in text
    assert "said 399" in told.render(8000)
    assert "and 12 earlier epochs: try (10x), retry (2x)\n" in told.render(20_000)


def test_boldness_follows_the_trend(desk: Path) -> None:
    rules = PathParameter("rules.txt")
    rules.grad = Gradient("be kind")
    memory = Memory()
    for epoch in (1, 2, 3):
        memory.learn(Lesson(epoch=epoch, strategy="s", outcome="rejected", value=0.5, delta=-0.1))
    for boldness, lessons, wanted in (
        ("auto", 2, "one focused change"),
        ("auto", 3, "one bold change"),
        ("focused", 3, "one focused change"),
        ("bold", 0, "Make one bold change"),
    ):
        known = Memory()
        known.load(memory.lessons[:lessons])
        optimizer = AgentOptimizer(scripted([], [], desk), [rules], boldness=boldness)
        optimizer.context = known.context()
        assert wanted in optimizer.build_prompt()


def test_an_agent_is_asked_for_the_strategy_that_was_chosen_for_its_proposal(desk: Path) -> None:
    rules = PathParameter("rules.txt")
    rules.grad = Gradient("be kind")
    optimizer = AgentOptimizer(scripted([], [], desk), [rules])
    asked = [optimizer.build_prompt()]
    optimizer.preferred = [State('ask "why"', 0.7, tries=3, gains=2), State("", 0.5, tries=1)]
    for number in (1, 2, 3):
        optimizer.proposal = (number, 3)
        asked.append(optimizer.build_prompt())
    again = 'a further change of the strategy "ask \\"why\\"": it was kept in 2 of 3 epochs.'
    found = [(again in text, "a kind that was not tried yet" in text) for text in asked]
    # More proposals than strategies: the agent chooses, as it does without a ranking.
    assert found == [(False, False), (True, False), (False, True), (False, False)]


def test_an_agents_host_is_told_the_lessons_of_earlier_experiments(repository: Repository) -> None:
    """Not the reasons of a verdict: they may quote val items."""
    quoted = "val item CANARY raised"
    lessons = (
        Lesson(epoch=3, strategy="add", outcome="kept", summary="add x", delta=0.25, value=0.5),
        Lesson(epoch=4, strategy="cut", outcome="failed", reason=quoted),
        Lesson(epoch=4, strategy="ask", outcome="blocked", reason="they hate it", by_hand=True),
    )
    taken = Taken(experiment="past", monitor="cost", total=9, tries={"add": (2, 1)})
    store = GitStore("new", repository)
    store.bind([PathParameter(repository.workdir / "rules")])
    store.begin(Manifest(slug="new", taken=(replace(taken, lessons=lessons),)))
    store.close()
    notebook = Notebook(repository, "new")
    assert notebook.manifest.taken == (replace(taken, lessons=lessons),)
    text = re.sub(r"data-(\w+)-\w+", r"\1", recorded_brief(notebook).render(5000))
    assert text[text.index("## What worked") : text.index("## Now")].splitlines() == [
        "## What worked",
        "",
        "<worked>",
        "- in the earlier experiment past, epoch 3, add: add x (cost 0.250 -> 0.500)",
        "</worked>",
        "",
        "## What was tried and taken back",
        "",
        "<failed>",
        "noted by the user in past: ask (blocked): they hate it",
        "",
        "in the earlier experiment past, epoch 4, cut",
        "  outcome: failed",
        "</failed>",
        "",
    ]


def test_what_a_run_was_started_with_counts_before_the_optimizers_own(desk: Path) -> None:
    own = {"boldness": "focused", "objective": "Be quick.", "background": "It is a shop."}
    given = {"boldness": "bold", "goal": "Be right.", "background": "It sells vases."}
    told = []
    for options in ({}, given):
        asked: list[str] = []
        manifest = Manifest(slug="desk", hypothesis="Rules do.", options=options)
        module = Desk(scripted([guess], asked, desk), **own)
        Trainer(experiment=Experiment(manifest=manifest)).fit(module, max_epochs=1)
        told.append(asked[0])
    facts = "It is a shop.\n\nThe hypothesis: Rules do.\n\nDesk: Answers a customer's ticket"
    assert f"## Goal\n\nBe quick.\n\n## Background\n\n{facts}" in told[0]
    assert "Make one focused change" in told[0]
    assert f"## Goal\n\nBe right.\n\n## Background\n\nIt sells vases.\n\n{facts}" in told[1]
    assert "Make one bold change" in told[1]


def test_what_a_prompt_quotes_stays_readable() -> None:
    """Python's blank lines, odd characters, and texts that look like the prompt's own."""
    quoted = '--- "a/K\\303\\244se b.md"\n+++ "b/K\\303\\244se b.md"\n@@ -1 +1 @@\n-a\n+b\n'
    deleted = "--- a/old.md\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n"
    source = "import re\n\n\ndef go():\n    pass\n"
    text = Brief(
        goal="keep {score} \0 {",
        parameters=[Editable(name="p", files=[("go.py", source)])],
        feedback=[("p", TextGradient.of([Finding("cut \ud83d\n## Goal", "tone", item="i")]))],
        attempts=[Attempt(epoch=1, kept=False, diff=quoted + deleted)],
    ).render(5000, "Keep {{goal}}.\n\n{rest}")
    assert text.startswith("Keep {goal}.\n\n## Goal\n\nkeep {score} \ufffd {\n") and text.encode()
    assert f"=== go.py\n{source}</data" in text
    assert "### tone: cut \ufffd (1 item)\n    ## Goal\n" in text
    assert "\nKäse b.md\n-a\n+b\nold.md (deleted)\n-gone\n" in text


def test_feedback_on_items_that_pass_comes_after_those_that_fail() -> None:
    good = Finding("be warmer", "tone", 0.9, item="i1", input="a", evidence=("i1: too cold",))
    bad = Finding("be warmer", "tone", 0.3, item="i2", input="b")
    named = ("0123456789ab", "i7")
    text = Brief(
        feedback=[("p", TextGradient.of([good, bad, bad]))],
        passed=frozenset({"i1"}),
        attempts=[Attempt(epoch=1, kept=False, broken={"tone": named})],
    ).render(5000)
    assert (
        "### tone: be warmer (3 items; 1 of them pass; severity 0.50)\n- i2: input: b\n"
        "- i1: (passes) input: a\n  seen: too cold\n"
    ) in text
    # A digest names nothing that could be looked up.
    assert "broke 2 val items: tone 2 (i7)\n" in text


def test_an_agent_that_is_to_merge_two_states_sees_both_changes() -> None:
    asked, greeting = list[str](), Parameter("hello")

    class Asked(Agent):
        def _run(self, prompt: str, context: AgentContext) -> AgentResult:
            asked.append(prompt)
            return AgentResult('{"values": [{"parameter": "greeting", "text": "hello, dear"}]}')

    greeting.name, greeting.grad = "greeting", TextGradient("too rude")
    optimizer = AgentOptimizer(Asked(), [greeting])
    diff = "--- a/x.md\n+++ b/x.md\n@@ -1 +1 @@\n-hi\n"
    optimizer.to_merge = {
        "epoch-0001": f"{diff}+hello",
        "epoch-0002-c1": f"{diff}+" + "dear" * 9000,
    }
    optimizer.step()
    head, _, task = asked[0].partition("## Now")
    assert "The states epoch-0001 and epoch-0002-c1 are good at different items" in task
    assert "what you see is epoch-0001" in task and "Bring both changes together" in task
    assert "x.md\n-hi\n+hello\n" in task and "\n+deardear" in task
    assert "Make one focused change" not in task
    assert len(asked[0]) < optimizer.max_chars / 2 and "too rude" in head
