"""Scored frames, as a loop over tracks picks them."""

import numpy as np

from amodal_pipeline.annotations import Category, build, rle
from amodal_pipeline.annotations.populations import (
    changing,
    first_frames,
    partly_occluded,
    seen,
)


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
    first = {(track, frame) for track, values in rates.items() for frame in range(len(values[:7]))}
    assert pairs(first_frames(made, 7)) == {each for each in first if each[0] != 0}


def test_tracks_that_change_are_those_of_a_loop():
    """Tracks of rectangles that move by a pixel a frame; some of them grow, too."""
    rng = np.random.default_rng(0)
    frames, size = 12, (40, 60)
    lengths, growth = [12, 12, 12, 8, 12, 9], [0, 0, 1, 1, 0.3, 0]
    rows, visible = [], []
    for track, (length, more) in enumerate(zip(lengths, growth, strict=True)):
        for t in range(length):
            mask = np.zeros(size, bool)
            mask[2 : 9 + int(more * t), 30 - 2 * t :][:, : 10 + int(more * t)] = True
            if track == 1 and t == 5:  # hidden at random
                mask &= rng.random(size) < 0.3
            if track == 5 and t in (3, 4):  # not seen
                mask[:] = False
            rows.append((track, t))
            visible.append(mask)
    amodal = [mask if mask.any() else np.eye(*size, dtype=bool) for mask in visible]
    made = build(
        dataset="made_up",
        split="train",
        categories=(Category(id=1, name="fish"),),
        image_root="",
        images={
            "image_id": range(frames),
            "file_name": [f"{t}.png" for t in range(frames)],
            "height": [size[0]] * frames,
            "width": [size[1]] * frames,
            "video_id": [1] * frames,
            "frame": range(frames),
        },
        instances={
            "instance_id": range(len(rows)),
            "image_id": [t for _, t in rows],
            "category_id": [1] * len(rows),
            "amodal_rle": rle.encode(np.array(amodal)),
            "visible_rle": rle.encode(np.array(visible)),
            "track_id": [track for track, _ in rows],
        },
    )

    def outlines(track):
        for (of, _), mask in zip(rows, visible, strict=True):
            y, x = np.nonzero(mask)
            if of == track and len(y):
                canvas = np.zeros(size, bool)
                canvas[y - y.min(), x - x.min()] = True
                yield canvas

    for longer_than, expected in ((7, {1, 2, 3}), (8, {1, 2})):
        slow = set()
        for track in range(len(lengths)):
            own = list(outlines(track))
            ious = [(a & b).sum() / (a | b).sum() for a, b in zip(own, own[3:], strict=False)]
            if len(own) > longer_than and min(ious) < 0.6:
                slow.add(track)
        chosen = changing(made, 0.6, apart=3, longer_than=longer_than)
        of = made.instances["track_id"].to_numpy(dtype=np.int64)
        assert set(of[chosen]) == slow == expected
        assert chosen.sum() == sum(lengths[track] for track in slow)
