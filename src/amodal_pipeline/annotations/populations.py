"""The object-frames that papers score, as masks over the rows of a table."""

import numpy as np

from amodal_pipeline.annotations.tables import AmodalAnnotations, boxes


def seen(annotations: AmodalAnnotations) -> np.ndarray:
    """Return the frames in which a tracked object is visible, bool [N].

    C2F-Seg scores them on MOViD-A, and EoRaS on MOVi-B and MOVi-D: these are the frames that its
    loader counts. Ignored objects are left out.
    """
    instances = annotations.instances
    tracked = instances["track_id"].notna() & ~instances["ignore"].astype(bool)
    visible = ~np.isnan(boxes(instances["visible_box"])).any(axis=1)
    return tracked.to_numpy(dtype=bool) & visible


def partly_occluded(
    annotations: AmodalAnnotations,
    lowest: float = 0.1,
    highest: float = 0.7,
    longer_than: int = 10,
) -> np.ndarray:
    """Return the frames that SaVos scores on FISHBOWL, and C2F-Seg after it, bool [N].

    Of tracks with more than ``longer_than`` frames: the frames with an occlusion rate between the
    two bounds (both excluded), without the first and the last frame of the track. (SaVos, NeurIPS
    2022: its released list of test frames; C2F-Seg, ICCV 2023, section 4.)
    """
    rate = annotations.instances["occlusion_rate"].to_numpy(dtype=np.float32)
    between = seen(annotations) & (rate > lowest) & (rate < highest)
    scored = np.zeros(len(between), bool)
    for rows in annotations.tracks.values():
        if len(rows) > longer_than:
            scored[rows[1:-1]] = between[rows[1:-1]]
    return scored
