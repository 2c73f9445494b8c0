"""The live view of a run in the terminal: `autopilot watch`. It takes no lock."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from autopilot.cli.arguments import Name, option
from autopilot.cli.context import Context
from autopilot.cli.pages.listing import chart
from autopilot.cli.pages.progress import STYLES
from autopilot.core.figures import costs, figures, lower_note, signed
from autopilot.report.live import Going, LiveRun, RunReader
from autopilot.text import align, counted, fitting, redact, visible, whole

if TYPE_CHECKING:
    from rich.text import Text

_LEAST_CHART, _MOST_CHART = 8, 18
_PLAIN = 100, 60
_COLORS = {"running": "green", "killed": "red", "crashed": "red", "interrupted": "yellow"}
Styled = tuple[str, str]


def watch(
    context: Context,
    name: Name = None,
    every: Annotated[float, option("Look so often for news.", metavar="SECONDS", min=0.1)] = 0.5,
) -> None:
    """Watch a run as it goes on, on the whole terminal.

    The curve, the epoch in progress with its items, strategies, cost, and the last lines of the
    agent. It reads what the run writes down: the run may be on another terminal or on none, and one
    that has ended is shown as it ended. Ctrl-C leaves the view, and the run alone. Where its output
    is no terminal that can be drawn on, it prints the page once.

    \b
    autopilot watch
    autopilot watch classifier-1
    nohup autopilot run classifier.py -e fast &
    autopilot watch fast
    """
    notebook, output = context.notebook(name), context.output
    source = RunReader(notebook.repo, notebook.slug)
    run = source.look()
    assert run is not None  # the first look has news
    if output.is_for_agent and run.going is not None:
        run = replace(run, going=replace(run.going, items=(), lines=()))  # they quote val items
    if output.as_json or not output.is_terminal or output.console.is_dumb_terminal:
        output.lines(text for text, _ in page(run, *_PLAIN))
        output.document(run.document())
        return
    from rich.live import Live

    console, size = output.console, None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it leaves the screen, too
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        for new in source.looks(every):
            if new is not None or console.size != size:
                run, size = new or run, console.size
                live.update(drawn(run, size.width, size.height), refresh=True)
    output.line(f"{run.slug}: {_state(run)}")


def drawn(run: LiveRun, width: int, height: int) -> Text:
    """The page as rich draws it, with a last line on how to leave."""
    from rich.text import Text

    text = Text(no_wrap=True, end="")
    leave = " Ctrl-C leaves" + "; the run goes on" * (run.state == "running")
    for number, (line, style) in enumerate([*page(run, width, height - 1), (leave, "dim")]):
        text.append(("\n" if number else "") + whole(visible(line)), style)
    return text


def page(run: LiveRun, width: int, height: int) -> list[Styled]:
    """The view's lines with their styles, so many at most; what matters less goes first."""
    head = list(_head(run))
    blocks = [list(_going(run.going)) if run.going else [], list(_strategies(run))]
    blocks.append(list(_answers(run.going)) if run.going else [])
    # The curve has what the others leave, and comes before them.
    rest = [block for block in blocks if block]
    room = height - len(head) - sum(len(block) + 1 for block in rest) - 1
    while rest and room < _LEAST_CHART and len(rest) > 1:
        room += len(rest.pop()) + 1
    # Axis, labels and legend are three lines.
    tall = min(room, _MOST_CHART)
    if run.points and tall >= _LEAST_CHART - 1:
        curve = chart(run.points, f"val {run.monitor}", width=width, height=tall - 3)
        rest.insert(0, [(line, "") for line in curve])
    lines = [*head, *(line for block in rest for line in [("", ""), *block])]
    # A name or an answer with a line break or a tab would take another line, or more columns.
    plain = [(redact(text).translate({9: " ", 10: " "}), style) for text, style in lines[:height]]
    return [(fitting(text, width), style) for text, style in plain]


def _state(run: LiveRun) -> str:
    return f"{run.state} ({run.detail})" if run.detail else run.state


def _head(run: LiveRun) -> Iterator[Styled]:
    yield f"{run.slug}: {_state(run)}", f"bold {_COLORS.get(run.state, 'cyan')}"
    if run.points:
        first, best = figures(run.baseline, run.best)
        change = ""
        if run.best_epoch and run.best is not None and run.baseline is not None:
            change = f" -> {best} ({signed(run.best - run.baseline, of=run.baseline)}) in epoch "
            change += str(run.best_epoch)
        name = f"val {run.monitor}{lower_note(run.mode)}"
        judged = counted(run.points[-1].number, "epoch")
        yield f"{name} {first}{change}; {judged}, {run.kept} kept", "bold"
        yield costs(run.spent), ""
        yield run.latest, STYLES.get(run.latest.split()[2].rstrip(":"), "")
    if run.goes_on_by:
        yield f"go on: {run.goes_on_by}", "yellow"


def _going(going: Going) -> Iterator[Styled]:
    done = sum(going.done.values())
    of = f" of about {going.most}" if going.most >= done and going.most else ""
    each = ", ".join(f"{count} {split}" for split, count in going.done.items())
    evaluated = f": {counted(done, 'evaluation')}{of} ({each})" if done else ""
    yield f"epoch {going.epoch}, {going.doing}{evaluated}", "bold"
    if going.spent.tokens or going.spent.cost_usd:
        yield f"  calls: {costs(going.spent)}", ""
    if going.outcomes:
        yield "  " + ", ".join(f"{n} {outcome}" for outcome, n in going.outcomes.items()), ""
    rows = align(["item", "outcome", "why"], [list(item) for item in going.items])
    yield from ((f"  {row}", "") for row in rows[1:])


def _strategies(run: LiveRun) -> Iterator[Styled]:
    if run.strategies:
        rows = [
            [u.strategy or "unnamed", str(u.used), str(u.kept), str(u.last)] for u in run.strategies
        ]
        columns = ["strategy", "used", "kept", "last in epoch"]
        for number, row in enumerate(align(columns, rows, columns[1:])):
            yield row, "" if number else "bold"


def _answers(going: Going) -> Iterator[Styled]:
    if going.lines:
        yield "last lines", "bold"
        yield from ((f"  {line}", "") for line in going.lines)
