"""Commits, tags and their history; signed by git where its configuration asks for it; merges."""

from __future__ import annotations

import contextlib
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pygit2
from pygit2.enums import ObjectType

from autopilot.errors import GitCommandError, RefMovedError, RepositoryError
from autopilot.files import EXECUTABLE, REGULAR
from autopilot.git.commands import Seen, last_line, run_git
from autopilot.git.objects import has_object, read_blob, write_blob, write_object
from autopilot.git.refs import create_ref, delete_ref, read_ref
from autopilot.git.repository import Repository, translated
from autopilot.text import clean

_TAG_HINT = "unlock the signing key, or turn it off here: git config tag.gpgsign false"
_SIGNATURE = re.compile(r"^-----BEGIN (?:PGP|SSH|SIGNED) (?:SIGNATURE|MESSAGE)-----$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit: its tree, its parents, its message, and when it was made."""

    id: str
    tree: str
    parents: tuple[str, ...]
    message: str
    time_s: int


@dataclass(frozen=True, slots=True)
class Tag:
    """An annotated tag: the commit it stands for, and its message without the signature."""

    commit: str
    message: str


@dataclass(frozen=True, slots=True)
class Merge:
    """A merge of two trees: the merged tree, "" if there are conflicts, and the paths of those."""

    tree: str
    conflicts: tuple[str, ...] = ()


def commit(repo: Repository, *, tree: str, parents: Sequence[str], message: str) -> str:
    """Writes a commit, signed if `commit.gpgsign` is on, which starts git. Moves no ref.

    Author and committer are the repository's. Runs no hook.

    Raises:
        GitCommandError: it cannot be signed.
        RepositoryError: it cannot be written.
    """
    text = _message(message)
    if repo.config_bool("commit.gpgsign"):
        return _signed_commit(repo, tree, parents, text)
    if missing := [oid for oid in (tree, *parents) if not has_object(repo, oid)]:
        raise RepositoryError(
            f"cannot write a commit to {repo.common_dir}: there is no object {missing[0]}",
            hint="run `git fsck` to see whether the repository is sound",
        )
    return commit_fresh(repo, tree=tree, parents=parents, message=message)


def check_signing(repo: Repository, parent: str) -> None:
    """Raises a GitCommandError if the key for tags does not sign, tried on a commit of no ref."""
    if repo.config_bool("tag.gpgsign") and not repo.config_bool("commit.gpgsign"):
        tree = read_commit(repo, parent).tree
        try:
            _signed_commit(repo, tree, [parent], "autopilot: signing\n")
        except GitCommandError as error:
            raise GitCommandError(error.message, hint=_TAG_HINT) from error


def commit_fresh(repo: Repository, *, tree: str, parents: Sequence[str], message: str) -> str:
    """Writes an unsigned commit of a tree and parents that are there, and moves no ref.

    They are not read back: of a tree of hundreds of entries that takes as long as to write it.
    """
    author, committer = _signatures(repo)
    head = [f"tree {tree}", *(f"parent {parent}" for parent in parents)]
    head += [f"author {author}", f"committer {committer}", "", _message(message)]
    return write_object(repo, ObjectType.COMMIT, "\n".join(head).encode())


_seen = Seen[Commit]()


def read_commit(repo: Repository, oid: str) -> Commit:
    """A commit by its id."""

    def read() -> Commit:
        with translated(f"cannot read commit {oid}"):
            there = repo.pygit[oid]
            if not isinstance(there, pygit2.Commit | pygit2.Tag):
                what = f"{oid[:10]} is no commit but a {there.type_str}"
                raise RepositoryError(what, hint=f"see it: git cat-file -p {oid[:10]}")
            found = there.peel(pygit2.Commit)
            parents, tree = tuple(map(str, found.parent_ids)), str(found.tree_id)
            return Commit(str(found.id), tree, parents, found.message, found.commit_time)

    return _seen.get_or(oid, read)


def first_parent_log(repo: Repository, tip: str, stop: str | None = None) -> Iterator[Commit]:
    """A commit and those before it, newest first, along first parents; ends before `stop`."""
    oid: str | None = tip
    while oid is not None and oid != stop:
        found = read_commit(repo, oid)
        yield found
        oid = found.parents[0] if found.parents else None


def create_tag(repo: Repository, name: str, commit: str, message: str) -> None:
    """Creates the annotated tag `refs/tags/<name>`; signed if `tag.gpgsign` is on.

    An existing tag is never moved: on the same commit it stays as it is.

    Raises:
        RefMovedError: the name is taken by another commit.
        SlugError: another tag's name is in the way.
        GitCommandError: it cannot be signed.
        RepositoryError: it cannot be written.
    """
    existing = read_tag(repo, name)
    if existing is None:
        if repo.config_bool("tag.gpgsign"):
            _signed_tag(repo, name, commit, _message(message))
            return
        head = [f"object {commit}", "type commit", f"tag {name}", f"tagger {_signatures(repo)[1]}"]
        text = "\n".join([*head, "", _message(message)])
        tag = write_object(repo, ObjectType.TAG, text.encode())
        create_ref(repo, f"refs/tags/{name}", tag, f"tag: {name}")
    elif existing.commit != commit:
        raise RefMovedError(
            f"tag {name} is on {existing.commit[:7]} already, not on {commit[:7]}",
            hint=f"see `git show {name}`; delete it with `git tag -d {name}` if it is not needed",
        )


def read_tag(repo: Repository, name: str) -> Tag | None:
    """The tag `refs/tags/<name>`, None if there is none; a lightweight one has no message.

    One that stands for no commit has the id of what it stands for.
    """
    target = read_ref(repo, f"refs/tags/{name}")
    if target is None:
        return None
    with translated(f"cannot read tag {name}"):
        found = repo.pygit[target]
        # People make tags too, in any encoding and of anything.
        raw = found.raw_message if isinstance(found, pygit2.Tag) else b""
        text, _ = _split_signature(raw.decode("utf-8", "replace"))
        return Tag(peel(repo, target), text)


def peel(repo: Repository, oid: str) -> str:
    """The commit that a tag object stands for, itself where that is none.

    Raises:
        RepositoryError: there is no such object.
    """
    with translated(f"cannot read {oid}"):
        found = repo.pygit[oid]
        with contextlib.suppress(pygit2.GitError, ValueError):
            return str(found.peel(pygit2.Commit).id)
        return oid


def _message(text: str) -> str:
    """A message that git can hold: no NUL, no half of a surrogate pair, one final line break."""
    return clean(text).rstrip("\n") + "\n"


def _signatures(repo: Repository) -> tuple[str, str]:
    """Author and committer with the present time, as git writes them."""
    now = int(time.time())
    offset_min = time.localtime(now).tm_gmtoff // 60
    sign, minutes = "-" if offset_min < 0 else "+", abs(offset_min)
    zone = f"{sign}{minutes // 60:02d}{minutes % 60:02d}"
    author, committer = (f"{who.name} <{who.email}> {now} {zone}" for who in repo.people())
    return author, committer


def _people(repo: Repository) -> dict[str, str]:
    author, committer = repo.people()
    return {
        "GIT_AUTHOR_NAME": author.name,
        "GIT_AUTHOR_EMAIL": author.email,
        "GIT_COMMITTER_NAME": committer.name,
        "GIT_COMMITTER_EMAIL": committer.email,
    }


def _signed_commit(repo: Repository, tree: str, parents: Sequence[str], text: str) -> str:
    chain = [part for parent in parents for part in ("-p", parent)]
    command, people = ["commit-tree", "-S", *chain, tree], _people(repo)
    try:
        done = run_git(command, cwd=repo.workdir, stdin=text.encode(), environment=people)
    except GitCommandError as error:
        raise GitCommandError(
            f"cannot sign a commit: {error.message}",
            hint="unlock the signing key, or turn it off here: git config commit.gpgsign false",
        ) from error
    return done.stdout.decode().strip()


def _signed_tag(repo: Repository, name: str, commit: str, text: str) -> None:
    command, people = ["tag", "-s", "--cleanup=verbatim", "-F", "-", name, commit], _people(repo)
    try:
        done = run_git(command, cwd=repo.workdir, stdin=text.encode(), environment=people)
    except GitCommandError as error:
        raise _tag_not_signed(name, error.message) from error
    made = read_ref(repo, f"refs/tags/{name}")
    if made is None:
        raise _tag_not_signed(name, last_line(done))
    with translated(f"cannot read tag {name}"):
        tag = repo.pygit[made]
    message = tag.message if isinstance(tag, pygit2.Tag) else ""
    # Some versions of git leave an unsigned tag, and exit with 0, when an SSH key is missing.
    if not _split_signature(message or "")[1]:
        delete_ref(repo, f"refs/tags/{name}", made)
        raise _tag_not_signed(name, last_line(done))


def _tag_not_signed(name: str, reason: str) -> GitCommandError:
    return GitCommandError(f"cannot sign tag {name}: {reason}", hint=_TAG_HINT)


def _split_signature(message: str) -> tuple[str, str]:
    """A tag's message and the signature at its end, "" if there is none."""
    starts = [found.start() for found in _SIGNATURE.finditer(message)]
    end = starts[-1] if starts else len(message)
    return message[:end], message[end:]


# --- histories and merges -----------------------------------------------------------------------


def merge_base(repo: Repository, first: str, second: str) -> str | None:
    """The newest commit that two commits have in common; None if there is none."""
    with translated(f"cannot compare {first[:7]} and {second[:7]}"):
        found = repo.pygit.merge_base(pygit2.Oid(hex=first), pygit2.Oid(hex=second))
        return str(found) if found is not None else None


def ahead_behind(repo: Repository, ours: str, theirs: str) -> tuple[int, int]:
    """Numbers of commits that each of two has and the other lacks; both > 0 if they diverged."""
    if ours == theirs:
        return 0, 0
    with translated(f"cannot compare {ours[:7]} and {theirs[:7]}"):
        return repo.pygit.ahead_behind(pygit2.Oid(hex=ours), pygit2.Oid(hex=theirs))


def is_ancestor(repo: Repository, old: str, new: str) -> bool:
    """Whether a commit is another one, or is before it in its history."""
    return merge_base(repo, old, new) == old


def count_in(repo: Repository, line: Sequence[str], branch: str) -> int:
    """Number of commits of a line, from its oldest on, that the history of another commit has.

    Args:
        line: Commits, oldest first, each in the history of the next.
    """
    # One walk that hides that history would do, but trusts in the commits' times.
    return bisect_left(line, True, key=lambda commit: not is_ancestor(repo, commit, branch))


def merge_trees(
    repo: Repository,
    base: str,
    ours: str,
    theirs: str,
    resolve: Callable[[str, Sequence[bytes]], bytes | None] = lambda _path, _sides: None,
) -> Merge:
    """Merges two changes of a tree, as `git merge` does, without index or files; moves no ref.

    Each is a commit or a tree; both changes come from `base`.

    Args:
        resolve: Merges a file that conflicts, by path and its three contents; None if it cannot.
    """
    with translated(f"cannot merge {theirs[:7]} into {ours[:7]}"):
        trees = [repo.pygit[oid].peel(pygit2.Tree).id for oid in (base, ours, theirs)]
        index = repo.pygit.merge_trees(trees[0], trees[1], trees[2])
        for sides in list(index.conflicts or ()):
            there = [side for side in sides if side is not None]
            path, mode = there[0].path, there[0].mode
            is_text = len(there) == 3 and mode in (REGULAR, EXECUTABLE)
            if not is_text or any((side.path, side.mode) != (path, mode) for side in there):
                continue
            merged = resolve(path, [read_blob(repo, str(side.id)) for side in there])
            if merged is not None:
                blob = pygit2.Oid(hex=write_blob(repo, merged))
                index.add(pygit2.IndexEntry(path, blob, mode))
                del index.conflicts[path]
        if index.conflicts is not None:
            paths = {side.path for sides in index.conflicts for side in sides if side is not None}
            return Merge("", tuple(sorted(paths)))
        return Merge(str(index.write_tree(repo.pygit)))
