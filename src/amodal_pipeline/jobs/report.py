"""Nodes that put all results of a data set into one table, charts and a page."""

import itertools
import json
from pathlib import Path

import pandas as pd
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.methods.checkpoints import MethodCard
from amodal_pipeline.metrics.scores import Scores

_CHARTED = ("coco", "vrsp", "completion", "video", "order")
_CHARTED_METRICS = (
    "AP_amodal",
    "AP75_amodal",
    "AP_visible",
    "AP_amodal_occluded15",
    "mIoU_full",
    "mIoU_occluded",
    "mIoU_full_per_object",
    "mIoU_occluded_per_object",
    "temporal_consistency_per_object",
    "order_accuracy",
)


def join_results(parts: Path, annotations: AmodalAnnotations, *evaluated: Scores) -> pd.DataFrame:
    """Return the rows of all methods and variants evaluated on this data set, now or before.

    Args:
        parts: folder with the scores of each method and variant.
        annotations: the validation split; results on another version of it are an error.
        evaluated: scores of this run; they are in the folder too, and are asked for only so that
            this node comes after them.
    """
    return _scores(parts, annotations).results


def plot_results(results: pd.DataFrame) -> object:
    """Plot bars of the main metrics of every method; return the figure. Variants are left out."""
    from amodal_pipeline.visuals.plots import results_chart

    shown = results["protocol"].isin(_CHARTED) & (results["variant"] == "full")
    return results_chart(results[shown.to_numpy(dtype=bool)], _CHARTED_METRICS)


def compare(
    parts: Path,
    annotations: AmodalAnnotations,
    model_output: Path,
    count: int,
    *evaluated: Predictions | Scores,
) -> Image.Image:
    """Draw image, truth and each method's prediction, for the best, median and worst images.

    Args:
        parts: folder with the scores of each method, by which images are chosen.
        annotations: the validation split.
        model_output: folder with the predictions of all methods; predictions for other annotations
            are not drawn.
        count: number of images.
        evaluated: predictions and scores of this run; as in :func:`join_results`.
    """
    from amodal_pipeline.visuals.grids import prediction_grid
    from amodal_pipeline.visuals.selection import best_median_worst, most_occluded

    chosen = best_median_worst(_scores(parts, annotations).objects, count)
    versions = sorted(model_output.glob("*/predictions/*/predictions"))
    newest = {path.relative_to(model_output).parts[0]: path for path in versions}
    tables = {name: Predictions.load(path) for name, path in newest.items()}
    named = {
        name: table
        for name, table in tables.items()
        if table.metadata.annotations == annotations.fingerprint
    }
    images = list(chosen) or most_occluded(annotations, count)
    return prediction_grid(annotations, named, images, remarks=chosen)


def report(
    folder: Path,
    results: pd.DataFrame,
    train: AmodalAnnotations,
    val: AmodalAnnotations,
    parts: Path,
    published: Path,
    models: Path,
    *drawn: Image.Image,
) -> Path:
    """Write the page ``report.html`` into ``folder``, with all pictures below it.

    Pictures of a pretraining are left out: they show other data.

    Args:
        folder: has the pictures, the histories and the costs of all methods.
        results: of all methods and variants.
        train, val: the data.
        parts: folder with the scores that the results are from.
        published: table of published numbers; it may be missing.
        models: folder of all checkpoints, whose cards name the checkpoints they started from.
        drawn: pictures of this run: asked for only so that this node comes after them.

    Returns:
        The page.
    """
    from amodal_pipeline.visuals.grids import statistics_line
    from amodal_pipeline.visuals.report import Material, write_report

    scores = _scores(parts, val)
    beside, remark = _beside(results, published)
    fixed = {
        "results_chart.png": "Results; whiskers are 95 % intervals",
        "comparison.png": "Predictions for the best, median and worst images",
        "preview_train.png": "The training data, with its truth",
        "clips_train.png": "Objects of a training clip over time, with their truth",
        "occlusion_rates_train.png": "Occlusion rates of the training data",
    }
    figures = {text: name for name, text in fixed.items() if (folder / name).exists()}
    for name in (p.relative_to(folder).as_posix() for p in _measured(folder, "*.png")):
        method, kind = name.removesuffix(".png").split("/")
        # Where there is a history, the page plots the losses from it.
        if kind != "loss_curves" or not (folder / method / "history.csv").exists():
            figures[f"{method}: {kind.replace('_', ' ')}"] = name
    environment = "" if train.metadata.dataset == "scenes" else f" --env={train.metadata.dataset}"
    path = write_report(
        folder,
        title=f"Amodal segmentation on {train.metadata.dataset}",
        dataset_summary=[
            ("Training", statistics_line(train)),
            ("Validation", statistics_line(val)),
            ("Categories", ", ".join(c.name for c in train.metadata.categories)),
            ("Version of the training data", train.fingerprint[:12]),
            ("Version of the validation data", val.fingerprint[:12]),
        ],
        material=Material(
            results,
            scores.curves,
            scores.objects,
            _paired(scores.draws),
            beside,
            remark,
            {
                path.parent.name: pd.read_csv(path).to_dict("records")
                for path in sorted(folder.glob("*/history.csv"))
            },
            {
                path.parent.name: json.loads(path.read_bytes())
                for path in _measured(folder, "cost.json")
            },
            _starts(models, results),
        ),
        figures=figures,
        notes=[
            "visible_mask and convex_hull complete the visible masks of the named detector, "
            "convex_hull_in_order those of objects whose order a method predicts, "
            "order_by_area and order_by_lowest_point order its objects by a rule, all on the same "
            "detections: a method earns its name above them."
        ],
        commands=[
            ("Look at the lineage", "make viz"),
            ("Compare runs", "make ui"),
            ("Train again", f"kedro run{environment} --pipeline=train_orcnn --params restart=true"),
            ("Try your own images", f"kedro run{environment} --pipeline=predict --params images=…"),
            (
                "Score predictions from elsewhere",
                f"kedro run{environment} --pipeline=evaluate --params predictions=…",
            ),
        ],
    )
    return path


