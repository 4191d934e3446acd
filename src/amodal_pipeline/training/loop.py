"""The one training loop of every method."""

import json
import logging
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.annotations.processes import HeldError, lock
from amodal_pipeline.annotations.storage import naming_full_disk
from amodal_pipeline.layers.backbone import PyramidBackbone
from amodal_pipeline.layers.depthwise import keep_exact
from amodal_pipeline.layers.encoder import Encoder
from amodal_pipeline.layers.folding import fold
from amodal_pipeline.methods import build, contract, make_batches
from amodal_pipeline.methods.checkpoints import (
    Checkpoint,
    DivergedError,
    Fingerprint,
    MethodCard,
    check_fits,
    check_version,
    git_revision,
    remove_older,
    versions,
)
from amodal_pipeline.methods.pretrained import start_from, weights_of, without_download
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.methods.training_config import TrainingConfig
from amodal_pipeline.samples.images import TrainingBatch
from amodal_pipeline.training.device import resolve_device, resolve_precision
from amodal_pipeline.training.familiarity import familiarity
from amodal_pipeline.training.state import (
    read_state,
    remove_states,
    save_state,
    truncate_history,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """A report of the loop; losses are means since the last report."""

    iteration: int
    iterations: int
    losses: dict[str, float]
    learning_rate: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Component:
    """A part of a method that was trained before it and stays fixed.

    ``weights``: its state; ``digest``: of the fingerprint of its training.
    """

    weights: dict[str, Tensor]
    digest: str


def fingerprint(
    method: Any,
    config: TrainingConfig,
    annotations: AmodalAnnotations,
    pretrained: Checkpoint | None = None,
    components: Mapping[str, Component] = MappingProxyType({}),
    detected: Predictions | None = None,
    pretrained_categories: Mapping[str, str] = MappingProxyType({}),
) -> Fingerprint:
    """Return the fingerprint of a training: see :meth:`Fingerprint.of_training`.

    The arguments are those of :func:`train`. It has the precision that "auto" is on this machine.
    """
    precision = resolve_precision(config.precision, resolve_device(config.device))
    config = config.model_copy(update={"precision": precision})
    sources = {name: component.digest for name, component in components.items()}
    if detected is not None and len(detected.predictions):
        sources["detected"] = detected.metadata.checkpoint
    if pretrained:
        sources["pretrained"] = pretrained.card.fingerprint.digest
    return Fingerprint.of_training(
        method, config, annotations.fingerprint, sources, pretrained_categories
    )


def _alone(run: Callable[..., Checkpoint]) -> Callable[..., Checkpoint]:
    """Return ``run`` with a lock on its folder, so that one training at a time can use it."""

    @wraps(run)
    def alone(
        method: Any,
        config: TrainingConfig,
        annotations: AmodalAnnotations,
        folder: Path,
        **options,
    ) -> Checkpoint:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with lock(folder / ".training.lock"):
                return run(method, config, annotations, folder, **options)
        except HeldError as error:
            raise ValueError(
                f"{folder} is being trained by {error}: wait for that training or end it, then run "
                "the same command again"
            ) from error

    return alone


@_alone
def train(
    method: Any,
    config: TrainingConfig,
    annotations: AmodalAnnotations,
    folder: Path,
    *,
    pretrained: Checkpoint | None = None,
    pretrained_categories: Mapping[str, str] = MappingProxyType({}),
    components: Mapping[str, Component] = MappingProxyType({}),
    detected: Predictions | None = None,
    restart: bool = False,
    on_step: Callable[[Step], None] | None = None,
) -> Checkpoint:
    """Train a method and return its checkpoint, continuing an earlier run of the same training.

    Every ``config.checkpoint_every`` iterations and at the end the state is written to
    ``folder/state-<iteration>``. Reports go to ``folder/history.jsonl`` and to ``on_step``. On a
    CPU, a training that was killed and continued gives the same weights, bit for bit.

    Args:
        method: configuration of the method.
        config: optimiser, schedule and bookkeeping.
        annotations: the training split.
        folder: folder of states and history.
        pretrained: a checkpoint to start from (see :func:`~..methods.pretrained.start_from`).
        pretrained_categories: names of categories in that checkpoint that differ from those here.
        components: fixed parts by the name of their module.
        detected: a detector's predictions for the training split, for a completer that also learns
            from predicted visible masks.
        restart: delete the states and the history in ``folder`` first.

    Raises:
        ChangedTrainingError: the state in ``folder`` is of another training.
        DivergedError: a loss (names the images of the batch) or a tensor of the model or the
            optimiser became NaN or infinite; neither is ever saved.
        OSError: the disk is full; the previous state is intact.
        ValueError: another process trains in ``folder``; the folder is of an earlier version;
            the method learns from amodal masks, and ``annotations`` have none;
            ``config.frozen`` or a stage names no parameter, or leaves none to train; a component is
            missing; or ``pretrained`` shares no weights with the method.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    history = folder / "history.jsonl"
    contract.check_learnable(method, annotations.metadata)
    _check_parts(method, components)
    mark = fingerprint(
        method, config, annotations, pretrained, components, detected, pretrained_categories
    )
    if restart:
        remove_older(folder)
        remove_states(folder)
        history.unlink(missing_ok=True)
    check_version(folder)
    saved = read_state(folder, mark)
    done = saved.card.iteration if saved else 0

    device = resolve_device(config.device)
    # Accelerate keeps the first precision and device of a process; trainings may differ in both.
    AcceleratorState._reset_state(reset_partial_state=True)
    fast = resolve_precision(config.precision, device) == "bfloat16"
    accelerator = Accelerator(mixed_precision="bf16" if fast else "no", cpu=device == "cpu")
    torch.manual_seed(config.seed)
    categories = annotations.metadata.categories
    model = build(without_download(method) if saved else method, len(categories))
    # Also if the training is continued: the saved weights replace these, but the card needs it.
    reuse = start_from(model, categories, pretrained, pretrained_categories) if pretrained else None
    for name, component in components.items() if not saved else ():
        part = model.get_submodule(name)
        check_fits(part, component.weights, name)
        part.load_state_dict(component.weights)
    model.train()
    _freeze(model, config.frozen)
    for part in model.modules() if fast else ():
        if isinstance(part, Encoder | PyramidBackbone):
            fold(part.body)
    if fast:
        keep_exact(model)
    stages = _Stages(model, config)
    optimizer = _optimizer(model, config, fused=fast)
    truncate_history(history, done)

    batches = make_batches(method, config, annotations, detected)
    plain, plain_optimizer = model, optimizer
    model, optimizer = accelerator.prepare(model, optimizer)
    if config.compiled:
        model = torch.compile(model)
    if saved:
        # Into the unwrapped optimiser, which is on the device already: torch knows which part of
        # its state stays on the CPU.
        saved.restore(plain, plain_optimizer)
        del saved

    if hasattr(plain, "prepare") and done < config.iterations:
        plain.prepare(batches)
    meter = _Meter(config, done)
    iteration, warned = done, False
    with _deterministic(accelerator.device):
        for batch in _loader(batches, done, config):
            stages.enter(iteration)
            losses = _step(model, optimizer, accelerator, batch, config, iteration)
            iteration += 1
            step = meter.add(iteration, losses, _rate(config, iteration - 1))
            last = iteration == config.iterations
            if step:
                with naming_full_disk(history), history.open("a") as file:
                    file.write(json.dumps(_row(step)) + "\n")
                if on_step:
                    on_step(step)
                if not warned and hasattr(plain, "trouble") and (trouble := plain.trouble()):
                    _log.warning("iteration %d: %s", iteration, trouble)
                    warned = True
            if last or iteration % config.checkpoint_every == 0:
                save_state(folder, plain, plain_optimizer, iteration, mark)
    if hasattr(plain, "finish"):
        plain.finish(batches)
    if done == config.iterations and on_step:
        on_step(Step(done, done, {}, 0.0, 0.0, 0.0))
    return Checkpoint(
        MethodCard(
            method=MethodConfig(method),
            categories=categories,
            dataset=annotations.metadata.dataset,
            fingerprint=mark,
            iterations=config.iterations,
            seed=config.seed,
            git_revision=git_revision(),
            versions=versions(),
            familiarity=familiarity(plain, annotations) if hasattr(plain, "detector") else None,
            reuse=reuse,
        ),
        weights_of(plain),
    )


def _check_parts(method: Any, components: Mapping[str, Component]) -> None:
    for part, job in contract.parts_of(method).items():
        if part not in components:
            raise ValueError(
                f"{method.name} needs the trained part {part!r}, which components does not have: "
                f"train it with `kedro run --pipeline={job}`, or configure the method without it"
            )


def _freeze(model: nn.Module, prefixes: tuple[str, ...]) -> None:
    _check_prefixes(model, prefixes, "frozen")
    for name, parameter in model.named_parameters():
        if name.startswith(prefixes):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"frozen: {list(prefixes)} leave no parameter to train")
    for name, module in model.named_modules():
        # Only single layers: a detector samples RoIs in training mode only, but a frozen layer in
        # training mode would apply dropout and update its statistics.
        if f"{name}.".startswith(prefixes) and next(module.children(), None) is None:
            module.eval()


def _check_prefixes(model: nn.Module, prefixes: tuple[str, ...], key: str) -> None:
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            known = dict.fromkeys(name.split(".")[0] + "." for name in names)
            raise ValueError(
                f"{key}: no parameter's name begins with {prefix!r}; they begin with "
                f"{', '.join(known)}"
            )


class _Stages:
    """The stages of a training; ``enter`` is called before each iteration.

    Parameters and layers that are frozen without stages are frozen in every stage.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.layers = {
            name: module
            for name, module in model.named_modules()
            if module.training and next(module.children(), None) is None
        }
        self.ends = list(accumulate(stage.iterations for stage in config.stages))
        # Every name begins with "", so after the last stage all parameters train.
        self.trained = [*(stage.trained for stage in config.stages), ("",)]
        self.now = len(config.stages)
        for number, prefixes in enumerate(self.trained):
            _check_prefixes(model, prefixes, f"stages[{number}].trained")
            if not any(name.startswith(prefixes) for name in self.parameters):
                raise ValueError(
                    f"stages[{number}].trained: all parameters of {list(prefixes)} are frozen: "
                    "name others, or change frozen"
                )

    def enter(self, iteration: int) -> None:
        stage = bisect_right(self.ends, iteration)
        if stage == self.now:
            return
        self.now = stage
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name.startswith(self.trained[stage]))
        for name, layer in self.layers.items():
            layer.train(f"{name}.".startswith(self.trained[stage]))


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator,
    batch: TrainingBatch,
    config: TrainingConfig,
    iteration: int,
) -> dict[str, Tensor]:
    # Seeded by the iteration, a continued training draws the same proposals and RoIs.
    entropy = np.random.SeedSequence([config.seed, iteration])
    torch.manual_seed(int(entropy.generate_state(1)[0]))
    for group in optimizer.param_groups:
        group["lr"] = _rate(config, iteration)
    images, targets = _on(batch.images, accelerator), _on(batch.targets, accelerator)
    with accelerator.autocast():
        losses = model(images, targets)
        total = sum(losses.values())
    if not torch.isfinite(total):
        raise DivergedError(_diverged("loss", losses, batch, config, iteration))
    accelerator.backward(total)
    norm = accelerator.clip_grad_norm_(model.parameters(), config.gradient_clip or math.inf)
    if not torch.isfinite(norm):
        raise DivergedError(_diverged("gradient", losses, batch, config, iteration))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": total.detach(), **{k: v.detach() for k, v in losses.items()}}


