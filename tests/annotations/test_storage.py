import errno
import hashlib
import os
import signal
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from amodal_pipeline.annotations import storage
from amodal_pipeline.annotations.storage import (
    checksum,
    inside,
    is_relative_name,
    recover,
    replacing,
)
from tests.annotations.test_processes import killed


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_write_left_goes_with_the_next_one_and_nothing_else_does(tmp_path, kind):
    path = tmp_path / "thing"

    def write(at):
        if kind == "folder":
            at.mkdir()
            at = at / "content"
        at.write_text("half")

    def die():
        with replacing(path) as temporary:
            write(temporary)
            os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(2):
        killed(die)
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1  # that of the first went with the second
    with replacing(path) as first:
        write(first)
        with replacing(path) as second:  # which leaves alone what is being written
            write(second)
        assert first.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs renameat2")
def test_a_folder_is_there_at_every_moment_of_its_replacement(tmp_path, monkeypatch):
    path, rename = tmp_path / "folder", Path.replace

    def rename_and_look(source, target):
        rename(source, target)
        assert path.exists()

    monkeypatch.setattr(Path, "replace", rename_and_look)
    for name in ("old", "new"):
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [p.name for p in path.iterdir()] == ["new"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
def test_a_kill_between_two_renames_loses_nothing(tmp_path, monkeypatch):
    """Of a file system that cannot exchange two folders."""
    monkeypatch.setattr(storage, "_exchange", lambda a, b: False)
    path = tmp_path / "folder"

    def write(text):
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / "content").write_text(text)

    def die():
        rename = Path.replace

        def rename_or_die(source, target):
            if target == path:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(source, target)

        monkeypatch.setattr(Path, "replace", rename_or_die)
        write("new")

    write("old")
    killed(die)
    assert not path.exists()
    recover(path)
    assert (path / "content").read_text() == "old"
    write("newer")
    assert (path / "content").read_text() == "newer"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_rename_that_fails_leaves_the_old_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_exchange", lambda a, b: False)
    path, rename = tmp_path / "folder", Path.replace
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "old").touch()

    def fail(source, target):
        if source.name == "folder" and target == path:
            raise PermissionError("not here")
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(PermissionError), replacing(path) as temporary:
        temporary.mkdir()
    assert (path / "old").exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left")]
)
def test_a_full_disk_names_the_folder_and_the_remedy(tmp_path, error):
    path = tmp_path / "images" / "000001.png"
    with pytest.raises(OSError, match="disk is full") as raised, replacing(path):
        raise error
    assert str(path.parent) in str(raised.value) and "run the same command" in str(raised.value)
    assert raised.value.errno == errno.ENOSPC


def test_a_link_to_another_disk_stays_and_what_it_leads_to_is_replaced(tmp_path):
    far, link = tmp_path / "far", tmp_path / "link"
    far.mkdir()
    link.symlink_to(far)
    for content in ("one", "two"):
        with replacing(link) as folder:
            folder.mkdir()
            (folder / "a").write_text(content)
        assert link.is_symlink() and (far / "a").read_text() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "link"]
