"""A script that measures a number, and an agent that lowers it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Done, Place, place

__all__ = ["place"]

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
        place.write("bench.sh", BENCH)
        place.write("agent.sh", AGENT)
        place.write("speed.txt", "10\n")
        place.commit("bench")

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
def bench(place: Place, tmp_path: Path) -> Bench:
    """The repository of a script, and its runs."""
    return Bench(place)
