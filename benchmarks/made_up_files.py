"""A KINS file of 2019 of any size, made up from a seed: what the readers are timed on.

Objects are blobs with as many polygon points as annotators click, most of them behind a neighbour.
pycocotools draws them; a visible mask is the amodal one without what is nearer. Small known shares
have the faults of published files. Nothing stems from a published file.

    python benchmarks/made_up_files.py <file> [--images 7474 --objects 95311]
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from amodal_pipeline.annotations import rle

HEIGHT, WIDTH = 375, 1242
CATEGORIES = {1: "cyclist", 2: "pedestrian", 4: "car", 5: "tram", 6: "truck", 7: "van", 8: "misc"}
SIZES = {"train": (7_474, 95_311), "val": (7_517, 95_315)}  # images and objects of KINS
# Shares of the records that have a fault: a stray polygon of two points beside the good one; only
# such a polygon, so that no mask can be drawn; visible pixels beside the amodal mask.
STRAY, UNDRAWABLE, OUTSIDE = 1e-3, 2e-4, 5e-3


@dataclass(frozen=True)
class MadeUp:
    """A file that was written, and what is in it.

    ``occluded`` objects have hidden pixels; ``faulty`` ones have a fault that a reader repairs,
    ``undrawable`` ones one that it rejects. No object has two faults.
    """

    path: Path
    images: int
    objects: int
    occluded: int
    faulty: int
    undrawable: int


def write(path: Path, images: int, objects: int, seed: int = 0) -> MadeUp:
    """Write a file of so many images and objects (at least one per image), and return its counts.

    The same arguments give the same bytes.
    """
    draw = np.random.default_rng([seed, images])
    weight = draw.gamma(5.0, size=images)  # objects are spread unevenly, as in photographs
    per_image = 1 + draw.multinomial(max(objects - images, 0), weight / weight.sum())
    listed = [
        {"id": i, "file_name": f"{i:06d}.png", "height": HEIGHT, "width": WIDTH}
        for i in range(images)
    ]
    categories = [{"id": i, "name": name} for i, name in CATEGORIES.items()]
    counts = {"occluded": 0, "faulty": 0, "undrawable": 0}
    last = 0
    with path.open("w") as file:
        head = json.dumps({"images": listed, "categories": categories})
        file.write(head[:-1] + ', "annotations": [')
        for image_id, count in enumerate(per_image):
            records = _image(draw, int(count), counts)
            ids = last + 1 + draw.permutation(int(count))  # ids do not tell who is nearer
            for record, number in zip(records, ids.tolist(), strict=True):
                record |= {"id": number, "image_id": image_id}
            file.write((", " if image_id else "") + json.dumps(records)[1:-1])
            last += int(count)
        file.write("]}")
    return MadeUp(path, images, last, **counts)


def _image(draw: np.random.Generator, count: int, counts: dict[str, int]) -> list[dict]:
    """Return the records of an image without their ids, and add to ``counts``."""
    polygons = _street(draw, count)
    drawn = [coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)[0] for polygon in polygons]
    nearer = [coco_mask.merge(drawn[:i]) if i else None for i in range(count)]
    amodal = [mask["counts"].decode() for mask in drawn]
    behind = [mask["counts"].decode() for mask in nearer[1:]]
    visible = [amodal[0], *rle.difference(amodal[1:], behind)]
    areas, seen = rle.area(amodal).tolist(), rle.area(visible).tolist()
    boxes = np.nan_to_num(rle.box(amodal, (HEIGHT, WIDTH))).tolist()
    counts["occluded"] += sum(a != s for a, s in zip(areas, seen, strict=True))
    records = []
    for polygon, text, area, shown, box in zip(polygons, visible, areas, seen, boxes, strict=True):
        parts, fault = [polygon], draw.random()
        if fault < STRAY:
            parts.append(polygon[:4])
            counts["faulty"] += 1
        elif fault < STRAY + UNDRAWABLE:
            parts = [polygon[:4]]
            counts["undrawable"] += 1
        elif fault < STRAY + UNDRAWABLE + OUTSIDE and shown >= 200 and box[0] + box[2] < WIDTH:
            text = _with_strip(text, box, shown // 20)
            counts["faulty"] += 1
        records.append(
            {
                "category_id": int(draw.choice([*CATEGORIES])),
                "iscrowd": 0,
                "area": area,
                "bbox": box,
                "segmentation": parts,
                "inmodal_seg": {"size": [HEIGHT, WIDTH], "counts": text},
                "inmodal_bbox": box,
            }
        )
    return records


def _street(draw: np.random.Generator, count: int) -> list[list[float]]:
    """Return polygons along the horizon of a street, the nearest one first."""
    extent = np.exp(draw.normal((4.1, 3.8), 0.55, (count, 2))).clip(10, (520, 300))
    x = draw.uniform(0, WIDTH, count)
    for i in np.flatnonzero(draw.random(count) < 0.6)[1:]:  # beside the one before
        x[i] = x[i - 1] + draw.uniform(-0.6, 0.6) * extent[i - 1, 0]
    bottom = np.sort(172 + 0.6 * extent[:, 1] + draw.normal(0, 6, count))[::-1]
    polygons = []
    for left, low, (width, height) in zip(x.clip(10, WIDTH - 10), bottom, extent, strict=True):
        corners = int(np.clip(np.exp(draw.normal(3.4, 0.45)), 5, 200))
        angle = np.sort(draw.random(corners)) * 2 * np.pi
        radius = draw.normal(0.9, 0.04, corners)
        points = np.stack([np.cos(angle) * width, np.sin(angle) * height], axis=1) * radius[:, None]
        points = (points / 2 + (left, low - height / 2)).clip(0, (WIDTH, HEIGHT))
        polygons.append(points.round(int(draw.integers(3))).reshape(-1).tolist())
    return polygons


def _with_strip(text: str, box: list[float], pixels: int) -> str:
    """Return a visible mask with some pixels to the right of its object's box."""
    x, y, width, height = box
    strip = np.array([[x + width, y, 1, min(height, pixels)]], np.float64)
    both = [*rle.as_coco([text], (HEIGHT, WIDTH)), *coco_mask.frPyObjects(strip, HEIGHT, WIDTH)]
    return coco_mask.merge(both)["counts"].decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--images", type=int, default=SIZES["train"][0])
    parser.add_argument("--objects", type=int, default=SIZES["train"][1])
    arguments = parser.parse_args()
    print(write(arguments.file, arguments.images, arguments.objects))


if __name__ == "__main__":
    main()
