"""What each metric's name means, in a line."""

_MASKS = {
    "amodal": "amodal masks (the whole object)",
    "visible": "masks of the visible part",
    "invisible": "masks of the hidden part",
    "box": "boxes around the whole object",
    "both": "amodal and visible mask together: the smaller of their two IoUs has to be high enough",
}
_BASES = {
    "AP": "Average precision over IoU thresholds 0.50–0.95, mean over categories",
    "AP50": "Average precision at IoU 0.50, mean over categories",
    "AP75": "Average precision at IoU 0.75, mean over categories",
    "AR1": "Average recall with 1 detection per image, IoU 0.50–0.95",
    "AR10": "Average recall with 10 detections per image, IoU 0.50–0.95",
    "AR100": "Average recall with 100 detections per image, IoU 0.50–0.95",
}
_WHOLE = {
    "AR_none": "Average recall over IoU 0.50–0.95 of objects that are not occluded",
    "AR_partial": "Average recall over IoU 0.50–0.95 of objects occluded by at most 25 %",
    "AR_heavy": "Average recall over IoU 0.50–0.95 of objects occluded by more than 25 %",
    "mIoU_full": "IoU of predicted and true amodal mask, mean over objects",
    "mIoU_occluded": "IoU of predicted and true mask outside the true visible part, mean over "
    "occluded objects",
    "IoU_dataset": "Intersections over unions of all amodal masks, each summed over the data set",
    "order_accuracy": "Share of overlapping pairs whose front and back are told apart rightly",
    "order_coverage": "Share of overlapping pairs for which an order is given at all",
    "occluder_consistency": "Share of the predicted hidden part that lies behind another object",
}

MAIN_METRICS = (
    "AP_amodal",
    "AP50_amodal",
    "AP75_amodal",
    "AR100_amodal",
    "AP_amodal_occluded15",
    "AP75_amodal_occluded15",
    "AP_visible",
    "AP_both",
    "AP50_invisible",
    "AR_none",
    "AR_partial",
    "AR_heavy",
    "mIoU_full",
    "mIoU_occluded",
    "mIoU_full_post",
    "mIoU_occluded_post",
    "mIoU_full_matched",
    "mIoU_occluded_matched",
    "IoU_dataset",
    "order_accuracy",
    "order_coverage",
    "occluder_consistency",
)
"""Columns of a report's main tables, in this order; everything else is in the full list below."""


def definition(metric: str) -> str:
    """One line on ``metric``, put together from the parts of its name; "" for an unknown name.

    All values are in percent, and more is better. Names are those of the results table.
    """
    name, remarks = metric, []
    for ending, remark in (
        ("_matched", "detected objects only"),
        ("_post", "the true visible part added to the prediction"),
    ):
        if name.endswith(ending):
            name = name.removesuffix(ending)
            remarks.append(remark)
    head, _, threshold = name.rpartition("_occluded")
    if head and threshold.replace(".", "", 1).isdigit():
        name = head
        rate = float(threshold)
        remarks.append(
            f"objects with an occlusion rate above {rate:g} %" if rate else "occluded objects only"
        )
    base, _, masks = name.partition("_")
    if name in _WHOLE:
        text = _WHOLE[name]
    elif base in _BASES and masks in _MASKS:
        text = f"{_BASES[base]}, of {_MASKS[masks]}"
    else:
        return ""
    return "; ".join([text, *remarks]) + "."
