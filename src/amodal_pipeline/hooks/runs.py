"""The MLflow runs of one ``kedro run``, and what is logged to them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amodal_pipeline.hooks import store

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

    from amodal_pipeline.annotations import AmodalAnnotations
    from amodal_pipeline.methods.checkpoints import MethodCard

LONGEST = 5_000  # characters of a parameter or tag, MLflow's limit
_PARAMETERS, _METRICS = 100, 1000  # per request, MLflow's limits
_CONTEXTS = {"train": "training", "val": "validation"}  # MLflow's names of splits

HEADLINES = {
    "AP_amodal": "coco",
    "AP_visible": "coco",
    "AP_amodal_occluded15": "vrsp",
    "AP_both": "orcnn",
    "mIoU_full": "completion",
    "mIoU_occluded": "completion",
    "mIoU_full_per_object": "video",
    "mIoU_occluded_per_object": "video",
    "order_accuracy": "order",
    "occluder_consistency_all": "consistency",
}
"""Metrics that are logged under their plain names, and the protocol of each; all others are in the
artifact results.csv."""


class TrackedRuns:
    """A parent run, and a child run for each method, row of an ablation and baseline.

    All methods may raise MLflow's exceptions.
    """

    def __init__(
        self, uri: str, experiment: str, artifacts: str | None, name: str, tags: dict[str, str]
    ) -> None:
        """Connect, end runs that killed processes have left open, and open the parent.

        Args:
            uri: address of the store.
            experiment: name of the experiment, which is created if needed.
            artifacts: folder of a new experiment's files; None: the store's default.
            name: of the parent.
            tags: of the parent; tags that begin with "mlflow." are set for the children too.
        """
        self.client: MlflowClient = store.connect(uri)
        self._experiment = store.experiment_id(self.client, experiment, artifacts)
        store.close_left_over(self.client, self._experiment)
        self.link = store.link(uri, self._experiment)
        shared = {k: v for k, v in tags.items() if k.startswith("mlflow.")}
        self._tags = store.process_tags() | shared
        run = self.client.create_run(self._experiment, run_name=name, tags=tags | self._tags)
        self.parent: str = run.info.run_id
        self._names: dict[str, str] = {}
        self._baselines: dict[tuple[str, str], str] = {}
        self._data: set[tuple[str, str]] = set()

    def open(self, name: str, tags: dict[str, str], start: int | None = None) -> str:
        """Return a new child run; ``start`` is in milliseconds, None for now."""
        tags = {"mlflow.parentRunId": self.parent, **self._tags, **tags}
        run = self.client.create_run(self._experiment, start, tags, name).info.run_id
        self._names[run] = name
        return run

    def end(self, run: str, status: str, at: int | None = None) -> None:
        """Close a run; ``at`` is in milliseconds, None for now."""
        self.client.set_terminated(run, status, at)

    def log_parameters(self, run: str, parameters: Mapping[str, Any]) -> None:
        """Log values, shortened to MLflow's limit."""
        from mlflow.entities import Param

        rows = [Param(k, str(v)[:LONGEST]) for k, v in parameters.items()]
        for start in range(0, len(rows), _PARAMETERS):
            self.client.log_batch(run, params=rows[start : start + _PARAMETERS])

    def log_history(self, run: str, rows: Iterable[dict[str, float]]) -> None:
        """Log rows of a training's history as curves under ``train/``, by iteration."""
        values = [
            (f"train/{name}", value, row["iteration"])
            for row in rows
            for name, value in row.items()
            if name != "iteration"
        ]
        self._log_metrics(run, values)

    def log_results(self, run: str, results: pd.DataFrame, also: Iterable[str] = ()) -> None:
        """Log the headline metrics of a method and of its baselines, and all rows as a file.

        The parent gets the headline metrics too, named "<child>/<metric>". Each baseline gets its
        own child run. If a method was evaluated on several inputs, the names of its metrics begin
        with them (``on_true/mIoU_full``).

        Args:
            run: of the method.
            results: rows of the results table, the method's own first.
            also: further metrics, as "<protocol>/<metric>".
        """
        own = results["method"].iloc[0]
        inputs = results.loc[results["method"] == own, "inputs"].nunique()
        for (method, given), rows in results.groupby(["method", "inputs"], sort=False):
            metrics = headlines(rows, also)
            if method == own:
                prefix = f"on_{given}/" if inputs > 1 else ""
                self._log_scores(run, {f"{prefix}{k}": v for k, v in metrics.items()})
            elif metrics and (method, given) not in self._baselines:
                tags = {"method": method, "inputs": given}
                self._baselines[method, given] = self.open(f"{method} on {given}", tags)
                self._log_scores(self._baselines[method, given], metrics)
                self.end(self._baselines[method, given], "FINISHED")
        self.client.log_text(run, results.to_csv(index=False), "results.csv")

    def _log_scores(self, run: str, metrics: dict[str, float]) -> None:
        self._log_metrics(run, [(name, value, 0) for name, value in metrics.items()])
        child = self._names[run]
        shared = [(f"{child}/{name}", value, 0) for name, value in metrics.items()]
        self._log_metrics(self.parent, shared)

    def _log_metrics(self, run: str, values: list[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        metric = partial(Metric, timestamp=now())
        rows = [metric(name, float(value), step=step) for name, value, step in values]
        for start in range(0, len(rows), _METRICS):
            self.client.log_batch(run, metrics=rows[start : start + _METRICS])

    def log_data(self, run: str, name: str, version: str, data: AmodalAnnotations) -> None:
        """Log annotations once as an input of a run and of the parent.

        The parent also gets their version in the catalog and their fingerprint as tags.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        metadata = data.metadata
        described = Dataset(
            name=f"{metadata.dataset} {metadata.split}",
            digest=data.fingerprint[:36],  # MLflow's limit
            source_type="local",
            source=json.dumps({"uri": name, "version": version}),
            profile=json.dumps({"images": len(data.images), "instances": len(data.instances)}),
        )
        context = _CONTEXTS.get(metadata.split, metadata.split)
        for each in {self.parent, run}:
            if (each, name) not in self._data:
                self._data.add((each, name))
                tags = [InputTag("mlflow.data.context", context)]
                self.client.log_inputs(each, [DatasetInput(described, tags)])
        self.client.set_tag(self.parent, f"data.{name}.version", version)
        self.client.set_tag(self.parent, f"data.{name}.fingerprint", data.fingerprint)

    def log_card(self, run: str, card: MethodCard) -> None:
        """Log a checkpoint's fingerprint, and what its training copied from another checkpoint."""
        self.client.set_tag(run, "fingerprint", card.fingerprint.digest)
        if card.reuse is None:
            return
        for name in ("copied", "partly", "fresh"):
            self.client.set_tag(run, f"pretrained.{name}", str(getattr(card.reuse, name)))
        categories = json.dumps(card.reuse.categories)[:LONGEST]
        self.client.set_tag(run, "pretrained.categories", categories)

    def log_checkpoint(self, run: str, folder: Path) -> None:
        """Log the two files of a checkpoint as artifacts."""
        for file in ("model.safetensors", "method.json"):
            self.client.log_artifact(run, str(folder / file), "checkpoint")

    def log_error(self, run: str, error: str) -> None:
        """Log the error of a failed run as a tag."""
        self.client.set_tag(run, "error", error[:LONGEST])


def headlines(results: pd.DataFrame, also: Iterable[str] = ()) -> dict[str, float]:
    """Return the headline metrics, over all categories, of one method on one kind of inputs.

    Args:
        results: rows of the results table.
        also: further metrics, as "<protocol>/<metric>".

    Returns:
        Values in 0–100; metrics in :data:`HEADLINES` by their plain names, further ones as
        "<protocol>.<metric>".
    """
    rows = results[(results["category"] == "all") & results["value"].notna()]
    found = {}
    for row in rows.itertuples():
        if HEADLINES.get(row.metric) == row.protocol:
            found[row.metric] = float(row.value)
        elif f"{row.protocol}/{row.metric}" in also:
            # No slash: in the parent's names it comes after a child's, which may be "orcnn", too.
            found[f"{row.protocol}.{row.metric}"] = float(row.value)
    return found


def now() -> int:
    """Return the time in milliseconds since the epoch, MLflow's unit."""
    return int(time.time() * 1000)
