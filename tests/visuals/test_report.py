import base64
import dataclasses
import io
import re
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from parsed_page import Page
from PIL import Image

from amodal_pipeline.metrics.config import Protocol
from amodal_pipeline.visuals import page as pages
from amodal_pipeline.visuals import report
from amodal_pipeline.visuals.definitions import MAIN_METRICS, PROTOCOLS, definition
from amodal_pipeline.visuals.report import Material, write_report

EVIL = "<script>alert('1')</script>\"&"


pytestmark = pytest.mark.usefixtures("without_drawing")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "report"
    path.mkdir()
    Image.new("RGB", (30, 20), (9, 8, 7)).save(path / "small.png")
    return path


def whose(method="first", variant="full", inputs="image", **columns):
    return {"method": method, "variant": variant, "inputs": inputs, "seed": 0, **columns}


@pytest.fixture
def material(results):
    """Two methods, and a variant of the second, with everything a report can show."""
    more = pd.DataFrame(
        [
            whose("second", "small", metric="AP_amodal", value=30.5, note="cropped masks"),
            whose("second", metric="AP_visible", value=20.25, category="cup"),
            whose("second", metric="mIoU_odd", value=1.25),
        ]
    )
    known = {"dataset": "made up", "split": "test", "protocol": "coco", "n": 9, "run_id": "ab-cd"}
    more = more.assign(**known).fillna({"category": "all"})
    lines = (whose("first"), whose("second"), whose("second", "small"))
    objects = [
        line
        | {"instance_id": i, "image_id": i // 2, "occlusion_rate": rate, "matched": i != 1}
        | {"iou_full": 0.5, "iou_occluded": 0.25 if rate else None}
        for line in lines
        for i, rate in enumerate((0.0, 0.1, 0.3, 0.95))
    ]
    curves = [
        line | {"target": target, "iou": iou, "recall": recall, "precision": 1 - recall}
        for line in lines
        for target in ("amodal", "visible")
        for iou in (0.5, 0.75, None)
        for recall in (0.0, 0.5, 1.0)
    ]
    difference = {"protocol": "coco", "metric": "AP_amodal", "inputs": "image"}
    paired = [
        difference
        | {"a": a, "b": b, "difference": d, "low": d - 2.5, "high": d + 2.5, "probability": p}
        for a, b, d, p in (
            ("second", "first", -3.25, 0.125),
            ("second, small", "second", 0.75, 0.6),
        )
    ]
    published = whose("first", protocol="coco", metric="AP_amodal", ours=41.27, low=40.0)
    published |= {"high": 42.0, "published": 39.5, "paper": "a paper", "table": "4", "row": "ours"}
    return Material(
        pd.concat([results, more], ignore_index=True),
        pd.DataFrame(curves),
        pd.DataFrame(objects),
        pd.DataFrame(paired),
        pd.DataFrame([published | {"note": "another backbone"}]),
        "On the same data.",
        {"first": [{"iteration": i, "loss": 2.0 / i, "loss_mask": 1.0 / i} for i in range(1, 9)]},
        {
            "first": {
                **{"parameters": 4_650_000, "flops": 12_340_000_000, "height": 96, "width": 64},
                **{"images_per_second": 8.24, "device": "a board"},
            }
        },
    )


def _write(folder, results, **options):
    defaults = {
        "title": "Title",
        "dataset_summary": {"Images": "1 200"},
        "material": results if isinstance(results, Material) else Material(results),
        "figures": {"A caption": "small.png"},
    }
    path = write_report(folder, **(defaults | options))
    return path, path.read_text("utf-8")


def _sections(text):
    """Heading → the section's HTML."""
    found = re.findall(
        r"<section>.*?<h2>(.*?)</h2>.*?<div id=\"\w+\">(.*?)</div></details></section>", text, re.S
    )
    return dict(found)


def _plain(html):
    return " ".join(" ".join(Page(html).text).split())


def test_report_has_the_numbers_with_the_best_in_bold(folder, results):
    path, text = _write(folder, results, notes=["A note"], commands={"Compare": "mlflow ui -p 1"})
    assert path == folder / "report.html"
    page = Page(text)
    plain = " ".join(page.text)
    for expected in ("41.3", "38.1", "12.5", "11.5–13.8", "87.5", "67.6", "± 1.4", "n = 77"):
        assert expected in plain, expected
    assert "n = 1\u00a0234" in plain
    assert "<b>41.3</b>" in text and "<b>38.1" not in text
    assert "<b>12.5" not in text  # alone in its column
    for expected in ("1 200", "A note", "A caption", "mlflow ui -p 1", "first on detector"):
        assert expected in plain, expected
    assert definition("AP_amodal") in plain
    assert "99.0" not in _plain(_sections(text)["Results"])  # of one category


def test_all_material_has_a_folded_section(folder, material):
    (folder / "more.png").write_bytes((folder / "small.png").read_bytes())
    figures = {"One": "small.png", "Two": "more.png"}
    _, text = _write(folder, material, figures=figures, commands={"Compare": "mlflow ui"})
    assert list(_sections(text)) == [
        "Results",
        "Beside published numbers",
        "Compared in pairs",
        "By occlusion rate",
        "By category",
        "Precision and recall",
        "Pictures",
        "Training",
        "Cost",
        "Data and runs",
        "What the metrics mean",
        "Next steps",
    ]
    assert text.count("<section><details><summary>") == text.count("<section>") == 12
    ids = [value for name, value in Page(text).attributes if name == "id"]
    assert len(set(ids)) == 12


def _opening(text):
    """The first sentence, and what is seen before any section is unfolded."""
    before = text.split("<section>")[0]
    sentence = re.search(r"<p class=\"lead\">(.*?)</p>", before, flags=re.S)[1]
    return " ".join(re.sub("<[^>]+>", "", sentence).split()), before


def test_the_page_opens_with_one_sentence_and_one_picture(folder, material):
    (folder / "comparison.png").write_bytes((folder / "small.png").read_bytes())
    figures = {"Small": "small.png", "Compared": "comparison.png"}
    sentence, before = _opening(_write(folder, material, figures=figures)[1])
    assert sentence == (
        "On made up (test), first is best at finding whole objects (AP_amodal 41.3)."
    )
    assert before.count("<img") == 1 and "Compared" in before and "<table" not in before


def test_the_first_sentence_gives_intervals_and_doubts(folder, results):
    def opening(rows, **columns):
        known = {"dataset": "d", "split": "s", "protocol": "coco", "category": "all", "n": 9}
        table = results[:0].reindex(range(len(rows))).assign(**known, run_id="", variant="full")
        table[["method", "inputs", "metric", "value", "seed"]] = rows
        return _opening(_write(folder, Material(table.assign(**columns), paired=paired))[1])[0]

    below = {"inputs": "image", "protocol": "coco", "metric": "AP_amodal", "a": "a", "b": "b"}
    paired = pd.DataFrame(
        [below | {"difference": 2.0, "low": -1.0, "high": 5.0, "probability": 0.9}]
    )
    whole = [["a", "image", "AP_amodal", 42.0, 0], ["b", "image", "AP_amodal", 40.0, 0]]
    hidden = [["a", "true", "mIoU_occluded", 30.04, 0], ["b", "true", "mIoU_occluded", 29.96, 0]]
    assert opening(whole, low=39.0, high=44.0) == (
        "On d (s), a is best at finding whole objects "
        "(AP_amodal 42.0, 95 % interval 39.0 to 44.0, not clearly above b)."
    )
    assert opening(whole + hidden).endswith(
        "; no method is ahead at completing hidden parts, given the true visible masks "
        "(mIoU_occluded 30.0)."
    )
    third = [["c", "true", "mIoU_occluded", 1.0, 0]]
    assert "; a and b are level as best at completing" in opening(whole + hidden + third)
    paired = paired.assign(low=1.0)
    assert opening([whole[0], ["a", "image", "AP_amodal", 44.0, 1]]).endswith(
        "a is the only method measured at finding whole objects (AP_amodal 43.0 ± 1.4 over 2 runs)."
    )
    assert "clearly" not in opening(whole)


def test_what_there_is_nothing_of_has_no_section(folder, results):
    _, text = _write(folder, results, dataset_summary=())
    headings = list(_sections(text))
    assert "Cost" not in headings and "Training" not in headings and "Next steps" not in headings


def test_variants_are_folded_below_their_methods(folder, material):
    _, text = _write(folder, material)
    results = _sections(text)["Results"]
    before, folded = results.split("<summary>1 variant</summary>")
    assert "second, small" not in before and "30.5" not in before
    assert "30.5" in folded.split("</details>")[0]
    assert "30.5<sup>1</sup>" in results and "<li>cropped masks</li>" in results


def test_published_numbers_stand_beside_ours(folder, material):
    _, text = _write(folder, material)
    plain = _plain(_sections(text)["Beside published numbers"])
    for expected in ("On the same data.", "41.3", "40.0–42.0", "39.5", "+1.8", "another backbone"):
        assert expected in plain, expected
    assert "a paper, table 4: ours" in plain


def test_without_published_numbers_only_the_remark_is_there(folder, results):
    only = Material(results, published_remark="No paper has it.")
    section = _sections(_write(folder, only)[1])["Beside published numbers"]
    assert _plain(section) == "No paper has it." and "<table" not in section


def test_differences_are_bold_where_their_interval_leaves_out_zero(folder, material):
    section = _sections(_write(folder, material)[1])["Compared in pairs"]
    assert "<b>−3.2</b>" in section and "<b>+0.8</b>" not in section and "+0.8" in section
    plain = _plain(section)
    assert "−5.8 to −0.8" in plain and "above in 12 %" in plain
    assert "less second" in plain


def test_charts_come_with_a_legend_and_the_same_in_numbers(folder, material):
    _, text = _write(folder, material)
    for heading, charts in (("By occlusion rate", 4), ("Precision and recall", 9)):
        section = _sections(text)[heading]
        # Of the methods, and once more with the variants (visible parts only of the methods).
        assert section.count("data:image/svg+xml;base64,") == charts
        before, folded = section.split("<summary>With all variants</summary>")
        assert "second" in before and "second, small" not in before and "second, small" in folded
    numbers = _plain(_sections(text)["By occlusion rate"])
    assert "none 1 50.0, – 50.0, – 50.0, –" in numbers
    assert "≤10 % 1 50.0, 25.0" in numbers and "≤100 % 1 50.0, 25.0" in numbers


def test_rules_that_only_order_objects_have_no_masks_of_their_own(folder, material):
    rule = material.results[:1].assign(method="by_area", protocol="order", metric="order_accuracy")
    rules = dataclasses.replace(
        material,
        results=pd.concat([material.results, rule], ignore_index=True),
        objects=pd.concat([material.objects, material.objects[:4].assign(method="by_area")]),
    )
    sections = _sections(_write(folder, rules)[1])
    assert "by_area" in sections["Results"] and "by_area" not in sections["By occlusion rate"]


def test_cost_and_basis_name_what_was_measured(folder, material):
    sections = _sections(_write(folder, material)[1])
    cost = _plain(sections["Cost"])
    assert "first 4.65 M 12.3 G 96 × 64 8.2 a board" in cost
    basis = _plain(sections["Data and runs"])
    assert "ab-cd" in basis and "4 3 matched 3 2 matched" in basis
    assert "cropped masks (second, small, coco: AP_amodal)" in basis


def test_long_lists_of_categories_are_cut(folder, results, monkeypatch):
    monkeypatch.setattr(report, "MOST_CATEGORIES", 1)
    extra = results[results["category"] == "cup"].assign(category="box", value=7.0, n=2000)
    both = pd.concat([results, extra], ignore_index=True)
    section = _sections(_write(folder, both)[1])["By category"]
    before, folded = section.split("<summary>Further 1 categories</summary>")
    assert "box" in before and "cup" not in before and "cup" in folded
    assert "width:99.00%" in folded


def test_true_inputs_have_a_table_of_their_own(folder, results):
    _, text = _write(folder, results)
    tables = re.findall(r"<h3>.*?</table>", _sections(text)["Results"], flags=re.S)
    assert len(tables) == 3
    assert ["87.5" in t for t in tables] == ["true visible masks" in t for t in tables]


def test_all_text_is_escaped(folder, material):
    for name in ("it's <b>.png", "more.png"):
        (folder / name).write_bytes((folder / "small.png").read_bytes())
    evil = {}
    for name in ("results", "curves", "objects", "paired", "published"):
        table = getattr(material, name).copy()
        for column in table.select_dtypes(["object", "string"]):
            # The last row only, so that there are others as well.
            if column not in ("iou", "iou_occluded", "category"):
                table[column] = table[column].astype(object)
                table.loc[table.index[-1], column] = EVIL
        evil[name] = table
    evil["results"] = evil["results"].replace({"category": {"cup": EVIL}})
    evil["histories"] = {EVIL: material.histories["first"]}
    evil["costs"] = {EVIL: material.costs["first"] | {"device": EVIL}}
    options = {
        "title": EVIL,
        "dataset_summary": [(EVIL, EVIL)],
        "figures": {EVIL: "it's <b>.png", EVIL + EVIL: "more.png"},
        "notes": [EVIL],
        "commands": {EVIL: EVIL},
    }
    evil = dataclasses.replace(material, published_remark=EVIL, **evil)
    for limit in (report.EMBEDDED_BYTES, 0):
        report.EMBEDDED_BYTES, kept = limit, report.EMBEDDED_BYTES
        try:
            _, text = _write(folder, evil, **options)
        finally:
            report.EMBEDDED_BYTES = kept
        page = Page(text)
        assert "script" not in page.tags
        assert not any(name.startswith("on") for name, _ in page.attributes)
        for heading, section in _sections(text).items():
            assert "&lt;script&gt;" in section or heading == "What the metrics mean", heading


def test_nothing_is_loaded_from_elsewhere_and_equal_inputs_give_equal_bytes(
    folder, material, monkeypatch, without_drawing
):
    monkeypatch.setattr(pages, "drawn", without_drawing)
    path, text = _write(folder, material)
    written = path.read_bytes()
    assert _write(folder, material)[0].read_bytes() == written
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "svg"} & set(page.tags)
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) > 10 and all(s.startswith("data:image/") for s in sources)
    assert not [value for name, value in page.attributes if name == "href"]
    assert "http" not in text.replace("http-equiv", "") and "url(" not in text
    for packed in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text):
        drawn = base64.b64decode(packed).decode()
        assert not re.search(r"(href|src)=\"(?!#)|url\((?!#)|<script", drawn)


