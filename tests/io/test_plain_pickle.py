"""Plain values of a pickle are read, whatever the protocol; everything else is refused before it could run or grow."""

import pickle
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_cannon.io.plain_pickle import plain_values

PLAIN = {
    "text": "Teff ñ", "none": None, "true": True, "false": False, "int": 5000, "negative": -7, "large": 2**40,
    "float": 2.5, "list": [1, [2, 3], ()], "tuples": ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "empty": {},
    "double": np.arange(6.0).reshape(2, 3), "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "transposed": np.arange(6.0).reshape(2, 3).T, "every other": np.arange(9.0)[::2],
    "single": np.arange(3, dtype=np.float32), "big": np.arange(3, dtype=">f8"), "int64": np.arange(3),
    "mask": np.array([True, False]), "scalar": np.float64(1.5), "nan": np.array([np.nan]),
}  # fmt: skip


class Trap:
    """Unpickled, it writes a file."""

    place = ""

    def __reduce__(self):
        return open, (Trap.place, "w")


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a file, and checks that nothing in it was run."""
    Trap.place = str(tmp_path / "sprung")

    def of(data: bytes) -> object:
        path = tmp_path / "some.model"
        path.write_bytes(data)
        try:
            return plain_values(path)
        finally:
            assert not Path(Trap.place).exists()

    return of


def same(one: object, other: object) -> bool:
    """Equal in value and type; arrays in any order of bytes."""
    if isinstance(other, np.ndarray):
        kinds = [array.dtype.newbyteorder("=") for array in (one, other)]
        return kinds[0] == kinds[1] and np.array_equal(one, other, equal_nan=kinds[0].kind == "f")
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in other)
    if isinstance(other, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one == other and isinstance(other, type(one))


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_and_both_names_of_numpys_modules(protocol, read):
    data = pickle.dumps(PLAIN, protocol)
    assert data.count(b"numpy._core")
    assert same(read(data), PLAIN)
    if protocol < 4:  # From 4 on a text states its length, and frames theirs: see the next test.
        assert same(read(data.replace(b"numpy._core", b"numpy.core")), PLAIN)


@pytest.mark.parametrize("protocol", [4, 5])
def test_names_of_numpy_1_in_frames(protocol, read):
    """Texts are shorter by one byte, their lengths too, and the frame by one byte for each."""
    data = pickle.dumps({"a": np.arange(3.0), "b": np.float64(2)}, protocol)
    for name in (b"numpy._core.multiarray", b"numpy._core.numeric"):
        old, new = (b"\x8c" + bytes([len(n)]) + n for n in (name, name.replace(b"_core", b"core")))
        assert data.count(old) <= 1
        length = int.from_bytes(data[3:11], "little") - data.count(old)
        data = data[:3] + length.to_bytes(8, "little") + data[11:].replace(old, new)
    assert b"numpy.core." in data
    assert b"_core" not in data
    found = read(data)
    assert found["b"] == 2
    assert found["a"].tolist() == [0, 1, 2]


def test_what_python_2_writes(read):
    """Its texts are bytes, as which it also keeps arrays: BINSTRING, of protocols 1 and 2."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x02tcnumpy\ndtype\n(U\x02f8K\x00K\x01tR"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10" + struct.pack("<dd", 1.5, -300.25) + b"tb"
    )  # fmt: skip
    found = read(b"\x80\x02}U\x05theta" + array + b"s.")
    assert found["theta"].tolist() == [1.5, -300.25]
    with pytest.raises(ValueError, match="Python 2 wrote it with protocol 0"):
        read(b"(dp0\nS'theta'\np1\nI1\ns.")


def test_arrays_are_their_own(read):
    found = read(pickle.dumps({"a": np.zeros(3)}))["a"]
    found += 1  # Not read-only.
    assert found.tolist() == [1, 1, 1]


def test_the_same_array_twice_is_the_same_once(read):
    array = np.arange(1000.0)
    assert same(read(pickle.dumps([array] * 100)), [array] * 100)


def _nested_lists(levels: int, width: int) -> bytes:
    """A list of so many times the same list, and so on: few bytes, width^levels members."""
    data = b"\x80\x02]q\x00"
    for level in range(levels):
        data += b"](" + (b"h" + bytes([level])) * width + b"eq" + bytes([level + 1])
    # What is below on the stack goes into one tuple with the last.
    return data[:2] + b"(" + data[2:] + b"t."


DTYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8I00\nI01\ntR"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
EMPTY = RECONSTRUCT + b"(cnumpy\nndarray\n(K\x00tC\x01btR"


def _array(shape: bytes, data: bytes, dtype: bytes = DTYPE) -> bytes:
    return b"\x80\x03" + EMPTY + b"(K\x01" + shape + dtype + b"I00\n" + data + b"tb."


OBJECT_ARRAY = np.empty(1, object)
OBJECT_ARRAY[0] = Trap()
CYCLIC_LIST: list = []
CYCLIC_LIST.append(CYCLIC_LIST)
CYCLIC_DICT: dict = {}
CYCLIC_DICT["a"] = CYCLIC_DICT
DEEP: list = []
for _ in range(200):
    DEEP = [DEEP]

BAD = {
    "a call": (lambda: pickle.dumps(Trap()), "asks for '_io.open'"),
    "a call of protocol 0": (lambda: pickle.dumps(Trap(), 0), "asks for '_io.open'"),
    "a call in a dict": (lambda: pickle.dumps({"theta": Trap()}, 2), "asks for '_io.open'"),
    "os.system": (lambda: b"cos\nsystem\n(X\x04\x00\x00\x00truetR.", "asks for 'os.system'"),
    "a name by the stack": (lambda: b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "asks for 'os.system'"),
    "a name of a name": (lambda: b"\x80\x04\x8c\x05numpy\x8c\x0cloadtxt.open\x93.", "asks for 'numpy.loadtxt.open'"),
    "a name that is no text": (lambda: b"\x80\x04\x8c\x05numpyK\x01\x93.", "STACK_GLOBAL needs a str, and got int"),
    "an array of objects": (lambda: pickle.dumps(OBJECT_ARRAY), "type 'O8', not of numbers|asks for"),
    "an array of records": (
        lambda: pickle.dumps(np.zeros(2, [("a", float)])), "type 'V8', not of numbers"
    ),
    "an array of texts": (lambda: pickle.dumps(np.array(["a"])), "type 'U1', not of numbers"),
    "an array of fields by BUILD": (
        lambda: b"\x80\x03" + DTYPE + b"(K\x03X\x01\x00\x00\x00<NX\x01\x00\x00\x00a}NNtb.",
        "changes a Type by what is none",
    ),
    "a subclass of arrays": (
        lambda: b"\x80\x03" + RECONSTRUCT + b"(cnumpy\ndtype\n(K\x00tC\x01btR.", "an array is of a class of its own"
    ),
    "NEWOBJ": (lambda: b"\x80\x02cnumpy\nndarray\n)\x81.", "opcode NEWOBJ"),
    "OBJ": (lambda: b"(cnumpy\ndtype\nX\x02\x00\x00\x00f8o.", "opcode OBJ"),
    "INST": (lambda: b"(X\x02\x00\x00\x00f8inumpy\ndtype\n.", "opcode INST"),
    "EXT1": (lambda: b"\x80\x02\x82\x01.", "opcode EXT1"),
    "PERSID": (lambda: b"Pid\n.", "opcode PERSID"),
    "NEXT_BUFFER": (lambda: b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
    "BUILD of a function": (
        lambda: b"\x80\x02" + RECONSTRUCT + b"}X\x08\x00\x00\x00__code__K\x01sb.", "BUILD needs a tuple, and got dict"
    ),
    "BUILD of a function by a tuple": (
        lambda: b"\x80\x02" + RECONSTRUCT + b"(NN}tb.", "changes a Name by what is none"
    ),
    "BUILD of a list": (lambda: b"](K\x01tb.", "changes a list by what is none"),
    "a call of a text": (lambda: b"X\x01\x00\x00\x00a(tR.", "calls a str, and no function"),
    "a call of an array": (lambda: b"\x80\x03" + EMPTY + b"(tR.", "calls a _Array"),
    "a call of ndarray": (lambda: b"cnumpy\nndarray\n(K\x03tR.", "calls a _Name"),
    "the wrong arguments": (lambda: b"cnumpy\ndtype\n(K\x01K\x01K\x01K\x01tR.", "dtype has the wrong arguments"),
    "a text in another encoding": (
        lambda: b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zlbtR.", "not kept as a text in latin1"
    ),
    "a list of 8^30 members": (lambda: _nested_lists(30, 8), r"members|deep in others"),
    "a list of 10^8 members": (lambda: _nested_lists(8, 10), "more than 200000 members"),
    "a list in itself": (lambda: pickle.dumps(CYCLIC_LIST), "is in itself"),
    "a dict in itself": (lambda: pickle.dumps(CYCLIC_DICT), "is in itself"),
    "200 lists in each other": (lambda: pickle.dumps(DEEP), "20 deep in others"),
    "a million opcodes": (lambda: b"\x80\x02(" + b"N" * 1_000_001 + b"t.", "more than 1000000 opcodes"),
    "a frame of 2^40 bytes": (lambda: b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b"N.", "a frame of 1099511"),
    "bytes of 2^40": (lambda: b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"N.", "expected 1099511627776 bytes"),
    "a second pickle": (lambda: pickle.dumps({}) + pickle.dumps(Trap()), "bytes follow its end"),
    "a byte at the end": (lambda: pickle.dumps({}) + b"\n", "1 bytes follow its end"),
    "a list as key": (lambda: b"\x80\x02}]K\x01s.", "a key of a dict is of the type list"),
    "a number as key": (lambda: pickle.dumps({1: 2}), "a key of a dict is of the type int"),
    "an array as key": (lambda: b"\x80\x03}" + EMPTY + b"K\x01s.", "a key of a dict is of the type _Array"),
    "an array larger than its bytes": (
        lambda: _array(b"(\x8a\x08" + (2**60).to_bytes(8, "little") + b"t", b"C\x08" + bytes(8)),
        "shape .1152921504606846976,. and type f8 has 8 bytes",
    ),
    "an array of negative size": (lambda: _array(b"(J\xff\xff\xff\xfft", b"C\x08" + bytes(8)), "has the shape"),
    "an array of five axes": (lambda: _array(b"(K\x01K\x01K\x01K\x01K\x01t", b"C\x08" + bytes(8)), "at most two sizes"),
    "an array of a shape that is nested": (lambda: _array(b"((K\x01tt", b"C\x08" + bytes(8)), "has the shape"),
    "an array of a list": (lambda: _array(b"(K\x01t", b"]K\x01a"), "not stated by its bytes"),
    "an array without values": (lambda: b"\x80\x03" + EMPTY + b".", "where a value should be"),
    "a name as value": (lambda: b"cnumpy\ndtype\n.", "where a value should be"),
    "a value that was not kept": (lambda: b"\x80\x02h\x05.", "value 5 is asked for before"),
    "no values": (lambda: b"\x80\x02.", "leaves 0 values"),
    "two values": (lambda: b"\x80\x02NN.", "leaves 2 values"),
    "an empty stack": (lambda: b"\x80\x02\x85.", "lacks its values"),
    "a mark as value": (lambda: b"\x80\x02(\x85.", "lacks its values"),
    "no mark": (lambda: b"\x80\x02Nt.", "lacks its values"),
    "half a pair": (lambda: b"\x80\x02}(X\x01\x00\x00\x00au.", "has no value"),
    "a list that is none": (lambda: b"\x80\x02}Na.", "APPEND needs a list, and got dict"),
    "an unknown opcode": (lambda: b"\xff.", "at position 0, opcode"),
    "nothing": (lambda: b"", "before seeing STOP"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_anything_else_is_refused_and_not_run(kind, read):
    data, said = BAD[kind]
    with pytest.raises(ValueError, match=said) as caught:
        read(data())
    assert "byte" in str(caught.value)


def test_arrays_of_the_same_bytes_are_bounded(read):
    """A megabyte that is made an array thirty times would fill the memory of a computer with little more of a file."""
    one = EMPTY + b"(K\x01(\x8a\x03" + (125_000).to_bytes(3, "little") + b"t" + DTYPE + b"I00\nh\x00tb"
    data = b"\x80\x03(B" + (1_000_000).to_bytes(4, "little") + bytes(1_000_000) + b"q\x00"
    assert len(read(data + one * 3 + b"t.")) == 4
    with pytest.raises(ValueError, match="more than 10 times the bytes of the file"):
        read(data + one * 30 + b"t.")


def test_truncated_anywhere(read):
    data = pickle.dumps(PLAIN, 4)
    for size in range(0, len(data), 17):
        with pytest.raises(ValueError, match="byte"):
            read(data[:size])


@given(st.sampled_from(range(6)), st.data())
@settings(max_examples=100)
def test_changed_bytes_end_in_values_or_a_value_error(tmp_path_factory, protocol, data):
    pickled = bytearray(
        pickle.dumps({key: PLAIN[key] for key in ("list", "tuples", "double", "scalar", "text")}, protocol)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(pickled)
    with suppress(ValueError):
        plain_values(path)
