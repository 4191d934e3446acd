"""Training step and inference of C2F-Seg at the size of its paper, and what each lever brings.

ResNet-50 on crops of 256 pixels, masks of 16 x 16 tokens by a tokenizer of 128 channels, 12 layers
of 768. The plain version runs in float32, with attention as written out, and encodes the true mask
of every object in every step. Then, one after the other and each on top of those before: tokens of
the true masks are computed once, attention is fused, bf16, torch.compile.

    python benchmarks/c2f_seg.py [--device cuda] [--small] [--out benchmarks/results/c2f_seg.json]
"""

import argparse
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from amodal_pipeline import methods
from amodal_pipeline.layers.configs import CropConfig, EncoderConfig
from amodal_pipeline.methods.c2f_seg.method import C2FSeg
from amodal_pipeline.methods.configs import C2FSegConfig, MaskTokenizerConfig
from amodal_pipeline.training.device import resolve_precision
from record import peak_gigabytes, seconds_of, write

PAPER = C2FSegConfig(encoder=EncoderConfig(weights=None), tokenizer=MaskTokenizerConfig())
SMALL = C2FSegConfig(
    encoder=EncoderConfig(name="tf_efficientnet_lite0", weights=None),
    crop=CropConfig(side=64, image_side=128),
    tokenizer=MaskTokenizerConfig(
        crop=CropConfig(side=64), channels=32, multipliers=(1, 1, 2, 2), code_size=64
    ),
    width=192,
    layers=4,
    heads=4,
)
OBJECTS = {"cpu": 2, "cuda": 16}  # a batch; 16 as in the paper


@dataclass(frozen=True)
class Levers:
    """What is done faster than plainly."""

    tokens_once: bool = False
    fused_attention: bool = False
    bfloat16: bool = False
    compiled: bool = False

    @property
    def last(self) -> str:
        return ([name for name, used in vars(self).items() if used] or ["plain"])[-1]


def ladder(device: str, without: list[str]) -> tuple[list[Levers], dict[str, str]]:
    """The levers one by one, and why any is left out."""
    left_out = dict.fromkeys(without, "not asked for")
    if resolve_precision("auto", device) != "bfloat16":
        left_out["bfloat16"] = "this processor has no bf16 in hardware"
    if not shutil.which("c++") and not shutil.which("g++"):
        left_out["compiled"] = "torch.compile needs a C++ compiler, and there is none"
    used: dict[str, bool] = {}
    rows = [Levers()]
    for name in vars(Levers()):
        if name not in left_out:
            used[name] = True
            rows.append(Levers(**used))
    return rows, left_out


