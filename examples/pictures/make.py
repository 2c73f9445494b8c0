"""Makes the two pictures of the README from a real run of textmatch: `python make.py`.

`watch.svg` is `autopilot watch` in the middle of the run; `report.png` is `autopilot report` of it
in a headless Chromium. It needs a clone of the repository: its tests know how to drive the browser.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
sys.path[:0] = [str(TOP)]

from rich.console import Console  # noqa: E402

from autopilot.cli.watch import drawn  # noqa: E402
from autopilot.git.repository import Repository  # noqa: E402
from autopilot.report.collection import collect  # noqa: E402
from autopilot.report.live import LiveRun, RunReader  # noqa: E402
from autopilot.report.rendering import page as report_page  # noqa: E402
from autopilot.tracking.notebook import Notebook  # noqa: E402
from tests.browser import chromium  # noqa: E402

SLUG, COLUMNS, ROWS, EPOCH = "textmatch-1", 88, 36, 12
SIZE = 1300, 860


def prepare(top: Path) -> None:
    """A repository with the example."""
    shutil.copytree(TOP / "examples" / "textmatch", top)
    for words in (["init", "-qb", "main"], ["add", "-A"], ["commit", "-qm", "textmatch"]):
        own = ["-c", "user.name=Ada Byron", "-c", "user.email=ada@example.com"]
        subprocess.run(["git", *own, *words], cwd=top, check=True)


def run(top: Path) -> LiveRun:
    """Runs the example to its end; returns it as it stood in the middle."""
    command = [sys.executable, "-m", "autopilot", "run", "textmatch.py", "-e", SLUG]
    names = ("AUTHOR", "COMMITTER")
    people = {f"GIT_{n}_NAME": "Ada Byron" for n in names}
    people |= {f"GIT_{n}_EMAIL": "ada@example.com" for n in names}
    process = subprocess.Popen(
        command, cwd=top, env=os.environ | people, stdout=subprocess.DEVNULL, text=True
    )
    repo = Repository.discover(top)
    branch, shown = f"refs/heads/autopilot/{SLUG}", None
    reader: RunReader | None = None
    while process.poll() is None:
        if reader is None:
            if subprocess.run(["git", "show-ref", "-q", branch], cwd=top, check=False).returncode:
                continue
            reader = RunReader(repo, SLUG)
        time.sleep(0.005)
        seen = reader.look()
        is_middle = seen and len(seen.points) > EPOCH and seen.going and seen.going.items
        shown = shown or (seen if is_middle else None)
    assert process.returncode == 0 and shown is not None
    return replace(shown, detail="")  # which process on which machine


def draw(shown: LiveRun) -> None:
    """The view in the terminal as an SVG file."""
    with open(os.devnull, "w") as nothing:  # noqa: PTH123  # no file of ours
        console = Console(record=True, width=COLUMNS, file=nothing, force_terminal=True)
        console.print(drawn(shown, COLUMNS, ROWS + 1))
        text = console.export_svg(title=f"autopilot watch {SLUG}")
    # A picture loads nothing: the font is the reader's own.
    text = re.sub(r"@font-face \{.*?\}\n|<!--.*?-->", "", text, flags=re.DOTALL)
    (HERE / "watch.svg").write_text(text.replace("Fira Code, ", ""), encoding="utf-8")


def photograph(top: Path, place: Path) -> None:
    """The report in a browser as a PNG file."""
    file = place / "report.html"
    report = collect(Notebook(Repository.discover(top), SLUG))
    file.write_text(report_page([report]), encoding="utf-8")
    with chromium(place / "profile") as browser:
        browser.resize(*SIZE)
        browser.open(file.as_uri())
        browser.wait_for("!!document.getElementById('detail-title')")
        browser.picture(HERE / "report.png")


def main() -> None:
    """Makes both."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder) / "textmatch"
        prepare(top)
        draw(run(top))
        photograph(top, Path(folder))


if __name__ == "__main__":
    main()
