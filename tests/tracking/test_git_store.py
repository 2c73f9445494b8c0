"""The store's contract on git, and what plain git sees of it."""

import shlex
from pathlib import Path

import pygit2
import pytest

from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.records.record import Event, Lesson, Manifest, ProgressNote, StepRecord
from autopilot.core.store import Side
from autopilot.errors import (
    ExperimentError,
    LockHeldError,
    ParameterError,
    RecordError,
    RefMovedError,
    RepositoryError,
)
from autopilot.git.commands import run_git
from autopilot.testing import StoreContract
from autopilot.tracking import GitStore


def git(top, *arguments):
    return run_git(list(arguments), cwd=top).stdout.decode().strip()


class TestGitStore(StoreContract):
    @pytest.fixture(autouse=True)
    def environment(self, git_environment):
        pass

    def prepare(self, folder):
        git(folder, "init", "--quiet", "--initial-branch=main")
        git(folder, "config", "user.name", "Ada Byron")
        git(folder, "config", "user.email", "ada@example.com")
        git(folder, "add", "rules")
        git(folder, "commit", "--quiet", "--message=first")

    def make_store(self, folder):
        return GitStore("demo", folder)


@pytest.fixture
def top(repository):
    return Path(repository.workdir)


@pytest.fixture
def store(top):
    made = open_store(top)
    made.begin(Manifest(slug="demo"))
    yield made
    made.close()


def open_store(top, slug="demo", **options):
    made = GitStore(slug, top, **options)
    made.bind([PathParameter(top / "rules")])
    return made


def test_the_users_checkout_is_not_touched(top, store):
    (top / "README.md").write_text("edited, not committed\n")
    (top / "staged.txt").write_text("staged\n")
    git(top, "add", "staged.txt")
    before = [git(top, *a) for a in (["rev-parse", "HEAD"], ["status", "-s"], ["stash", "list"])]
    branch = git(top, "symbolic-ref", "HEAD")
    index = (top / ".git" / "index").read_bytes()
    (top / "rules" / "a.txt").write_text("b\n")
    store.commit(store.state(), "change\n", [])
    store.rollback(store.log()[-1].id, "back\n")
    assert git(top, "symbolic-ref", "HEAD") == branch
    assert (top / ".git" / "index").read_bytes() == index
    after = [git(top, *a) for a in (["rev-parse", "HEAD"], ["status", "-s"], ["stash", "list"])]
    assert after == before


def test_the_start_commit_has_the_base_as_parent_and_its_tree(top, store):
    assert git(top, "rev-parse", "autopilot/demo^") == git(top, "rev-parse", "main")
    assert git(top, "rev-parse", "autopilot/demo^{tree}") == git(top, "rev-parse", "main^{tree}")
    ((_, manifest),) = store.records(Manifest)
    assert manifest.base == git(top, "rev-parse", "main")
    assert manifest.base_branch == "main"
    assert manifest.parameters == {"rules": "rules"}


def test_a_revision_is_never_without_its_records(top, store, monkeypatch):
    (top / "rules" / "a.txt").write_text("b\n")
    state, tip = store.state(), store.tip
    monkeypatch.setattr("autopilot.git.refs.update_ref", killed)
    with pytest.raises(KeyboardInterrupt):
        store.commit(state, "change\n", [StepRecord(epoch=1, id="1-1", step=1, changed=True)])
    assert git(top, "rev-parse", "autopilot/demo") == tip
    assert store.records(StepRecord) == []
    monkeypatch.undo()
    made = store.commit(state, "change\n", [StepRecord(epoch=1, id="1-1", step=1, changed=True)])
    assert [revision for revision, _ in store.records(StepRecord)] == [made]


def killed(*_arguments):
    raise KeyboardInterrupt


def test_a_begin_that_was_killed_leaves_nothing_in_the_way(top, monkeypatch):
    first = open_store(top)
    monkeypatch.setattr("autopilot.git.refs.create_ref", kill_branches(monkeypatch))
    with pytest.raises(KeyboardInterrupt):
        first.begin(Manifest(slug="demo", idea="first"))
    monkeypatch.undo()
    git(top, "commit", "--quiet", "--allow-empty", "--message=moved on")
    second = open_store(top)
    assert not second.exists()
    second.begin(Manifest(slug="demo", idea="second"))
    assert [m.idea for _, m in second.records(Manifest)] == ["second"]
    # Of two of them the start would be looked for on the branch each time.
    assert len(git(top, "notes", "--ref=autopilot/demo/experiment", "list").splitlines()) == 1
    assert len(second.log()) == 1
    second.close()


