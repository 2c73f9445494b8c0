"""A run's child processes see the worktree and no variable of git's; what git lacks is named."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checkouts import make_checkout
from forks import fork

from tests.cli.conftest import ROOT

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


# As the editable installs of several build tools: found last, or before all else.
HOOK = """\
import sys
from importlib.util import spec_from_file_location


class Finder:
    known = {{"shout": "{src}/shout/__init__.py", "shout.words": "{src}/shout/words.py"}}

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return spec_from_file_location(name, cls.known[name]) if name in cls.known else None


sys.meta_path.insert({at}, Finder)
"""


def installed(place: Place, tmp_path: Path, kind: str = "path") -> str:
    """The interpreter of a virtual environment in which the package is installed editable."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / kind], check=True)
    (site,) = (tmp_path / kind).glob("lib/python*/site-packages")
    own = [path for path in sys.path if path.endswith("site-packages")]
    (site / "base.pth").write_text("\n".join([*own, str(ROOT)]))
    src = place.top / "src"
    if kind == "path":
        (site / "shout.pth").write_text(f"{src}\n")
    elif kind == "links":
        for name in ("__init__.py", "words.py"):
            place.write(f"build/links/shout/{name}", "").unlink()
            (place.top / "build/links/shout" / name).symlink_to(src / "shout" / name)
        (site / "shout.pth").write_text(f"{place.top}/build/links\n")
    elif kind != "none":
        at = 0 if kind == "first" else 99
        (site / "_shout_hook.py").write_text(HOOK.format(src=src, at=at))
        (site / "_shout.pth").write_text("import _shout_hook\n")
    return str(tmp_path / kind / "bin/python")


def tune(place: Place, measure: str, helpers: str = "") -> None:
    place.write("tune.py", TUNE.format(measure=measure, helpers=helpers))
    place.commit()


def run(place: Place, *options: str, name: str = "t", **environment: str) -> Done:
    """A run of two epochs; it is forked, also with a PYTHONPATH."""
    words = ("run", "tune.py", "-e", name, "--max-epochs", "2", *options)
    return place.finish(fork(words, cwd=place.top, env=os.environ | environment))


