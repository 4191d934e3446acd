"""Time of making and using VRSP's shape prior at the size of KINS.

95,000 made-up masks in 7 categories: crops to 28x28, their codes, and a codebook of 1024 entries a
category (budget: three minutes), with the auto-encoder of KINS (codes of 392 numbers). Then the 16
nearest of 1024 entries for 512 RoIs over 80 categories, codes of 128 numbers as for COCOA-cls. The
auto-encoder is trained for a few steps only; what one costs is recorded.

    python benchmarks/codebook.py [--out benchmarks/results/codebook.json]
"""

import argparse
import sys
from pathlib import Path
from statistics import median

import numpy as np
import torch
from annotations import made_up, peak_megabytes

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.methods.configs import ShapePriorConfig
from amodal_pipeline.methods.vrsp.auto_encoder import SIDE, AutoEncoder, encode_all
from amodal_pipeline.methods.vrsp.codebook import Codebook, ShapePrior, build_codebook
from amodal_pipeline.methods.vrsp.learning import (
    LearntShapePrior,
    ShapeBatches,
    Shapes,
    true_shapes,
)
from record import timed, write

BUDGET_SECONDS = 180.0
STEPS = 50


def fit(shapes: Shapes, config: ShapePriorConfig) -> AutoEncoder:
    """Return an auto-encoder after a few steps."""
    torch.manual_seed(0)
    model, batches = LearntShapePrior(config, 1), ShapeBatches(shapes, config, 256, 0)
    optimizer = torch.optim.Adam(model.network.auto_encoder.parameters(), 0.01)
    for step in range(STEPS):
        loss = model(batches[step].images, {})["loss_reconstruction"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return model.network.auto_encoder.eval().requires_grad_(False)


def measure_making(annotations: AmodalAnnotations, clusters: int) -> dict[str, float]:
    """Crops, codes and codebook of all masks."""
    config = ShapePriorConfig(convolutions=2, clusters=clusters)
    categories = len(annotations.metadata.categories)
    true_shapes(annotations.subset(annotations.images["image_id"].head(1)))  # compiled
    shapes, crops = timed(true_shapes, annotations)
    model, training = timed(fit, shapes, config)
    _, codes = timed(encode_all, model, shapes.masks)
    # Making a codebook encodes every mask once more, category by category.
    made, codebook = timed(
        build_codebook, model, shapes.masks, shapes.category, categories, config, 0
    )
    return {
        "masks": len(shapes.masks),
        "categories": categories,
        "clusters": clusters,
        "entries": int(made.count.sum()),
        "crops_seconds": crops,
        "training_step_seconds": training / STEPS,
        "codes_seconds": codes,
        "codebook_seconds": codebook,
        "total_seconds": crops + codebook,
        "peak_megabytes": peak_megabytes(),
    }


def measure_retrieval(
    rois: int = 512, categories: int = 80, clusters: int = 1024, k: int = 16, repeats: int = 7
) -> dict[str, float]:
    """The k nearest entries, on random codes."""
    torch.manual_seed(0)
    prior = ShapePrior(ShapePriorConfig(clusters=clusters), categories)
    codes = torch.rand(prior.codes.shape)
    count = torch.full((categories,), clusters)
    members = torch.ones(categories, clusters, dtype=torch.int64)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prior.take(Codebook(codes, count, members))
    prior = prior.eval().to(device)
    masks = torch.rand(rois, SIDE, SIDE, device=device)
    category = torch.from_numpy(np.random.default_rng(0).integers(0, categories, rois)).to(device)

    def look_up(k: int) -> None:
        prior.nearest(masks, category, k).masks.sum().item()

    look_up(k)
    return {
        "rois": rois,
        "retrieval_categories": categories,
        f"retrieval_{k}_seconds": median(timed(look_up, k)[1] for _ in range(repeats)),
        "retrieval_1_seconds": median(timed(look_up, 1)[1] for _ in range(repeats)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=int, default=95_000)
    parser.add_argument("--clusters", type=int, default=1024)
    parser.add_argument("--out", type=Path, help="record the results in this JSON file")
    arguments = parser.parse_args()
    annotations = made_up(max(1, arguments.masks // 13), arguments.masks)
    making = measure_making(annotations, arguments.clusters)
    results = making | measure_retrieval()
    results["within_budget"] = making["total_seconds"] < BUDGET_SECONDS
    write(
        {k: round(v, 4) if isinstance(v, float) else v for k, v in results.items()}, arguments.out
    )
    sys.exit(0 if results["within_budget"] else 1)


if __name__ == "__main__":
    main()
