"""Looks at a repository before pygit2 opens it: where it is, and whether it can be read."""

from __future__ import annotations

import mmap
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autopilot.errors import RepositoryError, UnsupportedRepositoryError
from autopilot.git.commands import CommandResult, last_line, run_git

_TRUE = ("true", "yes", "on", "1")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a repository's parts are; `git_dir` and `common_dir` differ in a linked worktree."""

    workdir: Path
    git_dir: Path
    common_dir: Path


def probe(path: Path) -> tuple[Layout, dict[str, str]]:
    """Finds the repository that contains a path, and refuses what cannot be worked with.

    Starts git twice.

    Args:
        path: A file or folder in the repository, a subfolder or a linked worktree.

    Returns:
        Where its parts are, and its configuration as `read_config` returns it.

    Raises:
        RepositoryError: there is no repository, or git does not trust its owner.
        UnsupportedRepositoryError: bare, SHA-256, reftable, partial clone, split or sparse index.
    """
    folder = _existing_folder(path)
    found = run_git(
        [
            "rev-parse",
            "--is-bare-repository",
            "--is-inside-work-tree",
            "--absolute-git-dir",
            "--git-common-dir",
            "--show-toplevel",
        ],
        cwd=folder,
        check=False,
    )
    lines = found.stdout.decode("utf-8", "surrogateescape").splitlines()
    if lines[:1] == ["true"]:
        raise UnsupportedRepositoryError(
            f"{folder} is a bare repository: there are no files to optimize",
            hint="clone it, or add a worktree with `git worktree add`, and run there",
        )
    if lines[1:2] == ["false"]:
        raise RepositoryError(
            f"{folder} is inside a git folder, not in a working tree",
            hint="run in the folder that holds your files",
        )
    if found.returncode != 0:
        raise not_usable(folder, found)
    if len(lines) != 5:
        raise UnsupportedRepositoryError(
            f"the path of the repository around {folder} has a line break in it",
            hint="rename the folder",
        )
    layout = Layout(
        workdir=Path(lines[4]),
        git_dir=Path(lines[2]).resolve(),
        common_dir=(folder / lines[3]).resolve(),
    )
    config = read_config(layout.workdir)
    _refuse_formats(layout, config)
    _refuse_indexes(layout, config)
    return layout, config


def read_config(workdir: Path) -> dict[str, str]:
    """All of git's configuration at a folder, as git sees it: includes and all levels.

    Returns:
        Values by key as `git config --list` prints it; of a key that is set repeatedly, the last.
        A key without a value is "true".
    """
    listed = run_git(["config", "--list", "-z"], cwd=workdir).stdout
    config: dict[str, str] = {}
    for item in listed.decode("utf-8", "surrogateescape").split("\0"):
        key, separator, value = item.partition("\n")
        config[key] = value if separator else "true"
    config.pop("", None)
    return config


def is_true(value: str | None) -> bool:
    """Whether a value means yes to git."""
    return value is not None and value.lower() in _TRUE


def _existing_folder(path: Path) -> Path:
    for candidate in (path.absolute(), *path.absolute().parents):
        if candidate.is_dir():
            return candidate
    return Path.cwd()


def not_usable(folder: Path, found: CommandResult) -> RepositoryError:
    """Why git finds no repository around a folder, or does not use it."""
    if "dubious ownership" in found.stderr:
        quoted = found.stderr.partition("repository at '")[2].partition("'")[0] or str(folder)
        return RepositoryError(
            f"git does not trust {quoted}: it belongs to another user (dubious ownership)",
            hint=f"git config --global --add safe.directory {shlex.quote(quoted)}",
        )
    if "not a git repository" in found.stderr:
        return RepositoryError(
            f"{folder} is not in a git repository",
            hint="run `git init`, `git add` your files and `git commit`, then try again",
        )
    return RepositoryError(
        f"git cannot read the repository at {folder}: {last_line(found)}",
        hint="run `git status` there to see more",
    )


def _refuse_formats(layout: Layout, config: Mapping[str, str]) -> None:
    if config.get("extensions.objectformat", "sha1").lower() != "sha1":
        raise UnsupportedRepositoryError(
            f"{layout.workdir} stores its objects by SHA-256, which is not supported",
            hint="use a repository with the default object format, SHA-1",
        )
    if config.get("extensions.refstorage", "files").lower() != "files":
        raise UnsupportedRepositoryError(
            f"{layout.workdir} stores its refs as {config['extensions.refstorage']},"
            " which is not supported",
            hint="run `git refs migrate --ref-format=files`, or clone with --ref-format=files",
        )
    promises = [
        key
        for key, value in config.items()
        if key.startswith("remote.") and key.endswith(".promisor") and is_true(value)
    ]
    if "extensions.partialclone" in config or promises:
        raise UnsupportedRepositoryError(
            f"{layout.workdir} is a partial clone: objects that are missing cannot be read",
            hint="make a full clone, without --filter",
        )


def _refuse_indexes(layout: Layout, config: Mapping[str, str]) -> None:
    shared = any(layout.git_dir.glob("sharedindex.*"))
    if is_true(config.get("core.splitindex")) or (shared and _index_has(layout, b"link")):
        raise UnsupportedRepositoryError(
            f"{layout.workdir} has a split index, which is not supported",
            hint="git config core.splitIndex false && git update-index --no-split-index",
        )
    sparse = is_true(config.get("core.sparsecheckout"))
    if sparse and (is_true(config.get("index.sparse")) or _index_has(layout, b"sdir")):
        raise UnsupportedRepositoryError(
            f"{layout.workdir} has a sparse index, which is not supported",
            hint="git sparse-checkout reapply --no-sparse-index",
        )


def _index_has(layout: Layout, extension: bytes) -> bool:
    """Whether the index file has an extension: a chain of (name, size) that ends at its checksum.

    The entries before the extensions are not parsed; a name that is part of a path fails the
    walk along the chain.
    """
    try:
        with (layout.git_dir / "index").open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return False
    with data:
        end = len(data) - 20
        start = data.find(extension)
        while start >= 0:
            position = start
            while position + 8 <= end:
                position += 8 + int.from_bytes(data[position + 4 : position + 8], "big")
            if position == end:
                return True
            start = data.find(extension, start + 1)
    return False
