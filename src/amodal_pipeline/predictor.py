"""Prediction on pictures: from paths, PIL images, arrays or tensors to full-size masks."""

from __future__ import annotations

import dataclasses
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from amodal_pipeline.annotations import (
    Category,
    KnownObjects,
    Predictions,
    PredictionsMetadata,
    rle,
)
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.tables import (
    IMAGES,
    PREDICTION_ORDER,
    PREDICTIONS,
    boxes,
    frame,
)
from amodal_pipeline.methods.completer import Completed, complete_in_order
from amodal_pipeline.methods.contract import job_name
from amodal_pipeline.methods.doubts import doubts
from amodal_pipeline.methods.dual_completion import order_rows
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.training.inference import detections_as_rows, order_as_rows

_OBJECT = Category(id=1, name="object")  # of objects that a user marks
Picture = str | Path | Image.Image | np.ndarray | Tensor


@dataclass(frozen=True, eq=False)
class Result:
    """The predicted objects of one picture.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        names: category names of the N objects.
        scores: float32 [N] in 0–1; 1 for completed known objects.
        masks: bool [N, H, W], amodal masks; visible ones if the method predicts no others.
        visible_masks: bool [N, H, W]; None if the method does not predict them.
        boxes: float32 [N, 4] (x, y, width, height) in pixels, tight around ``masks``.
        order: int64 [P, 2], positions (front, back) of objects that touch; P is 0 if the method
            does not say. ``order.tolist()`` has them as a list of pairs.
        predictions: the objects as a table, with masks as run lengths.
    """

    image: np.ndarray
    names: list[str]
    predictions: Predictions

    @property
    def scores(self) -> np.ndarray:
        return self.predictions.predictions["score"].to_numpy(dtype=np.float32)

    @property
    def masks(self) -> np.ndarray:
        return self._masks("amodal_rle" if self._has("amodal_rle") else "visible_rle")

    @property
    def visible_masks(self) -> np.ndarray | None:
        empty = len(self.names) == 0
        return self._masks("visible_rle") if empty or self._has("visible_rle") else None

    @property
    def boxes(self) -> np.ndarray:
        counts = rle.encode(self.masks) if len(self.names) else []
        return rle.box(counts, self.image.shape[:2]).astype(np.float32).reshape(-1, 4)

    @property
    def order(self) -> np.ndarray:
        ids = pd.Index(self.predictions.predictions["prediction_id"].to_numpy(dtype=np.int64))
        ends = (self.predictions.order[end] for end in ("front_id", "back_id"))
        return np.stack([ids.get_indexer(end.to_numpy(dtype=np.int64)) for end in ends], axis=1)

    @property
    def cutouts(self) -> list[Image.Image | None]:
        """Return each object as RGBA in the box of its whole mask; hidden pixels are transparent.

        An object with an empty mask is None.
        """
        from amodal_pipeline.visuals.object_images import cut_out

        seen = self.visible_masks
        seen = [None] * len(self.names) if seen is None else seen
        return [cut_out(self.image, *own) for own in zip(self.masks, seen, strict=True)]

    def _has(self, column: str) -> bool:
        table = self.predictions.predictions
        return len(table) > 0 and bool(table[column].notna().all())

    def _masks(self, column: str) -> np.ndarray:
        counts = self.predictions.predictions[column].tolist()
        size = self.image.shape[:2]
        return rle.decode(counts, size).astype(bool) if counts else np.zeros((0, *size), bool)

    def above(self, score: float) -> Result:
        """Return a result with the objects whose score is at least ``score``."""
        kept = np.flatnonzero(self.scores >= score)
        table = self.predictions.predictions.iloc[kept].reset_index(drop=True)
        order = self.predictions.order
        both = order[["front_id", "back_id"]].isin(table["prediction_id"].tolist()).all(axis=1)
        predictions = dataclasses.replace(
            self.predictions, predictions=table, order=order[both].reset_index(drop=True)
        )
        return Result(self.image, [self.names[i] for i in kept], predictions)

    def plot(self) -> Image.Image:
        """Return the picture with visible parts filled, hidden parts striped, names and scores.

        Arrows point from an object to one behind it, if the method says who is in front.
        """
        from amodal_pipeline.visuals.overlays import draw_objects, draw_order

        table = self.predictions.predictions
        columns = [
            [None if absent else mask for mask, absent in zip(c, c.isna(), strict=True)]
            for c in (table["amodal_rle"], table["visible_rle"])
        ]
        labels = [f"{n} {s:.2f}" for n, s in zip(self.names, self.scores, strict=True)]
        drawn = draw_objects(self.image, *columns, labels=labels)
        if len(self.order):
            drawn = draw_order(drawn, *columns, self.order, self.image.shape[:2])
        return Image.fromarray(drawn)

    def save_coco(self, path: str | Path) -> None:
        """Write the objects as COCO results JSON (docs/outside_predictions.md)."""
        from amodal_pipeline.annotations.export import write_coco_results

        write_coco_results(self.predictions, path, with_names=True)

    def save(self, folder: str | Path) -> None:
        """Write all of it into a folder, which is made if needed.

        ``overlay.png`` (:meth:`plot`), ``objects.json`` (:meth:`save_coco`), ``order.csv`` if the
        method says who is in front, and an image per object in ``amodal/``, ``visible/`` and
        ``cutouts/``: its masks, 255 within and 0 elsewhere, and the object cut out. Images of
        objects that are there already are replaced.
        """
        from amodal_pipeline.annotations.storage import replacing
        from amodal_pipeline.visuals.object_images import order_list, write_object_images

        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        for kind in ("amodal", "visible", "cutouts"):
            shutil.rmtree(folder / kind, ignore_errors=True)
        self.plot().save(folder / "overlay.png")
        self.save_coco(folder / "objects.json")
        names = {c.id: c.name for c in self.predictions.metadata.categories}
        write_object_images(folder, self.image, self.predictions.predictions, names)
        if len(self.order):
            with replacing(folder / "order.csv") as path:
                order_list(self.predictions).to_csv(path, index=False)


