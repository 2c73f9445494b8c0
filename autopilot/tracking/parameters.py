"""Which files of a repository are parameters: by the live objects, or by the manifest alone."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.records.record import Manifest
from autopilot.errors import ExperimentError, ParameterError
from autopilot.files import glob_regex, list_files
from autopilot.git import objects
from autopilot.git.commands import run_git
from autopilot.git.objects import Entry
from autopilot.git.repository import Repository
from autopilot.git.workfiles import FilesBelow, WorkFiles
from autopilot.git.worktrees import changed_files

EVERYTHING = "**/*"
# The last line of a conflict, as git marks it. Others may be resolved, or underline a heading.
_MARKER = re.compile(rb"^>{7,}(?: .*)?\r?$", re.MULTILINE)
_NEVER_TAKEN = {
    "conflicted": "resolve the conflict, `git add` it and commit",
    "left out": "git sparse-checkout disable, or leave it out of the parameter's pattern",
}
_TREES = 8


@dataclass(frozen=True, slots=True)
class ParameterPath:
    """A parameter's place as the manifest has it, without the target's code.

    Args:
        path: A file or a folder below the repository's top; "." is the top itself.
        pattern: Which files of a folder.
    """

    path: str
    pattern: str = EVERYTHING

    @property
    def prefix(self) -> str:
        """The beginning of the names below a folder."""
        return "" if self.path == "." else f"{self.path}/"

    @property
    def pathspec(self) -> str:
        """The same for git's commands, as it is typed in a shell."""
        if self.pattern == EVERYTHING:
            return shlex.quote(self.path)
        wanted, *excluded = self.pattern.split(":!")
        specs = [f":(glob){self.prefix}{wanted}"]
        specs += [f":(exclude,glob){self.prefix}{each}" for each in excluded]
        return " ".join(map(shlex.quote, specs))

    def covers(self, name: str) -> bool:
        """Whether a path below the repository's top belongs to the parameter."""
        if name == self.path:
            return True
        if not name.startswith(self.prefix):
            return False
        return glob_regex(self.pattern).fullmatch(name.removeprefix(self.prefix)) is not None


@dataclass(frozen=True, slots=True)
class Scope:
    """A live parameter's place in a repository.

    Args:
        prefix: The path of its root below the repository's top, with "/" at its end, or "".
    """

    parameter: PathParameter
    prefix: str

    @property
    def path(self) -> str:
        """The path of its source below the repository's top; "." for the top itself."""
        if self.parameter.is_file:
            return self.prefix + self.parameter.source.name
        return self.prefix.rstrip("/") or "."

    @property
    def pattern(self) -> str:
        """Which files of a folder."""
        return EVERYTHING if self.parameter.is_file else self.parameter.pattern

    def covers(self, name: str) -> bool:
        """Whether a path below the repository's top belongs to the parameter."""
        below = name.removeprefix(self.prefix)
        return name.startswith(self.prefix) and self.parameter.matches(below)

    def files(self) -> list[str]:
        """The parameter's files that exist, by their paths below the repository's top."""
        return [self.prefix + name for name in self.parameter.files()]


def known_paths(manifest: Manifest, slug: str) -> list[ParameterPath]:
    """The places of an experiment's parameters; raises a ParameterError if none is known."""
    if not manifest.parameters:
        raise ParameterError(
            f"the manifest of {slug} names no parameters",
            hint="its manifest note was edited, or another program wrote it",
        )
    return manifest_paths(manifest)


def manifest_paths(manifest: Manifest) -> list[ParameterPath]:
    """The places of an experiment's parameters; empty if nothing is known of them."""
    return [
        ParameterPath(path, manifest.patterns.get(name, EVERYTHING))
        for name, path in manifest.parameters.items()
    ]


