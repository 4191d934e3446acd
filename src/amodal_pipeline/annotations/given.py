"""What masks were made from: the one place that knows how tables and results spell it."""

from __future__ import annotations

from enum import StrEnum


class Given(StrEnum):
    """What masks were made from, valued as ``inputs`` of tables and results spells it.

    IMAGE: the image alone. TRUE_MASKS: the true visible masks. TRUE_BOXES: these and the true
    amodal boxes. DETECTIONS: what a detector found; ``inputs`` is then the detector's name.
    NOTHING: what would be a detector's, where no detector is configured.
    """

    IMAGE = "image"
    TRUE_MASKS = "true"
    TRUE_BOXES = "true_boxes"
    DETECTIONS = "detections"
    NOTHING = "none"

    # Pydantic's messages list the members: as a user types them.
    __repr__ = str.__repr__

    @classmethod
    def of(cls, inputs: object) -> Given:
        """Return what ``inputs`` says: any text that is no member's is the name of a detector.

        True counts as TRUE_MASKS: a command line makes a truth value of "true".
        """
        if inputs is True:
            return cls.TRUE_MASKS
        try:
            return cls(inputs)
        except ValueError:
            return cls.DETECTIONS

    @property
    def from_truth(self) -> bool:
        """Return whether the truth was given: its visible masks, with or without its boxes."""
        return self in (Given.TRUE_MASKS, Given.TRUE_BOXES)
