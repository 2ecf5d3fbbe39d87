"""The plain values of a pickle: numbers, texts, lists, tuples, dicts and NumPy arrays of numbers. Nothing is unpickled.

A pickle is a program for a machine with a stack: its opcodes may import whatever they name and call it. Here
``pickletools.genops`` lists the opcodes, which runs nothing, and those that plain values need are carried out by the
few lines below on a stack of their own. The names that arrays need (`_CALLS`) stand for functions of this file; NumPy's
are never looked up. Every other opcode and every other name is refused. So are values that do not end: a list in
itself, or one that is listed so often that it has more than `MOST_VALUES` members.
"""

import math
import os
import pickletools
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MOST_OPCODES = 1_000_000
MOST_COPIES = 10
"""Bytes of all arrays and texts that are made of others, over those of the file."""
MOST_VALUES = 200_000
"""Of all containers together, each counted as often as it is listed. The largest real files have some thousands."""
DEEPEST = 20
"""Containers in containers."""

_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_WITH_VALUE = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Name:
    """A name that the pickle would import."""

    text: str


@dataclass
class _Type:
    """A NumPy type of numbers; a pickle states its byte order after it was made."""

    code: str
    order: str = "|"


@dataclass
class _Array:
    """An array; a pickle of an old protocol states its values after it was made."""

    values: np.ndarray | None = None


def plain_values(path: str | os.PathLike[str]) -> Any:
    """What a file that is one pickle of plain values holds.

    Parameters
    ----------
    path
        The file, written by any protocol from 0 to 5; by Python 2 with protocol 1 or 2.

    Returns
    -------
    values
        None, numbers, texts, bytes, and lists, tuples and dicts of these, with texts as keys, and arrays of numbers in
        the byte order of this computer.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no pickle, is truncated, or holds anything else, stating the place, in bytes.

    """
    data = Path(path).read_bytes()
    machine, place = _Machine(MOST_COPIES * len(data)), 0
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            place = int(position or 0)
            if count >= MOST_OPCODES:
                raise ValueError(f"it has more than {MOST_OPCODES} opcodes")
            if opcode.name == "FRAME" and int(argument or 0) > len(data) - place - 9:
                raise ValueError(f"a frame of {argument} bytes is longer than the file")
            machine.run(opcode.name, argument)
        if place + 1 < len(data):
            raise ValueError(f"{len(data) - place - 1} bytes follow its end, such as a second pickle")
        return _Unfolding().of(machine.result(), 0)
    except (ValueError, IndexError, OverflowError) as error:
        reason = "an opcode lacks its values" if isinstance(error, IndexError) else str(error)
        raise ValueError(f"{reason} (byte {place} of {len(data)})") from error


class _Machine:
    """The stack and the memory of a pickle, which may copy so many bytes."""

    def __init__(self, bytes_left: int) -> None:
        self._bytes_left = bytes_left
        self._stack: list[Any] = []
        self._memory: dict[int, Any] = {}

    def result(self) -> Any:
        """The one value that is left."""
        if len(self._stack) != 1:
            raise ValueError(f"it leaves {len(self._stack)} values in place of one")
        return self._last()

    def run(self, opcode: str, argument: Any) -> None:
        """Carry out one opcode."""
        stack, memory = self._stack, self._memory
        if opcode in _WITH_VALUE:
            stack.append(argument)
            return
        if opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
            return
        if opcode in _TUPLES:
            stack.append(tuple([self._pop() for _ in range(_TUPLES[opcode])][::-1]))
            return
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                stack.append(_MARK)
            case "MEMOIZE":
                memory[len(memory)] = self._last()
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memory[argument] = self._last()
            case "GET" | "BINGET" | "LONG_BINGET":
                if argument not in memory:
                    raise ValueError(f"value {argument} is asked for before it was kept")
                stack.append(memory[argument])
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "EMPTY_LIST" | "LIST":
                stack.append(self._since_mark() if opcode == "LIST" else [])
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                stack.append(_set_items({}, self._since_mark()))
            case "APPEND" | "APPENDS":
                added = self._since_mark() if opcode == "APPENDS" else [self._pop()]
                _is_a(self._last(), list, opcode).extend(added)
            case "SETITEM" | "SETITEMS":
                added = self._since_mark() if opcode == "SETITEMS" else [self._pop(), self._pop()][::-1]
                _set_items(_is_a(self._last(), dict, opcode), added)
            case "GLOBAL":
                stack.append(_allowed(argument))
            case "STACK_GLOBAL":
                name, module = (_is_a(self._pop(), str, opcode) for _ in range(2))
                stack.append(_allowed(f"{module} {name}"))
            case "REDUCE":
                arguments, function = _is_a(self._pop(), tuple, opcode), self._pop()
                self._spend(arguments)
                stack.append(_call(function, arguments))
            case "BUILD":
                state = _is_a(self._pop(), tuple, opcode)
                self._spend(state)
                _build(self._last(), state)
            case "STRING":
                raise ValueError("Python 2 wrote it with protocol 0: write it again there, with protocol=2")
            case _:
                raise ValueError(f"the opcode {opcode} is not one that plain values need")

    def _spend(self, arguments: tuple[Any, ...]) -> None:
        self._bytes_left -= sum(len(one) for one in arguments if isinstance(one, str | bytes | bytearray))
        if self._bytes_left < 0:
            raise ValueError(f"its arrays have more than {MOST_COPIES} times the bytes of the file")

    def _last(self) -> Any:
        if self._stack[-1] is _MARK:
            raise ValueError("an opcode lacks its values")
        return self._stack[-1]

    def _pop(self) -> Any:
        last = self._last()
        self._stack.pop()
        return last

    def _since_mark(self) -> list[Any]:
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]


