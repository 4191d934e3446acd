"""Annotation files in the published formats, written by hand: what the readers must give back.

Follows the documentation of the formats and uses pycocotools for masks; of the package only the
table that is compared.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco_mask

from amodal_pipeline.annotations import AmodalAnnotations

KINS_2019_CATEGORIES = {
    1: "cyclist",
    2: "pedestrian",
    4: "car",
    5: "tram",
    6: "truck",
    7: "van",
    8: "misc",
}
KINS_2020_CATEGORIES = {**KINS_2019_CATEGORIES, 3: "rider"}
D2SA_CATEGORIES = {i: f"product {i}" for i in range(1, 61)}
KINS_SIZES = ((120, 400), (125, 414), (60, 90))
D2SA_SIZES = ((1440, 1920), (1534, 1920))
SQUARE = [4, 4, 14, 4, 14, 14, 4, 14]

Polygon = list[float]  # x1, y1, x2, y2, … in pixels


@dataclass(frozen=True)
class Thing:
    """An object as its annotator drew it, and the masks [H, W] that it must be read as.

    ``rank`` and ``cluster`` are what the file says of its place in the order.
    """

    id: int
    image_id: int
    category_id: int
    amodal: np.ndarray
    visible: np.ndarray
    amodal_polygons: list[Polygon] = field(default_factory=list)
    visible_polygons: list[Polygon] = field(default_factory=list)
    rank: int = 0
    cluster: int = 0


@dataclass(frozen=True)
class Scene:
    """Images, id: (file name, (height, width)), and their objects in the file's order."""

    images: dict[int, tuple[str, tuple[int, int]]]
    things: list[Thing]
    categories: dict[int, str]

    @property
    def sizes(self) -> dict[int, tuple[int, int]]:
        return {i: size for i, (_, size) in self.images.items()}


def raster(polygons: list[Polygon], size: tuple[int, int]) -> np.ndarray:
    """The union of polygons, uint8 [H, W]."""
    drawn = coco_mask.frPyObjects([list(map(float, p)) for p in polygons], *size)
    return coco_mask.decode(coco_mask.merge(drawn))


def run_lengths(mask: np.ndarray) -> dict:
    """A mask [H, W] as COCO's files have it."""
    coded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": coded["counts"].decode("ascii")}


def box(mask: np.ndarray) -> list[int]:
    """x, y, width, height of a mask that is not empty."""
    y, x = np.nonzero(mask)
    return [int(v) for v in (x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1)]


def street(seed: int, images: int = 4, categories: dict[int, str] | None = None) -> Scene:
    """Drawn objects, as KINS has them: polygons of several parts, some beyond the image.

    Ids are not in order, file names are not image ids. Of an image's objects the first is nearest;
    ``visible`` is exact, ``visible_polygons`` are another drawing by hand: some of them are cut off
    at one side, and some reach a little beyond the amodal mask. Clusters and ranks as in the file
    of 2020.
    """
    draw = np.random.default_rng(seed)
    categories = categories or KINS_2020_CATEGORIES
    ids = iter((draw.permutation(1000) + 1).tolist())
    scene = Scene({}, [], dict(sorted(categories.items(), key=lambda _: draw.random())))
    for number in draw.choice(7481, images, replace=False).tolist():
        size = KINS_SIZES[draw.integers(len(KINS_SIZES))]
        scene.images[next(ids)] = (f"training/image_2/{number:06d}.png", size)
        image_id = list(scene.images)[-1]
        covered = np.zeros(size, bool)
        group = []
        for _ in range(draw.integers(1, 7)):
            polygons = [_outline(draw, size) for _ in range(draw.integers(1, 3))]
            amodal = raster(polygons, size)
            if not amodal.any():
                continue
            group.append(
                Thing(
                    id=next(ids),
                    image_id=image_id,
                    category_id=int(draw.choice(list(categories))),
                    amodal=amodal,
                    visible=(amodal > 0) & ~covered,
                    amodal_polygons=polygons,
                    visible_polygons=_redrawn(draw, polygons, amodal),
                )
            )
            covered |= amodal > 0
        scene.things.extend(_ranked(group, draw))
    draw.shuffle(scene.things)
    return scene


