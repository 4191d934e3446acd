"""Clips from still photographs: cut-outs of other objects move over the objects of a photograph.

The photograph rests, so that its objects' masks before pasting are the amodal truth of every frame;
each object is whole in the frames in which no cut-out passes over it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from PIL import Image

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.flow import write_flow
from amodal_pipeline.annotations.processes import working
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.annotations.tables import AmodalAnnotations
from amodal_pipeline.annotations.validation import as_findings, build
from amodal_pipeline.compose.composite import FREE_SIZE, Composite, finished_record
from amodal_pipeline.compose.config import ComposeConfig, ComposedClipsConfig
from amodal_pipeline.compose.dataset import (
    OBJECT,
    digest,
    occlusion_statistics,
    planned,
    source_variety,
)
from amodal_pipeline.compose.paste import Cutout, Placement, colours_of, cut, lay, matched
from amodal_pipeline.compose.source import SourceObject, photograph, working_masks

VERSION = 1  # of this procedure; raise it to have all clips made again


@dataclass(frozen=True)
class _Mover:
    """A cut-out with its colours, and its upper left corner (top, left) by frame, int64 [T, 2]."""

    occluder: SourceObject
    cutout: Cutout
    colours: np.ndarray
    corners: np.ndarray

    def placement(self, frame: int) -> Placement:
        top, left = self.corners[frame].tolist()
        return Placement(top, left, 0.0, 0)


def compose_clips(
    config: ComposedClipsConfig,
    split: str,
    source_json: Path,
    image_root: Path,
    folder: Path,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
    dataset: str = "composed_clips",
) -> AmodalAnnotations:
    """Compose the clips of one split from a COCO instance file, and return their annotations.

    Frames are ``<folder>/<split>/<name>/00000.jpg``, …, with ``clip.json``; with ``flow`` also
    ``00000.forward.flo`` and ``00000.backward.flo``, which are 0 on the photograph and the whole
    pixels that a cut-out moves by on it. Arguments and errors are those of
    :func:`.dataset.compose_split`.

    Returns:
        The table: a photograph's objects and the cut-outs have a ``track_id`` each, the same in all
        frames of a clip; a cut-out has no row where it is outside the picture. A later cut-out is
        in front of an earlier one, and all are in front of the photograph's objects.
    """
    image_root, folder = Path(image_root), Path(folder)
    described = {"version": VERSION, "clips": _described(config)}
    plan = planned(config.pictures, described, split, Path(source_json), image_root, workers)
    # Worker processes may have been started in another folder than this process is in now.
    root, target = str(image_root.absolute()), (folder / split).absolute()
    records = []
    with working(workers):
        for record in Parallel(return_as="generator")(
            delayed(compose_clip)(composite, config, root, target) for composite in plan.composites
        ):
            records.append(record)
            if on_progress is not None:
                on_progress(len(records), plan.total)
    table, pasted = _table(records, plan.source, config, dataset, split, folder)
    with replacing(folder / split / "statistics.json") as path:
        found = occlusion_statistics(table, pasted) | source_variety(records)
        path.write_text(json.dumps({"clips": len(records)} | found, indent=2))
    return table


def compose_clip(
    composite: Composite, config: ComposedClipsConfig, root: str, folder: Path
) -> dict:
    """Make a clip and its record below ``folder``, or read the record if all of it exists.

    Returns:
        The record: ``fingerprint``, ``frames`` (file names), ``height``, ``width``, ``instances``
        (with amodal and visible masks by frame, null outside the picture) and ``order`` (by frame,
        places of occluder and occludee).
    """
    target = folder / composite.name
    record = finished_record(target / "clip.json", composite.fingerprint)
    if record is not None and all((target / name).is_file() for name in record["files"]):
        return record
    pictures = config.pictures
    still = photograph(root, composite.file_name, composite.size, pictures.max_side)
    own = working_masks([o.counts for o in composite.objects], composite.size, pictures.max_side)
    movers = _movers(composite, still, own, config, root)
    suffix = "jpg" if pictures.image_format == "jpeg" else "png"
    frames = [f"{t:05d}.{suffix}" for t in range(config.frames)]
    amodal, visible, order = [], [], []
    with replacing(target) as place:
        place.mkdir(parents=True)
        for t, name in enumerate(frames):
            canvas = still.copy()
            over = [lay(canvas, m.colours, m.cutout, m.placement(t)) for m in movers]
            whole = np.concatenate([own, np.array(over, bool).reshape(-1, *own.shape[1:])])
            seen = whole.copy()
            for k, mask in enumerate(over):
                seen[: len(own) + k] &= ~mask
            _write(place / name, canvas, pictures)
            if config.flow:
                _write_flows(place, t, config.frames, seen[len(own) :], movers)
            amodal.append(_strings(whole))
            visible.append(_strings(whole, seen))
            order.append(_pairs(whole, len(own)))
        record = {
            "fingerprint": composite.fingerprint,
            "frames": frames,
            "files": sorted(path.name for path in place.iterdir()),
            "name": composite.name,
            "height": still.shape[0],
            "width": still.shape[1],
            "instances": [
                {
                    "source_id": o.instance_id,
                    "category_id": o.category_id,
                    "pasted": k >= len(own),
                    "ignore": k < len(own)
                    and (o.ignore or (pictures.exclude_incomplete and o.incomplete)),
                    "amodal_rle": [masks[k] for masks in amodal],
                    "visible_rle": [masks[k] for masks in visible],
                }
                for k, o in enumerate((*composite.objects, *(m.occluder for m in movers)))
            ],
            "order": order,
        }
        (place / "clip.json").write_text(json.dumps(record))
    return record


def _movers(
    composite: Composite,
    still: np.ndarray,
    own: np.ndarray,
    config: ComposedClipsConfig,
    root: str,
) -> list[_Mover]:
    """Return cut-outs on their paths, each over an object of the photograph that is whole."""
    rng, pictures = np.random.default_rng(composite.seed), config.pictures
    areas = np.count_nonzero(own, axis=(1, 2))
    whole = np.array([not (o.incomplete or o.ignore) for o in composite.objects], bool)
    targets = np.flatnonzero(whole & (areas >= pictures.min_source_area))
    movers: list[_Mover] = []
    wanted = int(rng.integers(*pictures.occluders, endpoint=True))
    for occluder in composite.others:
        if len(movers) == wanted:
            break
        if len(targets):
            target = targets[rng.integers(len(targets))]
            spots, area = np.argwhere(own[target]), areas[target]
            middle = spots[rng.integers(len(spots))]
        else:
            area = rng.uniform(*FREE_SIZE) * still.shape[0] * still.shape[1]
            middle = rng.uniform(0.25, 0.75, 2) * still.shape[:2]
        mask = working_masks([occluder.counts], occluder.size, pictures.max_side)[0]
        scale = rng.uniform(*pictures.size_to_target) * np.sqrt(
            area / max(np.count_nonzero(mask), 1)
        )
        flip = bool(rng.random() < pictures.flip_probability)
        scale = float(np.clip(scale, *pictures.scale))
        cutout = cut(mask, scale, flip, pictures.edge_softness)
        if cutout is None:
            continue
        moment, corners = _path(middle, cutout, still.shape[:2], config, rng)
        source = photograph(root, occluder.file_name, occluder.size, pictures.max_side)
        colours = colours_of(source, cutout)
        if pictures.match_brightness:
            # Once, where it meets its target: a light that changes on the way would flicker.
            there = Placement(*corners[moment].tolist(), 0.0, 0)
            colours = matched(colours, still, source, cutout, there)
        movers.append(_Mover(occluder, cutout, colours, corners))
    return movers


def _path(
    middle: np.ndarray,
    cutout: Cutout,
    size: tuple[int, int],
    config: ComposedClipsConfig,
    rng: np.random.Generator,
) -> tuple[int, np.ndarray]:
    """Return the frame in which a cut-out's centre is at ``middle`` (row, column), and its corners.

    It goes along a line, rather across the picture than up or down, and sways to both sides of it.
    """
    time = np.arange(config.frames) / (config.frames - 1)
    moment = int(np.rint(rng.uniform(0.25, 0.75) * (config.frames - 1)))
    angle = rng.choice([0.0, np.pi]) + rng.uniform(-0.6, 0.6)
    along = np.array([np.sin(angle), np.cos(angle)])
    across = np.array([along[1], -along[0]])
    travel, sway = (rng.uniform(*r) * max(size) for r in (config.travel, config.sway))
    beat, phase = rng.uniform(np.pi, 3 * np.pi), rng.uniform(0, 2 * np.pi)
    wave = np.sin(beat * time + phase) - np.sin(beat * time[moment] + phase)
    path = middle + travel * (time - time[moment])[:, None] * along + sway * wave[:, None] * across
    return moment, np.rint(path - np.array(cutout.alpha.shape) / 2).astype(np.int64)


def _write(path: Path, canvas: np.ndarray, config: ComposeConfig) -> None:
    if config.image_format == "jpeg":
        Image.fromarray(canvas).save(path, quality=config.jpeg_quality, subsampling=0)
    else:
        Image.fromarray(canvas).save(path, compress_level=1)


def _write_flows(
    place: Path, frame: int, frames: int, seen: np.ndarray, movers: list[_Mover]
) -> None:
    """Write the flow to the next and to the previous frame; ``seen`` [K, H, W] are the cut-outs."""
    for name, other in (("forward", frame + 1), ("backward", frame - 1)):
        if not 0 <= other < frames:
            continue
        flow = np.zeros((*seen.shape[1:], 2), np.float32)
        for mask, mover in zip(seen, movers, strict=True):
            flow[mask] = (mover.corners[other] - mover.corners[frame])[::-1]
        write_flow(place / f"{frame:05d}.{name}.flo", flow)


def _strings(whole: np.ndarray, masks: np.ndarray | None = None) -> list[str | None]:
    """Return run lengths of ``masks`` (by default ``whole``); None where ``whole`` is empty."""
    there = whole.any(axis=(1, 2))
    counts = rle.encode(whole if masks is None else masks) if len(whole) else []
    return [text if t else None for text, t in zip(counts, there, strict=True)]


def _pairs(whole: np.ndarray, originals: int) -> list[tuple[int, int]]:
    """Return pairs (cut-out, object below it whose amodal mask it overlaps), by place."""
    return [
        (k, int(i))
        for k in range(originals, len(whole))
        for i in np.flatnonzero((whole[:k] & whole[k]).any(axis=(1, 2)))
    ]


def _table(
    records: list[dict],
    source: AmodalAnnotations,
    config: ComposedClipsConfig,
    dataset: str,
    split: str,
    folder: Path,
) -> tuple[AmodalAnnotations, np.ndarray]:
    """Return the table, and which instances are cut-outs, bool by ``instance_id`` − 1."""
    images, instances, order, pasted, tracks = [], [], [], [], 0
    for video, record in enumerate(records):
        for t, name in enumerate(record["frames"]):
            image_id, ids = len(images) + 1, {}
            images.append(
                {
                    "image_id": image_id,
                    "file_name": f"{split}/{record['name']}/{name}",
                    "height": record["height"],
                    "width": record["width"],
                    "video_id": video,
                    "frame": t,
                }
            )
            for k, instance in enumerate(record["instances"]):
                if instance["amodal_rle"][t] is None:
                    continue
                ids[k] = len(instances) + 1
                category = OBJECT.id if config.pictures.class_agnostic else instance["category_id"]
                instances.append(
                    {
                        "instance_id": ids[k],
                        "image_id": image_id,
                        "category_id": category,
                        "amodal_rle": instance["amodal_rle"][t],
                        "visible_rle": instance["visible_rle"][t],
                        "track_id": tracks + k + 1,
                        "ignore": instance["ignore"],
                    }
                )
                pasted.append(instance["pasted"])
            order.extend(
                {"image_id": image_id, "occluder_id": ids[a], "occludee_id": ids[b]}
                for a, b in record["order"][t]
            )
        tracks += len(record["instances"])
    table = build(
        dataset=dataset,
        split=split,
        categories=(OBJECT,) if config.pictures.class_agnostic else source.metadata.categories,
        image_root=str(folder),
        images=pd.DataFrame(images),
        instances=pd.DataFrame(instances),
        order=pd.DataFrame(order, columns=["image_id", "occluder_id", "occludee_id"]),
        sources={**source.metadata.sources, "compose": digest(_described(config))},
        file=source.metadata.dataset,
        rejected=as_findings(source.rejected),
    )
    return table, np.array(pasted, bool)


def _described(config: ComposedClipsConfig) -> dict:
    """Return the values that decide the pictures."""
    return config.model_dump(mode="json", exclude={"pictures": {"dual_annotation"}})
