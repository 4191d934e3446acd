"""The page: masks from boxes, lines and files; what is shown; and all of it in a browser."""

import itertools
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from amodal_pipeline import methods
from amodal_pipeline.demo import marking
from amodal_pipeline.demo.examples import rendered
from amodal_pipeline.demo.scene import Scene
from amodal_pipeline.methods.pretrained import restore
from amodal_pipeline.predictor import Predictor
from tests.conftest import tiny_method
from tests.methods.test_methods import checkpoint_of

SIZE = (120, 160)


def disk(y, x, radius):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


FRONT, BACK = disk(62, 88, 24), disk(60, 60, 30)


@pytest.fixture
def picture():
    """A blue disc behind a red one on a noisy lawn."""
    draw = np.random.default_rng(0)
    pixels = np.full((*SIZE, 3), (40, 130, 50), np.int64)
    pixels[BACK], pixels[FRONT] = (50, 60, 210), (215, 50, 40)
    return (pixels + draw.integers(-20, 20, pixels.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def model():
    """PCNet-M as it starts: the whole mask is all of an object's window."""
    return Predictor(restore(checkpoint_of(methods.build(tiny_method("pcnet_m"), classes=1))))


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def box(mask):
    rows, columns = np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0)
    return (rows[1] - 2, rows[0] - 2, columns[1] + 3, columns[0] + 3)


def test_a_box_finds_what_is_visible_of_an_object(picture):
    pytest.importorskip("cv2", reason="opencv is in the extra `demo`")
    front = marking.object_in_box(picture, box(FRONT))
    assert iou(front, FRONT) > 0.95
    # The box of the one behind contains part of the one in front, which is taken.
    back = marking.object_in_box(picture, box(BACK), front)
    assert iou(back, BACK & ~FRONT) > 0.93 and not (back & front).any()
    larger = np.asarray(Image.fromarray(picture).resize((960, 720)))  # more than GrabCut looks at
    found = marking.object_in_box(larger, tuple(6 * side for side in box(FRONT)))
    assert iou(found, np.kron(FRONT, np.ones((6, 6), bool))) > 0.93


def test_boxes_without_an_object_are_refused(picture):
    pytest.importorskip("cv2", reason="opencv is in the extra `demo`")
    cases = {
        "too small": ((10, 10, 13, 60), None),
        "all of the picture": ((0, 0, *SIZE[::-1]), None),
        "in front before": (box(BACK), BACK | FRONT | disk(60, 60, 50)),
    }
    for says, (corners, taken) in cases.items():
        with pytest.raises(ValueError, match=says):
            marking.object_in_box(picture, corners, taken)


def test_a_line_drawn_by_hand_is_its_inside():
    corners = np.array([(0.1, 0.1), (0.9, 0.3), (0.5, 0.5), (0.8, 0.95), (0.2, 0.8)])
    points = marking.points_of(corners.tolist())
    found = marking.within_outline(points, SIZE)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    expected = np.zeros(SIZE, bool)
    for (x1, y1), (x2, y2) in itertools.pairwise([*corners * SIZE[::-1], corners[0] * SIZE[::-1]]):
        across = (y1 > rows) != (y2 > rows)  # a ray to the right meets this side
        expected ^= across & (columns < x1 + (rows - y1) * (x2 - x1) / (y2 - y1))
    assert iou(found, expected) > 0.95  # but for its edge
    for wrong in (None, [], [[0, 0]], [[0, 1], [2]], [["a", 1], [0, 1]], [[0, 1e999]] * 3):
        with pytest.raises(ValueError, match=r"drag over|pairs of numbers"):
            marking.points_of(wrong)


def test_uploaded_pictures_are_upright_and_bounded(tmp_path, monkeypatch):
    pixels = np.zeros((1200, 2400, 3), np.uint8)
    pixels[:, :1200] = 255
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = 6  # a camera that was turned
    image.save(tmp_path / "a.png", exif=image.getexif())
    found, stored = marking.read_picture(tmp_path / "a.png")
    assert stored == (2400, 1200) and found.shape == (1024, 512, 3)
    assert (found[:500] == 255).all() and (found[524:] == 0).all()
    monkeypatch.setattr(marking, "MOST_PIXELS", 1_000_000)
    with pytest.raises(ValueError, match="3 million pixels, more than 1: reduce it"):
        marking.read_picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        marking.read_picture(tmp_path / "b.png")


def test_an_uploaded_mask_has_a_value_for_each_object(tmp_path):
    labels = np.zeros((240, 320), np.uint8)
    labels[np.kron(BACK, np.ones((2, 2), bool))] = 200
    labels[np.kron(FRONT, np.ones((2, 2), bool))] = 7
    path = tmp_path / "mask.png"
    Image.fromarray(labels).save(path)
    front, back = marking.masks_in_file(path, (240, 320), SIZE)
    assert np.array_equal(front, FRONT) and np.array_equal(back, BACK & ~FRONT)
    with pytest.raises(ValueError, match=r"240x320 pixels .*, its image 120x160"):
        marking.masks_in_file(path, SIZE, SIZE)
    wrong = {
        "0 everywhere": np.zeros((240, 320), np.uint8),
        "has 255 different values": np.arange(240 * 320).reshape(240, 320).astype(np.uint8),
        "channels RGB": np.zeros((240, 320, 3), np.uint8),
    }
    for says, values in wrong.items():
        Image.fromarray(values).save(path)
        with pytest.raises(ValueError, match=says):
            marking.masks_in_file(path, (240, 320), SIZE)


def test_a_scene_shows_whole_masks_and_who_is_in_front(picture, model):
    scene = Scene(picture, SIZE).with_objects([FRONT, BACK], ["", "disc"])
    assert np.array_equal(scene.masks[1], BACK & ~FRONT) and scene.titles == ["1", "2 disc"]
    with pytest.raises(ValueError, match="nothing is left of this object"):
        scene.with_objects([FRONT], [""])
    with pytest.raises(ValueError, match="more than 20"):
        scene.with_objects([disk(8, 7 * k + 5, 3) for k in range(19)], [""] * 19)
    visible = np.stack(scene.masks)

    done = scene.completed(model)
    assert np.array_equal(done.whole, model.complete(picture, visible).masks)
    assert done.without_last().whole is None and len(done.without_last().masks) == 1
    hidden = done.whole[1] & ~done.masks[1]
    assert done.hidden_share(1) == pytest.approx(hidden.sum() / done.whole[1].sum())
    changed = (done.drawn(1) != picture).any(axis=2)
    assert changed[hidden].mean() > 0.9 and done.drawn().shape == picture.shape
    pixels = np.asarray(done.cut(1))
    assert (pixels[..., 3] == 255).sum() == done.masks[1].sum() and pixels.shape[2] == 4
    assert np.array_equal(scene.marked()[~visible.any(axis=0)], picture[~visible.any(axis=0)])


def test_a_detector_marks_the_objects(picture):
    class Found:
        names = ("disc", "ball", "ball again")
        scores = np.array([0.6, 0.9, 0.7])
        visible_masks = np.stack([BACK, FRONT, FRONT | disk(62, 90, 24)])

    class Detector:
        name = "stub"

        def predict(self, pixels, score_threshold):
            assert pixels is picture and score_threshold == 0.5
            return Found

    scene = Scene(picture, SIZE).with_found(Detector())
    assert scene.names == ("ball", "disc") and np.array_equal(scene.masks[1], BACK & ~FRONT)
    Found.visible_masks = np.zeros((3, *SIZE), bool)
    with pytest.raises(ValueError, match="no object was found"):
        Scene(picture, SIZE).with_found(Detector())


def test_examples_are_rendered_with_masks():
    (scene,) = rendered(side=96, count=1)
    assert scene.picture.shape == (96, 96, 3) and len(scene.masks) >= 3 and all(scene.names)


@contextmanager
def served(app):
    """The address at which an application answers."""
    import uvicorn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def browser_program():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    return found or pytest.skip("no Chromium is installed, so there is no browser to try it in")


def test_the_page_completes_objects_in_a_browser(picture, model, tmp_path, monkeypatch):
    """A picture is dropped, a box and an outline are drawn, and an object is chosen."""
    pytest.importorskip("gradio", reason="gradio is in the extra `demo`, which is not installed")
    pytest.importorskip("cv2", reason="opencv is in the extra `demo`")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = browser_program()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "temporary"))
    from amodal_pipeline.demo.page import application

    Image.fromarray(picture).save(tmp_path / "lawn.png")
    example = Scene(picture[:, ::-1].copy(), SIZE).with_objects([BACK[:, ::-1]], ["disc"])
    asked = set()
    with served(application(model, [example])) as address, playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.on("request", lambda request: asked.add(request.url.split("/")[2]))
        choice, expect = page.locator("#chosen"), playwright.expect
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.goto(address)
        expect(choice.get_by_text("1 disc")).to_be_visible()  # the example, completed at the start

        upload = page.locator("#picture input[type=file]")
        upload.set_input_files(tmp_path / "lawn.png")
        expect(page.get_by_text("No object is marked yet.")).to_be_visible()

        def drag(*places):
            frame = page.locator("#board img").bounding_box()
            for at, (x, y) in enumerate(places):
                x, y = x / SIZE[1] * frame["width"], y / SIZE[0] * frame["height"]
                page.mouse.move(frame["x"] + x, frame["y"] + y)
                if not at:
                    page.mouse.down()
            page.mouse.up()

        x1, y1, x2, y2 = box(FRONT)
        drag((x1, y1), (x2, y2))
        expect(choice.get_by_text("1", exact=True)).to_be_visible()
        page.get_by_text("An outline drawn by hand").click()
        drag((32, 60), (58, 32), (80, 40), (80, 80), (58, 88))
        expect(choice.get_by_text("2", exact=True)).to_be_visible()
        words = page.locator("#words")
        expect(words).to_contain_text("2: ")
        whole = page.locator("#drawn img").get_attribute("src")
        choice.get_by_text("2", exact=True).click()
        expect(words).not_to_contain_text("1: ")
        expect(page.locator("#drawn img")).not_to_have_attribute("src", whole)
        page.get_by_role("button", name="Undo the last").click()
        expect(choice.get_by_text("2", exact=True)).to_be_hidden()

        drag((2, 2), (3, 3), (2, 2))
        expect(page.get_by_text("nothing is left of this object")).to_be_visible()
        browser.close()
        assert asked == {address.split("/")[2]}  # nothing of others is loaded

        foreign = urllib.request.Request(address, headers={"Host": "example.org"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(foreign, timeout=10)
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
