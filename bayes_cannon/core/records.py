"""Records: frozen dataclasses whose fields declare the dimensions of their arrays.

What is declared once serves three purposes: the shapes of a record are checked against each other (`check_dims`), two
records are compared (`equal`), and a model file is written and read without a list of its contents (`io.record_file`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any

import numpy as np

NOT_STORED: dict[str, Any] = {"stored": False}
"""Metadata of a field that is neither stored nor compared; whoever reads the record has to supply it."""


def dims(*names: str, about: str = "") -> dict[str, Any]:
    """Metadata of a field that holds an array with these dimensions, or a mapping of such arrays.

    Parameters
    ----------
    *names
        Dimensions in the order of the axes, such as ``"pixel", "term"``. A number in place of the array is allowed.
    about
        One line that describes the array in a file.

    """
    return {"dims": names, "about": about}


def encoded(encode: Callable[[Any], Any], decode: Callable[[Any], Any], stored_as: Any) -> dict[str, Any]:
    """Metadata of a field that is stored in another form: a record or value of the type ``stored_as``."""
    return {"encode": encode, "decode": decode, "stored_as": stored_as}


def one_of(kinds: Callable[[], Mapping[str, type]]) -> dict[str, Any]:
    """Metadata of a field that holds a record of one of several classes, by name in ``kinds()`` when it is read."""
    return {"kinds": kinds}


def stored_fields(record: Any) -> list[Field[Any]]:
    """Fields of a record, or of a class of records, that are stored and compared."""
    return [one for one in fields(record) if one.metadata.get("stored", True)]


def check_dims(record: Any, sizes: dict[str, tuple[int, str]] | None = None) -> None:
    """Check that arrays of a record, and of the records in it, have the declared dimensions, of one length each.

    Parameters
    ----------
    record
        The record.
    sizes
        Lengths that are known, each with the name of what it is known from; those of the record's arrays are added.

    Raises
    ------
    ValueError
        For an array with another number of axes, or an axis of another length, naming both arrays.

    """
    sizes = {} if sizes is None else sizes
    for name, values, axes in _arrays(record, ""):
        if values.ndim != len(axes):
            raise ValueError(f"{name} must have shape ({', '.join(axes)}), got shape {values.shape}")
        for axis, size in zip(axes, values.shape, strict=True):
            expected, source = sizes.setdefault(axis, (size, name))
            if size != expected:
                raise ValueError(
                    f"{name} has shape {values.shape}: its {axis} axis must have length {expected}, as {source} has"
                )


def _arrays(record: Any, prefix: str) -> Iterator[tuple[str, np.ndarray, tuple[str, ...]]]:
    for one in stored_fields(record):
        value, axes, name = getattr(record, one.name), one.metadata.get("dims"), prefix + one.name
        if is_dataclass(value):
            yield from _arrays(value, f"{name}.")
        elif axes is not None and isinstance(value, Mapping):
            yield from ((f"{name}[{key!r}]", np.asarray(item), axes) for key, item in value.items() if np.ndim(item))
        elif axes is not None and value is not None and np.ndim(value):
            yield name, np.asarray(value), axes


def equal(one: Any, other: Any) -> bool:
    """Whether two values are equal: records field by field, arrays with NaN equal to NaN, mappings in any order."""
    if is_dataclass(one) and not isinstance(one, type):
        names = [each.name for each in stored_fields(one)]
        return type(one) is type(other) and all(equal(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and isinstance(other, tuple) and any(map(is_dataclass, one)):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        if np.shape(one) != np.shape(other):
            return False
        numbers = np.asarray(one).dtype.kind in "fc" and np.asarray(other).dtype.kind in "fc"
        return bool(np.array_equal(one, other, equal_nan=numbers))
    if isinstance(one, float) and isinstance(other, float) and np.isnan(one):
        return bool(np.isnan(other))
    return bool(one == other)
