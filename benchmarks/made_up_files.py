"""Annotation files of the size of the published data sets, in their formats, made up from a seed.

Objects are boxy blobs with as many polygon points as annotators click, many of them behind a
neighbour; all masks are rasterised by pycocotools, visible ones are amodal ones without what is
nearer. Small known shares have the faults that the published files have. Nothing in them stems
from a published file.

    python benchmarks/made_up_files.py <folder> [--scale 0.01]
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.storage import replacing

VERSION = 1  # of the files made: raise it when they change
IMAGES_AT_ONCE = 500  # what is in memory while a file is written

# Shares of records with a fault, as published KINS files have them here and there.
CROWD = 1e-3
STRAY_PART = 1e-3  # a second polygon of fewer than three points beside a good one
NO_POLYGON = 2e-4  # the only polygon has fewer than three points: no mask can be had
VISIBLE_OUTSIDE = 5e-3  # visible pixels just outside the amodal polygon

KINS_CANVAS = (375, 1242)
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


@dataclass(frozen=True)
class MadeUp:
    """A file that was written, and what is in it.

    ``occluded`` objects have hidden pixels, ``hidden`` ones no visible pixel. The others count
    records by their fault; a record has at most one.
    """

    path: str
    images: int
    objects: int
    occluded: int = 0
    hidden: int = 0
    crowd: int = 0
    stray_part: int = 0
    no_polygon: int = 0
    visible_outside: int = 0


@dataclass
class _Tally:
    """Counts while a file is written."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, **counts: int) -> None:
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + int(count)


@dataclass(frozen=True)
class _Blobs:
    """N objects of some images, sorted by image and there from the nearest to the farthest.

    Polygon i has the points ``points[starts[i]:starts[i + 1]]`` (x, y in pixels, within the
    canvas). ``image`` is the position of the image among those asked for, ``sizes`` [N, 2] the
    canvas (height, width).
    """

    image: np.ndarray
    sizes: np.ndarray
    points: np.ndarray
    starts: np.ndarray

    def polygon(self, i: int) -> np.ndarray:
        return self.points[self.starts[i] : self.starts[i + 1]].reshape(-1)


@dataclass(frozen=True)
class _Masks:
    """Masks of blobs: compressed strings and areas [N]; pairs (nearer, farther) that overlap."""

    amodal: list[str]
    visible: list[str]
    area: np.ndarray
    visible_area: np.ndarray
    box: np.ndarray
    visible_box: np.ndarray
    pairs: np.ndarray


def kins_2019(path: Path, images: int, objects: int, seed: int = 0) -> MadeUp:
    """KINS as first published: amodal polygons and ``inmodal_seg`` in run lengths."""
    return _kept_or_made(path, _write_kins_2019, images=images, objects=objects, seed=seed)


def _write_kins_2019(path: Path, images: int, objects: int, seed: int) -> dict[str, int]:
    tally = _Tally()
    with path.open("w") as file:
        _write_head(file, _kins_images(images), KINS_2019)
        for first, per_image, random in _batches(images, objects, seed):
            blobs = _street(random, per_image)
            masks = _masks(blobs)
            faults = _faults(random, masks, blobs, tally)
            categories = _categories(random, KINS_2019, len(blobs.image))
            ids = _shuffled_ids(random, blobs, tally.counts.get("objects", 0))
            records = []
            for i in np.argsort(ids):
                height, width = blobs.sizes[i].tolist()
                visible, visible_box = masks.visible[i], masks.visible_box[i]
                if faults[i] == "visible_outside":
                    visible, visible_box = _with_strip(masks, blobs, i)
                records.append(
                    {
                        "id": int(ids[i]),
                        "image_id": int(first + blobs.image[i]),
                        "category_id": int(categories[i]),
                        "iscrowd": int(faults[i] == "crowd"),
                        "area": int(masks.area[i]),
                        "bbox": masks.box[i].tolist(),
                        "segmentation": _written_polygons(random, blobs.polygon(i), faults[i]),
                        "inmodal_seg": {"size": [height, width], "counts": visible},
                        "inmodal_bbox": visible_box.tolist(),
                    }
                )
            _write_records(file, records, not first)
            _count(tally, masks, per_image)
        file.write("]}")
    return tally.counts


def _kept_or_made(path: Path, write: Callable[..., dict[str, int]], **parameters: int) -> MadeUp:
    """The file at ``path``, made unless it was made with the same parameters before."""
    note = path.with_name(f"{path.stem}.made_up")
    wanted = {"version": VERSION, "maker": write.__name__, **parameters}
    if path.exists() and note.exists():
        said = json.loads(note.read_text())
        if said["parameters"] == wanted and said["bytes"] == path.stat().st_size:
            return MadeUp(path=str(path), **said["counts"])
    with replacing(path) as temporary:
        made = MadeUp(path=str(path), **write(temporary, **parameters))
    counts = {name: count for name, count in asdict(made).items() if name != "path"}
    said = {"parameters": wanted, "bytes": path.stat().st_size, "counts": counts}
    with replacing(note) as temporary:
        temporary.write_text(json.dumps(said))
    return made


