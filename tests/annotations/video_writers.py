"""Videos in the layouts of FISHBOWL and MOViD-A, written from the description of the formats."""

import json
from dataclasses import dataclass

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from amodal_pipeline.annotations.fishbowl import TrackRules

T, H, W = FILM_SIZE = 14, 40, 60
FILM_RULES = TrackRules(amodal_above=20, visible_above=4, border=3)


@dataclass
class Film:
    """Amodal and visible masks of each fish [T, H, W]; fish are listed nearest first."""

    amodal: dict[int, np.ndarray]
    visible: dict[int, np.ndarray]


def film() -> Film:
    """A fish that crosses, one that stands behind it, one at the border, and a weed before all."""
    amodal = {}
    for number, (x0, y0, dx, w, h) in {
        7: (2, 12, 3, 10, 8),  # at the border at first
        2: (26, 14, 0, 9, 6),  # hidden by 7 in the middle of the film: its track ends there
        30: (0, 15, 0, 20, 6),  # touches the border always: never followed
    }.items():
        masks = np.zeros((T, H, W), bool)
        for t in range(T):
            masks[t, y0 : y0 + h, max(x0 + dx * t, 0) : x0 + dx * t + w] = True
        amodal[number] = masks
    visible, taken = {}, np.zeros((T, H, W), bool)
    taken[:, :, 33:35] = True  # the weed
    for number, masks in amodal.items():
        visible[number] = masks & ~taken
        taken |= masks
    return Film(amodal, visible)


def rle(mask: np.ndarray, text: bool = True) -> dict:
    found = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {**found, "counts": found["counts"].decode()} if text else found


def write_raw(root, film: Film, video: str = "00004", mode: str = "test") -> None:
    def fish(number: int, masks: np.ndarray) -> dict:
        return {"id": number, "type_id": 1, "type_name": "SmallFishA", "speed": 1.0, "scale": 2.0,
                "masks": [rle(mask) for mask in masks]}  # fmt: skip

    path = root / mode / video / "objects.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([fish(n, masks) for n, masks in film.visible.items()]))
    for number, masks in film.amodal.items():
        path = root / f"{mode}_objects" / f"{video}_object{number}" / "objects.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps([fish(number, masks)]))


def followed(film: Film, number: int) -> list[int]:
    """The frames of a fish's track, as SaVos's preprocessing goes through them."""
    candidates, begun = [], False
    for t, mask in enumerate(film.amodal[number]):
        rows, columns = np.nonzero(mask)
        good = mask.sum() > FILM_RULES.amodal_above and (
            rows.min() >= FILM_RULES.border
            and columns.min() >= FILM_RULES.border
            and rows.max() <= H - FILM_RULES.border
            and columns.max() <= W - FILM_RULES.border
        )
        if good:
            begun = True
            candidates.append(t)
        elif begun:
            break
    frames = []
    for t in candidates:
        if film.visible[number][t].sum() > FILM_RULES.visible_above:
            frames.append(t)
        elif frames:
            break
    return frames


def processed(film: Film, video: str = "00004") -> dict:
    """SaVos's dictionary, made from the masks."""
    found = {}
    everyone = sum(masks.astype(int) for masks in film.visible.values())
    for number in film.amodal:
        for t in followed(film, number):
            whole, seen = film.amodal[number][t], film.visible[number][t]
            free = 1 - (everyone[t] - seen)
            rows, columns = np.nonzero(whole)
            found.setdefault(f"{video}_{number}", {})[t] = {
                "FM": [rle(whole, text=False)],
                "VM": [rle(seen, text=False)],
                "FM_bx": [rows.min(), rows.max(), columns.min(), columns.max()],
                "OCC_R": 1 - seen.sum() / whole.sum(),
                "IoU": None,
                "loss_mask_weight": [rle(free, text=False)],
                "fish_type": "SmallFishA",
            }
    return found


N, KT, KH, KW = KUBRIC_SIZE = 3, 4, 24, 32


def palette_png(path, values: np.ndarray) -> None:
    """Write ids as the numbers of a palette's colours, as Kubric does."""
    image = Image.fromarray(values.astype(np.uint8), "L").convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path)


def kubric_video(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return amodal and visible masks, bool [N, T, H, W]: boxes that move, the first in front."""
    rng = np.random.default_rng(seed)
    amodal = np.zeros((N, KT, KH, KW), bool)
    for k in range(N):
        x, y = rng.integers(0, 12, 2)
        for t in range(KT):
            amodal[k, t, y : y + 12, x + 2 * t : x + 2 * t + 14] = True
    amodal[2, 1:] = False  # leaves the picture
    visible, taken = amodal.copy(), np.zeros((KT, KH, KW), bool)
    for k in range(N):
        visible[k] &= ~taken
        taken |= amodal[k]
    visible[1, 3] = False  # hidden by what is no instance
    return amodal, visible


def write_kubric(root, films: dict[str, tuple[np.ndarray, np.ndarray]], mode: str = "test") -> None:
    for name, (amodal, visible) in films.items():
        folder = root / mode / name
        folder.mkdir(parents=True)
        instances = [
            {"bbox_frames": np.flatnonzero(seen.any(axis=(1, 2))).tolist(), "bboxes": []}
            for seen in visible
        ]
        about = {"num_frames": KT, "height": KH, "width": KW, "num_instances": N}
        (folder / "metadata.json").write_text(
            json.dumps({"metadata": about, "camera": {}, "instances": instances})
        )
        for t in range(KT):
            Image.new("RGBA", (KW, KH)).save(folder / f"rgba_full_{t:05d}.png")
            ids = (visible[:, t] * np.arange(1, N + 1)[:, None, None]).sum(axis=0)
            palette_png(folder / f"segmentation_full_{t:05d}.png", ids)
            for k in range(N):
                palette_png(folder / f"segmentation_{k}_{t:05d}.png", amodal[k, t] * (k + 1))
