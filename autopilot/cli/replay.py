"""The command that checks an experiment against its record: replay."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from autopilot.cli.arguments import LIMITS, Links, Word, option
from autopilot.cli.context import Context
from autopilot.cli.output import FAILED, INTERRUPTED, Output
from autopilot.cli.pages import replay as replay_page
from autopilot.cli.pages.replay import annotation, on_github, write_junit
from autopilot.core.figures import figures
from autopilot.core.records.history import environment_at
from autopilot.core.records.message import epoch_number
from autopilot.engine.options import Options
from autopilot.engine.supervisor import interruptible
from autopilot.errors import UsageError
from autopilot.proof.replay import TOLERANCE, EpochReplay, Replay, Settings
from autopilot.proof.rerun import Rerun
from autopilot.sandbox.environment import told_apart
from autopilot.text import counted, display_width
from autopilot.tracking.finding import find
from autopilot.tracking.integrity import Difference
from autopilot.tracking.layout import state_of_tag
from autopilot.tracking.notebook import EPOCH_WORDS, Notebook
from autopilot.tracking.outputs import output_lines

# How much is done again.
Level = StrEnum("Level", "metrics full")
_NAMED = Word(
    "NAME|REF",
    "The experiment, its branch here or of a remote (origin/autopilot/NAME), or a commit of it; "
    "the newest if not given.",
    "ref",
)


def replay(
    context: Context,
    name: Annotated[str | None, _NAMED] = None,
    level: Annotated[
        Level,
        option("metrics: evaluate the kept states again; full: also loss, backward and optimizer."),
    ] = Level.metrics,
    epochs: Annotated[
        str | None, option("Which epochs, rejected ones too: 0,3-5,best.", metavar="LIST")
    ] = None,
    best_only: Annotated[bool, option("Only the best epoch.")] = False,
    jobs: Annotated[int, option("Evaluations side by side.", "-j", min=1)] = 1,
    tolerance: Annotated[
        list[str] | None,
        option(
            "By how much a metric may differ; or one metric, by a share of its value, as in "
            "latency=0.2. May be repeated.",
            metavar="N|NAME=SHARE",
        ),
    ] = None,
    live: Annotated[
        bool, option("Ask models anew, and let the evaluation use the network.")
    ] = False,
    link: Links = None,
    junit: Annotated[Path | None, option("Write the outcome as JUnit XML.", metavar="FILE")] = None,
    *,
    limits: Annotated[Options, *LIMITS],
) -> int:
    """Check that what was recorded comes out again.

    Branch, tags and notes must tell one story, and each kept state, checked out in a worktree of
    its own and evaluated again, must score as it did. This runs the code of the branch, and
    of a run without Python the commands that its notes name: read them first if they are not your
    own. Model calls are answered from the notes, and the target's Python code may use no network;
    programs that it starts are not watched. Exit code 1 if something differs.

    \b
    autopilot replay classifier-1
    autopilot replay origin/autopilot/classifier-1 --junit replay.xml
    autopilot replay classifier-1 --level full
    autopilot replay classifier-1 --epochs 0,best --jobs 2
    """
    if best_only and epochs is not None:
        raise UsageError(
            "--best-only and --epochs choose differently",
            hint=f"say all in one: --epochs {epochs},best",
        )
    output, started = context.output, time.monotonic()
    found = find(context.repository(), name, context.project)
    if found.deepened:
        output.line(f"note: this clone is shallow: fetched the rest of it from {found.deepened}")
    notebook = found.notebook
    chosen = [notebook.find("best").number] if best_only else _numbers(notebook, epochs)
    absolute, shares = _tolerances(tolerance or ())
    settings = Settings(chosen, absolute, jobs, live, tuple(link or ()), shares, limits)
    again = (Rerun if level is Level.full else Replay)(notebook, settings)
    splits = [split for judged in again.judged.values() for split in judged.metrics.values()]
    known = dict.fromkeys(metric for split in splits for metric in split)
    for unknown in shares.keys() - known.keys():
        raise UsageError(
            f"--tolerance {unknown}: {notebook.slug} has no metric {unknown!r}",
            hint=f"one of: {', '.join(known) or 'none'}",
        )
    _headline(output, again, found.where)
    try:
        with interruptible(), told_apart(environment_at(again.notebook.events)):
            branch = again.branch()
            judged = _evaluate(output, again)
    except KeyboardInterrupt:
        output.line("interrupted; nothing is left of it, and nothing was changed", "yellow")
        output.lines(output_lines(again.outputs))
        return INTERRUPTED
    # What failed in the same way in the user's own code is shown once.
    for traceback in dict.fromkeys(each.error.user_traceback for each in judged if each.error):
        output.lines(("", traceback.rstrip()) if traceback else ())
    return _conclude(output, again, branch, judged, junit, time.monotonic() - started)


def _numbers(notebook: Notebook, text: str | None) -> list[int] | None:
    """The epochs of a list as `0,3-5,best`."""
    if text is None:
        return None
    found: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, last = map(epoch_number, part.partition("-")[::2])
        if (number := epoch_number(part)) is not None:
            found.append(number)
        elif first is not None and last is not None:
            found += range(first, last + 1)
        elif part in EPOCH_WORDS:
            found.append(notebook.find(part).number)
        else:
            state = state_of_tag(f"/{part}")
            if state is None:
                raise UsageError(f"--epochs {text}: {part!r} is no epoch", hint="write 0,3-5,best")
            raise UsageError(
                f"--epochs {text}: a replay measures the best state of an epoch only",
                hint=f"write {state[0]}; or measure it: autopilot optimize validate {part}",
            )
    return found


def _tolerances(texts: Sequence[str]) -> tuple[float, dict[str, float]]:
    """By how much any metric may differ, and single metrics by a share of their value."""
    absolute, shares = TOLERANCE, dict[str, float]()
    for text in texts:
        name, equals, size = text.rpartition("=")
        with contextlib.suppress(ValueError):
            if (allowed := float(size)) >= 0:
                if equals:
                    shares[name] = allowed
                else:
                    absolute = allowed
                continue
        raise UsageError(
            f"--tolerance {text}: {size!r} is no number from 0 up",
            hint="write --tolerance 0.001, or of one metric --tolerance latency=0.2",
        )
    return absolute, shares


def _headline(output: Output, again: Replay, where: str) -> None:
    settings, judged = again.settings, len(again.judged)
    calls = "asked anew" if settings.live else "answered from the notes"
    output.line(
        f"{again.notebook.slug}: replaying {len(again.chosen)} of {counted(judged, 'epoch')} of "
        f"{where}, tolerance {settings.tolerance:g}"
        + "".join(f", {name} {share:.0%}" for name, share in settings.shares.items())
        + f", model calls {calls}"
    )
    # They are in a note, which anybody may have written: its reader sees them before they run.
    output.lines(again.notebook.manifest.commands)
    baseline = again.judged.get(0)
    if baseline is not None and baseline.record.noise is not None:
        output.line(f"val: {baseline.record.reasons[1]}")


def _evaluate(output: Output, again: Replay) -> list[EpochReplay]:
    judged: list[EpochReplay] = []
    for epoch in again.epochs():
        if not judged:
            monitor = again.judged[epoch.number].record.monitor
            wide = max(16, display_width(f"val {monitor}"))
            head = f"epoch  {f'val {monitor}':<{wide}}  {'again':>7}  replay   verdict   commit"
            output.line(head, "bold")
        judged.append(epoch)
        same = not epoch.differences
        recorded, again_ = figures(epoch.recorded, epoch.replayed)
        recorded += " (test)" if epoch.split == "test" else ""
        state = "same" if same else "failed" if epoch.error else "differs"
        state = "noisy" if same and epoch.incomparable else state
        if again.level == "metrics" and same and epoch.replayed is None:
            state = "skipped"  # stopped before all of val was measured, or refused
        output.line(
            f"{epoch.number:>5}  {recorded:<{wide}}  {again_:>7}  "
            f"{state:<7}  {epoch.verdict:<8}  {epoch.commit[:7]}",
            "" if same else "red",
        )
    return judged


def _conclude(
    output: Output,
    again: Replay,
    branch: list[Difference],
    judged: list[EpochReplay],
    junit: Path | None,
    seconds: float,
) -> int:
    found = sorted(
        [*branch, *(each for epoch in judged for each in epoch.differences)],
        key=lambda each: -1 if each.epoch is None else each.epoch,
    )
    slug, took = again.notebook.slug, f"{seconds:.1f} s"
    output.lines(replay_page.incomparable(judged))
    if found:
        output.line()
        replay_page.table(output, found)
        output.line()
        output.lines(replay_page.environment(again, found))
        if again.ended:
            output.line(f"ended early: {again.ended}")
        verdict = f"{slug} does not replay: {counted(len(found), 'difference')}, {took}"
    elif judged:
        epochs = counted(len({epoch.number for epoch in judged}), "epoch")
        noisy = ", as far as it can be compared" if any(e.incomparable for e in judged) else ""
        verdict = f"{slug} replays: {epochs} came out as recorded{noisy}, "
        verdict += f"and branch, tags and notes fit; {took}"
    else:
        verdict = f"{slug}: branch, tags and notes fit; no epoch was evaluated, {took}"
    output.line(verdict, "red" if found else "green")
    output.lines([*replay_page.next_lines(again, found), *output_lines(again.outputs)])
    if junit is not None:
        write_junit(junit, f"autopilot replay {slug}", replay_page.cases(again, branch, judged))
        output.line(f"JUnit:     {junit}")
    if on_github():
        for each in found:
            title, sentence = replay_page.title(slug, each), replay_page.sentence(each)
            output.line(annotation("error", title, sentence))
        for line in replay_page.environment(again, found):
            output.line(annotation("notice", slug, line))
        if not found:
            output.line(annotation("notice", slug, verdict))
    output.document(replay_page.document(again, found, judged, seconds))
    return FAILED if found else 0
