"""Nodes that bring all results of a data set together."""

from pathlib import Path

import pandas as pd
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations, Predictions


def join_results(
    parts: Path, annotations: AmodalAnnotations, *evaluated: pd.DataFrame
) -> pd.DataFrame:
    """The rows of every method and variant evaluated on this data set, in this run or before.

    Args:
        parts: folder with one CSV file for each method and variant.
        annotations: the validation split; results on another version of it are refused.
        evaluated: results of this run; they are in the folder too, and are asked for only so that
            this node comes after them.
    """
    from amodal_pipeline.metrics import results

    tables = []
    for path in sorted(parts.glob("*.csv")):
        try:
            table = results.validate(pd.read_csv(path))
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{path} is not a table of results ({error}): remove it, or evaluate again"
            ) from error
        if not table["run_id"].str.endswith(annotations.fingerprint[:12]).all():
            raise ValueError(
                f"{path} was scored on another version of the validation data: remove it, or "
                f"train and evaluate {path.stem} again"
            )
        tables.append(table)
    if not tables:
        raise ValueError(
            f"{parts} has no results yet: run `kedro run --pipeline=train_<method>` first"
        )
    return results.join(tables)


def plot_results(results: pd.DataFrame) -> object:
    """Bars of the main metrics for every method, as a figure."""
    from amodal_pipeline.visuals.definitions import MAIN_METRICS
    from amodal_pipeline.visuals.plots import results_chart

    shown = [m for m in MAIN_METRICS if (results["metric"] == m).any()]
    return results_chart(results, shown)


def compare(annotations: AmodalAnnotations, count: int, *predictions: Predictions) -> Image.Image:
    """Image, truth and each method's prediction, for the images with the most occlusion."""
    from amodal_pipeline.visuals.grids import prediction_grid
    from amodal_pipeline.visuals.selection import most_occluded

    named = {p.metadata.method: p for p in predictions}
    return prediction_grid(annotations, named, most_occluded(annotations, count))


def report(
    folder: Path,
    results: pd.DataFrame,
    train: AmodalAnnotations,
    val: AmodalAnnotations,
    *drawn: Image.Image,
) -> str:
    """The page ``report.html`` in ``folder``, with every picture that lies below it.

    ``drawn`` are the pictures of this run: asked for only so that this node comes after them.
    """
    from amodal_pipeline.visuals.grids import statistics_line
    from amodal_pipeline.visuals.report import write_report

    fixed = {
        "comparison.png": "Predictions of all methods of the last run side by side",
        "results_chart.png": "Results",
        "preview_train.png": "The training data, with its truth",
        "occlusion_rates_train.png": "Occlusion rates of the training data",
    }
    figures = {text: name for name, text in fixed.items() if (folder / name).exists()}
    for name in sorted(p.relative_to(folder).as_posix() for p in folder.glob("*/*.png")):
        method, kind = name.removesuffix(".png").split("/")
        figures[f"{method}: {kind.replace('_', ' ')}"] = name
    environment = "" if train.metadata.dataset == "scenes" else f" --env={train.metadata.dataset}"
    path = write_report(
        folder,
        title=f"Amodal segmentation on {train.metadata.dataset}",
        dataset_summary=[
            ("Training", statistics_line(train)),
            ("Validation", statistics_line(val)),
            ("Categories", ", ".join(c.name for c in train.metadata.categories)),
        ],
        results=results,
        figures=figures,
        notes=[
            "visible_mask and convex_hull complete the visible masks of the named detector, on "
            "the same detections: a method earns its name above them."
        ],
        commands=[
            ("Look at the lineage", "make viz"),
            ("Compare runs", "make ui"),
            ("Train again", f"kedro run{environment} --pipeline=train_orcnn --params restart=true"),
            ("Try your own images", f"kedro run{environment} --pipeline=predict --params images=…"),
        ],
    )
    return path.read_text()
