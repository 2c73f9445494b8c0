"""`promote`: an epoch into a branch, after its gates. `policy`: the gates of the policy now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from autopilot.cli.arguments import DryRun, Epoch, EpochOrOption, Name, Reason, Reviewer, option
from autopilot.cli.context import Context, in_child
from autopilot.cli.output import Output, own_stdout
from autopilot.core.figures import figure
from autopilot.core.records.message import state_name
from autopilot.errors import UsageError
from autopilot.proof.verification import Ruling, rule
from autopilot.report.comparison import (
    decision_line,
    file_documents,
    file_rows,
    file_totals,
    picked,
)
from autopilot.review.promotion import Method, Promoted, PromotionPlan, Requirement, promote
from autopilot.review.promotion import plan as look
from autopilot.text import align
from autopilot.tracking.attribution import named
from autopilot.tracking.notebook import Notebook


@dataclass(frozen=True, slots=True)
class Way:
    """The options on how an epoch gets into a branch."""

    into: Annotated[
        str | None, option("The branch; where the experiment started if not.", metavar="BRANCH")
    ] = None
    squash: Annotated[bool, option("As one commit; this is the default.")] = False
    no_ff: Annotated[bool, option("As a merge commit, with all steps behind it.")] = False
    ff_only: Annotated[bool, option("Move the branch to the experiment's own commit.")] = False
    policy: Annotated[
        bool, option("Load the module of your checkout and ask its policy, as it is now.")
    ] = False

    def method(self) -> Method:
        """The chosen one of the three."""
        if self.squash + self.no_ff + self.ff_only > 1:
            raise UsageError(
                "--squash, --no-ff and --ff-only exclude one another", hint="give one of them"
            )
        return "no-ff" if self.no_ff else "ff-only" if self.ff_only else "squash"


def plan(context: Context, name: Name = None, epoch: EpochOrOption = "best", *, way: Way) -> int:
    """Show what a promotion would change, and its gates.

    The files and the score; whether the policy kept the epoch, it was not rejected by hand, it
    merges without conflict, and the branch can be moved; with --policy, also what the policy says
    now. Nothing is changed. The exit code is 1 if a gate is closed.

    \b
    autopilot promote plan classifier-1
    autopilot promote plan classifier-1 3 --into release --no-ff
    """
    notebook = context.notebook(name)
    method = way.method()
    with own_stdout(context.output) as output:
        asked = _asked(notebook, epoch) if way.policy else ()
        found = look(notebook, way.into, epoch, method, asked)
        _say(output, found)
        output.document(_document(found))
    return 1 if found.failed else 0


def execute(
    context: Context,
    name: Name = None,
    epoch: EpochOrOption = "best",
    *,
    way: Way,
    reason: Reason = "",
    reviewer: Reviewer = "",
    dry_run: DryRun = False,
) -> int:
    """Merge an epoch into a branch, and write the decision down.

    Only the parameters' changes get in. Your files stay as they are, unless the branch is checked
    out: then it must be clean, and its files and index come along, in linked worktrees too. The
    decision, with reason and reviewer, is shown by `autopilot experiment show`.

    \b
    autopilot promote execute classifier-1 --reason "passes the audit set"
    autopilot promote execute classifier-1 --into release --no-ff
    """
    method = way.method()
    if dry_run:
        return plan(context, name, epoch, way=way)
    notebook = context.notebook(name)
    with own_stdout(context.output) as output:
        done = promote(
            notebook.repo,
            notebook.slug,
            way.into,
            epoch,
            method,
            more=_asked(notebook, epoch) if way.policy else (),
            reason=reason,
            reviewer=reviewer,
        )
        _say_done(output, done)
    return 0


def _asked(notebook: Notebook, epoch: str) -> list[Requirement]:
    """The verdict of the checkout's policy on the epoch; nothing is evaluated."""
    number = named(notebook, epoch).number
    ruling = rule(notebook, number)
    why = "; ".join(ruling.decision.reasons)
    does = "keeps" if ruling.decision.kept else "does not keep"
    hint = f"autopilot policy explain {number} -e {notebook.slug}"
    detail = f"{ruling.policy} {does} it now: {why}"
    return [Requirement("policy", ruling.decision.kept, detail, hint)]


def _say_done(output: Output, done: Promoted) -> None:
    found = done.plan
    if found.is_done:
        output.line(
            f"{found.onto.name} has epoch {found.epoch.number} of {found.slug} already, "
            f"by {done.commit[:7]}"
        )
    if done.event is not None:
        output.line(f"{found.slug}: {decision_line(done.event)}")
        output.line(f"{found.score}; {file_totals(found.counts)}")
    if done.updated:
        output.line(f"{found.onto.name} is checked out in {done.updated}: its files came along")
    if not found.is_done:
        output.line(f"see it:   git show --stat {done.commit[:10]}")
        output.line(f"take back: autopilot propose revert {found.slug}")
    output.document(
        _document(found), commit=done.commit, decision=done.event, updated=done.updated or None
    )


