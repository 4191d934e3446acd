"""A training step of ORCNN beside one of torchvision's own Mask R-CNN, in one process.

ResNet-50 with a feature pyramid, images of 800 pixels, 512 RoIs an image of which 128 are forced to
be positive for both models. Steps alternate; the median of each is compared with the ratio of their
floating-point operations, which the same program counts. What ORCNN costs beyond that ratio is
overhead of ours.

    python benchmarks/training_step.py --out benchmarks/results/training_step.json
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import box_iou

from amodal_pipeline import methods
from amodal_pipeline.methods.registry import MethodConfig
from record import write

CLASSES, OBJECTS, POSITIVE, ROIS = 90, 16, 128, 512


def targets_of(size: int, device: str, objects: int = OBJECTS, classes: int = CLASSES) -> dict:
    """Ellipses in boxes, the lower half of each hidden."""
    draw = torch.Generator().manual_seed(0)
    corner = torch.rand(objects, 2, generator=draw) * size * 0.6
    extent = (0.1 + 0.25 * torch.rand(objects, 2, generator=draw)) * size
    boxes = torch.cat([corner, corner + extent], dim=1)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, extent / 2
    dx = (x[None] + 0.5 - centre[:, 0, None, None]) / radius[:, 0, None, None]
    dy = (y[None] + 0.5 - centre[:, 1, None, None]) / radius[:, 1, None, None]
    amodal = (dx**2 + dy**2 <= 1).to(torch.uint8)
    visible = amodal * (dy < 0)
    target = {
        "boxes": boxes,
        "masks": amodal,
        "amodal_boxes": boxes,
        "visible_boxes": boxes,
        "amodal_masks": amodal,
        "visible_masks": visible,
        "labels": torch.randint(1, classes + 1, (objects,), generator=draw),
    }
    return {k: v.to(device) for k, v in target.items()} | {"mask_scale": (1.0, 1.0)}


def force_samples(roi_heads, size: int, device: str) -> None:
    """Make a model draw the same RoIs: 128 close to the objects, 384 beside them."""
    draw = torch.Generator().manual_seed(1)

    def select(proposals: list[Tensor], targets: list[dict]):
        rois, matched, labels, wanted = [], [], [], []
        for target in targets:
            boxes = target["boxes"].cpu()
            index = torch.arange(POSITIVE) % len(boxes)
            extent = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)[index]
            near = boxes[index] + (torch.rand(POSITIVE, 4, generator=draw) - 0.5) * 0.1 * extent
            far = torch.rand(ROIS - POSITIVE, 4, generator=draw) * size * 0.5
            far[:, 2:] += far[:, :2] + 8
            assert box_iou(near, boxes)[torch.arange(POSITIVE), index].min() > 0.5
            rois.append(torch.cat([near, far]).to(device))
            index = torch.cat([index, torch.zeros(ROIS - POSITIVE, dtype=torch.long)])
            matched.append(index.to(device))
            label = target["labels"].cpu()[index]
            label[POSITIVE:] = 0
            labels.append(label.to(device))
            wanted.append(boxes[index].to(device))
        return rois, matched, labels, roi_heads.box_coder.encode(wanted, rois)

    roi_heads.select_training_samples = select


def models(size: int, device: str) -> dict[str, torch.nn.Module]:
    # As maskrcnn_resnet50_fpn builds it from pretrained weights: batch normalisation and the first
    # two stages frozen, as in ours.
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
    reference = MaskRCNN(backbone, CLASSES + 1, min_size=size, max_size=size)
    config = MethodConfig.model_validate(
        {
            "name": "orcnn",
            "detector": {
                "backbone": {"name": "resnet50", "weights": None, "frozen_stages": 2},
                "min_size": size,
                "max_size": size,
            },
        }
    ).root
    own = methods.build(config, CLASSES)
    force_samples(reference.roi_heads, size, device)
    force_samples(own.detector.roi_heads, size, device)
    return {"torchvision_mask_rcnn": reference.to(device), "orcnn": own.to(device)}


def step(model: torch.nn.Module, images: list[Tensor], targets: list[dict]) -> None:
    sum(model(images, targets).values()).backward()
    model.zero_grad(set_to_none=True)
    if images[0].is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--size", type=int, default=800)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    pair = models(arguments.size, device)
    draw = torch.Generator().manual_seed(2)
    images = [
        torch.rand(3, arguments.size, arguments.size, generator=draw).to(device)
        for _ in range(arguments.batch)
    ]
    targets = [targets_of(arguments.size, device) for _ in images]

    operations, seconds = {}, {name: [] for name in pair}
    for name, model in pair.items():
        model.train()
        with FlopCounterMode(display=False) as counter:  # also the warm-up
            step(model, images, targets)
        operations[name] = counter.get_total_flops()
    for _ in range(arguments.repeats):
        for name, model in pair.items():
            start = time.perf_counter()
            step(model, images, targets)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    flop_ratio = operations["orcnn"] / operations["torchvision_mask_rcnn"]
    time_ratio = medians["orcnn"] / medians["torchvision_mask_rcnn"]
    result = {
        "what": "training step (forward and backward), forced 128 positive RoIs an image",
        "size": arguments.size,
        "batch": arguments.batch,
        "gigaflops": {k: round(v / 1e9, 1) for k, v in operations.items()},
        "seconds": {k: [round(t, 3) for t in v] for k, v in seconds.items()},
        "median_seconds": {k: round(v, 3) for k, v in medians.items()},
        "flop_ratio": round(flop_ratio, 4),
        "time_ratio": round(time_ratio, 4),
        "time_ratio_over_flop_ratio": round(time_ratio / flop_ratio, 4),
        "budget": 1.1,
    }
    write(result, arguments.out)


if __name__ == "__main__":
    main()
