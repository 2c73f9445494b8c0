"""What the shell completes, asked as bash asks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Place


@pytest.fixture
def shop(place: Place) -> Place:
    """A repository with the branches of three experiments, and a workspace of two projects."""
    for name in ("shop", "store"):
        place.write(f"autopilot/projects/{name}/cli.py", "")
    place.commit()
    for slug in ("classifier-1", "shop/words-1", "shop/words-2"):
        place.git("update-ref", f"refs/heads/autopilot/{slug}", "HEAD")
    return place


def offered(place: Place, *words: str, cwd: Path | None = None) -> list[str]:
    done = place.autopilot(
        cwd=cwd,
        _AUTOPILOT_COMPLETE="complete_bash",
        COMP_WORDS=" ".join(("autopilot", *words)),
        COMP_CWORD=str(len(words)),
    )
    assert (done.code, done.err) == (0, ""), done
    return done.out.split()


def test_names_are_completed(shop: Place, tmp_path: Path) -> None:
    assert offered(shop, "stat") == ["status"]
    assert offered(shop, "propose", "v") == ["verify"]
    assert offered(shop, "log", "c") == ["classifier-1"]
    assert offered(shop, "experiment", "show", "sh") == ["shop/words-1", "shop/words-2"]
    assert offered(shop, "-p", "shop", "resume", "w") == ["words-1", "words-2"]
    assert offered(shop, "-p", "s") == ["shop", "store"]
    assert offered(shop, "-C", str(shop.top), "push", "cl", cwd=tmp_path) == ["classifier-1"]
    assert offered(shop, "log", "c", cwd=tmp_path) == []
