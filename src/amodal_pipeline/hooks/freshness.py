"""The check that ``--only-missing-outputs`` skips nothing stale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

if TYPE_CHECKING:
    from amodal_pipeline.methods.checkpoints import MethodCard


class FreshnessHook:
    """Refuses ``--only-missing-outputs`` where what exists was made from something else."""

    @hook_impl
    def before_pipeline_run(self, run_params: dict, pipeline: Pipeline, catalog: DataCatalog):
        if not run_params.get("only_missing_outputs"):
            return
        if catalog.load("params:restart"):
            raise ValueError("restart=true and --only-missing-outputs contradict each other")
        for node in pipeline.nodes:
            if "training" in node.tags:
                # Its first input is what it is trained on: the data set's, or views.
                self._check(node.namespace, node.inputs[0], catalog)
        if "shape_prior" in pipeline.all_outputs() and catalog.exists("shape_prior"):
            self._check_shape_prior(catalog)

    def _check(self, method: str, annotations: str, catalog: DataCatalog) -> None:
        checkpoint = f"{method}.checkpoint"
        if not catalog.exists(checkpoint):
            return
        from amodal_pipeline.annotations.storage import checksum
        from amodal_pipeline.jobs.parts import with_forms
        from amodal_pipeline.methods.checkpoints import Fingerprint
        from amodal_pipeline.methods.training_config import WITHOUT_EFFECT
        from amodal_pipeline.methods.vrsp.stored import load_card
        from amodal_pipeline.training.state import check_unchanged

        folder = Path(catalog.get(checkpoint)._describe()["filepath"])
        card = _card(catalog, method)
        job = catalog.load(f"params:{method}")
        parts = {
            name: digest
            for name in ("prior", "tokenizer", "detected")
            if (digest := card.fingerprint.parts.get(name))
        }
        prior = tokenizer = None
        if "prior" in parts and catalog.exists("shape_prior"):
            prior = load_card(catalog.load("shape_prior_folder"))
            parts["prior"] = prior.fingerprint.digest
        if "tokenizer" in parts and catalog.exists("mask_tokenizer.checkpoint"):
            tokenizer = _card(catalog, "mask_tokenizer")
            parts["tokenizer"] = tokenizer.fingerprint.digest
        if job.detector is None:
            parts.pop("detected", None)
        elif job.detector_file:
            file = Path(job.detector_file.replace("{split}", "train")).expanduser()
            if "detected" in parts and file.is_file():
                parts["detected"] = checksum(file)
        elif "detected" in parts and catalog.exists(f"{job.detector}.checkpoint"):
            parts["detected"] = _card(catalog, job.detector).fingerprint.digest
        if card.fingerprint.parts["pretrained"] != "none" and job.pretrained_categories:
            parts["pretrained_categories"] = job.pretrained_categories
        wanted = Fingerprint.of(
            model=with_forms(job.model.root, prior, tokenizer).model_dump(),
            training=job.training.model_dump(exclude=WITHOUT_EFFECT),
            **parts,
        ).parts
        if catalog.exists(annotations):
            wanted["annotations_train"] = catalog.load(annotations).fingerprint
        else:
            wanted["annotations_train"] = card.fingerprint.parts["annotations_train"]
        wanted["pretrained"] = card.fingerprint.parts["pretrained"]
        if job.pretrained is None:
            wanted["pretrained"] = "none"
        elif catalog.exists(f"{job.pretrained}.checkpoint"):
            wanted["pretrained"] = _card(catalog, job.pretrained).fingerprint.digest
            self._check_start(job.pretrained, catalog)
        elif (start := Path(job.pretrained).expanduser() / "method.json").exists():
            wanted["pretrained"] = _read_card(start.parent).fingerprint.digest
        check_unchanged(card.fingerprint, Fingerprint(parts=wanted), folder)
        for kind in ("predictions", "predictions_true", "predictions_true_boxes"):
            predictions = f"{method}.{kind}"
            if not catalog.exists(predictions):
                continue
            if catalog.load(predictions).metadata.checkpoint != card.fingerprint.digest:
                raise ValueError(
                    f"the predictions of {method} were made by another checkpoint than the one in "
                    f"{folder}: run again without --only-missing-outputs"
                )
        self._check_detections(method, job.detector, catalog)

    def _check_start(self, method: str, catalog: DataCatalog) -> None:
        """What a method starts from need be no part of the pipeline, to be checked in itself."""
        from amodal_pipeline.jobs.train import Job
        from amodal_pipeline.methods.checkpoints import Fingerprint
        from amodal_pipeline.methods.training_config import WITHOUT_EFFECT
        from amodal_pipeline.training.state import check_unchanged

        job = Job.model_validate(catalog.load(f"params:{method}"))
        wanted = Fingerprint.of(
            model=job.model.root.model_dump(),
            training=job.training.model_dump(exclude=WITHOUT_EFFECT),
        )
        parts = _card(catalog, method).fingerprint.parts
        found = {k: v for k, v in parts.items() if k.startswith(("model.", "training."))}
        folder = Path(catalog.get(f"{method}.checkpoint")._describe()["filepath"])
        check_unchanged(Fingerprint(parts=found), wanted, folder)

    def _check_detections(self, method: str, detector: str | None, catalog: DataCatalog) -> None:
        """Check that what is completed was detected by the detector's present checkpoint."""
        found = f"{method}.detections"
        if detector is None or not catalog.exists(found):
            return
        if not catalog.exists(f"{detector}.checkpoint"):
            return
        digest = _card(catalog, detector).fingerprint.digest
        if catalog.load(found).metadata.checkpoint != digest:
            raise ValueError(
                f"what {method} completes was detected by another checkpoint than the one that "
                f"{detector} has now: run again without --only-missing-outputs"
            )

    def _check_shape_prior(self, catalog: DataCatalog) -> None:
        from amodal_pipeline.jobs.shape_prior import check_shape_prior
        from amodal_pipeline.methods.checkpoints import Checkpoint

        if not catalog.exists("annotations_train"):
            return
        config = catalog.load("params:shape_prior")
        folder, models = catalog.load("shape_prior_folder"), catalog.load("models")
        start = Checkpoint.load(models / config.predicted_by) if config.predicted_by else None
        check_shape_prior(folder, catalog.load("annotations_train"), config, start)


def _card(catalog: DataCatalog, method: str) -> MethodCard:
    folder = Path(catalog.get(f"{method}.checkpoint")._describe()["filepath"])
    return _read_card(folder)


def _read_card(folder: Path) -> MethodCard:
    from amodal_pipeline.methods.checkpoints import MethodCard

    return MethodCard.load(folder)
