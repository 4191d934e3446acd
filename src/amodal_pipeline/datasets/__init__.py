"""Kedro dataset classes: tables, checkpoints, shape priors, scores, meshes, pictures, folders."""

from amodal_pipeline.datasets.checkpoint_dataset import CheckpointDataset
from amodal_pipeline.datasets.files import FolderDataset, PageDataset, PictureDataset
from amodal_pipeline.datasets.mesh_dataset import MeshDataset
from amodal_pipeline.datasets.per_method_dataset import PerMethodDataset
from amodal_pipeline.datasets.scores_dataset import ScoresDataset
from amodal_pipeline.datasets.shape_prior_dataset import ShapePriorDataset
from amodal_pipeline.datasets.table_dataset import TableDataset

__all__ = [
    "CheckpointDataset",
    "FolderDataset",
    "MeshDataset",
    "PageDataset",
    "PerMethodDataset",
    "PictureDataset",
    "ScoresDataset",
    "ShapePriorDataset",
    "TableDataset",
]
