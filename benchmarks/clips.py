"""A training step of C2F-Seg for videos beside one of the image model, per frame, in one process.

The published sizes: ResNet-50 on crops of 256 pixels, masks of 16 x 16 tokens; 12 layers of 768 for
images, 8 with temporal attention for videos. Both join tokens by channel and are given the same
frames, float32. Steps alternate; the ratio of their medians is compared with that of their
floating-point operations, which the same program counts. What a frame of a clip costs beyond that
ratio is overhead of the temporal attention: cutting windows and rolling.

    python benchmarks/clips.py [--frames 16] [--out benchmarks/results/clips.json]
"""

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from amodal_pipeline import methods
from amodal_pipeline.layers.configs import EncoderConfig
from amodal_pipeline.methods.configs import C2FSegConfig, C2FSegVideoConfig, MaskTokenizerConfig
from record import seconds_of, write


def discs(frames: int, side: int, device: str) -> dict[str, Tensor]:
    """Return targets of a disc that moves to the right, of which the upper half is seen."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    centre = side * (0.4 + 0.2 * torch.arange(frames)[:, None, None] / frames)
    amodal = ((x - centre) ** 2 + (y - side / 2) ** 2 < (side / 4) ** 2).byte()
    visible = amodal.clone()
    visible[:, side // 2 :] = 0
    targets = {"input": visible, "visible": visible, "amodal": amodal}
    return {name: masks.to(device) for name, masks in targets.items()}


def step(model: nn.Module, images: Tensor, targets: dict[str, Tensor]) -> None:
    sum(model(images, targets).values()).backward()
    model.zero_grad(set_to_none=True)


def main(frames: int, repeats: int, out: Path | None) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    parts = {"encoder": EncoderConfig(weights=None), "tokenizer": MaskTokenizerConfig()}
    video = {"frames": frames, **parts}
    configs = {
        "image": C2FSegConfig(fusion="channels", **parts),
        "video": C2FSegVideoConfig(**video),
        "video_without_temporal_attention": C2FSegVideoConfig(temporal=False, **video),
    }
    crop = configs["image"].crop
    targets = discs(frames, crop.side, device)
    images = torch.randint(256, (frames, 3, crop.image_side, crop.image_side), dtype=torch.uint8)
    images = images.to(device)
    clip = (images[None], {name: masks[None] for name, masks in targets.items()})

    gigaflops, seconds, works = {}, {name: [] for name in configs}, {}
    for name, config in configs.items():
        model = methods.build(config, 1).to(device).train()
        given = (images, targets) if name == "image" else clip
        works[name] = lambda model=model, given=given: step(model, *given)
        with FlopCounterMode(display=False) as counter:
            works[name]()
        gigaflops[name] = counter.get_total_flops() / 1e9 / frames
    for _ in range(repeats):
        for name, work in works.items():
            seconds[name] += seconds_of(work, device, 1)
    medians = {name: statistics.median(each) / frames for name, each in seconds.items()}
    ratios = {
        name: {
            "flop_ratio": round(gigaflops[name] / gigaflops["image"], 3),
            "time_ratio": round(medians[name] / medians["image"], 3),
        }
        for name in configs
        if name != "image"
    }
    result = {
        "what": "training step (forward and backward) per frame, compared with the image model",
        "frames": frames,
        "threads": torch.get_num_threads(),
        "gigaflops_per_frame": {name: round(value, 1) for name, value in gigaflops.items()},
        "seconds_per_step": {name: [round(s, 2) for s in each] for name, each in seconds.items()},
        "compared_with_image": ratios,
    }
    write(result, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    main(**vars(parser.parse_args()))
