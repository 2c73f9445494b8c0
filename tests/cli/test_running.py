"""`autopilot run` from the outside: what it does, what it leaves, why it stops."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkouts import make_checkout
from waiting import wait_for

from tests.cli.conftest import COUNTER, Place, prepare_commands

PASSED = ('passed = int(self.x.read_text()) > item.metadata["at"]', "passed = {}")


def _steps(place: Place, *lines: str) -> None:
    """Makes the optimizer write a line of the list in each step, and nothing after the last."""
    place.change(
        "counter.py",
        (
            'x.write_text(f"{int(x.read_text()) + 1}\\n")',
            f"self.n = getattr(self, 'n', 0) + 1\n        lines = {list(lines)!r}\n"
            "        if self.n <= len(lines):\n"
            '            x.write_text(f"{lines[self.n - 1]}\\n")',
        ),
    )


DIE = """
import os
import re
import signal


def die(module):
    if os.environ.get("DIE_AT") == module.x.read_text().strip():
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
"""


# --- what is in git, by plain git ----------------------------------------------------------------


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A run with kept and rejected epochs: 1, 3, 2 (rejected), 3 (unchanged), 5; to be read."""
    folder = tmp_path_factory.mktemp("walked")
    with pytest.MonkeyPatch.context() as patch:
        place = Place(folder / "repo", prepare_commands(patch, folder))
        make_checkout(place.top, {"x.txt": "1\n", "counter.py": COUNTER})
        _steps(place, "3", "2", "3", "5")
        with place.untouched():
            place.run("run", "counter.py", "-e", "one", "--max-epochs", "4")
        yield place


def test_verdicts_and_trees(walked: Place) -> None:
    judged = walked.judged("one")
    assert walked.verdicts("one") == ["baseline", "kept", "rejected", "rejected", "kept"]
    assert [r["metrics"]["accuracy"] for r in judged] == [0.0, 0.4, 0.2, 0.4, 0.8]
    assert [r.get("best_epoch", 0) for r in judged] == [0, 1, 1, 1, 4]
    assert [walked.git("show", f"{c}:x.txt") for c in walked.line("one")] == list("132335")


def test_the_branch_is_linear_and_starts_at_the_base(walked: Place) -> None:
    start = walked.line("one")[0]
    assert walked.git("log", "--merges", "--format=%H", "main..autopilot/one") == ""
    assert walked.git("rev-parse", f"{start}^") == walked.git("rev-parse", "main")
    assert walked.git("rev-parse", f"{start}^{{tree}}") == walked.git("rev-parse", "main^{tree}")
    assert walked.git("diff", "--name-only", "main...autopilot/one") == "x.txt"


