"""autopilot.git.objects, compared with a dict and with what git reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopilot.errors import RepositoryError
from autopilot.git import objects
from autopilot.git.commands import run_git
from autopilot.git.objects import TREE, Entry, file_patch
from autopilot.git.repository import Repository

MODES = (0o100644, 0o100755, 0o120000)
ODD = ["a", "b c", "ü", "new\nline", "-dash", "*", "[x]", '"q"', os.fsdecode(b"\xff\xfe"), "a.b"]
PATHS = st.lists(st.sampled_from(ODD), min_size=1, max_size=3).map("/".join)
EDITS = st.dictionaries(PATHS, st.one_of(st.none(), st.integers(0, 5)), max_size=8)
same_repository = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def empty_tree(repo: Repository) -> str:
    return str(repo.pygit.TreeBuilder().write())


def entry(repo: Repository, number: int) -> Entry:
    return Entry(MODES[number % 3], objects.write_blob(repo, b"content %d\n" % number))


def apply(model: dict[str, Entry], changes: dict[str, Entry | None]) -> dict[str, Entry]:
    """What write_tree promises, on a dict: removals, then additions that clear their way."""
    result = dict(model)
    for path, change in changes.items():
        if change is None:
            result = {p: e for p, e in result.items() if p != path and not p.startswith(f"{path}/")}
    for path, change in sorted(changes.items()):
        if change is not None:
            parts = path.split("/")
            above = {"/".join(parts[:count]) for count in range(1, len(parts))}
            result = {
                p: e for p, e in result.items() if p not in above and not p.startswith(f"{path}/")
            }
            result[path] = change
    return result


@same_repository
@given(rounds=st.lists(EDITS, min_size=1, max_size=3))
def test_tree_edits_match_a_dict(
    repository: Repository, rounds: list[dict[str, int | None]]
) -> None:
    tree, model = empty_tree(repository), dict[str, Entry]()
    for edits in rounds:
        changes = {p: None if n is None else entry(repository, n) for p, n in edits.items()}
        before, old = tree, model
        tree, model = objects.write_tree(repository, tree, changes), apply(model, changes)
        assert objects.list_tree(repository, tree) == model
        assert objects.diff_trees(repository, before, tree) == {
            path: (old.get(path), model.get(path))
            for path in old.keys() | model.keys()
            if old.get(path) != model.get(path)
        }
        for path in changes:
            found = objects.entry_at(repository, tree, path)
            assert found == model.get(path) or (found is not None and found.mode == TREE)
    listed = run_git(["ls-tree", "-r", "-z", tree], cwd=repository.workdir).stdout
    assert {os.fsdecode(line.partition(b"\t")[2]) for line in listed.split(b"\0") if line} == set(
        model
    )
    assert run_git(["fsck", "--strict"], cwd=repository.workdir).returncode == 0


def test_an_order_that_git_checks(repository: Repository) -> None:
    names = ["a", "a.b", "a/x", "a0", os.fsdecode(b"a\xff"), os.fsdecode(b"\xff/y")]
    changes = {name: entry(repository, 1) for name in names if name != "a"}
    tree = objects.write_tree(repository, empty_tree(repository), changes)
    assert set(objects.list_tree(repository, tree)) == set(changes)
    run_git(["tag", "t", tree], cwd=repository.workdir)
    assert "warning" not in run_git(["fsck", "--strict"], cwd=repository.workdir).stderr


def test_an_id_that_looks_like_an_entry_is_not_taken_for_one() -> None:
    looks = Entry(0o100644, b"0100644 b\x00".ljust(20, b"x").hex())
    other = Entry(TREE, "2" * 40)
    content = objects.edit_content(b"", {b"a": looks})
    assert objects.find_in(content, b"b") is None
    both = objects.edit_content(content, {b"b": other})
    assert (objects.find_in(both, b"a"), objects.find_in(both, b"b")) == (looks, other)
    replaced = objects.edit_content(both, {b"b": Entry(TREE, "3" * 40)})
    assert objects.find_in(replaced, b"b") == Entry(TREE, "3" * 40)
    assert objects.edit_content(replaced, {b"b": None}) == content


def test_edges_of_edits(repository: Repository) -> None:
    one, two = entry(repository, 1), entry(repository, 2)
    base = objects.write_tree(
        repository, empty_tree(repository), {"a/b": one, "a/c": one, "f": one}
    )

    def edited(changes: dict[str, Entry | None]) -> dict[str, Entry]:
        return objects.list_tree(repository, objects.write_tree(repository, base, changes))

    assert edited({}) == {"a/b": one, "a/c": one, "f": one}
    assert edited({"a": None}) == {"f": one}
    assert edited({"a": None, "a/d": two}) == {"a/d": two, "f": one}
    assert edited({"f": None, "f/x": two, "a/b": None}) == {"a/c": one, "f/x": two}
    assert edited({"a": two, "a/b": None, "a/c": None}) == {"a": two, "f": one}
    assert edited({"f/x": None, "no/such": None}) == {"a/b": one, "a/c": one, "f": one}
    assert edited({"a": None, "f": None}) == {}
    assert objects.write_tree(repository, base, {"f": one}) == base


def test_errors_name_what_is_wrong(repository: Repository) -> None:
    head = objects.tree_of(repository, repository.head_commit())
    missing = Entry(0o100644, "1" * 40)
    for changes in ({"x": missing}, {".git/x": entry(repository, 1)}, {"a\0b": None}):
        with pytest.raises(RepositoryError) as caught:
            objects.write_tree(repository, head, changes)
        assert caught.value.hint
    for call in (
        lambda: objects.read_blob(repository, "1" * 40),
        lambda: objects.read_blob(repository, head),
        lambda: objects.read_blob(repository, "nonsense"),
        lambda: objects.tree_of(repository, "1" * 40),
        lambda: objects.list_tree(repository, "1" * 40),
        lambda: objects.entry_at(repository, objects.write_blob(repository, b"x"), "x"),
    ):
        with pytest.raises(RepositoryError):
            call()


def test_entries_folders_and_submodules(repository: Repository) -> None:
    top, head = repository.workdir, repository.head_commit()
    run_git(["update-index", "--add", "--cacheinfo", f"160000,{head},rules/sub"], cwd=top)
    run_git(["commit", "--quiet", "-m", "sub"], cwd=top)
    tree = objects.tree_of(repository, repository.head_commit())
    blob = Entry(0o100644, "78981922613b2afb6025042ff6bd878ac1994e85")
    assert objects.entry_at(repository, tree, "rules/a.txt") == blob
    assert objects.entry_at(repository, tree, "rules/sub") == Entry(0o160000, head)
    folder = objects.entry_at(repository, tree, "rules")
    assert folder is not None and folder.mode == TREE
    assert objects.entry_at(repository, tree, "rules/sub/x") is None
    assert objects.entry_at(repository, tree, "rules/a.txt/x") is None
    assert objects.entry_at(repository, tree, "") == Entry(TREE, tree)
    below = {"rules/a.txt": blob, "rules/sub": Entry(0o160000, head)}
    assert objects.list_tree(repository, tree, "rules") == below
    assert objects.list_tree(repository, tree, "rules/a.txt") == {"rules/a.txt": blob}
    assert objects.list_tree(repository, tree, "rule") == {}


def test_differences_of_two_trees(repository: Repository) -> None:
    old = objects.tree_of(repository, repository.head_commit())
    blob = Entry(0o100644, objects.write_blob(repository, b"a\nb\n\xff\n"))
    raw = Entry(0o100644, objects.write_blob(repository, b"\0\1"))
    link = Entry(0o120000, objects.write_blob(repository, b"rules/a.txt"))
    changes = {"rules/a.txt": blob, "rules/raw": raw, "README.md": link, "rulesx": blob}
    new = objects.write_tree(repository, old, changes)
    whole = objects.diff_trees(repository, old, new)
    assert {path: after for path, (_, after) in whole.items()} == changes
    assert whole["README.md"][0] == objects.entry_at(repository, old, "README.md")
    text = objects.diff_text(repository, old, new)
    assert "diff --git a/rules/a.txt b/rules/a.txt\n" in text
    assert "\n a\n+b\n+�\n" in text
    assert "Binary files" in text
    stat = objects.diff_stat(repository, old, new)
    assert stat["rules/a.txt"] == objects.LineCounts(added=2, removed=0, binary=False)
    assert stat["rules/raw"].binary
    assert objects.diff_trees(repository, old, old) == {}


def test_a_diff_that_git_applies(repository: Repository, tmp_path: Path) -> None:
    old = objects.tree_of(repository, repository.head_commit())
    blob = Entry(0o100755, objects.write_blob(repository, b"no newline at end"))
    new = objects.write_tree(repository, old, {"rules/a.txt": None, "ünew x.txt": blob})
    text = objects.diff_text(repository, old, new)
    run_git(["apply", "--index", "-"], cwd=repository.workdir, stdin=text.encode())
    assert run_git(["write-tree"], cwd=repository.workdir).stdout.decode().strip() == new


def test_patches_of_files_that_come_go_or_change_kind(repository: Repository) -> None:
    one, other = (
        objects.Entry(0o100644, objects.write_blob(repository, text)) for text in (b"a\n", b"b")
    )
    assert file_patch(repository, None, one, 9).hunks[0].lines == ("+a",)
    assert file_patch(repository, one, None, 9).hunks[0].lines == ("-a",)
    lines = file_patch(repository, one, other, 9).hunks[0].lines
    assert lines == ("-a", "+b", "\\ no line break at the end")
    cut = file_patch(repository, one, other, 1)
    assert (cut.left_out, cut.added, cut.removed) == (2, 1, 1)
    module = objects.Entry(objects.SUBMODULE, "1" * 40)
    assert file_patch(repository, module, None, 9).hunks[0].lines == (f"-commit {'1' * 40}",)
