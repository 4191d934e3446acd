import io
import json
import weakref
import zipfile

import numpy as np
import pytest
from PIL import Image

from amodal_pipeline.annotations import rle
from amodal_pipeline.scenes import nmr, view_records
from amodal_pipeline.scenes.nmr import read_archives, stream
from amodal_pipeline.scenes.view_config import RenderedArchiveConfig
from amodal_pipeline.scenes.view_records import ObjectViews, table_of

CLASSES = {"02958343": "car", "03001627": "chair"}
CONFIG = RenderedArchiveConfig(classes=CLASSES, seed=1)
SIDE = 32


def objects(count: int, seed: int) -> np.ndarray:
    """Ellipses of one colour on black, as files have them: [count, 24, 4, SIDE, SIDE]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
    wide = rng.uniform(5, 12, (count, 24, 1, 1))
    high = rng.uniform(5, 12, (count, 24, 1, 1))
    inside = (x / wide) ** 2 + (y / high) ** 2 < 1
    out = np.zeros((count, 24, 4, SIDE, SIDE), np.uint8)
    out[:, :, :3] = inside[:, :, None] * rng.integers(0, 200, (count, 1, 3, 1, 1))
    out[:, :, 3] = 255 * inside
    return out


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    for k, class_ in enumerate(CLASSES):
        np.savez_compressed(folder / f"{class_}_train_images.npz", objects(3, k))
    return folder


@pytest.fixture(scope="module")
def split(archives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapenet")
    return folder, read_archives(CONFIG, "train", archives, folder)


def contents(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_view_is_a_picture_with_one_object_that_counts(archives, split):
    folder, table = split
    assert len(table.images) == 2 * 3 * 24 and len(table.rejected) == 0
    counted = table.instances[~table.instances["ignore"]]
    assert counted["track_id"].unique().tolist() == [0, 1, 2, 100_000, 100_001, 100_002]
    assert [c.name for c in table.metadata.categories] == ["car", "chair"]
    of_class = dict(zip(counted["track_id"], counted["category_id"], strict=True))
    assert list(of_class.values()) == [1, 1, 1, 2, 2, 2]
    truth = np.concatenate([list(stream(archives / f"{c}_train_images.npz")) for c in CLASSES])
    amodal = rle.decode(counted["amodal_rle"].tolist(), (SIDE, SIDE)).astype(bool)
    np.testing.assert_array_equal(amodal, truth[:, :, 3].reshape(-1, SIDE, SIDE) > 0)
    for image, picture in zip(
        table.images.itertuples(), truth.reshape(-1, 4, SIDE, SIDE), strict=True
    ):
        if len(table.of_image(image.image_id)) == 1:
            pixels = np.asarray(Image.open(folder / image.file_name)).transpose(2, 0, 1)
            drawn = picture[3] > 0
            np.testing.assert_array_equal(pixels[:, drawn], picture[:, drawn])
            assert (pixels[:3, ~drawn] == 255).all() and (pixels[3, ~drawn] == 0).all()


def test_viewpoints_are_those_of_softras(split):
    folder, _ = split
    record = ObjectViews.model_validate_json((folder / "train" / "100002.json").read_bytes())
    assert (record.source.category, record.source.position) == ("chair", 2)
    assert [v.viewpoint.azimuth for v in record.views] == [-15 * i for i in range(24)]
    assert {(v.viewpoint.elevation, v.viewpoint.distance) for v in record.views} == {(30, 2.732)}


def test_occluders_are_other_objects(split):
    folder, table = split
    low, high = CONFIG.occlusion
    counted = table.instances[~table.instances["ignore"]]
    rate = counted["occlusion_rate"].to_numpy(dtype=float)
    assert 0.5 < (rate > 0).mean() < 0.9
    assert rate[rate > 0].min() >= low - 1e-6 and rate.max() <= high + 1e-6
    assert len(table.order) == (rate > 0).sum()
    shown = []
    for path in (folder / "train").glob("[01]*.json"):
        record = ObjectViews.model_validate_json(path.read_bytes())
        shown += [(record.source, v.occluder.source) for v in record.views if v.occluder]
    assert all(own != other for own, other in shown)
    assert {other.category for _, other in shown} == {"car", "chair"}


def test_the_same_with_any_number_of_workers_and_when_resumed(archives, split, tmp_path):
    folder, table = split
    again = read_archives(CONFIG, "train", archives, tmp_path, workers=2)
    assert contents(tmp_path) == contents(folder) and again.fingerprint == table.fingerprint


def test_resuming_writes_only_what_is_missing(archives, tmp_path, monkeypatch):
    config = CONFIG.model_copy(update={"objects_per_class": 2})
    read_archives(config, "train", archives, tmp_path)
    before, written = contents(tmp_path / "train"), []
    original = nmr.write_object
    monkeypatch.setattr(
        nmr, "write_object", lambda *args: written.append(args[2]) or original(*args)
    )
    (tmp_path / "train" / "000001" / "07.png").unlink()
    read_archives(config, "train", archives, tmp_path)
    assert written == [1] and contents(tmp_path / "train") == before
    written.clear()
    read_archives(CONFIG, "train", archives, tmp_path)
    assert written == [2, 100_002]


def test_few_objects_are_in_memory_at_a_time(tmp_path, monkeypatch, split):
    record = ObjectViews.model_validate_json((split[0] / "train" / "000001.json").read_bytes())
    known, alive = [], []

    def made():
        for index in range(12):
            one = record.model_copy(update={"index": index})
            known.append(weakref.ref(one))
            alive.append(sum(reference() is not None for reference in known))
            yield one

    monkeypatch.setattr(view_records, "_AT_ONCE", 2)
    (tmp_path / "train").mkdir()
    table = table_of(made(), ["car", "chair"], "shapenet", "train", tmp_path, "nmr")
    assert len(table.images) == 12 * 24
    assert max(alive) <= 5  # those before, these, and the next


def test_an_object_that_fills_no_pixel_is_rejected_by_its_picture(tmp_path):
    truth = objects(2, 0)
    truth[1, 5:7] = 0
    np.savez(tmp_path / "1_val_images.npz", truth)
    config = RenderedArchiveConfig(classes={"1": "ellipse"}, occluded=1)
    table = read_archives(config, "val", tmp_path, tmp_path / "out")
    assert table.rejected["file"].tolist() == ["val/000001/05.png", "val/000001/06.png"]
    assert table.rejected["record"].tolist() == ["instance 2011", "instance 2013"]
    accounting = table.metadata.accounting["instances"]
    assert accounting.rejected == 2 and accounting.read == 2 + len(table.instances)
    assert len(table.images) == 48 and not len(table.of_image(1005))


def test_statistics_of_nothing_are_numbers(tmp_path):
    np.savez(tmp_path / "1_val_images.npz", 0 * objects(1, 0))
    config = RenderedArchiveConfig(classes={"1": "ellipse"})
    table = read_archives(config, "val", tmp_path, tmp_path / "out")
    assert not len(table.instances) and len(table.rejected) == 24
    statistics = json.loads(
        (tmp_path / "out/val/statistics.json").read_text(), parse_constant=pytest.fail
    )
    assert statistics["mean_occlusion_rate"] == statistics["share_occluded"] == 0


def test_objects_are_streamed(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", objects(4, 0))
    reads = []
    original = zipfile.ZipExtFile.read
    monkeypatch.setattr(
        zipfile.ZipExtFile, "read", lambda self, n=-1: reads.append(n) or original(self, n)
    )
    assert next(stream(tmp_path / "a.npz")).shape == (24, 4, SIDE, SIDE)
    assert max(reads) == 24 * 4 * SIDE * SIDE and min(reads) > 0


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


def packed(header: bytes, values: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("arr_0.npy", header + values)
    return out.getvalue()


def saved(*arrays, **options) -> bytes:
    out = io.BytesIO()
    np.savez(out, *arrays, **options)
    return out.getvalue()


def header(shape: tuple, dtype: str = "|u1") -> bytes:
    out = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, described)
    return out.getvalue()


def text(description: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(description).to_bytes(2, "little") + description.encode()


GOOD = objects(2, 0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (cut(saved(GOOD)), "not a zip file"),
        (flipped(saved(GOOD)), "Bad CRC-32 for file 'arr_0.npy'"),
        (b"", "not a zip file"),
        (saved(GOOD, GOOD), "it has 2 arrays"),
        (saved(GOOD.astype(np.float32)), "it holds float32"),
        (saved(np.asfortranarray(GOOD)), "uint8 by columns"),
        (saved(GOOD[:, :5]), r"its shape is \(2, 5, 4"),
        (saved(GOOD[:0]), "0 objects"),
        (saved(np.array([{}], object)), "it holds object"),
        (packed(header((2, 24, 4, 8, 8)), b"12"), r"is not that of \d+ bytes"),
        (packed(header((2, 24, 4, 9999, 8))), "its shape is"),
        (packed(header((10**9, 24, 4, 8, 8))), "allowed are 1 to 100000"),
        (packed(b"\x93NUMPY\x02\x00" + b"\xff" * 4), r"format \(2, 0\)"),
        (packed(text("(" * 9000)), "its header cannot be read"),
        (packed(text("{" + " " * 20_000 + "}")), "header is longer than 10000 bytes. It should"),
        (packed(b"nothing"), "magic string"),
    ],
)
def test_damaged_files_are_named_with_their_array_and_the_remedy(tmp_path, data, reason):
    path = tmp_path / "02958343_train_images.npz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=reason) as error:
        list(stream(path))
    assert str(path) in str(error.value) and "fetch the file again" in str(error.value)


def test_damage_in_the_middle_ends_a_run_of_several_processes(archives, tmp_path):
    for class_ in CLASSES:
        data = (archives / f"{class_}_train_images.npz").read_bytes()
        (tmp_path / f"{class_}_train_images.npz").write_bytes(data)
    last = tmp_path / f"{class_}_train_images.npz"
    last.write_bytes(flipped(saved(objects(9, 1))))
    with pytest.raises(ValueError, match=last.name):
        read_archives(CONFIG, "train", tmp_path, tmp_path / "out", workers=2)


def test_missing_files_are_named(archives, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks 02958343_val_images.npz, 03001627_val"):
        read_archives(CONFIG, "val", archives, tmp_path)


def test_a_single_object_has_no_occluder(tmp_path):
    np.savez(tmp_path / "1_test_images.npz", objects(1, 0))
    config = RenderedArchiveConfig(classes={"1": "ellipse"}, occluded=1)
    table = read_archives(config, "test", tmp_path, tmp_path / "out")
    assert len(table.instances) == 24 and not len(table.order)
    statistics = json.loads((tmp_path / "out/test/statistics.json").read_text())
    assert statistics["share_occluded"] == 0
