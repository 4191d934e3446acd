import dataclasses
import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from amodal_pipeline.visuals.colours import line_styles
from amodal_pipeline.visuals.comparisons import comparisons
from amodal_pipeline.visuals.plots import (
    line_chart,
    loss_curves,
    objects_per_image,
    occlusion_histogram,
    results_chart,
    size_histogram,
)


def _texts(figure):
    return [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text()]


def _png(figure):
    out = io.BytesIO()
    figure.savefig(out)
    return Image.open(out)


def _history(n=50, **extra):
    t = np.arange(n)
    return [
        {
            "iteration": int(i),
            "loss": 3.0 / (1 + i) + 0.5,
            "loss_classifier": 2.0 / (1 + i) + 0.3,
            "loss_amodal_mask": 1.0 / (1 + i) + 0.2,
            "learning_rate": 0.01,
            "images_per_second": 8.0,
        }
        | extra
        for i in t
    ]


def test_loss_curves_have_a_panel_per_method_and_a_name_per_line():
    figure = loss_curves({"first": _history(), "$second": _history()})
    texts = _texts(figure)
    assert {"first", "$second"} <= set(texts)
    assert sum(t.startswith("total  0.") for t in texts) == 2
    assert sum(t.startswith("amodal mask") for t in texts) == 2
    assert not any("learning" in t or "images" in t for t in texts)
    axes = figure.axes[0]
    # Raw and smooth line for each of three losses.
    assert len(axes.lines) == 6 and axes.get_yscale() == "log"
    assert _png(figure).size[0] > 1000


def test_smooth_line_lies_within_the_raw_values():
    axes = loss_curves({"a": _history()}).axes[0]
    for raw, smooth in zip(axes.lines[::2], axes.lines[1::2], strict=True):
        assert smooth.get_ydata().min() >= raw.get_ydata().min() - 1e-9
        assert smooth.get_ydata().max() <= raw.get_ydata().max() + 1e-9


def test_negative_missing_and_infinite_losses_are_drawn_as_far_as_they_go():
    rows = _history(20)
    rows[3]["loss_classifier"] = float("inf")
    del rows[4]["loss_amodal_mask"]
    rows[5]["loss"] = -0.1
    axes = loss_curves({"a": rows}).axes[0]
    assert axes.get_yscale() == "linear"
    assert len(axes.lines) == 6
    _png(loss_curves({"a": rows}))


@pytest.mark.parametrize("histories", [{}, {"a": []}, {"a": [{"iteration": 1}]}])
def test_no_history_says_so(histories):
    assert "No training history" in _texts(loss_curves(histories))


def test_labels_at_the_ends_keep_apart():
    rows = [{"iteration": i, "loss": 1.0} | {f"loss_{k}": 0.1 for k in "abcdefg"} for i in (0, 1)]
    axes = loss_curves({"a": rows}).axes[0]
    heights = sorted(t.xy[1] for t in axes.texts)
    assert len(heights) == 8
    assert np.diff(heights).min() > 0.06 and heights[-1] <= 1.0


def test_histogram_states_the_share_that_is_not_occluded(annotations):
    figure = occlusion_histogram(annotations)
    texts = _texts(figure)
    assert "58%\nnot occluded" in texts
    assert any("40% on average" in t for t in texts)
    shares = [bar.get_height() for bar in figure.axes[0].patches]
    assert sum(shares) == pytest.approx(100)
    _png(figure)


def test_histogram_of_nothing(annotations):
    assert "No objects" in _texts(occlusion_histogram(annotations.subset([])))


def test_images_are_counted_by_their_objects(annotations):
    ignored = annotations.instances["instance_id"].isin([1, 50, 51])
    part = dataclasses.replace(
        annotations, instances=annotations.instances.assign(ignore=ignored.to_numpy())
    )
    figure = objects_per_image(part)
    # Image 0 has lost one of its two objects, image 5 both.
    assert [bar.get_height() for bar in figure.axes[0].patches] == [1, 1, 4]
    assert "1.5 on average" in _texts(figure)
    _png(figure)


def test_many_different_numbers_of_objects_are_binned(annotations):
    image = np.repeat(0, 100)
    many = annotations.instances.iloc[[0] * 100].assign(image_id=image)
    axes = objects_per_image(dataclasses.replace(annotations, instances=many)).axes[0]
    bars = [bar.get_height() for bar in axes.patches]
    assert len(bars) <= 30 and sum(bars) == 6 and bars[-1] == 1
    assert "numbers to a bar" in axes.get_xlabel()


def test_sizes_are_the_roots_of_areas_with_the_limits_of_coco(annotations):
    figure = size_histogram(annotations)
    bars = [bar for bar in figure.axes[0].patches if bar.get_height()]
    assert sum(bar.get_height() for bar in bars) == 12
    # Six cups of 30 x 30 pixels; the boxes are 45 high and 30 to 50 wide.
    assert (
        bars[0].get_height() == 6 and bars[0].get_x() <= 30 < bars[0].get_x() + bars[0].get_width()
    )
    assert "medium\n50%" in _texts(figure)
    _png(figure)


