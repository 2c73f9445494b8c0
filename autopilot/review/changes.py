"""The changes of an experiment's epochs to the parameters, and the same on top of a branch.

A change is two trees that differ in the parameters only. It is put on a branch by a three-way
merge, as `git cherry-pick` does: the branch's own changes stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from autopilot.core.records.message import EPOCH, EXPERIMENT, REVERTS, SOURCE, Score, trailers_of
from autopilot.core.records.record import MetricsRecord
from autopilot.errors import ExperimentError
from autopilot.git.commands import run_git
from autopilot.git.commits import count_in, merge_base, merge_trees
from autopilot.git.refs import Branch, find_branch
from autopilot.git.repository import Repository
from autopilot.tracking.attribution import lineage
from autopilot.tracking.epochs import Epoch
from autopilot.tracking.layout import experiments
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.parameters import entries_at, known_paths, with_entries


@dataclass(frozen=True, slots=True)
class ParameterChange:
    """One epoch's change to the parameters, or the user's before the experiment began.

    Args:
        epoch: The epoch; None for the content that the experiment started from and its base lacks:
            uncommitted content, or the state that it was forked from.
        source: The experiment's commit with the state after it.
        scores: Against the state before; the monitored metric first. Empty without an epoch.
    """

    epoch: Epoch | None
    source: str
    before: str
    after: str
    scores: tuple[Score, ...] = ()

    @property
    def number(self) -> int:
        """The epoch's number; 0 without one."""
        return self.epoch.number if self.epoch else 0


@dataclass(frozen=True, slots=True)
class Conflict:
    """A change that a branch cannot take: both changed the same lines.

    Args:
        epoch: The change's epoch; 0 for the content that the experiment started from.
    """

    epoch: int
    paths: tuple[str, ...]

    def of(self, slug: str, branch: str) -> str:
        """The conflict in words: which epoch, with which branch, in which files."""
        what = f"epoch {self.epoch} of {slug}" if self.epoch else f"what {slug} started from"
        return f"{what} conflicts with {branch} in {', '.join(self.paths)}"


@dataclass(frozen=True, slots=True)
class MergedEpoch:
    """The newest epoch of an experiment that a branch has already.

    Args:
        epoch: Its number; None if the branch has none.
        commit: The branch's commit with that epoch, or the one that took it back; "" if none.
        reverted: The branch had it, and took it back.
    """

    epoch: int | None
    commit: str = ""
    reverted: bool = False


