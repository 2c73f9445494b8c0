"""Hooks beside the user's own: kept, called as before, put back."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from autopilot.errors import RepositoryError, UsageError
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository
from autopilot.sharing.hooks import (
    CLIENT,
    SERVER,
    hook_folder,
    hook_texts,
    install_hooks,
    script,
    state_of,
    uninstall_hooks,
)


def write(path: Path, text: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def picture(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        p.name: (f"-> {p.readlink()}" if p.is_symlink() else p.read_text(), p.lstat().st_mode)
        for p in folder.iterdir()
    }


@pytest.fixture
def hooks(repository: Repository) -> Path:
    folder = repository.git_dir / "hooks"
    for path in folder.iterdir():
        path.unlink()
    return folder


def states(repository: Repository) -> dict[str, str]:
    folder = hook_folder(repository.workdir)
    return {n: state_of(folder, n, t).state for n, t in hook_texts(folder).items()}


def test_installed_and_removed_leaves_what_was_there(repository, hooks):
    write(hooks / "pre-push", "#!/bin/sh\nexit 0\n", 0o750)
    write(hooks / "pre-commit", "not executable\n", 0o644)
    write(repository.workdir / "tools" / "merge.py", "#!/usr/bin/env python3\n")
    (hooks / "post-merge").symlink_to("../../tools/merge.py")
    (hooks / "post-rewrite").symlink_to("../../tools/nothing-there")
    before, folder = picture(hooks), hook_folder(repository.workdir)
    assert folder.path == hooks
    assert set(states(repository).values()) == {"foreign"}
    install_hooks(folder, hook_texts(folder))
    assert set(states(repository).values()) == {"installed"}
    assert (hooks / "pre-push").stat().st_mode & stat.S_IXUSR
    again = picture(hooks)
    install_hooks(folder, hook_texts(folder))
    assert picture(hooks) == again
    uninstall_hooks(folder, hook_texts(folder))
    assert picture(hooks) == before
    uninstall_hooks(folder, hook_texts(folder))
    assert picture(hooks) == before


def test_a_folder_that_was_not_there_is_gone_again(repository, hooks):
    hooks.rmdir()
    folder = hook_folder(repository.workdir)
    install_hooks(folder, hook_texts(folder))
    assert sorted(p.name for p in hooks.iterdir()) == sorted(CLIENT)
    uninstall_hooks(folder, hook_texts(folder))
    assert not hooks.exists()


def test_another_version_is_renewed_and_an_edited_one_is_not(repository, hooks):
    folder = hook_folder(repository.workdir)
    texts = hook_texts(folder, ["pre-push"])
    write(hooks / "pre-push", script("pre-push", "echo an older one\n"))
    assert state_of(folder, "pre-push", texts["pre-push"]).state == "outdated"
    install_hooks(folder, texts)
    assert state_of(folder, "pre-push", texts["pre-push"]).state == "installed"
    write(hooks / "pre-push", texts["pre-push"] + "echo mine\n")
    for change in (install_hooks, uninstall_hooks):
        with pytest.raises(UsageError, match="edited by hand"):
            change(folder, texts)
    uninstall_hooks(folder, texts, force=True)
    assert not (hooks / "pre-push").exists()


def test_a_kill_between_the_two_renames_is_mended(repository, hooks):
    folder = hook_folder(repository.workdir)
    texts = hook_texts(folder, ["pre-push"])
    write(hooks / "pre-push.before-autopilot", "#!/bin/sh\necho mine\n")
    install_hooks(folder, texts)
    assert state_of(folder, "pre-push", texts["pre-push"]).chained
    uninstall_hooks(folder, texts)
    assert picture(hooks).keys() == {"pre-push"}


def test_a_hook_that_replaced_ours_is_not_lost(repository, hooks):
    folder = hook_folder(repository.workdir)
    texts = hook_texts(folder, ["pre-push"])
    write(hooks / "pre-push", "#!/bin/sh\necho old\n")
    install_hooks(folder, texts)
    write(hooks / "pre-push", "#!/bin/sh\necho new\n")
    before = picture(hooks)
    with pytest.raises(UsageError, match="two hooks pre-push are yours"):
        install_hooks(folder, texts)
    assert picture(hooks) == before
    # A tool that writes its hooks anew writes the same.
    write(hooks / "pre-push", "#!/bin/sh\necho old\n")
    install_hooks(folder, texts)
    assert (hooks / "pre-push.before-autopilot").read_text() == "#!/bin/sh\necho old\n"


HUSKY_LIKE = """#!/usr/bin/env sh
. "$(dirname "$0")/lib.sh"
"""
LIB = """echo "$(basename "$0")|$*|$(cat)" >>"$(dirname "$0")/log"
exit 3
"""
PYTHON = """#!/usr/bin/env python3
import pathlib, sys
line = f"{sys.argv[1:]}|{sys.stdin.read()}"
pathlib.Path(__file__).with_name("log").write_text(line)
sys.exit(4)
"""


def call(hook: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(hook), *arguments], input=stdin, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("shebang", ["#!/bin/sh", "#!/usr/bin/env bash", "#!/bin/sh -e"])
def test_a_shell_hook_finds_itself_as_before(repository, hooks, shebang):
    # Tools that put one line into each hook find out by $0 which they are and where.
    write(hooks / "pre-push", HUSKY_LIKE.replace("#!/usr/bin/env sh", shebang))
    write(hooks / "lib.sh", LIB, 0o644)
    folder = hook_folder(repository.workdir)
    install_hooks(folder, hook_texts(folder))
    done = call(hooks / "pre-push", "origin", "a b", stdin="one\n\ntwo")
    assert done.returncode == 3
    assert (hooks / "log").read_text() == "pre-push|origin a b|one\n\ntwo\n"


def test_a_program_is_called_with_the_same_input(repository, hooks):
    write(hooks / "pre-push", PYTHON)
    folder = hook_folder(repository.workdir)
    install_hooks(folder, hook_texts(folder))
    assert call(hooks / "pre-push", "o", "u", stdin="a\nb\n").returncode == 4
    assert (hooks / "log").read_text() == "['o', 'u']|a\nb\n"


def test_hooks_path_is_respected(repository, hooks, git_environment):
    top = repository.workdir
    run_git(["config", "core.hooksPath", ".githooks"], cwd=top)
    (top / "rules" / "deep").mkdir()
    folder = hook_folder(top / "rules" / "deep")
    assert (folder.path, folder.tracked, folder.shared) == (top / ".githooks", True, False)
    install_hooks(folder, hook_texts(folder))
    assert (top / ".githooks" / "pre-push").exists()
    assert picture(hooks) == {}
    run_git(["config", "--unset", "core.hooksPath"], cwd=top)
    shared = write(git_environment / "my hooks" / "pre-push", "#!/bin/sh\n").parent
    run_git(["config", "--global", "core.hooksPath", "~/my hooks"], cwd=top)
    folder = hook_folder(top)
    assert (folder.path, folder.shared) == (shared, True)
    before = picture(shared)
    with pytest.raises(UsageError, match="for all of your repositories") as raised:
        install_hooks(folder, hook_texts(folder))
    assert "git config core.hooksPath .git/hooks" in raised.value.hint
    assert picture(shared) == before
    install_hooks(folder, hook_texts(folder), force=True)
    assert picture(shared).keys() == {*CLIENT, "pre-push.before-autopilot"}
    uninstall_hooks(folder, hook_texts(folder))
    assert picture(shared) == before


def test_linked_worktrees_share_and_bare_repositories_have_their_own(repository, tmp_path, hooks):
    run_git(["worktree", "add", "-q", "--detach", str(tmp_path / "w")], cwd=repository.workdir)
    assert hook_folder(tmp_path / "w").path == hooks
    run_git(["init", "-q", "--bare", str(tmp_path / "r.git")], cwd=tmp_path)
    folder = hook_folder(tmp_path / "r.git")
    assert (folder.path, folder.bare) == (tmp_path / "r.git" / "hooks", True)
    assert tuple(hook_texts(folder)) == SERVER
    with pytest.raises(RepositoryError, match="not in a git repository"):
        hook_folder(tmp_path)
    with pytest.raises(UsageError, match="no hook 'post-commit'"):
        hook_texts(folder, ["post-commit"])


def test_hooks_that_are_switched_off_are_said_so(repository):
    run_git(["config", "core.hooksPath", "/dev/null"], cwd=repository.workdir)
    folder = hook_folder(repository.workdir)
    with pytest.raises(UsageError, match="/dev/null is no folder") as caught:
        install_hooks(folder, hook_texts(folder))
    assert "git config --unset core.hooksPath" in caught.value.hint
