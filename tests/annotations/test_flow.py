"""Optical flow: Middlebury's and Kubric's files, read back; damage; which file is a frame's."""

import json
import struct
import zlib

import numpy as np
import pytest

from amodal_pipeline.annotations.flow import flow_file, read_flow, write_flow

SIZE = (5, 7)


def kubric_png(path, flow_yx: np.ndarray, low: float, high: float) -> None:
    """Write (rows, columns) as Kubric does: 16 bits a channel, a third one of zeros."""
    scaled = (flow_yx - low) * 65535 / (high - low)
    values = np.concatenate([scaled, np.zeros_like(scaled[..., :1])], axis=2).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def test_flo_round_trip_is_exact(tmp_path):
    flow = np.random.default_rng(0).normal(0, 30, (*SIZE, 2)).astype(np.float32)
    flow[1, 2] = np.nan
    path = tmp_path / "a.flo"
    write_flow(path, flow)
    np.testing.assert_array_equal(read_flow(path, SIZE), flow)
    # The bytes themselves: magic number, width before height, rows of (dx, dy).
    data = path.read_bytes()
    assert struct.unpack("<fii", data[:12]) == (202021.25, 7, 5)
    assert struct.unpack("<ff", data[12:20]) == tuple(flow[0, 0])


def test_kubric_png_becomes_dx_dy(tmp_path):
    low, high = -12.5, 20.0
    flow_yx = np.random.default_rng(1).uniform(low, high, (*SIZE, 2))
    path = tmp_path / "forward_flow_full_00003.png"
    kubric_png(path, flow_yx, low, high)
    (tmp_path / "data_ranges.json").write_text(
        json.dumps({"forward_flow": {"min": low, "max": high}})
    )
    found = read_flow(path, SIZE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, flow_yx[..., ::-1], atol=(high - low) / 65535 * 1.01)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "fewer bytes"),
        (lambda p: p.write_bytes(p.read_bytes() + b"\0"), "more bytes"),
        (lambda p: p.write_bytes(b"PIEH"), "not a Middlebury"),
        (lambda p: p.write_bytes(struct.pack("<4sii", b"PIEH", 1 << 30, 1 << 30)), "its frame 5x7"),
        (lambda p: p.unlink(), "missing"),
    ],
)
def test_damaged_flo_is_named(tmp_path, damage, message):
    path = tmp_path / "a.flo"
    write_flow(path, np.zeros((*SIZE, 2)))
    damage(path)
    with pytest.raises(ValueError, match=message) as error:
        read_flow(path, SIZE)
    assert "a.flo" in str(error.value)


def test_damaged_png_is_named(tmp_path):
    path = tmp_path / "backward_flow_full_00000.png"
    kubric_png(path, np.zeros((*SIZE, 2)), -1, 1)
    with pytest.raises(ValueError, match=r"data_ranges\.json is missing"):
        read_flow(path, SIZE)
    ranges = tmp_path / "data_ranges.json"
    ranges.write_text(json.dumps({"forward_flow": {"min": 0, "max": 1}}))
    with pytest.raises(ValueError, match=r"data_ranges\.json has no min and max of backward_flow"):
        read_flow(path, SIZE)
    ranges.write_text(json.dumps({"backward_flow": {"min": 0, "max": 1}}))
    with pytest.raises(ValueError, match="its frame 6x7"):
        read_flow(path, (6, 7))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"backward_flow_full_00000\.png"):
        read_flow(path, SIZE)


def test_what_cannot_be_written_is_refused(tmp_path):
    for flow, name in ((np.zeros((4, 4)), "a.flo"), (np.zeros((4, 4, 2)), "a.png")):
        with pytest.raises(ValueError, match=name):
            write_flow(tmp_path / name, flow)
    with pytest.raises(ValueError, match="unknown"):
        write_flow(tmp_path / "a.flo", np.full((4, 4, 2), np.inf))
    assert not list(tmp_path.iterdir())


def test_each_layout_has_its_file(tmp_path):
    def touch(name: str):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    ours = touch("clips/0/00001.forward.flo")
    assert flow_file(tmp_path, "clips/0/00001.png", 1) == ours
    assert flow_file(tmp_path, "clips/0/00001.png", 1, backward=True) is None

    kubric = touch("test/3/backward_flow_full_00002.png")
    assert flow_file(tmp_path, "test/3/rgba_full_00002.png", 2, backward=True) == kubric
    assert flow_file(tmp_path, "test/3/rgba_full_00002.png", 2) is None

    for folder in ("test_flow", "test_flow_reverse"):
        for number in range(3):
            touch(f"{folder}/inference/run.epoch-0-flow-field/00007/{number:06d}.flo")

    def savos(frame: int, backward: bool = False) -> str:
        name = f"test_data/test_frames/00007/{frame:05d}.png"
        path = flow_file(tmp_path, name, frame, backward=backward)
        return f"{path.parts[-5]}/{path.stem}"

    # Four frames, three files: the last frame repeats the one before it, backward the first.
    assert [savos(t) for t in range(4)] == [f"test_flow/{n:06d}" for n in (0, 1, 2, 2)]
    assert [savos(t, True) for t in range(4)] == [
        f"test_flow_reverse/{n:06d}" for n in (0, 0, 1, 2)
    ]
    with pytest.raises(ValueError, match="not a relative path"):
        flow_file(tmp_path, "../a.png", 0)
