r"""Continuum normalization by a running mean, for spectra without a list of continuum pixels.

The continuum at a pixel is the mean of the flux around it, each number weighted by its ivar and its distance,

.. math:: c(\lambda) = \frac{\sum_j ivar_j\, w_j\, flux_j}{\sum_j ivar_j\, w_j}, \qquad
          w_j = e^{-(\lambda_j - \lambda)^2 / L^2}

(Ho et al. 2017, equation 1, with L = 50 Angstrom for LAMOST). It holds the lines, too, so that a normalized spectrum is
relative to its surroundings; all spectra of a model must be divided in the same way, with the same L. Ivar times a
constant changes nothing, and pixels with ivar 0 never count.
"""

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from bayes_cannon.core.continuum_input import checked_spectra, period

_REACH = 5.0
"""Distance in units of L beyond which a pixel does not count: its weight is below 2e-11."""


def running_mean(dispersion: Any, flux: Any, ivar: Any, L: Any = 50.0) -> np.ndarray:
    """The continuum of spectra, the mean of the flux around each pixel.

    Parameters
    ----------
    dispersion
        Wavelength of each pixel, in any order, shape (pixel,).
    flux, ivar
        Shape (star, pixel), or (pixel,) for one star; a pixel with ivar 0 does not count, whatever its flux.
    L
        Reach of the mean, in the unit of the wavelengths: a pixel at this distance counts 1/e of one that is near.

    Returns
    -------
    continuum
        Shape (star, pixel), in the unit of the flux; (1, pixel) for one star. NaN where no pixel within five L counts.

    Raises
    ------
    ValueError
        If shapes do not fit, ivar is negative, or L is not positive.

    Examples
    --------
    >>> wavelength = np.linspace(5000.0, 6000.0, 201)
    >>> continuum = tc.continuum.running_mean(wavelength, np.full(201, 3.0), np.ones(201), L=50)
    >>> float(continuum.min().round(9)), float(continuum.max().round(9))
    (3.0, 3.0)

    """
    wavelength, unit, flux, ivar = checked_spectra(dispersion, flux, ivar)
    weights = _weights(np.asarray(wavelength, dtype=float), period(L, unit))
    total = np.asarray((weights @ ivar.T).T)
    summed = np.asarray((weights @ (ivar * flux).T).T)
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)


def normalize_by_mean(
    dispersion: Any, flux: Any, ivar: Any, L: Any = 50.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Flux divided by the continuum c of `running_mean`, ``flux / c``, with ``ivar c^2``.

    Pixels without information come out with flux 1 and ivar 0: those of ivar zero, and those where the continuum is not
    positive. Parameters and errors are those of `running_mean`.

    Returns
    -------
    normalized_flux, normalized_ivar, continuum
        Shape (star, pixel); (1, pixel) for one star.

    Examples
    --------
    >>> wavelength = np.linspace(5000.0, 6000.0, 201)
    >>> flux, ivar, _ = tc.continuum.normalize_by_mean(wavelength, np.full(201, 3.0), np.ones(201))
    >>> float(flux.mean().round(9)), float(ivar.mean().round(9))
    (1.0, 9.0)

    """
    continuum = running_mean(dispersion, flux, ivar, L)
    _, _, flux, ivar = checked_spectra(dispersion, flux, ivar)
    usable = (continuum > 0) & (ivar > 0)
    divisor = np.where(usable, continuum, 1.0)
    return np.where(usable, flux / divisor, 1.0), np.where(usable, ivar * divisor**2, 0.0), continuum


def _weights(wavelength: np.ndarray, reach: float) -> csr_array:
    """The w of the pixels around each pixel, shape (pixel, other pixel)."""
    order = np.argsort(wavelength, kind="stable")
    ordered = wavelength[order]
    first = np.searchsorted(ordered, ordered - _REACH * reach, side="left")
    last = np.searchsorted(ordered, ordered + _REACH * reach, side="right")
    counts = last - first
    rows = np.repeat(np.arange(wavelength.size), counts)
    columns = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    values = np.exp(-(((ordered[columns] - ordered[rows]) / reach) ** 2))
    return csr_array((values, (order[rows], order[columns])), shape=(wavelength.size, wavelength.size))
