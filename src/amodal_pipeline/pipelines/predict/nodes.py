"""Nodes that run a trained method over a folder of images, a completer with masks of objects."""

import logging
from pathlib import Path

from amodal_pipeline.annotations import Predictions, PredictionsMetadata
from amodal_pipeline.annotations.storage import inside, replacing
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.configs import job_name
from amodal_pipeline.pipelines.evaluate.nodes import (
    check_detector,
    complete,
    is_completer,
    load_stage_one,
    with_missing_boxes,
    within_amodal_boxes,
)
from amodal_pipeline.pipelines.progress import progress
from amodal_pipeline.training.configs import InferenceConfig

logger = logging.getLogger(__name__)


def predict_folder(
    checkpoint: Checkpoint,
    folder: Path,
    masks: str | None,
    inference: InferenceConfig,
    models: Path,
    stage_one: str | None,
    detector: str | None,
    raw: bool = False,
) -> Predictions:
    """Predictions for every image below ``folder``; warns if they are unlike the training data.

    Args:
        checkpoint: of a detector or a completer.
        folder: of images.
        masks: for a completer, where the visible masks of the objects are (:func:`.read_masks`).
        inference: how the method is run.
        models: folder of all checkpoints of the data set.
        stage_one: the detector there that estimates amodal boxes, for a completer that needs them
            and objects that have none; None for the one that it was trained with.
        detector: that of a completer that needs boxes and learns from no detector (A3D).
        raw: a completer's masks as they are; otherwise each is united with its visible mask.

    Raises:
        ValueError: a completer without ``masks``, a detector with them, or what is wrong with them;
            or there is no stage one.
    """
    from amodal_pipeline.methods.pretrained import restore
    from amodal_pipeline.training import inference as run
    from amodal_pipeline.training.familiarity import unfamiliar

    card = checkpoint.card
    images = run.images_in(folder)
    if is_completer(card):
        if masks is None:
            raise ValueError(
                f"{card.method.root.name} completes known objects: say where their visible masks "
                "are with --params masks=<folder> (docs/completing.md)"
            )
        from amodal_pipeline.pipelines.predict.masks import read_masks

        objects = read_masks(Path(masks).expanduser(), images, folder)
        if within_amodal_boxes(card) and objects.predictions["amodal_box"].isna().any():
            estimating = load_stage_one(checkpoint, models, stage_one, detector)
            objects = with_missing_boxes(estimating, objects, inference, categories=False)
        found = complete(checkpoint, objects, inference)
        return found if raw else _with_what_is_seen(found)
    check_detector(card)
    if masks is not None:
        raise ValueError(
            f"{card.method.root.name} finds objects itself: leave out --params masks={masks}"
        )
    model = restore(checkpoint)
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
    """The same objects, the amodal mask of each united with its visible one."""
    from amodal_pipeline.annotations import rle
    from amodal_pipeline.methods.baselines import with_amodal

    amodal, visible = (found.predictions[f"{kind}_rle"].tolist() for kind in ("amodal", "visible"))
    return with_amodal(found, rle.union(amodal, visible), {})


def draw_folder(predictions: Predictions, folder: Path, score_threshold: float) -> None:
    """One picture an image in ``folder``, named as the image."""
    from amodal_pipeline.visuals.grids import overlay

    with progress("draw") as on_progress:
        for done, (_, image) in enumerate(predictions.images.iterrows(), start=1):
            picture = overlay(predictions, int(image["image_id"]), score_threshold)
            with replacing(inside(folder, image["file_name"] + ".png")) as path:
                picture.save(path, format="PNG")
            on_progress(done, len(predictions.images))
    logger.info("overlays of %d images are in %s", len(predictions.images), folder)