def turntable(seed: int, images: int = 2) -> Scene:
    """Products as D2SA has them: whole canvases of its two sizes, exact masks, ranks from 0."""
    draw = np.random.default_rng(seed)
    ids = iter((draw.permutation(1000) + 1).tolist())
    scene = Scene({}, [], D2SA_CATEGORIES)
    for i in range(images):
        height, width = size = D2SA_SIZES[i % 2]
        image_id = next(ids)
        scene.images[image_id] = (f"D2S_{draw.integers(10**6):06d}.jpg", size)
        covered = np.zeros(size, bool)
        for rank in range(draw.integers(2, 6)):
            y, x = np.ogrid[:height, :width]
            cy, cx = draw.uniform(0.2, 0.8, 2) * size
            ry, rx = draw.uniform(0.08, 0.3, 2) * height
            amodal = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
            scene.things.append(
                Thing(
                    id=next(ids),
                    image_id=image_id,
                    category_id=int(draw.integers(1, 61)),
                    amodal=amodal,
                    visible=amodal & ~covered,
                    # Objects side by side on the turntable may share a rank.
                    rank=max(0, rank - int(draw.integers(2))),
                )
            )
            covered |= amodal
    return scene


def write(path: Path, scene: Scene, records: list[dict]) -> Path:
    """A COCO file of records; whatever images and categories need stands around them."""
    document = {
        "info": {"description": "made up"},
        "licenses": [{"id": 1, "name": "none", "url": ""}],
        "images": [
            {"id": i, "file_name": name, "height": h, "width": w, "license": 1}
            for i, (name, (h, w)) in scene.images.items()
        ],
        "annotations": records,
        "categories": [
            {"id": i, "name": name, "supercategory": "object"}
            for i, name in scene.categories.items()
        ],
    }
    path.write_text(json.dumps(document))
    return path


def kins_2019_record(thing: Thing) -> dict:
    """Boxes and areas are wrong on purpose: they are in the file and must not be believed."""
    return {
        "id": thing.id,
        "image_id": thing.image_id,
        "category_id": thing.category_id,
        "iscrowd": 1,
        "area": 1,
        "bbox": [0, 0, 1, 1],
        "segmentation": thing.amodal_polygons,
        "inmodal_seg": run_lengths(thing.visible),
        "inmodal_bbox": [0, 0, 1, 1],
    }


def kins_2020_record(thing: Thing) -> dict:
    return {
        "id": thing.id,
        "image_id": thing.image_id,
        "category_id": thing.category_id,
        "iscrowd": 0,
        "a_segm": thing.amodal_polygons,
        "a_bbox": [0, 0, 1, 1],
        "a_area": 1,
        "i_segm": thing.visible_polygons,
        "i_bbox": [0, 0, 1, 1],
        "i_area": 1,
        "oco_id": thing.cluster,
        "ico_id": thing.rank,
    }


def d2sa_record(thing: Thing) -> dict:
    """An object that is not occluded has neither of the two partial masks."""
    hidden = thing.amodal & ~thing.visible
    occluded = {"visible_mask": run_lengths(thing.visible), "invisible_mask": run_lengths(hidden)}
    rate = float(hidden.sum() / thing.amodal.sum())
    return {
        "id": thing.id,
        "image_id": thing.image_id,
        "category_id": thing.category_id,
        "iscrowd": 0,
        "area": int(thing.amodal.sum()),
        "bbox": box(thing.amodal),
        "segmentation": run_lengths(thing.amodal),
        "occlude_rate": rate,
        "occl_depth": thing.rank,
        "amodal_region": {
            "name": D2SA_CATEGORIES[thing.category_id],
            "area": int(thing.amodal.sum()),
            "isStuff": 0,
            "bbox": box(thing.amodal),
            "order": thing.rank + 1,
        },
        "amodal_base": {
            "url": "",
            "image_id": thing.image_id,
            "size": 1,
            "author": "nobody",
            "depth_constraint": "",
        },
        **(occluded if hidden.any() else {}),
    }


def flat_record(number: int, **changes) -> dict:
    """A record of a user's own file: a square that nothing hides."""
    masks = {"segmentation": [SQUARE], "visible_mask": [SQUARE]}
    return {"id": number, "image_id": 7, "category_id": 3} | masks | changes


def flat_text(records: list[dict], size: tuple[int, int] = (20, 30)) -> str:
    """A file of records about image 7, of one category."""
    images = [{"id": 7, "file_name": "a.jpg", "height": size[0], "width": size[1]}]
    categories = [{"id": 3, "name": "cup"}]
    return json.dumps({"images": images, "categories": categories, "annotations": records})