def run_by(python: str, place: Place, *command: str, **environment: str) -> Done:
    """The command line in a virtual environment."""
    command = command or ("run", "tune.py", "-e", "t", "--max-epochs", "2")
    started = subprocess.Popen(
        [python, "-P", "-m", "autopilot", *command],
        cwd=place.top,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return place.finish(started)


# The number by each kind of process that imports the package.
KINDS = f"""\
def count(_=0):
    from shout.words import WORDS

    return len(WORDS)


def by_children():
    import multiprocessing
    import pathlib

    import shout.words

    code, python = {CODE}, sys.executable
    found = [shout.words.WORDS.count("!")]
    for options in ([], ["-P"], ["-S"]):
        found.append(int(subprocess.check_output([python, *options, "-c", code], cwd="/")))
    found.append(int(subprocess.check_output([pathlib.Path(python).with_name("shout-count")])))
    if os.environ["KIND"] == "path":
        for kind in ("spawn", "forkserver"):
            with multiprocessing.get_context(kind).Pool(1) as pool:
                found += pool.map(count, [0])
        tested = [python, "-m", "pytest", "-qsp", "no:cacheprovider", "test_words.py"]
        found.append(int(subprocess.check_output(tested, text=True).split()[0]))
    assert len(set(found)) == 1, found
    return found[0]
"""


@pytest.mark.parametrize("kind", ["path", "links", "finder"])
def test_children_import_the_candidate_of_an_editable_install(place, tmp_path, kind):
    place.write(".gitignore", "/build\n")
    place.write(
        "test_words.py", "from shout.words import WORDS\n\ndef test():\n    print(len(WORDS))\n"
    )
    python = installed(place, tmp_path, kind)
    script = Path(python).with_name("shout-count")
    script.write_text(f"#!{python}\nfrom shout.words import WORDS\nprint(len(WORDS))\n")
    script.chmod(0o755)
    tune(place, "by_children()", KINDS)
    done = run_by(python, place, "run", "tune.py", "--max-epochs", "1", KIND=kind)
    assert done.code == 0 and "val accuracy 0.000 -> 0.500" in done.out, done
    assert "note: shout (installed from src) is imported from the run's worktree" in done.out, done
    assert "of your checkout" not in done.out, done
    assert place.read("src/shout/words.py") == 'WORDS = ""\n'


def test_an_import_hook_that_comes_first_is_told_at_the_start(place, tmp_path):
    children = f"subprocess.check_output([sys.executable, '-c', {CODE}])"
    tune(place, f"len(WORDS) + 0 * int({children})", "from shout.words import WORDS")
    done = run_by(installed(place, tmp_path, "first"), place)
    assert done.code == 0 and "val accuracy 0.000 -> 1.000" in done.out, done
    told = "note: shout (installed from src) is imported from the run's worktree, but processes"
    assert done.out.count(told) == 1, done
    told = "python imports shout from src/shout/__init__.py of your checkout"
    assert done.out.count(told) == 1, done


LACKS = "start it with this process's PYTHONPATH"


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        (f"run([sys.executable, '-I', '-c', {CODE}])", "start it without -I or -E"),
        (f"run([sys.executable, '-E', '-c', {CODE}])", "start it without -I or -E"),
        (f"run([sys.executable, '-c', {CODE}], env={{}})", LACKS),
        ("run('cd / && PYTHONPATH=. python -m shout.words', shell=True)", LACKS),
        ("run(['env', '-i', sys.executable, '-m', 'shout.words'])", LACKS),
        ("run([os.path.join(os.path.dirname(sys.executable), 'tool')], env={})", LACKS),
        ("os.system('exec python -I -m shout.words')", "start it without -I or -E"),
        (
            "os.waitpid(os.posix_spawn(sys.executable, ['x', '-I', '-m', 'shout.words'], {}), 0)",
            "start it without -I or -E",
        ),
        ("run([os.environ['OTHER'], '-m', 'shout.words'])", "start autopilot with PYTHONPATH=src"),
    ],
    ids=[
        "-I",
        "-E",
        "env",
        "shell",
        "env -i",
        "script",
        "system",
        "posix_spawn",
        "other interpreter",
    ],
)
def test_a_child_that_imports_the_checkout_is_told_once(place, tmp_path, call, remedy):
    tune(place, f"{IN_FILE} + 0 * bool({call})", "from subprocess import run")
    other = installed(place, tmp_path)
    python = installed(place, tmp_path, "none") if "OTHER" in call else other
    script = Path(python).with_name("tool")
    script.write_text(f"#!{python}\nimport shout.words\n")
    script.chmod(0o755)
    path = f"{Path(python).parent}:{os.environ['PATH']}"
    done = run_by(python, place, PATH=path, OTHER=other)
    assert done.code == 0 and "0.000 -> 1.000" in done.out, done
    told = "imports shout from src/shout/__init__.py of your checkout, not of the run's worktree"
    told = f"{told}: {remedy}"
    assert done.out.count(told) == done.out.count("of your checkout") == 1, done
    # A measuring process looks too.
    for level in ("metrics", "full") if "-I" in call else ():
        done = run_by(python, place, "replay", "t", "--level", level, PATH=path, OTHER=other)
        assert done.code == 0 and done.err.count(told) == done.err.count("note: ") == 1, done


def test_a_program_with_a_path_of_the_checkout_is_told_once(place):
    place.write("bin/tool", "#!/bin/sh\n[ -z $OLDPWD ] && [ $PWD -ef . ]\n").chmod(0o755)
    call = "subprocess.run([os.environ['OWN_TOOL']], check=True)"
    tune(place, f"{IN_FILE} + {call}.returncode + subprocess.call(['tool'])")
    (place.top / "bin/tool").chmod(0o755)
    own = str(place.top / "bin")
    done = run(place, OWN_TOOL=f"{own}/tool", PATH=f"{own}:{os.environ['PATH']}", OLDPWD=own)
    assert done.code == 0 and "0.000 -> 1.000" in done.out, done
    # By its name it is found in the worktree.
    assert done.out.count("tool is started with bin/tool of your checkout") == 1, done
    assert done.out.count("of your checkout") == 1, done


