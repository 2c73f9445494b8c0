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

__all__ = ["ConcatDataset", "DataLoader", "DataModule", "Dataset", "IterableDataset", "Leak"]
__all__ += ["ListDataset", "Occurrence", "StreamingDataset", "Subset", "default_collate"]
__all__ += ["find_leakage", "random_split", "stratified_split"]
