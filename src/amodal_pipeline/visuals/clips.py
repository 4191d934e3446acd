"""Clips with their truth: a sheet of frames × objects, and an animated picture."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from amodal_pipeline.annotations import AmodalAnnotations, rle
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.visuals.colours import EMPTY, INK, PAPER, object_colours
from amodal_pipeline.visuals.overlays import draw_objects
from amodal_pipeline.visuals.sheet import CELL, sheet
from amodal_pipeline.visuals.text import font, quantity, shortened
from amodal_pipeline.visuals.worst import image_or_grey

_SHARPNESS = 2  # pictures are drawn this many times larger and reduced: lines come out smooth
_ROOM = 1.3  # of a track's longest side: what its cells show
_GAP = 6
_LONGEST = 48  # frames of an animation
_MILLISECONDS = 110  # per frame


class _Moment(NamedTuple):
    """An object in a frame: run lengths, the hidden share, the amodal box [4]."""

    amodal: str
    visible: str
    hidden: float
    box: np.ndarray


@dataclass(frozen=True)
class _Track:
    """An object of a clip: its number, colour uint8 [3], category, and by image_id its frames."""

    number: int
    colour: np.ndarray
    category: str
    moments: dict[int, _Moment]

    @property
    def hidden(self) -> np.ndarray:
        return np.array([moment.hidden for moment in self.moments.values()])


def clips_of(annotations: AmodalAnnotations, count: int) -> list[int]:
    """Return the ids of the clips with most objects that are partly hidden, at most ``count``.

    An object counts by the frames in which 10 to 70 % of it are hidden.
    """
    images = annotations.images[annotations.images["video_id"].notna().to_numpy(dtype=bool)]
    video = pd.Series(
        images["video_id"].to_numpy(dtype=np.int64), images["image_id"].to_numpy(dtype=np.int64)
    )
    rate = annotations.instances["occlusion_rate"].to_numpy(dtype=np.float64)
    image_id = annotations.instances["image_id"].to_numpy(dtype=np.int64)
    partly = video.reindex(image_id[(rate >= 0.1) & (rate <= 0.7)]).dropna()
    ids, counts = np.unique(np.concatenate([video, partly]), return_counts=True)
    counts -= np.unique(video, return_counts=True)[1]
    return ids[np.argsort(-counts, kind="stable")][:count].astype(int).tolist()


def clip_sheet(
    annotations: AmodalAnnotations, video_id: int, frames: int = 8, objects: int = 10
) -> Image.Image:
    """Draw a clip as frames × objects: the frames, and below each object by itself over time.

    The visible part is filled, the hidden part striped, and the number in a cell is the share that
    is hidden. A cell is empty where the object is out of the picture.

    Args:
        frames: columns, evenly spaced over the clip.
        objects: rows at most, those first that are partly hidden most often.

    Raises:
        ValueError: there is no such clip.
    """
    images = _frames(annotations, video_id)
    images = images.iloc[evenly(len(images), frames)]
    pictures = [_read(annotations, record) for _, record in images.iterrows()]
    tracks = _tracks(annotations, images)
    overlays = [
        _whole(p, i, tracks, CELL) for p, i in zip(pictures, images["image_id"], strict=True)
    ]
    rows = [(overlays, f"{quantity(len(tracks), 'object')}, all together")]
    for track in tracks[:objects]:
        side = _side(track)
        cells = [
            _alone(picture, track, int(image_id), side)
            for picture, image_id in zip(pictures, images["image_id"], strict=True)
        ]
        hidden = track.hidden
        rows.append((cells, f"{track.category}, {_range(hidden)} hidden"))
    return sheet(
        f"{annotations.metadata.dataset}, {annotations.metadata.split}, clip {video_id}",
        [f"frame {frame}" for frame in images["frame"]],
        rows,
        "Filled: visible. Striped: hidden. Numbers: share that is hidden. A colour per object.",
    )


def clip_animation(
    annotations: AmodalAnnotations, video_ids: Sequence[int], cell: int = 256
) -> list[Image.Image]:
    """Draw clips beside each other, above with their truth and below as they are, frame by frame.

    A clip that is shorter than the longest one stops at its last frame. At most 48 frames are
    drawn.

    Raises:
        ValueError: there is no such clip.
    """
    clips = []
    for video_id in video_ids:
        images = _frames(annotations, video_id).iloc[:_LONGEST]
        clips.append((images, _tracks(annotations, images)))
    out = []
    for t in range(max(len(images) for images, _ in clips)):
        cells = []
        for images, tracks in clips:
            record = images.iloc[min(t, len(images) - 1)]
            picture = _read(annotations, record)
            truth = _whole(picture, int(record["image_id"]), tracks, cell)
            cells.append((truth, fitted(Image.fromarray(picture), cell)))
        page = Image.new("RGB", (len(cells) * (cell + _GAP) - _GAP, 2 * cell + _GAP), PAPER)
        for i, column in enumerate(cells):
            for k, drawn in enumerate(column):
                page.paste(drawn, (i * (cell + _GAP), k * (cell + _GAP)))
        out.append(page)
    return out


def animated(frames: Sequence[Image.Image], milliseconds: int = _MILLISECONDS) -> bytes:
    """Return frames of some milliseconds each as an animated WebP that repeats for ever."""
    data = io.BytesIO()
    first, *others = frames
    first.save(
        data,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=milliseconds,
        loop=0,
        quality=80,
        method=3,
    )
    return data.getvalue()


def evenly(length: int, count: int) -> np.ndarray:
    """Return ``count`` positions evenly spaced over ``length``, or all where these are fewer."""
    return np.unique(np.linspace(0, length - 1, count).round().astype(int))


def _frames(annotations: AmodalAnnotations, video_id: int) -> pd.DataFrame:
    video = annotations.images["video_id"]
    images = annotations.images[(video == video_id).fillna(False).to_numpy(dtype=bool)]
    if not len(images):
        raise ValueError(f"clip {video_id} is not in the table: choose one of its column video_id")
    return images.sort_values("frame")


def _read(annotations: AmodalAnnotations, record: pd.Series) -> np.ndarray:
    canvas = int(record["height"]), int(record["width"])
    return image_or_grey(annotations, record["file_name"], canvas)[0]


def _tracks(annotations: AmodalAnnotations, images: pd.DataFrame) -> list[_Track]:
    """Return the objects of some frames, those that are partly hidden most often first.

    Those that are marked ``ignore`` in all of the frames are left out.
    """
    names = {c.id: c.name for c in annotations.metadata.categories}
    wanted = annotations.instances["image_id"].isin(list(images["image_id"]))
    wanted &= annotations.instances["track_id"].notna()
    found = annotations.instances[wanted.to_numpy(dtype=bool)]
    counted = set(found["track_id"][~found["ignore"].to_numpy(dtype=bool)])
    found = found[found["track_id"].isin(counted).to_numpy(dtype=bool)]
    by_track: dict[int, dict[int, _Moment]] = {}
    categories = {}
    for row, box in zip(found.itertuples(), boxes(found["amodal_box"]), strict=True):
        moment = _Moment(row.amodal_rle, row.visible_rle, float(row.occlusion_rate), box)
        by_track.setdefault(int(row.track_id), {})[int(row.image_id)] = moment
        categories[int(row.track_id)] = names[int(row.category_id)]
    # Colours by number, so that an object has one colour in the sheet and the animation.
    colours = dict(zip(sorted(by_track), object_colours(range(len(by_track))), strict=True))
    tracks = [
        _Track(number, colours[number], categories[number], moments)
        for number, moments in by_track.items()
    ]
    return sorted(tracks, key=lambda t: (-((t.hidden >= 0.1) & (t.hidden <= 0.7)).sum(), t.number))


def _whole(picture: np.ndarray, image_id: int, tracks: Sequence[_Track], cell: int) -> Image.Image:
    there = [t for t in tracks if image_id in t.moments]
    amodal = [t.moments[image_id].amodal for t in there]
    visible = [t.moments[image_id].visible for t in there]
    colours = np.array([t.colour for t in there], np.uint8).reshape(-1, 3)
    height, width = picture.shape[:2]
    scale = cell * _SHARPNESS / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    drawn = Image.fromarray(draw_objects(picture, amodal, visible, colours=colours, size=size))
    return fitted(drawn, cell)


def _alone(picture: np.ndarray, track: _Track, image_id: int, side: int) -> Image.Image:
    moment = track.moments.get(image_id)
    if moment is None:
        return Image.new("RGB", (CELL, CELL), EMPTY)
    masks = (moment.amodal, moment.visible)
    return cut_out(picture, masks, moment.box, side, track.colour, f"{moment.hidden:.0%}")


def cut_out(
    picture: np.ndarray,
    masks: Sequence[str],
    box: np.ndarray,
    side: int,
    colour: np.ndarray,
    text: str = "",
) -> Image.Image:
    """Draw one object in a window around it; what is not visible of it is pale.

    Args:
        picture: uint8 [H, W, 3].
        masks: run lengths, amodal and visible.
        box: (x, y, width, height), in whose middle the window is.
        side: of the window, in pixels.
        colour: uint8 [3].
        text: in the lower left corner.
    """
    canvas = picture.shape[:2]
    x, y, width, height = box
    top, left = round(y + height / 2 - side / 2), round(x + width / 2 - side / 2)
    decoded = rle.decode(list(masks), canvas)
    # Windows may reach beyond the picture.
    padded = np.pad(decoded, ((0, 0), (side, side), (side, side)))
    window = slice(top + side, top + 2 * side), slice(left + side, left + 2 * side)
    pixels = np.pad(picture, ((side, side), (side, side), (0, 0)), constant_values=EMPTY[0])[window]
    pale = (0.4 * pixels + 0.6 * 240).astype(np.uint8)
    seen = padded[1][window].astype(bool)
    pale[seen] = pixels[seen]
    whole, visible = rle.encode(padded[:, *window])
    drawn = draw_objects(
        pale,
        [whole],
        [visible],
        colours=colour[None],
        size=(CELL * _SHARPNESS, CELL * _SHARPNESS),
    )
    cell = Image.fromarray(drawn).reduce(_SHARPNESS)
    if text:
        style = font(11, True)
        draw = ImageDraw.Draw(cell)
        draw.rectangle((0, CELL - 16, style.getlength(text) + 7, CELL), PAPER)
        draw.text((4, CELL - 15), shortened(text, style, CELL), INK, style)
    return cell


def _side(track: _Track) -> int:
    return window_side(np.stack([moment.box for moment in track.moments.values()]))


def window_side(boxes: np.ndarray) -> int:
    """Return the side in pixels of windows in which boxes [T, 4] of an object have some room."""
    return max(8, round(_ROOM * float(boxes[:, 2:].max())))


def fitted(picture: Image.Image, cell: int) -> Image.Image:
    """Return a picture on a square of ``cell`` pixels."""
    scale = cell / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    page = Image.new("RGB", (cell, cell), EMPTY)
    small = picture.resize(size, Image.Resampling.LANCZOS)
    page.paste(small, ((cell - size[0]) // 2, (cell - size[1]) // 2))
    return page


def _range(rates: np.ndarray) -> str:
    low, high = f"{rates.min():.0%}", f"{rates.max():.0%}"
    return low if low == high else f"{low} to {high}"
