r"""Flux-conserving resampling: from the pixels of a spectrum to those of another grid, once, by a sparse matrix.

With :math:`l_{ji}` the length that new pixel j and old pixel i have in common, and the good pixels i of a spectrum,
those with ivar > 0,

.. math:: W_{ji} = \frac{l_{ji}}{\sum_{i'\,\mathrm{good}} l_{ji'}}, \qquad y' = W y, \qquad
          \mathrm{var}'_j = \sum_i W_{ji}^2\, \mathrm{var}_i, \qquad C' = W C W^T

(Carnall 2017, arXiv:1705.05165, for spectra without bad pixels: the sum is then the width of the new pixel, and the
integral of the flux density is conserved). Neighbouring new pixels share old ones, so that their noise is correlated:
:math:`C'` is banded.

A bad pixel takes no part, whatever its flux. A new pixel has ivar = 0 where less than `GOOD_SHARE` of its width is
good: what is left is an average over the rest of the pixel, whose centre is off by up to half of what is missing. Nor
is anything made up at the ends: it has ivar = 0 where less than `INSIDE` of it lies within the pixels of the spectrum.
The flux there is 0.

A shift to rest is this matrix at shifted edges. A flux density is not multiplied by the Doppler factor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy.sparse import csr_array, diags_array

from bayes_cannon.core.checks import check_spectra
from bayes_cannon.core.grids import Cells, Grid, cells, checked_wavelength, grid_of, pixel_bounds
from bayes_cannon.core.intake import in_unit
from bayes_cannon.core.wavelengths import Medium, air_to_vacuum, doppler_factor, vacuum_to_air

GOOD_SHARE = 0.9
"""Of the width of a new pixel, what good pixels must cover."""
INSIDE = 0.999
"""Of the width of a new pixel, what must lie within the spectrum; edges are known to a thousandth of a pixel."""
_ENOUGH = GOOD_SHARE - 1e-9
_TOGETHER = 64
"""Spectra that one product is made of, so that copies stay small."""


@dataclass(frozen=True, eq=False)
class Overlap:
    """What the pixels of a spectrum and of a grid have in common.

    Attributes
    ----------
    share
        Of the width of a new pixel that an old one covers, sparse, shape (new pixel, old pixel).

    """

    share: csr_array

    @cached_property
    def squared(self) -> csr_array:
        """Squares of the shares."""
        return csr_array((self.share.data**2, self.share.indices, self.share.indptr), self.share.shape)

    @cached_property
    def inside(self) -> np.ndarray:
        """Which new pixels lie within the spectrum, shape (new pixel,)."""
        return self.share @ np.ones(self.share.shape[1]) >= INSIDE


def resample(
    flux: Any,
    ivar: Any,
    wavelength: Any,
    grid: Any,
    *,
    velocity: Any = 0.0,
    log_linear: bool = False,
    medium: Medium | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Spectra on another grid, conserving flux, and at rest if a velocity is given: one interpolation for both.

    Parameters
    ----------
    flux, ivar
        Flux density and its inverse variance, shape (star, pixel), or (pixel,) of one spectrum. Where ivar is 0 the
        flux does not matter.
    wavelength
        Centre of each pixel, Angstrom or a Quantity, rising or falling throughout, shape (pixel,).
    grid
        What `core.grids.grid_of` takes: a name such as ``"apogee"``, a rule ``(first, last, step)``, or wavelengths.
    velocity
        Radial velocity, km/s, positive when receding, one number or one a star; wavelengths are divided by 1 + v / c.
    log_linear
        Whether the pixels of the spectra are of one width in ln(wavelength): where the edges between them are.
    medium
        Of the wavelengths of the spectra, "vacuum" or "air". They are converted if that of the grid is known to be the
        other one; None: nothing is converted.

    Returns
    -------
    flux, ivar
        On the grid, shape (star, new pixel) or (new pixel,). See `bayes_cannon.core.resampling` for the formula and for
        what becomes of masked pixels and of the ends: ivar = 0. Errors of neighbouring pixels are now correlated.

    Raises
    ------
    ValueError
        For shapes that differ, wavelengths that turn, a velocity that is not finite, ivar that is negative or not
        finite, and flux that is not finite where ivar is positive.

    Examples
    --------
    >>> wavelength, flux = 5000.0 + np.arange(4), np.array([1.0, 3.0, 5.0, 7.0])
    >>> tc.io.resample(flux, np.full(4, 4.0), wavelength, (5000.5, 5002.5, 2))
    (array([2., 6.]), array([8., 8.]))

    """
    if medium not in (None, "vacuum", "air"):
        raise ValueError(f"medium must be 'vacuum', 'air' or None for not known, got {medium!r}")
    one = np.ndim(flux) == 1
    y, w = check_spectra(flux, ivar)
    centres, turned = rising(in_unit(wavelength, "Angstrom", "wavelength")[0])
    if centres.size != y.shape[1]:
        raise ValueError(f"wavelength has {centres.size} pixels, flux {y.shape[1]}")
    try:
        doppler = np.broadcast_to(doppler_factor(velocity), len(y))
    except ValueError as error:
        if "broadcast" not in str(error):
            raise
        raise ValueError(
            f"velocity has shape {np.shape(velocity)}: give one number, or one for each of {len(y)}"
        ) from None
    if turned:
        y, w = y[:, ::-1], w[:, ::-1]
    overlaps = overlaps_at_rest(cells(*pixel_bounds(centres, log_linear=log_linear)), doppler, grid_of(grid), medium)
    new = resampled(y, w, overlaps)
    return (new[0][0], new[1][0]) if one else new


