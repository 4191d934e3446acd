"""Checks before a run, and the format of its messages."""

import logging
import os
import sys
from types import TracebackType

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

_log = logging.getLogger(__name__)


def show_markup(record: logging.LogRecord) -> bool:
    """Return True for every record, with markup only for messages that Kedro colours.

    Rich takes brackets in a path or a name ("[/data]") for tags. Kedro marks its coloured messages
    with ``rich_format``.
    """
    record.markup = hasattr(record, "rich_format")
    return True


def show_message(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print the message of an error; its traceback is written to info.log."""
    if not issubclass(kind, Exception):
        sys.__excepthook__(kind, error, trace)
        return
    log = logging.getLogger("amodal_pipeline.traceback")
    log.error("the run failed", exc_info=(kind, error, trace))
    print(f"{kind.__name__}: {error}\nThe traceback is in info.log.", file=sys.stderr)


class StartHook:
    """Checks parameters and inputs before a run reads, writes or deletes; logs each step."""

    def __init__(self) -> None:
        self._done, self._total = 0, 0

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        from amodal_pipeline.pipelines import parameters

        parameters.check_single_process(os.environ)
        parameters.check_place(context.project_path)
        for logger in (logging.getLogger(), logging.getLogger("kedro")):
            for handler in logger.handlers:
                handler.addFilter(show_markup)
        loader = context.config_loader
        # Sorted, because pretrain_a3d.model is copied from a3d.model, which must be set before.
        loader.runtime_params = dict(sorted((loader.runtime_params or {}).items()))
        # Stored in the loader, because otherwise Kedro would read all files again.
        loader["parameters"] = loader["parameters"]
        parameters.check(loader["parameters"])

    @hook_impl
    def before_pipeline_run(self, run_params: dict, pipeline: Pipeline, catalog: DataCatalog):
        from amodal_pipeline.pipelines.parameters import ParameterError, check_method

        self._done, self._total = 0, len(pipeline.nodes)
        # Not when the context is created, so that a shell or notebook without a run keeps its own.
        if sys.excepthook is sys.__excepthook__:
            sys.excepthook = show_message
        inputs = pipeline.inputs()
        if "chosen.checkpoint" in inputs or (
            "params:folders.chosen" in inputs and catalog.load("params:predictions") is None
        ):
            check_method(catalog.load("params:folders.chosen"))
        for table in ("annotations_train", "annotations_val"):
            if table in inputs and not catalog.exists(table):
                env = f" --env={run_params['env']}" if run_params.get("env") else ""
                raise ParameterError(
                    f"{table} is missing: prepare the data set first, "
                    f"`kedro run{env} --pipeline=prepare`"
                )

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        self._done += 1
        _log.info("Step %d of %d: %s", self._done, self._total, node.name)

    @hook_impl
    def after_pipeline_run(self) -> None:
        if sys.excepthook is show_message:
            sys.excepthook = sys.__excepthook__
