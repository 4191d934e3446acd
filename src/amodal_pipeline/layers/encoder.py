"""timm encoders of crops and images, dilated if the last map must keep its resolution."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal_pipeline.layers.backbone import move_strides, normalisation, timm_body
from amodal_pipeline.layers.configs import EncoderConfig

STRIDES = (4, 8, 16, 16)


class Encoder(nn.Module):
    """Maps crops [N, 3, H, W], in 0–1 or uint8, to maps [N, C, H/s, W/s], s = 4, 8, 16 and 16.

    A stage that would be coarser than the last of ``strides`` has dilated convolutions instead of
    its stride. ``channels``: C of each map.

    Args:
        config: the network's configuration.
        strides: strides of the maps, if other than the default.
        beside: number of input channels in addition to the image's; the first convolution gets
            new weights for them and keeps those for the image.

    Raises:
        ValueError: the model does not have these maps, or the weights are of another network.
    """

    def __init__(
        self, config: EncoderConfig, strides: Sequence[int] = STRIDES, beside: int = 0
    ) -> None:
        super().__init__()
        self.body = timm_body(config.name, config.weights, strides, output_stride=strides[-1])
        if config.stride_in_1x1:
            move_strides(self.body, config.name)
        if beside:
            _widen(self.body, beside)
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

    @property
    def fixed(self) -> bool:
        """Return whether equal images give equal maps in all of the training."""
        layers = (m for m in self.modules() if next(m.children(), None) is None)
        learns = any(p.requires_grad for p in self.parameters())
        return not learns and not any(layer.training for layer in layers)

    def train(self, mode: bool = True) -> "Encoder":
        super().train(mode)
        if self.frozen_batch_norm:
            for module in self._batch_norms():
                module.eval()
        return self

    def forward(self, images: Tensor, beside: Tensor | None = None) -> list[Tensor]:
        """Return the maps of images and of additional channels [N, B, H, W], used unnormalised."""
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        images = (images - self.mean) / self.std
        return self.body(images if beside is None else torch.cat([images, beside], dim=1))


def _widen(body: nn.Module, channels: int) -> None:
    """Add ``channels`` input channels to the first convolution of a network."""
    first = next(m for m in body.modules() if isinstance(m, nn.Conv2d))
    fresh = torch.empty(len(first.weight), channels, *first.weight.shape[2:])
    nn.init.kaiming_normal_(fresh)
    first.weight = nn.Parameter(torch.cat([first.weight.detach(), fresh], dim=1))
    first.in_channels += channels
