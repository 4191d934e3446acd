"""Completes objects of a picture with an exported completer, without amodal_pipeline or PyTorch.

It needs numpy, Pillow and onnxruntime, and lies beside the ``model.onnx`` that amodal_pipeline
writes:

    python complete.py photo.jpg mask.png whole.png

``mask.png`` is 0 where the object is not visible; ``whole.png`` becomes 255 where the object is,
its hidden part included. In Python, for N objects of one picture:

    whole = Completer("model.onnx").complete(image, masks)
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

_AT_ONCE = 32  # objects, to limit memory


class Completer:
    """A completer in a file of ONNX; ``about`` says what it was made from."""

    def __init__(self, file: str | Path) -> None:
        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map["completer"])
        self.crop = self.about["crop"]

    def complete(
        self, image: np.ndarray, masks: np.ndarray, amodal_boxes: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the whole masks of objects, bool, each united with its visible mask.

        Args:
            image: uint8 [H, W, 3], RGB.
            masks: [H, W], or [N, H, W] for several objects; nonzero where an object is visible.
            amodal_boxes: float [N, 4] (x, y, width, height) in pixels; only for a completer that
                looks within the box of the whole object (``crop["around"]`` is "amodal").

        Returns:
            bool with the shape of ``masks``; an empty visible mask stays empty.
        """
        visible = np.asarray(masks) != 0
        shape, size = visible.shape, image.shape[:2]
        if shape[-2:] != size:
            raise ValueError(f"the image has {size} pixels (height, width), the masks {shape[-2:]}")
        if (amodal_boxes is None) == (self.crop["around"] == "amodal"):
            raise ValueError(f"this completer looks around {self.crop['around']} boxes")
        visible = visible.reshape(-1, *size)
        boxes = np.array([_tight(mask) for mask in visible])
        if amodal_boxes is not None:
            boxes = _united(boxes, np.asarray(amodal_boxes, np.float64).reshape(-1, 4))
        whole, seen = visible.copy(), np.flatnonzero(visible.any(axis=(1, 2)))
        corners = np.array([self._window(box, size) for box in boxes]).reshape(-1, 4)
        beside = self._beside(image, visible, corners)
        for own in _some(seen):
            shown = None if beside is None else beside[own]
            found = self._run(image, visible[own], corners[own], shown)[0]
            for i, probabilities, window in zip(own, found, corners[own], strict=True):
                whole[i] |= _pasted(probabilities, window, size)
        return whole.reshape(shape)

    def _beside(
        self, image: np.ndarray, visible: np.ndarray, corners: np.ndarray
    ) -> np.ndarray | None:
        """Return what each object is shown of the others, bool [N, H, W]; None if nothing is."""
        if "others" in self.about["inputs"]:
            count = visible.sum(axis=0)
            return (count > visible) & ~visible
        if "in_front" not in self.about["inputs"]:
            return None
        ahead = self._ahead(image, visible, corners)
        shown = [visible[own].any(axis=0) for own in ahead]
        return np.array(shown).reshape(visible.shape)

    def _ahead(self, image: np.ndarray, visible: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """Return which objects (columns) are in front of each one (rows), bool [N, N].

        Of two objects that touch, each is completed into the other; the one that grows more is
        behind. With the order "none" each is in front of the other.
        """
        first, second = np.nonzero(np.triu(_touching(visible, self.about["order"]["most_shared"])))
        ahead = np.zeros((len(visible), len(visible)), bool)
        if self.about["order"]["kind"] == "none":
            ahead[first, second] = ahead[second, first] = True
            return ahead
        ways = np.stack([np.append(first, second), np.append(second, first)], axis=1)
        gains = [np.zeros(0)]
        for own in _some(np.arange(len(ways))):
            rows, by = ways[own].T
            share = self._run(image, visible[rows], corners[rows], visible[by])[1]
            extent = corners[rows, 2:] - corners[rows, :2]
            gains.append(share.astype(np.float64) * extent.prod(axis=1))
        one, other = np.concatenate(gains).reshape(2, -1)
        ahead[first, second] = one > other
        ahead[second, first] = other > one
        for _ in range(len(ahead).bit_length()):  # what is in front of what is in front
            ahead |= (ahead.astype(int) @ ahead) > 0
        np.fill_diagonal(ahead, False)
        return ahead

    def _run(
        self,
        image: np.ndarray,
        visible: np.ndarray,
        corners: np.ndarray,
        beside: np.ndarray | None,
    ) -> list[np.ndarray]:
        return self.session.run(None, self._inputs(image, visible, corners, beside))

    def _window(self, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return the window (x1, y1, x2, y2) of the picture around an object's box."""
        extent = box[2:] * self.crop["enlarge"]
        if self.crop["square"]:
            extent = np.repeat(extent.max(), 2)
        if self.crop["square"] == "by_area":
            extent = np.maximum(extent, np.sqrt(3 * box[2:].prod()))
        centre, half = box[:2] + box[2:] / 2, extent / 2
        corners = np.concatenate([centre - half, centre + half])
        return np.clip(corners, 0, [*size[::-1]] * 2) if self.crop["clipped"] else corners

    def _inputs(
        self,
        image: np.ndarray,
        visible: np.ndarray,
        corners: np.ndarray,
        beside: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the network's inputs for N objects: masks [N, H, W] in their windows [N, 4]."""
        side = self.crop["side"]
        pixels = np.zeros((len(corners), 3, *[self.crop["image_side"]] * 2), np.uint8)
        if self.about["pixels"]:
            pixels[:] = [_cropped(image, window, self.crop["image_side"]) for window in corners]
        given = np.array([_sampled(m, w, side) for m, w in zip(visible, corners, strict=True)])
        inputs = {"image": pixels, "visible_mask": given.astype(np.uint8)}
        if beside is not None:
            shown = np.array([_sampled(m, w, side) for m, w in zip(beside, corners, strict=True)])
            if "others" in self.about["inputs"]:
                inputs["others"] = (shown & ~given).astype(np.uint8)
            else:
                inputs["in_front"] = shown.astype(np.uint8)
        if "aspect" in self.about["inputs"]:
            extent = corners[:, 2:] - corners[:, :2]
            inputs["aspect"] = (extent / extent.max(axis=1, keepdims=True)).astype(np.float32)
        return inputs


def _some(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE)]


def _touching(masks: np.ndarray, most_shared: float) -> np.ndarray:
    """Return which of N masks share a pixel or have pixels side by side, bool [N, N].

    Two that share more than ``most_shared`` of the smaller one are taken for one object.
    """
    grown = masks.copy()
    grown[:, 1:] |= masks[:, :-1]
    grown[:, :-1] |= masks[:, 1:]
    grown[:, :, 1:] |= masks[:, :, :-1]
    grown[:, :, :-1] |= masks[:, :, 1:]
    own, around = (each.reshape(len(masks), -1).astype(np.float32) for each in (masks, grown))
    area, shared = own.sum(axis=1), own @ own.T
    touching = (around @ own.T > 0) & (shared <= most_shared * np.minimum(area, area[:, None]))
    np.fill_diagonal(touching, False)
    return touching


def _tight(mask: np.ndarray) -> list[float]:
    """Return the box (x, y, width, height) of a mask; zeros if it is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return [0.0] * 4
    return [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]


def _united(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low = np.minimum(a[:, :2], b[:, :2])
    high = np.maximum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    return np.concatenate([low, high - low], axis=1)


def _cropped(image: np.ndarray, window: np.ndarray, side: int) -> np.ndarray:
    """Return a window's pixels, uint8 [3, side, side]; black beyond the picture."""
    height, width = image.shape[:2]
    left, top = np.floor(window[:2]).astype(int)
    right, bottom = np.ceil(window[2:]).astype(int)
    pixels = np.zeros((bottom - top, right - left, 3), np.uint8)
    rows = slice(max(top, 0), min(bottom, height))
    columns = slice(max(left, 0), min(right, width))
    if rows.start < rows.stop and columns.start < columns.stop:
        to = (slice(rows.start - top, rows.stop - top),)
        to += (slice(columns.start - left, columns.stop - left),)
        pixels[to] = image[rows, columns]
    within = tuple(window - [left, top, left, top])
    scaled = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR, box=within)
    return np.asarray(scaled).transpose(2, 0, 1)


def _sampled(mask: np.ndarray, window: np.ndarray, side: int) -> np.ndarray:
    """Return a mask within a window as RoIAlign samples it, bool [side, side]."""
    x1, y1, x2, y2 = window
    down, across = _weights(y1, y2, mask.shape[0], side), _weights(x1, x2, mask.shape[1], side)
    rows, columns = (slice(max(int(a) - 1, 0), max(int(b) + 2, 0)) for a, b in ((y1, y2), (x1, x2)))
    near = mask[rows, columns].astype(np.float64)  # all others have the weight 0
    shares = (down[:, rows] @ near @ across[:, columns].T).astype(np.float32)
    inside = [_inside(y1, y2, mask.shape[0], side), _inside(x1, x2, mask.shape[1], side)]
    return (shares >= 0.5) & inside[0][:, None] & inside[1]


def _weights(low: float, high: float, size: int, side: int) -> np.ndarray:
    """Return the weight of each of ``size`` pixels in each cell, [side, size]."""
    extent = high - low
    samples = max(int(np.ceil(extent / side)), 1)
    at = low - 0.5 + extent * (np.arange(side * samples) + 0.5) / (side * samples)
    valid = (at >= -1) & (at <= size)
    at = at.clip(0, size - 1)
    below = np.minimum(at.astype(int), size - 1)
    above = np.minimum(below + 1, size - 1)
    weights, cell = np.zeros((side, size)), np.arange(side * samples) // samples
    np.add.at(weights, (cell, below), valid * np.where(above > below, 1 - (at - below), 1))
    np.add.at(weights, (cell, above), valid * np.where(above > below, at - below, 0))
    return weights / samples


def _inside(low: float, high: float, size: int, side: int) -> np.ndarray:
    centres = low + (high - low) * (np.arange(side) + 0.5) / side
    return (centres >= 0) & (centres <= size)


def _pasted(probabilities: np.ndarray, window: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask [side, side] at its place in the picture, bool [H, W]: above one half."""
    whole = np.zeros(size, bool)
    low = np.floor(np.clip(window[:2], 0, size[::-1])).astype(int)
    high = np.ceil(np.clip(window[2:], 0, size[::-1])).astype(int)
    weights = []
    for first, last, start, stop, side in zip(
        low, high, window[:2], window[2:], probabilities.shape[::-1], strict=True
    ):
        at = (np.arange(first, last) + 0.5 - start) / max(stop - start, 1e-6) * side - 0.5
        at = np.where((at >= -0.5) & (at <= side - 0.5), at.clip(0, side - 1), -1)
        near = np.clip(1 - np.abs(at[:, None] - np.arange(side)), 0, 1)
        weights.append(near.astype(np.float32))
    across, down = weights
    inside = (across @ probabilities.T @ down.T > 0.5).T
    whole[low[1] : high[1], low[0] : high[0]] = inside
    return whole


def main() -> None:
    """Complete the object that the command line names."""
    parser = argparse.ArgumentParser(description="Complete an object of a picture.")
    parser.add_argument("image", help="a picture")
    parser.add_argument("mask", help="an image that is 0 where the object is not visible")
    parser.add_argument("whole", help="the image to write: 255 where the whole object is")
    parser.add_argument("--model", default=Path(__file__).with_name("model.onnx"))
    parser.add_argument(
        "--box",
        type=float,
        nargs=4,
        metavar=("X", "Y", "WIDTH", "HEIGHT"),
        help="the box of the whole object, for a completer that needs it",
    )
    asked = parser.parse_args()
    image = np.array(ImageOps.exif_transpose(Image.open(asked.image)).convert("RGB"))
    mask = np.array(Image.open(asked.mask).convert("L"))
    box = None if asked.box is None else np.array([asked.box])
    whole = Completer(asked.model).complete(image, mask, box)
    Image.fromarray(whole * np.uint8(255)).save(asked.whole)


if __name__ == "__main__":
    main()
