"""Starting from a checkpoint of other categories."""

import pytest
import torch
from torch import nn

from amodal_pipeline import methods
from amodal_pipeline.annotations import Category
from amodal_pipeline.methods.checkpoints import Checkpoint, Fingerprint, MethodCard
from amodal_pipeline.methods.configs import A3DConfig
from amodal_pipeline.methods.pretrained import start_from, weights_of
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.training.loop import fingerprint, train
from tests.conftest import tiny_method, tiny_training


class Classifier(nn.Module):
    """As A3D's: one row a category, and none for the background."""

    config = A3DConfig()

    def __init__(self, classes, code=3):
        super().__init__()
        self.encoder = nn.Linear(4, 3)
        self.category_logits = nn.Linear(code, classes)


def categories(*names):
    return tuple(Category(id=10 + i, name=name) for i, name in enumerate(names))


def checkpoint_of(model, *names) -> Checkpoint:
    card = MethodCard(
        method=MethodConfig(model.config),
        categories=categories(*names),
        dataset="views",
        fingerprint=Fingerprint(parts={"a": "b"}),
        iterations=1,
        seed=0,
    )
    return Checkpoint(card, weights_of(model))


SOURCE = ("sedan", "bench", "person")


def rows(model):
    return list(model.category_logits.weight.detach().clone())


def test_rows_of_categories_without_a_background_are_matched_by_name():
    source, model = Classifier(3), Classifier(4)
    fresh, other = rows(model), rows(source)
    reuse = start_from(
        model,
        categories("person", "car", "tram", "cyclist"),
        checkpoint_of(source, *SOURCE),
        {"car": "sedan", "cyclist": "person"},
    )
    own = rows(model)
    for i, expected in enumerate((other[2], other[0], fresh[2], other[2])):
        assert torch.equal(own[i], expected)
    bias = source.category_logits.bias
    assert torch.equal(model.category_logits.bias[:2], bias[[2, 0]])
    assert torch.equal(model.encoder.weight, source.encoder.weight)
    assert reuse.categories == {"person": "person", "car": "sedan", "cyclist": "person"}
    assert (reuse.copied, reuse.partly, reuse.fresh) == (2, 2, 0)


def test_a_row_is_copied_to_a_single_category():
    source, model = Classifier(3), Classifier(1)
    start_from(model, categories("bench"), checkpoint_of(source, *SOURCE))
    assert torch.equal(rows(model)[0], rows(source)[1])


def test_other_names_of_the_same_categories_copy_whole_layers():
    source, model = Classifier(3), Classifier(3)
    own = categories("car", "bench", "person")
    reuse = start_from(model, own, checkpoint_of(source, *SOURCE), {"car": "sedan"})
    assert (reuse.copied, reuse.partly) == (4, 0)
    assert reuse.categories == {"car": "sedan", "bench": "bench", "person": "person"}
    # As many rows, but of others.
    model = Classifier(3)
    reuse = start_from(model, own, checkpoint_of(source, *SOURCE))
    assert (reuse.copied, reuse.partly) == (2, 2)
    assert "car" not in reuse.categories


def test_categories_that_share_no_row_are_not_reused():
    source = checkpoint_of(Classifier(3), *SOURCE)
    for model in (Classifier(3, code=5), nn.ModuleDict({"encoder": nn.Linear(4, 3)})):
        reuse = start_from(model, categories(*SOURCE), source)
        assert reuse.categories == {}


def test_a_name_that_the_data_set_does_not_have_is_refused():
    source = checkpoint_of(Classifier(3), *SOURCE)
    message = "lorry, which the data set does not have: choose from car, bench"
    with pytest.raises(ValueError, match=message):
        start_from(Classifier(2), categories("car", "bench"), source, {"lorry": "sedan"})


def test_a_name_that_the_checkpoint_does_not_have_is_passed_over(caplog):
    source, model = Classifier(3), Classifier(3)
    names = {"car": "sedan", "tram": "streetcar", "bench": "seat"}
    reuse = start_from(
        model, categories("car", "tram", "bench"), checkpoint_of(source, *SOURCE), names
    )
    assert reuse.categories == {"car": "sedan", "bench": "bench"}
    assert "has no category seat, streetcar" in caplog.text


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"camera": "softras"}, "a3d.model.camera=softras as in its training"),
        ({"fitted": True, "spread": True}, "a3d.model.fitted=true as in its training"),
        ({"mesh": False}, None),
        ({"spread": True}, None),
    ],
)
def test_meshes_that_are_seen_otherwise_are_no_start(changes, remedy):
    class Other(Classifier):
        config = A3DConfig(**changes)

    source = checkpoint_of(Other(3), *SOURCE)
    if remedy is None:
        assert start_from(Classifier(3), categories(*SOURCE), source).copied == 4
        return
    with pytest.raises(ValueError, match=remedy):
        start_from(Classifier(3), categories(*SOURCE), source)


def test_the_card_says_what_was_reused(shapes, tmp_path):
    known = [c.name for c in shapes.metadata.categories]
    method, other = tiny_method("mask_rcnn"), ["crimson", *known[1:]]
    pretrained = checkpoint_of(methods.build(method, len(known)), *other)
    pretrained_categories = {known[0]: "crimson"}

    def trained(iterations):
        return train(
            method,
            tiny_training(iterations=iterations, batch_size=1),
            shapes,
            tmp_path / "state",
            pretrained=pretrained,
            pretrained_categories=pretrained_categories,
        )

    checkpoint = trained(1)
    assert checkpoint.card.reuse.fresh == 0
    assert checkpoint.card.reuse.categories == dict(zip(known, other, strict=True))
    # Also where a training is found finished, and read back.
    assert trained(1).card.reuse == checkpoint.card.reuse
    checkpoint.save(tmp_path / "model")
    assert Checkpoint.load(tmp_path / "model").card == checkpoint.card


def test_names_of_categories_decide_weights_only_where_there_are_some(shapes):
    method, config = tiny_method("mask_rcnn"), tiny_training()
    pretrained = checkpoint_of(Classifier(3), *SOURCE)
    plain = fingerprint(method, config, shapes, pretrained)
    named = fingerprint(method, config, shapes, pretrained, pretrained_categories={"car": "sedan"})
    assert named.differences(plain) == ["pretrained_categories.car: absent -> sedan"]
    without = fingerprint(method, config, shapes, pretrained_categories={"car": "sedan"})
    assert without == fingerprint(method, config, shapes)
