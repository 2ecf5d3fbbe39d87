r"""Coordinates in which a Laplace prior has no kink.

The marginal of a coefficient is about ``Normal(m, c)``, its likelihood, times :math:`e^{-|\theta| / b}`: two truncated
normal distributions, one on either side of zero. The coordinate :math:`\zeta` that is standard normal under it,

.. math:: \theta = p + \sqrt{c}\, Q\left(\kappa\, \Phi(-\zeta)\right) \ (\theta > 0), \qquad
          p = m - c / b, \quad \kappa = \Phi(p / \sqrt{c}) / W,

with Q the inverse of the survival function and W the mass of the positive side, and likewise for the negative one,
has a Jacobian with the opposite kink. The gradient of the density of :math:`\zeta` is then continuous, and
trajectories can take longer steps. Any m and c give a valid coordinate; good ones make it nearly normal.

Measured on 32 pixels of 200 stars and ten terms with a penalty of 1,000: nine pixels in ten mix in a first run, where
in linear coordinates none does with trees as deep, and two in three with trees twice as deep. With a penalty of 300
there is no difference. Without a penalty the coordinates are linear, because the map costs more than a gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr as log_normal_integral
from jax.scipy.special import ndtri
from scipy.special import log_ndtr, ndtri_exp

from bayes_cannon.core.typing import Array

MAX_WIDTH = 20.0
"""Largest sqrt(c) / b: wider marginals are those of the prior alone."""
LINEAR_DISTANCE, MAX_DISTANCE = 5.0, 25.0
"""Distances from zero, in sqrt(c), from where the map is linear, and within which nothing underflows."""
_LOG_HALF = np.log(0.5)


class Stretch(NamedTuple):
    """The map, elementwise, on either side of ``zeta = split``, where theta is zero.

    Attributes
    ----------
    width
        sqrt(c).
    right, left
        ``p / sqrt(c)`` of the positive side, and of the negative one mirrored.
    log_right, log_left
        Logarithm of kappa.
    split
        zeta of theta = 0.

    """

    width: Array
    right: Array
    left: Array
    log_right: Array
    log_left: Array
    split: Array


def stretch_of(mean: np.ndarray, variance: np.ndarray, rate: np.ndarray) -> Stretch:
    """Map for m, c and the rate 1 / b, elementwise; a rate of zero gives ``theta = m + sqrt(c) zeta``."""
    width = np.sqrt(variance)
    width = np.minimum(width, MAX_WIDTH / np.maximum(rate, 1e-300))
    shift, scaled_rate = mean / width, rate * width
    # Where zero is far away the map is linear, about the mode.
    far = np.abs(shift) - scaled_rate > LINEAR_DISTANCE
    shift = np.where(far, shift - np.sign(shift) * scaled_rate, shift)
    scaled_rate = np.where(far, 0.0, scaled_rate)
    right, left = shift - scaled_rate, -shift - scaled_rate
    log_mass_right, log_mass_left = log_ndtr(right) - scaled_rate * shift, log_ndtr(left) + scaled_rate * shift
    total = np.logaddexp(log_mass_right, log_mass_left)
    smaller = np.minimum(np.minimum(log_mass_right, log_mass_left) - total, np.log(0.5))
    split = np.where(log_mass_left < log_mass_right, ndtri_exp(smaller), -ndtri_exp(smaller))
    right, left = np.maximum(right, -MAX_DISTANCE), np.maximum(left, -MAX_DISTANCE)
    return Stretch(width, right, left, log_ndtr(right) - log_ndtr(-split), log_ndtr(left) - log_ndtr(split), split)


def stretched(stretch: Stretch, zeta: Array) -> tuple[jax.Array, jax.Array]:
    """Theta and the logarithm of its derivative by zeta, elementwise."""
    positive = zeta > stretch.split
    away = jnp.where(positive, zeta, -zeta)
    log_kappa = jnp.where(positive, stretch.log_right, stretch.log_left)
    log_survival = jnp.minimum(log_normal_integral(-away) + log_kappa, -1e-300)
    # Whichever tail is the smaller one, or its digits are lost.
    upper = log_survival < _LOG_HALF
    tail = jnp.where(upper, jnp.exp(log_survival), -jnp.expm1(log_survival))
    out = jnp.where(upper, -1.0, 1.0) * ndtri(tail)
    peak = jnp.where(positive, stretch.right, stretch.left)
    theta = jnp.where(positive, 1.0, -1.0) * stretch.width * (peak + out)
    return theta, jnp.log(stretch.width) + log_kappa + 0.5 * (out**2 - away**2)


def unstretched(stretch: Stretch, theta: np.ndarray) -> np.ndarray:
    """The zeta of theta, elementwise; the inverse of `stretched`."""
    positive = theta > 0
    out = np.abs(theta) / stretch.width - np.where(positive, stretch.right, stretch.left)
    log_survival = log_ndtr(-out) - np.where(positive, stretch.log_right, stretch.log_left)
    away = -ndtri_exp(np.minimum(log_survival, -1e-300))
    return np.where(positive, away, -away)