def batch(config: C2FSegConfig, device: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Objects that are discs, of which the upper half is seen."""
    count, side, seen = OBJECTS[device], config.crop.side, config.crop.image_side
    random = np.random.default_rng(0)
    y, x = (
        random.uniform(0.4, 0.6, (2, count, 1, 1)) - (np.mgrid[:side, :side][:, None] + 0.5) / side
    )
    radius = random.uniform(0.15, 0.3, (count, 1, 1))
    amodal = torch.from_numpy(y**2 + x**2 < radius**2).byte()
    visible = amodal.clone()
    visible[:, side // 2 :] = 0
    images = torch.from_numpy(random.integers(0, 256, (count, 3, seen, seen), np.uint8))
    targets = {"input": visible, "visible": visible, "amodal": amodal, "key": torch.arange(count)}
    return images.to(device), {name: value.to(device) for name, value in targets.items()}


def using(levers: Levers, device: str) -> ExitStack:
    stack = ExitStack()
    if not levers.fused_attention:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
    if levers.bfloat16:
        stack.enter_context(torch.autocast(device, torch.bfloat16))
    return stack


class Bench:
    """One model and one batch, timed under any levers."""

    def __init__(self, config: C2FSegConfig, device: str) -> None:
        torch.manual_seed(0)
        self.device = device
        self.model: C2FSeg = methods.build(config, 1).to(device)
        self.images, self.targets = batch(config, device)
        with torch.inference_mode():
            tokens = self.model.tokenizer.encode(self.targets["amodal"].float())
        self.tokens = {"amodal_tokens": tokens.clone()}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, 3e-4, betas=(0.9, 0.95))

    def step(self, levers: Levers):
        """One training step as a function: forward, backward and the optimiser's."""
        model = torch.compile(self.model) if levers.compiled else self.model
        targets = self.targets | (self.tokens if levers.tokens_once else {})

        def work() -> None:
            self.model.train()
            with using(levers, self.device):
                total = sum(model(self.images, targets).values())
            total.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

        return work

    def inference(self, levers: Levers):
        """Masks of a batch as a function."""
        model = torch.compile(self.model) if levers.compiled else self.model

        def work() -> None:
            self.model.eval()
            with torch.inference_mode(), using(levers, self.device):
                model(self.images, self.targets)

        return work

    def row(self, kind: str, levers: Levers, repeats: int) -> dict:
        torch.compiler.reset()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        work = self.step(levers) if kind == "training" else self.inference(levers)
        seconds = seconds_of(work, self.device, repeats)
        return {
            "with": levers.last,
            "seconds": [round(s, 4) for s in seconds],
            "objects_per_second": round(len(self.images) / float(np.median(seconds)), 2),
            "peak_gigabytes": round(peak_gigabytes(self.device), 2),
        }

    def gigaflops(self, levers: Levers) -> dict[str, float]:
        """Operations of one step and one inference (multiply and add count two)."""
        counted = {}
        for kind, work in (("training", self.step(levers)), ("inference", self.inference(levers))):
            with FlopCounterMode(display=False) as counter:
                work()
            counted[kind] = counter.get_total_flops() / 1e9
        return counted


def compared(rows: list[dict]) -> list[dict]:
    """Each row beside the plain one and the one before, and its lever's share of what is saved."""
    seconds = [float(np.median(row["seconds"])) for row in rows]
    saved = seconds[0] - seconds[-1]
    for i, row in enumerate(rows):
        row["times_plain"] = round(seconds[0] / seconds[i], 2)
        if i:
            row["times_row_before"] = round(seconds[i - 1] / seconds[i], 2)
            row["share_of_saving"] = round((seconds[i - 1] - seconds[i]) / saved, 3)
    return rows


def matrix_teraflops(device: str) -> float:
    """The best rate at which this GPU multiplies large bf16 matrices."""
    side = 8192
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    return 2 * side**3 / min(seconds_of(lambda: a @ a, device, 20)) / 1e12


def main(device: str, repeats: int, small: bool, without: list[str], out: Path | None) -> None:
    config = SMALL if small else PAPER
    levers, left_out = ladder(device, without)
    for name, reason in left_out.items():
        print(f"without {name}: {reason}")
    bench = Bench(config, device)
    training = [bench.row("training", each, repeats) for each in levers]
    # Tokens of true masks are no part of inference.
    of_inference = [each for each in levers if each.last != "tokens_once"]
    inference = [bench.row("inference", each, repeats) for each in of_inference]
    result = {
        "size": "small" if small else "paper",
        "objects": OBJECTS[device],
        "parameters": {
            "trained": sum(p.numel() for p in bench.model.parameters() if p.requires_grad),
            "tokenizer": sum(p.numel() for p in bench.model.tokenizer.parameters()),
        },
        "steps_of_decoding": config.steps,
        "threads": torch.get_num_threads(),
        "left_out": left_out,
        "training": compared(training),
        "inference": compared(inference),
    }
    if device == "cuda":
        rate = matrix_teraflops(device)
        result["matrix_teraflops"] = round(rate, 1)
        for kind, flops in bench.gigaflops(Levers(tokens_once=True, fused_attention=True)).items():
            row = result[kind][-1]
            row["gigaflops"] = round(flops, 1)
            row["share_of_matrix_rate"] = round(
                flops / 1e3 / float(np.median(row["seconds"])) / rate, 3
            )
    write(result, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--without", nargs="*", choices=list(vars(Levers())), default=[])
    parser.add_argument("--out", type=Path)
    main(**vars(parser.parse_args()))
