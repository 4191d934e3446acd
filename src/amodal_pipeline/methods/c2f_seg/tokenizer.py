"""The mask tokenizer of C2F-Seg: a VQ-GAN of masks (paper's sec. 3.2 and app. A.1)."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.layers.weight_files import read_tensors
from amodal_pipeline.methods.configs import MaskTokenizerConfig
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.samples.objects import ObjectBatches

_HIGHEST_WEIGHT = 1e4  # of the adversarial loss, as released
# Mean and standard deviation of ImageNet, on which VGG-16 was trained.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# VGG-16 up to relu5_3: channels of the convolutions before each pooling.
_VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Tokenizer(nn.Module):
    """Maps masks [N, S, S] in 0–1 to tokens [N, T, T] and back; S is ``config.crop.side``."""

    def __init__(self, config: MaskTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.decoder = _decoder(config)
        bound = 1 / config.codes
        self.codes = nn.Parameter(torch.empty(config.codes, config.code_size))
        nn.init.uniform_(self.codes, -bound, bound)
        # On a CPU twice as fast with few channels.
        self.to(memory_format=torch.channels_last)

    def encode(self, masks: Tensor) -> Tensor:
        """Return tokens, int64 [N, T, T], of masks [N, S, S] in 0–1."""
        return nearest(self.vectors(masks), self.codes)

    def decode(self, tokens: Tensor) -> Tensor:
        """Return masks [N, S, S] in 0–1 of tokens [N, T, T]."""
        return self.drawn(F.embedding(tokens, self.codes)).clamp(0, 1)

    def vectors(self, masks: Tensor) -> Tensor:
        """Return the encoder's output for masks, [N, T, T, code_size], before quantisation."""
        return self.encoder(masks[:, None].to(self.codes.dtype)).permute(0, 2, 3, 1)

    def drawn(self, vectors: Tensor) -> Tensor:
        """Return the decoder's output for vectors [N, T, T, code_size]: [N, S, S], not clamped."""
        return self.decoder(vectors.permute(0, 3, 1, 2))[:, 0]


