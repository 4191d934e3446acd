"""Nodes that run a trained method on a user's images; a completer also gets objects' masks."""

import dataclasses
import logging
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import KnownObjects, Predictions, PredictionsMetadata
from amodal_pipeline.annotations.storage import inside, replacing
from amodal_pipeline.jobs.complete import (
    complete,
    is_completer,
    load_stage_one,
    with_boxes,
    within_amodal_boxes,
)
from amodal_pipeline.jobs.detect import TORCHVISION, check_detector, load_detector
from amodal_pipeline.jobs.own_images import RATE, OwnImages
from amodal_pipeline.jobs.progress import progress
from amodal_pipeline.methods.checkpoints import Checkpoint, MethodCard
from amodal_pipeline.methods.contract import job_name
from amodal_pipeline.methods.training_config import InferenceConfig

logger = logging.getLogger(__name__)


def find_objects(
    checkpoint: Checkpoint,
    given: OwnImages,
    masks: str | None,
    inference: InferenceConfig,
    detector: str | None,
    models: Path,
    imported: Path,
    score_threshold: float,
) -> Predictions:
    """Return the objects of a user's images, as a detector finds them or as the user marked them.

    Warns if the images are unlike those that the detector was trained on.

    Args:
        checkpoint: of a detector, or of a completer.
        given: the images; or the frames of a video, in which objects are tracks.
        masks: for a completer, the file or folder of the objects' visible masks
            (:func:`.read_masks`).
        inference: how the detector is run.
        detector: for a completer without ``masks``, the detector that finds the objects
            (:func:`.load_detector`).
        models: folder of all checkpoints of the data set.
        imported: folder of the checkpoint that ``import_detector`` makes.
        score_threshold: what a detector finds for a completer with a lower score is left out.

    Raises:
        ValueError: a detector with ``masks``, masks that :func:`.read_masks` refuses, a completer
            without ``masks`` and detector, or a completer of videos without ``masks``; the detector
            is missing, or predicts no visible masks.
    """
    card = checkpoint.card
    if not is_completer(card):
        check_detector(card)
        if masks is not None:
            raise ValueError(
                f"{card.method.root.name} finds objects itself: leave out --params masks={masks}"
            )
        return _detect(checkpoint, given.table, given.folder, inference)
    if masks is not None:
        from amodal_pipeline.jobs.own_masks import read_masks

        return read_masks(Path(masks).expanduser(), given.table, given.folder, given.damaged)
    _check_finds(card, given, detector)
    finding = load_detector(detector, models, imported)
    found = _detect(finding, given.table, given.folder, inference)
    return _confident(found, score_threshold)


def _check_finds(card: MethodCard, given: OwnImages, detector: str | None) -> None:
    name = card.method.root.name
    if card.method.root.DESCRIPTION.learns_from == "clips" and given.table["frame"].notna().any():
        raise ValueError(
            f"{name} completes objects that are followed through a video, and a detector follows "
            "none: say where masks with tracks are with --params masks=<folder> "
            "(docs/completing.md#videos)"
        )
    if detector is None or detector.endswith(".json"):
        raise ValueError(
            f"{name} completes known objects: say where their visible masks are with --params "
            "masks=<folder>, or name a detector that finds them, detector=torchvision or a trained "
            "one (docs/completing.md)"
        )


def _confident(found: Predictions, score_threshold: float) -> Predictions:
    """Return the detections with at least this score of which something is seen, numbered anew."""
    from amodal_pipeline.annotations import rle
    from amodal_pipeline.annotations.tables import PREDICTION_ORDER, PREDICTIONS, frame
    from amodal_pipeline.methods.baselines import visible_masks

    visible = visible_masks(KnownObjects.of(found), "a completer")
    table = found.predictions
    kept = table["score"].to_numpy(dtype=np.float64) >= score_threshold
    kept &= rle.area(visible) > 0
    if not kept.any():
        logger.warning(
            "%s finds no object with a score of at least %g in these images: lower it with "
            "--params score_threshold=…, or mark objects yourself (docs/completing.md)",
            *(found.metadata.method, score_threshold),
        )
    columns = {name: table[name][kept] for name in table.columns}
    numbers = dict(zip(columns["prediction_id"], range(1, kept.sum() + 1), strict=True))
    columns["prediction_id"] = list(numbers.values())
    order = found.order[found.order[["front_id", "back_id"]].isin(list(numbers)).all(axis=1)]
    pairs = {name: order[name] for name in order.columns}
    pairs |= {end: [numbers[i] for i in order[end]] for end in ("front_id", "back_id")}
    return dataclasses.replace(
        found, predictions=frame(PREDICTIONS, columns), order=frame(PREDICTION_ORDER, pairs)
    )


