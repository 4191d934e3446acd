"""Nodes of the training pipelines, the same for every method."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field, field_validator, model_validator

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.annotations.tables import PREDICTIONS, frame
from amodal_pipeline.jobs import freshness
from amodal_pipeline.jobs.parts import Parts
from amodal_pipeline.jobs.prepare import prepare, prepare_split
from amodal_pipeline.jobs.progress import plain_console, training_progress
from amodal_pipeline.jobs.sources import Source
from amodal_pipeline.layers.configs import LocalPath, Strict
from amodal_pipeline.methods import contract
from amodal_pipeline.methods.checkpoints import Checkpoint, NotMade
from amodal_pipeline.methods.registry import METHODS, MethodConfig
from amodal_pipeline.methods.training_config import InferenceConfig, TrainingConfig
from amodal_pipeline.metrics.scores import Scores

_log = logging.getLogger(__name__)


class Job(Strict):
    """All parameters of one training: the method, its training, and its start.

    Attributes:
        pretrained: the checkpoint to start from: its folder, or the name of a job of this data set,
            trained first if missing; or None.
        pretrained_categories: the checkpoint's names of categories that are named otherwise here.
        detector: of a completer: the method of this data set whose detections it completes, and
            whose visible masks C2F-Seg learns from; or another program's results, a COCO file per
            split ("theirs_{split}.json", with train and val in place of {split}); None for true
            visible masks only (A3D: within true boxes only). Of a shape prior: the detector whose
            masks it learns from in addition to true ones.
    """

    model: MethodConfig
    training: TrainingConfig = TrainingConfig()
    pretrained: LocalPath | None = None
    pretrained_categories: dict[str, str] = Field({})
    detector: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _says_where_values_are(cls, values: Any) -> Any:
        """Raise an error for a value outside of ``model`` or ``training``; names its place."""
        model = values.get("model") if isinstance(values, dict) else None
        name = model.get("name") if isinstance(model, dict) else None
        if name not in METHODS:
            return values
        fields = contract.load(METHODS[name]).model_fields
        for key in values.keys() - cls.model_fields.keys():
            place = "model" if key in fields else "training"
            if key == "predicted_by":  # an earlier name, in the parameters of a shape prior
                raise ValueError(f"{key} is unknown: its name is detector")
            if key in fields or key in TrainingConfig.model_fields:
                raise ValueError(f"{key} is unknown: its name is {place}.{key}")
        return values

    @field_validator("detector")
    @classmethod
    def _names_a_file_per_split(cls, detector: str | None) -> str | None:
        if detector and detector.endswith(".json") and "{split}" not in detector:
            raise ValueError(
                f"{detector} is one file, and both splits are needed: write {{split}} where their "
                "names have train and val, as in results/theirs_{split}.json"
            )
        return detector

    @model_validator(mode="after")
    def _can_estimate_boxes(self) -> Job:
        method = self.model.root
        if self.detector_file and method.DESCRIPTION.needs_boxes:
            raise ValueError(
                f"{method.name} needs a detector that estimates amodal boxes, and detector is "
                f"{self.detector}: name a method, and complete these results with `kedro run "
                f"--pipeline=evaluate --params method={method.name},inputs=<file>`"
            )
        return self

    @property
    def detector_file(self) -> str | None:
        """Return the file name, with {split} in it, of another program's results; or None."""
        return self.detector if self.detector and self.detector.endswith(".json") else None

    @property
    def name(self) -> str:
        """Return the name of the job, see :func:`~..methods.contract.job_name`."""
        return contract.job_name(self.model.root)


@dataclass(frozen=True)
class Pretraining:
    """A training on views of single objects, from which the method of ``job`` may start."""

    job: Job
    views: Source

    @property
    def name(self) -> str:
        """Return the name of the job and of its folder, by which ``pretrained`` refers to it."""
        return f"pretrain_{self.job.name}"


