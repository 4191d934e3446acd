"""Post-processing of a completer's masks before they are scored, as in papers.

C2F-Seg for images adds the visible mask that was completed: a union. For videos (its released code,
after SaVos) a completion counts on pixels of other objects only, and elsewhere the visible mask is
kept: what the amodal mask has on background, or the visible one lacks there, is lost.
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
        visible: of the visible masks that were completed.
        covered: of the pixels of all objects in the frame of each, see :func:`covered_by_objects`;
            the object's own pixels among them change nothing.
    """
    return rle.union(list(visible), rle.intersection(list(amodal), list(covered)))


def covered_by_objects(image_ids: np.ndarray, visible: Sequence[str]) -> list[str]:
    """Return the pixels at which any object of an image is visible, for each of N objects.

    Args:
        image_ids: of the objects, int64 [N]; all objects of the images, those too that are not
            scored.
        visible: run lengths of their visible masks.
    """
    _, group = np.unique(image_ids, return_inverse=True)
    order = np.argsort(group, kind="stable")
    _, covered = rle.united(group[order], [visible[i] for i in order])
    return [covered[i] for i in group]
