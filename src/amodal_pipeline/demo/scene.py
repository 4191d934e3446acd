"""What the page shows: a picture, its objects, their whole masks, and who is in front."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from amodal_pipeline.annotations import rle
from amodal_pipeline.demo.marking import MOST_OBJECTS, joined
from amodal_pipeline.predictor import Predictor, Result
from amodal_pipeline.visuals.colours import object_colours
from amodal_pipeline.visuals.object_images import cut_out
from amodal_pipeline.visuals.overlays import draw_objects, draw_order, outline, stroke_width

_LEAST_SCORE = 0.5  # of detections


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and the objects marked in it.

    Attributes:
        picture: uint8 [H, W, 3].
        stored: (height, width) of the uploaded picture, which may be larger.
        names: of the N objects.
        masks: their visible masks, bool [H, W] each, which share no pixel.
        whole: their whole masks, bool [N, H, W]; None until :meth:`completed`.
        order: int64 [P, 2], positions (front, back).
        result: of the completer.
    """

    picture: np.ndarray
    stored: tuple[int, int]
    names: tuple[str, ...] = ()
    masks: tuple[np.ndarray, ...] = ()
    result: Result | None = None
    whole: np.ndarray | None = None
    order: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 2), np.int64))

    def with_objects(self, masks: Sequence[np.ndarray], names: Sequence[str]) -> Scene:
        """Return a scene with more objects; pixels of those already marked stay theirs.

        Raises:
            ValueError: there are too many objects, or nothing is left of a new one.
        """
        kept = list(self.masks)
        for mask in masks:
            kept.append(joined(kept, mask))
        if len(kept) > MOST_OBJECTS:
            raise ValueError(
                f"{len(kept)} objects are more than {MOST_OBJECTS}: start over with fewer"
            )
        return Scene(self.picture, self.stored, (*self.names, *names), tuple(kept))

    def with_found(self, detector: Predictor) -> Scene:
        """Return a scene with the objects that a detector finds, the most certain ones first.

        Pixels of two objects are the more certain one's; an object that loses half of its pixels
        so is left out, as the same one found twice.

        Raises:
            ValueError: nothing is found, or no visible masks.
        """
        result = detector.predict(self.picture, score_threshold=_LEAST_SCORE)
        seen, scene = result.visible_masks, self
        if seen is None:
            raise ValueError(f"{detector.name} predicts no visible masks: mark objects yourself")
        for at in np.argsort(-result.scores, kind="stable"):
            free = seen[at] & ~scene.taken
            if len(scene.masks) < MOST_OBJECTS and 2 * free.sum() > seen[at].sum():
                scene = scene.with_objects([free], [result.names[at]])
        if scene is self:
            raise ValueError("no object was found: mark them yourself")
        return scene

    def without_last(self) -> Scene:
        """Return a scene without the object that was marked last."""
        return Scene(self.picture, self.stored, self.names[:-1], self.masks[:-1])

    def completed(self, model: Predictor) -> Scene:
        """Return the scene with whole masks and order."""
        if not self.masks:
            return self
        visible = np.stack(self.masks)
        result = model.complete(self.picture, visible)
        return dataclasses.replace(self, result=result, whole=result.masks, order=result.order)

    @property
    def taken(self) -> np.ndarray:
        """Return the pixels of the objects, bool [H, W]."""
        return np.any([np.zeros(self.picture.shape[:2], bool), *self.masks], axis=0)

    @property
    def titles(self) -> list[str]:
        """Return what objects are called: "2 mug"."""
        return [f"{at} {name}".strip() for at, name in enumerate(self.names, 1)]

    def marked(self) -> np.ndarray:
        """Return the picture with the outlines of visible masks, uint8 [H, W, 3]."""
        drawn = self.picture.astype(np.float32)
        stroke = 1.3 * stroke_width(drawn.shape[:2])
        for mask, colour in zip(self.masks, object_colours(range(len(self.masks))), strict=True):
            opacity = np.maximum(outline(mask, stroke), 0.25 * mask)[..., None]
            drawn += opacity * (colour - drawn)
        return drawn.round().astype(np.uint8)

    def drawn(self, chosen: int | None = None) -> np.ndarray:
        """Return the picture with whole masks, hidden parts striped, uint8 [H, W, 3].

        Args:
            chosen: position of the object to show; by default all.
        """
        if self.whole is None:
            return self.picture
        rows = np.arange(len(self.masks)) if chosen is None else np.array([chosen])
        colours = object_colours(range(len(self.masks)))
        whole, visible = rle.encode(self.whole), rle.encode(np.stack(self.masks))
        drawn = draw_objects(
            self.picture,
            [whole[i] for i in rows],
            [visible[i] for i in rows],
            colours=colours[rows],
            labels=[self.titles[i] for i in rows],
        )
        pairs = self.order
        if chosen is not None:
            pairs = pairs[(pairs == chosen).any(axis=1)]
        size = self.picture.shape[:2]
        return draw_order(drawn, whole, visible, pairs, size, colours=colours)

    def cut(self, chosen: int) -> Image.Image | None:
        """Return an object as RGBA in the box of its whole mask; hidden pixels are transparent."""
        return cut_out(self.picture, self.whole[chosen], self.masks[chosen])

    def hidden_share(self, chosen: int) -> float:
        """Return the share of the whole mask that is not visible, 0–1."""
        whole = self.whole[chosen]
        return float((whole & ~self.masks[chosen]).sum() / max(whole.sum(), 1))
