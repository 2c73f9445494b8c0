"""A user's repository, and the command line in it as real processes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checkouts import ALONE, copy_checkout, make_checkout, own_home
from forks import Process, fork
from waiting import RULES as WAITING_RULES

import autopilot
from autopilot.cli.main import AutoPilotCLI

ROOT = Path(autopilot.__file__).resolve().parents[1]
# As the console script does, -P keeps the working directory off sys.path.
COMMAND = (sys.executable, "-P", "-m", "autopilot")

# x.txt is 1: no item passes at first, and each step of the optimizer lets one more of five pass.
COUNTER = """\
from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step


class Raise(Optimizer):
    def step(self):
        x = self.parameters[0]
        x.write_text(f"{int(x.read_text()) + 1}\\n")
        return Step("add one", "up", "the items asked for it")


class Counter(AutoPilotModule):
    def __init__(self, size: int = 2):
        super().__init__()
        self.x = PathParameter("x.txt")
        self.size = size

    def forward(self, batch):
        return Datum(items=[self.score(item) for item in batch.items])

    def score(self, item):
        passed = int(self.x.read_text()) > item.metadata["at"]
        return Datum(success=passed, feedback="raise it")

    def configure_optimizers(self):
        return Raise(self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": f"i{at}", "at": at} for at in range(1, 6)], self.size)

    val_dataloader = test_dataloader = train_dataloader
"""


@dataclass(frozen=True, repr=False)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What --json printed; nothing else may be on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The line that says what is wrong."""
        return next((x for x in self.err.splitlines() if x.startswith("error: ")), "")

    @property
    def hint(self) -> str:
        """The line that says what to do."""
        return next((x for x in self.err.splitlines() if x.startswith("  hint: ")), "")

    def __repr__(self) -> str:
        """All of it: that is shown where a test fails."""
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Place:
    """A repository that a user works in.

    Args:
        top: Its top folder.
        cache: The user's cache folder.
    """

    def __init__(self, top: Path, cache: Path) -> None:
        self.top, self.cache = top, cache
        top.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, content: str | bytes) -> Path:
        """Writes a file of the working tree."""
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def read(self, name: str) -> str:
        """A file's text."""
        return (self.top / name).read_text()

    def change(self, name: str, *pairs: tuple[str, str]) -> None:
        """Replaces parts of a file and commits it."""
        text = self.read(name)
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new)
        self.write(name, text)
        self.commit()

    def git(self, *arguments: str, cwd: Path | None = None, check: bool = True) -> str:
        """What a git command prints, without the last line break."""
        done = subprocess.run(
            ["git", *arguments], cwd=cwd or self.top, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"git {arguments}: {done.stderr}"
        return done.stdout.removesuffix("\n")

    def init(self, *options: str) -> None:
        """Makes it a repository of Ada Byron's."""
        if not options:
            make_checkout(self.top)
            return
        self.git("init", "--quiet", "--initial-branch=main", *options)
        self.git("config", "user.name", "Ada Byron")
        self.git("config", "user.email", "ada@example.com")

    def commit(self, message: str = "change") -> str:
        """Commits everything; returns the commit."""
        self.git("add", "--all")
        quick = "--quiet", "--no-verify", "--no-gpg-sign"
        self.git(*ALONE, "commit", *quick, "--message", message)
        log = self.top / ".git/logs/HEAD"
        if not log.is_file():
            return self.git("rev-parse", "HEAD")
        # Its last line begins with the commit before and this one.
        return log.read_text("utf-8").splitlines()[-1].split(" ", 2)[1]

    def start(
        self, *arguments: str, cwd: Path | None = None, **environment: str
    ) -> subprocess.Popen[str] | Process:
        """Starts the command line; with an interpreter of its own where it needs a PYTHONPATH."""
        if "PYTHONPATH" in environment:
            return self.spawn(*arguments, cwd=cwd, **environment)
        return fork(arguments, cwd=cwd or self.top, env=os.environ | environment)

    def spawn(
        self, *arguments: str, cwd: Path | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """The same, always with an interpreter of its own: for what depends on how it starts."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=cwd or self.top,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def autopilot(self, *arguments: str, cwd: Path | None = None, **environment: str) -> Done:
        """Runs the command line to its end."""
        return self.finish(self.start(*arguments, cwd=cwd, **environment))

    def finish(self, process: subprocess.Popen[str] | Process, timeout_s: float = 300) -> Done:
        """Waits for a command that was started."""
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"the command does not end\n{out}\n{err}")
        return Done(process.returncode, out, err)

    def run(self, *arguments: str, cwd: Path | None = None, **environment: str) -> Done:
        """A command that must succeed."""
        done = self.autopilot(*arguments, cwd=cwd, **environment)
        assert done.code == 0, done
        return done

    def call(self, *arguments: str, code: int | None = 0) -> Done:
        """The same in this process, for commands that run none of the user's code: it is faster."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ended = AutoPilotCLI().run([*arguments, "-C", str(self.top)])
        done = Done(ended, out.getvalue(), err.getvalue())
        assert code in (None, done.code), done
        return done

    def refused(
        self,
        *arguments: str,
        says: tuple[str, ...],
        hints: tuple[str, ...],
        code: int = 1,
        cwd: Path | None = None,
    ) -> Done:
        """A command that must be refused in two lines, and change nothing."""
        before = self.snapshot()
        done = self.autopilot(*arguments, cwd=cwd)
        assert done.code == code, done
        for part in says:
            assert part in done.error, f"{part!r} is not in the error\n{done}"
        for part in hints:
            assert part in done.hint, f"{part!r} is not in the hint\n{done}"
        assert str(ROOT / "autopilot") not in done.err, f"our own frames\n{done}"
        assert done.err.count("error: ") == 1, done
        assert before == self.snapshot(), done
        return done

    # --- what must not change ------------------------------------------------------------------

    def checkout(self) -> dict[str, str]:
        """The user's own: files and modes, the index to the byte, HEAD, unfinished work."""
        # git may be packing at the same time: its folder is not entered.
        tops = [path for path in self.top.iterdir() if path.name != ".git"]
        found = {
            path.relative_to(self.top).as_posix(): _fingerprint(path)
            for path in sorted(
                [
                    *tops,
                    *(below for top in tops if not top.is_symlink() for below in top.rglob("*")),
                ]
            )
            if not path.is_dir()
        }
        folder = self.top / ".git"
        names = "HEAD index MERGE_HEAD ORIG_HEAD config info/exclude refs/stash logs/refs/stash"
        for name in names.split():
            if (folder / name).is_file():
                found[f".git/{name}"] = _fingerprint(folder / name)
        return found

    def snapshot(self) -> dict[str, str]:
        """The checkout, all refs, the linked worktrees, and what is in the cache folder."""
        cached = (p.relative_to(self.cache).as_posix() for p in sorted(self.cache.rglob("*")))
        return self.checkout() | {
            "refs": self.git("for-each-ref", check=False),
            "worktrees": self.git("worktree", "list", "--porcelain", check=False),
            "cache": "\n".join(cached),
        }

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """The body leaves the user's checkout as it is."""
        before = self.checkout()
        yield
        assert before == self.checkout()

    # --- what a run left behind ----------------------------------------------------------------

    def notes(self, slug: str, kind: str) -> list[dict[str, Any]]:
        """The records of a kind on the experiment's line, oldest commit first."""
        entries = self.git(
            "log",
            "--reverse",
            f"--notes=refs/notes/autopilot/{slug}/{kind}",
            "--format=%x01%H%x02%N",
            f"main..autopilot/{slug}",
        ).split("\1")[1:]
        return [
            json.loads(line) | {"on": commit}
            for commit, _, note in (entry.partition("\2") for entry in entries)
            for line in note.splitlines()
            if line.strip()
        ]

    def line(self, slug: str) -> list[str]:
        """The experiment's commits, the start commit first."""
        return self._log("%H", slug)

    def trees(self, slug: str) -> list[str]:
        """The trees of the experiment's commits, the start commit's first."""
        return self._log("%T", slug)

    def _log(self, form: str, slug: str) -> list[str]:
        # By topology: candidates of an epoch are made at once.
        order = ("--topo-order", "--reverse", f"--format={form}")
        return self.git("log", *order, f"main..autopilot/{slug}").split()

    def judged(self, slug: str) -> list[dict[str, Any]]:
        """The val records, by epoch."""
        found = [r for r in self.notes(slug, "metrics") if r["split"] == "val"]
        return sorted(found, key=lambda record: (record["epoch"], record["id"]))

    def verdicts(self, slug: str) -> list[str]:
        """The verdict on each epoch."""
        return [record["verdict"] for record in self.judged(slug)]

    def tags(self, slug: str) -> list[int]:
        """The epochs that are tagged."""
        names = self.git("tag", "--list", f"autopilot/{slug}/*").splitlines()
        return [int(name.rpartition("epoch-")[2]) for name in names]

    def check_sound(self) -> None:
        """Nothing but dangling objects is to be said about the repository."""
        done = subprocess.run(
            ["git", "fsck", "--strict", "--no-dangling"],
            cwd=self.top,
            capture_output=True,
            text=True,
            check=False,
        )
        told = [x for x in (done.stdout + done.stderr).splitlines() if not x.startswith("notice")]
        assert (done.returncode, told) == (0, [])


def _fingerprint(path: Path) -> str:
    if path.is_symlink():
        return f"-> {os.readlink(path)}"
    status = path.lstat()
    return f"{status.st_mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def prepare_commands(patch: pytest.MonkeyPatch, home: Path) -> Path:
    """Commands run this package, and without colours; returns their cache folder, in their home."""
    own_home(patch, home)
    patch.setenv("PYTHONPATH", str(ROOT))
    patch.setenv("NO_COLOR", "1")
    cache = home / ".cache"
    cache.mkdir(parents=True)
    return cache


@pytest.fixture
def place(tmp_path: Path, git_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A repository with `counter.py`, which improves `x.txt` in five epochs."""
    top = make_checkout(tmp_path / "repo", {"x.txt": "1\n", "counter.py": COUNTER})
    return Place(top, prepare_commands(monkeypatch, git_environment))


# The first line of a file of `größe und form` is what counts; the rest is the user's.
LEVELS = """\
from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step

ITEMS = [{"id": f"i{at}", "at": at} for at in range(1, 9)]


class Adjust(Optimizer):
    tried = False

    def step(self):
        rules = self.parameters[0]
        level, _, rest = rules.read_text("größe a.txt").partition("\\n")
        if level == "4" and not self.tried:
            self.tried = True
            rules.write_text(f"0\\n{rest}", "größe a.txt")
            return Step("lower the level", "down", "to see what it does")
        rules.write_text(f"{int(level) + 2}\\n{rest}", "größe a.txt")
        if level == "2":
            rules.write_text("more\\n", "new rule.txt")
        return Step(f"raise the level to {int(level) + 2}", "up", "too few items pass | of `8`")


class Levels(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.rules = PathParameter("größe und form")

    def forward(self, batch):
        level = int(self.rules.read_text("größe a.txt").partition("\\n")[0])
        return Datum(items=[Datum(success=level >= x.metadata["at"]) for x in batch.items])

    def configure_optimizers(self):
        return Adjust(self.parameters())

    def train_dataloader(self):
        return DataLoader(ITEMS, 4)

    val_dataloader = test_dataloader = train_dataloader
"""
RULES = "größe und form/größe a.txt"


@pytest.fixture(scope="session")
def levels_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a finished experiment `levels`: epochs 1, 3 and 4 are kept, 2 is not."""
    folder = tmp_path_factory.mktemp("levels")
    with pytest.MonkeyPatch.context() as patch:
        place = Place(folder / "repo", prepare_commands(patch, folder))
        place.init()
        place.write(RULES, "2\n" + "".join(f"line {n}\n" for n in range(1, 20)))
        place.write("levels.py", LEVELS)
        place.write("README.md", "readme\n")
        place.commit("base")
        place.run("run", "levels.py", "-e", "levels", "--max-epochs", "4")
    return place.top


@pytest.fixture
def levels(
    levels_template: Path,
    tmp_path: Path,
    git_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    """A copy of that repository."""
    top = copy_checkout(levels_template, tmp_path / "repo")
    return Place(top, prepare_commands(monkeypatch, git_environment))


@pytest.fixture
def rules(place: Place) -> Place:
    """A folder as the parameter, val items alone, no optimizer."""
    place.write("rules.py", WAITING_RULES.format(beside=str(place.top.parent)))
    place.write("rules/x.txt", "1\n")
    place.write("rules/old.txt", "old\n")
    place.write("rules/bin", b"a\0b")
    place.write("README.md", "readme\n")
    place.commit()
    return place
