"""The object-frames that papers score or learn from, as masks over the rows of a table."""

import numpy as np

from amodal_pipeline.annotations import rle
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


def first_frames(annotations: AmodalAnnotations, count: int) -> np.ndarray:
    """Return the first ``count`` frames of every track, bool [N].

    C2F-Seg's released test on FISHBOWL looks at the first 32. (Of these it takes the 31st twice
    instead of the last one; this does not.)
    """
    early = np.zeros(len(annotations.instances), bool)
    for rows in annotations.tracks.values():
        early[rows[:count]] = True
    return early


def changing(
    annotations: AmodalAnnotations,
    iou_below: float = 0.6,
    apart: int = 4,
    longer_than: int = 20,
) -> np.ndarray:
    """Return all frames of the tracks that SaVos learns from on FISHBOWL, bool [N].

    These are tracks whose object is visible in more than ``longer_than`` frames, and whose visible
    mask has an IoU below ``iou_below`` with the one ``apart`` such frames before at least once.
    Masks are compared with the upper left corners of their boxes aligned, so that an object that
    only moves does not count as changing. (SaVos, NeurIPS 2022: its released preprocessing.)
    """
    visible, table = seen(annotations), annotations.instances
    chosen = np.zeros(len(table), bool)
    box, masks = boxes(table["visible_box"]), table["visible_rle"].to_numpy(object)
    for rows in annotations.tracks.values():
        own = rows[visible[rows]]
        if len(own) <= max(longer_than, apart):
            continue
        corner = box[own] * np.array([0, 0, 1, 1])
        outlines = rle.moved(masks[own].tolist(), box[own], corner, annotations.sizes[own])
        iou = rle.pair_iou(outlines[apart:], outlines[:-apart])
        chosen[rows] = (iou < iou_below).any()
    return chosen