def test_trailers(walked: Place) -> None:
    keys = ("Experiment", "Epoch", "Step", "Strategy", "Rollback", "Rejected")
    wanted = "%x09".join(f"%(trailers:key=Autopilot-{k},valueonly,separator=%x2C)" for k in keys)
    rows = walked.git("log", "--reverse", f"--format={wanted}%x09", "main..autopilot/one")
    assert [row.split("\t")[:6] for row in rows.splitlines()][1:] == [
        ["one", "1", "1", "up", "", ""],
        ["one", "2", "1", "up", "", ""],
        ["one", "", "", "", "epoch-0001", "2"],
        ["one", "", "", "", "epoch-0001", "3"],
        ["one", "4", "1", "up", "", ""],
    ]
    message = walked.git("log", "-1", "--format=%B", "autopilot/one")
    parsed = subprocess.run(
        ["git", "interpret-trailers", "--parse"],
        input=message,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert parsed.splitlines() == [
        "Autopilot-Experiment: one",
        "Autopilot-Epoch: 4",
        "Autopilot-Step: 1",
        "Autopilot-Strategy: up",
    ]
    assert message.startswith("autopilot(one): epoch 4: add one\n\n")


def test_rollbacks_equal_their_tags(walked: Place) -> None:
    rollback = walked.line("one")[3]
    message = walked.git("log", "-1", "--format=%B", rollback)
    assert message.startswith("autopilot(one): rollback to epoch 1\n\n")
    assert "val accuracy 0.400 -> 0.200 is no improvement" in message
    tree = walked.git("rev-parse", f"{rollback}^{{tree}}")
    assert tree == walked.git("rev-parse", "autopilot/one/epoch-0001^{tree}")
    tip = walked.git("rev-parse", "autopilot/one^{tree}")
    assert tip == walked.git("rev-parse", "autopilot/one/epoch-0004^{tree}")


def test_tags_are_annotated(walked: Place) -> None:
    assert walked.tags("one") == [0, 1, 4]
    for epoch in (0, 1, 4):
        assert walked.git("cat-file", "-t", f"refs/tags/autopilot/one/epoch-{epoch:04d}") == "tag"
    message = walked.git("tag", "--list", "--format=%(contents)", "autopilot/one/epoch-0004")
    assert "val accuracy 0.8" in message
    assert "against baseline +0.8" in message
    assert "val accuracy 0.400 -> 0.800" in message


def test_notes_are_json_lines(walked: Place) -> None:
    on: dict[str, set[str]] = {}
    for kind in ("experiment", "gradients", "metrics", "memory", "traces"):
        for record in walked.notes("one", kind):
            assert record["v"] == 2
            assert record["kind"] == kind
            assert isinstance(record["epoch"], int)
            assert record["id"]
            on.setdefault(kind, set()).add(record["on"])
    line = walked.line("one")
    assert on["experiment"] == {line[0]}
    assert on["gradients"] >= {line[1], line[2], line[5]}
    metrics = walked.notes("one", "metrics")
    assert {(r["epoch"], r["split"]) for r in metrics} >= {
        (0, "val"), (1, "train"), (1, "val"), (2, "train"), (2, "val"), (4, "val"), (4, "test"),
    }  # fmt: skip
    for record in metrics:
        assert record["metrics"]["accuracy"] >= 0
        assert record["verdict"] in ("baseline", "kept", "rejected")
    assert len({r["id"] for r in metrics}) == len(metrics)
    shown = walked.git("log", "--notes=autopilot/*", "autopilot/one")
    assert "Notes (autopilot/one/metrics):" in shown
    assert "raise it" in shown
    walked.check_sound()


# --- what the evaluation meets -------------------------------------------------------------------


def test_forward_that_raises_on_one_item(place: Place) -> None:
    place.change(
        "counter.py", (PASSED[0], "assert item.metadata['at'] != 2, 'no two'\n        " + PASSED[0])
    )

    place.run("run", "counter.py", "-e", "one", "--max-epochs", "2")

    items = place.notes("one", "traces")[-1]["items"]
    failed = [item for item in items if "error_message" in item]
    assert [item["id"] for item in failed] == ["i2"]
    assert failed[0]["error_message"] == "AssertionError: no two"
    # Its neighbour in the batch of two is not affected, and the error reaches the optimizer.
    values = [r["metrics"]["accuracy"] for r in place.judged("one")]
    assert values == [0.0, 0.2, 0.2]
    assert "no two" in json.dumps(place.notes("one", "gradients")[0]["gradients"])


def test_forward_that_raises_on_all_items_at_an_epoch(place: Place) -> None:
    place.change(
        "counter.py",
        (PASSED[0], "assert int(self.x.read_text()) != 2, 'not two'\n        " + PASSED[0]),
    )
    _steps(place, "2", "3")

    place.run("run", "counter.py", "-e", "one", "--max-epochs", "2")

    assert place.verdicts("one") == ["baseline", "rejected", "kept"]
    reason = place.judged("one")[1]["reasons"][0]
    assert reason == "all 5 val items failed: AssertionError: not two"


def test_a_metric_that_is_not_finite_never_becomes_best(place: Place) -> None:
    place.change(
        "counter.py",
        (
            'return Datum(success=passed, feedback="raise it")',
            "value = int(self.x.read_text())\n"
            "        score = {2: 'nan', 3: 'inf', 4: '-inf'}.get(value, value)\n"
            "        metrics = {'score': float(score)}\n"
            '        return Datum(success=passed, feedback="raise it", metrics=metrics)',
        ),
    )
    _steps(place, "2", "5", "3", "4", "6")

    place.run("run", "counter.py", "-e", "one", "--max-epochs", "5", "--monitor", "score")

    judged = place.judged("one")
    assert place.verdicts("one") == [
        *("baseline", "rejected", "kept", "rejected", "rejected", "kept")
    ]
    # NaN is an item's error; an infinite value is one, but none to compare with.
    assert "its metric 'score' is nan" in judged[1]["reasons"][0]
    assert "val score is inf" in judged[3]["reasons"][0]
    assert "val score is -inf" in judged[4]["reasons"][0]
    assert [r.get("best") for r in judged] == [1, 1, 5, 5, 5, 6]


def test_a_baseline_that_is_not_finite_ends_the_run(place: Place) -> None:
    score = """__import__("os").environ["SCORE"]"""
    place.change(
        "counter.py",
        ('feedback="raise it")', f'feedback="raise it", metrics={{"score": float({score})}})'),
    )
    for value in ("nan", "inf", "-inf"):
        refused = place.autopilot(
            "run", "counter.py", "-e", "one", "--monitor", "score", SCORE=value
        )
        assert refused.code == 1
        assert f"is {float(value)}" in refused.error
        assert place.git("branch", "--list", "autopilot/*") == ""


def test_sys_exit_in_forward_fails_its_item(place: Place) -> None:
    place.change(
        "counter.py", (PASSED[0], f"item.metadata['at'] == 2 and exit(0)\n        {PASSED[0]}")
    )

    place.run("run", "counter.py", "-e", "one", "--max-epochs", "1")

    assert "SystemExit" in json.dumps(place.notes("one", "traces"))


def test_an_optimizer_that_changes_nothing(place: Place, tmp_path: Path) -> None:
    log = tmp_path / "log"
    place.change(
        "counter.py", (PASSED[0], f"open({str(log)!r}, 'a').write('x')\n        {PASSED[0]}")
    )
    _steps(place)

    done = place.run("run", "counter.py", "-e", "one", "--patience", "3")

    assert "stopped: 3 epochs without improvement" in done.out
    assert "rejected: up (3x)\n" in done.out
    judged = place.judged("one")
    assert [r.get("outcome") for r in judged[1:]] == ["unchanged"] * 3
    assert judged[1]["reasons"] == ["the optimizer changed nothing"]
    # No step commits: the start commit, and a rollback for each rejected epoch.
    assert len(place.line("one")) == 4
    # The baseline twice, three times the train split, the test split: val is not run again.
    assert len(log.read_text()) == 2 * 5 + 3 * 5 + 5


def test_a_state_that_was_tried_already(place: Place, tmp_path: Path) -> None:
    log = tmp_path / "log"
    place.change(
        "counter.py", (PASSED[0], f"open({str(log)!r}, 'a').write('x')\n        {PASSED[0]}")
    )
    _steps(place, "3", "2", "2", "4")
    place.change("counter.py", ('"add one", "up"', '"add one", ""'))

    done = place.run("run", "counter.py", "-e", "one", "--max-epochs", "4")

    assert "4 epochs, 2 kept" in done.out
    assert "unnamed" not in done.out

    judged = place.judged("one")
    assert place.verdicts("one") == ["baseline", "kept", "rejected", "rejected", "kept"]
    assert judged[3]["outcome"] == "repeated"
    assert judged[3]["reused"] == 2
    assert judged[3]["reasons"] == ["the same state as epoch 2 (rejected), not evaluated again"]
    assert judged[3]["metrics"] == judged[2]["metrics"]
    # Val of 0 (twice), 1, 2, 4; train of 1 to 4; test of 0 and 4.
    assert len(log.read_text()) == (5 + 4 + 2) * 5


# --- stop conditions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason", "epochs"),
    [
        (["--max-epochs", "2"], "reached the maximum of 2 epochs", 2),
        (["--patience", "2"], "2 epochs without improvement", 7),
        (["--target", "0.6"], "target reached: val accuracy 0.600, asked for 0.6", 3),
        (["--plateau", "2"], "plateau: 0.000 gained in 2 epochs, asked for 0.001", 7),
        (["--plateau", "1", "--min-delta", "0.3"], "plateau: 0.200 gained in 1 epoch", 1),
        (["--budget-evaluations", "31"], "evaluation budget: 30 of 31 spent", 2),
        (["--budget-evaluations", "30"], "evaluation budget: 30 of 30 spent", 2),
        (["--budget-evaluations", "8"], "evaluation budget: 5 of 8 spent", 0),
        (["--budget-seconds", "0"], "time budget: 0.", 0),
        (["--budget-tokens", "9"], "token budget: 10 of 9 spent", 2),
        (["--budget-usd", "0.5"], "dollar budget: $0.50 of $0.5 spent", 2),
        (["--target", "0"], "target reached: val accuracy 0.000, asked for 0", 0),
    ],
)
def test_reasons_for_stopping(place: Place, options: list[str], reason: str, epochs: int) -> None:
    place.change(
        "counter.py",
        ("import AutoPilotModule", "import Cost, AutoPilotModule"),
        (
            '"the items asked for it")',
            '"the items asked for it", Cost(tokens=5, cost_usd=0.25))',
        ),
    )

    document = place.run("run", "counter.py", "-e", "one", "--json", *options).document

    assert document["stop_reason"].startswith(reason)
    assert document["epochs"] == epochs
    assert not document["interrupted"]


