"""Your own flat COCO-style file: one record per object, under any of the published names.

The published data sets have readers of their own (:mod:`kins`, :mod:`d2sa`, :mod:`cocoa`,
:mod:`cocoa_cls`), which know their quirks and their order.
"""

import dataclasses
import os
from dataclasses import replace

from amodal_pipeline.annotations import flat
from amodal_pipeline.annotations.formats import Format
from amodal_pipeline.annotations.tables import AmodalAnnotations
from amodal_pipeline.annotations.validation import Repair

FORM = replace(flat.CLASSES, always_visible=False)
REPAIRS = frozenset(
    {Repair.VISIBLE_ABSENT, Repair.VISIBLE_OUTSIDE_AMODAL, Repair.DEGENERATE_POLYGON}
)


def read_coco_amodal(
    json_path: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset: str,
    split: str,
    *,
    folder: str = "",
    repairs: frozenset[Repair] = REPAIRS,
    on_progress: flat.Progress | None = None,
) -> AmodalAnnotations:
    """Read a flat amodal COCO file.

    The amodal and the visible mask are each under the first of ``formats.AMODAL_KEYS``, then
    ``segmentation``, and of ``formats.VISIBLE_KEYS`` that a record has; without a visible mask it
    is the amodal one without the mask under the first of ``formats.INVISIBLE_KEYS``. A record with
    neither is taken as not occluded; each such record is listed in ``repaired``
    (:attr:`Repair.VISIBLE_ABSENT`), and rejected if it states an ``occlude_rate`` above zero or
    that repair is not among ``repairs``. Boxes, areas and rates in the file are not used: they are
    computed from the masks. ``iscrowd`` records are marked ``ignore``; ``isStuff`` ones are not
    things. Where records have an ``occl_depth``, the smaller one of two overlapping objects is in
    front.

    Args:
        json_path: the annotation file.
        image_root: folder that the table's file names are relative to; not looked at here, see
            :mod:`on_disk`.
        dataset, split: names, e.g. "mine", "val".
        folder: of this file's images, relative to ``image_root``.
        repairs: the faults this data set is known to have.
        on_progress: called with (batches of records done, batches).

    Raises:
        ValueError: the file is not COCO JSON, or it is modal: no record has a visible mask.
    """
    return flat.read_table(
        json_path,
        image_root,
        dataset,
        split,
        dict.fromkeys((Format.FLAT, Format.AISTRON, Format.KINS_2019, Format.KINS_2020), FORM),
        folder=folder,
        repairs=repairs,
        on_progress=on_progress,
    )


def read_coco_modal(
    json_path: str | os.PathLike, image_root: str | os.PathLike, dataset: str, split: str, **options
) -> AmodalAnnotations:
    """Read plain COCO instances: a table whose amodal masks are the visible ones.

    What it is good for is a detector of visible masks, to start others from. Its ``metadata.modal``
    says so, and every result on it has a note.

    Args:
        json_path, image_root, dataset, split, options: as of :func:`read_coco_amodal`.

    Raises:
        ValueError: the file is no COCO JSON, or has amodal masks.
    """
    forms = {Format.MODAL: flat.MODAL}
    table = flat.read_table(json_path, image_root, dataset, split, forms, **options)
    return dataclasses.replace(table, metadata=table.metadata.model_copy(update={"modal": True}))
