"""The one long list of a JSON file, read piece by piece.

Annotation files of hundreds of megabytes are mostly one list of records. :func:`scan` walks over
the bytes once, finds where records end, and leaves the list in pieces of a few megabytes that
:func:`records` parses, in any process and any order: memory does not grow with the file.
"""

import codecs
import gc
import hashlib
import json
import multiprocessing
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import orjson

from amodal_pipeline.annotations.processes import end_with_parent

P = TypeVar("P")
T = TypeVar("T")

PIECE_BYTES = 2 << 20
_BLOCK_BYTES = 4 << 20
_MAX_OUTSIDE_BYTES = 1 << 30  # of a file without its records: images, categories, …
_MAX_BESIDE_BYTES = 1 << 27  # of one that may be the bare list: all of another kind of file
_KEY_BYTES = 4096  # that a key, its colon and white space around them may take

_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_STEP = np.zeros(256, np.int8)
_STEP[[*b"{["]], _STEP[[*b"}]"]] = 1, -1
_STRUCTURAL = _STEP != 0
_STRUCTURAL[_QUOTE] = True
_BARE, _IN_OBJECT = 1, 2  # depth within the list, by where it stands
_NEXT_RECORD = re.compile(rb"\s*,\s*(?=\{)")


@dataclass(frozen=True)
class Piece:
    """Whole records of a file: its bytes from ``start`` to ``stop``."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True)
class RecordFile:
    """A JSON object whose list of records was left in pieces.

    ``document`` is the object with that list empty, ``checksum`` the SHA-256 of the file. A file
    that is a bare list has a ``document`` of nothing but that list's key.
    """

    path: Path
    checksum: str
    document: dict[str, Any]
    pieces: tuple[Piece, ...]


def scan(
    path: str | os.PathLike, key: str, piece_bytes: int = PIECE_BYTES, bare: bool = False
) -> RecordFile:
    """Find the records of the list ``key`` at the top of a JSON object.

    Where the object has no such list, ``document`` is all of it and there are no pieces.

    Args:
        path: the file, UTF-8.
        key: name of the list that is left in pieces.
        piece_bytes: a piece ends with the first record beyond as many bytes.
        bare: the file may as well be the list itself.

    Raises:
        ValueError: the file is missing or cannot be read, is cut short, is no JSON outside of its
            records, is no object, or has the list twice; the message names the file and the
            remedy. Damage inside the records is found by :func:`records`.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            outline = _Outline(key, piece_bytes, bare)
            digest = hashlib.sha256()
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
                outline.feed(block)
            outline.check(path)
            outside = _outside_list(file, outline, path, bare)
            cuts = _confirmed(file, outline.cuts)
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing: put the data set's annotation file there or correct its path in "
            "the catalog"
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}): give the path of a file") from error
    gap = outline.stop - outline.start
    document = _parse(outside, path, lambda at: at if at <= outline.start else at + gap)
    if outline.level == _BARE:
        document = {key: document}
    if not isinstance(document, dict):
        raise ValueError(
            f"{path} holds a JSON {type(document).__name__}, "
            + (
                "neither a list nor an object: this is no COCO results file"
                if bare
                else "not an object: this is no COCO annotation file"
            )
            + (" (a list of results is read as predictions)" if isinstance(document, list) else "")
        )
    left = document.get(key)
    if outline.found > 1 or ((left != []) if outline.found else isinstance(left, list)):
        raise ValueError(f"{path}: write the key {key!r} of its list once, and without escapes")
    starts = [outline.start, *(start for _, start in cuts)]
    stops = [*(stop for stop, _ in cuts), outline.stop]
    pieces = [Piece(path, a, b) for a, b in zip(starts, stops, strict=True) if b > a]
    return RecordFile(path, digest.hexdigest(), document, tuple(pieces))


