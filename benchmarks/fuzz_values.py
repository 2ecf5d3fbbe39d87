"""Odd values in place of valid ones, and copies of valid ones that must not change anything, for ``fuzz.py``."""

import datetime as dt
import decimal
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_OTHERS: dict[str, Callable[[], Any]] = {
    "None": lambda: None, "a text": lambda: "text", "an empty text": lambda: "", "bytes": lambda: b"text",
    "True": lambda: True, "False": lambda: False, "0": lambda: 0, "-1": lambda: -1, "2.5": lambda: 2.5,
    "1e300": lambda: 1e300, "10**20": lambda: 10**20, "NaN": lambda: np.nan, "inf": lambda: np.inf,
    "a complex number": lambda: 1 + 2j, "an empty list": list, "an empty dict": dict, "a set": lambda: {1.0, 2.0},
    "an object": object, "a generator": lambda: (number for number in (1.0, 2.0)),
    "a function": lambda: lambda *given, **named: None, "a class": lambda: dict,
    "a decimal": lambda: decimal.Decimal("1.5"),
    "a date": lambda: dt.date(2020, 1, 1),
    "a datetime64": lambda: np.datetime64("2020-01-01"), "a list of None": lambda: [None, None],
    "a list of texts": lambda: ["a", "b"], "a ragged list": lambda: [[1.0, 2.0], [3.0]], "a range": lambda: range(3),
    "a dict of numbers": lambda: {"a": 1.0, 5: 2.0}, "a list": lambda: [1.0, 2.0], "a 0-d array": lambda: np.array(1.0),
    "an empty array": lambda: np.empty(0), "a 3-d array": lambda: np.ones((2, 2, 2)), "a slice": lambda: slice(2),
    "nested lists": lambda: [[[1]]], "a path": lambda: Path("nowhere"), "a tuple": lambda: ("a", 1),
}  # fmt: skip


