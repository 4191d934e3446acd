"""Shape priors as a Kedro dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import JSONPreview

from amodal_pipeline.local_paths import check_local

if TYPE_CHECKING:
    from amodal_pipeline.methods.vrsp.stored import StoredShapePrior


class ShapePriorDataset(AbstractDataset["StoredShapePrior", "StoredShapePrior"]):
    """Load and save a folder of ``shape_prior.safetensors`` and ``shape_prior.json``.

    The folder is replaced as a whole. As with checkpoints there are no versions: the fingerprint
    says what the shape prior was made from.
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
        """Return the text of ``shape_prior.json`` for Kedro-Viz."""
        return (self._filepath / "shape_prior.json").read_text()

    def _exists(self) -> bool:
        return (self._filepath / "shape_prior.json").exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
