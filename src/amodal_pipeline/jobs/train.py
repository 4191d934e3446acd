"""Nodes of the training template."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import Field, field_validator, model_validator

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.annotations.tables import PREDICTIONS, frame
from amodal_pipeline.jobs.parts import Parts
from amodal_pipeline.jobs.prepare import prepare, prepare_split
from amodal_pipeline.jobs.progress import plain_console, training_progress
from amodal_pipeline.jobs.sources import Source
from amodal_pipeline.layers.configs import LocalPath, Strict
from amodal_pipeline.methods import contract
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.contract import parts_of
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.methods.training_config import InferenceConfig, TrainingConfig
from amodal_pipeline.methods.vrsp.stored import StoredShapePrior
from amodal_pipeline.metrics.scores import Scores


class Job(Strict):
    """All parameters of one method: what it is, how it is trained, and what it starts from.

    ``pretrained``: a checkpoint folder, the name of the job it starts from (that of this data
    set, trained first where it is not there), or None. ``pretrained_categories``: what the
    checkpoint calls categories that have another name here. ``detector``, of a completer: the
    method of this data set whose detections it completes, and whose visible masks C2F-Seg learns
    from; or another program's results, COCO files of both splits ("theirs_{split}.json": train and
    val take the place of {split}); None for true visible masks only (A3D: within true boxes only).
    """

    model: MethodConfig
    training: TrainingConfig = TrainingConfig()
    pretrained: LocalPath | None = None
    pretrained_categories: dict[str, str] = Field({})
    detector: str | None = None

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
        """The results of another program that ``detector`` names, with {split} in it."""
        return self.detector if self.detector and self.detector.endswith(".json") else None

    @property
    def name(self) -> str:
        """What is trained: see :func:`~..methods.contract.job_name`."""
        return contract.job_name(self.model.root)


@dataclass(frozen=True)
class Pretraining:
    """A training on views of single objects that the method ``job`` is of may start from."""

    job: Job
    views: Source

    @property
    def name(self) -> str:
        """The job, the folder, and what ``pretrained`` calls it."""
        return f"pretrain_{self.job.name}"


@dataclass(frozen=True)
class ViewFolders:
    """``images``: where rendered views go; ``raw``: where those that others rendered lie."""

    images: Path
    raw: Path


@dataclass(frozen=True)
class ViewsPlan:
    """The pretraining on views that trainings may start from, and the folders of what it sees."""

    pretraining: Pretraining
    folders: ViewFolders


def plan_views(pretraining: Job, views: Source, images: Path, raw: Path) -> ViewsPlan:
    """Gather the pretraining on views and the folders of what it sees."""
    return ViewsPlan(Pretraining(pretraining, views), ViewFolders(images, raw))


def train(
    annotations: AmodalAnnotations,
    job: Job,
    folder: Path,
    restart: bool,
    start: list[Checkpoint],
    shape_prior: StoredShapePrior | None = None,
    tokenizer: Checkpoint | None = None,
    detections: Predictions | None = None,
) -> tuple[Checkpoint, pd.DataFrame]:
    """Train a method, or go on with a training that was cut, or give one that is finished.

    Args:
        annotations: the training split.
        job: the method's parameters.
        folder: of its checkpoint; the training state lies beside it.
        restart: begin anew, whatever is there.
        start: the checkpoint to start from, if any.
        shape_prior, tokenizer: of the data set, for a method that has one.
        detections: of a detector for the training split, for a method that learns from them.

    Returns:
        The checkpoint, and the history of losses, one row a report.
    """
    from amodal_pipeline.training.loop import train as run
    from amodal_pipeline.training.state import read_history

    parts = Parts(shape_prior, tokenizer)
    method = parts.complete(job.model.root)
    pretrained = start[0] if start else None
    with training_progress(f"train {method.name}") as on_step:
        checkpoint = run(
            method,
            job.training,
            annotations,
            folder,
            pretrained=pretrained,
            pretrained_categories=job.pretrained_categories,
            components=parts.components(method),
            detected=on_true_objects(annotations, detections),
            restart=restart,
            on_step=on_step,
        )
    return checkpoint, pd.DataFrame(read_history(folder / "history.jsonl"))


def train_part(
    annotations: AmodalAnnotations, job: Job, folder: Path, restart: bool, start: list[Checkpoint]
) -> tuple[Checkpoint, pd.DataFrame]:
    """Train a part that a method needs, such as its mask tokenizer.

    ``restart``, which is meant for the method, replaces a finished part only where it was trained
    with other values.
    """
    from amodal_pipeline.training.loop import fingerprint

    if restart and (folder / "method.json").exists():
        pretrained = start[0] if start else None
        wanted = fingerprint(
            job.model.root,
            job.training,
            annotations,
            pretrained,
            pretrained_categories=job.pretrained_categories,
        )
        restart = Checkpoint.load(folder).card.fingerprint != wanted
    return train(annotations, job, folder, restart, start)


def choose_start(job: Job) -> list[Checkpoint]:
    """Load the checkpoint that ``pretrained`` names by its folder; none where it is null."""
    if job.pretrained is None:
        return []
    return [Checkpoint.load(Path(job.pretrained).expanduser())]


def choose_start_or_upstream(job: Job, upstream: Job, trained: Checkpoint) -> list[Checkpoint]:
    """Choose as :func:`choose_start` does, or the upstream method that this run has trained."""
    if job.pretrained == upstream.name:
        return [trained]
    return choose_start(job)


def choose_start_or_train_upstream(
    annotations: AmodalAnnotations, job: Job, upstream: Job, upstream_folder: Path, restart: bool
) -> list[Checkpoint]:
    """Choose as :func:`choose_start` does, or train the upstream method of this data set.

    A finished upstream method of the same configuration and data is used again. One of another
    configuration is an error, or with ``restart`` is trained anew. One that needs parts made before
    it is not trained here: it is taken as it is.

    Raises:
        ValueError: such a one is not there, or was trained on other annotations.
    """
    from amodal_pipeline.training.loop import fingerprint

    if job.pretrained != upstream.name:
        return choose_start(job)
    if parts_of(upstream.model.root):
        return [_trained_on(annotations, upstream.name, upstream_folder)]
    below = choose_start(upstream)
    wanted = fingerprint(
        upstream.model.root,
        upstream.training,
        annotations,
        below[0] if below else None,
        pretrained_categories=upstream.pretrained_categories,
    )
    if (upstream_folder / "method.json").exists():
        found = Checkpoint.load(upstream_folder)
        if found.card.fingerprint == wanted:
            return [found]
    checkpoint, _ = train(annotations, upstream, upstream_folder, restart, below)
    checkpoint.save(upstream_folder)
    return [checkpoint]


def prepare_views(
    views: Source, dataset: str, images: Path, raw: Path, workers: int
) -> tuple[AmodalAnnotations, AmodalAnnotations]:
    """Both splits of the views that a method of ``dataset`` may be pretrained on.

    Args:
        views: what to render, or which files of others to read.
        dataset: what the tables are called is "<dataset>_views".
        images: where pictures go; those already there are kept.
        raw: the folder that views of others lie in.
        workers: processes; 0 is one a core.
    """
    return prepare(views, _views_of(dataset), images, raw, workers)


def _views_of(dataset: str) -> str:
    return f"{dataset}_views"


def choose_start_or_pretrain(
    job: Job, plan: ViewsPlan, dataset: str, folder: Path, workers: int, restart: bool
) -> list[Checkpoint]:
    """Return the start that a job names: a folder's, or its pretraining on views, done if need be.

    Args:
        job: of the method.
        plan: its pretraining, and the views for that.
        dataset, workers: as for :func:`prepare_views`.
        folder: of the pretraining's checkpoint.
        restart: see :func:`train_part`.
    """
    if job.pretrained != plan.pretraining.name:
        return choose_start(job)
    return [pretrain(plan.pretraining, dataset, plan.folders, folder, workers, restart)]


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
    checkpoint, _ = train_part(annotations, pretraining.job, folder, restart, start)
    checkpoint.save(folder)
    return checkpoint


def find_detector(
    annotations: AmodalAnnotations, job: Job, models: Path, restart: bool, **detectors: Job
) -> list[Checkpoint]:
    """Find the detector a completer works with: ``job.detector``, if it is of this project.

    One that is trained on these annotations is taken as it is, however it was configured; those
    that need no part made before them are trained first where they are not there.

    Args:
        annotations: the training split.
        job: the completer's parameters.
        models: folder of all checkpoints.
        restart: for what a detector that is to be trained starts from.
        detectors: parameters of the detectors that can be trained here, by job.

    Raises:
        ValueError: another detector is not trained, or was trained on other annotations.
    """
    if job.detector is None or job.detector_file:
        return []
    folder = models / job.detector
    if (folder / "method.json").exists():
        return [_trained_on(annotations, job.detector, folder)]
    if job.detector not in detectors:
        raise ValueError(f"{folder} holds no detector: {_remedy(job.detector)}")
    # Kedro checks parameters of named arguments only.
    trainable = {name: Job.model_validate(each) for name, each in detectors.items()}
    detector = trainable[job.detector]
    upstream = trainable.get(detector.model.root.DESCRIPTION.starts_from or "")
    if upstream:
        start = choose_start_or_train_upstream(
            annotations, detector, upstream, models / upstream.name, restart
        )
    else:
        start = choose_start(detector)
    checkpoint, _ = train(annotations, detector, folder, restart, start)
    checkpoint.save(folder)
    return [checkpoint]


def _trained_on(annotations: AmodalAnnotations, name: str, folder: Path) -> Checkpoint:
    """The finished training of a method, however it was configured."""
    if not (folder / "method.json").exists():
        raise ValueError(f"{folder} holds no {name}: {_remedy(name)}")
    found = Checkpoint.load(folder)
    if found.card.fingerprint.parts.get("annotations_train") != annotations.fingerprint:
        raise ValueError(
            f"the {name} in {folder} was trained on other annotations than those of "
            f"{annotations.metadata.dataset}/{annotations.metadata.split}: {_remedy(name)}, "
            "--params restart=true"
        )
    return found


def _remedy(name: str) -> str:
    return f"train it with `kedro run --pipeline=train_{name}` (and the --env of this run)"


def detect(
    detector: list[Checkpoint],
    annotations: AmodalAnnotations,
    inference: InferenceConfig,
    job: Job,
) -> Predictions:
    """Find, or read, the detections of a split that a completer works with; an empty table where
    it has no detector.

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


def on_true_objects(
    annotations: AmodalAnnotations, detections: Predictions | None
) -> Predictions | None:
    """Return the detections matched to a true object, with its id; None without a detection.

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
    """Draw what is particular to a method, for a few objects, as its description names it."""
    from amodal_pipeline.methods.pretrained import restore

    function, _ = checkpoint.card.method.root.DESCRIPTION.picture
    return contract.load(function)(restore(checkpoint), annotations, count)


def show_pretraining(scores: Scores) -> None:
    """Print how well whole masks of views are found, category by category."""
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
