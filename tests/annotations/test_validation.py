import numpy as np
import pytest

from amodal_pipeline.annotations import Category, Repair, build, rle
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.annotations.validation import finding, join, reject_images

SIZE = (20, 30)
CATEGORIES = (Category(id=4, name="car"), Category(id=2, name="cow"))


def box_mask(x0, y0, x1, y1, size=SIZE):
    mask = np.zeros((1, *size), np.uint8)
    mask[0, y0:y1, x0:x1] = 1
    return rle.encode(mask)[0]


def images(**changes):
    columns = {
        "image_id": [7, 3],
        "file_name": ["b.png", "a/a.png"],
        "height": [SIZE[0]] * 2,
        "width": [SIZE[1]] * 2,
    }
    return columns | changes


def instances(row=None, **changes):
    """Three good instances; ``changes`` replace values of one row."""
    columns = {
        "instance_id": [10, 11, 12],
        "image_id": [7, 3, 3],
        "category_id": [4, 2, 4],
        "amodal_rle": [
            box_mask(0, 0, 10, 10),
            box_mask(0, 0, 10, 10),
            box_mask(5, 0, 15, 10),
        ],
        "visible_rle": [
            box_mask(2, 0, 10, 10),
            box_mask(0, 0, 10, 10),
            box_mask(10, 0, 15, 10),
        ],
    }
    for name, value in changes.items():
        columns[name][row] = value
    return columns


ORDER = {"image_id": [3], "occluder_id": [11], "occludee_id": [12]}


def built(**changes):
    arguments = {
        "dataset": "made_up",
        "split": "train",
        "categories": CATEGORIES,
        "image_root": "images",
        "images": images(),
        "instances": instances(),
        "order": ORDER,
        "file": "truth.json",
    }
    return build(**(arguments | changes))


def assert_accounting(annotations):
    for kind, table in (
        ("images", annotations.images),
        ("instances", annotations.instances),
        ("order", annotations.order),
    ):
        a = annotations.metadata.accounting[kind]
        assert a.read == a.kept + a.repaired + a.rejected
        assert len(table) == a.kept + a.repaired
    everything = annotations.metadata.accounting.values()
    assert len(annotations.rejected) == sum(a.rejected for a in everything)
    assert len(annotations.repaired) == sum(a.repaired for a in everything)


def test_good_records_are_kept_and_completed():
    annotations = built()
    assert_accounting(annotations)
    assert len(annotations.rejected) == len(annotations.repaired) == 0
    table = annotations.instances
    assert table["image_id"].tolist() == [3, 3, 7]  # sorted by image
    assert table["instance_id"].tolist() == [11, 12, 10]
    np.testing.assert_allclose(table["occlusion_rate"].to_numpy(), [0, 0.5, 0.2], rtol=1e-6)
    np.testing.assert_array_equal(
        boxes(table["amodal_box"]), [[0, 0, 10, 10], [5, 0, 10, 10], [0, 0, 10, 10]]
    )
    np.testing.assert_array_equal(boxes(table["visible_box"])[1], [10, 0, 5, 10])
    assert table["is_thing"].all()
    assert not table["ignore"].any()
    assert annotations.order["area"].tolist() == [50]
    assert annotations.sizes.tolist() == [list(SIZE)] * 3


def test_fully_hidden_objects_are_kept_without_a_visible_box():
    annotations = built(instances=instances(0, visible_rle=box_mask(0, 0, 0, 0)))
    row = annotations.of_image(7).iloc[0]
    assert row["occlusion_rate"] == 1
    assert annotations.instances["visible_box"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"instance_id": None}, "instance_id", "is missing"),
        ({"image_id": 99}, "image_id", "not there or was rejected"),
        ({"image_id": None}, "image_id", "not there or was rejected"),
        ({"category_id": 9}, "category_id", "names no category"),
        ({"category_id": None}, "category_id", "names no category"),
        ({"amodal_rle": None}, "amodal_rle", "is missing"),
        ({"visible_rle": None}, "visible_rle", "is missing"),
        ({"amodal_rle": "~~~"}, "amodal_rle", "damaged"),
        ({"visible_rle": "~~~"}, "visible_rle", "damaged"),
        ({"amodal_rle": box_mask(0, 0, 9, 9, (20, 31))}, "amodal_rle", "cover 620 pixels"),
        ({"visible_rle": box_mask(2, 0, 9, 9, (19, 30))}, "visible_rle", "the image 20x30 has 600"),
        ({"amodal_rle": box_mask(0, 0, 0, 0)}, "amodal_rle", "is empty"),
        ({"visible_rle": box_mask(0, 0, 20, 10)}, "visible_rle", "50.0% of the visible mask"),
    ],
)
@pytest.mark.parametrize("repairs", [frozenset(), frozenset({Repair.VISIBLE_OUTSIDE_AMODAL})])
def test_a_bad_instance_is_rejected_with_its_reason(change, field, reason, repairs):
    annotations = built(instances=instances(0, **change), order=None, repairs=repairs)
    assert_accounting(annotations)
    assert len(annotations.instances) == 2
    finding = annotations.rejected.iloc[0]
    assert finding["file"] == "truth.json"
    assert finding["record"].startswith("instance")
    assert finding["field"] == field
    assert reason in finding["reason"]


