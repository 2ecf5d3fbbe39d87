"""Numbers as the conventions of netCDF (CF) pack them: scale, offset, and values that stand for what is missing."""

from collections.abc import Mapping
from functools import reduce
from itertools import chain
from typing import Any

import numpy as np
import xarray as xr

PACKED = frozenset({"scale_factor", "add_offset"})
"""Attributes of numbers that are not stored as they are."""
_DEFAULT_FILLS = {"f": 9.969209968386869e36, "i2": -32767, "i4": -2147483647, "i8": -9223372036854775806}
"""What netCDF puts where nothing was written, by type: it says so in no attribute."""


def unpacked(
    values: np.ndarray, attributes: Mapping[Any, Any], *, as_stored: bool = False
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Numbers ``values * scale_factor + add_offset``, and which of them are missing.

    Parameters
    ----------
    values
        Numbers as they are stored, of any shape.
    attributes
        Of the variable: ``scale_factor``, ``add_offset``, ``_FillValue``, ``missing_value``, ``valid_range`` or
        ``valid_min`` and ``valid_max``, ``_Unsigned``; all but the first two are about stored values (section 8.1 and
        2.5.1 of the CF conventions 1.11).
    as_stored
        Whether float32 that has neither scale nor offset stays float32.

    Returns
    -------
    numbers
        NaN where missing; float64 unless they stay as they are stored.
    missing
        Boolean. A NaN is missing only where the attributes say what stands for missing values.

    """
    values = np.asarray(values)
    if str(attributes.get("_Unsigned", "")).lower() == "true" and values.dtype.kind == "i":
        values = values.view(values.dtype.str.replace("i", "u"))
    given = [name for name in ("_FillValue", "missing_value") if name in attributes]
    with np.errstate(invalid="ignore", over="ignore"):
        fills = [np.asarray(attributes[name]).ravel().astype(values.dtype) for name in given]
    code = "f" if values.dtype.kind == "f" else values.dtype.str[1:]
    if "_FillValue" not in attributes and code in _DEFAULT_FILLS:
        fills.append(np.array([_DEFAULT_FILLS[code]], dtype=values.dtype))
    found = [values == fill for fill in chain(*fills)]  # np.isin takes twice as long for one.
    missing = reduce(np.logical_or, found) if found else np.zeros(values.shape, dtype=bool)
    low, high = np.ravel(attributes.get("valid_range", (-np.inf, np.inf)))
    low, high = attributes.get("valid_min", low), attributes.get("valid_max", high)
    # Spectra are large, and each of these passes over all of them.
    if low > -np.inf or high < np.inf:
        missing |= (values < low) | (values > high)
    if given:
        missing |= np.isnan(values)
    is_packed = bool(PACKED & {*attributes})
    if not (as_stored and values.dtype == np.float32 and not is_packed):
        values = values.astype(float)
    if is_packed:
        values = values * float(attributes.get("scale_factor", 1)) + float(attributes.get("add_offset", 0))
    return np.where(missing, values.dtype.type(np.nan), values) if missing.any() else values, missing


def numbers(variable: xr.Variable, *, as_stored: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """What `unpacked` makes of a variable; what holds no numbers stays as it is, and nothing of it is missing."""
    values = variable.to_numpy()
    if values.dtype.kind not in "fiu":
        return values, np.zeros(values.shape, dtype=bool)
    return unpacked(values, variable.attrs, as_stored=as_stored)


def whole_numbers(name: str, variable: xr.Variable) -> np.ndarray:
    """Numbers of which none may be missing: ValueError that names the first."""
    values, missing = numbers(variable)
    if missing.any():
        raise ValueError(f"{name} is missing at pixel {np.argmax(missing)}: it must be known everywhere")
    return values


def masked_flux(
    flux: xr.Variable, ivar: xr.Variable, *, as_stored: bool = False
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Flux and ivar, with ivar 0 wherever either is missing."""
    (one, no_flux), (other, no_ivar) = numbers(flux, as_stored=as_stored), numbers(ivar, as_stored=as_stored)
    if one.shape == other.shape and (missing := no_flux | no_ivar).any():
        other = np.where(missing, other.dtype.type(0), other)
    return one, other
