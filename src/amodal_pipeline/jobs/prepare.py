"""Nodes that make the annotations of a data set, audit them, and draw them."""

import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.compose.config import PoolConfig
from amodal_pipeline.compose.pool import divide
from amodal_pipeline.cores import usable_cores
from amodal_pipeline.jobs.progress import progress
from amodal_pipeline.jobs.published import find, read_archives_of, read_split
from amodal_pipeline.jobs.sources import (
    AnnotatedFile,
    AnnotatedImages,
    AuditConfig,
    ComposedClips,
    ComposedPhotographs,
    RenderedArchives,
    RenderedMovingScenes,
    RenderedScenes,
    RenderedViews,
    Source,
)

_log = logging.getLogger(__name__)


def prepare(
    source: Source, dataset: str, images_folder: Path, raw_folder: Path, workers: int
) -> tuple[AmodalAnnotations, AmodalAnnotations]:
    """Return the training and the validation split of the data set.

    Args:
        source: what to read, render or compose.
        dataset: its name in every table.
        images_folder: folder of rendered and composed images; existing images are kept.
        raw_folder: ``raw_root``, the folder of published data sets.
        workers: processes; 0 is one per core.
    """
    train, val = (
        prepare_split(source, split, dataset, images_folder, raw_folder, workers)
        for split in ("train", "val")
    )
    if train.metadata.categories != val.metadata.categories:
        differ = set(train.metadata.categories) ^ set(val.metadata.categories)
        raise ValueError(
            f"{dataset}: the files of train and val have different categories, "
            f"{', '.join(sorted(f'{c.id} {c.name}' for c in differ)) or 'in another order'}: they "
            "are of different versions of the data set"
        )
    return train, val


def prepare_split(
    source: Source,
    split: str,
    dataset: str,
    images_folder: Path,
    raw_folder: Path,
    workers: int,
) -> AmodalAnnotations:
    """Return one split of the data set; arguments as for :func:`prepare`."""
    workers, chosen = workers or usable_cores(), source.chosen
    with progress(f"{dataset} {split}") as on_progress:
        match chosen:
            case RenderedScenes() | RenderedMovingScenes() | RenderedViews():
                made_of = (getattr(chosen, split),)
            case ComposedPhotographs(pool=PoolConfig() as pool):
                files = _files(chosen, raw_folder)
                made_of = (divide(pool, files, images_folder / "pool", split), raw_folder)
            case ComposedPhotographs() | ComposedClips():
                file: AnnotatedFile = getattr(chosen, split)
                made_of = (
                    find(raw_folder, file.annotations, chosen),
                    find(raw_folder, file.images, chosen),
                )
            case RenderedArchives():
                return read_archives_of(
                    chosen, split, raw_folder, images_folder, workers, on_progress, dataset
                )
            case _:
                return read_split(
                    source, split, dataset, raw_folder, images_folder, workers, on_progress
                )
        make = _maker(chosen)
        return make(chosen.config, split, *made_of, images_folder, workers, on_progress, dataset)


def _files(chosen: ComposedPhotographs, raw_folder: Path) -> dict[Path, str]:
    """Return the annotation files, and the folder of each one's images below ``raw_folder``."""
    return {
        find(raw_folder, file.annotations, chosen): find(raw_folder, file.images, chosen)
        .relative_to(raw_folder)
        .as_posix()
        for file in (chosen.train, chosen.val)
    }


def _maker(chosen: object) -> Callable[..., AmodalAnnotations]:
    """Return the function that makes a split of rendered or composed pictures, imported now."""
    match chosen:
        case RenderedScenes():
            from amodal_pipeline.scenes.dataset import render_split as make
        case RenderedMovingScenes():
            from amodal_pipeline.scenes.clips import render_clips as make
        case RenderedViews():
            from amodal_pipeline.scenes.views import render_views as make
        case ComposedPhotographs():
            from amodal_pipeline.compose.dataset import compose_split as make
        case ComposedClips():
            from amodal_pipeline.compose.clips import compose_clips as make
    return make


def prepare_test(
    source: Source, dataset: str, images_folder: Path, raw_folder: Path, workers: int
) -> AmodalAnnotations:
    """Return the test split, of a data set that has one; arguments as for :func:`prepare`.

    Raises:
        ValueError: the source has no test split.
    """
    if not isinstance(source.chosen, (AnnotatedImages, RenderedArchives)):
        raise ValueError(f"{dataset} has no test split: a source of this kind has none")
    return prepare_split(source, "test", dataset, images_folder, raw_folder, workers)


def audit(annotations: AmodalAnnotations, config: AuditConfig, folder: Path) -> pd.DataFrame:
    """Count what was read, kept, repaired and rejected, and occlusion, and write a page of it.

    The page is ``audit_<split>.html`` in ``folder``.

    Returns:
        The table of counts.
    """
    from amodal_pipeline.annotations.audit import audit as account
    from amodal_pipeline.visuals.audit_page import write_audit

    split = annotations.metadata.split
    found = account(annotations, config.published.get(split))
    for difference in found.differences:
        _log.warning("%s %s: %s", annotations.metadata.dataset, split, difference)
    with progress(f"audit {split}") as on_progress:
        page = write_audit(
            folder, annotations, found, name=f"audit_{split}.html", on_progress=on_progress
        )
    counted = annotations.metadata.accounting
    _log.info(
        "%s %s: %s; see %s",
        annotations.metadata.dataset,
        split,
        "; ".join(
            f"{kind}: {a.read} read, {a.kept} kept, {a.repaired} repaired, {a.rejected} rejected"
            for kind, a in counted.items()
        ),
        page,
    )
    return found.rows()


def preview(annotations: AmodalAnnotations, folder: Path) -> tuple[Image.Image, object]:
    """Draw a sheet of images with their truth, and the histogram of occlusion rates.

    For a data set of videos, also write ``clips_<split>.webp``, an animation of clips with their
    truth, and ``clips_<split>.png``, the objects of one clip over time, into ``folder``.
    """
    from amodal_pipeline.visuals.grids import preview_sheet
    from amodal_pipeline.visuals.plots import occlusion_histogram

    if annotations.images["video_id"].notna().any():
        _preview_clips(annotations, folder)
    return preview_sheet(annotations), occlusion_histogram(annotations)


def _preview_clips(annotations: AmodalAnnotations, folder: Path) -> None:
    from amodal_pipeline.visuals.clips import animated, clip_animation, clip_sheet, clips_of

    name = f"clips_{annotations.metadata.split}"
    shown = clips_of(annotations, 4)
    with replacing(folder / f"{name}.png") as path:
        clip_sheet(annotations, shown[0]).save(path)
    with replacing(folder / f"{name}.webp") as path:
        path.write_bytes(animated(clip_animation(annotations, shown)))
