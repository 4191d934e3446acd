import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.tables import INSTANCES, PREDICTIONS, frame
from amodal_pipeline.layers.configs import CorruptionConfig, CropConfig
from amodal_pipeline.layers.crops import crop_image, crop_masks, windows
from amodal_pipeline.samples import objects
from amodal_pipeline.samples.objects import ObjectBatches
from amodal_pipeline.training import loop
from tests.conftest import COLOURS, make_shapes, tiny_training
from tests.tables import annotations, predictions

CROP = CropConfig(side=32, image_side=48)
SPOILED = CorruptionConfig(kernel=(3, 5), sigma=2.0)


def detected(truth, rows, masks, **columns):
    """Visible masks that a detector predicted for some objects."""
    table = truth.instances.iloc[rows]
    columns = {
        "prediction_id": np.arange(len(rows)) + 100,
        "score": [0.5] * len(rows),
        "visible_rle": masks,
        **{name: table[name] for name in ("image_id", "category_id", "instance_id")},
        **columns,
    }
    return predictions(truth, columns, method="them", annotations=truth.fingerprint)


def corner(size=64):
    mask = np.zeros((1, size, size), np.uint8)
    mask[:, :8, :6] = 1
    return rle.encode(mask)[0]


def equal(a, b):
    return torch.equal(a.images, b.images) and all(
        torch.equal(a.targets[name], b.targets[name]) for name in a.targets
    )


def test_every_object_is_seen_within_its_surroundings(shapes):
    batches = ObjectBatches(shapes, CROP, 4, seed=1)
    rows = []
    for i in range(4):
        batch = batches[i]
        targets = batch.targets
        rows += targets["index"].tolist()
        assert batch.images.dtype == torch.uint8 and batch.images.shape == (4, 3, 48, 48)
        assert all(targets[k].shape == (4, 32, 32) for k in ("input", "visible", "amodal"))
        assert torch.equal(targets["input"], targets["visible"])
        assert not (targets["visible"] & ~targets["amodal"].bool()).any()
        assert not targets["predicted"].any()
        for k, row in enumerate(targets["index"].tolist()):
            label = int(targets["labels"][k])
            assert label == shapes.instances["category_id"].iloc[row]
            image_id = shapes.instances["image_id"].iloc[row]
            assert batch.names[k] == f"{image_id}.png"
            # The pixels of the object are of its colour, where the mask says.
            pixels = torch.nn.functional.interpolate(batch.images[k][None].float(), 32)[0]
            inside = (
                torch.nn.functional.avg_pool2d(targets["visible"][k][None].float(), 3, 1, 1)[0] == 1
            )
            assert inside.any()
            colour = torch.tensor(COLOURS[label])[:, None]
            assert (pixels[:, inside] - colour).abs().max() < 4
    assert sorted(rows) == list(range(len(shapes.instances)))


def test_a_batch_is_a_function_of_seed_and_iteration(shapes):
    options = {"corruption": SPOILED, "enlargement": (1.5, 3.0)}
    batches = ObjectBatches(shapes, CROP, 3, 5, **options)
    loaded = list(loop._loader(batches, 2, tiny_training(workers=2)))
    again = ObjectBatches(shapes, CROP, 3, 5, **options)
    assert [equal(a, again[i]) for i, a in enumerate(loaded, start=2)] == [True] * 4
    assert not equal(again[0], ObjectBatches(shapes, CROP, 3, 6, **options)[0])
    # What is drawn for an object is drawn anew each time it comes.
    first, second = ({}, {})
    for found, start in ((first, 0), (second, 16)):
        for i in range(start, start + 16):
            batch = ObjectBatches(shapes, CROP, 1, 5, **options)[i]
            found[int(batch.targets["index"])] = batch.targets["amodal"]
    assert first.keys() == second.keys()
    assert all(not torch.equal(first[k], second[k]) for k in first)


def test_only_the_input_is_spoiled(shapes):
    clean = ObjectBatches(shapes, CROP, 16, 0)[0].targets
    config = CorruptionConfig(blur=0, morphology=1, dilation=1, blur_after=0, kernel=(3, 3))
    spoiled = ObjectBatches(shapes, CROP, 16, 0, corruption=config)[0].targets
    for name in ("visible", "amodal"):
        assert torch.equal(clean[name], spoiled[name])
    grown = spoiled["input"].int() - clean["visible"].int()
    assert (grown >= 0).all() and (grown.flatten(1).sum(1) > 0).all()


