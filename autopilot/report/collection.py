"""What a report shows of an experiment: everything that was recorded, read once, no markup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from autopilot.core.memory import Memory
from autopilot.core.records.record import Lesson, Manifest, StepRecord, TraceRecord
from autopilot.core.types import Outcome
from autopilot.errors import ExperimentError
from autopilot.git import objects, refs
from autopilot.git.repository import Repository
from autopilot.report.cost import RoleCost, roles_of
from autopilot.report.diffs import Changes, DiffPool
from autopilot.report.items import Failure, Results
from autopilot.tracking.journal import Journal
from autopilot.tracking.layout import experiments
from autopilot.tracking.notebook import Epoch, Notebook
from autopilot.tracking.recall import block_after_by_epoch, memory_of
from autopilot.tracking.snapshots import best_state

SPLITS = ("val", "train", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochStory:
    """All about one epoch.

    Args:
        epoch: What the notebook says of it.
        time_s: When its last commit was made, in seconds since 1970.
        started_from: The epoch whose state it started from; None for the baseline.
        steps: Its optimizer steps with their commits, "" where nothing was changed.
        changes: What it changed.
        lessons: What memory learnt.
        blocked: The strategies that were blocked afterwards, with reasons.
        measured: The epoch that its results were measured in.
        failures: Its first failures.
        counts: How many items came to what.
        fixed: Items that passed, and had failed in the epoch that it started from.
        broken: The reverse.
    """

    epoch: Epoch
    time_s: int
    started_from: int | None
    steps: tuple[tuple[str, StepRecord], ...]
    changes: Changes
    lessons: tuple[Lesson, ...]
    blocked: Mapping[str, str]
    measured: int
    failures: tuple[Failure, ...] = ()
    counts: Mapping[Outcome, int] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An experiment as a report shows it.

    Args:
        notebook: The experiment.
        stories: Its judged epochs, oldest first.
        results: Those splits that have results, item by item.
        roles: What model calls cost, the dearest role first.
        memory: What a run that goes on would know.
        forks: The experiments here that were forked or merged from this one, each with the epoch
            that it took.
        net: From the base to the best.
        pool: The patches of all changes.
        absent: The kinds of notes that there are none of, though there are epochs.
    """

    notebook: Notebook
    stories: tuple[EpochStory, ...]
    results: Mapping[str, Results]
    roles: tuple[RoleCost, ...]
    memory: Memory
    forks: tuple[tuple[str, int], ...]
    net: Changes
    pool: DiffPool
    absent: tuple[str, ...] = ()

    def left_out(self) -> list[str]:
        """What limits left out, a sentence each."""
        slug, pool, told = self.notebook.slug, self.pool, []
        see = f"`autopilot diff EPOCH -e {slug}` shows it"
        if self.absent:
            kinds = ", ".join(self.absent)
            told.append(f"there are no notes of {kinds} here: `autopilot fetch {slug}` brings them")
        files = sum(story.changes.left_out for story in self.stories) + self.net.left_out
        if files:
            told.append(f"{files:,} changed files are not listed; {see}")
        if pool.files_left_out:
            told.append(f"the lines of {pool.files_left_out:,} changed files are missing; {see}")
        if pool.lines_left_out:
            told.append(
                f"{pool.lines_left_out:,} lines at the end of long diffs are missing; {see}"
            )
        if pool.long_lines:
            told.append(f"{pool.long_lines:,} very long lines of diffs are cut; {see}")
        for split, results in self.results.items():
            if results.left_out:
                told.append(
                    f"{results.left_out:,} {split} results are not in the heat map; "
                    f"`autopilot show EPOCH -e {slug} --json` has them"
                )
        return told


def collect(notebook: Notebook, pool: DiffPool | None = None) -> Report:
    """Reads an experiment for a report.

    Args:
        notebook: The experiment.
        pool: Where its patches go; of several experiments in one report, the same.
    """
    repo, epochs = notebook.repo, notebook.epochs
    pool = pool or DiffPool(repo)
    journal = Journal(repo, notebook.layout)
    line = {commit.id: commit for commit in notebook.commits}
    results, memory = _results(journal, line), memory_of(notebook)
    stories = tuple(_stories(notebook, journal, results, memory.lessons, pool))
    base, best = notebook.base or notebook.start, best_state(notebook).commit
    net = pool.between(objects.tree_of(repo, base), objects.tree_of(repo, best))
    return Report(
        notebook=notebook,
        stories=stories,
        results=results,
        roles=tuple(roles_of(journal, line, [epoch.cost for epoch in epochs])),
        memory=memory,
        forks=tuple(_forks(repo, notebook.slug)),
        net=net,
        pool=pool,
        absent=tuple(_absent(notebook)) if len(epochs) > 1 else (),
    )