@dataclass(frozen=True)
class ViewFolders:
    """``images``: folder of rendered views; ``raw``: folder of views that others rendered."""

    images: Path
    raw: Path


@dataclass(frozen=True)
class ViewsPlan:
    """The pretraining on views that trainings may start from, and the folders of the views."""

    pretraining: Pretraining
    folders: ViewFolders


def plan_views(pretraining: Job, views: Source, images: Path, raw: Path) -> ViewsPlan:
    """Return the pretraining on views together with the folders of the views."""
    return ViewsPlan(Pretraining(pretraining, views), ViewFolders(images, raw))


@dataclass(frozen=True)
class Material:
    """The inputs of a training, apart from its parameters.

    ``detected``: detections of the training split, as the method learns from them.
    """

    annotations: AmodalAnnotations
    start: Checkpoint | None = None
    parts: Parts = field(default_factory=Parts)
    detected: Predictions | None = None


def make(
    job: Job,
    material: Material,
    folder: Path,
    restart: bool,
    *,
    for_another: bool = False,
    title: str = "",
) -> Checkpoint:
    """Return the checkpoint of a training: the finished one, or else train it now.

    An interrupted run of the same training is continued.

    Args:
        job: its parameters.
        material: its inputs.
        folder: folder of its checkpoint and training state.
        restart: train anew, even where there is a finished checkpoint.
        for_another: this training is made for another one, which ``restart`` is meant for: a
            finished checkpoint is replaced only where it is not up to date.
        title: of the progress bar.

    Raises:
        ChangedTrainingError: the checkpoint or state in the folder was made from other values;
            names them.
    """
    from amodal_pipeline.training.loop import train as run

    plan, parts = plan_of(job, material, folder), material.parts
    if restart and for_another:
        restart = not freshness.look(plan).fresh
    if not restart and freshness.finished(plan) and (found := freshness.load(folder)):
        _log.info("%s is trained already", folder)
        return found
    method = parts.complete(job.model.root)
    with training_progress(title or f"train {method.name}") as on_step:
        checkpoint = run(
            method,
            job.training,
            material.annotations,
            folder,
            pretrained=material.start,
            pretrained_categories=job.pretrained_categories,
            components=parts.components(method),
            detected=material.detected,
            restart=restart,
            on_step=on_step,
        )
    checkpoint.save(folder)
    return checkpoint


def plan_of(job: Job, material: Material, folder: Path) -> freshness.Plan:
    """Return what the checkpoint in a folder is to be made from."""
    made = {part: made.card for part, made in material.parts.made.items()}
    sources: dict[str, Any] = {
        module: made[part]
        for module, part in contract.parts_of(job.model.root).items()
        if part in made
    }
    if material.start:
        sources["pretrained"] = material.start.card
    if material.detected is not None and len(material.detected.predictions):
        sources["detected"] = material.detected.metadata.checkpoint
    return freshness.Plan(folder, job, material.annotations.fingerprint, sources)


def train(
    annotations: AmodalAnnotations,
    job: Job,
    folder: Path,
    restart: bool,
    start: list[Checkpoint],
    detections: Predictions | None = None,
    **parts: Checkpoint,
) -> tuple[Checkpoint, pd.DataFrame]:
    """Train a method, continue an interrupted training, or return a finished one.

    Args:
        annotations: the training split.
        job: the method's parameters.
        folder, restart: see :func:`make`.
        start: the checkpoint to start from, if any.
        detections: a detector's, for the training split, for a method that learns from them.
        parts: finished parts of the method, by the job that made each.

    Returns:
        The checkpoint, and the history of losses, one row per report.
    """
    material = _material(annotations, job, start, detections, parts)
    return make(job, material, folder, restart), _history(folder)


def train_part(
    annotations: AmodalAnnotations,
    job: Job,
    folder: Path,
    restart: bool,
    start: list[Checkpoint],
    detections: Predictions | None = None,
    **parts: Checkpoint,
) -> tuple[Checkpoint, pd.DataFrame]:
    """Train as :func:`train` does, for another method, which ``restart`` is meant for."""
    material = _material(annotations, job, start, detections, parts)
    return make(job, material, folder, restart, for_another=True), _history(folder)


