"""Counts of what a table of annotations holds and of what was left out.

:func:`audit` counts; it draws nothing and changes nothing. The lines on occlusion are those of
Follmann et al., "Learning to See the Invisible" (ORCNN), WACV 2019, Table 5: images with at least
one occluded object over all images, occluded objects over all objects, and the mean occlusion
rate (1 − |visible| / |amodal|) over all objects and over the occluded ones.

The paper has no ignored objects. Here they are counted in a line of their own and in no other line
on objects or occlusion: the metrics do not score them, and the rate of an object whose mask may be
incomplete is too low. Order pairs of ignored objects count.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from amodal_pipeline.annotations.order import overlapping_pairs
from amodal_pipeline.annotations.tables import Accounting, AmodalAnnotations

HEAVY = 0.15  # above this rate the metrics' "_occluded15" counts an object as occluded

_MOST_REASONS = 25  # lines to a verdict; rarer reasons are joined in one more
_EXAMPLES = 2
_LONGEST = 240  # characters of an example; records and reasons come from files


@dataclass(frozen=True)
class Line:
    """One number of the audit: ``unit`` is "" for a count, "%" for a share."""

    section: str
    label: str
    unit: str
    meaning: str


_COUNTS, _OCCLUSION, _ORDER = "counts", "occlusion", "order"

LINES: dict[str, Line] = {
    "images": Line(_COUNTS, "Images", "", "Images of the table."),
    "images_without_objects": Line(
        _COUNTS, "Images without objects", "", "Images with no object, or with ignored ones only."
    ),
    "videos": Line(_COUNTS, "Videos", "", "Videos that the images are frames of; 0 of pictures."),
    "objects": Line(_COUNTS, "Objects", "", "Objects that count: all but the ignored ones."),
    "tracks": Line(
        _COUNTS,
        "Tracks",
        "",
        "Objects that are followed through the frames of a video and count in one of them at "
        "least.",
    ),
    "things": Line(_COUNTS, "Things", "", "Objects that are things."),
    "stuff": Line(_COUNTS, "Stuff", "", "Objects that are stuff: sky, grass, walls."),
    "ignored_objects": Line(
        _COUNTS,
        "Ignored objects",
        "",
        "Objects marked to be ignored (crowds, unknown truth). They are in no other line on "
        "objects or occlusion, and neither learnt nor scored.",
    ),
    "categories_without_objects": Line(
        _COUNTS, "Categories without objects", "", "Published categories no object has."
    ),
    "occluded_images": Line(
        _OCCLUSION, "Images with occlusion", "", "Images with at least one occluded object."
    ),
    "image_occlusion_rate": Line(
        _OCCLUSION,
        "Image occlusion rate",
        "%",
        "Images with occlusion over all images, those without objects included.",
    ),
    "occluded_objects": Line(
        _OCCLUSION, "Occluded objects", "", "Objects with at least one hidden pixel."
    ),
    "object_occlusion_rate": Line(
        _OCCLUSION, "Object occlusion rate", "%", "Occluded objects over all objects."
    ),
    "heavily_occluded_objects": Line(
        _OCCLUSION,
        f"Objects hidden by more than {HEAVY:.0%}".replace("%", " %"),
        "",
        "Those that metrics ending in _occluded15 are about.",
    ),
    "objects_without_visible_pixels": Line(
        _OCCLUSION, "Objects without visible pixels", "", "Objects that are hidden entirely."
    ),
    "mean_occlusion_rate": Line(
        _OCCLUSION,
        "Mean occlusion rate, all objects",
        "%",
        "Hidden share of the whole mask's area, mean over all objects.",
    ),
    "mean_occlusion_rate_occluded": Line(
        _OCCLUSION, "Mean occlusion rate, occluded objects", "%", "The same over occluded objects."
    ),
    "order_pairs": Line(
        _ORDER, "Order pairs", "", "Statements that one object is in front of another."
    ),
    "inferred_pairs": Line(
        _ORDER,
        "Inferred order pairs",
        "",
        "Order pairs derived from masks, not stated by the data.",
    ),
    "mutual_pairs": Line(
        _ORDER,
        "Mutual pairs",
        "",
        "Pairs of objects each of which is in front of the other, as a rider and a horse. "
        "Each is two order pairs.",
    ),
    "overlapping_pairs": Line(
        _ORDER,
        "Overlapping pairs",
        "",
        "Pairs of objects of one image, ignored ones included, whose whole masks share a pixel.",
    ),
    "overlapping_pairs_without_order": Line(
        _ORDER,
        "Overlapping pairs without order",
        "",
        "Those without a statement of which object is in front.",
    ),
    "images_with_cycles": Line(
        _ORDER,
        "Images with a cycle",
        "",
        "Images where going from an object to one behind it leads back to the start; "
        "a mutual pair is the shortest cycle.",
    ),
}
"""Every number that may be compared with a published one, in the order it is shown."""


@dataclass(frozen=True)
class Number:
    """One line of :data:`LINES`: ours, the published one (None: not given), and the difference.

    Shares are in percent; NaN where the total is zero. ``difference`` is in
    words, "" without a published number.
    """

    name: str
    value: float
    published: float | None
    difference: str

    @property
    def differs(self) -> bool:
        """Return whether the number differs from the published one in that one's digits."""
        return self.published is not None and _differs(self.value, self.published, self.name)


