"""Labels as people hold them, as one array: (star, label) in float64, every value finite, columns in a known order.

A container with named columns (structured array, mapping, astropy Table, pandas DataFrame) is recognized by what it can
do, not by its class, so that neither astropy nor pandas is imported here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import texts
from bayes_cannon.core.intake import real_numbers, unit_factor
from bayes_cannon.core.warnings import stars_text

SENTINELS = (-32768.0, -9999.99, -9999.9, -9999.0, -999.99, -999.9, -999.0, -99.99, -99.9, -99.0,
             99.0, 99.9, 99.99, 999.0, 999.9, 999.99, 9999.0, 9999.9, 9999.99, 32767.0)  # fmt: skip
"""What surveys write for a value that is not known."""


def label_array(labels: Any, label_names: Sequence[str], units: Mapping[str, str] | None = None) -> np.ndarray:
    """Labels as an array whose columns stand in the order of ``label_names``.

    Parameters
    ----------
    labels
        One of: an array of shape (star, label), whose columns stand in the order of ``label_names``; an array of shape
        (star,), if there is one label; a structured array, a mapping from names to arrays of shape (star,), an astropy
        Table, a pandas DataFrame or an xarray object, whose columns are chosen by name and may be more than needed.
    label_names
        Names of the labels.
    units
        Unit that a label is wanted in, as text, by name; a column that has a unit is converted to it. Other columns are
        taken in the unit that they have.

    Returns
    -------
    array
        Shape (star, label), float64, finite; a copy.

    Raises
    ------
    ValueError
        If a name is missing, asked for twice or borne by two columns, for a wrong shape or columns of different
        length, for values that are not real numbers, for values that are masked, NaN or infinite, for units that cannot
        be converted, and for values such as -9999 that stand for a missing one (`sentinels`).

    Examples
    --------
    >>> from bayes_cannon.core.labels import label_array
    >>> label_array({"FE_H": [-0.5, 0.1], "SNR": [80, 120], "TEFF": [4500, 5000]}, ("TEFF", "FE_H"))
    array([[ 4.5e+03, -5.0e-01],
           [ 5.0e+03,  1.0e-01]])

    """
    names = _checked_names(label_names)
    labels = _by_name(labels, names)
    columns = _column_names(labels)
    array = _from_plain(labels, names) if columns is None else _from_columns(labels, columns, names, units or {})
    if len(array) == 0:
        raise ValueError(f"labels hold no star, got shape {array.shape}")
    _refuse_non_finite(array, names)
    _refuse_sentinels(array, names)
    return array


def label_rows(
    labels: Any, label_names: Sequence[str], units: Mapping[str, str] | None = None, what: str = "labels"
) -> np.ndarray:
    """Labels of one star or of several as float rows, shape (star, label); NaN is allowed.

    Parameters
    ----------
    labels
        As for `label_array`, whose columns are found by name in the same way; an array of one star, shape (label,), and
        a mapping of single numbers are one row. Masked values are NaN.
    label_names, units
        As for `label_array`.
    what
        Their name in messages.

    Raises
    ------
    ValueError
        For any other shape, and as `label_array` but for values that are not finite.

    """
    names = _checked_names(label_names)
    labels = _by_name(labels, names)
    columns = _column_names(labels)
    if columns is not None:
        _refuse_unknown(columns, names)
        if all(np.ndim(labels[name]) == 0 for name in names):  # One star.
            return np.array([[float(_in_unit(labels[name], (units or {}).get(name), name)) for name in names]])
        return _from_columns(labels, columns, names, units or {})
    rows = np.atleast_2d(real_numbers(labels, what))
    if rows.ndim != 2 or rows.shape[1] != len(names):
        raise ValueError(
            f"{what} must have shape (star, {len(names)}) for {', '.join(names)}; got shape {np.shape(labels)}"
        )
    return rows


def sentinels(values: np.ndarray) -> np.ndarray:
    """Where a column holds a number such as -9999 that surveys write for a value that is not known, boolean, (star,).

    It counts as one if it lies farther from all other values than these do from each other (thrice as far for numbers
    of two digits), so that a velocity of -99 km/s among others is none.
    """
    known = np.isfinite(values)
    like = known & np.isclose(values[:, None], SENTINELS, rtol=1e-6, atol=0).any(axis=1)
    others = values[known & ~like]
    if not like.any() or not others.size:
        return np.zeros(len(values), bool)
    low, high = others.min(), others.max()
    beyond = np.maximum(low - values, values - high)
    factor = np.where(np.abs(values) >= 900, 1.0, 3.0)
    return like & (beyond > factor * max(high - low, np.finfo(float).tiny))


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
    labels = _by_name(labels, names)
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


def _by_name(labels: Any, names: tuple[str, ...]) -> Any:
    """A labelled array with the names along one axis, or a row with names, as a mapping; all else as it is."""
    if hasattr(labels, "dims") and hasattr(labels, "coords") and not isinstance(labels, Mapping):  # A DataArray.
        axis = next((str(dim) for dim in labels.dims if dim in labels.coords and _holds(labels[dim], names)), None)
        if axis is not None:
            return {name: labels.sel({axis: name}).to_numpy() for name in names}
        return labels.to_numpy()
    if hasattr(labels, "index") and hasattr(labels, "isna") and not hasattr(labels, "columns"):  # A Series.
        return {str(name): labels[name] for name in labels.index} if _holds(labels.index, names) else labels
    return labels


def _holds(values: Any, names: tuple[str, ...]) -> bool:
    return set(names) <= {str(value) for value in np.asarray(values).tolist()}


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
    names = texts(label_names, "label_names")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"label_names must be distinct; {repeated[0]!r} occurs more than once in {names}")
    if not names:
        raise ValueError("label_names is empty: name at least one label")
    return names


def _from_plain(labels: Any, names: tuple[str, ...]) -> np.ndarray:
    array = real_numbers(labels, "labels")
    if array.ndim == 1 and len(names) == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != len(names):
        raise ValueError(
            f"labels must have shape (star, {len(names)}), one column for each of {', '.join(names)}; "
            f"got shape {array.shape}"
        )
    return array


def _from_columns(labels: Any, columns: list[str], names: tuple[str, ...], units: Mapping[str, str]) -> np.ndarray:
    _refuse_unknown(columns, names)
    arrays = [_in_unit(labels[name], units.get(name), f"label {name!r}") for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 1:
            raise ValueError(f"label {name!r} must have one value per star, shape (star,); got shape {array.shape}")
        if array.size != arrays[0].size:
            raise ValueError(
                f"labels must have equal lengths; {names[0]!r} has {arrays[0].size} stars and {name!r} has {array.size}"
            )
    return np.stack(arrays, axis=1)


def _in_unit(values: Any, unit: str | None, what: str) -> np.ndarray:
    """Numbers of one column, converted where it has a unit and another is wanted."""
    array, own = real_numbers(values, what), getattr(values, "unit", None)
    same = own is None or not unit or str(own) in ("", unit) or ("dex" in str(own) and "dex" in unit)
    return array if same else array * unit_factor(own, unit, what)


def _refuse_unknown(columns: list[str], names: tuple[str, ...]) -> None:
    for name in names:
        if name not in columns:
            near = get_close_matches(name, columns, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"the labels have no column {name!r}; the columns are {', '.join(columns)}{hint}")
        if columns.count(name) > 1:
            raise ValueError(f"the labels have {columns.count(name)} columns named {name!r}: rename all but one")


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


def _refuse_sentinels(array: np.ndarray, names: tuple[str, ...]) -> None:
    for name, column in zip(names, array.T, strict=True):
        missing = sentinels(column)
        if missing.any():
            raise ValueError(
                f"label {name!r} is {column[missing][0]:g} at {stars_text(missing)}, far from all others: surveys "
                "write that for a value that is not known. Remove these stars"
            )
