"""OrderNet: predicts which of two overlapping objects is in front.

From Zhu et al., "Semantic Amodal Segmentation", CVPR 2017: a pretrained ResNet-50 with a wider
first convolution. Zhang et al., "Learning Semantics-aware Distance Map with Semantics Layering
Network" (SLN), ACM MM 2019, section 5.2, also use distance maps as input.
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

_STRIDE = 32  # stride of the last map, which is averaged; no stage is dilated


class OrderNet(nn.Module):
    """A classifier of pairs (A, B) of objects: its logit is above 0 if A is in front of B.

    In training ``model(images, targets)`` returns {"loss_order"} for one direction of each pair. In
    evaluation it returns {"logits": float [N]}, half the difference between the logits of (A, B)
    and (B, A), so that swapping A and B exactly reverses the sign.

    Images are crops around both objects, uint8 (or float in 0–1) [N, 3, S, S]; they are not used
    without ``config.image``. Targets:

    - "objects": float [N, 2, S, S], masks (0 or 1) or distance maps (at most 1) of A and B
    - "first_in_front" (training): float [N], 1 if A is in front, 0 if B is, 0.5 if neither
    """

    def __init__(self, config: OrderNetConfig, classes: int = 1) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder, strides=(_STRIDE,), beside=2)
        self.classifier = nn.Linear(self.encoder.channels[-1], 1)
        # Both directions are equally likely at first, whatever the scale of the features.
        nn.init.zeros_(self.classifier.weight)

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        objects = targets["objects"]
        if not self.config.image:
            # The mean of the pretraining images, which is 0 after normalisation.
            images = self.encoder.mean.expand(len(objects), 3, *objects.shape[-2:])
        if self.training:
            logits = self.logits(images, objects)
            truth = targets["first_in_front"]
            return {"loss_order": F.binary_cross_entropy_with_logits(logits.float(), truth)}
        forth, back = self.logits(images, objects), self.logits(images, objects.flip(1))
        return {"logits": (forth - back) / 2}

    def logits(self, images: Tensor, objects: Tensor) -> Tensor:
        """Return the network's output for (A, B), float [N], without that for (B, A)."""
        (features,) = self.encoder(images, objects)
        return self.classifier(torch.mean(features, dim=(2, 3))).squeeze(1)


def batches(
    config: OrderNetConfig,
    training: TrainingConfig,
    annotations: AmodalAnnotations,
    detected: Predictions | None = None,
) -> PairBatches:
    """Return batches of pairs of true objects, or of the predictions ``detected`` for them."""
    objects = true_objects_with_order(annotations) if detected is None else detected
    return PairBatches(annotations, objects, config, training.batch_size, training.seed)