def _measured(folder: Path, pattern: str) -> list[Path]:
    """Return files of all methods, without those of a pretraining, which are of other objects."""
    found = sorted(folder.glob(f"*/{pattern}"))
    return [path for path in found if not path.parent.name.startswith("pretrain_")]


def _starts(models: Path, results: pd.DataFrame) -> dict[str, str]:
    """Return sentences on the parameters that each method took from its starting checkpoint."""
    found = {}
    for method in results["method"].unique():
        path = models / method / "method.json"
        card = MethodCard.load(path.parent) if path.exists() else None
        if card is None or (reuse := card.reuse) is None:
            continue
        names = [a if a == b else f"{a} ({b})" for a, b in sorted(reuse.categories.items())]
        shared = f"; categories: {', '.join(names)}" if names else ""
        found[method] = (
            f"started from another: {reuse.copied} tensors taken whole, {reuse.partly} in part, "
            f"{reuse.fresh} fresh{shared}"
        )
    return found


def _scores(parts: Path, annotations: AmodalAnnotations) -> Scores:
    from amodal_pipeline.metrics import scores
    from amodal_pipeline.metrics.score_files import load_scores

    found = []
    for path in sorted(parts.glob("*.csv")):
        part = load_scores(parts, path.stem)
        if not part.results["run_id"].str.endswith(annotations.fingerprint[:12]).all():
            raise ValueError(
                f"{path} was scored on another version of the validation data: remove it, or "
                f"train and evaluate {path.stem} again"
            )
        found.append(part)
    if not found:
        raise ValueError(
            f"{parts} has no results yet: run `kedro run --pipeline=train_<method>` first"
        )
    return scores.join(found)


def _beside(results: pd.DataFrame, published: Path) -> tuple[pd.DataFrame, str]:
    """Return our results joined with comparable published ones, and a sentence on them."""
    from amodal_pipeline.metrics.published import beside, read_published

    dataset = results["dataset"].iloc[0]
    if not published.exists():
        return pd.DataFrame(), f"There is no table of published numbers at {published}."
    numbers = read_published(published)
    if not (numbers["dataset"] == dataset).any():
        remark = f"No paper has results on {dataset}: there is nothing to put beside these."
        return pd.DataFrame(), remark
    rows = beside(results, numbers)
    if not len(rows):
        return rows, f"No paper has comparable results on {dataset} for the methods here."
    return rows, "Numbers of papers on the same data, with the same protocol and metric."


def _paired(draws: pd.DataFrame) -> pd.DataFrame:
    """Return differences in headline metrics between methods, and of variants to their method."""
    from amodal_pipeline.metrics.bootstrap import compare
    from amodal_pipeline.visuals.comparisons import with_lines
    from amodal_pipeline.visuals.definitions import HEADLINE_METRICS

    chosen = draws["metric"].isin(HEADLINE_METRICS) & draws["protocol"].isin(_CHARTED)
    own = draws[chosen.to_numpy(dtype=bool)].reset_index(drop=True)
    named = with_lines(own).assign(of=own["method"].astype(str) + " on " + own["inputs"])
    tables = []
    for inputs, part in named.groupby("inputs", sort=False):
        lines = part.drop_duplicates("line")
        methods = lines[lines["main"]]
        pairs = list(itertools.permutations(methods["line"], 2))
        for variant in lines[~lines["main"]].itertuples():
            pairs += [(variant.line, b) for b in methods.loc[methods["of"] == variant.of, "line"]]
        for a, b in pairs:
            found = compare(part, {"line": a}, {"line": b})
            tables.append(found.assign(inputs=inputs, a=a, b=b))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
