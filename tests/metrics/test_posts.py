"""Post-processing of completed masks against pixels in a loop."""

import numpy as np

from amodal_pipeline.annotations import rle
from amodal_pipeline.metrics.posts import completed_on_others, covered_by_objects


def test_a_completion_counts_on_pixels_of_other_objects_only():
    """The released code's words: V where the pixel is background or the object's own, else P."""
    draw = np.random.default_rng(0)
    image_ids = np.array([7, 3, 7, 7, 3, 9, 7, 7])
    visible = draw.random((8, 6, 9)) < 0.3
    amodal = draw.random((8, 6, 9)) < 0.5
    covered = covered_by_objects(image_ids, rle.encode(visible.astype(np.uint8)))
    found = completed_on_others(
        rle.encode(amodal.astype(np.uint8)), rle.encode(visible.astype(np.uint8)), covered
    )
    for i, mask in enumerate(rle.decode(found, (6, 9)).astype(bool)):
        others = np.zeros((6, 9), bool)
        for j in range(8):
            if j != i and image_ids[j] == image_ids[i]:
                others |= visible[j]
        background_or_own = ~others | visible[i]
        assert (mask == np.where(background_or_own, visible[i], amodal[i])).all()


def test_an_empty_table_stays_empty():
    assert covered_by_objects(np.zeros(0, np.int64), []) == []
    assert completed_on_others([], [], []) == []
