"""Clips from photographs: what is claimed to be true is true of every frame."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.flow import read_flow
from amodal_pipeline.compose.clips import compose_clips
from amodal_pipeline.compose.config import ComposeConfig, ComposedClipsConfig
from tests.compose.test_compose_dataset import SIZE, source  # noqa: F401 - a fixture

FRAMES = 8
CONFIG = ComposedClipsConfig(
    pictures=ComposeConfig(
        image_format="png", min_source_area=100, occluders=(1, 3), match_brightness=False
    ),
    frames=FRAMES,
    flow=True,
)


@pytest.fixture
def made(source, tmp_path):  # noqa: F811
    return tmp_path / "out", compose_clips(CONFIG, "train", *source, tmp_path / "out")


def records(folder):
    return [json.loads(p.read_text()) for p in sorted(folder.glob("*/clip.json"))]


def masks(rows, column):
    return rle.decode(rows[column].tolist(), SIZE).astype(bool)


def test_truth_holds_for_every_frame(made, source):  # noqa: F811
    folder, table = made
    assert len(table.images) == 6 * FRAMES and len(table.rejected) == 0
    written = records(folder / "train")
    for image in table.images.itertuples():
        record, rows = written[image.video_id], table.of_image(image.image_id)
        place = rows["track_id"].to_numpy(np.int64)
        place = place - sum(len(r["instances"]) for r in written[: image.video_id]) - 1
        entries = [record["instances"][k] for k in place]
        pasted = np.array([e["pasted"] for e in entries])
        amodal, visible = masks(rows, "amodal_rle"), masks(rows, "visible_rle")
        for i in range(len(rows)):
            later = pasted & (np.arange(len(rows)) > i)
            np.testing.assert_array_equal(visible[i], amodal[i] & ~amodal[later].any(axis=0))
        # Beyond the soft rims of the cut-outs the frame is the photograph.
        still = np.asarray(Image.open(source[1] / f"p{image.video_id + 1}.png"))
        frame = np.asarray(Image.open(folder / image.file_name))
        # At the border, they may come from outside the picture.
        reach = np.ones(SIZE, bool)
        reach[3:-3, 3:-3] = False
        reach |= binary_dilation(amodal[pasted].any(axis=0), iterations=3)
        assert (frame == still)[~reach].all()


def test_an_object_is_whole_before_or_after_something_passes_over_it(made):
    _, table = made
    counted = table.instances[~table.instances["ignore"].to_numpy(bool)]
    rate = counted["occlusion_rate"].astype(float).groupby(counted["track_id"].astype(int))
    crossed = rate.max() > 0.1
    assert crossed.sum() >= 5 and (rate.min()[crossed] < 0.05).mean() > 0.7


def test_flow_moves_the_cut_outs(made):
    folder, _ = made
    moved = 0
    for record in records(folder / "train"):
        for t in range(FRAMES - 1):
            flow = read_flow(folder / f"train/{record['name']}/{t:05d}.forward.flo", SIZE)
            back = read_flow(folder / f"train/{record['name']}/{t + 1:05d}.backward.flo", SIZE)
            for entry in record["instances"]:
                shown = [entry["visible_rle"][u] for u in (t, t + 1)]
                if None in shown:
                    continue
                before, after = rle.decode(shown, SIZE).astype(bool)
                if not entry["pasted"]:
                    assert (flow[before] == 0).all()
                elif before.any() and after.any():
                    whole = rle.decode([entry["amodal_rle"][t + 1]], SIZE)[0].astype(bool)
                    y, x = np.nonzero(before)
                    dx, dy = flow[before].T.astype(int)
                    y, x = y + dy, x + dx
                    inside = (y >= 0) & (y < SIZE[0]) & (x >= 0) & (x < SIZE[1])
                    assert whole[y[inside], x[inside]].all()
                    assert (back[after] == -flow[before][0]).all()
                    moved += bool(dx.any())
    assert moved > 20


def test_same_bytes_with_any_number_of_workers_and_nothing_made_twice(made, source, tmp_path):  # noqa: F811
    folder, table = made
    files = {p.relative_to(folder): p for p in folder.rglob("*") if p.is_file()}
    times = {p: p.stat().st_mtime_ns for p in files.values() if p.name != "statistics.json"}
    again = compose_clips(CONFIG, "train", *source, folder)
    assert again.fingerprint == table.fingerprint
    assert times == {p: p.stat().st_mtime_ns for p in times}
    compose_clips(CONFIG, "train", *source, tmp_path / "other", workers=2)
    for name, path in files.items():
        assert (tmp_path / "other" / name).read_bytes() == path.read_bytes()
