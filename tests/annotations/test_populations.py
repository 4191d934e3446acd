"""Scored frames, as a loop over tracks picks them."""

import numpy as np

from amodal_pipeline.annotations import Category, build, rle
from amodal_pipeline.annotations.populations import partly_occluded, seen


def tracks(rates: dict[int, list[float]], ignored: int):
    """Build a table of tracks with the given occlusion rates in frames 0, 1, … of one video."""
    frames = max(map(len, rates.values()))
    rows = [
        (track, frame, rate) for track, values in rates.items() for frame, rate in enumerate(values)
    ]
    full = np.ones((len(rows), 1, 100), bool)
    visible = np.arange(100) >= np.array([[[round(100 * rate)]] for _, _, rate in rows])
    return build(
        dataset="made_up",
        split="val",
        categories=(Category(id=1, name="fish"),),
        image_root="",
        images={
            "image_id": range(frames),
            "file_name": [f"{t}.png" for t in range(frames)],
            "height": [1] * frames,
            "width": [100] * frames,
            "video_id": [1] * frames,
            "frame": range(frames),
        },
        instances={
            "instance_id": range(len(rows)),
            "image_id": [t for _, t, _ in rows],
            "category_id": [1] * len(rows),
            "amodal_rle": rle.encode(full),
            "visible_rle": rle.encode(visible),
            "track_id": [None if track == 0 else track for track, _, _ in rows],
            "ignore": [track == ignored for track, _, _ in rows],
        },
    )


def test_populations():
    rng = np.random.default_rng(0)
    rates = {
        track: rng.choice([0, 0.1, 0.11, 0.4, 0.69, 0.7, 1], 12).tolist() for track in range(6)
    }
    rates[3] = rates[3][:10]  # too short by one
    rates[4] = [0.5, *[0.05] * 10, 0.5]  # occluded in its first and last frame only
    made = tracks(rates, ignored=5)
    scored, visible = set(), set()
    for track in (1, 2, 3, 4):
        for frame, rate in enumerate(rates[track]):
            if rate < 1:
                visible.add((track, frame))
            inner = 0 < frame < len(rates[track]) - 1
            if 0.1 < rate < 0.7 and inner and len(rates[track]) > 10:
                scored.add((track, frame))

    def pairs(which):
        rows = made.instances[which]
        return set(zip(rows["track_id"], rows["image_id"], strict=True))

    assert len(scored) > 4
    assert pairs(partly_occluded(made)) == scored
    assert pairs(seen(made)) == visible
    assert pairs(partly_occluded(made, 0.1, 0.7, longer_than=9)) > scored
