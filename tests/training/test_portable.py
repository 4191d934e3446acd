"""Completers as files: ONNX, torch.export and the script beside them, against this project."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from amodal_pipeline import methods
from amodal_pipeline.jobs.export_model import export_model
from amodal_pipeline.methods.configs import A3DConfig, C2FSegConfig
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.training import portable
from tests.conftest import TINY_PLAIN, tiny_method
from tests.methods.test_c2f_seg import TINY
from tests.methods.test_methods import checkpoint_of

HEIGHT, WIDTH = 90, 120
CROP = {"side": 16, "image_side": 32}


@pytest.fixture(scope="module")
def completer():
    """One that also sees other objects, with all parts that could trouble an export."""
    torch.manual_seed(0)
    changed = {"others": True, "distance": True, "prototypes": 2, "crop": CROP}
    config = MethodConfig.model_validate(TINY_PLAIN | changed).root
    return checkpoint_of(methods.build(config, classes=2))


@pytest.fixture(scope="module")
def exported(completer, tmp_path_factory):
    """The folder of an exported completer; skipped without the extra `export`."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is in the extra `export`, which is not installed")
    folder = tmp_path_factory.mktemp("exported") / "plain"
    made = portable.export_completer(completer, folder)
    assert made.inputs == ("others",) and made.difference < portable.TOLERANCE
    return folder


def disks():
    """Three discs in an image, in part beyond its border and over each other; and an empty mask."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    places = ((40, 40, 19), (2, 110, 12), (55, 50, 30.5))
    return np.stack([*((y - a) ** 2 + (x - b) ** 2 < r * r for a, b, r in places), x < 0])


def test_the_files_compute_what_the_network_does(completer, exported):
    """For any number of objects, also a single one."""
    import onnxruntime

    model = methods.pretrained.restore(completer)
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    loaded = torch.export.load(exported / "model.pt2").module()
    draw = torch.Generator().manual_seed(0)
    for count in (1, 5):
        image = torch.randint(256, (count, 3, 32, 32), generator=draw).to(torch.uint8)
        mask, others = torch.randint(2, (2, count, 16, 16), generator=draw).to(torch.uint8)
        with torch.inference_mode():
            own = model(image, {"input": mask, "others": others})["amodal_masks"].numpy()
            other = loaded(image, mask, others).numpy()
        given = {"image": image, "visible_mask": mask, "others": others}
        (found,) = session.run(None, {name: values.numpy() for name, values in given.items()})
        assert found.shape == (count, 16, 16) and own.std() > 1e-3
        assert np.abs(found - own).max() < 1e-4 and np.abs(other - own).max() < 1e-4


def test_the_script_completes_as_this_project_does(completer, exported, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    masks = disks()
    own = methods.pretrained.restore(completer).complete(pixels, masks)
    assert (own.sum((1, 2)) > masks.sum((1, 2)))[:3].any()
    from amodal_pipeline.training.standalone import Completer

    script = Completer(exported / "model.onnx")
    found = script.complete(pixels, masks)
    # A probability of one half may fall to either side.
    assert (found != own).mean() < 1e-4 and script.about["method"] == "plain_completer"
    for wrong in ({"masks": masks[:, :-1]}, {"masks": masks, "amodal_boxes": np.zeros((4, 4))}):
        with pytest.raises(ValueError, match=r"the masks|around visible"):
            script.complete(pixels, **wrong)

    # By itself: with neither this package nor PyTorch.
    Image.fromarray(masks[2].astype(np.uint8)).save(tmp_path / "mask.png")
    names = [str(tmp_path / f"{name}.png") for name in ("image", "mask", "whole")]
    program = (
        "import runpy, sys; sys.modules |= dict.fromkeys(('torch', 'amodal_pipeline')); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, exported / "complete.py", *names],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    alone = methods.pretrained.restore(completer).complete(pixels, masks[2])
    assert ((np.asarray(Image.open(names[2])) > 0) != alone).mean() < 1e-4


@pytest.mark.parametrize("order", ["own", "none"])
def test_the_script_finds_who_is_in_front(order, tmp_path):
    """PCNet-M: each object is completed into its neighbours before it is completed."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is in the extra `export`, which is not installed")
    from amodal_pipeline.annotations import rle
    from amodal_pipeline.methods import completer as completing
    from amodal_pipeline.training import standalone

    torch.manual_seed(2)
    config = tiny_method("pcnet_m").model_copy(update={"order": order, "amodal_threshold": 0.5})
    network = methods.build(config, classes=1)
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    checkpoint = checkpoint_of(network)
    made = portable.export_completer(checkpoint, tmp_path / "exported")
    assert made.inputs == ("in_front",) and made.difference < portable.TOLERANCE
    chain = [(30, 25), (45, 45), (35, 70), (70, 50), (80, 105)]  # the last by itself
    masks = np.zeros((len(chain), HEIGHT, WIDTH), bool)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for mask, (y, x) in zip(masks, chain, strict=True):
        mask[:] = ((rows - y) ** 2 + (columns - x) ** 2 < 200) & ~masks.any(axis=0)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    model = methods.pretrained.restore(checkpoint)
    own = model.complete(pixels, masks)
    script = standalone.Completer(tmp_path / "exported" / "model.onnx")
    found = script.complete(pixels, masks)
    assert (found != own).mean() < 1e-4 and (own.sum((1, 2)) > masks.sum((1, 2)))[:4].any()
    corners = np.array([script._window(np.array(standalone._tight(m)), (90, 120)) for m in masks])
    ahead = script._ahead(pixels, masks, corners)
    counts = rle.encode(masks)
    boxes = rle.box(counts, (HEIGHT, WIDTH)).astype(np.float64)
    picture, held = torch.from_numpy(pixels).permute(2, 0, 1), pa.array(counts, pa.string())
    known = completing._Objects(model, picture, held, boxes)
    with torch.inference_mode():
        found, _ = completing._in_front(known)
    expected = np.zeros_like(ahead)
    expected[found.back, found.front] = True
    assert np.array_equal(ahead, expected) and expected.any() and not expected[4].any()


