"""Configuration of training and of inference. Does not import torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from amodal_pipeline.layers.configs import AugmentationConfig, Seed, Strict

# Decay of Adam's running means; with 1 it would never learn.
Beta = Annotated[float, Field(ge=0, lt=1)]


class StageConfig(Strict):
    """A stage of a training in which only some parameters train.

    These are the parameters whose name begins with one of ``trained``, such as "detector.".
    """

    iterations: int = Field(gt=0)
    trained: tuple[str, ...] = Field(min_length=1)


class TrainingConfig(Strict):
    """Optimiser, schedule and bookkeeping of one training.

    Attributes:
        iterations: number of steps; each takes a batch of ``batch_size`` items.
        batch_size: images, objects or pairs per batch.
        betas: of Adam and AdamW.
        decay_vectors: whether weight decay applies to biases, scales and other parameters of one
            dimension.
        schedule: "multistep" multiplies the learning rate by ``gamma`` at each of ``milestones``;
            "cosine" falls to 0 over the whole training, "linear" from the end of the warm-up on.
        warmup_iterations: iterations over which the rate rises linearly from ``warmup_factor``
            times its value.
        gradient_clip: largest norm of the gradient; None: unlimited.
        frozen: parameters whose name begins with one of these ("detector.") keep their values.
        stages: run one after another; then all parameters train for the remaining iterations. The
            schedule spans all stages, and the losses of untrained modules are left out.
        precision: "auto" is bf16 on a GPU and on a processor with bf16 in hardware (our choice: the
            papers train in float32), else float32. In bf16 the optimiser's step is fused.
        device: "auto" is a GPU if there is one, else the CPU.
        compiled: use torch.compile, which takes minutes at first and makes iterations faster.
        workers: processes that load batches; 0 loads in the training process.
        checkpoint_every: iterations between two saved states.
        log_every: iterations between two reports.
        seed: of weights, batches, augmentation and random draws in the network.
    """

    iterations: int = Field(10_000, gt=0)
    batch_size: int = Field(2, gt=0)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(0.0025, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: float = Field(1e-4, ge=0)
    decay_vectors: bool = True
    schedule: Literal["multistep", "cosine", "linear"] = "multistep"
    milestones: tuple[int, ...] = (6_000, 8_000)
    gamma: float = Field(0.1, gt=0, le=1)
    warmup_iterations: int = Field(500, ge=0)
    warmup_factor: float = Field(1 / 3, gt=0, le=1)
    gradient_clip: float | None = Field(None, gt=0)
    augmentation: AugmentationConfig = AugmentationConfig()
    frozen: tuple[str, ...] = ()
    stages: tuple[StageConfig, ...] = ()
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compiled: bool = False
    workers: int = Field(4, ge=0)
    checkpoint_every: int = Field(1_000, gt=0)
    log_every: int = Field(20, gt=0)
    seed: Seed = 0

    @model_validator(mode="after")
    def _fits(self) -> "TrainingConfig":
        if self.schedule == "multistep" and any(m >= self.iterations for m in self.milestones):
            raise ValueError(
                f"milestones {self.milestones} must lie before the last iteration "
                f"({self.iterations})"
            )
        staged = sum(stage.iterations for stage in self.stages)
        if staged > self.iterations:
            raise ValueError(
                f"stages have {staged} iterations, the training only {self.iterations}: shorten "
                "the stages or raise iterations"
            )
        return self


# Fields that may change when a training is continued, because the result does not depend on them.
WITHOUT_EFFECT = frozenset({"workers", "checkpoint_every", "log_every", "device", "compiled"})


class InferenceConfig(Strict):
    """How a trained method is run over images, objects or pairs.

    Attributes:
        batch_size: images per batch of a detector.
        objects_per_batch: objects per batch of a completer, or pairs per batch of OrderNet.
        workers: processes that load images; 0 loads in the main process.
        device: "auto" is a GPU if there is one, else the CPU.
        precision: "auto" is bf16 where that is fast, else float32. bf16 costs 0.3–0.6 points of AP.
    """

    batch_size: int = Field(4, gt=0)
    objects_per_batch: int = Field(32, gt=0)
    workers: int = Field(4, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
