"""autopilot hooks: git's own hooks, put beside those that the user has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autopilot.cli.context import Context

if TYPE_CHECKING:
    from autopilot.git.hooks import HookFolder, HookState

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[HOOK]...",
        help="pre-push, pre-commit, post-merge, post-rewrite; pre-receive for servers.",
        show_default=False,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Also in a folder that your repositories share, or over edited scripts."
    ),
]


def install(context: Context, names: Names = None, force: Force = False) -> None:
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
    from autopilot.git.hooks import hook_folder, install_hooks
    from autopilot.sharing.hooks import hook_texts

    folder, output = hook_folder(context.working_folder()), context.output
    texts = hook_texts(folder, names or ())
    before = install_hooks(folder, texts, force=force)
    output.document({**_head(folder), "hooks": _documents(_states(folder, texts))})
    words = {"missing": "installed", "foreign": "installed, it calls yours first"}
    _table(context, folder, [(s.name, words.get(s.state, _renewed(s))) for s in before])
    if folder.tracked and not output.as_json:
        output.line(
            f"core.hooksPath is {folder.configured}: they are files of your working tree; commit "
            "them for all who work on it, or name them in .git/info/exclude"
        )


def uninstall(context: Context, names: Names = None, force: Force = False) -> None:
    """Remove autopilot's git hooks; yours are again what they were.

    \b
    autopilot hooks uninstall
    autopilot hooks uninstall pre-commit
    """
    from autopilot.git.hooks import hook_folder, uninstall_hooks
    from autopilot.sharing.hooks import CLIENT, SERVER, hook_texts

    folder = hook_folder(context.working_folder())
    texts = hook_texts(folder, names or (*CLIENT, *SERVER))
    before = uninstall_hooks(folder, texts, force=force)
    context.output.document({**_head(folder), "hooks": _documents(_states(folder, texts))})
    gone = [s for s in before if s.state not in ("foreign", "missing") or names]
    rows = [(s.name, _removed(s)) for s in gone]
    if rows:
        _table(context, folder, rows)
    elif not context.output.as_json:
        context.output.line(f"no hook of autopilot's is in {folder.path}")


def status(context: Context) -> None:
    """Show which git hooks are installed.

    \b
    autopilot hooks status
    """
    from autopilot.git.hooks import hook_folder
    from autopilot.sharing.hooks import CLIENT, SERVER, hook_texts

    folder = hook_folder(context.working_folder())
    fitting = SERVER if folder.bare else CLIENT
    states = _states(folder, hook_texts(folder, (*CLIENT, *SERVER)))
    ours = ("installed", "outdated", "edited")
    states = [s for s in states if s.name in fitting or s.state in ours]
    context.output.document({**_head(folder), "hooks": _documents(states)})
    _table(context, folder, [(s.name, _words(s)) for s in states])


COMMANDS = {"install": install, "uninstall": uninstall, "status": status}


def _states(folder: HookFolder, texts: dict[str, str]) -> list[HookState]:
    from autopilot.git.hooks import state_of

    return [state_of(folder, name, text) for name, text in texts.items()]


def _words(state: HookState) -> str:
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


def _renewed(state: HookState) -> str:
    return "installed already" if state.state == "installed" else "renewed"


def _removed(state: HookState) -> str:
    if state.state == "foreign":
        return "is yours only; left as it is"
    if state.chained:
        return "removed; yours is back" if state.state != "missing" else "yours is back"
    return "removed" if state.state != "missing" else "was not installed"


def _table(context: Context, folder: HookFolder, rows: list[tuple[str, str]]) -> None:
    if context.output.as_json:
        return
    shared = ", shared by your repositories" if folder.shared else ""
    context.output.line(f"hooks in {folder.path}{shared}:")
    for name, words in rows:
        context.output.line(f"  {name:12}  {words}")


def _head(folder: HookFolder) -> dict[str, object]:
    return {"folder": str(folder.path), "bare": folder.bare, "shared": folder.shared}


def _documents(states: list[HookState]) -> list[dict[str, object]]:
    return [{"hook": s.name, "state": s.state, "chained": s.chained} for s in states]
