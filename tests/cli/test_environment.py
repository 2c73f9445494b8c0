"""A run's child processes see the worktree and no variable of git's; what git lacks is named."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Done, Place

# The number of "!" in a package's WORDS, as a measure of the file says; each step adds one.
TUNE = """\
import os
import subprocess
import sys

from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step


class Louder(Optimizer):
    def step(self):
        words = self.parameters[0]
        words.write_text(words.read_text().replace('"\\n', '!"\\n'))
        return Step("add one")


{helpers}


class Counter(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.words = PathParameter("src/shout/words.py")

    def forward(self, batch):
        n = {measure}
        passed = [n >= item.metadata["n"] for item in batch.items]
        return Datum(items=[Datum(success=each, feedback="more") for each in passed])

    def configure_optimizers(self):
        return Louder(self.parameters())

    def train_dataloader(self):
        return DataLoader([{{"n": 9}}])

    def val_dataloader(self):
        return DataLoader([{{"n": n}} for n in (1, 2)], batch_size=2)
"""
IN_FILE = "self.words.read_text().count('!')"
CODE = "'from shout.words import WORDS; print(len(WORDS))'"


@pytest.fixture
def place(place: Place) -> Place:
    place.write("src/shout/__init__.py", "")
    place.write("src/shout/words.py", 'WORDS = ""\n')
    return place


def installed(place: Place, tmp_path: Path) -> dict[str, str]:
    """An editable install: a folder of the interpreter's whose .pth leads to the checkout."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "shout.pth").write_text(f"{place.top / 'src'}\n")
    code = f"import site; site.addsitedir({str(site)!r})"
    (site / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(site)}


def tune(place: Place, measure: str, helpers: str = "") -> None:
    place.write("tune.py", TUNE.format(measure=measure, helpers=helpers))
    place.commit()


def run(place: Place, *options: str, **environment: str) -> Done:
    return place.autopilot(
        "run", "tune.py", "-e", "t", "--max-epochs", "2", *options, **environment
    )


@pytest.mark.parametrize(
    ("measure", "helpers"),
    [
        (f"int(subprocess.check_output([sys.executable, '-c', {CODE}]))", ""),
        (f"int(subprocess.check_output([sys.executable, '-c', {CODE}], cwd='/'))", ""),
        (
            "spawned()",
            "def count(_):\n    from shout.words import WORDS\n    return len(WORDS)\n\n\n"
            "def spawned():\n    import multiprocessing\n"
            "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
            "        return pool.map(count, [0])[0]\n",
        ),
    ],
    ids=["python -c", "elsewhere", "spawn"],
)
def test_a_child_imports_the_candidate_of_an_editable_install(place, tmp_path, measure, helpers):
    tune(place, measure, helpers)
    done = run(place, **installed(place, tmp_path))
    assert done.code == 0, done
    assert "val accuracy 0.000 -> 1.000" in done.out, done
    assert "note: shout (installed from src) is imported from the run's worktree" in done.out, done
    assert place.read("src/shout/words.py") == 'WORDS = ""\n'


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            f"env={{'PATH': os.environ['PATH'], 'PYTHONPATH': os.environ['SITE']}}), '-c', {CODE}",
            "imports shout from your checkout",
        ),
        ("), os.environ['OWN_TOOL']", "is started with tool.py of your checkout"),
    ],
    ids=["without PYTHONPATH", "by its full path"],
)
def test_a_child_that_imports_the_checkout_is_told(place, tmp_path, call, told):
    options, _, command = call.partition("), ")
    place.write("tool.py", "print(0)\n")
    tune(place, f"int(subprocess.check_output([sys.executable, {command}], {options}))")
    install = installed(place, tmp_path)
    site, tool = install["PYTHONPATH"], str(place.top / "tool.py")
    done = run(place, SITE=site, OWN_TOOL=tool, **install)
    assert done.code == 0, done
    assert told in done.out, done


