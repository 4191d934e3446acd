"""The published numbers: every one stands in its paper's table, in its place; ours join them."""

import csv
import re
from decimal import Decimal
from itertools import groupby
from pathlib import Path

import pytest

from amodal_pipeline.annotations import Category, PredictionsMetadata
from amodal_pipeline.metrics.published import BESIDE, PUBLISHED, beside, read_published
from amodal_pipeline.metrics.results import Measurement, join, rows

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "published.csv"
PAPERS = ROOT.parent / "shared" / "papers"
TABLES = {
    ("vrsp", "1"): 5,
    ("vrsp", "2"): 6,
    ("vrsp", "3"): 4,
    ("orcnn", "1"): 2,
    ("orcnn", "2"): 3,
    ("orcnn", "3"): 7,
    ("orcnn", "4"): 5,
    ("orcnn", "6"): 8,
    ("sln", "1"): 4,
    ("sln", "2"): 2,
    ("sln", "3"): 2,
    ("a3d", "1"): 6,
    ("a3d", "2"): 7,
    ("a3d", "3"): 6,
    ("c2f_seg", "1"): 6,
    ("c2f_seg", "2"): 6,
    ("c2f_seg", "3"): 3,
    ("c2f_seg", "4"): 2,
    ("c2f_seg", "B.1"): 7,
    ("c2f_seg", "B.2"): 3,
    ("c2f_seg", "B.3"): 2,
}
"""Every table of results of the five papers (ORCNN's Table 5 counts images), with its rows."""
CAPTION_ABOVE = ("orcnn", "a3d")
NUMBER = re.compile(r"\d*\.\d+")


def as_written():
    """The file's rows as text: "30.10" is not "30.1"."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def printed(paper, table):
    """(name, numbers) of each line of a table in a paper's text, numbers as printed."""
    lines = (PAPERS / f"{paper}.txt").read_text(encoding="utf-8").split("\n")
    (caption,) = (
        i for i, line in enumerate(lines) if re.match(rf"\s*Table {re.escape(table)}[.:]", line)
    )
    step = 1 if paper in CAPTION_ABOVE else -1
    at = caption + step
    while "\t" not in lines[at]:
        at += step
    block = []
    while "\t" in lines[at]:
        block.append(lines[at])
        at += step
    found = []
    for line in block[::step]:
        cells = [re.sub(r"<[^>]+>", "", cell).strip() for cell in line.split("\t")]
        if (paper, table) == ("a3d", "2"):
            cells = cells[:-2]  # operations and parameters
        if (paper, table) == ("a3d", "3"):
            cells = cells[1:]  # an index before the name
        numbers = [cell for cell in cells[1:] if NUMBER.fullmatch(cell)]
        if numbers:
            name = re.sub(r"\s*\[[^]]*\]| _\{[A-Z]+'\d+\}", "", cells[0])
            found.append((re.sub(r"[{}]", "", name).strip(), numbers))
    return found


@pytest.mark.skipif(not PAPERS.is_dir(), reason=f"the papers' texts are not at {PAPERS}")
@pytest.mark.parametrize(("paper", "table"), TABLES)
def test_a_table_is_copied_whole_number_by_number(paper, table):
    ours = [row for row in as_written() if (row["paper"], row["table"]) == (paper, table)]
    groups = groupby(ours, lambda row: (row["row"], row["dataset"] * (paper == "orcnn")))
    copied = [(key[0], [row["value"] for row in group]) for key, group in groups]
    theirs = printed(paper, table)
    assert len(theirs) == TABLES[paper, table]
    if (paper, table) == ("sln", "2"):  # printed as fractions
        theirs = [(name, [str(float(Decimal(x) * 100)) for x in xs]) for name, xs in theirs]
    # "K = 3" and "GT VM ✓" name the column's head too.
    assert [
        name if row.endswith(f" {name}") else row
        for (row, _), (name, _) in zip(copied, theirs, strict=True)
    ] == [name for name, _ in theirs]
    assert [values for _, values in copied] == [values for _, values in theirs]


def test_the_file_holds_the_five_papers():
    published = read_published(FILE)
    assert {*zip(published["paper"], published["table"], strict=True)} == set(TABLES)
    assert list(published.columns) == PUBLISHED.names
    assert len(published) == len(as_written())


def value(published, paper, table, row, dataset, metric, **more):
    chosen = published
    wanted = {"paper": paper, "table": table, "row": row, "dataset": dataset, "metric": metric}
    for name, text in (wanted | more).items():
        chosen = chosen[chosen[name] == text]
    assert len(chosen) == 1
    return chosen["value"].item()