def test_budgets_survive_a_resume(place: Place) -> None:
    place.run("run", "counter.py", "-e", "ref", "--budget-evaluations", "40")
    expected = place.judged("ref")

    budget = ("--budget-evaluations", "40", "--no-cache")
    place.run("run", "counter.py", "-e", "one", "--max-epochs", "1", *budget)
    done = place.run("resume", "one", "--max-epochs", "100", "--json")

    assert done.document["stop_reason"].startswith("evaluation budget: 40 of 40 spent")
    assert [r["spent"]["evaluations"] for r in place.judged("one")] == [10, 20, 30, 40]
    assert [r["spent"]["evaluations"] for r in expected] == [10, 20, 30, 40]


def test_a_finished_run(place: Place) -> None:
    place.run("run", "counter.py", "-e", "one", "--max-epochs", "1")

    done = place.run("resume", "one")
    assert "one is finished: reached the maximum of 1 epoch" in done.out
    more = place.run("resume", "one", "--max-epochs", "3")
    assert "reached the maximum of 3 epochs" in more.out
    assert place.verdicts("one") == ["baseline", "kept", "kept", "kept"]
    tests = [r["epoch"] for r in place.notes("one", "metrics") if r["split"] == "test"]
    assert tests == [0, 1, 3]


def test_limits_that_a_resume_raised_hold_after_a_kill(place: Place) -> None:
    place.change(
        "counter.py",
        ("    def score(self, item):", "    def score(self, item):\n        die(self)"),
        ("class Raise(", DIE + "\n\nclass Raise("),
    )
    place.run("run", "counter.py", "-e", "one", "--max-epochs", "1")

    killed = place.autopilot("resume", "one", "--max-epochs", "3", DIE_AT="3")
    assert killed.code == -signal.SIGKILL
    done = place.run("resume", "one", "--json")

    assert done.document["stop_reason"] == "reached the maximum of 3 epochs"
    assert place.verdicts("one") == ["baseline", "kept", "kept", "kept"]


