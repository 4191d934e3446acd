"""Annotation files of the size of the published data sets, in their formats, made up from a seed.

Objects are boxy blobs with as many polygon points as annotators click, many of them behind a
neighbour. All masks are rasterised by pycocotools; a visible mask is the amodal one without what is
nearer. Small known shares have the faults that published files have. Nothing in them stems from a
published file.

    python benchmarks/made_up_files.py <folder> [--scale 0.01]
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TextIO

import numpy as np
from pycocotools import mask as coco_mask
from scipy import sparse

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.storage import replacing

VERSION = 1  # of the files made: raise it when they change
IMAGES_AT_ONCE = 500  # what is in memory while a file is written

# Shares of KINS records with a fault, as such files have them here and there.
CROWD = 1e-3
STRAY_PART = 1e-3  # a second polygon of fewer than three points beside a good one
NO_POLYGON = 2e-4  # the only polygon has fewer than three points: no mask can be had
VISIBLE_OUTSIDE = 5e-3  # visible pixels just outside the amodal polygon

KINS_CANVAS = (375, 1242)  # height, width in pixels, as all sizes here
KINS_2019 = {
    1: "cyclist",
    2: "pedestrian",
    4: "car",
    5: "tram",
    6: "truck",
    7: "van",
    8: "misc",
}
KINS_2020 = {**KINS_2019, 3: "rider"}
KINS_SHARES = {1: 0.03, 2: 0.15, 3: 0.02, 4: 0.66, 5: 0.01, 6: 0.02, 7: 0.08, 8: 0.03}
COCO_CANVASES = ((480, 640), (640, 480), (427, 640), (640, 427), (375, 500), (500, 375))
COCO_SHARES = (0.4, 0.15, 0.2, 0.1, 0.1, 0.05)
D2S_CANVAS, D2S_PADDED = (1440, 1920), (1534, 1920)
D2S_CATEGORIES = {i: f"product {i}" for i in range(1, 61)}

DATA_SETS = ("kins_2019", "kins_2020", "cocoa", "d2sa")
# Images and objects of each published file.
SIZES = {
    "kins_train": (7_474, 95_311),
    "kins_val": (7_517, 95_315),
    "cocoa_train": (2_500, 22_833),
    "cocoa_val": (1_323, 12_083),
    "d2sa_rot0": (438, 690),
    "d2sa_augmented": (1_562, 12_376),
    "d2sa_val": (3_600, 15_654),
}


@dataclass(frozen=True)
class MadeUp:
    """A file that was written, and what is in it.

    ``occluded`` objects have hidden pixels, ``hidden`` ones no visible pixel. ``order_pairs`` are
    the pairs of objects that overlap, without those whose polygon cannot be drawn. The others
    count records by their fault; a record has at most one.
    """

    path: Path
    images: int
    objects: int
    occluded: int = 0
    hidden: int = 0
    order_pairs: int = 0
    crowd: int = 0
    stray_part: int = 0
    no_polygon: int = 0
    visible_outside: int = 0


@dataclass(frozen=True)
class _Batch:
    """Images ``first``, ``first`` + 1, … of a file: objects in each, canvases [len, 2], chance."""

    first: int
    per_image: np.ndarray
    canvases: np.ndarray
    random: np.random.Generator


@dataclass(frozen=True)
class _Blobs:
    """N objects of some images, sorted by image and there from the nearest to the farthest.

    Polygon i has the points ``points[starts[i]:starts[i + 1]]`` (x, y in pixels, within the
    canvas). ``image`` is the position of the image in its batch, ``sizes`` [N, 2] the canvas
    (height, width).
    """

    image: np.ndarray
    sizes: np.ndarray
    points: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def polygon(self, i: int) -> np.ndarray:
        return self.points[self.starts[i] : self.starts[i + 1]].reshape(-1)

    @property
    def rank(self) -> np.ndarray:
        """How many objects of the image are nearer, int64 [N]."""
        return np.arange(len(self)) - np.searchsorted(self.image, self.image)


@dataclass(frozen=True)
class _Masks:
    """Masks of blobs: compressed strings, areas [N], boxes [N, 4] of zeros where nothing is.

    ``pairs`` [P, 2] are the (nearer, farther) blobs that overlap, sorted by the farther one.
    """

    amodal: list[str]
    visible: list[str]
    area: np.ndarray
    visible_area: np.ndarray
    box: np.ndarray
    visible_box: np.ndarray
    pairs: np.ndarray

    @property
    def occluded(self) -> np.ndarray:
        return self.visible_area < self.area


def kins_2019(path: Path, images: int, objects: int, seed: int = 0) -> MadeUp:
    """KINS as first published: amodal polygons, visible masks as run lengths."""
    return _kept_or_made(path, _write_kins_2019, images=images, objects=objects, seed=seed)


def kins_2020(path: Path, images: int, objects: int, seed: int = 0) -> MadeUp:
    """KINS of 2020: amodal and visible polygons, clusters and ranks.

    Visible masks without a pixel are run lengths, for no polygon can say so.
    """
    return _kept_or_made(path, _write_kins_2020, images=images, objects=objects, seed=seed)


def cocoa(path: Path, images: int, objects: int, seed: int = 0) -> MadeUp:
    """COCOA as published: one record per image, with a list of regions."""
    return _kept_or_made(path, _write_cocoa, images=images, objects=objects, seed=seed)


def d2sa(
    path: Path, images: int, objects: int, seed: int = 0, first_id: int = 1, padded: bool = False
) -> MadeUp:
    """D2SA: all masks as run lengths on large canvases.

    Args:
        first_id: of images and objects, so that several files can make up one split.
        padded: whether images have the higher canvas of the augmented ones.
    """
    parameters = {"images": images, "objects": objects, "seed": seed}
    return _kept_or_made(path, _write_d2sa, first_id=first_id, padded=padded, **parameters)


def _kept_or_made(path: Path, write: Callable[..., Counter], **parameters: int) -> MadeUp:
    """The file at ``path``, made unless it was made with the same parameters before."""
    note = path.with_name(f"{path.stem}.made_up")
    wanted = {"version": VERSION, "writer": write.__name__, **parameters}
    if path.exists() and note.exists():
        said = json.loads(note.read_text())
        if said["parameters"] == wanted and said["bytes"] == path.stat().st_size:
            return MadeUp(path=path, **said["counts"])
    with replacing(path) as temporary, temporary.open("w") as file:
        counts = {name: int(count) for name, count in write(file, **parameters).items()}
    said = {"parameters": wanted, "bytes": path.stat().st_size, "counts": counts}
    with replacing(note) as temporary:
        temporary.write_text(json.dumps(said))
    return MadeUp(path=path, **counts)


def _write_kins_2019(file: TextIO, images: int, objects: int, seed: int) -> Counter:
    counts = Counter()
    canvases = np.tile(KINS_CANVAS, (images, 1))
    _write_head(file, _images(canvases, "{:06d}.png"), KINS_2019)
    for batch in _batches(canvases, objects, seed):
        blobs, categories = _street(batch, KINS_2019)
        masks = _masks(blobs)
        faults = _faults(batch.random, masks, blobs)
        ids = _shuffled_ids(batch.random, blobs, counts["objects"])
        records = []
        for i in np.argsort(ids):
            visible, visible_box = masks.visible[i], masks.visible_box[i]
            if faults[i] == "visible_outside":
                visible, visible_box = _with_strip(masks, blobs, i)
            records.append(
                {
                    "id": int(ids[i]),
                    "image_id": int(batch.first + blobs.image[i]),
                    "category_id": int(categories[i]),
                    "iscrowd": int(faults[i] == "crowd"),
                    "area": int(masks.area[i]),
                    "bbox": masks.box[i].tolist(),
                    "segmentation": _polygons(blobs, i, faults[i]),
                    "inmodal_seg": {"size": blobs.sizes[i].tolist(), "counts": visible},
                    "inmodal_bbox": visible_box.tolist(),
                }
            )
        _write_records(file, records, batch)
        _count(counts, batch, masks, faults)
    file.write("]}")
    return counts


def _write_kins_2020(file: TextIO, images: int, objects: int, seed: int) -> Counter:
    counts = Counter()
    canvases = np.tile(KINS_CANVAS, (images, 1))
    _write_head(file, _images(canvases, "{:06d}.png"), KINS_2020)
    for batch in _batches(canvases, objects, seed):
        blobs, categories = _street(batch, KINS_2020)
        masks = _masks(blobs)
        faults = _faults(batch.random, masks, blobs)
        ids = _shuffled_ids(batch.random, blobs, counts["objects"])
        clusters, ranks = _clusters(blobs, masks.pairs)
        outlines = _outlines(masks, blobs)
        records = []
        for i in np.argsort(ids):
            amodal = _polygons(blobs, i, faults[i])
            visible = outlines[i] if masks.occluded[i] else [_written(blobs.polygon(i))]
            area, box = masks.visible_area[i], masks.visible_box[i]
            if not visible:
                visible = {"size": blobs.sizes[i].tolist(), "counts": masks.visible[i]}
            if faults[i] == "visible_outside":
                x, y, width, height = _strip(masks, i)
                corners = [x, y, x + width, y, x + width, y + height, x, y + height]
                visible, area = [*visible, corners], area + width * height
                _, box = _with_strip(masks, blobs, i)
            records.append(
                {
                    "id": int(ids[i]),
                    "image_id": int(batch.first + blobs.image[i]),
                    "category_id": int(categories[i]),
                    "iscrowd": int(faults[i] == "crowd"),
                    "a_area": int(masks.area[i]),
                    "a_bbox": masks.box[i].tolist(),
                    "a_segm": amodal,
                    "i_area": int(area),
                    "i_bbox": box.tolist(),
                    "i_segm": visible,
                    "oco_id": int(clusters[i]),
                    "ico_id": int(ranks[i]),
                }
            )
        _write_records(file, records, batch)
        _count(counts, batch, masks, faults)
    file.write("]}")
    return counts


def _write_cocoa(file: TextIO, images: int, objects: int, seed: int) -> Counter:
    counts = Counter()
    random = np.random.default_rng([seed, images, 0])
    canvases = random.choice(COCO_CANVASES, images, p=COCO_SHARES)
    names = np.array(
        ["person", "car", "tree trunk ", "table", "sky", "grass", "dog", "cup", "book"]
    )
    listed = [
        {**entry, "license": 3, "coco_url": f"http://example.org/{entry['file_name']}"}
        for entry in _images(canvases, "COCO_train2014_{:012d}.jpg", 1)
    ]
    file.write(json.dumps({"info": {"description": "made up"}, "images": listed})[:-1])
    file.write(', "annotations": [')
    for batch in _batches(canvases, objects, seed):
        blobs, stuff = _photograph(batch)
        masks = _masks(blobs)
        called = batch.random.choice(names, len(blobs))
        regions = [
            {
                "segmentation": blobs.polygon(i).tolist(),
                "name": str(called[i]),
                "area": int(masks.area[i]),
                "isStuff": int(stuff[i]),
                "occlude_rate": 1 - masks.visible_area[i] / masks.area[i],
                "order": int(blobs.rank[i]) + 1,
            }
            for i in range(len(blobs))
        ]
        for i, invisible in _invisible(masks, blobs):
            size = blobs.sizes[i].tolist()
            regions[i]["visible_mask"] = {"size": size, "counts": masks.visible[i]}
            regions[i]["invisible_mask"] = {"size": size, "counts": invisible}
        constraints = _constraints(blobs, masks.pairs)
        bounds = np.searchsorted(blobs.image, np.arange(len(batch.per_image) + 1))
        records = [
            {
                "id": batch.first + n + 1,
                "image_id": batch.first + n + 1,
                "author": "made up",
                "url": f"http://example.org/{batch.first + n}.jpg",
                "size": int(stop - start),
                "depth_constraint": constraints[n],
                "regions": regions[start:stop],
            }
            for n, (start, stop) in enumerate(pairwise(bounds))
        ]
        _write_records(file, records, batch)
        _count(counts, batch, masks)
    file.write("]}")
    return counts


def _write_d2sa(
    file: TextIO, images: int, objects: int, seed: int, first_id: int, padded: bool
) -> Counter:
    counts = Counter()
    canvases = np.tile(D2S_PADDED if padded else D2S_CANVAS, (images, 1))
    _write_head(file, _images(canvases, "D2S_{:06d}.jpg", first_id), D2S_CATEGORIES)
    for batch in _batches(canvases, objects, seed):
        blobs = _tray(batch)
        masks = _masks(blobs)
        categories = batch.random.choice(sorted(D2S_CATEGORIES), len(blobs))
        invisible = dict(_invisible(masks, blobs))
        constraints = _constraints(blobs, masks.pairs)
        records = []
        for i in range(len(blobs)):
            size, rank = blobs.sizes[i].tolist(), int(blobs.rank[i])
            image, box = first_id + batch.first + int(blobs.image[i]), masks.box[i].tolist()
            base = {
                "url": f"http://example.org/{image}.jpg",
                "image_id": image,
                "size": int(batch.per_image[blobs.image[i]]),
                "author": "made up",
                "depth_constraint": constraints[blobs.image[i]],
            }
            record = {
                "id": first_id + counts["objects"] + i,
                "image_id": image,
                "category_id": int(categories[i]),
                "iscrowd": 0,
                "area": int(masks.area[i]),
                "bbox": box,
                "segmentation": {"size": size, "counts": masks.amodal[i]},
                "visible_mask": {"size": size, "counts": masks.visible[i]},
                "occlude_rate": 1 - masks.visible_area[i] / masks.area[i],
                "occl_depth": rank,
                "amodal_region": {
                    "name": D2S_CATEGORIES[int(categories[i])],
                    "area": int(masks.area[i]),
                    "isStuff": 0,
                    "bbox": box,
                    "order": rank + 1,
                },
                "amodal_base": base,
            }
            if i in invisible:
                record["invisible_mask"] = {"size": size, "counts": invisible[i]}
            records.append(record)
        _write_records(file, records, batch)
        _count(counts, batch, masks)
    file.write("]}")
    return counts


def _batches(canvases: np.ndarray, objects: int, seed: int) -> Iterator[_Batch]:
    """The images of a file, some at a time, so that a file of any size fits into memory.

    Every image has an object; the others are spread unevenly, as in photographs.
    """
    images = len(canvases)
    random = np.random.default_rng([seed, images, 1])
    weight = random.gamma(5.0, size=images)
    per_image = 1 + random.multinomial(max(objects - images, 0), weight / weight.sum())
    for first in range(0, images, IMAGES_AT_ONCE):
        some = slice(first, first + IMAGES_AT_ONCE)
        chance = np.random.default_rng([seed, images, first + 2])
        yield _Batch(first, per_image[some], canvases[some], chance)


def _street(batch: _Batch, names: dict[int, str]) -> tuple[_Blobs, np.ndarray]:
    """Cars and people along the horizon of a street, with their categories."""
    random = batch.random
    image, sizes = _owners(batch)
    n = len(image)
    ids = sorted(names)
    shares = np.array([KINS_SHARES[i] for i in ids])
    category = random.choice(ids, n, p=shares / shares.sum())
    person = np.isin(category, (1, 2, 3))
    scale = random.normal(0, 0.65, (n, 1)) + random.normal(0, 0.15, (n, 2))
    extent = np.exp(np.where(person[:, None], (3.3, 4.2), (4.25, 3.7)) + scale)
    extent = np.clip(extent, (8, 10), (520, 300))
    centre = np.empty((n, 2))
    centre[:, 0] = random.uniform(0, sizes[:, 1])
    centre[:, 1] = 172 + 0.35 * extent[:, 1] + random.normal(0, 6, n)
    _gather(random, image, centre, extent, sizes[:, 1], share=0.7)
    # The lower an object stands in the image, the nearer it is.
    order = np.lexsort((-(centre[:, 1] + extent[:, 1] / 2), image))
    sizes, centre, extent = sizes[order], centre[order], extent[order]
    _uncover(random, image, centre, extent, sizes[:, 1])
    return _blobs(random, image, sizes, centre, extent, (30, 200), (0, 1, 2)), category[order]


def _photograph(batch: _Batch) -> tuple[_Blobs, np.ndarray]:
    """Things and, behind them, wide regions of stuff; says which are stuff."""
    random = batch.random
    image, sizes = _owners(batch)
    n = len(image)
    stuff = random.random(n) < 0.15
    scale = random.normal(0, 0.6, (n, 1)) + random.normal(0, 0.2, (n, 2))
    extent = np.exp(np.where(stuff, -0.5, -1.6)[:, None] + scale).clip(0.03, 1) * sizes[:, ::-1]
    centre = random.uniform(0.1, 0.9, (n, 2)) * sizes[:, ::-1]
    _gather(random, image, centre, extent, sizes[:, 1], share=0.3)
    order = np.lexsort((-(centre[:, 1] + extent[:, 1] / 2), stuff, image))
    sizes, centre, extent = sizes[order], centre[order], extent[order]
    _uncover(random, image, centre, extent, sizes[:, 1])
    return _blobs(random, image, sizes, centre, extent, (45, 400), (12,)), stuff[order]


def _tray(batch: _Batch) -> _Blobs:
    """Large products on a tray, thrown together."""
    random = batch.random
    image, sizes = _owners(batch)
    n = len(image)
    extent = np.exp(6.0 + random.normal(0, 0.35, (n, 1)) + random.normal(0, 0.2, (n, 2)))
    extent = extent.clip(100, 1200)
    centre = random.uniform(0.2, 0.8, (n, 2)) * sizes[:, ::-1]
    _uncover(random, image, centre, extent, sizes[:, 1])
    return _blobs(random, image, sizes, centre, extent, (90, 400), (2,))


def _owners(batch: _Batch) -> tuple[np.ndarray, np.ndarray]:
    """Position of the image in its batch, [N], and canvas, [N, 2], of each object."""
    image = np.repeat(np.arange(len(batch.per_image)), batch.per_image)
    return image, batch.canvases[image]


def _gather(
    random: np.random.Generator,
    image: np.ndarray,
    centre: np.ndarray,
    extent: np.ndarray,
    width: np.ndarray,
    share: float,
) -> None:
    """Move a share of the objects sideways until they meet the one before them in their image.

    They then have 15-75 % of the narrower one's width in common. ``width`` [N] of the canvases.
    """
    moved = np.flatnonzero((np.diff(image, prepend=-1) == 0) & (random.random(len(image)) < share))
    narrower = np.minimum(extent[moved, 0], extent[moved - 1, 0])
    common = random.uniform(0.15, 0.75, len(moved)) * narrower
    apart = (extent[moved, 0] + extent[moved - 1, 0]) / 2 - common
    # One after the other: an object may stand beside one that was moved itself.
    for i, distance, right in zip(moved, apart, random.random(len(moved)) < 0.5, strict=True):
        left_of, right_of = centre[i - 1, 0] - distance, centre[i - 1, 0] + distance
        centre[i, 0] = right_of if (right and right_of < width[i]) or left_of < 0 else left_of
    np.clip(centre[:, 0], 10, width - 10, out=centre[:, 0])


def _uncover(
    random: np.random.Generator,
    image: np.ndarray,
    centre: np.ndarray,
    extent: np.ndarray,
    width: np.ndarray,
    rounds: int = 8,
) -> None:
    """Move objects that a nearer one hides almost wholly: nobody would have annotated them."""
    for _ in range(rounds):
        low, high = centre - extent / 2, centre + extent / 2
        nearer, farther = _neighbours(image, np.concatenate([low, extent], axis=1))
        shared = np.minimum(high[nearer], high[farther]) - np.maximum(low[nearer], low[farther])
        covered = shared.prod(axis=1) > 0.75 * extent[farther].prod(axis=1)
        moved = np.unique(farther[covered])
        centre[moved, 0] = random.uniform(0, width[moved])


def _blobs(
    random: np.random.Generator,
    image: np.ndarray,
    sizes: np.ndarray,
    centre: np.ndarray,
    extent: np.ndarray,
    vertices: tuple[int, int],
    decimals: tuple[int, ...],
) -> _Blobs:
    """Irregular, boxy outlines around ``centre`` [N, 2], ``extent`` [N, 2] wide and high (pixels).

    Objects come sorted by image and there from the nearest to the farthest. An outline is seen
    from its centre in one direction at a time, so it does not cross itself. The number of points
    is log-normal with the median and the maximum in ``vertices``; each outline is rounded to one
    of the ``decimals``.
    """
    n = len(image)
    # Large objects are drawn with more points; tiny ones have no room for many.
    size = np.log(extent.mean(axis=1))
    count = np.exp(0.35 * (size - np.median(size)) + random.normal(0, 0.45, n)) * vertices[0]
    count = np.clip(np.minimum(count, extent.sum(axis=1) / 1.5), 5, vertices[1]).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(count)])
    owner = np.repeat(np.arange(n), count)

    total = np.concatenate([[0], np.cumsum(random.gamma(4.0, size=starts[-1]))])
    turn = (total[1:] - total[starts[owner]]) / np.diff(total[starts])[owner]
    cosine, sine = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
    wave, phase = random.integers(2, 6, n)[owner], random.random(n)[owner]
    radius = (np.abs(cosine) ** 3 + np.abs(sine) ** 3) ** (-1 / 3)
    radius *= 0.9 + 0.1 * np.sin(2 * np.pi * (wave * turn + phase))
    radius += random.normal(0, 0.02, len(turn))
    points = centre[owner] + np.stack([cosine, sine], axis=1) * (
        radius[:, None] * extent[owner] / 2
    )
    unit = 10.0 ** random.choice(decimals, n)[owner, None]
    points = np.clip(np.rint(points * unit) / unit, 0, sizes[owner][:, ::-1])
    return _Blobs(image, sizes, points, starts)


def _masks(blobs: _Blobs) -> _Masks:
    drawn = [
        coco_mask.frPyObjects([blobs.polygon(i)], *size)[0]
        for i, size in enumerate(blobs.sizes.tolist())
    ]
    amodal = [mask["counts"].decode("ascii") for mask in drawn]
    box = np.nan_to_num(rle.box(amodal, blobs.sizes))
    nearer, farther = _neighbours(blobs.image, box)
    shared = rle.shared_area([amodal[i] for i in nearer], [amodal[i] for i in farther])
    overlap = shared > 0
    pairs = np.stack([nearer[overlap], farther[overlap]], axis=1)

    behind, begins = np.unique(pairs[:, 1], return_index=True)
    fronts = np.split(pairs[:, 0], begins[1:])
    covers = [
        coco_mask.merge([drawn[i] for i in front])["counts"].decode("ascii")
        for front, _ in zip(fronts, behind, strict=False)  # without pairs there is one empty front
    ]
    visible = list(amodal)
    left = rle.difference([amodal[i] for i in behind], covers)
    for i, text in zip(behind, left, strict=True):
        visible[i] = text
    visible_box = np.nan_to_num(rle.box(visible, blobs.sizes))
    return _Masks(amodal, visible, rle.area(amodal), rle.area(visible), box, visible_box, pairs)


def _neighbours(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (nearer, farther) of one image whose boxes overlap, sorted by the farther one."""
    first = np.searchsorted(image, image)
    before = np.arange(len(image)) - first
    farther = np.repeat(np.arange(len(image)), before)
    nearer = np.arange(len(farther)) - np.repeat(np.cumsum(before) - before - first, before)
    low, high = box[:, :2], box[:, :2] + box[:, 2:]
    meet = (low[nearer] < high[farther]).all(axis=1) & (low[farther] < high[nearer]).all(axis=1)
    return nearer[meet], farther[meet]


