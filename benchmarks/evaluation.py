"""The evaluator beside pycocotools, at the size of KINS' test split.

Makes 7,517 images with 92,000 objects and 30 detections an image (ellipses, cut by occluders; a
detection lies near an object, or anywhere). Scores them by all protocols of average precision and
recall, then by all protocols, then with bootstrap intervals; then runs pycocotools' COCOeval once
for each kind of mask on the same data and holds its numbers against ours. The asked ratio is that
of all our rows of AP and AR to the sum of its passes.

    python benchmarks/evaluation.py [--images 7517] [--out benchmarks/results/evaluation.json]
"""

import argparse
import contextlib
import io
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
from annotations import HEIGHT, WIDTH, ellipses, made_up
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from amodal_pipeline.annotations import AmodalAnnotations, Predictions, PredictionsMetadata, rle
from amodal_pipeline.annotations.tables import PREDICTION_ORDER, PREDICTIONS, boxes, frame
from amodal_pipeline.metrics import evaluate, evidence
from amodal_pipeline.metrics.config import EvaluationConfig
from record import timed, write

OBJECTS_PER_IMAGE = 92_000 / 7_517
DETECTIONS_PER_IMAGE = 30
BUDGET_RATIO, BUDGET_GIGABYTES = 1.5, 4.0
PRECISION = ("coco", "coco_agnostic", "vrsp", "orcnn", "amodalapi")


def detections(truth: AmodalAnnotations, seed: int = 1) -> Predictions:
    """A detection or two near each object and the rest anywhere, scored accordingly."""
    random = np.random.default_rng(seed)
    images = truth.images["image_id"].to_numpy(np.int64)
    n = DETECTIONS_PER_IMAGE * len(images)
    image_id = np.repeat(images, DETECTIONS_PER_IMAGE)
    of = np.full(n, -1)
    own = np.searchsorted(truth.instances["image_id"].to_numpy(np.int64), [images, images + 1])
    place = np.tile(np.arange(DETECTIONS_PER_IMAGE), len(images))
    count = np.repeat(own[1] - own[0], DETECTIONS_PER_IMAGE)
    near = place < 1.5 * count
    of[near] = (np.repeat(own[0], DETECTIONS_PER_IMAGE) + place % np.maximum(count, 1))[near]
    given = boxes(truth.instances["amodal_box"]).astype(np.float64)
    radii = random.lognormal(3.4, 0.6, (n, 2))
    centres = random.uniform((100, 60), (WIDTH - 100, HEIGHT - 60), (n, 2))
    radii[near] = given[of[near], 2:] / 2
    centres[near] = given[of[near], :2] + radii[near]
    off = random.gamma(1.5, 0.06, n)[:, None]
    centres = np.clip(
        centres + off * radii * random.normal(0, 1, (n, 2)), 5, (WIDTH - 6, HEIGHT - 6)
    )
    radii = np.clip(radii * np.exp(off * random.normal(0, 1, (n, 2))), 4, 180)
    rate = truth.instances["occlusion_rate"].to_numpy(np.float64)
    cut = np.where(near, np.clip(rate[of] + random.normal(0, 0.08, n), 0, 0.95), 0)
    cut[cut < 0.05] = 0
    category = truth.instances["category_id"].to_numpy(np.int64)[of]
    other = ~near | (random.random(n) < 0.08)
    category[other] = random.integers(1, 8, other.sum())
    batches = [slice(i, i + 10_000) for i in range(0, n, 10_000)]
    nothing = np.zeros(n)
    amodal = [m for b in batches for m in ellipses(centres[b], radii[b], nothing[b])]
    visible = [m for b in batches for m in ellipses(centres[b], radii[b], cut[b])]
    columns = {
        "prediction_id": np.arange(n) + 1,
        "image_id": image_id,
        "category_id": category,
        "score": np.clip(random.beta(3, 2, n) - off[:, 0] - 0.4 * ~near, 0.001, 1),
        "amodal_rle": amodal,
        "visible_rle": visible,
        "amodal_box": rle.box(amodal, (HEIGHT, WIDTH)),
        "visible_box": rle.box(visible, (HEIGHT, WIDTH)),
    }
    metadata = PredictionsMetadata(
        dataset=truth.metadata.dataset,
        split=truth.metadata.split,
        method="made_up",
        categories=truth.metadata.categories,
        image_root="",
        annotations=truth.fingerprint,
    )
    return Predictions(
        metadata, truth.images, frame(PREDICTIONS, columns), frame(PREDICTION_ORDER, {})
    )


class IgnoringEval(COCOeval):
    """pycocotools takes ``ignore`` from ``iscrowd``; here the flag that was given is kept."""

    def _prepare(self):
        super()._prepare()
        for objects in self._gts.values():
            for instance in objects:
                instance["ignore"] = instance["left_out"]


def pycocotools_pass(truth: AmodalAnnotations, found: Predictions, kind: str) -> dict:
    """One COCOeval of masks of a kind: seconds of evaluate and accumulate, and its numbers."""
    sides = []
    for table in (truth.instances, found.predictions):
        if kind == "invisible":
            masks = np.array(rle.difference(table["amodal_rle"], table["visible_rle"]), object)
        else:
            masks = table[f"{kind}_rle"].to_numpy(dtype=object)
        area = rle.area(masks.tolist())
        columns = (
            *(table[name].tolist() for name in ("image_id", "category_id")),
            masks,
            area.tolist(),
            (truth if table is truth.instances else found).sizes.tolist(),
            table["ignore"] if "ignore" in table else [False] * len(table),
        )
        sides.append(
            [
                {
                    "id": i + 1,
                    "image_id": image,
                    "category_id": category,
                    "segmentation": {"size": canvas, "counts": mask.encode()},
                    "area": size,
                    "iscrowd": 0,
                    "left_out": int(size == 0 or ignored),
                }
                for i, (image, category, mask, size, canvas, ignored) in enumerate(
                    zip(*columns, strict=True)
                )
            ]
        )
    for record, score in zip(sides[1], found.predictions["score"].tolist(), strict=True):
        record["score"] = score
    if kind == "visible":  # a detection that says that nothing is visible is none of a visible mask
        sides[1] = [record for record in sides[1] if record["area"]]
    ground_truth, predicted = COCO(), COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        described = {
            "images": truth.images[["image_id", "height", "width"]]
            .rename(columns={"image_id": "id"})
            .to_dict("records"),
            "categories": [{"id": c.id, "name": c.name} for c in truth.metadata.categories],
        }
        ground_truth.dataset = described | {"annotations": sides[0]}
        predicted.dataset = described | {"annotations": sides[1]}
        ground_truth.createIndex()
        predicted.createIndex()
        run = IgnoringEval(ground_truth, predicted, "segm")
        # Masks alone: pycocotools' own four area ranges would do the matching four times.
        run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], ["all"]
        start = time.perf_counter()
        run.evaluate()
        overlaps = time.perf_counter() - start
        run.accumulate()
        seconds = time.perf_counter() - start
    precision, recall = run.eval["precision"], run.eval["recall"]
    numbers = {"AP": precision[..., 0, -1], "AP50": precision[0, ..., 0, -1]}
    numbers |= {f"AR{limit}": recall[..., 0, m] for m, limit in enumerate((1, 10, 100))}
    numbers = {name: 100 * v[v > -1].mean() for name, v in numbers.items()}
    return {"seconds": seconds, "evaluate_seconds": overlaps, "numbers": numbers}


def main(images: int, repeats: int, out: Path | None) -> None:
    truth = made_up(images, int(OBJECTS_PER_IMAGE * images))
    found = detections(truth)
    none = {"headline_resamples": 0, "resamples": 0}
    precision = EvaluationConfig(protocols=PRECISION, vrsp_released=True, **none)
    everything = EvaluationConfig(vrsp_released=True, **none)
    evaluate.evaluate(truth.subset([0, 1]), _subset(found, truth, [0, 1]), everything)  # compile

    scores, ours, overlap_seconds = None, [], []
    for _ in range(repeats):
        scores, seconds = timed(evaluate.evaluate, truth, found, precision)
        ours.append(seconds)
        overlap_seconds.append(_overlaps(truth, found))
    _, all_protocols = timed(evaluate.evaluate, truth, found, everything)
    memory_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    _, headline = timed(
        evaluate.evaluate, truth, found, EvaluationConfig(vrsp_released=True, resamples=0)
    )
    _, complete = timed(evaluate.evaluate, truth, found, EvaluationConfig(vrsp_released=True))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    rows = scores.results[(scores.results["category"] == "all")]
    values = rows.set_index(["protocol", "metric"])["value"]
    passes, worst = {}, 0.0
    for kind in ("amodal", "visible", "invisible"):
        passes[kind] = pycocotools_pass(truth, found, kind)
        if kind != "invisible":  # COCO has no rule for detections meant for other objects
            worst = max(worst, differences(values, kind, passes[kind]["numbers"]))
    theirs = sum(p["seconds"] for p in passes.values())
    write(
        {
            "images": images,
            "objects": len(truth.instances),
            "detections": len(found.predictions),
            "rows_of_precision_and_recall": len(scores.results),
            "ours_seconds": [round(s, 2) for s in ours],
            "of_which_overlaps_of_masks_seconds": round(float(np.median(overlap_seconds)), 2),
            "all_protocols_seconds": round(all_protocols, 2),
            "with_1000_resamples_of_the_headline_seconds": round(headline, 1),
            "with_all_resamples_seconds": round(complete, 1),
            "pycocotools_seconds": {k: round(p["seconds"], 2) for k, p in passes.items()},
            "ratio": round(float(np.median(ours)) / theirs, 3),
            "budget_ratio": BUDGET_RATIO,
            "largest_difference_in_percent_points": worst,
            "peak_gigabytes_without_bootstrap": round(memory_before, 2),
            "peak_gigabytes": round(memory, 2),
            "budget_gigabytes": BUDGET_GIGABYTES,
            "AP_amodal": round(values["coco", "AP_amodal"], 2),
            "AP_both": round(values["orcnn", "AP_both"], 2),
        },
        out,
    )


def differences(values: pd.Series, kind: str, numbers: dict[str, float]) -> float:
    """The largest difference of our figures of a kind of mask from pycocotools', in percent."""
    return max(abs(values["coco", f"{name}_{kind}"] - number) for name, number in numbers.items())


def _overlaps(truth: AmodalAnnotations, found: Predictions) -> float:
    """Seconds for all intersections of masks: amodal, visible and hidden."""
    seen = evidence.Evidence(truth, found)
    start = time.perf_counter()
    for name in ("amodal", "visible", "invisible"):
        getattr(seen, name)
    return time.perf_counter() - start


def _subset(found: Predictions, truth: AmodalAnnotations, ids: list[int]) -> Predictions:
    some = truth.subset(ids)
    table = found.predictions[found.predictions["image_id"].isin(ids)].reset_index(drop=True)
    metadata = found.metadata.model_copy(update={"annotations": some.fingerprint})
    return Predictions(metadata, some.images, table, found.order)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=7517)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    main(**vars(parser.parse_args()))
