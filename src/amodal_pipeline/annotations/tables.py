"""The two tables of the project: annotations (ground truth) and predictions.

Both are small frozen containers of pandas frames with Arrow-backed columns (forked loader workers
share their memory) and are stored as a folder of Parquet files with one ``metadata.json``.
Boxes are (x, y, width, height) in pixels; masks are compressed run-length strings (see
:mod:`amodal_pipeline.annotations.rle`) on the canvas of their image.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from amodal_pipeline.annotations.given import Given
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.annotations.tracks import track_rows

BOX = pa.list_(pa.float32(), 4)
# Parquet readers fail on lists of fixed length with nulls: on disk the length is left open.
_BOX_ON_DISK = pa.list_(pa.float32())

IMAGES = pa.schema(
    {
        "image_id": pa.int64(),
        "file_name": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "video_id": pa.int64(),
        "frame": pa.int32(),
    }
)
INSTANCES = pa.schema(
    {
        "instance_id": pa.int64(),
        "image_id": pa.int64(),
        "category_id": pa.int64(),
        "amodal_rle": pa.string(),
        "visible_rle": pa.string(),
        "amodal_box": BOX,
        "visible_box": BOX,
        "occlusion_rate": pa.float32(),
        "is_thing": pa.bool_(),
        "track_id": pa.int64(),
        "ignore": pa.bool_(),
    }
)
ORDER = pa.schema(
    {
        "image_id": pa.int64(),
        "occluder_id": pa.int64(),
        "occludee_id": pa.int64(),
        "area": pa.int64(),
        "inferred": pa.bool_(),
    }
)
FINDINGS = pa.schema(
    {
        "file": pa.string(),
        "record": pa.string(),
        "field": pa.string(),
        "reason": pa.string(),
        "share": pa.float32(),
    }
)
PREDICTIONS = pa.schema(
    {
        "prediction_id": pa.int64(),
        "image_id": pa.int64(),
        "category_id": pa.int64(),
        "score": pa.float32(),
        "amodal_rle": pa.string(),
        "visible_rle": pa.string(),
        "invisible_rle": pa.string(),
        "amodal_box": BOX,
        "visible_box": BOX,
        "instance_id": pa.int64(),
        "source_id": pa.int64(),
        "track_id": pa.int64(),
    }
)
PREDICTION_ORDER = pa.schema(
    {
        "image_id": pa.int64(),
        "front_id": pa.int64(),
        "back_id": pa.int64(),
        "score": pa.float32(),
        "source": pa.string(),
    }
)


class Category(BaseModel):
    """A category as its data set publishes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: int
    name: str


