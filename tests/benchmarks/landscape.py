"""A landscape with local optima: a search by frontier and merge against hill climbing.

A system has components in pairs. A component that is renewed solves its own items and breaks those
that it shares with its partner, until that one is renewed too. So each single change makes the
system worse, and the best state alone leads nowhere. The proposals are fixed: the components are
renewed in turn.

Where `gepa` is installed (https://pypi.org/project/gepa), its own sampler makes the same search.
"""

from __future__ import annotations

import importlib.util
import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopilot import (
    AutoPilotModule,
    DataLoader,
    Datum,
    EarlyStopping,
    Experiment,
    InMemoryStore,
    Memory,
    Optimizer,
    Parameter,
    Step,
    Trainer,
)
from autopilot.core.search import SearchLoop
from autopilot.core.selection import selection
from tests.benchmarks.report import Report

State = Mapping[str, str]
OWN, SHARED = 2, 3


@dataclass(frozen=True)
class Landscape:
    """Components in pairs; each is "old" at first, and is to be "new".

    Args:
        pairs: How many.
    """

    pairs: int

    @property
    def components(self) -> list[str]:
        """In the order in which they are renewed: no two of a pair follow one another."""
        names = [f"c{number}" for number in range(2 * self.pairs)]
        return names[::2] + names[1::2]

    @property
    def items(self) -> list[dict[str, str]]:
        """Those of each component, and of each pair."""
        own = [{"of": name, "as": ""} for name in self.components for _ in range(OWN)]
        pairs = [(f"c{2 * pair}", f"c{2 * pair + 1}") for pair in range(self.pairs)]
        shared = [{"of": one, "as": other} for one, other in pairs for _ in range(SHARED)]
        return [{"id": str(at)} | item for at, item in enumerate(own + shared)]

    @property
    def first(self) -> dict[str, str]:
        """The state at the beginning."""
        return dict.fromkeys(self.components, "old")


def passes(state: State, item: Mapping[str, str]) -> bool:
    """Whether a state solves an item."""
    return state[item["of"]] == (state[item["as"]] if item["as"] else "new")


