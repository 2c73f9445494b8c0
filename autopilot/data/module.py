"""The DataModule: the data of an experiment in one place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class DataModule:
    """Where the splits of an experiment come from; override what is needed.

    The trainer calls `prepare_data`, `setup`, the loaders it needs and, in any case, `teardown`,
    in this order. A loader that is None means that there is no such split.

    >>> class Tickets(DataModule):
    ...     def setup(self, stage: str) -> None:
    ...         self.items = ["refund", "login"]
    ...     def train_dataloader(self) -> Iterable[Any]:
    ...         return DataLoader(self.items, batch_size=2, shuffle=True)
    >>> from autopilot.data import DataLoader
    >>> tickets = Tickets()
    >>> tickets.setup("fit")
    >>> len(tickets.train_dataloader()), tickets.val_dataloader()
    (1, None)
    """

    def prepare_data(self) -> None:
        """Brings the data to this machine: downloads, converts. Keeps nothing on `self`."""

    def setup(self, stage: str) -> None:
        """Makes the datasets.

        Args:
            stage: "fit", "validate" or "test".
        """

    def train_dataloader(self) -> Iterable[Any] | None:
        """The batches to learn from."""
        return None

    def val_dataloader(self) -> Iterable[Any] | None:
        """The batches that decide whether an epoch is kept."""
        return None

    def test_dataloader(self) -> Iterable[Any] | None:
        """The batches that are scored once, at the end."""
        return None

    def teardown(self, stage: str) -> None:
        """Cleans up after `setup`, also when the stage failed.

        Args:
            stage: As in `setup`.
        """
