"""The annotation and prediction tables in the catalog, versioned."""

from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from kedro.io import AbstractVersionedDataset, DatasetError, Version
from kedro_datasets._typing import TablePreview

from amodal_pipeline.annotations import AmodalAnnotations, Predictions

_PREVIEW_COLUMNS = {
    AmodalAnnotations: [
        "image_id",
        "instance_id",
        "category_id",
        "occlusion_rate",
        "amodal_box",
        "visible_box",
        "ignore",
    ],
    Predictions: ["image_id", "prediction_id", "category_id", "score", "amodal_box", "visible_box"],
}


def _preview(table: pd.DataFrame, columns: list[str], rows: int) -> TablePreview:
    head = table[columns].head(rows)
    text = {name: [_cell(v) for v in head[name]] for name in columns}
    return pd.DataFrame(text).to_dict(orient="split")


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(f"{v:.0f}" for v in value)
    if value is None or value is pd.NA:
        return ""
    return round(value, 3) if isinstance(value, float) else value


class AnnotationsDataset(AbstractVersionedDataset[AmodalAnnotations, AmodalAnnotations]):
    """:class:`~amodal_pipeline.annotations.AmodalAnnotations` as a folder of Parquet files."""

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict | None = None
    ) -> None:
        super().__init__(PurePosixPath(filepath), version)
        self.metadata = metadata

    def load(self) -> AmodalAnnotations:
        try:
            return AmodalAnnotations.load(str(self._get_load_path()))
        except ValueError as error:
            raise DatasetError(str(error)) from error

    def save(self, data: AmodalAnnotations) -> None:
        data.save(str(self._get_save_path()))

    def preview(self, nrows: int = 10) -> TablePreview:
        """The first instances, for Kedro-Viz."""
        return _preview(self.load().instances, _PREVIEW_COLUMNS[AmodalAnnotations], nrows)

    def _exists(self) -> bool:
        return (Path(str(self._get_load_path())) / "metadata.json").exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}


class PredictionsDataset(AbstractVersionedDataset[Predictions, Predictions]):
    """:class:`~amodal_pipeline.annotations.Predictions` as a folder of Parquet files."""

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict | None = None
    ) -> None:
        super().__init__(PurePosixPath(filepath), version)
        self.metadata = metadata

    def load(self) -> Predictions:
        try:
            return Predictions.load(str(self._get_load_path()))
        except ValueError as error:
            raise DatasetError(str(error)) from error

    def save(self, data: Predictions) -> None:
        data.save(str(self._get_save_path()))

    def preview(self, nrows: int = 10) -> TablePreview:
        """The first predictions, for Kedro-Viz."""
        return _preview(self.load().predictions, _PREVIEW_COLUMNS[Predictions], nrows)

    def _exists(self) -> bool:
        return (Path(str(self._get_load_path())) / "metadata.json").exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}
