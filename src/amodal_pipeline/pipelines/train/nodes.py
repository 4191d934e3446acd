"""Nodes of the training template."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.layers.configs import Strict
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.configs import AnyMethod, MethodConfig
from amodal_pipeline.methods.vrsp.stored import ShapePriorCard, StoredShapePrior
from amodal_pipeline.pipelines.progress import training_progress
from amodal_pipeline.training.configs import TrainingConfig

if TYPE_CHECKING:
    from amodal_pipeline.training.loop import Component


class Job(Strict):
    """All parameters of one method: what it is, how it is trained, and what it starts from.

    ``pretrained``: a checkpoint folder, the name of the method it starts from (that of this data
    set, trained first where it is not there), or None.
    """

    model: MethodConfig
    training: TrainingConfig = TrainingConfig()
    pretrained: str | None = None


def train(
    annotations: AmodalAnnotations,
    job: Job,
    folder: Path,
    restart: bool,
    start: list[Checkpoint],
    shape_prior: StoredShapePrior | None = None,
) -> tuple[Checkpoint, pd.DataFrame]:
    """Train a method, or go on with a training that was cut, or give one that is finished.

    Args:
        annotations: the training split.
        job: the method's parameters.
        folder: of its checkpoint; the training state lies beside it.
        restart: begin anew, whatever is there.
        start: the checkpoint to start from, if any.
        shape_prior: of the data set, for a method that has one.

    Returns:
        The checkpoint, and the history of losses, one row a report.
    """
    from amodal_pipeline.training.loop import train as run
    from amodal_pipeline.training.state import read_history

    method = with_prior(job.model.root, shape_prior.card if shape_prior else None)
    pretrained = start[0] if start else None
    with training_progress(f"train {method.name}") as on_step:
        checkpoint = run(
            method,
            job.training,
            annotations,
            folder,
            pretrained=pretrained,
            components=components_of(method, shape_prior),
            restart=restart,
            on_step=on_step,
        )
    return checkpoint, pd.DataFrame(read_history(folder / "history.jsonl"))


def with_prior(method: AnyMethod, card: ShapePriorCard | None) -> AnyMethod:
    """The method with the form of the data set's shape prior, where it uses one and names none.

    Raises:
        ValueError: it names a form, and that of the data set is another.
    """
    if card is None or not getattr(method, "uses_prior", False):
        return method
    if method.prior not in (None, card.config):
        raise ValueError(
            f"{method.name}.model.prior is not the shape prior of this data set "
            f"({card.config}): leave it null, or make the shape prior with these values"
        )
    return method.model_copy(update={"prior": card.config})


def components_of(method: AnyMethod, shape_prior: StoredShapePrior | None) -> dict[str, Component]:
    """The finished parts that a method is trained with."""
    from amodal_pipeline.training.loop import Component

    if shape_prior is None or not getattr(method, "uses_prior", False):
        return {}
    return {"prior": Component(shape_prior.weights, shape_prior.card.fingerprint.digest)}


def choose_start(job: Job) -> list[Checkpoint]:
    """The checkpoint that ``pretrained`` names by its folder; none where it is null."""
    if job.pretrained is None:
        return []
    return [Checkpoint.load(Path(job.pretrained).expanduser())]


def choose_start_or_upstream(job: Job, upstream: Job, trained: Checkpoint) -> list[Checkpoint]:
    """As :func:`choose_start`, or the upstream method that this run has trained."""
    if job.pretrained == upstream.model.root.name:
        return [trained]
    return choose_start(job)


def choose_start_or_train_upstream(
    annotations: AmodalAnnotations, job: Job, upstream: Job, upstream_folder: Path, restart: bool
) -> list[Checkpoint]:
    """As :func:`choose_start`, or the upstream method of this data set, trained where need be.

    One that is there, finished and of the same configuration and data, is taken as it is. One of
    another is an error, or with ``restart`` is trained anew.
    """
    from amodal_pipeline.training.loop import fingerprint

    if job.pretrained != upstream.model.root.name:
        return choose_start(job)
    below = choose_start(upstream)
    wanted = fingerprint(
        upstream.model.root, upstream.training, annotations, below[0] if below else None
    )
    if (upstream_folder / "method.json").exists():
        found = Checkpoint.load(upstream_folder)
        if found.card.fingerprint == wanted:
            return [found]
    checkpoint, _ = train(annotations, upstream, upstream_folder, restart, below)
    checkpoint.save(upstream_folder)
    return [checkpoint]


def draw_retrieval(checkpoint: Checkpoint, annotations: AmodalAnnotations, count: int) -> object:
    """What known shapes do for the most occluded objects, as a picture."""
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.visuals.retrieval import retrieval_sheet

    return retrieval_sheet(restore(checkpoint), annotations, count)


def plot_losses(job: Job, history: pd.DataFrame) -> object:
    """The curves of all losses, as a figure."""
    from amodal_pipeline.visuals.plots import loss_curves

    return loss_curves({job.model.root.name: history.to_dict("records")})
