"""Nodes that train OrderNet on the objects of one source, and compare it with rules.

Objects are true ones, or a detector's predictions of them. A network is trained and scored on
objects of the same source, one network per kind of input.
"""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import Field

from amodal_pipeline.annotations import AmodalAnnotations, Given, Predictions
from amodal_pipeline.jobs.ablate import Workplace
from amodal_pipeline.jobs.detect import predict
from amodal_pipeline.jobs.evaluate import scored
from amodal_pipeline.jobs.progress import plain_console, progress, training_progress
from amodal_pipeline.jobs.rows import Row
from amodal_pipeline.jobs.train import Job, choose_start
from amodal_pipeline.layers.configs import LocalPath, Strict
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.configs import OrderNetConfig
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.methods.training_config import InferenceConfig, TrainingConfig
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.score_files import load_scores, save_scores
from amodal_pipeline.metrics.scores import Scores

_log = logging.getLogger(__name__)

# Names in the table of the methods and rules that give an order.
_NAMES = {
    "order_net": "OrderNet",
    "order_by_relative_map": "R of the maps",
    "order_by_area": "larger one in front",
    "order_by_lowest_point": "lower one in front",
}
_METRICS = ("order_accuracy", "order_coverage")


class OrderNetJob(Strict):
    """All parameters of `train_order_net`.

    ``inputs``: the kinds of input, each for a network of its own; replaces ``model.inputs``.
    ``source``: the detector of this data set whose predictions are the networks' objects; None for
    true objects. ``pretrained``: a checkpoint folder, or None.
    """

    model: OrderNetConfig = OrderNetConfig()
    training: TrainingConfig = TrainingConfig()
    pretrained: LocalPath | None = None
    inputs: tuple[Literal["amodal", "visible", "maps"], ...] = Field(("amodal", "maps"))
    source: str | None = None


def choose_networks(job: OrderNetJob) -> list[Row]:
    """Return the networks to train, named by source and input: "maps" or "sln_maps"."""
    prefix = f"{job.source}_" if job.source else ""
    return [
        Row(
            f"{prefix}{inputs}",
            Job(
                model=MethodConfig(job.model.model_copy(update={"inputs": inputs})),
                training=job.training,
                pretrained=job.pretrained,
            ),
        )
        for inputs in job.inputs
    ]


def train_and_score(
    chosen: list[Row],
    job: OrderNetJob,
    train: AmodalAnnotations,
    val: AmodalAnnotations,
    place: Workplace,
    inference: InferenceConfig,
    evaluation: EvaluationConfig,
) -> list[str]:
    """Train the networks one after another, and score each as soon as it is trained.

    What is finished and unchanged is not trained again. Scored are the pairs of overlapping true
    objects; the rules, and the order that the source itself states, on the same objects.

    Args:
        chosen: the networks.
        job: where objects come from.
        train, val: the two splits.
        place: the folders of these networks, of all checkpoints, of predictions and of scores.
        inference, evaluation: how networks are run, and intervals drawn.

    Returns:
        The names of the networks.

    Raises:
        ChangedTrainingError: a network on disk was trained with other values.
        ValueError: no order is stated to learn from, or the source lacks masks that are needed.
    """
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.metrics import scores
    from amodal_pipeline.metrics.evaluate import evaluate
    from amodal_pipeline.training import loop, ordering

    own, name = place.output, job.source or Given.TRUE_MASKS.value
    seen, shown = (
        _objects(split, job.source, place.models, own, inference) for split in (train, val)
    )
    pairs = ordering.pairs_of_truth(val, shown)
    only = evaluation.model_copy(update={"protocols": ("order",), "vrsp_released": False})
    _count_mutual(train, seen, job.model.mutual)

    def score(ordered: Predictions) -> Scores:
        found = evaluate(val, ordered, only, run_id=scored(ordered))
        # Masks come from the source: their quality says nothing about the order.
        return dataclasses.replace(found, objects=found.objects.iloc[:0])

    rules = scores.join(score(rule) for rule in _by_rules(shown, pairs))
    save_scores(place.scores, f"order_net.{name}_rules", rules)
    for number, row in enumerate(chosen, 1):
        start = choose_start(row.job)
        with training_progress(f"train {number}/{len(chosen)} {row.name}") as on_step:
            checkpoint = loop.train(
                row.job.model.root,
                row.job.training,
                train,
                place.rows / row.name,
                pretrained=start[0] if start else None,
                detected=seen if job.source else None,
                restart=place.restart,
                on_step=on_step,
            )
        checkpoint.save(place.rows / row.name)
        with progress(f"order {row.name}") as on_progress:
            found = ordering.order(
                restore(checkpoint),
                shown,
                inference,
                pairs=pairs,
                variant=row.name,
                seed=checkpoint.card.seed,
                checkpoint=checkpoint.card.fingerprint.digest,
                on_progress=on_progress,
            )
        found.save(own / row.name / "predictions")
        save_scores(place.scores, row.stem, score(found))
    return [row.name for row in chosen]


def _objects(
    annotations: AmodalAnnotations,
    source: str | None,
    models: Path,
    output: Path,
    inference: InferenceConfig,
) -> Predictions:
    """Return true objects of a split, or the source's predictions of them, made now if missing."""
    from amodal_pipeline.annotations.known_objects import true_objects_with_order
    from amodal_pipeline.training.ordering import best_matches

    if source is None:
        return true_objects_with_order(annotations)
    if not (models / source / "method.json").exists():
        raise ValueError(
            f"{models / source} holds no method to take predictions from: train it with "
            f"`kedro run --pipeline=train_{source}`, or set order_net.source to null"
        )
    detector = Checkpoint.load(models / source)
    place = output / f"{source}_{annotations.metadata.split}"
    made = (detector.card.fingerprint.digest, annotations.fingerprint)
    if (place / "metadata.json").exists():
        found = Predictions.load(place)
        if (found.metadata.checkpoint, found.metadata.annotations) == made:
            return best_matches(annotations, found)
    found = predict(detector, annotations, inference)
    found.save(place)
    return best_matches(annotations, found)


