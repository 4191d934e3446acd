"""Files written per object of its views, and the table made from a split's records.

Pictures are ``<split>/<object>/<view>.png`` and their record ``<split>/<object>.json``, where
``<object>`` is the object's number in the split.
"""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from amodal_pipeline.annotations import AmodalAnnotations, Category, build, rle
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.annotations.tables import IMAGES, INSTANCES, ORDER, concat, frame
from amodal_pipeline.annotations.validation import Finding, finding
from amodal_pipeline.scenes.models import ShapeSource
from amodal_pipeline.scenes.occluders import occlude
from amodal_pipeline.scenes.render import Cutout
from amodal_pipeline.scenes.view_config import OcclusionConfig

_STEP = 1000  # image ids per object
_AT_ONCE = 64  # objects whose rows are kept as lists: columns take a tenth of their memory
_SCHEMAS = {"images": IMAGES, "instances": INSTANCES, "order": ORDER}

_log = logging.getLogger(__name__)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Viewpoint(_Record):
    """Where a picture was taken from; angles in degrees, distance to the object's middle."""

    azimuth: float
    elevation: float
    distance: float
    field_of_view: float


class ArchiveSource(_Record):
    """An object rendered by others: its place in their file."""

    category: str
    file: str
    position: int


class Occluder(_Record):
    """The pasted occluder: a view of ``source``, scaled, flipped from left to right or not.

    Its upper left corner is at ``corner`` (row, column).
    """

    source: ShapeSource | ArchiveSource
    viewpoint: Viewpoint
    scale: float
    flipped: bool
    corner: tuple[int, int]
    mask_rle: str


class View(_Record):
    """One picture; ``wanted`` says whether it was to be occluded."""

    number: int
    viewpoint: Viewpoint
    amodal_rle: str
    visible_rle: str
    wanted: bool
    occluder: Occluder | None


class ObjectViews(_Record):
    """All pictures of an object."""

    fingerprint: str
    split: str
    index: int
    source: ShapeSource | ArchiveSource
    image_size: tuple[int, int]
    """Height and width."""
    pictures_checksum: str
    """SHA-256 over the files, in the order of ``views``."""
    views: tuple[View, ...]


Candidate = tuple[ShapeSource | ArchiveSource, Viewpoint, Cutout]


def existing(target: Path, split: str, index: int, fingerprint: str) -> ObjectViews | None:
    """Return the record of an object that exists undamaged with this fingerprint, or None."""
    try:
        record = ObjectViews.model_validate_json((target / f"{index:06d}.json").read_bytes())
        pictures = [(target / _name(index, v.number)).read_bytes() for v in record.views]
    except (OSError, ValidationError):
        return None
    same = (record.fingerprint, record.split, record.index) == (fingerprint, split, index)
    return record if same and record.pictures_checksum == _checksum(pictures) else None


def write_object(
    target: Path,
    split: str,
    index: int,
    fingerprint: str,
    source: ShapeSource | ArchiveSource,
    seen: Sequence[tuple[int, Viewpoint, Cutout]],
    candidates: Sequence[Candidate],
    config: OcclusionConfig,
    rng: np.random.Generator,
) -> ObjectViews:
    """Write views of an object below ``target``, some of them occluded, and return the record.

    The record is written last.

    Args:
        target: the folder of the split.
        fingerprint: checksum of all that decides the pictures.
        seen: number, viewpoint and picture of each view.
        candidates: cutouts that may be pasted in front.
    """
    pictures, views = [], []
    for number, viewpoint, cutout in seen:
        wanted = bool(candidates) and bool(cutout.mask.any()) and rng.uniform() < config.occluded
        occlusion = occlude(cutout, [c[2] for c in candidates], config, rng) if wanted else None
        masks, pixels, occluder = [cutout.mask, cutout.mask], cutout.pixels, None
        if occlusion is not None:
            masks, pixels = [cutout.mask, occlusion.visible, occlusion.occluder], occlusion.pixels
        counts = rle.encode(np.stack(masks))
        if occlusion is not None:
            of, seen_from, _ = candidates[occlusion.candidate]
            occluder = Occluder(
                source=of,
                viewpoint=seen_from,
                scale=occlusion.scale,
                flipped=occlusion.flipped,
                corner=occlusion.corner,
                mask_rle=counts[2],
            )
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG", compress_level=4)
        pictures.append(data.getvalue())
        views.append(
            View(
                number=number,
                viewpoint=viewpoint,
                amodal_rle=counts[0],
                visible_rle=counts[1],
                wanted=wanted,
                occluder=occluder,
            )
        )
    record = ObjectViews(
        fingerprint=fingerprint,
        split=split,
        index=index,
        source=source,
        image_size=seen[0][2].mask.shape,
        pictures_checksum=_checksum(pictures),
        views=tuple(views),
    )
    with replacing(target / f"{index:06d}") as folder:
        folder.mkdir()
        for view, picture in zip(views, pictures, strict=True):
            (folder / f"{view.number:02d}.png").write_bytes(picture)
    with replacing(target / f"{index:06d}.json") as path:
        path.write_text(record.model_dump_json(indent=1))
    return record


