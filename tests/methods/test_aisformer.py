"""AISFormer: how its masks come from four queries, what each part sees, and what it learns from."""

import pytest
import torch

from amodal_pipeline import methods
from amodal_pipeline.layers import detector
from amodal_pipeline.layers.masks import mask_loss, mask_targets
from amodal_pipeline.layers.occluders import with_occluders
from amodal_pipeline.methods.aisformer import method
from amodal_pipeline.methods.aisformer.config import AISFormerConfig
from amodal_pipeline.methods.aisformer.head import QUERIES, AISFormerHead
from amodal_pipeline.samples.images import sample
from tests.conftest import TINY_DETECTOR, tiny_method

WIDTH = 16


def head(**changes) -> AISFormerHead:
    """Return a small head whose layers all have an effect."""
    torch.manual_seed(0)
    values = {"detector": TINY_DETECTOR, "feedforward": 32, **changes}
    made = AISFormerHead(WIDTH, AISFormerConfig.model_validate(values))
    torch.nn.init.normal_(made.pixels[-1].weight, std=0.3)
    return made


def features(count: int = 3) -> torch.Tensor:
    return torch.randn(count, WIDTH, 14, 14, generator=torch.Generator().manual_seed(1))


def targets_of(shapes, count: int = 2):
    samples = [sample(shapes, i) for i in range(count)]
    return [s[0] for s in samples], detector.on_boxes([s[1] for s in samples], "amodal")


def rois_of(targets) -> detector.Sample:
    """Return a RoI for each object, somewhat larger than its box."""
    larger = torch.tensor([-2.0, -1, 3, 2])
    return detector.Sample(
        [target["boxes"] + larger for target in targets],
        [torch.arange(len(target["boxes"])) for target in targets],
        torch.cat([target["labels"] for target in targets]),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tokens": 14, "pixel_convolutions": 2, "convolutions": 3},
        {"invisible_embedding": False},
    ],
)
@torch.no_grad()
def test_masks_are_dot_products_of_embeddings_with_every_pixel(changes):
    made = head(**changes).eval()
    masks = made(features())
    pixels, embeddings = made.encode(features())
    assert list(masks) == ["visible", "occluder", "amodal", "invisible"]
    for name, embedding in zip(masks, embeddings.unbind(dim=1), strict=True):
        assert masks[name].shape == (3, 28, 28)
        for roi in range(3):
            for y, x in ((0, 0), (5, 27), (13, 4), (27, 27)):
                slow = sum(embedding[roi, c] * pixels[roi, c, y, x] for c in range(WIDTH))
                torch.testing.assert_close(masks[name][roi, y, x], slow, atol=1e-4, rtol=1e-4)
    # A RoI's masks do not depend on those beside it.
    torch.testing.assert_close(made(features()[1:2])["amodal"], masks["amodal"][1:2])


@torch.no_grad()
def test_the_invisible_embedding_is_made_from_the_amodal_and_then_the_visible_one():
    made = head().eval()
    found = torch.randn(2, 4, WIDTH)
    embeddings = made._embed(found)
    visible, amodal = (made.embedding(found[:, QUERIES.index(n)]) for n in ("visible", "amodal"))
    first = made.invisible[0]
    hidden = (amodal @ first.weight[:, :WIDTH].T + visible @ first.weight[:, WIDTH:].T).add(
        first.bias
    )
    torch.testing.assert_close(embeddings[:, 3], made.invisible[3](hidden.relu()))
    # Without it, the fourth query gives the invisible mask.
    without = head(invisible_embedding=False).eval()
    torch.testing.assert_close(without._embed(found)[:, 3], without.embedding(found[:, 3]))


