"""Checks before a run, tracking in MLflow, a check that nothing stale is skipped, and the summary.

MLflow costs seconds to import: it is imported when the first node runs.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from amodal_pipeline.methods.checkpoints import MethodCard
    from amodal_pipeline.pipelines.ablate.rows import Row

logger = logging.getLogger(__name__)

_LONGEST_PARAMETER = 5_000  # characters that MLflow keeps
_BATCH = 100  # parameters that MLflow takes at once
PRINTED = ("coco", "vrsp", "completion")  # protocols of the summary; the report has all


class TrackingHook:
    """One MLflow run a ``kedro run``, one child run a method or a row of an ablation.

    The parent has all parameters and the data versions; a child has its method's losses while it
    trains, its results, pictures and checkpoint. ``--params tracking=false`` turns it off;
    ``MLFLOW_TRACKING_URI`` says where the runs go (default: mlflow.db in the project).
    """

    def __init__(self) -> None:
        self._client: MlflowClient | None = None
        self._runs: dict[str, str] = {}  # "" is the parent; others by namespace
        self._followers: dict[str, _Follower] = {}
        self._rows: list[_FollowedRow] = []
        self._left: Counter[str] = Counter()  # nodes still to run, by namespace
        self._described: dict[str, Any] = {}
        self._parameters: dict[str, Any] = {}
        self._catalog: DataCatalog | None = None
        self._project = Path.cwd()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._project = Path(context.project_path)

    @hook_impl
    def before_pipeline_run(self, run_params: dict, pipeline: Pipeline, catalog: DataCatalog):
        self._client, self._runs, self._followers, self._rows = None, {}, {}, []
        self._left = Counter(_owner(node) for node in pipeline.nodes)
        self._described, self._catalog = run_params, catalog
        self._parameters = _flat(catalog.load("parameters"))

    @hook_impl
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> None:
        if not self._enabled():
            return
        run = self._run_of(node)
        for name, value in inputs.items():
            self._note_data_version(name, value)
        if "training" in node.tags:
            history = _History(inputs[f"{node.namespace}.folder"] / "history.jsonl")
            self._follow(node, partial(history.send, self._client, run))
        if rows := inputs.get(f"{node.namespace}.chosen"):
            folder, parts = inputs[f"{node.namespace}.folder"], inputs["parts"]
            self._rows = [_FollowedRow(row, folder / row.name, parts) for row in rows]
            self._follow(node, self._look_at_rows)

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        self._left[_owner(node)] -= 1
        if follower := self._followers.pop(node.name, None):
            follower.stop()

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any, node: Node) -> None:
        if self._enabled():
            self._note_data_version(dataset_name, data)
            self._log_output(self._run_of(node), dataset_name, data)

    @hook_impl
    def on_node_error(self, error: Exception, node: Node) -> None:
        if not self._runs:
            return
        if follower := self._followers.pop(node.name, None):
            follower.stop()
        run = self._run_of(node)
        failed = {run, self._runs[""]} | {row.run for row in self._rows if row.run}
        for each in failed:
            self._client.set_tag(each, "error", f"{node.name}: {error}"[:_LONGEST_PARAMETER])
        for each in failed - {self._runs[""]}:
            self._client.set_terminated(each, "FAILED")
        self._rows = []
        self._runs = {k: v for k, v in self._runs.items() if not k or v not in failed}

    @hook_impl
    def after_pipeline_run(self) -> None:
        self._end("FINISHED")

    @hook_impl
    def on_pipeline_error(self) -> None:
        self._end("FAILED")

    def _enabled(self) -> bool:
        return bool(self._parameters.get("tracking", True))

    def _run_of(self, node: Node) -> str:
        if self._client is None:
            self._open()
        namespace = _owner(node)
        if namespace not in self._runs:
            # The jobs `evaluate` and `predict` work on a method that a parameter names.
            outside = self._parameters.get("predictions")
            asked = Path(outside).stem if outside else self._parameters.get("method", "orcnn")
            asked = str(asked)
            method = asked if namespace == "chosen" else namespace
            own = {
                k.removeprefix(f"{method}."): v
                for k, v in self._parameters.items()
                if k.startswith(f"{method}.")
            }
            self._runs[namespace] = self._open_child(method, {"method": method}, own)
        return self._runs[namespace]

    def _open_child(self, name: str, tags: dict[str, str], parameters: dict[str, Any]) -> str:
        parent = self._runs[""]
        run = self._client.create_run(
            self._client.get_run(parent).info.experiment_id,
            run_name=name,
            tags={"mlflow.parentRunId": parent, **tags},
        )
        self._log_parameters(run.info.run_id, parameters)
        return run.info.run_id

    def _follow(self, node: Node, look: Callable[[], None]) -> None:
        self._followers[node.name] = _Follower(look)
        self._followers[node.name].start()

    def _look_at_rows(self) -> None:
        """Open, fill and close the child runs of an ablation's rows, as files tell of them."""
        for row in list(self._rows):
            scored = row.scored.changed
            if not (scored or row.run or row.history.file.changed):
                continue
            if row.run is None:
                tags = {"method": row.row.job.model.root.name, "variant": row.row.name}
                row.run = self._open_child(row.row.name, tags, _flat(row.row.job.model_dump()))
            row.history.send(self._client, row.run)
            if scored:
                self._log_row(row)
                self._client.set_terminated(row.run, "FINISHED")
                self._rows.remove(row)

    def _log_row(self, row: _FollowedRow) -> None:
        from amodal_pipeline.methods.checkpoints import MethodCard
        from amodal_pipeline.metrics.results import read

        self._log_results(row.run, read(row.scored.path))
        card = MethodCard.load(row.folder)
        self._client.set_tag(row.run, "fingerprint", card.fingerprint.digest)
        self._log_reuse(row.run, card)
        self._log_checkpoint(row.run, row.folder)

    def _open(self) -> None:
        from mlflow import MlflowClient

        from amodal_pipeline.methods.checkpoints import git_revision

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self._project / 'mlflow.db'}"
        # MLflow's own start-up chatter is not about the user's run.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._client = MlflowClient(uri)
        name = str(self._parameters.get("dataset", "amodal_pipeline"))
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            place = (self._project / "mlartifacts").as_uri() if uri.startswith("sqlite") else None
            identity = self._client.create_experiment(name, artifact_location=place)
        else:
            identity = experiment.experiment_id
        described = self._described
        jobs = ", ".join(described.get("pipeline_names") or ["__default__"])
        run = self._client.create_run(
            identity,
            run_name=f"{jobs} {described['run_id']}",
            tags={
                "kedro.pipelines": jobs,
                "kedro.env": described.get("env") or "",
                "kedro.run_id": described["run_id"],
                "git_revision": git_revision(),
            },
        )
        self._runs[""] = run.info.run_id
        self._log_parameters(run.info.run_id, self._parameters)
        # Ctrl-C is no error to Kedro: without this the run would stay "running" for ever.
        atexit.register(self._end, "KILLED")

    def _log_parameters(self, run: str, parameters: dict[str, Any]) -> None:
        from mlflow.entities import Param

        rows = [Param(k, str(v)[:_LONGEST_PARAMETER]) for k, v in parameters.items()]
        for start in range(0, len(rows), _BATCH):
            self._client.log_batch(run, params=rows[start : start + _BATCH])

    def _note_data_version(self, name: str, value: Any) -> None:
        from amodal_pipeline.annotations import AmodalAnnotations

        if isinstance(value, AmodalAnnotations):
            dataset = self._catalog.get(name)
            version = getattr(dataset, "resolve_load_version", lambda: "")()
            self._client.set_tag(self._runs[""], f"data.{name}.version", version)
            self._client.set_tag(self._runs[""], f"data.{name}.fingerprint", value.fingerprint)

    def _log_output(self, run: str, name: str, value: Any) -> None:
        from amodal_pipeline.datasets import CheckpointDataset, PageDataset, PictureDataset
        from amodal_pipeline.methods.checkpoints import Checkpoint

        dataset = self._catalog.get(name)
        if isinstance(dataset, PictureDataset):
            self._client.log_artifact(run, dataset._describe()["filepath"], "pictures")
        if isinstance(dataset, PageDataset):
            self._client.log_artifact(run, dataset._describe()["filepath"])
        if isinstance(value, Checkpoint):
            self._client.set_tag(run, "fingerprint", value.card.fingerprint.digest)
            self._log_reuse(run, value.card)
            if isinstance(dataset, CheckpointDataset):
                self._log_checkpoint(run, Path(dataset._describe()["filepath"]))
        if name.endswith(".results"):
            several = value if isinstance(value, dict) else {"": value}
            for scores in several.values():
                self._log_results(run, scores.results, prefixed=len(several) > 1)

    def _log_reuse(self, run: str, card: MethodCard) -> None:
        if card.reuse is None:
            return
        for name in ("copied", "partly", "fresh"):
            self._client.set_tag(run, f"pretrained.{name}", str(getattr(card.reuse, name)))
        categories = json.dumps(card.reuse.categories)[:_LONGEST_PARAMETER]
        self._client.set_tag(run, "pretrained.categories", categories)

    def _log_checkpoint(self, run: str, folder: Path) -> None:
        for file in ("model.safetensors", "method.json"):
            self._client.log_artifact(run, str(folder / file), "checkpoint")

    def _log_results(self, run: str, results: Any, prefixed: bool = False) -> None:
        from mlflow.entities import Metric

        own = None if prefixed else results["method"].iloc[0]
        overall = results[(results["category"] == "all") & results["value"].notna()]
        metrics = []
        several = overall.loc[overall["method"] == own, "inputs"].nunique() > 1
        for row in overall.itertuples():
            # The baselines' rows stand beside the method's own, under their names; what was
            # completed is told where it is not the same for all.
            prefix = "" if row.method == own else f"{row.method}/"
            prefix += f"on_{row.inputs}/" if several else ""
            metrics.append(Metric(f"{prefix}{row.protocol}/{row.metric}", float(row.value), 0, 0))
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(run, metrics=metrics[start : start + 1000])

    def _end(self, status: str) -> None:
        for follower in self._followers.values():
            follower.stop()
        for row in self._rows:
            if row.run:
                self._client.set_terminated(row.run, "KILLED")
        for namespace, run in self._runs.items():
            # A method that was through when another failed is finished; one that was cut is not.
            cut_short = "FINISHED" if self._left[namespace] == 0 else "KILLED"
            self._client.set_terminated(
                run, cut_short if namespace and status == "FAILED" else status
            )
        self._runs, self._followers, self._rows, self._client = {}, {}, [], None


