"""Edits by hand as the epochs of an experiment: the work of `autopilot try`.

An edit is a snapshot before anything is measured, and what is being measured stands in a file of
the git directory. So a kill at any point loses no edit, and the next `autopilot try` finishes the
epoch exactly: what was measured is not measured again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from autopilot.ai.prompt.facts import brief
from autopilot.core.callback import Callback
from autopilot.core.fit import Fit
from autopilot.core.gradient import Finding, Gradient, TextGradient
from autopilot.core.trying import TAKEN_BACK, Edit, LookLoop, TryLoop
from autopilot.engine.board import Child
from autopilot.engine.options import Options
from autopilot.engine.session import Session
from autopilot.errors import AutopilotError, ExperimentError, LockHeldError, UsageError
from autopilot.files import REGULAR, FileState, remove_file, replace_file
from autopilot.git import objects
from autopilot.git.objects import Entry
from autopilot.git.repository import Repository
from autopilot.git.workfiles import WorkFiles
from autopilot.git.worktrees import changed_files, leave_commits, worktree_path
from autopilot.text import as_json
from autopilot.tracking.checkout import keep_snapshot
from autopilot.tracking.holding import stopped
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.parameters import EVERYTHING, edits, entries_at, known_paths, present_at

HOW = 'autopilot try -m "what you changed"'
_HOW = f"edit a file of its parameters, then: {HOW}"


@dataclass(frozen=True, slots=True)
class Trial(Edit):
    """An edit on its way to a verdict.

    Args:
        epoch: The epoch that it becomes.
        later: The snapshot with edits that were made since; "" if none were.
        beside: Changed files that are no parameters.
    """

    epoch: int = 0
    later: str = ""
    beside: Sequence[str] = ()

    def has_verdict(self, notebook: Notebook) -> bool:
        """Whether it is judged."""
        return notebook.last is not None and notebook.last.epoch >= self.epoch


class TryPlace:
    """The checkout in which the edits of an experiment are made: the user's, or its worktree.

    Attributes:
        repo: None while there is no worktree.
        trial: What is being measured, or was when a process was killed.
        written: Files that evaluations have written beside the parameters.
    """

    def __init__(self, user: Repository, slug: str) -> None:
        self.user, self.slug = user, slug
        self.notebook = notebook = Notebook(user, slug)
        self.places = known_paths(notebook.manifest, slug)
        self.in_place = notebook.manifest.in_place
        self.path = user.workdir if self.in_place else worktree_path(user, slug)
        is_there = self.in_place or (self.path / ".git").is_file()
        self.repo = Repository.discover(self.path) if is_there else None
        self._file = notebook.layout.trying(user)
        noted: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            noted = json.loads(self._file.read_bytes())
        self.written = set(noted.get("written", ()))
        self.trial = Trial(**found) if (found := noted.get("trial")) else None

    def note(self, trial: Trial | None) -> None:
        """Writes down what is being measured, whole or not at all."""
        self.trial = trial
        noted = {"trial": trial and asdict(trial), "written": sorted(self.written)}
        content = json.dumps(noted).encode()
        replace_file(self._file.parent, self._file.name, FileState(REGULAR, content))

    @property
    def what(self) -> list[str]:
        """The parameters as somebody who edits them reads them: paths and globs from the top."""
        return [
            place.path if place.pattern == EVERYTHING else f"{place.prefix}{place.pattern}"
            for place in self.places
        ]

    # --- the files ------------------------------------------------------------------------------

    def edited(self) -> dict[str, Entry | None]:
        """The edits that have no verdict: the files that are not as in the newest state.

        A process that was killed may have left files of the states that it went through; those are
        nobody's edits.
        """
        state, trial = self._entries(self.state), self.trial
        present = state
        if self.repo is not None:
            present = present_at(self._work, self.places, state, write=True)
        found = edits(state, present)
        if trial is None:
            return found
        notebook = self.notebook
        passed = {trial.revision, notebook.tip, notebook.best_commit, notebook.manifest.base}
        every = [self._entries(commit) for commit in passed]
        own = {n: e for n, e in found.items() if all(files.get(n) != e for files in every)}
        if self.is_over or self.unfinished is not None:
            return own
        wanted: dict[str, Entry | None] = {**self._entries(trial.revision), **own}
        return edits(state, {n: e for n, e in wanted.items() if e is not None})

    @property
    def state(self) -> str:
        """The commit that the files are as in, but for edits."""
        return self.notebook.tip if self.is_begun else self.notebook.best_commit

    def beside(self) -> list[str]:
        """Other files, which git does not ignore, that were changed since the last verdict."""
        if self.repo is None:
            return []
        states = changed_files(self.repo, ["."]).items()
        return [
            name
            for name, state in sorted(states)
            if state != "ignored"
            and not (state == "untracked" and name in self.written)
            and not any(place.covers(name) for place in self.places)
        ]

    def keep(self, changed: dict[str, Entry | None], note: str) -> str:
        """Keeps edits as a snapshot; in a worktree with the files beside the parameters."""
        found: dict[str, Entry | None] = dict(changed)
        if self.repo is not None and not self.in_place:
            found |= self._work.hash(self.beside())
        repo, layout, state = self.repo or self.user, self.notebook.layout, self.state
        tree = objects.write_tree(repo, state, found)
        return keep_snapshot(repo, layout, state, tree, note)[0]

    def put(self, commit: str) -> None:
        """Writes the parameters' files of a commit."""
        if self.repo is None:
            return
        wanted = self._entries(commit)
        known = wanted | self._entries(self.notebook.tip)
        present = present_at(self._work, self.places, known, write=False)
        self._work.restore(edits(present, wanted))

    def _reset(self, commit: str) -> None:
        """Writes a commit's files; a worktree's new ones beside them are in a snapshot by now."""
        if self.repo is not None and not self.in_place:
            states = changed_files(self.repo, ["."])
            for name in self.beside():
                if states.get(name) == "untracked":
                    remove_file(self.repo.workdir, name)
        self.put(commit)

    def uncommit(self) -> None:
        """Leaves the commits that somebody made in the worktree; the files stay as they are."""
        base = self.notebook.manifest.base
        if self.repo is None or self.in_place or self.repo.head_commit() == base:
            return
        leave_commits(self.repo, base)

    def _entries(self, commit: str) -> dict[str, Entry]:
        return entries_at(self.user, commit, self.places)

    @property
    def _work(self) -> WorkFiles:
        assert self.repo is not None, "only a checkout has files"
        return WorkFiles(self.repo, self.repo.workdir)

    # --- the trial ------------------------------------------------------------------------------

    @property
    def is_begun(self) -> bool:
        """Whether the branch has an edit that has no verdict yet: it was killed or interrupted."""
        return self.trial is not None and self.notebook.going_on == self.trial.epoch

    @property
    def is_over(self) -> bool:
        """Whether the trial has a verdict."""
        return self.trial is not None and self.trial.has_verdict(self.notebook)

    @property
    def unfinished(self) -> Trial | None:
        """The trial that the next call finishes, whatever it was called for."""
        is_left = self.is_begun or (self.trial is not None and self.trial.takes_back is not None)
        return self.trial if is_left and not self.is_over else None

    def begin(self, message: str, *, undo: bool) -> Trial:
        """Takes the edit out of the files, for the epoch that measures it; the lock is held.

        Raises:
            ExperimentError: there is nothing to measure, or nothing to take back.
        """
        self.uncommit()
        known, changed, beside = self.unfinished, self.edited(), self.beside()
        last = self.notebook.last
        epoch = (last.epoch if last else 0) + 1
        if known is not None:
            # Edits since then are for afterwards.
            later = self.keep(changed, "edits while another one was tried") if changed else ""
            trial = replace(known, later=later)
            if undo and self.is_begun:
                message = f"{TAKEN_BACK} {known.message.partition(chr(10))[0]}"
                best = self.notebook.best_commit
                trial = replace(trial, revision=best, message=message, takes_back=known.epoch)
        elif undo:
            trial = self._taking_back(epoch)
            if changed:
                self.keep(changed, "taken back before it was tried")
        elif changed:
            before = () if self.trial is None or self.is_over else self.trial.beside
            others = list(dict.fromkeys((*before, *beside)))
            trial = Trial(self.keep(changed, message), message, epoch=epoch, beside=others)
        else:
            raise self._nothing(beside)
        state = self.state
        self.note(trial)
        self._reset(state)
        return trial

    def _taking_back(self, epoch: int) -> Trial:
        """The last kept edit, to be taken back."""
        notebook = self.notebook
        number = notebook.last.best_epoch if notebook.last else 0
        # An epoch that took another one back has an earlier state.
        while (reused := notebook.epoch(number).record.reused) is not None:
            number = reused
        if number == 0:
            raise ExperimentError(
                f"{self.slug} has no kept edit that could be taken back: the baseline is the best",
                hint=_HOW,
            )
        before = notebook.epoch(number - 1).record.best_epoch
        message = f"{TAKEN_BACK} epoch {number}: {notebook.epoch(number).record.summary}"
        return Trial(notebook.after(before), message, number, epoch)

    def _nothing(self, beside: Sequence[str]) -> ExperimentError:
        last, where = self.notebook.last, f" in {self.path}" if not self.in_place else ""
        best = f"epoch {last.best_epoch}" if last else "the start"
        if self.repo is None:
            where = f": its worktree is gone (autopilot try start -e {self.slug} makes it again)"
        only = f"; {beside[0]} is no parameter" if beside else ""
        return ExperimentError(
            f"nothing to try: {', '.join(self.what)} is as in {best}{where}{only}", hint=_HOW
        )

    def check_decided(self) -> None:
        """Makes sure that no edit waits for a verdict, for a session that measures none.

        Raises:
            UsageError: there is one.
        """
        if changed := [*self.edited(), *([self.slug] if self.unfinished else [])]:
            raise UsageError(
                f"{changed[0]} was edited and not tried: {self.slug} cannot go on without a "
                "decision",
                hint=f"{HOW} measures it, autopilot try --undo takes it back",
            )
        # Scored on the test split, the baseline's files are no edit if that is killed.
        last = self.notebook.last
        self.note(Trial(self.notebook.start, "", epoch=last.epoch if last else 0))
        self.put(self.state)

    def take_back(self) -> tuple[list[str], str]:
        """Takes edits that were not measured out of the files; the lock is held.

        Returns:
            Their files, and the snapshot that keeps them; neither where there are none.
        """
        self.uncommit()
        changed = {} if self.unfinished is not None else self.edited()
        if not changed:
            return [], ""
        kept, names = self.keep(changed, "taken back before it was tried"), sorted(changed)
        self._reset(self.state)
        self.note(None)
        return names, kept


