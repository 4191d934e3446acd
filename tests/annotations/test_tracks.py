"""The time axis: rows of tracks by frame, what a table may not hold, files that are joined."""

import numpy as np

from amodal_pipeline.annotations import Category, build, rle
from amodal_pipeline.annotations.tables import IMAGES, INSTANCES, frame
from amodal_pipeline.annotations.tracks import track_rows
from amodal_pipeline.annotations.validation import join


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


FULL = rle.encode(np.ones((1, 4, 6), np.uint8))[0]


def table(images: list[tuple], instances: list[tuple]):
    """Build a table of images (id, video, frame) and objects (id, image, track)."""
    ids, videos, numbers = zip(*images, strict=True)
    return build(
        dataset="made_up",
        split="train",
        categories=(Category(id=1, name="car"),),
        image_root="here",
        images={
            "image_id": ids,
            "file_name": [f"{i}.png" for i in ids],
            "height": [4] * len(ids),
            "width": [6] * len(ids),
            "video_id": videos,
            "frame": numbers,
        },
        instances={
            "instance_id": [i for i, _, _ in instances],
            "image_id": [image for _, image, _ in instances],
            "category_id": [1] * len(instances),
            "amodal_rle": [FULL] * len(instances),
            "visible_rle": [FULL] * len(instances),
            "track_id": [track for _, _, track in instances],
        },
    )


def findings(made) -> list[tuple]:
    return list(made.rejected[["record", "field"]].itertuples(index=False, name=None))


def test_images_of_a_video_are_sorted_by_frame():
    made = table([(5, 2, 1), (9, None, None), (3, 1, 7), (4, 2, 0), (1, 1, 6)], [(1, 5, 4)])
    # Where the first image of each video was; a picture without a video keeps its place.
    assert made.images["image_id"].tolist() == [4, 5, 9, 1, 3]
    assert not findings(made)
    assert {k: v.tolist() for k, v in made.tracks.items()} == {4: [0]}


def test_what_contradicts_the_time_axis_is_rejected():
    images = [(1, 1, 0), (2, 1, 1), (3, 2, 0), (4, 1, 1), (5, 1, None), (6, None, 3), (7, 1, -1)]
    made = table(
        [*images, (8, None, None)],
        [
            (10, 1, 100),
            (11, 2, 100),
            (12, 2, 100),  # twice in a frame
            (13, 3, 100),  # in another video
            (14, 3, 200),
            (15, 8, 200),  # in a picture of no video
            (16, 8, 300),  # views of one object, all in pictures of no video
            (17, 8, 300),
            (18, 1, None),
            (19, 1, None),
        ],
    )
    assert findings(made) == [
        *((f"image {i}", "frame") for i in (4, 5, 6, 7)),
        *((f"instance {i}", "track_id") for i in (12, 13, 15)),
    ]
    assert made.images["image_id"].tolist() == [1, 2, 3, 8]
    assert {k: v.tolist() for k, v in made.tracks.items()} == {100: [0, 3], 200: [4]}


def test_joined_files_keep_their_videos_and_tracks_apart():
    one = table([(1, 1, 0), (2, 1, 1)], [(1, 1, 7), (2, 2, 7)])
    two = table([(11, 1, 0)], [(11, 11, 7)])
    both = join([one, two])
    assert both.images["video_id"].nunique() == 2
    assert both.images["image_id"].tolist() == [1, 2, 11]
    assert [len(rows) for rows in both.tracks.values()] == [2, 1]
