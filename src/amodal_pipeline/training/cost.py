"""Costs of a method: parameters, floating-point operations, speed."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Size and speed of a model at inference, per image (of a completer: per object).

    Attributes:
        parameters: number of parameters.
        flops: floating-point operations of matrix products, convolutions and attention;
            a multiplication and an addition count as two. Operations for which torch has no formula
            (RoI pooling, non-maximum suppression) are not counted.
        height, width: of the image, in pixels.
        images_per_second: measured on ``device``; None if not measured.
    """

    parameters: int
    flops: int
    height: int
    width: int
    images_per_second: float | None = None
    device: str = ""


def cost(
    model: nn.Module,
    image: Tensor,
    images_per_second: float | None = None,
    device: str = "",
    targets: dict[str, Tensor] | None = None,
) -> Cost:
    """Return the number of a method's parameters and the operations for one image.

    Args:
        model: in evaluation mode; called with a list of one image, a completer with a batch of one.
        image: [3, H, W] on the model's device; for a completer, the crop of an object. Use an image
            of the data set, because the operations depend on the number of proposals.
        images_per_second: measured over a data set.
        device: where it was measured, see :func:`device_name`.
        targets: a completer's other inputs, a batch of one; None for a detector.

    Raises:
        ValueError: the image is not [3, H, W], or the model is in training mode.
    """
    if image.ndim != 3 or len(image) != 3:
        raise ValueError(f"the image must be [3, height, width], not {list(image.shape)}")
    if model.training:
        raise ValueError("the model is in training mode: call eval() on it first")
    # The counter looks for the gradients of a layer's inputs; views of parameters have none here.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.requires_grad_(False)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model([image]) if targets is None else model(image[None], targets)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        flops=counter.get_total_flops(),
        height=image.shape[1],
        width=image.shape[2],
        images_per_second=images_per_second,
        device=device,
    )


def device_name(device: str) -> str:
    """Return the name of a device: "NVIDIA H100", or "CPU, 2 threads"."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device.upper()}, {torch.get_num_threads()} threads"