def test_other_objects_are_seen_where_the_object_is_not(crowd):
    crop = CropConfig(side=24, enlarge=2.5, clipped=False)
    options = {"others": True, "with_images": False}
    targets = ObjectBatches(crowd, crop, 12, 0, **options)[0].targets
    truth = crowd.instances
    drawn = rle.decode(truth["visible_rle"].tolist(), (50, 60)).astype(bool)
    image_ids, found = truth["image_id"].to_numpy(int), set()
    for row, given in zip(targets["index"].tolist(), targets["others"], strict=True):
        beside = image_ids == image_ids[row]
        beside[row] = False
        union = drawn[beside].any(axis=0) & ~drawn[row]
        box = rle.box([truth["visible_rle"].iloc[row]], (50, 60))
        window = windows(box, (50, 60), crop)
        expected = crop_masks(rle.encode(union[None]), window, (50, 60), 24)[0]
        assert given.dtype == torch.uint8 and np.array_equal(given, expected)
        found.add(bool(given.any()))
    assert not (targets["others"] & targets["visible"]).any()
    assert found == {True, False}  # an object alone in its image has nothing beside it
    plain = ObjectBatches(crowd, crop, 12, 0, with_images=False)[0].targets
    assert "others" not in plain and torch.equal(plain["visible"], targets["visible"])


@pytest.fixture
def crowd():
    """Four overlapping rectangles in each of two images, of which one is ignored, and one alone."""
    draw, size = np.random.default_rng(3), (50, 60)
    masks = np.zeros((9, *size), np.uint8)
    for mask in masks:
        top, left = draw.integers(0, 30, 2)
        mask[top : top + draw.integers(8, 20), left : left + draw.integers(8, 30)] = 1
    return annotations(
        dict.fromkeys([1, 2, 3], size),
        {
            "image_id": [2, 1, 2, 1, 1, 2, 2, 1, 3],
            "amodal_rle": rle.encode(masks),
            "visible_rle": rle.encode(masks),
            "ignore": [False] * 3 + [True] + [False] * 5,
        },
    )


def test_without_images_no_file_is_opened(shapes):
    gone = dataclasses.replace(
        shapes, metadata=shapes.metadata.model_copy(update={"image_root": "/nowhere"})
    )
    batch = ObjectBatches(gone, CROP, 2, 0, with_images=False)[0]
    assert batch.images.shape == (2, 3, 0, 0)
    assert batch.targets["amodal"].any()
    with pytest.raises(ValueError, match=r"/nowhere/\d\.png is missing"):
        ObjectBatches(gone, CROP, 2, 0)[0]


def test_ignored_and_hidden_objects_are_left_out(shapes):
    table = shapes.instances.copy()
    table["ignore"] = [i == 3 for i in range(len(table))]
    box = table["visible_box"].tolist()
    table["visible_box"] = frame(
        PREDICTIONS,
        {"visible_box": np.array([[np.nan] * 4 if i == 5 else b for i, b in enumerate(box)])},
    )["visible_box"]
    some = dataclasses.replace(shapes, instances=table)
    batches = ObjectBatches(some, CROP, 2, 0, with_images=False)
    seen = {int(r) for i in range(7) for r in batches[i].targets["index"]}
    assert seen == set(range(16)) - {3, 5}
    none = dataclasses.replace(shapes, instances=table.assign(ignore=[True] * len(table)))
    with pytest.raises(ValueError, match="shapes/train has no object with a visible part"):
        ObjectBatches(none, CROP, 2, 0)


def test_detected_objects_get_the_predicted_mask_and_its_window(shapes):
    rows = [0, 3, 4]
    found = detected(shapes, rows, [corner()] * 3)
    every = ObjectBatches(shapes, CROP, 16, 0, detected=found, predicted_share=1.0)[0].targets
    assert sorted(every["index"][every["predicted"]].tolist()) == rows
    window = windows(np.array([[0.0, 0, 6, 8]]), (64, 64), CROP)
    given = crop_masks([corner()], window, (64, 64), 32)[0]
    of = every["index"].tolist().index(3)
    truth = shapes.instances["amodal_rle"].iloc[[3]].tolist()
    assert np.array_equal(every["input"][of], given)
    assert np.array_equal(every["amodal"][of], crop_masks(truth, window, (64, 64), 32)[0])
    batches = ObjectBatches(shapes, CROP, 16, 0, detected=found, predicted_share=0.5)
    share = np.mean([int(batches[i].targets["predicted"].sum()) / 3 for i in range(60)])
    assert share == pytest.approx(0.5, abs=0.12)
    none = ObjectBatches(shapes, CROP, 16, 0, detected=found)[0]
    assert equal(none, ObjectBatches(shapes, CROP, 16, 0)[0])