def complete_objects(
    checkpoint: Checkpoint,
    found: Predictions,
    inference: InferenceConfig,
    models: Path,
    stage_one: str | None,
    detector: str | None,
    raw: bool = False,
) -> Predictions:
    """Return objects of a user's images completed; those of a detector's checkpoint as they are.

    Args:
        checkpoint: of a detector or a completer.
        found: objects from :func:`find_objects`.
        inference: how the completer is run.
        models: folder of all checkpoints of the data set.
        stage_one: the name of the detector there that estimates amodal boxes, for a completer that
            needs them and objects without boxes; None for the one that it was trained with.
        detector: the detector to use for a completer that needs boxes and learns from no detector
            (A3D).
        raw: leave a completer's masks as they are; otherwise each is united with its visible mask.

    Raises:
        ValueError: there is no stage one.
    """
    from amodal_pipeline.methods.doubts import doubts

    card = checkpoint.card
    if not is_completer(card):
        return found
    objects = KnownObjects.of(found)
    if within_amodal_boxes(card) and objects.table.predictions["amodal_box"].isna().any():
        # A detector of visible masks from elsewhere estimates none.
        elsewhere = detector is not None and (detector == TORCHVISION or "/" in detector)
        stage = load_stage_one(checkpoint, models, stage_one, None if elsewhere else detector)
        objects = with_boxes(stage, objects, inference, categories=False)
    for sentence in doubts(card.method.root, objects.table):
        logger.warning("%s", sentence)
    completed = complete(checkpoint, objects, inference)
    if not raw:
        completed = _with_what_is_seen(completed)
    # Who is in front, as the completer says, or else the detector.
    order = completed.order if len(completed.order) else found.order
    return dataclasses.replace(completed, order=order)


def _detect(
    checkpoint: Checkpoint, images: pd.DataFrame, folder: Path, inference: InferenceConfig
) -> Predictions:
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training import inference as run
    from amodal_pipeline.training.familiarity import unfamiliar

    card, model = checkpoint.card, restore(checkpoint)
    if card.familiarity:
        share = unfamiliar(model, card.familiarity, images, folder, inference)
        if share > 0.5:
            logger.warning(
                "%.0f %% of the images in %s look nothing like those of %r, which %s was trained "
                "on: expect nonsense. Train on images of this kind (docs/own_data.md)",
                100 * share,
                folder,
                card.dataset,
                card.method.root.name,
            )
    metadata = PredictionsMetadata(
        dataset=folder.name,
        split="user",
        method=job_name(card.method.root),
        seed=card.seed,
        categories=card.categories,
        image_root=str(folder),
        checkpoint=card.fingerprint.digest,
    )
    with progress(f"predict {metadata.method}") as on_progress:
        return run.predict(model, images, metadata, inference, on_progress)


def _with_what_is_seen(found: Predictions) -> Predictions:
    """Return the same objects with each amodal mask united with its visible mask."""
    from amodal_pipeline.annotations import rle
    from amodal_pipeline.methods.baselines import with_amodal

    amodal, visible = (found.predictions[f"{kind}_rle"].tolist() for kind in ("amodal", "visible"))
    whole = with_amodal(KnownObjects.of(found), rle.union(amodal, visible), {})
    return dataclasses.replace(whole, order=found.order)