def in_pieces(
    pieces: Sequence[P],
    function: Callable[[P], T],
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[T]:
    """``function`` of every piece, in order, in as many processes.

    Args:
        pieces: of a file, or whatever else the function takes to get at one.
        function: a function of a module, or a ``functools.partial`` of one.
        on_progress: called with (pieces done, pieces) after each.
    """
    function = partial(_without_collection, function)
    done: list[T] = []

    def add(result: T) -> None:
        done.append(result)
        if on_progress is not None:
            on_progress(len(done), len(pieces))

    with ExitStack() as stack:
        results = map(function, pieces)
        if workers > 1 and len(pieces) > 2:
            # The first piece here: what it loads, forked processes have at once.
            add(function(pieces[0]))
            pool = _processes(min(workers, len(pieces) - 1))
            stack.callback(pool.shutdown, cancel_futures=True)
            with warnings.catch_warnings():
                # Python warns of forks beside threads, which might hold a lock for ever: those
                # that run here draw progress bars and follow files, and no piece needs them.
                warnings.simplefilter("ignore", DeprecationWarning)
                results = pool.map(function, pieces[1:])
        for result in results:
            add(result)
    return done


def _processes(count: int) -> ProcessPoolExecutor:
    """Processes forked where that is usual: to import what they need takes a new interpreter longer
    than converting a hundred thousand records.
    """
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    return ProcessPoolExecutor(
        count, mp_context=context, initializer=end_with_parent, initargs=(os.getpid(),)
    )


def _without_collection(function: Callable[[P], T], piece: P) -> T:
    """Parsed JSON is a hundred thousand objects without cycles: no need to look for them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        return function(piece)
    finally:
        if was_on:
            gc.enable()


def records(piece: Piece) -> list[Any]:
    """Parse the records of a piece.

    Raises:
        ValueError: they are no JSON; names file, line, column and remedy.
    """
    try:
        with open(piece.path, "rb") as file:
            file.seek(piece.start)
            text = file.read(piece.stop - piece.start)
    except OSError as error:
        raise ValueError(f"{piece.path} can no longer be read ({error})") from error
    return _parse(b"[" + text + b"]", piece.path, lambda at: piece.start + at - 1)


class _Outline:
    """Follows strings and nesting through the blocks of a file; knows where its list lies."""

    def __init__(self, key: str, piece_bytes: int, bare: bool):
        # Not after a backslash: that would be the end of a longer key with a quote in it.
        self.key = re.compile(rb'(?<!\\)"' + re.escape(key.encode()) + rb'"\s*:\s*\Z')
        self.piece_bytes = piece_bytes
        self.level = None if bare else _IN_OBJECT  # the depth within the list
        self.length = 0
        self.depth = 0
        self.in_string = False
        self.found = 0
        self.start = self.stop = 0
        self.cuts: list[int] = []
        self._inside = False
        self._before = b""
        self._backslashes = 0  # at the end of what was fed

    def feed(self, block: bytes) -> None:
        chars = np.frombuffer(block, np.uint8)
        at = np.flatnonzero(_STRUCTURAL[chars])
        is_quote = chars[at] == _QUOTE
        is_quote[is_quote] = ~self._escaped(block, chars, at[is_quote])
        outside = (np.cumsum(is_quote) + self.in_string) % 2 == 0
        self.in_string = bool((is_quote.sum() + self.in_string) % 2)
        at = at[outside & (_STEP[chars[at]] != 0)]
        depth = self.depth + np.cumsum(_STEP[chars[at]], dtype=np.int64)
        if len(at):
            self._find(block, chars, at, depth)
            self.depth = int(depth[-1])
        self.length += len(block)
        self._before = (self._before + block)[-_KEY_BYTES:]
        end = len(block.rstrip(b"\\"))
        self._backslashes = len(block) - end + (self._backslashes if end == 0 else 0)

    def check(self, path: Path) -> None:
        if self.depth > 0 or self.in_string:
            what = "a string" if self.in_string else "a list or object"
            raise ValueError(
                f"{path} is not JSON: it ends, at byte {self.length}, inside {what}; the file may "
                "be cut short, fetch it again"
            )

    def _escaped(self, block: bytes, chars: np.ndarray, quotes: np.ndarray) -> np.ndarray:
        """Which quotes stand behind an odd number of backslashes."""
        escaped = np.zeros(len(quotes), bool)
        behind = chars[quotes - 1] == _BACKSLASH
        behind[quotes == 0] = self._backslashes > 0
        for i in np.flatnonzero(behind):
            last = first = int(quotes[i])
            while first > 0 and block[first - 1] == _BACKSLASH:
                first -= 1
            run = last - first + (self._backslashes if first == 0 else 0)
            escaped[i] = run % 2
        return escaped

    def _find(self, block: bytes, chars: np.ndarray, at: np.ndarray, depth: np.ndarray) -> None:
        """The list's begin and end among brackets ``at`` with the ``depth`` behind each."""
        if self.level is None:
            self.level = _BARE if chars[at[0]] == ord("[") else _IN_OBJECT
        opens = _STEP[chars[at]] > 0
        for i in np.flatnonzero(
            (opens & (depth == self.level)) | (~opens & (depth == self.level - 1))
        ):
            here = int(at[i])
            if self._inside and not opens[i]:
                self.stop = self.length + here
                self._inside = False
            elif opens[i] and chars[here] == ord("["):
                near = block[max(0, here - _KEY_BYTES) : here]
                near = self._before + near if here < _KEY_BYTES else near
                if self.level == _BARE or self.key.search(near):
                    self.found += 1
                    if self.found == 1:
                        self.start = self.length + here + 1
                        self._inside = True
        if not self.found:
            return
        closes_record = ~opens & (depth == self.level) & (chars[at] == ord("}"))
        ends = self.length + 1 + at[closes_record]
        ends = ends[(ends > self.start) & (self._inside | (ends <= self.stop))]
        while len(ends):
            last = self.cuts[-1] if self.cuts else self.start
            ends = ends[np.searchsorted(ends, last + self.piece_bytes) :]
            self.cuts += ends[:1].tolist()


def _outside_list(file: BinaryIO, outline: _Outline, path: Path, bare: bool) -> bytes:
    """The bytes of the file without its records."""
    size = outline.length - (outline.stop - outline.start)
    most = _MAX_BESIDE_BYTES if bare else _MAX_OUTSIDE_BYTES
    if size > most:
        raise ValueError(
            f"{path} has {size} bytes besides its records, more than the {most} allowed: this is "
            + (
                "no results file (an annotation file?)"
                if bare
                else "no annotation file of a known kind"
            )
        )
    file.seek(0)
    before = file.read(outline.start)
    file.seek(outline.stop)
    return before + file.read()


def _confirmed(file: BinaryIO, cuts: Sequence[int]) -> list[tuple[int, int]]:
    """The cuts behind which a comma and a further record follow, with where that record starts.

    Elsewhere the list is damaged: there the parser is to see both sides of the cut.
    """
    confirmed = []
    for cut in cuts:
        file.seek(cut)
        following = _NEXT_RECORD.match(file.read(_KEY_BYTES))
        if following:
            confirmed.append((cut, cut + following.end()))
    return confirmed


def _parse(text: bytes, path: Path, in_file: Callable[[int], int]) -> Any:
    """JSON from a part of a file; ``in_file`` maps positions in ``text`` to those in the file."""
    if text.startswith(codecs.BOM_UTF8):  # as programs on Windows write it
        text = text.replace(codecs.BOM_UTF8, b"   ", 1)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    # Python's parser is slower, tells positions, and reads the NaN that many programs write.
    try:
        decoded = text.decode("utf-8")
        value = json.loads(decoded)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # no half of a surrogate pair
        return value
    except json.JSONDecodeError as error:
        line, column = _line(path, in_file(len(decoded[: error.pos].encode())))
        raise ValueError(
            f"{path} is not JSON: {error.msg} at line {line}, column {column}; the file may be "
            "cut short or damaged, fetch it again"
        ) from error
    except UnicodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}): fetch the file again") from error
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} is no annotation file ({error}): fetch it again") from error


def _line(path: Path, position: int) -> tuple[int, int]:
    """Line and column (bytes), from 1, of a position in a file."""
    line, last, seen = 1, -1, 0
    with open(path, "rb") as file:
        while seen < position and (block := file.read(min(_BLOCK_BYTES, position - seen))):
            line += block.count(b"\n")
            found = block.rfind(b"\n")
            last = seen + found if found >= 0 else last
            seen += len(block)
    return line, position - last