def check_checked_out(repo: Repository, manifest: Manifest) -> None:
    """Refuses to go on in a checkout that differs from the base in more than the parameters.

    Whoever works in it may commit what was kept.

    Raises:
        ExperimentError: it names a file that differs.
    """
    base, head = manifest.base, repo.head_commit()
    if others := outside(repo, manifest_paths(manifest), base, head):
        raise ExperimentError(
            f"{manifest.slug} runs in place on {base[:7]}, and {head[:7]} is checked out, which "
            f"has another {others[0]}",
            hint=f"git switch {manifest.base_branch} (or git switch --detach {base[:7]}), then go "
            "on",
        )


def outside(repo: Repository, places: Sequence[ParameterPath], old: str, new: str) -> list[str]:
    """The files that differ between two trees or commits and are no parameters."""
    differ = objects.diff_trees(repo, old, new)
    return sorted(name for name in differ if not any(place.covers(name) for place in places))


def entries_at(
    repo: Repository, tree: str, places: Iterable[ParameterPath | Scope]
) -> dict[str, Entry]:
    """The parameters' files in a tree."""
    found: dict[str, Entry] = {}
    for place in places:
        under = objects.list_tree(repo, tree, "" if place.path == "." else place.path)
        found |= {n: e for n, e in under.items() if place.covers(n) and e.mode != objects.SUBMODULE}
    return found


