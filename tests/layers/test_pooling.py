import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from amodal_pipeline.layers.pooling import MapRoIAlign, PyramidRoIAlign, pool


def ramps(height=64, width=96):
    """A pyramid whose maps hold, in every cell, the image coordinates of the cell's centre."""
    maps = {}
    for level, stride in enumerate((4, 8, 16, 32)):
        x = (torch.arange(width // stride) + 0.5) * stride
        y = (torch.arange(height // stride) + 0.5) * stride
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]
        maps[str(level)] = torch.cat([grid, torch.full_like(grid[:, :1], stride)], dim=1)
    return maps


def test_features_are_those_of_the_very_place():
    boxes = [torch.tensor([[20.0, 16, 34, 30], [30.0, 20, 60, 44]])]
    pooled = PyramidRoIAlign(7, canonical_size=64)(ramps(), boxes)
    for (x1, y1, x2, y2), cells in zip(boxes[0].tolist(), pooled, strict=True):
        centres = (torch.arange(7) + 0.5) / 7
        assert torch.allclose(cells[0, 0], x1 + centres * (x2 - x1), atol=1e-3)
        assert torch.allclose(cells[1, :, 0], y1 + centres * (y2 - y1), atol=1e-3)


def test_large_rois_come_from_coarse_maps_in_the_order_given():
    boxes = [torch.tensor([[0.0, 0, 64, 64], [0.0, 0, 15, 15]]), torch.tensor([[0.0, 0, 33, 33]])]
    maps = {k: v.repeat(2, 1, 1, 1) for k, v in ramps().items()}
    strides = PyramidRoIAlign(7, canonical_size=64)(maps, boxes)[:, 2, 3, 3]
    assert strides.tolist() == [16, 4, 8]


def test_levels_agree_with_torchvision():
    draw = torch.Generator().manual_seed(0)
    corner = torch.rand(50, 2, generator=draw) * 300
    boxes = [torch.cat([corner, corner + torch.rand(50, 2, generator=draw) * 500], dim=1)]
    maps = {str(i): torch.full((1, 1, 800 // s, 800 // s), s) for i, s in enumerate((4, 8, 16, 32))}
    maps = {k: v.float() for k, v in maps.items()}
    own = PyramidRoIAlign(1, canonical_size=224)(maps, boxes).flatten()
    other = MultiScaleRoIAlign(list(maps), 1, 2)(maps, boxes, [(800, 800)]).flatten()
    assert torch.equal(own, other)


def test_no_roi_at_all():
    pooled = PyramidRoIAlign(7, canonical_size=64)(ramps(), [torch.zeros(0, 4)])
    assert pooled.shape == (0, 3, 7, 7)


def test_features_of_one_map_are_those_of_the_very_place_and_image():
    places = ramps()["1"]
    maps = {"0": torch.cat([places, places + 1000])}
    boxes = [torch.tensor([[20.0, 16, 34, 30]]), torch.tensor([[30.0, 20, 60, 44]])]
    pooled = MapRoIAlign(5, stride=8)(maps, boxes)
    centres = (torch.arange(5) + 0.5) / 5
    for own, beyond, cells in zip(boxes, (0, 1000), pooled, strict=True):
        x1, y1, x2, y2 = own[0]
        assert torch.allclose(cells[0, 0], beyond + x1 + centres * (x2 - x1), atol=1e-3)
        assert torch.allclose(cells[1, :, 0], beyond + y1 + centres * (y2 - y1), atol=1e-3)
    assert MapRoIAlign(5, stride=8)(maps, [torch.zeros(0, 4)] * 2).shape == (0, 3, 5, 5)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_torchvision(aligned, sampling_ratio, dtype):
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 13, 17, generator=draw).to(dtype)
    corner = torch.rand(40, 2, generator=draw) * 150 - 20  # some lie partly or wholly outside
    boxes = torch.cat([corner, corner + torch.rand(40, 2, generator=draw) ** 2 * 120], dim=1)
    boxes[0, 2:] = boxes[0, :2]  # without area
    boxes[1] = torch.tensor([-400.0, -400, -300, -300])
    boxes[2] = torch.tensor([0.0, 0, 17 * 8, 13 * 8])
    image = torch.tensor([2, 0]).repeat(20)[:, None]  # in no order, none of image 1
    arguments = torch.cat([image, boxes], dim=1).to(dtype), 7, 1 / 8, sampling_ratio, aligned
    weights = torch.randn(40, 5, 7, 7, generator=draw)
    found = []
    for way in (pool, roi_align):
        leaf = features.clone().requires_grad_()
        with torch.autocast("cpu", enabled=dtype == torch.bfloat16):
            pooled = way(leaf, *arguments)
        (pooled * weights).sum().backward()
        found.append((pooled, leaf.grad))
    (own, gradient), (other, expected) = found
    assert torch.equal(own, other) and own.dtype == other.dtype
    assert gradient.dtype == expected.dtype and not gradient[1].any() and gradient[0].any()
    # In bf16 torchvision rounds after each sample.
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.05}
    torch.testing.assert_close(gradient, expected, **close)


def test_gradients_do_not_depend_on_threads():
    features = torch.randn(4, 8, 20, 20, generator=torch.Generator().manual_seed(0))
    corner = torch.rand(64, 2) * 50
    boxes = list(torch.cat([corner, corner + 30], dim=1).split(16))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            leaf = features.clone().requires_grad_()
            MapRoIAlign(7, stride=4)({"0": leaf}, boxes).square().sum().backward()
            found.append(leaf.grad)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
