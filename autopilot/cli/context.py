"""What every command shares: the options that all of them have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from autopilot.cli.output import Output
from autopilot.errors import UsageError

if TYPE_CHECKING:
    from autopilot.git.repository import Repository
    from autopilot.tracking.notebook import Notebook


@dataclass
class Context:
    """The common options of a command.

    Args:
        folder: Where the command works, from -C.
        project: From -p, or the CLI class.
        output: Prints.
    """

    folder: Path = field(default_factory=Path.cwd)
    project: str | None = None
    output: Output = field(default_factory=Output)

    @classmethod
    def early(cls, arguments: Sequence[str]) -> Context:
        """Enough of a context to report an error in the arguments themselves."""
        given = set(arguments)
        color = "--no-color" not in given and "NO_COLOR" not in os.environ
        output = Output(as_json="--json" in given, verbose="--verbose" in given, color=color)
        return cls(output=output)

    def working_folder(self) -> Path:
        """The folder that the command works in.

        Raises:
            UsageError: it does not exist.
        """
        if not self.folder.is_dir():
            raise UsageError(f"-C {self.folder}: no such folder", hint="name an existing folder")
        return self.folder

    def repository(self) -> Repository:
        """The repository around the folder.

        Raises:
            RepositoryError: there is none, or one that cannot be used.
        """
        from autopilot.git.repository import Repository

        return Repository.discover(self.working_folder())

    def notebook(self, slug: str | None) -> Notebook:
        """An experiment, the newest one if none is named."""
        from autopilot.tracking.notebook import Notebook, latest

        repo = self.repository()
        return Notebook(repo, self.full_slug(slug) if slug else latest(repo, self.project))

    def full_slug(self, slug: str) -> str:
        """The slug with its project in front, if there is one."""
        slug = slug.removeprefix("autopilot/")
        if self.project and "/" not in slug:
            return f"{self.project}/{slug}"
        return slug
