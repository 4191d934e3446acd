"""The inputs that masks were made from, with their spelling in tables and results."""

from __future__ import annotations

from enum import StrEnum


class Given(StrEnum):
    """The inputs that masks were made from; values are those of ``inputs`` in tables and results.

    IMAGE: the image alone. TRUE_MASKS: the true visible masks. TRUE_BOXES: these and the true
    amodal boxes. NOISY_MASKS: the true visible masks with faults such as a detector's
    (:mod:`~..samples.noisy_masks`). DETECTIONS: a detector's predictions; ``inputs`` is then the
    detector's name. NOTHING: an empty table in place of detections, where no detector is
    configured.
    """

    IMAGE = "image"
    TRUE_MASKS = "true"
    TRUE_BOXES = "true_boxes"
    NOISY_MASKS = "noisy"
    DETECTIONS = "detections"
    NOTHING = "none"

    # Pydantic's messages list the members, spelled as a user types them.
    __repr__ = str.__repr__

    @classmethod
    def of(cls, inputs: object) -> Given:
        """Return the member for a value of ``inputs``; any other text is the name of a detector.

        True counts as TRUE_MASKS, because a command line turns "true" into a boolean.
        """
        if inputs is True:
            return cls.TRUE_MASKS
        try:
            return cls(inputs)
        except ValueError:
            return cls.DETECTIONS

    @property
    def from_truth(self) -> bool:
        """Return whether the truth was given: its visible masks as they are, noisy or in boxes."""
        return self in (Given.TRUE_MASKS, Given.TRUE_BOXES, Given.NOISY_MASKS)