# --- repositories as they are --------------------------------------------------------------------


def test_in_the_middle_of_a_merge(place: Place) -> None:
    place.write("text.txt", "a\n")
    place.commit()
    place.git("switch", "--quiet", "-c", "other")
    place.write("text.txt", "b\n")
    place.commit()
    place.git("switch", "--quiet", "main")
    place.write("text.txt", "c\n")
    place.commit()
    place.git("merge", "other", check=False)
    assert (place.top / ".git/MERGE_HEAD").exists()

    with place.untouched():
        place.run("run", "counter.py", "-e", "one", "--max-epochs", "2")

    assert place.verdicts("one") == ["baseline", "kept", "kept"]


def test_in_the_middle_of_a_rebase(place: Place) -> None:
    place.write("text.txt", "a\n")
    place.commit()
    place.git("switch", "--quiet", "-c", "other")
    place.write("text.txt", "b\n")
    place.commit()
    place.git("switch", "--quiet", "main")
    place.write("text.txt", "c\n")
    place.commit()
    place.git("rebase", "other", check=False)
    assert (place.top / ".git/rebase-merge").exists()

    with place.untouched():
        place.run("run", "counter.py", "-e", "one", "--max-epochs", "2")
    assert len(place.trees("one")) >= 3
    place.git("checkout", "--theirs", "text.txt")
    place.git("add", "text.txt")
    place.git("-c", "core.editor=true", "rebase", "--continue")
    place.check_sound()


def test_detached_head(place: Place) -> None:
    place.git("switch", "--quiet", "--detach")

    with place.untouched():
        done = place.run("run", "counter.py", "-e", "one", "--max-epochs", "1")

    base = place.git("rev-parse", "HEAD")[:7]
    assert f"git log -p {base}..autopilot/one" in done.out
    # There is no branch that it could be meant for: what is told to be typed asks for one.
    assert "autopilot propose create one --onto BRANCH" in done.out
    assert "autopilot promote execute one --into BRANCH" in done.out
    refused = place.refused("propose", "create", "one", says=("did not start from",), hints=())
    assert "propose create --onto BRANCH" in refused.hint
    assert "name the branch" in refused.hint and "propose create --onto BRANCH" in refused.hint


@pytest.mark.parametrize("strict", ["true", "false"])
def test_no_identity(place: Place, strict: str) -> None:
    place.git("config", "--unset", "user.name")
    place.git("config", "--unset", "user.email")
    place.git("config", "user.useConfigOnly", strict)

    place.run("run", "counter.py", "-e", "one", "--max-epochs", "1")

    names = place.git("log", "--format=%an <%ae> %cn", "main..autopilot/one").splitlines()
    marked = "autopilot (user.name is not set)"
    assert set(names) == {f"{marked} <autopilot@localhost> {marked}"}


