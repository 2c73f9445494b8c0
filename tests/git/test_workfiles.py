"""autopilot.git.workfiles, compared with what `git add` stores and `git checkout` writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopilot.errors import ParameterError, RepositoryError
from autopilot.files import list_files
from autopilot.git import objects, workfiles
from autopilot.git.commands import run_git
from autopilot.git.objects import Entry
from autopilot.git.repository import Repository
from autopilot.git.workfiles import FilesBelow, WorkFiles, everything_below, stamps_of

ODD = [
    "a",
    "b c",
    "ü",
    "new\nline",
    "-dash",
    "*",
    "[x]",
    '"q"',
    ":(top)x",
    os.fsdecode(b"\xff\xfe"),
]
NAMES = st.lists(st.sampled_from(ODD), min_size=1, max_size=3).map("/".join)
CONTENTS = st.tuples(
    st.sampled_from([0o100644, 0o100755, 0o120000]),
    st.binary(max_size=40) | st.just(b"a\r\nb\n") | st.just(b"\0\r\n"),
)


@pytest.fixture
def files(repository: Repository) -> WorkFiles:
    return WorkFiles(repository, repository.workdir)


def settle(top: Path) -> None:
    """Makes all files look as if they had been written a while ago; ctime needs a wait."""
    time.sleep(0.05)


def git(files: WorkFiles, *arguments: str) -> str:
    return run_git(arguments, cwd=files.root).stdout.decode("utf-8", "surrogateescape")


def added(files: WorkFiles) -> dict[str, Entry]:
    """What `git add --all` stores."""
    git(files, "add", "--all")
    return objects.list_tree(files.repo, git(files, "write-tree").strip())


def test_hash_is_what_git_add_stores(files: WorkFiles) -> None:
    top = files.root
    (top / "bin").write_bytes(b"\0\r\n\xff")
    (top / "crlf.txt").write_bytes(b"a\r\nb\r\n")
    (top / "run.sh").write_bytes(b"#!/bin/sh\n")
    (top / "run.sh").chmod(0o755)
    (top / "link").symlink_to("rules/a.txt")
    (top / "dangling").symlink_to("no/where")
    (top / "dir").symlink_to("rules")
    os.mkfifo(top / "pipe")
    names = ["bin", "crlf.txt", "run.sh", "link", "dangling", "dir", "README.md", "rules/a.txt"]
    hashed = files.hash([*names, "rules", "dir/a.txt", "missing", "README.md/x", "pipe"])
    none = dict.fromkeys(["rules", "dir/a.txt", "missing", "README.md/x", "pipe"])
    assert hashed == added(files) | none
    assert {name: entry.mode for name, entry in hashed.items() if entry} == {
        "README.md": 0o100644,
        "rules/a.txt": 0o100644,
        "bin": 0o100644,
        "crlf.txt": 0o100644,
        "run.sh": 0o100755,
        "link": 0o120000,
        "dangling": 0o120000,
        "dir": 0o120000,
    }


def test_hash_without_writing_stores_nothing(files: WorkFiles) -> None:
    (files.root / "new").write_bytes(b"never stored\n")
    settle(files.root)
    entry = files.hash(["new"], write=False)["new"]
    assert entry is not None
    with pytest.raises(RepositoryError):
        objects.read_blob(files.repo, entry.oid)
    assert files.hash(["new"]) == {"new": entry}
    assert objects.read_blob(files.repo, entry.oid) == b"never stored\n"


def test_unchanged_files_are_not_read_again(
    files: WorkFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(files.root)
    first = files.hash(["README.md", "rules/a.txt"])
    read: list[Path] = []
    original = workfiles.read_file
    monkeypatch.setattr(workfiles, "read_file", lambda path: (read.append(path), original(path))[1])
    assert files.hash(["README.md", "rules/a.txt"]) == first
    assert read == []
    (files.root / "README.md").write_text("changed\n")
    assert files.hash(["README.md", "rules/a.txt"])["README.md"] != first["README.md"]
    assert read == [files.root / "README.md"]
    files.forget()
    files.hash(["rules/a.txt"])
    assert read[1:] == [files.root / "rules" / "a.txt"]


def test_quick_changes_of_the_same_size_are_seen(files: WorkFiles) -> None:
    path = files.root / "README.md"
    seen = set()
    for number in range(200):
        path.write_text(f"{number:03}\n")
        entry = files.hash(["README.md"])["README.md"]
        assert entry is not None
        seen.add(entry.oid)
    assert len(seen) == 200


def test_a_change_that_keeps_size_and_mtime_is_seen(files: WorkFiles) -> None:
    path = files.root / "README.md"
    settle(files.root)
    before, status = files.hash(["README.md"]), path.stat()
    path.write_text("READMe\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert files.hash(["README.md"]) != before


@pytest.mark.parametrize(
    ("mtime_ns", "ctime_ns", "read_ns", "settled"),
    [
        (1_000_000_001, 1_000_000_001, 1_010_000_000, False),
        (1_000_000_001, 1_000_000_001, 1_030_000_000, True),
        (1_000_000_001, 1_020_000_000, 1_030_000_000, False),
        (2_000_000_000, 2_000_000_000, 4_000_000_000, False),
        (2_000_000_000, 2_000_000_000, 4_200_000_000, True),
        (9_000_000_000, 1_000_000_001, 4_200_000_000, False),
    ],
)
def test_when_a_files_times_can_be_trusted(
    mtime_ns: int, ctime_ns: int, read_ns: int, settled: bool
) -> None:
    assert workfiles._is_settled((mtime_ns, 1, ctime_ns, 1, 1), read_ns) is settled


def snapshot(top: Path) -> dict[str, tuple[int, bytes]]:
    found = {}
    for folder, folders, names in os.walk(top):
        if folder == str(top):
            folders.remove(".git")
        for name in [*names, *(f for f in folders if (Path(folder) / f).is_symlink())]:
            path = Path(folder) / name
            content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
            mode = 0o120000 if path.is_symlink() else 0o100755 if os.access(path, 1) else 0o100644
            if os.geteuid() == 0 and not path.is_symlink():
                mode = 0o100755 if path.stat().st_mode & 0o100 else 0o100644
            found[path.relative_to(top).as_posix()] = (mode, content)
    return found


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(states=st.lists(st.dictionaries(NAMES, CONTENTS, max_size=6), min_size=2, max_size=4))
def test_restore_goes_from_any_tree_to_any_other(
    repository: Repository, states: list[dict[str, tuple[int, bytes]]]
) -> None:
    files = WorkFiles(repository, repository.workdir)
    empty = str(repository.pygit.TreeBuilder().write())
    tree = objects.tree_of(repository, repository.head_commit())
    files.restore(dict(objects.list_tree(repository, tree)))
    for state in states:
        entries = {
            name: Entry(
                mode, objects.write_blob(repository, b"link" if mode == 0o120000 else content)
            )
            for name, (mode, content) in state.items()
        }
        new = objects.write_tree(repository, empty, entries)
        changes = objects.diff_trees(repository, tree, new)
        files.restore({name: after for name, (_, after) in changes.items()})
        wanted = objects.list_tree(repository, new)
        assert snapshot(files.root) == {
            name: (entry.mode, objects.read_blob(repository, entry.oid))
            for name, entry in wanted.items()
        }
        assert files.hash(list(wanted)) == wanted
        tree = new
    files.restore(dict.fromkeys(objects.list_tree(repository, tree)))
    assert snapshot(files.root) == {}
    base = objects.tree_of(repository, repository.head_commit())
    files.restore(dict(objects.list_tree(repository, base)))
    assert git(files, "status", "--porcelain") == ""


def test_names_that_need_conversion_in_a_subfolder(files: WorkFiles) -> None:
    top = files.root
    (top / ".gitattributes").write_text("* text eol=crlf\n*.raw -text\n")
    names = [name for name in ODD if "/" not in name] + ["x.raw"]
    for name in names:
        (top / "rules" / name).write_bytes(b"a\r\nb\r\n")
    below = WorkFiles(files.repo, top / "rules")
    hashed = below.hash(names)
    stored = added(files)
    assert hashed == {name: stored[f"rules/{name}"] for name in names}
    lf = hashed["a"]
    assert lf is not None
    assert objects.read_blob(files.repo, lf.oid) == b"a\nb\n"
    before = snapshot(top)
    for name in names:
        (top / "rules" / name).write_bytes(b"other")
    below.restore(hashed)
    assert snapshot(top) == before


def test_files_without_carriage_returns_need_no_process(
    files: WorkFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files.root / ".gitattributes").write_text("* text=auto\n")
    first = files.hash(["README.md"])
    monkeypatch.setenv("PATH", "")
    (files.root / "README.md").write_text("changed\n")
    changed = files.hash(["README.md"])
    files.restore(first)
    assert (files.root / "README.md").read_text() == "readme\n"
    assert changed != first


@pytest.mark.parametrize("autocrlf", ["true", "input", "false"])
@pytest.mark.parametrize(
    "attributes",
    ["", "* text=auto", "* text", "* -text", "* eol=lf", "* crlf", "* -crlf", "* crlf=input"],
)
def test_line_endings_as_git_has_them(files: WorkFiles, autocrlf: str, attributes: str) -> None:
    top = files.root
    git(files, "config", "core.autocrlf", autocrlf)
    (top / ".gitattributes").write_text(f"{attributes}\n")
    contents = {"lf": b"a\nb\n", "crlf": b"a\r\nb\r\n", "mixed": b"a\r\nb\n", "binary": b"\0\r\n\n"}
    for name, content in contents.items():
        (top / name).write_bytes(content)
    hashed = files.hash(list(contents))
    stored = added(files)
    assert hashed == {name: stored[name] for name in contents}
    for name in contents:
        (top / name).unlink()
    git(files, "checkout-index", "--all", "--force")
    checked_out = snapshot(top)
    for name in contents:
        (top / name).write_bytes(b"other")
    files.restore(hashed)
    assert snapshot(top) == checked_out


def test_what_was_committed_with_crlf_keeps_it(files: WorkFiles) -> None:
    top = files.root
    (top / "old.txt").write_bytes(b"a\r\n")
    git(files, "add", "old.txt")
    git(files, "commit", "-qm", "crlf")
    (top / ".gitattributes").write_text("* text=auto\n")
    (top / "old.txt").write_bytes(b"a\r\nb\r\n")
    (top / "new.txt").write_bytes(b"a\r\nb\r\n")
    hashed = files.hash(["old.txt", "new.txt"])
    stored = added(files)
    assert hashed == {name: stored[name] for name in ("old.txt", "new.txt")}
    assert hashed["old.txt"] != hashed["new.txt"]


def test_filters_ident_and_encodings(files: WorkFiles) -> None:
    top = files.root
    git(files, "config", "filter.rot.clean", "tr a-z b-za")
    git(files, "config", "filter.rot.smudge", "tr b-za a-z")
    (top / ".gitattributes").write_text(
        "*.rot filter=rot\n*.id ident\n*.u16 working-tree-encoding=UTF-16 text\n*.no filter=none\n"
    )
    contents = {
        "x.rot": b"abc\n",
        "new\nline.rot": b"xyz\n",
        "y.id": b"$Id$\n",
        "z.u16": "ü\n".encode("utf-16"),
        "w.no": b"as is\n",
    }
    for name, content in contents.items():
        (top / name).write_bytes(content)
    hashed = files.hash(list(contents))
    stored = added(files)
    assert hashed == {name: stored[name] for name in contents}
    rot = hashed["x.rot"]
    assert rot is not None
    assert objects.read_blob(files.repo, rot.oid) == b"bcd\n"
    for name in contents:
        (top / name).write_bytes(b"other")
    files.restore(hashed)
    assert {n: (top / n).read_bytes() for n in ("x.rot", "new\nline.rot", "w.no")} == {
        n: contents[n] for n in ("x.rot", "new\nline.rot", "w.no")
    }
    assert b"$Id: " in (top / "y.id").read_bytes()
    assert (top / "z.u16").read_bytes().decode("utf-16") == "ü\n"
    assert files.hash(list(contents)) == hashed


def test_a_filter_that_fails_is_told(files: WorkFiles) -> None:
    git(files, "config", "filter.bad.clean", "false")
    git(files, "config", "filter.bad.required", "true")
    (files.root / ".gitattributes").write_text("*.x filter=bad\n")
    (files.root / "a.x").write_text("x")
    with pytest.raises(RepositoryError, match=r"git cannot convert a\.x"):
        files.hash(["a.x"])


def test_changed_attributes_are_noticed(files: WorkFiles) -> None:
    top = files.root
    (top / "a.txt").write_bytes(b"a\r\n")
    settle(top)
    raw = files.hash([".gitattributes", "a.txt"])["a.txt"]
    (top / ".gitattributes").write_text("* text\n")
    hashed = files.hash([".gitattributes", "a.txt"])
    assert hashed["a.txt"] != raw
    assert hashed["a.txt"] == added(files)["a.txt"]


def test_file_modes_without_a_file_system_that_has_them(files: WorkFiles) -> None:
    git(files, "config", "core.filemode", "false")
    (files.root / "README.md").chmod(0o755)
    (files.root / "link").symlink_to("rules")
    hashed = files.hash(["README.md", "link"])
    assert [entry and entry.mode for entry in hashed.values()] == [0o100644, 0o120000]


def test_nothing_is_written_through_a_linked_folder(files: WorkFiles, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.txt").write_text("theirs\n")
    entry = files.hash(["rules/a.txt"])["rules/a.txt"]
    (files.root / "rules" / "a.txt").unlink()
    (files.root / "rules").rmdir()
    (files.root / "rules").symlink_to(outside)
    with pytest.raises(ParameterError, match="rules is a symbolic link"):
        files.restore({"README.md": None, "rules/a.txt": entry})
    assert (files.root / "README.md").exists(), "all names are checked first"
    files.restore({"rules/a.txt": None})
    files.restore({"rules": None, "rules/a.txt": entry})
    assert (files.root / "rules" / "a.txt").read_text() == "a\n"
    assert (outside / "a.txt").read_text() == "theirs\n"


def test_submodules_and_nested_repositories_are_left_alone(files: WorkFiles) -> None:
    entry = files.hash(["README.md"])["README.md"]
    with pytest.raises(ParameterError, match="it is a submodule"):
        files.restore({"sub": Entry(0o160000, files.repo.head_commit())})
    git(files, "init", "-q", "nested")
    for name in ("nested", "nested/x", "nested/y/z"):
        with pytest.raises(ParameterError, match="nested is a repository of its own"):
            files.restore({name: entry})
    for name in ("../x", "/x", ".git/config", "a/../x"):
        with pytest.raises(ParameterError):
            files.restore({name: entry})


def test_a_missing_blob_changes_nothing(files: WorkFiles) -> None:
    with pytest.raises(RepositoryError, match="cannot read blob"):
        files.restore({"README.md": None, "x": Entry(0o100644, "1" * 40)})
    assert (files.root / "README.md").exists()


def test_a_folder_that_is_replaced_whole_stays_the_same_folder(files: WorkFiles) -> None:
    entry = files.hash(["README.md"])["README.md"]
    before = (files.root / "rules").stat().st_ino
    files.restore({"rules/a.txt": None, "rules/b.txt": entry})
    assert (files.root / "rules").stat().st_ino == before


def test_an_unreadable_file_is_told(files: WorkFiles) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (files.root / "README.md").chmod(0)
    with pytest.raises(ParameterError, match="cannot read README"):
        files.hash(["README.md"])


def test_git_sees_a_clean_worktree_after_restore(files: WorkFiles) -> None:
    head = objects.list_tree(files.repo, objects.tree_of(files.repo, files.repo.head_commit()))
    subprocess.run("rm README.md; echo x > rules/a.txt", shell=True, cwd=files.root, check=True)
    files.restore(dict(head))
    assert git(files, "status", "--porcelain") == ""


def test_settling_writes_what_a_checkout_would(files: WorkFiles) -> None:
    top = files.root
    (top / ".gitattributes").write_text("*.crlf text eol=crlf\n*.lf text eol=lf\n")
    for name in ("a.crlf", "a.lf", "a.raw"):
        (top / name).write_bytes(b"a\r\nb\n")
    files.settle(["a.crlf", "a.lf", "a.raw", "missing.lf"])
    assert (top / "a.crlf").read_bytes() == b"a\r\nb\r\n"
    assert (top / "a.lf").read_bytes() == b"a\nb\n"
    assert (top / "a.raw").read_bytes() == b"a\r\nb\n"


def everything(_name: str) -> bool:
    return True


@pytest.fixture
def top(repository: Repository) -> Path:
    """A worktree with what a folder of files may hold."""
    top = repository.workdir
    for name in ("rules/deep/er/b.md", "rules/deep/c.txt", "rules/.git/config", "other/d.md"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(f"{name}\n")
    (top / "rules" / ".autopilot-tmp-1").touch()
    (top / "rules" / "link").symlink_to("deep")
    (top / "rules" / "dangling").symlink_to("nowhere")
    os.mkfifo(top / "rules" / "pipe")
    (top / os.fsdecode(b"rules/\xff")).write_text("no UTF-8\n")
    return top


def test_below_a_folder_are_the_files_that_are_listed_there(top: Path) -> None:
    for folder in ("rules/", ""):
        listed = [folder + name for name in list_files(top / folder)]
        files = WorkFiles(Repository.discover(top), top)
        found = files.hash_below(FilesBelow(top, folder, everything), {})
        assert sorted(found) == listed
        assert found == files.hash(listed)


def test_only_accepted_and_known_names_are_looked_at(top: Path) -> None:
    settle(top)
    known = dict.fromkeys(["rules/a.txt", "rules/missing", "README.md"])
    for turns in ([{}, known, {}], [known, {}, known]):
        below = FilesBelow(top, "rules/", lambda name: name.endswith(".md"))
        for each in turns:
            also = {"rules/a.txt"} if each else set()
            assert {*below.stamps(each)} == {"rules/deep/er/b.md", *also}


def test_both_ways_give_the_same_stamp(top: Path) -> None:
    below = FilesBelow(top, "rules/", everything).stamps({})
    assert below == dict(stamps_of(top, [*below, "rules/missing", "rules/a.txt/x"]))
    status = (top / "rules/a.txt").stat()
    assert below["rules/a.txt"] == (
        status.st_mtime_ns,
        status.st_size,
        status.st_ctime_ns,
        status.st_ino,
        status.st_mode,
    )


def test_nothing_is_below_what_is_no_folder(top: Path) -> None:
    for folder in ("missing/", "README.md/", "rules/link/", "rules/link/er/"):
        assert FilesBelow(top, folder, everything).stamps({}) == {}
    assert FilesBelow(top / "missing", "", everything).stamps({}) == {}


def test_a_folder_is_listed_again_only_where_a_name_came_or_went(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below, listed, original = FilesBelow(top, "rules/", everything), list[str](), os.scandir

    def scandir(folder: int) -> object:
        listed.append(os.readlink(f"/proc/self/fd/{folder}"))
        return original(folder)

    monkeypatch.setattr(workfiles.os, "scandir", scandir)
    long_ago = (top / "rules").stat().st_ctime_ns - 1
    with monkeypatch.context() as earlier:
        earlier.setattr(workfiles.time, "time_ns", lambda: long_ago)
        first = below.stamps({})
    folders = [f"{top}/rules{each}" for each in ("", "/deep", "/deep/er")]
    assert listed == folders
    settle(top)
    assert below.stamps({}) == below.stamps({}) == first
    assert listed == folders * 2, "what was just changed is listed once more, and then never"
    (top / "rules/a.txt").write_text("in place\n")
    assert {name for name, stamp in below.stamps({}).items() if stamp != first[name]} == {
        "rules/a.txt"
    }
    (top / "rules/deep/new").touch()
    assert below.stamps({}).keys() - first.keys() == {"rules/deep/new"}
    assert listed[6:] == folders[1:2]


def test_whatever_happens_to_folders_is_seen(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules, outside = top / "rules", top / "other"

    def replace(new: Path, old: Path) -> None:
        shutil.rmtree(old)
        new.rename(old)

    changes: list[Callable[[], object]] = [
        lambda: shutil.copytree(rules / "deep", outside / "deep"),
        lambda: (outside / "deep/er/b.md").write_text("another, of the same name\n"),
        lambda: replace(outside / "deep", rules / "deep"),
        lambda: (rules / "deep/er/b.md").rename(rules / "deep/er/c.md"),
        lambda: (rules / "deep/c.txt").replace(rules / "deep/er/c.md"),
        lambda: (rules / "deep/er").rename(rules / "er"),
        lambda: ((rules / "a.txt").unlink(), (rules / "a.txt").mkdir()),
        lambda: (rules / "a.txt/b").touch(),
        lambda: (shutil.rmtree(rules / "a.txt"), (rules / "a.txt").symlink_to("er")),
        lambda: (rules / "er/.git").touch(),
        lambda: (rules / "er/.git").unlink(),
        lambda: rules.rename(top / "gone"),
        lambda: (top / "gone").rename(rules),
        lambda: (rules.rename(top / "gone"), rules.symlink_to("gone")),
    ]
    now_ns = time.time_ns
    # Folders count as unchanged at once; the system's clock has to tick in between.
    monkeypatch.setattr(workfiles.time, "time_ns", lambda: now_ns() + 10**9)
    below, seen = FilesBelow(top, "rules/", everything), list[dict[str, object]]()
    for change in changes:
        time.sleep(0.011)
        change()
        seen.append({**below.stamps({})})
        assert seen[-1] == FilesBelow(top, "rules/", everything).stamps({})
    assert all(one != other for one, other in pairwise(seen[1:])), "each of them counts"


def test_an_edit_is_seen_and_not_read_twice(top: Path) -> None:
    files = WorkFiles(Repository.discover(top), top)
    below = FilesBelow(top, "rules/", everything)
    before = files.hash_below(below, {})
    (top / "rules" / "a.txt").write_text("A\n")
    (top / "rules" / "deep" / "new.md").write_text("new\n")
    after = files.hash_below(below, {})
    assert after.keys() - before.keys() == {"rules/deep/new.md"}
    assert [name for name in before if before[name] != after[name]] == ["rules/a.txt"]
    (top / "rules" / "a.txt").unlink()
    assert "rules/a.txt" not in files.hash_below(below, {})


def test_attributes_that_appear_count_for_all_files_below(top: Path) -> None:
    files = WorkFiles(Repository.discover(top), top)
    (top / "rules" / "a.txt").write_bytes(b"a\r\n")
    below = FilesBelow(top, "rules/", everything)
    raw = files.hash_below(below, {})["rules/a.txt"]
    (top / "rules" / ".gitattributes").write_text("* text\n")
    assert files.hash_below(below, {})["rules/a.txt"] != raw


def test_a_folder_that_cannot_be_read_is_told(top: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (top / "other").chmod(0)
    with pytest.raises(ParameterError, match="cannot read other"):
        FilesBelow(top, "other/", everything).stamps({})


def test_everything_is_all_but_the_own_git_folder(top: Path) -> None:
    (top / "empty").mkdir()
    os.mkfifo(top / "pipe")
    found = everything_below(top)
    there = {path.relative_to(top).as_posix() for path in top.rglob("*")}
    assert found.keys() == {name for name in there if name.partition("/")[0] != ".git"}
    assert {"rules/.git/config", "rules/.autopilot-tmp-1", "rules/link", "pipe", "empty"} <= {
        *found
    }
    before = found["rules/deep/c.txt"]
    (top / "rules/deep/c.txt").write_text("rules/deep/c.TXT\n")
    os.utime(top / "rules/deep/c.txt", ns=(before[0], before[0]))
    assert everything_below(top)["rules/deep/c.txt"] != before, "times that were set back are seen"
