"""Conversion between a file in the worktree and the blob that git stores.

Line endings, filter drivers (LFS), `ident` and `working-tree-encoding`. Whether a name is converted
is asked of git once; the conversion itself is git's, except where it provably changes nothing.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autopilot.errors import GitCommandError
from autopilot.git.commands import run_git
from autopilot.git.objects import TREE, entry_at, read_blob
from autopilot.git.repository import Repository
from autopilot.text import some

_ATTRIBUTES = ("text", "eol", "crlf", "filter", "ident", "working-tree-encoding")
_NO_VALUE = ("unspecified", "unset", "set", "")
# A checkout that is not quite reversible is git's to warn of when the user adds the file.
_QUIET = ("-c", "core.safecrlf=false")
# Folders of a git folder that are git's; a filter may keep its key in one of its own.
_OF_GIT = {"branches", "hooks", "info", "lfs", "logs", "modules", "objects", "refs", "reftable"}
_OF_GIT |= {"rr-cache", "sequencer", "rebase-apply", "rebase-merge", "NOTES_MERGE_WORKTREE", "svn"}
_OF_GIT |= {"worktrees", "autopilot", "fsmonitor--daemon"}


@dataclass(frozen=True, slots=True)
class _Conversion:
    """The conversions of a name.

    Attributes:
        filtered: By more than line endings: only git can tell what comes out.
        line_endings: CRLF becomes LF in the blob.
        guessed: ... unless it looks binary, or is stored with CRLF already.
        crlf: LF becomes CRLF in the worktree.
    """

    filtered: bool = False
    line_endings: bool = False
    guessed: bool = False
    crlf: bool = False


class Converter:
    """Converts files of a worktree to blobs and back, as its attributes and configuration say.

    Attributes are read once per name until `forget`. Names are paths from the worktree's top.
    """

    def __init__(self, repo: Repository) -> None:
        self.repo = repo
        self._rules: dict[str, _Conversion] = {}

    def forget(self) -> None:
        """Drops what is known of attributes: a `.gitattributes` file was changed."""
        self._rules.clear()

    def learn(self, names: Iterable[str]) -> None:
        """Reads the attributes of names that are not known yet; starts git if there are any."""
        unknown = [name for name in names if name not in self._rules]
        if not unknown:
            return
        listed = run_git(
            ["check-attr", "-z", "--stdin", *_ATTRIBUTES],
            cwd=self.repo.workdir,
            stdin=b"".join(os.fsencode(name) + b"\0" for name in unknown),
        ).stdout
        fields = os.fsdecode(listed).split("\0")
        values: dict[str, dict[str, str]] = {name: {} for name in unknown}
        for name, attribute, value in zip(fields[::3], fields[1::3], fields[2::3], strict=False):
            values[name][attribute] = value
        for name, attributes in values.items():
            self._rules[name] = self._rule(attributes)

    def converts(self, name: str) -> bool:
        """Whether a name that was learned may differ between blob and file."""
        return self._rules[name] != _Conversion()

    def stored_as_is(self, name: str, content: bytes) -> bool:
        """Whether the blob of a file, whose name was learned, is its bytes."""
        rule = self._rules[name]
        if rule.filtered:
            return False
        if not rule.line_endings or b"\r\n" not in content:
            return True
        return rule.guessed and self._is_stored_with_crlf(name)

    def written_as_is(self, name: str, content: bytes) -> bool:
        """Whether a blob's bytes are what its file, whose name was learned, holds."""
        rule = self._rules[name]
        return not rule.filtered and not (rule.crlf and b"\n" in content)

    def clean(self, names: Sequence[str], *, write: bool) -> dict[str, str]:
        """The ids of the blobs of regular files, converted; starts git."""
        if not names:
            return {}
        try:
            done = run_git(
                [*_QUIET, "hash-object", *(["-w"] if write else []), "--stdin-paths"],
                cwd=self.repo.workdir,
                stdin=b"".join(_quoted(name) + b"\n" for name in names),
            )
        except GitCommandError as error:
            raise _filter_failed(names, error) from error
        return dict(zip(names, done.stdout.decode().split(), strict=True))

    def smudge(self, blobs: Mapping[str, str]) -> dict[str, bytes]:
        """The contents of the files of some blobs (ids by path), converted; starts git."""
        here, contents = self.repo.workdir, dict[str, bytes]()
        # A line of a batch is one name: names with a line break go one by one.
        batch = {name: oid for name, oid in blobs.items() if "\n" not in name}
        try:
            for name in blobs.keys() - batch.keys():
                single = ["cat-file", "--filters", f"--path={name}", blobs[name]]
                contents[name] = run_git(single, cwd=here).stdout
            if not batch:
                return contents
            # git prints the size before conversion, so that a mark must tell where a file ends.
            mark = secrets.token_hex(16)
            asked = (b"%b %b\n" % (oid.encode(), os.fsencode(n)) for n, oid in batch.items())
            command = ["cat-file", "--filters", f"--batch={mark}"]
            printed = run_git(command, cwd=here, stdin=b"".join(asked)).stdout
        except GitCommandError as error:
            raise _filter_failed(list(blobs), error) from error
        parts = printed.split(mark.encode() + b"\n")[1:]
        if len(parts) != len(batch):
            raise GitCommandError(
                "git cat-file did not convert all files", hint="run `git fsck`, then try again"
            )
        return contents | {name: part[:-1] for name, part in zip(batch, parts, strict=True)}

    def _rule(self, attributes: Mapping[str, str]) -> _Conversion:
        repo, driver = self.repo, attributes.get("filter", "")
        keys = (f"filter.{driver}.{key}" for key in ("clean", "smudge", "process"))
        filtered = (
            (driver not in _NO_VALUE and any(map(repo.config, keys)))
            or attributes.get("ident") == "set"
            or attributes.get("working-tree-encoding", "") not in _NO_VALUE
        )
        text, eol = attributes.get("text", "unspecified"), attributes.get("eol")
        if text == "unspecified":
            # `crlf` is what `text` was called before git 1.7.2.
            text = attributes.get("crlf", "unspecified")
        if text == "unset":
            return _Conversion(filtered)
        autocrlf = (repo.config("core.autocrlf") or "false").lower()
        is_input, is_auto = autocrlf == "input", repo.config_bool("core.autocrlf")
        if text not in ("set", "auto", "input") and eol not in ("lf", "crlf"):
            return _Conversion(filtered, is_input or is_auto, is_input or is_auto, is_auto)
        wanted = (repo.config("core.eol") or "").lower()
        default_crlf = is_auto or (not is_input and wanted == "crlf")
        crlf = eol == "crlf" or (default_crlf and eol != "lf" and text != "input")
        return _Conversion(filtered, True, text == "auto", crlf)

    def _is_stored_with_crlf(self, name: str) -> bool:
        """Whether a file was committed with CRLF, which git then does not normalize."""
        if self.repo.pygit.head_is_unborn:
            return False
        entry = entry_at(self.repo, self.repo.head_commit(), name)
        if entry is None or entry.mode == TREE:
            return False
        return b"\r\n" in read_blob(self.repo, entry.oid)


def link_keys(repo: Repository, folder: Path) -> None:
    """Gives another git folder what filters keep in this one, as git-crypt does its key."""
    for each in {*repo.git_dir.iterdir(), *repo.common_dir.iterdir()}:
        if each.is_dir() and each.name not in _OF_GIT and not (folder / each.name).exists():
            (folder / each.name).symlink_to(each)


def _quoted(name: str) -> bytes:
    """A name in C's quotes, the form in which git reads any name from a line."""
    safe = b"".join(
        bytes([byte]) if 32 <= byte < 127 and byte not in b'"\\' else b"\\%03o" % byte
        for byte in os.fsencode(name)
    )
    return b'"%b"' % safe


def _filter_failed(names: Sequence[str], error: GitCommandError) -> GitCommandError:
    return GitCommandError(
        f"git cannot convert {some(names, 1)}: {error.message}",
        hint="see .gitattributes, and that the filters it names are installed (git lfs install)",
    )
