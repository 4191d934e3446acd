"""The rows of tracks in the order of their frames."""

import numpy as np

from amodal_pipeline.annotations.tables import IMAGES, INSTANCES, frame
from amodal_pipeline.annotations.tracks import track_rows


def test_rows_of_tracks_by_frame_as_a_loop_finds_them():
    rng = np.random.default_rng(0)
    numbers = rng.permutation(12)
    images = frame(
        IMAGES,
        {
            "image_id": np.arange(100, 112),
            "video_id": [1] * 10 + [None] * 2,
            "frame": [int(n) for n in numbers[:10]] + [None] * 2,
        },
    )
    image_id = rng.integers(100, 112, 60)
    track = [None if t == 0 else int(t) for t in rng.integers(0, 5, 60)]
    instances = frame(
        INSTANCES, {"instance_id": np.arange(60), "image_id": image_id, "track_id": track}
    )
    wanted: dict[int, list[int]] = {}
    for row in range(60):
        if track[row] is not None and image_id[row] < 110:
            wanted.setdefault(track[row], []).append(row)
    for rows in wanted.values():
        rows.sort(key=lambda row: numbers[image_id[row] - 100])
    found = track_rows(instances, images)
    assert {track: rows.tolist() for track, rows in found.items()} == wanted
    assert list(found) == sorted(wanted)
    assert track_rows(instances.iloc[:0], images) == {}
    assert track_rows(instances, images.iloc[:0]) == {}
