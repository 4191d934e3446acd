"""Rendering of splits of moving scenes to a folder, and their annotations with tracks."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from amodal_pipeline.annotations import AmodalAnnotations, Category, build, rle
from amodal_pipeline.annotations.flow import write_flow
from amodal_pipeline.annotations.storage import checksum, replacing
from amodal_pipeline.scenes.camera import Camera
from amodal_pipeline.scenes.dataset import (
    ID_STEP,
    RENDERER_VERSION,
    Place,
    statistics,
)
from amodal_pipeline.scenes.models import Models, ShapeSource
from amodal_pipeline.scenes.motion import Actor, Clip, Kind, sample_clip, shape_of
from amodal_pipeline.scenes.moving_config import MovingScenesConfig
from amodal_pipeline.scenes.render import order_pairs, render_colour, visible_masks
from amodal_pipeline.scenes.shading import Surroundings
from amodal_pipeline.scenes.surfaces import SKY, Seen, flow, seen_elsewhere

CLIPS_VERSION = 1
"""Raise this with every change that alters a clip: old ones are rendered again."""

DEPTH_UNIT = 1000
"""Values of a depth picture per world unit."""

_RECORD = "clip.json"


class ActorRecord(BaseModel):
    """An object or a piece of scenery; ``path`` has (x, y, turn in radians) of every frame."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: ShapeSource
    scale: float
    path: tuple[tuple[float, float, float], ...]


class ObjectRecord(ActorRecord):
    """An object with its masks by frame; null where it is out of the picture.

    ``seen_elsewhere`` is the share (0 to 1) of its hidden part that another frame shows, null where
    nothing is hidden (:func:`.surfaces.seen_elsewhere`).
    """

    amodal_rle: tuple[str | None, ...]
    visible_rle: tuple[str | None, ...]
    ignore: tuple[bool, ...]
    seen_elsewhere: tuple[float | None, ...]


class ClipRecord(BaseModel):
    """The record of one clip, written as ``clip.json`` next to its frames."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    fingerprint: str
    """Checksum of the configuration, the meshes and the renderer's version."""
    split: str
    index: int
    kind: Kind
    cameras: tuple[Camera, ...]
    surroundings: Surroundings
    objects: tuple[ObjectRecord, ...]
    scenery: tuple[ActorRecord, ...]
    order: tuple[tuple[tuple[int, int], ...], ...]
    """By frame, pairs of places in ``objects`` (occluder, occludee)."""
    checksums: dict[str, str]
    """SHA-256 of every other file of the clip."""


def render_clips(
    config: MovingScenesConfig,
    split: str,
    count: int,
    folder: str | Path,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
    dataset: str = "moving_scenes",
) -> AmodalAnnotations:
    """Render ``count`` clips into ``<folder>/<split>/`` and return their annotations.

    Writes a folder ``000000`` per clip with its frames ``00000.png``, …, ``clip.json``, and per
    frame, if the configuration says so, ``00000.forward.flo`` and ``00000.backward.flo`` (the true
    optical flow to the next and to the previous frame, :func:`.surfaces.flow`; the last and the
    first frame lack one) and ``00000.depth.png`` (16 bits: the depth along the optical axis in
    thousandths of a world unit, 0 for the sky and beyond 65.535 units). ``statistics.json`` and
    ``seen_elsewhere.csv`` lie next to the clips. A clip depends on the seed, the split and its
    number only; existing clips made with the same configuration are kept.

    Args:
        config: parameters of the clips.
        split: name of the split, a plain folder name.
        count: number of clips.
        workers: processes; each computes in one thread.
        on_progress: called with (done, total) after every clip.

    Returns:
        The validated table: video_id is the clip's number, image_id = frames × clip + frame,
        instance_id = 100 × image_id + place + 1 and track_id = 100 × clip + place + 1, the same in
        all frames. Objects that show fewer than ``minimum_visible_pixels`` in a frame are marked
        ``ignore`` there; they have no row where they are out of the picture.

    Raises:
        ValueError: ``split`` is not a plain folder name, ``count`` is below 1, a category is
            unknown, a mesh file is damaged, or the limits leave no clip.
    """
    place = Place.of(config, split, count, folder, [RENDERER_VERSION, CLIPS_VERSION])
    records = place.complete(count, _existing, render_clip, workers, on_progress)
    table = _annotations(records, place.models, dataset, split, str(folder), place.fingerprint)
    elsewhere = _elsewhere(records)
    with replacing(place.target / "seen_elsewhere.csv") as path:
        elsewhere.to_csv(path, index=False)
    with replacing(place.target / "statistics.json") as path:
        path.write_text(json.dumps(clip_statistics(table, elsewhere, records), indent=2))
    return table