def _batches(
    images: int, objects: int, seed: int
) -> Iterator[tuple[int, np.ndarray, np.random.Generator]]:
    """First image id, objects per image and random numbers of each batch of images.

    Every image has an object; the others are spread unevenly, as in photographs.
    """
    random = np.random.default_rng([seed, images])
    weight = random.gamma(5.0, size=images)
    per_image = 1 + random.multinomial(max(objects - images, 0), weight / weight.sum())
    for first in range(0, images, IMAGES_AT_ONCE):
        batch = per_image[first : first + IMAGES_AT_ONCE]
        yield first, batch, np.random.default_rng([seed, images, first + 1])


def _street(random: np.random.Generator, per_image: np.ndarray) -> _Blobs:
    """Cars and people along the horizon of a street: the lower in the image, the nearer."""
    image = np.repeat(np.arange(len(per_image)), per_image)
    n = len(image)
    sizes = np.broadcast_to(np.array(KINS_CANVAS), (n, 2))
    scale = random.normal(size=n)
    person = random.random(n) < 0.2
    extent = np.empty((n, 2))
    extent[:, 0] = np.exp(np.where(person, 3.3, 4.25) + 0.65 * scale + random.normal(0, 0.15, n))
    extent[:, 1] = np.exp(np.where(person, 4.2, 3.7) + 0.65 * scale + random.normal(0, 0.15, n))
    extent = np.clip(extent, (8, 10), (520, 300))
    centre = np.empty((n, 2))
    centre[:, 0] = random.uniform(-10, KINS_CANVAS[1] + 10, n)
    centre[:, 1] = 172 + 0.35 * extent[:, 1] + random.normal(0, 6, n)
    _gather(random, image, centre, extent, sizes[:, 1], share=0.7)
    nearness = centre[:, 1] + extent[:, 1] / 2
    order = np.lexsort((-nearness, image))
    sizes, centre, extent = sizes[order], centre[order], extent[order]
    _uncover(random, image, centre, extent, sizes[:, 1])
    return _blobs(random, image, sizes, centre, extent, (30, 200))


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
    common = random.uniform(0.15, 0.75, len(moved)) * np.minimum(
        extent[moved, 0], extent[moved - 1, 0]
    )
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
) -> _Blobs:
    """Irregular, boxy outlines around ``centre`` [N, 2], ``extent`` [N, 2] wide and high (pixels).

    Objects come sorted by image and there from the nearest to the farthest.

    An outline is seen from its centre in one direction at a time, so it does not cross itself.
    The number of points is log-normal with the median and the maximum in ``vertices``.
    """
    n = len(image)
    # Large objects are drawn with more points; tiny ones have no room for many.
    size = np.log(extent.mean(axis=1))
    count = np.exp(
        np.log(vertices[0]) + 0.35 * (size - np.median(size)) + random.normal(0, 0.45, n)
    )
    count = np.clip(np.minimum(count, extent.sum(axis=1) / 1.5), 5, vertices[1]).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(count)])
    owner = np.repeat(np.arange(n), count)

    steps = random.gamma(4.0, size=starts[-1])
    total = np.cumsum(steps)
    before = np.concatenate([[0], total])[starts]
    angle = 2 * np.pi * (total - before[owner]) / (before[1:] - before[:-1])[owner]
    cosine, sine = np.cos(angle), np.sin(angle)
    wave, phase = random.integers(2, 6, n)[owner], random.uniform(0, 2 * np.pi, n)[owner]
    radius = (np.abs(cosine) ** 3 + np.abs(sine) ** 3) ** (-1 / 3)
    radius *= 0.9 + 0.1 * np.sin(wave * angle + phase) + random.normal(0, 0.02, len(angle))
    points = centre[owner] + np.stack([cosine, sine], axis=1) * (
        radius[:, None] * extent[owner] / 2
    )
    points = np.clip(points, 0, sizes[owner][:, ::-1])
    return _Blobs(image, sizes, points, starts)


def _masks(blobs: _Blobs) -> _Masks:
    n = len(blobs.image)
    amodal = []
    for i in range(n):
        height, width = blobs.sizes[i].tolist()
        drawn = coco_mask.frPyObjects([blobs.polygon(i)], height, width)
        amodal.append(drawn[0]["counts"].decode("ascii"))
    box = rle.box(amodal, blobs.sizes)
    area = rle.area(amodal)

    nearer, farther = _neighbours(blobs.image, box)
    shared = rle.intersection(
        [amodal[i] for i in nearer], [amodal[i] for i in farther], blobs.sizes[nearer]
    )
    overlap = rle.area(shared) > 0
    pairs = np.stack([nearer[overlap], farther[overlap]], axis=1)
    visible = list(amodal)
    behind, begins = np.unique(pairs[:, 1], return_index=True)
    if len(behind):
        covers = [
            coco_mask.merge(rle.as_coco([amodal[i] for i in front], blobs.sizes[front]))["counts"]
            for front in np.split(pairs[:, 0], begins[1:])
        ]
        left = rle.difference(
            [amodal[i] for i in behind], [c.decode("ascii") for c in covers], blobs.sizes[behind]
        )
        for i, text in zip(behind, left, strict=True):
            visible[i] = text
    visible_box = np.nan_to_num(rle.box(visible, blobs.sizes))
    return _Masks(amodal, visible, area, rle.area(visible), box, visible_box, pairs)


