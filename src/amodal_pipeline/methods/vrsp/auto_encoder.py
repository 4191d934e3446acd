"""The mask auto-encoder of VRSP's shape prior.

The paper gives no architecture; this is the one of the weights that its authors released.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal_pipeline.methods.configs import ShapePriorConfig

SIDE = 28  # pixels of a mask, as the mask heads give them
_BATCH = 2048  # masks encoded or decoded at once


class AutoEncoder(nn.Module):
    """Masks [N, 28, 28] of 0–1 to codes, and back.

    Encoder: 3x3 convolutions of stride 2 with ReLU: 28 → 14 → 7 (→ 4). Decoder: twice the size by
    bilinear interpolation (corners aligned), a 3x3 convolution with ReLU, as often; of three the
    second has no padding: 4 → 8 → 16 → 14 → 28. Then a 3x3 convolution to one channel, and the
    logistic function.
    """

    def __init__(self, convolutions: int, channels: int) -> None:
        super().__init__()
        self.side = {2: 7, 3: 4}[convolutions]
        self.channels = channels
        self.encoder = nn.ModuleList(
            nn.Conv2d(channels if i else 1, channels, 3, stride=2, padding=1)
            for i in range(convolutions)
        )
        self.decoder = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=0 if (convolutions, i) == (3, 1) else 1)
            for i in range(convolutions)
        )
        self.output = nn.Conv2d(channels, 1, 3, padding=1)

    @property
    def code_size(self) -> int:
        return self.channels * self.side**2

    def encode(self, masks: Tensor) -> Tensor:
        """Codes [N, code_size]."""
        features = masks[:, None]
        for convolution in self.encoder:
            features = F.relu(convolution(features))
        return features.flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Masks [N, 28, 28] of 0–1."""
        features = codes.unflatten(1, (self.channels, self.side, self.side))
        # Twice as fast with so few channels on a CPU.
        features = features.contiguous(memory_format=torch.channels_last)
        for convolution in self.decoder:
            larger = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
            features = F.relu(convolution(larger))
        return self.output(features).sigmoid()[:, 0]

    def forward(self, masks: Tensor) -> Tensor:
        return self.decode(self.encode(masks))


def turned(masks: Tensor, way: int) -> Tensor:
    """Masks [N, S, S] rotated by ``way % 4`` right angles, and mirrored where ``way`` is 4 to 7."""
    rotated = torch.rot90(masks, way % 4, (1, 2))
    return rotated.flip(2) if way >= 4 else rotated


def fit(
    masks: Tensor,
    config: ShapePriorConfig,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> AutoEncoder:
    """Return an auto-encoder trained to give its masks back, by the mean squared error.

    Every batch is drawn anew (with all masks before any comes again), in one of the eight ways
    where ``config.turned``. On a CPU a seed gives the same bits.

    Args:
        masks: bool [N, 28, 28].

    Raises:
        ValueError: there is no mask.
    """
    if len(masks) == 0:
        raise ValueError("no mask to learn shapes from: the training split has no objects")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = AutoEncoder(config.convolutions, config.channels)
    # As in decode; weights decide for the encoder, whose input has one channel.
    model.to(device, memory_format=torch.channels_last).train()
    draw = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate)
    order = torch.empty(0, dtype=torch.int64)
    for iteration in range(config.iterations):
        while len(order) < config.batch_size:
            order = torch.cat([order, torch.randperm(len(masks), generator=draw)])
        chosen, order = order[: config.batch_size], order[config.batch_size :]
        batch = masks[chosen].to(device).float()
        if config.turned:
            batch = turned(batch, int(torch.randint(8, (), generator=draw)))
        rate = 0.5 * (1 + math.cos(math.pi * iteration / config.iterations))
        for group in optimizer.param_groups:
            group["lr"] = rate * config.learning_rate
        loss = F.mse_loss(model(batch), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if on_progress and ((iteration + 1) % 20 == 0 or iteration + 1 == config.iterations):
            on_progress(iteration + 1, config.iterations)
    model.to("cpu", memory_format=torch.contiguous_format)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def encode_all(model: AutoEncoder, masks: Tensor) -> Tensor:
    """Codes of many masks [N, 28, 28], a batch at a time."""
    batches = [model.encode(batch.float()) for batch in masks.split(_BATCH)]
    return torch.cat(batches) if len(masks) else torch.zeros(0, model.code_size)


@torch.no_grad()
def decode_all(model: AutoEncoder, codes: Tensor) -> Tensor:
    """Masks of many codes [N, code_size], a batch at a time."""
    batches = [model.decode(batch) for batch in codes.split(_BATCH)]
    return torch.cat(batches) if len(codes) else codes.new_zeros(0, SIDE, SIDE)
