"""A3D: "2D Amodal Instance Segmentation Guided by 3D Shape Prior", ECCV 2022.

The supplement was never published. Details that the paper does not give follow the two methods that
it builds on, SoftRas (Liu et al., ICCV 2019) and SMR (Hu et al., CVPR 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.layers.cameras import PRESETS, Viewpoints, fit, project, viewpoints_of
from amodal_pipeline.layers.meshes import MeshLosses, icosphere
from amodal_pipeline.layers.soft_rasterizer import silhouettes
from amodal_pipeline.methods import completer
from amodal_pipeline.methods.configs import A3DConfig
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.samples.objects import ObjectBatches

COVERED = 0.95  # meshes that cover more than this share of their windows are too close


@dataclass(frozen=True)
class Reconstruction:
    """All outputs of A3D for N objects.

    Attributes:
        vertices: float32 [N, V, 3] in the units of the camera preset; None without a mesh.
        viewpoints: the N estimated cameras; None without a mesh.
        coarse: silhouettes [N, S, S] in 0–1.
        amodal: refined masks [N, S, S] in 0–1; equal to ``coarse`` without refinement.
        categories: probabilities [N, classes].
    """

    vertices: Tensor | None
    viewpoints: Viewpoints | None
    coarse: Tensor
    amodal: Tensor
    categories: Tensor


class A3D(nn.Module):
    """A3D: deforms a sphere to the object's shape, renders it, and refines the silhouette.

    The silhouette, seen from an estimated viewpoint, is the coarse mask; the refinement also sees
    the image and the visible mask.

    In training ``model(images, targets)`` returns named losses, in evaluation {"amodal_masks":
    float [N, S, S] in 0–1}. In evaluation each object's mask is independent of the others.

    Images are crops of objects, uint8 (or float in 0–1) [N, 3, S, S]; the networks see them in 0–1,
    as in SoftRas and SMR. Targets in training:

    - "input": the given visible masks, uint8 [N, S, S]
    - "amodal", "visible": the true masks, uint8 [N, S, S]
    - "labels": int64 [N], from 1
    - "aspect": float32 [N, 2], width and height of the window divided by the longer of them
    - "partner": int64 [N], the position in the batch of another view of the same object, or -1

    In evaluation: "input" and, with a mesh, "aspect".

    All meshes have the same ``faces``, int64 [F, 3]. A vertex moves by at most the sphere's radius
    along each axis (tanh, as in SMR).
    """

    def __init__(self, config: A3DConfig, classes: int) -> None:
        super().__init__()
        self.config, self.side = config, config.crop.side
        self.encoder = _encoder(config, config.code)
        self.category_logits = nn.Linear(config.code, classes)
        if config.mesh:
            self.preset = PRESETS[config.camera]
            sphere = icosphere(config.subdivisions)
            vertices = sphere.vertices * self.preset.radius
            self.register_buffer("sphere", vertices, persistent=False)
            self.register_buffer("faces", sphere.faces, persistent=False)
            self.mesh_losses = MeshLosses(sphere.faces, len(vertices))
            self.viewpoint = _encoder(config, 4)
            if config.spread:
                self.spread = nn.BatchNorm1d(2, affine=False)
        outputs = self.sphere.numel() if config.mesh else self.side**2
        self.decoder = _fully_connected([config.code, *config.decoder, outputs])
        if config.refinement:
            # channels_last is faster: with few channels on a CPU, and in bf16 on a GPU.
            self.refinement = _refinement(config.refinement_channels)
            self.refinement.to(memory_format=torch.channels_last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):  # He's, sec. 3.7
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # At first a mesh is nearly the sphere; without a mesh, masks are near one half.
        nn.init.normal_(self.decoder[-1].weight, std=1e-3)
        if config.mesh:
            # With He's weights the first steps of Adam move the camera so close that meshes cover
            # their windows, where masks have no gradient. Small weights start it at mid-range.
            nn.init.normal_(self.viewpoint[-1][-1].weight, std=1e-3)
        # Shares of their windows that coarse and true masks cover in the last training batch.
        self.coverage: Tensor | None = None

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.training:
            return self._losses(images, targets)
        return {"amodal_masks": self.explain(images, targets).amodal}

    def explain(self, images: Tensor, targets: dict[str, Tensor]) -> Reconstruction:
        """Return mesh, viewpoint and masks of objects; in evaluation mode, with its inputs."""
        seen = self._seen(images, targets)
        code = self.encoder(seen)
        vertices, viewpoints, coarse = self._coarse(code, seen, targets)
        amodal = self._refined(coarse, seen).sigmoid() if self.config.refinement else coarse
        categories = self.category_logits(code).float().softmax(dim=1)
        return Reconstruction(vertices, viewpoints, coarse, amodal, categories)

    complete = completer.complete  # of one picture: model.complete(image, visible_mask)

    def screen(self, vertices: Tensor, viewpoints: Viewpoints, aspect: Tensor) -> Tensor:
        """Return vertices projected to windows of ``aspect`` [N, 2]: x, y and depth, [N, V, 3].

        See :func:`~amodal_pipeline.layers.cameras.project`. With ``config.fitted`` the projection
        is shifted and scaled to fill the window.
        """
        screen = project(vertices, viewpoints, self.preset.field_of_view, aspect)
        if self.config.fitted:
            screen = fit(screen, 1 / self.config.crop.enlarge, least=2 / self.side)
        return screen

    def trouble(self) -> str | None:
        """Return a warning about the last training batch, with a remedy; None if all is well."""
        if not self.config.mesh or self.coverage is None:
            return None
        coarse, truth = self.coverage.tolist()
        if coarse <= COVERED or truth > COVERED - 0.1:
            return None
        return (
            f"coarse masks cover {coarse:.0%} of their windows, objects {truth:.0%}: the estimated "
            "camera is so close that meshes fill their windows, where masks have no gradient. If "
            "loss_coarse_mask does not fall in later reports, train again (--params restart=true) "
            "with another training.seed, a lower training.learning_rate, a longer "
            "training.warmup_iterations, or model.fitted=true"
        )

    def _losses(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        config = self.config
        seen, truth = self._seen(images, targets), targets["amodal"].float()
        code = self.encoder(seen)
        vertices, viewpoints, coarse = self._coarse(code, seen, targets)
        self.coverage = torch.stack([coarse.detach().mean(), truth.mean()])
        overlaps = [soft_iou(coarse, truth)]
        own = (targets["partner"] >= 0).nonzero().squeeze(1)
        if config.mesh and config.cross_view and len(own):
            # SoftRas' multi-view loss; SoftRas knows the viewpoints, here they are estimated.
            other = targets["partner"][own]
            crossed = self._rendered(
                vertices[own],
                Viewpoints(
                    viewpoints.elevation[other],
                    viewpoints.azimuth[other],
                    viewpoints.distance[other],
                ),
                targets["aspect"][other],
            )
            overlaps.append(soft_iou(crossed, truth[other]))
        losses = {"loss_coarse_mask": 1 - torch.cat(overlaps).mean()}  # eq. 1
        if config.refinement:
            weights = torch.where(targets["visible"] > 0, 1.0, config.hidden_weight)
            edge = F.binary_cross_entropy_with_logits(self._refined(coarse, seen), truth, weights)
            losses["loss_edge"] = config.edge_weight * edge  # eq. 2
        if config.class_weight:
            category = F.cross_entropy(self.category_logits(code).float(), targets["labels"] - 1)
            losses["loss_category"] = config.class_weight * category
        if config.mesh:
            # SoftRas' weights are for meshes of its size.
            sized = vertices * (PRESETS["softras"].radius / self.preset.radius)
        if config.mesh and config.laplacian:
            losses["loss_laplacian"] = config.laplacian * self.mesh_losses.laplacian(sized)
        if config.mesh and config.flatten:
            losses["loss_flatten"] = config.flatten * self.mesh_losses.flatten(sized)
        return losses

    def _seen(self, images: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Return the networks' input, image and visible mask, float [N, 4, S, S] in 0–1."""
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        return torch.cat([images, targets["input"][:, None].float()], dim=1)

    def _coarse(
        self, code: Tensor, seen: Tensor, targets: dict[str, Tensor]
    ) -> tuple[Tensor | None, Viewpoints | None, Tensor]:
        """Return vertices and viewpoints (None without a mesh) and coarse masks [N, S, S]."""
        # In float32: rounded to bf16, a vertex may be off by a quarter of a pixel.
        with torch.autocast(code.device.type, enabled=False):
            decoded = self.decoder(code.float())
        if not self.config.mesh:
            return None, None, decoded.unflatten(1, (self.side, self.side)).sigmoid()
        offsets = self.preset.radius * decoded.unflatten(1, self.sphere.shape).tanh()
        vertices = self.sphere + offsets
        raw = self.viewpoint(seen).float()
        if self.config.spread:
            raw = torch.cat([raw[:, :2], self.spread(raw[:, 2:])], dim=1)
        viewpoints = viewpoints_of(raw, self.preset)
        return vertices, viewpoints, self._rendered(vertices, viewpoints, targets["aspect"])

    def _rendered(self, vertices: Tensor, viewpoints: Viewpoints, aspect: Tensor) -> Tensor:
        """Return silhouettes [N, S, S] in 0–1, in windows of any aspect."""
        with torch.autocast(vertices.device.type, enabled=False):
            screen = self.screen(vertices, viewpoints, aspect)
            return silhouettes(screen, self.faces, self.side, self.config.sigma)

    def _refined(self, coarse: Tensor, seen: Tensor) -> Tensor:
        """Return logits of the refined masks [N, S, S] (sec. 3.5)."""
        return self.refinement(torch.cat([coarse[:, None], seen], dim=1)).float().squeeze(1)