def _material(
    annotations: AmodalAnnotations,
    job: Job,
    start: list[Checkpoint],
    detections: Predictions | None,
    parts: Mapping[str, Checkpoint],
) -> Material:
    learnt = learnt_detections(annotations, job, detections)
    return Material(annotations, start[0] if start else None, Parts(parts), learnt)


def _history(folder: Path) -> pd.DataFrame:
    from amodal_pipeline.training.state import read_history

    return pd.DataFrame(read_history(folder / "history.jsonl"))


def choose_start(job: Job) -> list[Checkpoint]:
    """Return the checkpoint in the folder ``pretrained``, in a list; empty where it is null."""
    if job.pretrained is None:
        return []
    return [Checkpoint.load(Path(job.pretrained).expanduser())]


def choose_start_or_upstream(
    job: Job, upstream: Job, trained: Checkpoint | NotMade
) -> list[Checkpoint]:
    """Choose as :func:`choose_start` does, or take the upstream method that this run trained."""
    if job.pretrained == upstream.name:
        return [trained]
    return choose_start(job)


def choose_start_or_pretraining(job: Job, trained: Checkpoint | NotMade) -> list[Checkpoint]:
    """Choose as :func:`choose_start` does, or take the pretraining on views of this run."""
    if job.pretrained == f"pretrain_{job.name}":
        return [trained]
    return choose_start(job)


def train_upstream(
    annotations: AmodalAnnotations,
    job: Job,
    this: Job,
    models: Path,
    restart: bool,
    start: Checkpoint | NotMade | None = None,
    **others: Job,
) -> Checkpoint | NotMade:
    """Train the method that another one starts from, or the detector that it works with.

    A finished start of the same configuration and data is used again. One of another configuration
    is an error, or with ``restart`` is trained anew. A finished detector is taken whatever its
    configuration. So is a start that needs parts made before it: it is not trained here.

    Args:
        annotations: the training split.
        job: parameters of the method that may need the upstream one.
        this: parameters of the upstream method.
        models: folder of all checkpoints.
        restart: see :func:`train_part`.
        start: the checkpoint that ``this`` itself may start from.
        others: the other upstream methods of ``job``, by job.

    Returns:
        Its checkpoint; NotMade where ``job`` has no use for it.

    Raises:
        ValueError: a start with parts is missing, or a finished detector or start was trained on
            other annotations; or ``job`` cannot learn from these (before anything is trained).
    """
    contract.check_learnable(job.model.root, annotations.metadata)
    # Kedro checks parameters of named arguments only.
    known = {name: Job.model_validate(other) for name, other in others.items()} | {this.name: this}
    detector = _detector_there(annotations, job, models)
    wanted = {job.pretrained, job.detector}
    if job.detector in known and detector is None:
        wanted.add(known[job.detector].pretrained)
    if this.name not in wanted:
        return NotMade()
    if this.name == job.detector and detector:
        return detector
    if contract.parts_of(this.model.root):
        return _trained_on(annotations, this.name, models / this.name)
    below = known.get(this.pretrained or "")
    own = choose_start_or_upstream(this, below, start) if below else choose_start(this)
    material = Material(annotations, own[0] if own else None)
    return make(this, material, models / this.name, restart, for_another=True)


def train_first_upstream(
    annotations: AmodalAnnotations, job: Job, this: Job, models: Path, restart: bool, **others: Job
) -> Checkpoint | NotMade:
    """Train as :func:`train_upstream` does what starts from no method of this project.

    Kedro takes the types of parameters from a function's arguments by their order, so that a node
    cannot leave out ``start``.
    """
    return train_upstream(annotations, job, this, models, restart, **others)


