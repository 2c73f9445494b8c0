"""What keeps an optimizer's step to the parameters, and tells what an evaluation has read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from autopilot.errors import InputsChangedError


class Guard:
    """The contract, and what a run without files of its own has: nothing is watched.

    Invariants:

    - Between `confine` and `put_back` somebody may write who is not trusted: an agent. What then
      differs outside of the parameters is not there any more after `put_back`, or it is named.
    - Both may be called twice; the second call does nothing.

    Attributes:
        listens: Whether what is read now belongs to an evaluation. Off during optimizer steps.
    """

    listens = True

    def confine(self) -> None:
        """From here on, only the parameters may change."""

    def put_back(self) -> list[str]:
        """Undoes what was changed beside the parameters.

        Returns:
            What was tried, a sentence each.

        Raises:
            ConfinementError: the user's own files were changed: they are left as they are.
        """
        return []

    def inputs(self, known: Iterable[str] = ()) -> Mapping[str, str] | None:
        """The files of the repository that evaluations read so far, beside the parameters.

        Args:
            known: Repository paths that earlier sessions read.

        Returns:
            Repository path to blob id, as the files are now; "" for one that is gone. None where
            nobody listens.
        """
        return None


def check_inputs(known: Mapping[str, str], now: Mapping[str, str], slug: str) -> None:
    """Refuses to compare scores of different evaluators or data.

    Args:
        known: Repository path to blob id, as it was when it was first read.
        now: The same as it is now.
        slug: The experiment.

    Raises:
        InputsChangedError: it names the first file that differs.
    """
    changed = [name for name, blob in known.items() if now.get(name, blob) != blob]
    if changed:
        name = changed[0]
        what = "has changed" if now[name] else "is gone"
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise InputsChangedError(
            f"{name}{more} {what} since the baseline was measured: scores cannot be compared",
            hint=f"put it back as it was (blob {known[name][:10]}), then: autopilot resume {slug}; "
            "or start another experiment. What the evaluation itself writes, git should not track",
        )
