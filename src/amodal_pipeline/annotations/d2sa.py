"""D2SA (Follmann et al., "Learning to See the Invisible", WACV 2019): amodal masks for D2S.

Sixty products on a turntable, 1440x1920 pixels; the augmented training images are padded with
zeros so that amodal masks may leave the picture, their canvases are larger.
"""

import os

from amodal_pipeline.annotations import flat
from amodal_pipeline.annotations.formats import Format
from amodal_pipeline.annotations.tables import AmodalAnnotations
from amodal_pipeline.annotations.validation import Repair

REPAIRS = frozenset({Repair.VISIBLE_OUTSIDE_AMODAL, Repair.DEGENERATE_POLYGON})


def read_d2sa(
    json_path: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset: str,
    split: str,
    *,
    folder: str = "",
    repairs: frozenset[Repair] = REPAIRS,
    on_progress: flat.Progress | None = None,
) -> AmodalAnnotations:
    """Read a D2SA file (``rot0``, ``augmented``, ``validation``); the training set is two of them.

    Masks are run lengths. A record without ``visible_mask`` is not occluded. Visible boxes come
    from the visible masks: converters in use elsewhere copy the amodal box. Of two objects of an
    image whose amodal masks overlap, the one with the smaller ``occl_depth`` (0: front) is the
    occluder; equal ones state no order.

    Args and errors: as :func:`coco_amodal.read_coco_amodal`.
    """
    return flat.read_table(
        json_path,
        image_root,
        dataset,
        split,
        dict.fromkeys((Format.FLAT, Format.AISTRON), flat.CLASSES),
        folder=folder,
        repairs=repairs,
        on_progress=on_progress,
    )