# Each evaluation works in a repository of its own, and so does each step.
FIXTURE = """\
def fixture():
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        variables = subprocess.check_output(["env"], text=True)
        assert "GIT_" not in variables.replace("GIT_COMMITTER_", ""), variables
        for command in (["init", "-q", "."], ["commit", "-qm", "x", "--allow-empty"]):
            who = ["-c", "user.name=F", "-c", "user.email=f@f"]
            subprocess.run(["git", *who, *command], cwd=folder, check=True)
    top = subprocess.check_output(["git", "rev-parse", "--show-toplevel"], text=True).strip()
    assert os.path.samefile(top, "."), top
    return 0
"""


@pytest.mark.parametrize(
    ("hook", "linked", "commit"),
    [
        ("pre-commit", False, ["-a"]),
        ("post-commit", True, []),
        ("prepare-commit-msg", True, ["--only", "more.txt"]),
    ],
)
def test_a_run_in_a_hook_leaves_the_commit_alone(place, tmp_path, hook, linked, commit):
    tune(place, f"fixture() or {IN_FILE}", FIXTURE)
    place.change("tune.py", ("        words = self.", "        fixture()\n        words = self."))
    log, here = tmp_path / "log", place.top
    if linked:
        here = tmp_path / "linked"
        place.git("worktree", "add", "-q", str(here), "-b", "side")
    autopilot = shlex.join([sys.executable, "-P", "-m", "autopilot"])
    calls = (
        "run tune.py -e t --max-epochs 1",
        "resume t --max-epochs 2",
        "replay t --live",
        "-p words run -e words/w --max-epochs 1",
    )
    body = " && ".join(f"{autopilot} {call}" for call in calls)
    project = here / "autopilot/projects/words/cli.py"
    project.parent.mkdir(parents=True)
    project.write_text(
        "import sys; sys.path.insert(0, '.')\nfrom tune import Counter, fixture\n"
        "from autopilot.cli.main import AutoPilotCLI\n\nfixture()\n\n\n"
        "class Words(AutoPilotCLI, project='words'):\n"
        "    def __init__(self):\n        super().__init__()\n        self.module = Counter()\n"
    )
    place.git("add", "autopilot", cwd=here)
    place.git("commit", "--no-verify", "-qm", "project", cwd=here)
    script = place.write(
        f".git/hooks/{hook}",
        f"#!/bin/sh\n[ -e {log} ] && exit 0\nenv | grep ^GIT_ >{log}\n"
        f"({body}) >>{log} 2>&1; echo $? >>{log}\n",
    )
    script.chmod(0o755)
    (here / "more.txt").write_text("x\n")
    place.git("add", "more.txt", cwd=here)
    place.git("commit", "-qm", "mine", *commit, cwd=here)
    said = log.read_text()
    assert "GIT_INDEX_FILE=" in said, said
    assert said.endswith("\n0\n") and "epochs came out as recorded" in said, said
    assert place.git("log", "-1", "--format=%s %an", cwd=here) == "mine Ada Byron"
    assert place.git("show", "--name-only", "--format=", cwd=here) == "more.txt"
    assert place.git("status", "--porcelain", cwd=here) == ""
    assert place.git("status", "--porcelain") == ""
    assert place.git("config", "core.bare") == "false"
    assert place.git("rev-parse", "--abbrev-ref", "HEAD") == "main"
    # As the user's repository has none, and no worktree of a run is left.
    assert place.git("log", "--all", "--format=%an").split("\n").count("F") == 0
    assert place.git("worktree", "list").count("\n") == linked