class Renewing(Optimizer):
    """Renews one component after the other; the second of several proposals takes the second."""

    needs_gradient, turn = False, 0

    def __init__(self, parameters: Sequence[Parameter], names: Sequence[str]) -> None:
        super().__init__(parameters)
        self.names = names

    def step(self) -> Step:
        """The next component."""
        turn = self.turn + self.proposal[0] - 1
        name = self.names[turn % len(self.names)]
        self.turn = turn + 1
        self.parameters[0].data[name] = "new"
        return Step(f"renew {name}", "renew")

    def state_dict(self) -> dict[str, Any]:
        """The number of the next turn."""
        return {"turn": self.turn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The same."""
        self.turn = state.get("turn", 0)


class System(AutoPilotModule):
    """The system of a landscape."""

    def __init__(self, landscape: Landscape) -> None:
        super().__init__()
        self.landscape, self.state = landscape, Parameter(landscape.first)

    def forward(self, batch: Datum) -> Datum:
        """Which items it solves."""
        state = self.state.data
        return Datum(items=[Datum(success=passes(state, x.metadata)) for x in batch.items])

    def val_dataloader(self) -> DataLoader:
        """All items: without a train split, only they are evaluated."""
        return DataLoader(self.landscape.items, len(self.landscape.items))

    def configure_optimizers(self) -> Renewing:
        """The proposals."""
        return Renewing(list(self.parameters()), self.landscape.components)


Run = Callable[[Landscape, int, int], int | None]


def searched(proposals: int, select: str, *, merge: bool = False) -> Run:
    """A search by this package, which gives the evaluations that it took to the optimum."""

    def run(landscape: Landscape, seed: int, most: int) -> int | None:
        loop = SearchLoop(
            proposals, 1, selection(select), 0 if select == "best" else None, merge=merge
        )
        experiment = Experiment(InMemoryStore(), Memory(block_after=0))
        trainer = Trainer(
            experiment=experiment,
            loop=loop,
            seed=seed,
            measure_noise=False,
            callbacks=[EarlyStopping(patience=None, target=1.0)],
        )
        # What was measured before costs nothing: such epochs do not count for the limit.
        trainer.fit(System(landscape), max_epochs=most // len(landscape.items))
        last = experiment.history[-1]
        return last.spent.evaluations if last.best == 1.0 else None

    return run


def sampled(*, merge: bool) -> Run:
    """The same by GEPA's own sampler, with its defaults."""
    import gepa  # type: ignore[import-not-found,unused-ignore]
    from gepa.core.adapter import (  # type: ignore[import-not-found,unused-ignore]
        EvaluationBatch,
    )

    class Adapter:
        def __init__(self, landscape: Landscape) -> None:
            self.items, self.evaluations, self.reached = landscape.items, 0, False

        def evaluate(self, batch: Any, candidate: State, capture_traces: bool = False) -> Any:
            scores = [float(passes(candidate, item)) for item in batch]
            self.evaluations += len(batch)
            self.reached |= len(batch) == len(self.items) and all(scores)
            traces = [{} for _ in scores] if capture_traces else None
            return EvaluationBatch(outputs=scores, scores=scores, trajectories=traces)

        def make_reflective_dataset(self, _state: State, _batch: Any, names: Any) -> Any:
            return {name: [{"item": ""}] for name in names}

        def propose_new_texts(self, _state: State, _given: Any, names: Any) -> dict[str, str]:
            return dict.fromkeys(names, "new")

    class Quiet:
        def log(self, _text: str) -> None:
            pass

    def run(landscape: Landscape, seed: int, most: int) -> int | None:
        adapter = Adapter(landscape)
        gepa.optimize(
            landscape.first,
            landscape.items,
            landscape.items,
            adapter=adapter,
            use_merge=merge,
            max_merge_invocations=most,
            max_metric_calls=most,
            seed=seed,
            logger=Quiet(),
            stop_callbacks=[lambda _state: adapter.reached],
        )
        return adapter.evaluations if adapter.reached else None

    return run


def landscape(report: Report) -> None:
    """Evaluations to the optimum, for two sizes of the landscape."""
    logging.getLogger("autopilot").setLevel(logging.ERROR)  # each run says that val is its feedback
    runs: dict[str, Run] = {
        "best only, 1 proposal": searched(1, "best"),
        "best only, 4 proposals": searched(4, "best"),
        "frontier, 2 proposals": searched(2, "frontier"),
        "frontier + merge, 2 proposals": searched(2, "frontier", merge=True),
        "frontier + merge, 1 proposal": searched(1, "frontier", merge=True),
    }
    notes = ["Medians of the runs that reached it; a run ends after 6,000 evaluations."]
    has_other = importlib.util.find_spec("gepa") is not None
    if has_other:
        runs |= {"GEPA": sampled(merge=False), "GEPA + merge": sampled(merge=True)}
    else:
        notes.append("GEPA's own sampler is left out: pip install gepa, in an environment beside.")
    seeds, ratios, alone = report.count(12, 2), list[float](), 0
    for pairs in (4, 6):
        place, rows, medians = Landscape(pairs), list[list[str]](), dict[str, float]()
        for name, run in runs.items():
            found = list(_reached(run, place, seeds))
            medians[name] = statistics.median(found) if found else float("inf")
            cells = (
                [f"{medians[name]:,.0f}", f"{min(found):,}", f"{max(found):,}"]
                if found
                else ["-"] * 3
            )
            rows.append([name, f"{len(found)} of {seeds}", *cells])
            alone += len(found) * name.startswith("best")
        title = f"{pairs} pairs of components, {len(place.items)} items: evaluations to the optimum"
        report.table(title, ("", "reached by", "median", "least", "most"), rows, *notes)
        if has_other:
            ours = medians["frontier + merge, 1 proposal"], medians["frontier + merge, 2 proposals"]
            ratios.append(max(ours) / medians["GEPA + merge"])
    report.limit("landscape, best only", alone)
    if ratios:
        report.limit("landscape", max(ratios))


def _reached(run: Run, place: Landscape, seeds: int) -> Iterator[int]:
    for seed in range(seeds):
        if (evaluations := run(place, seed, 6000)) is not None:
            yield evaluations
