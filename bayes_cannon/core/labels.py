"""Labels as people hold them, as one array: (star, label) in float64, every value finite, columns in a known order.

A container with named columns (structured array, mapping, astropy Table, pandas DataFrame) is recognized by what it can
do, not by its class, so that neither astropy nor pandas is imported here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np


def label_array(labels: Any, label_names: Sequence[str]) -> np.ndarray:
    """Labels as an array whose columns stand in the order of ``label_names``.

    Parameters
    ----------
    labels
        One of: an array of shape (star, label), whose columns stand in the order of ``label_names``; an array of shape
        (star,), if there is one label; a structured array, a mapping from names to arrays of shape (star,), an astropy
        Table or a pandas DataFrame, whose columns are chosen by name and may be more than needed. Values are taken in
        the unit that they have; none is converted.
    label_names
        Names of the labels.

    Returns
    -------
    array
        Shape (star, label), float64, finite; a copy.

    Raises
    ------
    ValueError
        If a name is missing, asked for twice or borne by two columns, for a wrong shape or columns of different
        length, for values that are not real numbers, and for values that are masked, NaN or infinite.

    Examples
    --------
    >>> from bayes_cannon.core.labels import label_array
    >>> label_array({"FE_H": [-0.5, 0.1], "SNR": [80, 120], "TEFF": [4500, 5000]}, ("TEFF", "FE_H"))
    array([[ 4.5e+03, -5.0e-01],
           [ 5.0e+03,  1.0e-01]])

    """
    names = _checked_names(label_names)
    columns = _column_names(labels)
    array = _from_plain(labels, names) if columns is None else _from_columns(labels, columns, names)
    if len(array) == 0:
        raise ValueError(f"labels hold no star, got shape {array.shape}")
    _refuse_non_finite(array, names)
    return array


def label_units(labels: Any, label_names: Sequence[str]) -> dict[str, str]:
    """Units of the labels that carry one, by label name, as text such as ``"K"``.

    Units are read from the columns of an astropy Table and from Quantities in a mapping. A label without a unit, or
    with a dimensionless one that has no name, is left out, so that other containers give an empty mapping.

    Raises
    ------
    ValueError
        If a name is missing, asked for twice or borne by two columns.

    Examples
    --------
    >>> from astropy.table import Table
    >>> from bayes_cannon.core.labels import label_units
    >>> label_units(Table({"TEFF": [4500.0], "FE_H": [-0.5]}, units={"TEFF": "K"}), ("TEFF", "FE_H"))
    {'TEFF': 'K'}

    """
    names = _checked_names(label_names)
    columns = _column_names(labels)
    if columns is None:
        return {}
    _refuse_unknown(columns, names)
    units = {name: str(getattr(labels[name], "unit", None) or "") for name in names}
    return {name: unit for name, unit in units.items() if unit}


def all_label_names(labels: Any) -> list[str]:
    """Names of all columns of a container of labels; ``"column 0"`` and so on for one without names."""
    columns = _column_names(labels)
    if columns is None:
        shape = np.shape(labels)
        columns = [f"column {k}" for k in range(shape[1] if len(shape) == 2 else 1)]
    return columns


def _column_names(labels: Any) -> list[str] | None:
    """Names of the columns that a container of labels has, or None for one without names, such as an array."""
    if isinstance(labels, Mapping):
        return [str(name) for name in labels]
    if getattr(labels, "dtype", None) is not None:
        names = labels.dtype.names if isinstance(labels.dtype, np.dtype) else None
        return None if names is None else list(names)
    for attribute in ("colnames", "columns"):
        if hasattr(labels, attribute):
            return [str(name) for name in getattr(labels, attribute)]
    return None


def _checked_names(label_names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(label_names, str):
        raise ValueError(f"label_names must be a sequence of names, got the text {label_names!r}: write a tuple")
    names = tuple(str(name) for name in label_names)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"label_names must be distinct; {repeated[0]!r} occurs more than once in {names}")
    if not names:
        raise ValueError("label_names is empty: name at least one label")
    return names


def _from_plain(labels: Any, names: tuple[str, ...]) -> np.ndarray:
    array = _real_numbers(labels, "labels")
    if array.ndim == 1 and len(names) == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != len(names):
        raise ValueError(
            f"labels must have shape (star, {len(names)}), one column for each of {', '.join(names)}; "
            f"got shape {array.shape}"
        )
    return array


def _from_columns(labels: Any, columns: list[str], names: tuple[str, ...]) -> np.ndarray:
    _refuse_unknown(columns, names)
    arrays = [_real_numbers(labels[name], f"label {name!r}") for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 1:
            raise ValueError(f"label {name!r} must have one value per star, shape (star,); got shape {array.shape}")
        if array.size != arrays[0].size:
            raise ValueError(
                f"labels must have equal lengths; {names[0]!r} has {arrays[0].size} stars and {name!r} has {array.size}"
            )
    return np.stack(arrays, axis=1)


def _refuse_unknown(columns: list[str], names: tuple[str, ...]) -> None:
    for name in names:
        if name not in columns:
            near = get_close_matches(name, columns, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"the labels have no column {name!r}; the columns are {', '.join(columns)}{hint}")
        if columns.count(name) > 1:
            raise ValueError(f"the labels have {columns.count(name)} columns named {name!r}: rename all but one")


def _real_numbers(values: Any, what: str) -> np.ndarray:
    """Copy of the values in float64, NaN where they are masked."""
    mask: Any = None
    if hasattr(values, "isna") and not isinstance(values.dtype, np.dtype):
        mask = np.asarray(values.isna())
        array = np.where(mask, np.nan, np.asarray(values, dtype=object))
    else:
        if isinstance(getattr(values, "mask", None), np.ndarray | np.bool):
            mask = values.mask
        array = np.asarray(getattr(values, "unmasked", np.ma.getdata(values)))
    numeric = array.dtype.kind in "iuf"
    if array.dtype.kind == "O":
        numeric = not any(isinstance(value, str | bytes | bool | np.bool) for value in array.flat)
    try:
        if not numeric:
            raise TypeError
        real = array.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be real numbers, got {_kind(values, array)}") from None
    if mask is not None:
        real[np.broadcast_to(mask, real.shape)] = np.nan
    return real


def _kind(values: Any, array: np.ndarray) -> str:
    first = f", such as {array.flat[0]!r}" if array.size else ""
    return f"values of type {getattr(values, 'dtype', array.dtype)}{first}"


def _refuse_non_finite(array: np.ndarray, names: tuple[str, ...]) -> None:
    faults = []
    for name, column in zip(names, array.T, strict=True):
        rows = np.flatnonzero(~np.isfinite(column))
        if rows.size:
            shown = ", ".join(f"{row} ({column[row]})" for row in rows[:5]) + (", ..." if rows.size > 5 else "")
            faults.append(f"{name!r} at {rows.size} of {len(array)} stars: rows {shown}")
    if faults:
        found = "; ".join(faults)
        raise ValueError(f"labels must be finite, got NaN, masked or infinite {found}. Remove these stars")
