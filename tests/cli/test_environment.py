"""A run's child processes see the worktree and no variable of git's; what git lacks is named."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checkouts import make_checkout
from forks import fork
from waiting import wait_for

from autopilot.git.repository import Repository
from autopilot.sandbox.audit_hooks import Inputs
from autopilot.sandbox.children import Children
from autopilot.sandbox.imports import Redirection
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


def interpreter(place: Place, tmp_path: Path, kind: str) -> str:
    """As `installed`, for a process that needs none of our packages."""
    python = tmp_path / kind / "bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(os.path.realpath(sys.executable))
    (tmp_path / kind / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = tmp_path / kind / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    if kind == "path":
        (site / "shout.pth").write_text(f"{place.top}/src\n")
    return str(python)


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
    """A run of two epochs."""
    return forked(place, "run", "tune.py", "-e", name, "--max-epochs", "2", *options, **environment)


def forked(place: Place, *command: str, **environment: str) -> Done:
    """A command that is forked, also with a PYTHONPATH."""
    return place.finish(fork(command, cwd=place.top, env=os.environ | environment))


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
    # Only a candidate differs from the checkout.
    tune(place, f"{IN_FILE} and by_children()", KINDS)
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
def test_a_child_that_imports_the_checkout_is_told_with_its_remedy(
    place, tmp_path, monkeypatch, call, remedy
):
    """The calls are made here, heard by the hook that a run listens with."""
    place.commit()
    here = shutil.copytree(place.top, tmp_path / "here")
    python, other = interpreter(place, tmp_path, "none"), interpreter(place, tmp_path, "path")
    # Of an environment that the package is not installed in, a run redirects nothing.
    redirected = () if "OTHER" in call else (Redirection(f"{here}/src", "src", ("shout",)),)
    python = python if "OTHER" in call else other
    script = Path(python).with_name("tool")
    script.write_text(f"#!{python}\nimport shout.words\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", python)
    monkeypatch.setenv("PATH", f"{Path(python).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", ":".join(each.folder for each in redirected))
    monkeypatch.setenv("OTHER", other)
    monkeypatch.chdir(here)
    children = Children(place.top, here, redirected)
    repo = Repository.discover(here)
    inputs = Inputs(repo, repo.head_commit(), [], in_place=False)
    inputs.programs = children.hear
    inputs.open()
    try:
        for _ in range(2):
            result = eval(call, {"run": subprocess.run, "os": os, "sys": sys})
            assert getattr(result, "returncode", 0) == 0
        with inputs.deaf():
            said = children.strays()
    finally:
        inputs.close()
    assert len(said) == 1 and said[0].endswith(
        f"imports shout from src/shout/__init__.py of your checkout, not of the run's worktree: "
        f"{remedy}"
    ), said


def test_a_child_that_imports_the_checkout_is_told_once(place, tmp_path):
    """By a run, and by a process that measures."""
    calls = f"run([PYTHON, '-I', '-c', {CODE}]), run([PYTHON, '-c', {CODE}], env={{}})"
    helpers = "from subprocess import run\n\nPYTHON = os.environ['PYTHON']"
    tune(place, f"{IN_FILE} + 0 * bool(({calls}))", helpers)
    variables = {"PYTHONPATH": f"{place.top}/src"}
    variables["PYTHON"] = interpreter(place, tmp_path, "path")
    told = [
        f"imports shout from src/shout/__init__.py of your checkout, not of the run's worktree: {x}"
        for x in ("start it without -I or -E", LACKS)
    ]
    done = run(place, "--max-epochs", "1", **variables)
    assert done.code == 0 and "0.000 -> 0.500" in done.out, done
    assert [done.out.count(each) for each in told] == [1, 1], done
    assert done.out.count("of your checkout") == 2, done
    for level in ("metrics", "full"):
        done = forked(place, "replay", "t", "--level", level, **variables)
        assert done.code == 0 and done.err.count("note: ") == 2, done
        assert [done.err.count(each) for each in told] == [1, 1], done


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


RUN_IN_HOOK = "run tune.py -e t --max-epochs 1"


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
    calls = (
        "resume t --max-epochs 2",
        "replay t --live",
        "-p words run -e words/w --max-epochs 1",
    )
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
    # The hook makes a run itself, and waits for commands in its environment.
    command = shlex.join([sys.executable, "-P", "-m", "autopilot", *RUN_IN_HOOK.split()])
    ended, variables = tmp_path / "ended", tmp_path / "variables"
    script = place.write(
        f".git/hooks/{hook}",
        f"#!/bin/sh\n[ -e {log} ] && exit 0\n"
        f"{command if hook == 'pre-commit' else ''} >{log} 2>&1; echo $? >>{log}\n"
        f"env -0 >{variables}.new; pwd >>{log}; mv {variables}.new {variables}; cat {ended}\n",
    )
    script.chmod(0o755)
    os.mkfifo(ended)
    (here / "more.txt").write_text("x\n")
    place.git("add", "more.txt", cwd=here)
    with subprocess.Popen(["git", "commit", "-qm", "mine", *commit], cwd=here) as committing:
        try:
            wait_for(lambda: variables.exists() or committing.poll() is not None)
            env = dict(each.split("=", 1) for each in variables.read_text().split("\0") if each)
            assert "GIT_INDEX_FILE" in env, env
            code, folder = log.read_text().splitlines()[-2:]
            assert code == "0", log.read_text()
            first = () if hook == "pre-commit" else (RUN_IN_HOOK,)
            for call in (*first, *calls):
                done = place.finish(fork(shlex.split(call), cwd=Path(folder), env=env))
                assert done.code == 0, done
                assert "replay" not in call or "epochs came out as recorded" in done.out, done
        finally:
            if committing.poll() is None:
                ended.write_text("")
    assert committing.returncode == 0
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
def test_an_ignored_module_is_named_and_can_be_linked(place, kind):
    # A compiled module of the interpreter's own is one in a package too.
    compiled = Path(importlib.util.find_spec("_json").origin)
    name = f"src/shout/{compiled.name if kind == 'compiled' else '_json.py'}"
    place.write(name, compiled.read_bytes() if kind == "compiled" else "encode_basestring = str\n")
    place.write(".gitignore", "_json*\n")
    offset, helpers = "len(_json.encode_basestring('')) % 2", "from shout import _json"
    tune(place, f"{IN_FILE} + {offset}", helpers)
    done = run(place, PYTHONPATH="src")
    assert done.code != 0, done
    assert f"git does not have {name}; bring it along: --link {name}" in done.hint, done
    done = run(place, "--link", name, PYTHONPATH="src")
    assert done.code == 0 and "0.000 -> 1.000" in done.out, done


def test_a_compiled_module_that_has_a_fallback_is_named(place):
    compiled = Path(importlib.util.find_spec("_json").origin)
    name = f"src/shout/{compiled.name}"
    place.write(name, compiled.read_bytes())
    # Of another interpreter, and no module.
    place.write("src/shout/_json.cpython-39-x86_64-linux-gnu.so", "")
    place.write("src/shout/_json.txt", "")
    place.write(".gitignore", "_json*\n")
    helpers = "try:\n    from shout import _json\nexcept ImportError:\n    _json = None"
    tune(place, f"{IN_FILE} - (_json is not None)", helpers)
    done = run(place, PYTHONPATH="src")
    assert done.code == 0 and "0.000 -> 1.000" in done.out, done
    said = f"note: git does not have {name}; bring it along: --link {name}\n"
    assert said in done.out, done
    done = run(place, "--link", name, name="u", PYTHONPATH="src")
    assert done.code == 0 and "git does not have" not in done.out, done


DATA = "Daten für/x y.csv"


@pytest.mark.parametrize(
    ("name", "link", "measures"),
    [
        ("src/shout/made/deep.py", "src/shout/made", {"package": "len(X)"}),
        (
            DATA,
            "Daten für",
            {
                "open": f"len(open('{DATA}').read())",
                "child": f"len(subprocess.check_output(['cat', '{DATA}']))",
                "shell": f"1 - subprocess.call('cat \"{DATA}\"', shell=True)",
                "stderr": "1 - subprocess.call(['sh', 'read.sh'])",
                "feedback": "said(subprocess.getoutput('LC_ALL=C sh read.sh'))",
                "caught": "tried()",
            },
        ),
        ("cache/a.db", "cache", {"sqlite": "rows()"}),
        ("src/data/big", "src/data/big", {"partly": "len(open('src/data/big').read())"}),
        (".env", ".env", {"dotenv": "variable()"}),
    ],
    ids=["package", "data", "sqlite", "partly tracked", "dotenv"],
)
def test_what_only_the_checkout_has_is_named_and_can_be_linked(place, name, link, measures):
    place.write("read.sh", f"cat '{DATA}'\n")
    place.write("src/data/readme", "tracked\n")
    place.write(".gitignore", "/Daten*\nmade\n/cache\nbig\n.env\n")
    place.write(name, "X = 'x'\n")
    if name.endswith(".db"):
        (place.top / name).unlink()
        with contextlib.closing(sqlite3.connect(place.top / name)) as made:
            made.execute("create table t (x)")
    # Imported with the target.
    helpers = "from shout.made.deep import X\n" if "package" in measures else ""
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


def measure(how):
    return {" or ".join(f"how == {how!r} and {each}" for how, each in measures.items())}
"""
    asked = "all([measure(how) for how in os.environ['HOW'].split()])"
    tune(place, f"{IN_FILE} if {asked} else 0", helpers)
    place.change("tune.py", ('feedback="more"', 'feedback=globals().get("feedback", "more")'))
    told = f"git does not have {shlex.quote(link)}; bring it along: --link {shlex.quote(link)}"
    for how in measures:
        done = run(place, "--max-epochs", "1", name=how, PYTHONPATH="src", HOW=how)
        assert (done.out + done.err).count(told) == 1, done
        assert not done.code or done.hint == f"  hint: {told}", done
    every = " ".join(measures)
    done = run(place, "--link", link, name="linked", PYTHONPATH="src", HOW=every)
    assert done.code == 0 and "0.000 -> 1.000" in done.out and "--link" not in done.out, done
    assert place.git("status", "--porcelain") == ""


@pytest.mark.parametrize("command", ["preflight", "validate"])
def test_what_only_the_checkout_has_is_named_without_a_run(place, command):
    place.write(".gitignore", "made.csv\n")
    place.write("made.csv", "x\n")
    tune(place, f"{IN_FILE} if len(open('made.csv').read()) else 0", "")
    done = forked(place, "optimize", command, "tune.py", PYTHONPATH="src")
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
