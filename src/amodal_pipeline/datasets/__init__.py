"""Kedro dataset classes: tables, checkpoints, scores, meshes, pictures."""

from amodal_pipeline.datasets.checkpoint_dataset import CheckpointDataset
from amodal_pipeline.datasets.files import PageDataset, PictureDataset
from amodal_pipeline.datasets.mesh_dataset import MeshDataset
from amodal_pipeline.datasets.per_method_dataset import PerMethodDataset
from amodal_pipeline.datasets.scores_dataset import ScoresDataset
from amodal_pipeline.datasets.table_dataset import TableDataset

__all__ = [
    "CheckpointDataset",
    "MeshDataset",
    "PageDataset",
    "PerMethodDataset",
    "PictureDataset",
    "ScoresDataset",
    "TableDataset",
]
