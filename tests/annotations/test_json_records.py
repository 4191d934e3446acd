"""Reading a list of records gives what json.load gives, and names the place of any damage."""

import gc
import hashlib
import json

import pytest

from amodal_pipeline.annotations import json_records
from amodal_pipeline.annotations.json_records import in_batches, read

DOCUMENT = {"info": 'a\\"[{"annotations": 1', "annotations": [{"id": 1}, None, "é"], "b": {}}


@pytest.fixture
def write(tmp_path):
    def _write(content):
        path = tmp_path / "a.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_records_apart_from_the_rest(write, mark, ascii_only):
    path = write(mark + json.dumps(DOCUMENT, ensure_ascii=ascii_only).encode())
    file = read(path, "annotations")
    assert file.records == DOCUMENT["annotations"]
    assert file.document == DOCUMENT | {"annotations": []}
    assert file.checksum == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_bare_list_where_one_is_allowed(write):
    path = write("[1, 2]")
    file = read(path, "predictions", bare=True)
    assert (file.records, file.document) == ([1, 2], {"predictions": []})
    with pytest.raises(ValueError, match="a list of results is read as predictions"):
        read(path, "annotations")


def test_without_the_list_the_document_is_whole(write):
    file = read(write('{"regions": [{"id": 1}]}'), "annotations")
    assert file.document == {"regions": [{"id": 1}]} and file.records == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"annotations": [{"id": 1}, {"id": 2', "line 1, column 37; the file may be cut short"),
        ('{"annotations": [{"id": 1}, {"id": "2', "Unterminated string"),
        ('{"annotations": [{"id": 1},\n {"id" 2}]}', "line 2, column 8"),
        ('{"annotations": [{"id": 1}\n {"id": 2}]}', "line 2, column 2"),
        ('{"annotations": [{"id": 1},]}', "line 1, column"),
        ('{"annotations": [{"id": 1}]} {', "Extra data at line 1, column 30"),
        (
            '{"annotations": [{"id": 1}], "annotations": [{"id": 2}]}',
            "its list twice",
        ),
        ('{"annotations": [{"id": 1}], "annotations": []}', "list twice: write it once"),
        ('{"annotations": [{"id": 1}], "annot\\u0061tions" : []}', "list twice: write it once"),
        ("", "not JSON: Expecting value at line 1, column 1"),
        ("[1]", "holds a JSON list"),
        ("12", "holds a JSON int"),
        ('{"annotations": ["\\ud800"]}', "not UTF-8 text"),
        (b'{"annotations": [{"id": "\xff"}]}', "not UTF-8 text"),
        ('{"annotations": [' + "9" * 5000 + "]}", "not an annotation file"),
        ('{"annotations": ' + "[" * 100_000 + "]" * 100_000 + "}", "not an annotation file"),
        ('{"annotations": [{"annotations": 1}, {"annotations": ' + "[" * 1010, "not an annotation"),
    ],
    ids=lambda v: None if isinstance(v, bytes) else f"{v:.40}",
)
def test_damage_is_named_with_its_place(write, text, said):
    with pytest.raises(ValueError, match=r"a\.json") as error:
        read(write(text), "annotations")
    assert said in str(error.value)


def test_equal_keys_elsewhere_are_no_damage(write):
    content = {"annotations": [{"annotations": 1}, {"annotations": 2}]}
    assert read(write(json.dumps(content)), "annotations").records == content["annotations"]
    written = '{"annot\\u0061tions": [1], "b": 1, "b": 2}'
    assert read(write(written), "annotations").records == [1]


def test_nan_as_python_writes_it_is_read(write):
    assert str(read(write('{"annotations": [{"area": NaN}]}'), "annotations").records) == (
        "[{'area': nan}]"
    )


def test_files_that_cannot_be_read(write, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is missing: put the data set's annotation file there"):
        read(tmp_path / "absent.json", "annotations")
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path, "annotations")
    monkeypatch.setattr(json_records, "MAX_BYTES", 20)
    with pytest.raises(ValueError, match=r"a\.json has 22 bytes, more than the 20 allowed: split"):
        read(write('{"annotations": [1,2]}'), "annotations")


def test_batches(monkeypatch):
    """Each record once and in order, progress after each batch, cycles not searched meanwhile."""
    monkeypatch.setattr(json_records, "BATCH", 3)
    steps = []
    done = in_batches(
        lambda batch: (batch, gc.isenabled()), [*range(8)], None, lambda *s: steps.append(s)
    )
    assert done == [([0, 1, 2], False), ([3, 4, 5], False), ([6, 7], False)]
    assert steps == [(1, 3), (2, 3), (3, 3)] and gc.isenabled()
    assert in_batches(len, [*range(8)], 5) == [5, 3]
    assert in_batches(len, []) == []
    with pytest.raises(ZeroDivisionError):
        in_batches(lambda batch: 1 / 0, [1])
    assert gc.isenabled()
