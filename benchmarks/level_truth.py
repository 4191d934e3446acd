"""Whether distance maps made of true masks and order give both back.

For every image: its maps, the masks that come back from them (exactly, or the program ends with an
error), and the order of R for each pair that a table states one way only. Run on any stored table;
on COCOA's files (there the order of some annotations is inferred from masks, which is counted); and
on photographs that are composed first (their order is that of pasting).

    python benchmarks/level_truth.py --tables data/03_primary/scenes/annotations_*/*/annotations_* \
        --cocoa ../shared/data/cocoa --compose <instances.json> <folder of photographs> \
        [--out benchmarks/results/level_truth.json]
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from amodal_pipeline.annotations import AmodalAnnotations, rle
from amodal_pipeline.annotations.cocoa import read_cocoa
from amodal_pipeline.annotations.distance_maps import (
    amodal_mask,
    depth_order,
    true_distance_maps,
    visible_mask,
)
from amodal_pipeline.annotations.levels import levels_of_image, order_of_image
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.compose import ComposeConfig
from amodal_pipeline.compose.dataset import compose_split
from record import write

LAYERS = (2, 3, 4, 5)


def measure(annotations: AmodalAnnotations) -> dict[str, int]:
    """Counts over all images; ``agree_<L>_layers``: where levels from L - 1 on are one.

    Raises:
        AssertionError: a mask did not come back.
    """
    counts = Counter(images=len(annotations.images), objects=len(annotations.instances))
    counts["pairs"] = len(annotations.order)
    counts["inferred"] = int(annotations.order["inferred"].sum())
    for image_id, height, width in annotations.images[["image_id", "height", "width"]].to_numpy():
        objects = annotations.of_image(image_id)
        if not len(objects):
            continue
        levels = levels_of_image(annotations, image_id)
        maps = true_distance_maps(levels.amodal, levels.level)
        for kind, mask in (("amodal", amodal_mask(maps)), ("visible", visible_mask(maps))):
            truth = rle.decode(objects[f"{kind}_rle"].tolist(), (height, width))
            assert np.array_equal(mask, truth > 0), f"image {image_id}: {kind} masks changed"

        pairs = order_of_image(annotations, image_id)
        stated = set(map(tuple, pairs.tolist()))
        one_way = np.array([(b, a) not in stated for a, b in pairs.tolist()], bool)
        windows = boxes(objects["amodal_box"])
        found = depth_order(maps, windows, pairs)[one_way]
        counts["mutual"] += int((~one_way).sum())
        for name, sign in (("agree", 1), ("undecided", 0), ("contrary", -1)):
            counts[name] += int((found == sign).sum())
        for layers in LAYERS:
            clipped = true_distance_maps(levels.amodal, levels.level, layers)
            kept = depth_order(clipped, windows, pairs)[one_way] == 1
            counts[f"agree_{layers}_layers"] += int(kept.sum())
        counts["deepest_level"] = max(counts["deepest_level"], int(levels.level.max()))
        counts["pixels_of_two_hidden"] += int(((levels.level > 0).sum(axis=0) > 1).sum())
        counts["unresolved_pixels"] += levels.unresolved_pixels
    return dict(counts)


def composed(source_json: Path, image_root: Path, images: int) -> AmodalAnnotations:
    """The first photographs of a COCO file, composed."""
    document = json.loads(source_json.read_bytes())
    document["images"] = document["images"][:images]
    ids = {image["id"] for image in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in ids]
    config = ComposeConfig(occluders=(3, 6))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "some.json"
        path.write_text(json.dumps(document))
        return compose_split(config, "val", path, image_root, Path(folder) / "out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=Path, nargs="*", default=[], help="stored tables")
    parser.add_argument("--cocoa", type=Path, help="COCOA's file, or a folder of single ones")
    parser.add_argument("--compose", type=Path, nargs=2, help="COCO instances and photographs")
    parser.add_argument("--images", type=int, default=40, help="photographs to compose")
    parser.add_argument("--out", type=Path, help="record the results in this JSON file")
    arguments = parser.parse_args()
    result = {}
    for folder in arguments.tables:
        table = AmodalAnnotations.load(folder)
        result[f"{table.metadata.dataset} {table.metadata.split}"] = measure(table)
    if arguments.cocoa:
        samples = read_cocoa(arguments.cocoa, arguments.cocoa, "cocoa", "samples")
        result["cocoa samples"] = measure(samples)
    if arguments.compose:
        result["composed"] = measure(composed(*arguments.compose, arguments.images))
    write(result, arguments.out)


if __name__ == "__main__":
    main()
