"""What a continuum fit is given, checked and cut into regions with orthonormal functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import listed, number, shown
from bayes_cannon.core.intake import as_array, flux_and_ivar, in_unit, wavelength_bound
from bayes_cannon.core.likelihood import masked
from bayes_cannon.core.warnings import ContinuumWarning, FluxNotFiniteWarning, stars_text, warn_user

LONG_PERIOD = 1000.0
"""Widths of a region beyond which a period is called too long for it."""
DEPENDENT = 1e-10
"""Mixtures of sines and cosines with a singular value below this, relative to the largest, are zero in the region."""


@dataclass(frozen=True)
class ContinuumRegion:
    """One section of the spectrum and its orthonormal functions: ``design = basis * singular_values @ rotation``."""

    bounds: tuple[float, float]
    pixels: np.ndarray
    """Indices of the pixels, shape (region pixel,)."""
    continuum: np.ndarray
    """Positions of the continuum pixels within ``pixels``."""
    basis: np.ndarray
    """Shape (region pixel, function)."""
    singular_values: np.ndarray
    rotation: np.ndarray
    """Shape (function, amplitude)."""


def checked_spectra(dispersion: Any, flux: Any, ivar: Any) -> tuple[np.ndarray, str | None, np.ndarray, np.ndarray]:
    """Wavelength (pixel,) and its unit, flux and ivar (star, pixel); both zero where there is no usable flux."""
    numbers, unit = in_unit(dispersion, None, "dispersion")
    wavelength = np.asarray(numbers, dtype=np.float64)
    if wavelength.ndim != 1 or wavelength.size == 0:
        raise ValueError(f"dispersion must have shape (pixel,), got shape {wavelength.shape}")
    if not np.isfinite(wavelength).all():
        pixel = int(np.flatnonzero(~np.isfinite(wavelength))[0])
        raise ValueError(f"dispersion must be finite, got {wavelength[pixel]} at pixel {pixel}")
    flux, ivar, _ = flux_and_ivar(flux, ivar)
    y, weight = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (flux, ivar))
    if y.ndim != 2 or y.shape[1] != wavelength.size or y.shape != weight.shape:
        raise ValueError(
            f"flux and ivar must have shape (star, {wavelength.size}) or ({wavelength.size},), like dispersion; "
            f"got {np.shape(flux)} and {np.shape(ivar)}"
        )
    wrong = ~(np.isfinite(weight) & (weight >= 0))
    if wrong.any():
        star, pixel = np.argwhere(wrong)[0]
        raise ValueError(
            f"ivar must be finite and not negative, got {weight[star, pixel]} at star {star}, pixel {pixel} and at "
            f"{wrong.sum() - 1} more: set it to 0 where the flux is unknown"
        )
    unknown = (weight > 0) & ~np.isfinite(y)
    if unknown.any():
        warn_user(
            f"flux is NaN or infinite at {unknown.sum()} pixels of positive ivar, in "
            f"{stars_text(unknown.any(axis=1))}; they count as ivar = 0",
            FluxNotFiniteWarning,
        )
        weight = np.where(unknown, 0.0, weight)
    return wavelength, unit, masked(y, weight), weight


def period(L: Any, unit: str | None) -> float:
    """L in the unit of the wavelengths.

    Raises
    ------
    ValueError
        If only L has a unit, or one that cannot be converted, or is not positive and finite.

    """
    given, own = in_unit(L, unit, "L")
    if own is not None and unit is None:
        raise ValueError(f"L has the unit {own}, and dispersion has none: give both with their units, or neither")
    value = number(given)
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"L must be positive and finite, got {L!r}")
    return value


def continuum_regions(
    wavelength: np.ndarray, continuum_pixels: Any, L: float, order: int, regions: Sequence | None, unit: str | None
) -> list[ContinuumRegion]:
    """Regions in the order in which they were given, their design matrices decomposed; bounds in this unit."""
    if isinstance(order, bool) or not isinstance(order, int | np.integer) or order < 1:
        raise ValueError(f"order must be a positive integer, got {order!r}")
    is_continuum = _continuum_mask(continuum_pixels, wavelength.size)
    taken = np.full(wavelength.size, -1)
    sections = []
    for r, (start, end) in enumerate(_bounds(regions, wavelength, unit)):
        pixels = np.flatnonzero((wavelength >= start) & (wavelength <= end))
        if pixels.size == 0:
            raise ValueError(
                f"region {r}, {start} to {end}, holds no pixel; dispersion runs from {wavelength.min()} "
                f"to {wavelength.max()}"
            )
        if (taken[pixels] >= 0).any():
            shared = pixels[taken[pixels] >= 0][0]
            raise ValueError(
                f"regions {taken[shared]} and {r} overlap: both hold the pixel at {wavelength[shared]}; "
                "let one end before the other starts"
            )
        taken[pixels] = r
        continuum = np.flatnonzero(is_continuum[pixels])
        if continuum.size < 2 * order + 1:
            raise ValueError(
                f"region {r}, {start} to {end}, holds {continuum.size} continuum pixels, fewer than the "
                f"{2 * order + 1} amplitudes of order {order}: name more continuum pixels, lower the order or widen "
                "the region"
            )
        width = float(np.ptp(wavelength[pixels]))
        if width * LONG_PERIOD < L:
            warn_user(
                f"region {r}, {start} to {end}, is {L / width if width else np.inf:.2g} times shorter than the period "
                f"L = {L:g}, so that the sines cannot bend within it: give L in the unit of dispersion, and near the "
                "width of a region",
                ContinuumWarning,
            )
        design = _design_matrix(wavelength[pixels], L, order)
        basis, singular_values, rotation = np.linalg.svd(design, full_matrices=False)
        kept = singular_values > DEPENDENT * singular_values[0]
        sections.append(
            ContinuumRegion((start, end), pixels, continuum, basis[:, kept], singular_values[kept], rotation[kept])
        )
    return sections


def _bounds(regions: Any, wavelength: np.ndarray, unit: str | None) -> list[tuple[float, float]]:
    if regions is None:
        return [(float(wavelength.min()), float(wavelength.max()))]
    pairs, sections = [], listed(regions)
    if sections is None:
        raise ValueError(f"regions must be a list of pairs (start, end), got {shown(regions)}")
    for r, region in enumerate(sections):
        ends = listed(region)
        if ends is None or len(ends) != 2:
            raise ValueError(f"regions must be a list of pairs (start, end), got {region!r} as region {r}")
        start = wavelength_bound(ends[0], float(wavelength.min()), unit)
        end = wavelength_bound(ends[1], float(wavelength.max()), unit)
        if not start < end:
            raise ValueError(f"a region must start before it ends, got {start} to {end} as region {r}")
        pairs.append((start, end))
    if not pairs:
        raise ValueError("regions is empty: give pairs (start, end), or None for the whole spectrum")
    return pairs


def _continuum_mask(continuum_pixels: Any, n_pixels: int) -> np.ndarray:
    given = as_array(continuum_pixels, "continuum_pixels")
    if given.ndim != 1 or given.dtype.kind not in "biu":
        raise ValueError(
            f"continuum_pixels must be a boolean mask of shape ({n_pixels},) or a list of integer indices, got "
            f"shape {given.shape} of type {given.dtype}; convert with astype(bool) or astype(int)"
        )
    if given.dtype == bool:
        if given.size != n_pixels:
            raise ValueError(f"the mask continuum_pixels must have shape ({n_pixels},), got shape {given.shape}")
        return given
    if given.size == n_pixels > 2 and given.max() <= 1:
        raise ValueError("continuum_pixels looks like a mask stored as integers: convert it with astype(bool)")
    outside = given[(given < 0) | (given >= n_pixels)]
    if outside.size:
        raise ValueError(f"continuum_pixels must be indices from 0 to {n_pixels - 1}, got {outside[0]}")
    mask = np.zeros(n_pixels, dtype=bool)
    mask[given] = True
    return mask


def _design_matrix(wavelength: np.ndarray, L: float, order: int) -> np.ndarray:
    """Columns 1, cos, sin, cos 2, sin 2, ..., shape (pixel, 2 order + 1)."""
    phase = 2 * np.pi * np.arange(1, order + 1) * wavelength[:, None] / L
    waves = np.stack([np.cos(phase), np.sin(phase)], axis=-1).reshape(wavelength.size, -1)
    return np.hstack([np.ones((wavelength.size, 1)), waves])
