"""One training step and one inference of SLN at the size of its paper, beside Mask R-CNN.

ResNet-50, dilated for SLN and with a feature pyramid for Mask R-CNN; one image of 800 x 1066
pixels, 128 RoIs that overlap an object. The asked ratio of step times is 1.1 times that of the
operations, which the program counts.

    python benchmarks/sln.py [--device cuda] [--out benchmarks/results/sln.json]
"""

import argparse
from pathlib import Path

import torch
from vrsp import DETECTOR, HEIGHT, ROIS, WIDTH, measure, ratios

from amodal_pipeline.layers.configs import EncoderConfig
from amodal_pipeline.methods.configs import MaskRCNNConfig, SLNConfig
from record import write


def main(device: str, repeats: int, layers: int, stride: int, out: Path | None) -> None:
    _, plain = measure(MaskRCNNConfig(detector=DETECTOR), device, repeats)
    config = SLNConfig(
        encoder=EncoderConfig(weights=None, frozen_batch_norm=True),
        layers=layers,
        stride=stride,
        proposals=DETECTOR.proposals,
        box_head=DETECTOR.box_head,
    )
    _, full = measure(config, device, repeats)
    write(
        {
            "image": [HEIGHT, WIDTH],
            "rois": ROIS,
            "layers": layers,
            "stride": stride,
            "threads": torch.get_num_threads(),
            "precision": "bfloat16" if device == "cuda" else "float32",
            "mask_rcnn": plain,
            "sln": full,
            **ratios(plain, full),
        },
        out,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--stride", type=int, choices=[4, 8, 16], default=8)
    parser.add_argument("--out", type=Path)
    main(**vars(parser.parse_args()))