class Accounting(BaseModel):
    """What became of the records of one kind: read = kept + repaired + rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    read: int = 0
    kept: int = 0
    repaired: int = 0
    rejected: int = 0


class AnnotationsMetadata(BaseModel):
    """Description and origin of a table of annotations.

    ``image_root`` is the folder that ``file_name`` is relative to. ``sources`` maps each source
    (a file, a renderer's configuration) to its SHA-256. ``ignored_elsewhere`` counts, by reason,
    objects of the table that another evaluator ignores in the same file. ``fingerprint`` identifies
    the content, wherever the images lie. ``modal``: masks of whole objects are not known, and the
    amodal masks are the visible ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    dataset: str
    split: str
    categories: tuple[Category, ...]
    image_root: str
    sources: dict[str, str] = {}
    accounting: dict[str, Accounting] = {}
    ignored_elsewhere: dict[str, int] = {}
    fingerprint: str = ""
    modal: bool = False


class PredictionsMetadata(BaseModel):
    """Origin of a table of predictions: ``inputs`` says what they were made from, as
    :class:`~.given.Given` spells it, or is the name of a detector.

    ``boxes_by`` and ``boxes_checkpoint`` are the detector that estimated the amodal boxes of known
    objects, and the fingerprint of its checkpoint; "" without such a detector.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    dataset: str
    split: str
    method: str
    variant: str = "full"
    inputs: str = Given.IMAGE.value
    seed: int = 0
    categories: tuple[Category, ...]
    image_root: str
    annotations: str = ""
    checkpoint: str = ""
    boxes_by: str = ""
    boxes_checkpoint: str = ""

    @classmethod
    def of(cls, truth: AnnotationsMetadata, **own: Any) -> "PredictionsMetadata":
        """Return the metadata of predictions of a split; ``own`` are their other fields."""
        shared = truth.model_dump(include={"dataset", "split", "categories", "image_root"})
        return cls(**shared, annotations=truth.fingerprint, **own)

    @property
    def given(self) -> Given:
        """Return what the predictions were made from."""
        return Given.of(self.inputs)


def frame(schema: pa.Schema, rows: Iterable[dict] | pd.DataFrame | dict[str, Any]) -> pd.DataFrame:
    """Return an Arrow-backed frame with exactly the columns of ``schema``; absent ones are null.

    Raises:
        ValueError: a column the schema does not have, or a value its type cannot hold.
    """
    if not isinstance(rows, (pd.DataFrame, dict)):
        rows = list(rows)
        names = rows[0].keys() if rows else []
        rows = {name: [row[name] for row in rows] for name in names}
    unknown = [name for name in rows if name not in schema.names]
    if unknown:
        raise ValueError(f"unknown columns {unknown}; the table has {schema.names}")
    length = len(next(iter(rows.values()))) if isinstance(rows, dict) and rows else len(rows)
    columns = []
    for field in schema:
        if field.name not in rows:
            columns.append(pa.nulls(length, field.type))
        elif field.type == BOX:
            columns.append(_box_array(rows[field.name]))
        else:
            values = rows[field.name]
            try:
                columns.append(_arrow(values, field.type))
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                raise ValueError(f"column {field.name}: {error}") from error
    return _to_pandas(pa.table(columns, schema=schema))


def boxes(column: pd.Series) -> np.ndarray:
    """Return a box column as float32 [N, 4] of (x, y, width, height); null boxes are NaN."""
    array = pa.chunked_array(column.array.__arrow_array__()).combine_chunks()
    out = np.full((len(array), 4), np.nan, np.float32)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    out[valid] = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
    return out


def strings(column: pd.Series) -> pa.Array:
    """Return a column of text as one Arrow array, without a copy if it is one already."""
    array = pa.Array.from_pandas(column)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def concat(schema: pa.Schema, frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of several frames of one schema as one frame."""
    frames = list(frames)
    if len(frames) == 1:
        return frames[0]
    tables = [_to_arrow(f, schema) for f in frames]
    return _to_pandas(pa.concat_tables(tables) if tables else schema.empty_table())


@dataclass(frozen=True)
class AmodalAnnotations:
    """The truth of one split. Built by :func:`amodal_pipeline.annotations.build`, which checks it.

    Invariants: ids are unique; every mask fits its image's canvas; the amodal mask is not empty
    and holds the visible one; ``visible_box`` is null exactly where nothing is visible;
    ``occlusion_rate`` = 1 − |visible| / |amodal|; the amodal masks of an order pair overlap.
    ``instances`` is sorted by image. Images of a video (those with ``video_id`` and ``frame``)
    stand together, sorted by frame; no two have the same frame; a ``track_id`` of theirs is of one
    video and comes once in a frame. ``repaired`` and ``rejected`` name each record that was mended
    or left out, with the reason.
    """

    metadata: AnnotationsMetadata
    images: pd.DataFrame
    instances: pd.DataFrame
    order: pd.DataFrame
    repaired: pd.DataFrame
    rejected: pd.DataFrame

    @property
    def fingerprint(self) -> str:
        return self.metadata.fingerprint

    @cached_property
    def _rows(self) -> dict[int, slice]:
        return _row_slices(self.instances["image_id"])

    @cached_property
    def tracks(self) -> dict[int, np.ndarray]:
        """Return the rows of each track in the order of their frames: see :func:`track_rows`."""
        return track_rows(self.instances, self.images)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Return the canvas (height, width) of every row, int64 [N, 2]."""
        return _sizes_of(self.images, self.instances["image_id"])

    def of_image(self, image_id: int) -> pd.DataFrame:
        """Return the rows of one image (a view)."""
        return self.instances.iloc[self._rows.get(image_id, slice(0, 0))]

    def subset(self, image_ids: Iterable[int]) -> "AmodalAnnotations":
        """Return the same annotations for some of the images, in the table's order."""
        wanted = np.fromiter(image_ids, np.int64)

        def pick(table: pd.DataFrame) -> pd.DataFrame:
            keep = np.isin(table["image_id"].to_numpy(), wanted)
            return table[keep].reset_index(drop=True)

        images, instances, order = pick(self.images), pick(self.instances), pick(self.order)
        metadata = self.metadata.model_copy(
            update={"fingerprint": fingerprint_of(self.metadata, images, instances, order)}
        )
        return AmodalAnnotations(metadata, images, instances, order, self.repaired, self.rejected)

    def save(self, folder: str | os.PathLike) -> None:
        """Write the tables below ``folder``, which is replaced as a whole or not at all."""
        _save(
            folder,
            self.metadata,
            images=_to_arrow(self.images, IMAGES),
            instances=_to_arrow(self.instances, INSTANCES),
            order=_to_arrow(self.order, ORDER),
            repaired=_to_arrow(self.repaired, FINDINGS),
            rejected=_to_arrow(self.rejected, FINDINGS),
        )

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "AmodalAnnotations":
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: a file is missing, damaged or of another layout; names it and the remedy.
        """
        return cls(
            _load_metadata(folder, AnnotationsMetadata),
            images=_load_table(folder, "images", IMAGES),
            instances=_load_table(folder, "instances", INSTANCES),
            order=_load_table(folder, "order", ORDER),
            repaired=_load_table(folder, "repaired", FINDINGS),
            rejected=_load_table(folder, "rejected", FINDINGS),
        )


@dataclass(frozen=True)
class Predictions:
    """Predictions of a method for the images of one split.

    Every prediction has an amodal or a visible mask; ``invisible_rle`` only where the method
    predicts it by itself. ``instance_id`` names the true object that was completed, ``source_id``
    the completed detection; ``track_id`` is the same for an object in all frames of a video.
    ``order`` has pairs (occluder, occluded) of methods that predict it.
    """

    metadata: PredictionsMetadata
    images: pd.DataFrame
    predictions: pd.DataFrame
    order: pd.DataFrame

    @cached_property
    def _rows(self) -> dict[int, slice]:
        return _row_slices(self.predictions["image_id"])

    @cached_property
    def sizes(self) -> np.ndarray:
        """Return the canvas (height, width) of every row, int64 [N, 2]."""
        return _sizes_of(self.images, self.predictions["image_id"])

    def of_image(self, image_id: int) -> pd.DataFrame:
        """Return the rows of one image (a view)."""
        return self.predictions.iloc[self._rows.get(image_id, slice(0, 0))]

    def save(self, folder: str | os.PathLike) -> None:
        """Write the tables below ``folder``, which is replaced as a whole or not at all."""
        _save(
            folder,
            self.metadata,
            images=_to_arrow(self.images, IMAGES),
            predictions=_to_arrow(self.predictions, PREDICTIONS),
            order=_to_arrow(self.order, PREDICTION_ORDER),
        )

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Predictions":
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: a file is missing, damaged or of another layout; names it and the remedy.
        """
        return cls(
            _load_metadata(folder, PredictionsMetadata),
            images=_load_table(folder, "images", IMAGES),
            predictions=_load_table(folder, "predictions", PREDICTIONS),
            order=_load_table(folder, "order", PREDICTION_ORDER),
        )


def fingerprint_of(
    metadata: AnnotationsMetadata,
    images: pd.DataFrame,
    instances: pd.DataFrame,
    order: pd.DataFrame,
) -> str:
    """Return the SHA-256 over the content of the tables, their categories and their sources."""
    digest = hashlib.sha256()
    described = metadata.model_dump(include={"dataset", "split", "categories", "sources"})
    digest.update(json.dumps(described, sort_keys=True).encode())
    for table, schema in ((images, IMAGES), (instances, INSTANCES), (order, ORDER)):
        for column in _to_arrow(table, schema).columns:
            # Through IPC, so that slices and chunks of equal content have equal bytes.
            batch = pa.record_batch([_contiguous(column)], names=["column"])
            digest.update(batch.serialize())
    return digest.hexdigest()


T = TypeVar("T", bound=BaseModel)


def _save(folder: str | os.PathLike, metadata: BaseModel, **tables: pa.Table) -> None:
    with replacing(folder) as temporary:
        temporary.mkdir()
        for name, table in tables.items():
            stored = pa.schema(
                [f.with_type(_BOX_ON_DISK) if f.type == BOX else f for f in table.schema]
            )
            path = temporary / f"{name}.parquet"
            pq.write_table(table.cast(stored), path, compression="zstd")
        (temporary / "metadata.json").write_text(metadata.model_dump_json(indent=2))


def _load_metadata(folder: str | os.PathLike, model: type[T]) -> T:
    path = Path(folder) / "metadata.json"
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: run the pipeline that makes it again") from error
    except ValidationError as error:
        raise ValueError(
            f"{path} is damaged or of another version ({error}): "
            "run the pipeline that makes it again"
        ) from error


def write_parquet(path: str | os.PathLike, table: pd.DataFrame, schema: pa.Schema) -> None:
    """Write a frame of ``schema`` as one Parquet file that any reader of Parquet understands."""
    pq.write_table(_to_arrow(table, schema), path, compression="zstd")


def read_parquet(path: str | os.PathLike, schema: pa.Schema) -> pd.DataFrame:
    """Read what :func:`write_parquet` wrote, with exactly the columns of ``schema``.

    ``track_id``, which older files lack, is null where it is missing.

    Raises:
        OSError, KeyError, ValueError, pa.ArrowException: the file is missing, damaged or of another
            layout.
    """
    table = pq.read_table(path, memory_map=True)
    if "track_id" in schema.names and "track_id" not in table.column_names:
        table = table.append_column("track_id", pa.nulls(len(table), pa.int64()))
    return _to_pandas(table.select(schema.names).cast(schema))


def _load_table(folder: str | os.PathLike, name: str, schema: pa.Schema) -> pd.DataFrame:
    path = Path(folder) / f"{name}.parquet"
    try:
        return read_parquet(path, schema)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} cannot be read as the table {name!r} ({error}): "
            "run the pipeline that makes it again"
        ) from error


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    # As table.to_pandas with Arrow types, without its threads: several times faster for small ones.
    columns = zip(table.column_names, table.combine_chunks().columns, strict=True)
    return pd.DataFrame({n: pd.arrays.ArrowExtensionArray(c) for n, c in columns}, copy=False)