def _put(value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def put(a: np.ndarray) -> np.ndarray:
        changed = a.astype(object if value is None or isinstance(value, str) else float)
        if changed.size:
            changed.flat[changed.size // 2] = value
        return changed

    return put


_ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "no row": lambda a: a[:0], "no column": lambda a: a[..., :0], "one row": lambda a: a[:1],
    "one column": lambda a: a[..., :1], "0-d": lambda a: a.reshape(-1)[0], "another axis": lambda a: a[None],
    "a last axis": lambda a: a[..., None], "flat": np.ravel, "transposed": lambda a: a.T, "a row less": lambda a: a[1:],
    "a column less": lambda a: a[..., 1:], "a row more": lambda a: np.concatenate([a, a[:1]]),
    "the first row": lambda a: a[0], "object": lambda a: a.astype(object), "complex": lambda a: a.astype(complex),
    "bool": lambda a: a.astype(bool), "texts": lambda a: a.astype(str), "bytes in it": lambda a: a.astype("S20"),
    "int": lambda a: np.nan_to_num(a).astype(int), "uint8": lambda a: np.zeros(a.shape, np.uint8),
    "float16": lambda a: a.astype(np.float16), "longdouble": lambda a: a.astype(np.longdouble),
    "dates": lambda a: np.zeros(a.shape, "datetime64[s]"), "structured": lambda a: np.zeros(a.shape, "f8,i4"),
    "a NaN": _put(np.nan), "an inf": _put(np.inf), "a -inf": _put(-np.inf), "a -1": _put(-1.0), "a None": _put(None),
    "a text in it": _put("x"), "-9999": _put(-9999.0), "all NaN": lambda a: np.full(a.shape, np.nan),
    "negative": lambda a: -np.abs(a.astype(float)) - 1, "zeros": lambda a: np.zeros(a.shape),
    "huge": lambda a: np.full(a.shape, 1e300), "tiny": lambda a: np.full(a.shape, 1e-320),
    "constant": lambda a: np.ones(a.shape), "a masked value": lambda a: np.ma.masked_array(a, _put(1)(a * 0.0) == 1),
    "all masked": lambda a: np.ma.masked_array(a, True), "a generator of rows": lambda a: (row for row in a),
    "an iterator": iter, "lists with None": lambda a: _put(None)(a).tolist(), "a dict of columns": lambda a: {"a": a},
    "a tuple of rows": lambda a: tuple(a), "a memoryview": lambda a: memoryview(np.ascontiguousarray(a)),
}  # fmt: skip


def _dictionaries(value: Mapping[str, Any]) -> dict[str, Any]:
    first = next(iter(value), "a")
    return {
        "an unknown name": {**value, "unknown": value.get(first)}, "a number as a name": {5: value.get(first)},
        "a list of pairs": list(value.items()), "a list of names": list(value), "None as a value": {first: None},
        "a text as a value": {first: "text"}, "an object as a value": {first: object()}, "NaN as a value":
        {first: np.nan}, "an empty list as a value": {first: []}, "a number as a value": {first: 3},
    }  # fmt: skip


def _lists(value: list | tuple) -> dict[str, Any]:
    return {
        "empty": type(value)(), "twice": value + value, "one less": value[1:], "a None in it": [*value, None],
        "a number in it": [*value[:-1], 5], "reversed": value[::-1], "a text in it": [*value[:-1], "x"],
        "an iterator": iter(value), "a set of it": set(map(str, value)), "an array": np.array(value, dtype=object),
        "NaN in it": [*value[:-1], np.nan], "one too many": [*value, *value[:1]], "in a list": [value],
        "an object in it": [*value[:-1], object()], "a list in it": [*value[:-1], []],
    }  # fmt: skip


def _numbers(value: float) -> dict[str, Any]:
    return {
        "as a text": str(value), "in a list": [value], "as an array": np.array([value]), "0-d": np.array(value),
        "as a float": float(value), "negative": -value, "as NumPy's": np.array(value)[()], "masked": np.ma.masked,
        "float32": np.float32(value), "uint8": np.uint8(1), "-inf": -np.inf, "two": [value, value],
    }  # fmt: skip


def _paths(value: Path) -> dict[str, Any]:
    folder = value.parent
    (folder / "empty.txt").write_bytes(b"")
    for name in ("text.nc", "text.npz", "text.fits", "text.csv", "text.ecsv", "text.model", "text.zarr", "text.h5"):
        (folder / name).write_text("this is no such file\n")
    found: dict[str, Any] = {f"a text named {one.suffix}": one for one in folder.glob("text.*")}
    return found | {
        "missing": folder / f"missing{value.suffix}", "a folder": folder, "as bytes": bytes(value),
        "with a zero byte": f"a\0b{value.suffix}", "too long": "x" * 5000 + value.suffix, "as a text": str(value),
        "in no folder": folder / "nowhere" / value.name, "without a suffix": folder / "file", "a list": [value],
        "another suffix": folder / "file.xyz", "empty": folder / "empty.txt",
    }  # fmt: skip


def odd(value: Any, chance: random.Random) -> tuple[str, Any]:
    """Another value in place of a valid one, and what it is."""
    if chance.random() < 0.35:
        name = chance.choice(list(_OTHERS))
        return name, _OTHERS[name]()
    if isinstance(value, np.ndarray):
        name = chance.choice(list(_ARRAYS))
        try:
            with np.errstate(all="ignore"):  # A cast may overflow.
                return name, _ARRAYS[name](value)
        except (TypeError, ValueError):  # No such change of this kind of array.
            return "an object", object()
    choices: dict[str, Any] = {}
    if isinstance(value, Mapping):
        choices = _dictionaries(value)
        if chance.random() < 0.5 and value:
            first = next(iter(value))
            name, inner = odd(value[first], chance)
            return f"{name} for {first!r}", {**value, first: inner}
    elif isinstance(value, list | tuple):
        choices = _lists(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        choices = _numbers(value)
    elif isinstance(value, Path):
        choices = _paths(value)
    if not choices:
        name = chance.choice(list(_OTHERS))
        return name, _OTHERS[name]()
    name = chance.choice(list(choices))
    return name, choices[name]


def _strided(a: np.ndarray) -> np.ndarray:
    wide = np.zeros((*a.shape, 2), a.dtype)
    wide[..., 0] = a
    return wide[..., 0]


def _read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.setflags(write=False)
    return a


SAME: dict[str, Callable[[np.ndarray], Any]] = {
    "strided": _strided, "read-only": _read_only, "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "reversed twice": lambda a: a[::-1].copy()[::-1], "Fortran's order": np.asfortranarray, "lists": np.ndarray.tolist,
    "not masked": lambda a: np.ma.masked_array(a, np.zeros(a.shape, bool)), "objects": lambda a: a.astype(object),
    "again": np.copy,
}  # fmt: skip
"""Copies that hold the same numbers, so that the result is to have the same bits."""


def leaves(value: Any) -> Iterator[np.ndarray]:
    """All arrays within arguments or results, numbers and texts among them, in a fixed order."""
    if isinstance(value, np.ndarray):
        yield value
    elif hasattr(value, "training_set_labels"):
        parts = (value.training_set_labels, value.training_set_flux, value.training_set_ivar, value.dispersion)
        yield from leaves([*parts, value.theta, value.s2, value.regularization, dict(value.censors)])
    elif isinstance(value, Mapping):
        for name in value:
            yield from leaves(value[name])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from leaves(one)
    elif hasattr(value, "itercols"):
        for column in value.itercols():
            yield np.asarray(column)
    elif isinstance(value, bool | int | float | str | np.generic):
        yield np.asarray(value)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from leaves(getattr(value, name))
