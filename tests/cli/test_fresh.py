"""Parameters that Python imports: each state is measured by a process that has seen no other."""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kills import MOMENTS, WHO, check_nothing_left, kills

if TYPE_CHECKING:
    from tests.cli.conftest import Done, Place

# Three modules are edited in turn: one is imported at the top, one in forward, and one by a package
# that is imported at the top. Each evaluation is a line: what was imported beside what is written.
TARGET = """\
import json
import os
from pathlib import Path

from autopilot import AutoPilotModule, Datum, Optimizer, PathParameter, Step
from autopilot.core.run import current_run
from parts import top
from parts.deep import value

NAMES = ["top.py", "late.py", "deep/number.py"]


def written(file):
    return int(file.read_text().split()[-1])


class Edit(Optimizer):
    count = 0

    def step(self):
        self.count += 1
        with open(os.environ["EVALUATIONS"], "a") as log:
            log.write(json.dumps({"step": self.count}) + "\\n")
        file = self.parameters[0].root / NAMES[self.count % 3]
        by = -1 if self.count % 4 == 2 else 1
        # Of the same size, and in the same second: bytecode would be taken for up to date.
        file.write_text(f"def value():\\n    return {written(file) + by}\\n")
        return Step(f"{file.name} by {by}", "edit")

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class First(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.source = PathParameter("parts", "**/*.py")

    def forward(self, batch):
        from parts import late

        imported = top.value() + late.value() + value()
        there = sum(written(self.source.root / name) for name in NAMES)
        line = {"pid": os.getpid(), "imported": imported, "written": there}
        for item in batch.items:
            line |= {"at": [current_run().epoch, current_run().repeat, item.id]}
            with open(os.environ["EVALUATIONS"], "a") as log:
                log.write(json.dumps(line) + "\\n")
        # A tuple does not come back from JSON as it was.
        return Datum(items=[
            Datum(metrics={"value": float(imported)}, metadata={"odd": (1, 2)})
            for _ in batch.items
        ])


class Second(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.text = PathParameter("text.txt")

    def forward(self, data):
        return Datum(items=[
            Datum(success=False, feedback="more", metrics=dict(item.metrics))
            for item in data.items
        ])


class System(AutoPilotModule):
    monitor, mode = "value", "max"

    def __init__(self):
        super().__init__()
        self.first, self.second = First(), Second()

    def forward(self, batch):
        return self.second(self.first(batch))

    def train_dataloader(self):
        return [[Datum(id="a"), Datum(id="b")], [Datum(id="c")], [Datum(id="d")]]

    def val_dataloader(self):
        return [[Datum(id="v"), Datum(id="w")]]

    def test_dataloader(self):
        return [[Datum(id="x")]]

    def configure_optimizers(self):
        return Edit(self.parameters())
"""
# Each file is edited, and the first epoch is rejected.
OPTIONS = ("--max-epochs", "2", "--accumulate", "2", "--no-cache")


class Pipeline:
    """The user's repository with the target in it, and its log."""

    def __init__(self, place: Place, log: Path) -> None:
        self.place, self.log = place, log

    def run(self, slug: str, *options: str) -> str:
        self.log.unlink(missing_ok=True)
        done = self.place.autopilot("run", "target.py:System", "-e", slug, *OPTIONS, *options)
        assert done.code == 0, done
        return done.out

    def lines(self) -> list[dict[str, Any]]:
        """The evaluations."""
        lines = map(json.loads, self.log.read_text().splitlines())
        return [line for line in lines if "step" not in line]

    def made(self) -> list[int]:
        """The steps that were made, by their numbers."""
        lines = map(json.loads, self.log.read_text().splitlines())
        return [line["step"] for line in lines if "step" in line]

    def steps(self) -> Counter[int]:
        """How often each step was made."""
        return Counter(self.made())

    def check_measured(self) -> None:
        """What was measured is what was written, by a process that saw nothing else."""
        seen = defaultdict(set)
        for line in self.lines():
            assert line["imported"] == line["written"], line
            seen[line["pid"]].add(line["written"])
        assert all(len(values) == 1 for values in seen.values()), seen

    def calls(self) -> Counter[str]:
        return Counter(json.dumps(line["at"]) for line in self.lines())

    def story(self, slug: str) -> list[Any]:
        """Trees, and what steps and epochs came to."""
        kept = ("epoch", "step", "gradients", "node", "split", "metrics", "verdict", "reasons")
        records = self.place.notes(slug, "gradients") + self.place.notes(slug, "metrics")
        found = [{name: r[name] for name in kept if name in r} for r in records]
        return [self.place.trees(slug), sorted(found, key=json.dumps)]