class Predictor:
    """A trained method in evaluation mode; ``module`` is its network, ``categories`` its classes.

    A completer may have a detector that finds the objects which it completes. Its methods return
    one result for one picture, and a list for a list.

    >>> model = ap.load("runs/orcnn")
    >>> result = model.predict("street.jpg")
    >>> result.above(0.5).plot().save("objects.png")
    """

    def __init__(self, module: nn.Module, detector: nn.Module | None = None) -> None:
        self.module, self.categories = module.eval(), module.categories
        self.name = job_name(module.config)
        self.detector = None if detector is None else Predictor(detector)
        if self.detector is None:
            return
        if module.config.DESCRIPTION.task != "complete":
            raise ValueError(f"{self.name} is no completer: leave out the detector")
        if detector.config.DESCRIPTION.task != "detect":
            raise ValueError(f"{self.detector.name} finds no objects: name a detector")

    def predict(
        self, pictures: Picture | list[Picture], *, score_threshold: float | None = None
    ) -> Result | list[Result]:
        """Return the objects in pictures: those that a detector finds, or these completed.

        Args:
            pictures: a path, a PIL image, a uint8 array [H, W, 3] or a uint8 tensor [3, H, W], RGB;
                or a list of these.
            score_threshold: objects with a lower score are left out; by default 0.5 for a
                completer, and 0 for a detector.

        Raises:
            ValueError: the method is neither a detector nor a completer with one, or a picture
                cannot be read.
        """
        task = self.module.config.DESCRIPTION.task
        if task != "detect" and self.detector is None:
            use = (
                'use complete(image, masks), or load it with detector="torchvision"'
                if task == "complete"
                else "load a detector"
            )
            raise ValueError(f"{self.name} is not a detector: {use}")
        if isinstance(pictures, list):
            return [self.predict(each, score_threshold=score_threshold) for each in pictures]
        pixels, name = _pixels(pictures)
        if self.detector is not None:
            least = 0.5 if score_threshold is None else score_threshold
            return self._complete_found(self.detector._detect(pixels, name).above(least))
        found = self._detect(pixels, name)
        return found if score_threshold is None else found.above(score_threshold)

    def _detect(self, pixels: np.ndarray, name: str) -> Result:
        device = next(self.module.parameters()).device
        with torch.inference_mode():
            image = torch.from_numpy(pixels).permute(2, 0, 1).to(device)
            (found,) = self.module([image])
        ids = np.array([category.id for category in self.categories], np.int64)
        table = detections_as_rows(found, 1, pixels.shape[:2], ids, self.module.box_kind)
        columns = {key: table[key] for key in table.columns}
        columns["prediction_id"] = np.arange(1, len(table) + 1)
        result = self._result(pixels, name, columns, self.categories)
        if "order" not in found:
            return result
        pairs = {1: tuple(found[key].cpu().numpy() for key in ("order", "order_scores"))}
        order = order_as_rows(pairs, np.ones(len(table), np.int64), self.name)
        return dataclasses.replace(
            result, predictions=dataclasses.replace(result.predictions, order=order)
        )

    def _complete_found(self, found: Result) -> Result:
        """Return a detector's objects with the amodal masks of this completer."""
        seen = found.visible_masks
        if seen is None:
            raise ValueError(
                f"{self.detector.name} predicts no visible masks, which {self.name} needs: name "
                "another detector"
            )
        table = found.predictions.predictions
        around = None
        if self.module.config.crop.around == "amodal":
            around = boxes(table["amodal_box"])
            if np.isnan(around).any():
                raise ValueError(
                    f"{self.name} looks within amodal boxes, which {self.detector.name} does not "
                    "predict: name a detector that does"
                )
        if not len(table):
            return found
        _warn_of(self.module.config, found.predictions)
        done = complete_in_order(self.module, found.image, seen, around)
        columns = {key: table[key] for key in ("prediction_id", "image_id", "category_id", "score")}
        columns |= {"visible_rle": table["visible_rle"], "source_id": table["prediction_id"]}
        columns["amodal_rle"] = rle.encode(done.masks)
        made = {"method": self.name, "inputs": self.detector.name}
        predictions = Predictions(
            found.predictions.metadata.model_copy(update=made),
            found.predictions.images,
            frame(PREDICTIONS, columns),
            found.predictions.order,
        )
        return self._ordered(Result(found.image, found.names, predictions), done)

    def complete(
        self,
        picture: Picture,
        masks: np.ndarray | Tensor,
        amodal_boxes: np.ndarray | Tensor | None = None,
        *,
        raw: bool = False,
    ) -> Result:
        """Return known objects of a picture, completed by a completer.

        A completer that looks at the other objects of a picture sees those that are given together:
        give it the visible masks of *all* objects, also of those that only stand in front. PCNet-M
        looks at nothing else, and leaves an object without a neighbour that touches it as it is.
        Their results say who is in front (:attr:`Result.order`).

        Warns (``UserWarning``) where the masks are unlike those that completers are trained on: see
        :func:`~amodal_pipeline.methods.doubts.doubts`.

        Args:
            picture: one picture, see :meth:`predict`.
            masks: visible masks, [H, W] or [N, H, W]; nonzero where an object is visible.
            amodal_boxes, raw: see :func:`~amodal_pipeline.methods.completer.complete`.

        Raises:
            ValueError: the method is not a completer, or picture and masks do not fit together.
        """
        if self.module.config.DESCRIPTION.task != "complete":
            raise ValueError(f"{self.name} is not a completer: use predict(image)")
        pixels, name = _pixels(picture)
        visible = np.asarray(torch.as_tensor(masks).cpu() != 0)
        done = complete_in_order(self.module, pixels, visible, amodal_boxes, raw=raw)
        visible, whole = (m.reshape(-1, *pixels.shape[:2]) for m in (visible, done.masks))
        n = len(whole)
        columns = {
            "prediction_id": np.arange(1, n + 1),
            "image_id": np.ones(n, np.int64),
            "category_id": np.full(n, _OBJECT.id),
            "score": np.ones(n, np.float32),
            "amodal_rle": rle.encode(whole),
            "visible_rle": rle.encode(visible),
        }
        result = self._ordered(self._result(pixels, name, columns, (_OBJECT,)), done)
        _warn_of(self.module.config, result.predictions)
        return result

    def _ordered(self, result: Result, done: Completed) -> Result:
        """Return a result with the order that a completer has found, if any."""
        if not len(done.front):
            return result
        table = result.predictions.predictions
        order = order_rows(table, done.front, done.back, done.scores, self.name)
        return dataclasses.replace(
            result, predictions=dataclasses.replace(result.predictions, order=order)
        )

    def complete_video(
        self, frames: Sequence[Picture], masks: np.ndarray | Tensor, *, raw: bool = False
    ) -> np.ndarray:
        """Return the amodal masks of objects in the frames of a video, bool [T, N, H, W].

        A method that learns from clips completes an object in all frames together, also where it is
        not seen between two frames in which it is; any other completes each frame by itself.

        Args:
            frames: T pictures of one size, see :meth:`predict`.
            masks: visible masks [T, N, H, W]; nonzero where an object is visible.
            raw: the method's masks as they are; otherwise each is united with its visible mask.

        Raises:
            ValueError: the method is not a completer, or frames and masks do not fit together.
        """
        visible = np.asarray(torch.as_tensor(masks).cpu() != 0)
        if visible.ndim != 4 or len(visible) != len(frames) or not len(frames):
            raise ValueError(
                f"complete_video takes T pictures and masks [T, N, H, W], not {len(frames)} and "
                f"{list(visible.shape)}"
            )
        description = self.module.config.DESCRIPTION
        if description.task != "complete" or description.learns_from != "clips":
            pairs = zip(frames, visible, strict=True)
            return np.stack([self.complete(*pair, raw=raw).masks for pair in pairs])
        whole = self._complete_clip(frames, visible)
        return whole if raw else whole | visible

    def _complete_clip(self, frames: Sequence[Picture], visible: np.ndarray) -> np.ndarray:
        from amodal_pipeline.training.completing_clips import complete

        length, _, *size = visible.shape
        seen = visible.any(axis=(2, 3))
        # From the first to the last frame in which an object is seen.
        known = np.logical_or.accumulate(seen) & np.logical_or.accumulate(seen[::-1])[::-1]
        of, track = np.nonzero(known)
        images = {
            "image_id": np.arange(1, length + 1),
            "file_name": [f"{t}.png" for t in range(length)],
            "height": [size[0]] * length,
            "width": [size[1]] * length,
            "video_id": [1] * length,
            "frame": np.arange(length),
        }
        columns = {
            "prediction_id": np.arange(1, len(of) + 1),
            "image_id": of + 1,
            "category_id": np.full(len(of), self.categories[0].id),
            "visible_rle": rle.encode(visible[known]),
            "track_id": track + 1,
        }
        with TemporaryDirectory() as folder:
            for name, picture in zip(images["file_name"], frames, strict=True):
                pixels = _pixels(picture)[0]
                if list(pixels.shape[:2]) != size:
                    raise ValueError(
                        f"a frame has {list(pixels.shape[:2])} pixels (height, width), masks "
                        f"{size}: give both in the same size"
                    )
                Image.fromarray(pixels).save(Path(folder, name), compress_level=1)
            metadata = PredictionsMetadata(
                dataset="frames",
                split="user",
                method=self.name,
                categories=self.categories,
                image_root=folder,
            )
            objects = Predictions(
                metadata,
                frame(IMAGES, images),
                frame(PREDICTIONS, columns),
                frame(PREDICTION_ORDER, {}),
            )
            device = next(self.module.parameters()).device.type
            config = InferenceConfig(workers=0, device=device)
            found = complete(self.module, KnownObjects.of(objects), config, method=self.name)
        whole = np.zeros_like(visible)
        if len(of):
            whole[known] = rle.decode(found.predictions["amodal_rle"].tolist(), tuple(size)) != 0
        return whole

    def _result(
        self, pixels: np.ndarray, name: str, columns: dict, categories: Sequence[Category]
    ) -> Result:
        height, width = pixels.shape[:2]
        images = {"image_id": [1], "file_name": [name], "height": [height], "width": [width]}
        metadata = PredictionsMetadata(
            dataset="pictures",
            split="user",
            method=self.name,
            categories=tuple(categories),
            image_root="",
        )
        table = frame(PREDICTIONS, columns)
        of = {category.id: category.name for category in categories}
        names = [of[int(i)] for i in table["category_id"]]
        predictions = Predictions(
            metadata, frame(IMAGES, images), table, frame(PREDICTION_ORDER, {})
        )
        return Result(pixels, names, predictions)


def _warn_of(config: Any, objects: Predictions) -> None:
    for sentence in doubts(config, objects):
        warnings.warn(sentence, stacklevel=3)


def _pixels(picture: Picture) -> tuple[np.ndarray, str]:
    """Return a picture as uint8 [H, W, 3], and its name."""
    if isinstance(picture, str | Path):
        path = Path(picture).expanduser()
        return read_image(path.parent, path.name), path.name
    if isinstance(picture, Image.Image):
        name = Path(getattr(picture, "filename", "") or "picture").name
        return np.array(picture.convert("RGB")), name
    pixels = picture
    if isinstance(picture, Tensor) and picture.ndim == 3:
        pixels = picture.cpu().permute(1, 2, 0).numpy()
    if not isinstance(pixels, np.ndarray):
        raise ValueError(
            "a picture must be a path, a PIL image, an array [H, W, 3] or a tensor [3, H, W], not "
            f"a {type(picture).__name__}"
        )
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            "a picture must be a uint8 array [H, W, 3] or a uint8 tensor [3, H, W], not "
            f"{picture.dtype} {list(picture.shape)}"
        )
    return np.ascontiguousarray(pixels), "picture"
