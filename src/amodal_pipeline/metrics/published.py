"""The numbers printed in the papers, as a table for comparison with results."""

import csv
import io
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from amodal_pipeline.annotations import Given
from amodal_pipeline.annotations.tables import frame
from amodal_pipeline.metrics.results import validate

PUBLISHED = pa.schema(
    {
        "paper": pa.string(),
        "table": pa.string(),
        "row": pa.string(),
        "method": pa.string(),
        "variant": pa.string(),
        "dataset": pa.string(),
        "split": pa.string(),
        "inputs": pa.string(),
        "protocol": pa.string(),
        "category": pa.string(),
        "metric": pa.string(),
        "value": pa.float64(),
        "note": pa.string(),
        "comparable": pa.bool_(),
    }
)
BESIDE = pa.schema(
    {
        "dataset": pa.string(),
        "method": pa.string(),
        "variant": pa.string(),
        "inputs": pa.string(),
        "protocol": pa.string(),
        "metric": pa.string(),
        "ours": pa.float64(),
        "low": pa.float64(),
        "high": pa.float64(),
        "published": pa.float64(),
        "paper": pa.string(),
        "table": pa.string(),
        "row": pa.string(),
        "note": pa.string(),
    }
)

_METRIC = (
    r"^(AP(50|75)?|AR(1|10|100|1000)?)(_(amodal|visible|invisible|both|box|top100))?"
    r"(_(none|partial|heavy))?(_(things|stuff))?(_occluded\d+(\.\d+)?)?$"
    r"|^(mIoU_(full|occluded)|IoU_dataset(_occluded)?)(_(post|matched|common|per_category))*$"
    r"|^mIoU_(full|occluded(_zero)?|on_others)_per_(object(_frame)?|frame)"
    r"(_partly_occluded(_first32)?|_(un)?seen_elsewhere)?(_post(_video)?)?$"
    r"|^order_(accuracy|coverage)(_occluding|_touching)?$"
    r"|^occluder_consistency$"
)
_KEY = [name for name in PUBLISHED.names if name not in ("value", "note", "comparable")]

_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$")]
_Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")
    paper: _Name
    table: _Text
    row: _Text
    method: _Name
    variant: _Name
    dataset: _Name
    split: Literal["train", "val", "test"]
    inputs: _Name
    protocol: Literal[
        "coco",
        "coco_agnostic",
        "vrsp",
        "vrsp_released",
        "orcnn",
        "amodalapi",
        "completion",
        "order",
        "video",
    ]
    category: _Text
    metric: Annotated[str, StringConstraints(pattern=_METRIC)]
    value: float = Field(ge=0, le=100, allow_inf_nan=False)
    note: str
    comparable: Literal["true", "false"]


def read_published(path: Path) -> pd.DataFrame:
    """Return a table of published numbers (docs/published.md): rows of :data:`PUBLISHED`.

    Args:
        path: a CSV file, UTF-8, with a header. ``value`` is in 0–100; ``comparable`` is "true" or
            "false", and ``note`` must say why if it is false.

    Raises:
        ValueError: the file is not such a table; names the file, the line and the column.
    """
    path = Path(path)
    try:
        lines = csv.DictReader(
            io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""),
            restkey="(more fields than the header)",
            strict=True,
        )
        header = list(lines.fieldnames or [])
        if sorted(header) != sorted(PUBLISHED.names):
            raise ValueError(f"{path}, line 1: columns {header}; the table has {PUBLISHED.names}")
        rows, first = [], {}
        for line in lines:
            where = f"{path}, line {lines.line_num}"
            try:
                row = _Row.model_validate(line)
            except ValidationError as error:
                wrong = error.errors()[0]
                column = ".".join(map(str, wrong["loc"]))
                raise ValueError(
                    f"{where}, column {column}: {wrong['msg']}; it has {wrong['input']!r}"
                ) from None
            if row.comparable == "false" and not row.note.strip():
                raise ValueError(f"{where}, column note: say why the value is not comparable")
            key = tuple(getattr(row, name) for name in _KEY)
            if key in first:
                raise ValueError(f"{where} gives the same number as line {first[key]}: keep one")
            first[key] = lines.line_num
            rows.append(row.model_dump() | {"comparable": row.comparable == "true"})
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: save it as CSV UTF-8 ({error})") from None
    except csv.Error as error:
        raise ValueError(f"{path}, line {lines.line_num + 1}: {error}") from None
    return frame(PUBLISHED, rows)


def beside(results: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Return each result over all categories with every comparable number of a paper.

    The two agree in data set, split, method, variant, protocol and metric, and both or neither use
    the same kind of truth (``inputs``; the detector may differ). Results
    without a value are left out.

    Args:
        results: rows of :data:`amodal_pipeline.metrics.results.RESULTS`.
        published: the table from :func:`read_published`.

    Returns:
        Rows of :data:`BESIDE`, in the order of the results. ``inputs``, ``low`` and ``high`` are
        ours; ``note`` is the paper's, followed by "ours:" and the note of the result.
    """
    ours = validate(results)
    ours = ours[(ours["category"] == "all") & ours["value"].notna()]
    theirs = published[published["comparable"] & (published["category"] == "all")]
    theirs = theirs.rename(columns={"value": "published"})
    same = ["dataset", "split", "method", "variant", "protocol", "metric", "from_truth"]
    pairs = ours.assign(from_truth=_truth(ours["inputs"])).merge(
        theirs.assign(from_truth=_truth(theirs["inputs"])),
        on=same,
        suffixes=("", "_published"),
    )
    notes = [
        "; ".join(text for text in (paper, own and f"ours: {own}") if text)
        for paper, own in zip(pairs["note_published"], pairs["note"], strict=True)
    ]
    pairs = pairs.assign(note=notes).rename(columns={"value": "ours"})
    return frame(BESIDE, pairs[BESIDE.names])


def _truth(inputs: pd.Series) -> pd.Series:
    """Return the inputs that are made from the truth; "" for any other."""
    known = [Given.of(each).from_truth for each in inputs]
    return inputs.astype(object).where(known, "")
