"""Read pickles of containers, numbers, strings and NumPy arrays, and nothing else.

The only place of the project that reads a pickle. Python's own unpickler calls whatever a file
names, and can be made to allocate without end (a memo index of 2**32, a length of 2**60). This one
runs no code of the file's choice: it interprets the instructions that such files are made of, has
no import and no attribute access, makes arrays itself from their raw bytes, and refuses the rest.
"""

import math
import os
import pickletools
import re
import struct
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np

_MARK = object()
_CODE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16)")
_KEYS = (str, int, float, bytes, type(None))  # hashing a tuple may recurse without end
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")

# Instructions whose argument is the value that they push.
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def load(path: str | os.PathLike) -> object:
    """Return the content of a pickle file: dicts, lists, tuples, numbers, strings, arrays.

    Args:
        path: written by Python 2 or 3, with any protocol. Strings of Python 2 become str, as
            Latin-1; ordered dicts become dicts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds anything else; names the file and what it found.
    """
    path = Path(path)
    try:
        return loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} is not a pickle of containers and NumPy arrays alone, and nothing else is "
            f"read from a pickle: {error}"
        ) from error


def loads(data: bytes) -> object:
    """Return the content of a pickle in memory.

    Raises:
        ValueError: as :func:`load`, without the name of a file.
    """
    machine = _Machine(len(data))
    try:
        found = machine.run(data)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
        raise ValueError(f"damaged ({type(error).__name__}: {error})") from error
    if machine.empty:
        raise ValueError("an array has no content")
    _check(found)
    return found


@dataclass(frozen=True)
class _Name:
    """A function or class that a pickle names: never looked up."""

    module: str
    name: str


@dataclass
class _Type:
    """An array's type: complete when its byte order has come."""

    code: str


