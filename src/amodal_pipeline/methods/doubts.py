"""What is unusual about the visible masks that a completer is given, in sentences for its user."""

from typing import Any

import numpy as np
import pyarrow as pa

from amodal_pipeline.annotations import Predictions, rle
from amodal_pipeline.annotations.order import touching_pairs

_SMALLEST = 16  # pixels of the longer side of a visible box; little is left of less in a crop
_LARGEST = 0.9  # share of the picture
_SHARED = 0.5  # of the smaller of two masks


def doubts(config: Any, objects: Predictions) -> list[str]:
    """Return at most four sentences on visible masks that a completer does badly on.

    They are about masks that cover nearly a whole picture, tiny ones, two that share most of the
    smaller one, and, for a completer that ``sees`` what is "in_front", objects whose masks touch no
    other, or for one that sees "others", objects without any.

    Args:
        config: of the completer.
        objects: with visible masks; empty ones are not counted.
    """
    visible = pa.array(objects.predictions["visible_rle"].tolist(), pa.string())
    sizes = objects.sizes
    area, extent = rle.area(visible), rle.box(visible, sizes)[:, 2:].max(axis=1, initial=0)
    seen, found = area > 0, []
    count = int(seen.sum())
    covering = int((area > _LARGEST * sizes.prod(axis=1)).sum())
    if covering:
        found.append(
            f"{covering} of {count} visible masks cover nearly the whole picture: is the mask "
            "nonzero on the object, and not on its background?"
        )
    tiny = int((seen & (extent < _SMALLEST)).sum())
    if tiny:
        found.append(
            f"{tiny} of {count} visible masks are smaller than {_SMALLEST} pixels: little is known "
            "of such shapes; give a larger picture"
        )
    ids = objects.predictions["image_id"].to_numpy(dtype=np.int64)
    pairs = touching_pairs(ids, visible, sizes)
    first, second = pairs.T
    shared = rle.shared_area_of_pairs(visible, first, visible, second)
    alike = shared > _SHARED * np.minimum(area[first], area[second])
    if alike.any():
        found.append(
            f"{int(alike.sum())} pairs of visible masks share more than half of the smaller one: "
            "give the visible part of each object only, and each object once"
        )
    sees = config.DESCRIPTION.sees(config)
    if sees == "in_front":
        alone = seen.copy()
        alone[pairs[~alike]] = False
        if alone.any():
            found.append(
                f"{int(alone.sum())} of {count} objects touch no other visible mask, and stay as "
                f"they are: {config.name} completes an object behind its neighbours only. Give the "
                "visible masks of all objects of the picture, without gaps between them"
            )
    # Without others it completes hardly anything, with a gap between masks it still does.
    if sees == "others":
        _, image, counts = np.unique(ids, return_inverse=True, return_counts=True)
        alone = seen & (counts[image] == 1)
        if alone.any():
            found.append(
                f"{int(alone.sum())} of {count} objects are the only ones of their picture: "
                f"{config.name} completes an object behind others, and hardly without them. Give "
                "the visible masks of what hides it, too"
            )
    return found
