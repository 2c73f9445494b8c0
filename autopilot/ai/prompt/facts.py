"""The facts that a prompt tells, gathered from a run that goes on or from the records of one.

Only what a resumed or repeated run sees too: no clock, and nothing of the val items but numbers,
ids and categories.
"""

from __future__ import annotations

import inspect
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from autopilot.ai.prompt.briefing import Attempt, Brief, Editable
from autopilot.core.experiment import Experiment
from autopilot.core.figures import better_by, direction_words, figure, figures
from autopilot.core.fit import Fit
from autopilot.core.gradient import Finding, Gradient, TextGradient
from autopilot.core.memory import MemoryContext, Past
from autopilot.core.module import Module
from autopilot.core.noise import noise_sentence
from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.records.record import Lesson, Manifest, MetricsRecord, Taken
from autopilot.core.run import Run
from autopilot.core.stopping import TARGET
from autopilot.core.types import Datum, Noise
from autopilot.tracking.diagnosis import NOT_PASSED, turned
from autopilot.tracking.notebook import Notebook

Boldness = Literal["auto", "focused", "bold"]
STALLED = 3
"""After so many epochs in which the score has not moved, a bold change is wanted."""
# Of the latest epochs that were taken back, diffs and items are read; of older ones, the verdicts.
_LATEST, _CATEGORIES = 3, 12
# Of the texts of val items, such short ones are masked whole, of longer ones each such part.
_SHORT, _QUOTE, _LONGEST = 8, 12, 600
_ALREADY_SAID = "is no improvement|stayed at"
_ERROR_NAME = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit|Warning)?\Z")


def brief(
    parameters: Sequence[Parameter],
    run: Run | None = None,
    *,
    goal: str = "",
    background: str = "",
    boldness: Boldness = "auto",
    context: MemoryContext | None = None,
    blocked: Iterable[str] = (),
) -> Brief:
    """The facts for an optimizer's step.

    Args:
        run: The run that goes on; without one, as in a manual loop, only the parameters, their
            gradients and what memory knows are told.
        goal, background, boldness: Those of the optimizer; the run's options count before goal and
            boldness. "auto" is bold once the score is flat.
        context: What memory knows.
        blocked: The strategies that must not be used.
    """
    module = run.module if isinstance(run, Fit) else None
    feedback = [
        (parameter.name or f"parameter {number}", parameter.grad)
        for number, parameter in enumerate(parameters)
        if parameter.grad is not None
    ]
    stalled = context.trend.stalled if context is not None else 0
    reasons = dict(context.blocked) if context is not None else {}
    if run is not None:
        boldness = run.experiment.manifest.options.get("boldness") or boldness
    facts: dict[str, Any] = {
        "goal": goal,
        "background": [background] if background else [],
        "parameters": [_editable(p, n, module) for n, p in enumerate(parameters)],
        "feedback": feedback,
        "blocked": {name: reasons.get(name, "") for name in sorted(blocked)},
        "bold": boldness == "bold" or (boldness == "auto" and stalled >= STALLED),
        "stalled": stalled,
        # A loop by hand has no records: its memory is all that is known of earlier steps.
        "earlier": context.render().splitlines() if context is not None else [],
    }
    if run is None:
        return Brief(**facts)
    experiment, past = run.experiment, _OfRun(run.experiment)
    manifest = experiment.manifest
    told = run.budget_line.splitlines()
    target = [line for line in told if line.startswith(TARGET)]
    facts |= {
        "goal": goal_of(manifest) or goal or _own(module, "objective"),
        "background": [*_background(manifest, background, module)],
        "failing": _uncovered(run.seen.failing, [gradient for _, gradient in feedback]),
        "passing": _uncovered(run.seen.passing, [gradient for _, gradient in feedback]),
        "passed": frozenset(run.seen.passed),
        "attempts": [*_earlier(experiment.memory.taken), *attempts(past, _given(run))],
        "left": "\n".join(line for line in told if line not in target),
        "wishes": run.wishes,
    }
    if experiment.is_open:
        facts["earlier"] = [*_by_hand(experiment.memory.by_hand(), experiment.memory.taken)]
    if isinstance(run, Fit):
        facts["score"] = [*_score(run, past), *target]
    return Brief(**facts)


