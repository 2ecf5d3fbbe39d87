"""Checks of arrays at the boundary, each with an error that names the value, its place and the remedy."""

import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import number
from bayes_cannon.core.intake import flux_and_ivar, in_unit, real_numbers
from bayes_cannon.core.warnings import BayesCannonWarning, stars_text
from bayes_cannon.core.wavelengths import LIGHT

_AIR, _AIR_SPREAD = (2.5e-4, 3.2e-4), 2e-5
"""Refraction of air less one between 0.25 and 30 micrometres, and by how much it may vary over a spectrum."""

CORRELATION_WARNING = 0.9
"""Correlation of two labels above which training warns that both are hardly told apart."""


class CorrelatedLabelsWarning(BayesCannonWarning):
    """Two training labels say nearly the same; leave one out or choose stars that tell them apart."""


def check_spectra(flux: object, ivar: object, what: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Flux and ivar as float arrays of shape (star, pixel); a single spectrum (pixel,) becomes one star.

    Parameters
    ----------
    flux, ivar
        Any container of spectra (`core.intake`); where one is masked, ivar becomes zero.
    what
        Prefix of the names in messages, such as ``"training_set_"``.

    Raises
    ------
    ValueError
        For shapes that differ or are not two-dimensional, ivar that is negative, NaN or infinite, and flux that is not
        finite where ivar is positive.

    """
    flux, ivar, _ = flux_and_ivar(flux, ivar, what=what)
    y, w = (np.atleast_2d(np.asarray(a, dtype=float)) for a in (flux, ivar))
    if y.ndim != 2:
        raise ValueError(f"{what}flux must have shape (star, pixel), got {y.shape}")
    if y.shape != w.shape:
        raise ValueError(f"{what}flux and {what}ivar must have the same shape, got {y.shape} and {w.shape}")
    bad_ivar, bad_flux = unusable(y, w)
    for name, array, bad, wanted in (
        ("ivar", w, bad_ivar, "finite and not negative"), ("flux", y, bad_flux, "finite where ivar is positive")
    ):  # fmt: skip
        if bad.any():
            raise ValueError(
                f"{what}{name} must be {wanted}; got {_first(array, bad)}, in {stars_text(bad.any(axis=1))}. Set ivar "
                "to 0 there, or leave these stars out: good = training_set.usable(flux, ivar)"
            )
    return y, w


SAME_VARIANCE = 1e-3
"""By how much a variance may be off one over ivar, relative."""
COVARIANCES_AT_ONCE = 64


def check_covariances(covariance: Any, ivar: Any, what: str = "") -> Any:
    """Covariances of the noise of stars, shape (star, pixel, pixel), which say what ivar (star, pixel) says.

    Where ivar is zero, or a star has numbers that are not finite, anything goes.

    Raises
    ------
    ValueError
        For another shape, and for a star whose matrix is not symmetric or has other variances than one over ivar.

    """
    name = f"{what}covariance"
    matrices = covariance if hasattr(covariance, "shape") else real_numbers(covariance, name)
    wanted = (*np.shape(ivar), np.shape(ivar)[-1])
    if tuple(matrices.shape) != wanted:
        raise ValueError(f"{name} must have shape (star, pixel, pixel), here {wanted}; got {tuple(matrices.shape)}")
    for first in range(0, wanted[0], COVARIANCES_AT_ONCE):
        some = slice(first, first + COVARIANCES_AT_ONCE)
        part, weight = np.asarray(matrices[some], float), np.asarray(ivar[some], float)
        finite = np.isfinite(part).all(axis=(1, 2))[:, None] & np.isfinite(weight) & (weight > 0)
        variance = np.diagonal(part, axis1=1, axis2=2)
        off = finite & ~(np.abs(variance * np.where(finite, weight, 1.0) - 1) <= SAME_VARIANCE)
        if off.any():
            star, pixel = np.argwhere(off)[0]
            raise ValueError(
                f"{name} of star {first + star} has the variance {variance[star, pixel]:.6g} at pixel {pixel}, and "
                f"ivar {weight[star, pixel]:.6g}, which is that of {1 / weight[star, pixel]:.6g}: both must state the "
                "same noise, of the flux as it was normalized. Set ivar to 0 where a pixel is bad"
            )
        unit = np.sqrt(np.abs(variance))
        limit = SAME_VARIANCE * unit[:, :, None] * unit[:, None, :]
        both = finite[:, :, None] & finite[:, None, :]
        odd = (both & (np.abs(part - part.swapaxes(1, 2)) > limit)).any(axis=(1, 2))
        if odd.any():
            raise ValueError(f"{name} of star {first + int(np.argmax(odd))} is not symmetric; is it a Cholesky factor?")
    return matrices


def unusable(flux: np.ndarray, ivar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where ivar is negative or not finite, and where flux is not finite although ivar is positive, (star, pixel)."""
    return ~(np.isfinite(ivar) & (ivar >= 0)), ~np.isfinite(flux) & (ivar > 0)


def check_dispersion(dispersion: object, n_pixels: int) -> np.ndarray | None:
    """Wavelength of each pixel, shape (pixel,), finite, in any order and as often as it occurs, or None.

    Orders of an echelle spectrograph may stand side by side and overlap: every pixel is fitted by itself.

    Raises
    ------
    ValueError
        For a wrong length, and values that are not finite numbers, naming the first.

    """
    if dispersion is None:
        return None
    wavelength = real_numbers(dispersion, "dispersion")
    if wavelength.shape != (n_pixels,):
        raise ValueError(f"dispersion must have shape ({n_pixels},), one value a pixel; got shape {wavelength.shape}")
    if not np.isfinite(wavelength).all():
        pixel = np.flatnonzero(~np.isfinite(wavelength))[0]
        raise ValueError(f"dispersion must be finite; got {wavelength[pixel]} at pixel {pixel}")
    return wavelength


def check_same_dispersion(dispersion: object, expected: np.ndarray | None, unit: str | None = None) -> None:
    """Refuse wavelengths that differ from the model's by more than 1e-7, relative; None on either side passes.

    Parameters
    ----------
    dispersion
        Wavelengths, shape (pixel,); a Quantity is converted.
    expected
        Those of the model.
    unit
        Unit of the model's as text, None where it is not known.

    Raises
    ------
    ValueError
        Naming what the wavelengths seem to be, such as those of the model in another unit, or the first pixel that
        differs.

    """
    if dispersion is None or expected is None:
        return
    given = np.asarray(in_unit(dispersion, unit, "dispersion")[0], dtype=float)
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
            f"{given[pixel]} is not {expected[pixel]}. {_what_differs(given, expected)}"
        )


