import json
import re

import numpy as np
import pandas as pd
import pytest

from amodal_pipeline.annotations import Predictions, PredictionsMetadata, rle
from amodal_pipeline.annotations.tables import PREDICTION_ORDER, PREDICTIONS, frame
from amodal_pipeline.jobs import report as nodes
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.metrics.evaluate import evaluate
from amodal_pipeline.metrics.results import Measurement, rows
from amodal_pipeline.metrics.score_files import save_scores

PUBLISHED = ["paper", "table", "row", "method", "variant", "dataset", "split", "inputs", "protocol"]
PUBLISHED += ["category", "metric", "value", "note", "comparable"]


def predicted(truth, method, shrink, variant="full"):
    """The true objects, their amodal masks without the last ``shrink`` columns."""
    table = truth.instances
    masks = rle.decode(table["amodal_rle"].tolist(), (64, 64))
    boxes = rle.box(table["amodal_rle"].tolist(), (64, 64))
    for mask, (x, _, width, _) in zip(masks, boxes, strict=True):
        mask[:, int(x + width) - shrink :] = 0
    rows = {
        "prediction_id": range(1, len(table) + 1),
        "image_id": table["image_id"].tolist(),
        "category_id": table["category_id"].tolist(),
        "score": np.linspace(0.9, 0.6, len(table)),
        "amodal_rle": rle.encode(masks),
        "visible_rle": table["visible_rle"].tolist(),
    }
    made = truth.metadata
    metadata = PredictionsMetadata(
        dataset=made.dataset,
        split=made.split,
        method=method,
        variant=variant,
        categories=made.categories,
        image_root=made.image_root,
        annotations=truth.fingerprint,
        checkpoint="0123456789abcdef",
    )
    return Predictions(
        metadata, truth.images, frame(PREDICTIONS, rows), frame(PREDICTION_ORDER, {})
    )


@pytest.fixture(scope="module")
def evaluated(shapes, tmp_path_factory):
    """The folders of two evaluated methods and a variant."""
    root = tmp_path_factory.mktemp("report")
    config = EvaluationConfig(headline_resamples=40, resamples=10)
    for stem, shrink in (("first", 9), ("second", 1), ("second.small", 4)):
        method, _, variant = stem.partition(".")
        found = predicted(shapes, method, shrink, variant or "full")
        run_id = f"0123456789ab-{shapes.fingerprint[:12]}"
        save_scores(root / "report/parts", stem, evaluate(shapes, found, config, run_id=run_id))
        if not variant:
            for version in ("1", "2"):
                found.save(root / "output" / method / "predictions" / version / "predictions")
    (root / "report/first").mkdir()
    history = pd.DataFrame({"iteration": [1, 2], "loss": [2.0, 1.0], "loss_mask": [1.0, 0.5]})
    history.to_csv(root / "report/first/history.csv", index=False)
    cost = {"parameters": 10, "flops": 20, "height": 64, "width": 64}
    cost |= {"images_per_second": None, "device": ""}
    (root / "report/first/cost.json").write_text(json.dumps(cost))
    return root


def page_of(root, shapes, published):
    parts = root / "report/parts"
    results = nodes.join_results(parts, shapes)
    return nodes.report(
        root / "report", results, shapes, shapes, parts, published, root / "models"
    ).read_text()


def test_methods_of_earlier_runs_are_on_the_page_with_all_that_is_known(evaluated, shapes):
    folder = evaluated / "report"
    results = nodes.join_results(folder / "parts", shapes)
    nodes.plot_results(results).savefig(folder / "results_chart.png")
    picture = nodes.compare(folder / "parts", shapes, evaluated / "output", 3)
    picture.save(folder / "comparison.png")
    page = page_of(evaluated, shapes, evaluated / "none.csv")
    assert page.count("data:image/png") == 2
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert len(headings) == 12 and "Compared in pairs" in headings
    assert "There is no table of published numbers at" in page
    assert f"0123456789ab-{shapes.fingerprint[:12]}" in page
    pairs = page.split("<h2>Compared in pairs</h2>")[1].split("</section>")[0]
    assert pairs.count("above in 100 %") >= 2  # the masks of the second method are better
    assert "second, small" in pairs and "less second" in pairs