def kill_branches(monkeypatch):
    from autopilot.git.refs import create_ref

    def create(repo, name, *arguments):
        if name.startswith("refs/heads/"):
            raise KeyboardInterrupt
        return create_ref(repo, name, *arguments)

    return create


def test_a_second_holder_is_told_who_holds_it(top, store):
    other = open_store(top)
    with pytest.raises(LockHeldError, match=r"demo is running already: .*process"):
        other.reopen()
    assert other.exists()
    assert other.tip == store.tip
    store.close()
    other.reopen()
    other.close()


def test_a_failed_begin_lets_go_of_the_lock(top):
    (top / "rules" / "a.txt").write_text("dirty\n")
    first = open_store(top)
    with pytest.raises(ParameterError, match=r"rules/a\.txt is modified"):
        first.begin(Manifest(slug="demo"))
    git(top, "checkout", "--quiet", "rules")
    second = open_store(top)
    second.begin(Manifest(slug="demo"))
    second.close()


def test_dirty_content_is_taken_along_when_asked_for(top):
    (top / "rules" / "a.txt").write_text("dirty\n")
    store = open_store(top, include_dirty=True)
    store.begin(Manifest(slug="demo"))
    assert git(top, "show", "autopilot/demo:rules/a.txt") == "dirty"
    assert git(top, "show", "main:rules/a.txt") == "a"
    store.close()


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda top: top / "a b" / "x.txt", "a b is not tracked by git"),
        (lambda top: top / "ignored" / "x.txt", "ignored is ignored by git"),
    ],
)
def test_parameters_that_git_does_not_keep_are_refused(top, prepare, said):
    path = prepare(top)
    path.parent.mkdir()
    path.write_text("x\n")
    (top / ".git" / "info").mkdir(exist_ok=True)
    (top / ".git" / "info" / "exclude").write_text("ignored/\n")
    store = GitStore("demo", top)
    store.bind([PathParameter(path.parent)])
    with pytest.raises(ParameterError, match=said) as caught:
        store.begin(Manifest(slug="demo"))
    # As a shell takes it.
    assert f"git add {shlex.quote(path.parent.name)} && git commit" in caught.value.hint
    assert not store.exists()


def test_a_parameter_without_files_is_refused(top):
    with pytest.raises(ParameterError, match="is not in a file"):
        GitStore("demo", top).bind([Parameter(1)])


def test_a_parameter_outside_is_refused(top, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ParameterError, match="is outside the repository"):
        GitStore("demo", top).bind([PathParameter(tmp_path / "elsewhere")])


def test_ignored_files_are_neither_taken_nor_removed(top):
    (top / ".gitignore").write_text("*.log\n")
    git(top, "add", ".gitignore")
    git(top, "commit", "--quiet", "--message=ignore")
    store = open_store(top)
    store.begin(Manifest(slug="demo"))
    start = store.tip
    (top / "rules" / "run.log").write_text("log\n")
    (top / "rules" / "b.txt").write_text("b\n")
    made = store.commit(store.state(), "change\n", [])
    assert git(top, "ls-tree", "--name-only", made, "rules/") == "rules/a.txt\nrules/b.txt"
    store.restore(start)
    assert sorted(p.name for p in (top / "rules").iterdir()) == ["a.txt", "run.log"]
    store.close()


def test_the_branch_is_never_moved_where_it_is_checked_out(top, store):
    git(top, "checkout", "--quiet", "autopilot/demo")
    (top / "rules" / "a.txt").write_text("b\n")
    with pytest.raises(RepositoryError, match="autopilot/demo is checked out in"):
        store.commit(store.state(), "change\n", [])
    store.close()
    with pytest.raises(RepositoryError, match="checked out"):
        open_store(top).reopen()


def test_a_branch_that_was_moved_away_is_not_gone_on_with(top, store):
    start = store.tip
    store.close()
    git(top, "commit", "--quiet", "--allow-empty", "--message=another")
    for elsewhere in ("main", "main~1"):
        git(top, "branch", "--force", "autopilot/demo", elsewhere)
        with pytest.raises(ExperimentError, match="does not have the start commit") as caught:
            open_store(top).reopen()
        assert "git reflog autopilot/demo" in caught.value.hint
    git(top, "branch", "--force", "autopilot/demo", start)
    open_store(top).reopen()