def _by_rules(objects: Predictions, pairs: np.ndarray) -> Iterator[Predictions]:
    """Return the objects in the order of each rule, and in the source's own order."""
    from amodal_pipeline.metrics.order import by_area, by_lowest_point
    from amodal_pipeline.training.ordering import by_relative_map

    of_truth = objects.metadata.given.from_truth
    known = [by_area(objects), by_lowest_point(objects)]
    if len(objects.order):
        known.append(by_relative_map(objects, pairs) if of_truth else objects)
    for found in known:
        # Other jobs score the same rules over all detections, or over completions.
        variant = "true_masks" if of_truth else "best_match"
        metadata = found.metadata.model_copy(update={"variant": variant})
        yield dataclasses.replace(found, metadata=metadata)


def _count_mutual(annotations: AmodalAnnotations, objects: Predictions, learnt: bool) -> None:
    from amodal_pipeline.samples.pairs import true_pairs

    found = true_pairs(annotations, objects)
    mutual = int(found.mutual.sum())
    _log.info(
        "%s/%s: %d pairs of known order to learn from; %d pairs stand in both directions and are "
        "%s",
        annotations.metadata.dataset,
        annotations.metadata.split,
        len(found.pairs) - mutual,
        mutual,
        "learnt as undecided" if learnt else "left out (order_net.model.mutual)",
    )


def tabulate(parts: Path, val: AmodalAnnotations, done: list[str]) -> pd.DataFrame:
    """Return the accuracy of each order on each source of objects: SLN's Table 2.

    Args:
        parts: folder of scores; scores on other validation data are left out.
        val: the validation split.
        done: networks of this run, asked for so that this node comes after them.

    Returns:
        Columns objects ("truth" or a detector), order (a network, a rule, or the source's own),
        inputs (of the network), accuracy, low, high, coverage, pairs, and the same with
        ``_occluding``; percent.
    """
    stems = sorted(path.name.removesuffix(".csv") for path in parts.glob("order_net.*.csv"))
    rows = []
    for stem in stems:
        results = load_scores(parts, stem).results
        results = results[results["run_id"].str.endswith(val.fingerprint[:12])]
        for (source, method, variant), of in results.groupby(["inputs", "method", "variant"]):
            rows.append(_line(source, method, variant, of.set_index("metric")))
    table = pd.DataFrame(rows).sort_values(["objects", "order", "inputs"], kind="stable")
    trained = table["order"] == _NAMES["order_net"]
    table = pd.concat([table[trained], table[~trained]]).sort_values("objects", kind="stable")
    _print(table, val.metadata.dataset)
    return table


def _line(source: str, method: str, variant: str, values: pd.DataFrame) -> dict[str, object]:
    line = {
        "objects": "truth" if Given.of(source).from_truth else source,
        "order": _NAMES.get(method, f"{method} itself"),
        "inputs": variant.removeprefix(f"{source}_") if method == "order_net" else "",
    }
    for suffix in ("", "_occluding"):
        accuracy, coverage = (values.loc[f"{metric}{suffix}"] for metric in _METRICS)
        line |= {
            f"accuracy{suffix}": accuracy["value"],
            f"low{suffix}": accuracy["low"],
            f"high{suffix}": accuracy["high"],
            f"coverage{suffix}": coverage["value"],
            f"pairs{suffix}": accuracy["n"],
        }
    return line


def _print(table: pd.DataFrame, dataset: str) -> None:
    from rich.table import Table

    pairs, occluding = table[["pairs", "pairs_occluding"]].iloc[0]
    shown = Table(
        title=f"{dataset}: which of two objects is in front (0–100), {pairs} pairs that overlap, "
        f"{occluding} of them occluding"
    )
    for name in ("objects", "order by"):
        shown.add_column(name)
    for name in ("right", "95 %", "told apart", "right, occluding"):
        shown.add_column(name, justify="right")
    for row in table.itertuples():
        interval = "–" if pd.isna(row.low) else f"{row.low:.1f}–{row.high:.1f}"
        shown.add_row(
            *(row.objects, f"{row.order}, {row.inputs}" if row.inputs else row.order),
            *(f"{row.accuracy:.1f}", interval, f"{row.coverage:.1f}"),
            f"{row.accuracy_occluding:.1f}",
        )
    plain_console().print(shown)


def draw(
    done: list[str], annotations: AmodalAnnotations, folder: Path, output: Path, count: int
) -> Image.Image:
    """Draw truth, layers, and the order of each network of this run, side by side.

    Drawn are the ``count`` images with the most occlusion.
    """
    from amodal_pipeline.visuals.grids import prediction_grid
    from amodal_pipeline.visuals.selection import most_occluded

    columns = {
        f"OrderNet, {name}": Predictions.load(output / folder.name / name / "predictions")
        for name in done
    }
    images = most_occluded(annotations, count)
    return prediction_grid(annotations, columns, images, score_threshold=0.0, order=True)


def plot_losses(done: list[str], folder: Path) -> object:
    """Plot the losses of the networks of this run; return the figure."""
    from amodal_pipeline.training.state import read_history
    from amodal_pipeline.visuals.plots import loss_curves

    return loss_curves({name: read_history(folder / name / "history.jsonl") for name in done})
