"""Datasets, splits and loaders: what goes into the loop."""

from autopilot.core.items import Leak, Occurrence, find_leakage
from autopilot.data.dataset import (
    ConcatDataset,
    Dataset,
    IterableDataset,
    ListDataset,
    StreamingDataset,
    Subset,
)
from autopilot.data.loader import (
    DataLoader,
    DataModule,
    default_collate,
    random_split,
    stratified_split,
)

Place = Occurrence  # the name under which earlier versions have it

__all__ = ["ConcatDataset", "DataLoader", "DataModule", "Dataset", "IterableDataset", "Leak"]
__all__ += ["ListDataset", "Occurrence", "Place", "StreamingDataset", "Subset"]
__all__ += ["default_collate", "find_leakage", "random_split", "stratified_split"]