def test_an_edit_by_hand_is_kept_on_reopening(top, store):
    store.close()
    (top / "rules" / "a.txt").write_text("by hand\n")
    again = open_store(top)
    with pytest.raises(ParameterError, match=r"rules/a\.txt was edited by hand; the edit is kept"):
        again.reopen()
    assert (top / "rules" / "a.txt").read_text() == "by hand\n"


def test_a_step_is_evaluated_with_the_files_that_git_would_check_out(top, store):
    store.close()
    (top / ".gitattributes").write_text("*.txt text eol=crlf\n")
    git(top, "add", ".gitattributes")
    git(top, "commit", "--quiet", "--message=line ends")
    other = open_store(top, "other")
    other.begin(Manifest(slug="other"))
    (top / "rules" / "a.txt").write_bytes(b"one\ntwo\n")
    state = other.state()
    assert (top / "rules" / "a.txt").read_bytes() == b"one\r\ntwo\r\n"
    assert git(top, "cat-file", "blob", f"{state}:rules/a.txt") == "one\ntwo"
    other.close()


def test_the_branch_decides_before_a_rollback_touches_any_file(top):
    store = open_store(top, in_place=True)
    start = store.begin(Manifest(slug="demo"))
    (top / "rules" / "a.txt").write_text("step\n")
    store.commit(store.state(), "step", [])
    ours = store.tip
    # Somebody else moves the branch: the swap is refused, and the files stay.
    git(top, "update-ref", "refs/heads/autopilot/demo", start)
    with pytest.raises(RefMovedError):
        store.rollback(start, "back")
    assert (top / "rules" / "a.txt").read_text() == "step\n"
    git(top, "update-ref", "refs/heads/autopilot/demo", ours)
    # Of an edit by hand after the last look at the files, nothing is overwritten.
    assert store.edited() == []
    (top / "rules" / "mine.txt").write_text("mine\n")
    store.rollback(start, "back")
    assert (top / "rules" / "a.txt").read_text() == "a\n"
    assert (top / "rules" / "mine.txt").read_text() == "mine\n"
    assert store.edited() == ["rules/mine.txt"]
    store.close()


def test_what_a_killed_step_left_is_rescued(top, store):
    store.note_progress(ProgressNote(epoch=1, stepping=1))
    store.close()
    (top / "rules" / "a.txt").write_text("half\n")
    again = open_store(top)
    (top / "rules" / "new.txt").write_text("mine\n")
    again.reopen()
    again.restore(again.tip)
    assert (top / "rules" / "a.txt").read_text() == "a\n"
    assert not (top / "rules" / "new.txt").exists()
    (kept,) = again.rescued
    assert git(top, "show", f"{kept}:rules/a.txt") == "half"
    assert git(top, "show", f"{kept}:rules/new.txt") == "mine"
    # A ref holds it: git's own clean-up does not take it away.
    assert kept in git(top, "for-each-ref", "--format=%(objectname)", "refs/autopilot/demo")
    again.restore(again.tip)
    assert again.rescued == [kept]
    again.close()


def test_progress_after_a_line_that_a_kill_cut_short_is_not_lost(top, store):
    store.note_progress(ProgressNote(epoch=1, split="train", batch=0, key="k"))
    store.close()
    path = top / ".git" / "autopilot" / "demo.progress.jsonl"
    with path.open("ab") as file:
        file.write(path.read_bytes()[:40])
    again = open_store(top)
    again.reopen()
    assert [p.batch for p in again.progress()] == [0]
    again.note_progress(ProgressNote(epoch=1, split="train", batch=1, key="k"))
    again.note_progress(ProgressNote(epoch=1, stepping=1))
    assert [(p.batch, p.stepping) for p in again.progress()] == [(0, 0), (1, 0), (0, 1)]
    again.close()


def test_a_long_run_lets_go_of_the_packs_that_it_read(top, store):
    git(top, "repack", "-adq")
    before = pygit2.settings.cached_memory[0]
    store.diff(store.tip, store.start)
    open_packs = pygit2.settings.cached_memory[0]
    for _ in range(200):
        store.clear_progress()
    assert pygit2.settings.cached_memory[0] <= before < open_packs
    assert store.progress() == []
    assert [each.id for each in store.log()] == [store.tip]
    store.tag(0, store.tip, "baseline\n")
    assert store.tags() == {0: store.tip}


