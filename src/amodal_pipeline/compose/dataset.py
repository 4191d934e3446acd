"""Composition of a split: on every source photograph, objects are pasted over its objects.

The masks before pasting are the amodal truth, what remains of them is the visible truth. Pictures,
records and statistics are in ``<folder>/<split>/``; a picture whose record has the fingerprint of
the same configuration and source is not made again.
"""

import hashlib
import json
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.processes import working
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.annotations.tables import AmodalAnnotations, Category
from amodal_pipeline.annotations.validation import as_findings, build
from amodal_pipeline.compose.composite import VERSION, Composite, compose
from amodal_pipeline.compose.config import ComposeConfig
from amodal_pipeline.compose.source import (
    SourceObject,
    possibly_incomplete,
    read_source,
    working_size,
)

OBJECT = Category(id=1, name="object")
CANDIDATES = 4  # objects of other photographs drawn per pasted object
FEW = 200  # a warning is logged below this number of distinct cut-outs, or of counted originals

_log = logging.getLogger(__name__)


def compose_split(
    config: ComposeConfig,
    split: str,
    source_json: Path,
    image_root: Path,
    folder: Path,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
    dataset: str = "composed_coco",
) -> AmodalAnnotations:
    """Compose one split from a COCO instance file, and return its annotations.

    Args:
        config: how the pictures are composed.
        split: its name; part of the seed, so that splits of one source differ.
        source_json: COCO instances with modal masks. Give each split a separate file: occluders
            come from it too, and an object must not appear in training and in evaluation.
        image_root: folder that the file names in ``source_json`` are relative to.
        folder: pictures are written to ``folder/split``.
        workers: processes; the result does not depend on their number.
        on_progress: called with (pictures done, number of pictures).

    Returns:
        The table of the composed pictures. Its ``rejected`` lists the errors in the source. Each
        original object keeps its category; a pasted one has that of the object it was cut from.
        Order pairs: a pasted object is in front of everything whose amodal mask it overlaps;
        between original objects the order is unknown.

    Raises:
        ValueError: the source file or a photograph is missing, damaged or does not fit the other,
            or no object can be pasted. The message names the file.
    """
    image_root, folder = Path(image_root), Path(folder)
    # Pictures do not depend on which others there are.
    described = config.model_dump(mode="json", exclude={"dual_annotation"})
    described = {"version": VERSION, "config": described}
    plan = planned(config, described, split, Path(source_json), image_root, workers)
    records = []
    with working(workers):
        for record in Parallel(return_as="generator")(
            delayed(compose)(composite, config, str(image_root), folder / split)
            for composite in plan.composites
        ):
            records.append(record)
            if on_progress is not None:
                on_progress(len(records), plan.total)

    annotations = _table(records, plan.source, config, dataset, split, folder / split)
    pasted = np.array([i["pasted"] for r in records for i in r["instances"]], bool)
    variety = source_variety(records)
    with replacing(folder / split / "statistics.json") as path:
        statistics = occlusion_statistics(annotations, pasted) | variety
        path.write_text(json.dumps(statistics, indent=2))
    few = min(variety.values()) < FEW
    _log.log(
        logging.WARNING if few else logging.INFO,
        "%s %s: %d distinct cut-outs are pasted, %d distinct originals count%s",
        *(dataset, split, *variety.values()),
        f": with fewer than {FEW}, results may depend on these objects; take more photographs, "
        "or lower min_source_area"
        if few
        else "",
    )
    return annotations


@dataclass(frozen=True)
class Plan:
    """The inputs of the pictures of a split: ``total`` composites, made one by one."""

    source: AmodalAnnotations
    composites: Iterator[Composite]
    total: int


def planned(
    config: ComposeConfig,
    described: dict,
    split: str,
    source_json: Path,
    image_root: Path,
    workers: int,
) -> Plan:
    """Read a source, and draw for each picture its photograph and the objects to paste.

    Args:
        described: what else decides the pictures; part of their fingerprint.

    Raises:
        ValueError: as :func:`compose_split`.
    """
    source = read_source(source_json, image_root, split)
    objects = _source_objects(source, config, workers)
    bank = _occluders(objects, config, source_json)
    fingerprint = digest(described | {"split": split, "sources": source.metadata.sources})
    return Plan(
        source,
        _composites(source, objects, bank, config, split, fingerprint),
        len(source.images) * (config.composites_per_image + (split in config.dual_annotation)),
    )


