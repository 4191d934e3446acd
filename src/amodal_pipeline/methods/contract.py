"""The contract of a method: a description by which other packages handle it without its name.

A method is a configuration class with a :class:`Description`, a network, and a line in
:data:`~amodal_pipeline.methods.registry.METHODS`. This module does not import torch: networks and
batches are named as "module:name" and imported when they are used.

A network may have three methods that the training loop calls: ``prepare(batches)`` before the first
iteration; ``trouble()``, a warning or "", at each report; and ``finish(batches)`` after the last
iteration, for what is computed from all batches at once. What ``finish`` changes is in the
checkpoint and in no saved state: a training that was killed calls it again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

# A part's network has the module ``network``, which other methods take over, beside what it needs
# for its own training.
OF_A_PART = "network."

Task = Literal["detect", "complete", "order", "part"]
LearnsFrom = Literal["images", "objects", "clips", "pairs"]
Sees = Literal["itself", "others", "in_front"]


@dataclass(frozen=True)
class Part:
    """A part of a method that is trained before it and then stays fixed.

    Attributes:
        job: the job that trains the part.
        used: returns whether a configuration of the method needs the part.
    """

    job: str
    used: Callable[[Any], bool] = lambda config: True


@dataclass(frozen=True)
class Description:
    """All that the rest of the project knows about a method.

    Attributes:
        task: "detect" finds objects in images; "complete" is given objects with their visible
            masks; "order" is given pairs of objects; "part" is made for another method.
        network: "module:class", called with the configuration and the number of categories.
        batches: "module:function", called with the configuration, the TrainingConfig, the
            annotations and a detector's predictions for the true objects (or None); returns a
            data set whose item i is the batch of iteration i.
        learns_from: kind of the items in a batch: images, objects within them, clips of one object
            (:mod:`~..samples.clips`), or pairs of objects.
        starts_from: the job whose checkpoint a training may start from; it runs first if needed.
        parts: fixed parts by name: the module of the network that they become, and the field of
            the configuration that has their configuration.
        jobs: its trainings, each with parameters, results and a pipeline ``train_<job>``; by
            default one, with the method's name.
        compared_with: other jobs whose parameters a row of its ablation may start from.
        picture: how to draw a trained method: "module:function", called with the checkpoint, the
            validation split and the number of objects; and the names of the data sets it returns.
        needs_boxes: whether a completer needs amodal boxes.
        needs_amodal: returns whether a configuration learns from amodal masks, see
            :func:`check_learnable`.
        needs_order: returns whether a configuration of a completer completes only objects whose
            order is stated.
        sees: returns which visible masks a configuration of a completer of images is given: that of
            the object "itself", or in addition ("others") the target "others", uint8 [N, S, S]:
            where other objects of the image are visible in the object's window
            (:class:`~..samples.objects.VisibleOthers`); or ("in_front") the target "in_front":
            where its occluders are visible, see :mod:`~.dual_completion`.
        needs_pixels: returns whether a configuration of a completer of images looks at pixels;
            otherwise no image is read, and images are [N, 3, 0, 0].
        sees_flow: whether a method that learns from clips is given their optical flow
            (:mod:`~..samples.motion`).
        learns_from_detections: whether it is also trained on a detector's predictions. A completer
            is given the detections of true objects, with their ids; a part is given all of them.
        pretrained_on_views: whether it may start from ``pretrain_<job>``, a training on views of
            single objects.
        recipe: the paper's values of the TrainingConfig, for its main data set.
        regresses_boxes: whether a detector's box head can refine boxes of known objects, so that it
            can be stage one of a completer that needs amodal boxes.
        after_training: fields of the configuration that do not affect the weights.
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
    needs_amodal: Callable[[Any], bool] = lambda config: True
    needs_order: Callable[[Any], bool] = lambda config: False
    sees: Callable[[Any], Sees] = lambda config: "itself"
    needs_pixels: Callable[[Any], bool] = lambda config: True
    sees_flow: bool = False
    learns_from_detections: bool = False
    pretrained_on_views: bool = False
    parts: Mapping[str, Part] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    regresses_boxes: bool = False
    after_training: frozenset[str] = frozenset()


def load(name: str) -> Any:
    """Return the object that "module:name" names, imported now."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def parts_of(config: Any) -> dict[str, str]:
    """Return the jobs that train the parts of a configuration, by module of its network."""
    parts = config.DESCRIPTION.parts
    return {name: part.job for name, part in parts.items() if part.used(config)}


def job_name(config: Any) -> str:
    """Return the job that trains a configuration, by default the method's name.

    The job names the folder and the results.
    """
    return getattr(config, "job", config.name)


def check_learnable(config: Any, metadata: Any) -> None:
    """Raise an error for a method that learns from amodal masks, on a table of visible ones only.

    Args:
        config: configuration of the method.
        metadata: of the annotations to be learnt from, an ``AnnotationsMetadata``.

    Raises:
        ValueError: the table's amodal masks are its visible ones, and the method needs true ones.
    """
    if metadata.modal and config.DESCRIPTION.needs_amodal(config):
        raise ValueError(
            f"{job_name(config)} learns from amodal masks, and {metadata.dataset}/{metadata.split} "
            "has visible ones only: train pcnet_m on it (or mask_rcnn with boxes and masks: "
            "visible), or make pictures with known amodal masks from it, --env=composed_coco"
        )
