"""A tiny data set on disk and predictions for it."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from amodal_pipeline.annotations import Category, rle
from amodal_pipeline.visuals import page
from tests import tables

SIZE = (60, 80)
CATEGORIES = (Category(id=1, name="cup"), Category(id=2, name="box"))


def rectangle(top, left, bottom, right, size=SIZE):
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


@pytest.fixture
def annotations(tmp_path):
    """Six images; image k has a box in front that hides 4 k columns of the 30 of the cup behind."""
    rng = np.random.default_rng(0)
    instances = []
    for k in range(6):
        pixels = rng.integers(60, 200, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        behind, front = rectangle(10, 10, 40, 40), rectangle(5, 40 - 4 * k, 50, 70)
        masks = rle.encode(np.stack([behind, behind & ~front, front, front]))
        for j in range(2):
            instances.append(
                {
                    "instance_id": 10 * k + j,
                    "image_id": k,
                    "category_id": j + 1,
                    "amodal_rle": masks[2 * j],
                    "visible_rle": masks[2 * j + 1],
                }
            )
    return tables.annotations(
        dict.fromkeys(range(6), SIZE),
        pd.DataFrame(instances),
        dataset="made up",
        split="test",
        categories=CATEGORIES,
        image_root=str(tmp_path),
    )


@pytest.fixture
def predict(annotations):
    """A function that makes predictions from the truth, altered by its arguments."""

    def make(score=0.9, image_ids=range(6), images=None, **columns):
        truth = annotations.instances
        truth = truth[truth["image_id"].isin(list(image_ids)).to_numpy(bool)]
        rows = {
            "prediction_id": np.arange(len(truth)),
            "image_id": truth["image_id"].tolist(),
            "category_id": truth["category_id"].tolist(),
            "score": score if np.ndim(score) else [score] * len(truth),
            "amodal_rle": truth["amodal_rle"].tolist(),
            "visible_rle": truth["visible_rle"].tolist(),
        } | columns
        known = annotations.images["image_id"].isin(list(image_ids)).to_numpy(bool)
        shown = annotations.images[known] if images is None else images
        return dataclasses.replace(tables.predictions(annotations, rows), images=shown)

    return make


@pytest.fixture
def without_drawing(monkeypatch):
    """Charts are made and not drawn, which takes most of the time of a page; gives the function
    that draws."""
    drawn = page.drawn
    empty = page._url("svg+xml", b"<svg/>"), (10, 10)
    monkeypatch.setattr(page, "drawn", lambda figure: empty)
    return drawn


@pytest.fixture
def results():
    """Two methods on one protocol, one of them also given true masks on another."""

    def row(method, metric, value, inputs="image", protocol="coco", **other):
        return {
            "dataset": "made up",
            "split": "test",
            "method": method,
            "variant": "full",
            "inputs": inputs,
            "protocol": protocol,
            "category": "all",
            "metric": metric,
            "value": value,
            "n": 1234,
            "low": np.nan,
            "high": np.nan,
            "seed": 0,
            "run_id": "",
        } | other

    return pd.DataFrame(
        [
            row("first", "AP_amodal", 41.27),
            row("second", "AP_amodal", 38.06),
            row("second", "AP_visible", 12.5, low=11.5, high=13.75, n=77),
            row("first", "AP_amodal", 99.0, category="cup"),
            row("second", "mIoU_full", 87.5, inputs="true", protocol="completion"),
            row("first", "mIoU_full", 66.6, inputs="detector", protocol="completion"),
            row("first", "mIoU_full", 68.6, inputs="detector", protocol="completion", seed=1),
        ]
    )
