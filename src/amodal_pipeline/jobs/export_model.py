"""The node that writes a completer as files that run without this project."""

import logging
from pathlib import Path

from amodal_pipeline.jobs.complete import is_completer
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.contract import job_name

logger = logging.getLogger(__name__)


def export_model(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a completer as ONNX and of ``torch.export``, with a script that runs it.

    Args:
        checkpoint: of a completer.
        folder: replaced as a whole (:func:`~..training.portable.export_completer`).

    Raises:
        ValueError: it is no completer, or it cannot be exported.
    """
    name = job_name(checkpoint.card.method.root)
    if not is_completer(checkpoint.card):
        raise ValueError(
            f"{name} is not exported: only completers are. Name one with --params "
            "method=<completer>; predictions are written with --pipeline=export_predictions"
        )
    from amodal_pipeline.training.portable import export_completer

    made = export_completer(checkpoint, folder)
    logger.info(
        "%s: model.onnx (%.1f MB), model.pt2 and complete.py; they differ by at most %.1g from %s",
        *(folder, made.size / 1e6, made.difference, name),
    )