@dataclass(frozen=True)
class Reason:
    """Findings of one kind: ``reason`` has # for numbers and '…' for quoted values.

    ``verdict`` is "repaired" or "rejected", ``kind`` "images", "instances" or "order";
    ``largest_share`` is None where no finding has a share. ``examples`` name the first records.
    """

    verdict: str
    kind: str
    field: str
    reason: str
    count: int
    largest_share: float | None
    examples: tuple[str, ...]


@dataclass(frozen=True)
class CategoryCount:
    """Objects of one category; ``mean_occlusion_rate`` in percent, NaN without objects."""

    id: int
    name: str
    objects: int
    occluded_objects: int
    mean_occlusion_rate: float


@dataclass(frozen=True)
class Audit:
    """The outcome of :func:`audit`.

    ``remarks`` say where the table contradicts its own accounting or is a part of what was read,
    and how many objects of the file another evaluator ignores.
    """

    dataset: str
    split: str
    accounting: Mapping[str, Accounting]
    reasons: tuple[Reason, ...]
    remarks: tuple[str, ...]
    numbers: tuple[Number, ...]
    categories: tuple[CategoryCount, ...]

    def __getitem__(self, name: str) -> float:
        """Return the value of a line of :data:`LINES`."""
        return next(n.value for n in self.numbers if n.name == name)

    @property
    def differences(self) -> list[str]:
        """Return a sentence for each number that differs from the published one."""
        return [_sentence(n) for n in self.numbers if n.differs]

    def rows(self) -> pd.DataFrame:
        """Return everything as one tidy table: section, name, value, published, note.

        Sections: accounting, repaired, rejected, remarks, counts, occlusion, order, and one for
        each column of the categories. Counts are integers, shares percent with four decimals.
        """
        rows: list[tuple] = []
        for kind, counted in self.accounting.items():
            for name, value in counted.model_dump().items():
                rows.append(("accounting", f"{kind}_{name}", value, None, ""))
        for r in self.reasons:
            name = ": ".join(part for part in (r.kind, r.field, r.reason) if part)
            rows.append((r.verdict, name, r.count, None, "; ".join(r.examples)))
        rows += [("remarks", "remark", None, None, remark) for remark in self.remarks]
        for n in self.numbers:
            rows.append((LINES[n.name].section, n.name, n.value, n.published, n.difference))
        for column in ("objects", "occluded_objects", "mean_occlusion_rate"):
            for c in self.categories:
                section, value = f"category_{column}", getattr(c, column)
                rows.append((section, c.name, value, None, f"category {c.id}"))
        # Of objects: a column of floats would print 12 images as 12.0.
        table = pd.DataFrame(rows, columns=["section", "name", "value", "published", "note"])
        for place, column in ((2, "value"), (3, "published")):
            table[column] = pd.Series([_plain(row[place]) for row in rows], dtype=object)
        return table


def audit(annotations: AmodalAnnotations, published: Mapping[str, float] | None = None) -> Audit:
    """Count what is in a table and what was repaired or rejected on the way.

    Args:
        annotations: one split.
        published: numbers that a paper or a data set's page states for this split, by the names
            of :data:`LINES`; shares in percent. A share is the same if it is so in the digits
            that the published one has.

    Raises:
        ValueError: ``published`` is refused by :func:`check_published`.
    """
    published = published or {}
    check_published(published)
    values = {
        **_object_numbers(annotations),
        **_order_numbers(annotations),
    }
    numbers = []
    for name in LINES:
        theirs = published.get(name)
        words = "" if theirs is None else _difference(values[name], theirs, name)
        numbers.append(Number(name, values[name], theirs, words))
    reasons = (
        *_reasons("repaired", annotations.repaired),
        *_reasons("rejected", annotations.rejected),
    )
    return Audit(
        dataset=annotations.metadata.dataset,
        split=annotations.metadata.split,
        accounting=dict(annotations.metadata.accounting),
        reasons=reasons,
        remarks=_remarks(annotations, reasons),
        numbers=tuple(numbers),
        categories=_categories(annotations),
    )


def check_published(published: Mapping[str, float]) -> None:
    """Refuse numbers that :func:`audit` cannot compare with.

    Raises:
        ValueError: a name is not in :data:`LINES`, or a number is not finite.
    """
    for name, value in published.items():
        if name not in LINES:
            raise ValueError(
                f"published number {name!r} is not counted; known names: {', '.join(LINES)}"
            )
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ValueError(f"published number {name!r} is {value!r}: give a number, or leave it")


def _kinds(records: pd.Series) -> np.ndarray:
    """Return the kind of each finding, from its record's name: images, instances or order."""
    records = records.fillna("").astype(str)
    image, order = records.str.startswith("image "), records.str.startswith("order pair ")
    return np.select([image, order], ["images", "order"], "instances")


def largest_cycles(order: pd.DataFrame) -> pd.Series:
    """Return the number of objects in the largest cycle of each image that has one, by image id.

    Objects belong to one cycle when each is in front of the other, directly or through others
    (the strongly connected components of the order).
    """
    front, back = (order[c].to_numpy(dtype=np.int64) for c in ("occluder_id", "occludee_id"))
    ids, nodes = np.unique(np.concatenate([front, back]), return_inverse=True)
    if not len(ids):
        return pd.Series([], index=pd.Index([], dtype=np.int64), dtype=np.int64)
    start, end = nodes[: len(front)], nodes[len(front) :]
    edges = coo_array((np.ones(len(front)), (start, end)), shape=(len(ids), len(ids)))
    _, component = connected_components(edges, directed=True, connection="strong")
    size = np.bincount(component)[component[start]]
    image = order["image_id"].to_numpy(dtype=np.int64)
    largest = pd.Series(size, dtype=np.int64).groupby(image).max()
    return largest[largest > 1]


def _object_numbers(annotations: AmodalAnnotations) -> dict[str, float]:
    table = annotations.instances
    counted = ~table["ignore"].to_numpy(dtype=bool)
    rate = table["occlusion_rate"].to_numpy(dtype=np.float64)[counted]
    image = table["image_id"].to_numpy(dtype=np.int64)[counted]
    thing = table["is_thing"].to_numpy(dtype=bool)[counted]
    unseen = table["visible_box"].isna().to_numpy(dtype=bool)[counted]
    used = np.unique(table["category_id"].to_numpy(dtype=np.int64)[counted])
    occluded = rate > 0
    images, with_occlusion = len(annotations.images), len(np.unique(image[occluded]))
    return {
        "images": images,
        "images_without_objects": images - len(np.unique(image)),
        "videos": annotations.images["video_id"].nunique(),
        "objects": len(rate),
        "tracks": sum(bool(counted[rows].any()) for rows in annotations.tracks.values()),
        "things": int(thing.sum()),
        "stuff": int((~thing).sum()),
        "ignored_objects": int((~counted).sum()),
        "categories_without_objects": sum(
            c.id not in used for c in annotations.metadata.categories
        ),
        "occluded_images": with_occlusion,
        "image_occlusion_rate": _percent(with_occlusion, images),
        "occluded_objects": int(occluded.sum()),
        "object_occlusion_rate": _percent(occluded.sum(), len(rate)),
        "heavily_occluded_objects": int((rate > HEAVY).sum()),
        "objects_without_visible_pixels": int(unseen.sum()),
        "mean_occlusion_rate": _percent(rate.sum(), len(rate)),
        "mean_occlusion_rate_occluded": _percent(rate.sum(), occluded.sum()),
    }


