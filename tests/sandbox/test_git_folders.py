"""autopilot.sandbox.git_folders: a folder of the agent's own, and the user's put back."""

import pytest

from autopilot.git.commands import run_git
from autopilot.git.repository import Repository
from autopilot.git.worktrees import add_worktree
from autopilot.sandbox.git_folders import AGENT, GitFolder, PrivateGit


def git(folder, *arguments, **environment):
    return run_git(arguments, cwd=folder, environment=environment).stdout.decode().strip()


@pytest.fixture
def worktree(repository, tmp_path):
    return add_worktree(repository, tmp_path / "work tree", repository.head_commit())


def test_git_works_on_a_copy_and_what_it_writes_is_gone(repository, worktree, tmp_path):
    private, here = PrivateGit(worktree, tmp_path / "private"), worktree.workdir
    refs = git(repository.workdir, "for-each-ref")
    private.enter()
    assert git(here, "log", "--format=%s") == "first"
    assert git(here, "status", "--porcelain") == ""
    assert git(here, "rev-parse", "--show-toplevel") == str(here)
    (here / "README.md").write_text("x\n")
    git(here, "commit", "-qam", "evil")
    git(here, "branch", "evil")
    copy = "of the git folder: only in a copy, which is gone"
    assert private.leave() == [
        f"wrote HEAD {copy}",
        f"wrote refs/heads/evil {copy}",
        f"wrote the index {copy}",
    ]
    private.remove()
    assert git(repository.workdir, "for-each-ref") == refs
    assert git(here, "status", "--porcelain") == "M README.md"


def test_a_pointer_that_was_changed_is_put_back(worktree, tmp_path):
    private, pointer = PrivateGit(worktree, tmp_path / "private"), worktree.workdir / ".git"
    before = pointer.read_bytes()
    for change, told in (
        (lambda: pointer.write_text("gitdir: /elsewhere\n"), "changed .git: put back"),
        (lambda: (pointer.unlink(), pointer.mkdir()), "replaced .git by a folder: put back"),
    ):
        private.enter()
        assert pointer.read_bytes() != before
        change()
        assert told in private.leave()
        assert pointer.read_bytes() == before


def test_the_private_folder_is_made_anew_for_each_step_and_goes(worktree, tmp_path):
    private, here = PrivateGit(worktree, tmp_path / "private"), worktree.workdir
    # A killed step left one: nothing of it is taken over.
    (tmp_path / "private" / "hooks").mkdir(parents=True)
    (tmp_path / "private" / "hooks" / "pre-commit").write_text("evil")
    private.enter()
    assert not (tmp_path / "private" / "hooks" / "pre-commit").exists()
    here.chmod(0o505)  # the agent makes the worktree one that cannot be written
    assert private.leave() == []
    assert here.stat().st_mode & 0o777 == 0o705
    private.remove()
    assert not (tmp_path / "private").exists()
    assert git(here, "status", "--porcelain") == ""


def test_what_an_agent_does_to_the_users_folder_is_put_back(repository, worktree):
    top, common = repository.workdir, repository.common_dir
    git(top, "branch", "other")
    folder = GitFolder(repository, worktree, "a")
    folder.look()
    (common / "hooks").mkdir(exist_ok=True)
    (common / "hooks" / "pre-commit").write_text("evil")
    git(top, "update-ref", "refs/heads/autopilot/a", "HEAD")
    git(top, "update-ref", "-m", "x", "refs/heads/new", "HEAD", GIT_COMMITTER_NAME=AGENT)
    # The user's own doing, meanwhile.
    git(top, "branch", "mine")
    git(top, "switch", "-q", "-c", "topic")
    git(top, "branch", "--set-upstream-to=mine", "topic")
    assert folder.changed() == [
        "made hooks/pre-commit of the git folder",
        "made refs/heads/autopilot/a",
        "made refs/heads/new",
    ]
    assert folder.put_back() == [
        "made hooks/pre-commit of the git folder: removed (it is in .git/autopilot/undone/a)",
        "made refs/heads/autopilot/a: removed",
        "made refs/heads/new: removed",
    ]
    assert folder.changed() == []
    branches = git(top, "for-each-ref", "--format=%(refname:short)", "refs/heads").split()
    assert branches == ["main", "mine", "other", "topic"]
    assert (common / "autopilot/undone/a/hooks/pre-commit").read_text() == "evil"
    assert Repository.discover(top).head_name() == "topic"


def test_a_head_that_no_command_of_git_wrote_is_put_back(repository, worktree):
    folder, head = GitFolder(repository, worktree, "a"), repository.common_dir / "HEAD"
    folder.look()
    before = head.read_bytes()
    head.write_text("ref: refs/heads/elsewhere\n")
    assert folder.put_back() == [
        "changed HEAD of the git folder: put back (it is in .git/autopilot/undone/a)"
    ]
    assert head.read_bytes() == before


def test_what_other_candidates_write_meanwhile_is_left(repository, worktree):
    top, lines, notes = repository.workdir, "refs/autopilot/a/candidates", "refs/notes/autopilot/a"
    for number in (1, 2, 3):
        git(top, "update-ref", f"{lines}/1-{number}", "HEAD")
    folder = GitFolder(repository, worktree, "a")
    folder.look(f"{lines}/1-1")
    made = git(top, "commit-tree", "-p", "HEAD", "-m", "step", "HEAD^{tree}")
    forged = git(top, "commit-tree", "-m", "f", "HEAD^{tree}", GIT_COMMITTER_NAME=AGENT)
    moved = {f"{notes}/metrics": made, f"{notes}/llm": forged}
    moved |= {f"{lines}/1-1": made, f"{lines}/1-2": made, f"{lines}/1-3": forged}
    for name, oid in moved.items():
        git(top, "update-ref", name, oid)
    assert folder.put_back() == [
        f"moved {lines}/1-1: put back",
        f"moved {lines}/1-3: put back",
        f"made {notes}/llm: removed",
    ]
    assert git(top, "rev-parse", f"{lines}/1-2", f"{notes}/metrics").split() == [made, made]
