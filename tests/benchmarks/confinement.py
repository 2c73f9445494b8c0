"""What it costs to keep an agent's step to the parameters, and to know what was read."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from autopilot.core.parameter import PathParameter
from autopilot.core.records.record import Manifest
from autopilot.core.stepping import Guard
from autopilot.git.repository import Repository
from autopilot.sandbox.audit_hooks import Inputs
from autopilot.sandbox.confinement import guard_of
from autopilot.sandbox.workspace import open_workspace
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.parameters import scope_of
from tests.benchmarks.report import Report
from tests.benchmarks.repos import RULES, make_repository, rule_name, rule_text

_READ = 200


def confinement(report: Report) -> None:
    """Steps that edit one file, steps that also edit and make files elsewhere, and inputs."""
    rows = []
    steps = report.count(40, 3)
    for files in (1_000, 20_000):
        top = make_repository(report.folder / f"confined-{files}", report.count(files, 500), 10)
        for in_place in (False, True):
            user = Repository.discover(top)
            slug = f"confined-{files}"
            base = user.head_commit()
            workspace = open_workspace(user, top, Manifest(slug=slug, base=base, in_place=in_place))
            here = workspace.repo.workdir
            scope = scope_of(workspace.repo, PathParameter(here / RULES))
            inputs = Inputs(workspace.repo, base, (), in_place=in_place)
            inputs.scopes = [scope]
            store = GitStore(slug, here, in_place=in_place)
            store.layout.progress(user).parent.mkdir(exist_ok=True)
            guard = guard_of(workspace, slug, [scope], inputs, store)
            first_ms = _step(guard, lambda here=here: _edit(here, 0))
            honest = [_step(guard, lambda n=n, here=here: _edit(here, n)) for n in range(steps)]
            hostile = [_step(guard, lambda n=n, here=here: _attack(here, n)) for n in range(steps)]
            inputs.open()
            for name in sorted(here.glob("src/*/*/*.py"))[:_READ]:
                name.read_bytes()
            inputs.close()
            inputs.blobs()
            known = []
            for _ in range(steps):
                started = time.perf_counter()
                inputs.blobs()
                known.append((time.perf_counter() - started) * 1000)
            times = [first_ms, *map(statistics.median, (honest, hostile, known))]
            place = "in place" if in_place else "worktree"
            rows.append([f"{files:,} files, {place}", *(f"{value:,.1f}" for value in times)])
            if files == 20_000:
                report.limit("confinement, in place" if in_place else "confinement", times[1])
            os.chdir(top)  # a worktree is not removed while it is the working directory
            workspace.remove()
    report.table(
        f"Confining an agent's step, and looking at {_READ} inputs: medians in ms",
        ("", "first step", "step", "step with 20 violations", "inputs"),
        rows,
        "The agent's own time left out. Optimizers without agents have no confinement.",
    )


def _step(guard: Guard, work: Callable[[], float]) -> float:
    started = time.perf_counter()
    guard.confine()
    inside_ms = work()
    guard.put_back()
    return (time.perf_counter() - started) * 1000 - inside_ms


def _edit(here: Path, number: int) -> float:
    started = time.perf_counter()
    (here / RULES / rule_name(0)).write_text(rule_text(0, number))
    return (time.perf_counter() - started) * 1000


def _attack(here: Path, number: int) -> float:
    started = time.perf_counter()
    _edit(here, number)
    for name in sorted((here / "src/00/00").iterdir())[:10]:
        name.write_text(f"changed {number}")
    for new in range(10):
        (here / f"new-{new}.py").write_text("new")
    return (time.perf_counter() - started) * 1000
