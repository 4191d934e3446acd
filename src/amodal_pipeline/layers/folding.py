"""Frozen batch normalisation as part of the convolution before it, which saves a pass each way.

Only the computation changes: modules, parameters and their names stay as they are, so that weights
load and are saved as before. The result differs by rounding.
"""

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, pad_same
from torch import Tensor, nn


def fold(body: nn.Module, side: int = 64) -> int:
    """Compute the frozen batch norms of a network within its convolutions.

    A norm is folded if it is frozen (in evaluation mode, without a gradient) and gets a
    convolution's output as it is. Which ones these are is seen in one pass of a random image.

    Args:
        body: maps images [N, C, H, W] to a list of maps; its first convolution says what C is.
        side: height and width of the image.

    Returns:
        How many norms are folded.
    """
    norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
    if not any(map(_is_frozen, norms)):
        return 0
    channels = next(m.in_channels for m in body.modules() if isinstance(m, nn.Conv2d))
    image = torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    pairs = _pairs(body, image.to(next(body.parameters())))
    for convolution, norm in pairs:
        # In a tuple it is no submodule, which would give its parameters a second name.
        convolution.folded = (norm,)
        convolution.__class__ = _FoldedSame if isinstance(convolution, Conv2dSame) else _Folded
        norm.__class__ = _Passed
    return len(pairs)


def _pairs(body: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    made: dict[int, tuple[Tensor, nn.Conv2d]] = {}
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (output, module)  # kept, so that no other tensor gets its id
        elif id(inputs[0]) in made and _is_frozen(module):
            found.append((made[id(inputs[0])][1], module))

    hooks = [
        module.register_forward_hook(note)
        for module in body.modules()
        if type(module) in (nn.Conv2d, Conv2dSame, nn.BatchNorm2d, BatchNormAct2d)
    ]
    try:
        with torch.no_grad():
            body(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _is_frozen(norm: nn.Module) -> bool:
    return not norm.training and not any(p.requires_grad for p in norm.parameters())


class _Folded(nn.Conv2d):
    """A convolution and the frozen norm after it."""

    def forward(self, x: Tensor) -> Tensor:
        (norm,) = self.folded
        with torch.no_grad():
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            shift = norm.bias - norm.running_mean * scale
        shift = shift if self.bias is None else shift + self.bias * scale
        return self._conv_forward(self.padded(x), self.weight * scale[:, None, None, None], shift)

    def padded(self, x: Tensor) -> Tensor:
        return x


class _FoldedSame(_Folded):
    """The same with TensorFlow's padding, which depends on the image's size."""

    def padded(self, x: Tensor) -> Tensor:
        return pad_same(x, self.kernel_size, self.stride, self.dilation)


class _Passed(nn.BatchNorm2d):
    """A norm that its convolution computes; what remains is timm's activation, if it has one."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x)) if hasattr(self, "act") else x
