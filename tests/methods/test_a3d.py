"""A3D against slow versions written from the paper's equations."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from amodal_pipeline import methods
from amodal_pipeline.layers.cameras import PRESETS, project, viewpoints_of
from amodal_pipeline.layers.soft_rasterizer import silhouettes
from amodal_pipeline.methods.configs import A3DConfig
from tests.conftest import TINY_A3D

SIDE = TINY_A3D["crop"]["side"]
VARIANTS = {
    "paper": {},
    "softras": {"camera": "softras"},
    "fitted": {"fitted": True},
    "spread": {"spread": True},
    "without_mesh": {"mesh": False},
    "without_refinement": {"refinement": False},
    "without_cross_view": {"cross_view": False},
    "as_printed": {"laplacian": 0, "flatten": 0, "class_weight": 0},
}


def config(**changes):
    return A3DConfig.model_validate({**TINY_A3D, **changes})


def build(**changes):
    torch.manual_seed(0)
    return methods.build(config(**changes), classes=3)


def a_batch(count=4, seed=0, partner=(1, 0, -1, -1)):
    """Ellipses that fill their windows, the left third of each hidden."""
    draw = torch.Generator().manual_seed(seed)
    axis = (2 * torch.arange(SIDE) + 1) / SIDE - 1
    power = 1 + 3 * torch.rand(count, 1, 1, generator=draw)
    amodal = (axis[:, None].abs() ** power + axis.abs() ** power < 1).to(torch.uint8)
    visible = amodal.clone()
    visible[:, :, : SIDE // 3] = 0
    images = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=draw, dtype=torch.uint8)
    aspect = 0.3 + 0.7 * torch.rand(count, 2, generator=draw)
    targets = {
        "input": visible,
        "visible": visible,
        "amodal": amodal,
        "labels": 1 + torch.arange(count) % 3,
        "aspect": aspect / aspect.amax(dim=1, keepdim=True),
        "partner": torch.tensor(partner),
    }
    return images, targets


def iou(mask, truth):
    """Soft intersection over union of one mask, pixel by pixel."""
    a, b = mask.flatten().float(), truth.flatten().tolist()
    both = sum(x * y for x, y in zip(a, b, strict=True))
    return both / (sum(a) + sum(b) - both)


def recorded(model, kept=False):
    """What comes out of parts of a model in its next forward pass, detached or with gradients."""
    seen = {}

    def record(name, out):
        seen[name] = out if kept else out.detach()
        if kept:
            out.retain_grad()

    for name in ("decoder", "viewpoint", "category_logits", "refinement"):
        if hasattr(model, name):
            model.get_submodule(name).register_forward_hook(
                lambda _, args, out, name=name: record(name, out)
            )
    return seen


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant):
    model = build(**VARIANTS[variant]).train()
    losses = model(*a_batch())
    assert all(v.ndim == 0 and torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        unused = variant == "as_printed" and name.startswith("category_logits")
        assert (parameter.grad is None) == unused, name
        assert unused or parameter.grad.abs().sum() > 0, name


def test_losses_are_those_of_the_parts_in_use():
    names = {k: set(build(**v).train()(*a_batch())) for k, v in VARIANTS.items()}
    smooth, drawn = {"loss_laplacian", "loss_flatten"}, {"loss_coarse_mask", "loss_category"}
    assert names["paper"] == smooth | drawn | {"loss_edge"}
    assert names["without_mesh"] == drawn | {"loss_edge"}
    assert names["without_refinement"] == smooth | drawn
    assert names["as_printed"] == {"loss_coarse_mask", "loss_edge"}


@pytest.mark.parametrize("camera", PRESETS)
def test_first_mesh_is_nearly_the_sphere_of_the_preset_in_full_view(camera):
    model, (images, targets) = build(camera=camera).eval(), a_batch()
    targets["aspect"] = torch.ones(4, 2)
    with torch.inference_mode():
        found = model.explain(images, targets)
    radius = found.vertices.norm(dim=2)
    torch.testing.assert_close(
        radius, torch.full_like(radius, PRESETS[camera].radius), rtol=0.05, atol=0
    )
    share = (found.coarse > 0.5).float().mean(dim=(1, 2))
    assert (share > 0.1).all()


@pytest.mark.parametrize("aspect", [(1, 1), (1, 0.8), (0.7, 1)])
def test_a_window_is_stretched_to_a_square(aspect):
    """A sphere in the middle: its mask is as wide as the window is narrow."""
    model = build(camera="softras", crop={**TINY_A3D["crop"], "side": 64, "image_side": 64}).eval()
    torch.nn.init.zeros_(model.decoder[-1].weight)
    given = {"input": torch.zeros(1, 64, 64), "aspect": torch.tensor([aspect])}
    with torch.inference_mode():
        (mask,) = model.explain(torch.zeros(1, 3, 64, 64), given).coarse > 0.5
    across, down = mask.any(dim=0).sum(), mask.any(dim=1).sum()
    # The outline of an icosphere of 42 vertices is within its sphere's.
    outline = math.tan(math.asin(0.5 / 2.732)) / math.tan(math.radians(15))
    assert 0.85 * outline * 64 / aspect[0] <= across <= min(outline * 64 / aspect[0], 64) + 1
    assert 0.85 * outline * 64 / aspect[1] <= down <= min(outline * 64 / aspect[1], 64) + 1


@pytest.mark.parametrize("enlarge", [1.0, 1.5])
def test_a_fitted_mesh_fills_the_amodal_box(enlarge):
    model = build(fitted=True, sigma=1e-6, crop={**TINY_A3D["crop"], "enlarge": enlarge}).eval()
    with torch.inference_mode():
        masks = model.explain(*a_batch()).coarse > 0.5
    rim = round(SIDE * (1 - 1 / enlarge) / 2)
    for mask in masks:
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        for found in (rows, columns):
            assert abs(found.min() - rim) <= 1 and abs(found.max() - (SIDE - 1 - rim)) <= 1


@pytest.mark.parametrize("camera", PRESETS)
@pytest.mark.parametrize("partner", [(1, 0, -1, -1), (2, 3, 1, 0), (-1, -1, -1, -1)])
def test_equation_one_over_own_and_crossed_views(camera, partner):
    """Meshes rendered one at a time, also from where the partner is seen, against its mask. Both
    the mesh and the viewpoint of each such picture learn from it."""
    model = build(camera=camera).train()
    torch.nn.init.normal_(model.decoder[-1].weight, std=0.3)
    images, targets = a_batch(partner=partner)
    seen = recorded(model, kept=True)
    loss = model(images, targets)["loss_coarse_mask"]
    loss.backward()
    preset = PRESETS[camera]
    leaves = {name: seen[name].detach().requires_grad_() for name in ("decoder", "viewpoint")}
    vertices = preset.radius * leaves["decoder"].reshape(4, -1, 3).tanh() + model.sphere
    terms = []
    for mesh, other in [*enumerate(range(4)), *((i, j) for i, j in enumerate(partner) if j >= 0)]:
        screen = project(
            vertices[mesh : mesh + 1],
            viewpoints_of(leaves["viewpoint"][other : other + 1], preset),
            preset.field_of_view,
            targets["aspect"][other : other + 1],
        )
        mask = silhouettes(screen, model.faces, SIDE, model.config.sigma)
        terms.append(1 - iou(mask, targets["amodal"][other]))
    assert len(terms) == 4 + sum(j >= 0 for j in partner)
    expected = sum(terms) / len(terms)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    expected.backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(seen[name].grad, leaf.grad, rtol=1e-3, atol=1e-6)


def test_what_each_loss_teaches():
    model = build().train()
    losses = model(*a_batch())

    def taught(name):
        parameters = dict(model.named_parameters())
        slopes = torch.autograd.grad(
            losses[name], parameters.values(), retain_graph=True, allow_unused=True
        )
        moved = zip(parameters, slopes, strict=True)
        return {n.split(".")[0] for n, slope in moved if slope is not None and slope.any()}

    shape = {"encoder", "decoder"}
    assert taught("loss_coarse_mask") == shape | {"viewpoint"}
    assert taught("loss_edge") == shape | {"viewpoint", "refinement"}
    assert taught("loss_category") == {"encoder", "category_logits"}
    assert taught("loss_laplacian") == taught("loss_flatten") == shape


def test_layers_are_those_of_the_paper():
    model = build()
    for part, convolutions, linear in (
        ("encoder", 3, 2),
        ("viewpoint", 3, 2),
        ("decoder", 0, 2),
        ("refinement", 4, 0),
    ):
        modules = list(model.get_submodule(part).modules())
        kinds = [type(m) for m in modules]
        assert kinds.count(torch.nn.Conv2d) == convolutions
        assert kinds.count(torch.nn.BatchNorm2d) == min(convolutions, 3)
        assert kinds.count(torch.nn.Linear) == linear
        # After each but the last.
        assert kinds.count(torch.nn.ReLU) == convolutions + linear - 1


def test_its_size_is_nearly_that_of_the_paper():
    """Table 2: 57.2 million parameters, of which Mask R-CNN has 44.1."""
    model = methods.build(A3DConfig(), classes=13)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(57.2 - 44.1, rel=0.15)


def test_without_partners_there_is_no_cross_view():
    single = build(cross_view=False).train()(*a_batch())
    alone = build().train()(*a_batch(partner=(-1, -1, -1, -1)))
    paired = build().train()(*a_batch())
    assert torch.equal(single["loss_coarse_mask"], alone["loss_coarse_mask"])
    assert not torch.equal(paired["loss_coarse_mask"], alone["loss_coarse_mask"])
    assert torch.equal(paired["loss_edge"], alone["loss_edge"])


def test_partners_are_found_wherever_they_are_in_the_batch():
    model, (images, targets) = build().train(), a_batch()
    plain = model(images, targets)
    order = torch.tensor([2, 1, 3, 0])
    moved = {k: v[order] for k, v in targets.items()} | {"partner": torch.tensor([-1, 3, -1, 1])}
    for name, loss in model(images[order], moved).items():
        torch.testing.assert_close(loss, plain[name])


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_equation_two_in_a_loop(weight):
    model = build(hidden_weight=weight, edge_weight=3.0).train()
    images, targets = a_batch(2, partner=(-1, -1))
    # Its weight comes from what is truly visible, not from what the method is given.
    targets["input"] = torch.zeros_like(targets["input"])
    seen = recorded(model)
    loss = model(images, targets)["loss_edge"]
    total = 0.0
    for n in range(2):
        for r in range(SIDE):
            for c in range(SIDE):
                p = seen["refinement"][n, 0, r, c].sigmoid().item()
                term = -math.log(p if targets["amodal"][n, r, c] else 1 - p)
                total += term * (1 if targets["visible"][n, r, c] else weight)
    assert loss.item() == pytest.approx(3 * total / (2 * SIDE * SIDE), rel=1e-4)


def test_category_and_smoothness_are_weighted():
    model = build(class_weight=0.5, laplacian=0.2, flatten=0.1).train()
    torch.nn.init.normal_(model.decoder[-1].weight, std=0.3)
    images, targets = a_batch()
    seen = recorded(model)
    losses = model(images, targets)
    chances = seen["category_logits"].softmax(dim=1)
    own = [-math.log(chances[n, label - 1]) for n, label in enumerate(targets["labels"].tolist())]
    assert losses["loss_category"].item() == pytest.approx(0.5 * sum(own) / 4, rel=1e-4)
    # The weights are SoftRas', whose sphere is half as large.
    vertices = 0.5 * (seen["decoder"].reshape(4, -1, 3).tanh() + model.sphere)
    smooth = model.mesh_losses
    torch.testing.assert_close(losses["loss_laplacian"], 0.2 * smooth.laplacian(vertices))
    torch.testing.assert_close(losses["loss_flatten"], 0.1 * smooth.flatten(vertices))


def test_smoothness_weighs_alike_with_either_camera():
    losses = {}
    for camera in PRESETS:
        model = build(camera=camera).train()
        torch.nn.init.normal_(model.decoder[-1].weight, std=0.3)
        losses[camera] = model(*a_batch())
    for name in ("loss_laplacian", "loss_flatten"):
        torch.testing.assert_close(losses["smr"][name], losses["softras"][name])


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_explained_is_what_comes_out(variant):
    model, (images, targets) = build(**VARIANTS[variant]).eval(), a_batch()
    with torch.inference_mode():
        masks, found = model(images, targets), model.explain(images, targets)
    assert set(masks) == {"amodal_masks"}
    assert masks["amodal_masks"].shape == (4, SIDE, SIDE)
    assert masks["amodal_masks"].min() >= 0 and masks["amodal_masks"].max() <= 1
    assert torch.equal(masks["amodal_masks"], found.amodal)
    assert (found.amodal is found.coarse) == (variant == "without_refinement")
    torch.testing.assert_close(found.categories.sum(dim=1), torch.ones(4))
    if variant == "without_mesh":
        assert found.vertices is None and found.viewpoints is None
        return
    assert found.vertices.shape == (4, 42, 3) and model.faces.shape == (80, 3)
    if variant != "fitted":
        field = PRESETS[model.config.camera].field_of_view
        screen = project(found.vertices, found.viewpoints, field, targets["aspect"])
        drawn = silhouettes(screen, model.faces, SIDE, model.config.sigma)
        torch.testing.assert_close(found.coarse, drawn)


def test_a_batch_is_not_seen_from_one_side_when_viewpoints_are_spread():
    images, targets = a_batch(16, partner=(-1,) * 16)
    together = {}
    for spread in (False, True):
        with torch.no_grad():
            azimuth = build(spread=spread).train().explain(images, targets).viewpoints.azimuth
        together[spread] = torch.polar(torch.ones(16), azimuth).mean().abs()
    assert together[True] < 0.5 < together[False]


def test_an_object_is_completed_alike_in_any_company():
    model, (images, targets) = build().eval(), a_batch()
    with torch.inference_mode():
        together = model(images, targets)["amodal_masks"]
        for own in ([2], [3, 0]):
            apart = model(images[own], {k: v[own] for k, v in targets.items()})
            torch.testing.assert_close(apart["amodal_masks"], together[own])


def test_images_are_bytes_or_shares():
    model, (images, targets) = build().eval(), a_batch()
    with torch.inference_mode():
        ours, same = model(images, targets), model(images / 255, targets)
    torch.testing.assert_close(ours["amodal_masks"], same["amodal_masks"])


def test_the_same_seed_gives_the_same_gradients():
    runs = []
    for _ in range(2):
        model = build().train()
        sum(model(*a_batch()).values()).backward()
        runs.append({name: p.grad for name, p in model.named_parameters()})
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_geometry_stays_in_full_precision_under_autocast():
    model, (images, targets) = build().train(), a_batch()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, targets)
        vertices = model.eval().explain(images, targets).vertices
    assert {v.dtype for v in losses.values()} == {torch.float32} == {vertices.dtype}
    assert not torch.equal(vertices, vertices.bfloat16().float())


@pytest.mark.parametrize("variant", ["paper", "without_mesh"])
def test_overfits_a_few_objects(variant):
    model = build(**VARIANTS[variant], camera="softras").train()
    images, targets = a_batch()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(250):
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()
    with torch.inference_mode():
        found = model.eval().explain(images, targets)
    for masks in (found.coarse, found.amodal):
        for mask, truth in zip(masks > 0.5, targets["amodal"], strict=True):
            assert iou(mask, truth) > 0.9
    assert found.categories.argmax(dim=1).tolist() == [0, 1, 2, 0]


def whole(model):
    """A model that fills every window, and what it was given last."""
    given = {}

    def forward(images, targets):
        given.update(targets, images=images)
        return {"amodal_masks": torch.ones(len(images), SIDE, SIDE)}

    model.forward = forward
    return model.eval(), given


def test_windows_are_amodal_boxes():
    model, given = whole(build())
    masks = np.zeros((3, 40, 50), bool)
    masks[0, 12:20, 15:25] = masks[2, 0:5, 40:50] = True
    boxes = np.array([[10, 10, 20, 10], [np.nan] * 4, [40, -10, 20, 40.0]])
    image = np.arange(40 * 50 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 50, 3)
    expected = np.zeros_like(masks)
    expected[0, 10:20, 10:30] = expected[2, 0:30, 40:50] = True
    assert np.array_equal(model.complete(image, masks, boxes), expected)
    torch.testing.assert_close(given["aspect"], torch.tensor([[1, 0.5], [0.5, 1]]))
    assert given["key"].tolist() == [1, 3]
    # The visible part in its window of 20 x 10 pixels: rows 2 to 10, columns 5 to 15.
    rows, columns = given["input"][0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max()) == (SIDE // 5, SIDE - 1)
    assert (columns.min(), columns.max()) == (SIDE // 4, SIDE * 3 // 4 - 1)
    # One object, as tensors.
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    own = model.complete(pixels, torch.from_numpy(masks[0]), torch.tensor([10, 10, 20, 10]))
    assert np.array_equal(own, expected[0])
    # A box that the mask is not wholly in is as large as to hold it.
    beside = model.complete(image, masks[0], [18, 5, 20, 10])
    expected[1, 5:20, 15:38] = True
    assert np.array_equal(beside, expected[1])
    assert model.complete(image, masks[0], [10, 10, 200, 200]).sum() == 30 * 40


def test_completing_needs_boxes_that_fit():
    model, _ = whole(build())
    image, masks = np.zeros((40, 50, 3), np.uint8), np.ones((2, 40, 50), bool)
    with pytest.raises(ValueError, match="crops around amodal boxes: give"):
        model.complete(image, masks)
    with pytest.raises(ValueError, match=r"\[1, 4\]: give \[2, 4\]"):
        model.complete(image, masks, [[0, 0, 9, 9]])
    masks[1, :, :15] = False
    # No box, beside the image, beside the mask, or larger than memory.
    for wrong in ([20, 0, 9, 0], [20, np.nan, 9, 9], [50, 0, 9, 9], [-9, 0, 9, 9], [0, 0, 14, 9]):
        with pytest.raises(ValueError, match=r"amodal_boxes\[1\] is"):
            model.complete(image, masks, [[0, 0, 9, 9], wrong])
    for side in (201, 2e4, 1e6, 3e38, np.inf):
        with pytest.raises(ValueError, match=r"\[1\] is \[0.0, 0.0, .* at most 4 times as long as"):
            model.complete(image, masks, [[0, 0, 9, 9], [0, 0, side, side]])
    masks[1] = True
    around_visible = {**TINY_A3D["crop"], "around": "visible"}
    visible, _ = whole(build(crop=around_visible))
    with pytest.raises(ValueError, match="leave amodal_boxes out"):
        visible.complete(image, masks, [[0, 0, 9, 9]] * 2)
    masks[1, 20:] = False
    assert np.array_equal(visible.complete(image, masks), masks)
    with pytest.raises(ValueError, match="training mode"):
        build().train().complete(image, masks, [[0, 0, 9, 9]] * 2)


def test_what_cannot_work_is_refused():
    for changes in (
        {"crop": {**TINY_A3D["crop"], "image_side": 2 * SIDE}},
        {"fitted": True, "mesh": False},
        {"spread": True, "mesh": False},
        {"fitted": True, "crop": {**TINY_A3D["crop"], "square": True}},
        {"fitted": True, "crop": {**TINY_A3D["crop"], "around": "visible"}},
        {"fitted": True, "crop": {**TINY_A3D["crop"], "clipped": True}},
        {"fitted": True, "box_noise": 0.1},
    ):
        with pytest.raises(ValidationError):
            config(**changes)