@dataclass
class _Machine:
    """The stack and the memo of one pickle; ``left``: bytes that its arrays may still have."""

    left: int
    stack: list = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)
    empty: dict[int, np.ndarray] = field(default_factory=dict)  # arrays that wait for their bytes

    def run(self, data: bytes) -> object:
        for code, argument, _ in pickletools.genops(BytesIO(data)):
            if code.name == "STOP":
                return self.stack.pop()
            if code.name in _VALUES:
                self.stack.append(argument)
            elif code.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[code.name])
            elif code.name not in ("PROTO", "FRAME"):
                step = getattr(self, f"_{code.name.lower()}", None)
                if step is None:
                    raise ValueError(f"instruction {code.name} makes other objects")
                step(argument)
        raise ValueError("it ends too early")

    def _marked(self) -> list:
        """What was pushed since the last mark, taken off the stack with it."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("a mark is missing")
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def _mark(self, _: None) -> None:
        self.stack.append(_MARK)

    def _pop(self, _: None) -> None:
        self.stack.pop()

    def _pop_mark(self, _: None) -> None:
        self._marked()

    def _dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    _binput = _long_binput = _put

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _binget = _long_binget = _get

    def _empty_list(self, _: None) -> None:
        self.stack.append([])

    def _empty_tuple(self, _: None) -> None:
        self.stack.append(())

    def _empty_dict(self, _: None) -> None:
        self.stack.append({})

    def _list(self, _: None) -> None:
        self.stack.append(self._marked())

    def _tuple(self, _: None) -> None:
        self.stack.append(tuple(self._marked()))

    def _dict(self, _: None) -> None:
        values = self._marked()
        self.stack.append({})
        self._set(values)

    def _last(self, count: int) -> None:
        values = self.stack[-count:]
        if len(values) < count:
            raise ValueError("the stack is empty")
        del self.stack[-count:]
        self.stack.append(tuple(values))

    def _tuple1(self, _: None) -> None:
        self._last(1)

    def _tuple2(self, _: None) -> None:
        self._last(2)

    def _tuple3(self, _: None) -> None:
        self._last(3)

    def _append(self, _: None) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: None) -> None:
        self._extend(self._marked())

    def _extend(self, values: list) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("something is appended to what is no list")
        self.stack[-1].extend(values)

    def _setitem(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self, _: None) -> None:
        self._set(self._marked())

    def _set(self, values: list) -> None:
        if type(self.stack[-1]) is not dict or len(values) % 2:
            raise ValueError("an item is set of what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, _KEYS):
                raise ValueError(f"a key is a {type(key).__name__}: strings and numbers are read")
            self.stack[-1][key] = value

    def _global(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self.stack.append(_Name(module, name))

    def _stack_global(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (type(name) is str and type(module) is str):
            raise ValueError("a name is no string")
        self.stack.append(_Name(module, name))

    def _reduce(self, _: None) -> None:
        values, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, _Name) or type(values) is not tuple:
            raise ValueError("something is called that is no function")
        self.stack.append(self._made(called, values))

    def _made(self, called: _Name, values: tuple) -> object:
        match called, values:
            case _Name("collections", "OrderedDict"), ():
                return {}
            case _Name("numpy", "dtype"), (str() as code, *_) if _CODE.fullmatch(code):
                return _Type(code)
            case _Name(module, "_reconstruct"), (_Name("numpy", "ndarray"), *_) if (
                module in _MULTIARRAY
            ):
                array = np.empty(0)
                self.empty[id(array)] = array
                return array
            case _Name(module, "_frombuffer"), (raw, _Type() as kind, tuple() as shape, order) if (
                module in _NUMERIC and order in ("C", "F")
            ):
                return self._array(raw, kind, shape, order)
            case _Name(module, "scalar"), (_Type() as kind, raw) if module in _MULTIARRAY:
                return self._array(raw, kind, (), "C")[()]
            case _Name("_codecs", "encode"), (str() as text, "latin1" | "latin-1"):
                return self._counted(text.encode("latin1"))
            case _Name("builtins" | "__builtin__", "bytes"), ():
                return b""
        raise ValueError(f"it wants to call {called.module}.{called.name}")

    def _build(self, _: None) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        match made, state:
            case _Type(), (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
                made.code = order + made.code.lstrip("<>|=")
            case np.ndarray(), (
                _,
                tuple() as shape,
                _Type() as kind,
                bool() | int() as fortran,
                raw,
            ):
                if self.empty.pop(id(made), None) is None:
                    raise ValueError("an array is made twice")
                content, dtype = self._content(raw, kind, shape)
                # In place: the file may refer to the array from elsewhere.
                made.__setstate__((1, shape, dtype, bool(fortran), content))
            case _:
                raise ValueError(f"it sets the state of a {type(made).__name__}")

    def _array(self, raw: object, kind: _Type, shape: tuple, order: str) -> np.ndarray:
        content, dtype = self._content(raw, kind, shape)
        return np.frombuffer(content, dtype).reshape(shape, order=order).copy(order=order)

    def _content(self, raw: object, kind: _Type, shape: tuple) -> tuple[bytes, np.dtype]:
        """The bytes of an array, exactly as many as its shape and type need, and its type."""
        if isinstance(raw, str):  # Python 2 has no other
            raw = raw.encode("latin1")
        if not isinstance(raw, (bytes, bytearray)):
            raise ValueError(f"an array of objects (its content is a {type(raw).__name__})")
        if len(shape) > 32 or not all(type(side) is int and 0 <= side < 2**40 for side in shape):
            raise ValueError("the shape of an array is no shape")
        dtype = np.dtype(kind.code)
        if math.prod(shape) * dtype.itemsize != len(raw):
            raise ValueError(f"an array of shape {shape} and type {dtype} has {len(raw)} bytes")
        return self._counted(bytes(raw)), dtype

    def _counted(self, content: bytes) -> bytes:
        # Honest files hold the bytes of each array once, so that all fit into the file's length.
        self.left -= len(content)
        if self.left < 0:
            raise ValueError("its arrays are larger than the file")
        return content


def _check(found: object) -> None:
    """Refuse what is no value by itself: names, types, arrays that never got their content."""
    seen: set[int] = set()
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (dict, list, tuple)):
            if id(value) not in seen:
                seen.add(id(value))
                waiting.extend(value.values() if isinstance(value, dict) else value)
        elif value is _MARK or isinstance(value, (_Name, _Type)):
            raise ValueError(f"it holds {getattr(value, 'name', 'a type')} in place of a value")
