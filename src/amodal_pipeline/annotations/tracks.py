"""The time axis of a table: objects that are followed through the frames of a video."""

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


def _integers(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a column, int64 with 0 for null, and which ones are not null."""
    return column.fillna(0).to_numpy(dtype=np.int64), column.notna().to_numpy(dtype=bool)
