"""Locks that end with the process that holds them, and workers that end with the one that started
them."""

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_UNLOCKABLE_FOR = 24 * 3600  # seconds, where the file system has no locks
_TEXT = 300  # bytes: long enough to overwrite an earlier holder's longer name
_held: set[int] = set()


class HeldError(RuntimeError):
    """Another process, or another thread of this one, holds a lock; the message names it."""


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Lock the file ``path``, which names the process that holds it and is removed at the end.

    The kernel frees the lock of a killed process, so that a file left behind does not block. On a
    file system without locks a file that is younger than a day counts as held.

    Raises:
        HeldError: another process has it; the message names it ("process 123 on host").
        FileNotFoundError: the folder does not exist (any more).
    """
    descriptor = _acquire(path)
    try:
        with suppress(OSError):  # a full disk: only the message of others suffers
            holder = f"process {os.getpid()} on {socket.gethostname()}".ljust(_TEXT)
            os.write(descriptor, holder.encode())
        yield
    finally:
        _held.discard(descriptor)
        if fcntl is None:  # Windows, which removes no file that is open
            os.close(descriptor)
            path.unlink(missing_ok=True)
        else:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # closed in a program it starts
        try:
            if not _flock(descriptor):
                holder = os.read(descriptor, _TEXT).decode(errors="replace").strip()
                raise HeldError(holder or "another process")
            # The last holder may have removed the file between the two lines above.
            if _is_file(path, descriptor):
                _held.add(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _flock(descriptor: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
    found = os.fstat(descriptor)
    return found.st_size == 0 or time.time() - found.st_mtime > _UNLOCKABLE_FOR


def _is_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _close_in_child() -> None:
    """Close the locks in a forked worker, which would hold them longer than the process that took
    them."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def working(workers: int) -> AbstractContextManager:
    """Return a context in which ``joblib.Parallel()`` uses this many processes of one thread each.

    The processes end when this one does.
    """
    from joblib import parallel_config

    return parallel_config(
        "loky",
        n_jobs=workers,
        inner_max_num_threads=1,
        # Relative paths are those of this process, also if joblib has workers from before.
        initializer=_begin,
        initargs=(os.getpid(), Path.cwd()),
    )


def _begin(parent: int, folder: Path) -> None:
    os.chdir(folder)
    end_with_parent(parent)


def end_with_parent(parent: int) -> None:
    """End this process within a second after the one that started it, ``parent``, has ended.

    Linux's prctl(PR_SET_PDEATHSIG) would do so when the *thread* that started it ends, and the
    processes of joblib outlive that one.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class Shares:
    """Files that are in use as long as this object lives, which other processes can ask.

    The kernel forgets those of a killed process. Where there are no locks (Windows) only this
    object knows.
    """

    def __init__(self) -> None:
        self._files: dict[Path, BinaryIO | None] = {}

    def __reduce__(self) -> tuple:
        return (Shares, ())  # a copy uses nothing yet

    def __contains__(self, path: Path) -> bool:
        return path in self._files

    def add(self, path: Path) -> None:
        """Mark an existing file as in use."""
        if path in self._files:
            return
        file = path.open("rb")
        if fcntl is not None:
            with suppress(OSError):  # no locks on this file system
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self._files[path] = file


def is_shared(path: Path) -> bool:
    """Return whether a file is in use by a :class:`Shares`, of this process or another."""
    if fcntl is None:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # removed a moment ago, or no locks on this file system
        return False
    return False
