"""What is said about how masks come back from their tokens."""

import numpy as np
import pytest
import torch

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import strings
from amodal_pipeline.layers.configs import CropConfig
from amodal_pipeline.methods.c2f_seg.reconstruction import (
    Reconstruction,
    amodal_crops,
    describe,
    perplexity,
    reconstruct,
    some_objects,
)
from amodal_pipeline.methods.c2f_seg.tokenizer import Tokenizer
from amodal_pipeline.methods.configs import MaskTokenizerConfig
from tests.conftest import TINY_TOKENIZER

CONFIG = MaskTokenizerConfig.model_validate(TINY_TOKENIZER)


class Halves(torch.nn.Module):
    """Gives the left half of every mask back, and uses the first two codes in turn."""

    config = CONFIG

    def __init__(self):
        super().__init__()
        self.codes = torch.nn.Parameter(torch.zeros(8, 4))

    def encode(self, masks):
        self.met = masks.clone()
        return torch.arange(64).reshape(8, 8).expand(len(masks), 8, 8) % 2

    def decode(self, tokens):
        back = self.met.float()
        back[:, :, 8:] = 0
        return back


def test_a_crop_holds_the_amodal_mask_around_the_visible_box(shapes):
    whole = CropConfig(enlarge=100.0, side=64, image_side=64)  # all of the image
    crops = amodal_crops(shapes, np.array([0, 3]), whole)
    masks = rle.decode(
        [strings(shapes.instances["amodal_rle"]).to_pylist()[i] for i in (0, 3)], (64, 64)
    )
    assert crops.dtype == torch.bool and np.array_equal(crops.numpy(), masks.astype(bool))


def test_overlaps_and_uses_are_those_of_a_loop(shapes):
    rows = np.arange(len(shapes.instances))
    found = reconstruct(Halves(), shapes, rows)
    assert found.rows.tolist() == rows.tolist()
    for row, iou in zip(rows, found.iou, strict=True):
        mask = amodal_crops(shapes, np.array([row]), CONFIG.crop)[0]
        assert iou == pytest.approx(float(mask[:, :8].sum() / mask.sum()))
    ids = [c.id for c in shapes.metadata.categories]
    assert [ids[c] for c in found.category] == shapes.instances["category_id"].tolist()
    expected = np.zeros((2, 8), int)
    expected[:, :2] = np.bincount(found.category)[:, None] * 32
    assert np.array_equal(found.uses, expected)


def test_the_table_has_all_objects_and_each_category(shapes):
    uses = np.array([[6, 2, 0, 0], [0, 0, 0, 0]])
    found = Reconstruction(np.arange(2), np.zeros(2, int), np.array([0.5, 1.0]), uses)
    table = describe(found, shapes).set_index("category")
    assert table.index.tolist() == ["all", "red", "blue"]
    assert table["objects"].tolist() == [2, 2, 0]
    assert table["iou"].tolist()[:2] == [75, 75] and np.isnan(table.loc["blue", "iou"])
    assert table["used_codes"].tolist() == [2, 2, 0] and table["dead_codes"].tolist() == [2, 2, 4]
    assert table.loc["all", "perplexity"] == pytest.approx(1 / (0.75**0.75 * 0.25**0.25))
    assert np.isnan(table.loc["blue", "perplexity"])


def test_perplexity_counts_codes_that_are_used_alike():
    assert perplexity(np.array([5, 5, 0, 5, 5])) == pytest.approx(4)
    assert perplexity(np.array([0, 7])) == pytest.approx(1)
    assert np.isnan(perplexity(np.zeros(3, int)))


def test_objects_are_drawn_where_there_are_many(shapes):
    everything = some_objects(shapes, 100)
    assert everything.tolist() == list(range(16))
    some = some_objects(shapes, 5)
    assert len(set(some)) == 5 and set(some) <= set(everything)
    assert some.tolist() == some_objects(shapes, 5).tolist() != some_objects(shapes, 5, 1).tolist()


def test_nothing_to_reconstruct(shapes):
    found = reconstruct(Tokenizer(CONFIG), shapes, np.zeros(0, int))
    assert len(found.iou) == 0 and found.uses.sum() == 0
    assert np.isnan(describe(found, shapes)["iou"]).all()