@pytest.mark.parametrize("given", [".", "src", "{top}/src", "/nowhere:src:"])
def test_the_folders_of_a_given_pythonpath_are_those_of_the_worktree(place, given):
    code = "'from words import WORDS; print(len(WORDS))'" if given == "." else CODE
    if given == ".":
        place.write("words.py", "from src.shout.words import WORDS\n")
    tune(place, f"int(subprocess.check_output([sys.executable, '-P', '-c', {code}], cwd='/'))")
    done = run(place, PYTHONPATH=given.format(top=place.top))
    assert done.code == 0 and "val accuracy 0.000 -> 1.000" in done.out, done


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
    python = installed(place, tmp_path)
    done = run_by(python, place)
    assert done.code != 0, done
    assert f"git does not have {name}; bring it along: --link {name}" in done.hint, done
    done = run_by(python, place, "run", "tune.py", "-e", "t", "--max-epochs", "2", "--link", name)
    assert done.code == 0 and "0.000 -> 1.000" in done.out, done


def test_a_compiled_module_that_has_a_fallback_is_named(place, tmp_path):
    compiled = Path(importlib.util.find_spec("_json").origin)
    name = f"src/shout/{compiled.name}"
    place.write(name, compiled.read_bytes())
    # Of another interpreter, and no module.
    place.write("src/shout/_json.cpython-39-x86_64-linux-gnu.so", "")
    place.write("src/shout/_json.txt", "")
    place.write(".gitignore", "_json*\n")
    helpers = "try:\n    from shout import _json\nexcept ImportError:\n    _json = None"
    tune(place, f"{IN_FILE} - (_json is not None)", helpers)
    python = installed(place, tmp_path)
    done = run_by(python, place)
    assert done.code == 0 and "0.000 -> 1.000" in done.out, done
    said = f"note: git does not have {name}; bring it along: --link {name}\n"
    assert said in done.out, done
    place.autopilot("experiment", "delete", "t", "--yes")
    done = run_by(python, place, "run", "tune.py", "-e", "t", "--max-epochs", "2", "--link", name)
    assert done.code == 0 and "git does not have" not in done.out, done


DATA = "Daten für/x y.csv"


@pytest.mark.parametrize(
    ("name", "link", "measure", "helpers"),
    [
        ("src/shout/made/deep.py", "src/shout/made", "len(X)", "from shout.made.deep import X"),
        (DATA, "Daten für", f"len(open('{DATA}').read())", ""),
        (DATA, "Daten für", f"len(subprocess.check_output(['cat', '{DATA}']))", ""),
        (DATA, "Daten für", f"1 - subprocess.call('cat \"{DATA}\"', shell=True)", ""),
        (DATA, "Daten für", "1 - subprocess.call(['sh', 'read.sh'])", ""),
        (DATA, "Daten für", "said(subprocess.getoutput('LC_ALL=C sh read.sh'))", ""),
        (DATA, "Daten für", "tried()", ""),
        ("cache/a.db", "cache", "rows()", ""),
        ("src/data/big", "src/data/big", "len(open('src/data/big').read())", ""),
        (".env", ".env", "variable()", ""),
    ],
    ids=[
        *("package", "open", "child", "shell", "stderr", "feedback", "caught", "sqlite"),
        *("partly tracked", "dotenv"),
    ],
)
def test_what_only_the_checkout_has_is_named_and_can_be_linked(place, name, link, measure, helpers):
    place.write("read.sh", f"cat '{DATA}'\n")
    place.write("src/data/readme", "tracked\n")
    place.write(".gitignore", "/Daten*\nmade\n/cache\nbig\n.env\n")
    place.write(name, "X = 'x'\n")
    if name.endswith(".db"):
        (place.top / name).unlink()
        with contextlib.closing(sqlite3.connect(place.top / name)) as made:
            made.execute("create table t (x)")
    helpers += f"""

def tried():
    try:
        return len(open("{DATA}").read())
    except OSError:
        return 0


def rows():
    import sqlite3

    file = "file:cache/a.db?mode=ro"
    return 1 + len(sqlite3.connect(file, uri=True).execute("select * from t").fetchall())


def variable():
    if os.path.exists(".env"):
        os.environ["X"] = open(".env").read()
    return len(os.environ["X"])


def said(output):
    global feedback
    feedback = output
    return "No such" not in output
"""
    tune(place, f"{IN_FILE} if {measure} else 0", helpers)
    place.change("tune.py", ('feedback="more"', 'feedback=globals().get("feedback", "more")'))
    done = run(place, PYTHONPATH="src")
    told = f"git does not have {shlex.quote(link)}; bring it along: --link {shlex.quote(link)}"
    assert (done.out + done.err).count(told) == 1, done
    if done.code:
        assert done.hint == f"  hint: {told}", done
        place.git("status", "--porcelain")
    done = run(place, "--link", link, name="u", PYTHONPATH="src")
    assert done.code == 0 and "0.000 -> 1.000" in done.out and "--link" not in done.out, done
    assert place.git("status", "--porcelain") == ""


@pytest.mark.parametrize("command", ["preflight", "validate"])
def test_what_only_the_checkout_has_is_named_without_a_run(place, command):
    place.write(".gitignore", "made.csv\n")
    place.write("made.csv", "x\n")
    tune(place, f"{IN_FILE} if len(open('made.csv').read()) else 0", "")
    done = place.autopilot("optimize", command, "tune.py", PYTHONPATH="src")
    told = "git does not have made.csv; bring it along: --link made.csv"
    assert (done.out + done.err).count(told) == 1, done


def test_a_link_of_a_folder_that_git_has_in_part_says_which(place):
    for name in ("data/readme", "data/big file", "data/deep/x"):
        place.write(name, "x\n")
    place.write(".gitignore", "big*\ndeep\n")
    tune(place, IN_FILE)
    done = run(place, "--link", "data")
    assert done.code == 2 and "--link data is tracked by git, but for a part" in done.error, done
    assert done.hint.endswith(": --link 'data/big file' --link data/deep"), done
    done = run(place, "--link", "data/big file", "--link", "data/deep")
    assert done.code == 0 and "0.000 -> 1.000" in done.out, done


@pytest.mark.parametrize("populated", [True, False])
def test_a_submodule_is_named_and_can_be_linked(place, tmp_path, populated):
    lib = make_checkout(tmp_path / "lib", {"lib.py": "OFFSET = 0\n"})
    allow = ["-c", "protocol.file.allow=always"]
    place.git(*allow, "submodule", "add", "--quiet", str(lib), "vendor/mein für lib")
    tune(place, f"{IN_FILE} + lib.OFFSET", "sys.path.insert(0, 'vendor/mein für lib')\nimport lib")
    if not populated:
        place.git("submodule", "deinit", "--quiet", "--force", "vendor/mein für lib")
    done = run(place)
    assert done.code != 0, done
    assert (
        "'vendor/mein für lib' is a submodule" in done.hint
        and "--link 'vendor/mein für lib'" in done.hint
    ), done
    assert ("git submodule update --init 'vendor/mein für lib'" in done.hint) is not populated, done
    if populated:
        done = run(place, "--link", "vendor/mein für lib")
        assert done.code == 0 and "0.000 -> 1.000" in done.out, done
        assert place.git("diff", "--name-only", "main", "autopilot/t") == "src/shout/words.py"
        again = place.autopilot("replay", "t")
        assert again.code == 0, again
        assert (place.top / "vendor/mein für lib/lib.py").read_text() == "OFFSET = 0\n"
        assert place.git("status", "--porcelain") == ""
        place.change("tune.py", ("src/shout/words.py", "vendor/mein für lib/lib.py"))
        done = place.autopilot("run", "tune.py", "-e", "u", "--link", "vendor/mein für lib")
        assert done.code != 0 and "run autopilot in the one that has the files" in done.hint, done
