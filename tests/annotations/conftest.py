import pytest

from amodal_pipeline.annotations.coco_amodal import read_coco_amodal


@pytest.fixture
def read(tmp_path):
    """A function that reads the text of a file of one's own."""

    def _read(given):
        path = tmp_path / "a.json"
        path.write_text(given)
        return read_coco_amodal(path, tmp_path, "mine", "train")

    return _read
