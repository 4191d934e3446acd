"""The jobs of ``kedro run`` in a few lines of Python, without Kedro.

>>> import amodal_pipeline as ap
>>> train, val = ap.read("scenes", "data/scenes", train=400, val=80)
>>> orcnn = ap.train("orcnn", train, "runs/orcnn")
>>> found = ap.predict(orcnn, val)
>>> results = ap.evaluate(val, [found])
>>> result = ap.load("runs/orcnn").predict("street.jpg")
>>> result.plot().save("street.png")
>>> whole = ap.load("runs/c2f_seg", detector="torchvision").predict("street.jpg")
>>> whole = ap.whole_objects("street.jpg", masks)  # nothing is trained
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from amodal_pipeline.annotations import AmodalAnnotations, KnownObjects, Predictions
from amodal_pipeline.annotations.known_objects import true_objects
from amodal_pipeline.jobs.parts import Parts
from amodal_pipeline.methods import contract
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.registry import METHODS, MethodConfig
from amodal_pipeline.methods.training_config import InferenceConfig, TrainingConfig
from amodal_pipeline.shipped import CONF, with_shipped

if TYPE_CHECKING:
    from amodal_pipeline.predictor import Picture, Predictor, Result

__all__ = [
    "Start",
    "complete",
    "evaluate",
    "load",
    "predict",
    "read",
    "train",
    "true_objects",
    "whole_objects",
]


def read(
    format: str,
    folder: str | Path,
    *,
    images: str | Path | None = None,
    workers: int = 0,
    **sizes: int,
) -> tuple[AmodalAnnotations, AmodalAnnotations] | AmodalAnnotations:
    """Read a data set as annotation tables, or render the embedded one.

    Args:
        format: "scenes" renders 3D scenes with exact truth into ``folder``, or reads existing ones;
            "moving_scenes" does so for clips, with tracks;
            "kins", "cocoa", "cocoa_cls", "d2sa", …, and of videos "fishbowl", "movid_a", …, read a
            published data set as it is unpacked in ``folder`` (docs/data_sets.md); "coco_amodal"
            reads one file of your own.
        folder: of the data set, or the annotation file of "coco_amodal".
        images: the folder of its images, for "coco_amodal"; the file's folder by default.
        workers: processes that render or read; 0 is one per core.
        sizes: ``train`` and ``val``, the numbers of scenes or clips to render.

    Returns:
        The training and the validation split; of "coco_amodal" one table.

    Raises:
        ValueError: the format is unknown, or a file is missing or damaged; names it.
    """
    folder = Path(folder).expanduser()
    if format == "coco_amodal":
        from amodal_pipeline.annotations.coco_amodal import read_coco_amodal

        root = Path(images).expanduser() if images else folder.parent
        return read_coco_amodal(folder, root, folder.stem, "val")
    from amodal_pipeline.jobs.prepare import prepare
    from amodal_pipeline.jobs.sources import Source

    if format in ("scenes", "moving_scenes"):
        source = Source.model_validate({"kind": format, format: sizes})
    else:
        source = _published(format)
    return prepare(source, format, folder, folder, workers)


def _published(name: str) -> Any:
    """Return the source of a published data set, as its environment in conf/ has it."""
    import yaml

    from amodal_pipeline.jobs.sources import Source

    for file in sorted((CONF / name).glob("parameters*.yml")):
        values = yaml.safe_load(file.read_text()) or {}
        kind = values.get("source", {}).get("kind")
        if kind in Source.model_fields and "${" not in str(values["source"]):
            return Source.model_validate(values["source"])
    described = CONF / name / "globals.yml"
    extended = yaml.safe_load(described.read_text()).get("extends") if described.exists() else None
    if extended:
        return _published(extended)
    known = ("kins", "cocoa", "cocoa_bsds", "cocoa_cls", "d2sa", "coco_modal", "shapenet")
    known += ("fishbowl", "movid_a", "movi_b", "movi_d")
    raise ValueError(
        f"no data set is called {name!r}: take scenes, moving_scenes, coco_amodal, or one of "
        f"{', '.join(known)}"
    )


@dataclass(frozen=True)
class Start:
    """The start of a training.

    ``checkpoint``: to start from; None for the method's own start. ``restart``: first remove the
    checkpoint and state in the folder; otherwise an interrupted training is continued.
    """

    checkpoint: Checkpoint | None = None
    restart: bool = False


def train(
    method: str,
    annotations: AmodalAnnotations,
    folder: str | Path,
    *,
    model: Mapping[str, Any] | None = None,
    iterations: int | None = None,
    training: Mapping[str, Any] | None = None,
    start: Checkpoint | Start | None = None,
    parts: Mapping[str, Mapping[str, Any]] | None = None,
) -> Checkpoint:
    """Train a method by its paper's recipe, or continue an interrupted training.

    Parts of a method (VRSP's shape prior, C2F-Seg's mask tokenizer) are made first, in a folder
    within ``folder``.

    Args:
        method: its name, "orcnn".
        annotations: the training split.
        folder: for checkpoint and training state.
        model: values of the method that differ from the paper's, nested as in ``conf/``.
        iterations: their number instead of the paper's; warm-up, steps and stages are scaled with
            it.
        training: other values of the recipe that differ.
        start: a checkpoint to start from, or a :class:`Start`, which can begin anew.
        parts: by name of a part, its ``model``, ``iterations`` and ``training``. Parts are not
            scaled with ``iterations``.

    Returns:
        The checkpoint.

    Raises:
        ValueError: the method or a value is unknown, or ``folder`` holds another training.
    """
    from amodal_pipeline.jobs.train import Job, Material, make

    folder = Path(folder).expanduser()
    config = _config(method, model)
    begin = start if isinstance(start, Start) else Start(start)
    made = _parts(config, annotations, folder, parts or {}, begin.restart)
    recipe = _recipe(config.DESCRIPTION.recipe, iterations, training or {})
    job = Job(model=MethodConfig(config), training=recipe)
    return make(job, Material(annotations, begin.checkpoint, made), folder, begin.restart)


def _config(method: str, values: Mapping[str, Any] | None) -> Any:
    if method not in METHODS:
        raise ValueError(f"no method is called {method!r}: take one of {', '.join(METHODS)}")
    return contract.load(METHODS[method]).model_validate({"name": method, **(values or {})})


def _recipe(
    recipe: Mapping[str, Any], iterations: int | None, changes: Mapping[str, Any]
) -> TrainingConfig:
    """Return a paper's recipe with other values, its schedule scaled to ``iterations``."""
    config = TrainingConfig.model_validate(dict(recipe))
    if iterations:
        share = iterations / config.iterations
        stages = [
            {"iterations": int(stage.iterations * share), "trained": stage.trained}
            for stage in config.stages
        ]
        scaled = {
            "iterations": iterations,
            "milestones": [int(at * share) for at in config.milestones],
            "warmup_iterations": ceil(config.warmup_iterations * share),
            "checkpoint_every": max(1, min(config.checkpoint_every, iterations // 5)),
            "stages": [stage for stage in stages if stage["iterations"]],
        }
        recipe = {**recipe, **scaled}
    return TrainingConfig.model_validate({**recipe, **changes})


def _parts(
    config: Any,
    annotations: AmodalAnnotations,
    folder: Path,
    values: Mapping[str, Mapping[str, Any]],
    restart: bool,
) -> Parts:
    """Return the parts of a method, loaded from its folder or trained now."""
    wanted = contract.parts_of(config)
    if strangers := sorted(values.keys() - wanted.keys()):
        raise ValueError(
            f"{config.name} has no part {', '.join(strangers)}: it has "
            f"{', '.join(wanted) or 'none'}"
        )
    begin = Start(restart=restart)
    return Parts(
        {
            job: train(job, annotations, folder / part, start=begin, **values.get(part, {}))
            for part, job in wanted.items()
        }
    )


def predict(
    checkpoint: Checkpoint, annotations: AmodalAnnotations, **inference: Any
) -> Predictions:
    """Return a trained detector's predictions for the images of a split.

    Args:
        checkpoint: of a detector, from :func:`train` or ``Checkpoint.load(folder)``.
        annotations: the split; only its images are used.
        inference: values of InferenceConfig: ``batch_size``, ``workers``, ``device``, ….
    """
    from amodal_pipeline.jobs.detect import predict as run

    return run(checkpoint, annotations, InferenceConfig(**inference))


def complete(
    checkpoint: Checkpoint, objects: Predictions | KnownObjects, **inference: Any
) -> Predictions:
    """Return known objects with a completer's amodal masks.

    Args:
        checkpoint: of a completer.
        objects: with visible masks: ``true_objects(annotations)``, or a detector's predictions.
        inference: values of InferenceConfig.

    Raises:
        ValueError: the checkpoint is of no completer.
    """
    from amodal_pipeline.jobs.complete import complete as run

    method = checkpoint.card.method.root
    if method.DESCRIPTION.task != "complete":
        raise ValueError(f"{method.name} completes nothing: take c2f_seg, a3d or another completer")
    return run(checkpoint, KnownObjects.of(objects), InferenceConfig(**inference))


def evaluate(
    annotations: AmodalAnnotations, predictions: Sequence[Predictions], **evaluation: Any
) -> pd.DataFrame:
    """Score predictions by every published protocol that applies to them.

    Completions of a detector's masks are scored on the objects that this detector matched, if the
    detector's own predictions are in the list, too.

    Args:
        annotations: the truth.
        predictions: of one or several methods.
        evaluation: values of EvaluationConfig: ``protocols``, ``resamples``, …; not
            ``matched_by``, which names methods in a project's folders.

    Returns:
        Tidy rows (docs/metrics.md): method, inputs, protocol, category, metric, value, low, high.

    Raises:
        ValueError: ``matched_by`` is given, or two tables could be the completed detections.
    """
    from amodal_pipeline.jobs.evaluate import scored
    from amodal_pipeline.metrics.completion import match_detections
    from amodal_pipeline.metrics.config import EvaluationConfig
    from amodal_pipeline.metrics.evaluate import evaluate as run
    from amodal_pipeline.metrics.results import join

    config = EvaluationConfig(**evaluation)
    if config.matched_by:
        raise ValueError(
            "matched_by names methods in a project's folders, which are not read here: use "
            "kedro run --pipeline=evaluate --params evaluation.matched_by=..."
        )
    completed = {each.metadata.inputs for each in predictions}
    detectors: dict[str, Predictions] = {}
    for each in predictions:
        name = each.metadata.method
        if name in completed and name in detectors:
            raise ValueError(
                f"two tables are of {name!r}, and masks that it found are completed: score them "
                "in two calls, each with its completions"
            )
        detectors[name] = each
    tables = []
    for each in predictions:
        detector = detectors.get(each.metadata.inputs)
        matches = match_detections(annotations, detector) if detector else None
        tables.append(run(annotations, each, config, matches, run_id=scored(each)).results)
    return join(tables)


def load(folder: str | Path, detector: str | Path | None = None) -> Predictor:
    """Return a trained method for pictures of your own: see :class:`~.predictor.Predictor`.

    Args:
        folder: of its checkpoint; or "photographs", the weights that the package ships
            (docs/photographs.md).
        detector: for a completer, what finds objects in pictures: the folder of a detector, or
            "torchvision" for its Mask R-CNN of COCO, which is downloaded once
            (:func:`~.methods.importing.published_detector`).

    Raises:
        ValueError: there is no checkpoint, ``folder`` is of a detector and ``detector`` is given,
            or this finds no objects.
    """
    from amodal_pipeline.methods import load as restore
    from amodal_pipeline.predictor import Predictor

    module = restore(with_shipped(Path(folder).expanduser()))
    return Predictor(module, None if detector is None else _finding(detector))


def whole_objects(
    picture: Picture, masks: Any = None, *, weights: str | Path = "photographs"
) -> Result:
    """Return the whole objects of a photograph, and who is in front, without any training.

    For many pictures, :func:`load` once.

    Args:
        picture: a path, a PIL image, a uint8 array [H, W, 3] or a uint8 tensor [3, H, W], RGB.
        masks: the visible masks of all its objects, [N, H, W], nonzero where one is visible; None
            for those that torchvision's Mask R-CNN of COCO finds (downloaded once).
        weights: the completer, as :func:`load` takes it.

    Returns:
        ``masks`` (whole), ``visible_masks``, ``order`` (pairs: front, back), ``cutouts``, …; also
        ``plot()`` and ``save(folder)``.

    Raises:
        ValueError: picture and masks do not fit together, or no detector can be had.
    """
    if masks is None:
        from amodal_pipeline.jobs.detect import TORCHVISION

        return load(weights, detector=TORCHVISION).predict(picture)
    return load(weights).complete(picture, masks)


def _finding(detector: str | Path) -> Any:
    """Return the network of a detector."""
    from amodal_pipeline.jobs.detect import TORCHVISION
    from amodal_pipeline.methods import load as restore
    from amodal_pipeline.methods.importing import published_detector
    from amodal_pipeline.methods.pretrained import restore as of_checkpoint

    if detector == TORCHVISION:
        return of_checkpoint(published_detector())
    return restore(Path(detector).expanduser())
