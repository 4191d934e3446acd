"""Scores of a method in the catalog: four files side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import TablePreview

from amodal_pipeline.annotations.storage import replacing

if TYPE_CHECKING:
    from amodal_pipeline.metrics.scores import Scores

# The results come last: where they are, all are.
_SUFFIXES = {
    "draws": ".draws.parquet",
    "curves": ".curves.parquet",
    "objects": ".objects.parquet",
    "results": ".csv",
}


class ScoresDataset(AbstractDataset["Scores", "Scores"]):
    """Scores under one stem: ``<stem>.csv`` for the results, to be read by anything, and Parquet
    files for the rest. ``filepath`` is that of the results."""

    def __init__(self, *, filepath: str, metadata: dict | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> Scores:
        return load_scores(self._filepath.parent, self._filepath.stem)

    def save(self, data: Scores) -> None:
        save_scores(self._filepath.parent, self._filepath.stem, data)

    def preview(self, nrows: int = 20) -> TablePreview:
        """The first results, for Kedro-Viz."""
        table = pd.read_csv(self._filepath, nrows=nrows)
        return table.astype(object).where(table.notna(), "").to_dict(orient="split")

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


def save_scores(folder: Path, stem: str, scores: Scores) -> None:
    """Write scores below ``folder``; each file is replaced as a whole."""
    for name, suffix in _SUFFIXES.items():
        table = getattr(scores, name)
        with replacing(folder / f"{stem}{suffix}") as path:
            if suffix == ".csv":
                table.to_csv(path, index=False)
            else:
                table.to_parquet(path, index=False)


def load_scores(folder: Path, stem: str) -> Scores:
    """Read what :func:`save_scores` wrote.

    Raises:
        DatasetError: a file is missing or damaged; names it and the remedy.
    """
    from amodal_pipeline.annotations.tables import frame
    from amodal_pipeline.metrics.results import validate
    from amodal_pipeline.metrics.scores import SCHEMAS, Scores

    tables = {}
    for name, suffix in _SUFFIXES.items():
        path = folder / f"{stem}{suffix}"
        try:
            if suffix == ".csv":
                tables[name] = validate(pd.read_csv(path))
            else:
                tables[name] = frame(SCHEMAS[name], pd.read_parquet(path, dtype_backend="pyarrow"))
        except (ValueError, OSError, KeyError) as error:
            raise DatasetError(
                f"{path} cannot be read as {name} of an evaluation ({error}): evaluate {stem} "
                "again, or remove it"
            ) from error
    return Scores(**tables)
