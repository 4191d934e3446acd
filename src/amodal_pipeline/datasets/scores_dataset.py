"""Scores of a method as a Kedro dataset of four files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import TablePreview

from amodal_pipeline.local_paths import check_local

if TYPE_CHECKING:
    from amodal_pipeline.metrics.scores import Scores

_log = logging.getLogger(__name__)


class ScoresDataset(AbstractDataset["Scores", "Scores"]):
    """Load and save the files of one evaluation.

    ``filepath`` is the table of results, ``<stem>.csv``; three Parquet files with the same stem
    have the curves, the resamples and the objects. ``keep_other_inputs``: saving keeps what the
    files have on other inputs, as long as the same checkpoint of the method ``<stem>`` was scored.
    """

    def __init__(
        self, *, filepath: str, keep_other_inputs: bool = False, metadata: dict | None = None
    ) -> None:
        self._filepath = Path(check_local(filepath))
        self._keep_other_inputs = keep_other_inputs
        self.metadata = metadata

    def load(self) -> Scores:
        from amodal_pipeline.metrics.score_files import load_scores

        try:
            return load_scores(self._filepath.parent, self._filepath.stem)
        except ValueError as error:
            raise DatasetError(str(error)) from error

    def save(self, data: Scores) -> None:
        from amodal_pipeline.metrics.score_files import load_scores, save_scores
        from amodal_pipeline.metrics.scores import join, on_other_inputs

        folder, stem = self._filepath.parent, self._filepath.stem
        if self._keep_other_inputs and self._filepath.exists():
            try:
                data = join([data, on_other_inputs(load_scores(folder, stem), data, stem)])
            except ValueError as error:
                _log.warning("replaced as a whole: %s", error)
        save_scores(folder, stem, data)

    def preview(self, nrows: int = 20) -> TablePreview:
        """Return the first results for Kedro-Viz."""
        from amodal_pipeline.metrics.results import read

        table = read(self._filepath, rows=nrows)
        return table.astype(object).where(table.notna(), "").to_dict(orient="split")

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
