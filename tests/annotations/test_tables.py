import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amodal_pipeline.annotations import (
    AmodalAnnotations,
    Category,
    Predictions,
    PredictionsMetadata,
    build,
    rle,
)
from amodal_pipeline.annotations.tables import (
    IMAGES,
    INSTANCES,
    PREDICTION_ORDER,
    PREDICTIONS,
    boxes,
    concat,
    frame,
)

FULL = rle.encode(np.ones((1, 4, 6), np.uint8))[0]
EMPTY = rle.encode(np.zeros((1, 4, 6), np.uint8))[0]
LEFT = rle.encode((np.arange(6) < 3)[None, None].repeat(4, axis=1))[0]
TABLES = ("images", "instances", "order", "repaired", "rejected")


def annotations(**changes):
    arguments = {
        "dataset": "made_up",
        "split": "train",
        "categories": (Category(id=1, name="car"),),
        "image_root": "here",
        "images": {
            "image_id": [3, 1, 2],
            "file_name": ["c", "a", "b"],
            "height": [4] * 3,
            "width": [6] * 3,
            "video_id": [None, 8, 8],
            "frame": [None, 0, 1],
        },
        "instances": {
            "instance_id": [1, 2, 3, 4],
            "image_id": [1, 1, 3, 9],
            "category_id": [1] * 4,
            "amodal_rle": [FULL, FULL, LEFT, FULL],
            "visible_rle": [EMPTY, FULL, LEFT, FULL],
        },
        "order": {"image_id": [1], "occluder_id": [2], "occludee_id": [1]},
        "sources": {"truth.json": "12ab"},
    }
    return build(**(arguments | changes))


def predictions():
    return Predictions(
        PredictionsMetadata(
            dataset="made_up",
            split="train",
            method="orcnn",
            categories=(Category(id=1, name="car"),),
            image_root="here",
        ),
        annotations().images,
        frame(
            PREDICTIONS,
            {
                "prediction_id": [1, 2],
                "image_id": [1, 3],
                "category_id": [1, 1],
                "score": [0.5, 0.25],
                "amodal_rle": [FULL, None],
                "visible_rle": [None, LEFT],
                "amodal_box": [[0, 0, 6, 4], [np.nan] * 4],
            },
        ),
        frame(PREDICTION_ORDER, {"image_id": [1], "front_id": [1], "back_id": [2], "score": [0.5]}),
    )


def assert_same(a, b, tables):
    assert a.metadata == b.metadata
    for name in tables:
        pd.testing.assert_frame_equal(getattr(a, name), getattr(b, name))


def test_annotations_round_trip(tmp_path):
    truth = annotations()
    assert truth.instances["visible_box"].isna().tolist() == [True, False, False]
    truth.save(tmp_path / "table")
    again = AmodalAnnotations.load(tmp_path / "table")
    assert_same(truth, again, TABLES)
    np.testing.assert_array_equal(
        boxes(again.instances["visible_box"]), [[np.nan] * 4, [0, 0, 6, 4], [0, 0, 3, 4]]
    )
    assert len(again.rejected) == 1
    assert again.sizes.tolist() == [[4, 6]] * 3
    assert again.of_image(1)["instance_id"].tolist() == [1, 2]
    assert len(again.of_image(2)) == 0


def test_predictions_round_trip(tmp_path):
    found = predictions()
    found.save(tmp_path / "table")
    again = Predictions.load(tmp_path / "table")
    assert_same(found, again, ("images", "predictions", "order"))
    assert again.predictions["amodal_rle"].isna().tolist() == [False, True]
    assert again.of_image(3)["score"].tolist() == [0.25]


def test_predictions_without_tracks_are_of_an_older_version_and_can_be_read(tmp_path):
    predictions().save(tmp_path / "table")
    file = tmp_path / "table" / "predictions.parquet"
    pq.write_table(pq.read_table(file).drop_columns("track_id"), file)
    loaded = Predictions.load(tmp_path / "table")
    assert list(loaded.predictions.columns) == PREDICTIONS.names
    assert loaded.predictions["track_id"].isna().all()


def test_saving_over_a_table_replaces_it(tmp_path):
    annotations().save(tmp_path / "table")
    (tmp_path / "table" / "left_over.txt").write_text("")
    other = annotations(split="val", order=None)
    other.save(tmp_path / "table")
    assert_same(AmodalAnnotations.load(tmp_path / "table"), other, TABLES)
    assert not (tmp_path / "table" / "left_over.txt").exists()


def test_columns_share_memory_with_arrow():
    for column in annotations().instances.columns:
        assert isinstance(annotations().instances[column].dtype, pd.ArrowDtype)


