"""Datasets, splits and loaders: what goes into the loop."""

from autopilot.core.leakage import Leak, Place, find_leakage
from autopilot.data.dataset import (
    ConcatDataset,
    Dataset,
    IterableDataset,
    ListDataset,
    StreamingDataset,
    Subset,
)
from autopilot.data.loader import DataLoader, default_collate
from autopilot.data.module import DataModule
from autopilot.data.split import random_split, stratified_split

__all__ = [
    "ConcatDataset",
    "DataLoader",
    "DataModule",
    "Dataset",
    "IterableDataset",
    "Leak",
    "ListDataset",
    "Place",
    "StreamingDataset",
    "Subset",
    "default_collate",
    "find_leakage",
    "random_split",
    "stratified_split",
]
