"""Spectra as people hold them, as arrays: masks become ``ivar = 0``, units are converted, and nothing is dropped.

Containers are recognized by what they can do, not by their class, so that none of their packages is imported: NumPy's
masked arrays, astropy's Quantity, Masked, NDData and its uncertainties, specutils' Spectrum, pandas' Series and
DataFrame, xarray's DataArray, and anything that gives arrays when sliced, such as a memory map or a Zarr array.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import number, shown
from bayes_cannon.core.warnings import BayesCannonWarning, warn_user

_STAR_AND_PIXEL = ("star", "pixel")


class UnitWarning(BayesCannonWarning):
    """A unit is not known where one would be needed; what was taken for it is said."""


@dataclass(frozen=True)
class Values:
    """Numbers, where they are masked (None: nowhere), and their astropy unit (None: none is known)."""

    array: np.ndarray
    mask: np.ndarray | None = None
    unit: Any = None


def is_plain(values: Any) -> bool:
    """Whether the values can be read a part at a time: they have neither a mask nor a unit that could be lost."""
    if isinstance(values, np.ndarray):
        return type(values) in (np.ndarray, np.memmap) and values.dtype.kind in "fiu"
    lazy = all(hasattr(values, name) for name in ("shape", "dtype", "__getitem__"))
    meaning = ("mask", "unit", "uncertainty", "dims", "isna", "columns")
    return lazy and not any(hasattr(values, name) for name in meaning) and np.dtype(values.dtype).kind in "fiu"


def values_of(values: Any, what: str) -> Values:
    """Numbers, mask and unit of one container; float32 stays as it is, all else becomes float64.

    Raises
    ------
    ValueError
        For what is not real numbers, naming ``what``.

    """
    if hasattr(values, "uncertainty_type"):  # One of astropy's uncertainties.
        return _inverse_variance(values, what)
    unit = getattr(values, "unit", None)
    mask: Any = None
    if hasattr(values, "dims") and hasattr(values, "to_numpy"):  # A DataArray.
        if set(values.dims) == set(_STAR_AND_PIXEL):
            values = values.transpose(*_STAR_AND_PIXEL)
        array = values.to_numpy()
    elif hasattr(values, "isna") and hasattr(values, "to_numpy"):  # A Series or DataFrame.
        array, mask = _from_pandas(values)
    elif hasattr(values, "uncertainty") and hasattr(values, "data"):  # NDData, or a Spectrum.
        array, mask = np.asarray(values.data), values.mask
    else:
        mask = getattr(values, "mask", None)
        if not isinstance(mask, np.ndarray | np.bool):
            mask = None
        array = getattr(values, "unmasked", np.ma.getdata(values) if mask is not None else values)
        array = as_array(getattr(array, "value", array) if unit is not None else array, what)
    return Values(_real(array, what), as_mask(mask, np.shape(array), what), unit)


def real_numbers(values: Any, what: str) -> np.ndarray:
    """Copy of the values of one container in float64, NaN where they are masked; units are dropped.

    Raises
    ------
    ValueError
        For what is not real numbers, naming ``what``.

    """
    found = values_of(values, what)
    real = found.array.astype(np.float64)
    if found.mask is not None:
        real[found.mask] = np.nan
    return real


def as_array(values: Any, what: str) -> np.ndarray:
    """An array of whatever kind; ValueError for rows of different lengths, naming ``what``."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # Rows of different lengths, and whatever a class of its own raises.
        raise ValueError(f"{what} must be an array of real numbers, got {shown(values)}: {error}") from None


