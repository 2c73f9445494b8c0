"""The variables by which git is told where to work, kept from processes that are none of git's.

A hook of git has a `GIT_DIR` and a `GIT_INDEX_FILE`. Whatever a run starts would inherit them, and
any `git` below would write into the repository that the hook belongs to.
"""

from __future__ import annotations

import os

# What git hands to its hooks. Inherited, it would send our calls to another repository or index,
# to another configuration, or date their commits.
_OF_A_CALLER = frozenset(
    (
        *("GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_PREFIX"),
        *("GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"),
        *("GIT_QUARANTINE_PATH", "GIT_NAMESPACE", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE"),
        *("GIT_REPLACE_REF_BASE", "GIT_NO_REPLACE_OBJECTS", "GIT_INTERNAL_SUPER_PREFIX"),
        *("GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS"),
        *("GIT_ICASE_PATHSPECS", "GIT_EXTERNAL_DIFF", "GIT_DIFF_OPTS", "GIT_NOTES_REF"),
        *("GIT_CONFIG", "GIT_CONFIG_PARAMETERS", "GIT_ATTR_SOURCE", "GIT_REFLOG_ACTION"),
        *("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"),
    )
)
# The user's own settings for git, such as GIT_SSH_COMMAND: our calls of git have them.
_kept: dict[str, str] = {}


def withdraw() -> None:
    """Takes all `GIT_*` variables out of this process's environment, and so out of its children's.

    Our own calls of git keep those that do not come from a git that called us.
    """
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        _kept[name] = os.environ.pop(name)


def for_git() -> dict[str, str]:
    """The environment for our own calls of git."""
    variables = {**_kept, **os.environ}
    return {name: value for name, value in variables.items() if name not in _OF_A_CALLER}


def variable(name: str) -> str | None:
    """A variable of `for_git`; None if it is not set."""
    return None if name in _OF_A_CALLER else os.environ.get(name, _kept.get(name))
