"""Checks before a run, and how its log is written."""

import logging
import os
from pathlib import Path

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline


def show_markup(record: logging.LogRecord) -> bool:
    """Let a log message have markup only where Kedro colours it, by ``rich_format``.

    A path or a name may have brackets, "[/data]", which are no tags.
    """
    record.markup = hasattr(record, "rich_format")
    return True


class StartHook:
    """Refuses what cannot end well before anything is read, written or deleted."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        from amodal_pipeline.pipelines import parameters

        parameters.check_single_process(os.environ)
        parameters.check_place(context.project_path)
        for handler in logging.getLogger().handlers:
            handler.addFilter(show_markup)
        loader = context.config_loader
        # pretrain_a3d.model is a copy of a3d.model, which must have its values by then.
        loader.runtime_params = dict(sorted((loader.runtime_params or {}).items()))
        # Set, or Kedro would read all files once more.
        loader["parameters"] = parameters.with_defaults(loader["parameters"])
        parameters.check(loader["parameters"])

    @hook_impl
    def before_pipeline_run(self, run_params: dict, pipeline: Pipeline, catalog: DataCatalog):
        from amodal_pipeline.pipelines.parameters import ParameterError, check_method

        inputs = pipeline.inputs()
        if "chosen.checkpoint" in inputs or (
            "chosen.folder" in inputs and catalog.load("params:predictions") is None
        ):
            check_method(Path(catalog.get("chosen.folder")._describe()["filepath"]))
        for table in ("annotations_train", "annotations_val"):
            if table in inputs and not catalog.exists(table):
                env = f" --env={run_params['env']}" if run_params.get("env") else ""
                raise ParameterError(
                    f"{table} is missing: prepare the data set first, "
                    f"`kedro run{env} --pipeline=prepare`"
                )