def test_the_second_instance_of_an_id_is_rejected():
    annotations = built(instances=instances(2, instance_id=10), order=None)
    assert_accounting(annotations)
    assert annotations.instances["instance_id"].tolist() == [11, 10]
    assert annotations.instances["image_id"].tolist() == [3, 7]
    assert annotations.rejected["reason"].tolist() == ["is used twice"]


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"image_id": [7, 7]}, "image_id", "is used twice"),
        ({"image_id": [7, None]}, "image_id", "is missing"),
        ({"file_name": ["b.png", "../a.png"]}, "file_name", "is not a relative path"),
        ({"file_name": ["b.png", "/a.png"]}, "file_name", "is not a relative path"),
        ({"file_name": ["b.png", None]}, "file_name", "is not a relative path"),
        ({"height": [20, 0]}, "height", "is not between 1 and"),
        ({"width": [30, None]}, "width", "is not between 1 and"),
    ],
)
def test_a_bad_image_is_rejected_with_its_instances_and_pairs(change, field, reason):
    annotations = built(images=images(**change))
    assert_accounting(annotations)
    first = annotations.rejected.iloc[0]
    assert first["record"].startswith("image")
    assert first["field"] == field
    assert reason in first["reason"]
    assert annotations.images["image_id"].tolist() == [7]
    assert annotations.instances["instance_id"].tolist() == [10]
    accounting = annotations.metadata.accounting
    assert accounting["images"].rejected == 1
    assert accounting["instances"].rejected == 2
    assert accounting["order"].rejected == 1


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ((3, 11, 99), "names an instance that is not there"),
        ((3, None, 12), "names an instance that is not there"),
        ((3, 11, 10), "names an instance of another image"),
        ((7, 11, 12), "names an instance of another image"),
        ((3, 11, 11), "is the occluder itself"),
        ((3, 11, 12), "twice"),
        ((3, 11, 13), "do not overlap"),
    ],
)
def test_a_bad_pair_is_rejected_with_its_reason(pair, reason):
    given = instances()
    apart = box_mask(20, 12, 25, 18)
    for name, value in zip(given, [13, 3, 4, apart, apart], strict=True):
        given[name].append(value)
    order = {name: [*ORDER[name], value] for name, value in zip(ORDER, pair, strict=True)}
    annotations = built(instances=given, order=order)
    assert_accounting(annotations)
    assert len(annotations.order) == 1
    assert annotations.rejected["record"][0].startswith("order pair")
    assert reason in annotations.rejected["reason"][0]


def test_two_objects_may_be_in_front_of_one_another():
    both = {"image_id": [3, 3], "occluder_id": [11, 12], "occludee_id": [12, 11]}
    annotations = built(order=both)
    assert annotations.order["area"].tolist() == [50, 50]


@pytest.mark.parametrize(
    ("outside", "mended"), [(0, True), (1, True), (10, True), (11, False), (50, False)]
)
def test_visible_outside_amodal_is_cut_up_to_a_tenth(outside, mended):
    """A visible mask of 100 pixels, ``outside`` of them beyond the amodal mask's lower edge."""
    canvas = np.zeros((2, 30, 30), np.uint8)
    canvas[0, :20, :10] = 1
    column, row = np.arange(100) % 10, np.arange(100) // 10
    canvas[1, np.where(np.arange(100) < outside, row + 20, row + 10), column] = 1
    assert canvas[1].sum() == 100
    assert (canvas[1] > canvas[0]).sum() == outside
    amodal, visible = rle.encode(canvas)
    given = {
        "images": {"image_id": [1], "file_name": ["a"], "height": [30], "width": [30]},
        "instances": {
            "instance_id": [5],
            "image_id": [1],
            "category_id": [4],
            "amodal_rle": [amodal],
            "visible_rle": [visible],
        },
        "order": None,
    }
    annotations = built(**given, repairs=frozenset({Repair.VISIBLE_OUTSIDE_AMODAL}))
    assert_accounting(annotations)
    accounting = annotations.metadata.accounting["instances"]
    assert accounting.repaired == int(mended and outside > 0)
    assert accounting.rejected == int(not mended)
    if mended:
        inside = canvas[1] & canvas[0]
        found = rle.decode(annotations.instances["visible_rle"].tolist(), (30, 30))[0]
        np.testing.assert_array_equal(found, inside)
        rate = annotations.instances["occlusion_rate"][0]
        assert rate == pytest.approx(1 - inside.sum() / 200)
    if accounting.repaired:
        finding = annotations.repaired.iloc[0]
        assert finding["record"] == "instance 5"
        assert finding["field"] == "visible_rle"
        assert finding["share"] == pytest.approx(outside / 100)
    if outside and mended:
        assert built(**given).metadata.accounting["instances"].rejected == 1  # not a known fault


