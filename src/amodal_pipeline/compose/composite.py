"""One composed picture: its photograph, the objects pasted on it, and its record."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.compose.config import ComposeConfig
from amodal_pipeline.compose.paste import (
    Cutout,
    Placement,
    cut,
    find_placement,
    paste,
    place_anywhere,
)
from amodal_pipeline.compose.source import (
    SourceObject,
    photograph,
    working_masks,
    working_size,
)

VERSION = 1  # of this procedure; raise it to have all pictures made again
TRIES = 4  # occluders tried for a target before the best of them is used
NEAR = 0.05  # difference from the wanted occlusion rate at which no other occluder is tried
FREE_SIZE = (0.02, 0.15)  # share of the canvas, used as the target's area if there is no target


@dataclass(frozen=True)
class Composite:
    """All inputs to make one picture, so that any process can make it."""

    name: str
    file_name: str
    size: tuple[int, int]  # height, width of the photograph
    objects: tuple[SourceObject, ...]
    others: tuple[SourceObject, ...]  # of other photographs, in the order in which they are tried
    seed: tuple[int, ...]
    fingerprint: str
    as_it_was: bool = False  # the photograph without pasted objects


@dataclass
class _Scene:
    """The unfinished picture. Rows beyond ``count`` are for objects still to be pasted."""

    canvas: np.ndarray  # uint8 [H, W, 3]
    amodal: np.ndarray  # bool [N, H, W]
    visible: np.ndarray  # bool [N, H, W]
    amodal_areas: np.ndarray  # int64 [N]
    visible_areas: np.ndarray  # int64 [N]
    target: np.ndarray  # bool [N]: whole, large enough, and not to be ignored
    count: int


@dataclass(frozen=True)
class _Choice:
    occluder: SourceObject
    cutout: Cutout
    placement: Placement


def compose(composite: Composite, config: ComposeConfig, image_root: str, folder: Path) -> dict:
    """Compose a picture and its record below ``folder``, or read the record if both exist.

    Returns:
        The record: ``fingerprint``, ``image`` (file_name, height, width), ``instances`` (amodal
        and visible masks, source ids, flags) and ``order`` (positions of occluder and occludee).
    """
    suffix = "jpg" if config.image_format == "jpeg" else "png"
    picture, written = folder / f"{composite.name}.{suffix}", folder / f"{composite.name}.json"
    record = finished_record(written, composite.fingerprint)
    if record is not None and picture.is_file():
        return record
    scene, record = _compose(composite, config, image_root)
    record["image"]["file_name"] = picture.name
    with replacing(picture) as path:
        image = Image.fromarray(scene.canvas)
        if config.image_format == "jpeg":
            image.save(path, "JPEG", quality=config.jpeg_quality, subsampling=0)
        else:
            image.save(path, "PNG", compress_level=1)
    # Written after the picture: a record guarantees that its picture is complete.
    with replacing(written) as path:
        path.write_text(json.dumps(record))
    return record


def finished_record(path: Path, fingerprint: str) -> dict | None:
    """Return a picture's record if it was written with this fingerprint, else None."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    same = isinstance(record, dict) and record.get("fingerprint") == fingerprint
    return record if same else None


def _compose(composite: Composite, config: ComposeConfig, root: str) -> tuple[_Scene, dict]:
    rng = np.random.default_rng(composite.seed)
    number = int(rng.integers(config.occluders[0], config.occluders[1], endpoint=True))
    number = 0 if composite.as_it_was else number
    scene = _scene(composite, config, root, number)
    instances = [
        {
            "source_id": o.instance_id,
            "category_id": o.category_id,
            "pasted": False,
            "incomplete": o.incomplete,
            "ignore": o.ignore or (config.exclude_incomplete and o.incomplete),
        }
        for o in composite.objects
    ]
    order: list[tuple[int, int]] = []
    others = iter(composite.others)
    for _ in range(number):
        target = _choose_target(scene, len(composite.objects), config, rng)
        wanted = _wanted_rate(config, rng)
        choice = _choose_occluder(scene, composite, others, target, wanted, config, rng)
        if choice is None:
            continue
        o = choice.occluder
        source = photograph(root, o.file_name, o.size, config.max_side)
        mask = paste(scene.canvas, source, choice.cutout, choice.placement, config.match_brightness)
        if not mask.any():  # only the soft rim of a cutout larger than the canvas lies on it
            continue
        order.extend(_add(scene, mask, config))
        instances.append(
            {
                "source_id": o.instance_id,
                "category_id": o.category_id,
                "pasted": True,
                "incomplete": o.incomplete,
                "ignore": False,
                "cut_from": o.file_name,
                "target": target,
                "wanted_rate": None if target is None else wanted,
                "reached_rate": None if target is None else choice.placement.rate,
            }
        )
    for instance, amodal, visible in zip(instances, *_run_lengths(scene, composite), strict=True):
        instance["amodal_rle"], instance["visible_rle"] = amodal, visible
    height, width = scene.canvas.shape[:2]
    return scene, {
        "fingerprint": composite.fingerprint,
        "image": {"height": height, "width": width},
        "instances": instances,
        "order": order,
    }


