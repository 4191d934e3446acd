"""D2SA (Follmann et al., "Learning to See the Invisible", WACV 2019): amodal masks for D2S.

Sixty products on a turntable, 1440x1920 pixels; the augmented training images are padded with
zeros so that amodal masks may leave the picture, their canvases are larger.
"""

import os
from typing import Any

from amodal_pipeline.annotations import flat
from amodal_pipeline.annotations.tables import AmodalAnnotations


def read_d2sa(
    json_path: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset: str,
    split: str,
    **options: Any,
) -> AmodalAnnotations:
    """Read a D2SA file (``rot0``, ``augmented``, ``validation``); the training set is two of them.

    Masks are run lengths. A record without ``visible_mask`` is not occluded. Visible boxes come
    from the visible masks: converters in use elsewhere copy the amodal box. Of two objects of an
    image whose amodal masks overlap, the one with the smaller ``occl_depth`` (0: front) is the
    occluder; equal ones state no order.

    Args, options and errors: as :func:`coco_amodal.read_coco_amodal`.
    """
    options = {"repairs": flat.REPAIRS} | options
    return flat.read_table(json_path, image_root, dataset, split, flat.CLASSES_FORMS, **options)