def settle(user: Repository, slug: str) -> None:
    """Leaves the files as whoever edits them expects: an edit without a verdict stands in them."""
    with contextlib.suppress(LockHeldError), stopped(user, slug):
        place = TryPlace(user, slug)
        trial = place.trial
        if trial is not None and place.repo is not None:
            if place.is_over or (trial.takes_back is not None and not place.is_begun):
                place.put(trial.later or place.state)
                trial = None
            elif trial.takes_back is None:
                place.put(trial.revision)
                trial = trial if place.is_begun else None
        if place.repo is not None:
            # What evaluations wrote until now is nobody's edit.
            states = changed_files(place.repo, ["."]).items()
            place.written = {name for name, state in states if state == "untracked"}
        place.note(trial)


def open_trial(
    user: Repository,
    slug: str,
    message: str | None,
    changes: Options,
    callbacks: Sequence[Callback],
    child: Child,
    *,
    undo: bool = False,
    look: bool = False,
) -> tuple[Session, Trial | None]:
    """Prepares the epoch of an edit.

    Args:
        message: What was changed; None: there is no edit, only the baseline may be left to do.
        undo: Takes back the edit in progress, or the last kept one.
        look: Gathers the facts on the best state; edits are out of the files until `settle`.

    Raises:
        AutopilotError: it cannot begin; edits are in the files then.
    """
    trial: Trial | None = None

    def begin() -> None:
        nonlocal trial
        place = TryPlace(user, slug)
        # A process that takes another one's place finds the files as that one left them.
        is_noted = place.trial is not None and not child.is_first
        if message is not None:
            trial = place.trial if is_noted else place.begin(message, undo=undo)
        elif look and not is_noted and place.unfinished is None and place.edited():
            place.begin("set aside for a look at the best state", undo=False)
        elif not (look and is_noted):
            place.check_decided()

    try:
        session = Session.resume(user.workdir, slug, changes, callbacks, child, held=begin)
    except AutopilotError:
        if trial is not None or look:
            settle(user, slug)
        raise
    if trial is not None and not TryPlace(user, slug).is_over:
        loop_of(session).edit = trial
    if look:
        session.trainer.loop = LookLoop(_keep)
    session.trainer.experiment.ignore_stop = True
    return session, trial