def make_upstream(
    annotations: AmodalAnnotations, upstream: Job, folder: Path, restart: bool
) -> Checkpoint:
    """Return the checkpoint of a job of this data set that others start from, trained if needed.

    A job that needs parts is not trained here: see :func:`train_upstream`.
    """
    if contract.parts_of(upstream.model.root):
        return _trained_on(annotations, upstream.name, folder)
    below = choose_start(upstream)
    material = Material(annotations, below[0] if below else None)
    return make(upstream, material, folder, restart, for_another=True)


def train_pretraining(
    job: Job, plan: ViewsPlan, dataset: str, folder: Path, workers: int, restart: bool
) -> Checkpoint | NotMade:
    """Train the pretraining on views that a job starts from; return NotMade for another start.

    Args:
        job: of the method.
        plan: the pretraining and its views.
        dataset, workers: as for :func:`prepare_views`.
        folder: folder of the pretraining's checkpoint.
        restart: see :func:`train_part`.
    """
    if job.pretrained != plan.pretraining.name:
        return NotMade()
    return pretrain(plan.pretraining, dataset, plan.folders, folder, workers, restart)


def prepare_views(
    views: Source, dataset: str, images: Path, raw: Path, workers: int
) -> tuple[AmodalAnnotations, AmodalAnnotations]:
    """Return both splits of the views that a method of ``dataset`` may be pretrained on.

    Args:
        views: what to render, or which files of others to read.
        dataset: the tables are named "<dataset>_views".
        images: folder of the pictures; existing ones are kept.
        raw: folder of views that others rendered.
        workers: processes; 0 is one per core.
    """
    return prepare(views, _views_of(dataset), images, raw, workers)


def _views_of(dataset: str) -> str:
    return f"{dataset}_views"


def pretrain(
    pretraining: Pretraining,
    dataset: str,
    folders: ViewFolders,
    folder: Path,
    workers: int,
    restart: bool,
) -> Checkpoint:
    """Train a method on the training split of views; a finished one is used again."""
    annotations = prepare_split(
        pretraining.views, "train", _views_of(dataset), folders.images, folders.raw, workers
    )
    start = choose_start(pretraining.job)
    material = Material(annotations, start[0] if start else None)
    return make(pretraining.job, material, folder, restart, for_another=True)


def find_detector(
    annotations: AmodalAnnotations, job: Job, models: Path, **trained: Checkpoint | NotMade
) -> list[Checkpoint]:
    """Return the detector that a method works with, in a list; empty if it is not of this project.

    Args:
        annotations: the training split.
        job: the method's parameters; ``job.detector`` names the detector.
        models: folder of all checkpoints.
        trained: detectors that this run has trained, or found.

    Raises:
        ValueError: the detector is not trained, or was trained on other annotations.
    """
    if job.detector is None or job.detector_file:
        return []
    made = trained.get(job.detector)
    if isinstance(made, Checkpoint):
        return [_on_these(annotations, made, job.detector, models / job.detector)]
    if found := _detector_there(annotations, job, models):
        return [found]
    raise ValueError(f"{models / job.detector} holds no detector: {_remedy(job.detector)}")


def _detector_there(annotations: AmodalAnnotations, job: Job, models: Path) -> Checkpoint | None:
    if job.detector is None or job.detector_file:
        return None
    found = freshness.load(models / job.detector)
    return found and _on_these(annotations, found, job.detector, models / job.detector)


def _on_these(
    annotations: AmodalAnnotations, found: Checkpoint, name: str, folder: Path
) -> Checkpoint:
    if found.card.fingerprint.parts.get("annotations_train") != annotations.fingerprint:
        raise ValueError(
            f"the {name} in {folder} was trained on other annotations than those of "
            f"{annotations.metadata.dataset}/{annotations.metadata.split}: {_remedy(name)}, "
            "--params restart=true"
        )
    return found


def _trained_on(annotations: AmodalAnnotations, name: str, folder: Path) -> Checkpoint:
    """Return the finished checkpoint of a method; its configuration is not checked."""
    if not (folder / "method.json").exists():
        raise ValueError(f"{folder} holds no {name}: {_remedy(name)}")
    return _on_these(annotations, Checkpoint.load(folder), name, folder)