def test_an_empty_predicted_mask_is_none(shapes):
    nothing = rle.encode(np.zeros((1, 64, 64), np.uint8))[0]
    found = detected(shapes, [0, 1], [nothing, corner()])
    batch = ObjectBatches(shapes, CROP, 16, 0, detected=found, predicted_share=1.0)[0].targets
    assert batch["index"][batch["predicted"]].tolist() == [1]


def test_detections_that_do_not_fit_are_refused(shapes):
    def batches(found):
        return ObjectBatches(shapes, CROP, 2, 0, detected=found, predicted_share=1.0)

    with pytest.raises(ValueError, match=r"'them' have the object 2 twice"):
        batches(detected(shapes, [0, 1], [corner()] * 2, instance_id=[2, 2]))
    with pytest.raises(ValueError, match="not in the annotations"):
        batches(detected(shapes, [0], [corner()], instance_id=[999]))
    with pytest.raises(ValueError, match="no instance_id or no visible mask"):
        batches(detected(shapes, [0], [corner()], instance_id=[None]))
    with pytest.raises(ValueError, match="no instance_id or no visible mask"):
        batches(detected(shapes, [0], [None], amodal_rle=[corner()]))
    other = dataclasses.replace(shapes.subset([1]))
    with pytest.raises(ValueError, match="belong to other annotations"):
        batches(detected(other, [0], [corner()]))


def test_an_image_is_cropped_where_its_masks_are(tmp_path):
    shapes = make_shapes(tmp_path, 2)
    free = CropConfig(side=16, image_side=16, clipped=False, enlarge=3)
    batch = ObjectBatches(shapes, free, 4, 0)[0]
    for k, row in enumerate(batch.targets["index"].tolist()):
        record = shapes.instances.iloc[row]
        window = windows(np.array([record["visible_box"]]), (64, 64), free)
        pixels = torch.from_numpy(read_image(tmp_path, batch.names[k])).permute(2, 0, 1)
        assert torch.equal(batch.images[k], crop_image(pixels, window[0], 16))
        beyond = window[0, 0] < -6
        assert not beyond or batch.images[k][:, :, 0].max() == 0


def seen_again(shapes, tracks):
    """Objects of which those with the same number are one, in several pictures."""
    table = shapes.instances.assign(track_id=pd.array(tracks, "Int64"))
    columns = {name: table[name] for name in table.columns}
    return dataclasses.replace(shapes, instances=frame(INSTANCES, columns))


TRACKS = [0, 1, 0, 1, 0, 1, None, 2, None, 3, 4, 5, 6, 6, 7, 7]  # rows 6 to 11 are seen once


def test_half_of_a_batch_are_other_views_of_the_rest(shapes):
    paired = seen_again(shapes, [0, 1] * 4 + [2, 3] * 4)
    options = {"corruption": SPOILED, "box_noise": 0.2}
    batches = ObjectBatches(paired, CROP, 8, 3, paired=True, **options)
    drawn = []
    for i in range(4):
        targets = batches[i].targets
        rows = targets["index"].numpy()
        assert targets["partner"].tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
        drawn += rows[::2].tolist()
        for own, other in rows.reshape(-1, 2):
            assert own != other
            assert own % 2 == other % 2 and own // 8 == other // 8  # one track
        assert torch.equal(targets["labels"], torch.from_numpy(batches.labels[rows]))
    assert sorted(drawn) == list(range(16))
    again = ObjectBatches(paired, CROP, 8, 3, paired=True, **options)
    assert equal(batches[2], again[2])
    # Not always the same view.
    partners = {}
    for i in range(40):
        rows = batches[i].targets["index"].numpy().reshape(-1, 2)
        for own, other in rows:
            partners.setdefault(own, set()).add(other)
    assert all(len(views) == 3 for views in partners.values())


