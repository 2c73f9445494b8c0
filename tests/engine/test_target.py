"""Targets and hyperparameters: what is read, built and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkouts import commit_all

from autopilot.core.module import AutoPilotModule
from autopilot.engine.target import build, load_here, load_target, parse_hparams, parse_target
from autopilot.errors import ElsewhereError, TargetError, UsageError
from autopilot.git.repository import Repository
from autopilot.proof.replay import failed


@pytest.mark.parametrize(
    ("text", "path", "module", "name", "stem"),
    [
        ("a/levels.py", "a/levels.py", None, None, "levels"),
        ("levels.py:Levels", "levels.py", None, "Levels", "levels"),
        ("package.levels:Levels", None, "package.levels", "Levels", "levels"),
        ("autopilot/projects/spam/cli.py", "autopilot/projects/spam/cli.py", None, None, "run"),
    ],
)
def test_a_target_is_a_file_or_a_dotted_name(text, path, module, name, stem) -> None:
    target = parse_target(text)
    assert (target.path, target.module, target.name, target.stem) == (path, module, name, stem)


@pytest.mark.parametrize("text", ["levels", "a b:C", "levels:", "levels:1"])
def test_anything_else_is_refused_with_the_three_forms(text) -> None:
    with pytest.raises(TargetError, match="is no target") as caught:
        parse_target(text)
    assert "package.module:Name" in caught.value.hint


class Sized(AutoPilotModule):
    def __init__(self, size: int, names: list[str] | None = None, share: float = 0.5) -> None:
        super().__init__()
        self.given = size, names, share


EVIL = """\
import pathlib
pathlib.Path({mark!r}).touch()
from autopilot import AutoPilotModule
class Evil(AutoPilotModule):
    pass
"""


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("{out}/evil.py", "outside the repository"),
        ("../out/evil.py:Evil", "outside the repository"),
        ("rules/../../out/evil.py", "outside the repository"),
        ("link.py", "outside the repository"),
        ("folder/evil.py", "outside the repository"),
        ("new.py", "is not committed"),
        ("to_new.py", "is not committed"),
        ("evil:Evil", "not in the commit: evil is {out}/evil.py"),
        ("package.evil:Evil", "not in the commit: package is {out}/package/__init__.py"),
        ("rules.new:Evil", "not in the commit: rules.new is {top}/rules/new.py"),
        ("subprocess:run", "not in the commit: subprocess is "),
        ("sys:exit", "not in the commit: sys is built in"),
    ],
)
def test_nothing_is_executed_that_is_not_in_the_commit(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, said: str
) -> None:
    top, out, mark = repository.workdir, tmp_path / "out", tmp_path / "mark"
    (out / "package").mkdir(parents=True)
    for path in (out / "evil.py", out / "package/evil.py", out / "package/__init__.py"):
        path.write_text(EVIL.format(mark=str(mark)))
    (top / "link.py").symlink_to(out / "evil.py")
    (top / "folder").symlink_to(out)
    (top / "to_new.py").symlink_to("new.py")
    (top / "built-in").touch()
    monkeypatch.chdir(top)
    commit_all(top, "links")
    for new in ("new.py", "rules/new.py"):
        (top / new).write_text(EVIL.format(mark=str(mark)))
    monkeypatch.syspath_prepend(out)
    monkeypatch.syspath_prepend(top)
    with pytest.raises(TargetError) as caught:
        load_target(target.format(out=out), top, {}, AutoPilotModule, repository)
    assert said.format(out=out, top=top) in caught.value.message
    assert not mark.exists()


def test_a_package_of_the_checkout_that_is_installed_from_another_one(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the installation knows the source root: a clone has the file, and imports another."""
    for top in (repository.workdir / "packages/app/src", tmp_path / "first"):
        (top / "far_lib").mkdir(parents=True)
        (top / "far_lib/__init__.py").touch()
        (top / "far_lib/tune.py").write_text("raise SystemExit")
    commit_all(repository.workdir, "package")
    monkeypatch.syspath_prepend(tmp_path / "first")
    with pytest.raises(ElsewhereError, match=r"tune is imported from .*first/far_lib") as it:
        load_target("far_lib.tune:X", repository.workdir, {}, AutoPilotModule, repository)
    assert "pip install -e" in it.value.hint and "--in-place" not in it.value.hint
    with pytest.raises(ElsewhereError):  # a replay ends with it: it is no difference of an epoch
        failed(1, it.value)


@pytest.mark.parametrize("text", ["levels.py", "to_levels.py", "levels:Levels", "x/../levels.py"])
def test_what_is_in_the_commit_is_loaded(
    target: Repository, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = target.workdir
    (top / "to_levels.py").symlink_to("levels.py")
    commit_all(top, "link")
    # A copy that is installed is not what a run imports.
    installed = top.parent / "installed"
    installed.mkdir()
    (installed / "levels.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(installed)
    assert type(load_here(top, text, {}, target)).__name__ == "Levels"


def test_hyperparameters_have_the_types_of_the_signature() -> None:
    module = build(Sized, {"size": "3", "names": '["a", "b"]', "share": "1"}, "t", AutoPilotModule)
    assert isinstance(module, Sized)
    assert module.given == (3, ["a", "b"], 1.0)


@pytest.mark.parametrize(
    ("hparams", "said"),
    [
        ({}, "needs the argument size"),
        ({"size": "three"}, "-H size=three"),
        ({"size": "3", "sise": "4"}, "-H sise: there is no such argument"),
    ],
)
def test_hyperparameters_that_do_not_fit_are_refused(hparams, said) -> None:
    with pytest.raises(UsageError, match=said):
        build(Sized, hparams, "t", AutoPilotModule)


def test_pairs_that_cannot_be_read_are_refused() -> None:
    assert parse_hparams(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    for pairs, said in ((["a"], "not key=value"), (["a=1", "a=2"], "twice")):
        with pytest.raises(UsageError, match=said):
            parse_hparams(pairs)


def test_a_constructor_that_fails_is_named_with_the_users_traceback(tmp_path: Path) -> None:
    file = tmp_path / "failing.py"
    file.write_text(
        "from autopilot import AutoPilotModule\n\n\n"
        "class Failing(AutoPilotModule):\n"
        "    def __init__(self):\n"
        "        raise KeyError('rules')\n"
    )
    with pytest.raises(TargetError, match="KeyError: 'rules'") as caught:
        load_target("failing.py", tmp_path, {}, AutoPilotModule)
    assert "raise KeyError" in caught.value.user_traceback
    assert "autopilot/engine" not in caught.value.user_traceback


def test_a_file_must_have_exactly_one_module(tmp_path: Path) -> None:
    head = "from autopilot import AutoPilotModule\n"
    (tmp_path / "none_of.py").write_text(head)
    (tmp_path / "two_of.py").write_text(
        head + "class A(AutoPilotModule): pass\nclass B(AutoPilotModule): pass\n"
    )
    with pytest.raises(TargetError, match="defines no AutoPilotModule"):
        load_target("none_of.py", tmp_path, {}, AutoPilotModule)
    with pytest.raises(TargetError, match="defines several: A, B"):
        load_target("two_of.py", tmp_path, {}, AutoPilotModule)
    module = load_target("two_of.py:B", tmp_path, {}, AutoPilotModule)
    assert type(module).__name__ == "B"


def test_the_checkouts_own_module_is_loaded_outside_a_run(target) -> None:
    module = load_here(target.workdir, "levels.py", {"size": "2"})
    assert module.size == 2
    assert [name for name, _ in module.named_parameters()] == ["level"]
