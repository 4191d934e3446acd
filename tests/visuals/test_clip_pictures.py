"""Pictures of clips: what is drawn where, on a clip made by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from amodal_pipeline.annotations import Category, build, rle
from amodal_pipeline.visuals.clips import animated, clip_animation, clip_sheet, clips_of
from amodal_pipeline.visuals.sheet import CELL

SIZE, FRAMES = (40, 60), 5


@pytest.fixture
def table(tmp_path):
    """Clip 3: a square that another crosses, and leaves at the end. Clip 4: the same, apart."""
    images, rows = [], []
    for video in (3, 4):
        for t in range(FRAMES):
            image_id, name = 10 * video + t, f"{video}_{t}.png"
            Image.new("RGB", SIZE[::-1], (90, 120, 90)).save(tmp_path / name)
            images.append((image_id, name, video, t))
            resting, moving = (np.zeros(SIZE, bool) for _ in range(2))
            resting[15:25, 20:30] = True
            left = 5 + 9 * t if video == 3 else 40
            moving[15:25, left : left + 10] = True
            shapes = [(resting, resting & ~moving), (moving, moving)]
            for k, (amodal, visible) in enumerate(shapes[: 1 if t == FRAMES - 1 else 2]):
                masks = rle.encode(np.stack([amodal, visible]))
                rows.append((2 * image_id + k, image_id, *masks, 2 * video + k))
    names = ("image_id", "file_name", "video_id", "frame")
    columns = ("instance_id", "image_id", "amodal_rle", "visible_rle", "track_id")
    return build(
        dataset="toy",
        split="train",
        categories=[Category(id=1, name="square")],
        image_root=str(tmp_path),
        images=dict(zip(names, map(list, zip(*images, strict=True)), strict=True))
        | {"height": [SIZE[0]] * len(images), "width": [SIZE[1]] * len(images)},
        instances=dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
        | {"category_id": [1] * len(rows)},
    )


def test_the_clip_with_most_hidden_parts_comes_first(table):
    assert clips_of(table, 5) == [3, 4] and clips_of(table, 1) == [3]


def test_a_sheet_has_a_row_per_object_and_empty_cells_where_it_is_absent(table):
    page = clip_sheet(table, 3, frames=5)
    rows = (page.height - 24 - 22 - 62 - 24) / (CELL + 30)
    assert rows == 3
    # The second object's last cell: it has left.
    top, left = 24 + 22 + 56 + 2 * (CELL + 30), 24 + 4 * (CELL + 8)
    cells = np.asarray(page)[top : top + CELL, left - CELL - 8 : left + CELL]
    assert (cells[:, CELL + 8 :] == (241, 243, 246)).all()
    assert len(np.unique(cells[:, :CELL].reshape(-1, 3), axis=0)) > 5
    assert clip_sheet(table, 3, frames=5, objects=1).height == page.height - CELL - 30
    with pytest.raises(ValueError, match="clip 7 is not in the table"):
        clip_sheet(table, 7)


def test_an_animation_has_a_frame_per_frame(table):
    frames = clip_animation(table, [3, 4], cell=64)
    assert len(frames) == FRAMES and frames[0].size == (2 * 70 - 6, 2 * 70 - 6)
    assert (np.asarray(frames[0]) != np.asarray(frames[2])).any()
    data = animated(frames)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "WEBP" and image.n_frames == FRAMES