@pytest.mark.parametrize("tokens", [14, 28])
@torch.no_grad()
def test_positions_are_of_columns_and_then_of_rows(tokens):
    made = head(tokens=tokens)
    position = made.position().unflatten(0, (tokens, tokens))
    for y, x in ((0, 0), (3, 11), (tokens - 1, 2)):
        assert torch.equal(position[y, x, : WIDTH // 2], made.columns[x])
        assert torch.equal(position[y, x, WIDTH // 2 :], made.rows[y])


@pytest.mark.parametrize(("layers", "matters"), [(1, False), (2, True)])
def test_the_fourth_query_matters_through_attention_from_the_second_layer_on(layers, matters):
    """In the first layer all queries have found nothing yet: there is nothing to attend to."""
    made = head(layers=layers).eval()
    for layer in made.decoder:
        torch.nn.init.normal_(layer.among.value.bias)  # even with one, it is the same for all
    sum((mask**2).mean() for mask in made(features()).values()).backward()
    gradient = made.queries.grad.abs().amax(dim=1)
    assert (gradient[:3] > 1e-6).all()
    assert (gradient[3] > 1e-6) == matters
    if not matters:
        assert gradient[3] < 1e-4 * gradient[:3].min()
    made.zero_grad()
    for layer in made.decoder:
        torch.nn.init.zeros_(layer.among.output.weight)
    sum((mask**2).mean() for mask in made(features()).values()).backward()
    assert not made.queries.grad[3].any()


@pytest.mark.parametrize("layers", [1, 2])
def test_every_parameter_learns_but_those_that_see_nothing(layers):
    made = head(layers=layers, pixel_convolutions=1).eval().double()
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # nothing is without effect because it starts at 0
    sum((mask**2).mean() for mask in made(features().double()).values()).backward()
    still = {
        name
        for name, parameter in made.named_parameters()
        if parameter.grad is None or parameter.grad.abs().max() < 1e-10
    }
    # The first layer's queries attend to one another before any has found something, and no sum
    # of attention depends on what all keys share.
    first = {f"decoder.0.among.{name}" for name in ("query.weight", "key.weight", "value.weight")}
    first |= {"decoder.0.among.query.bias"}
    shared = {name for name, _ in made.named_parameters() if name.endswith("key.bias")}
    assert still == first | shared


def test_the_attention_is_that_of_pytorch():
    from amodal_pipeline.methods.aisformer.transformer import Attention

    torch.manual_seed(0)
    made = Attention(WIDTH, 2, 0.0).eval()
    theirs = torch.nn.MultiheadAttention(WIDTH, 2, batch_first=True).eval()
    weights = [getattr(made, name).weight for name in ("query", "key", "value")]
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat(weights),
            "in_proj_bias": torch.zeros(3 * WIDTH),
            "out_proj.weight": made.output.weight,
            "out_proj.bias": made.output.bias,
        }
    )
    query, key, value = torch.randn(2, 4, WIDTH), *torch.randn(2, 2, 9, WIDTH)
    torch.testing.assert_close(made(query, key, value), theirs(query, key, value)[0])


def test_losses_have_their_weights_and_swapping_the_occluder_changes_only_its_own(shapes):
    model = methods.build(tiny_method("aisformer"), classes=2).train()
    _, targets = targets_of(shapes)
    rois = rois_of(targets)
    truth = model.truth(rois, targets, 28)
    assert torch.equal(truth["invisible"], truth["amodal"] * (1 - truth["visible"]))
    assert truth["invisible"].any() and truth["occluder"].any(dim=(1, 2)).all()
    torch.manual_seed(0)
    logits = {name: torch.randn(4, 28, 28) for name in truth}
    losses = model.mask_losses(logits, rois, targets)
    weights = {"amodal": 1, "visible": 1, "occluder": 0.25, "invisible": 0.25}
    for name, weight in weights.items():
        slow = weight * mask_loss(logits[name], truth[name])
        torch.testing.assert_close(losses.pop(f"loss_{name}_mask"), slow)
    assert losses == {}
    # A third object beside the two: another occluder for both.
    for target in targets:
        extra = torch.zeros_like(target["visible_masks"][:1])
        extra[:, :, :40] = 1 - target["visible_masks"][:, :, :40].amax(dim=0)
        for kind in ("amodal", "visible"):
            target[f"{kind}_masks"] = torch.cat([target[f"{kind}_masks"], extra])
    after = model.truth(rois, targets, 28)
    assert not torch.equal(after.pop("occluder"), truth.pop("occluder"))
    assert all(torch.equal(after[name], truth[name]) for name in truth)


def learnt(model, targets, iterations: int = 60):
    """Return the losses before and after a training of the head alone, and the RoIs' features.

    Features are the true masks, mixed.
    """
    rois = rois_of(targets)
    wanted = with_occluders(targets, "visible")
    masks = [
        mask_targets(wanted, kind, rois.boxes, rois.matched, 14)
        for kind in ("amodal", "visible", "occluder")
    ]
    torch.manual_seed(0)
    seen = torch.einsum("kc,knhw->nchw", torch.randn(3, WIDTH), torch.stack(masks))
    optimizer = torch.optim.Adam(model.head.parameters(), 0.01)
    history = []
    for _ in range(iterations):
        found = model.head(seen)
        losses = model.mask_losses(*([found] if isinstance(found, dict) else found), rois, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: float(loss.detach()) for name, loss in losses.items()})
    return history[0], history[-1], seen


def test_every_mask_is_learnt(shapes):
    torch.manual_seed(0)
    values = tiny_method("aisformer").model_dump() | {"tokens": 14, "dropout": 0}
    model = methods.build(AISFormerConfig.model_validate(values), classes=2).train()
    _, targets = targets_of(shapes)
    before, after, seen = learnt(model, targets)
    assert all(after[name] < 0.4 * loss for name, loss in before.items()), (before, after)
    truth = model.truth(rois_of(targets), targets, 28)
    with torch.no_grad():
        masks = model.eval().head(seen)
    for name, true in truth.items():
        shared = ((masks[name] > 0) & (true > 0)).sum() / ((masks[name] > 0) | (true > 0)).sum()
        assert shared > 0.7, name


@pytest.mark.parametrize("name", ["visible", "occluder", "invisible"])
def test_a_mask_without_a_weight_is_neither_learnt_nor_predicted(name, shapes):
    values = tiny_method("aisformer").model_dump() | {f"{name}_weight": 0}
    model = methods.build(AISFormerConfig.model_validate(values), classes=2).train()
    images, targets = targets_of(shapes)
    losses = {each for each in model(images, targets) if each.endswith("_mask")}
    every = {"amodal", "visible", "occluder", "invisible"}
    assert losses == {f"loss_{each}_mask" for each in every - {name}}
    with torch.no_grad():
        (found,) = model.eval()(images[:1])
    masks = {each.removesuffix("_masks") for each in found if each.endswith("_masks")}
    assert masks == every - {name, "occluder"}


@torch.no_grad()
def test_what_is_predicted_depends_on_no_other_image_and_on_no_size_of_a_pass(shapes, monkeypatch):
    torch.manual_seed(0)
    model = methods.build(tiny_method("aisformer"), classes=2).eval()
    model.detector.roi_heads.score_thresh = 0.0
    images, _ = targets_of(shapes)
    both, alone = model(images), model(images[1:])
    monkeypatch.setattr(method, "_AT_ONCE", 3)
    apart = model(images)
    for found in (alone[0], apart[1]):
        assert len(found["boxes"]) > 3
        for name, values in both[1].items():
            torch.testing.assert_close(found[name], values, atol=1e-5, rtol=1e-4)
    model.detector.roi_heads.score_thresh = 0.999
    assert model(images)[0]["amodal_masks"].shape == (0, 28, 28)