def render_clip(place: Place, index: int) -> ClipRecord:
    """Render one clip into a folder of its own, which is created only when it is complete."""
    config = place.config
    clip, depth = sample_clip(config, place.models, place.split, index)
    stage, count = clip.stage(), len(clip.objects)
    with replacing(place.target / f"{index:06d}") as folder:
        folder.mkdir()
        for t, camera in enumerate(clip.cameras):
            colour = render_colour(
                clip.placed(t),
                camera,
                clip.surroundings,
                shadows=config.shadows,
                antialiasing=config.antialiasing,
                stage=stage,
            )
            Image.fromarray(colour).save(folder / f"{t:05d}.png", compress_level=4)
            seen = Seen.of(depth[t], camera, stage) if config.flow or config.depth else None
            if config.depth:
                (folder / f"{t:05d}.depth.png").write_bytes(_depth_picture(seen))
            if config.flow and t + 1 < config.frames:
                write_flow(folder / f"{t:05d}.forward.flo", flow(clip, seen, t, t + 1))
            if config.flow and t > 0:
                write_flow(folder / f"{t:05d}.backward.flo", flow(clip, seen, t, t - 1))
        checksums = {path.name: checksum(path) for path in sorted(folder.iterdir())}
        visible = np.stack([visible_masks(layers)[:count] for layers in depth])
        record = ClipRecord(
            fingerprint=place.fingerprint,
            split=place.split,
            index=index,
            kind=clip.kind,
            cameras=clip.cameras,
            surroundings=clip.surroundings,
            objects=_objects(clip, depth[:, :count], visible, config.minimum_visible_pixels),
            scenery=tuple(ActorRecord(**_described(actor)) for actor in clip.scenery),
            order=tuple(
                tuple(map(tuple, order_pairs(d[:count], config.minimum_order_pixels).tolist()))
                for d in depth
            ),
            checksums=checksums,
        )
        (folder / _RECORD).write_text(record.model_dump_json(indent=1))
    return record


def load_clip(path: str | Path, meshes: str | Path | None = None) -> Clip:
    """Return the exact geometry of a clip, rebuilt from its ``clip.json``.

    Args:
        path: the record.
        meshes: the folder of meshes, needed if the clip has mesh files.

    Raises:
        ValueError: the record is missing or damaged, or a mesh file is missing or has changed.
    """
    record = load_clip_record(path)
    folder = Path(meshes) if meshes is not None else None

    def actor(found: ActorRecord) -> Actor:
        return Actor(
            found.source, shape_of(found.source, folder), found.scale, np.array(found.path)
        )

    try:
        objects, scenery = (tuple(map(actor, a)) for a in (record.objects, record.scenery))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Clip(record.kind, objects, scenery, record.cameras, record.surroundings)