class _Unfolding:
    """The values as they are handed out: counted, and arrays in place of what a pickle makes them of."""

    def __init__(self) -> None:
        self._left = MOST_VALUES

    def of(self, value: Any, depth: int) -> Any:
        """A copy of the value, which shares nothing."""
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"its lists and dicts have more than {MOST_VALUES} members")
        if depth > DEEPEST:
            raise ValueError(f"a list or dict is in itself, or more than {DEEPEST} deep in others")
        if isinstance(value, dict):
            return {key: self.of(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.of(item, depth + 1) for item in value)
        if isinstance(value, _Array) and value.values is not None:
            return value.values
        if isinstance(value, _Name | _Type | _Array):
            raise ValueError(f"it holds {value} where a value should be")
        return value


def _set_items(target: dict[str, Any], items: list[Any]) -> dict[str, Any]:
    if len(items) % 2:
        raise ValueError("a key of a dict has no value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str):
            raise ValueError(f"a key of a dict is of the type {type(key).__name__}, and no text")
        target[key] = value
    return target


def _is_a(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{what} needs a {kind.__name__}, and got {type(value).__name__}")
    return value


# What the names stand for.


def _allowed(name: str) -> _Name:
    if name not in _CALLS and name != "numpy ndarray":
        raise ValueError(f"it asks for {name.replace(' ', '.', 1)!r:.100}, which is not opened: it could run any code")
    return _Name(name)


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
    call = _CALLS.get(function.text) if isinstance(function, _Name) else None
    if call is None:
        raise ValueError(f"it calls a {type(function).__name__}, and no function that makes an array")
    try:
        return call(*arguments)
    except TypeError as error:
        raise ValueError(f"{function.text.replace(' ', '.')} has the wrong arguments") from error


def _build(target: Any, state: tuple[Any, ...]) -> None:
    """State the byte order of a type, or the values of an array."""
    match target, state:
        case _Type(), (int(), "<" | ">" | "=" | "|" as order, None, None, None, *_):
            target.order = order
        case _Array(), (int(), shape, dtype, fortran, data):
            target.values = _array(data, dtype, shape, "F" if fortran else "C")
        case _:
            raise ValueError(f"it changes a {type(target).__name__.strip('_')} by what is none of an array of numbers")


def _type(code: Any, _align: Any = None, _copy: Any = None) -> _Type:
    if not isinstance(code, str) or not re.fullmatch("b1|[iu][1248]|f[248]", code):
        raise ValueError(f"it has an array of the type {reprlib.repr(code)}, not of numbers or booleans")
    return _Type(code)


def _array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """The array whose bytes these are, all of them."""
    if isinstance(data, str):  # Python 2 has no bytes.
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _Type) or order not in ("C", "F"):
        raise ValueError("an array is not stated by its bytes, type, shape and order")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 2:
        raise ValueError(f"an array has the shape {reprlib.repr(shape)}: at most two sizes are expected")
    kind = np.dtype("u1" if dtype.code == "b1" else dtype.order + dtype.code)
    if math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} and type {dtype.code} has {len(data)} bytes")
    values = np.frombuffer(data, kind).reshape(shape, order=order)
    return values.astype(bool if dtype.code == "b1" else kind.newbyteorder("="), order="C")


def _scalar(dtype: Any, data: Any) -> float:
    return _array(data, dtype, ()).item()


def _encoded(text: Any, encoding: Any) -> bytes:
    """The bytes that protocols 0 to 2 keep as a text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes are not kept as a text in latin1")
    return text.encode("latin1")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(_array(data, dtype, shape, order))


def _without_values(kind: Any, _shape: Any, _code: Any) -> _Array:
    if kind != _Name("numpy ndarray"):
        raise ValueError("an array is of a class of its own")
    return _Array()


_OF_NUMPY: dict[str, Callable[..., Any]] = {
    "numeric _frombuffer": _from_buffer, "multiarray _reconstruct": _without_values, "multiarray scalar": _scalar,
}  # fmt: skip
"""In ``numpy.core`` of NumPy 1, and ``numpy._core`` of NumPy 2."""
_CALLS: dict[str, Callable[..., Any]] = {
    "numpy dtype": _type, "_codecs encode": _encoded,
    **{f"numpy.{core}.{name}": function for core in ("core", "_core") for name, function in _OF_NUMPY.items()},
}  # fmt: skip