def test_who_goes_on_with_an_experiment_reads_every_line(top, store):
    git(top, "notes", "--ref=autopilot/demo/gradients", "add", "-m", "{half", store.tip)
    with pytest.raises(RecordError, match="gradients"):
        open_store(top).records(StepRecord)


def test_a_verdict_that_is_gone_is_asked_for(demo):
    lost = demo.epoch(3).commit
    git(demo.repo.workdir, "notes", "--ref=autopilot/demo/metrics", "remove", lost)
    store = GitStore("demo", demo.repo.workdir)
    store.refuse_gap([0, 1, 2])
    with pytest.raises(ExperimentError, match=f"metrics on {lost[:7]}.* has no metrics"):
        store.refuse_gap([0, 1, 2, 4, 5])


def test_an_experiment_that_branches_off_works_where_its_origin_does(demo):
    for number, in_place in enumerate((True, False)):
        store = GitStore("demo", demo.repo, in_place=in_place)
        assert store.branch(f"side{number}").in_place is in_place


def test_what_no_ref_has_yet_is_made_after_a_prune(store, monkeypatch):
    waited = []
    for file in ("git_store", "candidates"):
        monkeypatch.setattr(f"autopilot.tracking.{file}.wait_for_prune", waited.append)
    store.state()
    store.rollback(store.start, "back")
    store.annotate(store.start, [Event(id="started-1", name="started")])
    assert waited == [store.repo] * 3


def test_records_of_several_revisions_are_one_notes_commit_a_kind(top, store):
    def written():
        found = git(top, "for-each-ref", "--format=%(refname)", "refs/notes/autopilot/demo/memory")
        return found and git(top, "rev-list", "--count", found)

    made = [store.start, store.commit(store.state(), "second", [])]
    with store.together():
        for number, revision in enumerate(made, 1):
            store.annotate(
                revision,
                [Lesson(epoch=1, id=f"1-c{number}", strategy=f"s{number}", outcome="kept")],
            )
        assert not written()
    assert written() == "1"
    kept = {(at, each.strategy) for at, each in store.records(Lesson)}
    assert kept == {(made[0], "s1"), (made[1], "s2")}
    with pytest.raises(OSError, match="broken"), store.together():
        store.annotate(made[0], [Lesson(epoch=2, id="2-c1", strategy="s3", outcome="kept")])
        raise OSError("broken")
    store.annotate(made[1], [])
    assert written() == "1"


def test_the_lines_of_judged_candidates_go_whatever_a_killed_git_left(top, store):
    for number in (1, 2):
        store.enter(Side(number, 1, store.start))
    store.enter(None)
    folder = top / ".git/refs/autopilot/demo/candidates"
    (folder / "1-2.lock").touch()
    store.forget_candidates(1)
    assert sorted(each.name for each in folder.iterdir()) == ["1-2.lock", "2-1"]


def test_a_name_that_was_used_before_is_refused(top, store):
    store.tag(0, store.tip, "baseline\n")
    store.close()
    git(top, "branch", "-D", "autopilot/demo")
    again = open_store(top)
    with pytest.raises(ExperimentError, match="was used before: refs/tags/autopilot/demo"):
        again.begin(Manifest(slug="demo"))


def test_abandon_leaves_no_trace(top, store):
    store.annotate(store.tip, [Event(id="started-1", name="started")])
    store.abandon()
    assert git(top, "for-each-ref", "--format=%(refname)") == "refs/heads/main"
    assert list((top / ".git" / "autopilot").glob("*.jsonl")) == []
    assert not open_store(top).exists()


def test_git_finds_nothing_wrong(top, store):
    for n in range(3):
        (top / "rules" / "a.txt").write_text(f"{n}\n")
        record = StepRecord(epoch=n, id=f"{n}-1", step=1, changed=True)
        store.tag(n, store.commit(store.state(), f"epoch {n}\n", [record]), "kept\n")
    assert git(top, "fsck", "--strict", "--no-dangling") == ""
    assert git(top, "tag").splitlines() == [f"autopilot/demo/epoch-000{n}" for n in range(3)]
    shown = git(top, "log", "--notes=autopilot/demo/*", "-1", "autopilot/demo")
    assert '"kind":"gradients"' in shown
