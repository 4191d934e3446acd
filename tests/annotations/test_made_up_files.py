"""The files that the readers are timed on are what they say they are."""

import json

import numpy as np
from pycocotools import mask as coco_mask

from benchmarks import made_up_files
from benchmarks.made_up_files import HEIGHT, WIDTH, write

IMAGES, OBJECTS = 20, 250


def test_a_made_up_file_has_the_masks_and_faults_that_it_says(tmp_path, monkeypatch):
    for name, share in {"STRAY": 0.1, "UNDRAWABLE": 0.05, "OUTSIDE": 0.2}.items():
        monkeypatch.setattr(made_up_files, name, share)
    made = write(tmp_path / "a.json", IMAGES, OBJECTS, seed=2)
    records = json.loads(made.path.read_text())["annotations"]
    assert (made.images, made.objects, len(records)) == (IMAGES, OBJECTS, OBJECTS)
    assert sorted(r["id"] for r in records) == list(range(1, OBJECTS + 1))
    occluded = faulty = undrawable = 0
    for image_id in range(IMAGES):
        shown = np.zeros((HEIGHT, WIDTH), int)
        for record in (r for r in records if r["image_id"] == image_id):
            parts = [p for p in record["segmentation"] if len(p) >= 6]
            undrawable += not parts
            visible = coco_mask.decode(record["inmodal_seg"])
            if not parts:
                occluded += visible.sum() < record["area"]
                continue
            drawn = coco_mask.frPyObjects(parts, HEIGHT, WIDTH)
            amodal = coco_mask.decode(coco_mask.merge(drawn))
            faulty += len(record["segmentation"]) > 1 or bool((visible & ~amodal & 1).any())
            assert record["area"] == amodal.sum()
            occluded += (visible & amodal).sum() < amodal.sum()
            shown += visible & amodal
        assert shown.max() == 1  # no pixel belongs to two objects
    assert faulty == made.faulty > 0
    assert (undrawable, occluded) == (made.undrawable, made.occluded) and undrawable
    assert occluded > OBJECTS // 3
    again = write(tmp_path / "b.json", IMAGES, OBJECTS, seed=2)
    assert again.path.read_bytes() == made.path.read_bytes()