def _on(value, accelerator):
    """Return ``value`` with all tensors in its lists and dictionaries on the device."""
    match value:
        case Tensor():
            return value.to(accelerator.device, non_blocking=True)
        case list():
            return [_on(each, accelerator) for each in value]
        case dict():
            return {name: _on(each, accelerator) for name, each in value.items()}
    return value


def _diverged(
    what: str,
    losses: dict[str, Tensor],
    batch: TrainingBatch,
    config: TrainingConfig,
    iteration: int,
) -> str:
    named = ", ".join(f"{k} = {float(v.detach()):.4g}" for k, v in losses.items())
    return (
        f"the {what} of iteration {iteration + 1} is not finite ({named}); images of the batch: "
        f"{', '.join(batch.names)}. Lower the learning rate ({config.learning_rate}), lengthen "
        f"the warm-up ({config.warmup_iterations} iterations) or clip gradients "
        "(gradient_clip: 10), and start again with --params restart=true; the states saved before "
        "are intact"
    )


class _Meter:
    """Mean losses and speed between two reports."""

    def __init__(self, config: TrainingConfig, done: int) -> None:
        self.config = config
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.start = (done, time.perf_counter())
        self.last = self.start

    def add(self, iteration: int, losses: dict[str, Tensor], rate: float) -> Step | None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.count += 1
        if iteration % self.config.log_every and iteration != self.config.iterations:
            return None
        means = {name: float(value) / self.count for name, value in self.sums.items()}
        now = time.perf_counter()
        speed = (iteration - self.last[0]) / (now - self.last[1])
        average = (iteration - self.start[0]) / (now - self.start[1])
        self.sums, self.count, self.last = {}, 0, (iteration, now)
        return Step(
            iteration,
            self.config.iterations,
            means,
            rate,
            speed * self.config.batch_size,
            (self.config.iterations - iteration) / average,
        )


