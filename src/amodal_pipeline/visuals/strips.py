"""Strips: an object over time, what is visible of it and how it is completed (C2F-Seg, Fig. 7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations, Predictions, rle
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.annotations.tracks import frame_of, track_rows
from amodal_pipeline.samples.clips import interpolated
from amodal_pipeline.visuals.clips import cut_out, evenly, fitted, window_side
from amodal_pipeline.visuals.colours import EMPTY, object_colours
from amodal_pipeline.visuals.sheet import CELL, sheet

COLUMNS, OBJECTS = 8, 6  # of a sheet at most
_NOTE = "Filled: visible. Striped: what is added."

Masks = Sequence[str]  # run lengths, amodal and visible
Cells = tuple[list[Image.Image], str]


@dataclass(frozen=True)
class Strip:
    """An object in some frames of a clip.

    Attributes:
        name: of the object.
        colour: uint8 [3].
        boxes: by image_id, what windows are around, float [4] (x, y, width, height).
        rows: headings and, by image_id, masks and a text about them. Cells are empty in frames
            without any.
    """

    name: str
    colour: np.ndarray
    boxes: Mapping[int, np.ndarray]
    rows: Sequence[tuple[str, Mapping[int, tuple[Masks, str]]]]


def tracks_strip(predictions: Predictions) -> Image.Image:
    """Draw a completed video: frames, and below them each object as it is seen and completed.

    At most 8 frames, evenly spaced, and 6 objects, those first of which most is added.

    Raises:
        ValueError: a frame cannot be read.
    """
    table, images = predictions.predictions, predictions.images.sort_values("frame")
    shown = images.iloc[evenly(len(images), COLUMNS)]
    pictures = read(predictions.metadata.image_root, shown)
    names = {c.id: c.name for c in predictions.metadata.categories}
    strips = []
    for track, at in _by_what_is_added(table, images)[:OBJECTS]:
        own = table.iloc[at]
        name = f"{names.get(int(own['category_id'].iloc[0]), 'object')} {track}"
        colour = object_colours(np.array([track]))[0]
        strips.append(completed(name, colour, own, images))
    rows = [whole_frames(pictures, "frames")]
    for strip in strips:
        rows += object_rows(strip, pictures)
    headings = [f"frame {frame}" for frame in shown["frame"]]
    title = f"{predictions.metadata.dataset}: {predictions.metadata.method}"
    return sheet(title, headings, rows, _NOTE)


def truth_strips(
    annotations: AmodalAnnotations, predictions: Predictions, tracks: Sequence[int]
) -> Image.Image:
    """Draw objects of a split over time: frames, visible, completed and the truth.

    The number in a cell of completed masks is their IoU with the truth, of which the hidden share
    is below.

    Args:
        annotations: the truth.
        predictions: completed masks of the tracks (``instance_id`` names the true object).
        tracks: the objects, top to bottom.

    Raises:
        ValueError: a frame cannot be read.
    """
    names = {c.id: c.name for c in annotations.metadata.categories}
    found, rows = predictions.predictions, []
    for place, track in enumerate(tracks):
        truth = annotations.instances.iloc[annotations.tracks[track]]
        images = annotations.images[annotations.images["image_id"].isin(truth["image_id"])]
        shown = images.sort_values("frame").iloc[evenly(len(images), COLUMNS)]
        pictures = read(annotations.metadata.image_root, shown)
        own = found[(found["track_id"] == track).fillna(False).to_numpy(dtype=bool)]
        whole = dict(zip(truth["instance_id"], truth["amodal_rle"], strict=True))
        true = [whole[each] for each in own["instance_id"]]
        shares = rle.pair_iou(own["amodal_rle"].tolist(), true)
        strip = completed(
            f"{names[int(truth['category_id'].iloc[0])]} of clip {shown['video_id'].iloc[0]}",
            object_colours(range(place + 1))[place],
            own.assign(text=[f"{share:.2f}" for share in shares]),
            images,
            truth,
        )
        frames = ", ".join(map(str, shown["frame"]))
        rows += [whole_frames(pictures, f"{strip.name}: frames {frames}")]
        rows += object_rows(strip, pictures)
    made = annotations.metadata
    note = f"{_NOTE} Numbers: IoU with the truth; below, the share that is hidden."
    if not tracks:
        note = "No object of a video is hidden by 10 to 70 %."
    title = f"{made.dataset}, {made.split}: {predictions.metadata.method}"
    return sheet(title, [""] * COLUMNS, rows, note)


def partly_hidden_tracks(annotations: AmodalAnnotations, count: int) -> list[int]:
    """Return the objects of videos that are partly hidden (10–70 %) in most frames, ``count`` at
    most: of each video one, before any has a second."""
    truth = annotations.instances
    rate = truth["occlusion_rate"].to_numpy(dtype=np.float64)
    partly = (rate >= 0.1) & (rate <= 0.7) & ~truth["ignore"].to_numpy(dtype=bool)
    video = annotations.images.set_index("image_id")["video_id"].loc[truth["image_id"]]
    ranked = pd.DataFrame(
        {
            "track": list(annotations.tracks),
            "video": [int(video.iloc[rows[0]]) for rows in annotations.tracks.values()],
            "frames": [int(partly[rows].sum()) for rows in annotations.tracks.values()],
        }
    )
    ranked = ranked[ranked["frames"] > 0].sort_values("frames", ascending=False, kind="stable")
    turn = ranked.groupby("video").cumcount()
    return ranked.iloc[np.argsort(turn, kind="stable")]["track"].tolist()[:count]


def completed(
    name: str,
    colour: np.ndarray,
    own: pd.DataFrame,
    images: pd.DataFrame,
    truth: pd.DataFrame | None = None,
) -> Strip:
    """Return the strip of an object.

    Args:
        name, colour: as of :class:`Strip`.
        own: rows of PREDICTIONS with both masks, and "text" of the completed ones if there is any.
        images: rows of IMAGES, with all frames of the object.
        truth: rows of INSTANCES.
    """
    ids = own["image_id"].tolist()
    visible, amodal = (own[f"{kind}_rle"].tolist() for kind in ("visible", "amodal"))
    texts = own["text"].tolist() if "text" in own else [""] * len(own)
    rows = [
        ("visible", {each: ((mask, mask), "") for each, mask in zip(ids, visible, strict=True)}),
        (
            "completed",
            {
                each: (masks, text)
                for each, *masks, text in zip(ids, amodal, visible, texts, strict=True)
            },
        ),
    ]
    around = own
    if truth is not None:
        masks = zip(truth["amodal_rle"], truth["visible_rle"], strict=True)
        shares = (f"{share:.0%}" for share in truth["occlusion_rate"])
        true = zip(truth["image_id"].tolist(), zip(masks, shares, strict=True), strict=True)
        rows.append(("truth", dict(true)))
        around = truth
    known, (frame, _) = boxes(around["amodal_box"]), frame_of(around, images)
    order = np.argsort(frame)
    known = known[order]
    if np.isnan(known).all():
        known = np.zeros_like(known)
    filled = interpolated(known, frame[order])
    of = around["image_id"].to_numpy(dtype=np.int64)[order].tolist()
    return Strip(name, colour, dict(zip(of, filled, strict=True)), rows)


def object_rows(strip: Strip, pictures: Mapping[int, np.ndarray]) -> list[Cells]:
    """Return the cells of an object in some frames (by image_id, uint8 [H, W, 3]), and captions."""
    side = window_side(np.stack(list(strip.boxes.values())))
    found = []
    for heading, masks in strip.rows:
        cells = []
        for image_id, picture in pictures.items():
            if image_id not in masks:
                cells.append(Image.new("RGB", (CELL, CELL), EMPTY))
                continue
            pair, text = masks[image_id]
            box = strip.boxes[image_id]
            cells.append(cut_out(picture, pair, box, side, strip.colour, text))
        found.append((cells, f"{strip.name}: {heading}"))
    return found


def whole_frames(pictures: Mapping[int, np.ndarray], caption: str) -> Cells:
    """Return a row of frames as they are."""
    return [fitted(Image.fromarray(picture), CELL) for picture in pictures.values()], caption


def read(root: str, images: pd.DataFrame) -> dict[int, np.ndarray]:
    """Return images by image_id, uint8 [H, W, 3]."""
    return {
        int(image_id): read_image(root, name, (int(height), int(width)))
        for image_id, name, height, width in zip(
            *(images[column] for column in ("image_id", "file_name", "height", "width")),
            strict=True,
        )
    }


def _by_what_is_added(table: pd.DataFrame, images: pd.DataFrame) -> list[tuple[int, np.ndarray]]:
    """Return tracks with their rows, those first of which most pixels are added, for their size."""
    amodal, visible = (rle.area(table[f"{k}_rle"].tolist()) for k in ("amodal", "visible"))
    both = rle.shared_area(table["amodal_rle"].tolist(), table["visible_rle"].tolist())
    added = amodal - both

    def share(rows: np.ndarray) -> float:
        return added[rows].sum() / max(amodal[rows].sum(), visible[rows].sum(), 1)

    tracks = track_rows(table, images).items()
    return sorted(tracks, key=lambda each: (-share(each[1]), each[0]))
