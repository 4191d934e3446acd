"""Comparison of images with the training images of a method, by features of its backbone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.methods.checkpoints import Familiarity
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.training.device import resolve_device

_IMAGES = 128  # images that are compared at most
_SLACK = 1.5  # an image is unfamiliar beyond this many times the limit of the training images


def familiarity(model: nn.Module, annotations: AmodalAnnotations) -> Familiarity:
    """Return mean and spread of the backbone's features over (up to 128) training images.

    ``limit`` is the 99th percentile of these images' distances from the mean, in spreads.
    """
    features = _features(model, _spread(annotations.images), annotations.metadata.image_root)
    mean, std = features.mean(0), features.std(0) + 1e-3 * np.abs(features).mean() + 1e-8
    limit = float(np.quantile(_distance(features, mean, std), 0.99))
    return Familiarity(mean=tuple(mean.tolist()), std=tuple(std.tolist()), limit=limit)


def unfamiliar(
    model: nn.Module, known: Familiarity, images: pd.DataFrame, root: Path, config: InferenceConfig
) -> float:
    """Return the share (0–1) of (up to 128) images with features far from the training images'."""
    features = _features(model.to(resolve_device(config.device)), _spread(images), str(root))
    distance = _distance(features, np.array(known.mean), np.array(known.std))
    return float((distance > _SLACK * known.limit).mean())


def _features(model: nn.Module, images: pd.DataFrame, root: str) -> np.ndarray:
    """Return the backbone's last map averaged over each image, float [images, channels]."""
    detector, training = model.detector, model.training
    model.eval()
    rows = []
    with torch.inference_mode():
        for image in _read(images, root):
            prepared = detector.prepare(image)[None]
            rows.append(detector.backbone.body(prepared)[-1].float().mean((2, 3))[0].cpu().numpy())
    model.train(training)
    return np.stack(rows)


def _distance(features: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    return np.sqrt((((features - mean) / std) ** 2).mean(1))


def _spread(images: pd.DataFrame) -> pd.DataFrame:
    step = max(1, len(images) // _IMAGES)
    return images.iloc[::step].head(_IMAGES)


def _read(images: pd.DataFrame, root: str) -> Iterator[Tensor]:
    for name in images["file_name"]:
        yield torch.from_numpy(read_image(root, name)).permute(2, 0, 1)
