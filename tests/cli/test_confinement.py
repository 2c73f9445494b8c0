"""Agents that do more than they may: whole runs with a hostile program in the place of one."""

from __future__ import annotations

import json
import shlex
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Done, Place

# Passes an item more with each "!" in prompt.md; who passes is for evaluator.py and cases.json.
TARGET = """\
import json
import os
import shlex

from autopilot import (
    AgentOptimizer, AutoPilotModule, CommandAgent, DataLoader, Datum, NoViolations, PathParameter,
    Policy,
)
from checks.evaluator import passes


class Prompt(AutoPilotModule):
    def __init__(self, strict: bool = False):
        super().__init__()
        self.prompt = PathParameter("prompt.md")
        self.rules = PathParameter("rules", "**/*.md")
        self.strict = strict

    def forward(self, batch):
        text = self.prompt.read_text()
        with open("cases.json") as file:
            needed = json.load(file)
        extra = int(open("data/extra.txt").read()) if os.path.exists("data/extra.txt") else 0
        return Datum(items=[
            Datum(success=passes(text, needed[item.id] + extra), feedback="louder")
            for item in batch.items
        ])

    def configure_optimizers(self):
        limit = float(os.environ.get("TIMEOUT", 30))
        agent = CommandAgent(shlex.split(os.environ["AGENT"]), timeout_s=limit)
        return AgentOptimizer(agent, self.parameters(), max_retries=0)

    def configure_policy(self):
        return Policy([NoViolations()]) if self.strict else None

    def train_dataloader(self):
        return DataLoader([{"id": str(n)} for n in range(1, 5)], 4)

    val_dataloader = train_dataloader
"""
AGENT = """\
import hashlib, json, os, pathlib, shutil, signal, subprocess, sys, time
count = pathlib.Path({log!r})
count.open("a").write("x")
step, repo = len(count.read_text()), pathlib.Path({repo!r})
def sh(line, check=False):
    return subprocess.run(line, shell=True, check=check, capture_output=True, text=True).stdout
def edit():
    with open("prompt.md", "a") as file:
        file.write("!")
def look():
    found = {{}}
    for here, folders, files in os.walk("."):
        for name in folders + files:
            path = pathlib.Path(here, name)
            if name.endswith(".md") or "/.git" in f"/{{path}}/".replace("/.gitignore/", ""):
                continue
            mode = oct(path.lstat().st_mode)
            what = os.readlink(path) if path.is_symlink() else ""
            if path.is_file():
                what += hashlib.sha1(path.read_bytes()).hexdigest() + str(path.stat().st_mtime_ns)
            found[str(path)] = mode + " " + what
    with open(f"{{count}}.seen", "a") as file:
        print(json.dumps(found), file=file)
look()
{body}
said = dict(strategy=f"louder {{step}}", summary=f"be louder {{step}}", rationale="it helps")
print(json.dumps(said))
"""


@pytest.fixture
def place(place: Place) -> Place:
    place.write("prompt.md", "hello\n")
    place.write("rules/a.md", "a\n")
    place.write("checks/__init__.py", "")
    place.write(
        "checks/evaluator.py", "def passes(text, needed):\n    return text.count('!') >= needed\n"
    )
    place.write("cases.json", json.dumps({str(n): n for n in range(1, 5)}))
    place.write("tool.sh", "echo tool\n").chmod(0o755)
    place.write(".gitignore", "data/\n*.log\n__pycache__/\n")
    place.write("prompt.py", TARGET)
    place.commit("target")
    return place