def test_signed_commits(place: Place, tmp_path: Path) -> None:
    key = tmp_path / "key"
    made = subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=False
    )
    if made.returncode:
        pytest.skip("ssh-keygen is missing")
    (tmp_path / "allowed").write_text(f"ada@example.com {Path(f'{key}.pub').read_text()}")
    for name, value in (
        ("gpg.format", "ssh"),
        ("user.signingKey", f"{key}.pub"),
        ("gpg.ssh.allowedSignersFile", str(tmp_path / "allowed")),
        ("commit.gpgSign", "true"),
        ("tag.gpgSign", "true"),
    ):
        place.git("config", name, value)
    _steps(place, "3", "2", "4")

    place.run("run", "counter.py", "-e", "one", "--max-epochs", "3")

    assert len(place.line("one")) == 5
    assert set(place.git("log", "--format=%G?", "main..autopilot/one").splitlines()) == {"G"}
    for epoch in (0, 1, 3):
        place.git("tag", "--verify", f"autopilot/one/epoch-{epoch:04d}")


def test_include_dirty(place: Place) -> None:
    place.write("rules/a.txt", "a\n")
    place.write("rules/b.txt", "b\n")
    place.change(
        "counter.py",
        ("self.size = size", 'self.size = size\n        self.r = PathParameter("rules")'),
    )
    place.write("rules/a.txt", "changed\n")
    (place.top / "rules/b.txt").unlink()
    place.write("rules/new file.txt", "new\n")
    place.write("x.txt", "3\n")

    with place.untouched():
        place.run("run", "counter.py", "-e", "one", "--max-epochs", "1", "--include-dirty")

    start = place.line("one")[0]
    listed = place.git("ls-tree", "-r", "--name-only", start).splitlines()
    assert listed == ["counter.py", "rules/a.txt", "rules/new file.txt", "x.txt"]
    assert place.git("show", f"{start}:rules/a.txt") == "changed"
    assert place.judged("one")[0]["metrics"]["accuracy"] == 0.4


def test_names_and_contents_of_every_kind(place: Place) -> None:
    """Rolled back exactly: bytes, modes and links, at names with spaces and umlauts."""
    top = place.top
    place.write("bücher regeln/a b.txt", "one\r\ntwo\r\n")
    place.write("bücher regeln/ü/daten.bin", bytes(range(256)))
    place.write("bücher regeln/run me.sh", "#!/bin/sh\n").chmod(0o755)
    place.write("bücher regeln/plain.sh", "#!/bin/sh\n")
    place.write("bücher regeln/leer", "")
    (top / "bücher regeln/zeiger").symlink_to("ü/daten.bin")
    (top / "bücher regeln/ins leere").symlink_to("nirgends")
    place.change(
        "counter.py",
        ("self.size = size", 'self.size = size\n        self.r = PathParameter("bücher regeln")'),
        (
            'x.write_text(f"{int(x.read_text()) + 1}\\n")',
            """self.n = getattr(self, "n", 0) + 1
        root = self.parameters[1].root
        x.write_text(["3", "2", "5"][self.n - 1] + "\\n")
        if self.n == 2:
            (root / "a b.txt").write_bytes(b"one\\n")
            (root / "ü" / "daten.bin").write_bytes(bytes(256))
            (root / "run me.sh").chmod(0o644)
            (root / "plain.sh").chmod(0o755)
            (root / "zeiger").unlink()
            (root / "zeiger").write_text("no link any more")
            (root / "ins leere").unlink()
            (root / "leer").unlink()
            (root / "leer").mkdir()
            (root / "leer" / "neu é.txt").write_text("new")
            (root / "neu").symlink_to("plain.sh")""",
        ),
    )

    with place.untouched():
        place.run("run", "counter.py", "-e", "one", "--max-epochs", "3")

    assert place.verdicts("one") == ["baseline", "kept", "rejected", "kept"]
    listed = {
        epoch: place.git("ls-tree", "-r", "-z", revision, "bücher regeln")
        for epoch, revision in {
            0: "main", 1: "autopilot/one/epoch-0001", 2: place.line("one")[2],
            3: "autopilot/one/epoch-0003",
        }.items()
    }  # fmt: skip
    assert listed[0] == listed[1] == listed[3]
    changed = listed[2].split("\0")
    assert any(x.startswith("100755") and x.endswith("plain.sh") for x in changed)
    assert any(x.startswith("100644") and x.endswith("run me.sh") for x in changed)
    assert any(x.startswith("120000") and x.endswith("/neu") for x in changed)
    assert any(x.endswith("leer/neu é.txt") for x in changed)
    place.check_sound()


