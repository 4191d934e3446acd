"""Nodes that train the rows of an ablation, score them, and compare them in one table."""

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from amodal_pipeline.annotations import AmodalAnnotations, Given, Predictions
from amodal_pipeline.cores import usable_cores
from amodal_pipeline.jobs import freshness
from amodal_pipeline.jobs.complete import (
    complete_detections,
    complete_true,
    complete_true_boxes,
    within_amodal_boxes,
)
from amodal_pipeline.jobs.detect import predict
from amodal_pipeline.jobs.evaluate import scored
from amodal_pipeline.jobs.parts import Parts
from amodal_pipeline.jobs.progress import progress
from amodal_pipeline.jobs.rows import AblationConfig, Row, resolve
from amodal_pipeline.jobs.train import (
    Job,
    Material,
    Pretraining,
    ViewsPlan,
    choose_start,
    make,
    make_upstream,
    on_true_objects,
    plan_of,
    pretrain,
)
from amodal_pipeline.methods import contract
from amodal_pipeline.methods.checkpoints import (
    ChangedTrainingError,
    Checkpoint,
    Fingerprint,
    NotMade,
)
from amodal_pipeline.methods.contract import job_name
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.score_files import load_scores, save_scores

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Workplace:
    """Where and how the rows of an ablation are made.

    Attributes:
        rows: folder of checkpoints and training states, one folder per row.
        models: folder of the checkpoints of the methods that rows start from.
        output: folder of predictions, one folder per row.
        scores: folder of all scores, named "<method>.<row>".
        workers: processes that compose pictures; 0 is one per core.
        restart: train the chosen rows anew.
        images: folder of pictures composed for single rows, one folder per row.
    """

    rows: Path
    models: Path
    output: Path
    scores: Path
    workers: int = 0
    restart: bool = False
    images: Path | None = None


@dataclasses.dataclass(frozen=True)
class Materials:
    """What rows are made from, apart from the training split.

    Attributes:
        parts: finished parts of this data set.
        detected: for completers: detections matched to true objects of the training split.
        detections: for completers: all detections of the validation split.
        detector: for completers: the detector itself, in a list; empty without one.
        views: for methods that may be pretrained on views.
        upstream: checkpoint of this data set that rows start from.
    """

    parts: Parts
    detected: Predictions | None = None
    detections: Predictions | None = None
    detector: Sequence[Checkpoint] = ()
    views: ViewsPlan | None = None
    upstream: Checkpoint | NotMade = dataclasses.field(default_factory=NotMade)


def workplace(
    rows: Path,
    models: Path,
    output: Path,
    scores: Path,
    workers: int,
    restart: bool,
    images: Path | None = None,
) -> Workplace:
    """Return the :class:`Workplace` of an ablation, which has its own folder below ``output`` and
    ``images``, named as ``rows``."""
    own = images / rows.name if images else None
    return Workplace(rows, models, output / rows.name, scores, workers, restart, own)


def gather_parts(**parts: Checkpoint) -> Parts:
    """Return the finished parts of the data set, by the job that made each."""
    return Parts(parts)


def gather(
    train: AmodalAnnotations,
    parts: Parts,
    detections_train: Predictions | None = None,
    detections: Predictions | None = None,
    detector: list[Checkpoint] | None = None,
    views: ViewsPlan | None = None,
    upstream: Checkpoint | NotMade | None = None,
) -> Materials:
    """Return the :class:`Materials` of an ablation, with detections matched to true objects.

    Args:
        train: the training split.
        detections_train: detections of the training split, if there is a detector.
        parts, detections, detector, views, upstream: see :class:`Materials`.
    """
    detected = on_true_objects(train, detections_train)
    return Materials(parts, detected, detections, detector or (), views, upstream or NotMade())


