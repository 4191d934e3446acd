"""Selection of the images and objects to show."""

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import AmodalAnnotations, rle
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.visuals.comparisons import with_lines

_TYPICAL = 0.4  # occlusion rate


def most_occluded(annotations: AmodalAnnotations, count: int) -> list[int]:
    """Return the ids of the ``count`` images with most hidden pixels for their area.

    The hidden pixels of things are added up, without stuff and ignored objects. Equal images come
    in the order of their ids.
    """
    hidden = _hidden_shares(annotations)
    return _ids(hidden.sort_index().sort_values(ascending=False, kind="stable").index[:count])


def half_hidden(annotations: AmodalAnnotations, count: int) -> list[pd.DataFrame]:
    """Return up to ``count`` objects, each as a row of ``instances``: from the images that hide
    most, in this order, the object whose occlusion rate is nearest to 40 %.

    Ignored objects, fully hidden ones, and individuals (``track_id``) of an earlier image are not
    chosen; an image without any other gives none.
    """
    found, tracks = [], set()
    for image_id in most_occluded(annotations, len(annotations.images)):
        if len(found) == count:
            break
        objects = annotations.of_image(image_id)
        rate = objects["occlusion_rate"].to_numpy(dtype=float)
        shown = ~objects["ignore"].to_numpy(dtype=bool) & (rate < 1)
        shown &= ~objects["track_id"].isin(tracks).to_numpy(dtype=bool)
        if shown.any():
            distance = np.where(shown, np.abs(rate - _TYPICAL), np.inf)
            record = objects.iloc[[int(distance.argmin())]]
            tracks.update(record["track_id"].dropna())
            found.append(record)
    return found


def image_of(annotations: AmodalAnnotations, record: pd.DataFrame) -> np.ndarray:
    """Return the image of an object (a row of ``instances``), uint8 [H, W, 3]."""
    images = annotations.images
    name = images.loc[images["image_id"] == record["image_id"].item(), "file_name"].item()
    return read_image(annotations.metadata.image_root, name)


def spread(annotations: AmodalAnnotations, count: int, seed: int = 0) -> list[int]:
    """Return ids of ``count`` images, from lightly to heavily occluded, in the table's order.

    Images that have objects are ordered by the share of their canvas that is hidden and cut into
    ``count`` equal parts; one is drawn from each. The same seed draws the same images.
    """
    hidden = _hidden_shares(annotations)
    with_objects = hidden.index.isin(annotations.instances["image_id"].to_numpy(dtype=np.int64))
    ids = hidden[with_objects if with_objects.any() else slice(None)]
    ids = ids.sort_index().sort_values(kind="stable").index.to_numpy()
    count = min(count, len(ids))
    edges = np.linspace(0, len(ids), count + 1).astype(np.int64)
    draws = np.random.default_rng(seed).integers(edges[:-1], edges[1:]) if count else []
    chosen = set(ids[draws].tolist()) if count else set()
    return [i for i in _ids(annotations.images["image_id"]) if i in chosen]


def best_median_worst(objects: pd.DataFrame, count: int) -> dict[int, str]:
    """Return the images on which hidden parts were completed best, middling and worst.

    An image's value is the mean of ``iou_occluded`` over its occluded objects, by the reference:
    the line of ``objects`` (method, variant, inputs) with the highest mean over all of them.
    Images of equal value come in the order of their ids; none is chosen twice.

    Args:
        objects: rows of objects of one or several methods.
        count: number of images, divided among the three.

    Returns:
        Image id → reason ("best by orcnn: mIoU_occluded 71.3"), best first; empty where no
        object is occluded.
    """
    hidden = objects[objects["iou_occluded"].notna().to_numpy(dtype=bool)]
    if not len(hidden):
        return {}
    value = 100 * hidden["iou_occluded"].astype("float64")
    lines = with_lines(hidden)["line"]
    reference = value.groupby(lines, sort=False).mean().idxmax()
    own = (lines == reference).to_numpy(dtype=bool)
    ids = hidden["image_id"].to_numpy(dtype=np.int64)
    means = value[own].groupby(ids[own]).mean().sort_index()
    ranked = means.sort_values(ascending=False, kind="stable").index.to_numpy()
    count = min(count, len(ranked))
    best, worst = -(-count // 3), count // 3
    middle = count - best - worst
    start = best + (len(ranked) - best - worst - middle) // 2
    chosen = [
        ("best", ranked[:best]),
        ("median", ranked[start : start + middle]),
        ("worst", ranked[len(ranked) - worst :]),
    ]
    return {
        int(i): f"{what} by {reference}: mIoU_occluded {means[i]:.1f}"
        for what, images in chosen
        for i in images
    }


def _hidden_shares(annotations: AmodalAnnotations) -> pd.Series:
    """Return by image id the hidden pixels of an image's things over its area, float."""
    images, instances = annotations.images, annotations.instances
    areas = rle.area(instances["amodal_rle"].tolist()) - rle.area(instances["visible_rle"].tolist())
    counted = instances["is_thing"].to_numpy(bool) & ~instances["ignore"].to_numpy(bool)
    hidden = pd.Series(areas * counted).groupby(instances["image_id"].to_numpy(np.int64)).sum()
    ids = images["image_id"].to_numpy(dtype=np.int64)
    pixels = images["height"].to_numpy(np.int64) * images["width"].to_numpy(np.int64)
    return hidden.reindex(ids, fill_value=0) / pd.Series(pixels, index=ids)


def _ids(index: pd.Index | pd.Series) -> list[int]:
    return [int(i) for i in index]