def rising(wavelength: Any) -> tuple[np.ndarray, bool]:
    """Wavelengths from the shortest to the longest, and whether they had to be turned for it.

    Raises
    ------
    ValueError
        As `core.grids.checked_wavelength`, if they rise as little as they fall.

    """
    values = np.asarray(wavelength)
    turned = values.ndim == 1 and values.size > 1 and bool(values[0] > values[-1])
    return checked_wavelength(values[::-1] if turned else values), turned


def overlaps_at_rest(
    pixels: Cells, doppler: np.ndarray, grid: Grid, medium: Medium | None = None
) -> Iterator[tuple[np.ndarray, Overlap]]:
    """The overlap with a grid of each group of spectra that have the same Doppler factor, one after the other.

    Parameters
    ----------
    pixels
        Those of the spectra, as `core.grids.cells` gives them.
    doppler
        By what the wavelengths of each spectrum are divided, shape (star,).
    grid
        The new pixels.
    medium
        Of the spectra; wavelengths are converted if that of the grid is known to be the other one.

    Yields
    ------
    stars, overlap
        Indices of the spectra, and what all of them have in common with the grid.

    """
    order = np.argsort(doppler, kind="stable")
    for stars in np.split(order, np.flatnonzero(np.diff(doppler[order])) + 1):
        if not stars.size:
            return
        factor = float(doppler[stars[0]])
        edges = _at_rest(pixels.edges, factor, medium, grid.medium)
        if factor == 1:  # Spectra at rest have the same pixels in every file of a survey.
            yield stars, _kept_overlap(edges.tobytes(), pixels.pixel.tobytes(), grid)
        else:
            yield stars, overlap_of(Cells(edges, pixels.pixel), grid)


def _at_rest(wavelength: np.ndarray, doppler: float, medium: Medium | None, wanted: Medium | None) -> np.ndarray:
    """Lines are where they are in vacuum: the shift is made there."""
    if medium == "air" and wanted == "vacuum":
        return air_to_vacuum(wavelength) / doppler
    if medium == "vacuum" and wanted == "air":
        return vacuum_to_air(wavelength / doppler)
    return wavelength / doppler


@lru_cache(maxsize=8)
def _kept_overlap(edges: bytes, pixel: bytes, grid: Grid) -> Overlap:
    return overlap_of(Cells(np.frombuffer(edges), np.frombuffer(pixel, dtype=np.intp)), grid)


