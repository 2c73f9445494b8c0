"""An index of an experiment's judged epochs: reading one of them does not read the others.

It is derived from the branch and its notes, and holds the tips that it was made from. Where they
have moved, what was added is read; where more than that has changed, or the file is damaged, it is
made anew. It lies in the git folder; nothing is lost with it, and where it cannot be written, each
reader makes its own.
"""

from __future__ import annotations

import contextlib
from copy import copy

from autopilot.core.records.index import INDEXED, Index
from autopilot.core.records.record import Record
from autopilot.errors import AutopilotError, RepositoryError
from autopilot.files import REGULAR, FileState, replace_file
from autopilot.git import objects, refs
from autopilot.git.commands import Seen
from autopilot.git.commits import first_parent_log
from autopilot.git.repository import Repository
from autopilot.tracking.journal import Journal

_BRANCH = "branch"
_seen = Seen["Index"]()


def read_index(repo: Repository, journal: Journal, tip: str) -> Index:
    """The index of an experiment's branch as it is now, brought up to date.

    Args:
        tip: Where the branch ends.

    Raises:
        RecordError: the manifest's note is not here.
    """
    layout = journal.layout
    path, tips = layout.index(repo), {_BRANCH: tip}
    for kind in INDEXED:
        with contextlib.suppress(RepositoryError):  # who reads it names it
            if (oid := refs.read_ref(repo, layout.notes(kind.kind))) is not None:
                tips[kind.kind] = oid
    # Threads share the one in memory: it is added to in a copy.
    found = copy(seen := _seen.get(str(path)))
    if found is None:
        # A checksum does not say that it is of this form.
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
            found = Index.decode(path.read_bytes())
    if found is None or found.tips != tips:
        is_longer = False
        if found is not None:
            # What it was made from may be gone; then it is made anew.
            with contextlib.suppress(AutopilotError):
                is_longer = _extend(found, repo, journal, tips)
        if found is None or not is_longer:
            line = journal.line(tip)
            found = Index(start="".join([*line][-1:]), length=len(line))
            found.take(pair for kind in INDEXED for pair in journal.read(kind, line))
        found.tips = tips
        # Lines that cannot be read are named by each reader, who has to meet them for that.
        if any(named.startswith(layout.notes("")) for named in repo.damaged):
            return found
        # Who looks again and again writes it once.
        if seen is None and refs.read_ref(repo, layout.branch) == tip:
            with contextlib.suppress(AutopilotError, OSError):
                replace_file(path.parent, path.name, FileState(REGULAR, found.encode()))
    return _seen.keep(str(path), found)


def _extend(index: Index, repo: Repository, journal: Journal, tips: dict[str, str]) -> bool:
    """Takes in what was added; False where more than that has changed, or may have."""
    new = set[str]()
    for commit in first_parent_log(repo, tips[_BRANCH]):
        if commit.id == index.tips[_BRANCH]:
            break
        new.add(commit.id)
    else:
        return False
    known, added = {epoch.revision for epoch in index.epochs}, list[tuple[str, Record]]()
    for kind in INDEXED:
        before, now = index.tips.get(kind.kind), tips.get(kind.kind)
        if before == now:
            continue
        if before is None or now is None:
            return False
        trees = (objects.tree_of(repo, each) for each in (before, now))
        changed = set[str]()
        for path, (old, note) in objects.diff_trees(repo, *trees).items():
            annotated = path.replace("/", "")
            if annotated not in new:
                if annotated not in known or old is None or note is None:
                    return False
                contents = [objects.read_blob(repo, each.oid) for each in (note, old)]
                if not contents[0].startswith(contents[1]):
                    return False
            changed.add(annotated)
        added += [(c, record) for c in changed for record in journal.read_on(c, kind)]
    index.length += len(new)
    index.take(added)
    return True
