"""The whole story: run, push, a clone elsewhere, fetch, replay, report, propose, verify, merge."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import COUNTER, Place


@pytest.fixture
def elsewhere(place: Place, tmp_path: Path) -> Place:
    """A colleague's fresh clone of the bare remote that `place` pushes to."""
    # A name that shells and scripts trip over, and an evaluator that needs it.
    place.write("Größe 1/x.txt", "1\n")
    code = COUNTER.replace('"x.txt"', '"Größe 1/x.txt"')
    # Of five items nobody can tell whether the change holds; of forty one can.
    few = '{"id": f"i{at}", "at": at} for at in range(1, 6)'
    assert few in code
    many = '{"id": f"i{at}-{n}", "at": at} for at in range(1, 6) for n in range(8)'
    place.write("counter.py", code.replace(few, many))
    place.commit("a name with a space and an umlaut")
    remote = tmp_path / "remote.git"
    place.git("init", "--quiet", "--bare", "--initial-branch=main", str(remote))
    place.git("remote", "add", "origin", str(remote))
    place.git("push", "--quiet", "-u", "origin", "main")
    place.git("clone", "--quiet", str(remote), str(tmp_path / "colleague"), cwd=tmp_path)
    found = Place(tmp_path / "colleague", place.cache)
    found.git("config", "user.name", "Bo Carr")
    found.git("config", "user.email", "bo@example.com")
    return found


def test_what_a_run_did_is_proved_reviewed_and_merged_elsewhere(
    place: Place, elsewhere: Place, tmp_path: Path
) -> None:
    place.run("hooks", "install", "pre-push")
    place.write("notes of mine.txt", "dirty\n")
    with place.untouched():
        place.run("run", "counter.py", "-e", "one")
    # The hook takes tags and notes along with the branch.
    place.git("push", "origin", "autopilot/one")
    place.check_sound()

    elsewhere.run("fetch", "origin", "one")
    assert elsewhere.line("one") == place.line("one")
    assert elsewhere.tags("one") == [0, 1, 2, 3, 4, 5]
    assert elsewhere.judged("one") == place.judged("one")
    for level in ("metrics", "full"):
        replayed = elsewhere.run("replay", "one", "--level", level).out
        assert "one replays: " in replayed

    page = tmp_path / "report.html"
    elsewhere.run("report", "one", "-o", str(page))
    assert "http://" not in page.read_text().replace("http://www.w3.org", "")
    assert "| 5 | 1.000 |" in elsewhere.run("report", "one", "--md").out

    with elsewhere.untouched():
        created = elsewhere.run("propose", "create", "one", "--push").out
        assert "val accuracy 0.000 -> 1.000" in created
        verified = elsewhere.run("propose", "verify", "one").out
        assert "the claim holds" in verified
    review = elsewhere.git("log", "--format=%s", "main..origin/autopilot-review/one").splitlines()
    assert len(review) == 5
    assert elsewhere.git("diff", "--name-only", "-z", "main...autopilot-review/one") == (
        "Größe 1/x.txt\0"
    )

    assert "do it: " in elsewhere.run("promote", "plan", "one").out
    elsewhere.run("promote", "execute", "one", "--reason", "holds", "--reviewer", "Bo")
    assert elsewhere.read("Größe 1/x.txt") == "6\n"
    assert elsewhere.git("status", "--porcelain") == ""
    assert "holds" in elsewhere.run("experiment", "show", "one").out
    elsewhere.check_sound()

    # The decision goes back, and nothing of either side is lost.
    elsewhere.run("push", "origin", "one")
    place.run("fetch", "origin", "one")
    assert "Bo" in place.run("experiment", "show", "one").out
    assert "merged" in elsewhere.run("propose", "list").out
    place.check_sound()


def test_a_run_that_was_killed_is_resumed_on_another_machine(
    place: Place, elsewhere: Place
) -> None:
    place.run("run", "counter.py", "-e", "one", "--max-epochs", "2")
    place.run("push", "origin", "one")
    elsewhere.run("fetch")
    elsewhere.run("resume", "one", "--max-epochs", "5")
    assert elsewhere.verdicts("one") == ["baseline", *["kept"] * 5]
    elsewhere.run("push", "origin", "one")
    place.run("fetch")
    assert place.trees("one") == elsewhere.trees("one")
    assert "one replays: " in place.run("replay", "one").out
