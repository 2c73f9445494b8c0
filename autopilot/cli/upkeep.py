"""Looking after the repository and what autopilot keeps in it: doctor, gc."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autopilot.cli.context import Context
from autopilot.text import counted

if TYPE_CHECKING:
    from autopilot.tracking.upkeep import Litter

_STYLES = {"ok": "", "warning": "yellow", "failed": "bold red"}


def doctor(context: Context) -> int:
    """Check git, keys, locks, worktrees and unfinished runs.

    Nothing is changed. Each finding that needs something done names the command that does it. The
    exit code is 1 if something will fail.

    \b
    autopilot doctor
    autopilot doctor --json
    """
    from autopilot.projects.health import examine, versions

    output, found = context.output, []
    for check in examine(context.working_folder()):
        found.append(check)
        output.line(check.line(), _STYLES[check.state])
        if check.mend:
            output.line(f"         mend it: {check.mend}")
    failed = sum(check.state == "failed" for check in found)
    warnings = sum(check.state == "warning" for check in found)
    output.document({"healthy": not failed, "versions": versions(), "checks": found})
    output.line()
    verdict = counted(failed, "problem") if failed else "autopilot can work here"
    output.line(verdict + (f", {counted(warnings, 'warning')}" if warnings else ""))
    return 1 if failed else 0


def gc(
    context: Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say what would be removed, change nothing.")
    ] = False,
) -> None:
    """Remove what killed runs left behind, and pack the repository.

    Worktrees of runs that have ended, stale locks and journals go; what a run that can be resumed
    needs, or a process is using, stays. Tags of kept epochs that are gone are made again from the
    records. Packing deletes no object.

    \b
    autopilot gc --dry-run
    autopilot gc
    """
    from autopilot.git.objects import count_loose, maintain
    from autopilot.tracking.upkeep import clear, find_litter, make_tags, missing_tags, states_of

    repo, output = context.repository(), context.output
    removed: list[Litter] = []
    kept: list[Litter] = []
    for litter in find_litter(repo):
        gone = dry_run or clear(repo, litter)
        (removed if gone else kept).append(litter)
        what = "would remove" if dry_run else "removed" if gone else "in use again, kept:"
        output.line(f"{what} {litter.kind} {litter.path}: {litter.why}")
    tags: dict[str, list[int]] = {}
    for slug, state in states_of(repo).items():
        missing = [] if state in ("running", "unreadable") else missing_tags(repo, slug)
        if missing:
            tags[slug] = missing
            if not dry_run:
                make_tags(repo, slug, missing)
            what = "would make" if dry_run else "made"
            output.line(f"{what} {counted(len(missing), 'tag')} of {slug} again")
    loose = count_loose(repo)
    packed = False if dry_run else maintain(repo)
    output.document(
        {
            "dry_run": dry_run,
            "removed": removed,
            "kept": kept,
            "tags": tags,
            "loose_objects": {"before": loose, "after": count_loose(repo)},
            "packed": packed,
        }
    )
    if not removed and not tags:
        output.line("nothing is left over")
    if packed:
        output.line(f"packed: about {loose} loose objects before, {count_loose(repo)} now")
    elif dry_run:
        output.line(f"would pack about {loose} loose objects")
    else:
        output.line("not packed: gc.auto is 0 in git's configuration")