def reported(
    made: Iterable[ObjectViews | Finding],
    total: int,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[ObjectViews | Finding]:
    """Yield the same objects, and call ``on_progress`` with (done, total) at each."""
    for done, one in enumerate(made, 1):
        if on_progress is not None:
            on_progress(done, total)
        yield one


def table_of(
    made: Iterable[ObjectViews | Finding],
    categories: Sequence[str],
    dataset: str,
    split: str,
    folder: Path,
    source: str,
) -> AmodalAnnotations:
    """Return the table of a split, and write its ``statistics.json``.

    One object per picture is counted; its ``track_id`` is its number in the split. The occluder is
    an instance with ``ignore``, in front, whose amodal mask is its visible mask. An object that
    fills no pixel of a picture is rejected with the picture's name.

    Args:
        made: each object, or the finding why it is missing. Few are in memory at a time.
        source: the name of the checksum over all objects in the table's sources.
    """
    ids = {name: k + 1 for k, name in enumerate(categories)}
    parts: dict[str, list] = {name: [] for name in _SCHEMAS}
    fingerprints: list[str] = []
    rejected: list[Finding] = []
    unoccluded = 0
    made = iter(made)
    while some := list(islice(made, _AT_ONCE)):
        rows: dict[str, list[dict]] = {name: [] for name in _SCHEMAS}
        for one in some:
            if not isinstance(one, ObjectViews):
                _log.warning("%s %s: an object is left out: %s", dataset, split, one["reason"])
                rejected.append(one)
                continue
            fingerprints.append(one.fingerprint)
            unoccluded += sum(view.wanted and view.occluder is None for view in one.views)
            rejected += _add(one, ids, rows)
        for name, schema in _SCHEMAS.items():
            parts[name].append(frame(schema, rows[name]))
    table = build(
        dataset=dataset,
        split=split,
        categories=[Category(id=id_, name=name) for name, id_ in ids.items()],
        image_root=str(folder),
        **{name: concat(schema, parts[name]) for name, schema in _SCHEMAS.items()},
        sources={source: hashlib.sha256(json.dumps(fingerprints).encode()).hexdigest()},
        file=dataset,
        rejected=rejected,
    )
    with replacing(folder / split / "statistics.json") as path:
        path.write_text(json.dumps(_statistics(table, unoccluded), indent=2))
    return table


def _add(
    record: ObjectViews, ids: dict[str, int], rows: dict[str, list[dict]]
) -> Iterator[Finding]:
    """Append an object's pictures to ``rows``; yield a finding for each that does not show it."""
    height, width = record.image_size
    areas = rle.area([view.amodal_rle for view in record.views])
    for view, area in zip(record.views, areas, strict=True):
        image_id = _STEP * record.index + view.number
        name = f"{record.split}/{_name(record.index, view.number)}"
        shown = {"image_id": image_id, "file_name": name, "height": height, "width": width}
        rows["images"].append(shown)
        counted = {
            "instance_id": 2 * image_id + 1,
            "image_id": image_id,
            "category_id": ids[record.source.category],
            "amodal_rle": view.amodal_rle,
            "visible_rle": view.visible_rle,
            "is_thing": True,
            "track_id": record.index,
            "ignore": False,
        }
        if not area:
            own = f"instance {counted['instance_id']}"
            yield finding(name, own, "amodal_rle", "is empty: it fills no pixel of this picture")
            continue
        rows["instances"].append(counted)
        if view.occluder is None:
            continue
        front = {
            "instance_id": 2 * image_id + 2,
            "category_id": ids[view.occluder.source.category],
            "amodal_rle": view.occluder.mask_rle,
            "visible_rle": view.occluder.mask_rle,
            "track_id": None,
            "ignore": True,
        }
        rows["instances"].append(counted | front)
        pair = {"occluder_id": front["instance_id"], "occludee_id": counted["instance_id"]}
        rows["order"].append({"image_id": image_id, **pair, "inferred": False})


def _statistics(table: AmodalAnnotations, unoccluded: int) -> dict:
    """Return statistics over the objects that count; rates and shares are in 0 to 1."""
    counted = table.instances[~table.instances["ignore"]]
    rate = counted["occlusion_rate"].to_numpy(dtype=np.float64)
    occluded = rate > 0
    numbers = counted.groupby("category_id")["track_id"].nunique()
    return {
        "images": len(table.images),
        "objects": int(counted["track_id"].nunique()),
        "share_occluded": float(occluded.mean()) if len(rate) else 0.0,
        "mean_occlusion_rate": float(rate.mean()) if len(rate) else 0.0,
        "mean_occlusion_rate_of_occluded": float(rate[occluded].mean()) if occluded.any() else 0.0,
        "nothing_fitted": unoccluded,
        "objects_by_category": {
            c.name: int(numbers.get(c.id, 0)) for c in table.metadata.categories
        },
    }


def _name(index: int, number: int) -> str:
    return f"{index:06d}/{number:02d}.png"


def _checksum(pictures: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(p).digest() for p in pictures)).hexdigest()
