"""Time and memory of converting published annotation files, beside the plain way.

The plain way is what one writes first: json.load, then pycocotools one annotation at a time, in one
process; it makes the same masks, boxes and rates and writes them to Parquet.

    python benchmarks/readers.py plain kins_2019 <out folder> <json> [<json> ...]
"""

import argparse
import json
import time
from pathlib import Path

import pandas as pd
from pycocotools import mask as coco_mask


def plain_mask(segmentation: dict | list, height: int, width: int) -> dict | None:
    """Run lengths of one segmentation, None where there is nothing to draw."""
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return coco_mask.frPyObjects(segmentation, height, width)
        return segmentation
    parts = [part for part in segmentation if len(part) >= 6]
    return coco_mask.merge(coco_mask.frPyObjects(parts, height, width)) if parts else None


def plain_row(record: dict, amodal: dict, visible: dict) -> dict | None:
    """A row of the table, None where the visible mask does not belong to the amodal one."""
    inside = coco_mask.merge([amodal, visible], intersect=True)
    amodal_area, area = int(coco_mask.area(amodal)), int(coco_mask.area(inside))
    before = int(coco_mask.area(visible))
    if amodal_area == 0 or before - area > 0.1 * before:
        return None
    counts = amodal["counts"]
    return {
        "instance_id": record["id"],
        "image_id": record["image_id"],
        "category_id": record["category_id"],
        "amodal_rle": counts if isinstance(counts, str) else counts.decode(),
        "visible_rle": inside["counts"].decode(),
        "amodal_box": coco_mask.toBbox(amodal),
        "visible_box": coco_mask.toBbox(inside) if area else None,
        "occlusion_rate": 1 - area / amodal_area,
        "ignore": bool(record["iscrowd"]),
    }


def plain_kins_2019(json_path: Path, out: Path) -> int:
    """KINS of 2019, one annotation at a time."""
    with open(json_path) as file:
        document = json.load(file)
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    rows = []
    for record in document["annotations"]:
        height, width = sizes[record["image_id"]]
        amodal = plain_mask(record["segmentation"], height, width)
        visible = plain_mask(record["inmodal_seg"], height, width)
        row = plain_row(record, amodal, visible) if amodal is not None else None
        if row is not None:
            rows.append(row)
    pd.DataFrame(document["images"]).to_parquet(out / "images.parquet", compression="zstd")
    table = pd.DataFrame(rows).sort_values("image_id", kind="stable")
    table.to_parquet(out / "instances.parquet", compression="zstd")
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=["plain"])
    parser.add_argument("data_set", choices=["kins_2019"])
    parser.add_argument("out", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args()
    for file in arguments.files:
        folder = arguments.out / file.stem
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        rows = plain_kins_2019(file, folder)
        print(file.name, rows, "rows", round(time.perf_counter() - start, 2), "s")


if __name__ == "__main__":
    main()
