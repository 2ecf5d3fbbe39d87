r"""Continuum normalization by a sum of sines and cosines, fitted to continuum pixels.

In every region the continuum of a star is

.. math:: c(\lambda) = a_0 + \sum_{o=1}^{O} a_{2o-1} \cos(2\pi o\lambda / L) + a_{2o} \sin(2\pi o\lambda / L)

whose 2 O + 1 amplitudes minimize :math:`\sum_j ivar_j (flux_j - c(\lambda_j))^2` over the continuum pixels of the
region. So the continuum is linear in the flux, and ivar times a constant changes nothing.

A region is shorter than L as a rule, so that its sines and cosines are nearly dependent: their normal equations would
lose all digits. Here they are written in the singular vectors of the region's design matrix, which are the same
functions in an orthonormal mixture, and one step of iterative refinement follows. The equations of all stars then are
two matrix products. Unlike the original package, no ridge pulls the amplitudes towards zero.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from bayes_cannon.core.arguments import real_number
from bayes_cannon.core.continuum_input import ContinuumRegion, checked_spectra, continuum_regions, period
from bayes_cannon.core.warnings import (
    ContinuumNotDeterminedWarning,
    ContinuumNotPositiveWarning,
    PixelsOutsideRegionsWarning,
    stars_text,
    warn_user,
)

if TYPE_CHECKING:  # What reads survey files must not load JAX.
    from bayes_cannon.core.typing import Record

SINGULAR = 1e-12
"""Smallest eigenvalue, relative to the largest, of normal equations that count as solvable."""


class ContinuumStatus(IntEnum):
    """How the continuum fit of one star in one region ended."""

    FITTED = 0
    NOT_POSITIVE = 1
    TOO_FEW_PIXELS = 2
    DEGENERATE = 3

    @property
    def message(self) -> str:
        """What happened, and what to do about it."""
        return _MESSAGES[self]

    @property
    def has_solution(self) -> bool:
        """Whether the amplitudes are numbers."""
        return self in (ContinuumStatus.FITTED, ContinuumStatus.NOT_POSITIVE)


_MESSAGES = {
    ContinuumStatus.FITTED: "fitted",
    ContinuumStatus.NOT_POSITIVE: "fitted, but zero or negative at n_not_positive pixels of positive ivar, where "
    "normalize sets flux 1 and ivar 0; look at the spectrum, or lower the order",
    ContinuumStatus.TOO_FEW_PIXELS: "fewer continuum pixels with a positive ivar than amplitudes: no continuum, and "
    "normalize sets flux 1 and ivar 0 in the region; name more continuum pixels or lower the order",
    ContinuumStatus.DEGENERATE: "the continuum pixels with a positive ivar lie too close together to determine the "
    "amplitudes: no continuum, and normalize sets flux 1 and ivar 0 in the region; name more or lower the order",
}


@dataclass(frozen=True)
class _Fit:
    """Fits of all stars in one region."""

    continuum: np.ndarray
    """Shape (star, region pixel)."""
    amplitudes: np.ndarray
    condition_number: np.ndarray
    n_pixels: np.ndarray
    degenerate: np.ndarray


def sines_and_cosines(
    dispersion: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    continuum_pixels: np.ndarray,
    L: float = 1400,
    order: int = 3,
    regions: Sequence | None = None,
    fill_value: float = 1.0,
) -> tuple[np.ndarray, "list[list[Record]]"]:
    r"""Continuum :math:`a_0 + \sum_o a_{2o-1} \cos(2\pi o\lambda/L) + a_{2o} \sin(2\pi o\lambda/L)` of each star.

    Parameters
    ----------
    dispersion
        Wavelengths, shape (pixel,), in any unit and order. Overlapping orders of an echelle spectrograph have continua
        of their own: normalize them one by one.
    flux, ivar
        Flux in any unit and its inverse variance, shape (pixel,) for one star or (star, pixel) for many. Flux where
        ivar is zero does not matter. Flux that is NaN or infinite although ivar is positive counts as ivar zero, with
        a warning.
    continuum_pixels
        Which pixels show the continuum: a boolean mask of shape (pixel,), or integer indices in any order, each of
        which counts once.
    L
        Longest period of the sines and cosines, in the unit of ``dispersion``; Quantities are converted to it, and so
        are those in ``regions``.
    order
        Number O of sines, and of cosines.
    regions
        Pairs ``(start, end)``, both ends included, in the unit of ``dispersion``, that are fitted one by one; None is
        an open end. By default one region, the whole spectrum.
    fill_value
        Continuum of pixels that have none: those in no region, and those of a star in a region that its continuum
        pixels do not determine.

    Returns
    -------
    continuum
        Shape (star, pixel), in the unit of ``flux``; always two-dimensional, (1, pixel) for one star.
    metadata
        For every star a list with one mapping for every region: ``order``, ``L``, ``fill_value``, ``region`` (start
        and end), ``n_pixels`` (continuum pixels of positive ivar), ``amplitudes`` (2 O + 1, constant first; NaN where
        there is no solution), ``condition_number`` (of the weighted design matrix), ``n_not_positive`` (pixels of
        positive ivar where the continuum is not positive), ``status`` (`ContinuumStatus`) and ``message``.

    Raises
    ------
    ValueError
        For wrong shapes, a dispersion that is not finite, ivar that is NaN, infinite or negative,
        continuum pixels that are neither a mask nor indices of pixels, L that is not positive, order below 1, and
        regions that are reversed, empty, share a pixel or hold fewer continuum pixels than amplitudes. What is amiss
        with single stars is a status in the metadata, and a `ContinuumWarning` if data are lost.

    Examples
    --------
    >>> wavelength = np.linspace(5000.0, 6000.0, 201)
    >>> flux, ivar = 3 + 0.5 * np.cos(2 * np.pi * wavelength / 1400), np.ones(201)
    >>> continuum, metadata = tc.continuum.sines_and_cosines(wavelength, flux, ivar, np.arange(0, 201, 4), order=1)
    >>> continuum.shape, bool(np.allclose(continuum, flux))
    ((1, 201), True)
    >>> metadata[0][0]["message"]
    'fitted'
    >>> metadata[0][0]["amplitudes"][:2].round(3)
    array([3. , 0.5])

    """
    wavelength, unit, flux, ivar = checked_spectra(dispersion, flux, ivar)
    L = period(L, unit)
    sections = continuum_regions(wavelength, continuum_pixels, L, order, regions, unit)
    continuum, _, metadata = _fit_all(wavelength, flux, ivar, sections, L, order, fill_value)
    return continuum, metadata


def normalize(
    dispersion: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    continuum_pixels: np.ndarray,
    L: float = 1400,
    order: int = 3,
    regions: Sequence | None = None,
    fill_value: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, "list[list[Record]]"]:
    """Flux divided by the continuum c of `sines_and_cosines`, ``flux / c``, with ``ivar c^2``.

    Pixels without information come out with flux 1 and ivar 0: those of ivar zero, those where the continuum is not
    positive, and those in regions where a star's continuum is not determined. Pixels in no region are divided by
    ``fill_value``; let it be NaN to drop them.

    Parameters, errors and warnings are those of `sines_and_cosines`.

    Returns
    -------
    normalized_flux, normalized_ivar
        Shape (star, pixel), dimensionless, finite; (1, pixel) for one star.
    continuum, metadata
        As `sines_and_cosines` returns them.

    Examples
    --------
    >>> wavelength = np.linspace(5000.0, 6000.0, 201)
    >>> line = 0.4 * np.exp(-0.5 * ((wavelength - 5500) / 5) ** 2)
    >>> continuum = 3 + 0.5 * np.cos(2 * np.pi * wavelength / 1400)
    >>> normalized_flux, normalized_ivar, *_ = tc.continuum.normalize(
    ...     wavelength, continuum * (1 - line), np.ones(201), continuum_pixels=line < 1e-6, order=1
    ... )
    >>> float(normalized_flux.min().round(3)), bool(np.allclose(normalized_ivar, continuum**2))
    (0.6, True)

    """
    wavelength, unit, flux, ivar = checked_spectra(dispersion, flux, ivar)
    L = period(L, unit)
    sections = continuum_regions(wavelength, continuum_pixels, L, order, regions, unit)
    continuum, determined, metadata = _fit_all(wavelength, flux, ivar, sections, L, order, fill_value)
    usable = determined & (continuum > 0) & (ivar > 0)
    divisor = np.where(usable, continuum, 1.0)
    normalized_flux = np.where(usable, flux / divisor, 1.0)
    normalized_ivar = np.where(usable, divisor**2 * ivar, 0.0)
    return normalized_flux, normalized_ivar, continuum, metadata


def _fit(region: ContinuumRegion, flux: np.ndarray, ivar: np.ndarray) -> _Fit:
    """Weighted least squares of all stars; flux and ivar of the region's pixels, shape (star, region pixel).

    With B the basis at the continuum pixels and w the ivar over its largest value, the coefficients of a star solve
    ``(B^T w B) x = B^T w y``. The eigenvectors of the matrix on the left give x, and the condition number.
    """
    y, weight = flux[:, region.continuum], ivar[:, region.continuum]
    n_pixels = (weight > 0).sum(axis=1)
    largest = weight.max(axis=1, keepdims=True)
    weight = weight / np.where(largest > 0, largest, 1.0)
    basis = region.basis[region.continuum]
    n_functions = basis.shape[1]
    products = (basis[:, :, None] * basis[:, None, :]).reshape(len(basis), -1)
    normal = (weight @ products).reshape(-1, n_functions, n_functions)
    eigenvalues, vectors = np.linalg.eigh(normal)
    degenerate = ~(eigenvalues[:, 0] > SINGULAR * eigenvalues[:, -1])
    safe = np.where(degenerate[:, None], np.inf, eigenvalues)

    def solve(right: np.ndarray) -> np.ndarray:
        rotated = np.einsum("nij,ni->nj", vectors, right) / safe
        return np.einsum("nij,nj->ni", vectors, rotated)

    x = solve((weight * y) @ basis)
    x += solve((weight * (y - x @ basis.T)) @ basis)
    root = np.sqrt(np.where(degenerate[:, None], 1.0, eigenvalues))[:, :, None] * vectors.mT
    condition = np.linalg.cond(root * region.singular_values)
    return _Fit(
        continuum=x @ region.basis.T,
        amplitudes=(x / region.singular_values) @ region.rotation,
        condition_number=np.where(degenerate, np.inf, condition),
        n_pixels=n_pixels,
        degenerate=degenerate,
    )


def _fit_all(
    wavelength: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    sections: list[ContinuumRegion],
    L: float,
    order: int,
    fill_value: float,
) -> tuple[np.ndarray, np.ndarray, "list[list[Record]]"]:
    """Continuum, whether it is determined (both (star, pixel)), and metadata; warns of everything that is amiss."""
    continuum = np.full(flux.shape, real_number(fill_value, "fill_value"))
    determined = np.ones(flux.shape, dtype=bool)
    metadata: "list[list[Record]]" = [[] for _ in flux]
    for region in sections:
        pixels = region.pixels
        fit = _fit(region, flux[:, pixels], ivar[:, pixels])
        too_few = fit.n_pixels < 2 * order + 1
        solved = ~(too_few | fit.degenerate)
        continuum[:, pixels] = np.where(solved[:, None], fit.continuum, fill_value)
        determined[:, pixels] = solved[:, None]
        known = ivar[:, pixels] > 0
        not_positive = (known & solved[:, None] & ~(fit.continuum > 0)).sum(axis=1)
        status = np.select(
            [too_few, fit.degenerate, not_positive > 0],
            [ContinuumStatus.TOO_FEW_PIXELS, ContinuumStatus.DEGENERATE, ContinuumStatus.NOT_POSITIVE],
            ContinuumStatus.FITTED,
        )
        fixed = {"order": order, "L": L, "fill_value": fill_value, "region": region.bounds}
        for records, fitted in zip(metadata, _records(fit, status, not_positive), strict=True):
            records.append(fixed | fitted)
        _warn_of_region(region, ~solved & known.any(axis=1), not_positive)
    _warn_of_pixels_outside(wavelength, ivar, sections, fill_value)
    return continuum, determined, metadata


def _records(fit: _Fit, status: np.ndarray, not_positive: np.ndarray) -> "Iterator[Record]":
    """What is told of each star in one region."""
    for star, code in enumerate(status):
        ended = ContinuumStatus(code)
        yield {
            "n_pixels": int(fit.n_pixels[star]),
            "amplitudes": fit.amplitudes[star] if ended.has_solution else np.full_like(fit.amplitudes[star], np.nan),
            "condition_number": float(fit.condition_number[star]) if ended.has_solution else np.inf,
            "n_not_positive": int(not_positive[star]),
            "status": ended,
            "message": ended.message,
        }


def _warn_of_region(region: ContinuumRegion, undetermined: np.ndarray, not_positive: np.ndarray) -> None:
    where = f"in the region {region.bounds[0]} to {region.bounds[1]}"
    if undetermined.any():
        warn_user(
            f"{where} too few continuum pixels of positive ivar determine the continuum of {stars_text(undetermined)}: "
            "it is fill_value, and normalize sets flux 1 and ivar 0 there; the metadata hold the reason for each star",
            ContinuumNotDeterminedWarning,
        )
    if not_positive.any():
        warn_user(
            f"{where} the continuum is zero or negative at {not_positive.sum()} pixels of positive ivar, in "
            f"{stars_text(not_positive > 0)}: normalize sets flux 1 and ivar 0 there",
            ContinuumNotPositiveWarning,
        )


def _warn_of_pixels_outside(
    wavelength: np.ndarray, ivar: np.ndarray, sections: list[ContinuumRegion], fill_value: float
) -> None:
    outside = np.ones(wavelength.size, dtype=bool)
    for region in sections:
        outside[region.pixels] = False
    lost = (ivar > 0) & outside
    if not lost.any():
        return
    pixels = np.flatnonzero(lost.any(axis=0))
    runs = np.split(pixels, np.flatnonzero(np.diff(pixels) > 1) + 1)
    listed = ", ".join(f"{wavelength[run[0]]} to {wavelength[run[-1]]} ({run.size} pixels)" for run in runs[:5])
    fate = "they are divided by it" if fill_value > 0 else "normalize sets flux 1 and ivar 0 there"
    warn_user(
        f"{pixels.size} pixels of positive ivar lie in no region, in {stars_text(lost.any(axis=1))}: "
        f"{listed}{', ...' if len(runs) > 5 else ''}. Their continuum is fill_value = {fill_value}; {fate}",
        PixelsOutsideRegionsWarning,
    )