def test_code_as_a_parameter_brings_no_bytecode(place: Place) -> None:
    place.write("rules/__init__.py", "LIMIT = 1\n")
    place.change(
        "counter.py",
        ("class Raise(", "import rules\n\n\nclass Raise("),
        ("self.size = size", 'self.size = size\n        self.r = PathParameter("rules")'),
    )

    place.run("run", "counter.py", "-e", "one", "--max-epochs", "2")

    for commit in place.line("one"):
        assert place.git("ls-tree", "-r", "--name-only", commit, "rules") == "rules/__init__.py"


# --- the command line ----------------------------------------------------------------------------


def test_ways_to_name_a_target(place: Place) -> None:
    text = place.read("counter.py").replace(
        'PathParameter("x.txt")', "PathParameter(Path(__file__).with_name('x.txt'))"
    )
    maker = "\n\ndef make(size: int = 2):\n    return Counter(size)\n"
    place.write("tools/play/counter.py", f"from pathlib import Path\n\n{text}{maker}")
    place.write("tools/play/x.txt", "1\n")
    place.write("docs/a.md", "a\n")
    place.commit()
    ways = [
        (".", "tools/play/counter.py"),
        (".", "tools/play/counter.py:Counter"),
        (".", "./tools/../tools/play/counter.py"),
        (".", f"{place.top}/tools/play/counter.py"),
        ("tools", "play/counter.py"),
        ("docs", "../tools/play/counter.py"),
        (".", "tools.play.counter:Counter"),
        (".", "tools.play.counter:make"),
        ("tools", "play.counter:Counter"),
    ]

    with place.untouched():
        for number, (folder, target) in enumerate(ways, start=1):
            options = ("--max-epochs", "1", "-H", "size=1", "--no-measure-noise")
            done = place.run("run", target, *options, cwd=place.top / folder)
            assert f"\ncounter-{number}: 1 parameter" in done.out, done

    for number in range(1, len(ways) + 1):
        slug = f"counter-{number}"
        assert place.git("diff", "--name-only", f"main...autopilot/{slug}") == "tools/play/x.txt"
        assert place.verdicts(slug) == ["baseline", "kept"]


def test_json_is_alone_on_stdout(place: Place) -> None:
    place.change(
        "counter.py",
        ("class Raise(", "import os, sys\nprint('at import')\n\n\nclass Raise("),
        (
            PASSED[0],
            "print('in forward')\n        os.system('echo from a child')\n"
            f"        os.write(1, b'raw\\n')\n        {PASSED[0]}",
        ),
    )

    done = place.run("run", "counter.py", "-e", "one", "--max-epochs", "1", "--json")

    document: dict[str, Any] = done.document
    assert document["experiment"] == "one"
    assert document["branch"] == "autopilot/one"
    assert document["best"] == 0.2
    assert document["metrics"]["test"]["accuracy"] == 0.2
    for text in ("at import", "in forward", "from a child", "raw"):
        assert text in done.err


def test_links_of_ignored_files(place: Place) -> None:
    place.write(".gitignore", "data/\n.env\n")
    place.change(
        "counter.py",
        (
            PASSED[0],
            "assert open('data/a.txt').read() + open('.env').read() == 'ab'\n        " + PASSED[0],
        ),
    )
    place.write("data/a.txt", "a")
    place.write(".env", "b")

    with place.untouched():
        links = ("--link", "data", "--link", ".env")
        place.run("run", "counter.py", "-e", "one", "--max-epochs", "1", *links)

    assert place.judged("one")[1]["metrics"]["accuracy"] == 0.2
    assert place.read("data/a.txt") == "a"
    # A resumed run has them too.
    place.run("resume", "one", "--max-epochs", "2")
    assert place.judged("one")[2]["metrics"]["accuracy"] == 0.4


def test_dry_run_changes_nothing(place: Place) -> None:
    before = place.snapshot()

    done = place.run("run", "counter.py", "--dry-run")

    assert "dry run: nothing was changed. counter-1 would" in done.out
    assert "optimize x.txt (files: 1)" in done.out
    assert " train and 5 val items an epoch\n" in done.out
    often = place.run("run", "counter.py", "--dry-run", "--repeat", "3")
    assert " train and 5 val items an epoch, val 3 times\n" in often.out
    assert before == place.snapshot()


def test_nothing_is_left_in_the_cache(place: Place) -> None:
    place.run("run", "counter.py", "--max-epochs", "1")

    assert list(place.cache.iterdir()) == []
    assert len(place.git("worktree", "list").splitlines()) == 1


# --- several at once -----------------------------------------------------------------------------


