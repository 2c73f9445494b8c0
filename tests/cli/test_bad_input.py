"""Bad input: one line what is wrong, one line what to do, and nothing is changed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checkouts import begin_experiments, make_checkout

from autopilot.errors import SlugError
from autopilot.git.repository import Repository
from autopilot.tracking.layout import Layout, free_slugs

AGENT = ("--agent", "cmd:true", "--goal", "go", "--metric", "m", "--mode", "min")

if TYPE_CHECKING:
    from tests.cli.conftest import Place

# --- the repository ------------------------------------------------------------------------------


def test_not_a_git_repository(place: Place, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "counter.py").write_text(place.read("counter.py"))

    place.refused(
        "run",
        "counter.py",
        cwd=elsewhere,
        says=(str(elsewhere), "not in a git repository"),
        hints=("git init",),
    )

    assert sorted(p.name for p in elsewhere.iterdir()) == ["counter.py"]


def test_no_commit_yet(place: Place) -> None:
    shutil.rmtree(place.top / ".git")
    place.init()

    place.refused("run", "counter.py", says=("has no commit yet",), hints=("git add", "git commit"))


def test_bare_repository(place: Place, tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    place.git("clone", "--quiet", "--bare", str(place.top), str(bare))

    place.refused(
        "run", "counter.py", cwd=bare, says=("bare.git", "bare repository"), hints=("clone it",)
    )


def test_sha256_repository(place: Place) -> None:
    shutil.rmtree(place.top / ".git")
    place.init("--object-format=sha256")
    place.commit()

    place.refused("run", "counter.py", says=("SHA-256",), hints=("SHA-1",))


def test_reftable(place: Place) -> None:
    # Written into the configuration: git before 2.45 cannot make such a repository.
    place.git("config", "core.repositoryFormatVersion", "1")
    place.git("config", "extensions.refStorage", "reftable")

    done = place.autopilot("run", "counter.py")

    assert done.code == 1, done
    assert "reftable" in done.error.lower() or "refstorage" in done.error.lower(), done
    assert done.hint, done
    assert not any(place.cache.iterdir())


def test_partial_clone(place: Place, tmp_path: Path) -> None:
    place.git("config", "uploadpack.allowFilter", "true")
    clone = tmp_path / "partial"
    url = place.top.as_uri()
    place.git("clone", "--quiet", "--filter=blob:none", url, str(clone), cwd=tmp_path)

    place.refused(
        "run", "counter.py", cwd=clone, says=("partial clone",), hints=("full clone", "--filter")
    )


def test_split_index(place: Place) -> None:
    place.git("update-index", "--split-index")

    place.refused(
        "run", "counter.py", says=("split index",), hints=("git update-index --no-split-index",)
    )


def test_sparse_index(place: Place) -> None:
    place.write("docs/a.txt", "a\n")
    place.commit()
    place.git("sparse-checkout", "init", "--cone", "--sparse-index")

    place.refused(
        "run", "counter.py", says=("sparse index",), hints=("git sparse-checkout reapply",)
    )


def test_a_signing_key_that_does_not_exist(place: Place) -> None:
    place.git("config", "gpg.format", "ssh")
    place.git("config", "user.signingKey", str(place.cache / "missing.pub"))
    place.git("config", "commit.gpgSign", "true")

    place.refused(
        "run", "counter.py", says=("cannot sign",), hints=("git config commit.gpgsign false",)
    )


def test_a_signing_key_for_tags_that_does_not_exist(place: Place) -> None:
    place.git("config", "gpg.format", "ssh")
    place.git("config", "user.signingKey", str(place.cache / "missing.pub"))
    place.git("config", "tag.gpgSign", "true")

    place.refused(
        "run", "counter.py", says=("cannot sign",), hints=("git config tag.gpgsign false",)
    )


def test_a_cache_folder_that_cannot_be_written(place: Place) -> None:
    shutil.rmtree(place.cache)
    place.cache.write_text("a file\n")

    done = place.autopilot("run", "counter.py")

    assert (done.code, "worktree" in done.error) == (1, True), done
    assert "--in-place" in done.hint, done
    other = place.autopilot("optimize", "validate", "counter.py")
    assert "move away what has that name" in other.hint and "--in-place" not in other.hint, other
    assert place.git("for-each-ref", "refs/heads/autopilot", "refs/notes") == ""
    assert len(place.git("worktree", "list").splitlines()) == 1


# --- the target ----------------------------------------------------------------------------------


def test_missing_target(place: Place) -> None:
    place.refused(
        "run", "missing.py", code=2, says=("missing.py", "no such file"), hints=(str(place.top),)
    )


def test_untracked_target(place: Place) -> None:
    place.write("new.py", place.read("counter.py"))

    place.refused(
        "run", "new.py", code=2, says=("new.py", "not committed"), hints=("git add new.py",)
    )


def test_target_outside_the_repository(place: Place, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(place.read("counter.py"))

    place.refused("run", "../other.py", code=2, says=("outside the repository",), hints=("-C",))


@pytest.mark.parametrize("target", ["counter", "a b:C", "counter.py:", "x:y:z"])
def test_what_is_no_target(place: Place, target: str) -> None:
    place.refused("run", target, code=2, says=(target,), hints=("",))


def test_syntax_error(place: Place) -> None:
    place.change("counter.py", ("def score(self, item):", "def score(self, item:"))

    done = place.refused(
        "run",
        "counter.py",
        code=2,
        says=("counter.py", "SyntaxError"),
        hints=("traceback is above",),
    )

    assert "def score(self, item:" in done.err, done
    assert 'counter.py", line' in done.err, done


def test_target_that_raises_while_it_is_imported(place: Place) -> None:
    place.write("words.py", "def load():\n    raise OSError('no words today')\n\nload()\n")
    place.change("counter.py", ("class Raise(", "import words\n\n\nclass Raise("))

    done = place.refused(
        "run",
        "counter.py",
        code=2,
        says=("counter.py", "OSError: no words today"),
        hints=("traceback is above",),
    )

    # The user's own traceback: both files, and the line that raised.
    assert "Traceback (most recent call last)" in done.err
    assert 'counter.py", line 4' in done.err, done
    assert "in load" in done.err, done
    assert "importlib" not in done.err, done


def test_target_that_ends_the_process(place: Place) -> None:
    place.change("counter.py", ("class Raise(", "import sys\n\nsys.exit(0)\n\n\nclass Raise("))

    place.refused("run", "counter.py", code=2, says=("ended the process",), hints=("__main__",))


@pytest.mark.parametrize(
    ("where", "code"),
    [("class Raise(", 2), ("        self.size = size", 2), ("        x = self.parameters[0]", 1)],
)
def test_what_no_except_exception_sees_is_the_users_error(
    place: Place, where: str, code: int
) -> None:
    """On import, in the constructor and in a step."""
    indent = where[: len(where) - len(where.lstrip())]
    raised = f"{indent}raise __import__('asyncio').CancelledError\n"
    place.change("counter.py", (where, f"{raised}{where}"))

    done = place.autopilot("run", "counter.py")

    assert done.code == code and "CancelledError" in done.error, done

    assert 'counter.py", line' in done.err, done
    assert "autopilot/" not in done.err, done


def test_constructor_that_raises(place: Place) -> None:
    place.change("counter.py", ("self.size = size", "self.size = size / 0"))

    done = place.refused("run", "counter.py", code=2, says=("ZeroDivisionError",), hints=("above",))

    assert "in __init__" in done.err, done


@pytest.mark.parametrize(
    "method", ["configure_optimizers", "train_dataloader", "configure_callbacks", "configure_loss"]
)
def test_methods_that_raise(place: Place, method: str) -> None:
    wrong = f"    def {method}(self):\n        raise KeyError('gone')\n\n"
    place.write("counter.py", f"{place.read('counter.py')}\n\nclass Wrong(Counter):\n{wrong}")
    place.commit()

    done = place.refused(
        "run", "counter.py:Wrong", says=("counter.py:Wrong", "KeyError: 'gone'"), hints=("above",)
    )

    assert f"in {method}" in done.err, done


def test_no_module_in_the_file(place: Place) -> None:
    place.write("plain.py", "answer = 42\n")
    place.commit()

    place.refused(
        "run",
        "plain.py",
        code=2,
        says=("plain.py", "no AutoPilotModule"),
        hints=("plain.py:make_module",),
    )


def test_several_modules_in_the_file(place: Place) -> None:
    more = "\n\nclass Second(Counter):\n    pass\n"
    place.write("counter.py", place.read("counter.py") + more)
    place.commit()

    place.refused(
        "run", "counter.py", code=2, says=("Counter, Second",), hints=("counter.py:Counter",)
    )


def test_name_that_the_file_lacks(place: Place) -> None:
    place.refused(
        "run", "counter.py:Missing", code=2, says=("Missing",), hints=("it has: Counter",)
    )


def test_name_that_is_no_module(place: Place) -> None:
    place.refused(
        "run",
        "counter.py:Step",
        code=2,
        says=("counter.py:Step", "Step, not an AutoPilotModule"),
        hints=("subclass of AutoPilotModule",),
    )


def test_module_that_is_not_there(place: Place) -> None:
    place.refused(
        "run", "no.such:Thing", code=2, says=("there is no module no",), hints=("to/file.py",)
    )


def test_package_that_is_installed_elsewhere(place: Place, tmp_path: Path) -> None:
    installed = tmp_path / "site"
    (installed / "rules").mkdir(parents=True)
    (installed / "rules" / "__init__.py").write_text("LIMIT = 1\n")
    place.write("src/rules/__init__.py", "LIMIT = 2\n")
    place.change("counter.py", ("class Raise(", "import rules\n\n\nclass Raise("))
    before = place.snapshot()
    path = f"{installed}:{place.autopilot.__globals__['ROOT']}"  # type: ignore[attr-defined]

    done = place.autopilot("run", "counter.py", PYTHONPATH=path)

    assert done.code == 2, done
    assert "rules is imported from" in done.error, done
    assert str(installed) in done.error, done
    assert "pip install -e" in done.hint, done
    assert before == place.snapshot()


# --- parameters ----------------------------------------------------------------------------------


def test_parameter_that_does_not_exist(place: Place) -> None:
    place.change("counter.py", ('"x.txt"', '"y.txt"'))

    place.refused(
        "run",
        "counter.py",
        says=("y.txt", "does not exist"),
        hints=("commit", "starts at the folder that you are in", "Path(__file__).parent"),
    )


def test_parameter_that_matches_nothing(place: Place) -> None:
    place.write("rules/a.md", "a\n")
    place.change("counter.py", ('"x.txt"', '"rules", "*.txt"'))

    place.refused(
        "run", "counter.py", says=("rules", "matches no file", "*.txt"), hints=("pattern",)
    )


@pytest.mark.parametrize("source", ['"y.txt"', '"rules"'])
def test_ignored_parameter(place: Place, source: str) -> None:
    place.write(".gitignore", "y.txt\nrules/\n")
    place.change("counter.py", ('"x.txt"', source))
    place.write("y.txt", "1\n")
    place.write("rules/a.txt", "1\n")
    name = source.strip('"')

    place.refused("run", "counter.py", says=(name, "ignored"), hints=(".gitignore", "git add"))


@pytest.mark.parametrize("source", ['"y.txt"', '"rules"'])
def test_untracked_parameter(place: Place, source: str) -> None:
    place.change("counter.py", ('"x.txt"', source))
    place.write("y.txt", "1\n")
    place.write("rules/a.txt", "1\n")
    name = source.strip('"')

    place.refused("run", "counter.py", says=(name, "not tracked"), hints=(f"git add {name}",))


@pytest.mark.parametrize("how", ["modified", "staged", "deleted"])
def test_dirty_parameter(place: Place, how: str) -> None:
    if how == "deleted":
        (place.top / "x.txt").unlink()
    else:
        place.write("x.txt", "2\n")
    if how == "staged":
        place.git("add", "x.txt")
    word = "deleted" if how == "deleted" else "modified"

    place.refused("run", "counter.py", says=("x.txt", word), hints=("--include-dirty",))


def test_new_file_in_a_parameter(place: Place) -> None:
    place.write("rules/a.txt", "a\n")
    place.change(
        "counter.py",
        ("self.size = size", 'self.size = size\n        self.r = PathParameter("rules")'),
    )
    place.write("rules/b.txt", "b\n")

    place.refused(
        "run", "counter.py", says=("rules/b.txt", "untracked"), hints=("--include-dirty",)
    )


@pytest.mark.parametrize("source", ['"sub"', '"sub/x.txt"'])
def test_parameter_in_a_submodule(place: Place, tmp_path: Path, source: str) -> None:
    other = make_checkout(tmp_path / "other", {"x.txt": "1\n"})
    place.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "sub")
    place.change("counter.py", ('"x.txt"', source))

    place.refused("run", "counter.py", says=("sub", "submodule"), hints=("own repository",))


def test_parameter_behind_a_linked_folder(place: Place) -> None:
    place.write("real/x.txt", "1\n")
    (place.top / "link").symlink_to("real")
    place.change("counter.py", ('"x.txt"', '"link/x.txt"'))

    place.refused("run", "counter.py", says=("link/x.txt", "symbolic link"), hints=("real",))


def test_parameter_outside_the_repository(place: Place, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("1\n")
    place.change("counter.py", ('"x.txt"', f'"{tmp_path / "x.txt"}"'))

    place.refused(
        "run", "counter.py", says=(str(tmp_path), "outside the repository"), hints=("below",)
    )


def test_no_parameter(place: Place) -> None:
    place.change(
        "counter.py",
        ('PathParameter("x.txt")', "0"),
        ("Raise(self.parameters())", "None"),
    )

    place.refused("run", "counter.py", says=("no parameters",), hints=("PathParameter",))


def test_parameter_that_is_no_file(place: Place) -> None:
    place.change(
        "counter.py",
        ("import AutoPilotModule", "import Parameter, AutoPilotModule"),
        ('PathParameter("x.txt")', "Parameter(3)"),
    )

    place.refused("run", "counter.py", says=("not in a file",), hints=("PathParameter",))


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "slug", ["Big", "a b", "-a", ".a", "a..b", "a/b/c", "a.lock", "ä", "", "a/", "../a"]
)
def test_malformed_slug(slug: str) -> None:
    with pytest.raises(SlugError, match=re.escape(repr(slug))) as raised:
        Layout(slug)
    assert "small letters" in str(raised.value.hint)


@pytest.mark.parametrize("slug", ["", "-a", "a/b/c"])
def test_malformed_slug_of_a_run(place: Place, slug: str) -> None:
    place.refused(
        "run", "counter.py", f"--slug={slug}", code=2, says=(repr(slug),), hints=("small letters",)
    )


def test_a_name_that_is_too_long_for_a_file(place: Place) -> None:
    long = "x" * 300
    for arguments in (("log", long), ("show", "1", "-e", long)):
        done = place.call(*arguments, code=2)
        assert "of 300 characters a file's name takes only 240" in done.error and done.hint, done
    for arguments in (("run", f"{long}.py"), ("run", "--edit", long, "--eval", "true", *AGENT)):
        done = place.autopilot(*arguments)
        assert done.code == 1 and done.err.count("\n") == 2, done
        assert "too long" in done.error or "neither a file" in done.error, done
    # A name that nobody chose is made short.
    slug = next(free_slugs(Repository.discover(place.top), "y" * 250))
    assert slug == f"{'y' * 120}-1"


def test_slug_that_exists(place: Place) -> None:
    begin_experiments(place.top, "one")

    place.refused(
        "run",
        "counter.py",
        "-e",
        "one",
        says=("the experiment one exists already",),
        hints=("autopilot resume one", "another name with -e"),
    )


@pytest.mark.parametrize(("first", "second"), [("a", "a/b"), ("a/b", "a")])
def test_slug_that_collides_as_a_folder(place: Place, first: str, second: str) -> None:
    begin_experiments(place.top, first)

    place.refused(
        "run",
        "counter.py",
        "-e",
        second,
        code=2,
        says=(f"autopilot/{second}", f"autopilot/{first}"),
        hints=("choose another name",),
    )


@pytest.mark.parametrize("kind", ["heads", "tags", "notes"])
def test_ref_of_the_user_that_is_in_the_way(place: Place, kind: str) -> None:
    place.git("update-ref", f"refs/{kind}/autopilot", "HEAD")

    place.refused(
        "run", "counter.py", code=2, says=("autopilot", "cannot be created"), hints=("rename",)
    )


def test_what_is_left_of_a_deleted_experiment(place: Place) -> None:
    place.run("run", "counter.py", "-e", "one", "--max-epochs", "1")
    place.git("branch", "--quiet", "-D", "autopilot/one")

    place.refused(
        "run",
        "counter.py",
        "-e",
        "one",
        says=("one", "used before"),
        hints=("another name with -e",),
    )


def test_resume_of_what_does_not_exist(place: Place) -> None:
    begin_experiments(place.top, "one")

    place.refused("resume", "on", says=("there is no experiment on",), hints=("one",))
    place.refused("resume", "O N", code=2, says=("'O N'",), hints=("small letters",))


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says", "hint"),
    [
        ("lives=9", "lives", "arguments: size"),
        ("size=two", "size=two: Input should be a valid integer", "type"),
        ("size", "not key=value", "-H threshold=0.5"),
    ],
)
def test_constructor_argument(place: Place, given: str, says: str, hint: str) -> None:
    place.refused("run", "counter.py", "-H", given, code=2, says=("-H", says), hints=(hint,))


@pytest.mark.parametrize(
    "options",
    [
        ["--max-epochs", "0"],
        ["--patience", "x"],
        ["--budget-evaluations", "-1"],
        ["--nonsense"],
        ["--link", "data", "--in-place"],
    ],
)
def test_options(place: Place, options: list[str]) -> None:
    (place.top / "data").mkdir()
    place.refused("run", "counter.py", *options, code=2, says=(options[0],), hints=("",))


def test_links(place: Place, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    place.refused(
        "run", "counter.py", "--link", "data", code=2, says=("--link data", "no such"), hints=("",)
    )
    place.refused(
        "run",
        "counter.py",
        "--link",
        "x.txt",
        code=2,
        says=("--link x.txt", "tracked"),
        hints=("",),
    )
    place.refused(
        "run", "counter.py", "--link", "../far", code=2, says=("outside",), hints=("full path",)
    )


def test_folder_that_does_not_exist(place: Place) -> None:
    place.refused("-C", "nowhere", "run", "counter.py", code=2, says=("nowhere",), hints=("",))


def test_errors_are_json_too(place: Place) -> None:
    done = place.refused("run", "missing.py", "--json", code=2, says=("missing.py",), hints=("",))

    assert done.document["error"].startswith("missing.py")
    assert done.document["hint"]


def test_verbose_shows_our_own_traceback(place: Place) -> None:
    done = place.autopilot("run", "missing.py", "--verbose")

    assert done.code == 1 or done.code == 2, done
    assert "Traceback" in done.err
    assert "autopilot/engine" in done.err


# --- data and measurements -----------------------------------------------------------------------


def test_malformed_jsonl(place: Place) -> None:
    place.write("data/train.jsonl", '{"at": 1}\n{"at": 2\n')
    place.change(
        "counter.py",
        ("import AutoPilotModule", "import ListDataset, AutoPilotModule"),
        (
            '[{"id": f"i{at}", "at": at} for at in range(1, 6)]',
            'ListDataset.from_jsonl("data/train.jsonl")',
        ),
    )

    place.refused("run", "counter.py", says=("data/train.jsonl", "line 2"), hints=("",))


def test_missing_metric(place: Place) -> None:
    place.refused(
        "run",
        "counter.py",
        "--monitor",
        "f1",
        code=2,
        says=("no val metric 'f1'",),
        hints=("accuracy",),
    )


def test_no_train_split(place: Place) -> None:
    place.change(
        "counter.py",
        ("def train_dataloader", "def test_dataloader"),
        ("val_dataloader = test_dataloader = train_dataloader", "pass"),
    )

    place.refused(
        "run",
        "counter.py",
        says=("no train split", "no val split", "Counter"),
        hints=("train_dataloader()",),
    )


def test_every_item_fails_at_the_baseline(place: Place) -> None:
    place.change("counter.py", ("passed = int(", "passed = undefined or int("))

    place.refused(
        "run",
        "counter.py",
        says=("all 5 val items failed", "NameError: name 'undefined' is not defined"),
        hints=("one item by hand",),
    )


def test_step_that_returns_no_datum(place: Place) -> None:
    place.change(
        "counter.py", ("return Datum(items=[self.score(item) for item in batch.items])", "return 1")
    )

    place.refused("run", "counter.py", says=("Counter", "int", "not a Datum"), hints=("Datum(",))


def test_an_argument_that_the_constructor_needs(place: Place) -> None:
    place.change("counter.py", ("size: int = 2", "size: int"))

    place.refused(
        "run",
        "counter.py",
        says=("counter.py needs the argument size",),
        hints=("-H size=VALUE",),
        code=2,
    )
    assert place.run("run", "counter.py", "-H", "size=2", "--max-epochs", "1").code == 0


def test_what_fails_in_autopilot_has_no_traceback_above(place: Place) -> None:
    """The target gave something of a wrong kind, and raised nothing itself."""
    place.change("counter.py", ("    val_data", "    monitor = 3\n    val_data"))

    done = place.refused("run", "counter.py", says=("no attribute 'remove",), hints=("--verbose",))

    assert done.err.count("\n") == 2, done


@pytest.mark.parametrize("where", [(), ("--in-place",)])
def test_a_module_that_writes_its_parameters(place: Place, where: tuple[str, ...]) -> None:
    """What is measured would not be what is committed."""
    writes = "self.training or self.x.write_text('9')\n        passed = int("
    place.change("counter.py", ("passed = int(", writes))

    done = place.autopilot("run", "counter.py", "-e", "one", *where)

    assert done.code == 1, done
    assert "x.txt was edited during the run, not by the optimizer (modules only read)" in done.error
    assert done.hint.endswith("then: run it again"), done
    assert not place.git("branch", "--list", "autopilot/*"), done
    assert place.read("x.txt") == ("9" if where else "1\n")


def test_what_was_measured_while_a_module_wrote_is_measured_again(place: Place) -> None:
    writes = "__import__('os').environ.get('WRITES') == self.x.read_text() and not self.training"
    writes += " and self.x.write_text('9')\n        passed = int("
    place.change("counter.py", ("passed = int(", writes))

    done = place.autopilot("run", "counter.py", "-e", "one", WRITES="3\n")
    assert done.code == 1, done
    assert "x.txt was edited during the run" in done.error and "resume one" in done.hint
    place.run("resume", "one")
    # In epoch 2 all items passed with the 9 that was written, two with what the step wrote.
    scores = [record["metrics"]["accuracy"] for record in place.judged("one")]
    assert scores[:6] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_an_error_of_many_lines_is_told_in_one(place: Place) -> None:
    place.change("counter.py", ("passed = int(", "passed = exit('one\\ntwo') or int("))

    done = place.refused(
        "run", "counter.py", says=("failed: SystemExit: one two",), hints=("one item by hand",)
    )

    assert done.err.count("\n") == 2, done


def test_what_git_and_disk_say_is_told_in_one_line(place: Place) -> None:
    """A disk that is full, before anything has begun."""
    mounted = place.top.parent / "disk"
    mounted.mkdir()
    if (
        sys.platform != "linux"
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mounted)],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    try:
        (mounted / "repo").mkdir()
        shutil.copytree(place.top, mounted / "repo", dirs_exist_ok=True, symlinks=True)
        there = type(place)(mounted / "repo", place.cache)
        with pytest.raises(OSError), (mounted / "filler").open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()

        done = there.refused("run", "counter.py", says=("space",), hints=("room",))

        (mounted / "filler").unlink()
        assert there.run("run", "counter.py").code == 0, done
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


@pytest.mark.parametrize("folder", ["", "tools/"])
def test_a_module_that_git_does_not_have(place: Place, folder: str) -> None:
    """It's beside the target in the user's checkout, and not committed."""
    place.write(f"{folder}own.py", "from extra import x\n")
    place.commit()
    place.write(f"{folder}extra.py", "x = 1\n")

    place.refused(
        "run",
        f"{folder}own.py",
        says=("own.py cannot be imported: ModuleNotFoundError: No module named 'extra'",),
        hints=(f"git does not have {folder}extra.py: git add and commit it",),
        code=2,
    )


def test_a_file_that_git_does_not_have(place: Place) -> None:
    """The worktree lacks it, the user's checkout has it: what to do is to bring it along."""
    place.write(".gitignore", "data/\n")
    place.write("data/words.txt", "a\n")
    reads = "        open('data/words.txt').close()"
    # The second one is read first.
    for where in ("def score(self, item):", "def train_dataloader(self):"):
        place.change("counter.py", (where, f"{where}\n{reads}"))

        place.refused(
            "run",
            "counter.py",
            says=("No such file or directory: 'data/words.txt'",),
            hints=("git does not have data; bring it along: --link data",),
        )
    place.run("run", "counter.py", "--link", "data", "--max-epochs", "1")