def _remedy(name: str) -> str:
    return f"train it with `kedro run --pipeline=train_{name}` (and the --env of this run)"


def detect(
    detector: list[Checkpoint],
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    job: Job,
) -> Predictions:
    """Return the detections of a split that a completer works with: predicted, or read from a file.

    The table is empty where the completer has no detector.

    Raises:
        ValueError: the results of another program are missing or damaged; names the file.
    """
    from amodal_pipeline.annotations.known_objects import no_objects
    from amodal_pipeline.jobs.chosen import read_results_of_split
    from amodal_pipeline.jobs.detect import predict

    if detector:
        return predict(detector[0], annotations, inference)
    if job.detector_file:
        return read_results_of_split(job.detector_file, annotations)
    return no_objects(annotations).table


def learnt_detections(
    annotations: AmodalAnnotations, job: Job, detections: Predictions | None
) -> Predictions | None:
    """Return the detections that a method learns from; None without any.

    A completer gets only those that match a true object.
    """
    if job.model.root.DESCRIPTION.task == "complete":
        return on_true_objects(annotations, detections)
    return detections if detections is not None and len(detections.predictions) else None


def on_true_objects(
    annotations: AmodalAnnotations, detections: Predictions | None
) -> Predictions | None:
    """Return the detections that match a true object, with its id; None without detections.

    Raises:
        ValueError: the detector predicts no visible masks.
    """
    import numpy as np

    from amodal_pipeline.metrics.completion import match_detections

    if detections is None or len(detections.predictions) == 0:
        return None
    table, method = detections.predictions, detections.metadata.method
    if table["visible_rle"].isna().any():
        raise ValueError(
            f"{method!r} does not predict visible masks, which a completer needs of its detector: "
            "name one that does (orcnn, vrsp), or set detector to null"
        )
    matches = match_detections(annotations, detections)
    ids = table["prediction_id"].to_numpy(dtype=np.int64)
    order = np.argsort(ids)
    rows = order[np.searchsorted(ids[order], matches.prediction_id)]
    columns = {name: table[name].iloc[rows] for name in table.columns}
    columns["instance_id"] = matches.instance_id
    return dataclasses.replace(detections, predictions=frame(PREDICTIONS, columns))


def draw_particulars(checkpoint: Checkpoint, annotations: AmodalAnnotations, count: int) -> object:
    """Draw the picture that a method's description names, for ``count`` objects."""
    from amodal_pipeline.methods.pretrained import restore

    function, _ = checkpoint.card.method.root.DESCRIPTION.picture
    return contract.load(function)(restore(checkpoint), annotations, count)


def show_pretraining(scores: Scores) -> None:
    """Print how well whole masks of views are completed, by category."""
    from rich.table import Table

    rows = scores.results
    own = rows[(rows["protocol"] == "completion").to_numpy(dtype=bool)]
    own = own[(own["method"] == rows["method"].iloc[0]).to_numpy(dtype=bool)]
    metrics = ("mIoU_full", "mIoU_occluded")
    shown = Table(title=f"{rows['dataset'].iloc[0]}, validation: within true boxes (0–100)")
    shown.add_column("category")
    for name in ("objects", *metrics):
        shown.add_column(name, justify="right")
    for category, part in own.groupby("category", sort=False):
        of = part.set_index("metric")
        if metrics[0] not in of.index:
            continue
        values = [of["value"].get(metric) for metric in metrics]
        cells = ["–" if pd.isna(value) else f"{value:.1f}" for value in values]
        shown.add_row(category, str(int(of["n"][metrics[0]])), *cells)
    plain_console().print(shown)


def plot_losses(job: Job, history: pd.DataFrame) -> object:
    """Return the curves of all losses, as a figure."""
    from amodal_pipeline.visuals.plots import loss_curves

    return loss_curves({job.name: history.to_dict("records")})
