"""Commands that share experiments: push and fetch, and git's hooks, which keep them together."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from autopilot.cli.arguments import NAME_OPTION, experiment_names, option
from autopilot.cli.context import Context
from autopilot.cli.output import Output
from autopilot.errors import ExperimentError, UsageError
from autopilot.git.remotes import default_remote, is_address, remotes, shown
from autopilot.git.repository import Repository
from autopilot.report.comparison import picked
from autopilot.sharing import hooks
from autopilot.sharing.fetching import Synced
from autopilot.sharing.fetching import fetch as receive
from autopilot.sharing.pushing import push as send
from autopilot.text import counted, redact
from autopilot.tracking.layout import experiments

_TOLD = "state commits ahead tags notes merged remarks error hint"
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[REMOTE] [NAME]...",
        help="A remote (its name, a URL, a path), then experiments; all if none is named.",
        show_default=False,
        autocompletion=experiment_names,
    ),
]
Named = Annotated[str | None, NAME_OPTION]
DryRun = Annotated[bool, option("Say what would happen; change nothing on either side.")]


def push(
    context: Context, names: Names = None, named: Named = None, dry_run: DryRun = False
) -> int:
    """Push experiments: branch, tags and notes together.

    All or nothing, if the remote can. Notes that were written elsewhere meanwhile are fetched and
    merged first; tags of kept epochs that are gone are made again. Nothing is overwritten: an
    experiment that was continued on both sides is left as it is and named.

    \b
    autopilot push                           all, to the branch's remote
    autopilot push origin classifier-1
    autopilot push --dry-run
    """
    repo = context.repository()
    remote, slugs = _split(context, repo, names or [], named, pushing=True)
    report = send(repo, remote, slugs, project=context.project, dry_run=dry_run)
    if not report.atomic:
        context.output.warning(
            "the remote takes no push as a whole: notes and tags went first, then the branches"
        )
    said = [redact(line) for line in report.said]
    context.output.lines(said)
    more = {"atomic": report.atomic, "said": said}
    return _tell(context, remote, report.outcomes, "pushed", dry_run, more)


def fetch(
    context: Context, names: Names = None, named: Named = None, dry_run: DryRun = False
) -> int:
    """Fetch experiments: branch, tags and notes together.

    `status`, `log`, `replay` and `resume` work on them then. Notes that were written on both sides
    are merged, a branch moves only forward, tags never move. An experiment that was continued on
    both sides, is being run here or is checked out is left as it is and named.

    \b
    autopilot fetch                          all, from the branch's remote
    autopilot fetch origin classifier-1
    autopilot fetch ../colleague/repo --dry-run
    """
    repo = context.repository()
    remote, slugs = _split(context, repo, names or [], named, pushing=False)
    outcomes = receive(repo, remote, slugs, project=context.project, dry_run=dry_run)
    return _tell(context, remote, outcomes, "fetched", dry_run, {})


def _split(
    context: Context, repo: Repository, names: list[str], named: str | None, *, pushing: bool
) -> tuple[str, list[str]]:
    """The remote and the slugs; the first name is the remote if it can be one."""
    rest = names
    if names and names[0] in remotes(repo):
        remote, rest = names[0], names[1:]
    elif names and is_address(names[0]):
        remote, rest = names[0], names[1:]
        if remote.startswith("."):  # as it is seen from where the command was typed
            remote = str((context.working_folder() / remote).resolve())
    else:
        remote = default_remote(repo, pushing=pushing)
        here = experiments(repo)
        if names and pushing and context.full_slug(names[0]) not in here:
            known = f"{', '.join(remotes(repo))}; experiments: {', '.join(here) or 'none'}"
            raise UsageError(
                f"{names[0]} is neither a remote nor an experiment here", hint=f"remotes: {known}"
            )
    slugs = [context.full_slug(slug) for slug in [*rest, *([named] if named else [])]]
    return remote, list(dict.fromkeys(slugs))


def _tell(
    context: Context,
    remote: str,
    outcomes: list[Synced],
    verb: str,
    dry_run: bool,
    more: dict[str, Any],
) -> int:
    output, failed = context.output, [outcome for outcome in outcomes if outcome.error]
    output.document(
        remote=shown(remote),
        dry_run=dry_run,
        **more,
        experiments=[{"experiment": outcome.slug} | picked(outcome, _TOLD) for outcome in outcomes],
    )
    if output.as_json:
        return 1 if failed else 0
    if not outcomes:
        there = "here" if verb == "pushed" else f"on {shown(remote)}"
        of = f" of the project {context.project}" if context.project else ""
        output.line(f"no experiments{of} {there}")
        return 0
    would = "would be " if dry_run else ""
    output.line(f"{would}{verb} {'to' if verb == 'pushed' else 'from'} {shown(remote)}:")
    width = max(len(outcome.slug) for outcome in outcomes)
    for outcome in outcomes:
        output.line(f"  {outcome.slug:{width}}  {_words(outcome, verb)}")
    for outcome in failed[:-1]:
        output.error(ExperimentError(outcome.error, hint=outcome.hint))
    if failed:
        raise ExperimentError(failed[-1].error, hint=failed[-1].hint)
    return 0


def _words(outcome: Synced, verb: str) -> str:
    if outcome.error:
        return "left as it is, see below"
    parts = ["new"] if outcome.is_new else []
    if outcome.commits:
        parts.append(counted(outcome.commits, "commit"))
    if outcome.tags:
        parts.append(counted(outcome.tags, "tag"))
    if outcome.notes and not outcome.is_new:
        parts.append(f"notes ({', '.join(outcome.notes)})")
    if outcome.merged:
        parts.append(f"merged with those of the other side: {', '.join(outcome.merged)}")
    if outcome.state == "up to date":
        parts.append("up to date")
    if outcome.ahead and verb == "fetched":
        parts.append(f"{counted(outcome.ahead, 'commit')} to push")
    return "; ".join([", ".join(parts), *outcome.remarks])


HookNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[HOOK]...",
        help="pre-push, pre-commit, post-merge, post-rewrite; pre-receive for servers.",
        show_default=False,
    ),
]
Force = Annotated[
    bool, option("Also in a folder that your repositories share, or over edited scripts.")
]


def install(context: Context, names: HookNames = None, force: Force = False) -> None:
    """Install git hooks, beside those that you have.

    pre-push takes an experiment's notes and tags along; post-merge and post-rewrite carry metrics
    to merged and rebased commits; pre-commit warns of an experiment branch in use. In a bare
    repository it is pre-receive: an experiment only grows, and ends in a state that passed.

    A hook of yours is called first, with the same input; if it fails, that counts.

    \b
    autopilot hooks install
    autopilot hooks install pre-push
    autopilot -C /srv/git/project.git hooks install      on a server
    """
    folder, output = hooks.hook_folder(context.working_folder()), context.output
    texts = hooks.hook_texts(folder, names or ())
    before = hooks.install_hooks(folder, texts, force=force)
    words = {
        "missing": "installed",
        "foreign": "installed, it calls yours first",
        "installed": "installed already",
    }
    rows = {state.name: words.get(state.state, "renewed") for state in before}
    _tell_hooks(output, folder, _states(folder, texts), rows)
    if folder.tracked and not output.as_json:
        output.line(
            f"core.hooksPath is {folder.configured}: they are files of your working tree; commit "
            "them for all who work on it, or name them in .git/info/exclude"
        )


def uninstall(context: Context, names: HookNames = None, force: Force = False) -> None:
    """Remove autopilot's git hooks; yours are again what they were.

    \b
    autopilot hooks uninstall
    autopilot hooks uninstall pre-commit
    """
    folder = hooks.hook_folder(context.working_folder())
    texts = hooks.hook_texts(folder, names or (*hooks.CLIENT, *hooks.SERVER))
    before = hooks.uninstall_hooks(folder, texts, force=force)
    gone = [s for s in before if s.state not in ("foreign", "missing") or names]
    rows = {state.name: _removed(state) for state in gone}
    _tell_hooks(context.output, folder, _states(folder, texts), rows)


def status(context: Context) -> None:
    """Show which git hooks are installed.

    \b
    autopilot hooks status
    """
    folder = hooks.hook_folder(context.working_folder())
    fitting = hooks.SERVER if folder.bare else hooks.CLIENT
    states = _states(folder, hooks.hook_texts(folder, (*hooks.CLIENT, *hooks.SERVER)))
    ours = ("installed", "outdated", "edited")
    states = [s for s in states if s.name in fitting or s.state in ours]
    rows = {state.name: _state(state) for state in states}
    _tell_hooks(context.output, folder, states, rows)


def _states(folder: hooks.HookFolder, texts: dict[str, str]) -> list[hooks.HookState]:
    return [hooks.state_of(folder, name, text) for name, text in texts.items()]


def _tell_hooks(
    output: Output, folder: hooks.HookFolder, states: list[hooks.HookState], rows: dict[str, str]
) -> None:
    shown = [{"hook": s.name, "state": s.state, "chained": s.chained} for s in states]
    head = {"folder": str(folder.path), "bare": folder.bare, "shared": folder.shared}
    output.document(head, hooks=shown)
    if output.as_json:
        return
    if not rows:
        output.line(f"no hook of autopilot's is in {folder.path}")
        return
    shared = ", shared by your repositories" if folder.shared else ""
    output.line(f"hooks in {folder.path}{shared}:")
    output.lines(f"  {name:12}  {words}" for name, words in rows.items())


def _state(state: hooks.HookState) -> str:
    words = {
        "installed": "installed",
        "outdated": "outdated: autopilot hooks install renews it",
        "edited": "edited by hand",
        "foreign": "yours only: autopilot hooks install adds to it",
        "missing": "not installed",
    }[state.state]
    if state.chained and state.state in ("installed", "outdated", "edited"):
        words += ", calls yours first"
    elif state.chained and state.state == "missing":
        words += "; yours was set aside: autopilot hooks install or uninstall brings it back"
    return words


def _removed(state: hooks.HookState) -> str:
    if state.state == "foreign":
        return "is yours only; left as it is"
    if state.state == "missing":
        return "yours is back" if state.chained else "was not installed"
    return "removed" + "; yours is back" * state.chained


HOOKS = {"install": install, "uninstall": uninstall, "status": status}
