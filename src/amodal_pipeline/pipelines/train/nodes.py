"""Nodes of the training template."""

from pathlib import Path

import pandas as pd

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.layers.configs import Strict
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.configs import MethodConfig
from amodal_pipeline.pipelines.progress import training_progress
from amodal_pipeline.training.configs import TrainingConfig


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
) -> tuple[Checkpoint, pd.DataFrame]:
    """Train a method, or go on with a training that was cut, or give one that is finished.

    Args:
        annotations: the training split.
        job: the method's parameters.
        folder: of its checkpoint; the training state lies beside it.
        restart: begin anew, whatever is there.
        start: the checkpoint to start from, if any.

    Returns:
        The checkpoint, and the history of losses, one row a report.
    """
    from amodal_pipeline.training.loop import train as run
    from amodal_pipeline.training.state import read_history

    method = job.model.root
    pretrained = start[0] if start else None
    with training_progress(f"train {method.name}") as on_step:
        checkpoint = run(
            method,
            job.training,
            annotations,
            folder,
            pretrained=pretrained,
            restart=restart,
            on_step=on_step,
        )
    return checkpoint, pd.DataFrame(read_history(folder / "history.jsonl"))


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


def plot_losses(job: Job, history: pd.DataFrame) -> object:
    """The curves of all losses, as a figure."""
    from amodal_pipeline.visuals.plots import loss_curves

    return loss_curves({job.model.root.name: history.to_dict("records")})
