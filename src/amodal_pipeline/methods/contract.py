"""The contract of a method: what its configuration says of it, so that no other room need ask which
method it is.

A method is a configuration class with a :class:`Description`, a network, and a line in
:data:`~amodal_pipeline.methods.registry.METHODS`. Imports no torch: networks and batches are named
as "module:name" and imported when they are used.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

Task = Literal["detect", "complete", "order", "part"]
LearnsFrom = Literal["images", "objects", "pairs"]


@dataclass(frozen=True)
class Part:
    """A finished part that a method is trained with and keeps as it is.

    ``job`` makes it; ``used`` says of a configuration whether it is needed.
    """

    job: str
    used: Callable[[Any], bool] = lambda config: True


@dataclass(frozen=True)
class Description:
    """What the rest of the project knows of a method.

    Attributes:
        task: "detect" finds objects in images; "complete" is given objects with their visible
            masks; "order" is given pairs of objects; "part" is made for another method.
        network: "module:class", called with the configuration and the number of categories.
        batches: "module:function", called with the configuration, the TrainingConfig, the
            annotations and what a detector has found of the true objects (or None); returns a
            data set whose item i is the batch of iteration i.
        learns_from: what one place of a batch is.
        starts_from: the job whose checkpoint a training may start from, trained first if need be.
        parts: finished parts, by the module of the network that they become, which is also the
            field of the configuration that has their form.
        jobs: its trainings, each with parameters, results and a pipeline ``train_<job>``; by
            default one, of the method's name.
        compared_with: jobs whose parameters rows of its ablation may begin with, beside its own.
        picture: what is drawn of it after training: "module:function", called with the checkpoint,
            the validation split and how many objects to show, and the data sets that it returns.
        needs_boxes: of a completer, that it looks within amodal boxes.
        learns_from_detections: of a completer, that it is trained on what its detector finds, too.
        pretrained_on_views: it may start from ``pretrain_<job>``, a training on single objects.
        recipe: values of the TrainingConfig of its paper; where it trains on several data sets
            differently, that of its main one.
        regresses_boxes: of a detector, that its box head can be given boxes of known objects: it
            can be stage one of a completer that needs amodal boxes.
        after_training: fields of the configuration that change no weight.
    """

    task: Task
    network: str
    batches: str = "amodal_pipeline.methods.batches:image_batches"
    learns_from: LearnsFrom = "images"
    starts_from: str | None = None
    jobs: tuple[str, ...] = ()
    compared_with: tuple[str, ...] = ()
    picture: tuple[str, tuple[str, ...]] | None = None
    needs_boxes: bool = False
    learns_from_detections: bool = False
    pretrained_on_views: bool = False
    parts: Mapping[str, Part] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    regresses_boxes: bool = False
    after_training: frozenset[str] = frozenset()


def load(name: str) -> Any:
    """Import what "module:name" names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def parts_of(config: Any) -> dict[str, str]:
    """Return the jobs that make the parts a configuration needs, by module of its network."""
    parts = config.DESCRIPTION.parts
    return {name: part.job for name, part in parts.items() if part.used(config)}


def job_name(config: Any) -> str:
    """The job that trains a configuration, which names its folder and its results: by default the
    method's name."""
    return getattr(config, "job", config.name)
