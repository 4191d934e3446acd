"""Every method at its published size on one GPU: ten minutes, one command, JSON.

Each method is trained by the project's own loop, with the network, batch and optimiser of the
environment `kins` (videos: `movid_a`) and fresh weights, on a few rendered scenes of 800 pixels,
and then run over them. Two forms: as shipped (bf16) and plain float32. Per form and step:

- seconds, and images (objects, for a completer) per second; the same for inference, masks pasted
- peak memory; operations, and their share of the matrix rate that was measured in that precision
- seconds in which the loop waited for its loader
- host synchronisations: how often the host waited for the GPU (torch.cuda.set_sync_debug_mode)

Beside them, a step of torchvision's Mask R-CNN (ResNet-50-FPN, same batch, images of the same size,
16 ellipses each). Methods that no longer fit into the time are listed under "left_out".

    python benchmarks/gpu.py --out benchmarks/results/gpu.json
    python benchmarks/gpu.py --methods orcnn vrsp --batch 16
    python benchmarks/gpu.py --device cpu --tiny     # that it runs; its figures say nothing

There is no result of it in benchmarks/results yet: it has not been run on a GPU so far.
"""

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from embedded_steps import parts_for
from torch.utils.flop_counter import FlopCounterMode
from training_step import targets_of

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.configuration import LayeredConfigLoader
from amodal_pipeline.jobs.complete import complete_true, complete_true_boxes
from amodal_pipeline.jobs.detect import predict
from amodal_pipeline.jobs.parts import Parts
from amodal_pipeline.jobs.train import Job
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.registry import describe
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.pipelines.parameters import Parameters, check
from amodal_pipeline.scenes.clips import render_clips
from amodal_pipeline.scenes.dataset import render_split
from amodal_pipeline.settings import CONFIG_LOADER_ARGS
from amodal_pipeline.shipped import CONF
from amodal_pipeline.training import loop
from amodal_pipeline.training.device import resolve_precision
from record import peak_gigabytes, seconds_of, write

