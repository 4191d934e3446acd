"""Kedro dataset classes: the two tables, checkpoints, pictures and folders."""

from amodal_pipeline.datasets.checkpoint_dataset import CheckpointDataset
from amodal_pipeline.datasets.files import FolderDataset, PictureDataset
from amodal_pipeline.datasets.table_datasets import AnnotationsDataset, PredictionsDataset

__all__ = [
    "AnnotationsDataset",
    "CheckpointDataset",
    "FolderDataset",
    "PictureDataset",
    "PredictionsDataset",
]
