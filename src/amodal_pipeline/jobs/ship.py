"""The node that writes a trained method as the package ships it: small, and with a model card."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.jobs.sources import Source
from amodal_pipeline.methods import contract
from amodal_pipeline.methods.checkpoints import Checkpoint, Fingerprint

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from amodal_pipeline.visuals.model_card import Data

logger = logging.getLogger(__name__)

SCORES = "scores.csv"
_SAME = ["dataset", "split", "inputs", "method", "variant", "metric"]


def ship(checkpoint: Checkpoint, folder: Path, scores: Path, source: Source) -> None:
    """Write a checkpoint in half precision with its scores and a model card.

    The folder becomes a checkpoint as any other (``model.safetensors``, ``method.json``), with
    ``scores.csv`` (rows of results) and ``README.md``. It is replaced as a whole. The card names
    scores of the same weights, and says where scores are those of another training.

    Args:
        checkpoint: the trained method.
        folder: the folder to write; its name is that of the weights.
        scores: a folder of results (``*.csv``, at any depth): rows of completion over all
            categories are taken from it. It may hold other methods, for a comparison.
        source: the data set's, as in the training, for where its files come from.

    Raises:
        ValueError: ``scores`` has no results.
    """
    from amodal_pipeline.visuals.model_card import write_card

    rows = read_scores(scores, [contract.job_name(checkpoint.card.method.root), folder.name])
    if rows.empty:
        raise ValueError(
            f"{scores} holds no scores of completed objects for the model card: run `kedro run "
            "--pipeline=evaluate` first, or name a folder of results with --params scores=<folder>"
        )
    small = in_half(checkpoint)
    with replacing(folder) as new:
        small.save(new)
        rows.to_csv(new / SCORES, index=False)
        # Rows of results name the weights by the start of their fingerprint.
        digests = [each.card.fingerprint.digest for each in (checkpoint, small)]
        write_card(new / "README.md", folder.name, small.card, rows, digests, _data(source))
        size = sum(file.stat().st_size for file in new.iterdir())
    logger.info("%s: %.2f MB", folder, size / 1e6)


def read_scores(folder: Path, first: Sequence[str]) -> pd.DataFrame:
    """Return the rows of results on completion in a folder: over all categories, METRICS alone.

    Files ``*.csv`` at any depth are read; those that are no results are passed over. Of equal rows,
    such as those of a baseline that was scored with several methods, that in a file with one of the
    names ``first`` is kept.
    """
    import pandas as pd

    from amodal_pipeline.metrics.results import RESULTS
    from amodal_pipeline.visuals.model_card import METRICS

    found = []
    for path in sorted(folder.rglob("*.csv"), key=lambda path: (path.stem not in first, path)):
        table = pd.read_csv(path, dtype={"inputs": str})  # "true" is no truth value here
        if set(RESULTS.names) <= set(table.columns):
            found.append(table[RESULTS.names])
    if not found:
        return pd.DataFrame(columns=RESULTS.names)
    rows = pd.concat(found, ignore_index=True)
    rows = rows[(rows["protocol"] == "completion") & (rows["category"] == "all")]
    rows = rows[rows["metric"].isin(METRICS) & rows["value"].notna()]
    return rows.drop_duplicates(_SAME).sort_values(_SAME, ignore_index=True)


def _data(source: Source) -> Data:
    from amodal_pipeline.visuals.model_card import Data

    section = source.chosen
    pool = getattr(section, "pool", None)
    on_all = pool is not None and pool.train_on_all
    changes = "source.composed.pool.train_on_all=true" if on_all else ""
    return Data(getattr(section, "obtain", ""), changes)


def in_half(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint whose matrices and kernels are float16.

    Vectors (biases, statistics of batch norms) and tensors with values beyond float16 stay as they
    are. The fingerprint has the entry "stored".
    """
    card = checkpoint.card
    fingerprint = Fingerprint(parts={**card.fingerprint.parts, "stored": "float16"})
    return Checkpoint(
        card.model_copy(update={"fingerprint": fingerprint}),
        {name: _in_half(tensor) for name, tensor in checkpoint.weights.items()},
    )


def _in_half(tensor: Tensor) -> Tensor:
    if tensor.ndim < 2 or not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if half.isfinite().all() else tensor