def loop_of(session: Session) -> TryLoop:
    """The loop of a session whose steps are edits by hand."""
    loop = session.trainer.loop
    assert isinstance(loop, TryLoop), "the bench makes it"
    return loop


# The facts of a prompt that belong to a state of the parameters; others change with each epoch.
OF_STATE = ("goal", "background", "parameters", "score", "failing", "passing")
_STATES = 8


def _keep(fit: Fit) -> None:
    """Keeps the facts on the present state."""
    store, record = fit.experiment.store, fit.experiment.record_of(fit.experiment.best_epoch)
    found = brief(fit.optimizer.parameters, fit)
    unread = [replace(each, files=()) for each in found.parameters]
    every = asdict(replace(found, parameters=unread, feedback=()))
    facts = {name: every[name] for name in OF_STATE}
    if fit.train is not None:
        facts["feedback"] = [[name, _findings(gradient)] for name, gradient in found.feedback]
    looks = kept_facts(store.derived())
    looks.pop(record.tree, None)
    latest = [*looks.items(), (record.tree, facts)][-_STATES:]
    store.keep_derived(as_json(dict(latest)).encode())


def _findings(gradient: Gradient) -> list[dict[str, Any]]:
    if isinstance(gradient, TextGradient) and gradient.findings:
        return [asdict(finding) for finding in gradient.findings]
    return [asdict(Finding(gradient.render()))]


def kept_facts(content: bytes) -> dict[str, dict[str, Any]]:
    """State to facts, as they are kept in the git directory; none where that is not readable."""
    with contextlib.suppress(ValueError, TypeError):
        return dict(json.loads(content))
    return {}
