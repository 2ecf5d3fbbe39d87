"""Batches of spectra: what is wrong with them, and the one shape that they are computed in."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import listed, shown
from bayes_cannon.core.intake import UnitWarning, flux_and_ivar
from bayes_cannon.core.warnings import warn_user


def spectra_rows(flux: Any, ivar: Any, unit: str | None = None) -> tuple[Any, Any]:
    """Both with the shape (star, pixel), a single spectrum being one star, with masks and units in (`core.intake`).

    What can be read a part at a time, a memory map or a Zarr array for example, is not read.

    Parameters
    ----------
    flux, ivar
        Any container of spectra.
    unit
        Unit of the model's flux as text, None where it is not known.

    Warns
    -----
    UnitWarning
        If the flux has a unit with a dimension, and that of the model is not known.

    Raises
    ------
    ValueError
        Where one is missing, is no real number, or has a unit that cannot be converted.

    """
    flux, ivar, found = flux_and_ivar(flux, ivar, unit=unit)
    if found and unit is None:
        warn_user(
            f"flux has the unit {found}, and the model does not know that of its own: the values are taken as they "
            "are. Train with spectra that have a unit, or normalize these",
            UnitWarning,
        )
    flux, ivar = (np.atleast_2d(np.asarray(array)) if len(array.shape) < 2 else array for array in (flux, ivar))
    return flux, ivar


def pairs_of_spectra(batches: Any) -> Iterator[tuple[Any, Any]]:
    """The pairs of flux and ivar of a stream; ValueError where an element is no pair, naming its place."""
    if not isinstance(batches, Iterable):
        raise ValueError(f"batches must give pairs of flux and ivar, got {shown(batches)}")
    for number, batch in enumerate(batches):
        pair = listed(batch)
        if pair is None or len(pair) != 2:
            raise ValueError(f"batches must give pairs of flux and ivar, got {shown(batch)} as batch {number}")
        yield pair[0], pair[1]


def native(array: np.ndarray) -> np.ndarray:
    """The array as float32 if it is that in any byte order, such as that of FITS files, and float64 otherwise."""
    array = np.asarray(array)
    return np.asarray(array, np.float32 if array.dtype.kind == "f" and array.dtype.itemsize == 4 else np.float64)


def check_batch(flux: np.ndarray, ivar: np.ndarray, n_pixels: int) -> None:
    """Raise ValueError unless both have shape (star, n_pixels)."""
    if np.ndim(flux) != 2 or np.shape(flux) != np.shape(ivar) or np.shape(flux)[1] != n_pixels:
        raise ValueError(
            f"flux and ivar must have shape (star, {n_pixels}), the pixels of theta; "
            f"got {np.shape(flux)} and {np.shape(ivar)}; write flux[None] for one star"
        )


COVARIANCES_PER_BATCH = 20_000_000
"""Numbers of the covariances of a batch, where each star brings one: 160 MB."""


def covariance_batch(size: int, n_pixels: int) -> int:
    """Stars of a batch where each brings the covariance of its noise: no more than this size."""
    return min(size, max(1, COVARIANCES_PER_BATCH // n_pixels**2))


def with_covariances(ivar: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ivar (star, pixel) and covariances of a batch; ivar is NaN for a star with numbers that are not finite."""
    noise = native(covariance)
    ivar = np.where(np.isfinite(noise).all(axis=(1, 2))[:, None], ivar, np.nan)
    return ivar, np.nan_to_num(noise, posinf=0.0, neginf=0.0)


def padded_batch(array: np.ndarray, size: int) -> np.ndarray:
    """The array with rows of zeros up to the size; ValueError if it has more."""
    if len(array) == size:
        return array
    if len(array) > size:
        raise ValueError(f"a batch has {len(array)} stars, more than batch_size = {size}")
    padded = np.zeros((size, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded
