import base64
import io
import re

import numpy as np
import pytest
from parsed_page import Page
from PIL import Image

from amodal_pipeline.visuals import report
from amodal_pipeline.visuals.definitions import MAIN_METRICS, definition
from amodal_pipeline.visuals.report import write_report

EVIL = "<script>alert('1')</script>\"&"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "report"
    path.mkdir()
    Image.new("RGB", (30, 20), (9, 8, 7)).save(path / "small.png")
    return path


def _write(folder, results, **options):
    defaults = {
        "title": "Title",
        "dataset_summary": {"Images": "1 200"},
        "results": results,
        "figures": {"A caption": "small.png"},
    }
    path = write_report(folder, **(defaults | options))
    return path, path.read_text("utf-8")


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
    assert "99.0" not in plain  # of one category


def test_true_inputs_have_a_table_of_their_own(folder, results):
    _, text = _write(folder, results)
    tables = re.findall(r"<h3>.*?</table>", text, flags=re.S)
    assert len(tables) == 3
    assert ["87.5" in t for t in tables] == ["true visible masks" in t for t in tables]


def test_all_text_is_escaped(folder, results):
    (folder / "it's <b>.png").write_bytes((folder / "small.png").read_bytes())
    for name in ("dataset", "split", "method", "variant", "inputs", "protocol", "metric"):
        results[name] = results[name].astype(object)
        results.loc[0, name] = EVIL
    options = {
        "title": EVIL,
        "dataset_summary": [(EVIL, EVIL)],
        "figures": {EVIL: "it's <b>.png"},
        "notes": [EVIL],
        "commands": {EVIL: EVIL},
    }
    for limit in (report.EMBEDDED_BYTES, 0):
        report.EMBEDDED_BYTES, kept = limit, report.EMBEDDED_BYTES
        try:
            _, text = _write(folder, results, **options)
        finally:
            report.EMBEDDED_BYTES = kept
        page = Page(text)
        assert "script" not in page.tags
        assert not any(name.startswith("on") for name, _ in page.attributes)
        assert "".join(page.text).count("<script>") >= 8


def test_nothing_is_loaded_from_elsewhere(folder, results):
    _, text = _write(folder, results)
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,")
    assert "http" not in text.replace("http-equiv", "") and "url(" not in text


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


def test_equal_inputs_give_equal_bytes(folder, results):
    path, _ = _write(folder, results)
    first = path.read_bytes()
    assert _write(folder, results)[0].read_bytes() == first


@pytest.mark.parametrize("metric", [*MAIN_METRICS, "AR1_box", "AP75_visible_occluded0"])
def test_every_known_metric_is_defined(metric):
    assert len(definition(metric)) > 30


def test_definitions_follow_the_name():
    assert "above 15 %" in definition("AP50_amodal_occluded15")
    assert "occluded objects only" in definition("AR100_visible_occluded0")
    assert "detected objects only" in definition("mIoU_occluded_matched")
    assert definition("mIoU_occluded") != definition("mIoU_full")
    assert definition("madness") == definition("AP_nothing") == definition("AP") == ""