def write_results(
    predictions: Predictions, results: Path, masks: Path, score_threshold: float, png: bool
) -> int:
    """Write predictions as COCO results JSON, who is in front, and if ``png`` images of objects.

    Args:
        predictions: for a user's images.
        results: the JSON file; its records name their images (``file_name``). Beside it lies
            ``user_order.csv`` if the predictions say who is in front of whom
            (:func:`~..visuals.object_images.order_list`).
        masks: a folder that is replaced. For the image ``a/b.jpg`` it gets
            ``amodal/a/b/<prediction_id>_<category>.png``, 255 within the mask and 0 elsewhere,
            ``visible/a/b/…`` if the method predicts visible masks, and ``cutouts/a/b/…``, the
            object with transparent surroundings in the tight box of its whole mask; hidden pixels
            are transparent, too. Empty masks are left out. Objects of a video have their
            ``track_id`` in place of ``prediction_id``.
        score_threshold: predictions with a lower score get no image; those without a score do.
        png: whether to write images.

    Returns:
        The number of images written.
    """
    from amodal_pipeline.annotations.export import write_coco_results
    from amodal_pipeline.annotations.images import read_image
    from amodal_pipeline.visuals.object_images import order_list, write_object_images

    write_coco_results(predictions, results, with_names=True)
    logger.info("%s: %d records", results, len(predictions.predictions))
    order = results.with_name("user_order.csv")
    if len(predictions.order):
        with replacing(order) as temporary:
            order_list(predictions).to_csv(temporary, index=False)
        logger.info("%s: %d pairs, who is in front", order, len(predictions.order))
    else:
        order.unlink(missing_ok=True)  # of an earlier run
    if not png:
        return 0
    written, root = 0, predictions.metadata.image_root
    names = {c.id: c.name for c in predictions.metadata.categories}
    stems = picture_stems(predictions)
    table = predictions.predictions
    shown = ~(table["score"].to_numpy(dtype=np.float64, na_value=np.nan) < score_threshold)
    of = dict(list(table[shown].groupby("image_id")))
    with replacing(masks) as folder, progress("masks") as on_progress:
        folder.mkdir()
        for done, (stem, (_, image)) in enumerate(
            zip(stems, predictions.images.iterrows(), strict=True), start=1
        ):
            if (objects := of.get(image["image_id"])) is not None:
                pixels = read_image(root, image["file_name"], (image["height"], image["width"]))
                written += write_object_images(folder, pixels, objects, names, stem)
            on_progress(done, len(stems))
    logger.info("%d images of masks and objects are in %s", written, masks)
    return written


def picture_stems(predictions: Predictions) -> list[str]:
    """Return the name of each image's picture, without a suffix: the image's own stem.

    Where two images share a stem (``a.jpg``, ``a.png``), each keeps its whole name.
    """
    names = [PurePosixPath(name) for name in predictions.images["file_name"]]
    stems = [name.with_suffix("").as_posix() for name in names]
    taken = Counter(stem.casefold() for stem in stems)
    taken.update(name.as_posix().casefold() for name in names)
    return [
        stem if taken[stem.casefold()] == 1 else name.as_posix()
        for stem, name in zip(stems, names, strict=True)
    ]


def draw_folder(
    predictions: Predictions,
    folder: Path,
    score_threshold: float,
    frames_per_second: float = RATE,
) -> int:
    """Draw a picture per image into ``folder``, named as the image; return the number of pictures.

    For a video, draw a video and, if objects have tracks, a strip: ``<name>.mp4`` (``.webp``
    without PyAV) and ``<name>_strip.png``.
    """
    from amodal_pipeline.visuals.grids import overlay

    if predictions.images["frame"].notna().any():
        return _draw_video(predictions, folder, score_threshold, frames_per_second)
    ids, stems = predictions.images["image_id"].tolist(), picture_stems(predictions)
    with progress("draw") as on_progress:
        for done, (image_id, stem) in enumerate(zip(ids, stems, strict=True), start=1):
            picture = overlay(predictions, image_id, score_threshold)
            with replacing(inside(folder, f"{stem}.png")) as path:
                picture.save(path, format="PNG")
            on_progress(done, len(ids))
    logger.info("overlays of %d images are in %s", len(ids), folder)
    return len(ids)


def _draw_video(
    predictions: Predictions, folder: Path, score_threshold: float, frames_per_second: float
) -> int:
    from amodal_pipeline.visuals.grids import overlay
    from amodal_pipeline.visuals.movies import suffix, write_movie
    from amodal_pipeline.visuals.strips import tracks_strip

    ids = predictions.images["image_id"].tolist()
    path = folder / f"{Path(predictions.metadata.image_root).resolve().name}{suffix()}"
    pictures = (overlay(predictions, image_id, score_threshold) for image_id in ids)
    with replacing(path) as temporary, progress("draw") as on_progress:
        count = write_movie(
            temporary, pictures, frames_per_second, lambda done: on_progress(done, len(ids))
        )
    logger.info("%s: %d of %d frames", path, count, len(ids))
    if predictions.predictions["track_id"].notna().any():
        with replacing(path.with_name(f"{path.stem}_strip.png")) as temporary:
            tracks_strip(predictions).save(temporary, format="PNG")
    return count


def name_damaged(damaged: dict[str, str], *written: int) -> None:
    """Raise an error that lists the images that could not be read, if there are any.

    Args:
        damaged: name → reason.
        written: not used; this node comes after the nodes that give it.
    """
    if damaged:
        raise ValueError(
            "these images could not be read and have no predictions (all others have):\n"
            + "\n".join(f"{name}: {reason}" for name, reason in damaged.items())
        )
