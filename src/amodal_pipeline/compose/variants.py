"""Pictures of the same object under several occluders, which differ only in the occluder.

Follows Fig. 1 of Xiao et al., "Amodal Segmentation Based on Visible Region Segmentation and Shape
Prior" (VRSP), AAAI 2021, where one vegetable lies behind a banana, apples and a cabbage: objects of
a split that are (nearly) fully visible are partly covered by cut-outs of others, one at a time. The
object stays the same, and so does its amodal mask.
"""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from PIL import Image

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.processes import working
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.annotations.tables import AmodalAnnotations
from amodal_pipeline.annotations.validation import build
from amodal_pipeline.compose.composite import finished_record
from amodal_pipeline.compose.config import VariantsConfig
from amodal_pipeline.compose.dataset import digest
from amodal_pipeline.compose.paste import Cutout, Placement, cut, find_placement, paste
from amodal_pipeline.compose.source import SourceObject, photograph

VERSION = 1  # of this procedure; raise it to have all pictures made again
TRIES = 6  # occluders tried per wanted occluder
NEAR = 0.05  # difference from the wanted share that is near enough


@dataclass(frozen=True)
class Target:
    """All inputs to make the pictures of one target, so that any process can make them."""

    name: str
    file_name: str
    size: tuple[int, int]  # height, width of its image
    amodal: tuple[str, ...]  # masks of all objects of its image
    visible: tuple[str, ...]
    position: int  # of the target among the objects
    occluders: tuple[SourceObject, ...]  # of other images, in the order in which they are tried
    seed: tuple[int, ...]
    fingerprint: str


@dataclass(frozen=True)
class _Choice:
    occluder: SourceObject
    cutout: Cutout
    placement: Placement
    cost: float


