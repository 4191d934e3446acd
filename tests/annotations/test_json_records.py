"""Reading one long list piece by piece gives what json.load gives, and finds the same damage."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal_pipeline.annotations import json_records
from amodal_pipeline.annotations.json_records import records, scan

NASTY = 'a\\"[{"annotations": [1], \\\\'
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from([NASTY, "\\", '"', "]}", "[{", "\\\\", '\\"']),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.just(NASTY), children, max_size=3)
    ),
    max_leaves=12,
)
record_lists = st.lists(st.dictionaries(st.text(max_size=4), values, max_size=4) | values)


def read(path, piece_bytes=1, bare=False):
    file = scan(path, "annotations", piece_bytes, bare)
    return file, [record for piece in file.pieces for record in records(piece)]


@settings(deadline=None)
@given(
    listed=record_lists,
    before=st.dictionaries(st.sampled_from(["info", NASTY, "images"]), values),
    after=st.dictionaries(st.sampled_from(["categories", "\\", "license"]), values),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    piece_bytes=st.integers(1, 200),
    block_bytes=st.integers(1, 64),
    kind=st.sampled_from(["object", "object where a list might be", "bare list"]),
)
def test_pieces_together_are_the_list(
    tmp_path_factory, listed, before, after, indent, ascii_only, piece_bytes, block_bytes, kind
):
    path = tmp_path_factory.mktemp("json") / "a.json"
    document = before | {"annotations": listed} | after
    if kind == "bare list":
        document = {"annotations": listed}
    written = listed if kind == "bare list" else document
    path.write_text(json.dumps(written, indent=indent, ensure_ascii=ascii_only), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_records, "_BLOCK_BYTES", block_bytes)
        file, found = read(path, piece_bytes, bare=kind != "object")
    assert found == listed
    assert file.document == document | {"annotations": []}
    assert file.checksum == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_long_list_comes_in_pieces_of_about_the_wanted_size(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"annotations": [{"id": i} for i in range(1000)]}))
    file, found = read(path, 1000)
    assert [r["id"] for r in found] == list(range(1000))
    assert 12 <= len(file.pieces) <= 14
    assert all(980 <= p.stop - p.start < 1020 for p in file.pieces[:-1])


def test_a_long_bare_list_comes_in_pieces_too(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf \n" + json.dumps([{"id": i} for i in range(1000)]).encode())
    file, found = read(path, 1000, bare=True)
    assert [r["id"] for r in found] == list(range(1000))
    assert 12 <= len(file.pieces) <= 14


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"id": 1}, {"id": 2', "ends, at byte 20, inside a list or object"),
        ('[{"id": 1},\n {"id" 2}]', "line 2, column 8"),
        ('[{"id": 1}\n {"id": 2}]', "line 2, column 2"),
        ('[{"id": 1}] [{"id": 2}]', "Extra data at line 1, column 13"),
        ('[{"id": 1}]]', "Extra data at line 1, column 12"),
        ('12 [{"id": 1}]', "Extra data at line 1, column 4"),
        ("12", "holds a JSON int, neither a list nor an object: this is no COCO results"),
        ('{"annot\\u0061tions": [{"id": 1}]}', "once, and without escapes"),
        ("", "not JSON: Expecting value at line 1, column 1"),
        ('{"images": "' + "x" * 100 + '"}', "bytes besides its records, more than the 99 allowed"),
    ],
)
def test_damage_where_a_bare_list_may_be(tmp_path, monkeypatch, text, said):
    monkeypatch.setattr(json_records, "_MAX_BESIDE_BYTES", 99)
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json") as error:
        read(path, bare=True)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"annotations": [{"id": 1}, {"id": 2', "ends, at byte 36, inside a list or object"),
        ('{"annotations": [{"id": 1}, {"id": "2', "inside a string"),
        ('{"annotations": [{"id": 1},\n {"id" 2}]}', "line 2, column 8"),
        ('{"annotations": [{"id": 1}\n {"id": 2}]}', "line 2, column 2"),
        ('{"annotations": [{"id": 1},]}', "line 1, column"),
        ('{"annotations": [{"id": 1}], \n"x" 3}', "line 2, column 5"),
        ('{"annotations": [{"id": 1}]} {', "inside a list or object"),
        ('{"annotations": [{"id": 1}]}}', "Extra data at line 1, column 29"),
        ('{"annotations": [{"id": 1}], "annotations": [{"id": 2}]}', "once"),
        ('{"annotations": [], "annotations": [{"id": 2}]}', "once"),
        ('{"annot\\u0061tions": [{"id": 1}]}', "once, and without escapes"),
        ("", "not JSON: Expecting value at line 1, column 1"),
        ("[1]", "holds a JSON list"),
        ("12", "holds a JSON int"),
        ('{"annotations": ["\\ud800"]}', "not UTF-8 text"),
        ('{"annotations": [{]}', "not JSON"),
        ('{"annotations": ' + "[" * 100_000 + "]" * 100_000 + "}", "no annotation file"),
    ],
)
def test_damage_is_named_with_its_place(tmp_path, text, said):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json") as error:
        read(path)
    assert said in str(error.value)


def test_the_place_is_that_in_the_file_also_far_behind(tmp_path):
    lines = [f'{{"id": {i}}}' for i in range(500)]
    lines[300] = '{"id" 300}'
    path = tmp_path / "a.json"
    path.write_text('{"annotations": [\n' + ",\n".join(lines) + "]}")
    with pytest.raises(ValueError, match="line 302, column 7"):
        read(path, 100)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"annotations": [{"id": "\xff"}]}')
    with pytest.raises(ValueError, match="not UTF-8"):
        read(path)


def test_nan_as_python_writes_it_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"annotations": [{"area": NaN}]}')
    assert str(read(path)[1]) == "[{'area': nan}]"


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(ValueError, match="is missing: put the data set's annotation file there"):
        scan(tmp_path / "absent.json", "annotations")
    with pytest.raises(ValueError, match="cannot be read"):
        scan(tmp_path, "annotations")


def test_without_the_list_the_document_is_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"regions": [{"id": 1}]}')
    file, found = read(path)
    assert file.document == {"regions": [{"id": 1}]} and found == []