def train_upstream_of_rows(
    annotations: AmodalAnnotations,
    ablation: AblationConfig,
    upstream: Job,
    folder: Path,
    restart: bool,
    *jobs: Job,
) -> Checkpoint | NotMade:
    """Train the method that rows start from; see :func:`~.train.make_upstream`.

    Returns:
        Its checkpoint; NotMade where no row to be run starts from it.
    """
    _, chosen = choose_rows(ablation, Parts(), *jobs)
    if not any(_starts_from(row, upstream.name) for row in chosen):
        return NotMade()
    return make_upstream(annotations, upstream, folder, restart)


def _starts_from(row: Row, job: str) -> bool:
    before = row.weights_of or row.upstream
    if isinstance(before, Row):
        return _starts_from(before, job)
    return isinstance(before, Job) and before.name == job


def choose_rows(
    ablation: AblationConfig, parts: Parts, *jobs: Job
) -> tuple[dict[str, Row], list[Row]]:
    """Return all rows of the ablation by name, and those to run now."""
    return _chosen(ablation, jobs, parts)


def choose_rows_with_pretraining(
    ablation: AblationConfig, parts: Parts, views: ViewsPlan, *jobs: Job
) -> tuple[dict[str, Row], list[Row]]:
    """Return rows as :func:`choose_rows` does, for methods that may be pretrained on views."""
    return _chosen(ablation, jobs, parts, views.pretraining)


def _chosen(
    ablation: AblationConfig,
    jobs: Sequence[Job],
    parts: Parts,
    pretraining: Pretraining | None = None,
) -> tuple[dict[str, Row], list[Row]]:
    checked: dict[str, Job] = {}
    # Of parameters that come as *args, Kedro turns only the first into a Job.
    for job in map(Job.model_validate, jobs):
        model = MethodConfig(parts.complete(job.model.root))
        checked[job.name] = job.model_copy(update={"model": model})
    rows = resolve(ablation, checked, pretraining)
    return rows, [row for name, row in rows.items() if ablation.row in (None, name)]


def ablate(
    chosen: list[Row],
    train: AmodalAnnotations,
    val: AmodalAnnotations,
    place: Workplace,
    given: Materials,
    inference: InferenceConfig,
    evaluation: EvaluationConfig,
) -> list[str]:
    """Train and score rows one after another; skip training where a checkpoint is up to date.

    Each row is scored as soon as it is trained, so that an interrupted run keeps finished rows.
    Rows that need an order of objects are left out, with a warning, where none is stated. Baselines
    without parameters are not scored.

    Args:
        chosen: the rows.
        train, val: the two splits.
        place, given: folders of the rows, and the materials that rows are made from.

    Returns:
        The names of the rows that were scored.

    Raises:
        ChangedTrainingError: a row on disk was trained with other values; names it and the remedy.
    """
    chosen = [row for row in chosen if _has_its_order(row, val, given)]
    for number, row in enumerate(chosen, 1):
        title = f"{number}/{len(chosen)} {row.name}"
        checkpoint = train_row(row, train, place, given, title=title)
        predictions = _predict(row, checkpoint, val, place, given, inference)
        save_scores(place.scores, row.stem, _score(row, val, predictions, given, evaluation))
    return [row.name for row in chosen]


def _has_its_order(row: Row, val: AmodalAnnotations, given: Materials) -> bool:
    """Return whether the objects of a row have the order that it needs; warn if not."""
    config = row.job.model.root
    objects = given.detections if row.completes is Given.DETECTIONS else val
    if not config.DESCRIPTION.needs_order(config) or (objects is not None and len(objects.order)):
        return True
    _log.warning(
        "row %s is left out: it needs to know which object is in front, and %s/%s states no order",
        *(row.name, val.metadata.dataset, val.metadata.split),
    )
    return False


def train_row(
    row: Row,
    annotations: AmodalAnnotations,
    place: Workplace,
    given: Materials,
    *,
    as_start: bool = False,
    title: str = "",
) -> Checkpoint:
    """Return the checkpoint of a row, trained now if it is not on disk.

    Args:
        as_start: another row starts from this one: ``restart`` replaces it only where it was
            trained with other values.

    Raises:
        ChangedTrainingError: see :func:`ablate`.
    """
    if row.weights_of:
        return _use_otherwise(row, annotations, place, given)
    start = _start(row, annotations, place, given)
    if row.composed:
        annotations = _compose(row, annotations, place)
    # Detections belong to the pictures that were composed anew, not to the composed ones.
    detected = None if row.composed else given.detected
    material = Material(annotations, start[0] if start else None, given.parts, detected)
    folder = place.rows / row.name
    try:
        if not (place.restart or freshness.finished(plan_of(row.job, material, folder))) and (
            found := _trained_whole(row, material, place.models / row.job.name, folder)
        ):
            return found
        if place.restart and not as_start:
            shutil.rmtree(place.output / row.name, ignore_errors=True)
        return make(
            row.job,
            material,
            folder,
            place.restart,
            for_another=as_start,
            title=f"train {title or row.name}",
        )
    except ChangedTrainingError as error:
        raise ChangedTrainingError(
            f"{error}\n(this row alone: --params row={row.name},restart=true)"
        ) from error


def _trained_whole(
    row: Row, material: Material, method_folder: Path, folder: Path
) -> Checkpoint | None:
    """Return a copy of the method's own checkpoint for a row that equals it; None if stale."""
    if not freshness.look(plan_of(row.job, material, method_folder)).fresh:
        return None
    if found := freshness.load(method_folder):
        found.save(folder)
        if (method_folder / "history.jsonl").exists():
            shutil.copy(method_folder / "history.jsonl", folder)
    return found


def _use_otherwise(
    row: Row, annotations: AmodalAnnotations, place: Workplace, given: Materials
) -> Checkpoint:
    """Return the checkpoint of a row with ``weights_of``: the weights of another row under values
    that matter after training only."""
    kept = dataclasses.replace(place, restart=False)
    trained = train_row(row.weights_of, annotations, kept, given, as_start=True)
    method = row.job.model.root
    sources = {"weights_of": trained.card.fingerprint.digest}
    mark = Fingerprint.of_training(method, row.job.training, annotations.fingerprint, sources)
    card = trained.card.model_copy(update={"method": MethodConfig(method), "fingerprint": mark})
    checkpoint = Checkpoint(card, trained.weights)
    checkpoint.save(place.rows / row.name)
    return checkpoint


def _start(
    row: Row, annotations: AmodalAnnotations, place: Workplace, given: Materials
) -> list[Checkpoint]:
    match row.upstream:
        case Row() as upstream:
            return [train_row(upstream, annotations, place, given, as_start=True)]
        case Job() as upstream:
            made, folder = given.upstream, place.models / upstream.name
            if isinstance(made, Checkpoint) and job_name(made.card.method.root) == upstream.name:
                return [made]
            return [make_upstream(annotations, upstream, folder, place.restart)]
        case Pretraining() as upstream:
            return [_pretrain(row, upstream, annotations.metadata.dataset, place, given.views)]
    return choose_start(row.job)


def _pretrain(
    row: Row, wanted: Pretraining, dataset: str, place: Workplace, usual: ViewsPlan
) -> Checkpoint:
    """Return the pretraining of a row: the one that all rows share, or the row's own."""
    views, folder = usual.folders, place.models / wanted.name
    if wanted != usual.pretraining:
        folder = place.rows / _own_pretraining(row)
    if wanted.views != usual.pretraining.views:
        # Not the row's own folder of images, which may have its composed pictures.
        views = dataclasses.replace(views, images=place.images / _own_pretraining(row))
    return pretrain(wanted, dataset, views, folder, place.workers, place.restart)


def _own_pretraining(row: Row) -> str:
    return f"{row.name}.pretraining"


