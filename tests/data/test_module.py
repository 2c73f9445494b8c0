"""The DataModule's defaults and its order of use; and the names of the package."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import autopilot.data
from autopilot.data import DataLoader, DataModule


def test_the_defaults_do_nothing_and_have_no_split() -> None:
    module = DataModule()
    module.prepare_data()
    module.setup("fit")
    module.teardown("fit")
    assert vars(module) == {}
    assert module.train_dataloader() is None
    assert module.val_dataloader() is None
    assert module.test_dataloader() is None


def test_a_subclass_overrides_what_it_needs() -> None:
    class Tickets(DataModule):
        def setup(self, stage: str) -> None:
            self.items = [f"{stage} {n}" for n in range(3)]

        def val_dataloader(self) -> Iterable[Any]:
            return DataLoader(self.items, batch_size=2)

        def teardown(self, stage: str) -> None:
            del self.items

    module = Tickets()
    module.setup("validate")
    batches = list(module.val_dataloader())
    assert [item.metadata["value"] for item in batches[1].items] == ["validate 2"]
    assert module.train_dataloader() is None
    module.teardown("validate")
    assert vars(module) == {}


def test_every_public_name_is_there() -> None:
    assert len(set(autopilot.data.__all__)) == len(autopilot.data.__all__) == 14
    assert all(hasattr(autopilot.data, name) for name in autopilot.data.__all__)
