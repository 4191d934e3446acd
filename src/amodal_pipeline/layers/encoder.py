"""timm encoders of crops: dilated, so that the last map keeps its resolution."""

import torch
from torch import Tensor, nn

from amodal_pipeline.layers.backbone import normalisation, timm_body
from amodal_pipeline.layers.configs import EncoderConfig

STRIDES = (4, 8, 16, 16)


class Encoder(nn.Module):
    """Crops [N, 3, H, W], in 0–1 or uint8, to four maps [N, C, H/s, W/s], s = 4, 8, 16 and 16.

    The last stage has dilated convolutions in place of its stride. ``channels``: C of each map.

    Raises:
        ValueError: a model without these maps, or weights of another network.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.body = timm_body(config.name, config.weights, STRIDES, output_stride=STRIDES[-1])
        self.channels: list[int] = self.body.feature_info.channels()
        self.frozen_batch_norm = config.frozen_batch_norm
        mean, std = normalisation(config.name)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        if self.frozen_batch_norm:
            for module in self._batch_norms():
                module.requires_grad_(False)

    def _batch_norms(self) -> list[nn.Module]:
        return [m for m in self.body.modules() if isinstance(m, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> "Encoder":
        super().train(mode)
        if self.frozen_batch_norm:
            for module in self._batch_norms():
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        return self.body((images - self.mean) / self.std)
