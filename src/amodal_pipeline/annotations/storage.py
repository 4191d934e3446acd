"""Writing that never leaves an incomplete file, and paths that stay in their folder."""

import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path, PurePosixPath

from amodal_pipeline.annotations.processes import HeldError, lock

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux's renameat2(2)
_LOCK, _ASIDE = ".lock", ".replaced"


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block ends well.

    Works for a file as well as for a folder (create either at the yielded path). When the block
    raises, whatever was written is removed and what stood at ``path`` before is untouched. A killed
    process leaves a hidden folder ``.<name>.part<number>``, which the next write of ``path``
    removes; its lock tells it from one that is in use.

    Raises:
        OSError: the disk is full; names ``path`` and the remedy.
    """
    # What a link leads to is replaced, not the link: data stay on the disk that the user chose.
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_full_disk(path), _place_beside(path) as place:
        temporary = place / path.name
        yield temporary
        # A folder cannot be renamed over one that is not empty.
        over = temporary.is_dir() and path.exists()
        if over and _exchange(temporary, path):
            return
        if over:
            path.replace(place / _ASIDE)
        temporary.replace(path)


def sweep(path: str | os.PathLike) -> bool:
    """Remove what killed writes of ``path`` left, and say whether there was anything.

    :func:`replacing` does so too; this is for a path that is not written again.
    """
    return _sweep(_places(Path(path)), Path(path))


def recover(path: str | os.PathLike) -> None:
    """Put the folder ``path`` back where a write was killed between moving it aside and renaming
    the new one.

    :func:`replacing` does so too. On a system that exchanges two folders in one step there is no
    such moment.
    """
    path = Path(path)
    for place in _places(path):
        if not place.exists():
            return
        if (place / _ASIDE).exists():
            with suppress(HeldError, OSError), lock(place / _LOCK):
                _clear(place, path)


@contextmanager
def naming_full_disk(path: str | os.PathLike) -> Iterator[None]:
    """Replace the error of a full disk by one that names the file and the remedy.

    Raises:
        OSError: the disk is full; other errors of the block are not changed.
    """
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        if number is None and "No space left" in str(error):  # safetensors has errors of its own
            number = errno.ENOSPC
        if number not in (errno.ENOSPC, errno.EDQUOT):
            raise
        path = Path(path)
        raise OSError(
            number,
            f"the disk is full: {path.name} was not written to {path.parent}; what was written "
            "before is intact. Free space there and run the same command again",
        ) from error


def _places(path: Path) -> Iterator[Path]:
    return (path.parent / f".{path.name}.part{number}" for number in count())


@contextmanager
def _place_beside(path: Path) -> Iterator[Path]:
    """Yield a hidden folder for this writer of ``path`` alone; remove those of killed ones."""
    places = _places(path)
    with ExitStack() as held:
        for place in places:
            # Another writer may remove it, and the folder around it, at any moment.
            with suppress(FileExistsError):
                place.mkdir(parents=True)
            # Passed over: in use, removed a moment ago, or left by another user.
            with suppress(HeldError, FileNotFoundError, PermissionError):
                held.callback(_remove_empty, place)
                held.enter_context(lock(place / _LOCK))
                break
        _clear(place, path)
        _sweep(places, path)
        try:
            yield place
        finally:
            _clear(place, path)


def _sweep(places: Iterator[Path], path: Path) -> bool:
    found = False
    for place in places:
        if not place.exists():
            return found
        with suppress(HeldError, OSError), lock(place / _LOCK):
            _clear(place, path)
            found = True
        _remove_empty(place)
    return found


def _remove_empty(place: Path) -> None:
    with suppress(OSError):  # not empty: another writer's
        place.rmdir()


def _clear(place: Path, path: Path) -> None:
    entries = [entry for entry in place.iterdir() if entry.name != _LOCK]
    for entry in entries:
        if entry.name == _ASIDE and not path.exists():
            entry.replace(path)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _exchange(a: Path, b: Path) -> bool:
    """Let two files or folders swap their names in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, TypeError, AttributeError):  # neither Linux nor a C library that has it
        return False
    names = (_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b))
    return renameat2(*names, _RENAME_EXCHANGE) == 0


def inside(root: str | os.PathLike, name: str) -> Path:
    """Return the path ``name`` (relative, as data files write it) below ``root``.

    Raises:
        ValueError: ``name`` is absolute, climbs out with ``..``, or is empty.
    """
    if not is_relative_name(name):
        raise ValueError(f"file name {name!r} is not a relative path inside its image folder")
    return Path(root) / name


def is_relative_name(name: str) -> bool:
    """Return whether ``name`` is a relative path that stays in the folder it is joined to."""
    path = PurePosixPath(str(name).replace("\\", "/"))
    if "\0" in str(name):  # no system has such files: opening one is another error everywhere
        return False
    drive = len(str(name)) > 1 and str(name)[1] == ":"
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not drive


def checksum(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
