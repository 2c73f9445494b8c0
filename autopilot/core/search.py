"""Several candidates in an epoch, from one state or several: the loop of a search.

Each candidate is made and measured as an epoch is, beside the others. Chance depends on the epoch
and the candidate's number alone, so that the result is the same whatever finishes first. The best
one is kept if it passes the policy; the others may stay as states that later candidates start from.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

from autopilot.core.comparison import EpochView, averaged
from autopilot.core.figures import gained
from autopilot.core.fit import Fit
from autopilot.core.in_progress import Draft
from autopilot.core.loop import EpochLoop
from autopilot.core.measured import SplitMetrics
from autopilot.core.parameter import values_of
from autopilot.core.policy import Decision, decide
from autopilot.core.records.history import KnownState
from autopilot.core.records.message import epoch_tag
from autopilot.core.records.record import MERGE, EpochOutcome
from autopilot.core.selection import BeamSelection, BestSelection, Selection, State, chance_of
from autopilot.core.states import RecordedStates, named_objectives
from autopilot.core.stepping import Step
from autopilot.core.store import Side
from autopilot.core.types import Cost
from autopilot.errors import UsageError


class SearchLoop(EpochLoop):
    """Several candidates an epoch.

    Args:
        proposals: How many.
        parents: How many states they start from, fewer while there are fewer.
        selection: Chooses these states; the best ones unless given.
        keep: How many candidates of an epoch may stay beside the best one: those that no other
            state dominates, in which no item lost its value, and that no gate forbids. None: all
            of them.
        objectives: Val metrics that a state may be good at beside the items: "f1", or with a
            direction "seconds:min".
        merge: Let one candidate of an epoch be the merge of two undominated states that are good at
            different items, where there are such. If their changes conflict, an optimizer that
            can take both makes the step. With one proposal, only after an epoch with a new state.

    Raises:
        UsageError: no proposals or parents, more parents than proposals, an objective that is given
            twice, or objectives that nothing looks at, or nothing to merge.
    """

    def __init__(
        self,
        proposals: int = 1,
        parents: int = 1,
        selection: Selection | None = None,
        keep: int | None = 0,
        objectives: Sequence[str] = (),
        *,
        merge: bool = False,
    ) -> None:
        if min(proposals, parents) < 1 or parents > proposals:
            raise UsageError(
                f"{parents} parents for {proposals} proposals",
                hint="at least one of each, and each parent has a proposal",
            )
        if keep is not None and keep < 0:
            raise UsageError(f"{keep} states to keep", hint="0 or more; None: all of them")
        self.proposals, self.parents = proposals, parents
        self.selection = selection or BestSelection()
        if isinstance(self.selection, BeamSelection) and self.selection.width < parents:
            raise UsageError(
                f"{parents} parents, and the best {self.selection.width} to choose them from",
                hint=f"--select beam:{parents}, or a wider one",
            )
        self.keep = math.inf if keep is None else keep
        self.objectives = named_objectives(objectives)
        if self.objectives and not (self.selection.reads_scores or self.keep):
            raise UsageError(
                "nothing looks at the objectives: candidates start from states by the monitored "
                "metric, and none stays beside the best one",
                hint="give --select frontier, or --keep-states all",
            )
        self.merge = merge
        if merge and not self.keep and isinstance(self.selection, BestSelection):
            raise UsageError(
                "--merge: no state but the best one stays, so there are no two to merge",
                hint="let others stay: --select frontier, or --keep-states all",
            )
        self._states: RecordedStates | None = None

    def run(self, fit: Fit) -> str:
        self._states = None
        return super().run(fit)

    def epoch(self, fit: Fit, epoch: int) -> None:
        """All candidates, one after the other, and the verdict on the best one."""
        sides = self._sides(fit, epoch)
        best = epoch_tag(fit.experiment.best_epoch)
        if not self.keep and [side.parents for side in sides] == [(best,)]:
            super().epoch(fit, epoch)
            return
        fit.start_epoch(epoch)
        fit.call("on_train_epoch_start")
        fit.call("on_candidates", sides)
        charge(fit, sides)
        state, tried = copy.deepcopy(fit.optimizer.state_dict()), list[Draft]()
        counted = set[Any]()
        for side in sides:
            with beside(fit, side, sides, state) as attempt:
                attempt.progress.counted = counted
                share(fit, [each for each in sides if each != side])
                self._attempt(fit, attempt, tried)
            tried.append(attempt)
        leader, decision = self._judge(fit, tried)
        fit.experiment.now, fit.metrics = leader, leader.metrics
        fit.tried = tried
        self.conclude(fit, decision, leader.known)
        for attempt in tried:
            if attempt.stays:
                self._pool(fit).pool.add(self._state(fit, attempt))

    def conclude(self, fit: Fit, decision: Decision, known: KnownState | None = None) -> None:
        """The verdict; the state that is kept joins those that candidates may start from."""
        items, best = averaged(fit.experiment.now.passes), epoch_tag(fit.experiment.best_epoch)
        super().conclude(fit, decision, known)
        if fit.epoch > 0:
            record = fit.experiment.record_of(fit.epoch)
            if decision.kept:
                revision, parents = fit.experiment.revision_of(fit.epoch), record.parents or (best,)
                self._pool(fit).add(fit.epoch, 0, (fit.metrics["val"], items), revision, parents)
                self._pool(fit).pool.tip = epoch_tag(fit.epoch)
            self._pool(fit).count(record)

    def _attempt(self, fit: Fit, attempt: Draft, tried: Sequence[Draft]) -> None:
        """The train split, a step, and the val split, of one candidate."""
        if attempt.side and attempt.side.is_merged:
            train = self._merge(fit, attempt.side)
        else:
            train = self.learn_from_val(fit) if fit.train is None else self.train(fit)
        attempt.known = fit.refused or _unchanged(fit, attempt) or fit.experiment.known_state()
        # One that was screened was compared with the state that it was made from alone.
        same = (each for each in tried if each.state == attempt.state and not each.is_screened)
        attempt.twin = next(same, None)
        if attempt.known is None and attempt.twin is None:
            attempt.known, attempt.errors = self.judge(fit, train)
        if attempt.known is not None:
            fit.metrics["val"] = dict(attempt.known.metrics)
        elif attempt.twin is not None:
            fit.metrics["val"] = dict(attempt.twin.metrics.get("val", {}))
            fit.experiment.on_validation_complete(attempt.twin.items, ())

    def _merge(self, fit: Fit, side: Side) -> SplitMetrics:
        """The step of a merge: no optimizer is asked, and nothing is evaluated for it."""
        experiment, optimizer = fit.experiment, fit.optimizer
        record = experiment.replay_step(optimizer, fit.epoch, 1)
        if record is None:
            experiment.begin_step(fit.epoch, 1)
            experiment.store.place(experiment.store.combine(side)[0])
            record = experiment.commit_step(optimizer, fit.epoch, 1, Step(strategy=MERGE))
        self.stepped(fit, record)
        return SplitMetrics(fit.module, keep_items=False)

    def _judge(self, fit: Fit, tried: Sequence[Draft]) -> tuple[Draft, Decision]:
        """Gives each candidate its verdict; returns the best one, and the epoch's verdict."""

        def rank(attempt: Draft) -> tuple[bool, float, int]:
            value = attempt.metrics.get("val", {}).get(fit.monitor, math.nan)
            gain = gained(0.0, value, fit.mode)
            value = gain if math.isfinite(gain) else -math.inf
            return attempt.is_new, value, -attempt.place.number

        ranked, leader = sorted(tried, key=rank, reverse=True), None
        # One that was stopped had its chance too; one that was screened had none.
        raced = [each for each in tried if each.known and each.known.outcome == "raced"]
        measured = len(raced) + sum(each.is_new for each in tried)
        for attempt in ranked:
            origin, known = self._pool(fit).pool.states[attempt.origin], attempt.known
            attempt.is_better = attempt.is_new and self._state(fit, attempt).value > origin.value
            if known is not None:
                attempt.decision = Decision("rejected", known.reasons, is_measured=known.is_judged)
            elif attempt.twin is not None:
                same = f"the same state as candidate {attempt.twin.place.number}"
                attempt.decision = Decision("rejected", (same,))
            elif leader is not None:
                is_equal = rank(attempt)[:2] == rank(leader)[:2]
                how = "as good, and came first" if is_equal else "better"
                reason = f"candidate {leader.place.number} is {how}"
                attempt.decision = Decision("rejected", (reason,))
            else:
                view = replace(_view(fit, attempt), candidates=measured)
                attempt.decision = decide(fit.policy, view, attempt.errors)
                leader = attempt if attempt.decision.kept else None
        best = leader or ranked[0]
        assert best.decision is not None, "it was judged"
        # Where none is better than the best state, the best of them may stay beside it.
        decision = best.decision
        self._keep_others(fit, [each for each in ranked if each is not leader], leader)
        return best, decision

    def _keep_others(self, fit: Fit, others: Sequence[Draft], leader: Draft | None) -> None:
        """Lets candidates stay that no other state dominates, if no gate forbids it."""
        states = self._pool(fit)
        if not self.keep:
            return
        frontier, kept = states.pool.frontier.copy(), 0
        if leader is not None:
            frontier.add(self._state(fit, leader))
        for attempt in others:
            view = _view(fit, attempt)
            # Over fewer items a value may be higher, and the search would start from it for ever.
            has_lost = view.comparison is not None and view.comparison.lost
            is_open = kept < self.keep and attempt.is_new and not has_lost
            if is_open and frontier.add(self._state(fit, attempt)):
                # Gates that compare with the best have nothing to compare with.
                alone = replace(view, best={}, best_items=())
                if decide(fit.policy, alone, attempt.errors).kept:
                    attempt.is_beside = True
                    reason = "no other state is as good on all items"
                    reason += " and objectives" if self.objectives else ""
                    reason += ", and better on one"
                    attempt.decision = Decision("kept", (reason,))
                    kept += 1

    def _sides(self, fit: Fit, epoch: int) -> list[Side]:
        """Where the candidates of an epoch start."""
        chance = chance_of(fit.seed, "select", epoch)
        parents = self.selection.chosen(self._pool(fit).pool, self.parents, chance)
        merged = self._merge_of(fit, epoch, chance) if self.merge else None
        # The first: the state of the optimizer after the epoch is that of the last candidate.
        sides = [merged] if merged else []
        for number in range(self.proposals - len(sides)):
            state, place = parents[number % len(parents)], len(sides) + 1
            sides.append(Side(epoch, place, state.revision, state.name, state.epoch))
        return sides

    def _merge_of(self, fit: Fit, epoch: int, chance: Random) -> Side | None:
        """The candidate that merges two states; None where there is none to be made."""
        experiment, pool, conflicting = fit.experiment, self._pool(fit).pool, None
        if MERGE in fit.optimizer.blocked:
            return None
        newest = [*pool.states.values()][-1]
        if self.proposals == 1 and (newest.epoch < epoch - 1 or len(newest.parents) > 1):
            return None
        for ours, theirs, ancestor in pool.pairs(chance):
            places = theirs.name, theirs.revision, ancestor.revision
            side = Side(epoch, 1, ours.revision, ours.name, ours.epoch, *places, is_merged=True)
            state, conflicts = experiment.store.combine(side)
            if state and experiment.measured(state) is None:
                return side
            if conflicts and fit.optimizer.merges and conflicting is None:
                conflicting = replace(side, is_merged=False)
        return conflicting

    def _state(self, fit: Fit, attempt: Draft) -> State:
        """A candidate as a state that may stay."""
        side, results = attempt.place, (attempt.metrics["val"], averaged(attempt.passes))
        made = attempt.revision, side.parents
        return self._pool(fit).state(side.epoch, side.number, results, *made)

    def _pool(self, fit: Fit) -> RecordedStates:
        if self._states is None:
            experiment, selection = fit.experiment, self.selection
            self._states = RecordedStates(
                experiment.epochs,
                experiment.store.records_on,
                reads_scores=selection.reads_scores or self.keep > 0 or self.merge,
                reads_trials=selection.reads_trials,
                before=experiment.measured_before,
            )
        return self._states


