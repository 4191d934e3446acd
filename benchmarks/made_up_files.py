"""A KINS file of 2019 of any size, made up from a seed: what the readers are timed on.

Objects are blobs with as many polygon points as annotators click, most of them behind a neighbour.
pycocotools draws them; a visible mask is the amodal one without what is nearer. Nothing stems from
a published file.
"""

import json
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from amodal_pipeline.annotations import rle

HEIGHT, WIDTH = 375, 1242
CATEGORIES = {1: "cyclist", 2: "pedestrian", 4: "car", 5: "tram", 6: "truck", 7: "van", 8: "misc"}
SIZES = {"train": (7_474, 95_311), "val": (7_517, 95_315)}  # images and objects of KINS


def write(path: Path, images: int, objects: int, seed: int = 0) -> None:
    """Write a file of so many images and objects (at least one per image).

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
    last = 0
    with path.open("w") as file:
        head = json.dumps({"images": listed, "categories": categories})
        file.write(head[:-1] + ', "annotations": [')
        for image_id, count in enumerate(per_image):
            records = _image(draw, int(count))
            ids = last + 1 + draw.permutation(int(count))  # ids do not tell who is nearer
            for record, number in zip(records, ids.tolist(), strict=True):
                record |= {"id": number, "image_id": image_id}
            file.write((", " if image_id else "") + json.dumps(records)[1:-1])
            last += int(count)
        file.write("]}")


def _image(draw: np.random.Generator, count: int) -> list[dict]:
    """Return the records of an image without their ids."""
    polygons = _street(draw, count)
    drawn = [coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)[0] for polygon in polygons]
    nearer = [coco_mask.merge(drawn[:i]) if i else None for i in range(count)]
    amodal = [mask["counts"].decode() for mask in drawn]
    behind = [mask["counts"].decode() for mask in nearer[1:]]
    visible = [amodal[0], *rle.difference(amodal[1:], behind)]
    boxes = np.nan_to_num(rle.box(amodal, (HEIGHT, WIDTH))).tolist()
    areas, records = rle.area(amodal).tolist(), []
    for polygon, text, area, box in zip(polygons, visible, areas, boxes, strict=True):
        records.append(
            {
                "category_id": int(draw.choice([*CATEGORIES])),
                "iscrowd": 0,
                "area": area,
                "bbox": box,
                "segmentation": [polygon],
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
