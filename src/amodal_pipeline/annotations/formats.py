"""The keys that hold masks, and the published formats, recognised by the keys of the records.

The name of a file plays no part.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any

from amodal_pipeline.annotations.coco_json import CocoFile

# The keys of annotations and of results, in the order in which they are looked for.
# ``segmentation`` comes after all of these: which mask it has depends on the others.
AMODAL_KEYS = ("amodal_segmentation", "amodal_mask", "amodalMask", "amodal_segm", "a_segm")
VISIBLE_KEYS = (
    "visible_mask",
    "visible_segmentation",
    "visible_segm",
    "inmodal_seg",
    "inmodal_segm",
    "i_segm",
)
INVISIBLE_KEYS = ("invisible_segmentation", "invisible_mask", "invisibleMask", "occluded_segm")
MASK_KEYS = frozenset((*AMODAL_KEYS, *VISIBLE_KEYS, *INVISIBLE_KEYS, "segmentation"))


class Format(Enum):
    """The layouts of amodal annotations that are published, and of plain COCO."""

    KINS_2019 = "KINS of 2019"
    KINS_2020 = "KINS of 2020"
    COCOA = "COCOA, regions within annotations"
    AISTRON = "aistron's copy of a data set, with amodal_segm and visible_segm"
    FLAT = "flat COCO style with visible masks, as COCOA-cls and D2SA"
    MODAL = "plain COCO instances, without amodal masks"
    UNKNOWN = "no format known here"


_MARKS = (
    (Format.KINS_2020, {"a_segm", "i_segm"}),
    (Format.KINS_2019, {"inmodal_seg"}),
    (Format.COCOA, {"regions"}),
    (Format.AISTRON, {"amodal_segm", "visible_segm"}),
    (Format.FLAT, {*AMODAL_KEYS, *VISIBLE_KEYS, *INVISIBLE_KEYS, "occlude_rate"}),
    (Format.MODAL, {"segmentation"}),
)
_REMEDY = {
    Format.KINS_2019: "read it with --env=kins",
    Format.KINS_2020: "read it with --env=kins",
    Format.COCOA: "read it with --env=cocoa",
    Format.AISTRON: "read it with --env=kins, d2sa or cocoa_cls, whichever it was made from, or as "
    "your own data (docs/own_data.md)",
    Format.FLAT: "read it with --env=d2sa or --env=cocoa_cls, or as your own data "
    "(docs/own_data.md)",
    Format.MODAL: "make a data set with known amodal masks from it with --env=composed_coco; train "
    "a detector of visible masks, or PCNet-M, on it with --env=coco_modal; or, where its outlines "
    "are those of whole objects, see docs/own_data.md",
    Format.UNKNOWN: "docs/data_sets.md lists the files that are expected",
}


def recognise(records: Sequence[Any]) -> Format:
    """Return the format of a file: the first one with a key that any of its records has."""
    keys = {key for record in records if isinstance(record, dict) for key in record}
    return next((form for form, marks in _MARKS if keys & marks), Format.UNKNOWN)


def require(file: CocoFile, *wanted: Format) -> Format:
    """Return the format of a file, which must be one of those wanted.

    Raises:
        ValueError: it is another; names the file, what it looks like and the remedy.
    """
    found = recognise(file.records)
    if found in wanted:
        return found
    if not file.records:
        raise ValueError(f"{file.path} has no annotations: fetch it again, or name another file")
    named = " or ".join(form.value for form in wanted)
    raise ValueError(
        f"{file.path} is not {named}; its records look like {found.value}: {_REMEDY[found]}"
    )
