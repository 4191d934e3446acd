"""timm encoders of crops and images, dilated if the last map must keep its resolution."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal_pipeline.layers.backbone import (
    is_transformer,
    move_strides,
    normalisation,
    strides_of,
    timm_body,
    timm_transformer,
)
from amodal_pipeline.layers.configs import EncoderConfig

STRIDES = (4, 8, 16, 16)


class Encoder(nn.Module):
    """Maps crops [N, 3, H, W], in 0–1 or uint8, to maps [N, C, H/s, W/s], s = 4, 8, 16 and 16.

    A stage that would be coarser than the last of ``strides`` has dilated convolutions instead of
    its stride. ``channels``: C of each map; ``strides``: s of each.

    Args:
        config: the network's configuration.
        strides: strides of the maps, if other than the default; None: all that the network has.
        beside: number of input channels in addition to the image's; the first convolution gets
            new weights for them and keeps those for the image.
        mean_kernels: these new weights are the mean of the image's, not random.
        image: whether the image is an input; without it the first convolution has only the weights
            for ``beside``.

    Raises:
        ValueError: the model does not have these maps, or the weights are of another network.
    """

    def __init__(
        self,
        config: EncoderConfig,
        strides: Sequence[int] | None = STRIDES,
        beside: int = 0,
        *,
        mean_kernels: bool = False,
        image: bool = True,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides_of(config.name) if strides is None else strides)
        last = self.strides[-1]
        self.body = timm_body(config.name, config.weights, self.strides, output_stride=last)
        if config.stride_in_1x1:
            move_strides(self.body, config.name)
        if beside:
            _widen(self.body, beside, mean_kernels, image)
        self.channels: list[int] = self.body.feature_info.channels()
        self.frozen_batch_norm = config.frozen_batch_norm
        _add_normalisation(self, config.name)
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

    def forward(self, images: Tensor | None, beside: Tensor | None = None) -> list[Tensor]:
        """Return the maps of images and of additional channels [N, B, H, W], used unnormalised."""
        return self.body(_joined(self, images, beside))


class TokenEncoder(nn.Module):
    """Maps square crops of ``side`` pixels to one map, the tokens of a plain vision transformer.

    The class token is part of the transformer and not of the map. ``channels``, ``strides`` and
    ``forward`` are those of :class:`Encoder`, with a single map.

    Args:
        config: name and weights of the network.
        side: height and width of the crops, a multiple of the patches' side.
        beside, image: see :class:`Encoder`; new weights are the mean of the image's.

    Raises:
        ValueError: ``side`` does not fit the patches, or the weights are of another network.
    """

    def __init__(
        self, config: EncoderConfig, side: int, beside: int = 0, *, image: bool = True
    ) -> None:
        super().__init__()
        self.body = timm_transformer(config.name, config.weights, side)
        patch = self.body.patch_embed.patch_size[0]
        if side % patch:
            raise ValueError(
                f"crops of {side} pixels cannot be cut into the patches of {config.name} "
                f"({patch} pixels): take a multiple of {patch}"
            )
        if beside:
            _widen(self.body, beside, True, image)
        self.strides, self.channels = (patch,), [self.body.embed_dim]
        _add_normalisation(self, config.name)

    def forward(self, images: Tensor | None, beside: Tensor | None = None) -> list[Tensor]:
        tokens = self.body.forward_features(_joined(self, images, beside))
        tokens = tokens[:, self.body.num_prefix_tokens :].transpose(1, 2)
        return [tokens.unflatten(2, self.body.patch_embed.grid_size)]


def encoder_of_all_strides(
    config: EncoderConfig, side: int, beside: int, *, image: bool = True
) -> Encoder | TokenEncoder:
    """Return an encoder of crops of ``side`` pixels with all maps that the network has.

    ``beside``, ``image``: see :class:`Encoder`; new weights are the mean of the image's.
    """
    if is_transformer(config.name):
        return TokenEncoder(config, side, beside, image=image)
    return Encoder(config, None, beside, mean_kernels=True, image=image)


def _add_normalisation(encoder: nn.Module, name: str) -> None:
    for key, values in zip(("mean", "std"), normalisation(name), strict=True):
        encoder.register_buffer(key, torch.tensor(values).view(3, 1, 1), persistent=False)


def _joined(encoder: nn.Module, images: Tensor | None, beside: Tensor | None) -> Tensor:
    """Return normalised images, if any, and additional channels as one tensor."""
    if images is None:
        return beside
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    images = (images - encoder.mean) / encoder.std
    return images if beside is None else torch.cat([images, beside], dim=1)


def _widen(body: nn.Module, channels: int, mean_kernels: bool, image: bool) -> None:
    """Add ``channels`` input channels to the first convolution of a network.

    Without ``image`` they replace those of the image.
    """
    first = next(m for m in body.modules() if isinstance(m, nn.Conv2d))
    kernels = first.weight.detach()
    fresh = torch.empty(len(kernels), channels, *kernels.shape[2:])
    if mean_kernels:
        fresh.copy_(kernels.mean(dim=1, keepdim=True))
    else:
        nn.init.kaiming_normal_(fresh)
    first.weight = nn.Parameter(torch.cat([kernels, fresh], dim=1) if image else fresh)
    first.in_channels = first.weight.shape[1]
