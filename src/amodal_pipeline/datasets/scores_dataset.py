"""Scores of a method as a Kedro dataset of four files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import TablePreview

from amodal_pipeline.annotations.storage import replacing

if TYPE_CHECKING:
    from amodal_pipeline.metrics.scores import Scores

# The results are written last: where they exist, the others do too.
_SUFFIXES = {
    "draws": ".draws.parquet",
    "curves": ".curves.parquet",
    "objects": ".objects.parquet",
    "results": ".csv",
}


class ScoresDataset(AbstractDataset["Scores", "Scores"]):
    """Load and save the files of one evaluation: ``<stem>.csv`` with the results and three Parquet
    files with the rest.

    ``filepath`` is that of the results.
    """

    def __init__(self, *, filepath: str, metadata: dict | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> Scores:
        return load_scores(self._filepath.parent, self._filepath.stem)

    def save(self, data: Scores) -> None:
        save_scores(self._filepath.parent, self._filepath.stem, data)

    def preview(self, nrows: int = 20) -> TablePreview:
        """Return the first results for Kedro-Viz."""
        from amodal_pipeline.metrics.results import read

        table = read(self._filepath, rows=nrows)
        return table.astype(object).where(table.notna(), "").to_dict(orient="split")

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


def save_scores(folder: Path, stem: str, scores: Scores) -> None:
    """Write scores below ``folder``, the results last and only with the other three complete."""
    from amodal_pipeline.annotations.tables import write_parquet
    from amodal_pipeline.metrics.scores import SCHEMAS

    (folder / f"{stem}.csv").unlink(missing_ok=True)
    for name, suffix in _SUFFIXES.items():
        table = getattr(scores, name)
        with replacing(folder / f"{stem}{suffix}") as path:
            if suffix == ".csv":
                table.to_csv(path, index=False)
            else:
                write_parquet(path, table, SCHEMAS[name])


def load_scores(folder: Path, stem: str) -> Scores:
    """Return the scores that :func:`save_scores` wrote.

    Raises:
        DatasetError: a file is missing, damaged or of another run; names it and the remedy.
    """
    import pyarrow as pa

    from amodal_pipeline.annotations.tables import read_parquet
    from amodal_pipeline.metrics.results import read
    from amodal_pipeline.metrics.scores import SCHEMAS, Scores

    tables = {}
    for name, suffix in _SUFFIXES.items():
        path = folder / f"{stem}{suffix}"
        try:
            tables[name] = read(path) if suffix == ".csv" else read_parquet(path, SCHEMAS[name])
        except (ValueError, OSError, KeyError, pa.ArrowException) as error:
            raise DatasetError(
                f"{path} cannot be read as {name} of an evaluation ({error}): evaluate {stem} "
                f"again, or remove {folder / stem}.*"
            ) from error
    known = set(tables["results"]["run_id"])
    for name, table in tables.items():
        if not set(table["run_id"]) <= known:
            raise DatasetError(
                f"{folder / stem}.*: the {name} are of another evaluation than the results: "
                f"evaluate {stem} again, or remove these files"
            )
    return Scores(**tables)
