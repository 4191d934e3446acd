"""The time axis of a table: tracks of objects through the frames of videos."""

import numpy as np
import pandas as pd


def track_rows(instances: pd.DataFrame, images: pd.DataFrame) -> dict[int, np.ndarray]:
    """Return the rows of each track's instances, in the order of their frames.

    Args:
        instances: rows of INSTANCES or PREDICTIONS. Those without a track, or in an image without
            a frame, are left out.
        images: rows of IMAGES.

    Returns:
        by track_id, ascending: positions in ``instances``, int64 [T].
    """
    track, has_track = _integers(instances["track_id"])
    frame, has_frame = frame_of(instances, images)
    rows = np.flatnonzero(has_track & has_frame)
    rows = rows[np.lexsort([frame[rows], track[rows]])]
    ids, starts = np.unique(track[rows], return_index=True)
    return dict(zip(ids.tolist(), np.split(rows, starts[1:]), strict=True)) if len(ids) else {}


def frame_of(instances: pd.DataFrame, images: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the frame of each instance's image, int64 [N], and whether it has one, bool [N]."""
    frame, known = _integers(images["frame"])
    frame_by_id = pd.Series(frame[known], index=_integers(images["image_id"])[0][known])
    wanted, _ = _integers(instances["image_id"])
    found = frame_by_id.index.get_indexer(wanted)
    has = found >= 0
    return np.where(has, np.append(frame_by_id.to_numpy(np.int64), 0)[found], 0), has


def by_frame(images: pd.DataFrame) -> pd.DataFrame:
    """Return the images with the frames of each video in order, at the place of the first of them.

    Args:
        images: rows of IMAGES; those without a video keep their places.
    """
    video, has_video = _integers(images["video_id"])
    if not has_video.any():
        return images
    frame, _ = _integers(images["frame"])
    place = np.arange(len(images))
    _, first, of = np.unique(video[has_video], return_index=True, return_inverse=True)
    place[has_video] = np.flatnonzero(has_video)[first][of]
    rows = np.lexsort([frame, place])
    return images.iloc[rows].reset_index(drop=True)


def frame_problems(images: pd.DataFrame) -> list[tuple[np.ndarray, str]]:
    """Return which images contradict the time axis, bool [N], and the reasons."""
    video, has_video = _integers(images["video_id"])
    frame, has_frame = _integers(images["frame"])
    if not (has_video | has_frame).any():
        return []
    place = pd.DataFrame({"video": video, "frame": frame})
    return [
        (has_video != has_frame, "without video_id, or video_id without it: give both or neither"),
        (has_frame & (frame < 0), "is negative"),
        (has_video & place.duplicated().to_numpy(), "is that of an earlier image of its video"),
    ]


def contradictions(instances: pd.DataFrame, images: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return which instances have a track of another video, or one that their frame has already.

    Tracks in images without a video (views of one object) are exempt from both rules.

    Args:
        instances: rows of INSTANCES; the first row of a track fixes its video.
        images: rows of IMAGES.

    Returns:
        bool [N] for each of the two rules.
    """
    elsewhere, again = np.zeros((2, len(instances)), bool)
    videos, has_video = _integers(images["video_id"])
    if not has_video.any():
        return elsewhere, again
    image_ids = pd.Index(_integers(images["image_id"])[0])
    image, _ = _integers(instances["image_id"])
    place = image_ids.get_indexer(image)
    track, has_track = _integers(instances["track_id"])
    rows = np.flatnonzero(has_track & (place >= 0))
    # A number per video, and one number for all images without a video.
    number = np.where(has_video, pd.factorize(videos)[0], -1)[place[rows]]
    _, first, of = np.unique(track[rows], return_index=True, return_inverse=True)
    elsewhere[rows] = number != number[first][of]
    seen = pd.DataFrame({"track": track[rows], "image": image[rows]})
    again[rows] = seen.duplicated().to_numpy() & (number >= 0)
    return elsewhere, again


def _integers(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a column, int64 with 0 for null, and which ones are not null."""
    return column.fillna(0).to_numpy(dtype=np.int64), column.notna().to_numpy(dtype=bool)
