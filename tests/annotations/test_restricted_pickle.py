"""The one unpickler: what honest files hold comes back, and nothing that a file asks for is run."""

import collections
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from amodal_pipeline.annotations import restricted_pickle


class Calls:
    """Pickles as the call of any function."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def honest():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    return {
        "model": collections.OrderedDict(
            plain=array,
            fortran=np.asfortranarray(array),
            swapped=array.astype(">f8"),
            single=np.array(True),
            empty=np.zeros((0, 4), np.uint8),
            scalar=np.float32(3.5),
        ),
        "again": [array, (1, -2.5, None, b"\x00\xff", b"", "é", 2**70, True, [], {}, ())],
        "array": array,
        3: "number",
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_containers_and_arrays_come_back_from_every_protocol(protocol):
    data = pickle.dumps(honest(), protocol=protocol)
    own, theirs = restricted_pickle.loads(data), pickle.loads(data)
    assert own.keys() == theirs.keys() and own["again"][1] == theirs["again"][1]
    assert own["array"] is own["again"][0] is own["model"]["plain"]
    for name, array in theirs["model"].items():
        found = own["model"][name]
        assert (type(found), found.dtype, found.shape) == (type(array), array.dtype, array.shape)
        assert found.flags.f_contiguous == array.flags.f_contiguous
        assert np.array_equal(found, array)


def test_strings_of_python_2_hold_arrays():
    # {"a": array([1, 2], dtype=int16)} as Python 2 and its NumPy wrote it, protocol 2.
    data = (
        b"\x80\x02}q\x01U\x01aq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04"
        b"K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02\x85cnumpy\ndtype\nq\x06U\x02i2K\x00K\x01\x87Rq\x07"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04\x01\x00\x02\x00tbs."
    )
    (array,) = restricted_pickle.loads(data).values()
    assert array.dtype == np.int16 and array.tolist() == [1, 2]


def attacks(marker):
    touch = f"touch {marker}"
    reconstruct = np.zeros(1).__reduce__()[0]
    raw = np.zeros(1).__reduce__()[2]
    huge = (1, (2**40 - 1,), np.dtype("f8"), False, b"")
    objects = np.array([Calls(os.system, touch)], dtype=object)
    code = f"import os; os.system({touch!r})"
    yield "os.system", pickle.dumps(Calls(os.system, touch))
    yield "builtins.eval", pickle.dumps(Calls(eval, f"__import__('os').system({touch!r})"))
    yield "builtins.exec", pickle.dumps({"model": [Calls(exec, code)]}, protocol=2)
    yield "getattr", pickle.dumps(Calls(getattr, np.ndarray, "tofile"))
    yield "dotted name", b"\x80\x04\x8c\x05numpy\x8c\x0bf2py.system\x93\x8c\x01a\x85R."
    yield "numpy function", pickle.dumps(Calls(np.fromfile, "/etc/hostname"))
    yield "subclass", pickle.dumps(Calls(reconstruct, np.memmap, (0,), b"b"))
    yield "array of objects", pickle.dumps(objects)
    yield "array of objects by its type", pickle.dumps(np.array([None], dtype=object), protocol=0)
    yield "structured type", pickle.dumps(np.zeros(1, dtype=[("a", "f4")]))
    yield "class by itself", pickle.dumps(np.ndarray)
    yield "class in a list", pickle.dumps([collections.OrderedDict])
    yield "instance", b"(S'" + touch.encode() + b"'\nios\nsystem\n."
    yield "object", b"(cos\nsystem\nS'" + touch.encode() + b"'\no."
    yield "new object", b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85\x81."
    yield "extension", b"\x80\x02\x82\x01."
    yield "persistent id", b"Pa\n."
    yield "state of a dict", b"}}b."
    yield "state of a class", b"cnumpy\nndarray\n}(X\x01\x00\x00\x00aK\x01ub."
    yield (
        "shape without bytes",
        pickle.dumps(Calls(reconstruct, np.ndarray, (0,), b"b", state=huge)),
    )
    made, state, content = _parts(4)
    yield "content twice", b"\x80\x03" + made + state + content + b"tb" + state + b"h\x01tb."
    yield "no content", pickle.dumps(Calls(reconstruct, np.ndarray, (2**40,), b"b"))
    yield (
        "negative side",
        pickle.dumps(Calls(reconstruct, np.ndarray, (0,), b"b", state=(1, (-1,), *raw[2:]))),
    )
    yield "long bytes", b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"a."
    yield "long number", b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a."
    yield "nothing", b""
    yield "cut short", pickle.dumps(honest())[:-9]
    yield "empty stack", b"\x80\x02."
    yield "unknown memo", b"h\x05."
    yield "tuples as keys", pickle.dumps({(1, (2,)): 3})
    yield "deep tuple as a key", b"}" + b")" + b"\x85" * 20_000 + b"K\x01s."
    yield "many arrays of the same bytes", _repeated(2**20, 2_000)


def _parts(size):
    """What makes an array of so many bytes: the call, the start of its state, and its bytes."""
    kind = b"cnumpy\ndtype\nX\x02\x00\x00\x00u1K\x00K\x01\x87R"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    state = b"(K\x01J" + struct.pack("<i", size) + b"\x85" + kind + b"\x89"
    return made, state, b"B" + struct.pack("<I", size) + bytes(size) + b"q\x01"


def _repeated(size, times):
    """A list of arrays that share the bytes of the first: small on disk, large in memory."""
    made, state, content = _parts(size)
    again = made + state + b"h\x01tb"
    return b"\x80\x03](" + made + state + content + b"tb" + again * times + b"e."


def test_nothing_else_is_read_called_or_allocated(tmp_path):
    marker = tmp_path / "was_here"
    for name, data in attacks(marker):
        tracemalloc.start()
        with pytest.raises(ValueError):
            pytest.fail(f"{name}: {restricted_pickle.loads(data)!r}"[:200])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 * len(data) + 2**24, name
        assert not marker.exists(), name


def test_a_refused_file_is_named_with_what_it_wanted(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Calls(os.system, "true"), protocol=2))
    with pytest.raises(ValueError, match=r"model\.pkl .*(posix|nt)\.system"):
        restricted_pickle.load(path)


def test_a_thousand_damaged_files_raise_nothing_but_value_errors():
    draw = np.random.default_rng(0)
    data = np.frombuffer(pickle.dumps(honest(), protocol=2), np.uint8)
    for _ in range(1_000):
        broken = data.copy()
        at = draw.integers(0, len(data), draw.integers(1, 4))
        broken[at] = draw.integers(0, 256, len(at))
        try:
            restricted_pickle.loads(broken.tobytes())
        except ValueError:
            continue
