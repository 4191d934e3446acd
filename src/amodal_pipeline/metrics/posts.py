"""Post-processing of a completer's masks before they are scored, as in papers.

C2F-Seg for images adds the visible mask that was completed: a union. For videos (its released code,
after SaVos) completions count on pixels of other objects only, and elsewhere the visible mask is
kept. So amodal pixels on the background are lost, and so are those that the visible mask lacks.
"""

from collections.abc import Sequence

import numpy as np

from amodal_pipeline.annotations import rle


def completed_on_others(
    amodal: Sequence[str], visible: Sequence[str], covered: Sequence[str]
) -> list[str]:
    """Return amodal masks that differ from the visible ones on pixels of other objects only.

    Args:
        amodal: run lengths of N predicted masks.
        visible: run lengths of the visible masks that were completed.
        covered: run lengths of the pixels of all objects in each one's frame, see
            :func:`covered_by_objects`; the object's own pixels in it change nothing.
    """
    return rle.union(list(visible), rle.intersection(list(amodal), list(covered)))


def covered_by_objects(image_ids: np.ndarray, visible: Sequence[str]) -> list[str]:
    """Return the pixels at which any object of an image is visible, for each of N objects.

    Args:
        image_ids: of all objects of the images, scored or not, int64 [N].
        visible: run lengths of their visible masks.
    """
    _, group = np.unique(image_ids, return_inverse=True)
    order = np.argsort(group, kind="stable")
    _, covered = rle.united(group[order], [visible[i] for i in order])
    return [covered[i] for i in group]