def order_of(things: list[Thing], first_rank: int) -> dict[tuple[int, int], int]:
    """(occluder, occludee): shared pixels, of overlapping things of an image and a cluster."""
    pairs = {}
    for front in things:
        for back in things:
            if (
                front.image_id == back.image_id
                and front.cluster == back.cluster
                and first_rank <= front.rank < back.rank
                and (shared := int(((front.amodal > 0) & (back.amodal > 0)).sum()))
            ):
                pairs[front.id, back.id] = shared
    return pairs


def check_masks(
    table: AmodalAnnotations,
    expected: dict[int, tuple[np.ndarray, np.ndarray]],
    sizes: dict[int, tuple[int, int]],
) -> None:
    """The table has these objects, id: (amodal, visible), and what follows from their masks."""
    rows = table.instances
    assert sorted(rows["instance_id"]) == sorted(expected)
    for row in rows.itertuples():
        for name, mask in zip(("amodal", "visible"), expected[row.instance_id], strict=True):
            counts = getattr(row, f"{name}_rle").encode("ascii")
            found = coco_mask.decode({"size": list(sizes[row.image_id]), "counts": counts})
            np.testing.assert_array_equal(found > 0, mask > 0)
            found = getattr(row, f"{name}_box")
            assert list(found) == box(mask) if mask.any() else pd.isna(found)
        amodal, visible = (int((mask > 0).sum()) for mask in expected[row.instance_id])
        assert row.occlusion_rate == pytest.approx(1 - visible / amodal, abs=1e-6)


def check_rest(table: AmodalAnnotations, scene: Scene) -> None:
    """Images, categories, and to which of them each object belongs."""
    found = {r.image_id: (r.file_name, (r.height, r.width)) for r in table.images.itertuples()}
    assert list(found.items()) == list(scene.images.items())
    assert [(c.id, c.name) for c in table.metadata.categories] == list(scene.categories.items())
    of = {t.id: (t.image_id, t.category_id) for t in scene.things}
    for row in table.instances.itertuples():
        assert of[row.instance_id] == (row.image_id, row.category_id)


def order_in(table: AmodalAnnotations) -> dict[tuple[int, int], int]:
    """(occluder, occludee): shared pixels; all of them the file's own statement."""
    assert not table.order["inferred"].any()
    return {(r.occluder_id, r.occludee_id): r.area for r in table.order.itertuples()}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder."""
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


def _outline(draw: np.random.Generator, size: tuple[int, int]) -> Polygon:
    """A blob with corners between pixels, which may reach beyond the image."""
    height, width = size
    angles = np.sort(draw.uniform(0, 2 * np.pi, draw.integers(3, 15)))
    radius = draw.uniform(0.1, 0.5) * height * draw.uniform(0.6, 1, len(angles))
    x = draw.uniform(0, width) + 1.5 * radius * np.cos(angles)
    y = draw.uniform(0.1, 0.9) * height + radius * np.sin(angles)
    return np.stack([x, y], axis=1).round(2).reshape(-1).tolist()


def _redrawn(
    draw: np.random.Generator, polygons: list[Polygon], amodal: np.ndarray
) -> list[Polygon]:
    """Polygons a little off, and cut at a vertical line through the mask."""
    left, _, width, _ = box(amodal)
    cut = left + draw.uniform(0.2, 1.5) * width
    redrawn = []
    for polygon in polygons:
        points = np.reshape(polygon, (-1, 2)) + draw.normal(0, draw.choice([0, 0.6]), 2)
        points[:, 0] = np.minimum(points[:, 0], cut)
        redrawn.append(points.round(2).reshape(-1).tolist())
    return redrawn


def _ranked(things: list[Thing], draw: np.random.Generator) -> list[Thing]:
    """Clusters of what overlaps, directly or through others; ranks from 1 within, 0 for alone."""
    clusters: list[list[int]] = []
    for i, thing in enumerate(things):
        met = [c for c in clusters if any((things[j].amodal & thing.amodal).any() for j in c)]
        clusters = [c for c in clusters if c not in met] + [[*(j for c in met for j in c), i]]
    ranked = list(things)
    for number, cluster in enumerate(clusters, start=1):
        for rank, i in enumerate(sorted(cluster), start=1):
            # Now and then two objects of a cluster have the same rank.
            rank = max(1, rank - int(draw.random() < 0.2)) if len(cluster) > 1 else 0
            ranked[i] = replace(things[i], cluster=number, rank=rank)
    return ranked