def test_copies_agree_with_what_they_were_copied_from():
    """Columns were assigned by hand: a wrong one would not agree with the other papers' tables."""
    published = read_published(FILE)
    copies = published[published["note"].str.startswith("copied from VRSP's table 1")]
    names = {"mask_rcnn": "Mask RCNN", "orcnn": "ORCNN", "vrsp": "Our method"}
    for row in copies.itertuples():
        original = value(published, "vrsp", "1", names[row.method], row.dataset, row.metric)
        assert abs(original - row.value) <= 0.0501, row
    assert len(copies) == 9 + 5 * 4
    again = published[published["note"].str.contains("the (?:model|value) of table", regex=True)]
    keys = ["paper", "method", "variant", "dataset", "inputs", "metric", "category"]
    first = published.drop(again.index)
    both = again.merge(first[[*keys, "value"]], on=keys, suffixes=("", "_first"))
    assert len(both) == len(again) == 9 + 6 + 7 * 3 + 5 * 4
    assert (both["value"] == both["value_first"]).all()
    assert not again["comparable"].any()


def test_means_over_categories():
    published = read_published(FILE)
    table = published[(published["paper"] == "a3d") & (published["table"] == "1")]
    wrong = []
    for row, group in table.groupby("row", sort=False):
        own = group[group["category"] != "all"]["value"]
        assert len(own) == 13
        mean = group[group["category"] == "all"]["value"].item()
        if abs(own.mean() - mean) > 0.06:
            wrong.append(row)
            assert "not the mean" in group[group["category"] == "all"]["note"].item()
    assert wrong == ["Deocclusion", "BCNet"]


@pytest.mark.parametrize(
    ("paper", "table", "row", "dataset", "metric", "expected", "comparable"),
    [
        ("vrsp", "1", "Our method", "kins", "AP_amodal_occluded15", 37.40, True),
        ("vrsp", "2", "6", "kins", "AP_amodal_occluded15", 37.57, False),
        ("vrsp", "1", "ORCNN", "cocoa_cls", "AP_visible", 30.80, True),
        ("vrsp", "1", "SLN", "d2sa", "AP_amodal", 25.10, False),
        ("vrsp", "2", "4", "d2sa", "AR1_amodal", 68.30, True),
        ("orcnn", "6", "ORCNN (cls-agn)", "d2sa", "AP_visible_occluded0", 65.3, True),
        ("orcnn", "1", "AmodalMRCNN-50", "cocoa", "AR1000_things", 50.4, True),
        ("sln", "1", "SLN (ours)", "cocoa", "AR_heavy_stuff", 18.6, True),
        ("sln", "3", "SLN (ours)", "d2sa", "AR_heavy", 57.2, True),
        ("sln", "1", "ARCNN", "cocoa", "AP_top100", 4.1, False),
        ("a3d", "2", "BCNet", "kins", "AP_amodal", 22.1, False),
        ("a3d", "2", "Ours (w/ pretrain)", "cocoa_cls", "mIoU_full", 67.4, False),
        ("c2f_seg", "1", "Mask R-CNN", "cocoa_cls", "AP_amodal", 28.0, False),
        ("c2f_seg", "1", "C2F-Seg (ours)", "kins", "mIoU_occluded_post", 53.60, False),
        (
            "c2f_seg",
            "2",
            "C2F-Seg (ours)",
            "movid_a",
            "mIoU_occluded_zero_per_object_post_video",
            36.13,
            True,
        ),
    ],
)
def test_numbers_the_papers_are_cited_for(paper, table, row, dataset, metric, expected, comparable):
    published = read_published(FILE)
    assert value(published, paper, table, row, dataset, metric, comparable=comparable) == expected


LINE = {
    "paper": "vrsp",
    "table": "1",
    "row": "ORCNN",
    "method": "orcnn",
    "variant": "full",
    "dataset": "kins",
    "split": "val",
    "inputs": "image",
    "protocol": "coco",
    "category": "all",
    "metric": "AP_amodal",
    "value": "30.64",
    "note": "",
    "comparable": "true",
}


def write(path, *lines):
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(lines[0])
        table.writerows(line.values() for line in lines)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "101"}, r"line 3, column value: .*'101'"),
        ({"value": "-0.1"}, "line 3, column value"),
        ({"value": "nan"}, "line 3, column value"),
        ({"value": "about 30"}, "line 3, column value"),
        ({"protocol": "kitti"}, "line 3, column protocol"),
        ({"metric": "AP_amodel"}, "line 3, column metric"),
        ({"metric": "AP_amodal_occluded"}, "line 3, column metric"),
        ({"metric": "mIoU"}, "line 3, column metric"),
        ({"dataset": "COCOA cls"}, "line 3, column dataset"),
        ({"comparable": "yes"}, "line 3, column comparable"),
        ({"row": ""}, "line 3, column row"),
        ({"comparable": "false"}, "line 3, column note: say why"),
        ({}, "line 3 gives the same number as line 2"),
        ({"comparable": "true", "extra": "1"}, "line 3, column .*more fields"),
    ],
)
def test_lines_that_cannot_be_are_refused(tmp_path, change, message):
    path = write(tmp_path / "numbers.csv", LINE, LINE | change)
    with pytest.raises(ValueError, match=rf"numbers\.csv, {message}"):
        read_published(path)


