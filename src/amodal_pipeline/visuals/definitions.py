"""One line on the meaning of each metric and of each protocol."""

import re

_MASKS = {
    "amodal": "amodal masks (the whole object)",
    "visible": "masks of the visible part",
    "invisible": "masks of the hidden part",
    "box": "boxes around the whole object",
    "both": "amodal and visible mask together: the smaller of their two IoUs has to be high enough",
}
_BASES = {
    "AP": "Average precision over IoU thresholds 0.50–0.95",
    "AP50": "Average precision at IoU 0.50",
    "AP75": "Average precision at IoU 0.75",
    "AP_top100": "Average precision of the 100 best detections per image, IoU 0.50–0.95",
    "AR": "Average recall with 100 detections per image, IoU 0.50–0.95",
    "AR1": "Average recall with 1 detection per image, IoU 0.50–0.95",
    "AR10": "Average recall with 10 detections per image, IoU 0.50–0.95",
    "AR100": "Average recall with 100 detections per image, IoU 0.50–0.95",
    "AR1000": "Average recall with 1000 detections per image, IoU 0.50–0.95",
}
_SUBSETS = {
    "none": "objects that are not occluded",
    "partial": "objects occluded by at most 25 %",
    "heavy": "objects occluded by more than 25 %",
    "things": "things only",
    "stuff": "stuff only",
}
_AGNOSTIC = re.compile(
    r"(?P<base>AP|AP_top100|AR(?:1|10|100|1000)?)(?:_(none|partial|heavy))?(?:_(things|stuff))?"
)
_OBJECTS = {
    "mIoU_full": "IoU of predicted and true amodal mask, mean over objects",
    "mIoU_occluded": "IoU of predicted and true mask outside the true visible part, mean over "
    "occluded objects",
    "mIoU_occluded_head": "IoU of a method's own mask of the hidden part and the true hidden part, "
    "outside the true visible part, mean over occluded objects",
    "IoU_dataset": "Intersections over unions of predicted and true amodal masks, each summed over "
    "the data set",
    "IoU_dataset_occluded": "Intersections over unions of predicted and true masks outside the "
    "true visible part, each summed over the occluded objects of the data set",
}
_ORDER = {
    "order_accuracy": "Share of overlapping pairs whose front and back are told apart rightly; an "
    "undecided pair is wrong",
    "order_accuracy_decided": "Share of rightly ordered pairs among those overlapping pairs for "
    "which an order is given",
    "order_coverage": "Share of overlapping pairs for which an order is given at all",
}
_PAIRS = {
    "_occluding": ("only pairs of which one hides a part of the other",),
    "_touching": (
        "only pairs of which one hides a part of the other and whose visible masks touch",
    ),
    "": (),
}
_CONSISTENCY = (
    "Mean IoU between a method's predictions for the same object under different pasted occluders"
)
_REST = {
    "occluder_consistency": f"{_CONSISTENCY}, where it detects the object under two of them",
    "occluder_consistency_all": f"{_CONSISTENCY}, 0 where it does not detect the object",
}
_REMARKS = {
    "_per_category": "mean over categories of the categories' means",
    "_post": "the visible mask that was completed added to the prediction",
    "_matched": "detected objects only",
    "_common": "only objects that all compared methods detected",
}
_FRAMES = {
    "mIoU_full": "IoU of predicted and true amodal mask",
    "mIoU_occluded": "IoU of predicted and true mask outside the true visible part, over frames "
    "with a hidden part",
    "mIoU_occluded_zero": "IoU of predicted and true mask outside the true visible part, 0 in "
    "frames without a hidden part",
    "mIoU_on_others": "IoU of predicted and true mask on pixels at which other objects are visible",
    "temporal_consistency": "IoU of an object's predictions in consecutive frames, its motion "
    "compensated, relative to that of the truth (at most 100)",
}
_UNITS = {
    "object": "mean over each object's frames, then over objects",
    "object_frame": "mean over all frames of all objects",
    "frame": "mean over each frame's objects, then over frames",
}
_POPULATIONS = {
    "": "",
    "_partly_occluded": "frames occluded by 10–70 % only, as SaVos chooses them",
    "_partly_occluded_first32": "frames occluded by 10–70 % only, as SaVos chooses them, among the "
    "first 32 of each object",
    "_seen_elsewhere": "hidden parts that are visible in another frame only",
    "_unseen_elsewhere": "hidden parts that are visible in no other frame only",
}
_POSTS = {
    "": "",
    "_post": _REMARKS["_post"],
    "_post_video": "completed on pixels of other objects only, the visible mask elsewhere",
}
_VIDEO = re.compile(
    rf"({'|'.join(_FRAMES)})_per_({'|'.join(_UNITS)})({'|'.join(_POPULATIONS)})({'|'.join(_POSTS)})"
)

