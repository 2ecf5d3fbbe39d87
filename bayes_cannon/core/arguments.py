"""Checks of arguments other than spectra and labels: numbers, names, mappings, paths, functions.

Each error names the argument, what was given and what is wanted. Arrays come in by `core.intake.real_numbers`.
"""

import operator
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

LONGEST_NAME = 255
"""Bytes that a file system allows for a name."""


_UNITS_OF_BYTES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_BYTES = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?)\s*([kmgt]?i?b|)", re.IGNORECASE)


def shown(value: Any) -> str:
    """A value in a message, cut short."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def number(value: Any) -> float:
    """The value as a float; NaN, with which all comparisons are false, where it is no single real number."""
    if isinstance(value, np.ndarray | np.generic) and not np.ma.is_masked(value) and value.ndim == 0:
        value = value.item()
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan


def real_number(value: Any, what: str) -> float:
    """The value as a float, which may be NaN; ValueError where it is no single real number."""
    found = number(value)
    if np.isnan(found) and not isinstance(value, float | np.floating):
        raise ValueError(f"{what} must be a number, got {shown(value)}")
    return found


def flag(value: Any, what: str) -> bool:
    """True or False, also as 1 or 0; TypeError for all else."""
    if not isinstance(value, bool | int | np.bool | np.integer) or value not in (0, 1):
        raise TypeError(f"{what} must be True or False, got {shown(value)}")
    return bool(value)


def whole_number(value: Any, what: str, least: int | None = None) -> int:
    """An integer of at least ``least``.

    Raises
    ------
    ValueError
        For anything else, texts, booleans and floats among it.

    """
    try:
        found = None if isinstance(value, bool | np.bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or (least is not None and found < least):
        wanted = "an integer" if least is None else f"an integer of at least {least}"
        raise ValueError(f"{what} must be {wanted}, got {shown(value)}")
    return found


def whole_numbers(values: Any, what: str) -> list[int]:
    """A list of integers; a single one is a list of one. ValueError for anything else."""
    found = listed(values)
    return [whole_number(value, what) for value in ([values] if found is None else found)]


def generator(seed: Any) -> np.random.Generator:
    """NumPy's generator of a seed, an integer that is not negative, or the generator that is given; else ValueError."""
    return seed if isinstance(seed, np.random.Generator) else np.random.default_rng(whole_number(seed, "seed", 0))


def byte_count(value: Any, what: str) -> int:
    """Bytes, given as a number or as text such as "2 GB", "500MB" or "1.5 GiB"; ValueError that names ``what``."""
    text = str(value).strip()
    found = _BYTES.fullmatch(text)
    count = float(found[1]) * _UNITS_OF_BYTES[found[2].lower()] if found else 0.0
    if isinstance(value, bool) or not 1 <= count < np.inf:
        raise ValueError(f'{what} must be bytes, such as 2e9, "2 GB" or "1.5 GiB", got {value!r}')
    return int(count)


def listed(value: Any) -> list[Any] | None:
    """The elements of a sequence; None for what is none, texts and mappings among it."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        return None
    return list(value)


def texts(values: Any, what: str) -> tuple[str, ...]:
    """A sequence of texts, such as names of labels.

    Raises
    ------
    ValueError
        For a single text, and what is no sequence of texts.

    """
    if isinstance(values, str):
        raise ValueError(f"{what} must be a sequence of names, got the text {values!r}: write a tuple")
    found = listed(values)
    if found is None or not all(isinstance(value, str) for value in found):
        raise ValueError(f"{what} must be a sequence of texts, got {shown(values if found is None else found)}")
    return tuple(map(str, found))


def mapping(value: Any, what: str, wanted: str) -> dict[Any, Any]:
    """A mapping as a dictionary, None being an empty one.

    Raises
    ------
    TypeError
        If it is none.

    """
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"{what} must map {wanted}, got {shown(value)}")
    return dict(value or {})


def units(value: Any, what: str) -> dict[str, str]:
    """Units as texts by name, None being none; ValueError for what is neither a text nor a unit of astropy."""
    found = mapping(value, what, "names to units")
    for name, unit in found.items():
        if not isinstance(unit, str) and not hasattr(unit, "to_string"):
            raise ValueError(f"{what} must be texts, such as 'K'; got {shown(unit)} for {shown(name)}")
    return {name: str(unit) for name, unit in found.items()}


def check_kind(value: Any, kind: type | tuple[type, ...], what: str, wanted: str) -> None:
    """Raise TypeError unless a value is of a class, saying what is wanted."""
    if not isinstance(value, kind):
        raise TypeError(f"{what} must be {wanted}, got {shown(value)}")


def check_function(value: Any, what: str, wanted: str) -> None:
    """Raise TypeError unless a value can be called."""
    if not callable(value):
        raise TypeError(f"{what} must be {wanted}, got {shown(value)}")


def file_path(path: Any, what: str = "path") -> Path:
    """The path of a file.

    Raises
    ------
    TypeError
        For what is no path.
    ValueError
        For one that no file can have.

    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise TypeError(f"{what} must be the path of a file, got {shown(path)}")
    longest = max(map(len, map(os.fsencode, text.split(os.sep))))
    if "\0" in text or longest > LONGEST_NAME:
        raise ValueError(f"{what} holds a zero byte or a name of more than {LONGEST_NAME} bytes: {shown(path)}")
    return Path(text)