def _row(step: Step) -> dict:
    return {
        "iteration": step.iteration,
        **step.losses,
        "learning_rate": step.learning_rate,
        "images_per_second": step.images_per_second,
    }


def _loader(batches: Dataset, done: int, config: TrainingConfig) -> Iterator[TrainingBatch]:
    return iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=range(done, config.iterations),
            num_workers=config.workers,
            prefetch_factor=4 if config.workers else None,
        )
    )


def _optimizer(
    model: nn.Module, config: TrainingConfig, *, fused: bool = False
) -> torch.optim.Optimizer:
    """Return the optimiser; ``fused`` does a step in one pass, with other roundings."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": trained, "weight_decay": config.weight_decay}]
    if not config.decay_vectors:
        flat = [p for p in trained if p.ndim < 2]
        groups[0]["params"] = [p for p in trained if p.ndim >= 2]
        groups.append({"params": flat, "weight_decay": 0.0})
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, config.learning_rate, config.momentum, fused=fused)
        case "adam":
            return torch.optim.Adam(groups, config.learning_rate, config.betas, fused=fused)
        case "adamw":
            return torch.optim.AdamW(groups, config.learning_rate, config.betas, fused=fused)


def _rate(config: TrainingConfig, iteration: int) -> float:
    """Return the learning rate of an iteration, counted from 0."""
    warm = 1.0
    if iteration < config.warmup_iterations:
        progress = iteration / config.warmup_iterations
        warm = config.warmup_factor * (1 - progress) + progress
    match config.schedule:
        case "multistep":
            factor = config.gamma ** sum(iteration >= m for m in config.milestones)
        case "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * iteration / config.iterations))
        case "linear":
            falling = config.iterations - config.warmup_iterations
            factor = min(1.0, (config.iterations - iteration) / max(falling, 1))
    return config.learning_rate * warm * factor


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Nothing here reads memory that it has not written.
        torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled
