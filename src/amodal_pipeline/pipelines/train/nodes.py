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


def no_start() -> list[Checkpoint]:
    """A method that starts from its backbone's weights alone."""
    return []


def from_checkpoint(checkpoint: Checkpoint) -> list[Checkpoint]:
    """A method that starts from one trained in the same run."""
    return [checkpoint]


def choose_start(
    annotations: AmodalAnnotations, job: Job, upstream: Job, upstream_folder: Path
) -> list[Checkpoint]:
    """What a method starts from, as its ``pretrained`` says.

    The name of the upstream method means that of this data set. It is trained now where it is not
    there; where it is, this is instant.
    """
    if job.pretrained is None:
        return []
    if job.pretrained != upstream.model.root.name:
        return [Checkpoint.load(Path(job.pretrained).expanduser())]
    checkpoint, _ = train(annotations, upstream, upstream_folder, False, no_start())
    checkpoint.save(upstream_folder)
    return [checkpoint]


def plot_losses(job: Job, history: pd.DataFrame) -> object:
    """The curves of all losses, as a figure."""
    from amodal_pipeline.visuals.plots import loss_curves

    return loss_curves({job.model.root.name: history.to_dict("records")})