def test_what_a_reader_rejected_counts_as_read():
    early = [finding("truth.json", "instance 99", "segm", "is a letter")]
    annotations = built(rejected=early)
    assert_accounting(annotations)
    assert annotations.metadata.accounting["instances"].read == 4
    assert annotations.rejected["record"].tolist() == ["instance 99"]


def test_nothing_usable_is_an_error():
    with pytest.raises(ValueError, match=r"truth\.json: no image is usable: image 7: .*relative"):
        built(images=images(file_name=["/a", "/b"]))
    with pytest.raises(ValueError, match="two categories have the same id"):
        built(categories=(Category(id=4, name="car"), Category(id=4, name="cow")))
    with pytest.raises(ValueError, match=r"unknown columns \['bbox'\]"):
        built(instances=instances() | {"bbox": [0, 0, 0]})


def test_images_without_instances_are_kept():
    empty = {name: [] for name in instances()}
    annotations = built(instances=empty, order=None)
    assert_accounting(annotations)
    assert len(annotations.images) == 2
    assert len(annotations.instances) == 0


def test_files_of_a_split_become_one_table(caplog):
    whole = built(sources={"a.json": "0"})
    other = built(sources={"b.json": "1"})
    joined = join([whole, other])
    n = len(whole.instances)
    assert len(joined.instances) == 2 * n
    assert joined.instances["instance_id"].is_unique and joined.images["image_id"].is_unique
    assert joined.instances["image_id"].is_monotonic_increasing
    assert "collide" in caplog.text
    counted, once = joined.metadata.accounting, whole.metadata.accounting
    for kind in once:
        assert counted[kind].read == 2 * once[kind].read
    assert_accounting(joined)
    later = joined.instances.iloc[n:]
    assert later["amodal_rle"].tolist() == whole.instances["amodal_rle"].tolist()
    assert set(later["image_id"]) <= set(joined.images["image_id"])
    assert len(joined.order) == 2 * len(whole.order) == 2
    assert set(joined.order["occluder_id"]) <= set(joined.instances["instance_id"])
    assert joined.metadata.sources == {"a.json": "0", "b.json": "1"}
    assert join([whole]) is whole
    with pytest.raises(ValueError, match="different split"):
        join([whole, built(split="val")])


def test_rejecting_images_takes_their_objects_and_pairs_along():
    table = built()
    gone = table.instances["image_id"].iloc[0]
    problems = [("file_name", "missing") if i == gone else None for i in table.images["image_id"]]
    less = reject_images(table, problems)
    assert gone not in set(less.images["image_id"]) | set(less.instances["image_id"])
    assert gone not in set(less.order["image_id"])
    assert_accounting(less)
    for kind, counted in less.metadata.accounting.items():
        assert counted.read == table.metadata.accounting[kind].read
    lost = len(table.instances) - len(less.instances)
    assert lost > 0
    assert less.metadata.accounting["instances"].rejected == lost
    assert less.fingerprint != table.fingerprint
    assert reject_images(table, [None] * len(problems)) is table
    with pytest.raises(ValueError, match="none of the"):
        reject_images(table, [("file_name", "missing")] * len(problems))


def test_repairs_of_joined_files_stay_with_their_records():
    """Both files have an instance 11; only the second one's was mended."""
    outside = instances(1, visible_rle=box_mask(0, 0, 10, 10)) | {
        "amodal_rle": [box_mask(0, 0, 10, 10), box_mask(0, 0, 10, 9), box_mask(5, 0, 15, 10)]
    }
    cut = frozenset({Repair.VISIBLE_OUTSIDE_AMODAL})
    joined = join([built(), built(instances=outside, repairs=cut)])
    assert joined.repaired["record"].tolist() == ["instance 111"]
    assert 111 in set(joined.instances["instance_id"])
    for image_id, repaired in ((3, 1), (103, 0)):
        problems = [
            ("file_name", "missing") if i == image_id else None for i in joined.images["image_id"]
        ]
        less = reject_images(joined, problems)
        assert less.metadata.accounting["instances"].repaired == repaired
        assert_accounting(less)