def _order_numbers(annotations: AmodalAnnotations) -> dict[str, float]:
    order, ids = annotations.order, annotations.instances["instance_id"].to_numpy(dtype=np.int64)
    by_id = np.argsort(ids, kind="stable")

    def rows(column: str) -> np.ndarray:
        place = np.searchsorted(ids, order[column].to_numpy(dtype=np.int64), sorter=by_id)
        return by_id[np.minimum(place, len(ids) - 1)] if len(ids) else place

    def keys(pairs: np.ndarray) -> np.ndarray:
        return pairs[:, 0] * np.int64(len(ids)) + pairs[:, 1]

    stated = np.stack([rows("occluder_id"), rows("occludee_id")], axis=1).reshape(-1, 2)
    known, times = np.unique(keys(np.sort(stated, axis=1)), return_counts=True)
    overlapping = unknown = 0
    for pairs in overlapping_pairs(annotations.instances):
        overlapping += len(pairs)
        # Not np.isin, which would sort the order of the whole data set for every image.
        place = np.searchsorted(known, keys(pairs))
        unknown += int((np.append(known, -1)[place] != keys(pairs)).sum())
    return {
        "order_pairs": len(order),
        "inferred_pairs": int(order["inferred"].fillna(False).sum()),
        "mutual_pairs": int((times > 1).sum()),
        "overlapping_pairs": overlapping,
        "overlapping_pairs_without_order": unknown,
        "images_with_cycles": len(largest_cycles(order)),
    }


def _categories(annotations: AmodalAnnotations) -> tuple[CategoryCount, ...]:
    table = annotations.instances[~annotations.instances["ignore"].to_numpy(dtype=bool)]
    rate = pd.Series(table["occlusion_rate"].to_numpy(dtype=np.float64))
    by_category = rate.groupby(table["category_id"].to_numpy(dtype=np.int64))
    counts = by_category.agg(objects="size", occluded=lambda r: int((r > 0).sum()), mean="mean")
    found = []
    for category in annotations.metadata.categories:
        objects, occluded, mean = 0, 0, math.nan
        if category.id in counts.index:
            objects, occluded, mean = counts.loc[category.id]
        found.append(
            CategoryCount(category.id, category.name, int(objects), int(occluded), 100 * mean)
        )
    return tuple(found)


_QUOTED = re.compile(r"""(?<!\w)(?:'[^']*'|"[^"]*")(?!\w)""")
_NUMERAL = re.compile(r"(?<!\d)-?\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?")