def nearest(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return the index of the code nearest to each vector (L2), int64 [...]; ties give the first.

    Computed in float32, because in bf16 many codes would be equally near.

    Args:
        vectors: [..., D].
        codes: [K, D].
    """
    with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
        vectors, codes = vectors.float(), codes.float()
        # |v - c|² without |v|², which is the same for all codes.
        return (codes.square().sum(1) - 2 * vectors @ codes.T).argmin(-1)


class MaskTokenizer(nn.Module):
    """A tokenizer with the losses and the discriminator that train it.

    In training ``model(images, targets)`` returns named losses, in evaluation
    {"amodal_masks": float [N, S, S] in 0–1}. Only ``targets["amodal"]``, uint8 [N, S, S], is used.
    Tokenizer and discriminator learn in one step: each loss has a gradient for the weights of only
    one of them, so their sum trains both.
    """

    def __init__(self, config: MaskTokenizerConfig, classes: int = 1) -> None:
        super().__init__()
        self.config = config
        self.network = Tokenizer(config)
        if config.adversarial:
            self.discriminator = _discriminator()
        self.perceptual: PerceptualDistance | None = None
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        # Iterations since each code was last used.
        self.register_buffer("idle", torch.zeros(config.codes, dtype=torch.int64))

    def train(self, mode: bool = True) -> "MaskTokenizer":
        # Only training needs the file; where a trained tokenizer is used it may not exist.
        if mode and self.perceptual is None and self.config.perceptual_weights:
            self.perceptual = PerceptualDistance(Path(self.config.perceptual_weights).expanduser())
            self.perceptual.to(self.iteration.device)
        return super().train(mode)

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        masks = targets["amodal"].float()
        if self.training:
            return self._losses(masks)
        return {"amodal_masks": self.network.decode(self.network.encode(masks))}

    # A compiled graph does not allow the gradients that weigh the adversarial loss, which are
    # computed within the forward pass.
    @torch.compiler.disable
    def _losses(self, masks: Tensor) -> dict[str, Tensor]:
        config = self.config
        vectors = self.network.vectors(masks).float()
        tokens = nearest(vectors, self.network.codes)
        if config.revive_after:
            tokens = self._revived(vectors, tokens)
        chosen = F.embedding(tokens, self.network.codes)
        # Straight-through estimator: the gradient skips the quantisation.
        drawn = self.network.drawn(vectors + (chosen - vectors).detach()).float()
        reconstruction = F.l1_loss(drawn, masks)
        losses = {
            "loss_reconstruction": reconstruction,
            "loss_codebook": F.mse_loss(chosen, vectors.detach()),
            "loss_commitment": config.commitment * F.mse_loss(vectors, chosen.detach()),
        }
        if self.perceptual is not None and config.perceptual:
            perceptual = config.perceptual * self.perceptual(drawn, masks)
            losses["loss_perceptual"] = perceptual
            reconstruction = reconstruction + perceptual
        if config.adversarial:
            losses |= self._adversarial(masks, drawn, reconstruction)
        self.iteration += 1
        return losses

    def _adversarial(self, masks: Tensor, drawn: Tensor, reconstruction: Tensor) -> dict:
        """Return the hinge losses of both networks; 0 before ``config.adversarial_start``."""
        begun = float(self.iteration >= self.config.adversarial_start)
        frozen = {n: p.detach() for n, p in self.discriminator.named_parameters()}
        generator = -functional_call(self.discriminator, frozen, drawn[:, None]).float().mean()
        last = self.network.decoder[-1].weight
        weight = adaptive_weight(reconstruction, generator, last, self.config.adaptive_epsilon)
        true = self.discriminator(masks[:, None]).float()
        false = self.discriminator(drawn[:, None].detach()).float()
        hinge = 0.5 * (F.relu(1 - true).mean() + F.relu(1 + false).mean())
        return {
            "loss_adversarial": begun * self.config.adversarial * weight * generator,
            "loss_discriminator": begun * hinge,
        }

    @torch.no_grad()
    def _revived(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """Return new tokens, after replacing codes that were idle too long by encoder vectors.

        Vectors of this batch are drawn in proportion to their squared distance from their code (as
        in k-means++), so that the worst represented ones get a code.
        """
        codes = self.network.codes
        self.idle += 1
        self.idle[tokens.unique()] = 0
        dead = (self.idle >= self.config.revive_after).nonzero()[:, 0]
        distance = (vectors - codes[tokens]).square().sum(-1).flatten()
        dead = dead[: int((distance > 0).sum())]
        if not len(dead):
            return tokens
        drawn = torch.multinomial(distance, len(dead))
        codes[dead] = vectors.flatten(0, 2)[drawn].to(codes.dtype)
        self.idle[dead] = 0
        return nearest(vectors, codes)


def adaptive_weight(first: Tensor, second: Tensor, last: Tensor, epsilon: float) -> Tensor:
    """Return λ of app. A.1: |d first / d last| / (|d second / d last| + epsilon), at most 10,000.

    Args:
        first, second: losses.
        last: the weight of the decoder's last layer.
        epsilon: see the equation.
    """
    a, b = (
        torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (first, second)
    )
    return (a / (b + epsilon)).clamp(max=_HIGHEST_WEIGHT).detach()


class PerceptualDistance(nn.Module):
    """LPIPS of masks with VGG-16 (Zhang et al., CVPR 2018).

    Without LPIPS' linear weights it is the squared distance of unit features. Its weights are not
    trained, and not part of the state dict.

    Args:
        path: state dict of torchvision's vgg16 (``features.0.weight``, …), optionally with all
            five linear weights of LPIPS (``lin0.model.1.weight``, …).

    Raises:
        ValueError: the file is missing, unreadable, or not of VGG-16; names the first fault.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            state = read_tensors(path)
        except ValueError as error:
            raise ValueError(
                f"perceptual_weights {error}: give a state dict of torchvision's vgg16, or null "
                "for no perceptual loss"
            ) from None
        position, width = 0, 3
        self.weighted = any(name.startswith("lin") for name in state)
        for block, channels in enumerate(_VGG):
            for i, out in enumerate(channels):
                for part, shape in (("weight", (out, width, 3, 3)), ("bias", (out,))):
                    name = f"features.{position}.{part}"
                    self._keep(f"{part}_{block}_{i}", state, name, shape, path)
                position, width = position + 2, out
            position += 1  # pooling
            if self.weighted:
                self._keep(
                    f"linear_{block}", state, f"lin{block}.model.1.weight", (1, out, 1, 1), path
                )
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    def _keep(self, own: str, state: dict, name: str, shape: tuple[int, ...], path: Path) -> None:
        if name not in state or tuple(state[name].shape) != shape:
            found = tuple(state[name].shape) if name in state else "nothing"
            raise ValueError(
                f"{path}: {name} must be of shape {shape}, found {found}: perceptual_weights is a "
                "state dict of torchvision's vgg16, or null for no perceptual loss"
            )
        self.register_buffer(own, state[name].detach().float(), persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the mean distance of masks [N, S, S], a scalar."""
        both = torch.cat([a, b])[:, None].expand(-1, 3, -1, -1)
        features, total = (both - self.mean) / self.std, a.new_zeros(())
        for block, channels in enumerate(_VGG):
            if block:
                features = F.max_pool2d(features, 2)
            for i in range(len(channels)):
                weight, bias = (getattr(self, f"{k}_{block}_{i}") for k in ("weight", "bias"))
                features = F.relu(F.conv2d(features, weight, bias, padding=1))
            # The root has no finite gradient at length 0, where no channel responds.
            length = features.float().square().sum(1, keepdim=True).add(1e-10).sqrt()
            x, y = (features.float() / length).chunk(2)
            difference = (x - y).square()
            if self.weighted:
                difference = difference * getattr(self, f"linear_{block}")
            total = total + difference.sum(1).mean()
        return total


class _Residual(nn.Module):
    """Residual block: two 3x3 convolutions, each after normalisation and swish."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, out, 3, padding=1),
            _norm(out),
            nn.SiLU(),
            nn.Conv2d(out, out, 3, padding=1),
        )
        self.beside = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return self.beside(features) + self.body(features)


class _Halve(nn.Conv2d):
    """A 3x3 convolution of stride 2, padded by one pixel at the right and the lower border."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(F.pad(features, (0, 1, 0, 1)))


def _encoder(config: MaskTokenizerConfig) -> nn.Sequential:
    widths = [config.channels * m for m in config.multipliers]
    layers: list[nn.Module] = [nn.Conv2d(1, config.channels, 3, padding=1)]
    channels = config.channels
    for level, width in enumerate(widths):
        if level:
            layers.append(_Halve(channels))
        for _ in range(config.blocks):
            layers.append(_Residual(channels, width))
            channels = width
    layers += [_Residual(channels, channels), _Residual(channels, channels)]
    layers += [_norm(channels), nn.SiLU(), nn.Conv2d(channels, config.code_size, 3, padding=1)]
    return nn.Sequential(*layers, nn.Conv2d(config.code_size, config.code_size, 1))


def _decoder(config: MaskTokenizerConfig) -> nn.Sequential:
    widths = [config.channels * m for m in config.multipliers]
    channels = widths[-1]
    layers: list[nn.Module] = [
        nn.Conv2d(config.code_size, config.code_size, 1),
        nn.Conv2d(config.code_size, channels, 3, padding=1),
        _Residual(channels, channels),
        _Residual(channels, channels),
    ]
    for level, width in reversed(list(enumerate(widths))):
        for _ in range(config.blocks + 1):
            layers.append(_Residual(channels, width))
            channels = width
        if level:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(channels, channels, 3, padding=1)]
    return nn.Sequential(*layers, _norm(channels), nn.SiLU(), nn.Conv2d(channels, 1, 3, padding=1))


def _discriminator() -> nn.Sequential:
    """Return a PatchGAN of two layers: masks [N, 1, S, S] to a score of realism per place."""
    layers: list[nn.Module] = [nn.Conv2d(1, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for channels, out, stride in ((64, 128, 2), (128, 256, 1)):
        layers += [
            nn.Conv2d(channels, out, 4, stride=stride, padding=1, bias=False),
            # Never used in evaluation, so running statistics would only add state.
            nn.BatchNorm2d(out, track_running_stats=False),
            nn.LeakyReLU(0.2),
        ]
    layers.append(nn.Conv2d(256, 1, 4, padding=1))
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
    return nn.Sequential(*layers)


def _norm(channels: int) -> nn.GroupNorm:
    """Return group normalisation with 32 groups as in VQ-GAN, or fewer of at least 4 channels."""
    return nn.GroupNorm(max(1, math.gcd(128, channels) // 4), channels, eps=1e-6)


def batches(
    config: MaskTokenizerConfig,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> ObjectBatches:
    """Return batches of amodal masks in windows of random enlargement, without images."""
    return ObjectBatches(
        annotations,
        config.crop,
        training.batch_size,
        training.seed,
        enlargement=config.enlargement,
        with_images=False,
    )
