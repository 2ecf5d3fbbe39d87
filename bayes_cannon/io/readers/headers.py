"""Facts and arrays of FITS files as `SurveySpectra` takes them."""

import math
from collections.abc import Iterable

import numpy as np
from astropy.io import fits


def facts(header: fits.Header, keywords: Iterable[str], *, suffix: str = "") -> dict[str, np.ndarray]:
    """Values of the keywords that the header has and fills, each of shape (1,), by keyword and suffix."""
    found = {keyword: header.get(keyword) for keyword in keywords}
    return {
        f"{keyword}{suffix}": np.array([value])
        for keyword, value in found.items()
        if isinstance(value, bool | int | float) or (isinstance(value, str) and value.strip() not in ("", "None"))
    }


def number(header: fits.Header, *keywords: str) -> float:
    """Value of the first of the keywords that holds a finite number, NaN if none does."""
    for keyword in keywords:
        value = header.get(keyword)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return math.nan


def native(values: np.ndarray) -> np.ndarray:
    """The same numbers in the byte order of this computer."""
    array = np.asarray(values)
    return array.astype(array.dtype.newbyteorder("="))


def spectrum_column(table: fits.FITS_rec, name: str) -> np.ndarray:
    """A column that holds one spectrum, a pixel a row or all pixels in one row, shape (pixel,).

    Raises
    ------
    ValueError
        If the table has no such column, or it holds several spectra.

    """
    by_capitals = {column.upper(): column for column in table.names}
    if name not in by_capitals:
        raise ValueError(f"there is no column {name} in {', '.join(table.names)}")
    values = native(table[by_capitals[name]])
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 1:
        raise ValueError(f"the column {name} has shape {values.shape}, not that of one spectrum")
    return values


def whole(values: np.ndarray) -> np.ndarray:
    """Mask bits as whole numbers, which some files keep as floats.

    Raises
    ------
    ValueError
        If one is no whole number.

    """
    array = native(values)
    if array.dtype.kind in "iub":
        return array.astype(np.uint8) if array.dtype.kind == "b" else array
    broken = np.argwhere(array != np.rint(array))
    if broken.size:
        place = tuple(int(k) for k in broken[0])
        raise ValueError(f"the mask is {array[place]} at {place}: expected whole numbers")
    return array.astype(np.int32)