def test_what_a_caller_set_for_git_stays_with_our_own_calls(place, tmp_path):
    tune(place, f"fixture() or {IN_FILE}", FIXTURE)
    head, index = place.git("rev-parse", "HEAD"), (place.top / ".git/index").read_bytes()
    settings = tmp_path / "settings"
    settings.write_text("[user]\n\tname = Grace\n[safe]\n\tbareRepository = explicit\n")
    place.git("config", "--unset", "user.name")
    inherited = {
        "GIT_DIR": str(place.top / ".git"),
        "GIT_INDEX_FILE": str(place.top / ".git/index"),
        "GIT_WORK_TREE": str(place.top),
        "GIT_REFLOG_ACTION": "rebase",
        "GIT_CONFIG_PARAMETERS": "'core.bare=true'",
        "GIT_CONFIG_GLOBAL": str(settings),
    }
    done = run(place, **inherited)
    assert done.code == 0 and "0.000 -> 1.000" in done.out, done
    assert place.git("rev-parse", "HEAD") == head
    assert (place.top / ".git/index").read_bytes() == index
    assert place.git("log", "-1", "--format=%an", "autopilot/t") == "Grace"
    again = place.autopilot("replay", "t", **inherited)
    assert again.code == 0, again
    assert place.git("worktree", "list").count("\n") == 0


@pytest.mark.parametrize("kind", ["generated", "compiled"])
def test_an_ignored_module_is_named_and_can_be_linked(place, tmp_path, kind):
    # A compiled module of the interpreter's own is one in a package too.
    compiled = Path(importlib.util.find_spec("_json").origin)
    name = f"src/shout/{compiled.name if kind == 'compiled' else '_json.py'}"
    place.write(name, compiled.read_bytes() if kind == "compiled" else "encode_basestring = str\n")
    place.write(".gitignore", "_json*\n")
    offset, helpers = "len(_json.encode_basestring('')) % 2", "from shout import _json"
    tune(place, f"{IN_FILE} + {offset}", helpers)
    install = installed(place, tmp_path)
    done = run(place, **install)
    assert done.code != 0, done
    assert f"git does not have {name}; bring it along: --link {name}" in done.hint, done
    done = run(place, "--link", name, **install)
    assert done.code == 0 and "0.000 -> 1.000" in done.out, done


@pytest.mark.parametrize(
    "call",
    [
        "subprocess.run(['cat', 'data/x'], check=True, capture_output=True)",
        "subprocess.run(['cat', 'data/x'], check=True)",
        "subprocess.run([sys.executable, 'data/x'], check=True, capture_output=True)",
    ],
)
def test_what_a_child_does_not_find_is_named(place, call):
    place.write(".gitignore", "/data\n")
    place.write("data/x", "0\n")
    tune(place, f"{IN_FILE} + ({call}).returncode")
    done = run(place)
    assert done.code != 0, done
    assert done.hint == "  hint: git does not have data; bring it along: --link data", done
    done = run(place, "--link", "data")
    assert done.code == 0 and "0.000 -> 1.000" in done.out, done


@pytest.mark.parametrize("populated", [True, False])
def test_a_submodule_is_named_and_can_be_linked(place, tmp_path, populated):
    lib = tmp_path / "lib"
    lib.mkdir()
    who = ["-c", "user.name=L", "-c", "user.email=l@l"]
    (lib / "lib.py").write_text("OFFSET = 0\n")
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "lib"]):
        subprocess.run(["git", *command], cwd=lib, check=True)
    allow = ["-c", "protocol.file.allow=always"]
    place.git(*allow, "submodule", "add", "--quiet", str(lib), "vendor/lib")
    tune(place, f"{IN_FILE} + lib.OFFSET", "sys.path.insert(0, 'vendor/lib')\nimport lib")
    if not populated:
        place.git("submodule", "deinit", "--quiet", "--force", "vendor/lib")
    done = run(place)
    assert done.code != 0, done
    assert "vendor/lib is a submodule" in done.hint and "--link vendor/lib" in done.hint, done
    assert ("git submodule update --init vendor/lib" in done.hint) is not populated, done
    if populated:
        done = run(place, "--link", "vendor/lib")
        assert done.code == 0 and "0.000 -> 1.000" in done.out, done
        assert place.git("diff", "--name-only", "main", "autopilot/t") == "src/shout/words.py"
        again = place.autopilot("replay", "t")
        assert again.code == 0, again
        assert (place.top / "vendor/lib/lib.py").read_text() == "OFFSET = 0\n"
        assert place.git("status", "--porcelain") == ""
