"""Nodes that make the annotations of a data set and pictures of them."""

import os
from pathlib import Path

from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.annotations.storage import inside
from amodal_pipeline.pipelines.prepare.sources import (
    CocoAmodal,
    CocoFile,
    ComposedPhotographs,
    RenderedScenes,
    Source,
)
from amodal_pipeline.pipelines.progress import progress


def prepare(
    source: Source, dataset: str, images_folder: Path, raw_folder: Path, workers: int
) -> tuple[AmodalAnnotations, AmodalAnnotations]:
    """The training and the validation split of the data set.

    Args:
        source: what to read, render or compose.
        dataset: its name in every table.
        images_folder: where rendered and composed images go; those already there are kept.
        raw_folder: ``raw_root``, the folder that a published data set lies in.
        workers: processes; 0 is one a core.
    """
    workers = workers or os.cpu_count() or 1
    splits = []
    for split in ("train", "val"):
        with progress(f"{dataset} {split}") as on_progress:
            match source.chosen:
                case RenderedScenes() as rendered:
                    from amodal_pipeline.scenes.dataset import render_split

                    count = getattr(rendered, split)
                    made = render_split(
                        rendered.config,
                        split,
                        count,
                        images_folder,
                        workers,
                        on_progress,
                        dataset,
                    )
                case ComposedPhotographs() as composed:
                    from amodal_pipeline.compose.dataset import compose_split

                    file: CocoFile = getattr(composed, split)
                    made = compose_split(
                        composed.config,
                        split,
                        _first(raw_folder, file.annotations),
                        _first(raw_folder, file.images),
                        images_folder,
                        workers,
                        on_progress,
                        dataset,
                    )
                case CocoAmodal() as published:
                    from amodal_pipeline.annotations.coco_amodal import read_coco_amodal
                    from amodal_pipeline.annotations.on_disk import check_on_disk

                    file = getattr(published, split)
                    made = read_coco_amodal(
                        _first(raw_folder, file.annotations),
                        _first(raw_folder, file.images),
                        dataset,
                        split,
                    )
                    check_on_disk(made)
        splits.append(made)
    train, val = splits
    return train, val


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    found = [inside(folder, name) for name in names if inside(folder, name).exists()]
    if not found:
        raise FileNotFoundError(
            f"none of {', '.join(names)} is in {folder}: put the data set there, say where it is "
            "with --params raw_root=<folder>, or name its files in the environment's `source`"
        )
    return found[0]


def preview(annotations: AmodalAnnotations) -> tuple[Image.Image, object]:
    """A sheet of images with their truth, and the histogram of occlusion rates (a figure)."""
    from amodal_pipeline.visuals.grids import preview_sheet
    from amodal_pipeline.visuals.plots import occlusion_histogram

    return preview_sheet(annotations), occlusion_histogram(annotations)
