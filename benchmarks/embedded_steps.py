"""A training step of each embedded method in its plain form, as shipped, and in bf16.

Networks, batches and optimisers of the environment `scenes`, trained by the project's own loop on a
few scenes. The forms take turns, some steps at a time:

- plain: float32, images read and encoded in every step, torchvision's backward pass of RoIAlign;
  C2F-Seg as in its paper (three times the tokens, and no given mask in the refinement)
- float32: as shipped
- bfloat16: with `training.precision=bfloat16`, which also computes frozen batch norms within their
  convolutions and fuses the optimiser's step; only where the processor has bf16 in hardware

What counts is the time of the processor, of all threads, which other programs do not change much.

    python benchmarks/embedded_steps.py [--methods c2f_seg a3d] [--out <file>]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torchvision.ops import roi_align

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.configuration import LayeredConfigLoader
from amodal_pipeline.jobs.parts import Parts
from amodal_pipeline.jobs.train import Job
from amodal_pipeline.layers import pooling
from amodal_pipeline.methods.contract import parts_of
from amodal_pipeline.pipelines.parameters import Parameters, check
from amodal_pipeline.samples import objects
from amodal_pipeline.scenes.dataset import render_split
from amodal_pipeline.settings import CONFIG_LOADER_ARGS
from amodal_pipeline.shipped import CONF
from amodal_pipeline.training.device import resolve_precision
from amodal_pipeline.training.loop import train
from record import write

METHODS = ("mask_rcnn", "orcnn", "vrsp", "sln", "a3d", "mask_tokenizer", "c2f_seg")
AS_IN_THE_PAPER = {"c2f_seg": {"fusion": "sequence", "given_mask": "none"}}
UNTIMED = 2  # steps at the start of a training, which prepare kernels


@contextmanager
def plainly(wanted: bool) -> Iterator[None]:
    """No images and no maps of frozen encoders are kept, and RoIAlign is torchvision's."""
    with ExitStack() as changes:
        if wanted:
            for module, name, value in (
                (objects, "IMAGES_LIMIT", 0),
                (objects, "MAPS_LIMIT", 0),
                (pooling, "pool", roi_align),
            ):
                changes.enter_context(patch.object(module, name, value))
        yield


def forms_of(job: Job) -> dict[str, Job]:
    """Return the job in each form, without stages, in which only some parts would learn."""

    def form(precision: str, model: dict) -> Job:
        training = job.training.model_copy(update={"precision": precision, "stages": ()})
        method = job.model.root.model_copy(update=model)
        return job.model_copy(
            update={"training": training, "model": job.model.model_copy(update={"root": method})}
        )

    forms = {"plain": form("float32", AS_IN_THE_PAPER.get(job.name, {}))}
    forms["float32"] = form("float32", {})
    if resolve_precision("auto", "cpu") == "bfloat16":
        forms["bfloat16"] = form("bfloat16", {})
    return forms


def steps(job: Job, form: str, table: AmodalAnnotations, parts: Parts, count: int) -> list[float]:
    """Return the processor's seconds of ``count`` steps."""
    schedule = {
        "iterations": UNTIMED + count,
        "warmup_iterations": 1,
        "milestones": (1,),
        "log_every": 1,
        "checkpoint_every": 10**6,
        "workers": 0,
        "device": "cpu",
    }
    config = job.training.model_copy(update=schedule)
    method = parts.complete(job.model.root)
    at: list[float] = []
    with tempfile.TemporaryDirectory() as folder, plainly(form == "plain"):
        train(
            method,
            config,
            table,
            Path(folder),
            components=parts.components(method),
            on_step=lambda step: at.append(time.process_time()),
        )
    return [after - before for before, after in zip(at[UNTIMED - 1 :], at[UNTIMED:], strict=False)]


def parts_for(job: Job, parameters: Parameters, table: AmodalAnnotations, device: str) -> Parts:
    """Return the method's parts after one step each: what they have learnt does not matter."""
    made = {}
    for name in parts_of(job.model.root).values():
        part: Job = getattr(parameters, name)
        changes = {"iterations": 1, "workers": 0, "device": device, "milestones": ()}
        config = part.training.model_copy(update=changes)
        with tempfile.TemporaryDirectory() as folder:
            made[name] = train(part.model.root, config, table, Path(folder))
    return Parts(made)


def measure(
    parameters: Parameters, name: str, table: AmodalAnnotations, rounds: int, count: int
) -> dict:
    """Return the median seconds of a step in each form, and how much faster than plain it is."""
    job = getattr(parameters, name)
    forms, parts = forms_of(job), parts_for(job, parameters, table, "cpu")
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(rounds):
        for form, job in forms.items():
            seconds[form] += steps(job, form, table, parts, count)
    medians = {form: statistics.median(values) for form, values in seconds.items()}
    return {
        "seconds": {form: [round(s, 3) for s in values] for form, values in seconds.items()},
        "median_seconds": {form: round(value, 3) for form, value in medians.items()},
        "times_plain": {form: round(medians["plain"] / medians[form], 2) for form in medians},
    }


def main(methods: list[str], scenes: int, rounds: int, count: int, out: Path | None) -> None:
    loader = LayeredConfigLoader(str(CONF), "scenes", **CONFIG_LOADER_ARGS)
    parameters = check(loader["parameters"])
    with tempfile.TemporaryDirectory() as folder:
        table = render_split(parameters.source.chosen.config, "train", scenes, folder)
        found = {name: measure(parameters, name, table, rounds, count) for name in methods}
    result = {
        "what": "training step of the embedded methods: the processor's time, data included",
        "scenes": scenes,
        "threads": torch.get_num_threads(),
        "methods": found,
    }
    write(result, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=4, help="timed steps of a turn")
    parser.add_argument("--out", type=Path)
    main(**vars(parser.parse_args()))
