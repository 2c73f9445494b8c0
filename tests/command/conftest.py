"""A script that measures a number, and an agent that lowers it."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkouts import make_checkout

from tests.cli.conftest import COUNTER, Done, Place, prepare_commands

BENCH = 'echo "seconds: $(cat speed.txt)"\n'
AGENT = """\
cat > /dev/null
n=$(($(cat speed.txt) - 1))
echo $n > speed.txt
echo "lower it to $n"
"""


class Bench:
    """A repository with `bench.sh`, which prints the number in `speed.txt`, 10 at first."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @staticmethod
    def options(epochs: int = 1, **more: str | list[str] | None) -> list[str]:
        """The command line of a run; an option of None is left out."""
        options: dict[str, str | list[str] | None] = {
            "edit": "speed.txt",
            "eval": "sh bench.sh",
            "metric": "seconds",
            "mode": "min",
            "agent": "cmd:sh agent.sh",
            "max_epochs": str(epochs),
            **more,
        }
        words = ["run"]
        for name, value in options.items():
            for each in [value] if isinstance(value, str) else value or ():
                words += [f"--{name.replace('_', '-')}", each]
        return words

    def run(self, epochs: int = 1, **more: str | list[str] | None) -> Done:
        """Runs it to its end, as a real process."""
        return self.place.autopilot(*self.options(epochs, **more))


@pytest.fixture
def bench(tmp_path: Path, git_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The repository of a script, and its runs."""
    files = {"bench.sh": BENCH, "agent.sh": AGENT, "speed.txt": "10\n"}
    top = make_checkout(tmp_path / "repo", {"x.txt": "1\n", "counter.py": COUNTER, **files})
    return Bench(Place(top, prepare_commands(monkeypatch, git_environment)))
