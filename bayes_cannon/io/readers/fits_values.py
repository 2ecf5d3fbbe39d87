"""Values that readers take from FITS headers and tables as they are: numbers, texts, units, log-linear wavelengths."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
from astropy import units
from astropy.io import fits


def number(header: fits.Header, key: str) -> float | int:
    """Number of a card; NaN where there is none."""
    value = header.get(key)
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return value if is_number else np.nan


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
    return {
        name: values.astype(values.dtype.newbyteorder("="))
        for name, values in columns.items()
        if values.ndim == 1 and values.dtype.kind in "iuf"
    }


def column(table: fits.FITS_rec, name: str) -> np.ndarray | None:
    """Column by its name in any letters, None if there is none."""
    return table[name] if name.upper() in (known.upper() for known in table.names) else None


def whole_numbers(values: np.ndarray, what: str) -> np.ndarray:
    """Mask bits that a file keeps as floating-point numbers.

    Raises
    ------
    ValueError
        If one is not a whole number, with its place.

    """
    values = np.asarray(values)
    if values.dtype.kind in "iu":
        return values
    wrong = np.argwhere(~(np.isfinite(values) & (values == np.round(values))))
    if len(wrong):
        raise ValueError(f"{what} at {tuple(wrong[0].tolist())} is {values[tuple(wrong[0])]}: expected a whole number")
    return values.astype(np.int64)


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