def _compose(row: Row, annotations: AmodalAnnotations, place: Workplace) -> AmodalAnnotations:
    from amodal_pipeline.jobs.modal import compose_modal

    folder, workers = place.images / row.name, place.workers or usable_cores()
    with progress(f"compose {row.name}") as on_progress:
        return compose_modal(annotations, row.composed, folder, workers, on_progress)


def _predict(
    row: Row,
    checkpoint: Checkpoint,
    val: AmodalAnnotations,
    place: Workplace,
    given: Materials,
    inference: InferenceConfig,
) -> Predictions:
    """Return predictions of a row: from disk, if this checkpoint made them for these images."""
    folder = place.output / row.name / "predictions"
    if (folder / "metadata.json").exists():
        found = Predictions.load(folder)
        made = (found.metadata.checkpoint, found.metadata.annotations)
        same = made == (checkpoint.card.fingerprint.digest, val.fingerprint)
        same = same and found.metadata.inputs == _inputs(row, given)
        if same and not _rests_on_estimates(row, checkpoint):
            return found
    if row.completes is Given.TRUE_BOXES:
        predictions = complete_true_boxes(checkpoint, val, inference)
    elif row.completes is Given.TRUE_MASKS:
        predictions = complete_true(checkpoint, val, inference, given.detector)
    elif row.completes is Given.DETECTIONS:
        predictions = complete_detections(checkpoint, val, given.detections, inference)
    else:
        predictions = predict(checkpoint, val, inference)
    metadata = predictions.metadata.model_copy(update={"variant": row.name})
    predictions = dataclasses.replace(predictions, metadata=metadata)
    predictions.save(folder)
    return predictions


def _rests_on_estimates(row: Row, checkpoint: Checkpoint) -> bool:
    """Return whether predictions depend on a stage one that is not in the checkpoint's card."""
    return row.completes not in (None, Given.TRUE_BOXES) and within_amodal_boxes(checkpoint.card)


def _inputs(row: Row, given: Materials) -> str:
    """Return the inputs of a row's predictions, as the column of results has them.

    Raises:
        ValueError: the row completes detections, and there is no detector.
    """
    kind = row.completes or Given.IMAGE
    if kind is not Given.DETECTIONS:
        return kind.value
    if given.detections.metadata.given is Given.NOTHING:
        raise ValueError(
            f"rows.{row.name} completes detections, and {row.job.model.root.name}.detector is "
            "null: name a detector, or take the row away (null)"
        )
    return given.detections.metadata.method


def _score(
    row: Row,
    val: AmodalAnnotations,
    predictions: Predictions,
    given: Materials,
    evaluation: EvaluationConfig,
):
    from amodal_pipeline.metrics.completion import match_detections
    from amodal_pipeline.metrics.evaluate import evaluate

    # Objects are matched by the detections that were completed, as for the method itself.
    detected = row.completes is Given.DETECTIONS
    matches = match_detections(val, given.detections) if detected else None
    with progress(f"evaluate {row.name}") as on_progress:
        return evaluate(
            val,
            predictions,
            evaluation,
            matches,
            run_id=scored(predictions),
            on_progress=on_progress,
        )


