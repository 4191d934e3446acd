"""Annotation and prediction tables as a versioned Kedro dataset."""

import shutil
from contextlib import suppress
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from kedro.io import AbstractVersionedDataset, DatasetError, Version
from kedro_datasets._typing import TablePreview

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.annotations.processes import Shares, is_shared
from amodal_pipeline.annotations.storage import sweep
from amodal_pipeline.local_paths import check_local

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

    A folder with ``predictions.parquet`` has predictions, any other annotations. Each save removes
    all but the newest ``keep_versions`` versions; 0 or None keeps all. The version just saved, and
    versions that this or another running process has found, loaded or saved, are never removed.

    Raises:
        DatasetError: ``keep_versions`` is negative or not an integer.
    """

    def __init__(
        self,
        *,
        filepath: str,
        version: Version | None = None,
        keep_versions: int | None = 3,
        metadata: dict | None = None,
    ) -> None:
        path = PurePosixPath(check_local(filepath))
        # Escaped, because in Kedro's own pattern brackets in the path are a set of characters.
        self._pattern = pattern = f"*/{escape(path.name)}"
        # A function that refers to self would be a reference cycle, which would keep versions in
        # use after this object is deleted.
        super().__init__(path, version, glob_function=lambda _: map(str, Path(path).glob(pattern)))
        if keep_versions is not None and (type(keep_versions) is not int or keep_versions < 0):
            raise DatasetError(
                f"keep_versions of {filepath} is {keep_versions!r}: give the number of versions to "
                "keep, or 0 for all"
            )
        self._keep_versions = keep_versions
        self._used = Shares()
        self.metadata = metadata

    def load(self) -> Table:
        folder = Path(str(self._get_load_path()))
        self._use(folder)
        kind = Predictions if (folder / "predictions.parquet").exists() else AmodalAnnotations
        try:
            return kind.load(folder)
        except ValueError as error:
            raise DatasetError(str(error)) from error

    def save(self, data: Table) -> None:
        folder = Path(str(self._get_save_path()))
        data.save(folder)
        self._use(folder)
        self._sweep()
        if self._version and self._keep_versions:
            self._prune(folder)

    def _use(self, folder: Path) -> bool:
        """Return whether a version exists, and protect it from removal by other runs."""
        try:
            self._used.add(folder / "metadata.json")
        except FileNotFoundError:
            return False
        return True

    def _sweep(self) -> None:
        """Remove unfinished files of killed runs, whose versions are never written again."""
        folder = Path(str(self._filepath))
        for version in folder.iterdir():
            if sweep(version / folder.name):
                with suppress(OSError):  # not empty, because the version itself was complete
                    version.rmdir()

    def _prune(self, saved: Path) -> None:
        """Remove the versions before the newest ones, complete or not."""
        versions = sorted(Path(str(self._filepath)).glob(self._pattern), reverse=True)
        complete = [path for path in versions if (path / "metadata.json").exists()]
        kept = {*complete[: self._keep_versions], saved}
        if self._version.load:
            kept.add(Path(str(self._get_load_path())))
        oldest = min(complete[: self._keep_versions])
        for path in versions:
            file = path / "metadata.json"
            if path not in kept and path < oldest and file not in self._used:
                if is_shared(file):
                    continue
                shutil.rmtree(path.parent, ignore_errors=True)

    def preview(self, nrows: int = 10) -> TablePreview:
        """Return the first objects or predictions for Kedro-Viz."""
        table = self.load()
        rows = table.instances if isinstance(table, AmodalAnnotations) else table.predictions
        columns = [name for name in _PREVIEWED if name in rows]
        cells = {name: [_cell(v) for v in rows[name].head(nrows)] for name in columns}
        return pd.DataFrame(cells).to_dict(orient="split")

    def _exists(self) -> bool:
        return self._use(Path(str(self._get_load_path())))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(f"{v:.0f}" for v in value)
    if value is None or value is pd.NA:
        return ""
    return round(value, 3) if isinstance(value, float) else value
