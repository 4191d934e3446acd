"""Reconstructed meshes as a Kedro dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import TablePreview

from amodal_pipeline.annotations.storage import recover
from amodal_pipeline.local_paths import check_local

if TYPE_CHECKING:
    from amodal_pipeline.visuals.meshes import MeshTable


class MeshDataset(AbstractDataset["MeshTable", pd.DataFrame]):
    """Save Wavefront OBJ files with ``index.csv``, and load the index.

    The folder is replaced as a whole. The index's column ``file`` names the OBJ files.
    """

    def __init__(self, *, filepath: str, metadata: dict | None = None) -> None:
        self._filepath = Path(check_local(filepath))
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        recover(self._filepath)
        path = self._filepath / "index.csv"
        try:
            return pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{path} cannot be read ({error}): train the method again to write it anew"
            ) from error

    def save(self, data: MeshTable) -> None:
        data.save(self._filepath)

    def preview(self, nrows: int = 20) -> TablePreview:
        """Return the first rows of the index for Kedro-Viz."""
        index = self.load().head(nrows)
        return index.astype(object).where(index.notna(), "").to_dict(orient="split")

    def _exists(self) -> bool:
        return (self._filepath / "index.csv").exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