def _invisible(masks: _Masks, blobs: _Blobs) -> Iterator[tuple[int, str]]:
    """The hidden part of each occluded object."""
    rows = np.flatnonzero(masks.occluded)
    amodal, visible = ([m[i] for i in rows] for m in (masks.amodal, masks.visible))
    hidden = rle.difference(amodal, visible)
    return zip(rows.tolist(), hidden, strict=True)


def _clusters(blobs: _Blobs, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KINS 2020's two numbers: the cluster within the image, and the rank within the cluster.

    Ranks begin at 1 and grow by one with every object in front; 0 overlaps nobody.
    """
    n = len(blobs)
    graph = sparse.coo_array((np.ones(len(pairs)), pairs.T), shape=(n, n))
    _, component = sparse.csgraph.connected_components(graph, directed=False)
    first = np.unique(component, return_index=True)[1]  # component, in the order of its nearest
    opened = np.zeros(n, np.int64)
    opened[first] = 1
    number = np.cumsum(opened)[first][component]
    before = np.concatenate([[0], np.cumsum(opened)])[np.searchsorted(blobs.image, blobs.image)]
    rank = np.zeros(n, np.int64)
    rank[pairs.reshape(-1)] = 1
    for nearer, farther in pairs:  # sorted by the farther: the nearer one's rank is final
        rank[farther] = max(rank[farther], rank[nearer] + 1)
    return number - before, rank


def _outlines(masks: _Masks, blobs: _Blobs) -> dict[int, list[list[int]]]:
    """Polygons along the pixel edges of each occluded object's visible mask.

    They cover exactly the pixels of the mask. A polygon ends where a column has more stretches of
    pixels than the one before, or a stretch touches none: several polygons then tile the mask.
    """
    rows = np.flatnonzero(masks.occluded)
    outlines: dict[int, list[list[int]]] = {i: [] for i in rows.tolist()}
    owner, start, stop = rle.intervals([masks.visible[i] for i in rows])
    height = blobs.sizes[rows][owner, 0]
    # Cut stretches that run over the end of a column.
    columns = (stop - 1) // height - start // height + 1
    of = np.repeat(np.arange(len(owner)), columns)
    x = (
        (start // height)[of]
        + np.arange(len(of))
        - np.repeat(np.cumsum(columns) - columns, columns)
    )
    owner, height = owner[of], height[of]
    top = np.maximum(start[of] - x * height, 0)
    bottom = np.minimum(stop[of] - x * height, height)

    key = owner * (int(blobs.sizes[:, 1].max(initial=0)) + 1) + x
    _, place, stretches = np.unique(key, return_index=True, return_counts=True)
    nth = np.arange(len(key)) - np.repeat(place, stretches)
    stretches = np.repeat(stretches, stretches)
    order = np.lexsort((x, nth, owner))
    owner, x, top, bottom = owner[order], x[order], top[order], bottom[order]
    nth, stretches = nth[order], stretches[order]
    joined = (owner[1:] == owner[:-1]) & (nth[1:] == nth[:-1]) & (x[1:] == x[:-1] + 1)
    joined &= (stretches[1:] == stretches[:-1]) & (top[1:] < bottom[:-1]) & (top[:-1] < bottom[1:])
    begins = np.concatenate([[0], np.flatnonzero(~joined) + 1]) if len(owner) else []
    for a, b in pairwise([*begins, len(owner)]):
        upper, lower = _edge(x[a:b], top[a:b]), _edge(x[a:b], bottom[a:b])
        polygon = np.concatenate([upper, lower[::-1]])
        outlines[int(rows[owner[a]])].append(polygon.reshape(-1).tolist())
    return outlines


def _edge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Corners [K, 2] of a line of steps: height ``y`` over each of the columns ``x``."""
    change = np.flatnonzero(np.diff(y)) + 1
    at = np.concatenate([[x[0]], np.repeat(x[change], 2), [x[-1] + 1]])
    height = np.repeat(y[np.concatenate([[0], change])], 2)
    return np.stack([at, height], axis=1)


def _constraints(blobs: _Blobs, pairs: np.ndarray) -> list[str]:
    """COCOA's pairs of an image, "1-2,1-5": the first one is in front; they count from 1."""
    written: list[list[str]] = [[] for _ in range(int(blobs.image.max(initial=-1)) + 1)]
    rank = blobs.rank
    for nearer, farther in pairs[np.lexsort(pairs.T[::-1])]:
        written[blobs.image[nearer]].append(f"{rank[nearer] + 1}-{rank[farther] + 1}")
    return [",".join(pairs) for pairs in written]


def _faults(random: np.random.Generator, masks: _Masks, blobs: _Blobs) -> np.ndarray:
    """The fault of each object, or None."""
    faults = np.full(len(blobs), None, dtype=object)
    draw = random.random(len(blobs))
    # Room for a strip of pixels beside the box, which must be a small share of what is visible.
    fits = (masks.visible_area >= 200) & (masks.box[:, 0] + masks.box[:, 2] < blobs.sizes[:, 1])
    low = 0.0
    for name, share, possible in (
        ("crowd", CROWD, True),
        ("stray_part", STRAY_PART, True),
        ("no_polygon", NO_POLYGON, True),
        ("visible_outside", VISIBLE_OUTSIDE, fits),
    ):
        faults[(draw >= low) & (draw < low + share) & possible] = name
        low += share
    return faults


def _strip(masks: _Masks, i: int) -> tuple[int, int, int, int]:
    """A box one pixel wide to the right of the amodal one, at most 5 % of what is visible."""
    x, y, width, height = masks.box[i].astype(int).tolist()
    return x + width, y, 1, min(height, int(masks.visible_area[i]) // 20)


def _with_strip(masks: _Masks, blobs: _Blobs, i: int) -> tuple[str, np.ndarray]:
    """Visible mask and box with the strip."""
    drawn = coco_mask.frPyObjects(
        np.array([_strip(masks, i)], np.float64), *blobs.sizes[i].tolist()
    )
    joined = coco_mask.merge([*rle.as_coco([masks.visible[i]], blobs.sizes[i]), *drawn])
    return joined["counts"].decode("ascii"), coco_mask.toBbox(joined)


def _polygons(blobs: _Blobs, i: int, fault: str | None) -> list[list[float]]:
    """The object's polygons as KINS has them, with the fault."""
    written = _written(blobs.polygon(i))
    if fault == "no_polygon":
        return [written[:4]]
    return [written, written[:4]] if fault == "stray_part" else [written]


def _written(polygon: np.ndarray) -> list[float]:
    whole = polygon.astype(int)
    return (whole if np.array_equal(whole, polygon) else polygon).tolist()


def _shuffled_ids(random: np.random.Generator, blobs: _Blobs, used: int) -> np.ndarray:
    """Ids from ``used`` + 1 on that say nothing about who is nearer within an image."""
    order = np.lexsort((random.random(len(blobs)), blobs.image))
    ids = np.empty(len(order), np.int64)
    ids[order] = used + 1 + np.arange(len(order))
    return ids


def _images(canvases: np.ndarray, name: str, first: int = 0) -> list[dict]:
    return [
        {"id": i, "file_name": name.format(i), "height": height, "width": width}
        for i, (height, width) in enumerate(canvases.tolist(), first)
    ]


def _write_head(file: TextIO, images: list[dict], categories: dict[int, str]) -> None:
    """Everything before the records, which then are written batch by batch."""
    listed = [{"id": i, "name": categories[i]} for i in sorted(categories)]
    head = {"info": {"description": "made up"}, "images": images, "categories": listed}
    file.write(json.dumps(head)[:-1] + ', "annotations": [')


def _write_records(file: TextIO, records: list[dict], batch: _Batch) -> None:
    file.write((", " if batch.first else "") + json.dumps(records)[1:-1])


def _count(counts: Counter, batch: _Batch, masks: _Masks, faults: np.ndarray | None = None) -> None:
    drawn = np.ones(len(masks.area), bool)
    if faults is not None:
        drawn = faults != "no_polygon"
        counts.update(Counter(faults[faults != None].tolist()))  # noqa: E711
    counts.update(
        images=len(batch.per_image),
        objects=len(masks.area),
        occluded=masks.occluded.sum(),
        hidden=(masks.visible_area == 0).sum(),
        order_pairs=drawn[masks.pairs].all(axis=1).sum(),
    )


def make(data_set: str, folder: Path, scale: float = 1.0) -> dict[str, tuple[MadeUp, ...]]:
    """The files of each split of a data set, under their published names.

    Args:
        data_set: "kins_2019", "kins_2020", "cocoa" or "d2sa".
        folder: where the files lie; those made before with the same parameters are kept.
        scale: share of the published numbers of images and objects.
    """

    def made(write: Callable[..., MadeUp], file: str, published: str, **more: int) -> MadeUp:
        images, objects = (max(round(scale * n), 1) for n in SIZES[published])
        return write(Path(folder) / file, images, max(objects, images), **more)

    if data_set == "kins_2019":
        return {
            "train": (made(kins_2019, "instances_train.json", "kins_train"),),
            "val": (made(kins_2019, "instances_val.json", "kins_val"),),
        }
    if data_set == "kins_2020":
        return {
            "train": (made(kins_2020, "update_train_2020.json", "kins_train"),),
            "val": (made(kins_2020, "update_test_2020.json", "kins_val"),),
        }
    if data_set == "cocoa":
        return {
            "train": (made(cocoa, "COCO_amodal_train2014.json", "cocoa_train"),),
            "val": (made(cocoa, "COCO_amodal_val2014.json", "cocoa_val"),),
        }
    if data_set == "d2sa":
        more = {"first_id": 100_001, "padded": True}
        return {
            "train": (
                made(d2sa, "D2S_amodal_training_rot0.json", "d2sa_rot0"),
                made(d2sa, "D2S_amodal_augmented.json", "d2sa_augmented", **more),
            ),
            "val": (made(d2sa, "D2S_amodal_validation.json", "d2sa_val"),),
        }
    raise ValueError(f"no data set {data_set!r}: {', '.join(DATA_SETS)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="of the published sizes")
    parser.add_argument("--data-sets", nargs="+", choices=DATA_SETS, default=DATA_SETS)
    arguments = parser.parse_args()
    for data_set in arguments.data_sets:
        start = time.perf_counter()
        for files in make(data_set, arguments.folder, arguments.scale).values():
            print(*files, sep="\n")
        print(f"{data_set}: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
