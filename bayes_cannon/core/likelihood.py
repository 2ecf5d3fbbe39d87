"""The two scalars that are minimized, and their pieces (Casey et al. 2016, equations 2 and 3).

The functions take NumPy and JAX arrays. Flux of zero weight must not matter, not even if it is NaN: callers pass flux
through `masked` first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # What reads survey files must not load JAX.
    from bayes_cannon.core.typing import Array


def masked(flux: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    """Flux with zero where ivar is zero, so that products with the weight vanish; same shape as the input."""
    return np.where(ivar > 0, flux, 0.0)


def weights(ivar: Array, s2: Array) -> Array:
    """Inverse total variance, ``w = ivar / (1 + ivar s2) = 1 / (sigma^2 + s2)``, for finite s2; zero where ivar is."""
    return ivar / (1.0 + ivar * s2)


def log_variance(ivar: Array, s2: Array) -> Array:
    """``ln(sigma^2 + s2)`` of each flux; zero where ivar is zero, because that flux is not part of the data."""
    xp = ivar.__array_namespace__()
    known = ivar > 0
    logarithm: Array = xp.where(known, xp.log1p(ivar * s2) - xp.log(xp.where(known, ivar, 1.0)), 0.0)
    return logarithm


def training_scalar(
    theta: Array, s2: Array, *, design: Array, flux: Array, ivar: Array, regularization: float | Array
) -> Array:
    r"""Training scalar of one pixel (Casey et al. 2016, equation 2).

    .. math:: \sum_n \frac{(y_n - v_n \cdot \theta)^2}{\sigma_n^2 + s^2} + \sum_n \ln(\sigma_n^2 + s^2)
              + \Lambda \sum_{d \ge 1} |\theta_d|

    Parameters
    ----------
    theta
        Coefficients, shape (term,).
    s2
        Variance of the intrinsic scatter, a scalar.
    design
        Terms of each star, shape (star, term).
    flux, ivar
        Flux of each star at this pixel and its inverse variance, shape (star,).
    regularization
        Lambda, a scalar.

    Returns
    -------
    scalar
        Minus twice the log posterior, up to a constant.

    """
    xp = ivar.__array_namespace__()
    residual = flux - design @ theta
    chi_squared = xp.sum(weights(ivar, s2) * residual**2)
    scalar: Array = chi_squared + xp.sum(log_variance(ivar, s2)) + regularization * xp.sum(xp.abs(theta[1:]))
    return scalar