def edits(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> dict[str, Entry | None]:
    """The edits from some files to others: an entry for each that differs, None removes one."""
    # Most entries are the same objects: C code finds that out without comparing their fields.
    if before == after:
        return {}
    changed: dict[str, Entry | None] = {
        n: e for n, e in after.items() if (known := before.get(n)) is not e and known != e
    }
    return changed | {name: None for name in before if name not in after}


def with_entries(
    repo: Repository, tree: str, places: Iterable[ParameterPath], entries: Mapping[str, Entry]
) -> str:
    """A tree with other files in place of the parameters'; all else in it stays."""
    return objects.write_tree(repo, tree, edits(entries_at(repo, tree, places), entries))


def present_at(
    work: WorkFiles, places: Iterable[ParameterPath], known: Mapping[str, Entry], *, write: bool
) -> dict[str, Entry]:
    """The parameters' files as they are now; ignored ones only if they are known."""
    repo, names = work.repo, dict[str, None]()
    for place in places:
        root = repo.workdir if place.path == "." else repo.workdir / place.path
        if root.is_symlink() or root.is_file():
            names[place.path] = None
        elif root.is_dir():
            names |= dict.fromkeys(place.prefix + n for n in list_files(root, place.pattern))
    wanted = [name for name in names if name in known or not repo.is_ignored(name)]
    found = work.hash(wanted, write=write)
    return {name: entry for name, entry in found.items() if entry is not None}


def scope_of(repo: Repository, parameter: Parameter) -> Scope:
    """Finds a parameter's place.

    Raises:
        ParameterError: it is no files, it is outside the repository, or behind a symbolic link.
    """
    if not isinstance(parameter, PathParameter):
        raise ParameterError(
            f"the parameter {parameter.name or parameter!r} is not in a file",
            hint="make it a PathParameter: git keeps what is in tracked files",
        )
    top = Path(os.path.realpath(repo.workdir))
    root = parameter.root
    # The way to top itself may lead through symbolic links.
    heads = (h for h in reversed((root, *root.parents)) if os.path.realpath(h) == str(top))
    if head := next(heads, None):
        root = top / root.relative_to(head)
    if not root.is_relative_to(top):
        raise ParameterError(
            f"the parameter {parameter.label} is outside the repository {repo.workdir}",
            hint="use files below the repository's top folder",
        )
    relative = root.relative_to(top)
    for depth in range(1, len(relative.parts) + 1):
        folder = top.joinpath(*relative.parts[:depth])
        if folder.is_symlink():
            is_inside = folder.resolve().is_relative_to(top)
            raise ParameterError(
                f"the parameter {parameter.label} is behind the symbolic link {folder}",
                hint=f"name the folder that it points to: {folder.resolve().relative_to(top)}"
                if is_inside
                else "it leads out of this repository: run autopilot in the one that has the files",
            )
    return Scope(parameter, "" if relative == Path() else f"{relative.as_posix()}/")


def check_tracked(repo: Repository, tree: str, scopes: Iterable[Scope]) -> None:
    """Refuses parameters that the tree does not hold, or that share a file.

    Raises:
        ParameterError: a parameter is untracked, ignored, empty, a symbolic link, or in a
            submodule; or two of them have one file, which each would write its own way.
    """
    owners: dict[str, Scope] = {}
    for scope in scopes:
        if error := in_submodule(repo, tree, scope.path):
            raise error
        entries = entries_at(repo, tree, [scope])
        if not entries:
            raise _not_tracked(repo, scope)
        if scope.parameter.is_file and scope.parameter.source.is_symlink():
            target, top = scope.parameter.source.resolve(), repo.workdir.resolve()
            raise ParameterError(
                f"the parameter {scope.path} is a symbolic link",
                hint=f"name the file that it points to: {target.relative_to(top)}"
                if target.is_relative_to(top)
                else "name a file of the repository",
            )
        if shared := min(owners.keys() & entries.keys(), default=""):
            one, other = owners[shared].parameter, scope.parameter
            raise ParameterError(
                f"there are two parameters for one file, {shared}: {one!r} and {other!r}",
                hint="leave it out of one of them: name the folder's other files by a pattern",
            )
        owners |= dict.fromkeys(entries, scope)


def _not_tracked(repo: Repository, scope: Scope) -> ParameterError:
    parameter = scope.parameter
    # From the disk, since the parameter itself leaves out files that git ignores.
    listed = list_files(parameter.root, parameter.pattern)
    names = parameter.files() if parameter.is_file else list(listed)
    if not names:
        return ParameterError(
            f"the parameter {scope.path} matches no file ({parameter.pattern!r})",
            hint="correct its source or its pattern",
        )
    is_ignored = all(repo.is_ignored(scope.prefix + name) for name in names)
    return untracked(scope.path, is_ignored=is_ignored)


def in_submodule(repo: Repository, tree: str, path: str) -> ParameterError | None:
    """The error of a parameter in a submodule of the tree; None of others."""
    for depth in range(1, path.count("/") + 2):
        folder = "/".join(path.split("/")[:depth])
        entry = objects.entry_at(repo, tree, folder)
        if entry is not None and entry.mode == objects.SUBMODULE:
            return ParameterError(
                f"the parameter {path} is in the submodule {folder}",
                hint="run autopilot in the submodule's own repository",
            )
    return None


def untracked(path: str, *, is_ignored: bool) -> ParameterError:
    """The error of a parameter that git does not have."""
    add = f"git add {shlex.quote(path)} && git commit"
    if is_ignored:
        what, hint = "is ignored by git", f"take it out of .gitignore, then: {add}"
    else:
        what, hint = "is not tracked by git", add
    return ParameterError(f"the parameter {path} {what}", hint=hint)


def check_clean(repo: Repository, scopes: Sequence[Scope], *, include_dirty: bool = False) -> None:
    """Refuses parameters whose files differ from HEAD.

    Args:
        include_dirty: Only those that hold an unfinished merge, or that are not checked out.
    """
    for name, state in dirty_files(repo, scopes).items():
        if not include_dirty or state in _NEVER_TAKEN:
            take = "commit it, or take it into the start commit with --include-dirty"
            raise ParameterError(
                f"{name} is {state}: the run would not start from what you see",
                hint=_NEVER_TAKEN.get(state, take),
            )


def dirty_files(repo: Repository, scopes: Iterable[Scope]) -> dict[str, str]:
    """The parameters' files that differ from HEAD, and how; ignored ones are none of them.

    The files' contents decide, whatever the index says of them.

    Returns:
        "modified", "deleted", "untracked", "left out" of a sparse checkout, or "conflicted" of one
        that has new conflict markers, or that a merge left unmerged, whatever is in it.
    """
    places = [ParameterPath(scope.path, scope.pattern) for scope in scopes]
    head, work = entries_at(repo, repo.head_commit(), places), WorkFiles(repo, repo.workdir)
    found = dict[str, str]()
    for name, entry in sorted(edits(head, present_at(work, places, head, write=False)).items()):
        if entry is None:
            found[name] = "deleted"
            continue
        work.hash([name])  # stored, so that it is read without its file's encoding
        old, new = (each and objects.read_blob(repo, each.oid) for each in (head.get(name), entry))
        found[name] = "untracked" if old is None else "modified"
        if new and len(_MARKER.findall(new)) > len(_MARKER.findall(old or b"")):
            found[name] = "conflicted"
    listed = os.fsdecode(run_git(["ls-files", "--unmerged", "-z"], cwd=repo.workdir).stdout)
    stages = (line.partition("\t")[2] for line in listed.split("\0") if line)
    found |= {name: "conflicted" for name in stages if any(p.covers(name) for p in places)}
    gone = [name for name, state in found.items() if state == "deleted"]
    there = changed_files(repo, gone)
    return found | {name: "left out" for name in gone if name not in there}


class ParameterFiles:
    """The files of live parameters, in the working tree and in trees.

    Attributes:
        known: The files as they were last read or written.
    """

    def __init__(self, repo: Repository) -> None:
        self.repo = repo
        self.scopes: list[Scope] = []
        self._below: list[FilesBelow] = []
        self.known: dict[str, Entry] = {}
        self.work = WorkFiles(repo, repo.workdir)
        self._trees: dict[str, dict[str, Entry]] = {}
        self._ignored: dict[str, bool] = {}

    def bind(self, parameters: Sequence[Parameter]) -> None:
        """Takes the parameters; from now on they leave out the files that git ignores."""
        self.scopes = [scope_of(self.repo, parameter) for parameter in parameters]
        for scope in self.scopes:
            scope.parameter.ignores = self._ignores(scope.prefix)
        self._below = [FilesBelow(self.work.root, s.prefix, s.covers) for s in self.scopes]

    def present(self, *, write: bool) -> dict[str, Entry]:
        """The files as they are now; with `write`, their contents are stored as blobs."""
        present: dict[str, Entry] = {}
        for scope, below in zip(self.scopes, self._below, strict=True):
            if scope.parameter.is_file:
                found = self.work.hash(scope.files(), write=write)
                present |= {name: entry for name, entry in found.items() if entry is not None}
            else:
                # A known file is one of this scope or of another: neither pattern nor git is asked.
                present |= self.work.hash_below(below, self.known, write=write)
        return present

    def entries(self, tree: str) -> dict[str, Entry]:
        """The files in a tree."""
        known = self._trees.get(tree)
        entries = entries_at(self.repo, tree, self.scopes) if known is None else known
        self.remember(tree, entries)
        return entries

    def remember(self, tree: str, entries: dict[str, Entry]) -> None:
        """Keeps a tree's files; the tree that was used the longest ago is dropped."""
        self._trees.pop(tree, None)
        self._trees[tree] = entries
        while len(self._trees) > _TREES:
            del self._trees[next(iter(self._trees))]

    def replace(self, present: Mapping[str, Entry], wanted: dict[str, Entry]) -> None:
        """Writes files into the working tree in place of those that are there."""
        self.work.restore(edits(present, wanted))
        self.known = wanted

    def _ignores(self, prefix: str) -> Callable[[str], bool]:
        def ignores(name: str) -> bool:
            full = prefix + name
            if full in self.known:
                return False
            if full not in self._ignored:
                self._ignored[full] = self.repo.is_ignored(full)
            return self._ignored[full]

        return ignores
