"""Targets and loss of the mask of all that lies in front of, or next to, an object of a RoI."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from amodal_pipeline.layers.masks import mask_loss

_LEAST = 20  # pixels: the released codes drop smaller occluders


def with_occluders(
    targets: Sequence[dict], kind: str, *, in_front: bool = False, gate: float | None = None
) -> list[dict]:
    """Return targets with "occluder_masks", uint8 [N, h, w]: the other objects of each object.

    The mask of an object is the union of the masks of all other objects of the image, ignored ones
    included. Of "visible" masks, the object's own one is left out, which changes something only
    where visible masks overlap. Of "amodal" masks it is not: occluders then overlap the object.

    Args:
        targets: one per image, with "amodal_masks" and "visible_masks" uint8 [N, h, w], and
            "amodal_boxes" and "visible_boxes" [N, 4] with mask_scale.
        kind: the masks that are joined, "amodal" or "visible".
        in_front: only objects of which a visible pixel is in the hidden part of the object.
        gate: only objects whose box, of ``kind``, overlaps the amodal box of the object by an IoU
            above this; their union is cut to that box, and empty if it has 20 pixels or fewer
            there. That is the rule of the released AISFormer and BCNet (0.05). None: no such rule.
    """
    return [
        {**target, "occluder_masks": _occluders(target, kind, in_front, gate)} for target in targets
    ]


def occluder_loss(logits: Tensor, truth: Tensor, balance: bool) -> Tensor:
    """Return the mean binary cross-entropy of occluder masks [N, M, M], a scalar.

    With ``balance`` the mean is over the n RoIs whose true mask is not empty and over the first n
    RoIs, whatever these are; 0 if n is 0. That is the rule of the released AISFormer and BCNet.
    """
    if balance:
        occluded = torch.where(truth.flatten(1).any(dim=1))[0]
        chosen = torch.cat([occluded, torch.arange(len(occluded), device=occluded.device)])
        logits, truth = logits[chosen], truth[chosen]
    return mask_loss(logits, truth)


def _occluders(target: dict, kind: str, in_front: bool, gate: float | None) -> Tensor:
    masks, visible = target[f"{kind}_masks"], target["visible_masks"]
    flat = masks.flatten(1).float()
    # Row i: which objects are occluders of object i.
    chosen = ~torch.eye(len(masks), dtype=torch.bool, device=masks.device)
    if in_front:
        hidden = target["amodal_masks"] * (1 - visible)
        chosen &= hidden.flatten(1).float() @ visible.flatten(1).float().T > 0
    if gate is not None:
        # A box without a visible pixel is NaN, and so is not above any gate.
        chosen &= box_iou(target["amodal_boxes"], target[f"{kind}_boxes"]) > gate
    union = (chosen.float() @ flat > 0).view_as(masks)
    if kind == "visible":
        union &= visible == 0
    if gate is not None:
        union &= _inside(target, masks.shape[-2:])
        union[union.flatten(1).sum(dim=1) <= _LEAST] = False
    return union.to(torch.uint8)


def _inside(target: dict, size: tuple[int, int]) -> Tensor:
    """Return which pixels of masks of ``size`` (h, w) are in each amodal box, bool [N, h, w]."""
    boxes = target["amodal_boxes"]
    x1, y1, x2, y2 = (boxes * boxes.new_tensor([*target["mask_scale"]] * 2)).T[:, :, None]
    rows, columns = (torch.arange(n, device=boxes.device) + 0.5 for n in size)
    down, across = (rows > y1) & (rows < y2), (columns > x1) & (columns < x2)
    return down[:, :, None] & across[:, None]
