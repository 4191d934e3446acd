"""KINS (Qi et al., "Amodal Instance Segmentation with KINS Dataset", CVPR 2019).

Amodal annotations of KITTI's object images. Two layouts are in use and are distinguished by
their records: that of 2019 (``segmentation`` amodal, ``inmodal_seg`` visible) and that of 2020
(``a_segm``, ``i_segm``, with order). Boxes and areas in the files are not used; ``iscrowd`` marks
nothing and is passed over, as in every loader of this data set. VRSP's evaluator (also AISFormer's)
uses both: :func:`ignored_by_vrsp`.
"""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from amodal_pipeline.annotations import flat, rle
from amodal_pipeline.annotations.formats import Format
from amodal_pipeline.annotations.tables import AmodalAnnotations

CROWD = "VRSP's evaluator: `iscrowd` is set"
LARGER = "VRSP's evaluator: the visible mask has more pixels than the record's `area`"


def ignored_by_vrsp(records: Sequence[dict]) -> Counter[str]:
    """Count the records of 2019's files that VRSP's evaluator ignores, by the reason.

    It puts |inmodal_seg| / ``area`` in the place of the area and takes objects from 0 to 1 (the
    mask drawn by hand may have more pixels than the outline that ``area`` is of); and it reads the
    file itself, with ``iscrowd`` as it is. One that is both counts once, as a crowd.
    """
    crowd = np.array([bool(record.get("iscrowd")) for record in records], bool)
    drawn = [
        i
        for i, record in enumerate(records)
        if isinstance(seen := record.get("inmodal_seg"), dict)
        and isinstance(seen.get("counts"), str)
        and isinstance(record.get("area"), (int, float))
    ]
    visible = rle.area([records[i]["inmodal_seg"]["counts"] for i in drawn])
    larger = np.zeros(len(records), bool)
    larger[drawn] = visible > np.array([records[i]["area"] for i in drawn])
    return +Counter({CROWD: int(crowd.sum()), LARGER: int((larger & ~crowd).sum())})


FORMS = {
    Format.KINS_2019: flat.FlatFormat(
        amodal=("segmentation",),
        visible=("inmodal_seg",),
        crowds=False,
        ignored_elsewhere=ignored_by_vrsp,
    ),
    Format.KINS_2020: flat.FlatFormat(
        amodal=("a_segm",),
        visible=("i_segm",),
        crowds=False,
        cluster="oco_id",
        rank="ico_id",
        first_rank=1,
    ),
    Format.AISTRON: flat.FlatFormat(
        amodal=("amodal_segm",), visible=("visible_segm",), crowds=False
    ),
}


def read_kins(
    json_path: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset: str,
    split: str,
    **options: Any,
) -> AmodalAnnotations:
    """Read a KINS file of either year, or aistron's copy of one, which has no order.

    Categories are the file's: 7 in 2019 (ids 1, 2, 4–8), 8 in 2020 (with 3, rider). Both masks
    are drawn by hand, so the visible one may reach beyond the amodal one by a few pixels: it is
    cut (:attr:`Repair.VISIBLE_OUTSIDE_AMODAL`); polygons of fewer than three points beside
    others are left out (:attr:`Repair.DEGENERATE_POLYGON`).

    Order, 2020 only: objects that overlap share a cluster ``oco_id``; within it ``ico_id`` counts
    from 1, the nearest (0: overlaps nobody). Of two objects of a cluster whose amodal masks
    overlap, the one with the smaller ``ico_id`` is the occluder; equal ones state no order.

    Args, options and errors: as :func:`coco_amodal.read_coco_amodal`.
    """
    options = {"repairs": flat.REPAIRS} | options
    return flat.read_table(json_path, image_root, dataset, split, FORMS, **options)
