"""Shape priors in the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import JSONPreview

from amodal_pipeline.annotations.storage import check_local

if TYPE_CHECKING:
    from amodal_pipeline.methods.vrsp.stored import StoredShapePrior


class ShapePriorDataset(AbstractDataset["StoredShapePrior", "StoredShapePrior"]):
    """A folder with ``shape_prior.safetensors`` and ``shape_prior.json``, replaced as a whole.

    Not versioned, as checkpoints are not: its fingerprint says what it was made from.
    """

    def __init__(self, *, filepath: str, metadata: dict | None = None) -> None:
        self._filepath = Path(check_local(filepath))
        self.metadata = metadata

    def load(self) -> StoredShapePrior:
        from amodal_pipeline.methods.vrsp.stored import StoredShapePrior

        try:
            return StoredShapePrior.load(self._filepath)
        except ValueError as error:
            raise DatasetError(str(error)) from error

    def save(self, data: StoredShapePrior) -> None:
        data.save(self._filepath)

    def preview(self) -> JSONPreview:
        """The card, for Kedro-Viz."""
        return (self._filepath / "shape_prior.json").read_text()

    def _exists(self) -> bool:
        return (self._filepath / "shape_prior.json").exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
