"""IoU of completed objects in the frames of videos, and its steadiness over time.

Has the figures of SaVos (Yao et al., NeurIPS 2022) and of C2F-Seg's part on videos (Gao et al.,
ICCV 2023), which call means over different things by one name, mIoU. docs/metrics.md tells them
apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.populations import first_frames, partly_occluded, seen
from amodal_pipeline.annotations.tables import AmodalAnnotations, boxes
from amodal_pipeline.annotations.tracks import frame_of
from amodal_pipeline.metrics.completion import Completions, drawn, fit
from amodal_pipeline.metrics.evidence import Evidence
from amodal_pipeline.metrics.posts import completed_on_others, covered_by_objects
from amodal_pipeline.metrics.tallies import Ratio, Row, per_image

SIDE = 32  # cells along each side of an amodal box, to compare frames of an object
SHARE = 0.5  # share of a hidden part that is visible in another frame
FIRST = 32  # frames of an object that C2F-Seg's released test on FISHBOWL looks at


@dataclass(frozen=True)
class _Means:
    """Makes rows: means over objects, over object-frames, and over the objects of each frame.

    ``image`` and ``track``: index of each object-frame's image and track, int64 [G].
    """

    image: np.ndarray
    track: np.ndarray
    images: int

    def rows(
        self, name: str, ending: str, values: np.ndarray, counted: np.ndarray
    ) -> Iterator[Ratio]:
        """Yield the three means of ``values`` [G] (0–1) over the ``counted`` ones, bool [G].

        In a resample all frames of a video have the same weight, and so has each object as a whole.
        """
        rows = np.flatnonzero(counted)
        groups = {
            "object": self.track,
            "object_frame": np.arange(len(counted)),
            "frame": self.image,
        }
        for unit, of in groups.items():
            names, group, size = np.unique(of[rows], return_inverse=True, return_counts=True)
            weight = 1 / size[group]
            above, below = (
                per_image(self.image[rows], v, self.images) for v in (weight * values[rows], weight)
            )
            yield Ratio(Row(f"{name}_per_{unit}{ending}", len(names)), above, below)


def applies(annotations: AmodalAnnotations) -> bool:
    """Return whether objects are followed through the frames of videos."""
    return len(annotations.tracks) > 0


def tallies(evidence: Evidence, found: Completions) -> Iterator[Ratio]:
    """Yield the tallies of the protocol "video", over frames in which tracked objects are visible.

    With P, A* and V* as in :class:`~amodal_pipeline.metrics.completion.Completions`, and O the
    pixels at which other objects of the frame are visible and the object is not:

    - mIoU_full: IoU of P and A*.
    - mIoU_occluded: of P \\ V* and A* \\ V*, over frames with a hidden pixel; mIoU_occluded_zero:
      over all frames, 0 where nothing is hidden (C2F-Seg's released code).
    - mIoU_on_others: of P ∩ O and A* ∩ O, over frames in which A* ∩ O is not empty (SaVos).
    - temporal_consistency: :func:`steadiness` of the predictions divided by the truth's, at most
      1; over pairs of consecutive frames that both count.

    ``_per_object``: mean over an object's frames, then over objects (C2F-Seg).
    ``_per_object_frame``: over all object-frames (SaVos's metric2). ``_per_frame``: over the
    objects of a frame, then over frames (SaVos's metric1). ``_partly_occluded``: over the frames of
    :func:`~amodal_pipeline.annotations.populations.partly_occluded`; ``_partly_occluded_first32``:
    over those among the first 32 of their track, if any track is longer. ``_seen_elsewhere`` and
    ``_unseen_elsewhere``: hidden parts of which at least half is visible in another frame, and the
    others (:func:`seen_elsewhere`). ``_post`` adds the visible mask that was completed;
    ``_post_video``: see :func:`~amodal_pipeline.metrics.posts.completed_on_others`. An object-frame
    without a prediction counts 0.
    """
    annotations = evidence.annotations
    truth = annotations.instances
    track = np.full(len(truth), -1, np.int64)
    for number, rows in enumerate(annotations.tracks.values()):
        track[rows] = number
    means = _Means(evidence.where.truth_image, track, evidence.where.images)
    counted = seen(annotations) & (track >= 0)
    occluded = counted & found.occluded

    at, masks, inputs = drawn(evidence, found.prediction)
    covered = covered_by_objects(evidence.where.truth_image, truth["visible_rle"].tolist())
    scored = {"": (masks, found.full, found.hidden)}
    if inputs is not None:
        completed = completed_on_others(masks, inputs, [covered[i] for i in at])
        scored["_post"] = (rle.union(masks, inputs), found.full_post, found.hidden_post)
        scored["_post_video"] = (completed, *fit(evidence, at, completed))

    both = {"": np.ones_like(counted), "_partly_occluded": partly_occluded(annotations)}
    early = first_frames(annotations, FIRST)
    if not early[track >= 0].all():
        both["_partly_occluded_first32"] = both["_partly_occluded"] & early
    share = seen_elsewhere(annotations, occluded)
    apart = {"_seen_elsewhere": share >= SHARE, "_unseen_elsewhere": share < SHARE}
    before, after = _consecutive(annotations, counted)
    whole = truth["amodal_rle"].to_numpy(object)
    own = steadiness(annotations, whole, before, after)
    for post, (drawings, full, hidden) in scored.items():
        for population, chosen in both.items():
            yield from means.rows("mIoU_full", population + post, _iou(full), counted & chosen)
        for population, chosen in (both | apart).items():
            ending = population + post
            yield from means.rows("mIoU_occluded", ending, _iou(hidden), occluded & chosen)
        yield from means.rows("mIoU_occluded_zero", post, _iou(hidden), counted)

        by_object = np.full(len(truth), None, object)
        by_object[at] = drawings
        steady, measured = np.zeros(len(truth)), np.zeros(len(truth), bool)
        steady[after] = steadiness(annotations, by_object, before, after) / np.maximum(own, 1e-12)
        measured[after] = own > 0
        yield from means.rows("temporal_consistency", post, np.minimum(steady, 1), measured)
    # Both posts leave these pixels as they are.
    on_others = _on_others(evidence, found, at, masks, covered)
    measured = counted & (on_others[:, 1] > 0)
    for population, chosen in both.items():
        yield from means.rows("mIoU_on_others", population, _iou(on_others), measured & chosen)


def seen_elsewhere(annotations: AmodalAnnotations, occluded: np.ndarray) -> np.ndarray:
    """Return the share of each hidden part that is visible in the best other frame of its track.

    The object's amodal boxes map the hidden part to the other frame (shifted and scaled), on a grid
    of 32 × 32 cells. Optical flow would not help: at a hidden point it is the occluder's flow.

    Args:
        annotations: the truth.
        occluded: the object-frames of interest, bool [G].

    Returns:
        float64 [G] with values 0–1; NaN for other object-frames, and for hidden parts that fill no
        cell.
    """
    truth, share = annotations.instances, np.full(len(occluded), np.nan)
    box, sizes = boxes(truth["amodal_box"]), annotations.sizes
    masks = {kind: truth[f"{kind}_rle"].to_numpy(object) for kind in ("amodal", "visible")}

    def cells(kind: str, rows: np.ndarray) -> np.ndarray:
        found = rle.crop(masks[kind][rows].tolist(), box[rows], sizes[rows], SIDE)
        return found.reshape(len(rows), -1)

    for rows in annotations.tracks.values():
        wanted = occluded[rows]
        if not wanted.any():
            continue
        visible = cells("visible", rows)
        hidden = (cells("amodal", rows[wanted]) & ~visible[wanted]).astype(np.float32)
        total = hidden.sum(axis=1)
        most = (hidden @ visible.T.astype(np.float32)).max(axis=1)
        share[rows[wanted]] = np.where(total > 0, most / np.maximum(total, 1), np.nan)
    return share


def steadiness(
    annotations: AmodalAnnotations, masks: np.ndarray, before: np.ndarray, after: np.ndarray
) -> np.ndarray:
    """Return the IoU of masks in one frame, moved as their objects move, with masks in the next.

    Args:
        annotations: the truth; its amodal boxes give the motion (shift and scale) of objects.
        masks: by object-frame, object [G] of run lengths or None.
        before, after: rows of an object in two frames of one size, int64 [P] each.

    Returns:
        float64 [P]; 0 where one of the two has no mask.
    """
    box = boxes(annotations.instances["amodal_box"])
    there = np.array([mask is not None for mask in masks], bool)
    both = there[before] & there[after]
    a, b = before[both], after[both]
    moved = rle.moved(masks[a].tolist(), box[a], box[b], annotations.sizes[a])
    iou = np.zeros(len(before))
    iou[both] = rle.pair_iou(moved, masks[b].tolist())
    return iou


def _consecutive(
    annotations: AmodalAnnotations, counted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of an object in two consecutive frames that both count, int64 [P] each."""
    frame, _ = frame_of(annotations.instances, annotations.images)
    pairs = [np.stack([rows[:-1], rows[1:]]) for rows in annotations.tracks.values()]
    before, after = np.concatenate(pairs, axis=1)
    same = (annotations.sizes[before] == annotations.sizes[after]).all(axis=1)
    kept = same & (frame[after] == frame[before] + 1) & counted[before] & counted[after]
    return before[kept], after[kept]


def _on_others(
    evidence: Evidence, found: Completions, at: np.ndarray, masks: list[str], covered: list[str]
) -> np.ndarray:
    """Return (intersection, union) of masks and truth where others are visible, int64 [G, 2].

    (0, 0) where a true mask has no such pixel. With U the ``covered`` pixels, these are U \\ V*;
    because V* lies inside U and A*, areas outside it are differences.
    """
    amodal = evidence.annotations.instances["amodal_rle"].tolist()
    area = rle.shared_area(amodal, covered) - evidence.area["visible"]
    sums = np.stack([np.zeros_like(area), area], axis=1)
    whole, places = ([table[i] for i in at] for table in (amodal, covered))
    seen_part = (found.full - found.hidden)[at, 0]  # of the prediction
    shared = rle.shared_area(rle.intersection(masks, whole), places) - seen_part
    sums[at, 0] = shared
    sums[at, 1] += rle.shared_area(masks, places) - seen_part - shared
    sums[area == 0] = 0
    return sums


def _iou(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / np.maximum(sums[:, 1], 1)