def source_variety(records: list[dict]) -> dict[str, int]:
    """Return the number of distinct source objects in a split.

    Args:
        records: records of its pictures, as returned by :func:`composite.compose`.

    Returns:
        ``distinct_cutouts``, the number of pasted objects, and ``distinct_originals``, that of
        objects of the photographs themselves that count (are not ``ignore``).
    """
    instances = [instance for record in records for instance in record["instances"]]
    pasted = {i["source_id"] for i in instances if i["pasted"]}
    originals = {i["source_id"] for i in instances if not (i["pasted"] or i["ignore"])}
    return {"distinct_cutouts": len(pasted), "distinct_originals": len(originals)}


def occlusion_statistics(annotations: AmodalAnnotations, pasted: np.ndarray) -> dict:
    """Return how much is hidden, over the objects that count (not ``ignore``).

    Args:
        pasted: which instances were pasted, by ``instance_id``, which counts from 1.

    Returns:
        ``images``; and for "all", "original" and "pasted" objects: ``objects``, ``ignored``,
        ``occluded_share``, ``mean_rate`` over all, ``mean_rate_occluded`` over the occluded ones,
        ``fully_hidden``. Rates are null if there are no objects.
    """
    table = annotations.instances
    ids = table["instance_id"].to_numpy(dtype=np.int64)
    is_pasted, ignore = pasted[ids - 1], table["ignore"].to_numpy(dtype=bool)
    rate = table["occlusion_rate"].to_numpy(dtype=np.float64)

    def describe(rows: np.ndarray) -> dict:
        rates = rate[rows & ~ignore]
        occluded = rates[rates > 0]
        return {
            "objects": len(rates),
            "ignored": int((rows & ignore).sum()),
            "occluded_share": float((rates > 0).mean()) if len(rates) else None,
            "mean_rate": float(rates.mean()) if len(rates) else None,
            "mean_rate_occluded": float(occluded.mean()) if len(occluded) else None,
            "fully_hidden": int((rates == 1).sum()),
        }

    return {
        "images": len(annotations.images),
        "all": describe(np.ones(len(ids), bool)),
        "original": describe(~is_pasted),
        "pasted": describe(is_pasted),
    }


def _source_objects(
    source: AmodalAnnotations, config: ComposeConfig, workers: int
) -> list[tuple[SourceObject, ...]]:
    """Return the objects of each photograph, in the order of the table of images."""
    images = source.images
    sizes = images[["height", "width"]].to_numpy(dtype=np.int64).tolist()
    tables = [source.of_image(i) for i in images["image_id"].to_numpy(dtype=np.int64)]
    counts = [table["amodal_rle"].tolist() for table in tables]
    with working(workers):
        flags = Parallel()(
            delayed(possibly_incomplete)(c, tuple(s), config.touching_is_incomplete)
            for c, s in zip(counts, sizes, strict=True)
        )
    return [
        tuple(
            SourceObject(instance, category, name, (size[0], size[1]), text, bool(flag), ignore)
            for instance, category, text, flag, ignore in zip(
                table["instance_id"].tolist(),
                table["category_id"].tolist(),
                texts,
                image_flags,
                table["ignore"].tolist(),
                strict=True,
            )
        )
        for table, name, size, texts, image_flags in zip(
            tables, images["file_name"].tolist(), sizes, counts, flags, strict=True
        )
    ]


def _occluders(
    objects: list[tuple[SourceObject, ...]], config: ComposeConfig, source_json: Path
) -> list[SourceObject]:
    """Return all objects that may be cut out: complete and large enough ones that are no crowds."""
    fit = [o for photo in objects for o in photo if not (o.incomplete or o.ignore)]
    areas = rle.area([o.counts for o in fit])
    factors = [working_size(o.size, config.max_side)[0] / o.size[0] for o in fit]
    large = areas * np.square(factors) >= config.min_source_area
    bank = [o for o, ok in zip(fit, large, strict=True) if ok]
    if not bank:
        raise ValueError(
            f"{source_json}: none of {sum(map(len, objects))} objects can be pasted: they touch "
            "the image border or each other (touching_is_incomplete), have several parts, are "
            f"crowds, or are smaller than min_source_area = {config.min_source_area} pixels; lower "
            "min_source_area or set touching_is_incomplete to false"
        )
    return bank


