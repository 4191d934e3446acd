"""Inference of detectors on the images of a data set or a folder."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from amodal_pipeline.annotations import Predictions, PredictionsMetadata, rle
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.tables import (
    IMAGES,
    PREDICTION_ORDER,
    PREDICTIONS,
    concat,
    frame,
)
from amodal_pipeline.layers.masks import paste
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.training.device import resolve_device, wants_bfloat16

KINDS = ("amodal", "visible", "invisible")

_DECODERS = 4  # threads that decode images, each with one image in memory


class Images(Dataset):
    """The images of a table in its order: pairs of image_id and uint8 [3, H, W]."""

    def __init__(self, images: pd.DataFrame, root: str) -> None:
        self.images, self.root = images, root

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[int, Tensor]:
        record = self.images.iloc[row]
        size = (int(record["height"]), int(record["width"]))
        pixels = read_image(self.root, record["file_name"], size)
        return int(record["image_id"]), torch.from_numpy(pixels).permute(2, 0, 1)


def predict(
    model: nn.Module,
    images: pd.DataFrame,
    metadata: PredictionsMetadata,
    config: InferenceConfig,
    on_progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Return the detections of ``model`` on a table of images.

    Masks are pasted at full resolution as run lengths, so that memory grows with the number of
    detections, not with the size of images. The box that the detector regresses, amodal or visible,
    is kept; the other one is computed from the mask.

    Args:
        model: a trained detector. A detector that predicts who is in front also returns order int64
            [P, 2], positions (front, back) among an image's detections, and order_scores [P].
        images: rows of :data:`~..annotations.tables.IMAGES`.
        metadata: of the result; its ``image_root`` is the folder of the images.
        config: batch size, device and precision.
        on_progress: called with (done, all) images.
    """
    device = resolve_device(config.device)
    bf16 = wants_bfloat16(config.precision, device)
    model = model.to(device).eval()
    loader = DataLoader(
        Images(images, metadata.image_root),
        batch_size=config.batch_size,
        num_workers=config.workers,
        collate_fn=list,
    )
    category_ids = np.array([c.id for c in metadata.categories], np.int64)
    tables, orders, done = [], {}, 0
    for batch in loader:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            found = model([image.to(device) for _, image in batch])
        for (image_id, image), detections in zip(batch, found, strict=True):
            size = tuple(image.shape[-2:])
            tables.append(
                detections_as_rows(detections, image_id, size, category_ids, model.box_kind)
            )
            if "order" in detections:
                orders[image_id] = (
                    detections["order"].cpu().numpy(),
                    detections["order_scores"].float().cpu().numpy(),
                )
        done += len(batch)
        if on_progress:
            on_progress(done, len(images))
    predictions = concat(PREDICTIONS, tables)
    predictions = predictions.sort_values("image_id", kind="stable").reset_index(drop=True)
    columns = {name: predictions[name] for name in predictions.columns}
    columns["prediction_id"] = np.arange(1, len(predictions) + 1)
    order = order_as_rows(orders, columns["image_id"].to_numpy(dtype=np.int64), metadata.method)
    return Predictions(metadata, images, frame(PREDICTIONS, columns), order)


def detections_as_rows(
    detections: dict[str, Tensor],
    image_id: int,
    size: tuple[int, int],
    category_ids: np.ndarray,
    box_kind: str,
) -> pd.DataFrame:
    """Return the detections of one image as rows of PREDICTIONS, all with prediction_id 0.

    Args:
        detections: output of a detector for the image, with masks within boxes.
        image_id: of the image.
        size: height and width of the image, in pixels.
        category_ids: int64 [K], the ids of the labels 1 to K.
        box_kind: whether the detector's boxes are "amodal" or "visible".
    """
    boxes = detections["boxes"].float()
    n = len(boxes)
    corners = boxes.cpu().numpy()
    columns = {
        "prediction_id": np.zeros(n, np.int64),
        "image_id": np.full(n, image_id, np.int64),
        "category_id": category_ids[detections["labels"].cpu().numpy() - 1],
        "score": detections["scores"].float().cpu().numpy(),
    }
    for kind in KINDS:
        if f"{kind}_masks" in detections:
            columns[f"{kind}_rle"] = paste(detections[f"{kind}_masks"], boxes, size)
            if kind != "invisible":
                columns[f"{kind}_box"] = rle.box(columns[f"{kind}_rle"], size)
    columns[f"{box_kind}_box"] = np.concatenate(
        [corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1
    )
    return frame(PREDICTIONS, columns)


def order_as_rows(
    orders: dict[int, tuple[np.ndarray, np.ndarray]], image_ids: np.ndarray, method: str
) -> pd.DataFrame:
    """Return the order of detections as rows of PREDICTION_ORDER.

    Args:
        orders: by image_id, pairs int64 [P, 2], positions (front, back) among the image's
            detections, and their scores [P].
        image_ids: int64 [N], sorted, of all predictions, whose ids count from 1.
        method: that says so.
    """
    tables = []
    for image_id, (pairs, scores) in sorted(orders.items()):
        ids = pairs + np.searchsorted(image_ids, image_id) + 1
        tables.append(
            frame(
                PREDICTION_ORDER,
                {
                    "image_id": np.full(len(ids), image_id, np.int64),
                    "front_id": ids[:, 0],
                    "back_id": ids[:, 1],
                    "score": scores,
                    "source": [method] * len(ids),
                },
            )
        )
    return concat(PREDICTION_ORDER, tables)


def images_in(
    folder: Path, *, parameter: str = "images", order: Callable[[str], object] | None = None
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return a table of the images below a folder, and the damaged ones with the reason.

    Each image is decoded once as a check. Ids count from 1 in the order of the names, damaged
    images included.

    Args:
        folder: of the images, which may have folders itself.
        parameter: that names the folder, for messages.
        order: what names are sorted by; None sorts them as text.

    Raises:
        ValueError: the folder is missing, or has no readable image.
    """
    suffixes = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: name one with --params {parameter}=<folder>")
    names = sorted(
        (
            p.relative_to(folder).as_posix()
            for p in folder.rglob("*")
            if p.suffix.lower() in suffixes and p.is_file()
        ),
        key=order,
    )
    if not names:
        raise ValueError(
            f"{folder} has no images ({', '.join(sorted(suffixes))}): name another folder with "
            f"--params {parameter}=<folder>"
        )

    def look(name: str) -> tuple[int, int] | str:
        try:
            return read_image(folder, name).shape[:2]
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(_DECODERS) as threads:
        found = list(threads.map(look, names))
    damaged = {
        name: reason for name, reason in zip(names, found, strict=True) if isinstance(reason, str)
    }
    if len(damaged) == len(names):
        first = next(iter(damaged.values()))
        raise ValueError(f"none of the {len(names)} images in {folder} can be read: {first}")
    rows = [
        {"image_id": i, "file_name": name, "height": size[0], "width": size[1]}
        for i, (name, size) in enumerate(zip(names, found, strict=True), start=1)
        if name not in damaged
    ]
    return frame(IMAGES, rows), damaged