def recorded_brief(notebook: Notebook) -> Brief:
    """The facts on an experiment whose steps are made by hand, or by an agent's host.

    They come from its records alone. The host reads the files itself, and gets the evaluation's
    own words on the val items of the best state, which are all that such an experiment learns from.
    """
    manifest, last = notebook.manifest, notebook.last
    found: list[Finding] = []
    if last is not None:
        for item in notebook.val_of(last.best_epoch)[1]:
            said = item.feedback or item.error_message
            if said and item.outcome in ("failed", "error"):
                found.append(Finding(said, item.attribution or "", item=item.id))
    records = notebook.judged()
    return Brief(
        goal=goal_of(manifest),
        background=[*_background(manifest, "", None)],
        parameters=[Editable(name=n, files=((p, ""),)) for n, p in manifest.parameters.items()],
        score=[*_values(records, notebook.noise)] if records else [],
        feedback=[("", TextGradient.of(found))] if found else [],
        attempts=[*_earlier(manifest.taken), *attempts(notebook)],
        earlier=[*_by_hand((), manifest.taken)],
    )


def goal_of(manifest: Manifest) -> str:
    """The goal that a run was started with, "" without one."""
    # Earlier runs without Python kept it with their arguments.
    return str(manifest.options.get("goal") or manifest.hparams.get("goal") or "")


def attempts(past: Past, given: Sequence[str] = ()) -> list[Attempt]:
    """The judged epochs but the baseline; of the latest that failed, also items and diff.

    Args:
        given: The texts of the val items as the module got them, not to be told.
    """
    records = list(past.judged())
    failed = [record for record in records if record.verdict == "rejected"]
    latest = {r.epoch for r in [r for r in failed if r.reused is None][-_LATEST:]}
    # By a person, before they were measured.
    refused = {r.epoch for r in [r for r in failed if r.is_refused][-_LATEST:]}
    found = []
    for before, record in pairwise(records):
        value = record.metrics.get(record.monitor)
        changed = record.reused is None and value is not None
        facts: dict[str, Any] = {
            "epoch": record.epoch,
            "kept": record.verdict == "kept",
            "strategy": record.strategy,
            "summary": record.summary,
            "change": f"{record.monitor} {' -> '.join(figures(before.best, value))}"
            if changed
            else "",
        }
        if record.epoch in latest:
            old, new = (past.val_of(n)[1] for n in (before.best_epoch, record.epoch))
            by_id = [{item.id: item for item in items} for items in (old, new)]
            fixed, broken = turned(*by_id)
            turned_none = "no val item turned between passing and failing"
            none = [turned_none] if new and not (fixed or broken) else []
            facts |= {
                "why": [*_why(record, new, given), *none],
                "fixed": _by_category(fixed, by_id[1]),
                "broken": _by_category(broken, by_id[1]),
                "diff": past.change(record.epoch),
            }
        elif record.verdict == "rejected" and record.reused is not None:
            facts["why"] = list(record.reasons)
            if record.epoch in refused:
                facts["diff"] = past.change(record.epoch)
        found.append(Attempt(**facts))
    return found


