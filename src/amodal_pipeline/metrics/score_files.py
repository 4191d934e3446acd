"""Scores on disk: four files side by side, the results last."""

from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa

from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.annotations.tables import read_parquet, write_parquet
from amodal_pipeline.metrics.results import read
from amodal_pipeline.metrics.scores import SCHEMAS, Scores

# The results come last: where they are, all are.
_SUFFIXES = {
    "draws": ".draws.parquet",
    "curves": ".curves.parquet",
    "objects": ".objects.parquet",
    "results": ".csv",
}


def save_scores(folder: Path, stem: str, scores: Scores) -> None:
    """Write scores below ``folder``; where the results are, the other three are of the same run."""
    with ExitStack() as files:
        # All are written before any is renamed; entered first, the results are renamed last.
        for name, suffix in reversed(_SUFFIXES.items()):
            path = files.enter_context(replacing(folder / f"{stem}{suffix}"))
            table = getattr(scores, name)
            if suffix == ".csv":
                table.to_csv(path, index=False)
            else:
                write_parquet(path, table, SCHEMAS[name])
        (folder / f"{stem}.csv").unlink(missing_ok=True)


def load_scores(folder: Path, stem: str) -> Scores:
    """Read what :func:`save_scores` wrote.

    Raises:
        ValueError: a file is missing, damaged or of another run; names it and the remedy.
    """
    tables = {}
    for name, suffix in _SUFFIXES.items():
        path = folder / f"{stem}{suffix}"
        try:
            tables[name] = read(path) if suffix == ".csv" else read_parquet(path, SCHEMAS[name])
        except (ValueError, OSError, KeyError, pa.ArrowException) as error:
            raise ValueError(
                f"{path} cannot be read as {name} of an evaluation ({error}): evaluate {stem} "
                f"again, or remove {folder / stem}.*"
            ) from error
    known = set(tables["results"]["run_id"])
    for name, table in tables.items():
        if not set(table["run_id"]) <= known:
            raise ValueError(
                f"{folder / stem}.*: the {name} are of another evaluation than the results: "
                f"evaluate {stem} again, or remove these files"
            )
    return Scores(**tables)
