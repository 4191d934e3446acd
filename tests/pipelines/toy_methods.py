"""A detector, and a completer with a part, that hardly learn anything: all that a new method has to
bring."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.layers.configs import CropConfig, Strict
from amodal_pipeline.methods.contract import Description, Part
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.samples.objects import ObjectBatches

HERE = "tests.pipelines.toy_methods"
LINES = {"toy_detector": f"{HERE}:ToyDetectorConfig", "toy_completer": f"{HERE}:ToyCompleterConfig"}

PARTS = {"toy_part": f"{HERE}:ToyPartConfig"}


class ToyDetectorConfig(Strict):
    """One object in the middle of each image."""

    DESCRIPTION: ClassVar[Description] = Description(task="detect", network=f"{HERE}:ToyDetector")

    name: Literal["toy_detector"] = "toy_detector"
    share: float = 0.5


class ToyDetector(nn.Module):
    box_kind = "amodal"

    def __init__(self, config: ToyDetectorConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.mask = nn.Parameter(torch.zeros(28, 28))

    def forward(self, images: list[Tensor], targets: list[dict] | None = None):
        if self.training:
            return {"loss_mask": (self.mask - 1).square().mean()}
        return [self._found(image) for image in images]

    def _found(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        margin = (1 - self.config.share) / 2
        sides = torch.tensor([width, height, width, height])
        box = sides * torch.tensor([margin, margin, 1 - margin, 1 - margin])
        mask = self.mask.sigmoid()[None]
        return {
            "boxes": box[None],
            "labels": torch.ones(1, dtype=torch.int64),
            "scores": torch.full((1,), 0.9),
            "amodal_masks": mask,
            "visible_masks": mask,
        }


class ToyPartConfig(Strict):
    """A number that is learnt, and one that is made of all batches at the end."""

    DESCRIPTION: ClassVar[Description] = Description(
        task="part", network=f"{HERE}:ToyPart", batches=f"{HERE}:batches", learns_from="objects"
    )

    name: Literal["toy_part"] = "toy_part"
    crop: CropConfig = CropConfig(side=16, image_side=16)


class ToyShape(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


class ToyPart(nn.Module):
    def __init__(self, config: ToyPartConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.network = ToyShape()  # what a method takes over

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss_share": (self.network.share - 1).square()}

    def finish(self, batches: ObjectBatches) -> None:
        self.network.seen.fill_(len(batches[0].names))


class ToyCompleterConfig(Strict):
    """The visible mask is the whole object, but for a number that is learnt."""

    DESCRIPTION: ClassVar[Description] = Description(
        task="complete",
        network=f"{HERE}:ToyCompleter",
        batches=f"{HERE}:batches",
        learns_from="objects",
        parts={"shape": Part("toy_part")},
    )

    name: Literal["toy_completer"] = "toy_completer"
    crop: CropConfig = CropConfig(side=16, image_side=16)
    shape: ToyPartConfig | None = None


class ToyCompleter(nn.Module):
    def __init__(self, config: ToyCompleterConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.shape = ToyShape().requires_grad_(False)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        drawn = targets["input"].float() * 0.9 + self.bias
        if self.training:
            return {"loss_mask": (drawn - targets["amodal"].float()).square().mean()}
        return {"amodal_masks": drawn.clamp(0, 1)}


def batches(
    config: ToyCompleterConfig | ToyPartConfig,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> ObjectBatches:
    """Return objects with their true visible masks."""
    return ObjectBatches(annotations, config.crop, training.batch_size, training.seed)