def chosen_rows(stars: Any, n_stars: int) -> np.ndarray | slice:
    """A mask, indices or a slice of the stars, checked.

    Raises
    ------
    ValueError
        For a mask of another length, indices of stars that are not there, and anything else.

    """
    if isinstance(stars, slice):
        return stars
    rows = as_array(stars, "stars")
    rows = rows.astype(int) if rows.shape == (0,) else rows
    is_mask = rows.dtype == bool
    if rows.ndim != 1 or rows.dtype.kind not in "biu" or (is_mask and rows.size != n_stars):
        raise ValueError(
            f"stars must be a mask of shape ({n_stars},), a list of indices or a slice; got {shown(stars)}"
        )
    outside = rows[:0] if is_mask else rows[(rows < -n_stars) | (rows >= n_stars)]
    if len(outside):
        raise ValueError(f"there is no star {outside[0]}: the rows are from 0 to {n_stars - 1}")
    return rows


def _from_pandas(values: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Numbers, and where pandas' own missing value stands; NaN is a number that is not finite, not a mask."""
    kinds = values.dtypes if hasattr(values, "columns") else [values.dtype]
    array = np.asarray(values.to_numpy(dtype=object) if len({str(kind) for kind in kinds}) > 1 else values.to_numpy())
    if array.dtype.kind != "O":
        return array, None
    own = np.array([value is None or type(value).__name__ == "NAType" for value in array.flat], bool)
    return np.where(own.reshape(array.shape), np.nan, array), own.reshape(array.shape)


def _real(array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype.kind == "O":
        wrong = next((value for value in array.flat if isinstance(value, str | bytes | bool | np.bool)), None)
    else:
        wrong = None if array.dtype.kind in "fiu" or not array.size else array.flat[0]
    if wrong is not None:
        raise ValueError(f"{what} must be real numbers, got values of type {array.dtype}, such as {wrong!r}")
    single = array.dtype.kind == "f" and array.dtype.itemsize == 4
    try:
        return np.asarray(array, np.float32 if single else np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be real numbers: {error}") from None


def as_mask(mask: Any, shape: tuple[int, ...], what: str) -> np.ndarray | None:
    """The mask as truth values of this shape, or None where nothing is masked."""
    if mask is None:
        return None
    found = np.asarray(mask)
    if found.dtype != bool:
        if found.dtype.kind not in "iu" or not np.isin(found, (0, 1)).all():
            raise ValueError(
                f"the mask of {what} must be True or False, got {found.dtype}, such as {found.flat[0]!r}: say which "
                "bits make a pixel bad, such as mask & bits != 0"
            )
        found = found.astype(bool)
    found = np.broadcast_to(found, shape)
    return found if found.any() else None


def _inverse_variance(uncertainty: Any, what: str) -> Values:
    """Inverse variance of one of astropy's uncertainties: ivar, var or std."""
    array, unit = _real(np.asarray(uncertainty.array), what), uncertainty.unit
    with np.errstate(divide="ignore"):
        if uncertainty.uncertainty_type == "ivar":
            return Values(array, None, unit)
        if uncertainty.uncertainty_type == "var":
            return Values(1 / array, None, None if unit is None else 1 / unit)
        if uncertainty.uncertainty_type == "std":
            return Values(1 / array**2, None, None if unit is None else 1 / unit**2)
    raise ValueError(f"{what} is an uncertainty of the kind {uncertainty.uncertainty_type!r}: give an inverse variance")


def flux_and_ivar(flux: Any, ivar: Any, *, unit: str | None = None, what: str = "") -> tuple[Any, Any, str | None]:
    """Flux and ivar as arrays, with ivar zero where either is masked, in the unit of the model.

    Parameters
    ----------
    flux, ivar
        Any of the containers above. Where ``flux`` has an uncertainty of its own, such as NDData, ivar may be None.
        An ivar without a unit belongs to the flux as it is given.
    unit
        Unit of the model's flux as text, empty for a flux without dimension; None where it is not known: a flux
        without dimension is then converted to a number, and one with a dimension stays in its own unit.
    what
        Prefix of the names in messages, such as ``"training_set_"``.

    Returns
    -------
    flux, ivar, unit
        Arrays, and the unit of the flux as text; None where none is known. What can be read a part at a time is handed
        through as it is.

    Warns
    -----
    UnitWarning
        If the unit of flux is not one, such as percent, and ivar has none.

    Raises
    ------
    ValueError
        For what is missing, no real numbers, and units that cannot be converted.

    """
    if ivar is None and getattr(flux, "uncertainty", None) is not None:
        ivar = flux.uncertainty
    if flux is None or ivar is None:
        raise ValueError(f"{what}flux and {what}ivar must both be given, got None")
    if is_plain(flux) and is_plain(ivar):
        return flux, ivar, unit
    y, w = values_of(flux, f"{what}flux"), values_of(ivar, f"{what}ivar")
    array, weight, found = _in_unit(y, w, unit, what)
    for mask in (y.mask, w.mask):
        if mask is not None:
            weight = np.where(mask, weight.dtype.type(0), weight)
    return array, weight, found


def _in_unit(y: Values, w: Values, unit: str | None, what: str) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Flux and ivar in the model's unit, and what that is."""
    if y.unit is None:
        factor = 1.0
        if w.unit is not None:
            factor = unit_factor(w.unit, _parsed(w.unit, unit or "") ** -2, f"{what}ivar")
        return y.array, _times(w.array, factor), unit
    target, found = unit, unit
    if unit is None:
        bare = y.unit**0
        target, found = (bare, "") if y.unit.is_equivalent(bare) else (y.unit, str(y.unit))
    factor = unit_factor(y.unit, target, f"{what}flux")
    own = y.unit**-2
    if w.unit is not None:
        inverse = unit_factor(w.unit, own, f"{what}ivar")
    else:
        inverse = 1.0
        if factor != 1:
            warn_user(f"{what}ivar has no unit: it is taken in {own}, as {what}flux is in {y.unit}", UnitWarning)
    return _times(y.array, factor), _times(w.array, inverse / factor**2), found


def _times(array: np.ndarray, factor: float) -> np.ndarray:
    """The array itself where the factor is one, so that no digit changes; else in float64."""
    return array if factor == 1 else array * np.float64(factor)


def _parsed(unit: Any, text: Any) -> Any:
    """A unit given as text, parsed by astropy, which is loaded where there is a unit at all."""
    if not isinstance(text, str):
        return text
    return type(1 * unit)(1, text).unit


def unit_factor(unit: Any, target: Any, what: str) -> float:
    """Factor from one unit to another."""
    try:
        target = _parsed(unit, target)
        factor = float(unit.to(target))
    except (TypeError, ValueError) as error:  # astropy's UnitConversionError is both
        names = [str(one) or "1 (without dimension)" for one in (unit, target)]
        raise ValueError(f"{what} has the unit {names[0]}, which cannot be converted to {names[1]}: {error}") from None
    return 1.0 if abs(factor - 1) < 1e-14 else factor


def in_unit(values: Any, unit: str | None, what: str) -> tuple[np.ndarray, str | None]:
    """Values of a Quantity in a unit given as text, and that unit; plain values are taken to be in it already.

    Parameters
    ----------
    values
        Numbers, with a unit or without.
    unit
        The unit wanted; None: the values' own.
    what
        Their name in messages.

    Raises
    ------
    ValueError
        For masked values, and a unit that cannot be converted.

    """
    found = Values(np.asarray(values)) if is_plain(values) else values_of(values, what)
    if found.mask is not None:
        raise ValueError(f"{what} must not be masked: {int(found.mask.sum())} values are")
    if found.unit is None:
        return found.array, unit
    if unit is None:
        return found.array, str(found.unit)
    return _times(found.array, unit_factor(found.unit, unit, what)), unit


def wavelength_bound(value: Any, open_end: float, unit: str | None) -> float:
    """End of a region in the unit of the wavelengths; None is an open end.

    Raises
    ------
    ValueError
        If it has a unit and the wavelengths have none, or one that cannot be converted.

    """
    if value is None:
        return open_end
    end, own = in_unit(value, unit, "the end of a region")
    if own is not None and unit is None:
        raise ValueError(f"a region in {own} needs wavelengths that have a unit, too: that of their numbers is unknown")
    return number(end)