def summarise(
    ablation: AblationConfig,
    rows: dict[str, Row],
    rows_folder: Path,
    models: Path,
    parts: Path,
    val: AmodalAnnotations,
    done: list[str],
) -> tuple[pd.DataFrame, object, object, list[str]]:
    """Return a table of all rows that were ever scored and are up to date.

    Rows trained with other values than their present ones, or scored on other validation data,
    are left out with a warning.

    Args:
        ablation: which metrics, and the row that others are compared with.
        rows: all rows.
        rows_folder: folder of the rows' checkpoints.
        models: folder of the checkpoints of the methods that rows start from.
        parts: folder of the rows' scores.
        val: the validation split.
        done: rows of this run, asked for so that this node comes after them.

    Returns:
        The table (columns row, method, protocol, metric, value, low, high, n, difference,
        difference_low, difference_high, probability, note); figures of the bars of all metrics and
        of the losses; and the names of the rows that are not in the table. ``difference`` is row
        minus reference, paired by image, with its 95 % interval; ``probability`` (0–1) is the
        probability that the difference is above 0.
    """
    from amodal_pipeline.jobs.ablation_table import compare_rows
    from amodal_pipeline.training.state import read_history
    from amodal_pipeline.visuals.plots import loss_curves, results_chart

    scores = {}
    for name, row in rows.items():
        if not (parts / f"{row.stem}.csv").exists():
            continue
        found = load_scores(parts, row.stem)
        changes = _changes(row, rows_folder, models, found.results.iloc[0], val)
        if changes:
            _log.warning("row %s is left out (%s): run it again, with restart=true", name, changes)
        else:
            scores[name] = found
    table, shown = compare_rows(ablation, scores)
    metrics = [metric.split("/")[1] for metric in ablation.metrics]
    histories = {name: read_history(rows_folder / name / "history.jsonl") for name in scores}
    missing = [name for name in rows if name not in scores]
    return table, results_chart(shown, metrics), loss_curves(histories), missing


def show(ablation: AblationConfig, table: pd.DataFrame, missing: list[str], dataset: str) -> None:
    """Print the table, and the names of rows that are missing in it."""
    from amodal_pipeline.jobs.ablation_table import print_table

    print_table(ablation, table, dataset)
    if missing:
        _log.info("Not there yet: %s", ", ".join(missing))


def _changes(
    row: Row, rows_folder: Path, models: Path, scored: pd.Series, val: AmodalAnnotations
) -> str:
    """Return how a row's checkpoint and scores differ from its present values; "" for no change."""
    folder = rows_folder / row.name
    run_id, inputs = scored["run_id"], scored["inputs"]
    if Given.of(inputs) is not (row.completes or Given.IMAGE):
        return f"scored on inputs {inputs!r}"
    if not run_id.endswith(val.fingerprint[:12]):
        return "scored on other validation data"
    found = freshness.look(plan_of_row(row, rows_folder, models))
    if found.card is None:
        return f"{folder} has no checkpoint"
    if not run_id.startswith(found.card.fingerprint.digest[:12]):
        return "scored before it was trained again"
    above = "" if found.folder == folder else f"{found.folder.name}: "
    return "; ".join(f"{above}{change}" for change in found.changes[:3])


def plan_of_row(row: Row, rows_folder: Path, models: Path) -> freshness.Plan:
    """Return what a row is to be made from, as far as its parameters tell.

    The training data and rendered views are not looked at: they count as unchanged.
    """
    folder, before = rows_folder / row.name, row.weights_of or row.upstream
    # Parts and detections belong to the data set: they are known only when the row is trained.
    sources: dict[str, Any] = dict.fromkeys([*contract.parts_of(row.job.model.root), "detected"])
    match before:
        case Row():
            name = "weights_of" if row.weights_of else "pretrained"
            sources[name] = plan_of_row(before, rows_folder, models)
        case Job():
            sources["pretrained"] = _plan_above(before, models / before.name)
        case Pretraining():
            usual, own = models / before.name, rows_folder / _own_pretraining(row)
            card, other = freshness.card_of(folder), freshness.card_of(own)
            started = card and card.fingerprint.parts.get("pretrained")
            place = own if other and other.fingerprint.digest == started else usual
            sources["pretrained"] = _plan_above(before.job, place)
        case _ if row.job.pretrained:
            sources["pretrained"] = freshness.card_of(Path(row.job.pretrained).expanduser())
    return freshness.Plan(folder, row.job, None, sources)


def _plan_above(job: Job, folder: Path) -> freshness.Plan:
    """Return the plan of a checkpoint that rows start from; what it is made from is not checked."""
    sources = dict.fromkeys([*contract.parts_of(job.model.root), "detected", "pretrained"])
    return freshness.Plan(folder, job, None, sources)
