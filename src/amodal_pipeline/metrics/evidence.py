"""The input of all protocols: the two tables, and all that is computed from them once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import AmodalAnnotations, Predictions, strings
from amodal_pipeline.metrics import coco, pairs
from amodal_pipeline.metrics.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Evidence:
    """True objects and the detections to be scored.

    ``substituted`` is the mask that a method lacks if it predicts only one of the two; targets that
    need both use the other mask in its place.
    """

    annotations: AmodalAnnotations
    predictions: Predictions

    @cached_property
    def where(self) -> pairs.Places:
        """Return the images and categories of detections and true objects."""
        return pairs.places(self.annotations, self.predictions)

    def has(self, column: str) -> bool:
        """Return whether a column of the predictions has any values.

        It is True without any predictions, since predicting nothing is a result and not a gap.
        """
        table = self.predictions.predictions
        return len(table) == 0 or bool(table[column].notna().any())

    @cached_property
    def substituted(self) -> Literal["amodal", "visible", None]:
        """Return the mask, amodal or visible, that the method does not predict, or None."""
        if not self.has("visible_rle"):
            return "visible"
        return None if self.has("amodal_rle") else "amodal"

    @cached_property
    def marked(self) -> np.ndarray:
        """Return the objects that are marked to be ignored, bool [G]."""
        return self.annotations.instances["ignore"].to_numpy(dtype=bool)

    @cached_property
    def never_seen(self) -> np.ndarray:
        """Return the objects of which nothing is visible, bool [G]."""
        return self.annotations.instances["visible_box"].isna().to_numpy(dtype=bool)

    @cached_property
    def rate(self) -> np.ndarray:
        """Return the stored occlusion rates, float32 [G]; thresholds are compared as float32."""
        return self.annotations.instances["occlusion_rate"].to_numpy(dtype=np.float32)

    @cached_property
    def area(self) -> dict[str, np.ndarray]:
        """Return the pixels of the true "amodal" and "visible" masks, int64 [G] each."""
        return {kind: rle.area(self._masks[f"truth {kind}"]) for kind in ("amodal", "visible")}

    @cached_property
    def _masks(self) -> dict[str, pa.Array]:
        tables = {"detection": self.predictions.predictions, "truth": self.annotations.instances}
        return {
            f"{side} {kind}": strings(table[f"{kind}_rle"])
            for side, table in tables.items()
            for kind in ("amodal", "visible")
        }

    @cached_property
    def amodal(self) -> Pairs:
        """Return the pairs by amodal masks."""
        return self._pairs("detection amodal", "truth amodal")

    @cached_property
    def visible(self) -> Pairs:
        """Return the pairs by visible masks."""
        return self._pairs("detection visible", "truth visible")

    @cached_property
    def box(self) -> Pairs:
        """Return the pairs by amodal boxes."""
        return pairs.box_pairs(self.annotations, self.predictions, self.where)

    @cached_property
    def amodal_or_visible(self) -> Pairs:
        """Return pairs with amodal truth, by visible masks if the method has no amodal ones."""
        if self.substituted == "amodal":
            return self._pairs("detection visible", "truth amodal")
        return self.amodal

    @cached_property
    def visible_or_amodal(self) -> Pairs:
        """Return pairs with visible truth, by amodal masks if the method has no visible ones."""
        if self.substituted == "visible":
            return self._pairs("detection amodal", "truth visible")
        return self.visible

    @cached_property
    def both(self) -> Pairs:
        """Return the pairs that overlap in amodal and in visible masks, by the smaller IoU."""
        return pairs.both(self.amodal_or_visible, self.visible_or_amodal)

    @cached_property
    def invisible(self) -> Pairs | None:
        """Return pairs by hidden parts, or None if the method has none.

        A method's own masks of hidden parts are used, else its amodal without its visible masks.
        """
        own = strings(self.predictions.predictions["invisible_rle"])
        if not self.has("invisible_rle"):
            if self.substituted is not None:
                return None
            own = _difference(self._masks["detection amodal"], self._masks["detection visible"])
        truth = _difference(self._masks["truth amodal"], self._masks["truth visible"])
        return pairs.mask_pairs(self.annotations, self.where, own, truth)

    @cached_property
    def by_category(self) -> coco.Ranking:
        """Return the ranking within categories."""
        return coco.rank(self.where)

    @cached_property
    def seen_by_category(self) -> coco.Ranking:
        """Return the ranking within categories, without detections with an empty visible mask."""
        return coco.rank(self.where, left_out=self._unseen)

    @cached_property
    def seen_pooled(self) -> coco.Ranking:
        """Return the ranking across categories, without detections with an empty visible mask."""
        return coco.rank(self.where, class_agnostic=True, left_out=self._unseen)

    @cached_property
    def _unseen(self) -> np.ndarray:
        """Return the detections with an empty visible mask, bool [D]."""
        masks = self._masks["detection visible"]
        rows = np.flatnonzero(masks.is_valid().to_numpy(zero_copy_only=False))
        flags = np.zeros(len(masks), bool)
        flags[rows[rle.area(masks.take(rows)) == 0]] = True
        return flags

    @cached_property
    def pooled(self) -> coco.Ranking:
        """Return the ranking across categories."""
        return coco.rank(self.where, class_agnostic=True)

    @cached_property
    def proposals(self) -> coco.Ranking:
        """Return the ranking across categories, with up to 1000 detections per image."""
        return coco.rank(self.where, class_agnostic=True, max_detections=1000)

    def _pairs(self, detections: str, truth: str) -> Pairs:
        return pairs.mask_pairs(
            self.annotations, self.where, self._masks[detections], self._masks[truth]
        )


def _difference(a: pa.Array, b: pa.Array) -> pa.Array:
    """Return a without b; null if either is null or the difference is empty."""
    valid = a.is_valid().to_numpy(zero_copy_only=False) & b.is_valid().to_numpy(
        zero_copy_only=False
    )
    rows = np.flatnonzero(valid)
    left = np.full(len(a), None, dtype=object)
    masks = rle.difference(a.take(rows), b.take(rows))
    some = rle.area(masks) > 0
    left[rows[some]] = np.array(masks, dtype=object)[some]
    return pa.array(left, pa.large_string())