@pytest.mark.parametrize("size", [1, 3, 6, 40])
def test_objects_seen_once_take_one_place(shapes, size):
    paired = seen_again(shapes, TRACKS)
    batches = ObjectBatches(paired, CROP, size, 1, paired=True, with_images=False)
    turns, alone = [], set(range(6, 12))
    for i in range(-(-4 * 26 // size)):  # four epochs of 10 objects with partners and 6 without
        targets = batches[i].targets
        rows, partner = targets["index"].tolist(), targets["partner"].tolist()
        assert len(rows) == size
        for k, row in enumerate(rows):
            if partner[k] >= 0:
                assert partner[partner[k]] == k and abs(partner[k] - k) == 1
                assert TRACKS[row] == TRACKS[rows[partner[k]]] and row != rows[partner[k]]
            else:
                assert row in alone or k in (0, size - 1)
        turns += rows
    turns = turns[: 4 * 26]
    for start in range(0, len(turns), 26):
        epoch = turns[start : start + 26]
        assert all(epoch.count(row) == 1 for row in alone)


def test_the_order_of_an_epoch_is_found_once(shapes, monkeypatch):
    found, original = [], objects.permutation
    monkeypatch.setattr(objects, "permutation", lambda *a: found.append(a[2]) or original(*a))
    batches = ObjectBatches(seen_again(shapes, TRACKS), CROP, 3, 1, paired=True, with_images=False)
    there_and_back = [*range(18), *range(12, 20)]  # 26 places an epoch: from 0 to 2, back to 1
    for i in there_and_back:
        batches[i]
    assert found == [0, 1, 2]
    assert len(batches.epochs) == 2


def test_views_that_cannot_be_learnt_from_are_no_partners(shapes):
    paired = seen_again(shapes, [0] * 16)
    table = paired.instances.assign(ignore=[i not in (2, 5) for i in range(16)])
    some = dataclasses.replace(paired, instances=table)
    batch = ObjectBatches(some, CROP, 4, 0, paired=True)[0].targets
    assert set(batch["index"].tolist()) == {2, 5}
    assert batch["partner"].tolist() == [1, 0, 3, 2]
    one = dataclasses.replace(paired, instances=table.assign(ignore=[i != 2 for i in range(16)]))
    assert ObjectBatches(one, CROP, 2, 0, paired=True)[0].targets["partner"].tolist() == [-1, -1]


def test_without_tracks_pairs_change_nothing(shapes):
    for i in range(5):
        plain = ObjectBatches(shapes, CROP, 5, 2, corruption=SPOILED)[i]
        assert equal(plain, ObjectBatches(shapes, CROP, 5, 2, corruption=SPOILED, paired=True)[i])
        assert plain.targets["partner"].tolist() == [-1] * 5
    tracked = seen_again(shapes, [0] * 16)
    assert equal(plain, ObjectBatches(tracked, CROP, 5, 2, corruption=SPOILED)[4])


AMODAL = CropConfig(around="amodal", enlarge=1.0, clipped=False, side=32, image_side=32)


def test_windows_around_amodal_boxes_hold_the_object(shapes):
    targets = ObjectBatches(shapes, AMODAL, 16, 0)[0].targets
    amodal = targets["amodal"]
    for rim in (amodal[:, 0], amodal[:, -1], amodal[:, :, 0], amodal[:, :, -1]):
        assert rim.any(dim=1).all()
    boxes = np.stack(shapes.instances["amodal_box"].tolist())[targets["index"].numpy(), 2:]
    assert targets["aspect"].dtype == torch.float32
    assert np.allclose(targets["aspect"].numpy(), boxes / boxes.max(axis=1, keepdims=True))


def test_noise_moves_windows_by_a_share_of_their_sides(shapes, monkeypatch):
    seen = []
    crop_masks = objects.crop_masks
    monkeypatch.setattr(
        objects,
        "crop_masks",
        lambda counts, windows, *rest: seen.append(windows) or crop_masks(counts, windows, *rest),
    )
    rows, windows = [], []
    for i in range(20):
        batch = ObjectBatches(shapes, AMODAL, 16, 0, box_noise=0.25, with_images=False)[i]
        rows += batch.targets["index"].tolist()
        windows += seen[-2].tolist()
    true = np.stack(shapes.instances["amodal_box"].tolist())[rows].astype(float)
    windows = np.array(windows)
    sides = windows[:, 2:] - windows[:, :2]
    shift = ((windows[:, :2] + windows[:, 2:]) / 2 - true[:, :2] - true[:, 2:] / 2) / true[:, 2:]
    for share in (*shift.T, *(sides / true[:, 2:] - 1).T):
        assert np.abs(share).max() <= 0.25 + 1e-9
        assert share.min() < -0.2 and share.max() > 0.2 and abs(share.mean()) < 0.03
    assert np.abs(np.corrcoef(shift.T)[0, 1]) < 0.2


def test_predicted_objects_are_seen_within_their_predicted_amodal_box(shapes):
    box = np.array([[2.0, 4, 10, 20]])  # its mask begins at the corner of the image
    found = detected(shapes, [3], [corner()], amodal_box=box)
    options = {"predicted_share": 1.0, "with_images": False}
    targets = ObjectBatches(shapes, AMODAL, 16, 0, detected=found, **options)[0].targets
    at = targets["index"].tolist().index(3)
    assert targets["aspect"][at].tolist() == [0.5, 1]
    expected = crop_masks([corner()], np.array([[0.0, 0, 12, 24]]), (64, 64), 32)[0]
    assert np.array_equal(targets["input"][at], expected)
    wrong = [0, 0, 0, 5], [64, 0, 5, 5], [0, -9, 5, 9], [0, 0, np.inf, 5], [0, 0, 257, 5]
    for box in (*wrong, [np.nan] * 4):
        found = detected(shapes, [3], [corner()], amodal_box=np.array([box], float))
        with pytest.raises(
            ValueError, match=r"1 of 1 objects of 'them' have no suitable amodal box .*100"
        ):
            ObjectBatches(shapes, AMODAL, 16, 0, detected=found, **options)


def test_images_are_read_once_if_all_of_them_fit(shapes, monkeypatch):
    size = 3 * int((shapes.images["height"] * shapes.images["width"]).sum())
    found = {}
    for limit in (size - 1, size):
        read = []
        monkeypatch.setattr(objects, "IMAGES_LIMIT", limit)
        monkeypatch.setattr(
            objects, "read_image", lambda *a, read=read: (read.append(a[1]), read_image(*a))[1]
        )
        batches = ObjectBatches(shapes, CropConfig(side=16, image_side=16), 8, 0)
        found[limit] = [batches[i].images for i in range(6)]
        assert (len(read) == len(set(read))) == (limit == size)
    assert all(torch.equal(a, b) for a, b in zip(*found.values(), strict=True))


def test_another_object_is_pasted_over_the_object(shapes):
    crop = CropConfig(side=64, image_side=64, clipped=False)
    batches = ObjectBatches(shapes, crop, 16, 0, others=True, erased=1.0)
    plain = ObjectBatches(shapes, crop, 16, 0, others=True)[0].targets
    batch = batches[0]
    assert equal(batch, batches[0])
    targets = {k: v.numpy().astype(bool) for k, v in batch.targets.items() if v.ndim == 3}
    amodal, visible, others = (targets[k] for k in ("amodal", "visible", "others"))
    assert np.array_equal(targets["input"], visible) and not (visible & others).any()
    assert not (visible & ~amodal).any()
    hidden = 1 - visible.sum((1, 2)) / amodal.sum((1, 2))
    before = 1 - plain["visible"].sum((1, 2)) / plain["amodal"].sum((1, 2))
    assert (hidden > before.numpy() + 0.03).mean() > 0.7
    colours = np.array([COLOURS[1], COLOURS[2]])
    categories = shapes.instances["category_id"].to_numpy(int)
    for n, row in enumerate(batch.targets["index"].tolist()):
        # What is hidden is hidden by others, and pixels have the colour of what is there.
        margin = ndimage.binary_dilation(others[n] | visible[n], iterations=2)
        assert not (amodal[n] & ~margin).any()
        pixels = batch.images[n].permute(1, 2, 0).numpy().astype(int)
        inside = ndimage.binary_erosion(visible[n], iterations=2)
        off = np.abs(pixels[inside] - colours[categories[row] - 1]).max(axis=1, initial=0)
        assert (off < 40).mean() > 0.97 if inside.any() else True
        inside = ndimage.binary_erosion(others[n], iterations=2)
        off = np.abs(pixels[inside][:, None] - colours).max(axis=2).min(axis=1)
        assert (off < 40).mean() > 0.9
        # The window is around what is left, so that it does not tell how far the object reaches.
        rows, columns = (np.flatnonzero(visible[n].any(axis)) for axis in (1, 0))
        for found in (rows, columns):
            assert abs(found[0] - 16) <= 3 and abs(found[-1] - 47) <= 3
    with pytest.raises(ValueError, match="leave out enlargement, box_noise and erased"):
        batches.keep_maps(lambda images: [images.float()])