def soft_iou(masks: Tensor, truth: Tensor) -> Tensor:
    """Return the soft intersection over union [N] of masks [N, S, S] in 0–1 (SoftRas' loss)."""
    intersection = (masks * truth).sum(dim=(1, 2))
    union = (masks + truth - masks * truth).sum(dim=(1, 2))
    return intersection / union.clamp(min=1e-6)


def _encoder(config: A3DConfig, outputs: int) -> nn.Sequential:
    """Return an encoder from crops [N, 4, S, S] to ``outputs`` numbers (sec. 3.3, 3.4).

    Its convolutions are those of SMR.
    """
    blocks = [
        nn.Sequential(
            nn.Conv2d(before, after, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        )
        for before, after in pairwise((4, *config.channels))
    ]
    side = config.crop.side
    for _ in config.channels:
        side = -(-side // 2)
    if config.pooled:
        blocks.append(nn.AdaptiveAvgPool2d(1))
        side = 1
    widths = [config.channels[-1] * side**2, *config.hidden, outputs]
    return nn.Sequential(*blocks, nn.Flatten(), _fully_connected(widths))


def _fully_connected(widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def _refinement(channels: int) -> nn.Sequential:
    """Return three blocks of convolution, batch normalisation and ReLU (sec. 3.5), and logits.

    The logits need one more convolution, because the third block ends in a ReLU.
    """
    blocks = [
        nn.Sequential(
            nn.Conv2d(before, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        for before in (5, channels, channels)
    ]
    return nn.Sequential(*blocks, nn.Conv2d(channels, 1, 1))


def batches(
    config: A3DConfig,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> ObjectBatches:
    """Return batches of objects within their amodal boxes; views of the same object in pairs."""
    return ObjectBatches(
        annotations,
        config.crop,
        training.batch_size,
        training.seed,
        corruption=config.corruption,
        box_noise=config.box_noise,
        # Only a mesh is rendered from two viewpoints; without one, pairs would waste places.
        paired=config.cross_view and config.mesh,
    )