def _composites(
    source: AmodalAnnotations,
    objects: list[tuple[SourceObject, ...]],
    bank: list[SourceObject],
    config: ComposeConfig,
    split: str,
    fingerprint: str,
) -> Iterator[Composite]:
    """Yield the inputs of each picture: its photograph, and objects drawn from others.

    Photographs as they were, if the split has them, come last.
    """
    images = source.images
    names = _output_names(images["file_name"].tolist(), source.metadata.dataset)
    sizes = images[["height", "width"]].to_numpy(dtype=np.int64).tolist()
    wanted = CANDIDATES * config.occluders[1]
    for index, file_name in enumerate(images["file_name"].tolist()):
        for number in range(config.composites_per_image):
            seed = (config.seed, zlib.crc32(split.encode()), index, number)
            # Some more than wanted, because those of the same photograph are removed.
            drawn = np.random.default_rng((*seed, 0)).integers(0, len(bank), wanted + 8)
            others = [bank[i] for i in drawn if bank[i].file_name != file_name]
            yield Composite(
                name=f"{names[index]}_{number}",
                file_name=file_name,
                size=(sizes[index][0], sizes[index][1]),
                objects=objects[index],
                others=tuple(others[:wanted]),
                seed=(*seed, 1),
                fingerprint=fingerprint,
            )
    for index, file_name in enumerate(images["file_name"]):
        if split in config.dual_annotation:
            yield Composite(
                name=f"{names[index]}_whole",
                file_name=file_name,
                size=(sizes[index][0], sizes[index][1]),
                objects=objects[index],
                others=(),
                seed=(config.seed, index),
                fingerprint=fingerprint,
                as_it_was=True,
            )


def _output_names(file_names: list[str], source: str) -> list[str]:
    """Return each photograph's stem; its whole path if two photographs share a stem."""
    stems = [PurePosixPath(name).stem for name in file_names]
    shared = Counter(stems)
    names = [
        stem
        if shared[stem] == 1
        else PurePosixPath(name).with_suffix("").as_posix().replace("/", "__")
        for stem, name in zip(stems, file_names, strict=True)
    ]
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise ValueError(
            f"{source}: several photographs would be stored as {twice[0]!r}: rename one of them"
        )
    return names


def _table(
    records: list[dict],
    source: AmodalAnnotations,
    config: ComposeConfig,
    dataset: str,
    split: str,
    image_root: Path,
) -> AmodalAnnotations:
    images, instances, order = [], [], []
    for image_id, record in enumerate(records, 1):
        first = len(instances) + 1
        images.append({"image_id": image_id, **record["image"]})
        instances.extend(
            {
                "instance_id": first + position,
                "image_id": image_id,
                "category_id": OBJECT.id if config.class_agnostic else instance["category_id"],
                "amodal_rle": instance["amodal_rle"],
                "visible_rle": instance["visible_rle"],
                "ignore": instance["ignore"],
            }
            for position, instance in enumerate(record["instances"])
        )
        order.extend(
            {"image_id": image_id, "occluder_id": first + front, "occludee_id": first + back}
            for front, back in record["order"]
        )
    unused = set() if config.dual_annotation else {"dual_annotation"}
    made_with = {"compose": digest(config.model_dump(mode="json", exclude=unused))}
    return build(
        dataset=dataset,
        split=split,
        categories=(OBJECT,) if config.class_agnostic else source.metadata.categories,
        image_root=str(image_root),
        images=pd.DataFrame(images),
        instances=pd.DataFrame(instances),
        order=pd.DataFrame(order, columns=["image_id", "occluder_id", "occludee_id"]),
        sources={**source.metadata.sources, **made_with},
        file=source.metadata.dataset,
        rejected=as_findings(source.rejected),
    )


def digest(value: dict) -> str:
    """Return the SHA-256 of the inputs of a picture, as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
