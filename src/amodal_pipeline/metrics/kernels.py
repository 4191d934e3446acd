"""Compiled loops over detections; :mod:`amodal_pipeline.metrics.coco` calls them."""

import numpy as np

from amodal_pipeline.annotations.kernels import compiled


@compiled
def match(offsets, truth, iou, ignored, limits):
    """Return the object that each detection takes at each IoU limit, −1 for none: int32 [T, D].

    Detections are sorted by falling score within their image and category; detection d overlaps
    the objects ``truth[offsets[d]:offsets[d + 1]]`` (ascending). An ignored object is taken only if
    no other is left above the limit; of equals the last is taken, as in pycocotools.
    """
    matched = np.full((len(limits), len(offsets) - 1), -1, np.int32)
    taken = np.zeros((len(ignored), len(limits)), np.bool_)
    for d in range(len(offsets) - 1):
        for t in range(len(limits)):
            chosen = np.int32(-1)
            for kind in range(2):
                best = limits[t]
                for p in range(offsets[d], offsets[d + 1]):
                    g = truth[p]
                    if ignored[g] == (kind == 1) and not taken[g, t] and iou[p] >= best:
                        best, chosen = iou[p], np.int32(g)
                if chosen >= 0:
                    break
            if chosen >= 0:
                matched[t, d] = chosen
                taken[chosen, t] = True
    return matched


@compiled
def precision_recall(
    weights, image, hit, void, rank, bounds, truth_image, truth_bounds, limits, recalls, curves
):
    """Return average precision, and recall at the detection limits, per weighting of the images.

    Args:
        weights: [R, images], how often each image counts.
        image, hit, void, rank: of detections [D] by falling score within their category (``bounds``
            [K + 1]): image; bit t of ``hit``: true at threshold t; bit t of ``void``: not counted
            at threshold t; rank within image and category.
        truth_image: images of the objects that count, by category (``truth_bounds`` [K + 1]).
        limits: detections per image and category [M].
        recalls: recalls at which precision is evaluated, ascending.
        curves: float64 [K, T, recalls], filled with the precisions of the last weighting.

    Returns:
        float64 [R, K, T] and [R, K, T, M]; NaN for a category without objects.
    """
    categories, thresholds = curves.shape[:2]
    precision = np.full((len(weights), categories, thresholds), np.nan)
    recall = np.full((len(weights), categories, thresholds, len(limits)), np.nan)
    true_at = np.empty(len(image), np.int64)
    false_at = np.empty(len(image), np.int64)
    for r in range(len(weights)):
        for k in range(categories):
            total = np.int64(0)
            for g in range(truth_bounds[k], truth_bounds[k + 1]):
                total += weights[r, truth_image[g]]
            if total == 0:
                continue
            for t in range(thresholds):
                bit = 1 << t
                true, false, steps = np.int64(0), np.int64(0), 0
                within = np.zeros(len(limits), np.int64)
                for d in range(bounds[k], bounds[k + 1]):
                    weight = np.int64(weights[r, image[d]])
                    if weight == 0 or void[d] & bit:
                        continue
                    if hit[d] & bit:
                        true += weight
                        true_at[steps], false_at[steps] = true, false
                        steps += 1
                        for m in range(len(limits)):
                            if rank[d] < limits[m]:
                                within[m] += weight
                    else:
                        false += weight
                for m in range(len(limits)):
                    recall[r, k, t, m] = within[m] / total
                # From the last true detection to the first, so that precision can only rise.
                best, area, at = 0.0, 0.0, len(recalls)
                while at > 0 and recalls[at - 1] > true / total:
                    at -= 1
                    curves[k, t, at] = 0.0
                for s in range(steps - 1, -1, -1):
                    best = max(best, true_at[s] / (true_at[s] + false_at[s]))
                    before = true_at[s - 1] / total if s else -1.0
                    while at > 0 and recalls[at - 1] > before:
                        at -= 1
                        curves[k, t, at] = best
                        area += best
                while at > 0:
                    at -= 1
                    curves[k, t, at] = 0.0
                precision[r, k, t] = area / len(recalls)
    return precision, recall