@pytest.mark.parametrize("name", [*(f"{t}.parquet" for t in TABLES), "metadata.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_unreadable_files_are_named_with_the_remedy(tmp_path, name, damage):
    annotations().save(tmp_path / "table")
    path = tmp_path / "table" / name
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif path.suffix == ".json":
        path.write_text('{"dataset": "made_up"}')
    else:
        pd.DataFrame({"mood": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match="run the pipeline") as error:
        AmodalAnnotations.load(tmp_path / "table")
    assert str(path) in str(error.value)


def test_a_column_of_another_type_is_an_error(tmp_path):
    annotations().save(tmp_path / "table")
    path = tmp_path / "table" / "images.parquet"
    pd.read_parquet(path).assign(height="tall").to_parquet(path)
    with pytest.raises(ValueError, match=r"images\.parquet cannot be read"):
        AmodalAnnotations.load(tmp_path / "table")


def test_fingerprint_is_of_the_content(tmp_path):
    truth = annotations()
    same = [annotations(), annotations(image_root="elsewhere")]
    truth.save(tmp_path / "table")
    same.append(AmodalAnnotations.load(tmp_path / "table"))
    same.append(truth.subset([1, 2, 3]))
    assert {s.fingerprint for s in same} == {truth.fingerprint}
    assert len(truth.fingerprint) == 64
    visible = {
        "instance_id": [1, 2, 3, 4],
        "image_id": [1, 1, 3, 9],
        "category_id": [1] * 4,
        "amodal_rle": [FULL, FULL, LEFT, FULL],
        "visible_rle": [LEFT, FULL, LEFT, FULL],
    }
    different = [
        annotations(dataset="other"),
        annotations(split="val"),
        annotations(categories=(Category(id=1, name="lorry"),)),
        annotations(sources={"truth.json": "34cd"}),
        annotations(order=None),
        annotations(instances=visible),
        annotations(instances={k: v[:1] for k, v in visible.items()}, order=None),
        truth.subset([1, 2]),
    ]
    assert len({d.fingerprint for d in [truth, *different]}) == len(different) + 1


def test_subset():
    part = annotations().subset([1, 2, 77])
    assert part.images["image_id"].tolist() == [1, 2]  # in the table's order
    assert part.instances["instance_id"].tolist() == [1, 2]
    assert len(part.order) == 1
    assert part.of_image(1)["instance_id"].tolist() == [1, 2]
    assert part.sizes.tolist() == [[4, 6]] * 2
    nothing = annotations().subset([])
    assert len(nothing.images) == len(nothing.instances) == len(nothing.order) == 0
    assert len(nothing.sizes) == 0


def test_subset_of_loaded_annotations_can_be_saved(tmp_path):
    annotations().save(tmp_path / "table")
    part = AmodalAnnotations.load(tmp_path / "table").subset([3])
    part.save(tmp_path / "part")
    assert_same(AmodalAnnotations.load(tmp_path / "part"), part, TABLES)


def test_frame_checks_columns_and_types():
    with pytest.raises(ValueError, match=r"unknown columns \['mood'\]"):
        frame(IMAGES, {"mood": [1]})
    with pytest.raises(ValueError, match="column height"):
        frame(IMAGES, {"height": ["tall"]})
    with pytest.raises(ValueError, match="column image_id"):
        frame(IMAGES, {"image_id": [2**70]})
    empty = frame(INSTANCES, {})
    assert list(empty.columns) == INSTANCES.names
    assert len(empty) == 0
    table = frame(IMAGES, [{"image_id": 1}, {"image_id": None}])
    assert table["image_id"].isna().tolist() == [False, True]
    assert table["width"].isna().all()


def test_box_columns():
    given = np.array([[1, 2, 3, 4], [np.nan] * 4, [5, 6, 7, 8.5]], np.float32)
    table = frame(PREDICTIONS, {"amodal_box": given})
    np.testing.assert_array_equal(boxes(table["amodal_box"]), given)
    assert table["amodal_box"].isna().tolist() == [False, True, False]
    # Sliced, filtered and joined columns read the same.
    np.testing.assert_array_equal(boxes(table["amodal_box"].iloc[1:]), given[1:])
    np.testing.assert_array_equal(boxes(table[[False, True, True]]["amodal_box"]), given[1:])
    joined = concat(PREDICTIONS, [table, table.iloc[:1], table.iloc[:0]])
    np.testing.assert_array_equal(boxes(joined["amodal_box"]), given[[0, 1, 2, 0]])
    again = frame(PREDICTIONS, joined)
    np.testing.assert_array_equal(boxes(again["amodal_box"]), given[[0, 1, 2, 0]])
    assert boxes(table["amodal_box"].iloc[:0]).shape == (0, 4)
    assert boxes(table["visible_box"]).shape == (3, 4)
    assert len(concat(PREDICTIONS, [])) == 0


def test_tables_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        annotations().images = None
    assert isinstance(
        annotations().instances["amodal_box"].dtype.pyarrow_dtype, pa.FixedSizeListType
    )
