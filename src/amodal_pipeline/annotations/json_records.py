"""A JSON file with one long list of records, as COCO's annotations and results are.

orjson parses the whole file. Its records are converted some at a time, so that the masks of a data
set are never drawn all at once.
"""

import codecs
import gc
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

T = TypeVar("T")

MAX_BYTES = 2 << 30  # of a file: the largest published ones (LVIS) have about 1 GiB
BATCH = 2048  # records converted at once

_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # may be half of a surrogate pair


@dataclass(frozen=True)
class RecordFile:
    """A JSON object and its list of records.

    ``document`` is the object with that list empty, ``checksum`` the SHA-256 of the file. A file
    that is a bare list has a ``document`` with that list's key alone.
    """

    path: Path
    checksum: str
    document: dict[str, Any]
    records: list[Any]


def read(path: str | os.PathLike, key: str, bare: bool = False) -> RecordFile:
    """Return the object of a JSON file, and apart from it the list that it has under ``key``.

    Where the object has no such list, ``document`` is all of it and ``records`` is empty.

    Args:
        path: the file, UTF-8.
        key: name of the list of records.
        bare: accept a file that is the list itself.

    Raises:
        ValueError: the file is missing, cannot be read, is larger than ``MAX_BYTES``, is not
            JSON or not an object, or has the list twice. The message names the file, the place
            and the remedy.
    """
    path = Path(path)
    text = _bytes(path)
    checksum = hashlib.sha256(text).hexdigest()
    text = text.removeprefix(codecs.BOM_UTF8)  # as programs on Windows write it
    with collection_paused():
        document = _parse(text, path)
        if bare and isinstance(document, list):
            return RecordFile(path, checksum, {key: []}, document)
        if not isinstance(document, dict):
            raise ValueError(
                f"{path} holds a JSON {type(document).__name__}, "
                + (
                    "neither a list nor an object: this is not a COCO results file"
                    if bare
                    else "not an object: this is not a COCO annotation file"
                )
                + (
                    " (a list of results is read as predictions)"
                    if isinstance(document, list)
                    else ""
                )
            )
        if _comes_twice(key, text, path):
            raise ValueError(f"{path} has the key {key!r} of its list twice: write it once")
    records = document.get(key)
    if not isinstance(records, list):
        return RecordFile(path, checksum, document, [])
    return RecordFile(path, checksum, document | {key: []}, records)


def load(path: str | os.PathLike) -> tuple[Any, str]:
    """Return the value of a JSON file of any form, and the file's SHA-256.

    Raises:
        ValueError: as :func:`read`, but for what it says of objects and lists.
    """
    path = Path(path)
    text = _bytes(path)
    with collection_paused():
        return _parse(text.removeprefix(codecs.BOM_UTF8), path), hashlib.sha256(text).hexdigest()


def in_batches(
    function: Callable[[Sequence[Any]], T],
    records: Sequence[Any],
    size: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[T]:
    """Return what a function returns for each batch of records, in order.

    Args:
        size: records of a batch, ``BATCH`` by default.
        on_progress: called with (batches done, batches) after each.
    """
    size = size or BATCH
    starts = range(0, len(records), size)
    done = []
    with collection_paused():
        for number, start in enumerate(starts, 1):
            done.append(function(records[start : start + size]))
            if on_progress is not None:
                on_progress(number, len(starts))
    return done


@contextmanager
def collection_paused() -> Iterator[None]:
    """Stop the search for reference cycles: parsed JSON is millions of objects without any."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(
                f"{path} has {size} bytes, more than the {MAX_BYTES} allowed: split annotations "
                "into several files, leave out results of a low score"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing: put the data set's annotation file there or correct its path in "
            "the catalog"
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}): give the path of a file") from error


def _parse(text: bytes, path: Path) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # Python's parser is slower, tells positions, and reads the NaN that many programs write.
        return _parse_with_python(text, path)


def _parse_with_python(text: bytes, path: Path, **options: Any) -> Any:
    try:
        decoded = text.decode("utf-8")
        value = json.loads(decoded, **options)
        if _HALF_PAIR.search(decoded):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; the "
            "file may be cut short or damaged, fetch it again"
        ) from error
    except UnicodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}): fetch the file again") from error
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not an annotation file ({error}): fetch it again") from error


def _comes_twice(key: str, text: bytes, path: Path) -> bool:
    """Tell whether the object has a key twice: parsers keep the last one without a word."""
    letters = b"".join(rb"(?:%c|\\u%04x)" % (letter, letter) for letter in key.encode())
    if len(re.findall(b'"' + letters + rb'"\s*:', text, re.IGNORECASE)) < 2:
        return False
    # Names alone: the values of a whole file are many times larger.
    names = _parse_with_python(
        text, path, object_pairs_hook=lambda pairs: [name for name, _ in pairs]
    )
    return names.count(key) > 1
