r"""Mean and covariance of theta under Laplace priors, by expectation propagation.

The posterior :math:`\exp(-\tfrac12 \theta^T G \theta + g \cdot \theta) \prod_d \exp(-|\theta_d| / b)` is approximated
by a normal distribution in which each Laplace factor :math:`e^{-|\theta_d|/b}` is replaced by a Gaussian site
:math:`\exp(h_d \theta_d - \tfrac12 \pi_d \theta_d^2)`, chosen such that the mean and variance of theta_d are those that
the true factor would give (Minka 2001; for this model Seeger 2008). The density is log-concave, and the iteration
converges. Unlike the curvature at the maximum, which is that of a kink, its covariance is within a few per cent of the
true one. Factors are updated all at once, in fractional powers, which keeps cavities proper where the data alone
determine nothing.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

POWER, DAMPING = 0.9, 0.7
MAX_ROUNDS, TOLERANCE = 100, 1e-6
"""Largest number of rounds, and the change of means and variances, relative to the errors, at which they end."""
_LOG_ROOT = 0.5 * np.log(2 * np.pi)


@dataclass(frozen=True)
class NormalApproximation:
    """Normal distributions of theta at P pixels.

    Attributes
    ----------
    mean, covariance
        Shape (pixel, term) and (pixel, term, term).
    precision, shift
        pi and h of the factors, shape (pixel, term); zero where there is no prior.
    cavity_mean, cavity
        Mean and variance of each coefficient without its own factor, shape (pixel, term).
    change
        Largest change of a mean, in units of its error, or of a variance, relative to it, in the last round, shape
        (pixel,).

    """

    mean: np.ndarray
    covariance: np.ndarray
    precision: np.ndarray
    shift: np.ndarray
    cavity_mean: np.ndarray
    cavity: np.ndarray
    change: np.ndarray


def laplace_posterior(
    gram: np.ndarray, linear: np.ndarray, rate: np.ndarray, start: NormalApproximation | None = None
) -> NormalApproximation:
    """Normal approximation of theta.

    Parameters
    ----------
    gram, linear
        G, shape (pixel, term, term), and g, shape (pixel, term).
    rate
        1 / b of each term, shape (pixel, term); zero is a flat prior. Where the data determine no direction that has a
        flat prior there is no posterior: raises ``numpy.linalg.LinAlgError``.
    start
        Factors to start from.

    """
    n_terms = gram.shape[1]
    laplace = rate > 0
    safe = np.where(laplace, rate, 1.0)
    precision = np.where(laplace, 0.5 * safe**2, 0.0) if start is None else start.precision.copy()
    shift = np.zeros_like(precision) if start is None else start.shift.copy()
    diagonal = np.arange(n_terms)
    change = np.full(len(gram), np.inf)
    for _ in range(MAX_ROUNDS):
        mean, covariance = _normal(gram, linear, precision, shift, diagonal)
        variance = covariance[:, diagonal, diagonal]
        cavity = 1.0 / (1.0 / variance - POWER * precision)
        cavity_mean = cavity * (mean / variance - POWER * shift)
        tilted_mean, tilted_variance = tilted_moments(cavity_mean, cavity, POWER * safe)
        moved = np.maximum(np.abs(tilted_mean - mean) / np.sqrt(variance), np.abs(tilted_variance / variance - 1))
        change = np.where(laplace, moved, 0.0).max(axis=1, initial=0.0)
        if change.max(initial=0.0) < TOLERANCE:
            break
        new_precision = np.maximum(1.0 / tilted_variance - 1.0 / cavity, 0.0) / POWER
        new_shift = (tilted_mean / tilted_variance - cavity_mean / cavity) / POWER
        precision += np.where(laplace, DAMPING * (new_precision - precision), 0.0)
        shift += np.where(laplace, DAMPING * (new_shift - shift), 0.0)
    mean, covariance = _normal(gram, linear, precision, shift, diagonal)
    return NormalApproximation(mean, covariance, precision, shift, cavity_mean, cavity, change)


def _normal(
    gram: np.ndarray, linear: np.ndarray, precision: np.ndarray, shift: np.ndarray, diagonal: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance with these factors. Terms are scaled first, because their units differ by decades."""
    total = gram.copy()
    total[:, diagonal, diagonal] += precision
    root = np.sqrt(total[:, diagonal, diagonal])
    inverse = np.linalg.inv(total / (root[:, :, None] * root[:, None, :]))
    covariance = 0.5 * (inverse + inverse.swapaxes(1, 2)) / (root[:, :, None] * root[:, None, :])
    return np.einsum("pde,pe->pd", covariance, linear + shift), covariance


def tilted_moments(mean: np.ndarray, variance: np.ndarray, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Mean and variance of the density :math:`N(\mathrm{mean}, \mathrm{variance})\, e^{-\mathrm{rate} |\theta|}`.

    Elementwise. The density is a mixture of two truncated normal distributions, one on either side of zero.
    """
    sd = np.sqrt(variance)
    right, left = (mean - rate * variance) / sd, -(mean + rate * variance) / sd
    log_right, log_left = log_ndtr(right), log_ndtr(left)
    a, b = log_right - rate * mean, log_left + rate * mean
    total = np.logaddexp(a, b)
    share = np.exp(a - total)
    # Ratios of the normal density to its integral, on either side.
    mills_right = np.exp(-0.5 * right**2 - _LOG_ROOT - log_right)
    mills_left = np.exp(-0.5 * left**2 - _LOG_ROOT - log_left)
    mean_right, mean_left = sd * (right + mills_right), -sd * (left + mills_left)
    var_right = variance * (1 - mills_right * (mills_right + right))
    var_left = variance * (1 - mills_left * (mills_left + left))
    tilted = share * mean_right + (1 - share) * mean_left
    spread = share * var_right + (1 - share) * var_left + share * (1 - share) * (mean_right - mean_left) ** 2
    return tilted, spread
