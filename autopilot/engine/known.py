"""Results that other experiments of the repository recorded, found by what they depend on.

The whole tree of a state stands for what an evaluation read of the repository: it lists folders and
asks for files that are not there, and libraries read files where Python does not see it. So another
commit is another key, whatever it changed. What is read by way of `--link` counts by its content.
Where the network, a model or a file elsewhere had a part in a result, it is never taken over; that
of a program, or of an experiment that was fetched, is where the user says so: nobody sees what
programs read, and anybody may have written what a remote has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from autopilot.core.experiment import Experiment
from autopilot.core.interpreter import Fresh
from autopilot.core.known import Known, is_same
from autopilot.core.progress import STALE, Position
from autopilot.core.records.history import environment_at
from autopilot.core.records.record import TASK, Manifest, MetricsRecord, TraceRecord
from autopilot.engine.bench import Bench
from autopilot.engine.board import Child
from autopilot.engine.options import Options, options_of
from autopilot.errors import AutopilotError
from autopilot.git.objects import Entry, tree_of
from autopilot.git.repository import Repository
from autopilot.sandbox.environment import SECRET, differences
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.layout import Layout, experiments
from autopilot.tracking.notebook import Notebook

# Of a run without Python: who edits, and what, is no part of a measurement.
_NO_MATTER = ("edit", "protect", "tune", "sampler", "agent", "model")


@dataclass(frozen=True, slots=True)
class _Other:
    """An experiment whose results count."""

    notebook: Notebook
    seed: int
    processes: tuple[bool, int]


class RecordedResults(Known):
    """All that the other experiments of a repository know.

    Args:
        imported: The parameters' files as this process imported them.
    """

    def __init__(
        self, bench: Bench, options: Options, experiment: Experiment, imported: Mapping[str, Entry]
    ) -> None:
        super().__init__()
        self._bench, self._options, self._experiment = bench, options, experiment
        assert isinstance(experiment.store, GitStore), "a run has one"
        self._store, self._imported, self._inputs = experiment.store, dict(imported), bench.inputs
        self._listed: list[tuple[str, str, bytes]] | None = None
        self._others: dict[str, _Other | None] = {}
        self._before, self._is_fresh, self._count, self._stale = set[str](), True, -1, False

    # --- what the results of this run depend on --------------------------------------------------

    def begin(self, state: str) -> None:
        inputs, noise = self._inputs, self._experiment.noise
        is_steady = noise is not None and not (noise.skipped or noise.is_noisy)
        # Of a state that was measured once, nothing shows that what is known is right.
        self.is_off |= self._experiment.last_epoch >= 0 and not is_steady
        inputs.uses.discard("chance")
        inputs.recent.clear()
        self._before, self._count = inputs.parameter_files(), -1
        self._is_fresh = dict(self._store.files.known) == self._imported

    def reach(self) -> tuple[str, ...]:
        inputs = self._inputs
        words = {"content", *inputs.look()}
        if not self._is_fresh:
            # A file that was read once, and is not read again, is that of another state.
            if self._count != len(inputs.recent):
                self._count = len(inputs.recent)
                self._stale = bool(self._before - inputs.parameter_files(recent=True))
            words |= {STALE} if self._stale else set()
        return tuple(sorted(words))

    # --- what others know ----------------------------------------------------------------------

    def sources(self, at: Position, state: str) -> list[TraceRecord]:
        found, own = [], (self._bench.manifest.seed, _processes(self._options), at.epoch)
        for other, trace, linked in self._recorded(state):
            if (trace.split, trace.repeat) != (at.split, at.repeat) or not trace.reach:
                continue
            is_at = (other.seed, other.processes, trace.epoch) == own
            is_alike = is_at or "chance" not in trace.reach
            if is_alike and self._is_trusted(trace) and self._are_linked(linked):
                found.append(replace(trace, source=f"{other.notebook.slug}@{trace.epoch}"))
        return found

    def forecast(self) -> list[str]:
        """A sentence on the state that the run starts from, if another experiment measured it."""
        tree = tree_of(self._store.repo, self._bench.manifest.base)
        files = self._store.files
        if files.entries(tree) != files.present(write=False):  # it takes uncommitted changes along
            return []
        for other, trace, _ in self._recorded(tree):
            if trace.split == "val" and trace.reach and not trace.repeat:
                name = f"{other.notebook.slug}, epoch {trace.epoch}"
                if self._is_trusted(trace):
                    return [
                        f"{name} measured this state: equal items keep its results (or --no-cache)"
                    ]
                return [
                    f"{name} has results of this state, but of programs, and what those read is "
                    "not known: it is measured anew (--cache takes them)"
                ]
        return []

    def _is_trusted(self, trace: TraceRecord) -> bool:
        return "programs" not in trace.reach or bool(self._options.cache)

    def _recorded(self, state: str) -> Iterator[tuple[_Other, TraceRecord, Mapping[str, str]]]:
        """The passes over a state that was measured in the same way, with the inputs known then."""
        self._listed = self._list() if self._listed is None else self._listed
        for slug, tip in [(x, y) for x, y, content in self._listed if state.encode() in content]:
            notebook = Notebook(self._store.repo, slug, tip)
            for row in notebook.index.epochs.with_text(state):
                if (other := self._other(notebook)) is None:
                    continue
                inputs, read = dict[str, str](), notebook.journal.read_on
                places = {} if row.is_repeated else {row.tree: row.revision}
                for record in read(row.revision, MetricsRecord):
                    inputs |= record.inputs
                    places |= record.beside
                for trace in read(places[state], TraceRecord) if state in places else ():
                    if trace.epoch == row.number:
                        yield other, trace, inputs

    def _list(self) -> list[tuple[str, str, bytes]]:
        """Name, tip and index of the other experiments; it is parsed where it has a state."""
        found, repo = list[tuple[str, str, bytes]](), self._store.repo
        for slug, tip in experiments(repo).items():
            # What cannot be read is named by who reads it.
            with contextlib.suppress(AutopilotError, OSError):
                if slug == self._store.slug:
                    continue
                content = b""
                with contextlib.suppress(FileNotFoundError):
                    content = Layout(slug).index(repo).read_bytes()
                if tip.encode() not in content:  # it is not up to date
                    content = Notebook(repo, slug, tip).index.epochs.encode()
                found.append((slug, tip, content))
        return found

    def _other(self, notebook: Notebook) -> _Other | None:
        """The experiment, if it measures as this one does, and two measurements were the same."""
        slug = notebook.slug
        if slug not in self._others:
            self._others[slug] = None
            try:
                options, events = options_of(notebook), notebook.events
                versions = {event.version for event in events if event.version}
                environment = environment_at(events)
                manifest, layout, repo = notebook.manifest, notebook.layout, notebook.repo
                mine = self._experiment.manifest
                places = layout.branch, layout.notes(TraceRecord.kind)
                if (
                    # A note may be anybody's who wrote to a remote.
                    (self._options.cache or all(_is_made_here(repo, place) for place in places))
                    and _measure(manifest, options) == _measure(mine, self._options)
                    and not manifest.in_place
                    and versions <= {manifest.versions.get("autopilot")}
                    and environment
                    and SECRET not in environment.values()
                    and not differences(environment)
                    and self._is_steady(notebook)
                ):
                    self._others[slug] = _Other(notebook, manifest.seed, _processes(options))
            except AutopilotError:
                return None
        return self._others[slug]

    def _is_steady(self, notebook: Notebook) -> bool:
        """Whether the baseline was measured twice, with the same results to the last word.

        A run that has measured the same state with other results knows better.
        """
        passes = _baseline(notebook)
        if len(passes) < 2 or any(not is_same(x.data(), passes[0].data()) for x in passes):
            return False
        if self._experiment.last_epoch < 0:
            return True
        known, own = passes[0], _baseline(Notebook(self._store.repo, self._store.slug))
        return all(
            each.source or each.given != known.given or is_same(each.data(), known.data())
            for each in own
            if each.given
        )

    def _are_linked(self, inputs: Mapping[str, str]) -> bool:
        """Whether the files of `--link` were all read, and are as they were."""
        links = self._bench.manifest.links
        read = {
            name: blob
            for name, blob in inputs.items()
            if any(name == link or name.startswith(f"{link}/") for link in links)
        }
        return not links or read == self._inputs.linked()


def know_others(
    bench: Bench,
    options: Options,
    experiment: Experiment,
    child: Child,
    imported: Mapping[str, Entry],
) -> list[str]:
    """Lets a run know the results of other experiments, where it is known what they depend on.

    Returns:
        A sentence for the user on those of the state that a new run starts from.
    """
    module = bench.module
    how = options.fresh or ("auto" if module.ends_items else module.fresh)
    unknown = {
        "--in-place": bench.workspace.in_place,
        "--fresh never": how == Fresh.never,
        "a process that has threads": not child.is_supervised,
        "--no-measure-noise": options.measure_noise is False,  # nothing shows that they are right
    }
    if options.cache is False or any(unknown.values()):
        named = " and ".join(name for name, holds in unknown.items() if holds)
        return [f"--cache has no effect with {named}"] if options.cache else []
    experiment.cache = known = RecordedResults(bench, options, experiment, imported)
    return [] if experiment.store.exists() else known.forecast()


def _measure(manifest: Manifest, options: Options) -> Mapping[str, Any]:
    """All that an experiment's results depend on beside the tree."""
    is_task = manifest.target == TASK
    hparams = {n: v for n, v in manifest.hparams.items() if not (is_task and n in _NO_MATTER)}
    named = ("target", "directory", "links", "versions")
    return {
        **{name: getattr(manifest, name) for name in named},
        "hparams": hparams,
        "scored": (options.monitor, options.failed_value),
    }


def _processes(options: Options) -> tuple[bool, int]:
    """The part of chance beside the seed: whether items have processes, or threads."""
    return options.jobs is not None, options.num_workers or 0


def _is_made_here(repo: Repository, name: str) -> bool:
    """Whether runs of this repository alone moved a ref, by its reflog: nothing was fetched."""
    try:
        lines = (repo.common_dir / "logs" / name).read_bytes().splitlines()
    except OSError:
        return False
    said = [line.partition(b"\t")[2] for line in lines]
    starts, fetched = (b"autopilot", b"notes: autopilot("), b"autopilot: fetch from "
    return bool(said) and all(x.startswith(starts) and not x.startswith(fetched) for x in said)


def _baseline(notebook: Notebook) -> list[TraceRecord]:
    traces = notebook.journal.read_on(notebook.start, TraceRecord)
    return [trace for trace in traces if (trace.epoch, trace.split) == (0, "val")]
