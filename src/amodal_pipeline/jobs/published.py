"""Reading the splits of published data sets from files."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.annotations.storage import inside
from amodal_pipeline.jobs.sources import (
    AnnotatedFile,
    AnnotatedImages,
    Cocoa,
    CocoaCls,
    ComposedClips,
    ComposedPhotographs,
    Fishbowl,
    RenderedArchives,
    Source,
)

Progress = Callable[[int, int], None]
Reader = Callable[..., AmodalAnnotations]

_log = logging.getLogger(__name__)

_SPLITS = ("train", "val", "test")


def read_split(
    source: Source,
    split: str,
    dataset: str,
    raw_folder: Path,
    output_folder: Path,
    workers: int,
    on_progress: Progress,
) -> AmodalAnnotations:
    """Return all files of a split as one table.

    Args:
        source: one whose chosen section is an :class:`AnnotatedImages`.
        raw_folder: folder that the section's names are relative to.
        output_folder: folder for files that are made on the way (the merged COCOA-cls).
        workers: processes that read videos; each reads a file at a time.

    Raises:
        FileNotFoundError: a file or folder is missing; says which ones are expected, and where
            to get them.
        ValueError: see the readers.
    """
    from amodal_pipeline.annotations.on_disk import check_on_disk, image_problems
    from amodal_pipeline.annotations.validation import join, reject_images

    section = source.chosen
    merged = isinstance(section, CocoaCls) and not _all_there(getattr(section, split), raw_folder)
    files = getattr(section.cocoa if merged else section, split)
    if not files:
        raise ValueError(f"{dataset} has no {split} split: name its files in source.{source.kind}")
    if merged:
        read: Reader = partial(_merge, section, split, output_folder)
    else:
        read = _reader(source, workers)
    parts = []
    for file in files:
        annotations, folder = _locate(section, file, raw_folder)
        parts.append(
            read(
                annotations,
                str(raw_folder),
                dataset,
                split,
                folder=folder,
                on_progress=on_progress,
            )
        )
    table = join(parts)
    if section.absent_images == "error":
        check_on_disk(table)
    elif section.absent_images == "reject":
        table = reject_images(table, image_problems(table.images, raw_folder))
    if table.metadata.modal:
        _log.warning(
            "%s %s: masks are of visible parts only, and stand for those of whole objects: nothing "
            "amodal is learnt or measured on it",
            *(dataset, split),
        )
    return table


def read_archives_of(
    section: RenderedArchives,
    split: str,
    raw_folder: Path,
    images_folder: Path,
    workers: int,
    on_progress: Progress,
    dataset: str,
) -> AmodalAnnotations:
    """Return the views of a split that others rendered, as picture files in ``images_folder``.

    Raises:
        FileNotFoundError: a file is missing; says which, and where to get it.
        ValueError: a file is damaged.
    """
    from amodal_pipeline.scenes.nmr import read_archives

    archives = next(iter(_existing(raw_folder, section.folder)), raw_folder)
    try:
        return read_archives(
            section.config, split, archives, images_folder, workers, on_progress, dataset
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}. Another folder is named with --params raw_root=<folder>.\n{section.obtain}"
        ) from error


def _reader(source: Source, workers: int) -> Reader:
    match source.kind:
        case "kins":
            from amodal_pipeline.annotations.kins import read_kins

            return read_kins
        case "d2sa":
            from amodal_pipeline.annotations.d2sa import read_d2sa

            return read_d2sa
        case "cocoa":
            from amodal_pipeline.annotations.cocoa import read_cocoa

            section: Cocoa = source.chosen
            return partial(read_cocoa, annotators=section.annotators, regions=section.regions)
        case "cocoa_cls":
            from amodal_pipeline.annotations.cocoa_cls import read_cocoa_cls

            return read_cocoa_cls
        case "coco_amodal":
            from amodal_pipeline.annotations.coco_amodal import read_coco_amodal

            return read_coco_amodal
        case "coco_modal":
            from amodal_pipeline.annotations.coco_amodal import read_coco_modal

            return read_coco_modal
        case "fishbowl":
            from amodal_pipeline.annotations.fishbowl import TrackRules, read_fishbowl

            fish: Fishbowl = source.chosen
            return partial(
                read_fishbowl,
                rules=TrackRules(**fish.tracks.model_dump()),
                need_frames=fish.absent_images == "error",
                workers=workers,
            )
        case "movid_a":
            from amodal_pipeline.annotations.movid_a import read_movid_a

            return partial(read_movid_a, workers=workers)
    raise ValueError(f"source.kind {source.kind!r} is not read from files")


def _merge(
    section: CocoaCls,
    split: str,
    output_folder: Path,
    json_path: Path,
    image_root: str,
    *names: str,
    **options: object,
) -> AmodalAnnotations:
    """Return the annotations of COCOA's regions with the classes of COCO's instances."""
    from amodal_pipeline.annotations.cocoa_cls import merge_cocoa_cls
    from amodal_pipeline.annotations.export import write_coco_amodal
    from amodal_pipeline.annotations.storage import replacing

    instances = find(Path(image_root), section.coco_instances.get(split, ()), section)
    table, report = merge_cocoa_cls(json_path, instances, image_root, *names, **options)
    ready = output_folder / f"COCO_amodal_{split}2014_with_classes.json"
    write_coco_amodal(table, ready, folder=str(options["folder"]))
    with replacing(output_folder / f"merge_{split}.csv") as path:
        report.to_csv(path, index=False)
    _log.info("%s: merged from %s and %s", ready, json_path, instances)
    return table


def _all_there(files: tuple[AnnotatedFile, ...], raw_folder: Path) -> bool:
    return bool(files) and all(_existing(raw_folder, file.annotations) for file in files)


def _locate(section: AnnotatedImages, file: AnnotatedFile, raw_folder: Path) -> tuple[Path, str]:
    """Return the annotation file that exists, and the folder of its images below ``raw_folder``."""
    annotations = find(raw_folder, file.annotations, section)
    if section.absent_images == "unchecked" and not _existing(raw_folder, file.images):
        return annotations, file.images[0]
    images = find(raw_folder, file.images, section)
    return annotations, images.relative_to(raw_folder).as_posix()


def _existing(folder: Path, names: tuple[str, ...]) -> list[Path]:
    # "." is the folder itself: images may lie next to their annotations.
    paths = [folder if name == "." else inside(folder, name) for name in names]
    return [path for path in paths if path.exists()]


def find(
    folder: Path,
    names: tuple[str, ...],
    section: AnnotatedImages | ComposedPhotographs | ComposedClips,
) -> Path:
    """Return the first of ``names`` that exists below ``folder``.

    Raises:
        FileNotFoundError: none exists; says what is expected, and where to get it.
    """
    found = _existing(folder, names)
    if found:
        return found[0]
    files = [file for split in _SPLITS for file in _files(section, split)]
    expected = [" or ".join(kind) for f in files for kind in (f.annotations, f.images)]
    if isinstance(section, CocoaCls):
        cocoa = [f for split in _SPLITS for f in getattr(section.cocoa, split)]
        expected += [f"else, to make it: {' or '.join(f.annotations)}" for f in cocoa]
        expected += [
            f"else, to make it: {' or '.join(kind)}" for kind in section.coco_instances.values()
        ]
    listed = "".join(f"\n  - {line}" for line in dict.fromkeys(expected))
    raise FileNotFoundError(
        f"{' or '.join(names)} is not in {folder}. Expected there, or in another folder named with "
        f"--params raw_root=<folder> (other names go into the environment's `source`):{listed}\n"
        f"{section.obtain}".rstrip()
    )


def _files(
    section: AnnotatedImages | ComposedPhotographs | ComposedClips, split: str
) -> tuple[AnnotatedFile, ...]:
    files = getattr(section, split, ())
    return (files,) if isinstance(files, AnnotatedFile) else files