def _owner(node: Node) -> str:
    """Whose child run a node belongs to; "" is the parent, which an ablation has for itself."""
    return "" if "ablation" in node.tags else node.namespace or ""


class _Follower(threading.Thread):
    """Looks every two seconds, and once more when it is stopped, at what a node has written.

    The training loop knows nothing of MLflow, and may run in another process. A tracking server
    that fails costs what is sent live, never the training.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._look = look
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(2.0):
            self._try()

    def stop(self) -> None:
        self._ended.set()
        self.join()
        self._try()

    def _try(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._look()
        except (MlflowException, OSError) as error:
            logger.warning("could not be sent to MLflow, will try again: %s", error)


class _File:
    """A file that is of no interest as an earlier run left it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = self._state()

    @property
    def changed(self) -> bool:
        return self._state() not in (None, self._before)

    def _state(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns


class _FollowedRow:
    """A row of an ablation: the files that tell how far it is, and its run once it has one."""

    def __init__(self, row: Row, folder: Path, parts: Path) -> None:
        self.row, self.folder = row, folder
        self.history = _History(folder / "history.jsonl")
        self.scored = _File(parts / f"{row.stem}.csv")
        self.run: str | None = None


class _History:
    """The lines that a training adds to its history.jsonl, on their way into an MLflow run."""

    def __init__(self, path: Path) -> None:
        self.file = _File(path)
        self._sent = 0

    def send(self, client: MlflowClient, run: str) -> None:
        """Send the lines that are new."""
        from mlflow.entities import Metric

        from amodal_pipeline.training.state import read_history

        if not self.file.changed:
            return
        rows = [r for r in read_history(self.file.path) if r["iteration"] > self._sent]
        metrics = [
            Metric(name, value, 0, row["iteration"])
            for row in rows
            for name, value in row.items()
            if name != "iteration"
        ]
        for start in range(0, len(metrics), 1000):
            client.log_batch(run, metrics=metrics[start : start + 1000])
        if rows:
            self._sent = rows[-1]["iteration"]


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
        from amodal_pipeline.methods.checkpoints import Fingerprint
        from amodal_pipeline.methods.vrsp.stored import load_card
        from amodal_pipeline.pipelines.train.parts import with_forms
        from amodal_pipeline.training.configs import WITHOUT_EFFECT
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
        from amodal_pipeline.methods.checkpoints import Fingerprint
        from amodal_pipeline.pipelines.train.nodes import Job
        from amodal_pipeline.training.configs import WITHOUT_EFFECT
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
        """Completed masks rest on a detector, also where the completer has learnt nothing of it."""
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
        from amodal_pipeline.methods.checkpoints import Checkpoint
        from amodal_pipeline.pipelines.shape_prior.nodes import check_shape_prior

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
        loader["parameters"] = loader["parameters"]  # or Kedro would read all files once more
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


class SummaryHook:
    """Prints the results, and where everything lies, when a run that made results has ended."""

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        if "results" not in pipeline.all_outputs() or not catalog.exists("results"):
            return
        from rich.table import Column, Table

        from amodal_pipeline.metrics.results import summary_table
        from amodal_pipeline.pipelines.progress import plain_console
        from amodal_pipeline.visuals.comparisons import in_words, kinds
        from amodal_pipeline.visuals.definitions import MAIN_METRICS

        console = plain_console()
        results = catalog.load("results")
        for protocol in PRINTED:
            part = results[results["protocol"] == protocol]
            if part.empty:
                continue
            metrics = [m for m in MAIN_METRICS if (part["metric"] == m).any()]
            shown = summary_table(part, metrics)
            # Lines that know more stand apart, as in the report.
            for kind, lines in shown.groupby(kinds(shown["inputs"]), sort=False):
                given = "" if kind == "image" else f", {in_words(kind)}"
                title = f"{results['dataset'].iloc[0]}, validation{given}: {protocol} (0–100)"
                # Metrics downwards, methods across: many names fit a narrow terminal.
                table = Table(Column("metric", no_wrap=True), title=title)
                for line in lines[["method", "variant", "inputs"]].itertuples(index=False):
                    extra = [line.variant] if line.variant != "full" else []
                    extra += [f"on {line.inputs}"] if line.inputs not in ("image", kind) else []
                    table.add_column("\n".join([line.method, *extra]), justify="right")
                for metric in metrics:
                    table.add_row(metric, *(_text(value) for value in lines[metric]))
                console.print(table)
        folder = Path(catalog.get("report_folder")._describe()["filepath"])
        console.print(f"Report and pictures: {folder / 'report.html'}", soft_wrap=True)
        console.print("Lineage: make viz   Compare runs: make ui")


def _text(value: float) -> str:
    return "–" if value != value else f"{value:.1f}"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    from pydantic import BaseModel

    flat: dict[str, Any] = {}
    for key, value in values.items():
        value = value.model_dump() if isinstance(value, BaseModel) else value
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            is_list = isinstance(value, (list, tuple))
            flat[f"{prefix}{key}"] = json.dumps(value, default=str) if is_list else value
    return flat
