"""Commands on memory: what was tried and how it went, and what must not be tried again."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, cast

from autopilot.cli.arguments import Name, Word, option
from autopilot.cli.context import Context
from autopilot.cli.pages import experiment as experiment_page
from autopilot.core.records.record import EpochOutcome
from autopilot.errors import ExperimentError, UsageError
from autopilot.report.comparison import by_strategy, picked
from autopilot.text import jsonable
from autopilot.tracking.memory import memory_of, memory_of_all, memory_to_change

Strategy = Annotated[str, Word("STRATEGY", "Its name, as the log shows it.")]


# The outcomes that a person may record, and those that can be asked for.
Learnt = StrEnum("Learnt", "kept rejected unchanged repeated failed")
Asked = StrEnum(
    "Asked", "kept rejected screened raced unchanged repeated failed refused blocked unblocked"
)


def query(
    context: Context,
    name: Name = None,
    everywhere: Annotated[bool, option("Ask all experiments of the repository.", "--all")] = False,
    strategy: Annotated[str | None, option("Used, alone or together with others.")] = None,
    outcome: Annotated[Asked | None, option("How it went.")] = None,
    category: Annotated[str | None, option("What the feedback was about.")] = None,
    node: Annotated[str | None, option("The module that it was about.")] = None,
    epochs: Annotated[
        str | None, option("Of these epochs: 7, 3-7, 3- or -7.", metavar="RANGE")
    ] = None,
    count: Annotated[
        int | None, option("Only the newest so many.", "--max-count", "-n", min=1)
    ] = None,
) -> None:
    """Show lessons: what was tried, how it went, and why.

    The newest comes first; those that it took over from earlier experiments when it began come
    behind its own.

    \b
    autopilot memory query classifier-1
    autopilot memory query --outcome rejected -n 10
    autopilot memory query --all --strategy "prune rules"
    """
    if everywhere and name:
        raise UsageError(f"--all and {name} exclude each other", hint="leave one of them out")
    output, slug, unreadable = context.output, None, dict[str, str]()
    if everywhere:
        memory, unreadable = memory_of_all(context.repository(), context.project)
    else:
        notebook = context.notebook(name)
        memory, slug = memory_of(notebook), notebook.slug
    asked = cast("EpochOutcome", outcome.value) if outcome else None
    found = memory.recall(
        strategy=strategy,
        outcome=asked,
        category=category,
        node=node,
        epochs=_range(epochs) if epochs else None,
        limit=count,
    )
    taken = [lesson for source in memory.taken for lesson in source.lessons]
    total = len(memory.lessons) + len(taken)
    for missing, why in unreadable.items():
        output.warning(f"the lessons of {missing} are missing: {why}")
    output.document(experiment=slug, total=total, count=len(found), lessons=found)
    if output.as_json:
        return
    of = f"{slug} knows" if slug else "all experiments together know"
    if not found:
        output.line(f"no lesson fits ({of} {total})" if total else f"{of} nothing yet")
        return
    output.lines(experiment_page.lessons(found, with_slug=slug is None or bool(taken)))


def record(
    context: Context,
    strategy: Strategy,
    outcome: Annotated[Learnt, Word("OUTCOME", "kept, rejected, unchanged, repeated or failed.")],
    name: Name = None,
    summary: Annotated[str, option("What was done, in a sentence.")] = "",
    reason: Annotated[str, option("Why it went so.")] = "",
    category: Annotated[str, option("What it was about.")] = "",
    node: Annotated[str, option("The module that it was about.")] = "",
) -> None:
    """Add a lesson by hand.

    Something that you know and the experiment did not see. It counts as an epoch's lesson does: a
    strategy that keeps failing is blocked (see autopilot run --block-after). The experiment must
    not be running.

    \b
    autopilot memory record "prune rules" rejected --reason "tried it last year"
    """
    notebook, output = context.notebook(name), context.output
    with memory_to_change(notebook.repo, notebook.slug) as memory:
        before = memory.blocked()
        lesson = memory.record(
            _checked(strategy),
            cast("EpochOutcome", outcome.value),
            summary=summary,
            reason=reason,
            category=category,
            node=node,
        )
        blocked = {k: why for k, why in memory.blocked().items() if k not in before}
    output.line(f"{notebook.slug} knows now: {lesson.strategy} {lesson.outcome}")
    output.lines(f"{each} is blocked by that: {why}" for each, why in blocked.items())
    output.document(experiment=notebook.slug, lesson=lesson, blocked=memory.blocked())


def trends(
    context: Context,
    name: Name = None,
    window: Annotated[int, option("How many of the latest epochs count.", min=1)] = 10,
    ahead: Annotated[int, option("How many epochs to project.", min=1)] = 10,
) -> None:
    """Show where the metric is going, and thanks to what.

    The rate is what the best value gained over the latest epochs, by epoch. The projection draws
    it on as a straight line.

    \b
    autopilot memory trends
    autopilot memory trends --window 50 --ahead 20
    """
    notebook, output = context.notebook(name), context.output
    memory = memory_of(notebook)
    trend, (monitor, mode) = memory.trends(window), notebook.monitor
    projected = trend.projection(ahead)
    strategies = by_strategy(memory)
    output.document(
        experiment=notebook.slug,
        monitor=monitor,
        mode=mode,
        **picked(trend, "direction rate kept epochs best"),
        projection={"epochs": ahead, "value": projected},
        strategies=strategies,
    )
    output.lines(experiment_page.trend(notebook, trend, ahead, strategies))


def context(
    context: Context,
    name: Name = None,
    limit: Annotated[int, option("How many failures at most.", min=1)] = 5,
    strategy: Annotated[
        list[str] | None, option("One more that the optimizer has; may be repeated.")
    ] = None,
) -> None:
    """Show the knowledge that an optimizer gets before its next step.

    \b
    autopilot memory context
    autopilot memory context --strategy "prune rules" --strategy "add words"
    """
    notebook, output = context.notebook(name), context.output
    strategies = dict.fromkeys([*notebook.manifest.strategies, *(strategy or ())])
    known = memory_of(notebook).context(limit, strategies)
    output.document(experiment=notebook.slug, **jsonable(known))
    output.lines(known.render().splitlines())


def block(
    context: Context,
    strategy: Strategy,
    name: Name = None,
    reason: Annotated[str, option("Why; the optimizer reads it.")] = "",
) -> None:
    """Forbid a strategy.

    When the experiment is resumed, it is not used. The experiment must not be running.

    \b
    autopilot memory block "prune rules" --reason "they are needed for audits"
    """
    notebook, output = context.notebook(name), context.output
    with memory_to_change(notebook.repo, notebook.slug) as memory:
        tried = memory.context().tried
        memory.block_strategy(_checked(strategy), reason)
    why = memory.blocked()[strategy]
    output.line(f"blocked in {notebook.slug}: {strategy} ({why})")
    if strategy not in tried:
        others = f"; it tried {', '.join(tried)}" if tried else ""
        output.line(f"note: {notebook.slug} has not tried {strategy} so far{others}")
    output.line(f"go on without it: autopilot resume {notebook.slug}")
    output.document(experiment=notebook.slug, blocked=memory.blocked())


def unblock(context: Context, strategy: Strategy, name: Name = None) -> None:
    """Allow a blocked strategy again.

    How it failed is forgotten. The experiment must not be running.

    \b
    autopilot memory unblock "prune rules"
    """
    notebook, output = context.notebook(name), context.output
    with memory_to_change(notebook.repo, notebook.slug) as memory:
        there = memory.blocked()
        if strategy not in there:
            raise ExperimentError(
                f"{strategy!r} is not blocked in {notebook.slug}",
                hint=f"blocked: {', '.join(there)}" if there else "no strategy is blocked",
            )
        memory.unblock(strategy)
    output.line(f"allowed again in {notebook.slug}: {strategy} (it was blocked: {there[strategy]})")
    output.line(f"go on with it: autopilot resume {notebook.slug}")
    output.document(experiment=notebook.slug, blocked=memory.blocked())


COMMANDS = {
    "query": query,
    "record": record,
    "trends": trends,
    "context": context,
    "block": block,
    "unblock": unblock,
}


def _range(text: str) -> range:
    parts = re.fullmatch(r"(\d*)(-?)(\d*)", text.strip())
    if parts is None or not (parts[1] or parts[3]):
        raise UsageError(
            f"--epochs {text}: not a range of epochs", hint="write it as 7, 3-7, 3- or -7"
        )
    first = int(parts[1] or 0)
    last = int(parts[3]) if parts[3] else 10**12 if parts[2] else first
    return range(first, last + 1)


def _checked(strategy: str) -> str:
    if not strategy.strip():
        raise UsageError("a strategy needs a name", hint="use the one that the log shows")
    return strategy
