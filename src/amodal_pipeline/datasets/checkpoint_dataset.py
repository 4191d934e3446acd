"""Checkpoints of trained methods as a Kedro dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import JSONPreview

from amodal_pipeline.local_paths import check_local
from amodal_pipeline.shipped import with_shipped

if TYPE_CHECKING:
    from amodal_pipeline.methods.checkpoints import Checkpoint, NotMade


class CheckpointDataset(AbstractDataset["Checkpoint | NotMade", "Checkpoint | NotMade"]):
    """Load and save a checkpoint folder: ``model.safetensors`` and ``method.json``.

    Each file is replaced as a whole. There are no versions: the checkpoint's fingerprint says what
    it was trained from, and a training on anything else replaces it only when asked to. Where a run
    has no use for it, NotMade is saved: nothing is written, and in this run NotMade is loaded.

    With ``shipped`` a folder without a checkpoint stands for the weights of its name that the
    package ships; they are never saved.
    """

    def __init__(
        self, *, filepath: str, shipped: bool = False, metadata: dict | None = None
    ) -> None:
        folder = Path(check_local(filepath))
        self._filepath = with_shipped(folder) if shipped else folder
        self.metadata = metadata
        self._not_made = False

    def load(self) -> Checkpoint | NotMade:
        from amodal_pipeline.methods.checkpoints import Checkpoint, NotMade

        if self._not_made:
            return NotMade()
        try:
            return Checkpoint.load(self._filepath)
        except ValueError as error:
            raise DatasetError(str(error)) from error

    def save(self, data: Checkpoint | NotMade) -> None:
        from amodal_pipeline.methods.checkpoints import NotMade

        self._not_made = isinstance(data, NotMade)
        if not self._not_made:
            data.save(self._filepath)

    def preview(self) -> JSONPreview:
        """Return the text of ``method.json`` for Kedro-Viz."""
        return (self._filepath / "method.json").read_text()

    def _exists(self) -> bool:
        return (self._filepath / "method.json").exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
