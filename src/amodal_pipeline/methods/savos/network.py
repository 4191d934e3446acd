"""The networks of SaVos: encoder and decoder of patches. Sizes are those of the released code."""

from itertools import pairwise

from torch import Tensor, nn

PATCH = (64, 128)  # height and width

# Kernels, strides and padding that reduce 64 x 128 places to one.
_FORM = (
    (4, 2, 1),
    (4, 2, 1),
    (4, 2, 1),
    (4, 2, 1),
    ((3, 4), (1, 2), 1),
    (4, 1, 0),
)


class PatchEncoder(nn.Module):
    """Encodes patches [M, C, 64, 128] as codes [M, width].

    Args:
        inputs: C.
        channels: of the six convolutions.
        width: of codes.
    """

    def __init__(self, inputs: int, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for (a, b), (kernel, stride, padding) in zip(
            pairwise((inputs, *channels)), _FORM, strict=True
        ):
            layers += [nn.Conv2d(a, b, kernel, stride, padding), nn.GroupNorm(1, b), nn.LeakyReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.code = nn.Linear(channels[-1], width)

    def forward(self, patches: Tensor) -> Tensor:
        return self.code(self.convolutions(patches).flatten(1))


class PatchDecoder(nn.Module):
    """Decodes codes [M, inputs] as patches [M, 2, 64, 128].

    Args:
        inputs: width of codes.
        channels: of the encoder's convolutions, which are used in reversed order.
    """

    def __init__(self, inputs: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        widths = (channels[-1], *channels[-2::-1], 2)
        self.code = nn.Linear(inputs, widths[0])
        layers: list[nn.Module] = []
        for (a, b), (kernel, stride, padding) in zip(pairwise(widths), _FORM[::-1], strict=True):
            layers += [
                nn.GroupNorm(1, a),
                nn.LeakyReLU(),
                nn.ConvTranspose2d(a, b, kernel, stride, padding),
            ]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, codes: Tensor) -> Tensor:
        return self.convolutions(self.code(codes)[:, :, None, None]).float()