class _OfRun(Past):
    """The judged epochs of a run that goes on; of one that is repeated, as they were recorded."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment, self._recorded = experiment, experiment.recorded
        self._val: dict[int, tuple[Mapping[str, float], list[Datum]]] = {}

    def judged(self) -> Sequence[MetricsRecord]:
        if self._recorded is None:
            return self._experiment.history
        last = self._experiment.last_epoch
        return [record for record in self._recorded.judged() if record.epoch <= last]

    def val_of(self, epoch: int) -> tuple[Mapping[str, float], list[Datum]]:
        # Several attempts began with the same state.
        if epoch not in self._val:
            self._val[epoch] = self._experiment.val_of(epoch)
        return self._val[epoch]

    def change(self, epoch: int) -> str:
        experiment = self._experiment
        before = experiment.record_of(epoch - 1).best_epoch
        return experiment.store.diff(*map(experiment.revision_of, (before, epoch)))


# --- what may be edited, and what for ----------------------------------------------------------


def _editable(parameter: Parameter, number: int, module: Module | None) -> Editable:
    name = parameter.name or f"parameter {number}"
    readers = [
        f"{path} ({type(each).__name__})" if path else type(each).__name__
        for path, each in (module.named_modules() if module is not None else ())
        if any(own is parameter for own in each.parameters(recurse=False))
        and not type(each).__module__.startswith("autopilot.")
    ]
    files = tuple(_contents(parameter, name))
    return Editable(
        name=name, description=parameter.description, readers=tuple(readers), files=files
    )


def _contents(parameter: Parameter, name: str) -> Iterator[tuple[str, str]]:
    if not isinstance(parameter, PathParameter):
        yield f"the value {name}", parameter.render()
        return
    for file in parameter.files():
        try:
            text = parameter.read_text(file)
        except UnicodeDecodeError:
            text = "(binary)"
        yield os.path.relpath(parameter.root / file), text


def _background(manifest: Manifest, own: str, module: Module | None) -> Iterator[str]:
    given = [str(manifest.options.get("background") or ""), own, _own(module, "background")]
    yield from dict.fromkeys(filter(None, given))
    if manifest.idea:
        yield f"The idea of this experiment: {manifest.idea}"
    if manifest.hypothesis:
        yield f"The hypothesis: {manifest.hypothesis}"
    kinds = dict[type[Module], str]()
    for path, each in module.named_modules() if module is not None else ():
        kinds.setdefault(type(each), path)
    for kind, path in kinds.items():
        # A class of the user's own, with words of its own: those of a base class are on all.
        text = inspect.cleandoc(vars(kind).get("__doc__") or "")
        if text and not kind.__module__.startswith("autopilot."):
            yield f"{f'{path} ({kind.__name__})' if path else kind.__name__}: {text}"


def _own(module: Module | None, name: str) -> str:
    value = getattr(module, name, "")
    return value if isinstance(value, str) else ""


# --- the score ---------------------------------------------------------------------------------


def _score(run: Fit, past: Past) -> Iterator[str]:
    split = "train" if run.val is None else "val"
    unseen = ", whose items you do not see" if run.val is not None and run.train is not None else ""
    better = direction_words(run.mode)
    yield f"What counts is {run.monitor} on the {split} split{unseen}: {better}."
    records = past.judged()
    if records:
        yield from _values(records, run.experiment.noise)
        items = past.val_of(records[-1].best_epoch)[1]
        # How many val items fail, by category: of them, nothing else is told.
        if failing := [item for item in items if item.outcome in NOT_PASSED]:
            by = Counter(filter(None, map(_category, failing))).most_common(_CATEGORIES)
            named = ", ".join(f"{category} {count}" for category, count in by)
            yield f"Of {len(items)} val items {len(failing)} fail{': ' * bool(by)}{named}."
    if run.step_number > 1:
        yield f"This is step {run.step_number} of the epoch: its earlier ones are not measured yet."
    counts = run.seen.outcomes
    scored = counts["passed"] + counts["failed"] + counts["error"]
    if scored:
        share = f"{counts['passed'] / scored:.0%}"
        yield f"In this state {counts['passed']} of {scored} train items pass ({share})."
    gates = run.policy.gates
    yield f"An epoch is kept if {run.monitor} gets better than the best so far" + (
        ", and every gate passes:" if gates else "."
    )
    for gate in gates:
        yield f"- {gate.describe()}" + ("" if gate.required else " (else there is a warning)")


def _values(records: Sequence[MetricsRecord], noise: Noise | None) -> Iterator[str]:
    last, first = records[-1], records[0]
    best = next((r for r in records if r.epoch == last.best_epoch), first)
    if last.best is not None:
        before, now = figures(last.baseline, last.best)
        where = f"epoch {best.epoch}, the present state" if best.epoch else "the present state"
        values = f"baseline {before}, best so far {now} ({where})"
        yield f"{last.monitor}: {values if best.epoch else f'{now} ({where}, the baseline)'}."
    others = [
        f"{name} {figure(value)}" for name, value in best.metrics.items() if name != last.monitor
    ]
    if others:
        yield f"Other metrics of the present state: {', '.join(others)}."
    if noise is not None and noise.is_noisy:
        yield f"Noise: {noise_sentence(noise)}."


# --- items and attempts ------------------------------------------------------------------------


def _uncovered(items: Iterable[Finding], gradients: Iterable[Gradient]) -> list[Finding]:
    """The items that no gradient is about."""
    findings = [f for g in gradients if isinstance(g, TextGradient) for f in g.findings]
    ids = {finding.item for finding in findings if finding.item}
    alone = {(f.input, f.output) for f in findings if f.input or f.output}
    return [f for f in items if f.item not in ids and (f.input, f.output) not in alone]


def _by_category(ids: Iterable[str], items: Mapping[str, Datum]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in ids:
        found.setdefault(_category(items[name]), []).append(name)
    return found


def _category(item: Datum) -> str:
    """The subject of an item's feedback, or the category that the user gave it."""
    return item.attribution or str(item.metadata.get("category") or "")[:40]


