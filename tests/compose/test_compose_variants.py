"""Objects under several occluders: what is claimed to be the same is the same."""

import json

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.compose.config import VariantsConfig
from amodal_pipeline.compose.variants import compose_variants

SIZE = (64, 64)
SMALL = VariantsConfig(variants=3, min_area=100)


@pytest.fixture(scope="module")
def made(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    return compose_variants(shapes, SMALL, folder), folder


def records(folder):
    return {p.stem: json.loads(p.read_text()) for p in folder.glob("*.json")}


def test_each_target_has_its_pictures(shapes, made):
    table, folder = made
    # The red square in front of the blue one is whole: it can be a target, one to an image.
    assert table.instances["track_id"].dropna().value_counts().to_dict() == {
        2 * i: 3 for i in range(1, 9)
    }
    assert table.images["video_id"].tolist() == np.repeat(np.arange(1, 9), 3).tolist()
    assert table.images["frame"].tolist() == [0, 1, 2] * 8
    assert table.metadata.accounting["instances"].rejected == 0
    assert table.metadata.sources["annotations_train"] == shapes.fingerprint
    own = shapes.instances.set_index("instance_id")["image_id"]
    for name, record in records(folder).items():
        cut_from = [v["occluder"]["source_id"] for v in record["variants"]]
        assert len(set(cut_from)) == 3
        assert not (own.loc[cut_from] == own.loc[int(name)]).any()


def test_only_what_the_occluder_covers_changes(shapes, made):
    table, _ = made
    rates = {}
    for _, image in table.images.iterrows():
        here, was = table.of_image(image["image_id"]), shapes.of_image(image["video_id"])
        pasted, objects = here.iloc[-1], here.iloc[:-1]
        assert objects["amodal_rle"].tolist() == was["amodal_rle"].tolist()
        assert objects["category_id"].tolist() == was["category_id"].tolist()
        (mask,) = rle.decode([pasted["amodal_rle"]], SIZE).astype(bool)
        before = rle.decode(was["visible_rle"].tolist(), SIZE).astype(bool)
        after = rle.decode(objects["visible_rle"].tolist(), SIZE).astype(bool)
        np.testing.assert_array_equal(after, before & ~mask)

        target = np.flatnonzero(objects["track_id"].notna())
        assert objects["track_id"].iloc[target].tolist() == was["instance_id"].iloc[target].tolist()
        share = 1 - after[target].sum() / before[target].sum()
        assert 0.2 <= share <= 0.6
        rates.setdefault(int(image["video_id"]), []).append(share)

        old = read_image(shapes.metadata.image_root, f"{image['video_id']}.png", SIZE)
        new = read_image(table.metadata.image_root, image["file_name"], SIZE)
        rim = ndimage.binary_dilation(mask, iterations=1)
        np.testing.assert_array_equal(new[~rim], old[~rim])

        amodal = rle.decode(objects["amodal_rle"].tolist(), SIZE).astype(bool)
        order = table.order[table.order["image_id"] == image["image_id"]]
        pairs = set(zip(order["occluder_id"], order["occludee_id"], strict=True))
        ids = objects["instance_id"].tolist()
        over = {i for i, a in zip(ids, amodal, strict=True) if (a & mask).any()}
        assert pairs == {(ids[0], ids[1])} | {(pasted["instance_id"], i) for i in over}
    # The occluders of one target hide about as much of it.
    assert max(max(shares) - min(shares) for shares in rates.values()) < 0.12
    assert np.ptp([np.mean(shares) for shares in rates.values()]) > 0.12


def test_the_seed_decides_and_nothing_else(shapes, made, tmp_path):
    table, folder = made
    again = compose_variants(shapes, SMALL, tmp_path / "again", workers=2)
    assert again.fingerprint == table.fingerprint
    for name in table.images["file_name"]:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    other = compose_variants(shapes, SMALL.model_copy(update={"seed": 1}), tmp_path / "other")
    assert other.instances["visible_rle"].tolist() != table.instances["visible_rle"].tolist()


def test_fewer_images_and_more_targets(shapes, tmp_path):
    changes = {"images": 3, "targets_per_image": 2, "max_occlusion_rate": 0.5, "variants": 2}
    table = compose_variants(shapes, SMALL.model_copy(update=changes), tmp_path)
    targets = table.instances[table.instances["track_id"].notna()]
    assert targets["track_id"].nunique() == 6
    assert table.images["video_id"].nunique() == 3
    assert table.images.groupby("video_id")["frame"].apply(list).tolist() == [[0, 1, 2, 3]] * 3


def test_pictures_are_kept_until_something_changes(shapes, tmp_path):
    config = SMALL.model_copy(update={"images": 2})
    names = compose_variants(shapes, config, tmp_path).images["file_name"].tolist()
    made_at = {name: (tmp_path / name).stat().st_mtime_ns for name in names}
    (tmp_path / names[0]).unlink()
    compose_variants(shapes, config, tmp_path)
    anew = [name for name in names if (tmp_path / name).stat().st_mtime_ns != made_at[name]]
    assert anew == names[:3]  # those of the target that lacked one
    made_at = {name: (tmp_path / name).stat().st_mtime_ns for name in names}
    compose_variants(shapes, config.model_copy(update={"edge_softness": 0.0}), tmp_path)
    assert all((tmp_path / name).stat().st_mtime_ns != made_at[name] for name in names)


def test_a_split_without_targets_is_refused(shapes, tmp_path):
    for changes in ({"min_area": 5000}, {"scale": (0.05, 0.06)}):
        with pytest.raises(ValueError, match="shapes/train: no object can be hidden under 3"):
            compose_variants(shapes, SMALL.model_copy(update=changes), tmp_path)


@pytest.mark.parametrize("hidden", [(0.0, 0.5), (0.5, 1.0), (0.6, 0.2)])
def test_something_is_hidden_and_something_seen(hidden):
    with pytest.raises(ValidationError, match="hidden"):
        VariantsConfig(hidden=hidden)