def _to_arrow(table: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pandas(
        table, schema=schema, preserve_index=False
    ).replace_schema_metadata()


def _arrow(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pd.Series):
        values = pa.Array.from_pandas(values)
        values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        return values.cast(kind)
    return pa.array(values, kind)


def _box_array(values: Any) -> pa.Array:
    if isinstance(values, pd.Series):
        return pa.Array.from_pandas(values, type=BOX)
    values = np.asarray(values, np.float32).reshape(-1, 4)
    missing = np.isnan(values).any(axis=1)
    array = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 4)
    return pa.array(array, BOX) if not missing.any() else _with_nulls(array, missing)


def _with_nulls(array: pa.Array, missing: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(array.values, 4, mask=pa.array(missing))


def _contiguous(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(list(column.chunks) or [pa.nulls(0, column.type)])


def _row_slices(image_ids: pd.Series) -> dict[int, slice]:
    ids = image_ids.to_numpy(dtype=np.int64)
    if len(ids) == 0:
        return {}
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ids)) + 1, [len(ids)]])
    return {int(ids[a]): slice(int(a), int(b)) for a, b in pairwise(starts)}


def _sizes_of(images: pd.DataFrame, image_ids: pd.Series) -> np.ndarray:
    ids = images["image_id"].to_numpy(dtype=np.int64)
    order = np.argsort(ids)
    rows = order[np.searchsorted(ids[order], image_ids.to_numpy(dtype=np.int64))]
    return images[["height", "width"]].to_numpy(dtype=np.int64)[rows]