def _neighbours(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (nearer, farther) of one image whose boxes overlap, sorted by the farther one."""
    first = np.searchsorted(image, image)
    before = np.arange(len(image)) - first
    farther = np.repeat(np.arange(len(image)), before)
    offset = np.arange(len(farther)) - np.repeat(np.cumsum(before) - before, before)
    nearer = first[farther] + offset
    low, high = box[:, :2], box[:, :2] + box[:, 2:]
    meet = (low[nearer] < high[farther]).all(axis=1) & (low[farther] < high[nearer]).all(axis=1)
    return nearer[meet], farther[meet]


def _faults(random: np.random.Generator, masks: _Masks, blobs: _Blobs, tally: _Tally) -> np.ndarray:
    """The fault of each object, or None."""
    faults = np.full(len(masks.area), None, dtype=object)
    draw = random.random(len(faults))
    # Room for a strip of pixels beside the box, which must be a small share of what is visible.
    fits = (masks.visible_area >= 200) & (masks.box[:, 0] + masks.box[:, 2] < blobs.sizes[:, 1])
    low = 0.0
    for name, share, possible in (
        ("crowd", CROWD, True),
        ("stray_part", STRAY_PART, True),
        ("no_polygon", NO_POLYGON, True),
        ("visible_outside", VISIBLE_OUTSIDE, fits),
    ):
        chosen = (draw >= low) & (draw < low + share) & possible
        faults[chosen] = name
        tally.add(**{name: chosen.sum()})
        low += share
    return faults


def _with_strip(masks: _Masks, blobs: _Blobs, i: int) -> tuple[str, np.ndarray]:
    """Visible mask and box with a strip, a pixel wide, to the right of the amodal box.

    The strip is at most 5 % of the mask.
    """
    x, y, width, height = masks.box[i].tolist()
    strip = np.array([[x + width, y, 1, min(height, masks.visible_area[i] // 20)]], np.float64)
    drawn = coco_mask.frPyObjects(strip, *blobs.sizes[i].tolist())
    joined = coco_mask.merge([*rle.as_coco([masks.visible[i]], blobs.sizes[i]), *drawn])
    return joined["counts"].decode("ascii"), coco_mask.toBbox(joined)


def _written_polygons(
    random: np.random.Generator, polygon: np.ndarray, fault: str | None
) -> list[list[float]]:
    """The polygon with 0, 1 or 2 decimals, as annotation tools export them."""
    decimals = int(random.integers(3))
    written = (np.rint(polygon).astype(int) if decimals == 0 else polygon.round(decimals)).tolist()
    if fault == "no_polygon":
        return [written[:4]]
    return [written, written[:4]] if fault == "stray_part" else [written]


def _categories(random: np.random.Generator, names: dict[int, str], n: int) -> np.ndarray:
    ids = sorted(names)
    shares = np.array([KINS_SHARES[i] for i in ids])
    return random.choice(ids, n, p=shares / shares.sum())


def _shuffled_ids(random: np.random.Generator, blobs: _Blobs, used: int) -> np.ndarray:
    """Ids from ``used`` + 1 on that say nothing about who is nearer within an image."""
    order = np.lexsort((random.random(len(blobs.image)), blobs.image))
    ids = np.empty(len(order), np.int64)
    ids[order] = used + 1 + np.arange(len(order))
    return ids


def _kins_images(images: int) -> Iterable[dict]:
    height, width = KINS_CANVAS
    for i in range(images):
        yield {"id": i, "file_name": f"{i:06d}.png", "height": height, "width": width}


def _write_head(file, images: Iterable[dict], categories: dict[int, str]) -> None:
    """Everything before the records, which then are written batch by batch."""
    listed = [{"id": i, "name": categories[i]} for i in sorted(categories)]
    head = {"info": {"description": "made up"}, "images": list(images), "categories": listed}
    file.write(json.dumps(head)[:-1] + ', "annotations": [')


def _write_records(file, records: list[dict], first: bool) -> None:
    file.write(("" if first else ", ") + json.dumps(records)[1:-1])


def _count(tally: _Tally, masks: _Masks, per_image: np.ndarray) -> None:
    tally.add(
        images=len(per_image),
        objects=len(masks.area),
        occluded=(masks.visible_area < masks.area).sum(),
        hidden=(masks.visible_area == 0).sum(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="of the published sizes")
    arguments = parser.parse_args()
    for split, images, objects in (("train", 7474, 95_311), ("val", 7517, 95_315)):
        count = [round(arguments.scale * n) for n in (images, objects)]
        print(kins_2019(arguments.folder / f"instances_{split}.json", *count))


if __name__ == "__main__":
    main()
