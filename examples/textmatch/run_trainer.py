"""The same by a Trainer: it batches, validates, decides, rolls back and remembers."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from textmatch import HERE, TicketClassifier

from autopilot.core.stopping import EarlyStopping
from autopilot.core.trainer import Trainer


def main() -> None:
    """Fits on a copy of the rules, so that the checkout stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(shutil.copy(HERE / "rules.txt", folder))
        module = TicketClassifier(rules)
        trainer = Trainer(callbacks=[EarlyStopping(patience=10)])
        result = trainer.fit(module, max_epochs=40)
        test = trainer.test(module).metrics["test"]["accuracy"]
    print(f"val {result.baseline:.3f} -> {result.best:.3f}, test {test:.3f}")
    print(f"{result.epochs} epochs, {result.kept} kept; stopped: {result.stop_reason}")


if __name__ == "__main__":
    main()