class ParameterHistory:
    """The changes of an experiment's kept epochs.

    Raises:
        RecordError: a line with a verdict cannot be read.
    """

    def __init__(self, notebook: Notebook) -> None:
        self.notebook, self.repo = notebook, notebook.repo
        # A verdict that is left out would make another epoch the best one.
        notebook.need(MetricsRecord)
        self.places = known_paths(notebook.manifest, notebook.slug)
        self._trees: dict[str, str] = {}

    @cached_property
    def kept(self) -> list[Epoch]:
        """The kept epochs that the best state is made of, without the baseline, oldest first."""
        return [epoch for epoch in lineage(self.notebook) if epoch.number]

    def changes(self, onto: str, since: int | None = None) -> list[ParameterChange]:
        """The changes one by one, oldest first; those that changed nothing are left out.

        Args:
            since: The epoch that it has already.
        """
        found: list[ParameterChange] = []
        if since is None:
            found.append(self._beginning(onto))
        state = self._content_of(since or 0)
        before = self.notebook.epoch(since or 0)
        for epoch in self.kept:
            if epoch.number <= (since or 0):
                continue
            source = self.notebook.after(epoch.number)
            scores = self.scores(before, epoch)
            found.append(ParameterChange(epoch, source, state, self.content(source), scores))
            state, before = found[-1].after, epoch
        return [change for change in found if change.before != change.after]

    def whole(self, onto: str, until: int, since: int | None = None) -> ParameterChange:
        """Everything up to an epoch as one change."""
        first = self._beginning(onto).before if since is None else self._content_of(since)
        epoch = self.notebook.epoch(until)
        scores = self.scores(self.notebook.epoch(since or 0), epoch)
        source = self.notebook.after(until)
        return ParameterChange(epoch, source, first, self.content(source), scores)

    def content(self, commit: str) -> str:
        """A tree with the parameters of a commit; all else in it is as the experiment started."""
        if commit not in self._trees:
            there = entries_at(self.repo, commit, self.places)
            made = with_entries(self.repo, self.notebook.start, self.places, there)
            self._trees[commit] = made
        return self._trees[commit]

    def scores(self, before: Epoch, after: Epoch) -> tuple[Score, ...]:
        """The val metrics of two epochs side by side, the monitored one first."""
        monitor, mode = self.notebook.monitor
        old, new = before.metrics.get("val", {}), after.metrics.get("val", {})
        # The other metrics' directions are not recorded.
        return tuple(
            Score(f"val {name}", old.get(name), new.get(name), mode if name == monitor else "max")
            for name in dict.fromkeys([monitor, *new])
        )

    def merged_into(self, onto: str) -> MergedEpoch:
        """The newest epoch that a branch (its commit) has.

        A branch has an epoch by the experiment's own commits, or by the trailers of commits that
        were made from it. Starts git.
        """
        log = run_git(
            [
                *("log", "-z", "--format=%H%n%B", "--topo-order", "--fixed-strings"),
                *("--grep", f"{EXPERIMENT}: {self.notebook.slug}", onto),
                *([f"^{self.notebook.manifest.base}"] if self.notebook.manifest.base else []),
            ],
            cwd=self.repo.workdir,
        ).stdout.decode("utf-8", "replace")
        known = {str(epoch.number): epoch.number for epoch in self.kept}
        slug = self.notebook.slug
        for commit, _, message in (entry.partition("\n") for entry in log.split("\0")):
            if commit in self.notebook.line or not trailers_of(message, EXPERIMENT, slug):
                continue
            if trailers_of(message, REVERTS, slug):
                return MergedEpoch(None, commit, reverted=True)
            epochs = [known[n] for n in trailers_of(message, EPOCH, slug) if n in known]
            # Another candidate of that epoch is another state.
            sources = trailers_of(message, SOURCE, slug) or map(self._state, epochs)
            if epochs and {*sources} & {*map(self._state, epochs)}:
                return MergedEpoch(max(epochs), commit)
        numbers = [epoch.number for epoch in self.kept]
        states = [self._state(number) for number in numbers]
        there = count_in(self.repo, states, onto)
        return MergedEpoch(numbers[there - 1], states[there - 1]) if there else MergedEpoch(None)

    def _state(self, epoch: int) -> str:
        return self.notebook.after(epoch) if epoch else self.notebook.start

    def _content_of(self, epoch: int) -> str:
        return self.content(self._state(epoch))

    def _beginning(self, onto: str) -> ParameterChange:
        """The content that the experiment started from and its base lacks; mostly nothing."""
        notebook, start = self.notebook, self.notebook.start
        base = notebook.manifest.base or notebook.base or start
        if notebook.manifest.forked_from:
            # The base is another experiment's commit: go on to where that one left the branch.
            base = merge_base(self.repo, onto, start) or base
        return ParameterChange(None, start, self.content(base), self.content(start))


def apply_change(repo: Repository, tree: str, change: ParameterChange) -> str | Conflict:
    """Puts a change on top of a tree or commit; returns the new tree, or why there is none."""
    merged = merge_trees(repo, change.before, tree, change.after)
    if merged.conflicts:
        return Conflict(change.number, merged.conflicts)
    return merged.tree


_NAME_IT = (
    "name the branch that it is meant for: propose create --onto BRANCH, or promote execute "
    "--into BRANCH"
)


def target_branch(notebook: Notebook, name: str | None) -> Branch:
    """The branch that an experiment's changes are meant for.

    Args:
        name: As typed; None: the branch that the experiment started from, or for a fork, the one
            that its source started from.

    Raises:
        ExperimentError: there is no such branch, or it is an experiment's.
    """
    repo, hint = notebook.repo, "`git branch --all` lists the branches"
    if name is None:
        name, hint = _origin(notebook), f"{notebook.slug} started from it; {_NAME_IT}"
    found = find_branch(repo, name)
    if found is None:
        raise ExperimentError(f"there is no branch {name} here", hint=hint)
    if found.short.startswith(("autopilot/", "autopilot-review/")):
        raise ExperimentError(
            f"{found.name} belongs to an experiment, and only that writes to it",
            hint="name a branch of your own; `autopilot store merge` merges two experiments",
        )
    return found


def _origin(notebook: Notebook) -> str:
    seen: set[str] = set()
    there: Sequence[str] = list(experiments(notebook.repo))
    while notebook.manifest.base_branch.startswith("autopilot/"):
        source = notebook.manifest.base_branch.removeprefix("autopilot/")
        if source not in there or source in seen:
            break
        seen.add(source)
        notebook = Notebook(notebook.repo, source)
    name = notebook.manifest.base_branch
    if not name or name == "HEAD detached":
        raise ExperimentError(f"{notebook.slug} did not start from a branch", hint=_NAME_IT)
    return name
