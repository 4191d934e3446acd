"""Tokens of amodal masks, and maps of images, that are computed once, before a training."""

import dataclasses

import numpy as np
import pytest
import torch

from amodal_pipeline.annotations import Predictions
from amodal_pipeline.annotations.known_objects import true_objects
from amodal_pipeline.annotations.tables import PREDICTIONS, boxes, frame
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.samples import objects
from amodal_pipeline.samples.objects import ObjectBatches

CROP = CropConfig(side=16, image_side=16)


def as_tokens(batches):
    """Tokens that tell the masks themselves: a stand-in for a tokenizer."""
    return torch.cat([masks[:, ::4, ::4].short() for masks in batches])


def detected(shapes) -> Predictions:
    """Every second object, with another visible mask and amodal box: other windows."""
    truth = true_objects(shapes, boxes=True).table
    rows = np.arange(0, len(truth.predictions), 2) + 1
    table = truth.predictions.iloc[rows]
    columns = {name: table[name] for name in table.columns}
    wider = boxes(table["amodal_box"])
    wider[:, 2:] += 3
    columns["amodal_box"] = wider
    columns["visible_rle"] = shapes.instances["amodal_rle"].iloc[rows].tolist()
    return dataclasses.replace(truth, predictions=frame(PREDICTIONS, columns))


@pytest.mark.parametrize("around", ["visible", "amodal"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_kept_tokens_are_those_of_the_amodal_masks_of_the_batch(shapes, share, around):
    crop = CROP.model_copy(update={"around": around})
    batches = ObjectBatches(
        shapes, crop, 6, 3, detected=detected(shapes), predicted_share=share, with_images=False
    )
    batches.keep_tokens(as_tokens)
    seen = 0
    for iteration in range(6):
        targets = batches[iteration].targets
        seen += int(targets["predicted"].sum())
        assert targets["amodal_tokens"].dtype == torch.int64
        expected = as_tokens([targets["amodal"]])
        assert torch.equal(targets["amodal_tokens"], expected.long())
        assert expected.any()
    assert (seen > 0) == (share > 0)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_kept_maps_are_those_of_the_images_of_the_batch(shapes, share):
    def encode(images):
        return [images.float(), images[:, :1, ::2, ::2].float()]

    def batches():
        return ObjectBatches(shapes, CROP, 6, 3, detected=detected(shapes), predicted_share=share)

    plain, kept = batches(), batches()
    assert kept.keep_maps(encode)
    for iteration in range(6):
        expected, batch = plain[iteration], kept[iteration]
        assert batch.images.shape == (6, 3, 0, 0)
        for found, maps in zip(batch.targets.pop("maps"), encode(expected.images), strict=True):
            assert torch.equal(found, maps)
            assert found.is_contiguous(memory_format=torch.channels_last)
        for name, values in expected.targets.items():
            assert torch.equal(batch.targets[name], values), name


def test_no_maps_are_kept_beyond_the_limit(shapes, monkeypatch):
    batches = ObjectBatches(shapes, CROP, 2, 0)
    size = len(batches.rows) * 3 * 16 * 16 * 4
    monkeypatch.setattr(objects, "MAPS_LIMIT", size - 1)
    assert not batches.keep_maps(lambda images: [images.float()])
    assert batches[0].images.shape == (2, 3, 16, 16)
    monkeypatch.setattr(objects, "MAPS_LIMIT", size)
    assert batches.keep_maps(lambda images: [images.float()])


@pytest.mark.parametrize("drawn", [{"enlargement": (1.5, 3.0)}, {"box_noise": 0.1}])
def test_no_tokens_are_kept_of_windows_that_change(shapes, drawn):
    batches = ObjectBatches(shapes, CROP, 2, 0, with_images=False, **drawn)
    with pytest.raises(ValueError, match="enlargement"):
        batches.keep_tokens(as_tokens)


def test_ignored_objects_have_no_tokens(shapes):
    instances = shapes.instances.copy()
    instances.loc[0, "ignore"] = True
    fewer = dataclasses.replace(shapes, instances=instances)
    batches = ObjectBatches(fewer, CROP, 2, 0, with_images=False)
    batches.keep_tokens(as_tokens)
    assert len(batches.tokens) == len(instances) - 1
