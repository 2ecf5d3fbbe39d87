"""Checks of arrays at the boundary, each with an error that names the value, its place and the remedy."""

import warnings
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from bayes_cannon.core.warnings import BayesCannonWarning

CORRELATION_WARNING = 0.9
"""Correlation of two labels above which training warns that both are hardly told apart."""


class CorrelatedLabelsWarning(BayesCannonWarning):
    """Two training labels say nearly the same; leave one out or choose stars that tell them apart."""


def check_spectra(flux: object, ivar: object, what: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Flux and ivar as float arrays of shape (star, pixel); a single spectrum (pixel,) becomes one star.

    Parameters
    ----------
    flux, ivar
        Anything that becomes an array.
    what
        Prefix of the names in messages, such as ``"training_set_"``.

    Raises
    ------
    ValueError
        For shapes that differ or are not two-dimensional, ivar that is negative, NaN or infinite, and flux that is not
        finite where ivar is positive.

    """
    if flux is None or ivar is None:
        raise ValueError(f"{what}flux and {what}ivar must both be given, got None")
    y, w = (np.atleast_2d(np.asarray(a, dtype=float)) for a in (flux, ivar))
    if y.ndim != 2:
        raise ValueError(f"{what}flux must have shape (star, pixel), got {y.shape}")
    if y.shape != w.shape:
        raise ValueError(f"{what}flux and {what}ivar must have the same shape, got {y.shape} and {w.shape}")
    bad = ~(np.isfinite(w) & (w >= 0))
    if bad.any():
        raise ValueError(
            f"{what}ivar must be finite and not negative; got {_first(w, bad)}. "
            "Set ivar to 0 where a flux is not to be used"
        )
    bad = ~np.isfinite(y) & (w > 0)
    if bad.any():
        raise ValueError(f"{what}flux must be finite where ivar is positive; got {_first(y, bad)}. Set ivar to 0 there")
    return y, w


def check_dispersion(dispersion: object, n_pixels: int) -> np.ndarray | None:
    """Wavelength of each pixel, shape (pixel,), finite and strictly monotonic, or None.

    Raises
    ------
    ValueError
        For a wrong length, values that are not finite numbers, or pixels out of order, naming the first.

    """
    if dispersion is None:
        return None
    try:
        wavelength = np.array(dispersion, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"dispersion must be numbers, got {dispersion!r:.60}") from None
    if wavelength.shape != (n_pixels,):
        raise ValueError(f"dispersion must have shape ({n_pixels},), one value a pixel; got shape {wavelength.shape}")
    if not np.isfinite(wavelength).all():
        pixel = np.flatnonzero(~np.isfinite(wavelength))[0]
        raise ValueError(f"dispersion must be finite; got {wavelength[pixel]} at pixel {pixel}")
    steps = np.diff(wavelength)
    wrong = steps * (np.sign(steps[0]) if len(steps) else 1) <= 0
    if wrong.any():
        pixel = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"dispersion must be sorted without repeats; pixel {pixel} has {wavelength[pixel]} and pixel {pixel + 1} "
            f"{wavelength[pixel + 1]}. Sort dispersion, flux and ivar together"
        )
    return wavelength


def check_same_dispersion(dispersion: object, expected: np.ndarray | None) -> None:
    """Refuse wavelengths that differ from the model's by more than 1e-7, relative; None on either side passes.

    Raises
    ------
    ValueError
        Naming the first pixel that differs.

    """
    if dispersion is None or expected is None:
        return
    given = np.asarray(dispersion, dtype=float)
    if given.shape != expected.shape:
        raise ValueError(
            f"dispersion has shape {given.shape} but the model's has {expected.shape}: "
            "resample the spectra to the model's wavelengths"
        )
    wrong = ~np.isclose(given, expected, rtol=1e-7, atol=0)
    if wrong.any():
        pixel = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"dispersion differs from the model's at {int(wrong.sum())} pixels, first at pixel {pixel}: "
            f"{given[pixel]} is not {expected[pixel]}. Resample the spectra to the model's wavelengths"
        )


def check_regularization(regularization: object, n_pixels: int | None) -> float | np.ndarray | None:
    """Lambda as None, one number, or an array of shape (pixel,); finite and not negative.

    Raises
    ------
    ValueError
        For a wrong length and for values that are negative, NaN or infinite, naming the first pixel.

    """
    if regularization is None:
        return None
    lam = np.array(regularization, dtype=float)
    if lam.size == 1:
        lam = lam.reshape(())
    elif n_pixels is None or lam.shape != (n_pixels,):
        raise ValueError(
            f"regularization must be None, a number or one per pixel, shape ({n_pixels},); got shape {lam.shape}"
        )
    bad = ~(np.isfinite(lam) & (lam >= 0))
    if bad.any():
        place = "" if lam.ndim == 0 else f" at pixel {np.flatnonzero(bad)[0]}"
        raise ValueError(f"regularization must be finite and not negative; got {lam[bad][0]}{place}")
    return float(lam) if lam.ndim == 0 else lam


def check_correlation(labels: np.ndarray, label_names: Sequence[str]) -> None:
    """Refuse labels that are linear functions of each other, warn of those that nearly are.

    Parameters
    ----------
    labels
        Training labels, shape (star, label).
    label_names
        Their names.

    Raises
    ------
    ValueError
        If two labels are perfectly correlated, or one is a linear function of several others.

    """
    if labels.shape[1] == 1 or len(labels) <= labels.shape[1]:
        return
    standardized = (labels - labels.mean(axis=0)) / labels.std(axis=0)
    rho = standardized.T @ standardized / len(labels)
    for i, k in combinations(range(len(rho)), 2):
        pair = f"labels {label_names[i]!r} and {label_names[k]!r}"
        if abs(rho[i, k]) > 1 - 1e-10:
            raise ValueError(f"{pair} are perfectly correlated (rho = {rho[i, k]:+.6f}): leave one of them out")
        if abs(rho[i, k]) > CORRELATION_WARNING:
            warnings.warn(
                f"{pair} are highly correlated (rho = {rho[i, k]:+.2f}): "
                "the model can hardly tell them apart. Are both needed?",
                CorrelatedLabelsWarning,
                stacklevel=4,
            )
    value, vector = np.linalg.eigh(rho)
    if value[0] < 1e-10:
        involved = ", ".join(name for name, part in zip(label_names, vector[:, 0], strict=True) if abs(part) > 1e-3)
        raise ValueError(f"the labels {involved} are linearly dependent on each other: leave one of them out")


def _first(array: np.ndarray, bad: np.ndarray) -> str:
    star, pixel = np.argwhere(bad)[0]
    return f"{array[star, pixel]} for star {star} at pixel {pixel} ({int(bad.sum())} in all)"
