import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.models import Models
from amodal_pipeline.scenes.placement import arrange, overlaps
from amodal_pipeline.scenes.render import PlacedShape
from amodal_pipeline.scenes.scene import sample_scene
from amodal_pipeline.scenes.shapes import Material, assemble, box


def square(x, y, turn=0.0, side=1.0):
    c, s = np.cos(turn), np.sin(turn)
    corners = side / 2 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    return corners @ np.array([[c, s], [-s, c]]) + (x, y)


def test_overlaps_closed_forms():
    here = square(0, 0)[None]
    others = np.stack(
        [square(0.9, 0), square(1.1, 0), square(0, 0, side=0.1), square(1.2, 0, np.pi / 4)]
    )
    assert overlaps(here, others, gap=0.0).tolist() == [[True, False, True, True]]
    assert overlaps(here, others, gap=0.2)[0, 1]
    diagonal = square(0.95, 0.95, np.pi / 4)[None]  # bounding boxes meet, squares do not
    assert not overlaps(here, diagonal, gap=0.0)[0, 0]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 20),
    crowding=st.floats(0, 1),
    side=st.floats(0.1, 3),
)
def test_arranged_footprints_never_touch(seed, count, crowding, side):
    rng = np.random.default_rng(seed)
    shape = assemble([(box((side, 0.4, 1.0), (0, 0, 0)), Material((1, 1, 1)))])
    poses = arrange([shape.bounds] * count, 30.0, crowding, rng)
    prints = np.stack([PlacedShape(shape, pose).footprint for pose in poses])
    assert not (overlaps(prints, prints, gap=0.01) & ~np.eye(count, dtype=bool)).any()


@pytest.mark.parametrize("index", range(6))
def test_objects_of_a_scene_stand_apart_on_the_ground(index):
    config = ScenesConfig(image_size=64, minimum_amodal_pixels=5)
    scene, _ = sample_scene(config, Models.of(config), "test", index)
    assert config.minimum_objects <= len(scene.objects) <= config.maximum_objects
    assert scene.camera.position[2] > 0
    for placed in scene.objects:
        assert placed.vertices[:, 2].min() == 0
        low, high = placed.footprint.min(axis=0), placed.footprint.max(axis=0)
        assert (placed.vertices[:, :2] >= low - 1e-9).all()
        assert (placed.vertices[:, :2] <= high + 1e-9).all()
    prints = np.stack([o.footprint for o in scene.objects])
    apart = overlaps(prints, prints, gap=0.01) & ~np.eye(len(prints), dtype=bool)
    assert not apart.any()


def test_limits_that_leave_no_scene_are_named():
    config = ScenesConfig(image_size=32, minimum_amodal_pixels=2000)
    with pytest.raises(ValueError, match="minimum_amodal_pixels"):
        sample_scene(config, Models.of(config), "test", 0)


def test_hidden_objects_are_taken_out_or_kept_as_asked():
    changes = {"image_size": 64, "minimum_amodal_pixels": 5, "crowding": 1.0, "elevation": (7, 9)}
    counts = {}
    for limit in (0.2, 1.0):
        config = ScenesConfig(max_occlusion_rate=limit, minimum_objects=1, **changes)
        models = Models.of(config)
        counts[limit] = [len(sample_scene(config, models, "test", i)[1]) for i in range(5)]
    assert all(a <= b for a, b in zip(counts[0.2], counts[1.0], strict=True))
    assert sum(counts[0.2]) < sum(counts[1.0])
