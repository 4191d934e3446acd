"""What a method costs: parameters, floating-point operations, time."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """The size of a model and the work of one image at inference; of a completer, one object.

    ``flops``: floating-point operations of matrix products, convolutions and attention, a
    multiplication and an addition counted as two; what torch has no formula for (pooling of
    regions, suppression of boxes) is not in it. ``height``, ``width``: the image's, in pixels.
    ``images_per_second`` on ``device``, where it was measured.
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
    """Count a method's parameters and the operations of one image.

    Args:
        model: in evaluation mode; called with a list of one image, a completer with a batch of one.
        image: [3, H, W] of the kind that the model takes, on the model's device. How many
            proposals it gives rise to is part of the work, so take one of the data set.
        images_per_second: as measured over a data set.
        device: where that was, see :func:`device_name`.
        targets: what a completer is given beside the crop of an object, which ``image`` then is;
            None of a detector.

    Raises:
        ValueError: the image is not [3, H, W], or the model is in training mode.
    """
    if image.ndim != 3 or len(image) != 3:
        raise ValueError(f"the image is {list(image.shape)}, not [3, height, width]")
    if model.training:
        raise ValueError("the model is in training mode: call eval() on it first")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model([image]) if targets is None else model(image[None], targets)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        flops=counter.get_total_flops(),
        height=image.shape[1],
        width=image.shape[2],
        images_per_second=images_per_second,
        device=device,
    )


def device_name(device: str) -> str:
    """Return the device as its maker calls it: "NVIDIA H100", or "CPU, 2 threads"."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device.upper()}, {torch.get_num_threads()} threads"