PROTOCOLS = {
    "coco": "COCO's figures; objects to be ignored count neither for nor against",
    "coco_agnostic": "as coco, categories disregarded",
    "vrsp": "COCO's figures over occluded objects, as VRSP's paper defines them; the others are "
    "ignored",
    "vrsp_released": "the same by VRSP's released code, which also leaves out unmatched detections "
    "that look less occluded themselves",
    "orcnn": "ORCNN's figures: amodal and visible masks together, and the hidden parts",
    "amodalapi": "class-agnostic figures of the amodal COCO API, by occlusion, things and stuff",
    "completion": "how well masks of detected or given objects are completed; an object without a "
    "prediction counts 0",
    "order": "who hides whom, over pairs of objects whose whole masks overlap",
    "video": "how well masks of objects are completed in the frames of videos, and how steadily",
    "consistency": "how alike the masks are that an object gets under different pasted occluders",
}
"""Protocols in the order in which a report shows them; any other comes after them."""

HEADLINE_METRICS = (
    "AP_amodal",
    "AP_amodal_occluded15",
    "mIoU_occluded",
    "mIoU_occluded_per_object",
)
"""Metrics by which methods are compared in pairs."""

SKILLS = {
    "AP_amodal": "at finding whole objects",
    "mIoU_occluded": "at completing hidden parts",
    "order_accuracy": "at telling which object is in front",
}
"""Metrics of a report's first sentence, and the skill that each measures."""

MAIN_METRICS = (
    "AP_amodal",
    "AP50_amodal",
    "AP75_amodal",
    "AR100_amodal",
    "AP_amodal_occluded15",
    "AP75_amodal_occluded15",
    "AP_visible",
    "AP_both",
    "AP_both_occluded0",
    "AP50_invisible",
    "AP",
    "AR10",
    "AR100",
    "AR_none",
    "AR_partial",
    "AR_heavy",
    "mIoU_full",
    "mIoU_occluded",
    "mIoU_full_post",
    "mIoU_occluded_post",
    "mIoU_full_matched",
    "mIoU_occluded_matched",
    "mIoU_full_common",
    "mIoU_occluded_common",
    "IoU_dataset",
    "mIoU_full_per_object",
    "mIoU_occluded_per_object",
    "mIoU_full_per_object_post_video",
    "mIoU_occluded_per_object_post_video",
    "mIoU_occluded_per_object_seen_elsewhere",
    "mIoU_occluded_per_object_unseen_elsewhere",
    "temporal_consistency_per_object",
    "order_accuracy",
    "order_coverage",
    "order_accuracy_occluding",
    "order_accuracy_touching",
    "occluder_consistency",
    "occluder_consistency_all",
)
"""Columns of a report's main tables, in this order; its full tables have the others too."""


def definition(metric: str) -> str:
    """Return a line on ``metric``, composed from the parts of its name; "" for an unknown name.

    All values are in percent, and more is better. Names are those of the results table.
    """
    name, remarks = metric, []
    if name in _REST:
        return f"{_REST[name]}."
    if found := _VIDEO.fullmatch(name):
        measure, unit, population, post = found.groups()
        parts = (_FRAMES[measure], _UNITS[unit], _POPULATIONS[population], _POSTS[post])
        return "; ".join(filter(None, parts)) + "."
    for ending, pairs in _PAIRS.items():
        if name.endswith(ending) and name.removesuffix(ending) in _ORDER:
            return "; ".join([_ORDER[name.removesuffix(ending)], *pairs]) + "."
    for ending in ("_matched", "_common", "_post", "_per_category"):
        if name.endswith(ending):
            name = name.removesuffix(ending)
            remarks.insert(0, _REMARKS[ending])
    if name in _OBJECTS:
        if "_per_category" in metric and name.startswith("IoU_dataset"):
            return ""
        if name.endswith("_head") and ("_per_category" in metric or "_post" in metric):
            return ""
        return "; ".join([_OBJECTS[name], *remarks]) + "."
    if remarks:
        return ""
    occluded = re.fullmatch(r"(.+)_occluded(\d+(?:\.\d+)?)", name)
    if occluded:
        name, rate = occluded[1], float(occluded[2])
        remarks.append(
            f"objects with an occlusion rate above {rate:g} %" if rate else "occluded objects only"
        )
    base, _, rest = name.partition("_")
    if base in _BASES and rest in _MASKS and base != "AR":
        text = f"{_BASES[base]}, mean over categories, of {_MASKS[rest]}"
    elif (agnostic := _AGNOSTIC.fullmatch(name)) and not remarks:
        text = f"{_BASES[agnostic['base']]}, of amodal masks, categories disregarded"
        text = "; ".join([text, *(_SUBSETS[part] for part in agnostic.groups()[1:] if part)])
    else:
        return ""
    return "; ".join([text, *remarks]) + "."
