"""Commands that ask the policy: check (for scripts), explain (for people)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopilot.cli.context import Context
from autopilot.cli.output import Output, own_stdout
from autopilot.cli.reading import SlugOption
from autopilot.core.figures import figure
from autopilot.text import align

if TYPE_CHECKING:
    from autopilot.proof.verification import Ruling

EpochArgument = Annotated[
    str, typer.Argument(metavar="EPOCH", help="A number, best, last, baseline, a tag or a commit.")
]


def check(context: Context, epoch: EpochArgument = "best", slug: SlugOption = None) -> int:
    """Exit code 1 unless an epoch passes the policy as it is now.

    The module's `configure_policy` of your checkout judges the recorded measurements; nothing is
    evaluated.

    \b
    autopilot policy check
    autopilot policy check last -e classifier-1
    """
    with own_stdout(context.output) as output:
        ruling = _ruling(context, output, epoch, slug)
        told = "passes" if ruling.decision.kept else "does not pass"
        output.line(f"epoch {ruling.epoch.number} {told} {ruling.policy}")
        for reason in ruling.decision.reasons:
            output.line(f"  {reason}")
        return 0 if ruling.decision.kept else 1


def explain(context: Context, epoch: EpochArgument = "last", slug: SlugOption = None) -> None:
    """Say what each gate of the policy finds in an epoch, and why.

    If the run decided otherwise, the policy was changed since, and that is said too.

    \b
    autopilot policy explain
    autopilot policy explain 7 -e classifier-1
    """
    with own_stdout(context.output) as output:
        ruling = _ruling(context, output, epoch, slug)
        decision, judged = ruling.decision, ruling.epoch
        against = "" if ruling.against is None else f", against epoch {ruling.against}"
        output.line(f"epoch {judged.number} by {ruling.policy}{against}: {decision.verdict}")
        rows = [
            [
                "passed" if gate.passed else "failed" if gate.required else "warns",
                gate.gate,
                gate.reason,
            ]
            for gate in decision.gates
        ]
        for line in align(["", "gate", "finding"], rows) if rows else decision.reasons:
            output.line(f"  {line}")
        for split, values in judged.metrics.items():
            output.line(f"{split}: {', '.join(f'{k} {figure(v)}' for k, v in values.items())}")
        output.line(f"the run decided: {judged.verdict} ({'; '.join(judged.reasons)})")
        if ruling.differs:
            output.line("policy or gates were changed since, or a record was", "yellow")


def _ruling(context: Context, output: Output, epoch: str, slug: str | None) -> Ruling:
    from autopilot.proof.verification import rule

    notebook = context.notebook(slug)
    ruling = rule(notebook, notebook.find(epoch).number)
    output.document(_document(notebook.slug, ruling))
    return ruling


def _document(slug: str, ruling: Ruling) -> dict[str, Any]:
    judged, decision = ruling.epoch, ruling.decision
    return {
        "experiment": slug,
        "epoch": judged.number,
        "against": ruling.against,
        "policy": ruling.policy,
        "passes": decision.kept,
        "reasons": decision.reasons,
        "gates": decision.gates,
        "metrics": judged.metrics,
        "recorded": {"verdict": judged.verdict, "reasons": judged.reasons},
        "differs": ruling.differs,
    }


COMMANDS = {"check": check, "explain": explain}