@pytest.fixture
def pipeline(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    log = tmp_path / "evaluations.log"
    monkeypatch.setenv("EVALUATIONS", str(log))
    place.write("target.py", TARGET)
    place.write("text.txt", "none\n")
    for name in ("top.py", "late.py", "deep/number.py"):
        place.write(f"parts/{name}", "def value():\n    return 0\n")
    place.write("parts/__init__.py", "")
    place.write("parts/deep/__init__.py", "from parts.deep.number import value\n")
    place.commit()
    return Pipeline(place, log)


@pytest.mark.parametrize("options", [(), ("--in-place",), ("--fresh", "always"), ("--jobs", "2")])
def test_the_edited_function_is_the_measured_one(
    pipeline: Pipeline, options: tuple[str, ...]
) -> None:
    out = pipeline.run("a", *options)
    pipeline.check_measured()
    assert set(pipeline.calls().values()) == {1}, "evaluated twice"
    assert pipeline.made() == [1, 2, 3, 4]
    assert pipeline.place.verdicts("a") == ["baseline", "rejected", "kept"]
    assert len({line["pid"] for line in pipeline.lines()}) > 5
    # The table shows nothing of it; an epoch's cost of it is in `show`.
    assert len([x for x in out.splitlines() if x.split()[:1] in [["0"], ["1"], ["2"]]]) == 3
    assert out.count("epoch  val") == 1 and "restart" not in out and "going on" not in out
    shown = pipeline.place.autopilot("show", "1", "-e", "a").out
    assert "s of it in" in shown and "restart" in shown, shown
    events = [e["name"] for e in pipeline.place.notes("a", "experiment") if "name" in e]
    assert sorted(events) == ["finished", "measured", "started", "stopped"]


def test_one_process_measures_what_it_imported_if_asked_to(pipeline: Pipeline) -> None:
    said = pipeline.run("a", "--fresh", "never")
    assert "what this process has imported of them stays as it was" in said
    assert len({line["pid"] for line in pipeline.lines()}) == 1
    assert {line["imported"] for line in pipeline.lines() if line["at"][0]} == {0}


def test_credit_over_two_stages_is_the_same(pipeline: Pipeline) -> None:
    """Of a parameter that is no Python source, new processes change nothing at all."""
    pipeline.place.change(
        "target.py",
        ('PathParameter("parts", "**/*.py")', 'PathParameter("parts", "*.txt")'),
        ("NAMES[self.count % 3]", '"number.txt"'),
        (
            "imported = top.value() + late.value() + value()",
            "imported = written(self.source.root / 'number.txt')",
        ),
        ("there = sum(written(self.source.root / name) for name in NAMES)", "there = imported"),
    )
    pipeline.place.write("parts/number.txt", "0\n")
    pipeline.place.commit()
    pipeline.run("one", "--fresh", "never")
    calls = pipeline.calls()
    pipeline.run("many", "--fresh", "always")
    assert len({line["pid"] for line in pipeline.lines()}) > 5
    assert pipeline.calls() == calls and set(calls.values()) == {1}
    assert pipeline.story("many") == pipeline.story("one")
    nodes = {r.get("node") for r in pipeline.place.notes("many", "gradients")}
    assert nodes == {"first+second"} or nodes == {"first + second"}, nodes


def test_kills_at_random_moments_lead_to_the_same_trees(pipeline: Pipeline) -> None:
    place = pipeline.place
    started = time.monotonic()
    pipeline.run("ref")
    duration_s, expected = time.monotonic() - started, pipeline.story("ref")
    assert set(pipeline.steps().values()) == {1}, "a step was made twice"

    def start(slug: str) -> Any:
        pipeline.log.write_text("")
        return place.start("run", "target.py:System", "-e", slug, *OPTIONS)

    for who in WHO:
        for slug, done in kills(place, who, start, duration_s, MOMENTS // 3 or 1):
            if done.code != 0:
                exists = place.git("for-each-ref", f"refs/heads/autopilot/{slug}")
                assert who != "child" or not exists, done
                recorded = len(place.notes(slug, "gradients")) if exists else 0
                made = len(pipeline.made())
                again = ("resume", slug) if exists else ("run", "target.py:System", "-e", slug)
                done = place.autopilot(*again, *(() if exists else OPTIONS))
                assert done.code == 0, done
                assert recorded < min([*pipeline.made()[made:], 99]), "a recorded step was repeated"
            pipeline.check_measured()
            assert sum(pipeline.steps().values()) <= len(pipeline.steps()) + 1
            assert pipeline.story(slug) == expected, slug
    check_nothing_left(place)


# Writes the function that is measured, as EDITS says: a value, or what breaks the import.
EDITED = """\
import os
import subprocess
import sys

from autopilot import AutoPilotModule, Datum, Optimizer, PathParameter, Step
from pkg import calc

BODIES = {
    "syntax": "def value(:\\n    return 0\\n",
    "raise": "raise RuntimeError('no luck')\\n",
    "exit": "import os\\nos._exit(0)\\n",
    "segv": "import os, signal\\nos.kill(os.getpid(), signal.SIGSEGV)\\n",
    "hang": "import time\\nwhile True:\\n    time.sleep(0.1)\\n",
    "down": "import os\\nif 'DOWN' in os.environ:\\n    raise ConnectionResetError('gone')\\n"
    "def value():\\n    return 5\\n",
}


class Edit(Optimizer):
    count = 0

    def step(self):
        what = os.environ["EDITS"].split()[self.count]
        self.count += 1
        with open(os.environ["EVALUATIONS"], "a") as log:
            log.write(f"step {self.count}\\n")
        (file,) = self.parameters[0].root.glob("calc.py")
        file.write_text(BODIES.get(what, f"def value():\\n    return {what}\\n"))
        if os.environ.get("KILL_IN_STEP") == what:
            os.kill(os.getppid(), 9)
            os.kill(os.getpid(), 9)
        return Step(f"to {what}", f"edit {self.count}")

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class System(AutoPilotModule):
    monitor, mode = "value", "max"

    def __init__(self):
        super().__init__()
        self.source = PathParameter("pkg", "*.py")

    def forward(self, batch):
        command = [sys.executable, "-S", "-m", "pkg"]
        if os.environ.get("CHILD"):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            value = float(done.stdout)
            if os.environ["CHILD"] == "both" and value != calc.value():
                value = -1.0
        else:
            value = float(calc.value())
        return Datum(items=[Datum(metrics={"value": value}, feedback="more") for _ in batch.items])

    def train_dataloader(self):
        return [[Datum(id="a")], [Datum(id="b")]]

    def val_dataloader(self):
        return [[Datum(id="v"), Datum(id="w")]]

    def test_dataloader(self):
        return [[Datum(id="x")]]

    def configure_optimizers(self):
        return Edit(self.parameters())
"""


class Edited:
    """The user's repository with that target, and the log of its steps."""

    def __init__(self, place: Place, log: Path) -> None:
        self.place, self.log = place, log

    def run(self, edits: str, *options: str, **environment: str) -> Done:
        epochs = str(len(edits.split()))
        command = ("run", "target.py", "-e", "a", "--max-epochs", epochs, *options)
        return self.place.autopilot(*command, EDITS=edits, **environment)

    def values(self) -> list[float | None]:
        return [record["metrics"].get("value") for record in self.place.judged("a")]

    def steps(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def edited(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edited:
    log = tmp_path / "steps.log"
    monkeypatch.setenv("EVALUATIONS", str(log))
    place.write("target.py", EDITED)
    place.write("pkg/__init__.py", "")
    place.write("pkg/__main__.py", "from pkg.calc import value\n\nprint(value())\n")
    place.write("pkg/calc.py", "def value():\n    return 0\n")
    place.commit()
    return Edited(place, log)


def test_an_edit_that_cannot_be_imported_costs_its_epoch(edited: Edited) -> None:
    edits = "syntax raise exit segv 2"
    done = edited.run(edits)

    assert done.code == 0, done
    for why in (
        "target.py cannot be imported: SyntaxError: invalid syntax (calc.py, line 1)",
        "target.py cannot be imported: RuntimeError: no luck",
        "the evaluation died: exit code 0 (os._exit) while the target was imported",
        "the evaluation died: signal 11 (SIGSEGV) while the target was imported",
    ):
        assert done.out.count(f"all 2 val items failed with: {why}") == 1, done
    rejected = ["rejected"] * 4
    assert edited.place.verdicts("a") == ["baseline", *rejected, "kept"]
    assert edited.values() == [0, None, None, None, None, 2]
    assert edited.steps() == [f"step {number}" for number in range(1, 6)]
    for level in ("metrics", "full"):
        again = edited.place.autopilot("replay", "a", "--level", level, EDITS=edits)
        assert again.code == 0, again


def test_an_import_that_does_not_end_costs_its_epoch(edited: Edited) -> None:
    done = edited.run("hang 2", "--item-timeout", "2")

    assert done.code == 0, done
    why = r"no result within \d+ s, in <module> \(calc.py:"
    assert re.search(f"all 2 val items failed with: {why}", done.out), done
    assert edited.place.verdicts("a") == ["baseline", "rejected", "kept"]
    assert edited.values() == [0, None, 2]
    assert edited.steps() == ["step 1", "step 2"]


def test_an_epoch_of_several_such_steps_is_run_again_with_the_same_trees(edited: Edited) -> None:
    edited.run("2 3 1 4", "--accumulate", "1", "--max-epochs", "2")
    assert edited.values() == [0, 3, 4]
    again = edited.place.autopilot("replay", "a", "--level", "full", EDITS="2 3 1 4")
    assert again.code == 0, again


def test_an_outage_at_an_import_is_not_the_edits_fault(edited: Edited) -> None:
    edits = "down 6"
    done = edited.run(edits, DOWN="1")
    assert done.code == 1, done
    assert "ConnectionResetError: gone" in done.error
    done = edited.place.autopilot("resume", "a", EDITS=edits)

    assert done.code == 0, done
    assert edited.values() == [0, 5, 6]
    assert edited.steps() == ["step 1", "step 2"]


@pytest.mark.parametrize("options", [(), ("--in-place",)])
def test_a_run_that_was_killed_at_such_an_edit_goes_on(
    edited: Edited, options: tuple[str, ...]
) -> None:
    """Neither what is half done nor what is committed can be imported."""
    edits = "1 syntax raise 2"
    for number, at in enumerate(("syntax", "raise")):
        if number:
            killed = edited.place.autopilot("resume", "a", EDITS=edits, KILL_IN_STEP=at)
        else:
            killed = edited.run(edits, *options, KILL_IN_STEP=at)
        assert killed.code == -signal.SIGKILL, killed
    done = edited.place.autopilot("resume", "a", EDITS=edits)

    assert done.code == 0, done
    assert edited.place.verdicts("a") == ["baseline", "kept", "rejected", "rejected", "kept"]
    assert edited.values() == [0, 1, None, None, 2]
    assert edited.steps() == ["step 1", "step 2", "step 2", "step 3", "step 3", "step 4"]
    edited.place.check_sound()


def test_a_target_that_is_its_own_parameter(edited: Edited) -> None:
    edited.place.change(
        "target.py",
        ("from pkg import calc\n", ""),
        ("class System(", "def best():\n    return 0\n\n\nclass System("),
        ('PathParameter("pkg", "*.py")', "PathParameter(__file__)"),
        ("calc.value()", "best()"),
        (
            '(file,) = self.parameters[0].root.glob("calc.py")',
            "file, text = self.parameters[0].source, self.parameters[0].read_text()",
        ),
        (
            'file.write_text(BODIES.get(what, f"def value():\\n    return {what}\\n"))',
            'old = f"def best():\\n    return {self.best}\\n"\n'
            "        file.write_text(text.replace(old, old.replace(str(self.best), what)))",
        ),
        ("    count = 0\n", "    count = best = 0\n"),
        ('{"count": self.count}', '{"count": self.count, "best": self.count}'),
        ('self.count = state["count"]', 'self.count, self.best = state["count"], state["best"]'),
    )
    done = edited.run("1 2")

    assert done.code == 0, done
    assert edited.values() == [0, 1, 2]


@pytest.mark.parametrize("fresh", ["auto", "never"])
@pytest.mark.parametrize("options", [(), ("--in-place",)])
def test_a_child_process_measures_the_edit(
    edited: Edited, fresh: str, options: tuple[str, ...]
) -> None:
    """Also where it writes bytecode, and all states have the same size and time."""
    edited.place.write(".gitignore", "__pycache__/\n")
    edited.place.change(
        "target.py",
        ("subprocess.run(command, ", "subprocess.run(command, env=environment, "),
        (
            "        command =",
            '        environment = {"PATH": os.environ["PATH"]}\n        command =',
        ),
        (
            '        if os.environ.get("KILL',
            '        os.utime(file, (10**9, 10**9))\n        if os.environ.get("KILL',
        ),
    )
    done = edited.run("1 2 1", "--fresh", fresh, *options, CHILD="1")

    assert done.code == 0, done
    assert edited.values() == [0, 1, 2, 1]


@pytest.mark.parametrize(("fresh", "values"), [("auto", [0, 0, 0]), ("always", [0, 1, 2])])
def test_a_script_that_is_not_known_as_python(
    edited: Edited, fresh: str, values: list[int]
) -> None:
    edited.place.git("mv", "pkg/calc.py", "pkg/calc")
    edited.place.change(
        "target.py",
        (
            "from pkg import calc\n",
            'calc = type(sys)("calc")\nexec(open("pkg/calc").read(), vars(calc))\n',
        ),
        ('"*.py"', '"calc"'),
        ("calc.py", "calc"),
    )
    done = edited.run("1 2", "--fresh", fresh)

    assert done.code == 0, done
    assert edited.values() == values


def compiled(place: Place, text: str, *, flags: int = 0) -> Path:
    """Bytecode of another text that Python takes for that of `pkg/calc.py` as it is."""
    source = place.top / "pkg/calc.py"
    status, code = source.stat(), compile(text, str(source), "exec")
    cached = Path(importlib.util.cache_from_source(source))
    cached.parent.mkdir(exist_ok=True)
    header = struct.pack("<3I", flags, int(status.st_mtime), status.st_size)
    cached.write_bytes(importlib.util.MAGIC_NUMBER + header + marshal.dumps(code))
    return cached


@pytest.mark.parametrize("tracked", [False, True])
def test_bytecode_of_another_state_is_not_used(edited: Edited, tracked: bool) -> None:
    """Neither by the process that measures nor by its child."""
    place = edited.place
    if not tracked:
        place.write(".gitignore", "__pycache__/\n")
        place.commit()
    cached = compiled(place, "def value():\n    return 7\n")
    if tracked:
        place.commit()
    content = cached.read_bytes()
    ran = subprocess.run(
        [sys.executable, "-m", "pkg"], cwd=place.top, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "7\n", "it is not used by anybody"
    done = edited.run("1", "--in-place", CHILD="both")

    assert done.code == 0, done
    assert edited.values() == [0, 1]
    assert not tracked or cached.read_bytes() == content


def test_bytecode_that_is_never_compared_with_its_source_is_refused(edited: Edited) -> None:
    compiled(edited.place, "def value():\n    return 7\n", flags=1)
    edited.place.commit()
    done = edited.run("1 2")

    assert done.code == 1, done
    assert "git tracks bytecode of pkg/calc.py that Python never compares" in done.error
    assert "git rm --cached pkg/__pycache__/calc." in done.hint


AGENT = """\
import json
import re
import sys
from pathlib import Path

sys.stdin.read()
file = Path("pkg/calc.py")
number = int(re.search(r"return (\\d+)", file.read_text())[1])
with open(sys.argv[1], "a") as log:
    log.write(f"agent {number}\\n")
file.write_text(f"def value():\\n    return {number + 1}\\n")
print(json.dumps({"strategy": f"to {number + 1}", "summary": "one more"}))
"""


@pytest.mark.parametrize("options", [(), ("--in-place",)])
def test_an_agent_is_called_once_a_step(
    edited: Edited, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Killed while its edit is measured: what the agent was paid for is taken over."""
    agent = tmp_path / "agent.py"
    agent.write_text(AGENT)
    edited.place.change(
        "target.py",
        ("import AutoPilotModule,", "import AgentOptimizer, AutoPilotModule, CommandAgent,"),
        (
            "return Edit(self.parameters())",
            f"command = [sys.executable, {str(agent)!r}, os.environ['EVALUATIONS']]\n"
            "        return AgentOptimizer(CommandAgent(command), self.parameters())",
        ),
        (
            "        return Datum(items=[Datum(metrics",
            "        marker = f\"{os.environ['EVALUATIONS']}.{value}\"\n"
            "        if value and not self.training and not os.path.exists(marker):\n"
            '            open(marker, "w").close()\n'
            "            os.kill(os.getppid(), 9)\n"
            "            os.kill(os.getpid(), 9)\n"
            "        return Datum(items=[Datum(metrics",
        ),
    )
    done = edited.run("- -", *options)
    for _ in range(2):
        assert done.code == -signal.SIGKILL, done
        done = edited.place.autopilot("resume", "a")

    assert done.code == 0, done
    assert edited.values() == [0, 1, 2]
    assert edited.steps() == ["agent 0", "agent 1"]
    edited.place.check_sound()


OWN = """\
import sys
import threading
import time

from autopilot.cli.main import AutoPilotCLI, main

threading.Thread(target=time.sleep, args=(60,), name="ticker", daemon=True).start()
print("refused with", AutoPilotCLI().run([*sys.argv[1:], "--item-timeout", "5"]))
main()
"""


def test_a_process_with_threads_says_what_does_not_hold(edited: Edited) -> None:
    edited.place.write("own.py", OWN)
    edited.place.commit()
    command = [sys.executable, "own.py", "run", "target.py", "-e", "a", "--max-epochs", "1"]
    done = subprocess.run(
        command,
        cwd=edited.place.top,
        env={**os.environ, "EDITS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "refused with 2\n" in done.stdout, done
    assert "--item-timeout needs a process for the evaluation" in done.stderr
    assert "this process has other threads (ticker)" in done.stderr
    assert "note: this process has other threads (ticker): the run is not supervised" in done.stdout
    assert "note: Python files are edited (pkg): what this process has imported" in done.stdout
    assert edited.values() == [0, 0]


def test_a_kill_while_the_experiment_opens(edited: Edited) -> None:
    """Its branch is there, and nobody has said so yet: the run goes on all the same."""
    edited.place.change(
        "target.py",
        (
            "    def state_dict(self):",
            "    def zero_grad(self):\n"
            '        marker = os.environ["EVALUATIONS"] + ".opened"\n'
            "        if not os.path.exists(marker):\n"
            '            open(marker, "w").close()\n'
            "            os.kill(os.getpid(), 9)\n"
            "        super().zero_grad()\n\n"
            "    def state_dict(self):",
        ),
    )
    done = edited.run("1")

    assert done.code == 0, done
    assert "signal 9 (SIGKILL) while the target was loaded; it goes on" in done.out
    assert edited.values() == [0, 1]
