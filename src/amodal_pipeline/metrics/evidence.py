"""What all protocols look at: the two tables, and what is computed from them once."""

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

    Of a method that predicts only one of the two masks, ``substituted`` is the one it lacks; in
    targets that need both the other stands in for it.
    """

    annotations: AmodalAnnotations
    predictions: Predictions

    @cached_property
    def where(self) -> pairs.Places:
        return pairs.places(self.annotations, self.predictions)

    def has(self, column: str) -> bool:
        """Whether a column of the predictions holds anything. Who predicts nothing at all has it
        too: that is a result, not a gap."""
        table = self.predictions.predictions
        return len(table) == 0 or bool(table[column].notna().any())

    @cached_property
    def substituted(self) -> Literal["amodal", "visible", None]:
        if not self.has("visible_rle"):
            return "visible"
        return None if self.has("amodal_rle") else "amodal"

    @cached_property
    def marked(self) -> np.ndarray:
        """Objects that are marked to be ignored, bool [G]."""
        return self.annotations.instances["ignore"].to_numpy(dtype=bool)

    @cached_property
    def never_seen(self) -> np.ndarray:
        """Objects of which nothing is visible, bool [G]."""
        return self.annotations.instances["visible_box"].isna().to_numpy(dtype=bool)

    @cached_property
    def rate(self) -> np.ndarray:
        """Occlusion rates as they are stored, float32 [G]: thresholds are compared as such."""
        return self.annotations.instances["occlusion_rate"].to_numpy(dtype=np.float32)

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
        return self._pairs("detection amodal", "truth amodal")

    @cached_property
    def visible(self) -> Pairs:
        return self._pairs("detection visible", "truth visible")

    @cached_property
    def box(self) -> Pairs:
        return pairs.box_pairs(self.annotations, self.predictions, self.where)

    @cached_property
    def amodal_or_visible(self) -> Pairs:
        """Against amodal truth, with visible masks where the method has no other."""
        if self.substituted == "amodal":
            return self._pairs("detection visible", "truth amodal")
        return self.amodal

    @cached_property
    def visible_or_amodal(self) -> Pairs:
        """Against visible truth, with amodal masks where the method has no other."""
        if self.substituted == "visible":
            return self._pairs("detection amodal", "truth visible")
        return self.visible

    @cached_property
    def both(self) -> Pairs:
        return pairs.both(self.amodal_or_visible, self.visible_or_amodal)

    @cached_property
    def invisible(self) -> Pairs | None:
        """Hidden parts: a method's own masks of them, else its amodal without its visible ones.

        None where a method has neither.
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
        return coco.rank(self.where)

    @cached_property
    def seen_by_category(self) -> coco.Ranking:
        """Without the detections that say that nothing of their object is visible."""
        return coco.rank(self.where, left_out=self._unseen)

    @cached_property
    def seen_pooled(self) -> coco.Ranking:
        return coco.rank(self.where, class_agnostic=True, left_out=self._unseen)

    @cached_property
    def _unseen(self) -> np.ndarray:
        masks = self._masks["detection visible"]
        rows = np.flatnonzero(masks.is_valid().to_numpy(zero_copy_only=False))
        flags = np.zeros(len(masks), bool)
        flags[rows[rle.area(masks.take(rows)) == 0]] = True
        return flags

    @cached_property
    def pooled(self) -> coco.Ranking:
        """Categories disregarded."""
        return coco.rank(self.where, class_agnostic=True)

    @cached_property
    def proposals(self) -> coco.Ranking:
        """Categories disregarded, up to 1000 detections an image."""
        return coco.rank(self.where, class_agnostic=True, max_detections=1000)

    def _pairs(self, detections: str, truth: str) -> Pairs:
        return pairs.mask_pairs(
            self.annotations, self.where, self._masks[detections], self._masks[truth]
        )


def _difference(a: pa.Array, b: pa.Array) -> pa.Array:
    """a without b; null where either is, and where nothing is left."""
    valid = a.is_valid().to_numpy(zero_copy_only=False) & b.is_valid().to_numpy(
        zero_copy_only=False
    )
    rows = np.flatnonzero(valid)
    left = np.full(len(a), None, dtype=object)
    masks = rle.difference(a.take(rows), b.take(rows))
    some = rle.area(masks) > 0
    left[rows[some]] = np.array(masks, dtype=object)[some]
    return pa.array(left, pa.large_string())