def compose_variants(
    annotations: AmodalAnnotations,
    config: VariantsConfig,
    folder: Path,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> AmodalAnnotations:
    """Return a table of pictures of a split's objects, each covered by several occluders in turn.

    Args:
        annotations: the split; its images are read, and occluders are cut from them.
        config: number and choice of targets and occluders.
        folder: where pictures are written. Those of the same configuration and split are kept.
        workers: processes; the result does not depend on their number.
        on_progress: called with (targets done, number of targets).

    Returns:
        A table of the pictures, with the same data set and split. Each picture has all objects of
        its image and, last, the pasted one. The ``track_id`` of a target is its ``instance_id`` in
        ``annotations``, the same in all its pictures; it is null for all other objects. The
        ``video_id`` of a picture is the image it was made from, ``frame`` its number among the
        pictures of that image. Targets on which too few occluders fit are left out.

    Raises:
        ValueError: no object can be a target, or an image is missing or damaged (named).
    """
    folder, truth = Path(folder), annotations.metadata
    described = {
        "version": VERSION,
        "config": config.model_dump(mode="json"),
        "annotations": annotations.fingerprint,
    }
    targets = _targets(annotations, config, digest(described))
    records = []
    with working(workers):
        for record in Parallel(return_as="generator")(
            delayed(_compose)(target, config, truth.image_root, folder)
            for target in targets.values()
        ):
            records.append(record)
            if on_progress is not None:
                on_progress(len(records), len(targets))
    made = {i: r["variants"] for i, r in zip(targets, records, strict=True) if r["variants"]}
    if not made:
        raise ValueError(
            f"{truth.dataset}/{truth.split}: no object can be hidden under {config.variants} "
            f"occluders. {len(targets)} of {len(annotations.instances)} objects were tried, others "
            f"are ignored, stuff, smaller than min_area = {config.min_area} pixels, or more "
            f"occluded than max_occlusion_rate = {config.max_occlusion_rate:g}: change these, or "
            "widen hidden and scale"
        )
    return _table(annotations, made, folder, digest(described))


def _targets(
    annotations: AmodalAnnotations, config: VariantsConfig, fingerprint: str
) -> dict[int, Target]:
    """Return the targets by their row of the instances, in ascending order."""
    table, images = annotations.instances, annotations.images
    fit = np.flatnonzero(
        table["is_thing"].to_numpy(dtype=bool)
        & ~table["ignore"].to_numpy(dtype=bool)
        & (table["occlusion_rate"].to_numpy(dtype=np.float32) <= config.max_occlusion_rate)
        & (rle.area(table["visible_rle"].tolist()) >= config.min_area)
    )
    image_id = table["image_id"].to_numpy(dtype=np.int64)
    seed = (config.seed, zlib.crc32(annotations.metadata.split.encode()))
    rng = np.random.default_rng((*seed, 0))
    chosen: list[int] = []
    for image in rng.permutation(np.unique(image_id[fit]))[: config.images]:
        here = rng.permutation(fit[image_id[fit] == image])
        chosen.extend(here[: config.targets_per_image].tolist())

    place = {int(i): row for row, i in enumerate(images["image_id"])}
    names = images["file_name"].tolist()
    sizes = [(int(h), int(w)) for h, w in zip(images["height"], images["width"], strict=True)]
    targets = {}
    for row in sorted(chosen):
        of_others = fit[image_id[fit] != image_id[row]]
        drawn = np.random.default_rng((*seed, 1, row)).permutation(of_others)
        objects = annotations.of_image(int(image_id[row]))
        at = place[int(image_id[row])]
        targets[row] = Target(
            name=str(table["instance_id"].iloc[row]),
            file_name=names[at],
            size=sizes[at],
            amodal=tuple(objects["amodal_rle"]),
            visible=tuple(objects["visible_rle"]),
            position=int(row - objects.index[0]),
            occluders=tuple(
                SourceObject(
                    instance_id=int(table["instance_id"].iloc[i]),
                    category_id=int(table["category_id"].iloc[i]),
                    file_name=names[place[int(image_id[i])]],
                    size=sizes[place[int(image_id[i])]],
                    counts=table["visible_rle"].iloc[i],
                    incomplete=False,
                    ignore=False,
                )
                for i in drawn[: TRIES * config.variants].tolist()
            ),
            seed=(*seed, 2, row),
            fingerprint=fingerprint,
        )
    return targets


def _compose(target: Target, config: VariantsConfig, root: str, folder: Path) -> dict:
    """Make a target's pictures and their record, or read the record if all of them exist.

    Returns:
        The record: ``fingerprint`` and ``variants``, empty if too few occluders fit. Each variant
        has ``file_name``, ``visible`` (masks of the image's objects), ``occluder`` (source_id,
        category_id, rle) and ``overlaps``, the positions of the objects that the occluder overlaps.
    """
    written = folder / f"{target.name}.json"
    record = finished_record(written, target.fingerprint)
    if record and all((folder / v["file_name"]).is_file() for v in record["variants"]):
        return record
    amodal, visible = (
        rle.decode(counts, target.size).view(bool) for counts in (target.amodal, target.visible)
    )
    pixels = photograph(root, target.file_name, target.size, max(target.size))
    variants = []
    for number, choice in enumerate(_choices(target, amodal, visible, config)):
        canvas, o = pixels.copy(), choice.occluder
        source = photograph(root, o.file_name, o.size, max(o.size))
        mask = paste(canvas, source, choice.cutout, choice.placement, config.match_brightness)
        overlaps = np.flatnonzero((amodal & mask).any(axis=(1, 2)))
        seen = list(target.visible)
        for i, counts in zip(overlaps, rle.encode(visible[overlaps] & ~mask), strict=True):
            seen[i] = counts
        name = f"{target.name}_{number}.png"
        with replacing(folder / name) as path:
            Image.fromarray(canvas).save(path, "PNG", compress_level=1)
        occluder = {"source_id": o.instance_id, "category_id": o.category_id}
        variants.append(
            {
                "file_name": name,
                "visible": seen,
                "occluder": occluder | {"rle": rle.encode(mask[None])[0]},
                "overlaps": overlaps.tolist(),
            }
        )
    record = {"fingerprint": target.fingerprint, "variants": variants}
    # Written after the pictures: a record guarantees that its pictures are complete.
    with replacing(written) as path:
        path.write_text(json.dumps(record))
    return record


def _choices(
    target: Target, amodal: np.ndarray, visible: np.ndarray, config: VariantsConfig
) -> list[_Choice]:
    """Return an occluder and placement per picture; empty if too few are near the wanted share."""
    rng, at = np.random.default_rng(target.seed), target.position
    areas = [np.count_nonzero(masks, axis=(1, 2)) for masks in (visible, amodal)]
    seen = areas[0][at] / areas[1][at]
    wanted = rng.uniform(*config.hidden)
    found: list[_Choice] = []
    for occluder in target.occluders:
        relative, flip = rng.uniform(*config.size_to_target), rng.random() < config.flip_probability
        mask = rle.decode([occluder.counts], occluder.size)[0].view(bool)
        scale = relative * np.sqrt(areas[0][at] / np.count_nonzero(mask))
        scale = float(np.clip(scale, *config.scale))
        cutout = cut(mask, scale, bool(flip), config.edge_softness)
        if cutout is None:
            continue
        placement = find_placement(cutout, visible, *areas, at, 1 - (1 - wanted) * seen, rng)
        if placement is None:
            continue
        share = 1 - (1 - placement.rate) / seen
        if config.hidden[0] <= share <= config.hidden[1]:
            cost = placement.buries + abs(share - wanted)
            found.append(_Choice(occluder, cutout, placement, cost))
        if sum(choice.cost <= NEAR for choice in found) == config.variants:
            break
    best = sorted(found, key=lambda choice: choice.cost)[: config.variants]
    return best if len(best) == config.variants else []


def _table(
    annotations: AmodalAnnotations, made: dict[int, list[dict]], folder: Path, fingerprint: str
) -> AmodalAnnotations:
    """Return the table of the pictures, made from the variants by their target's row."""
    truth, source = annotations.metadata, annotations.instances
    image_of = source["image_id"].to_numpy(dtype=np.int64)
    order_image = annotations.order["image_id"].to_numpy(dtype=np.int64)
    size_of = annotations.images.set_index("image_id")[["height", "width"]]
    made_of: dict[int, int] = {}
    images, instances, order, first = [], [], [], 1
    for row, variants in made.items():
        own = int(image_of[row])
        objects = annotations.of_image(own)
        pairs = annotations.order[order_image == own]
        is_target = np.append(objects.index == row, False)
        track = np.where(is_target, source["instance_id"].iloc[row], None)
        height, width = size_of.loc[own]
        for variant in variants:
            image_id, pasted = len(images) + 1, variant["occluder"]
            made_of[own] = made_of.get(own, 0) + 1
            images.append(
                {
                    "image_id": image_id,
                    "file_name": variant["file_name"],
                    "height": height,
                    "width": width,
                    "video_id": own,
                    "frame": made_of[own] - 1,
                }
            )
            ids = np.arange(first, first + len(objects) + 1)
            first += len(ids)
            columns = {
                "instance_id": ids,
                "image_id": image_id,
                "category_id": [*objects["category_id"], pasted["category_id"]],
                "amodal_rle": [*objects["amodal_rle"], pasted["rle"]],
                "visible_rle": [*variant["visible"], pasted["rle"]],
                "is_thing": [*objects["is_thing"], True],
                "track_id": pd.array(track, "Int64"),
                "ignore": [*objects["ignore"], False],
            }
            instances.append(pd.DataFrame(columns))
            renamed = dict(zip(objects["instance_id"], ids.tolist(), strict=False))
            over = ids[variant["overlaps"]].tolist()
            columns = {
                "image_id": image_id,
                "occluder_id": [*pairs["occluder_id"].map(renamed), *[int(ids[-1])] * len(over)],
                "occludee_id": [*pairs["occludee_id"].map(renamed), *over],
                "inferred": [*pairs["inferred"], *[False] * len(over)],
            }
            order.append(pd.DataFrame(columns))
    return build(
        dataset=truth.dataset,
        split=truth.split,
        categories=truth.categories,
        image_root=str(folder),
        images=pd.DataFrame(images),
        instances=pd.concat(instances, ignore_index=True),
        order=pd.concat(order, ignore_index=True),
        sources={made_from(truth.split): annotations.fingerprint, "variants": fingerprint},
        file=f"variants of {truth.dataset}/{truth.split}",
    )


def made_from(split: str) -> str:
    """Return the key among a table's ``sources`` for the split whose images it was made from."""
    return f"annotations_{split}"