def _given(run: Run) -> list[str]:
    """The texts of the val items, where the loader holds them in memory."""
    rows = getattr(run.val, "rows", None) if isinstance(run, Fit) else None
    return [*_strings([row.metadata if isinstance(row, Datum) else row for row in rows or ()])]


def _why(record: MetricsRecord, items: Sequence[Datum], given: Sequence[str]) -> list[str]:
    """The reasons of a verdict beside the score, without the contents of val items."""
    reasons = [
        reason
        for reason in record.reasons
        if not reason.startswith("the price of ")
        and not (reason.startswith(f"val {record.monitor} ") and re.search(_ALREADY_SAID, reason))
    ]
    if not reasons:
        return []
    messages = Counter(m for i in items for m in (i.error_message, i.unmeasured) if m)
    private = {*given, *_strings([(item.metadata, item.feedback) for item in items])}
    private = {text for text in private if messages[text] < 2} - {item.id for item in items}
    texts, found = "\0".join(private), []
    for reason in reasons:
        for message, count in messages.items():
            # What several items have in common tells of none of them.
            if count < 2 and message in reason:
                name = message.partition(":")[0]
                reason = reason.replace(message, name if _ERROR_NAME.match(name) else "an error")
        for text in private:
            if _SHORT <= len(text) < _QUOTE:
                reason = reason.replace(text, "...")
        reason, quoted = reason[:_LONGEST], set[int]()
        for at in range(len(reason) - _QUOTE + 1):
            if reason[at : at + _QUOTE] in texts:
                quoted.update(range(at, at + _QUOTE))
        kept = ("\0" if at in quoted else each for at, each in enumerate(reason))
        found.append(re.sub("\0+", "...", "".join(kept)))
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(each)


def _earlier(taken: Sequence[Taken]) -> Iterator[Attempt]:
    """The lessons of earlier experiments, but those of people; not the reasons, which quote."""
    pairs = ((each, x) for each in taken[::-1] for x in each.lessons if not x.by_hand)
    for each, lesson in pairs:
        is_kept, how = lesson.outcome == "kept", [f"outcome: {lesson.outcome}"]
        facts: dict[str, Any] = {"strategy": lesson.strategy, "summary": lesson.summary}
        if (value := lesson.value) is not None and lesson.delta is not None:
            before = better_by(value, -lesson.delta, lesson.mode)
            facts["change"] = f"{each.monitor} {' -> '.join(figures(before, value))}"
        facts["why"] = how if lesson.outcome not in ("kept", "rejected") else []
        yield Attempt(epoch=lesson.epoch, kept=is_kept, experiment=each.experiment, **facts)


def _by_hand(own: Sequence[Lesson], taken: Sequence[Taken]) -> Iterator[str]:
    pairs = [(f" in {each.experiment}", x) for each in taken[::-1] for x in each.lessons]
    for where, lesson in [*(pair for pair in pairs if pair[1].by_hand), *(("", x) for x in own)]:
        what = ": ".join(filter(None, (lesson.strategy or "unnamed", lesson.summary)))
        why = f": {lesson.reason}" if lesson.reason else ""
        yield f"noted by the user{where}: {what} ({lesson.outcome}){why}"
