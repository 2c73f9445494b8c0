"""autopilot.sandbox.surroundings: what is beside the parameters is put back exactly."""

import os
import shutil

import pytest

from autopilot.core.parameter import PathParameter
from autopilot.errors import ParameterError
from autopilot.git.objects import tree_of
from autopilot.sandbox.surroundings import Surroundings, Violation, sentences
from autopilot.tracking.parameters import scope_of


@pytest.fixture
def top(repository):
    return repository.workdir


@pytest.fixture
def surroundings(repository, tmp_path):
    (repository.workdir / "cache.bin").write_bytes(b"\0cache")
    scope = scope_of(repository, PathParameter(repository.workdir / "rules"))
    tree = tree_of(repository, repository.head_commit())
    return Surroundings(repository, [scope], tree, tmp_path / "copies")


def put_back(surroundings):
    return surroundings.put_back(lambda _name: False)


def stamps(top):
    paths = [top / "README.md", top / "cache.bin"]
    return {p: (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_mode) for p in paths}


def test_parameters_may_change_and_nothing_else(surroundings, top):
    surroundings.look()
    before = stamps(top)
    (top / "rules" / "a.txt").write_text("edited\n")
    (top / "rules" / "deep").mkdir()
    (top / "rules" / "deep" / "b.txt").write_text("b\n")
    (top / "README.md").write_text("hacked\n")
    (top / "README.md").chmod(0o755)
    (top / "cache.bin").unlink()
    (top / "evil.py").write_text("x")
    assert sorted(put_back(surroundings)) == [
        "changed README.md: put back",
        "made evil.py: removed",
        "removed cache.bin: put back",
    ]
    assert stamps(top) == before, "content, times and modes"
    assert (top / "rules" / "a.txt").read_text() == "edited\n"
    assert (top / "rules" / "deep" / "b.txt").read_text() == "b\n"
    surroundings.look()
    assert put_back(surroundings) == []


def test_a_copy_that_cannot_be_written(surroundings, tmp_path):
    (tmp_path / "copies").write_text("in the way")
    with pytest.raises(ParameterError, match="cannot copy"):
        surroundings.look()


def test_only_a_mode_or_the_same_content_again(surroundings, top):
    surroundings.look()
    (top / "README.md").chmod(0o600)
    content = (top / "cache.bin").read_bytes()
    (top / "cache.bin").unlink()
    (top / "cache.bin").write_bytes(content)
    assert put_back(surroundings) == ["changed the mode of README.md: put back"]


def test_links_out_of_a_parameter_are_removed(surroundings, top, tmp_path):
    surroundings.look()
    (top / "rules" / "out.txt").symlink_to("/etc/hostname")
    (top / "rules" / "in.txt").symlink_to("a.txt")
    assert put_back(surroundings) == ["made rules/out.txt, a link to /etc/hostname: removed"]
    assert os.readlink(top / "rules" / "in.txt") == "a.txt"


def test_a_parameter_that_became_a_link_is_put_back(surroundings, top, tmp_path):
    surroundings.look()
    (tmp_path / "valuables").mkdir()
    (tmp_path / "valuables" / "x").write_text("x")
    shutil.rmtree(top / "rules")
    (top / "rules").symlink_to(tmp_path / "valuables")
    (sentence,) = put_back(surroundings)
    assert sentence.startswith("replaced rules/ by a link to ")
    assert (top / "rules" / "a.txt").read_text() == "a\n"
    assert (tmp_path / "valuables" / "x").read_text() == "x"


def test_a_copy_that_was_tampered_with_is_not_used(surroundings, top, tmp_path):
    surroundings.look()
    for copy in (tmp_path / "copies").iterdir():
        copy.write_bytes(b"evil!!")
    (top / "cache.bin").write_bytes(b"evil!!!")
    assert put_back(surroundings) == ["changed cache.bin: too large to be put back"]
    assert not (top / "cache.bin").exists()


def test_git_ignored_changes_are_undone_in_silence(surroundings, top):
    (top / ".gitignore").write_text("*.log\n")
    surroundings.look()
    (top / "agent.log").write_text("x")
    assert put_back(surroundings) == []
    assert not (top / "agent.log").exists()


def test_sentences_take_folders_as_a_whole():
    made = [
        Violation("new", "made", folder=True, undone="removed"),
        Violation("new/b", "made", undone="removed"),
        Violation("new/a\n", "made", undone="removed"),
        Violation("x", "changed"),
        Violation("quiet", "changed"),
    ]
    told = sentences(made, lambda name: name != "quiet")
    assert told == ["made new/ (2 files): removed", "changed x: put back"]
