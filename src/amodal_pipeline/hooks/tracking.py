"""Tracking in MLflow. If MLflow fails, the run continues without tracking.

MLflow takes seconds to import, so it is imported when the first node runs.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from amodal_pipeline.hooks import store
from amodal_pipeline.hooks.followers import FollowedHistory, FollowedRow, Follower
from amodal_pipeline.hooks.runs import TrackedRuns, now

logger = logging.getLogger(__name__)


def _guarded(hook: Callable[..., None]) -> Callable[..., None]:
    """Return a hook whose failure loses what it would log, and never stops the run."""

    @functools.wraps(hook)
    def guarded(self: TrackingHook, *args: Any) -> None:
        self._attempt(hook, self, *args)

    return guarded


class TrackingHook:
    """One MLflow run per ``kedro run``, with a child run per method, ablation row and baseline.

    The parent has the parameters of the jobs that ran, the data versions and the headline metrics
    of all children; a child has the losses of its method while it trains, its results, pictures and
    checkpoint. ``--params tracking=false`` turns tracking off; ``MLFLOW_TRACKING_URI`` is the
    address of the store (default: mlflow.db in the project).

    MLflow is called only in hooks that are :func:`_guarded`, and through :meth:`_attempt`.
    """

    def __init__(self) -> None:
        self._project = Path.cwd()
        self._lock = threading.RLock()
        self._reset()

    def _reset(self) -> None:
        self._runs: TrackedRuns | None = None
        self._lost = self._warned = False
        self._children: dict[str, str] = {}  # open runs of methods, by namespace
        self._last: dict[str, int] = {}  # time of the last event of a namespace
        self._left: Counter[str] = Counter()  # nodes still to run, by namespace
        self._followers: dict[str, Follower] = {}
        self._rows: list[FollowedRow] = []
        self._row_start: int | None = None
        self._row_data: dict[str, Any] = {}  # annotations that rows are made of, by name
        self._described: dict[str, Any] = {}
        self._parameters: dict[str, Any] = {}
        self._logged: set[str] = set()  # names of the parameters logged to the parent
        self._catalog: DataCatalog | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._project = Path(context.project_path)

    @hook_impl
    def before_pipeline_run(self, run_params: dict, pipeline: Pipeline, catalog: DataCatalog):
        self._end("KILLED")  # runs that an interrupt in a notebook has left open
        self._reset()
        self._left = Counter(_owner(node) for node in pipeline.nodes)
        self._described, self._catalog = run_params, catalog
        self._parameters = _flat(catalog.load("parameters"))

    @hook_impl
    @_guarded
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> None:
        if "upstream" in node.tags and "training" not in node.tags:
            self._follow_upstream(node)
            return
        run = self._run_of(node)
        self._close_finished(but=_owner(node))
        self._attempt(self._log_parameters, node)
        for name, value in inputs.items():
            self._attempt(self._log_data, run, name, value)
        if "training" in node.tags:
            history = FollowedHistory(self._folder_of(node) / "history.jsonl")
            log = partial(self._runs.log_history, run)
            self._follow(node, partial(history.send, log))
        if rows := inputs.get(f"{node.namespace}.chosen"):  # of an ablation, or of OrderNet
            place = inputs[f"{node.namespace}.place"]
            self._rows = [FollowedRow(row, place.rows / row.name, place.scores) for row in rows]
            self._row_start = now()
            self._row_data = {k: v for k, v in inputs.items() if k.startswith("annotations_")}
            self._follow(node, partial(self._look_at_rows, node.namespace))

    @hook_impl
    @_guarded
    def after_node_run(self, node: Node) -> None:
        self._left[_owner(node)] -= 1
        self._last[_owner(node)] = now()
        if follower := self._followers.pop(node.name, None):
            follower.stop()

    @hook_impl
    @_guarded
    def after_dataset_saved(self, dataset_name: str, data: Any, node: Node) -> None:
        if "upstream" in node.tags and _owner(node) not in self._children:
            return  # nothing was trained
        run = self._run_of(node)
        self._log_data(run, dataset_name, data)
        self._log_output(run, dataset_name, data)
        self._last[_owner(node)] = now()

    @hook_impl
    @_guarded
    def on_node_error(self, error: Exception, node: Node) -> None:
        if self._runs is None:
            return
        if follower := self._followers.pop(node.name, None):
            follower.stop()
        failed = [row.run for row in self._rows if row.run]
        failed += [run for name, run in self._children.items() if name == _owner(node)]
        self._rows = []
        self._children.pop(_owner(node), None)
        for run in (self._runs.parent, *failed):
            self._attempt(self._runs.log_error, run, f"{node.name}: {error}")
        for run in failed:
            self._attempt(self._runs.end, run, "FAILED")

    @hook_impl
    def after_pipeline_run(self) -> None:
        link = self._runs.link if self._runs and not self._lost else None
        self._end("FINISHED")
        if link and not self._lost:
            from rich.console import Console

            local = store.uri_of(self._project).startswith("sqlite")
            start = f"{store.viewer(self._project)}, then " if local else ""
            Console().print(f"Compare runs: {start}{link}", soft_wrap=True, highlight=False)

    @hook_impl
    def on_pipeline_error(self) -> None:
        self._end("FAILED")

    def _attempt(self, work: Callable[..., None], *args: Any) -> None:
        """Call ``work`` unless tracking is off; an error loses this part of the tracking.

        If the store does not answer, tracking stops for the rest of the run.
        """
        if self._lost or not self._parameters.get("tracking", True):
            return
        try:
            work(*args)
        except Exception as error:
            self._forgive(error)

    def _forgive(self, error: Exception) -> None:
        with self._lock:
            if self._lost:
                return
            uri = store.uri_of(self._project)
            reason = store.without_password(str(error).strip() or type(error).__name__, uri)
            reason, uri = reason.splitlines()[0][:160], store.shown(uri)
            if self._runs is None:
                self._lost = True
                logger.warning(
                    "MLflow cannot be used at %s (%s): this run continues without tracking. Start "
                    "the server, change MLFLOW_TRACKING_URI, or turn tracking off: "
                    "--params tracking=false",
                    *(uri, reason),
                )
                return
            try:
                store.within(store.CHECKED_WITHIN, partial(store.check, self._runs.client))
            except Exception:
                self._lost = True
                logger.warning(
                    "MLflow at %s does not answer any more (%s): this run continues without "
                    "tracking",
                    *(uri, reason),
                )
                return
            if not self._warned:
                self._warned = True
                logger.warning(
                    "MLflow at %s refused a request (%s): the run continues, but its tracking is "
                    "incomplete",
                    *(uri, reason),
                )
            logger.debug("could not be sent to MLflow", exc_info=error)

    def _open(self) -> None:
        from amodal_pipeline.methods.checkpoints import git_revision

        uri = store.uri_of(self._project)
        artifacts = (self._project / "mlartifacts").as_uri() if uri.startswith("sqlite") else None
        described = self._described
        jobs = ", ".join(described.get("pipeline_names") or ["__default__"])
        env = described.get("env") or ""
        revision = git_revision()
        names = described.get("pipeline_names") or []
        command = ["kedro run", *[f"--pipelines={','.join(names)}"] * bool(names)]
        tags = {
            "kedro.pipelines": jobs,
            "kedro.env": env,
            "kedro.run_id": described["run_id"],
            "git_revision": revision,
            "mlflow.source.git.commit": revision.removesuffix("+changes"),
            "mlflow.source.name": " ".join(command + [f"--env={env}"] * bool(env)),
            "mlflow.source.type": "LOCAL",
        }
        experiment = str(self._parameters.get("dataset", "amodal_pipeline"))
        name = f"{jobs} {described['run_id']}"
        self._runs = TrackedRuns(uri, experiment, artifacts, name, tags)
        # Kedro calls no hook after an interrupt, so without this the run would stay "running".
        atexit.register(self._end, "KILLED")

    def _run_of(self, node: Node) -> str:
        if self._runs is None:
            self._open()
        namespace = _owner(node)
        if not namespace:
            return self._runs.parent
        if namespace not in self._children:
            # In the jobs `evaluate` and `predict`, a parameter names the method.
            outside = self._parameters.get("predictions")
            asked = str(Path(outside).stem if outside else self._parameters.get("method", "orcnn"))
            method = asked if namespace == "chosen" else namespace
            run = self._children[namespace] = self._runs.open(method, {"method": method})
            self._attempt(self._runs.log_parameters, run, _within(self._parameters, method))
        return self._children[namespace]

    def _close_finished(self, but: str = "") -> None:
        """End child runs whose nodes have all run, at the time of the last event."""
        for namespace in [n for n in self._children if n != but and self._left[n] == 0]:
            run = self._children.pop(namespace)
            self._attempt(self._runs.end, run, "FINISHED", self._last.get(namespace))

    def _log_parameters(self, node: Node) -> None:
        wanted = {name.removeprefix("params:") for name in node.inputs if name.startswith("params")}
        wanted = {name for name in wanted if not name.startswith("folders.")}
        new = wanted - self._logged
        self._logged |= new
        chosen = {
            key: value
            for key, value in self._parameters.items()
            if key in new or any(key.startswith(f"{name}.") for name in new)
        }
        self._runs.log_parameters(self._runs.parent, chosen)

    def _log_data(self, run: str, name: str, value: Any) -> None:
        from amodal_pipeline.annotations import AmodalAnnotations

        if isinstance(value, AmodalAnnotations):
            dataset = self._catalog.get(name)
            version = getattr(dataset, "resolve_load_version", lambda: "")()
            self._runs.log_data(run, name, version, value)

    def _log_output(self, run: str, name: str, value: Any) -> None:
        from amodal_pipeline.datasets import CheckpointDataset, PageDataset, PictureDataset
        from amodal_pipeline.methods.checkpoints import Checkpoint

        dataset = self._catalog.get(name)
        if isinstance(dataset, PictureDataset):
            self._runs.client.log_artifact(run, dataset._describe()["filepath"], "pictures")
        if isinstance(dataset, PageDataset):
            self._runs.client.log_artifact(run, dataset._describe()["filepath"])
        if isinstance(value, Checkpoint):
            self._runs.log_card(run, value.card)
            if isinstance(dataset, CheckpointDataset):
                self._runs.log_checkpoint(run, Path(dataset._describe()["filepath"]))
        if name.endswith(".results"):
            several = value if isinstance(value, dict) else {"": value}
            for method, scores in several.items():
                own = run
                if len(several) > 1:
                    own = self._runs.open(method, {"method": method})
                self._runs.log_results(own, scores.results)
                if own != run:
                    self._runs.end(own, "FINISHED")

    def _follow(self, node: Node, look: Callable[[], None]) -> None:
        self._followers[node.name] = Follower(partial(self._attempt, look))
        self._followers[node.name].start()

    def _follow_upstream(self, node: Node) -> None:
        """Open a run for what is trained before a method, once that has begun."""
        if node.name.rsplit(".")[-1] != "train":
            return
        history = FollowedHistory(self._folder_of(node) / "history.jsonl")

        def look() -> None:
            if history.file.changed:
                history.send(partial(self._runs.log_history, self._run_of(node)))

        if self._runs is None:
            self._open()
        self._follow(node, look)

    def _folder_of(self, node: Node) -> Path:
        return Path(self._catalog.get(f"{node.namespace}.checkpoint")._describe()["filepath"])

    def _look_at_rows(self, namespace: str) -> None:
        """Open, update and close the child runs of an ablation's rows, as their files change."""
        for row in list(self._rows):
            scored = row.scored.changed
            if not (scored or row.run or row.history.file.changed):
                continue
            if row.run is None:
                tags = {"method": row.row.job.model.root.name, "variant": row.row.name}
                row.run = self._runs.open(row.row.name, tags, self._row_start)
                values = _flat(row.row.job.model_dump())
                self._attempt(self._runs.log_parameters, row.run, values)
                for name, data in self._row_data.items():
                    self._attempt(self._log_data, row.run, name, data)
            self._attempt(row.history.send, partial(self._runs.log_history, row.run))
            if scored:
                self._rows.remove(row)
                self._row_start = now()
                metrics = json.loads(self._parameters.get(f"{namespace}.metrics", "[]"))
                self._attempt(self._log_row, row, metrics)
                self._attempt(self._runs.end, row.run, "FINISHED")

    def _log_row(self, row: FollowedRow, metrics: list[str]) -> None:
        from amodal_pipeline.methods.checkpoints import MethodCard
        from amodal_pipeline.metrics.results import read

        self._runs.log_results(row.run, read(row.scored.path), metrics)
        card = MethodCard.load(row.folder)
        self._runs.log_card(row.run, card)
        self._runs.log_checkpoint(row.run, row.folder)

    def _end(self, status: str) -> None:
        """Close all open runs with a status: FINISHED, FAILED, or KILLED for an interrupt."""
        atexit.unregister(self._end)
        for follower in self._followers.values():
            follower.stop()
        self._followers = {}
        if self._runs is None:
            return
        self._close_finished()
        # Methods that had finished when another one failed were closed above; the rest were cut.
        cut = "FINISHED" if status == "FINISHED" else "KILLED"
        for row in self._rows:
            if row.run:
                self._attempt(self._runs.end, row.run, "KILLED")
        for namespace, run in self._children.items():
            # With --only-missing-outputs some nodes never run, so the child is still open: it
            # ended with its last event.
            at = self._last.get(namespace) if cut == "FINISHED" else None
            self._attempt(self._runs.end, run, cut, at)
        self._attempt(self._runs.end, self._runs.parent, status)
        self._runs, self._children, self._rows = None, {}, []


def _owner(node: Node) -> str:
    """Return the namespace of a node's child run; "" for the parent, to which ablations log."""
    return "" if "ablation" in node.tags else node.namespace or ""


def _within(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the values whose dotted name begins with ``name``, without this prefix."""
    return {k.removeprefix(f"{name}."): v for k, v in values.items() if k.startswith(f"{name}.")}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters by their dotted names; lists as JSON."""
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