def test_embedded_picture_is_the_picture(folder, results):
    _, text = _write(folder, results)
    packed = re.search(r"data:image/png;base64,([^\"]+)", text).group(1)
    with Image.open(io.BytesIO(base64.b64decode(packed))) as image:
        assert image.size == (30, 20) and image.getpixel((0, 0)) == (9, 8, 7)


def test_large_pictures_are_made_smaller(folder, results):
    noise = np.random.default_rng(0).integers(0, 256, (600, 3000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    path, text = _write(folder, results, figures={"Noise": "noise.png"})
    assert "data:image/jpeg" in text and 'width="3000"' in text
    assert path.stat().st_size < (folder / "noise.png").stat().st_size


def test_beyond_the_limit_pictures_are_linked(folder, results, monkeypatch):
    monkeypatch.setattr(report, "EMBEDDED_BYTES", 180)
    (folder / "more").mkdir()
    Image.new("RGB", (30, 20)).save(folder / "more" / "second one.png")
    figures = {"One": "small.png", "Two": "more/second one.png"}
    _, text = _write(folder, results, figures=figures)
    assert text.count("data:image/png") == 1
    assert 'src="./more/second%20one.png"' in text
    assert "(in the file more/second one.png)" in text


@pytest.mark.parametrize("name", ["../outside.png", "gone.png", "damaged.png"])
def test_bad_pictures_are_named_and_no_report_is_left(folder, results, name):
    Image.new("RGB", (3, 2)).save(folder.parent / "outside.png")
    (folder / "damaged.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=re.escape(name)):
        _write(folder, results, figures={"A": name})
    assert sorted(p.name for p in folder.iterdir()) == ["damaged.png", "small.png"]


def test_a_report_without_results(folder, results):
    _, text = _write(folder, results[:0], figures={}, dataset_summary=())
    assert "There are no results yet." in text
    Page(text)


@pytest.mark.parametrize(
    "metric",
    [
        *MAIN_METRICS,
        *("AR1_box", "AP75_visible_occluded0", "AP_amodal_occluded12.5", "AR1000", "AR10_heavy"),
        *("AP_things", "AR100_stuff", "AP_none", "mIoU_full_per_category_post_matched"),
        *("IoU_dataset_post_common", "order_accuracy_decided", "order_coverage_occluding"),
        *("IoU_dataset_occluded_matched", "order_coverage_touching", "AP_top100_heavy_things"),
        *("AR_none_stuff", "AR1000_partial", "AP_top100", "mIoU_occluded_head_matched"),
    ],
)
def test_every_known_metric_is_defined(metric):
    assert len(definition(metric)) > 30


def test_definitions_follow_the_name():
    assert "above 15 %" in definition("AP50_amodal_occluded15")
    assert "occluded objects only" in definition("AR100_visible_occluded0")
    assert "detected objects only" in definition("mIoU_occluded_matched")
    assert "all compared methods detected" in definition("mIoU_full_common")
    assert "1000 detections" in definition("AR1000") and "things only" in definition("AP_things")
    assert "more than 25 %" in definition("AR10_heavy")
    assert definition("AR_heavy_stuff").endswith("by more than 25 %; stuff only.")
    assert definition("order_accuracy_touching").endswith("visible masks touch.")
    assert "different pasted occluders" in definition("occluder_consistency")
    assert definition("mIoU_occluded") != definition("mIoU_full")
    line = definition("mIoU_occluded_zero_per_frame_partly_occluded_post_video")
    assert all(part in line for part in ("0 in frames", "then over frames", "10–70 %", "elsewhere"))
    unknown = ("madness", "AP_nothing", "AR_amodal", "AP_matched", "IoU_dataset_per_category", "")
    unknown += ("AR_top100", "AP_things_none", "AP_touching")
    assert {definition(name) for name in unknown} == {""}


def test_every_protocol_of_the_evaluator_is_explained():
    assert {*get_args(Protocol), "vrsp_released"} <= PROTOCOLS.keys()