def _reasons(verdict: str, findings: pd.DataFrame) -> list[Reason]:
    """Count findings by kind, field and reason, most frequent first; rare ones share a line."""
    if not len(findings):
        return []
    reason = findings["reason"].fillna("").astype(str)
    groups = pd.DataFrame(
        {
            "kind": _kinds(findings["record"]),
            "field": findings["field"].fillna("").astype(str).to_numpy(),
            "reason": [_NUMERAL.sub("#", _QUOTED.sub("'…'", r)) for r in reason],
            "share": findings["share"].to_numpy(dtype=np.float64, na_value=np.nan),
        }
    )
    rows = groups.groupby(["kind", "field", "reason"]).indices
    ranked = sorted(rows.items(), key=lambda item: (-len(item[1]), item[0]))
    joined = [(key, members) for key, members in ranked[:_MOST_REASONS]]
    rest = pd.DataFrame(ranked[_MOST_REASONS:], columns=["key", "members"])
    for kind, few in rest.groupby(rest["key"].str[0]):
        # Of one kind each, so that the counts still add up to the accounting's.
        key = (kind, "", f"{len(few)} rarer reasons")
        joined.append((key, np.sort(np.concatenate(few["members"].tolist()))))
    found = []
    for (kind, field, pattern), members in joined:
        share = groups["share"].iloc[members].max()
        examples = tuple(_example(findings.iloc[i], pattern) for i in members[:_EXAMPLES])
        largest = None if math.isnan(share) else float(share)
        found.append(Reason(verdict, kind, field, pattern, len(members), largest, examples))
    return found


def _example(row: pd.Series, pattern: str) -> str:
    """Return the record and its file, and its reason unless it is that of the whole group."""
    record, field, reason, file = (
        "" if pd.isna(row[name]) else str(row[name])
        for name in ("record", "field", "reason", "file")
    )
    text = f"{record} ({Path(file).name})" if file else record
    if reason != pattern:
        text += f": {field} {reason}"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _remarks(annotations: AmodalAnnotations, reasons: Sequence[Reason]) -> tuple[str, ...]:
    here = {
        "images": len(annotations.images),
        "instances": len(annotations.instances),
        "order": len(annotations.order),
    }
    found = []
    for kind, a in annotations.metadata.accounting.items():
        total = a.kept + a.repaired + a.rejected
        if a.read != total:
            found.append(
                f"{kind}: {a.read} were read, but {a.kept} kept, {a.repaired} repaired and "
                f"{a.rejected} rejected are {total}: records are unaccounted for"
            )
        for verdict, stated in (("repaired", a.repaired), ("rejected", a.rejected)):
            listed = sum(r.count for r in reasons if r.verdict == verdict and r.kind == kind)
            # One record may have had several faults that were mended.
            if listed < stated or (listed > stated and verdict == "rejected"):
                found.append(f"{kind}: {stated} were {verdict}, but {listed} are listed")
        if kind in here and here[kind] != a.kept + a.repaired:
            found.append(
                f"{kind}: {a.kept + a.repaired} were kept or repaired, the table has {here[kind]}: "
                "it is a part of what was read, or was made from it; the counts are those of the "
                "table"
            )
    for reason, count in annotations.metadata.ignored_elsewhere.items():
        found.append(f"{count} objects that count here are ignored elsewhere. {reason}.")
    if not annotations.metadata.accounting:
        found.append("The table has no accounting: make it again to know what was left out.")
    return tuple(found)


def _differs(value: float, published: float, name: str) -> bool:
    if not LINES[name].unit:
        return value != published
    decimals = max(0, -Decimal(repr(float(published))).normalize().as_tuple().exponent)
    return not abs(value - published) <= 0.5 * 10**-decimals + 1e-9


def _difference(value: float, published: float, name: str) -> str:
    if not _differs(value, published, name):
        return "as published"
    if math.isnan(value):
        return "there is nothing to compare with the published share"
    gap = abs(value - published)
    if LINES[name].unit:
        return f"{gap:.2g} percentage points {'lower' if value < published else 'higher'}"
    return f"{_grouped(gap)} {'fewer' if value < published else 'more'}"


def _sentence(number: Number) -> str:
    line = LINES[number.name]
    unit = f" {line.unit}" if line.unit else ""
    ours = f"{number.value:.4g}" if unit else _grouped(number.value)
    theirs = f"{number.published:g}" if unit else _grouped(number.published)
    return f"{line.label}: {ours}{unit}, published are {theirs}{unit}: {number.difference}"


def _grouped(count: float) -> str:
    return f"{count:,.10g}".replace(",", "\N{NO-BREAK SPACE}")


def _percent(part: float, whole: float) -> float:
    return 100 * float(part) / float(whole) if whole else math.nan


def _plain(value: float | int | None) -> float | int | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, int) else round(float(value), 4)
