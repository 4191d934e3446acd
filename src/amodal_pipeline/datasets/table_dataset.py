"""Annotation and prediction tables as a versioned Kedro dataset."""

from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from kedro.io import AbstractVersionedDataset, DatasetError, Version
from kedro_datasets._typing import TablePreview

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.annotations.storage import sweep

Table = AmodalAnnotations | Predictions

_PREVIEWED = (
    "image_id",
    "instance_id",
    "prediction_id",
    "category_id",
    "score",
    "occlusion_rate",
    "amodal_box",
    "visible_box",
    "ignore",
)


class TableDataset(AbstractVersionedDataset[Table, Table]):
    """Load and save :class:`AmodalAnnotations` or :class:`Predictions`, a folder of Parquet files.

    A folder with ``predictions.parquet`` holds predictions, any other annotations.
    """

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict | None = None
    ) -> None:
        super().__init__(PurePosixPath(filepath), version)
        self.metadata = metadata

    def load(self) -> Table:
        folder = Path(str(self._get_load_path()))
        kind = Predictions if (folder / "predictions.parquet").exists() else AmodalAnnotations
        try:
            return kind.load(folder)
        except ValueError as error:
            raise DatasetError(str(error)) from error

    def save(self, data: Table) -> None:
        data.save(str(self._get_save_path()))
        folder = Path(str(self._filepath))
        for version in folder.iterdir():
            # What a killed run left: no other run writes the same version.
            if sweep(version / folder.name):
                with suppress(OSError):  # not empty: the version itself was complete
                    version.rmdir()

    def preview(self, nrows: int = 10) -> TablePreview:
        """Return the first objects or predictions for Kedro-Viz."""
        table = self.load()
        rows = table.instances if isinstance(table, AmodalAnnotations) else table.predictions
        columns = [name for name in _PREVIEWED if name in rows]
        cells = {name: [_cell(v) for v in rows[name].head(nrows)] for name in columns}
        return pd.DataFrame(cells).to_dict(orient="split")

    def _exists(self) -> bool:
        return (Path(str(self._get_load_path())) / "metadata.json").exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(f"{v:.0f}" for v in value)
    if value is None or value is pd.NA:
        return ""
    return round(value, 3) if isinstance(value, float) else value