def _say(output: Output, found: PromotionPlan) -> None:
    output.line(f"{found.slug}, {found.epoch.title} -> {found.onto.name}, {found.method}")
    test = found.test.get(found.score.name.removeprefix("val "))
    tested = f", test {figure(test)}" if test is not None else "; the test split is not scored"
    output.line(f"{found.score}{tested}")
    if found.counts:
        columns = ["file", "added", "removed"]
        output.table(columns, file_rows(found.counts), right=columns[1:])
    gates = [[g.name, "ok" if g.passed else "closed", g.detail] for g in found.gates]
    output.table(["gate", "state", "why"], gates)
    if found.is_done:
        output.line(f"there is nothing to do: {found.onto.name} has it")
    elif found.failed:
        output.line("it would be refused:")
        output.lines(f"  {gate.name}: {gate.hint}" for gate in found.failed)
    else:
        output.line(f"do it: {_command(found)}")


def _command(found: PromotionPlan) -> str:
    record = found.epoch.record
    name = state_name(record) if record.is_candidate else str(record.epoch)
    return (
        f"autopilot promote execute {found.slug} --into {found.onto.name} "
        f"--epoch {name} --{found.method}"
    )


def _document(found: PromotionPlan) -> dict[str, Any]:
    return {
        "experiment": found.slug,
        "epoch": found.epoch.number,
        "revision": found.commit,
        "into": found.onto.name,
        "tip": found.onto.tip,
        "method": found.method,
        **picked(found, "score test"),
        "files": file_documents(found.counts),
        "gates": found.gates,
        "allowed": not found.failed,
        "done": found.is_done,
        "execute": _command(found),
    }


@in_child
def check(context: Context, name: Name = None, epoch: Epoch = "best") -> int:
    """Exit code 1 unless an epoch passes the policy as it is now.

    The module's `configure_policy` of your checkout judges the recorded measurements; nothing is
    evaluated.

    \b
    autopilot policy check
    autopilot policy check classifier-1 last
    """
    with own_stdout(context.output) as output:
        ruling = _ruling(context, output, name, epoch)
        passes = "passes" if ruling.decision.kept else "does not pass"
        output.line(f"{ruling.epoch.title} {passes} {ruling.policy}")
        output.lines(f"  {reason}" for reason in ruling.decision.reasons)
        return 0 if ruling.decision.kept else 1


@in_child
def explain(context: Context, name: Name = None, epoch: Epoch = "last") -> None:
    """Say what each gate of the policy finds in an epoch, and why.

    The policy is that of your checkout, whose code is run. If the run decided otherwise, the
    policy was changed since, and that is said too.

    \b
    autopilot policy explain
    autopilot policy explain classifier-1 7
    """
    with own_stdout(context.output) as output:
        ruling = _ruling(context, output, name, epoch)
        decision, judged = ruling.decision, ruling.epoch
        against = "" if ruling.against is None else f", against epoch {ruling.against}"
        output.line(f"{judged.title} by {ruling.policy}{against}: {decision.verdict}")
        rows = [
            [
                "passed" if gate.passed else "failed" if gate.required else "warns",
                gate.gate,
                gate.reason,
            ]
            for gate in decision.gates
        ]
        lines = align(["", "gate", "finding"], rows) if rows else decision.reasons
        output.lines(f"  {line}" for line in lines)
        for split, values in judged.metrics.items():
            output.line(f"{split}: {', '.join(f'{k} {figure(v)}' for k, v in values.items())}")
        output.line(f"the run decided: {judged.verdict} ({'; '.join(judged.record.reasons)})")
        if ruling.differs:
            output.line("policy or gates were changed since, or a record was", "yellow")


def _ruling(context: Context, output: Output, name: str | None, epoch: str) -> Ruling:
    notebook = context.notebook(name)
    ruling = rule(notebook, named(notebook, epoch).number)
    judged, decision = ruling.epoch, ruling.decision
    output.document(
        experiment=notebook.slug,
        epoch=judged.number,
        **picked(ruling, "against policy differs"),
        passes=decision.kept,
        **picked(decision, "reasons gates"),
        metrics=judged.metrics,
        recorded={"verdict": judged.verdict, "reasons": judged.record.reasons},
    )
    return ruling


COMMANDS = {"plan": plan, "execute": execute}
POLICY = {"check": check, "explain": explain}