class Attack:
    """A run with an agent of a test's own."""

    def __init__(self, place: Place, tmp_path: Path) -> None:
        self.place, self.log, self.script = place, tmp_path / "calls", tmp_path / "agent.py"

    def write(self, body: str) -> str:
        self.script.write_text(AGENT.format(log=str(self.log), repo=str(self.place.top), body=body))
        return shlex.join([sys.executable, "-B", str(self.script)])

    def run(self, body: str, *options: str, epochs: int = 1, **environment: str) -> Done:
        limits = ("--max-epochs", str(epochs))
        return self.place.autopilot(
            "run", "prompt.py", "-e", "a", *limits, *options, AGENT=self.write(body), **environment
        )

    def resume(self, body: str) -> Done:
        return self.place.autopilot("resume", "a", AGENT=self.write(body))

    def violations(self, epoch: int = 1) -> list[str]:
        return [
            sentence
            for record in self.place.notes("a", "gradients")
            if record["epoch"] == epoch
            for sentence in record.get("violations", [])
        ]

    def seen(self) -> list[dict[str, str]]:
        """All but the parameters as each step found it."""
        lines = Path(f"{self.log}.seen").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def scores(self) -> list[float]:
        return [record["metrics"]["accuracy"] for record in self.place.judged("a")]


@pytest.fixture
def attack(place: Place, tmp_path: Path) -> Attack:
    return Attack(place, tmp_path)


def test_an_honest_agent_has_no_violations(attack: Attack) -> None:
    with attack.place.untouched():
        done = attack.run("edit(); step == 1 and os.rename('rules/a.md', 'rules/b.md')", epochs=2)
    assert done.code == 0, done
    assert attack.violations() == [] == attack.violations(2)
    assert attack.scores() == [0, 0.25, 0.5]
    files = attack.place.git("ls-tree", "-r", "--name-only", "autopilot/a", "rules")
    assert files == "rules/b.md"
    assert "Autopilot-Violations" not in attack.place.git("log", "autopilot/a")