def between(first: Notebook, second: Notebook, pool: DiffPool) -> Changes:
    """What differs between the best states of two experiments."""
    one, other = (best_state(notebook).commit for notebook in (first, second))
    return pool.between(objects.tree_of(first.repo, one), objects.tree_of(first.repo, other))


def settings(manifest: Manifest) -> dict[str, str]:
    """What an experiment was given, name to value, for a person and for comparing two."""
    facts = {
        "target": manifest.target or "library use, without `autopilot run`",
        "idea": manifest.idea,
        "hypothesis": manifest.hypothesis,
        "seed": str(manifest.seed),
        "base": manifest.base[:10],
        "base branch": manifest.base_branch,
        "directory": manifest.directory,
        "links": ", ".join(manifest.links),
        "works in": "your checkout (in place)" if manifest.in_place else "",
        "forked from": manifest.forked_from.replace("@", ", epoch "),
        "merged with": manifest.merged_with.replace("@", ", epoch "),
        "strategies": ", ".join(manifest.strategies),
    }
    facts |= {f"argument {name}": str(value) for name, value in manifest.hparams.items()}
    facts |= {f"option {name}": str(v) for name, v in manifest.options.items() if v is not None}
    for name, path in manifest.parameters.items():
        pattern = manifest.patterns.get(name, "")
        facts[f"parameter {name}"] = f"{path} ({pattern})" if pattern else path
    facts |= {f"version of {name}": version for name, version in manifest.versions.items()}
    return {name: value for name, value in facts.items() if value}


def _stories(
    notebook: Notebook,
    journal: Journal,
    results: Mapping[str, Results],
    learnt_in_all: Sequence[Lesson],
    pool: DiffPool,
) -> Iterator[EpochStory]:
    line = {commit.id: commit for commit in notebook.commits}
    steps: dict[int, dict[str, tuple[str, StepRecord]]] = {}
    for commit, record in journal.read(StepRecord):
        if commit in line:
            place = commit if record.changed else ""
            steps.setdefault(record.epoch, {})[record.id] = (place, record)
    lessons: dict[int, list[Lesson]] = {}
    for lesson in learnt_in_all:
        lessons.setdefault(lesson.epoch, []).append(lesson)
    measured = {epoch.number: _measured(epoch) for epoch in notebook.epochs}
    rules = block_after_by_epoch(notebook)
    val, follow = results.get("val", Results("val")), Memory(rules[0])
    before: int | None = None
    for epoch in notebook.epochs:
        number, learnt = epoch.number, lessons.get(epoch.number, [])
        for lesson in learnt:
            follow.learn(lesson)
        if number in rules:
            follow.reconsider(rules[number])
        changes = Changes()
        if epoch.steps and number:
            old, new = line[epoch.steps[0]].parents[0], line[epoch.steps[-1]].tree
            old_tree = line[old].tree if old in line else objects.tree_of(notebook.repo, old)
            changes = pool.between(old_tree, new)
        known = measured[number]
        start = measured.get(number if before is None else before, known)
        fixed, broken = val.turned(start, known)
        yield EpochStory(
            epoch=epoch,
            time_s=line[epoch.commit].time_s,
            started_from=before,
            steps=tuple(sorted(steps.get(number, {}).values(), key=lambda pair: pair[1].step)),
            changes=changes,
            lessons=tuple(learnt),
            blocked=follow.blocked(),
            measured=known,
            failures=val.failures.get(known, ()),
            counts=val.counts(known),
            fixed=tuple(fixed),
            broken=tuple(broken),
        )
        before = epoch.best_epoch


def _absent(notebook: Notebook) -> Iterator[str]:
    """Every run writes these: where they are missing, the experiment was fetched without them."""
    for kind in ("gradients", "memory", "traces"):
        if refs.read_ref(notebook.repo, notebook.layout.notes(kind)) is None:
            yield kind


def _measured(epoch: Epoch) -> int:
    return epoch.number if epoch.reused is None else epoch.reused


def _results(journal: Journal, line: Mapping[str, object]) -> dict[str, Results]:
    found: dict[str, dict[int, TraceRecord]] = {}
    for commit, trace in journal.read(TraceRecord):
        if commit in line and not trace.repeat:
            found.setdefault(trace.split, {})[trace.epoch] = trace
    splits = [*SPLITS, *(name for name in found if name not in SPLITS)]
    out: dict[str, Results] = {}
    for split in (name for name in splits if name in found):
        results = out[split] = Results(split)
        for _, trace in sorted(found[split].items()):
            results.add(trace)
    return out


def _forks(repo: Repository, slug: str) -> Iterator[tuple[str, int]]:
    for other in experiments(repo):
        try:
            manifest = Notebook(repo, other).manifest
        except ExperimentError:
            continue  # Its notes are not here: it cannot say where it comes from.
        for source in (manifest.forked_from, manifest.merged_with):
            name, _, epoch = source.rpartition("@")
            if name == slug and epoch.isdigit():
                yield other, int(epoch)
