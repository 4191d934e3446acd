import hashlib

import pytest

from amodal_pipeline.annotations.storage import checksum, inside, is_relative_name, replacing


def test_replacing_a_file(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("first", "second"):
        with replacing(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_replacing_a_folder_leaves_nothing_of_the_old_one(tmp_path):
    path = tmp_path / "folder"
    for name in ("old", "new"):
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_exception_leaves_the_old_one(tmp_path, kind):
    path = tmp_path / "thing"

    def write(at, text):
        if kind == "folder":
            at.mkdir()
            at = at / "content"
        at.write_text(text)

    with replacing(path) as temporary:
        write(temporary, "old")
    with pytest.raises(RuntimeError, match="half way"), replacing(path) as temporary:
        write(temporary, "new")
        raise RuntimeError("half way")
    content = path / "content" if kind == "folder" else path
    assert content.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]


def test_an_exception_leaves_nothing_where_nothing_was(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "thing") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "train/a.png", "./a.png", "a..b/c d.png", "ä.png"])
def test_inside_joins_relative_names(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "/etc/passwd",
        "../a.png",
        "train/../../a.png",
        "..",
        "..\\a.png",
        "\\a.png",
        "\\\\host\\share\\a.png",
        "C:\\a.png",
        "c:a.png",
    ],
)
def test_inside_refuses_names_that_leave(tmp_path, name):
    assert not is_relative_name(name)
    with pytest.raises(ValueError, match="is not a relative path"):
        inside(tmp_path, name)


def test_checksum(tmp_path):
    (tmp_path / "a").write_bytes(b"some bytes")
    assert checksum(tmp_path / "a") == hashlib.sha256(b"some bytes").hexdigest()