def overlap_of(pixels: Cells, grid: Grid) -> Overlap:
    """The overlap of pixels with a grid.

    All edges are sorted together: between two of them lies a part of one old pixel and of one new.
    """
    old, new = pixels, grid.cells
    edges = np.concatenate([old.edges, new.edges])
    order = np.argsort(edges, kind="stable")
    length, is_old = np.diff(edges[order]), order[:-1] < old.edges.size
    i = old.enclosed[np.cumsum(is_old)]
    j = new.enclosed[np.cumsum(~is_old)]
    common = (length > 0) & (i >= 0) & (j >= 0)
    i, j = i[common], j[common]
    starts = np.concatenate([[0], np.cumsum(np.bincount(j, minlength=grid.n_pixels))])
    return Overlap(csr_array((length[common] / grid.width[j], i, starts), (grid.n_pixels, old.n_pixels)))


def resampled(
    flux: np.ndarray, ivar: np.ndarray, overlaps: Iterator[tuple[np.ndarray, Overlap]]
) -> tuple[np.ndarray, np.ndarray]:
    """Flux and ivar on the new pixels, shape (star, new pixel), as `bayes_cannon.core.resampling` says.

    Parameters
    ----------
    flux, ivar
        Shape (star, old pixel); pixels in the order of the overlaps. Values are not checked.
    overlaps
        Groups of stars, as `overlaps_at_rest` gives them.

    """
    parts = [
        (some, _product(flux[some], ivar[some], overlap))
        for stars, overlap in overlaps
        for some in np.split(stars, range(_TOGETHER, stars.size, _TOGETHER))
    ]
    n_pixels = parts[0][1][0].shape[1] if parts else 0
    new_flux, new_ivar = np.empty((len(flux), n_pixels)), np.empty((len(flux), n_pixels))
    for some, (part_flux, part_ivar) in parts:
        new_flux[some], new_ivar[some] = part_flux, part_ivar
    return new_flux, new_ivar


def _product(flux: np.ndarray, ivar: np.ndarray, overlap: Overlap) -> tuple[np.ndarray, np.ndarray]:
    good = ivar > 0
    with np.errstate(over="ignore"):  # An ivar of 1e-310 is a variance that is infinite, which becomes 0 again.
        variance = np.divide(1.0, ivar, out=np.zeros(ivar.shape), where=good)
    total = overlap.share @ np.where(good, flux, 0.0).T
    covered = overlap.share @ good.T.astype(float)
    squares = overlap.squared @ variance.T
    usable = overlap.inside[:, None] & (covered >= _ENOUGH)
    safe = np.where(usable, covered, 1.0)
    new_ivar = np.divide(safe**2, squares, out=np.zeros(safe.shape), where=usable)
    return np.where(usable & (new_ivar > 0), total / safe, 0.0).T, new_ivar.T


def weights(overlap: Overlap, ivar: np.ndarray) -> csr_array:
    """The matrix W of one spectrum, shape (new pixel, old pixel); rows of new pixels with ivar = 0 are empty.

    Parameters
    ----------
    overlap
        Of its pixels with the grid.
    ivar
        Inverse variance of its flux, shape (old pixel,).

    """
    good = (ivar > 0).astype(float)
    covered = overlap.share @ good
    scale = np.divide(1.0, covered, out=np.zeros(covered.shape), where=overlap.inside & (covered >= _ENOUGH))
    matrix = csr_array(diags_array(scale) @ overlap.share @ diags_array(good))
    matrix.eliminate_zeros()
    return matrix


def propagated(matrix: csr_array, covariance: np.ndarray) -> Any:
    """Covariance of the resampled flux of one spectrum, W C W^T, shape (new pixel, new pixel).

    Parameters
    ----------
    matrix
        W, from `weights`.
    covariance
        Variance of each old pixel, shape (old pixel,), for a sparse, banded result; or the covariance C between them,
        shape (old pixel, old pixel), for a dense one. Of pixels with ivar = 0 it does not matter.

    """
    used = np.unique(matrix.indices)
    part = csr_array(matrix[:, used])
    if covariance.ndim == 1:
        return csr_array(part @ diags_array(covariance[used]) @ part.T)
    return part @ (part @ covariance[np.ix_(used, used)]).T
