"""Configuration of training and of running a trained method. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from amodal_pipeline.layers.configs import AugmentationConfig, Seed, Strict

# Of running means of gradients and of their squares: 1 would never learn.
Beta = Annotated[float, Field(ge=0, lt=1)]


class StageConfig(Strict):
    """A part of a training in which only some parameters train: those whose name begins with one of
    ``trained`` ("detector.")."""

    iterations: int = Field(gt=0)
    trained: tuple[str, ...] = Field(min_length=1)


class TrainingConfig(Strict):
    """Optimiser, schedule and bookkeeping of one training.

    Iterations, not epochs: one is a batch of ``batch_size`` images (of a completer: objects).
    ``schedule``: "multistep" multiplies the rate by ``gamma`` at each of ``milestones``; "cosine"
    and "linear" fall to 0 at the end, the latter from the end of the warm-up on. Before that the
    rate rises linearly from ``warmup_factor`` of its value over ``warmup_iterations``. ``betas``:
    of Adam and AdamW. ``decay_vectors`` false: weight decay spares biases, scales and other
    parameters of one dimension. ``precision``: "auto" is bf16 on a GPU, which is ours (the papers
    train in float32), and float32 on a CPU. ``device``: "auto" takes a GPU where there is one.
    ``frozen``: parameters whose name begins with one of these ("detector.") keep the values that
    they start with. ``stages``: come one after another before everything trains jointly, for the
    iterations that are left; a method leaves out the losses of what does not train. Learning rates
    are of the whole training. ``compiled``: the network goes through torch.compile first, which
    takes minutes and makes each iteration faster.
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
            raise ValueError(f"stages have {staged} of {self.iterations} iterations")
        return self


# What may change between two starts of one training: none of it is a choice about the result.
WITHOUT_EFFECT = frozenset({"workers", "checkpoint_every", "log_every", "device", "compiled"})


class InferenceConfig(Strict):
    """How a trained method is run over images, or a completer over objects of images.

    ``batch_size``: images at once; ``objects_per_batch``: objects at once. ``precision``: float32
    on a GPU, too: bf16 ("bfloat16", or "auto" there) is faster and costs 0.3–0.6 points of AP.
    """

    batch_size: int = Field(4, gt=0)
    objects_per_batch: int = Field(32, gt=0)
    workers: int = Field(4, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
