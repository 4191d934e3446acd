"""The plain way to convert published annotation files: what the readers are timed against.

json.load, then pycocotools one annotation at a time, in one process. It gives what the readers
give: amodal and visible masks, boxes, occlusion rates and order pairs, in Parquet. It checks no
more than it must to get to the end, and accounts for nothing.
"""

import json
from collections import defaultdict
from pathlib import Path

import pandas as pd
from pycocotools import mask as coco_mask


def plain(data_set: str, splits: dict[str, list[str]], out: Path) -> None:
    """Convert all splits of a data set as one does without giving speed a thought."""
    convert = {
        "kins_2019": plain_kins_2019,
        "kins_2020": plain_kins_2020,
        "cocoa": plain_cocoa,
        "d2sa": plain_d2sa,
    }[data_set]
    for split, paths in splits.items():
        images, rows, pairs = [], [], []
        for path in paths:
            with open(path) as file:
                document = json.load(file)
            images += document["images"]
            found = convert(document)
            rows += found[0]
            pairs += found[1]
        folder = out / split
        folder.mkdir(parents=True)
        table = pd.DataFrame(rows).sort_values("image_id", kind="stable")
        columns = ["id", "file_name", "height", "width"]
        for name, frame in (
            ("images", pd.DataFrame(images)[columns]),
            ("instances", table),
            ("order", pd.DataFrame(pairs)),
        ):
            frame.to_parquet(folder / f"{name}.parquet", compression="zstd")


def plain_kins_2019(document: dict) -> tuple[list[dict], list[dict]]:
    sizes = sizes_of(document)
    rows = []
    for record in document["annotations"]:
        size = sizes[record["image_id"]]
        amodal = plain_mask(record["segmentation"], size)
        visible = plain_mask(record["inmodal_seg"], size)
        if amodal is not None:
            rows += plain_row(record, amodal, visible)
    return rows, []


def plain_kins_2020(document: dict) -> tuple[list[dict], list[dict]]:
    sizes = sizes_of(document)
    rows = []
    clusters = defaultdict(list)
    for record in document["annotations"]:
        size = sizes[record["image_id"]]
        amodal = plain_mask(record["a_segm"], size)
        visible = plain_mask(record["i_segm"], size)
        kept = plain_row(record, amodal, visible) if amodal is not None else []
        rows += kept
        if kept and record["ico_id"] > 0:
            cluster = clusters[record["image_id"], record["oco_id"]]
            cluster.append((record["ico_id"], record["id"], amodal))
    pairs = []
    for (image_id, _), members in clusters.items():
        pairs += plain_pairs(image_id, members)
    return rows, pairs


def plain_cocoa(document: dict) -> tuple[list[dict], list[dict]]:
    sizes = sizes_of(document)
    rows, pairs = [], []
    for annotation in document["annotations"]:
        image_id = annotation["image_id"]
        size = sizes[image_id]
        by_order = {}
        for place, region in enumerate(annotation["regions"], 1):
            amodal = plain_mask([region["segmentation"]], size)
            visible = region.get("visible_mask") or amodal
            region_id = annotation["id"] * 1000 + place
            record = {"id": region_id, "image_id": image_id, "category_id": 1}
            rows += plain_row(record | {"is_thing": not region["isStuff"]}, amodal, visible)
            by_order[region["order"]] = (record["id"], amodal)
        for constraint in filter(None, annotation["depth_constraint"].split(",")):
            (front, a), (back, b) = (by_order[int(order)] for order in constraint.split("-"))
            shared = int(coco_mask.area(coco_mask.merge([a, b], intersect=True)))
            if shared:
                pairs.append(plain_pair(image_id, front, back, shared))
    return rows, pairs


def plain_d2sa(document: dict) -> tuple[list[dict], list[dict]]:
    rows, pairs = [], []
    members = defaultdict(list)
    for record in document["annotations"]:
        amodal = record["segmentation"]
        rows += plain_row(record, amodal, record.get("visible_mask") or amodal)
        members[record["image_id"]].append((record["occl_depth"], record["id"], amodal))
    for image_id, objects in members.items():
        pairs += plain_pairs(image_id, objects)
    return rows, pairs


def sizes_of(document: dict) -> dict[int, tuple[int, int]]:
    return {image["id"]: (image["height"], image["width"]) for image in document["images"]}


def plain_mask(segmentation: dict | list, size: tuple[int, int]) -> dict | None:
    """Run lengths of one segmentation, None where there is nothing to draw."""
    if isinstance(segmentation, dict):
        return segmentation
    parts = [part for part in segmentation if len(part) >= 6]
    return coco_mask.merge(coco_mask.frPyObjects(parts, *size)) if parts else None


def plain_row(record: dict, amodal: dict, visible: dict) -> list[dict]:
    """A row of the table, or none where the visible mask does not belong to the amodal one."""
    inside = coco_mask.merge([amodal, visible], intersect=True)
    whole, area = int(coco_mask.area(amodal)), int(coco_mask.area(inside))
    before = int(coco_mask.area(visible))
    if whole == 0 or before - area > 0.1 * before:
        return []
    counts = amodal["counts"]
    row = {
        "instance_id": record["id"],
        "image_id": record["image_id"],
        "category_id": record["category_id"],
        "amodal_rle": counts if isinstance(counts, str) else counts.decode(),
        "visible_rle": inside["counts"].decode(),
        "amodal_box": coco_mask.toBbox(amodal),
        "visible_box": coco_mask.toBbox(inside) if area else None,
        "occlusion_rate": 1 - area / whole,
        "is_thing": record.get("is_thing", True),
        "ignore": False,  # iscrowd marks nothing in these data sets
    }
    return [row]


def plain_pairs(image_id: int, members: list[tuple[int, int, dict]]) -> list[dict]:
    """Pairs of one image (or cluster) that overlap, from (rank, id, mask) of its objects."""
    masks = [mask for _, _, mask in members]
    overlaps = coco_mask.iou(masks, masks, [0] * len(masks)) > 0
    pairs = []
    for i, (front_rank, front, a) in enumerate(members):
        for j, (back_rank, back, b) in enumerate(members):
            if front_rank < back_rank and overlaps[i, j]:
                shared = int(coco_mask.area(coco_mask.merge([a, b], intersect=True)))
                pairs.append(plain_pair(image_id, front, back, shared))
    return pairs


def plain_pair(image_id: int, front: int, back: int, area: int) -> dict:
    return {"image_id": image_id, "occluder_id": front, "occludee_id": back, "area": area}
