"""Single objects as images: their masks, and the object itself cut out of its picture."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from amodal_pipeline.annotations import Predictions, rle
from amodal_pipeline.annotations.storage import inside

_LONGEST_NAME = 60  # characters of a category's name that go into the name of a file


def write_object_images(
    folder: Path, image: np.ndarray, objects: pd.DataFrame, names: dict[int, str], stem: str = ""
) -> int:
    """Write the images of the objects of a picture; return their number.

    The files are ``<kind>/<stem>/<prediction_id>_<category>.png``, with the ``track_id`` in place
    of ``prediction_id`` where there is one.

    Args:
        folder: that exists.
        image: the picture, uint8 [H, W, 3].
        objects: rows of PREDICTIONS for it.
        names: category names by id.
        stem: name of the picture, if the folder holds the objects of several.
    """
    written = 0
    for _, row in objects.iterrows():
        number = row["prediction_id"] if pd.isna(row["track_id"]) else row["track_id"]
        name = f"{number}_{_in_a_name(names[row['category_id']])}.png"
        for kind, picture in object_images(image, *_masks(row, image.shape[:2])):
            path = inside(folder, "/".join(part for part in (kind, stem, name) if part))
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, format="PNG")
            written += 1
    return written


def object_images(
    image: np.ndarray, amodal: np.ndarray | None, visible: np.ndarray | None
) -> Iterator[tuple[str, Image.Image]]:
    """Yield the kind and the image of each mask that is not empty, and of the cut-out.

    Args:
        image: uint8 [H, W, 3].
        amodal, visible: bool [H, W]; None where the method predicts none.
    """
    for kind, mask in (("amodal", amodal), ("visible", visible)):
        if mask is not None and mask.any():
            yield kind, Image.fromarray(mask * np.uint8(255))
    cut = cut_out(image, amodal, visible)
    if cut is not None:
        yield "cutouts", cut


def cut_out(
    image: np.ndarray, amodal: np.ndarray | None, visible: np.ndarray | None
) -> Image.Image | None:
    """Return an object as RGBA in the tight box of its whole mask; hidden pixels are transparent.

    Args:
        image: uint8 [H, W, 3].
        amodal: bool [H, W]; by default the visible mask.
        visible: bool [H, W]; by default all of the amodal mask is opaque.

    Returns:
        The picture's colours where the object is visible, and (0, 0, 0, 0) elsewhere; None if the
        amodal mask is empty.
    """
    whole = visible if amodal is None else amodal
    if whole is None or not whole.any():
        return None
    rows, columns = (np.flatnonzero(whole.any(axis=axis)) for axis in (1, 0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    opaque = (whole if visible is None else whole & visible)[window]
    pixels = np.dstack([image[window], np.full(opaque.shape, 255, np.uint8)])
    return Image.fromarray(pixels * opaque[..., None])


def order_list(predictions: Predictions) -> pd.DataFrame:
    """Return who is in front of whom: file_name, front, front_category, back, back_category, score.

    ``front`` and ``back`` are ``prediction_id``, or ``track_id`` where objects have tracks. Pairs
    are by images, and in the order of the table within one.
    """
    table, order = predictions.predictions, predictions.order
    names = {c.id: c.name for c in predictions.metadata.categories}
    images = dict(zip(predictions.images["image_id"], predictions.images["file_name"], strict=True))
    of = table.set_index("prediction_id")
    number = of["track_id"].fillna(of.index.to_series())
    order = order.sort_values("image_id", kind="stable")
    found = {"file_name": order["image_id"].map(images).to_numpy()}
    for end in ("front", "back"):
        ids = order[f"{end}_id"].to_numpy(dtype=np.int64)
        found[end] = number.loc[ids].to_numpy(dtype=np.int64)
        found[f"{end}_category"] = [names[c] for c in of["category_id"].loc[ids]]
    return pd.DataFrame(found | {"score": order["score"].to_numpy(dtype=np.float64)})


def _masks(row: pd.Series, size: tuple[int, int]) -> tuple[np.ndarray | None, np.ndarray | None]:
    found = []
    for kind in ("amodal", "visible"):
        counts = row[f"{kind}_rle"]
        found.append(None if pd.isna(counts) else rle.decode([counts], size)[0].astype(bool))
    return found[0], found[1]


def _in_a_name(category: str) -> str:
    """Return a category's name for use in a file's name: letters, digits and hyphens."""
    return re.sub(r"[^\w-]+", "_", category)[:_LONGEST_NAME] or "object"
