"""OrderNet: which of two overlapping objects is in front.

Zhu et al., "Semantic Amodal Segmentation", CVPR 2017: a pretrained ResNet-50 with a wider first
convolution. Zhang et al., "Learning Semantics-aware Distance Map with Semantics Layering Network"
(SLN), ACM MM 2019, section 5.2, also give it pairs of distance maps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.annotations.known_objects import true_objects_with_order
from amodal_pipeline.layers.encoder import Encoder
from amodal_pipeline.methods.configs import OrderNetConfig
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.samples.pairs import PairBatches

_STRIDE = 32  # of the map that is averaged: nothing is dilated


class OrderNet(nn.Module):
    """One number for a pair (A, B): above 0 where A is in front of B.

    In training ``model(images, targets)`` gives the loss of one direction of each pair, in
    evaluation {"logits": float [N]}, those of (A, B) less those of (B, A), halved: the other
    direction has exactly the opposite sign.

    Images are crops around both objects, uint8 (or 0–1) [N, 3, S, S]; without ``config.image``
    their pixels are not looked at. Targets: "objects" float [N, 2, S, S], the masks (0 or 1) or the
    distance maps (at most 1) of A and B; in training also "first_in_front" float [N], 1 where A is
    in front, 0 where B is, one half where neither.
    """

    def __init__(self, config: OrderNetConfig, classes: int = 1) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder, strides=(_STRIDE,), beside=2)
        self.classifier = nn.Linear(self.encoder.channels[-1], 1)
        # Undecided at first, whatever the scale of the features.
        nn.init.zeros_(self.classifier.weight)

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        objects = targets["objects"]
        if not self.config.image:
            # The mean of what the network was pretrained on, which is 0 to it.
            images = self.encoder.mean.expand(len(objects), 3, *objects.shape[-2:])
        if self.training:
            logits = self.logits(images, objects)
            truth = targets["first_in_front"]
            return {"loss_order": F.binary_cross_entropy_with_logits(logits.float(), truth)}
        forth, back = self.logits(images, objects), self.logits(images, objects.flip(1))
        return {"logits": (forth - back) / 2}

    def logits(self, images: Tensor, objects: Tensor) -> Tensor:
        """Return what the network says of (A, B), float [N]; (B, A) may get another size."""
        (features,) = self.encoder(images, objects)
        return self.classifier(torch.mean(features, dim=(2, 3))).squeeze(1)


def batches(
    config: OrderNetConfig,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> PairBatches:
    """Return pairs of the true objects, or of what was predicted for them (``detected``)."""
    objects = true_objects_with_order(annotations) if detected is None else detected
    return PairBatches(annotations, objects, config, training.batch_size, training.seed)
