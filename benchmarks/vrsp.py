"""One training step and one inference of VRSP at the size of its paper, beside Mask R-CNN.

ResNet-50 with a feature pyramid, one image of 800 x 1066 pixels, 80 categories, 128 RoIs that
overlap an object, a codebook of 80 x 1024 entries and 16 neighbours. The asked ratio of step times
is 1.1 times that of the operations, which the program counts; retrieval for 512 RoIs is to be
within 2 % of a step.

    python benchmarks/vrsp.py [--device cuda] [--out benchmarks/results/vrsp.json]
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from amodal_pipeline import methods
from amodal_pipeline.layers.configs import BackboneConfig, BoxHeadConfig, DetectorConfig
from amodal_pipeline.methods.configs import MaskRCNNConfig, ShapePriorConfig, VRSPConfig
from record import peak_gigabytes, seconds_of, write

HEIGHT, WIDTH, CATEGORIES, OBJECTS = 800, 1066, 80, 160
ROIS = 128  # a quarter of 512, all of which can be found among the objects' own boxes
BUDGET, RETRIEVAL_BUDGET = 1.1, 0.02

DETECTOR = DetectorConfig(
    backbone=BackboneConfig(name="resnet50", weights=None),
    box_head=BoxHeadConfig(samples_per_image=4 * ROIS),
    max_size=1333,
)


def target(random: np.random.Generator) -> dict:
    """Objects with boxes of all sizes; masks are squares at a quarter of the resolution."""
    side = random.uniform(40, 300, (OBJECTS, 2))
    corner = random.uniform(0, 1, (OBJECTS, 2)) * ([WIDTH, HEIGHT] - side)
    boxes = torch.tensor(np.concatenate([corner, corner + side], axis=1), dtype=torch.float32)
    masks = torch.zeros(OBJECTS, HEIGHT // 4, WIDTH // 4, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, (boxes / 4).long().tolist(), strict=True):
        mask[y1 : y2 + 1, x1 : x2 + 1] = 1
    return {
        "amodal_boxes": boxes,
        "visible_boxes": boxes,
        "labels": torch.from_numpy(random.integers(1, CATEGORIES + 1, OBJECTS)),
        "amodal_masks": masks,
        "visible_masks": masks,
        "levels": torch.zeros_like(masks),
        "mask_scale": (0.25, 0.25),
    }


def measure(config, device: str, repeats: int) -> tuple[torch.nn.Module, dict]:
    """Operations and seconds of one step (forward and backward) and one inference."""
    torch.manual_seed(0)
    model = methods.build(config, CATEGORIES).to(device).train()
    random = np.random.default_rng(0)
    image = torch.from_numpy(random.integers(0, 256, (3, HEIGHT, WIDTH), np.uint8)).to(device)
    truth = {
        k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in target(random).items()
    }
    amp = torch.autocast(device, torch.bfloat16) if device == "cuda" else nullcontext()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with amp:
            total = sum(model([image], [dict(truth)]).values())
        total.backward()

    with FlopCounterMode(display=False) as counter:
        step()
    steps = seconds_of(step, device, repeats)
    trained = peak_gigabytes(device)
    model.eval()

    def infer() -> None:
        with torch.inference_mode(), amp:
            model([image])

    return model, {
        "parameters": sum(p.numel() for p in model.parameters()),
        "step_gigaflops": round(counter.get_total_flops() / 1e9, 1),
        "step_seconds": [round(s, 4) for s in steps],
        "peak_gigabytes": round(trained, 2),
        "inference_seconds": [round(s, 4) for s in seconds_of(infer, device, repeats)],
    }


def ratios(plain: dict, full: dict) -> dict:
    """Return how steps compare: their times, and their operations, which explain them."""
    flops = full["step_gigaflops"] / plain["step_gigaflops"]
    times = np.median(full["step_seconds"]) / np.median(plain["step_seconds"])
    return {
        "ratio_of_operations": round(flops, 3),
        "ratio_of_step_times": round(float(times), 3),
        "times_over_operations": round(float(times / flops), 3),
        "budget": BUDGET,
    }


def retrieval(model: torch.nn.Module, device: str, repeats: int) -> list[float]:
    """Seconds for the 16 nearest of 512 masks."""
    draw = torch.Generator().manual_seed(0)
    prior = model.prior
    prior.codes.copy_(torch.randn(prior.codes.shape, generator=draw))
    prior.count.fill_(prior.codes.shape[1])
    masks = (torch.rand(4 * ROIS, 28, 28, generator=draw) > 0.5).float().to(device)
    category = torch.randint(0, CATEGORIES, (4 * ROIS,), generator=draw).to(device)
    return seconds_of(lambda: prior.nearest(masks, category, 16), device, 2 * repeats)


def main(device: str, repeats: int, out: Path | None) -> None:
    _, plain = measure(MaskRCNNConfig(detector=DETECTOR), device, repeats)
    config = VRSPConfig(detector=DETECTOR, prior=ShapePriorConfig())
    model, full = measure(config, device, repeats)
    found = retrieval(model, device, repeats)
    write(
        {
            "image": [HEIGHT, WIDTH],
            "categories": CATEGORIES,
            "rois": ROIS,
            "entries": ShapePriorConfig().clusters,
            "threads": torch.get_num_threads(),
            "precision": "bfloat16" if device == "cuda" else "float32",
            "mask_rcnn": plain,
            "vrsp": full,
            **ratios(plain, full),
            "retrieval_of_512_seconds": [round(s, 4) for s in found],
            "retrieval_share_of_step": round(
                float(np.median(found) / np.median(full["step_seconds"])), 4
            ),
            "budget_of_share": RETRIEVAL_BUDGET,
        },
        out,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    main(**vars(parser.parse_args()))
