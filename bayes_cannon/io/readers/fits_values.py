"""Values that readers take from FITS headers and tables as they are: numbers, texts, units, log-linear wavelengths."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import isfinite, nan
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits


def number(header: Mapping[str, Any], *keys: str) -> float | int:
    """Value of the first of the cards that holds a finite number; NaN where none does."""
    for key in keys:
        value = header.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            return value
    return nan


def facts(header: Mapping[str, Any], keys: Iterable[str], *, suffix: str = "") -> dict[str, np.ndarray]:
    """Values of the cards that are there and filled, each of shape (1,), by their keys and the suffix."""
    found = {key: header.get(key) for key in keys}
    return {
        f"{key}{suffix}": np.array([value])
        for key, value in found.items()
        if isinstance(value, bool | int | float) or (isinstance(value, str) and value.strip() not in ("", "None"))
    }


def native(values: Any) -> np.ndarray:
    """The same numbers in the byte order of this computer."""
    array = np.asarray(values)
    return array.astype(array.dtype.newbyteorder("="))


def text(header: fits.Header, key: str) -> str:
    """Text of a card, empty where there is none."""
    value = header.get(key, "")
    return "" if isinstance(value, fits.card.Undefined) else str(value).strip()


def present(identifiers: Mapping[str, Iterable[str]]) -> dict[str, np.ndarray]:
    """Those identifiers that name something, each of shape (spectrum,)."""
    found = {name: np.array([str(value).strip() for value in values]) for name, values in identifiers.items()}
    return {name: values for name, values in found.items() if np.any(values != "")}


def log10_wavelengths(header: fits.Header, n_pixels: int, axis: str = "1") -> np.ndarray:
    """``10^(CRVAL + CDELT (p - CRPIX))`` for pixels p = 1, 2, ..., shape (pixel,)."""
    first, start, step = header.get(f"CRPIX{axis}", 1), header[f"CRVAL{axis}"], header[f"CDELT{axis}"]
    return _log10_wavelengths(n_pixels, float(first), float(start), float(step))


@lru_cache(maxsize=8)
def _log10_wavelengths(n_pixels: int, first: float, start: float, step: float) -> np.ndarray:
    """The same array for all files of a survey, which nobody may change."""
    wavelength = 10 ** (start + step * (np.arange(1, n_pixels + 1) - first))
    wavelength.flags.writeable = False
    return wavelength


def scalar_columns(table: fits.FITS_rec, without: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """Columns with one number a row, by their names, without some, whose names are compared in capitals."""
    left_out = {name.upper() for name in without}
    columns = {name: np.asarray(table[name]) for name in table.names if name.upper() not in left_out}
    return {name: native(v) for name, v in columns.items() if v.ndim == 1 and v.dtype.kind in "iuf"}


def column(table: fits.FITS_rec, name: str) -> np.ndarray | None:
    """Column by its name in any letters, None if there is none."""
    return table[name] if name.upper() in (known.upper() for known in table.names) else None


def spectrum_column(table: fits.FITS_rec, name: str) -> np.ndarray:
    """A column that holds one spectrum, a pixel a row or all pixels in one row, shape (pixel,).

    Raises
    ------
    ValueError
        If the table has no such column, or it holds several spectra.

    """
    found = column(table, name)
    if found is None:
        raise ValueError(f"there is no column {name} in {', '.join(table.names)}")
    values = native(found)
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 1:
        raise ValueError(f"the column {name} has shape {values.shape}, not that of one spectrum")
    return values


def whole_numbers(values: Any, what: str) -> np.ndarray:
    """Mask bits as whole numbers, which some files keep as floating-point numbers.

    Raises
    ------
    ValueError
        If one is not a whole number, with its place.

    """
    array = native(values)
    if array.dtype.kind in "iub":
        return array.astype(np.uint8) if array.dtype.kind == "b" else array
    wrong = np.argwhere(~(np.isfinite(array) & (array == np.rint(array))))
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise ValueError(f"{what} at {place} is {array[place]}: expected a whole number")
    return array.astype(np.int64)


@lru_cache
def flux_unit(said: str) -> str | None:
    """Unit of the flux in words that Astropy understands; as it stands where that cannot be found, None where empty.

    Examples
    --------
    >>> flux_unit("Flux (10^-17 erg/s/cm^2/Ang)")
    '1e-17 erg / (Angstrom s cm2)'

    """
    inside = re.fullmatch(r"\s*\w[\w ]*\((.*)\)\s*", said)
    bare = (inside[1] if inside else said).strip()
    numerator, *divisors = re.sub(r"\bAng\b", "Angstrom", re.sub(r"\bergs\b", "erg", bare)).split("/")
    try:
        unit = units.Unit(f"{numerator} / ({' '.join(divisors)})" if divisors else numerator)
    except (ValueError, TypeError):
        return bare or None
    return unit.to_string() or None
