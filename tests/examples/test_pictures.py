"""The pictures of the README: one script makes them, and they load nothing."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from autopilot.core.records.index import Judged
from autopilot.core.types import Cost
from autopilot.report.live import LiveRun

TOP = Path(__file__).parents[2]
PICTURES = TOP / "examples" / "pictures"


def load() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("make_pictures", PICTURES / "make.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_what_the_script_makes(tmp_path: Path) -> None:
    shown = re.findall(r"^!\[.+\]\((examples/.+)\)$", (TOP / "README.md").read_text(), re.MULTILINE)
    assert shown == ["examples/pictures/watch.svg", "examples/pictures/report.png"]
    assert (PICTURES / "report.png").read_bytes()[:4] == b"\x89PNG"

    script = load()
    script.HERE = tmp_path
    points = [Judged(n, n / 4, n / 4, True) for n in range(4)]
    script.draw(
        LiveRun(
            "a",
            "running",
            "",
            "f1",
            "max",
            0.0,
            0.75,
            3,
            3,
            "epoch 3 kept",
            points,
            [],
            Cost(),
            None,
        )
    )
    for text in ((tmp_path / "watch.svg").read_text(), (PICTURES / "watch.svg").read_text()):
        assert "running" in text and "best" in text
        assert set(re.findall(r"https?://[^\"' )]+", text)) == {"http://www.w3.org/2000/svg"}