def _scene(composite: Composite, config: ComposeConfig, root: str, pasted: int) -> _Scene:
    counts = [o.counts for o in composite.objects]
    masks = working_masks(counts, composite.size, config.max_side)
    count, total = len(counts), len(counts) + pasted
    height, width = working_size(composite.size, config.max_side)
    amodal = np.zeros((total, height, width), bool)
    amodal[:count] = masks
    areas = np.count_nonzero(amodal, axis=(1, 2))
    whole = [not (o.incomplete or o.ignore) for o in composite.objects]
    target = np.zeros(total, bool)
    target[:count] = np.array(whole, bool) & (areas[:count] >= config.min_source_area)
    canvas = photograph(root, composite.file_name, composite.size, config.max_side).copy()
    return _Scene(canvas, amodal, amodal.copy(), areas, areas.copy(), target, count)


def _choose_target(
    scene: _Scene, originals: int, config: ComposeConfig, rng: np.random.Generator
) -> int | None:
    """Return a target that is hardly hidden: an original object, else a pasted one, else None."""
    rates = 1 - scene.visible_areas / np.maximum(scene.amodal_areas, 1)
    hardly_hidden = (rates <= config.occlusion_rates[0]) & (scene.visible_areas > 0)
    free = np.flatnonzero(scene.target & hardly_hidden)
    first = free[free < originals]
    choices = first if len(first) else free
    return int(rng.choice(choices)) if len(choices) else None


def _wanted_rate(config: ComposeConfig, rng: np.random.Generator) -> float:
    weights = np.array(config.occlusion_weights)
    low, high = config.occlusion_rates
    bin_ = rng.choice(len(weights), p=weights / weights.sum())
    return float(low + (high - low) * (bin_ + rng.random()) / len(weights))


def _choose_occluder(
    scene: _Scene,
    composite: Composite,
    others: Iterator[SourceObject],
    target: int | None,
    wanted: float,
    config: ComposeConfig,
    rng: np.random.Generator,
) -> _Choice | None:
    """Return the first occluder that reaches the wanted rate, else the nearest of those tried."""
    height, width = scene.canvas.shape[:2]
    if target is None:
        area = rng.uniform(*FREE_SIZE) * height * width
    else:
        area = scene.amodal_areas[target]
    here = [
        i for i in np.flatnonzero(scene.target[: len(composite.objects)]).tolist() if i != target
    ]
    best, best_cost = None, np.inf
    for _ in range(TRIES):
        same = bool(here) and rng.random() < config.same_image_probability
        occluder = composite.objects[int(rng.choice(here))] if same else next(others, None)
        relative, flip = rng.uniform(*config.size_to_target), rng.random() < config.flip_probability
        if occluder is None:
            continue
        mask = working_masks([occluder.counts], occluder.size, config.max_side)[0]
        scale = relative * np.sqrt(area / max(np.count_nonzero(mask), 1))
        scale = float(np.clip(scale, *config.scale))
        cutout = cut(mask, scale, bool(flip), config.edge_softness)
        if cutout is None:
            continue
        now = (
            scene.visible[: scene.count],
            scene.visible_areas[: scene.count],
            scene.amodal_areas[: scene.count],
        )
        if target is None:
            return _Choice(occluder, cutout, place_anywhere(cutout, *now, rng))
        placement = find_placement(cutout, *now, target, wanted, rng)
        if placement is None:
            continue
        cost = placement.buries + abs(placement.rate - wanted)
        if cost < best_cost:
            best, best_cost = _Choice(occluder, cutout, placement), cost
        if cost <= NEAR:
            break
    return best


def _add(scene: _Scene, mask: np.ndarray, config: ComposeConfig) -> list[tuple[int, int]]:
    """Put a pasted object on top; return the pairs (pasted object, object that it overlaps)."""
    new = scene.count
    overlaps = np.flatnonzero((scene.amodal[:new] & mask).any(axis=(1, 2)))
    scene.visible[overlaps] &= ~mask
    scene.visible_areas[overlaps] = np.count_nonzero(scene.visible[overlaps], axis=(1, 2))
    scene.amodal[new] = scene.visible[new] = mask
    scene.amodal_areas[new] = scene.visible_areas[new] = np.count_nonzero(mask)
    scene.target[new] = scene.amodal_areas[new] >= config.min_source_area
    scene.count += 1
    return [(new, int(i)) for i in overlaps]


def _run_lengths(scene: _Scene, composite: Composite) -> tuple[list[str], list[str]]:
    """Return amodal and visible masks as strings; untouched originals keep the source's strings."""
    untouched = scene.canvas.shape[:2] == composite.size
    amodal = [o.counts for o in composite.objects] if untouched else []
    amodal += rle.encode(scene.amodal[len(amodal) : scene.count])
    visible = list(amodal)
    hidden = np.flatnonzero(scene.visible_areas < scene.amodal_areas)
    for i, text in zip(hidden, rle.encode(scene.visible[hidden]), strict=True):
        visible[i] = text
    return amodal, visible