def test_published_numbers_are_there_only_for_the_same_data(evaluated, shapes):
    row = ["p", "1", "x", "second", "full", "kins", "train", "image", "coco", "all", "AP_amodal"]
    table = pd.DataFrame([[*row, 12.5, "", "true"]], columns=PUBLISHED)
    path = evaluated / "published.csv"
    table.to_csv(path, index=False)
    page = page_of(evaluated, shapes, path)
    assert "No paper has results on shapes" in page and "12.5</td>" not in page
    table.assign(dataset="shapes").to_csv(path, index=False)
    assert "12.5</td>" in page_of(evaluated, shapes, path)
    table.assign(dataset="shapes", method="other").to_csv(path, index=False)
    assert "No paper has comparable results on shapes" in page_of(evaluated, shapes, path)


def test_results_on_other_data_are_refused(evaluated, shapes):
    with pytest.raises(ValueError, match=r"first\.csv was scored on another version"):
        nodes.join_results(evaluated / "report/parts", shapes.subset([1, 2]))


def test_charts_and_pairs_have_the_protocol_for_videos(shapes):
    """Names of its metrics are long: no title reaches into the next panel."""
    names = ("mIoU_full", "mIoU_occluded", "temporal_consistency")
    measured = [Measurement(f"{name}_per_object", 50, 3, "all", 40, 60) for name in names]
    metadata = predicted(shapes, "first", 0).metadata
    figure = nodes.plot_results(rows(metadata, "video", measured))
    figure.canvas.draw()
    [part] = [p for p in figure.subfigs if "protocol video" in p._suptitle.get_text()]
    panels = [axes for axes in part.axes if axes.axison]
    titles = [axes.get_title("left") for axes in panels]
    assert [title.replace("\n", "") for title in titles] == [
        "mIoU_full_per_object",
        "mIoU_occluded_per_object",
        "temporal_consistency_per_object",
    ]
    ends = [axes._left_title.get_window_extent().x1 for axes in panels]
    starts = [axes.get_window_extent().x0 for axes in panels[1:]] + [figure.bbox.x1]
    assert all(end <= start for end, start in zip(ends, starts, strict=True))
    whose = {"dataset": "moving", "split": "val", "inputs": "true", "variant": "full", "seed": 0}
    whose |= {"protocol": "video", "metric": measured[1].metric, "images": 2, "bootstrap_seed": 0}
    whose |= {"run_id": ""}
    draws = [
        whose | {"method": method, "value": value, "values": [value, value + 1]}
        for method, value in (("first", 10.0), ("second", 20.0))
    ]
    paired = nodes._paired(pd.DataFrame(draws))
    assert sorted(paired["difference"]) == [-10, 10]


def test_no_results_say_what_to_do(tmp_path, shapes):
    with pytest.raises(ValueError, match="has no results yet: run"):
        nodes.join_results(tmp_path, shapes)


def test_predictions_of_other_data_are_not_drawn(evaluated, shapes, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "amodal_pipeline.visuals.grids.prediction_grid",
        lambda annotations, predictions, images, remarks: drawn.append((predictions, images)),
    )
    nodes.compare(evaluated / "report/parts", shapes, evaluated / "output", 3)
    predictions, images = drawn[0]
    assert list(predictions) == ["first", "second"] and len(set(images)) == 3
    found = predictions["first"]
    stale = found.metadata.model_copy(update={"annotations": "other"})
    other = Predictions(stale, found.images, found.predictions, found.order)
    other.save(evaluated / "output/first/predictions/3/predictions")
    nodes.compare(evaluated / "report/parts", shapes, evaluated / "output", 3)
    assert list(drawn[1][0]) == ["second"]