def test_files_that_are_no_such_table_are_refused(tmp_path):
    path = tmp_path / "numbers.csv"
    for content, message in (
        (b"", r"line 1: columns \[\]"),
        (b"paper,table\nvrsp,1\n", r"line 1: columns \['paper', 'table'\]"),
        (",".join([*LINE, "unit"]).encode(), "line 1: columns .*'unit'"),
        (",".join(LINE).encode() + b'\nvrsp,"1"x,a', "line 2: "),
        (",".join(LINE).encode() + b"\nvrsp,1,a\xff", "not UTF-8"),
        (",".join(LINE).encode() + b"\nvrsp,1,a", "line 2, column method"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"numbers\.csv.* {message}"):
            read_published(path)


def test_reading_keeps_text_and_numbers(tmp_path):
    notes = LINE | {
        "note": 'a "quoted", note',
        "comparable": "false",
        "row": "None",
        "table": "B.1",
    }
    table = read_published(write(tmp_path / "numbers.csv", LINE, notes))
    assert table.iloc[0].to_dict() == LINE | {"value": 30.64, "comparable": True}
    assert table.iloc[1].to_dict() == notes | {"value": 30.64, "comparable": False}
    (tmp_path / "empty.csv").write_text("\ufeff" + ",".join(LINE), encoding="utf-8")
    assert len(read_published(tmp_path / "empty.csv")) == 0


def some(metric="AP_amodal", value=31.0, protocol="coco", category="all", note="", **changes):
    described = {"dataset": "kins", "split": "val", "method": "orcnn", "image_root": "."}
    described |= {"categories": (Category(id=1, name="car"),)}
    measured = Measurement(metric, value, 10, category, low=value - 1, high=value + 1)
    metadata = PredictionsMetadata(**(described | changes))
    return rows(metadata, protocol, [measured]).assign(note=note)


def test_ours_on_videos_beside_theirs():
    video = {"dataset": "movid_a", "method": "c2f_seg_video", "inputs": "true", "variant": "full"}
    metric = "mIoU_occluded_zero_per_object_post_video"
    table = beside(some(metric, 40.0, "video", **video), read_published(FILE))
    assert table[["table", "published"]].to_numpy().tolist() == [["2", 36.13]]


def test_ours_beside_theirs(tmp_path):
    published = read_published(
        write(
            tmp_path / "numbers.csv",
            LINE,
            LINE | {"paper": "a3d", "table": "2", "value": "30.6", "note": "rounded"},
            LINE | {"table": "9", "comparable": "false", "note": "a misprint"},
            LINE | {"category": "car", "value": "40.0"},
        )
    )
    ours = join([some("AP_visible", 20.0), some(note="few"), some(category="car", value=41.0)])
    table = beside(ours, published)
    assert list(table.columns) == BESIDE.names
    assert table.iloc[0].to_dict() == {
        "dataset": "kins",
        "method": "orcnn",
        "variant": "full",
        "inputs": "image",
        "protocol": "coco",
        "metric": "AP_amodal",
        "ours": 31.0,
        "low": 30.0,
        "high": 32.0,
        "published": 30.64,
        "paper": "vrsp",
        "table": "1",
        "row": "ORCNN",
        "note": "ours: few",
    }
    assert table["published"].tolist() == [30.64, 30.6]
    assert table["note"].tolist() == ["ours: few", "rounded; ours: few"]


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "d2sa"},
        {"split": "test"},
        {"method": "mask_rcnn"},
        {"variant": "class_agnostic"},
        {"inputs": "true"},
        {"protocol": "coco_agnostic"},
        {"metric": "AP50_amodal"},
        {"value": float("nan")},
    ],
)
def test_what_differs_is_not_beside(tmp_path, change):
    published = read_published(write(tmp_path / "numbers.csv", LINE))
    assert len(beside(some(), published)) == 1
    assert len(beside(some(**change), published)) == 0


def test_another_detector_is_beside_and_true_masks_are_not(tmp_path):
    path = write(
        tmp_path / "numbers.csv",
        LINE | {"method": "c2f_seg", "inputs": "aisformer"},
        LINE | {"method": "c2f_seg", "inputs": "true", "value": "50.0"},
    )
    published = read_published(path)
    detected = beside(some(method="c2f_seg", inputs="orcnn"), published)
    assert detected[["inputs", "published"]].to_numpy().tolist() == [["orcnn", 30.64]]
    known = beside(some(method="c2f_seg", inputs="true"), published)
    assert known[["inputs", "published"]].to_numpy().tolist() == [["true", 50.0]]
    # Who knows the boxes knows more.
    assert not len(beside(some(method="c2f_seg", inputs="true_boxes"), published))
    # A file of masks is what its name says only where it is one of these two.
    outside = beside(some(method="c2f_seg", inputs="true_masks"), published)
    assert outside["published"].tolist() == [30.64]


def test_beside_nothing(tmp_path):
    published = read_published(write(tmp_path / "numbers.csv", LINE))
    assert list(beside(some()[:0], published).columns) == BESIDE.names
    assert len(beside(some(), published[:0])) == 0
    assert len(beside(some(dataset="scenes"), published)) == 0