def share(fit: Fit, sides: Sequence[Side]) -> None:
    """Lets what was measured for other candidates count for the present one."""
    fit.experiment.share(sides)
    fit.renew_services()


def charge(fit: Fit, sides: Sequence[Side]) -> None:
    """Counts the calls of candidates that were paid ahead of the loop, or before a kill."""
    for side in sides:
        for call in fit.experiment.store.progress_of(side)[1]:
            fit.ledger.charge(call.role, call.cost, known=call.priced, judged=call.step > 0)


@contextmanager
def beside(
    fit: Fit, side: Side, sides: Sequence[Side], state: Mapping[str, Any]
) -> Iterator[Draft]:
    """In the body, the run works on a candidate of the epoch.

    Args:
        sides: All candidates of the epoch.
        state: The optimizer's state at the beginning of the epoch, from which each starts.
    """
    optimizer, before, own = fit.optimizer, fit.meter.cost(), fit.metrics
    optimizer.load_state_dict(state)
    ahead = sum(each.is_merged for each in sides)  # no proposal of the optimizer's
    optimizer.proposal = max(side.number - ahead, 1), max(len(sides) - ahead, 1)
    fit.candidate, fit.metrics = side.number, {}
    if side.second and not side.is_merged:
        states = zip(side.parents, (side.base, side.theirs), strict=True)
        changed = fit.experiment.store.diff
        optimizer.to_merge = {name: changed(side.ancestor, place) for name, place in states}
    fit.line = f"c{side.number}"
    fit.loss.reset()
    optimizer.zero_grad()
    fit.start_draft()
    try:
        with fit.experiment.beside(side) as attempt:
            yield attempt
            attempt.metrics = fit.metrics
            attempt.values = values_of(fit.module.parameters())
            attempt.memorized = fit.evaluator.given.in_edit()
            fit.meter.add(Cost(evaluations=-attempt.progress.borrowed))
            cost = fit.meter.cost().since(before)
            # Of one that was measured ahead of the loop, the notes have the time.
            attempt.cost = replace(cost, seconds=max(cost.seconds, attempt.progress.seconds()))
    finally:
        fit.renew_services()
        optimizer.proposal, fit.candidate, fit.metrics, fit.line = (1, 1), 0, own, ""
        optimizer.to_merge = {}


def _unchanged(fit: Fit, attempt: Draft) -> KnownState | None:
    """The measurement of the candidate that an attempt started from, if it changed nothing."""
    if attempt.changed or attempt.origin == epoch_tag(attempt.place.origin_epoch):
        return None
    metrics, _, epoch = fit.experiment.val_before()
    errors = tuple(step.error for step in attempt.steps if step.error)
    outcome: EpochOutcome = "failed" if errors else "unchanged"
    reasons, number = errors or ("the optimizer changed nothing",), attempt.origin.split("-c")[1]
    return KnownState(epoch, metrics, outcome, reasons, int(number))


def _view(fit: Fit, attempt: Draft) -> EpochView:
    """A candidate for the policy."""
    fit.experiment.now = attempt
    view = fit.experiment.view(fit.epoch, attempt.metrics, fit.monitor, fit.mode, attempt.cost)
    return replace(view, memorized=attempt.memorized)
