"""Writing that never leaves half a file, and paths that never leave their folder."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block ends well.

    Works for a file as well as for a folder (create either at the yielded path). When the block
    raises, whatever was written is removed and what stood at ``path`` before is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary = holder / path.name
    try:
        yield temporary
        if temporary.is_dir() and path.exists():
            # A folder cannot be renamed over one that is not empty: the old one steps aside first.
            path.replace(holder / "replaced")
        temporary.replace(path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def inside(root: str | os.PathLike, name: str) -> Path:
    """The path ``name`` (relative, as data files write it) below ``root``.

    Raises:
        ValueError: ``name`` is absolute, climbs out with ``..``, or is empty.
    """
    if not is_relative_name(name):
        raise ValueError(f"file name {name!r} is not a relative path inside its image folder")
    return Path(root) / name


def is_relative_name(name: str) -> bool:
    """Whether ``name`` is a relative path that cannot leave the folder it is joined to."""
    path = PurePosixPath(str(name).replace("\\", "/"))
    if "\0" in str(name):  # no system has such files: opening one is another error everywhere
        return False
    drive = len(str(name)) > 1 and str(name)[1] == ":"
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not drive


def checksum(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