@pytest.mark.parametrize("plot", [objects_per_image, size_histogram])
def test_plots_of_nothing_say_so(annotations, plot):
    assert any(text.startswith("No ") for text in _texts(plot(annotations.subset([]))))
    _png(plot(annotations.subset([])))


def test_results_chart_keeps_true_inputs_apart(results):
    figure = results_chart(results, ["AP_amodal", "AP_visible", "mIoU_full", "unknown"])
    texts = _texts(figure)
    assert {"41.3", "38.1", "12.5", "87.5", "67.6"} <= set(texts)
    assert "first on detector" in texts
    assert sum("protocol" in t for t in texts) == 3
    assert sum("true visible masks" in t for t in texts) == 1
    _png(figure)


def test_results_chart_of_nothing(results):
    assert "No results" in _texts(results_chart(results, ["unknown"]))
    assert "No results" in _texts(results_chart(results[:0], ["AP_amodal"]))


def test_comparisons_average_runs_and_find_the_best(results):
    coco, true, detector = comparisons(results)
    assert (coco.protocol, true.inputs, detector.inputs) == ("coco", "true", "image")
    assert coco.lines == ("first", "second") and coco.metrics == ("AP_amodal", "AP_visible")
    np.testing.assert_array_equal(coco.value, [[41.27, np.nan], [38.06, 12.5]])
    np.testing.assert_array_equal(coco.best(), [[True, False], [False, False]])
    assert detector.value[0, 0] == pytest.approx(67.6) and detector.runs.tolist() == [2]
    assert detector.high[0, 0] - detector.low[0, 0] == pytest.approx(2 * np.sqrt(2))
    assert coco.of(["AP_visible"]).lines == ("second",)
    assert coco.of(["mIoU_full"]) is None


def test_equal_as_printed_is_equally_good(results):
    results["value"] = results["value"].replace(38.06, 41.31)
    assert comparisons(results)[0].best()[:, 0].all()


def test_a_file_whose_name_begins_with_true_is_no_truth(results):
    names = {"true": "true_boxes", "detector": "true_masks"}
    results["inputs"] = results["inputs"].replace(names)
    _, known, outside = comparisons(results)
    assert (known.inputs, outside.inputs) == ("true_boxes", "image")
    assert outside.lines == ("first on true_masks",)
    assert not any(" on " in line for line in known.lines)


def test_comparisons_need_the_columns(results):
    with pytest.raises(ValueError, match="lack the columns \\['inputs'\\]"):
        comparisons(results.drop(columns="inputs"))


def test_results_read_back_from_csv_are_the_same(results, tmp_path):
    results.to_csv(tmp_path / "r.csv", index=False)
    for a, b in zip(
        comparisons(results), comparisons(pd.read_csv(tmp_path / "r.csv")), strict=True
    ):
        assert a.lines == b.lines
        np.testing.assert_array_equal(a.value, b.value)


def test_the_modules_load_without_matplotlib_and_figures_need_no_display():
    code = (
        "import sys, os; os.environ.pop('DISPLAY', None); os.environ['MPLBACKEND'] = 'tkagg'\n"
        "from amodal_pipeline.visuals import audit_page, grids, overlays, plots, report\n"
        "assert 'matplotlib' not in sys.modules and 'torch' not in sys.modules\n"
        "plots.loss_curves({'a': [{'iteration': 0, 'loss': 1.0}]}).savefig(sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, "/dev/null"], check=True, timeout=120)


def _line_chart(**options):
    lines = {"a": (np.arange(3), np.array([10.0, np.nan, 30.0])), "b": (np.arange(2), [1.0, 2.0])}
    styles = dict(zip("ab", line_styles(2), strict=True))
    defaults = {"title": "T", "x_label": "x", "y_label": "y"}
    return line_chart(lines, styles, **(defaults | options))


def test_a_line_chart_has_a_line_a_name_in_its_style():
    axes = _line_chart().axes[0]
    assert [line.get_color() for line in axes.lines] == [c for c, _ in line_styles(2)]
    assert axes.get_xlim() == (0, 100) and axes.get_ylim() == (0, pytest.approx(33.6))


def test_counts_stand_below_the_ticks_of_a_line_chart():
    ticks = [(0, "none"), (1, "some"), (2, "all")]
    _, below = _line_chart(ticks=ticks, counts=[5, 1200, 0]).axes
    assert [bar.get_height() for bar in below.patches] == [5, 1200, 0]
    assert [t.get_text() for t in below.get_xticklabels()] == ["none", "some", "all"]
    assert "1\u00a0200" in _texts(below.figure)


def test_lines_that_share_a_colour_differ_in_their_dash():
    styles = line_styles(21)
    assert len(set(styles)) == 21 and {dash for _, dash in styles[:7]} == {"solid"}