def test_messages_name_the_users_own_files(place: Place) -> None:
    """Not those of a worktree that is gone when they are read."""
    place.change("counter.py", ("self.size = size", "raise KeyError(__file__)"))

    done = place.refused(
        "run", "counter.py", code=2, says=("KeyError", f"{place.top}/counter.py"), hints=()
    )

    assert f'File "{place.top}/counter.py"' in done.err
    assert str(place.cache) not in done.err


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split(place: Place, split: str) -> None:
    place.change(
        "counter.py",
        (
            "    val_dataloader = test",
            "    def empty(self):\n        return DataLoader([], 2)\n\n    val_dataloader = test",
        ),
        ("= train_dataloader\n", f"= train_dataloader\n    {split}_dataloader = empty\n"),
    )

    place.refused(
        "run", "counter.py", says=(f"the {split} split is empty",), hints=(f"{split}_dataloader()",)
    )


def test_a_monitor_without_a_val_split(place: Place) -> None:
    place.change("counter.py", ("val_dataloader = test_dataloader", "test_dataloader"))

    place.refused(
        "run",
        "counter.py",
        "--monitor",
        "f1",
        says=("there is no val split to monitor 'f1' on",),
        hints=("define val_dataloader()",),
        code=2,
    )
    done = place.run("run", "counter.py", "--max-epochs", "1")
    assert "decides" not in done.out
    assert "note: there is no val split: an epoch is kept unless all its items fail" in done.out
    assert "best: epoch 1, test 0.000 -> 0.200" in done.out