def test_the_worktree_is_put_back(attack: Attack, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    body = f"""
edit()
if step == 1:
    sh("sed -i 's/>= needed/>= 0/' checks/evaluator.py")
    pathlib.Path("cases.json").write_text("{{}}")
    os.chmod("tool.sh", 0o644)
    os.remove("checks/__init__.py")
    os.symlink({str(tmp_path / "elsewhere")!r}, "checks/__init__.py")
    pathlib.Path("json.py").write_text("def load(file): return {{}}")
    pathlib.Path("new folder/ö").mkdir(parents=True)
    pathlib.Path("new folder/ö/x y.txt").write_text("x")
    pathlib.Path("new folder/ö/line\\nbreak").write_text("x")
    os.mkdir("empty")
    os.mkfifo("rules/pipe.md")
    # What git is told to ignore is put back all the same, and told.
    with open(".gitignore", "a") as file:
        file.write("sneaky*")
    pathlib.Path("sneaky.py").write_text("x")
    # Caches are, too, and nobody is told.
    pathlib.Path("agent.log").write_text("x")
    os.makedirs("checks/__pycache__")
    pathlib.Path("checks/__pycache__/evaluator.cpython-311.pyc").write_text("poison")
    sh("git init rules/sub; touch rules/sub/a.md")
    # Hides from whoever lists files, and locks a folder.
    pathlib.Path("rules/.autopilot-tmp-x.md").write_text("x")
    os.mkdir("locked"); pathlib.Path("locked/x").write_text("x"); os.chmod("locked", 0)
if step == 2:
    # Only touched, or written again as it was.
    os.utime("cases.json"); shutil.copy("tool.sh", "t"); os.replace("t", "tool.sh")
if step == 3:
    shutil.rmtree("checks"); os.symlink("/etc", "checks"); os.remove("tool.sh"); os.mkdir("tool.sh")
    pathlib.Path("tool.sh/x").write_text("x"); os.chmod("rules", 0o500)
"""
    with attack.place.untouched():
        done = attack.run(body, "-H", "strict=true", epochs=4)
    assert done.code == 0, done
    first, *others = attack.seen()
    assert first["tool.sh"].startswith("0o100755 ")
    assert others == [first] * 3
    assert sorted(x for x in attack.violations(1) if "rules/sub" not in x) == [
        "changed .gitignore: put back",
        "changed cases.json: put back",
        "changed checks/evaluator.py: put back",
        "changed the mode of tool.sh: put back",
        "made empty/ (0 files): removed",
        "made json.py: removed",
        "made locked/ (1 file): removed",
        "made new folder/ (2 files): removed",
        "made rules/.autopilot-tmp-x.md: removed",
        "made rules/pipe.md: removed",
        "made sneaky.py: removed",
        f"replaced checks/__init__.py by a link to {tmp_path}/elsewhere: put back",
    ]
    assert [x for x in attack.violations(1) if "rules/sub/.git/" in x]
    assert attack.violations(2) == []
    assert attack.violations(3) == [
        "replaced checks/ by a link to /etc: put back",
        "replaced tool.sh by a folder: put back",
        "changed the mode of rules/: put back",
    ]
    assert attack.scores() == [0, 0.25, 0.25, 0.5, 0.25], "3 was rejected, 4 is 3 again"


def test_parameters_stay_files_of_their_own(attack: Attack, tmp_path: Path) -> None:
    """Links out of a parameter are undone; nothing is written or deleted behind them."""
    valuables = tmp_path / "valuables"
    valuables.mkdir()
    (valuables / "x.md").write_text("x")
    body = f"""
edit()
if step == 1:
    os.remove("prompt.md"); os.symlink({str(valuables / "x.md")!r}, "prompt.md")
    shutil.rmtree("rules"); os.symlink({str(valuables)!r}, "rules")
if step == 2:
    os.symlink("../checks/evaluator.py", "rules/link.md"); os.symlink("a.md", "rules/fine.md")
    os.symlink("/", "rules/folder")
    os.remove("rules/a.md"); os.mkfifo("rules/a.md")
if step == 3:
    os.remove("prompt.md"); os.mkdir("prompt.md"); pathlib.Path("prompt.md/x").write_text("x")
if step == 4:
    shutil.rmtree("rules"); os.makedirs("rules/new"); pathlib.Path("rules/new/b.md").write_text("b")
"""
    with attack.place.untouched():
        done = attack.run(body, epochs=4)
    assert done.code == 0, done
    assert {path.name: path.read_text() for path in valuables.iterdir()} == {"x.md": "x"}
    assert sorted(attack.violations(1)) == [
        f"replaced prompt.md by a link to {valuables}/x.md: put back",
        f"replaced rules/ by a link to {valuables}: put back",
    ]
    assert sorted(attack.violations(2)) == [
        "made rules/folder, a link to /: removed",
        "made rules/link.md, a link to ../checks/evaluator.py: removed",
        "replaced rules/a.md by something else: put back",
    ]
    assert sorted(attack.violations(3)) == ["replaced prompt.md by a folder: put back"]
    assert attack.violations(4) == []
    files = attack.place.git("ls-tree", "-r", "--name-only", "autopilot/a").splitlines()
    assert [name for name in files if name.endswith(".md")] == ["prompt.md", "rules/new/b.md"]


def test_git_commands_reach_a_copy_only(attack: Attack) -> None:
    place = attack.place
    place.git("branch", "other")
    body = """
edit()
if step == 1:
    pathlib.Path("cases.json").write_text("{}")
    log = sh("git log --format=%s; git diff --name-only; git rev-parse --show-toplevel")
    pathlib.Path(f"{count}.log").write_text(log)
    sh("git add -A && git commit --no-verify -m evil", check=True)
    sh("git config core.hooksPath /tmp/evil; git config --worktree x.y z; git branch evil")
    sh("git update-ref refs/heads/main HEAD~0; git branch -f other HEAD; git tag evil")
    sh("git update-ref -d refs/heads/autopilot/a; git symbolic-ref HEAD refs/heads/main")
    sh("git update-index --assume-unchanged checks/evaluator.py; echo x >> checks/evaluator.py")
    folder = pathlib.Path(sh("git rev-parse --git-common-dir").strip())
    (folder / "hooks").mkdir(exist_ok=True); (folder / "hooks/pre-commit").write_text("evil")
    (folder / "info/exclude").write_text("new.py"); pathlib.Path("new.py").write_text("x")
if step == 2:
    os.remove(".git"); sh("git init .; git add -A; git commit -m evil")
if step == 3:
    sh("git status; git log")
if step == 4:
    shutil.rmtree(os.getcwd())
"""
    config, refs = place.read(".git/config"), place.git("for-each-ref")
    with place.untouched():
        done = attack.run(body, epochs=5)
    assert done.code == 0, done
    log = Path(f"{attack.log}.log").read_text().split()
    assert log[:3] == ["target", "base", "cases.json"], "history and diff are there"
    assert place.read(".git/config") == config
    others = [r for r in place.git("for-each-ref").splitlines() if "autopilot/a" not in r]
    assert others == refs.splitlines()
    copy = "of the git folder: only in a copy, which is gone"
    assert {
        *(f"wrote {name} {copy}" for name in ("HEAD", "config", "hooks/pre-commit", "index")),
        *(f"wrote refs/{name} {copy}" for name in ("heads/evil", "tags/evil", "heads/other")),
        "made new.py: removed",
        "changed cases.json: put back",
        "changed checks/evaluator.py: put back",
    } <= {*attack.violations(1), *(x.replace("the index", "index") for x in attack.violations(1))}
    assert "replaced .git by a folder: put back" in attack.violations(2)
    assert attack.violations(3) == []
    # It took away all that there is, itself included.
    assert {"removed cases.json: put back", "changed .git: put back"} <= {*attack.violations(4)}
    assert place.verdicts("a") == ["baseline", "kept", "kept", "kept", "rejected", "kept"]
    assert attack.scores() == [0, 0.25, 0.5, 0.75, 0, 1]
    place.check_sound()


def test_the_users_git_folder_is_put_back(attack: Attack) -> None:
    """By its full path; what the user does meanwhile stays."""
    place = attack.place
    place.git("branch", "other")
    place.git("branch", "raw")
    place.git("tag", "mine")
    body = """
edit()
git = repo / ".git"
(git / "hooks").mkdir(exist_ok=True)
(git / "hooks/post-commit").write_text("evil"); (git / "info/exclude").write_text("*")
sh(f"git -C '{repo}' config core.fsmonitor evil; git -C '{repo}' branch -f other HEAD~1")
sh(f"git -C '{repo}' update-ref refs/heads/autopilot/a main")
sh(f"git -C '{repo}' update-ref -d refs/tags/autopilot/a/epoch-0000")
(git / "refs/heads/raw").write_text("0" * 39 + "1")
(git / "worktrees/a/HEAD").write_text("ref: refs/heads/main")
shutil.rmtree(git / "worktrees/a/logs", ignore_errors=True)
user = "env -u GIT_COMMITTER_NAME -u GIT_COMMITTER_EMAIL git -C"
sh(f"{user} '{repo}' commit --no-verify --allow-empty -m mine; {user} '{repo}' switch -c topic")
sh(f"{user} '{repo}' tag later; {user} '{repo}' branch --set-upstream-to=main topic")
"""
    before = place.read(".git/config")
    other = place.git("rev-parse", "other")
    done = attack.run(body)
    assert done.code == 0, done
    assert place.git("log", "-1", "--format=%s", "topic") == "mine"
    assert place.git("symbolic-ref", "HEAD") == "refs/heads/topic"
    assert place.git("rev-parse", "later") == place.git("rev-parse", "topic")
    assert place.git("rev-parse", "other") == place.git("rev-parse", "raw") == other
    assert not (place.top / ".git/hooks/post-commit").exists()
    assert "*" not in place.read(".git/info/exclude").splitlines()
    assert place.read(".git/config") == before
    aside = place.read(".git/autopilot/undone/a/config")
    assert "evil" in aside and "topic" in aside, "nothing of the user's is lost"
    assert place.tags("a") == [0, 1]
    told = attack.violations()
    kept = "(it is in .git/autopilot/undone/a)"
    assert {
        f"changed config of the git folder: put back {kept}",
        f"made hooks/post-commit of the git folder: removed {kept}",
        f"changed info/exclude of the git folder: put back {kept}",
        f"changed worktrees/a/HEAD of the git folder: put back {kept}",
        "moved refs/heads/autopilot/a: put back",
        "moved refs/heads/other: put back",
        "moved refs/heads/raw: put back",
        "removed refs/tags/autopilot/a/epoch-0000: put back",
    } <= {*told}
    assert not any("main" in x or "topic" in x or "later" in x for x in told)
    place.check_sound()


def is_gone(pid: int) -> bool:
    """Whether a process has ended; who has nobody to wait for him stays in the list."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_runs_own_notes_are_put_back(attack: Attack) -> None:
    """Results and model replies stand there until the epoch is judged."""
    body = """
edit()
own = repo / ".git/autopilot/a.progress.jsonl"
if step == 1: own.write_text(own.read_text().replace("false", "true") + "more\\n")
if step == 2: shutil.rmtree(own.parent)
"""
    done = attack.run(body, epochs=3)
    assert done.code == 0, done
    told = ["changed the run's own notes of this epoch: put back"]
    assert [attack.violations(n) for n in (1, 2, 3)] == [told, told, []]
    assert attack.scores() == [0, 0.25, 0.5, 0.75]
    calls = [record["epoch"] for record in attack.place.notes("a", "llm")]
    assert sorted(calls) == [1, 2, 3], "no call that was made is lost"


@pytest.mark.parametrize("line", ["setsid", "env -i setsid", "env -i setsid env -i setsid"])
def test_what_an_agent_leaves_running_is_ended(attack: Attack, tmp_path: Path, line: str) -> None:
    pid = tmp_path / "pid"
    command = [*line.split(), "sh", "-c", f"echo $$ > {shlex.quote(str(pid))}; sleep 60 & wait"]
    body = f"""
edit()
subprocess.Popen({command!r}, start_new_session=True,
    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
while not os.path.exists({str(pid)!r}) or not open({str(pid)!r}).read(): time.sleep(0.01)
"""
    assert attack.run(body).code == 0
    assert is_gone(int(pid.read_text()))


def test_an_agent_that_fails_or_hangs_is_put_back_too(attack: Attack) -> None:
    attack.place.write("README.md", "it\n")
    attack.place.commit("more")
    body = """
edit()
pathlib.Path("cases.json").write_text("{}"); pathlib.Path("README.md").write_text("x")
pathlib.Path("a.py").write_text("x")
if step == 1:
    sys.exit("no luck")
if step == 2:
    time.sleep(60)
"""
    with attack.place.untouched():
        done = attack.run(body, epochs=3, TIMEOUT="1")
    assert done.code == 0, done
    assert attack.violations(1) == [
        "changed cases.json: put back",  # evaluations read it
        "changed README.md: put back",
        "made a.py: removed",
    ]
    assert attack.violations(2) == attack.violations(1) == attack.violations(3)
    assert attack.seen()[1:] == attack.seen()[:1] * 2
    # It is said while it runs, on the commit, by show and by log.
    tried = "outside of the parameters: changed cases.json: put back (and 2 more)"
    assert done.out.count(tried) == 3
    message = attack.place.git("log", "-1", "--format=%B", "autopilot/a")
    assert message.splitlines()[-1] == "Autopilot-Violations: 3"
    assert "- changed cases.json: put back\n- changed README.md: put back\n- made a.py" in message
    for epoch in ("1", "3"):
        shown = attack.place.run("show", epoch).out
        assert "tried outside of the parameters:\n    changed cases.json: put back\n" in shown
    (step,) = attack.place.run("show", "2", "--json").document["steps"]
    assert (step["commit"], step["violations"]) == (None, attack.violations(2))
    logged = attack.place.run("log", "--json").document["log"]
    assert [epoch["violations"] for epoch in logged] == [[], *[attack.violations(1)] * 3]


def test_a_policy_rejects_for_what_was_tried(attack: Attack) -> None:
    body = "edit(); edit() if step == 2 else pathlib.Path('new.py').write_text('x')"
    done = attack.run(body, "-H", "strict=true", epochs=2)
    assert done.code == 0, done
    assert attack.place.verdicts("a") == ["baseline", "rejected", "kept"]
    reasons = attack.place.judged("a")[1]["reasons"]
    assert reasons == ["outside of the parameters: made new.py: removed"]


def test_small_links_are_copies_to_an_agent(attack: Attack) -> None:
    place = attack.place
    place.write("data/extra.txt", "0\n")
    place.write("data/more/ü x.bin", b"\0")
    place.write(".env", "KEY=1\n")
    body = """
edit()
if step == 3:
    (repo / "data/extra.txt").write_text("-9")
pathlib.Path("data/extra.txt").write_text("-9"); os.remove("data/more/ü x.bin")
pathlib.Path("data/new").write_text("x"); os.remove(".env"); os.symlink("/etc/passwd", ".env")
"""
    with place.untouched():
        done = attack.run(body, "--link", "data", "--link", ".env", epochs=2)
    assert done.code == 0, done
    assert sorted(attack.violations(2)) == [
        "changed data/extra.txt: put back",
        "made data/new: removed",
        "removed data/more/ü x.bin: put back",
        "replaced .env by a link to /etc/passwd: put back",
    ]
    assert attack.scores() == [0, 0.25, 0.5]
    assert attack.seen()[0] == attack.seen()[1]
    # By its full path it can be reached: then the run stops.
    done = place.autopilot("resume", "a", "--max-epochs", "3", AGENT=attack.write(body))
    assert done.code == 1
    assert f"{place.top}/data/extra.txt was changed" in done.error
    assert place.verdicts("a") == ["baseline", "kept", "kept"]


def test_a_change_of_a_large_link_stops_the_run(attack: Attack) -> None:
    place = attack.place
    place.write("data/extra.txt", "0\n")
    with (place.top / "data/large.bin").open("wb") as file:
        file.truncate(40 * 2**20)
    body = "edit(); pathlib.Path('data/extra.txt').write_text('0\\n'); step == 2 and "
    body += "pathlib.Path('data/extra.txt').write_text('-9\\n')"
    done = attack.run(body, "--link", "data", epochs=3)
    assert done.code == 1
    assert f"{place.top}/data/extra.txt was changed" in done.error
    assert "put it back" in done.hint and "autopilot resume a" in done.hint
    assert place.verdicts("a") == ["baseline", "kept"]
    assert place.read("data/extra.txt") == "-9\n", "it is left as it is"
    again = attack.resume("edit()")
    assert again.code == 1
    assert "data/extra.txt has changed since the baseline" in again.error
    place.write("data/extra.txt", "0\n")
    assert attack.resume("edit()").code == 0
    assert attack.scores() == [0, 0.25, 0.5, 0.75]


def test_a_kill_in_the_middle_of_a_step(attack: Attack) -> None:
    """The worktree of before is not trusted: the resumed run has one of its own."""
    place = attack.place
    ready = Path(f"{attack.log}.ready")
    agent = attack.write(
        "edit()\n"
        "pathlib.Path('cases.json').write_text('{}')\n"
        "pathlib.Path('json.py').write_text('raise SystemExit')\n"
        f"pathlib.Path({str(ready)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    with place.untouched():
        process = place.start("run", "prompt.py", "-e", "a", "--max-epochs", "2", AGENT=agent)
        while not ready.exists() or not ready.read_text():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        place.finish(process)

        done = attack.resume("edit()")
    assert done.code == 0, done
    assert attack.scores() == [0, 0.25, 0.5]
    assert attack.violations() == []
    assert is_gone(int(ready.read_text())), "the agent outlived the run that had started it"
    assert not [*place.cache.rglob("*.private")], "nothing is left of it"
    place.check_sound()


def test_the_inputs_are_in_the_notes(attack: Attack) -> None:
    place = attack.place
    place.write("data/extra.txt", "0\n")
    place.write("unread.txt", "x\n")
    place.commit("more")
    attack.run("edit()", "--link", "data", epochs=2)
    inputs = [record["inputs"] for record in place.judged("a")]
    expected = {
        name: place.git("hash-object", name)
        for name in (
            *("cases.json", "checks/__init__.py", "checks/evaluator.py", "data/extra.txt"),
            "prompt.py",
        )
    }
    assert inputs == [expected] * 3
    # A replay that reads other data says which.
    place.write("data/extra.txt", "00\n")
    replayed = place.autopilot("replay", "a", "--best-only")
    assert replayed.code == 1
    assert "data/extra.txt" in replayed.out and "another version of this file" in replayed.out
    place.write("data/extra.txt", "0\n")
    # Another experiment with other data is not compared without a word.
    place.write("cases.json", json.dumps({str(n): n for n in range(5)}))
    place.commit("other cases")
    agent = attack.write("edit()")
    place.run("run", "prompt.py", "-e", "b", "--max-epochs", "1", "--link", "data", AGENT=agent)
    text = place.run("experiment", "compare", "a", "b").out
    assert "measured with other evaluator or data files" in text
    assert f"cases.json  {expected['cases.json'][:10]}  " in text
    differ = place.run("experiment", "compare", "a", "b", "--json").document["inputs_differ"]
    blobs = {"first": expected["cases.json"], "second": place.git("hash-object", "cases.json")}
    assert differ == [{"path": "cases.json", **blobs}]


def test_a_database_is_an_input_if_git_has_it(attack: Attack) -> None:
    place = attack.place
    database = sqlite3.connect(place.top / "cases.db")
    database.execute("CREATE TABLE cases (id, needed)")
    database.executemany("INSERT INTO cases VALUES (?, ?)", [(str(n), n) for n in range(1, 5)])
    database.commit()
    database.close()
    reading = (
        "        import sqlite3\n"
        "        sqlite3.connect('data/cache.db').execute('CREATE TABLE IF NOT EXISTS a (b)')\n"
        "        database = sqlite3.connect('file:cases.db?mode=ro', uri=True)\n"
        "        needed = dict(database.execute('SELECT id, needed FROM cases'))\n"
        "        database.close()\n"
    )
    old = '        with open("cases.json") as file:\n            needed = json.load(file)\n'
    assert old in TARGET
    place.write("prompt.py", TARGET.replace(old, reading))
    place.write("data/cache.db", "")
    place.commit("database")
    done = attack.run("edit()", "--in-place")
    assert done.code == 0, done
    for record in place.judged("a"):
        assert record["inputs"]["cases.db"] == place.git("rev-parse", "HEAD:cases.db")
        assert "data/cache.db" not in record["inputs"]


def test_in_place_nothing_is_put_back_and_nothing_else_compared(attack: Attack) -> None:
    place = attack.place
    body = """
edit()
pathlib.Path("notes.txt").write_text(str(step))
step == 1 and os.chmod("tool.sh", 0o644)
step == 1 and os.symlink("a.md", "rules/inside.md")
step == 1 and os.symlink("/etc/hostname", "rules/outside.md")
step == 1 and sh("git update-ref refs/heads/topic HEAD; git config core.abbrev 8")
if step == 2:
    pathlib.Path("cases.json").write_text("{\\"1\\": 0, \\"2\\": 0, \\"3\\": 0, \\"4\\": 0}")
"""
    cases = place.read("cases.json")
    done = attack.run(body, "--in-place", epochs=3)
    assert done.code == 1, done
    assert "cases.json has changed since the baseline was measured" in done.error
    assert f"blob {place.git('rev-parse', 'HEAD:cases.json')[:10]}" in done.hint
    assert "autopilot resume a" in done.hint
    left = "left, since it may be yours"
    assert attack.violations() == [
        f"changed config of the git folder: {left}",
        f"changed tool.sh: {left}",
        f"made refs/heads/topic: {left}",
        f"made notes.txt: {left}",
        f"made rules/outside.md, a link to /etc/hostname: {left}",
    ]
    assert attack.violations(2) == [f"changed cases.json: {left}", f"changed notes.txt: {left}"]
    assert place.verdicts("a") == ["baseline", "kept"], "nothing is half judged"
    assert place.read("notes.txt") == "2"
    again = attack.resume("edit()")
    assert again.code == 1 and "cases.json has changed" in again.error
    place.write("cases.json", cases)
    done = attack.resume("edit()")
    assert done.code == 0, done
    assert attack.scores() == [0, 0.25, 0.5, 0.75], "what the other cases said does not count"