def _what_differs(given: np.ndarray, expected: np.ndarray) -> str:
    """What wavelengths that are not the model's seem to be, and the remedy."""
    if np.allclose(given[::-1], expected, rtol=1e-7, atol=0):
        return "They are the model's in reverse: reverse dispersion, flux and ivar together"
    with np.errstate(all="ignore"):
        for name, linear in (("log10", 10.0**given), ("natural logarithm", np.exp(given))):
            if np.allclose(linear, expected, rtol=1e-6, atol=0):
                return f"They are the {name} of the model's wavelengths: give the wavelengths themselves"
        ratio = given / expected
        middle, spread = float(np.median(ratio)), float(np.ptp(ratio))
    if not (np.isfinite(middle) and middle > 0 and np.isfinite(spread)):
        return "Resample the spectra to the model's wavelengths"
    decade = round(np.log10(middle))
    if decade and abs(middle / 10.0**decade - 1) < 0.01 and spread < 0.01 * middle:
        return (
            f"They are {10.0**decade:g} times the model's, as if their unit were another one, such as nm in place of "
            "Angstrom: convert them, or give both with their units"
        )
    if _AIR[0] < abs(middle - 1) < _AIR[1] and spread < _AIR_SPREAD:
        kinds = ("air", "vacuum") if middle < 1 else ("vacuum", "air")
        return (
            f"They seem to be wavelengths in {kinds[0]} where the model's are in {kinds[1]}: convert them, and "
            "resample the spectra to the model's wavelengths"
        )
    if spread < 1e-6 and abs(middle - 1) < 0.02:
        velocity = LIGHT * (middle - 1)
        return f"They are shifted by {velocity:+.1f} km/s. Resample the spectra, at rest, to the model's wavelengths"
    return "Resample the spectra to the model's wavelengths"


def check_regularization(regularization: object, n_pixels: int | None) -> float | np.ndarray | None:
    """Lambda as None, one number, or an array of shape (pixel,); finite and not negative.

    Raises
    ------
    ValueError
        For a wrong length and for values that are negative, NaN or infinite, naming the first pixel.

    """
    if regularization is None:
        return None
    lam = real_numbers(regularization, "regularization")
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


def check_correlation(labels: np.ndarray, label_names: Sequence[str], rho_warning: float = CORRELATION_WARNING) -> None:
    """Refuse labels that are linear functions of each other, warn of those that nearly are.

    Parameters
    ----------
    labels
        Training labels, shape (star, label).
    label_names
        Their names.
    rho_warning
        Absolute correlation above which two labels are warned of.

    Raises
    ------
    ValueError
        If two labels are perfectly correlated, or one is a linear function of several others, and for a limit of the
        warning that is no number of at least 0.

    """
    if not number(rho_warning) >= 0:
        raise ValueError(f"rho_warning must be a correlation from 0 to 1, got {rho_warning!r}")
    if labels.shape[1] == 1 or len(labels) <= labels.shape[1]:
        return
    standardized = (labels - labels.mean(axis=0)) / labels.std(axis=0)
    rho = standardized.T @ standardized / len(labels)
    for i, k in combinations(range(len(rho)), 2):
        pair = f"labels {label_names[i]!r} and {label_names[k]!r}"
        if abs(rho[i, k]) > 1 - 1e-10:
            raise ValueError(f"{pair} are perfectly correlated (rho = {rho[i, k]:+.6f}): leave one of them out")
        if abs(rho[i, k]) > rho_warning:
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