def load_clip_record(path: str | Path) -> ClipRecord:
    """Return the record of a clip, read from a file.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        return ClipRecord.model_validate_json(Path(path).read_bytes())
    except (OSError, ValidationError) as error:
        raise ValueError(f"{path}: not a readable clip ({error}); render it again") from error


def clip_statistics(
    table: AmodalAnnotations, elsewhere: pd.DataFrame, records: list[ClipRecord]
) -> dict:
    """Return statistics of occlusion over time in a split; rates and shares are in 0 to 1.

    The first five names beyond those of still scenes count clips and tracks, and the object-frames
    and tracks that are hidden by 10 to 70 %, which are the ones that papers on videos score (SaVos,
    C2F-Seg). ``hidden_pixels_seen_elsewhere`` is the share of all hidden pixels whose surface
    another frame shows; ``object_frames_…`` and ``tracks_recoverable`` are the shares of objects
    hidden by 10 to 70 % of whose hidden part another frame shows at least a half (a track: in any
    of its frames).
    """
    rows = table.instances.copy()
    rate = rows["occlusion_rate"].to_numpy(dtype=np.float64)
    partly = (rate >= 0.1) & (rate <= 0.7)
    track = rows["track_id"].to_numpy(dtype=np.int64)
    found = elsewhere.set_index("instance_id").reindex(rows["instance_id"].astype(np.int64))
    share = found["seen_elsewhere"].to_numpy(dtype=np.float64)
    hidden = found["hidden_pixels"].fillna(0).to_numpy(dtype=np.float64)
    back = partly & (np.nan_to_num(share) >= 0.5)
    tracks, partly_tracks = np.unique(track), np.unique(track[partly])
    whole = np.isin(partly_tracks, track[rate < 0.05])
    return statistics(table) | {
        "clips": len(records),
        "clips_by_kind": {k: sum(r.kind == k for r in records) for k in ("orbit", "glide")},
        "tracks": len(tracks),
        "share_of_object_frames_hidden_10_to_70": float(partly.mean()),
        "share_of_tracks_hidden_10_to_70": len(partly_tracks) / max(1, len(tracks)),
        "share_of_those_nearly_whole_in_another_frame": float(whole.mean()) if len(whole) else 0.0,
        "hidden_pixels_seen_elsewhere": float(
            np.nansum(hidden * share) / max(1.0, hidden[~np.isnan(share)].sum())
        ),
        "object_frames_recoverable": float(back.sum() / max(1, partly.sum())),
        "tracks_recoverable": len(np.unique(track[back])) / max(1, len(partly_tracks)),
    }


def _existing(place: Place, index: int) -> ClipRecord | None:
    """Return the record of a clip that exists undamaged with the same fingerprint, or None."""
    folder = place.target / f"{index:06d}"
    try:
        record = load_clip_record(folder / _RECORD)
        if not place.made(record) or record.index != index:
            return None
        same = all(checksum(folder / Path(n).name) == c for n, c in record.checksums.items())
    except (ValueError, OSError):
        return None
    return record if same else None


def _depth_picture(seen: Seen) -> bytes:
    value = np.rint(seen.depth * DEPTH_UNIT)
    value[(seen.owner == SKY) | (value > np.iinfo(np.uint16).max)] = 0
    data = io.BytesIO()
    Image.fromarray(value.astype(np.uint16)).save(data, "PNG", compress_level=4)
    return data.getvalue()


def _objects(
    clip: Clip, depth: np.ndarray, visible: np.ndarray, minimum: int
) -> tuple[ObjectRecord, ...]:
    amodal = np.isfinite(depth)
    there = amodal.any(axis=(2, 3))
    elsewhere = seen_elsewhere(clip, depth, visible)
    records = []
    for k, actor in enumerate(clip.objects):
        masks = (rle.encode(a[:, k]) for a in (amodal, visible))
        whole, shown = (
            tuple(m if t else None for m, t in zip(found, there[:, k], strict=True))
            for found in masks
        )
        records.append(
            ObjectRecord(
                **_described(actor),
                amodal_rle=whole,
                visible_rle=shown,
                ignore=tuple((visible[:, k].sum(axis=(1, 2)) < minimum).tolist()),
                seen_elsewhere=tuple(
                    None if np.isnan(s) else round(float(s), 4) for s in elsewhere[:, k]
                ),
            )
        )
    return tuple(records)


def _described(actor: Actor) -> dict:
    return {"source": actor.source, "scale": actor.scale, "path": actor.path.tolist()}


def _rows(records: list[ClipRecord]) -> list[tuple[ClipRecord, int, int, ObjectRecord, int]]:
    """Return (clip, frame, place, object, image_id) of every object in every frame."""
    return [
        (r, t, k, o, len(r.cameras) * r.index + t)
        for r in records
        for t in range(len(r.cameras))
        for k, o in enumerate(r.objects)
        if o.amodal_rle[t] is not None
    ]


def _elsewhere(records: list[ClipRecord]) -> pd.DataFrame:
    """Return instance_id, hidden_pixels and seen_elsewhere of every object with a hidden part."""
    rows = [row for row in _rows(records) if row[3].seen_elsewhere[row[1]] is not None]
    amodal, visible = (
        rle.area([getattr(o, name)[t] for _, t, _, o, _ in rows])
        for name in ("amodal_rle", "visible_rle")
    )
    return pd.DataFrame(
        {
            "instance_id": [ID_STEP * image + k + 1 for _, _, k, _, image in rows],
            "hidden_pixels": amodal - visible,
            "seen_elsewhere": [o.seen_elsewhere[t] for _, t, _, o, _ in rows],
        }
    )


def _annotations(
    records: list[ClipRecord],
    models: Models,
    dataset: str,
    split: str,
    image_root: str,
    fingerprint: str,
) -> AmodalAnnotations:
    ids = {name: k + 1 for k, name in enumerate(models.categories)}
    frames = [(r, t, len(r.cameras) * r.index + t) for r in records for t in range(len(r.cameras))]
    rows = _rows(records)
    pairs = [
        (image, ID_STEP * image + front + 1, ID_STEP * image + back + 1)
        for r, t, image in frames
        for front, back in r.order[t]
    ]
    return build(
        dataset=dataset,
        split=split,
        categories=[Category(id=id_, name=name) for name, id_ in ids.items()],
        image_root=image_root,
        images={
            "image_id": [image for *_, image in frames],
            "file_name": [f"{split}/{r.index:06d}/{t:05d}.png" for r, t, _ in frames],
            "height": [r.cameras[t].height for r, t, _ in frames],
            "width": [r.cameras[t].width for r, t, _ in frames],
            "video_id": [r.index for r, *_ in frames],
            "frame": [t for _, t, _ in frames],
        },
        instances={
            "instance_id": [ID_STEP * image + k + 1 for _, _, k, _, image in rows],
            "image_id": [image for *_, image in rows],
            "category_id": [ids[o.source.category] for _, _, _, o, _ in rows],
            "amodal_rle": [o.amodal_rle[t] for _, t, _, o, _ in rows],
            "visible_rle": [o.visible_rle[t] for _, t, _, o, _ in rows],
            "track_id": [ID_STEP * r.index + k + 1 for r, _, k, _, _ in rows],
            "ignore": [o.ignore[t] for _, t, _, o, _ in rows],
        },
        order={
            "image_id": [p[0] for p in pairs],
            "occluder_id": [p[1] for p in pairs],
            "occludee_id": [p[2] for p in pairs],
        },
        sources={"moving_scenes": fingerprint},
        file="moving_scenes",
    )
