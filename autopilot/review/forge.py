"""Opening a pull request: with `gh` or `glab`, which know the user's account.

Nothing is sent from here but by these programs.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autopilot.errors import RemoteError
from autopilot.git.repository import Repository


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A request as it is to be opened.

    Args:
        title: One line.
        body: A file with its text, in Markdown.
        head: The branch with the changes, pushed.
        base: The branch that they are for.
        program: "gh" or "glab".
    """

    title: str
    body: Path
    head: str
    base: str
    program: str

    @property
    def command(self) -> str:
        """The command that opens it, as it is typed in a shell."""
        if self.program == "gh":
            return shlex.join(self._gh("create"))
        # glab takes no file.
        text = f'--description "$(cat {shlex.quote(str(self.body))})"'
        return f"{shlex.join(self._glab('create'))} {text}"

    def open(self, folder: Path) -> str:
        """Opens it; one that is open for the branch already gets the new title and text.

        Args:
            folder: The repository's.

        Returns:
            The last line that the program printed: the request's address.

        Raises:
            RemoteError: the program is not installed, or refuses.
        """
        if shutil.which(self.program) is None:
            raise RemoteError(
                f"{self.program} is not installed, so the request is not opened",
                hint=f"open it in the browser, or install {self.program}: {self.command}",
            )
        done = _run(self._arguments("create"), folder)
        if done.returncode != 0 and "already exists" in done.stderr + done.stdout:
            done = _run(self._arguments("edit"), folder)
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise RemoteError(
                f"{self.program} did not open the request: {said[-1] if said else 'no reason'}",
                hint=f"run it by hand: {self.command}",
            )
        printed = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        return printed[-1] if printed else ""

    def _arguments(self, verb: str) -> Sequence[str]:
        if self.program == "gh":
            return self._gh(verb)
        return [*self._glab(verb), "--description", self.body.read_text(encoding="utf-8")]

    def _gh(self, verb: str) -> list[str]:
        text = ["--title", self.title, "--body-file", str(self.body)]
        if verb == "edit":
            return ["gh", "pr", "edit", self.head, *text]
        return ["gh", "pr", "create", "--base", self.base, "--head", self.head, *text]

    def _glab(self, verb: str) -> list[str]:
        if verb == "edit":
            return ["glab", "mr", "update", self.head, "--title", self.title]
        branches = ["--source-branch", self.head, "--target-branch", self.base]
        return ["glab", "mr", "create", *branches, "--title", self.title, "--yes"]


def program_for(repo: Repository, remote: str) -> str:
    """Which program opens requests on a remote: by its address, else the one that is installed."""
    address = repo.config(f"remote.{remote}.url") or remote
    if "gitlab" in address:
        return "glab"
    if "github" in address or shutil.which("glab") is None or shutil.which("gh"):
        return "gh"
    return "glab"


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