def test_two_runs_at_once(place: Place) -> None:
    _steps(place, "3", "2", "5")
    place.run("run", "counter.py", "-e", "ref", "--max-epochs", "3")

    with place.untouched():
        started = [
            place.start("run", "counter.py", *options, "--max-epochs", "3")
            for options in (["-e", "a"], ["-e", "b"], [], [])
        ]
        for process in started:
            done = place.finish(process)
            assert done.code == 0, done

    for slug in ("a", "b", "counter-1", "counter-2"):
        assert place.trees(slug) == place.trees("ref")
        assert place.verdicts(slug) == place.verdicts("ref")
        assert place.tags(slug) == place.tags("ref")
        assert len(place.notes(slug, "gradients")) == len(place.notes("ref", "gradients"))
    place.check_sound()
    assert list(place.cache.iterdir()) == []


def _waiting(place: Place, *options: str) -> subprocess.Popen[str]:
    """A run that waits in epoch 2 until there is a file `go` beside the repository."""
    go, ready = place.top.parent / "go", place.top.parent / "ready"
    ready.unlink(missing_ok=True)
    if "go" not in place.read("counter.py"):
        place.change(
            "counter.py",
            (
                PASSED[0],
                "import os, time\n"
                f"        while int(self.x.read_text()) == 3 and not os.path.exists({str(go)!r}):\n"
                f"            open({str(ready)!r}, 'w').close()\n"
                f"            time.sleep(0.01)\n        {PASSED[0]}",
            ),
        )
    process = place.start("run", "counter.py", "-e", "one", "--max-epochs", "4", *options)
    wait_for(lambda: ready.exists() or process.poll() is not None)
    return process


def test_a_second_run_of_the_same_name(place: Place) -> None:
    first = _waiting(place)
    before = place.snapshot()

    for command in (("run", "counter.py", "-e", "one"), ("resume", "one")):
        done = place.autopilot(*command)
        assert done.code == 1, done
        assert "the experiment one is running already" in done.error, done
        assert str(first.pid) in done.error, done
        assert "-e" in done.hint, done
    assert before == place.snapshot()
    (place.top.parent / "go").touch()
    assert place.finish(first).code == 0
    assert place.verdicts("one") == ["baseline", "kept", "kept", "kept", "kept"]
    place.check_sound()


def test_branch_checked_out_before_a_resume(place: Place) -> None:
    place.run("run", "counter.py", "-e", "one", "--max-epochs", "1")
    place.git("switch", "--quiet", "autopilot/one")

    place.refused(
        "resume",
        "one",
        "--max-epochs",
        "3",
        says=("autopilot/one is checked out in", str(place.top)),
        hints=("git switch", "autopilot resume one"),
    )
    place.git("switch", "--quiet", "main")
    place.run("resume", "one", "--max-epochs", "3")
    assert place.verdicts("one") == ["baseline", "kept", "kept", "kept"]


def test_branch_checked_out_while_it_runs(place: Place) -> None:
    process = _waiting(place)
    place.git("switch", "--quiet", "autopilot/one")
    tip, before = place.git("rev-parse", "HEAD"), place.checkout()
    (place.top.parent / "go").touch()

    done = place.finish(process)

    assert done.code == 1, done
    assert "autopilot/one is checked out in" in done.error, done
    assert "autopilot resume one" in done.hint, done
    assert place.git("rev-parse", "HEAD") == tip
    assert place.checkout() == before
    assert place.git("status", "--porcelain") == ""
    place.git("switch", "--quiet", "main")
    place.run("resume", "one")
    assert place.verdicts("one") == ["baseline", "kept", "kept", "kept", "kept"]
    place.check_sound()