REFERENCE = "torchvision_mask_rcnn"
IMAGES = ("mask_rcnn", "orcnn", "vrsp", "aisformer", "bcnet", "sln")
OBJECTS = ("mask_tokenizer", "c2f_seg", "a3d", "plain_completer", "pcnet_m")
VIDEOS = ("c2f_seg_video", "savos", "mask_unet_video")
FORMS = {"as_shipped": "auto", "plain": "float32"}


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        image: sides of the rendered images, pixels.
        scenes, clips: how many are rendered.
        environments: of images and of videos, whose parameters are taken.
        count: steps per measurement.
        matrix: side of the matrices whose product gives the rate.
        batch: images (objects) per step; None is as published.
        rois: per image, of torchvision's Mask R-CNN.
    """

    image: int = 800
    scenes: int = 32
    clips: int = 4
    environments: tuple[str, str] = ("kins", "movid_a")
    count: int = 10
    matrix: int = 8192
    batch: int | None = None
    rois: int = 512


TINY = Size(64, 3, 2, ("scenes", "moving_scenes"), 1, 128, 2, 16)


@dataclass
class Watch:
    """What happens within the steps that are watched."""

    waited: float = 0.0
    at: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


def parameters(environment: str) -> Parameters:
    """Return the parameters of an environment, with fresh weights in place of downloaded ones."""
    loader = LayeredConfigLoader(str(CONF), environment, **CONFIG_LOADER_ARGS)
    return check(_fresh(loader["parameters"]))


def _fresh(values: Any) -> Any:
    if isinstance(values, dict):
        return {
            key: None if key == "weights" and isinstance(value, str) else _fresh(value)
            for key, value in values.items()
        }
    return values


@contextmanager
def watching_the_loader(watch: Watch) -> Iterator[None]:
    """Add up the time in which the loop waits for its next batch."""
    make = loop._loader

    def watched(*arguments: Any) -> Iterator[Any]:
        batches = iter(make(*arguments))
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            watch.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    loop._loader = watched
    try:
        yield
    finally:
        loop._loader = make


@contextmanager
def counting_waits(device: str) -> Iterator[list[int | None]]:
    """Give a list that holds, at the end, how often the host waited for the GPU; None on a CPU."""
    found: list[int | None] = []
    if device == "cpu":
        yield found
        found.append(None)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found.append(sum("synchron" in str(each.message).lower() for each in caught))


def train(
    job: Job, table: AmodalAnnotations, parts: Parts, device: str, size: Size, precision: str
) -> tuple[dict, Checkpoint]:
    """Return the figures of a training, and its checkpoint.

    Steps come in three groups of ``size.count``: the first are not counted, the second are timed,
    and in the third operations and waits are counted, which takes time itself.
    """
    count, watch = size.count, Watch()
    changes = {
        "iterations": 3 * count,
        "warmup_iterations": 1,
        "milestones": (),
        "stages": (),
        "log_every": count,
        "checkpoint_every": 10**6,
        "device": device,
        "precision": precision,
        "workers": 0 if device == "cpu" else job.training.workers,
    }
    if size.batch:
        changes["batch_size"] = size.batch
    config = job.training.model_copy(update=changes)
    method = parts.complete(job.model.root)
    counter = FlopCounterMode(display=False)
    waits = counting_waits(device)
    found: list[list[int | None]] = []

    def on_step(step: loop.Step) -> None:
        if device != "cpu":
            torch.cuda.synchronize()
        watch.at.append(time.perf_counter())
        watch.waits.append(watch.waited)
        if len(watch.at) == 2:
            counter.__enter__()
            found.append(waits.__enter__())
        elif len(watch.at) == 3:
            waits.__exit__(None, None, None)
            counter.__exit__(None, None, None)

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder, watching_the_loader(watch):
        made = loop.train(
            method,
            config,
            table,
            Path(folder),
            components=parts.components(method),
            on_step=on_step,
        )
    seconds = (watch.at[1] - watch.at[0]) / count
    waited = found[0][0]
    operations = counter.get_total_flops() / count
    figures = {
        "precision": resolve_precision(precision, device),
        "batch": config.batch_size,
        "seconds_per_step": seconds,
        "per_second": config.batch_size / seconds,
        "loader_wait_per_step": (watch.waits[1] - watch.waits[0]) / count,
        "host_waits_per_step": None if waited is None else waited / count,
        "teraflop_per_step": operations / 1e12,
        "teraflops": operations / seconds / 1e12,
        "peak_gigabytes": peak_gigabytes(device),
    }
    return figures, made


def infer(made: Checkpoint, table: AmodalAnnotations, device: str) -> dict | None:
    """Return how fast a method runs over the scenes, masks pasted; None for a part."""
    method = made.card.method.root
    described = describe(method.name)
    config = InferenceConfig(device=device, workers=0, precision="auto")
    if described.task == "detect":
        work, count, unit = predict, len(table.images), "images"
    elif described.task == "complete":
        work = complete_true_boxes if described.needs_boxes else complete_true
        count, unit = len(table.instances), "objects"
    else:
        return None
    seconds = min(seconds_of(lambda: work(made, table, config), device, 1))
    return {"seconds": seconds, f"{unit}_per_second": count / seconds}


def matrix_rates(device: str, side: int) -> dict[str, float]:
    """Return teraflops of a product of two square matrices, by precision."""
    rates = {}
    for name in ("float32", "bfloat16"):
        pair = torch.randn(2, side, side, device=device, dtype=getattr(torch, name))
        best = min(seconds_of(lambda pair=pair: pair[0] @ pair[1], device, 5))
        rates[name] = 2 * side**3 / best / 1e12
    return rates


def torchvision_step(batch: int, device: str, size: Size) -> dict:
    """Return the seconds of a training step of torchvision's Mask R-CNN, by precision."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        min_size=size.image,
        max_size=size.image,
        box_batch_size_per_image=size.rois,
    )
    model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
    images = list(torch.rand(batch, 3, size.image, size.image, device=device))
    targets = [targets_of(size.image, device) for _ in images]

    def step(fast: bool) -> None:
        with torch.autocast(device, torch.bfloat16) if fast else nullcontext():
            loss = sum(model(images, targets).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    seconds = {}
    for name, precision in FORMS.items():
        fast = resolve_precision(precision, device) == "bfloat16"
        seconds[name] = min(seconds_of(lambda fast=fast: step(fast), device, size.count))
    return {"batch": batch, "seconds_per_step": seconds, "peak_gigabytes": peak_gigabytes(device)}


def measure(
    name: str, given: Parameters, table: AmodalAnnotations, device: str, size: Size
) -> dict:
    """Return the figures of a method in both forms, and of its inference."""
    job: Job = getattr(given, name)
    parts = parts_for(job, given, table, device)
    found = {}
    for form, precision in FORMS.items():
        found[form], made = train(job, table, parts, device, size, precision)
        if form == "as_shipped":
            found["inference"] = infer(made, table, device)
    seconds = [found[form]["seconds_per_step"] for form in FORMS]
    return {"times_plain": seconds[1] / seconds[0], **found}


def tables(folder: str, methods: list[str], size: Size) -> dict[str, AmodalAnnotations]:
    """Return rendered scenes and, if one of the methods needs them, clips."""
    cores = os.cpu_count() or 1
    scenes = parameters("scenes").source.chosen.config
    scenes = scenes.model_copy(update={"image_size": size.image})
    found = {"images": render_split(scenes, "train", size.scenes, folder, cores)}
    if set(methods) & set(VIDEOS):
        clips = parameters("moving_scenes").source.chosen.config
        found["videos"] = render_clips(clips, "train", size.clips, f"{folder}/clips", cores)
    return found


def run(methods: list[str], device: str, size: Size, minutes: float) -> dict:
    """Return the figures of all methods that fit into the time."""
    end = time.monotonic() + 60 * minutes
    kinds = dict(zip(("images", "videos"), map(parameters, size.environments), strict=True))
    rates = matrix_rates(device, size.matrix)
    found, left_out = {}, []
    with tempfile.TemporaryDirectory() as folder:
        data = tables(folder, methods, size)
        for name in methods:
            if time.monotonic() > end:
                left_out.append(name)
                continue
            if name == REFERENCE:
                batch = size.batch or kinds["images"].mask_rcnn.training.batch_size
                found[name] = torchvision_step(batch, device, size)
                continue
            kind = "videos" if name in VIDEOS else "images"
            found[name] = measure(name, kinds[kind], data[kind], device, size)
            for form in FORMS:
                figures = found[name][form]
                rate = rates[figures["precision"]]
                figures["share_of_matrix_rate"] = figures["teraflops"] / rate
    return {
        "what": "training steps and inference at the published sizes, rendered scenes",
        "environments": list(size.environments),
        "image_size": size.image,
        "matrix_teraflops": rates,
        "methods": found,
        "left_out": left_out,
    }


def rounded(values: Any) -> Any:
    """Return figures with four digits."""
    if isinstance(values, dict):
        return {key: rounded(value) for key, value in values.items()}
    return float(f"{values:.4g}") if isinstance(values, float) else values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [REFERENCE, *IMAGES, *OBJECTS, *VIDEOS]
    parser.add_argument("--methods", nargs="+", choices=known, default=known)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks and images")
    parser.add_argument("--batch", type=int, help="images or objects per step")
    parser.add_argument("--count", type=int, help="timed steps per method and form")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    changes = {k: v for k in ("batch", "count") if (v := getattr(given, k))}
    size = Size(**(vars(TINY) if given.tiny else {}) | changes)
    write(rounded(run(given.methods, given.device, size, given.minutes)), given.out)


if __name__ == "__main__":
    main()