@pytest.mark.parametrize("enlarge", [1.0, 2.7])
@pytest.mark.parametrize("clipped", [True, False])
def test_crops_of_the_script_are_those_of_this_project(clipped, enlarge):
    """The windows, the pixels, the sampled masks and the pasting, against layers.crops."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra `export`")
    from amodal_pipeline.annotations import rle
    from amodal_pipeline.layers import crops
    from amodal_pipeline.layers.configs import CropConfig
    from amodal_pipeline.training import standalone

    square = "by_area" if enlarge > 2 else not clipped
    crop = CropConfig(enlarge=enlarge, clipped=clipped, square=square, side=33, image_side=20)
    script = object.__new__(standalone.Completer)
    script.crop = crop.model_dump(mode="json")
    script.about = {"inputs": ["image", "visible_mask", "others", "aspect"]}
    script.about["pixels"] = True
    masks, size = disks()[:3], (HEIGHT, WIDTH)
    pixels = np.random.default_rng(1).integers(0, 255, (*size, 3), np.uint8)
    counts = rle.encode(masks)
    windows = crops.windows(rle.box(counts, size), size, crop)
    corners = np.array([script._window(np.array(standalone._tight(m)), size) for m in masks])
    assert np.array_equal(corners, windows)
    inputs = script._inputs(pixels, masks, corners, script._beside(pixels, masks, corners))
    picture = torch.from_numpy(pixels).permute(2, 0, 1)
    images = torch.stack([crops.crop_image(picture, w, 20) for w in windows])
    assert np.array_equal(inputs["image"], images.numpy())
    given = crops.crop_masks(counts, windows, size, 33)
    assert np.array_equal(inputs["visible_mask"], given)
    others = rle.encode([(masks.sum(0) > m) & ~m for m in masks.astype(int)])
    others = crops.crop_masks(others, windows, size, 33) & ~given
    assert np.array_equal(inputs["others"], others) and others.any()
    assert np.array_equal(inputs["aspect"], crops.aspects(windows).numpy())
    values = np.random.default_rng(2).random((3, 33, 33), np.float32)
    pasted = rle.decode(crops.paste_masks(torch.from_numpy(values), windows, size), size)
    again = [standalone._pasted(v, w, size) for v, w in zip(values, windows, strict=True)]
    assert np.array_equal(again, pasted)


def test_the_script_imports_nothing_of_this_project():
    source = Path(portable.__file__).with_name("standalone.py").read_text()
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in (
            [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= {*sys.stdlib_module_names, "numpy", "onnxruntime", "PIL"}


def test_networks_that_are_no_graph_are_named(tmp_path, monkeypatch):
    seeded = checkpoint_of(methods.build(C2FSegConfig.model_validate(TINY), classes=2))
    monkeypatch.setattr(portable, "_check_installed", lambda: None)
    with pytest.raises(ValueError, match="c2f_seg draws at random for each object"):
        export_model(seeded, tmp_path / "exported")
    stated = tiny_method("pcnet_m").model_copy(update={"order": "true"})
    with pytest.raises(ValueError, match="pcnet_m is configured to use the order that a data set"):
        export_model(checkpoint_of(methods.build(stated, classes=2)), tmp_path / "exported")
    small = {"channels": (4,), "hidden": (4,), "code": 4, "decoder": (4,), "subdivisions": 1}
    crop = {"around": "amodal", "enlarge": 1.0, "clipped": False, "side": 8, "image_side": 8}
    rendered = A3DConfig(**small, crop=crop, refinement=False)
    with pytest.raises(ValueError, match=r"a3d cannot be exported, because its network computes"):
        export_model(checkpoint_of(methods.build(rendered, classes=2)), tmp_path / "exported")
    detector = checkpoint_of(methods.build(tiny_method("orcnn"), classes=2))
    with pytest.raises(ValueError, match=r"orcnn is not exported: only completers are"):
        export_model(detector, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_a_missing_package_is_named(completer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", sys)
    with pytest.raises(ValueError, match=r"needs onnxscript, .*'amodal-pipeline\[export\]'"):
        portable.export_completer(completer, tmp_path / "exported")