def test_a_disk_that_is_full_in_between(place: Place) -> None:
    mounted = place.top.parent / "disk"
    mounted.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mounted)],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        place.run("run", "counter.py", "-e", "ref", "--max-epochs", "4")
        filler = mounted / "filler"
        place.change(
            "counter.py",
            (
                PASSED[0],
                "import os\n        if int(self.x.read_text()) == 3 and os.environ.get('FILL'):\n"
                f"            with open({str(filler)!r}, 'ab', buffering=0) as f:\n"
                "                try:\n"
                "                    while True:\n"
                "                        f.write(b'x' * 4096)\n"
                f"                except OSError:\n                    pass\n        {PASSED[0]}",
            ),
        )
        place.git("clone", "--quiet", str(place.top), str(mounted / "repo"))
        there = type(place)(mounted / "repo", place.cache)
        with there.untouched():
            done = there.autopilot("run", "counter.py", "-e", "one", "--max-epochs", "4", FILL="1")
            assert done.code == 1, done
            assert "No space left on device" in done.error, done
            assert "resume" in done.hint, done
            assert "Traceback" not in done.err, done
            filler.unlink()
            there.run("resume", "one")
        assert there.verdicts("one") == place.verdicts("ref")
        contents = [[p.git("show", f"{c}:x.txt") for c in p.line(s)]
                    for p, s in ((there, "one"), (place, "ref"))]  # fmt: skip
        assert contents[0] == contents[1]
        there.check_sound()
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_tags_that_were_deleted_come_back(place: Place) -> None:
    place.run("run", "counter.py", "-e", "one", "--max-epochs", "3")
    tags = place.git("for-each-ref", "refs/tags")
    place.git("tag", "-d", "autopilot/one/epoch-0001", "autopilot/one/epoch-0003")

    place.run("resume", "one", "--max-epochs", "4")

    again = place.git("for-each-ref", "--format=%(refname) %(*objectname)", "refs/tags")
    assert [line.split()[-1] for line in tags.splitlines()] == [
        line.split()[0] for line in again.splitlines()
    ][:4]
    assert place.git("rev-parse", "autopilot/one/epoch-0003^{commit}") in again


def test_without_a_train_split_it_learns_from_the_val_items(place: Place) -> None:
    """In a run, a resumed one, and both levels of replay; the one val item measured three times."""
    place.change(
        "counter.py",
        ("def train_dataloader", "def val_dataloader"),
        ("    val_dataloader = test_dataloader = train_dataloader\n", ""),
        ("range(1, 6)", "range(9, 10)"),
        (
            "Datum(success=passed, feedback",
            'Datum(metrics={"x": int(self.x.read_text())}, feedback',
        ),
        ("class Counter(AutoPilotModule):", "class Counter(AutoPilotModule):\n    monitor = 'x'"),
    )
    says = "no train split: the optimizer learns from the val items"

    assert f"  note: {says}\n" in place.run("run", "counter.py", "--dry-run").out
    options = ("--max-epochs", "1", "--repeat", "3", "--jobs", "2")
    done = place.run("run", "counter.py", "-e", "s", *options)
    assert f"note: {says}\n" in done.out
    assert ", no train / 1 val items, " in done.out
    place.run("resume", "s", "--max-epochs", "2")

    assert [record["verdict"] for record in place.judged("s")] == ["baseline", "kept", "kept"]
    steps = place.notes("s", "gradients")
    assert [step["gradients"]["x"].splitlines()[0] for step in steps] == ["raise it"] * 2
    assert [step["gradients"]["x"].splitlines()[-1] for step in steps] == [
        f"raise x: it is {level} on the val split" for level in (1, 2)
    ]
    for level in ("metrics", "full"):
        again = place.run("replay", "s", "--level", level, "--json").document
        assert again["differences"] == []
    assert "s: 1 val items over 3 epochs" in place.call("diagnose", "run", "s").out
    assert "kept" in place.run("policy", "explain", "s", "2").out
    assert place.run("dataset", "list", "counter.py").out.splitlines()[1].startswith("val ")


def test_a_search_prints_the_values_that_it_tries(place: Place) -> None:
    place.write("x.json", '{"x": 1, "kind": "slow"}\n')
    place.change(
        "counter.py",
        ("DataLoader, Datum", "Choice, ConfigParameter, DataLoader, Datum"),
        ("Optimizer, PathParameter", "Optimizer, PathParameter, Range, SearchOptimizer"),
        ('PathParameter("x.txt")', 'ConfigParameter("x.json", {"x": Range(1, 99), "kind": KINDS})'),
        ("class Counter", 'KINDS = Choice(["slow", "fast"])\n\n\nclass Counter'),
        ("int(self.x.read_text())", 'self.x.present()["x"]'),
        ("return Raise(self.parameters())", "return SearchOptimizer(self.parameters(), seed=1)"),
    )

    lines = place.run("run", "counter.py", "-e", "s", "--max-epochs", "3").out.splitlines()

    first = next(line for line in lines if line.startswith("    0  "))
    assert "  baseline  x 1, kind slow " in first
    assert re.search(r"^    1  .*  kept      x 1 -> \d+", "\n".join(lines), re.M)
    best = place.judged("s")[1]["values"]
    kind = "" if best["kind"] == "slow" else ", kind slow -> fast"
    assert f"values: x 1 -> {best['x']}{kind}" in lines
    assert not any(line.startswith(("kept:", "rejected:")) for line in lines)
    assert place.notes("s", "experiment")[0]["spaces"] == {"x": "1..99", "kind": "slow|fast"}
