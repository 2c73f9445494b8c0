"""Git hooks: the folder in which git looks for them, and ours beside those that the user has.

A script of ours takes the place of the user's hook, which is kept beside it under another name,
and calls it. To remove ours puts the user's back, the same file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from autopilot.errors import RepositoryError, UsageError, translated_as
from autopilot.files import replacing, umask
from autopilot.git.commands import run_git
from autopilot.git.repository import not_usable

# The parts of each script; the chain calls the hook that was there before.
_PARTS = {
    "pre-push": ("chain.sh", "pre-push"),
    "pre-commit": ("chain.sh", "pre-commit"),
    "post-merge": ("chain.sh", "copy-metrics.sh", "post-merge"),
    "post-rewrite": ("chain.sh", "copy-metrics.sh", "post-rewrite"),
    "pre-receive": ("chain.sh", "pre-receive"),
}
SERVER = ("pre-receive",)
CLIENT = tuple(name for name in _PARTS if name not in SERVER)
_PACKAGE = Path(__file__).parents[1]
_KEPT = ".before-autopilot"
_MARK = "# autopilot's hook "
_TEXT = """\
#!/bin/sh
{mark}{name}, checksum {digest}. `autopilot hooks uninstall` brings back what was here before.
{body}"""


@dataclass(frozen=True, slots=True)
class HookFolder:
    """The folder in which git looks for a repository's hooks.

    Args:
        shared: Whether that is set for more than this repository.
        tracked: Whether the folder is in the working tree.
    """

    path: Path
    bare: bool = False
    configured: str = ""
    shared: bool = False
    tracked: bool = False


@dataclass(frozen=True, slots=True)
class HookState:
    """The state of one hook.

    Args:
        state: "installed", "outdated" (of another version), "edited" (by hand), "foreign" (only
            the user's own is there) or "missing".
        chained: Whether there is a hook of the user's that ours calls.
    """

    name: str
    state: str
    chained: bool


def hook_folder(path: Path) -> HookFolder:
    """The hooks' folder of the repository around a folder; the repository may be bare.

    `core.hooksPath` is respected. All linked worktrees share a folder, unless that is relative.

    Raises:
        RepositoryError: there is no repository.
    """
    asked = ["rev-parse", "--is-bare-repository", "--absolute-git-dir"]
    found = run_git(asked, cwd=path, check=False)
    if found.returncode != 0:
        raise not_usable(path, found)
    is_bare, git_dir = os.fsdecode(found.stdout).splitlines()
    bare, top = is_bare == "true", Path(git_dir)
    if not bare:
        shown = run_git(["rev-parse", "--show-toplevel"], cwd=path).stdout
        top = Path(os.fsdecode(shown).removesuffix("\n"))
    # git runs hooks in the top folder, or in a bare repository: a relative path starts there.
    # git itself is run in no git folder: that is named.
    here, git = (top.parent, [f"--git-dir={top}"]) if bare else (top, [])
    name = os.fsdecode(run_git([*git, "rev-parse", "--git-path", "hooks"], cwd=here).stdout)
    asked = [*git, "config", "--show-scope", "--get", "core.hooksPath"]
    scoped = os.fsdecode(run_git(asked, cwd=here, check=False).stdout)
    scope, _, configured = scoped.removesuffix("\n").partition("\t")
    folder = Path(os.path.normpath(top / name.removesuffix("\n")))
    tracked = not bare and folder.is_relative_to(top) and ".git" not in folder.parts
    return HookFolder(folder, bare, configured, scope in ("global", "system"), tracked)


def hook_texts(folder: HookFolder, names: Iterable[str] = ()) -> dict[str, str]:
    """The scripts by the names of their hooks.

    Args:
        folder: Where they are to go: those of a bare repository are the server's.
        names: Which; those that fit the repository if none is named.

    Raises:
        UsageError: there is no hook of that name.
    """
    chosen = list(dict.fromkeys(names)) or list(SERVER if folder.bare else CLIENT)
    for name in chosen:
        if name not in _PARTS:
            raise UsageError(f"autopilot has no hook {name!r}", hint=f"hooks: {', '.join(_PARTS)}")
    bodies = {name: "\n".join([f"hook={name}", *map(_part, _PARTS[name])]) for name in chosen}
    return {name: script(name, body) for name, body in bodies.items()}


def _part(name: str) -> str:
    # In a wheel they are inside of the package; in a clone beside it.
    for home in (_PACKAGE / "hooks", _PACKAGE.parent / "hooks"):
        path = home / name
        if path.is_file():
            return path.read_text(encoding="utf-8").removeprefix("#!/bin/sh\n")
    raise RepositoryError(
        f"the script {name} is not part of this installation", hint="install autopilot again"
    )


def script(name: str, body: str) -> str:
    """A hook's whole text: the body under a line by which it is known again."""
    return _TEXT.format(mark=_MARK, name=name, digest=_digest(body), body=body)


def state_of(folder: HookFolder, name: str, text: str) -> HookState:
    """Looks at a hook; `text` is ours, as `script` returns it."""
    present = _read(folder.path / name)
    chained = os.path.lexists(_kept(folder, name))
    if present is None:
        return HookState(name, "missing", chained)
    head, _, body = present.partition("\n")[2].partition("\n")
    if not head.startswith(_MARK):
        return HookState(name, "foreign", chained)
    if present == text:
        return HookState(name, "installed", chained)
    checksum = head.partition("checksum ")[2].partition(".")[0]
    return HookState(name, "outdated" if checksum == _digest(body) else "edited", chained)


def install_hooks(
    folder: HookFolder, texts: Mapping[str, str], *, force: bool = False
) -> list[HookState]:
    """Puts scripts in place, all of them or none; returns the state of each before.

    Args:
        texts: Name of the hook to what `script` returned.
        force: Write into a folder that other repositories share, and over edited scripts of ours.

    Raises:
        UsageError: without `force`, it would be needed; or a hook of the user's was kept, and
            another one has come since; or it is no folder, which switches hooks off.
        RepositoryError: the folder cannot be written.
    """
    if folder.shared and not force:
        raise UsageError(
            f"core.hooksPath is set for all of your repositories: {folder.path}",
            hint="for this one only: git config core.hooksPath .git/hooks; or write there: --force",
        )
    if folder.path.exists() and not folder.path.is_dir():
        raise UsageError(
            f"{folder.path} is no folder, so git runs no hooks here",
            hint="it is set by core.hooksPath; undo that: git config --unset core.hooksPath",
        )
    states = [state_of(folder, name, text) for name, text in texts.items()]
    for state in states:
        path, kept = folder.path / state.name, _kept(folder, state.name)
        if state.state == "edited" and not force:
            raise _edited(folder, state.name)
        if state.state == "foreign" and state.chained and _read(path) != _read(kept):
            raise UsageError(
                f"two hooks {state.name} are yours: {path} and the one kept before, {kept.name}",
                hint="make one of them, or remove the kept one; then try again",
            )
    with translated_as(RepositoryError, f"cannot write to {folder.path}", "{remedy}"):
        folder.path.mkdir(parents=True, exist_ok=True)
        for state in states:
            _write(folder, state, texts[state.name])
    return states


def uninstall_hooks(
    folder: HookFolder, texts: Mapping[str, str], *, force: bool = False
) -> list[HookState]:
    """Takes scripts out, puts the user's hooks back as they were; returns the state of each before.

    Args:
        force: Also those that were edited by hand.

    Raises:
        UsageError: one of ours was edited by hand, without `force`.
        RepositoryError: the folder cannot be written.
    """
    states = [state_of(folder, name, text) for name, text in texts.items()]
    for state in states:
        if state.state == "edited" and not force:
            raise _edited(folder, state.name)
    with translated_as(RepositoryError, f"cannot write to {folder.path}", "{remedy}"):
        for state in states:
            path, kept = folder.path / state.name, _kept(folder, state.name)
            if state.state == "foreign":
                continue
            if os.path.lexists(kept):
                os.replace(kept, path)
            else:
                path.unlink(missing_ok=True)
        if folder.path.is_dir() and not any(folder.path.iterdir()):
            folder.path.rmdir()
    return states


def _write(folder: HookFolder, state: HookState, text: str) -> None:
    path = folder.path / state.name
    with replacing(path) as created:
        created.write_text(text, encoding="utf-8", newline="\n")
        created.chmod(0o777 & ~umask())
        # The script is whole by now: a kill between the two leaves the user's hook kept.
        if state.state == "foreign":
            os.replace(path, _kept(folder, state.name))


def _edited(folder: HookFolder, name: str) -> UsageError:
    return UsageError(
        f"{folder.path / name} is autopilot's, and was edited by hand",
        hint=f"move your lines to {name}{_KEPT} beside it, which it calls; or --force drops them",
    )


def _kept(folder: HookFolder, name: str) -> Path:
    return folder.path / f"{name}{_KEPT}"


def _read(path: Path) -> str | None:
    """A file's text; "" of a link that leads nowhere, None if there is nothing."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return "" if os.path.lexists(path) else None


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", "surrogateescape")).hexdigest()[:12]
