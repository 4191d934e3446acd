"""The check that ``--only-missing-outputs`` skips no stale output."""

from __future__ import annotations

from pathlib import Path

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from amodal_pipeline.jobs.freshness import Project, check_predictions, finished
from amodal_pipeline.jobs.train import Job
from amodal_pipeline.methods.checkpoints import MethodCard
from amodal_pipeline.methods.registry import describe, jobs


class FreshnessHook:
    """Hook that raises an error if ``--only-missing-outputs`` would skip a stale output."""

    @hook_impl
    def before_pipeline_run(self, run_params: dict, pipeline: Pipeline, catalog: DataCatalog):
        if not run_params.get("only_missing_outputs"):
            return
        if catalog.load("params:restart"):
            raise ValueError("restart=true and --only-missing-outputs contradict each other")
        trained = [node.namespace for node in pipeline.nodes if "training" in node.tags]
        project = _project(catalog) if trained else None
        for name in trained:
            if catalog.exists(f"{name}.checkpoint"):
                finished(project.plan(name))
                _check_predictions(name, project, catalog)


def _project(catalog: DataCatalog) -> Project:
    names = [job for job in jobs() if describe(job).task != "order"]
    names += [f"pretrain_{job}" for job in names if describe(job).pretrained_on_views]
    made = {
        name: catalog.load(name).fingerprint if catalog.exists(name) else None
        for name in ("annotations_train", "views_train")
    }
    return Project(
        {name: Job.model_validate(catalog.load(f"params:{name}")) for name in names},
        catalog.load("params:folders.models"),
        made["annotations_train"],
        made["views_train"],
    )


def _check_predictions(name: str, project: Project, catalog: DataCatalog) -> None:
    """Check that the present checkpoints made a method's predictions and detections."""
    folder = Path(catalog.get(f"{name}.checkpoint")._describe()["filepath"])
    card = MethodCard.load(folder)
    for kind in ("predictions", "predictions_true", "predictions_true_boxes"):
        if catalog.exists(f"{name}.{kind}"):
            found = catalog.load(f"{name}.{kind}")
            check_predictions(found, f"the predictions of {name} were made", card, folder)
    detector = project.jobs[name].detector
    if detector and catalog.exists(f"{name}.detections"):
        folder = project.models / detector
        if (folder / "method.json").exists():
            found = catalog.load(f"{name}.detections")
            card = MethodCard.load(folder)
            check_predictions(found, f"what {name} completes was detected", card, folder)
