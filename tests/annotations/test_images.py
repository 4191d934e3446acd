import warnings

import numpy as np
import pytest
from PIL import Image

from amodal_pipeline.annotations.images import read_image

H, W = 4, 6


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)


def test_rgb_as_stored_and_writable(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_image(tmp_path, "a.png", (H, W))
    assert read.dtype == np.uint8 and (read == pixels).all()
    read[0, 0] = 7  # a view of Pillow's memory would refuse


def test_grey_palette_alpha_and_one_bit(tmp_path, pixels):
    grey = pixels[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert (read_image(tmp_path, "grey.png") == grey[..., None]).all()

    alpha = np.dstack([pixels, np.zeros((H, W), np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    assert (read_image(tmp_path, "alpha.png") == pixels).all()  # dropped, not blended

    palette = Image.fromarray(grey % 4).convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata((grey % 4).ravel().tolist())
    palette.save(tmp_path / "palette.png", transparency=b"\x00\x80\xff\xff")
    table = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (read_image(tmp_path, "palette.png") == table[grey % 4]).all()

    Image.fromarray(grey > 127).save(tmp_path / "bit.png")
    assert (read_image(tmp_path, "bit.png")[..., 1] == 255 * (grey > 127)).all()


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    deep = np.linspace(0, 65535, H * W).astype(np.uint16).reshape(H, W)
    for name in ("deep.png", "deep.tiff"):
        Image.fromarray(deep).save(tmp_path / name)
        assert (read_image(tmp_path, name) == (deep >> 8)[..., None]).all()


def test_floating_point_is_refused(tmp_path):
    Image.fromarray(np.ones((H, W), np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(ValueError, match=r"f\.tiff .*floating-point"):
        read_image(tmp_path, "f.tiff")


def test_exif_orientation_is_not_applied(tmp_path):
    image = Image.new("RGB", (W, H))
    exif = image.getexif()
    exif[0x0112] = 6  # a viewer turns it by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path, "turned.jpg", (H, W)).shape == (H, W, 3)


def test_another_size_names_both(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is 4x6 pixels .* says 6x4"):
        read_image(tmp_path, "a.png", (W, H))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
def test_a_file_cut_short_is_named(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"cut\.{suffix} cannot be read"):
        read_image(tmp_path, path.name)


@pytest.mark.parametrize("content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.png cannot be read"):
        read_image(tmp_path, "odd.png")


def test_missing_file_names_the_root(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png is missing: check the image root"):
        read_image(tmp_path, "gone.png")


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "", "b/../../a.png"])
def test_no_name_leaves_the_root(tmp_path, name):
    with pytest.raises(ValueError, match="not a relative path"):
        read_image(tmp_path, name)


@pytest.mark.parametrize("limit", [H * W - 1, H * W // 3])
def test_too_many_pixels_are_refused(tmp_path, pixels, monkeypatch, limit):
    """Between the limit and twice the limit Pillow itself only warns."""
    Image.fromarray(pixels).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(ValueError, match=rf"bomb\.png has more than {limit} pixels"):
            read_image(tmp_path, "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W)
    assert read_image(tmp_path, "bomb.png").shape == (H, W, 3)


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA"])
def test_other_formats_are_refused_whatever_the_suffix(tmp_path, pixels, kind):
    with open(tmp_path / "a.png", "wb") as file:
        Image.fromarray(pixels).save(file, kind)
    with pytest.raises(ValueError, match=r"a\.png cannot be read .* none of JPEG, PNG"):
        read_image(tmp_path, "a.png")
